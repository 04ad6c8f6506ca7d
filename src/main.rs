//! The program; see the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A call makes some hundred small things and throws them away; this makes a tenth more of them a second than the system's
/// allocator does, and needs no more memory (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    turnkey::cli::run()
}

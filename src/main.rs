//! The program; see the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A call makes some hundred small things and throws them away; with this, a tenth more calls a second than with the
/// system's allocator (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    turnkey::cli::run()
}

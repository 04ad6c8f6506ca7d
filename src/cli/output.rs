//! What commands print: data to standard output, messages to standard error. Either can be a file on a full disk.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Standard output. Its errors name it.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(|error| cannot_write(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(|error| cannot_write(&error))
    }
}

fn cannot_write(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
}

/// Prints a line to standard error. A failure is ignored: it could not be reported, and `eprintln` would panic in the
/// middle of the work.
pub fn print_message(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

//! `turnkey completions`: scripts that complete the command line in a shell.

use std::io::Write as _;

use clap::Command;
use clap_complete::Shell;

use super::{Error, output::Stdout};

/// Writes the script for this shell to standard output.
pub fn run(mut command: Command, shell: Shell) -> Result<(), Error> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Stdout.write_all(&script)?;
    Ok(Stdout.flush()?)
}

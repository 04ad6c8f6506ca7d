//! The command line: one file a command.

mod database;
mod healthcheck;
mod import;
mod migrate;
mod purge;
mod serve;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{
        DEFAULT_LOG_FILTER, DatabaseArgs, HealthcheckArgs, ImportArgs, LogArgs, LogSettings, Mistakes, PurgeArgs,
        QUIET_LOG_FILTER, ServeArgs,
    },
    error::Chain,
    telemetry,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Creates tenants of a booking platform move-in ready, or not at all.
///
/// Without a command it serves.
#[derive(Parser)]
#[command(name = "turnkey", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service
    Serve(Box<ServeArgs>),
    /// Bring the database's schema up to date and exit
    Migrate(DatabaseArgs),
    /// Make many tenants from a file, and write their keys into another
    Import(Box<ImportArgs>),
    /// Remove tenants for good that were deleted some time ago
    Purge(PurgeArgs),
    /// Exit 0 where the server is SERVING
    Healthcheck(HealthcheckArgs),
}

/// Runs the command that the process was started with: exit code 0 when it did its work, 1 when it could not, 2 when it
/// was not understood.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
    let is_terminal = std::io::stderr().is_terminal();
    let draws_progress = is_terminal && matches!(command, Command::Import(_) | Command::Purge(_));
    let log = cli.log.settings(is_terminal, if draws_progress { QUIET_LOG_FILTER } else { DEFAULT_LOG_FILTER });
    match command {
        Command::Serve(args) => start(log, args.settings(), serve::run),
        Command::Migrate(args) => start(log, args.settings(), migrate::run),
        Command::Import(args) => start(log, args.settings(), import::run),
        Command::Purge(args) => start(log, args.settings(), purge::run),
        Command::Healthcheck(args) => start(log, args.address(), healthcheck::run),
    }
}

fn start<Settings, Work>(
    log: Result<LogSettings, Mistakes>,
    settings: Result<Settings, Mistakes>,
    run: impl FnOnce(Settings) -> Work,
) -> ExitCode
where
    Work: Future<Output = Result<(), Error>>,
{
    match (log, settings) {
        (Ok(log), Ok(settings)) => {
            telemetry::init(log);
            block_on(run(settings))
        }
        (log, settings) => fail(&Mistakes::all(log.err().into_iter().chain(settings.err())), 2),
    }
}

fn block_on(command: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::from)
        .and_then(|runtime| runtime.block_on(command));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error, 1),
    }
}

fn fail(why: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("turnkey: {}", Chain(why));
    ExitCode::from(code)
}

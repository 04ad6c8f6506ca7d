//! The command line: one file a command.

mod database;
mod doctor;
mod healthcheck;
pub mod import;
mod keys_file;
mod migrate;
mod purge;
mod serve;
mod token;

use std::{
    io::IsTerminal as _,
    process::{ExitCode, Termination},
};

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::{
    config::{
        ConfigErrors, DEFAULT_LOG_FILTER, DatabaseArgs, DoctorArgs, HealthcheckArgs, ImportArgs, LogArgs, LogSettings,
        PurgeArgs, QUIET_LOG_FILTER, ServeArgs, TokenArgs,
    },
    error::ErrorChain,
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
    /// Find orphans and half tenants, and repair them
    Doctor(Box<DoctorArgs>),
    /// Make many tenants from a file, and write their keys into another
    Import(Box<ImportArgs>),
    /// Remove tenants for good that were deleted some time ago
    Purge(PurgeArgs),
    /// Let services call
    #[command(subcommand)]
    Token(TokenCommand),
    /// Exit 0 where the server is SERVING
    Healthcheck(HealthcheckArgs),
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token; it is printed this once
    Create(TokenArgs),
}

/// Runs the command that the process was started with: exit code 0 when it did its work, 1 when it could not, 2 when it
/// was not understood; the doctor has codes of its own.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
    let is_terminal = std::io::stderr().is_terminal();
    let draws_progress = is_terminal && matches!(command, Command::Doctor(_) | Command::Import(_) | Command::Purge(_));
    let log = cli.log.settings(is_terminal, if draws_progress { QUIET_LOG_FILTER } else { DEFAULT_LOG_FILTER });
    match command {
        Command::Serve(args) => run_command(log, args.settings(), serve::run, 1),
        Command::Migrate(args) => run_command(log, args.settings(), migrate::run, 1),
        Command::Doctor(args) => run_command(log, args.settings(), doctor::run, 2),
        Command::Import(args) => run_command(log, args.settings(), import::run, 1),
        Command::Purge(args) => run_command(log, args.settings(), purge::run, 1),
        Command::Token(TokenCommand::Create(args)) => run_command(log, args.settings(), token::create, 1),
        Command::Healthcheck(args) => run_command(log, args.address(), healthcheck::run, 1),
    }
}

/// `failure` is the exit code of work that could not be done.
fn run_command<Settings, Work, Done>(
    log: Result<LogSettings, ConfigErrors>,
    settings: Result<Settings, ConfigErrors>,
    run: impl FnOnce(Settings) -> Work,
    failure: u8,
) -> ExitCode
where
    Work: Future<Output = Result<Done, Error>>,
    Done: Termination,
{
    match (log, settings) {
        (Ok(log), Ok(settings)) => {
            let runtime = Builder::new_multi_thread().enable_all().build();
            match runtime {
                Ok(runtime) => in_runtime(runtime, log, run(settings), failure),
                Err(error) => fail(&error, failure),
            }
        }
        (log, settings) => fail(&ConfigErrors::all(log.err().into_iter().chain(settings.err())), 2),
    }
}

fn in_runtime(
    runtime: Runtime,
    log: LogSettings,
    command: impl Future<Output = Result<impl Termination, Error>>,
    failure: u8,
) -> ExitCode {
    let telemetry = {
        let _entered = runtime.enter();
        telemetry::init(log)
    };
    let code = match telemetry {
        Err(error) => fail(&error, 2),
        Ok(telemetry) => {
            let code = match runtime.block_on(command) {
                Ok(done) => done.report(),
                Err(error) => fail(&*error, failure),
            };
            telemetry.shut_down();
            code
        }
    };
    // Dropping it would wait for threads that cannot be stopped, such as one that looks a name up while DNS is down.
    runtime.shutdown_background();
    code
}

fn fail(why: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("turnkey: {}", ErrorChain(why));
    ExitCode::from(code)
}

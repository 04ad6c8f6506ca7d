//! The command line. Each command has a file; its settings are in [`crate::config`].

pub mod adopt;
mod call;
mod client;
mod completions;
mod database;
mod doctor;
mod healthcheck;
pub mod import;
pub mod keys_file;
mod migrate;
mod output;
mod owned_file;
mod progress;
mod protoset;
mod purge;
mod ready_file;
mod retry;
mod row_file;
mod serve;
mod token;

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt as _,
    process::{self, ExitCode, Termination},
};

use clap::{CommandFactory as _, Parser, Subcommand, builder::PossibleValuesParser};
use clap_complete::Shell;
use tokio::runtime::{Builder, Runtime};

use crate::{
    config::{
        AdoptArgs, CallArgs, ConfigErrors, DEFAULT_LOG_FILTER, DatabaseArgs, DoctorArgs, FlagsFirst, HealthcheckArgs,
        ImportArgs, LogArgs, LogSettings, PurgeArgs, QUIET_LOG_FILTER, ServeArgs, TokenArgs,
    },
    error::ErrorChain,
    telemetry,
};

const PGOPTIONS: &str = "PGOPTIONS";
/// The build script sets the commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TURNKEY_COMMIT"), ")");

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Provisions the tenants of a booking platform atomically.
///
/// Without a command, the service runs.
#[derive(Parser)]
#[command(name = "turnkey", version = VERSION, max_term_width = 100, args_conflicts_with_subcommands = true)]
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
    /// Bring the database schema up to date and exit
    Migrate(FlagsFirst<DatabaseArgs>),
    /// Find damaged tenants, and repair them with --repair
    Doctor(Box<DoctorArgs>),
    /// Create tenants from a CSV file and write their keys to another
    Import(Box<ImportArgs>),
    /// Bring the tenants of the platform's old database over, with their keys and passwords
    Adopt(Box<AdoptArgs>),
    /// Delete tenants permanently that were deleted some time ago
    Purge(PurgeArgs),
    /// Manage service tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Exit with 0 if the server is SERVING
    Healthcheck(FlagsFirst<HealthcheckArgs>),
    /// Call an RPC of a running server, or list the RPCs
    Call(Box<CallArgs>),
    /// Write the descriptors of the API, for grpcurl and similar tools
    Protoset,
    /// Write a script that completes the command line in a shell
    Completions {
        /// Shell to write the script for
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Create a service token and print it, this one time only
    Create(TokenArgs),
}

impl Command {
    const fn database(&self) -> Option<&DatabaseArgs> {
        match self {
            Self::Serve(args) => Some(&args.database.0),
            Self::Migrate(args) => Some(&args.0),
            Self::Doctor(args) => Some(&args.database.0),
            Self::Import(args) => Some(&args.database.0),
            Self::Adopt(args) => Some(&args.database.0),
            Self::Purge(args) => Some(&args.database.0),
            Self::Token(_) | Self::Healthcheck(_) | Self::Call(_) | Self::Protoset | Self::Completions { .. } => None,
        }
    }
}

/// Runs the command of the process. Exit code 0: it succeeded; 1: it failed; 2: the command line or a setting is
/// invalid. `doctor` and `adopt` have codes of their own.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
    if command.database().is_some_and(DatabaseArgs::is_embedded) && env::var_os(PGOPTIONS).is_some() {
        return fail(&restart_without_pgoptions(), 1);
    }
    let is_terminal = std::io::stderr().is_terminal();
    let draws_progress = is_terminal
        && matches!(command, Command::Doctor(_) | Command::Import(_) | Command::Adopt(_) | Command::Purge(_));
    let is_quiet = draws_progress || matches!(command, Command::Call(_));
    let log = cli.log.settings(is_terminal, if is_quiet { QUIET_LOG_FILTER } else { DEFAULT_LOG_FILTER });
    match command {
        Command::Serve(args) => run_command(log, args.settings(), serve::run, 1),
        Command::Migrate(args) => run_command(log, args.0.settings(), migrate::run, 1),
        Command::Doctor(args) => run_command(log, args.settings(), doctor::run, 2),
        Command::Import(args) => run_command(log, args.settings(), import::run, 1),
        Command::Adopt(args) => run_command(log, args.settings(), adopt::run, 2),
        Command::Purge(args) => run_command(log, args.settings(), purge::run, 1),
        Command::Token(TokenCommand::Create(args)) => run_command(log, args.settings(), token::create, 1),
        Command::Healthcheck(args) => run_command(log, args.0.settings(), healthcheck::run, 1),
        Command::Call(args) => run_command(log, args.settings(), call::run, 2),
        Command::Protoset => exit_code(protoset::run()),
        Command::Completions { shell } => exit_code(completions::run(with_rpc_names(Cli::command()), shell)),
    }
}

/// Lets completions know the RPCs. Without this, an unknown one is reported with the nearest name only.
fn with_rpc_names(cli: clap::Command) -> clap::Command {
    // clap keeps static texts. The process ends when the script is written.
    let names: Vec<&'static str> = call::rpc_names().into_iter().map(|name| &*name.leak()).collect();
    cli.mut_subcommand("call", |call| {
        call.mut_args(|arg| {
            if arg.get_id() == "rpc" { arg.value_parser(PossibleValuesParser::new(names.clone())) } else { arg }
        })
    })
}

/// Of a command without settings and log.
fn exit_code(result: Result<(), Error>) -> ExitCode {
    result.map_or_else(|error| fail(&*error, 1), |()| ExitCode::SUCCESS)
}

/// Replaces this process by one without `PGOPTIONS`, and returns only if that fails. sqlx applies the variable to every
/// session, also to those of the embedded Postgres, and removing a variable from a running process is unsafe.
fn restart_without_pgoptions() -> io::Error {
    let arguments = env::args_os().skip(1);
    env::current_exe().map_or_else(
        |error| error,
        |program| process::Command::new(program).args(arguments).env_remove(PGOPTIONS).exec(),
    )
}

/// `failure_code` is the exit code if the command returns an error.
fn run_command<Settings, Work, Output>(
    log: Result<LogSettings, ConfigErrors>,
    settings: Result<Settings, ConfigErrors>,
    run: impl FnOnce(Settings) -> Work,
    failure_code: u8,
) -> ExitCode
where
    Work: Future<Output = Result<Output, Error>>,
    Output: Termination,
{
    match (log, settings) {
        (Ok(log), Ok(settings)) => match Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => run_in_runtime(runtime, log, run(settings), failure_code),
            Err(error) => fail(&error, failure_code),
        },
        (log, settings) => fail(&ConfigErrors::join(log.err().into_iter().chain(settings.err())), 2),
    }
}

fn run_in_runtime(
    runtime: Runtime,
    log: LogSettings,
    command: impl Future<Output = Result<impl Termination, Error>>,
    failure_code: u8,
) -> ExitCode {
    let telemetry = {
        let _entered = runtime.enter();
        telemetry::init(log)
    };
    let code = match telemetry {
        Err(error) => fail(&error, 2),
        Ok(telemetry) => {
            let code = match runtime.block_on(command) {
                Ok(output) => output.report(),
                Err(error) => fail(&*error, failure_code),
            };
            telemetry.shut_down();
            code
        }
    };
    // Dropping the runtime would wait for blocking threads, such as a name lookup while DNS is down.
    runtime.shutdown_background();
    code
}

/// Prints the error with its causes.
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    output::print_message(format_args!("turnkey: {}", ErrorChain(error)));
    ExitCode::from(code)
}

/// Returns the number with the noun in its singular or plural: "1 row", "2 rows".
fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let plural = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_subcommands(command: &clap::Command) -> Vec<&clap::Command> {
        std::iter::once(command).chain(command.get_subcommands().flat_map(with_subcommands)).collect()
    }

    #[test]
    fn every_setting_has_matching_names_and_a_row_with_its_default_in_the_configuration_guide() {
        let guide = include_str!("../../docs/configuration.md");
        let mut cli = Cli::command();
        cli.build();
        let arguments = with_subcommands(&cli).into_iter().flat_map(clap::Command::get_arguments);
        for argument in arguments {
            let (Some(flag), Some(variable)) = (argument.get_long(), argument.get_env()) else { continue };
            let variable = variable.to_str().unwrap();
            assert_eq!(variable.trim_start_matches("TURNKEY_"), flag.to_uppercase().replace('-', "_"));
            let names = format!("| `{variable}` | `--{flag}` |");
            let row = guide.lines().find(|line| line.starts_with(&names)).expect(variable);
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let default = help.split_once("[default: ").and_then(|(_, rest)| Some(rest.split_once(']')?.0));
            // A default of several words is described in other ones.
            if let Some(default) = default.filter(|default| !default.contains(' ')) {
                assert!(row.contains(default), "{row} {default}");
            }
        }
    }
}

//! The `mica` command: what can be said to it, and how it answers.
//!
//! Verbs, flags, columns and exit statuses are Docker's. An error is one line on stderr that begins with `mica: `.

mod adopt;
mod cni;
mod container;
mod human;
mod image;
mod network;
mod output;
mod print;
mod refusal;
mod storage;
mod system;
mod table;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{Config, Engine, Error, Registry, Result};
use refusal::verb;

/// Where everything is kept unless `--root` or `MICA_ROOT` says otherwise.
const DEFAULT_ROOT: &str = "/var/lib/mica";

/// The first argument of a process that serves a mount for a driver.
pub(crate) const HELPER_VERB: &str = "storage-helper";

/// A container engine whose storage is a choice of drivers
#[derive(Debug, Parser)]
#[command(
    name = "mica",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Print version
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Keep everything in this directory [default: $MICA_ROOT or /var/lib/mica]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Use this storage driver [default: the one of the data root, else the first that works]
    #[arg(long, value_name = "NAME")]
    storage_driver: Option<String>,
    /// Set an option of a storage driver; `mica drivers show NAME` lists them
    #[arg(long = "storage-opt", value_name = "DRIVER.OPTION=VALUE")]
    storage_opts: Vec<String>,
    /// Run containers with this OCI runtime [default: the built-in one]
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<String>,
    /// Let networks write to this firewall: nft, iptables or none [default: the first that works]
    #[arg(long, value_name = "NAME")]
    firewall: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connect a container of another runtime, as a CNI plugin; such a runtime calls it
    Cni,
    #[command(flatten)]
    OfEngine(EngineCommand),
}

/// What can be done with an open data root.
#[derive(Debug, Subcommand)]
enum EngineCommand {
    #[command(flatten)]
    Container(container::ContainerCommand),
    #[command(flatten)]
    Image(image::ImageCommand),
    #[command(flatten)]
    Network(network::NetworkCommand),
    #[command(flatten)]
    System(system::SystemCommand),
    #[command(flatten)]
    Volume(volume::VolumeCommand),
}

/// How a verb ends: with an exit status of its own, or a failure.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// An error with the exit status that it gives.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) error: Error,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { status: 1, error: error.into() }
    }
}

/// Runs the command line of this process with these drivers.
pub(crate) fn main(registry: Registry) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|verb| verb == HELPER_VERB) {
        return serve_mount(&registry, &arguments[2..]);
    }
    if cni::is_called(&arguments) {
        return plugin(registry);
    }
    if let Some(status) = container::early(&verb(&arguments)) {
        return status;
    }
    let outcome = match parse(&arguments) {
        Ok(cli) => run(cli, registry, container::refusal_status(&verb(&arguments))),
        Err(error) => return refusal::explain(&error, &arguments),
    };
    outcome.unwrap_or_else(|Failure { status, error }| {
        print::error(&error);
        ExitCode::from(status)
    })
}

/// Does what a container runtime asks for in the environment.
pub(crate) fn plugin(registry: Registry) -> ExitCode {
    cni::main(registry, data_root(None), None)
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = as_dockers(Cli::command()).try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// Lets flags take what Docker's do: those with a value whatever follows, so that `-u -1` is refused for what it says and not
/// for how it begins; switches `=true` and `=false`; and the last of several holds.
fn as_dockers(command: clap::Command) -> clap::Command {
    command.mut_args(flag_as_dockers).mut_subcommands(as_dockers)
}

fn flag_as_dockers(arg: clap::Arg) -> clap::Arg {
    let id = arg.get_id().clone();
    match arg.get_action() {
        _ if arg.is_positional() => arg,
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("BOOL")
            .overrides_with(id),
        ArgAction::Set => arg.allow_hyphen_values(true).overrides_with(id),
        ArgAction::Append => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

/// `refused` is the exit status when the verb is not begun.
fn run(cli: Cli, registry: Registry, refused: u8) -> Outcome {
    let Cli { root, storage_driver, storage_opts, runtime, firewall, command, .. } = cli;
    let root = data_root(root);
    let command = match command {
        Command::Cni => return Ok(cni::main(registry, root, firewall)),
        Command::OfEngine(command) => command,
    };
    let mut config = Config::new(root, registry);
    config.storage_driver = storage_driver;
    config.runtime = runtime;
    config.firewall = firewall;
    let options = storage_opts.iter().try_for_each(|option| config.storage_opt(option));
    let opened = options.and_then(|()| Engine::open(config));
    let engine = opened.map_err(|error| Failure { status: refused, error })?;
    for warning in engine.warnings() {
        print::warning(warning);
    }
    match command {
        EngineCommand::Container(command) => container::run(&engine, command),
        EngineCommand::Image(command) => image::run(&engine, command),
        EngineCommand::Network(command) => network::run(&engine, command),
        EngineCommand::System(command) => system::run(&engine, command),
        EngineCommand::Volume(command) => volume::run(&engine, command),
    }
}

fn data_root(flag: Option<PathBuf>) -> PathBuf {
    let root = flag.or_else(|| std::env::var_os("MICA_ROOT").map(PathBuf::from));
    root.unwrap_or_else(|| DEFAULT_ROOT.into())
}

/// Serves a mount of a driver whose file system runs in a process: `mica storage-helper DRIVER ARGUMENT…`.
fn serve_mount(registry: &Registry, arguments: &[OsString]) -> ExitCode {
    let name = arguments.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    match registry.storage_driver(&name).map(|entry| entry.helper) {
        Ok(Some(helper)) => helper(&arguments[1..]),
        Ok(None) => {
            print::error(&Error::Invalid(format!("storage driver '{name}' has no helper")));
            ExitCode::FAILURE
        }
        Err(error) => {
            print::error(&error.into());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        as_dockers(Cli::command()).debug_assert();
    }

    #[test]
    fn the_value_of_a_flag_may_begin_with_a_dash_as_dockers_do() {
        let words = ["mica", "run", "-u", "-1", "--memory", "-5", "-e", "-x=y", "image", "-c"];
        let error = parse(&words.map(OsString::from)).unwrap_err().to_string();
        assert!(error.starts_with("error: invalid value '-5' for '--memory <SIZE>'"), "{error}");
        assert!(parse(&["mica", "rm", "--frce", "c"].map(OsString::from)).is_err());
    }
}

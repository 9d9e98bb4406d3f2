//! The `mica` command: what can be said to it, and how it answers.
//!
//! Verbs, flags, columns and exit statuses are Docker's. An error is one line on stderr that begins with `mica: `.

mod container;
mod human;
mod image;
mod print;
mod storage;
mod system;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::{Config, Engine, Error, Registry, Result};

/// Where everything is kept unless `--root` or `MICA_ROOT` says otherwise.
const DEFAULT_ROOT: &str = "/var/lib/mica";

/// The first argument of a process that serves a mount for a driver.
pub(crate) const HELPER_VERB: &str = "storage-helper";

/// A container engine whose storage is a choice of drivers
#[derive(Debug, Parser)]
#[command(name = "mica", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Container(container::ContainerCommand),
    #[command(flatten)]
    Image(image::ImageCommand),
    #[command(flatten)]
    System(system::SystemCommand),
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
    if let Some(status) = container::early(&verb(&arguments)) {
        return status;
    }
    let outcome = match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(cli, registry, container::refusal_status(&verb(&arguments))),
        Err(error) => return explain(&error, &arguments),
    };
    outcome.unwrap_or_else(|Failure { status, error }| {
        print::error(&error);
        ExitCode::from(status)
    })
}

/// `refused` is the exit status when the verb is not begun.
fn run(cli: Cli, registry: Registry, refused: u8) -> Outcome {
    let Cli { root, storage_driver, storage_opts, runtime, command } = cli;
    let root = root.or_else(|| std::env::var_os("MICA_ROOT").map(PathBuf::from));
    let mut config = Config::new(root.unwrap_or_else(|| DEFAULT_ROOT.into()), registry);
    config.storage_driver = storage_driver;
    config.runtime = runtime;
    let options = storage_opts.iter().try_for_each(|option| config.storage_opt(option));
    let opened = options.and_then(|()| Engine::open(config));
    let engine = opened.map_err(|error| Failure { status: refused, error })?;
    for warning in engine.warnings() {
        print::warning(warning);
    }
    match command {
        Command::Container(command) => container::run(&engine, command),
        Command::Image(command) => image::run(&engine, command),
        Command::System(command) => system::run(&engine, command),
    }
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

/// Prints help or a version as they are, and anything else as one line.
fn explain(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let text = error.render().to_string();
            print::text(&text).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        _ => {
            print::error(&Error::Invalid(one_line(&error.render().to_string())));
            ExitCode::from(container::refusal_status(&verb(arguments)))
        }
    }
}

/// The sentences of clap's text up to the usage, joined.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let said = text.split("\nUsage:").next().unwrap_or(text);
    let said = said.split("\nFor more information").next().unwrap_or(said);
    let sentences: Vec<String> = said
        .split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|part| !part.is_empty())
        .collect();
    sentences.join("; ") + "; 'mica --help' lists what there is"
}

/// The first argument that is neither a global flag nor its value.
fn verb(arguments: &[OsString]) -> String {
    let mut arguments = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        if !argument.starts_with('-') {
            return argument.into_owned();
        }
        if !argument.contains('=') {
            arguments.next();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let error = Cli::try_parse_from(["mica", "imagse"]).unwrap_err();
        let text = one_line(&error.render().to_string());
        assert!(text.starts_with("unrecognized subcommand 'imagse'; tip: "), "{text}");
        assert!(text.contains("'images'") && !text.contains('\n'), "{text}");
        let error = Cli::try_parse_from(["mica", "images", "--quite"]).unwrap_err();
        let text = one_line(&error.render().to_string());
        assert!(
            text.starts_with("unexpected argument '--quite' found; tip: ") && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn the_verb_is_found_behind_the_global_flags() {
        let verb = |text: &str| verb(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(verb("mica --root /x --runtime=runc run --rm x"), "run");
        assert_eq!(verb("mica"), "");
    }
}

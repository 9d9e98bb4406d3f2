//! The verbs of containers.

mod feed;
mod files;
mod filter;
mod flags;
mod life;
mod lists;
mod network_flags;
mod ports;
mod protect;
mod session;
mod template;
mod terminal;
pub(super) mod wish;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Failure, Outcome, print};
use crate::container::{Container, CreateOptions};
use crate::{Engine, Error, Result};
pub(super) use files::show;
pub(super) use filter::is_like;
use flags::SettingsFlags;

/// What can be done with containers.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Run a command in a new container
    #[command(disable_help_flag = true)]
    Run(Box<life::Run>),
    /// Make a container, to be started later
    #[command(disable_help_flag = true)]
    Create(Box<Create>),
    /// Start containers that do not run
    Start(life::Start),
    /// Connect to a container that runs
    Attach(life::Attach),
    /// Run a command in a container that runs
    Exec(life::Exec),
    /// Ask containers to end, and kill those that do not
    Stop(life::Stop),
    /// Stop containers and start them again
    Restart(life::Stop),
    /// Send containers a signal
    Kill(life::Kill),
    /// Stop every process of containers in its tracks
    Pause(Names),
    /// Let the processes of paused containers go on
    Unpause(Names),
    /// Wait until containers end, and print how
    Wait(Names),
    /// Remove containers
    Rm(life::Remove),
    /// Give a container another name
    Rename {
        /// Its name or id
        container: String,
        /// The new name
        name: String,
    },
    /// List containers
    Ps(lists::Ps),
    /// Print what a container has printed
    Logs(files::Logs),
    /// Copy files into a container, or out of one
    Cp(files::Copy),
    /// List what a container changed of its image: A is new, C changed, D gone
    Diff {
        /// Its name or id
        container: String,
    },
    /// Make an image of a container
    Commit(files::Commit),
    /// Write a container's file system as a tarball
    Export(files::Export),
    /// Show where on the host a container's ports are published
    Port(ports::Port),
    /// Show everything about containers, images or volumes
    Inspect(files::Inspect),
    /// Show the numbers of a container's processes on the host
    Top {
        /// Its name or id
        container: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(flatten)]
    command: flags::ImageAndCommand,
}

/// What scripts ask again and again looks at networks no more often than this.
const LOOK: Duration = Duration::from_secs(10);

/// Does it.
pub(crate) fn run(engine: &Engine, command: ContainerCommand) -> Outcome {
    if matches!(command, ContainerCommand::Ps(_) | ContainerCommand::Inspect(_) | ContainerCommand::Port(_)) {
        super::network::mend_lost(engine, LOOK);
    }
    match command {
        ContainerCommand::Run(flags) => life::run(engine, *flags),
        ContainerCommand::Create(flags) => {
            let options = creation(engine, flags.settings, flags.command, true).map_err(refused)?;
            let container = engine.create(&options).map_err(refused)?;
            engine.unpublished(&container)?.iter().for_each(|note| print::warning(note));
            print::line(container.id())?;
            Ok(ExitCode::SUCCESS)
        }
        ContainerCommand::Start(flags) => life::start(engine, &flags),
        ContainerCommand::Attach(flags) => life::attach(engine, &flags),
        ContainerCommand::Exec(flags) => life::exec(engine, flags),
        ContainerCommand::Stop(flags) => life::stop(engine, &flags),
        ContainerCommand::Restart(flags) => life::restart(engine, &flags),
        ContainerCommand::Kill(flags) => life::kill(engine, &flags),
        ContainerCommand::Pause(names) => each(engine, &names.containers, Engine::pause),
        ContainerCommand::Unpause(names) => each(engine, &names.containers, Engine::unpause),
        ContainerCommand::Wait(names) => life::wait(engine, &names),
        ContainerCommand::Rm(flags) => life::remove(engine, &flags),
        ContainerCommand::Rename { container, name } => {
            engine.rename(&engine.container(&container)?, plain_name(&name))?;
            Ok(ExitCode::SUCCESS)
        }
        ContainerCommand::Ps(flags) => lists::ps(engine, &flags),
        ContainerCommand::Logs(flags) => files::logs(engine, &flags),
        ContainerCommand::Cp(flags) => files::copy(engine, &flags),
        ContainerCommand::Diff { container } => files::changes(engine, &container),
        ContainerCommand::Commit(flags) => files::commit(engine, flags),
        ContainerCommand::Export(flags) => files::export(engine, &flags),
        ContainerCommand::Inspect(flags) => files::inspect(engine, &flags),
        ContainerCommand::Port(flags) => ports::port(engine, &flags),
        ContainerCommand::Top { container } => lists::top(engine, &container),
    }
}

/// What is done before anything else is looked at: a command that becomes a supervisor executes itself anew from where no
/// container can overwrite it. Returns a status when that fails.
pub(crate) fn early(verb: &str) -> Option<ExitCode> {
    if !matches!(verb, "run" | "start" | "restart") {
        return None;
    }
    let error = protect::protect().err()?;
    print::error(&error);
    Some(ExitCode::from(125))
}

/// The exit status when this verb is not begun: its command line is not understood, or the data root is not opened.
pub(crate) fn refusal_status(verb: &str) -> u8 {
    if matches!(verb, "run" | "create" | "exec") { 125 } else { 1 }
}

/// What is to be made. With `attached` its standard input, if it has one, ends with the first client.
fn creation(
    engine: &Engine,
    mut settings: SettingsFlags,
    command: flags::ImageAndCommand,
    attached: bool,
) -> Result<CreateOptions> {
    let asked = std::mem::take(&mut settings.network).read(engine, settings.has_hostname())?;
    asked.warning.iter().for_each(|warning| print::warning(warning));
    let name = settings.name.as_deref().map(plain_name).filter(|name| !name.is_empty()).map(str::to_owned);
    let mut settings = settings.settings(engine.config().runtime.clone())?;
    settings.stdin_once = settings.stdin && attached;
    settings.cmd = Some(command.command).filter(|words| !words.is_empty());
    settings.networking = asked.networking;
    Ok(CreateOptions { image: command.image, name, settings, networks: asked.networks })
}

/// A name without the slash that `inspect` shows it with.
fn plain_name(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// A failure before the command of a container ran.
fn refused(error: Error) -> Failure {
    let status = if let Error::Runtime { status, .. } = error { status } else { 125 };
    Failure { status, error }
}

/// Does the same to several containers, goes on after a failure, and prints the names of those where it worked.
fn each(engine: &Engine, names: &[String], act: impl Fn(&Engine, &Container) -> Result<()>) -> Outcome {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        match engine.container(name).and_then(|container| act(engine, &container)) {
            Ok(()) => print::line(name)?,
            Err(error) => {
                print::error(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

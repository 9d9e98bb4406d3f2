//! The verbs of a container's life, from `run` to `rm`.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::pipe::{PipeFlags, pipe_with};

use super::feed::Feed;
use super::flags::{self, ImageAndCommand, SettingsFlags};
use super::session::{End, Remote, Session};
use super::{Failure, Names, Outcome, creation, each, print, refused, terminal};
use crate::container::{
    Attached, Container, ExecOptions, Execution, StartOptions, Started, Status, Stream, signal,
};
use crate::{Engine, Error, Result};

/// How long a container has to end when it is asked to.
const STOP_SECONDS: i64 = 10;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Go on while it runs, and print its id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(flatten)]
    command: ImageAndCommand,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Print what the container prints, hand on signals, and end as it does
    #[arg(short, long)]
    attach: bool,
    /// Connect its standard input too
    #[arg(short, long)]
    interactive: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Do not connect its standard input
    #[arg(long)]
    no_stdin: bool,
    /// Do not hand on signals
    #[arg(long = "sig-proxy", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    proxy: bool,
    /// Its name or id
    container: String,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Go on while it runs
    #[arg(short, long)]
    detach: bool,
    /// Connect its standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable; a name alone takes this command's value
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Start it in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run it as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The container, by name or id
    container: String,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long to wait before it is killed; -1 is for ever
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", default_value_t = STOP_SECONDS, value_parser = flags::whole)]
    time: i64,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that were made for them alone
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids of containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(engine: &Engine, flags: Run) -> Outcome {
    let Run { detach, settings, command } = flags;
    let (tty, stdin) = (settings.tty, settings.interactive);
    if tty && stdin && !detach {
        terminal::require().map_err(refused)?;
    }
    let creation = creation(engine, settings, command, !detach).map_err(refused)?;
    let options = StartOptions { attach: !detach, stdin: stdin && !detach, size: terminal::size() };
    let (container, started) = engine.run(&creation, &options).map_err(refused)?;
    started.notes.iter().for_each(|note| print::warning(note));
    if detach {
        print::line(container.id())?;
        return Ok(ExitCode::SUCCESS);
    }
    connect(&container, started.attached, stdin, true)
}

pub(super) fn start(engine: &Engine, flags: &Start) -> Outcome {
    let is_attached = flags.attach || flags.interactive;
    if !is_attached {
        return each(engine, &flags.containers, |engine, container| {
            match engine.start(container, &StartOptions { size: terminal::size(), ..StartOptions::default() })
            {
                Ok(Started { notes, .. }) => {
                    notes.iter().for_each(|note| print::warning(note));
                    Ok(())
                }
                Err(error) => is_running_already(engine, container, error),
            }
        });
    }
    let [name] = flags.containers.as_slice() else {
        return Err(Error::Invalid("only one container can be attached to at a time".to_owned()).into());
    };
    let container = engine.container(name)?;
    let options = StartOptions { attach: true, stdin: flags.interactive, size: terminal::size() };
    let started = engine.start(&container, &options)?;
    started.notes.iter().for_each(|note| print::warning(note));
    connect(&container, started.attached, flags.interactive, true)
}

/// To start what runs is fine.
fn is_running_already(engine: &Engine, container: &Container, error: Error) -> Result<()> {
    match error {
        Error::Conflict(_) if engine.state(container)?.status == Status::Running => Ok(()),
        other => Err(other),
    }
}

pub(super) fn attach(engine: &Engine, flags: &Attach) -> Outcome {
    let container = engine.container(&flags.container)?;
    let stdin = !flags.no_stdin && container.record().settings.stdin;
    if stdin && container.record().settings.tty {
        terminal::require()?;
    }
    let attached = engine.attach(&container, stdin, true)?;
    connect(&container, attached, stdin, flags.proxy)
}

/// Connects this command's streams until the container ends, and ends as it did.
fn connect(container: &Container, mut attached: Attached, stdin: bool, proxy: bool) -> Outcome {
    let tty = container.record().settings.tty;
    let input = attached.take_input().filter(|_| stdin);
    let feed = input.map(|input| Feed::new(input, tty)).transpose()?;
    let session = Session { remote: Remote::Container(&attached), feed, tty, proxy };
    Ok(exit(session.run()?))
}

fn exit(end: End) -> ExitCode {
    match end {
        End::Exited(code, failures) => {
            failures.iter().for_each(|failure| print::warning(failure));
            ExitCode::from(code)
        }
        End::Detached => ExitCode::SUCCESS,
    }
}

pub(super) fn exec(engine: &Engine, flags: Exec) -> Outcome {
    let container = engine.container(&flags.container)?;
    if flags.tty && flags.interactive && !flags.detach {
        terminal::require()?;
    }
    let options = ExecOptions {
        args: flags.command,
        env: flags::environment(&[], &flags.env).map_err(refused)?,
        cwd: flags.workdir,
        user: flags.user,
        tty: flags.tty.then(terminal::size),
    };
    let started = match (flags.detach, flags.tty) {
        (true, _) => {
            engine.exec(&container, &options, &[])?;
            return Ok(ExitCode::SUCCESS);
        }
        (false, true) => exec_with_terminal(engine, &container, &options, flags.interactive),
        (false, false) => exec_with_pipes(engine, &container, &options, flags.interactive),
    };
    started.map_err(exec_failed)
}

/// As Docker's: that the container is not there, does not run or is paused is status 1; a process that could not be made
/// is 127 where its command is not found, and 126 whatever else the reason is.
fn exec_failed(error: Error) -> Failure {
    match error {
        Error::Runtime { status: 127, .. } => Failure { status: 127, error },
        Error::Runtime { .. } => Failure { status: 126, error },
        other => other.into(),
    }
}

fn exec_with_terminal(
    engine: &Engine,
    container: &Container,
    options: &ExecOptions,
    stdin: bool,
) -> Result<ExitCode> {
    let execution = engine.exec(container, options, &[])?;
    let duplicate = || {
        let copy = execution.terminal.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(Error::io(|| "connect a terminal"))
    };
    let outputs = duplicate()?.into_iter().map(|terminal| (terminal, Stream::Stdout)).collect();
    let feed = duplicate()?.filter(|_| stdin).map(|terminal| Feed::new(terminal, true)).transpose()?;
    converse(&execution, outputs, feed, true)
}

fn exec_with_pipes(
    engine: &Engine,
    container: &Container,
    options: &ExecOptions,
    stdin: bool,
) -> Result<ExitCode> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io(|| "make a pipe")(e.into()));
    let ((input, ours), (output, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
    let execution = engine.exec(container, options, &[input.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    drop((input, stdout, stderr));
    let outputs = vec![(output, Stream::Stdout), (errors, Stream::Stderr)];
    // Without input the command sees its end at once.
    let feed = Some(ours).filter(|_| stdin).map(|ours| Feed::new(ours, false)).transpose()?;
    converse(&execution, outputs, feed, false)
}

fn converse(
    execution: &Execution,
    outputs: Vec<(OwnedFd, Stream)>,
    feed: Option<Feed>,
    tty: bool,
) -> Result<ExitCode> {
    execution.notes.iter().for_each(|note| print::warning(note));
    let remote = Remote::Process { execution, outputs, ended: None };
    Ok(exit(Session { remote, feed, tty, proxy: false }.run()?))
}

fn patience(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

pub(super) fn stop(engine: &Engine, flags: &Stop) -> Outcome {
    each(engine, &flags.containers, |engine, container| engine.stop(container, patience(flags.time)))
}

pub(super) fn restart(engine: &Engine, flags: &Stop) -> Outcome {
    each(engine, &flags.containers, |engine, container| {
        engine.stop(container, patience(flags.time))?;
        engine.start(container, &StartOptions { size: terminal::size(), ..StartOptions::default() }).map(drop)
    })
}

pub(super) fn kill(engine: &Engine, flags: &Kill) -> Outcome {
    let number = signal::require(&flags.signal)?;
    each(engine, &flags.containers, |engine, container| engine.kill(container, number))
}

pub(super) fn remove(engine: &Engine, flags: &Remove) -> Outcome {
    let mut status = ExitCode::SUCCESS;
    for name in &flags.containers {
        let removed =
            engine.container(name).and_then(|found| engine.remove(&found, flags.force, flags.volumes));
        let removed = match removed {
            Err(Error::Damaged { .. }) if flags.force => engine.remove_damaged(name, flags.volumes),
            other => other,
        };
        match removed {
            Ok(()) => print::line(name)?,
            // What is not there is as gone as it was to be.
            Err(error @ Error::NoSuch { .. }) if flags.force => print::error(&error),
            Err(error) => {
                print::error(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

pub(super) fn wait(engine: &Engine, names: &Names) -> Outcome {
    let mut status = ExitCode::SUCCESS;
    for name in &names.containers {
        match engine.container(name).and_then(|container| engine.wait(&container)) {
            Ok(code) => print::line(&code.to_string())?,
            Err(error) => {
                print::error(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

//! The supervisor: one small process for each container that runs.
//!
//! It is forked from the command that starts the container, has one thread and a mount namespace of its own, and owns
//! everything that the container needs while it lives: the mounted root file system and the hold on its layer, the
//! terminal or the pipes of its standard streams, the log, the processes that join it, its network namespace with its
//! place in each network, and the lock that says that it lives. Clients talk to it over a socket in the container's
//! directory (see [`wire`]); none of them is needed for it to go on. When the first process ends it undoes all of it in
//! reverse, records how that ended, and is gone.
//!
//! Killed at any moment it leaves control groups, a socket, rules and addresses in its networks, and a state that says
//! that it lives, while its lock is free: the next command that looks at the container puts that right. Its processes die
//! with it, and so do its mounts.

mod console;
mod external;
mod input;
mod log;
pub(crate) mod machine;
mod names;
mod network;
mod requests;
mod serve;
mod stage;
pub(crate) mod wire;

use mica_core::failpoint;
use rustix::process::{set_child_subreaper, setsid};

use crate::container::{Busy, Container, StartOptions};
use crate::{Engine, Error, Result, sys};
pub(crate) use network::live::already_connected;
use serve::Serve;
use stage::Stage;
use wire::{Answer, Channel};

/// What the kernel subtracts from its wish to kill the supervisor for want of memory. The container's processes have 0.
const OOM_SCORE: &str = "-999";

/// Looks after a container from its start to its end, in a process that was just forked for it. `client` is who
/// started it.
pub(crate) fn run(
    engine: &Engine,
    container: &Container,
    busy: Busy,
    client: Channel,
    options: &StartOptions,
) -> ! {
    let mut stage = Stage::new(engine, container, busy);
    match stage.set(options) {
        Ok(ready) => {
            let mut serve = Serve::new(stage, ready, client, options);
            serve.started(options.stdin);
            serve.until_the_end();
            serve.end();
        }
        Err(error) => {
            let said = std::iter::once(error.to_string()).chain(stage.strike(Err(&error)));
            let text = said.collect::<Vec<_>>().join("; ");
            // A client that is gone needs no answer.
            let _ = client.answer(&Answer::Failed { status: status(&error), text }, &[]);
        }
    }
    sys::exit_now(0)
}

/// The answer to who asked for what failed.
pub(crate) fn failure(error: &Error) -> Answer {
    match error {
        Error::Conflict(text) => Answer::Refused { text: text.clone() },
        _ => Answer::Failed { status: status(error), text: error.to_string() },
    }
}

/// The exit status of a command that fails with this.
fn status(error: &Error) -> u8 {
    if let Error::Runtime { status, .. } = error { *status } else { 125 }
}

/// Becomes independent of the command that forked this process.
fn leave_caller() -> Result<()> {
    let failed = || "set up a supervisor";
    let os = |e: rustix::io::Errno| Error::io(failed)(e.into());
    setsid().map_err(os)?;
    let null = external::null()?;
    rustix::stdio::dup2_stdin(&null).map_err(os)?;
    rustix::stdio::dup2_stdout(&null).map_err(os)?;
    rustix::stdio::dup2_stderr(&null).map_err(os)?;
    rustix::process::chdir("/").map_err(os)?;
    rustix::thread::set_name(c"mica-supervisor").map_err(os)?;
    // Another runtime's container becomes a child of this process.
    set_child_subreaper(Some(rustix::process::getpid())).map_err(os)?;
    // Needs CAP_SYS_RESOURCE, without which it is as likely to be killed as any process.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    sys::unshare_mounts().map_err(Error::io(failed))?;
    // What the host unmounts goes from here too; what is mounted here stays here.
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(os)?;
    failpoint::hit("supervisor.independent").map_err(Error::io(failed))
}

//! The command `mica-aufs`, by which a person or fstab mounts a union.

mod arguments;
mod remount;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use mica_core::mount::Helper;
use mica_core::{Error, MountSpec, Mounts, Result, WhiteoutForm};
use mica_mount::{Attached, Loose, Mounter, Tree};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};

use crate::helper::{self, RUN};
use crate::mount_options::MountOptions;
use crate::session;
use arguments::{Arguments, HELP, Request};

/// The first argument of the process that serves.
const SERVE: &str = "--serve";

/// What comes after `fuse.` in the type of the mount.
const NAME: &str = "mica-aufs";

/// Runs the command with these arguments, of which the first is the name that it was called by.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|verb| verb == SERVE) {
        // The name of the driver comes before the arguments.
        return helper::main(args.get(3..).unwrap_or_default());
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            session::report(&format!("{NAME}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<()> {
    let Arguments { options, source, at, foreground } = match arguments::parse(args)? {
        Request::Help => {
            print!("{HELP}");
            return Ok(());
        }
        Request::Version => {
            println!("{NAME} {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        Request::Nothing => return Ok(()),
        Request::Remount(remount) => return remount.perform(),
        Request::Mount(arguments) => *arguments,
    };
    // Before the process that serves is started, which has them blocked then from its first moment on.
    let ending = foreground.then(block_signals).transpose()?;
    let attached = mount(options, source, &at)?;
    match ending {
        Some(signals) => stay(attached.loosen(), &signals),
        None => {
            attached.leave();
            Ok(())
        }
    }
}

/// Mounts it; when this returns, it is served.
fn mount(mut options: MountOptions, source: Option<OsString>, at: &Path) -> Result<Attached> {
    let id = new_id()?;
    let source = options.source.take().or(source).unwrap_or_else(|| format!("si={id}").into());
    options.options.id = Some(id.clone());
    let helper = Helper {
        driver: NAME.to_owned(),
        args: helper::arguments(&options.branches, &options.options),
        read_only: options.is_read_only(),
        label: options.label.take(),
    };
    let mounts = Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Aufs };
    let mounter =
        Mounter::new(std::env::temp_dir()).with_helper(["/proc/self/exe", SERVE]).with_source(source);
    let tree = mounter.open(&mounts)?;
    if !options.attributes.is_empty() {
        tree.restrict(options.attributes)?;
    }
    show(&tree, &id);
    tree.attach(&std::path::absolute(at).map_err(Error::io(|| format!("find '{}'", at.display())))?)
}

/// Has the branches be found by the device of the mount, too.
fn show(tree: &Tree, id: &str) {
    let named = rustix::fs::fstat(tree.root()).map_err(std::io::Error::from).and_then(|stat| {
        let device = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        helper::name_device(Path::new(RUN), &device, id)
    });
    if let Err(error) = named {
        session::report(&format!("{NAME}: the branches are not shown in '{RUN}': {error}"));
    }
}

/// Waits until it is unmounted, or unmounts it when it is told to end.
fn stay(mount: Loose, signals: &SignalFd) -> Result<()> {
    if let Some(helper) = mount.helper_pidfd() {
        let ending = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut waiting = [ending(helper), ending(signals.as_fd())];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut waiting, None))
            .map_err(|e| Error::io(|| "wait for the end of a mount")(e.into()))?;
        if waiting[0].revents().is_empty() {
            mount.detach()?;
        }
    }
    mount.close()
}

fn block_signals() -> Result<SignalFd> {
    let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let blocked = signals.thread_block().and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC));
    blocked.map_err(|e| Error::io(|| "wait for signals")(e.into()))
}

/// A number that no other mount has, in hexadecimal digits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 8];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(Error::io(|| "read '/dev/urandom'"))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

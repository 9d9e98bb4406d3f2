//! What a server may do, and what it gives up.

use std::os::fd::{AsFd, OwnedFd};

use mica_core::{Error, Result};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys;

/// What serving branches as their owner would needs.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN // a new file is given to who made it
    .union(CapabilitySet::DAC_OVERRIDE) // the kernel has checked permissions on the mount; the branch's do not bind the server
    .union(CapabilitySet::DAC_READ_SEARCH) // files without a name are linked to one by their descriptor
    .union(CapabilitySet::FOWNER) // modes, times and attributes of others' files
    .union(CapabilitySet::FSETID) // a mode is copied with its setuid and setgid bits
    .union(CapabilitySet::MKNOD) // devices
    .union(CapabilitySet::SETFCAP) // file capabilities
    .union(CapabilitySet::SYS_ADMIN); // attributes trusted.* and security.*, and to have the kernel read files by itself

/// Makes this process a server, and hands out the connection that it was started with.
///
/// Limits are raised as far as they may be. What is not allowed to it by its surroundings, such as in a container, it
/// does without; only a connection it must have, and what it can give up of rights it must be able to give up.
pub(super) fn become_server() -> Result<OwnedFd> {
    let channel = channel()?;
    let doing = |what: &'static str| move |e: Errno| Error::io(move || what)(e.into());
    sys::close_stray_descriptors().map_err(Error::io(|| "close what was inherited"))?;
    // Fails for who leads a group, and then the signals of a terminal are blocked still.
    let _ = rustix::process::setsid();
    block_signals().map_err(doing("block signals"))?;
    // The mode that is asked for is the one that is meant.
    rustix::process::umask(Mode::empty());
    raise_limit_of_files().map_err(doing("raise the limit of open files"))?;
    rustix::thread::set_name(c"mica-aufs").map_err(doing("set a process's name"))?;
    // Takes CAP_SYS_RESOURCE, which containers often lack.
    let _ = sys::set_io_flusher();
    give_up_rights().map_err(doing("give up capabilities"))?;
    Ok(channel)
}

fn channel() -> Result<OwnedFd> {
    const MISC: u32 = 10;
    const FUSE: u32 = 229;
    let missing = || Error::driver("serve a mount", "descriptor 3 is no connection to /dev/fuse");
    let channel = sys::inherited_channel().map_err(|_| missing())?;
    let stat = rustix::fs::fstat(channel.as_fd()).map_err(|_| missing())?;
    let is_fuse = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (MISC, FUSE);
    is_fuse.then_some(channel).ok_or_else(missing)
}

/// A server that a signal ends would take a file system from under who uses it.
fn block_signals() -> Result<(), Errno> {
    let signals = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE];
    let blocked = signals.into_iter().collect::<SigSet>().thread_block();
    blocked.map_err(|e| Errno::from_raw_os_error(e as i32))
}

fn raise_limit_of_files() -> Result<(), Errno> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
}

/// Keeps what is [`NEEDED`] and was there. Among the rest, `CAP_SYS_RESOURCE` goes so that quotas hold for whom it writes for.
fn give_up_rights() -> Result<(), Errno> {
    let CapabilitySets { permitted, .. } = rustix::thread::capabilities(None)?;
    if permitted.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            if NEEDED.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // The kernel's last one.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let kept = permitted & NEEDED;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}

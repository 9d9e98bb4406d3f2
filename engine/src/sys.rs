//! The calls that no safe wrapper has.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::unistd::{ForkResult, fork as nix_fork};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Which side of a fork this is.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent,
}

/// Forks. The caller has one thread, so that the child may go on as an ordinary program.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: only a process of several threads must be careful what its child calls; the callers check that there
    // is one (see `start`).
    match unsafe { nix_fork() }? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { .. } => Ok(Forked::Parent),
    }
}

/// Ends this process at once: nothing that it shares with the process it was forked from is flushed or undone.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Has every descriptor from 3 on closed when this process executes another program.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call changes a flag of descriptors and takes no memory.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this process a mount namespace of its own, with what is mounted now.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: descriptors stay shared with nobody but threads, which a mount namespace does not touch.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Makes a network namespace whose `lo` is up. It lasts as long as somebody has it; the calling thread stays in its own.
pub(crate) fn network_namespace() -> io::Result<OwnedFd> {
    let make = || {
        // SAFETY: as above; the thread makes the sockets that it uses afterwards.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        set_loopback_up()?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, make)?.join() {
        Ok(made) => made,
        Err(_) => Err(io::Error::other("the thread that made it panicked")),
    })
}

/// Sets `lo` up in the network namespace of this thread; the kernel gives it its addresses then.
fn set_loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l', b'o'].map(|letter| letter as libc::c_char));
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the call reads the name and the flags of `request`, which lives during it.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the process that `command` starts killed when this one ends. What it starts in turn is not.
pub(crate) fn die_with_this(command: &mut Command) {
    let parent = std::process::id();
    let bind = move || {
        // SAFETY: both calls are async-signal-safe and take no memory.
        let (bound, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        match bound {
            0 if u32::try_from(now) == Ok(parent) => Ok(()),
            0 => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and execve the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(bind) };
}

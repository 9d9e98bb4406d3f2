//! The system calls that no crate at hand wraps.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null;

/// What `mount_setattr` is to change; all zero changes nothing.
pub(crate) type Attributes = libc::mount_attr;

/// No change.
pub(crate) const UNCHANGED: Attributes =
    Attributes { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };

/// Changes the attributes of the mount that `mount` is the root of, and of those below it too if `recursive`.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &Attributes,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, and the kernel reads exactly `size_of::<Attributes>()` bytes of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    nothing(result)
}

/// `struct mnt_id_req` of `linux/mount.h`, version 0.
#[repr(C)]
struct MountRequest {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
}

impl MountRequest {
    fn new(mount: u64, param: u64) -> Self {
        Self { size: size_of::<Self>() as u32, spare: 0, mount, param }
    }
}

/// Linux numbers new system calls alike on every architecture that Rust's `std` knows.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;

/// Lists the ids of the mounts below `mount` that come after `last`, and returns how many were written to `ids`.
pub(crate) fn listmount(mount: u64, last: u64, ids: &mut [u64]) -> io::Result<usize> {
    let request = MountRequest::new(mount, last);
    // SAFETY: the kernel reads `request.size` bytes of the request and writes at most `ids.len()` words.
    let result =
        unsafe { libc::syscall(SYS_LISTMOUNT, std::ptr::from_ref(&request), ids.as_mut_ptr(), ids.len(), 0) };
    nothing(result)?;
    Ok(result as usize)
}

/// Fills `buffer` with a `struct statmount` and the strings that follow it. Fails with `EOVERFLOW` when it is short.
pub(crate) fn statmount(mount: u64, mask: u64, buffer: &mut [u64]) -> io::Result<()> {
    let request = MountRequest::new(mount, mask);
    // SAFETY: the kernel reads `request.size` bytes of the request and writes at most the size given of the buffer.
    nothing(unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            std::ptr::from_ref(&request),
            buffer.as_mut_ptr(),
            size_of_val(buffer),
            0,
        )
    })
}

/// A child in a user namespace of its own, which does nothing and ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Sleeper {
    pid: libc::pid_t,
    gate: Option<OwnedFd>,
}

impl Sleeper {
    /// Starts it. No signal tells of its end, so that a process which reaps all its children does not meet it.
    pub(crate) fn start() -> io::Result<Self> {
        let (wait, gate) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (wait_raw, gate_raw) = (wait.as_raw_fd(), gate.as_raw_fd());
        // SAFETY: without CLONE_VM this is fork(2). The child calls close, read and _exit only, all of which are safe after a
        // fork of a process with threads. The read ends when the last writing end, the parent's, is closed.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: as above; the byte read into lives on the child's own stack.
            unsafe {
                let mut byte = 0u8;
                libc::close(gate_raw);
                libc::read(wait_raw, std::ptr::from_mut(&mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        nothing(pid)?;
        Ok(Self { pid: pid as libc::pid_t, gate: Some(gate) })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.gate = None;
        // SAFETY: a null status is allowed; `__WALL` finds a child that signals nothing at its end.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// A mount namespace of its own for a process that is started, which follows what the caller's unmounts.
#[derive(Debug)]
pub(crate) struct Apart {
    /// Nothing is mounted there in it.
    pub(crate) without: Option<CString>,
}

impl Apart {
    /// Makes it for this process, which was just forked.
    fn enter(&self) -> io::Result<()> {
        let slave = libc::MS_REC | libc::MS_SLAVE;
        // SAFETY: plain system calls on C strings that live as long as `self`.
        unsafe {
            nothing(libc::unshare(libc::CLONE_NEWNS).into())?;
            nothing(libc::mount(null(), c"/".as_ptr(), null(), slave, null()).into())?;
            match &self.without {
                Some(place) => nothing(libc::umount2(place.as_ptr(), libc::MNT_DETACH).into()),
                None => Ok(()),
            }
        }
    }
}

/// Has the command start with `channel` as its descriptor 3, and in a mount namespace of its own if that is wanted. The
/// caller keeps `channel` open until it was started.
pub(crate) fn start_as_helper(command: &mut Command, channel: BorrowedFd<'_>, apart: Option<Apart>) {
    const PLACE: RawFd = 3;
    let channel = channel.as_raw_fd();
    let prepare = move || {
        apart.as_ref().map_or(Ok(()), Apart::enter)?;
        // SAFETY: plain system calls. dup2 onto itself would leave the close-on-exec flag.
        nothing(unsafe {
            match channel {
                PLACE => libc::fcntl(PLACE, libc::F_SETFD, 0).into(),
                other => libc::dup2(other, PLACE).into(),
            }
        })
    };
    // SAFETY: the closure makes system calls only, which are safe between fork and exec, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

fn nothing(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

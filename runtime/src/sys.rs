//! The system calls that `rustix` does not wrap. The only unsafe code of this crate is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fd::AsFd;
use rustix::process::Pid;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The two returns of [`clone3`].
pub(crate) enum Cloned {
    Child,
    Parent { pid: Pid, pidfd: OwnedFd },
}

/// Forks with `flags`, into `cgroup` (of a v2 hierarchy) if there is one.
///
/// The caller has one thread: then the child's copy of the allocator and of every lock is consistent, and the
/// child may run any safe code. It must not return into the caller's caller.
pub(crate) fn clone3(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    // libc declares it as a C int, which it does not fit.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let into_cgroup = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = libc::clone_args {
        flags: flags as u64 | libc::CLONE_PIDFD as u64 | into_cgroup,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of all memory. `args` is complete
    // and `pidfd` outlives the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    match Pid::from_raw(pid as i32) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Ends this process without running destructors or `atexit` handlers, which belong to the parent.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: ends the process; there is nothing after it.
    unsafe { libc::_exit(status) }
}

/// `execve`; returns only on failure.
pub(crate) fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from 3 on as closed by the next exec.
pub(crate) fn cloexec_all() -> io::Result<()> {
    // SAFETY: changes flags of descriptors only.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Gives every signal its default action and unblocks all, which exec would otherwise hand on: the Rust
/// runtime ignores SIGPIPE, and a supervisor blocks what it reads from a signalfd.
pub(crate) fn default_signals() {
    // The kernel's own call, since libc's refuses the signals that it keeps for itself (32 and 33). An action
    // of zeroes (handler, flags, restorer, mask) is SIG_DFL.
    let (action, none) = ([0_u64; 4], 0_u64);
    let size = size_of_val(&none);
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours; `action` is as long as any architecture's structure and lives
        // during the call. SIGKILL and SIGSTOP answer EINVAL, which is right.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, 0, size) };
    }
    // SAFETY: reads a set of 64 signals that lives during the call.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0, size) };
}

/// Sends any signal, the real-time ones too; signal 0 only asks whether the process is there.
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo makes it an ordinary kill.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) })?;
    Ok(())
}

/// As `kill(2)`, for processes that are known by their number only.
pub(crate) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: sends a signal; touches no memory.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into())?;
    Ok(())
}

/// Joins the namespaces of the process behind `pidfd`, all of `flags` at once or none.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: changes the namespaces of this thread; the process has no other thread.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) }.into())?;
    Ok(())
}

/// Leaves the namespaces of `flags` for new ones.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: changes the namespaces of this thread; the process has no other thread.
    check(unsafe { libc::unshare(flags) }.into())?;
    Ok(())
}

/// What [`mount_setattr`] changes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear first.
    pub(crate) clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`; 0 leaves the propagation.
    pub(crate) propagation: u64,
}

/// Changes the mount behind `fd`, and with `recursive` those below it, all or none (Linux 5.12).
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string and a complete structure of the stated size, both alive during the call.
    check(unsafe {
        let (path, size) = (c"".as_ptr(), size_of_val(&attr));
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), path, flags, &raw const attr, size)
    })?;
    Ok(())
}

/// Starts a new, anonymous session keyring, so that the supervisor's keys cannot be reached from inside.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) })?;
    Ok(())
}

/// One eBPF instruction, as the kernel has it in memory (`struct bpf_insn`).
pub(crate) type Instruction = [u8; 8];

/// Loads a program that decides about devices (`BPF_PROG_TYPE_CGROUP_DEVICE`).
pub(crate) fn bpf_load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        version_and_flags: [u32; 2],
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
        log: [0; 4],
        version_and_flags: [0; 2],
    };
    // SAFETY: `load` is the beginning of bpf_attr with the stated size; its pointers live during the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of_val(&load)) })?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes `program` decide, along with those that are there already, about devices in the v2 group `group`.
pub(crate) fn bpf_attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attach = [group.as_raw_fd() as u32, program.as_raw_fd() as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    // SAFETY: the four numbers are the beginning of bpf_attr for this command, with the stated size.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of_val(&attach)) })?;
    Ok(())
}

/// Brings the interface `lo` of this network namespace up; the kernel then gives it 127.0.0.1 and ::1.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the name and the flags of `request`, which lives during the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

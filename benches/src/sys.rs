//! The one system call for which there is no safe wrapper here.
#![allow(unsafe_code)]

use std::io;

/// What a process, and those of its children that it waited for, used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// User and system time in microseconds.
    pub(crate) cpu: u64,
    /// The largest resident set of one of them, in KiB.
    pub(crate) rss: u64,
}

/// Waits for any child: its process id, wait status and use. `None`: there is none.
pub(crate) fn wait() -> io::Result<Option<(i32, i32, Used)>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of that plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right types.
    let pid = unsafe { libc::wait4(-1, &raw mut status, 0, &raw mut usage) };
    if pid < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    let micros = |time: libc::timeval| time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_usec.cast_unsigned();
    let cpu = micros(usage.ru_utime) + micros(usage.ru_stime);
    Ok(Some((pid, status, Used { cpu, rss: usage.ru_maxrss.cast_unsigned() })))
}

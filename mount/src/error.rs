//! What a mount that failed says.

use std::io;

use mica_core::Error;

/// Names what was being mounted, what the kernel answered, and what the kernel wrote into the log of the mount.
pub(crate) fn failed(doing: impl Into<String>, error: impl Into<io::Error>, log: &str) -> Error {
    let (doing, error) = (doing.into(), error.into());
    let cause = match error.raw_os_error() {
        Some(libc::ENODEV) => {
            return Error::Unavailable {
                reason: format!("{doing}: the running kernel has no such file system, nor a module of it"),
            };
        }
        Some(libc::EPERM) => {
            "the kernel refuses it; mounting needs root, or CAP_SYS_ADMIN in a user namespace"
        }
        Some(libc::ENOSPC) => "the kernel allows no more mounts; raise /proc/sys/fs/mount-max",
        _ => "",
    };
    let mut text = if cause.is_empty() { error.to_string() } else { cause.to_owned() };
    if !log.is_empty() {
        text = format!("{text}: {log}");
    }
    Error::driver(doing, text)
}

//! Finding and executing the command, with the errors that a shell would tell apart.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statat};
use rustix::io::Errno;

use crate::error::Error;
use crate::plan::ProcessPlan;
use crate::sys;

/// Searched where the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the command may be: one place if it has a slash, else one for each directory of `PATH`.
fn candidates(plan: &ProcessPlan) -> Vec<CString> {
    // No name is found nowhere, and not in every directory.
    let Some(command) = plan.args.first().filter(|command| !command.is_empty()) else { return Vec::new() };
    if command.as_bytes().contains(&b'/') {
        return vec![command.clone()];
    }
    let path = plan.variable("PATH").unwrap_or(DEFAULT_PATH);
    let join = |dir: &[u8]| {
        CString::new([if dir.is_empty() { b"." } else { dir }, b"/", command.as_bytes()].concat())
    };
    path.split(|byte| *byte == b':').filter_map(|dir| join(dir).ok()).collect()
}

/// Says early, while the container is created, that a command can never be executed.
pub(crate) fn find(plan: &ProcessPlan) -> Result<(), Error> {
    let mut reason = libc::ENOENT;
    for candidate in candidates(plan) {
        match executable(&candidate) {
            Ok(()) => return Ok(()),
            Err(libc::ENOENT | libc::ENOTDIR) => {}
            Err(errno) => reason = errno,
        }
    }
    Err(failure(plan, reason))
}

fn executable(path: &CStr) -> Result<(), i32> {
    let stat = statat(CWD, path, AtFlags::empty()).map_err(Errno::raw_os_error)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(Errno::raw_os_error)
        }
        FileType::Directory => Err(libc::EISDIR),
        _ => Err(libc::EACCES),
    }
}

/// Tries every candidate as execvp does: what cannot be executed does not hide what comes later in `PATH`.
pub(crate) fn execute(plan: &ProcessPlan) -> Error {
    let mut reason = libc::ENOENT;
    for candidate in candidates(plan) {
        match sys::exec(&candidate, &plan.args, &plan.env).raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => reason = libc::EACCES,
            other => return failure(plan, other.unwrap_or(libc::EACCES)),
        }
    }
    failure(plan, reason)
}

fn failure(plan: &ProcessPlan, errno: i32) -> Error {
    let command = plan.args.first().map_or(OsStr::new(""), |command| OsStr::from_bytes(command.to_bytes()));
    let searched = !command.as_bytes().contains(&b'/');
    let command = command.to_string_lossy().into_owned();
    match errno {
        libc::ENOENT | libc::ENOTDIR if searched => {
            Error::NotFound { command, reason: "executable file not found in $PATH".to_owned() }
        }
        libc::ENOENT | libc::ENOTDIR => {
            Error::NotFound { command, reason: "no such file or directory".to_owned() }
        }
        errno => Error::NotExecutable { command, reason: describe(errno) },
    }
}

fn describe(errno: i32) -> String {
    match errno {
        libc::EACCES => "permission denied".to_owned(),
        libc::EISDIR => "is a directory".to_owned(),
        libc::ENOEXEC => "exec format error".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

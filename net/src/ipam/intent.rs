//! The moment between a lease and the record that names its holder.
//!
//! Each endpoint has a byte of one file, and whoever takes a lease locks it until the record is written. The lock is bound
//! to the open file (`F_OFD_SETLK`), so it ends with the process, however that ends, and leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mica_core::network::EndpointId;
use mica_core::{Error, Result};
use nix::fcntl::{FcntlArg, fcntl};

/// Says that a record of this endpoint is about to be written, until it is dropped.
#[derive(Debug)]
pub(super) struct Intent {
    _file: File,
}

impl Intent {
    /// Declares it in this file, which is made where it is missing. Fails with [`Error::InUse`] where somebody has.
    pub(super) fn declare(path: &Path, endpoint: &EndpointId) -> Result<Self> {
        let file = open(path)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte_of(endpoint))) {
            Ok(_) => Ok(Self { _file: file }),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(Error::InUse {
                what: format!("endpoint '{endpoint}'"),
                by: "another command, which leases its addresses".to_owned(),
            }),
            Err(error) => Err(failed(path)(error.into())),
        }
    }

    /// Whether somebody has declared it.
    pub(super) fn is_declared(path: &Path, endpoint: &EndpointId) -> Result<bool> {
        let file = open(path)?;
        let mut lock = byte_of(endpoint);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(|error| failed(path)(error.into()))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::io(move || format!("lock a part of '{}'", path.display()))
}

/// 62 bits of the id, which is random, are the offset; two endpoints with the same one would only wait for each other.
fn byte_of(endpoint: &EndpointId) -> libc::flock {
    let [a, b, c, d, e, f, g, h, ..] = *endpoint.as_bytes();
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: i64::from_be_bytes([a & 0x3f, b, c, d, e, f, g, h]),
        l_len: 1,
        // The kernel refuses any other for this kind of lock.
        l_pid: 0,
    }
}

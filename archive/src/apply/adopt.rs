//! What a layer that was extracted alone needs once the layers below it are known.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Applied;
use super::fault::{Attempt, failed};
use super::frame::DIRECTORY;
use super::metadata::{Metadata, Target, XattrRules};
use super::opaque;
use super::{SelinuxLabels, UnsupportedXattrs};
use crate::Result;

/// Fits a layer that was extracted alone to the tree below it, so that the two look as if it had been extracted
/// there.
///
/// [Implied](Applied::implied) directories get the metadata that the tree below has for them: `tmp/x` alone
/// must not take away the sticky bit of `/tmp`. Whiteouts go where there is [nothing to hide](Applied::hiding).
///
/// `layer` is the tree that was extracted, `below` is the merged tree of its parents, or `None` where it is mounted
/// without any. Directories behind a link stay as they are.
pub fn adopt(layer: impl AsFd, below: Option<BorrowedFd<'_>>, applied: &Applied) -> Result<()> {
    let layer = layer.as_fd();
    for path in &applied.hiding {
        unhide(layer, below, path).map_err(|fault| fault.of(path))?;
    }
    if let Some(below) = below {
        for path in &applied.implied {
            inherit(layer, below, path).map_err(|fault| fault.of(path))?;
        }
    }
    Ok(())
}

/// Removes the whiteouts from a directory that is not there below.
fn unhide(layer: BorrowedFd<'_>, below: Option<BorrowedFd<'_>>, path: &[u8]) -> Attempt {
    let Some(dir) = find(layer, path)? else { return Ok(()) };
    let hides = below.map_or(Ok(None), |below| find(below, path))?.is_some();
    if !hides {
        let before = Metadata::read(dir.as_fd())?;
        opaque::remove_whiteouts(dir.as_fd())?;
        before.mtime.map_or(Ok(()), |mtime| Target::Open(dir.as_fd()).set_mtime(mtime))?;
    }
    Ok(())
}

/// Gives a directory the metadata of the one below.
fn inherit(layer: BorrowedFd<'_>, below: BorrowedFd<'_>, path: &[u8]) -> Attempt {
    let (Some(to), Some(from)) = (find(layer, path)?, find(below, path)?) else { return Ok(()) };
    let metadata = Metadata::read(from.as_fd())?;
    let rules = XattrRules { unsupported: UnsupportedXattrs::Strict, labels: SelinuxLabels::Skip };
    metadata.set(to.as_fd(), rules, path, &mut Applied::default())
}

/// Opens a directory by a path without links.
fn find(root: BorrowedFd<'_>, path: &[u8]) -> Attempt<Option<OwnedFd>> {
    let open = |dir: BorrowedFd<'_>, name: &[u8]| rustix::fs::openat(dir, name, DIRECTORY, Mode::empty());
    let opening = "opening a directory that was implied by";
    let mut at = open(root, b".").map_err(failed(opening))?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        match open(at.as_fd(), name) {
            Ok(fd) => at = fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(failed(opening)(errno)),
        }
    }
    Ok(Some(at))
}

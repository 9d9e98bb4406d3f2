//! Copying a file of a lower branch to the writable one.
//!
//! The copy is made whole where nobody sees it: without a name, or in the directory for orphans. Then it is put in the place
//! of the file at once, so whatever fails before, such as a full disk, leaves nothing behind.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::content::{Content, Current};
use super::node::Node;
use super::reach::proc_path;
use super::start::cause;
use super::{Result, Union, lock};

/// A whole copy of a file that has no place yet. If it gets none, it is deleted.
#[derive(Debug)]
pub(crate) struct Copied<'a> {
    /// Open for reading and writing if it is a regular file, for its path alone if it is anything else.
    pub(crate) file: Arc<OwnedFd>,
    temporary: Option<Temporary<'a>>,
}

impl Copied<'_> {
    /// Gives it a name on its file system, where there must be none like it.
    pub(crate) fn place(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match &self.temporary {
            Some(temporary) => temporary.rename(directory, name)?,
            None => return link_open(self.file.as_fd(), directory, name),
        }
        if let Some(mut temporary) = self.temporary.take() {
            temporary.name.clear();
        }
        Ok(())
    }
}

/// A name in the directory for orphans, which is deleted with this.
#[derive(Debug)]
struct Temporary<'a> {
    orphans: BorrowedFd<'a>,
    /// None when it is empty.
    name: String,
}

impl<'a> Temporary<'a> {
    fn new(orphans: BorrowedFd<'a>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self { orphans, name: format!("{:x}", COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        fs::openat(self.orphans, &self.name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
    }

    fn rename(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        fs::renameat_with(self.orphans, &self.name, directory, name, RenameFlags::NOREPLACE)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What stays is deleted when the branch is mounted again.
            let _stays = fs::unlinkat(self.orphans, &self.name, AtFlags::empty());
        }
    }
}

/// Gives a file that is open, and may have no name, a name.
pub(crate) fn link_open(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::linkat(fs::CWD, proc_path(file), directory, name, AtFlags::SYMLINK_FOLLOW)
}

impl Union {
    /// Sees to it that a file, which is no directory, is on the writable branch: all of it, or what there is of its first
    /// `length` bytes. Its open descriptors read and write the copy from then on.
    ///
    /// `ESTALE` where the copy is another file than this: then its name stands for that.
    pub(crate) fn copy_up(&self, node: &Arc<Node>, length: u64) -> Result<()> {
        let raised = self.raised(node, length)?;
        if Arc::ptr_eq(&raised, node) { Ok(()) } else { Err(Errno::STALE) }
    }

    /// The same; returns what is on the writable branch then, which is another file where the kernel reads this one by
    /// itself.
    pub(crate) fn raised(&self, node: &Arc<Node>, length: u64) -> Result<Arc<Node>> {
        // Also if it is above already: its open descriptors may not read the copy yet.
        let mut content = lock(node.content()?);
        self.raise(node, &mut content, length)?;
        Ok(Arc::clone(content.successor.as_ref().unwrap_or(node)))
    }

    /// The same for who holds the lock of the content.
    pub(crate) fn raise(&self, node: &Arc<Node>, content: &mut Content, length: u64) -> Result<()> {
        if self.is_upper(node) || content.successor.is_some() {
            return Ok(());
        }
        let orphans = self.orphans().ok_or(Errno::ROFS)?;
        let mut copied = match node.kind {
            FileType::RegularFile => {
                let (source, branch) = match content.opened() {
                    Some(opened) => (opened.current().file, node.place().branch),
                    None => {
                        let (file, branch) = self.open_node(node, OFlags::RDONLY | OFlags::NOATIME)?;
                        (Arc::new(file), branch)
                    }
                };
                self.copy_regular(orphans, source.as_fd(), branch, length)?
            }
            _ => copy_special(orphans, self.open_path(node)?.0.as_fd())?,
        };
        if content.passed_through() {
            let names = node.place().names.clone();
            content.successor = Some(self.publish_apart(node, &mut copied)?);
            names.iter().for_each(|name| self.forget_name(name));
            return Ok(());
        }
        self.publish(node, &mut copied)?;
        if node.kind == FileType::RegularFile {
            content.point(Current { file: copied.file, writable: true, upper: true });
        }
        Ok(())
    }

    fn copy_regular<'a>(
        &self,
        orphans: BorrowedFd<'a>,
        from: BorrowedFd<'_>,
        branch: u16,
        length: u64,
    ) -> Result<Copied<'a>> {
        let size = fs::fstat(from)?.st_size.cast_unsigned();
        let copied = make_regular(orphans)?;
        let to = copied.file.as_fd();
        let wanted = size.min(length);
        self.branches[usize::from(branch)].abilities.copy(from, to, wanted).map_err(|error| cause(&error))?;
        if wanted < size {
            fs::ftruncate(to, wanted)?;
        }
        mica_tree::copy_attributes(from, to).map_err(|error| cause(&error))?;
        if !self.options.volatile {
            fs::fsync(to)?;
        }
        Ok(copied)
    }
}

/// A new empty file without a name, or with a temporary one where the file system knows no other.
fn make_regular(orphans: BorrowedFd<'_>) -> Result<Copied<'_>> {
    let mode = Mode::RUSR | Mode::WUSR;
    let unnamed = fs::openat(orphans, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode);
    match unnamed {
        Ok(file) => Ok(Copied { file: Arc::new(file), temporary: None }),
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let temporary = Temporary::new(orphans);
            let file = temporary.open(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?;
            Ok(Copied { file: Arc::new(file), temporary: Some(temporary) })
        }
        Err(errno) => Err(errno),
    }
}

/// Copies a link, a device, a pipe or a socket.
fn copy_special<'a>(orphans: BorrowedFd<'a>, from: BorrowedFd<'_>) -> Result<Copied<'a>> {
    let stat = fs::fstat(from)?;
    let temporary = Temporary::new(orphans);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = fs::readlinkat(from, "", Vec::new())?;
            fs::symlinkat(target, orphans, &temporary.name)?;
        }
        kind => fs::mknodat(orphans, &temporary.name, kind, Mode::RUSR, stat.st_rdev)?,
    }
    let to = temporary.open(OFlags::PATH, Mode::empty())?;
    mica_tree::copy_path_attributes(from, to.as_fd()).map_err(|error| cause(&error))?;
    Ok(Copied { file: Arc::new(to), temporary: Some(temporary) })
}

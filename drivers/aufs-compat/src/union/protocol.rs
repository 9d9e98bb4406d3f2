//! The union as the kernel asks for it.
//!
//! Nothing is decided here: a request is taken apart, what it names is looked up, and one method of the union answers it.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FsOptions, OpenOptions, SetattrValid, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::{FileType, Mode, OFlags};

use super::attributes::as_stat;
use super::{Found, Made, New, Owner, Result, Union};
use crate::session::{Connection, Extra, Opened, Span};
use crate::sys::file::statistics;

/// For how long the kernel may keep what it was told: nobody else changes the branches.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// `FUSE_OPEN_KILL_SUIDGID` and `FUSE_WRITE_KILL_SUIDGID`: whoever opens or writes may not keep setuid and setgid.
const OPEN_KILLS: u32 = 1;
const WRITE_KILLS: u32 = 1 << 2;

/// Whose a file is that this caller makes.
fn owner(caller: &Context, umask: u32) -> Owner {
    Owner { uid: caller.uid, gid: caller.gid, umask }
}

/// What the kernel is told of what it now holds once more.
pub(crate) fn entry(found: &Found) -> Entry {
    Entry {
        inode: found.node.number,
        attr: as_stat(&found.stat),
        attr_timeout: LONG,
        entry_timeout: LONG,
        ..Entry::default()
    }
}

impl Union {
    fn open_made(&self, made: Made) -> Result<Opened> {
        let Made { found, file } = made;
        let opened = self.open_created(&found.node, file);
        let opened = opened.inspect_err(|_| self.forget(found.node.number, 1))?;
        Ok((entry(&found), Some(opened.handle), opened.options, opened.backing))
    }
}

impl FileSystem for Union {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        // Locks are kept by the kernel, as those of a file system on this host alone.
        let wanted = FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::DONT_MASK
            | FsOptions::POSIX_ACL
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::EXPLICIT_INVAL_DATA;
        Ok(wanted & capable)
    }

    fn destroy(&self) {
        self.end();
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        // That there is nothing can be kept, too (inode 0).
        let nothing = Entry { entry_timeout: LONG, ..Entry::default() };
        let found = self.lookup(&self.node(parent)?, name.to_bytes())?;
        Ok(found.map_or(nothing, |found| entry(&found)))
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.forget(inode, count);
    }

    fn getattr(&self, _: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.attributes(&self.node(inode)?, handle)?, LONG))
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        wanted: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let node = self.node(inode)?;
        self.change(&node, handle, &wanted, valid)?;
        let shown = self.shown(&node)?;
        if !Arc::ptr_eq(&shown, &node) {
            self.forget_attributes(shown.number);
        }
        Ok((self.attributes(&node, handle)?, LONG))
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        Ok(self.read_link(&self.node(inode)?)?)
    }

    fn symlink(&self, caller: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        let new = New::Link(target);
        Ok(entry(&self.make(&self.node(parent)?, name.to_bytes(), new, owner(caller, 0))?))
    }

    fn mknod(
        &self,
        caller: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let kind = FileType::from_raw_mode(mode);
        let new = New::Node(kind, Mode::from_raw_mode(mode), device.into());
        Ok(entry(&self.make(&self.node(parent)?, name.to_bytes(), new, owner(caller, umask))?))
    }

    fn mkdir(&self, caller: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        let new = New::Directory(Mode::from_raw_mode(mode));
        Ok(entry(&self.make(&self.node(parent)?, name.to_bytes(), new, owner(caller, umask))?))
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        Ok(self.remove_file(&self.node(parent)?, name.to_bytes())?)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        Ok(self.remove_directory(&self.node(parent)?, name.to_bytes())?)
    }

    fn rename(
        &self,
        _: &Context,
        from: u64,
        name: &CStr,
        to: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (from, to) = (self.node(from)?, self.node(to)?);
        Ok(self.rename_entry(&from, name.to_bytes(), &to, new_name.to_bytes(), flags)?)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        Ok(entry(&self.link(&self.node(inode)?, &self.node(parent)?, name.to_bytes())?))
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let node = self.node(inode)?;
        let opened = self.open_file(&node, OFlags::from_bits_retain(flags), fuse_flags & OPEN_KILLS != 0)?;
        Ok((Some(opened.handle), opened.options, opened.backing))
    }

    fn create(&self, caller: &Context, parent: u64, name: &CStr, how: CreateIn) -> io::Result<Opened> {
        let mode = Mode::from_raw_mode(how.mode);
        let made = self.create(&self.node(parent)?, name.to_bytes(), mode, owner(caller, how.umask))?;
        Ok(self.open_made(made)?)
    }

    fn read(
        &self,
        _: &Context,
        _: u64,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        self.read_file(handle, to, size, offset)
    }

    fn write(
        &self,
        _: &Context,
        _: u64,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        self.write_file(handle, from, size, offset, fuse_flags & WRITE_KILLS != 0)
    }

    fn fsync(&self, _: &Context, _: u64, data_only: bool, handle: u64) -> io::Result<()> {
        Ok(self.sync_file(handle, data_only)?)
    }

    fn fallocate(
        &self,
        caller: &Context,
        _: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        Ok(self.allocate(handle, mode, offset, length, caller.uid != 0)?)
    }

    fn release(
        &self,
        _: &Context,
        _: u64,
        flags: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        Ok(self.close_file(handle, OFlags::from_bits_retain(flags))?)
    }

    fn statfs(&self, _: &Context, _: u64) -> io::Result<statvfs64> {
        Ok(statistics(&self.statfs()?))
    }

    fn setxattr(
        &self,
        caller: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        Ok(self.set_attribute(caller, &self.node(inode)?, name, value, flags)?)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        Ok(self.get_attribute(&self.node(inode)?, name, size)?)
    }

    fn listxattr(&self, caller: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        Ok(self.list_attributes(caller, &self.node(inode)?, size)?)
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        Ok(self.remove_attribute(&self.node(inode)?, name)?)
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let handle = self.open_directory(&self.node(inode)?)?;
        Ok((Some(handle), OpenOptions::KEEP_CACHE | OpenOptions::CACHE_DIR))
    }

    fn readdir(
        &self,
        _: &Context,
        _: u64,
        handle: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read_directory(handle, offset, add)
    }

    fn readdirplus(
        &self,
        _: &Context,
        _: u64,
        handle: u64,
        _: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.read_directory_plus(handle, offset, add)
    }

    fn fsyncdir(&self, _: &Context, inode: u64, data_only: bool, _: u64) -> io::Result<()> {
        Ok(self.sync_directory(&self.node(inode)?, data_only)?)
    }

    fn releasedir(&self, _: &Context, _: u64, _: u32, handle: u64) -> io::Result<()> {
        self.close_directory(handle);
        Ok(())
    }

    fn lseek(&self, _: &Context, _: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        Ok(self.seek_file(handle, offset, whence)?)
    }
}

impl Extra for Union {
    fn connected(&self, connection: &Arc<Connection>) {
        // Called once: a union is served on one connection.
        let _first = self.connection.set(Arc::clone(connection));
    }

    fn source(&self, handle: u64) -> Option<Arc<OwnedFd>> {
        Some(self.opened(handle).ok()?.current().file)
    }

    fn syncfs(&self, _: &Context) -> io::Result<()> {
        Ok(self.sync_all()?)
    }

    fn tmpfile(&self, caller: &Context, parent: u64, how: &CreateIn) -> io::Result<Opened> {
        let mode = Mode::from_raw_mode(how.mode);
        let unlinkable = OFlags::from_bits_retain(how.flags).contains(OFlags::EXCL);
        let made = self.create_unnamed(&self.node(parent)?, mode, owner(caller, how.umask), unlinkable)?;
        Ok(self.open_made(made)?)
    }

    fn copy_file_range(&self, caller: &Context, from: Span, to: Span, length: u64) -> io::Result<u64> {
        let (from, to) = ((from.handle, from.offset), (to.handle, to.offset));
        Ok(self.copy_range(from, to, length, caller.uid != 0)?)
    }
}

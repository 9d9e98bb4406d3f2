//! From a node to the file on its branch.
//!
//! A directory is reached by a descriptor that was used of late, or else from the directory that it is in. Everything else
//! is reached by its name in its directory. Meanwhile another thread may move either, so whatever was reached is compared
//! with what was expected.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::names::Directory;
use super::node::Node;
use super::{Result, Union, lock};

/// How often something is looked for that moves all the time.
pub(crate) const TRIES: usize = 32;

/// Where a file is to be found at this moment.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) branch: u16,
    inode: u64,
    by: By,
}

#[derive(Debug)]
enum By {
    Name(Arc<OwnedFd>, Box<[u8]>),
    Descriptor(Arc<OwnedFd>),
}

impl Reached {
    fn stat(&self) -> Result<Statx> {
        match &self.by {
            By::Name(directory, name) => stat_at(directory.as_fd(), name),
            By::Descriptor(file) => stat_open(file.as_fd()),
        }
    }

    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        match &self.by {
            By::Name(directory, name) => {
                // Whoever put a fifo there would have the server wait for its other end.
                let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                fs::openat(directory, &**name, flags, Mode::empty())
            }
            By::Descriptor(file) => reopen(file.as_fd(), flags),
        }
    }
}

/// What a file is, by its name; of a symbolic link, that itself.
pub(crate) fn stat_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Statx> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, flags)
}

/// Opens a directory, to be searched, read and put on the disk.
pub(crate) fn open_directory<P: Arg + Copy>(at: BorrowedFd<'_>, name: P) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // It is nobody's access but ours.
    match fs::openat(at, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => fs::openat(at, name, flags, Mode::empty()),
        done => done,
    }
}

/// What an open file is.
pub(crate) fn stat_open(file: BorrowedFd<'_>) -> Result<Statx> {
    fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// The path that leads to the very file that is open, whatever it is and has become of its name (proc(5)).
pub(crate) fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Opens what is open once more, in another way.
pub(crate) fn reopen(file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    fs::open(proc_path(file), (flags | OFlags::CLOEXEC) - OFlags::NOFOLLOW, Mode::empty())
}

/// The kind that a mode says.
pub(crate) fn kind_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// The device number of the file system that a file is on.
pub(crate) fn device_of(stat: &Statx) -> u64 {
    fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// Whether something was not where it was looked for, so that it is worth looking again.
pub(crate) fn moved(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

impl Union {
    /// Where the file of this node is at this moment.
    pub(crate) fn reach(&self, node: &Arc<Node>) -> Result<Reached> {
        if Arc::ptr_eq(node, &self.root) {
            let top = self.branches.first().ok_or(Errno::STALE)?;
            let by = By::Descriptor(Arc::clone(&top.root));
            return Ok(Reached { branch: 0, inode: top.inode, by });
        }
        let (branch, inode, name, pinned) = {
            let place = node.place();
            (place.branch, place.inode, place.names.first().cloned(), place.pinned.clone())
        };
        let by = match (name, pinned) {
            (Some(name), _) => By::Name(self.directory(&name.parent, branch)?, name.name),
            (None, Some(file)) => By::Descriptor(file),
            (None, None) => {
                let links = self.pseudo_links.as_ref().ok_or(Errno::STALE)?;
                By::Name(Arc::clone(&links.directory), links.name(node.number, inode).into())
            }
        };
        Ok(Reached { branch, inode, by })
    }

    /// Looks for a file until it is where its node says.
    fn settle<T>(
        &self,
        node: &Arc<Node>,
        mut look: impl FnMut(&Reached) -> Result<(T, Statx)>,
    ) -> Result<(T, Statx, u16)> {
        for _ in 0..TRIES {
            let looked = self.reach(node).and_then(|reached| Ok((look(&reached)?, reached)));
            match looked {
                Ok(((found, stat), reached)) => {
                    if stat.stx_ino == reached.inode && kind_of(&stat) == node.kind {
                        return Ok((found, stat, reached.branch));
                    }
                }
                Err(errno) if moved(errno) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::STALE)
    }

    /// What a file is, with its number in the union and the number of its names there.
    pub fn stat(&self, node: &Arc<Node>) -> Result<Statx> {
        let (stat, branch) = self.stat_on_branch(node)?;
        Ok(self.present(node, stat, branch))
    }

    /// What a file is on its branch, and which branch that is.
    pub(crate) fn stat_on_branch(&self, node: &Arc<Node>) -> Result<(Statx, u16)> {
        let ((), stat, branch) = self.settle(node, |reached| Ok(((), reached.stat()?)))?;
        Ok((stat, branch))
    }

    /// Opens the file of a node where it is now, and says on which branch. It is the caller's to see that opening it has no
    /// effect, such as on a device.
    pub fn open_node(&self, node: &Arc<Node>, flags: OFlags) -> Result<(OwnedFd, u16)> {
        let look = |reached: &Reached| {
            let file = reached.open(flags)?;
            let stat = stat_open(file.as_fd())?;
            Ok((file, stat))
        };
        let (file, _, branch) = self.settle(node, look)?;
        Ok((file, branch))
    }

    /// Opens the file of a node for its path alone.
    pub fn open_path(&self, node: &Arc<Node>) -> Result<(OwnedFd, u16)> {
        self.open_node(node, OFlags::PATH)
    }

    /// What the kernel is told of a file.
    pub(crate) fn present(&self, node: &Node, mut stat: Statx, branch: u16) -> Statx {
        stat.stx_ino = node.number;
        stat.stx_nlink = match node.entries() {
            Ok(directory) => names_of_directory(&super::read(directory), stat.stx_nlink),
            Err(_) => self.names_of_file(node, stat.stx_nlink, branch),
        };
        stat
    }

    /// How many names a file has in the union that has so many on its branch.
    fn names_of_file(&self, node: &Node, on_branch: u32, branch: u16) -> u32 {
        let upper = self.is_writable(branch);
        match &self.pseudo_links {
            // One of a lower branch that was deleted still has its name there.
            Some(_) if !upper && on_branch == 1 => u32::from(!node.place().names.is_empty()),
            Some(links) => links.names_shown(node.number, on_branch, upper),
            None => on_branch,
        }
    }

    /// A directory on one of its branches. Where it is read is up to who has its names locked.
    pub(crate) fn directory(&self, node: &Arc<Node>, branch: u16) -> Result<Arc<OwnedFd>> {
        for _ in 0..TRIES {
            match self.descend(node, branch) {
                Err(errno) if moved(errno) => {}
                done => return done,
            }
        }
        Err(Errno::STALE)
    }

    fn descend(&self, node: &Arc<Node>, branch: u16) -> Result<Arc<OwnedFd>> {
        let mut below = Vec::new();
        let mut at = Arc::clone(node);
        let mut directory = loop {
            if let Some(open) = self.kept_directory(&at, branch) {
                break open;
            }
            let (up, step) = {
                let place = at.place();
                if let Some(pinned) = place.pinned.as_ref().filter(|_| place.branch == branch) {
                    break Arc::clone(pinned);
                }
                let name = place.names.first().ok_or(Errno::STALE)?;
                let expected = (place.branch == branch).then_some(place.inode);
                (Arc::clone(&name.parent), (at.number, name.name.clone(), expected))
            };
            below.push(step);
            at = up;
        };
        while let Some((number, name, expected)) = below.pop() {
            let next = open_directory(directory.as_fd(), &*name)?;
            if let Some(inode) = expected
                && fs::statx(&next, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?.stx_ino != inode
            {
                return Err(Errno::STALE);
            }
            directory = Arc::new(next);
            lock(self.open_directories(number)).insert((number, branch), Arc::clone(&directory));
        }
        Ok(directory)
    }

    fn kept_directory(&self, node: &Arc<Node>, branch: u16) -> Option<Arc<OwnedFd>> {
        if Arc::ptr_eq(node, &self.root) {
            return self.branches.get(usize::from(branch)).map(|branch| Arc::clone(&branch.root));
        }
        lock(self.open_directories(node.number)).get((node.number, branch))
    }

    /// Has a directory that was removed closed.
    pub(crate) fn drop_directory(&self, node: &Node, branches: &[u16]) {
        let mut open = lock(self.open_directories(node.number));
        for &branch in branches {
            open.remove((node.number, branch));
        }
    }
}

/// How many names a directory has that has so many on its topmost branch. In one that several branches show the directories
/// are not counted: that is what 1 says.
fn names_of_directory(directory: &Directory, on_branch: u32) -> u32 {
    match directory.branches.len() {
        _ if directory.removed => 0,
        0 | 1 => on_branch,
        _ => 1,
    }
}

//! Opening the branches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::branch::{Branch, BranchSpec};
use super::handle::Handles;
use super::name::{ORPHANS, PSEUDO_LINKS, temporary_of};
use super::names::Budget;
use super::node::{Node, Place};
use super::number::Numbers;
use super::parents::restore_times;
use super::pseudo_link::PseudoLinks;
use super::reach::{open_directory, stat_open};
use super::recent::Recent;
use super::table::Table;
use super::whiteout::Whiteouts;
use super::{Options, Result, Union};

/// The most names that are kept of all directories together, at about 100 bytes each and their lengths.
const NAMES: usize = 1 << 18;
/// Into how many parts the open directories are divided.
const PARTS: usize = 16;
/// The most directories that are kept open, however many descriptors there can be.
const DIRECTORIES: u64 = 16 * 1024;

impl Union {
    /// Opens the branches, the topmost first.
    ///
    /// If the first can be written, what AUFS keeps in its root is made where it is missing, and what a crash left there is
    /// cleared away. Raises this process's limit of open files as far as it can.
    ///
    /// Fails with `EINVAL` where there is no branch or too many, where another than the first is to be written, or where
    /// one is inside another, and where something else is in the place of what AUFS keeps.
    pub fn open(specs: Vec<BranchSpec>, options: Options) -> io::Result<Arc<Self>> {
        let open = |spec: BranchSpec| {
            let path = spec.path.clone();
            Branch::open(spec).map_err(|errno| about(errno, &format!("branch '{}'", path.display())))
        };
        let branches = specs.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let apart = are_apart(&branches) && branches.iter().skip(1).all(|branch| !branch.writable);
        let count = u16::try_from(branches.len()).map_err(|_| Errno::INVAL)?;
        let top = branches.first().filter(|_| apart).ok_or(Errno::INVAL)?;
        let writable = top.writable.then(|| Arc::clone(&top.root));
        // What is made in there for the union's own use is no change of the tree.
        let before = writable.as_ref().map(|root| stat_open(root.as_fd())).transpose()?;

        let table = Table::new();
        let numbers = Numbers::default();
        let number = numbers.of(top.device, top.inode);
        let root = Node::directory(number, Place::new(0, top.inode), (0..count).collect(), &table);
        let descriptors = raise_limit() / 4;
        let each = (descriptors.min(DIRECTORIES) as usize / PARTS).max(1);
        let union = Self {
            branches,
            options,
            root: Arc::new(root),
            table,
            numbers,
            budget: Budget::new(NAMES),
            open_directories: (0..PARTS).map(|_| Mutex::new(Recent::new(each))).collect(),
            moving: Mutex::new(()),
            orphans: writable.as_ref().map(|root| own_directory(root, ORPHANS).map(Arc::new)).transpose()?,
            pseudo_links: match &writable {
                Some(root) => Some(PseudoLinks::new(own_directory(root, PSEUDO_LINKS)?)),
                None => None,
            },
            whiteouts: writable.as_ref().map(open_whiteouts).transpose()?,
            files: Handles::default(),
            listings: Handles::default(),
            connection: OnceLock::new(),
        };
        if let Some(root) = &writable {
            clear_away(root.as_fd())?;
            if let Some(orphans) = &union.orphans {
                mica_tree::remove_children(orphans.as_fd()).map_err(|error| cause(&error))?;
            }
            union.flush_left_over()?;
            before.iter().for_each(|before| restore_times(root.as_fd(), before));
        }
        Ok(Arc::new(union))
    }
}

fn about(errno: Errno, what: &str) -> io::Error {
    let cause = io::Error::from(errno);
    io::Error::new(cause.kind(), format!("{what}: {cause}"))
}

fn open_whiteouts(root: &Arc<OwnedFd>) -> io::Result<Whiteouts> {
    Whiteouts::open(root).map_err(|errno| about(errno, "regular file '.wh..wh.aufs' in the writable branch"))
}

/// Whether none of the branches is another or in another. What is in a directory comes right behind it in their order.
fn are_apart(branches: &[Branch]) -> bool {
    let mut places: Vec<_> = branches.iter().map(|branch| branch.canonical.as_path()).collect();
    places.sort_unstable();
    places.windows(2).all(|pair| !pair[1].starts_with(pair[0]))
}

/// One of the directories in the root of the writable branch, which is made where it is missing.
fn own_directory(root: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let opened = make_own_directory(root, name);
    opened
        .map_err(|errno| about(errno, &format!("directory '{}' in the writable branch", name.escape_ascii())))
}

fn make_own_directory(root: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    match fs::mkdirat(root, name, Mode::RWXU) {
        Ok(()) => fs::chmodat(root, name, Mode::RWXU, AtFlags::empty())?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_directory(root.as_fd(), name)
}

/// Deletes what a crash left in a directory of the writable branch, half made or half deleted.
pub(crate) fn clear_away(directory: BorrowedFd<'_>) -> Result<()> {
    let mut entries = fs::Dir::read_from(directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if temporary_of(name).is_some() {
            mica_tree::remove(directory, name).map_err(|error| cause(&error))?;
        }
    }
    Ok(())
}

/// Raises the limit of open files as far as it goes, and says how many can be open.
fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let reached = if raised.is_ok() { maximum } else { current };
    reached.unwrap_or(u64::MAX)
}

/// What the system call said.
pub(crate) fn cause(error: &mica_tree::Error) -> Errno {
    Errno::from_io_error(&error.source).unwrap_or(Errno::IO)
}

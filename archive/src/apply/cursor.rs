//! Where the extractor stands: the open directories from the root to the parent of the member at hand.
//!
//! Archives list a directory's content together, so most members find their parent open already. Whatever a
//! member replaces lies below the end of this chain, never in it, so no descriptor can go stale (a cache of
//! *paths* could: CVE-2025-47290).

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mica_core::WhiteoutForm;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::fault::{Attempt, Fault, failed, refuse};
use super::frame::{DIRECTORY, Frame};
use super::metadata::{Metadata, Target};
use super::name::WHITEOUT;
use super::seen::Place;
use super::site::Site;

/// How many directories stay open. A deeper chain keeps its first ones and its last one, and walks between them.
const OPEN_LIMIT: usize = 64;
/// As the kernel's own (path_resolution(7)).
const LINK_LIMIT: usize = 40;
/// Together with the next one, what a member of 512 bytes may cost when links lead it up and down a deep tree.
const UP_LIMIT: usize = 255;
const DEPTH_LIMIT: usize = 1024;

/// Counts the turns on the way through symbolic links.
#[derive(Debug, Default)]
pub(super) struct Way {
    links: usize,
    ups: usize,
}

impl Way {
    pub(super) fn link(&mut self) -> Attempt {
        self.links += 1;
        if self.links > LINK_LIMIT {
            return refuse(format!("it lies behind more than {LINK_LIMIT} symbolic links"));
        }
        Ok(())
    }

    pub(super) fn up(&mut self) -> Attempt {
        self.ups += 1;
        if self.ups > UP_LIMIT {
            return refuse(format!("symbolic links lead to it by more than {UP_LIMIT} '..'"));
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Cursor {
    /// Never empty: the first is the root.
    frames: Vec<Frame>,
    /// From the root to the last frame: real directories only, no link among them.
    path: Vec<u8>,
    /// The path through symbolic links that led here, if one did.
    alias: Option<Vec<u8>>,
}

/// What a component of a path turned out to be.
enum Step {
    Entered,
    Link(Vec<u8>),
}

impl Cursor {
    pub(super) fn new(root: BorrowedFd<'_>) -> Result<Self, Errno> {
        let fd = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
        Ok(Self { frames: vec![Frame::found(fd, Place::ROOT, 0, 0)?], path: Vec::new(), alias: None })
    }

    /// The directory at the end of the chain.
    pub(super) fn here(&self) -> &Frame {
        &self.frames[self.frames.len() - 1]
    }

    pub(super) fn here_mut(&mut self) -> &mut Frame {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// The way from the root to [`here`](Self::here).
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The deepest open directory on the way to `path`, how much of the path leads to it, and what remains.
    pub(super) fn nearest<'p>(&self, path: &'p [u8]) -> (BorrowedFd<'_>, &'p [u8], &'p [u8]) {
        let (depth, _) = shared(path, &self.path);
        let frame = self.frames.iter().rev().find(|frame| frame.depth <= depth).unwrap_or(&self.frames[0]);
        let (reached, rest) = path.split_at(frame.length);
        (frame.fd.as_fd(), reached, rest)
    }

    /// Goes to the directory that a clean path names. Symbolic links on the way are read and followed, one
    /// component at a time, as if the root was the root of the file system. What is missing is made, with mode
    /// 0755; what is neither directory nor link is replaced, since the archive says that it has content.
    pub(super) fn enter(&mut self, directory: &[u8], site: &mut Site<'_>) -> Attempt {
        if directory == self.path || self.alias.as_deref() == Some(directory) {
            return Ok(());
        }
        let (depth, length) = shared(directory, &self.path);
        self.ascend(depth, site)?;
        if self.descend(&directory[length..], site)? {
            self.alias = Some(directory.to_vec());
        }
        Ok(())
    }

    /// Returns whether a link was followed.
    fn descend(&mut self, path: &[u8], site: &mut Site<'_>) -> Attempt<bool> {
        let mut todo = Cow::Borrowed(path);
        let mut at = 0;
        let mut way = Way::default();
        while at < todo.len() {
            let end = todo[at..].iter().position(|&byte| byte == b'/').map_or(todo.len(), |slash| at + slash);
            let step = match &todo[at..end] {
                b"" | b"." => Step::Entered,
                b".." => {
                    way.up()?;
                    self.ascend(self.here().depth.saturating_sub(1), site)?;
                    Step::Entered
                }
                component => self.step(component, site)?,
            };
            at = end + 1;
            if let Step::Link(mut target) = step {
                way.link()?;
                if target.starts_with(b"/") {
                    self.ascend(0, site)?;
                }
                target.push(b'/');
                target.extend_from_slice(todo.get(at..).unwrap_or_default());
                (todo, at) = (Cow::Owned(target), 0);
            }
        }
        Ok(way.links > 0)
    }

    fn step(&mut self, name: &[u8], site: &mut Site<'_>) -> Attempt<Step> {
        match rustix::fs::openat(&self.here().fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => self.push_found(fd, name, site)?,
            Err(Errno::NOENT) => self.make_implied(name, site)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                match rustix::fs::readlinkat(&self.here().fd, name, Vec::new()) {
                    Ok(target) => return Ok(Step::Link(target.into_bytes())),
                    Err(Errno::INVAL) => self.make_implied(name, site)?,
                    Err(errno) => return Err(failed("reading a link on the way to")(errno)),
                }
            }
            Err(errno) => return Err(failed("opening the directory of")(errno)),
        }
        Ok(Step::Entered)
    }

    fn make_implied(&mut self, name: &[u8], site: &mut Site<'_>) -> Attempt {
        self.make(name, site)?;
        self.here_mut().pending = Some(Metadata::implied());
        if site.form != WhiteoutForm::Merged && !self.here().alone {
            site.applied.imply(&self.path);
        }
        Ok(())
    }

    /// Goes into the directory `name`, which is made if it is not there, in place of whatever else is there.
    pub(super) fn open_or_make(&mut self, name: &[u8], site: &mut Site<'_>) -> Attempt {
        // Most are new, so this asks last whether it is there.
        match self.mkdir(name) {
            Ok(()) => return self.enter_made(name, false, site),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("making the directory")(errno)),
        }
        match rustix::fs::openat(&self.here().fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => self.push_found(fd, name, site),
            Err(Errno::NOTDIR | Errno::LOOP) => self.make(name, site),
            Err(errno) => Err(failed("opening")(errno)),
        }
    }

    /// Makes the directory `name`, in place of whatever is there, and goes into it.
    fn make(&mut self, name: &[u8], site: &mut Site<'_>) -> Attempt {
        let mut made = self.mkdir(name);
        let over = made == Err(Errno::EXIST);
        if over {
            self.displace(name, site)?;
            made = self.mkdir(name);
        }
        made.map_err(failed("making the directory"))?;
        self.enter_made(name, over, site)
    }

    /// With mode 0700: nobody else looks in before it has its owner.
    fn mkdir(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.here().fd, name, Mode::RWXU)
    }

    /// Goes into a new directory, which is `over` something that was there, or alone.
    fn enter_made(&mut self, name: &[u8], over: bool, site: &mut Site<'_>) -> Attempt {
        let over = site.uncover(self.here(), name)? || over;
        let parent = self.here_mut();
        parent.changed = true;
        let inherits = parent.inherits;
        let fd = rustix::fs::openat(&parent.fd, name, DIRECTORY, Mode::empty())
            .map_err(failed("opening the directory just made for"))?;
        self.push(name, site, |place, depth, length| Ok(Frame::made(fd, place, depth, length, inherits)))?;
        if inherits {
            Target::Open(self.here().fd.as_fd()).drop_inherited_acl()?;
        }
        site.made_directory(self.here_mut(), over)
    }

    /// Removes whatever is called `name` here.
    pub(super) fn displace(&mut self, name: &[u8], site: &mut Site<'_>) -> Attempt {
        self.forget_alias();
        self.here_mut().changed = true;
        site.remove(self.here(), &self.path, name)
    }

    /// A link may be gone, and with it what led here.
    pub(super) fn forget_alias(&mut self) {
        self.alias = None;
    }

    fn push_found(&mut self, fd: OwnedFd, name: &[u8], site: &mut Site<'_>) -> Attempt {
        self.push(name, site, |place, depth, length| {
            Frame::found(fd, place, depth, length).map_err(failed("looking at the directory of"))
        })?;
        site.found_directory(self.here().place);
        Ok(())
    }

    fn push(
        &mut self,
        name: &[u8],
        site: &mut Site<'_>,
        frame: impl FnOnce(Place, usize, usize) -> Attempt<Frame>,
    ) -> Attempt {
        self.alias = None;
        if site.form == WhiteoutForm::Aufs && name.starts_with(WHITEOUT) {
            return refuse("an AUFS branch cannot hold a directory whose name starts with '.wh.'");
        }
        if self.here().depth == DEPTH_LIMIT {
            return refuse(format!("it lies more than {DEPTH_LIMIT} directories deep"));
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let here = self.here();
        let place = site.places.child(here.place, name);
        let alone = here.alone || site.is_opaque(place);
        let mut frame = frame(place, here.depth + 1, self.path.len())?;
        frame.alone = alone;
        if self.frames.len() == OPEN_LIMIT {
            self.pop(site)?;
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Goes up until the path has `depth` components.
    pub(super) fn ascend(&mut self, depth: usize, site: &mut Site<'_>) -> Attempt {
        if self.here().depth == depth {
            return Ok(());
        }
        self.alias = None;
        while self.here().depth > depth {
            self.pop(site)?;
        }
        let reached = self.here().length;
        let mut beyond = self.path.split_off(reached);
        let missing = depth - self.here().depth;
        if missing > 0 {
            let length = beyond.iter().enumerate().filter(|&(_, &byte)| byte == b'/').nth(missing);
            beyond.truncate(length.map_or(beyond.len(), |(at, _)| at));
            // Directories that were open a moment ago, so there is no link among them.
            self.descend(&beyond, site)?;
        }
        Ok(())
    }

    fn pop(&mut self, site: &mut Site<'_>) -> Attempt {
        if let Some(frame) = self.frames.pop() {
            let path = &self.path[..frame.length.min(self.path.len())];
            frame.leave(path, site).map_err(|fault| Fault::Said(fault.of(path)))?;
        }
        Ok(())
    }

    /// Leaves every directory, the root last.
    pub(super) fn finish(mut self, site: &mut Site<'_>) -> Attempt {
        while !self.frames.is_empty() {
            self.pop(site)?;
        }
        Ok(())
    }
}

/// The whole components that two clean paths begin with alike: how many, and how long they are.
fn shared(a: &[u8], b: &[u8]) -> (usize, usize) {
    let (mut depth, mut length) = (0, 0);
    for (x, y) in a.split(|&byte| byte == b'/').zip(b.split(|&byte| byte == b'/')) {
        if x != y || x.is_empty() {
            break;
        }
        length += x.len() + usize::from(depth > 0);
        depth += 1;
    }
    (depth, length)
}

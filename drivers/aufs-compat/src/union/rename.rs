//! Renaming.
//!
//! A file that was below, or has something below, is given its new name before it loses the old one: whatever happens in
//! between, it has a name. A directory is exchanged with an empty one, for the same reason.
//!
//! A directory can be renamed if nothing of it is on a lower branch, for it would stay there: else the answer is `EXDEV`, and
//! who asked copies it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, RwLockWriteGuard};

use rustix::fs::{self, AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use super::name;
use super::names::{Directory, Entry, Top};
use super::node::Node;
use super::reach::{TRIES, open_directory};
use super::{Result, Union, lock};

/// One of the two names of a rename.
#[derive(Clone, Copy)]
struct Side<'a> {
    parent: &'a Arc<Node>,
    name: &'a [u8],
}

/// What there is of one of the names, its directory being locked.
struct End<'a> {
    side: Side<'a>,
    upper: Arc<OwnedFd>,
    entry: Entry,
    node: Option<Arc<Node>>,
}

impl End<'_> {
    fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    /// Whether something below is or would be shown, so that a directory must not be seen through.
    fn over_something(&self) -> bool {
        self.entry.covers || self.entry.whiteout
    }

    fn is_shown_above(&self) -> bool {
        self.entry.top.as_ref().is_some_and(|top| top.branch == 0)
    }
}

/// The directories that are changed, locked.
struct Locked<'a> {
    from: RwLockWriteGuard<'a, Directory>,
    /// None where it is the same.
    to: Option<RwLockWriteGuard<'a, Directory>>,
}

impl Locked<'_> {
    fn to(&mut self) -> &mut Directory {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
}

impl Union {
    /// Renames as `renameat2(2)` does: replaces what has the new name, unless `RENAME_NOREPLACE` is given, or exchanges both.
    /// `RENAME_WHITEOUT` is refused with `EINVAL`.
    pub fn rename_entry(
        &self,
        from: &Arc<Node>,
        name: &[u8],
        to: &Arc<Node>,
        new_name: &[u8],
        flags: u32,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags == RenameFlags::EXCHANGE;
        if !exchange && !(flags - RenameFlags::NOREPLACE).is_empty() {
            return Err(Errno::INVAL);
        }
        name::check(name)?;
        name::check(new_name)?;
        let (from, to) = (Side { parent: from, name }, Side { parent: to, name: new_name });
        for _ in 0..TRIES {
            let source = self.prepare(from)?.ok_or(Errno::NOENT)?;
            let target = match exchange {
                true => self.prepare(to)?,
                false => self.peek(to)?,
            };
            self.check(&source, target.as_deref(), exchange, flags.contains(RenameFlags::NOREPLACE), to)?;
            self.copy_up_directory(from.parent)?;
            self.copy_up_directory(to.parent)?;
            match self.move_locked(from, to, &source, target.as_ref(), exchange) {
                // It is something else meanwhile.
                Err(Errno::AGAIN) => {}
                done => return done,
            }
        }
        Err(Errno::BUSY)
    }

    /// What has this name, if anything.
    fn peek(&self, side: Side<'_>) -> Result<Option<Arc<Node>>> {
        let directory = self.names_of(side.parent)?;
        let Some(top) = directory.names()?.top(side.name)? else { return Ok(None) };
        Ok(Some(self.enter(side.parent, side.name, top, self.number_of(top)?, top.inode)))
    }

    /// The same, after it was copied up so that it can be renamed.
    fn prepare(&self, side: Side<'_>) -> Result<Option<Arc<Node>>> {
        let Some(node) = self.peek(side)? else { return Ok(None) };
        if node.is_directory() {
            let directory = self.names_of(&node)?;
            self.is_all_above(&directory)?;
            drop(directory);
            self.copy_up_directory(&node)?;
        } else {
            self.copy_up(&node, u64::MAX)?;
            self.make_name(side.parent, side.name, node.number)?;
        }
        Ok(Some(node))
    }

    /// `EXDEV` where something in a directory is on a lower branch.
    fn is_all_above(&self, directory: &Directory) -> Result<()> {
        let above = |top: &Top| self.is_writable(top.branch) && top.more.is_empty();
        match directory.names()?.shown().all(|(_, top)| above(top)) {
            true => Ok(()),
            false => Err(Errno::XDEV),
        }
    }

    fn check(
        &self,
        source: &Arc<Node>,
        target: Option<&Node>,
        exchange: bool,
        keep: bool,
        to: Side<'_>,
    ) -> Result<()> {
        match target {
            Some(_) if keep => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            Some(target) if !exchange => match (source.is_directory(), target.is_directory()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ => {}
            },
            _ => {}
        }
        if source.is_above(to.parent) { Err(Errno::INVAL) } else { Ok(()) }
    }

    fn move_locked(
        &self,
        from: Side<'_>,
        to: Side<'_>,
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
        exchange: bool,
    ) -> Result<()> {
        let same = Arc::ptr_eq(from.parent, to.parent);
        let directories = source.is_directory() || target.is_some_and(|target| target.is_directory());
        let _moving = (!same || directories).then(|| lock(&self.moving));
        if source.is_above(to.parent) {
            return Err(Errno::INVAL);
        }
        if target.is_some_and(|target| target.is_above(from.parent)) {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        let mut locked = self.lock_both(from.parent, to.parent)?;
        let source = self.found_at(from, &locked.from, Some(source))?;
        let target = self.found_at(to, locked.to(), target)?;
        if !source.is_shown_above() || (exchange && !target.is_shown_above()) {
            return Err(Errno::AGAIN);
        }
        if source.node.as_ref().map(|node| node.number) == target.node.as_ref().map(|node| node.number) {
            return Ok(());
        }
        let moved = match (exchange, source.node.as_ref().is_some_and(|node| node.is_directory())) {
            (true, _) => self.exchange(&mut locked, &source, &target),
            (false, false) => self.move_file(&mut locked, &source, &target),
            (false, true) => self.move_directory(&mut locked, &source, &target),
        };
        if moved.is_err() {
            // It may have been done by half. What there is now is read again.
            locked.from.set_names(None);
            locked.to().set_names(None);
        }
        moved
    }

    /// Locks a directory before what is below it.
    fn lock_both<'a>(&self, from: &'a Arc<Node>, to: &'a Arc<Node>) -> Result<Locked<'a>> {
        if Arc::ptr_eq(from, to) {
            return Ok(Locked { from: self.change_names(from)?, to: None });
        }
        if to.is_above(from) {
            let to = self.change_names(to)?;
            return Ok(Locked { from: self.change_names(from)?, to: Some(to) });
        }
        let from = self.change_names(from)?;
        Ok(Locked { from, to: Some(self.change_names(to)?) })
    }

    /// `EAGAIN` where what has the name is not what is expected.
    fn found_at<'a>(
        &self,
        side: Side<'a>,
        directory: &Directory,
        node: Option<&Arc<Node>>,
    ) -> Result<End<'a>> {
        let entry = directory.names()?.get(side.name)?.clone();
        let number = entry.top.as_ref().map(|top| self.number_of(top)).transpose()?;
        if number != node.map(|node| node.number) {
            return Err(Errno::AGAIN);
        }
        let upper = self.directory(side.parent, 0)?;
        if entry.shadowed && entry.top.is_none() {
            mica_tree::remove(upper.as_fd(), side.name).map_err(|error| super::start::cause(&error))?;
        }
        Ok(End { side, upper, entry, node: node.cloned() })
    }

    fn move_file(&self, locked: &mut Locked<'_>, source: &End<'_>, target: &End<'_>) -> Result<()> {
        let pinned = self.pin_target(target)?;
        let last = self.loses_last_name(target)?;
        let plain = !source.entry.covers && !target.entry.whiteout;
        let linked = !plain && self.link_over(source, target)?;
        if target.entry.whiteout
            && !linked
            && let Err(errno) = self.whiteouts()?.uncover(target.upper(), target.side.name)
        {
            return Err(errno);
        }
        if !linked {
            fs::renameat(source.upper(), source.side.name, target.upper(), target.side.name)?;
        }
        // It has its new name now: what fails from here on leaves the old one besides.
        let hidden = match source.entry.covers {
            true => self.whiteouts()?.hide(source.upper(), source.side.name),
            false => Ok(()),
        };
        if linked && hidden.is_ok() {
            fs::unlinkat(source.upper(), source.side.name, AtFlags::empty())?;
        }
        self.renamed(locked, source, target, pinned, last)?;
        hidden
    }

    /// Gives a file its new name without taking the old one. `false` where the file system gives it no more names.
    fn link_over(&self, source: &End<'_>, target: &End<'_>) -> Result<bool> {
        let link =
            |to: &[u8]| fs::linkat(source.upper(), source.side.name, target.upper(), to, AtFlags::empty());
        let linked = match target.is_shown_above() {
            true => self
                .whiteouts()?
                .aside(target.side.name, link)
                .and_then(|aside| fs::renameat(target.upper(), &*aside, target.upper(), target.side.name)),
            false => link(target.side.name),
        };
        match linked {
            Ok(()) => {}
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        if target.entry.whiteout
            && let Err(errno) = self.whiteouts()?.uncover(target.upper(), target.side.name)
        {
            let _hidden = fs::unlinkat(target.upper(), target.side.name, AtFlags::empty());
            return Err(errno);
        }
        Ok(true)
    }

    fn move_directory(&self, locked: &mut Locked<'_>, source: &End<'_>, target: &End<'_>) -> Result<()> {
        let node = source.node.as_ref().ok_or(Errno::AGAIN)?;
        let mut inner = self.change_names(node)?;
        self.is_all_above(&inner)?;
        let mut replaced = match &target.node {
            Some(node) => Some(self.change_names(node)?),
            None => None,
        };
        if let Some(replaced) = &replaced
            && replaced.names()?.shown().next().is_some()
        {
            return Err(Errno::NOTEMPTY);
        }
        let pinned = match &target.node {
            Some(node) => Some(self.pin_freely(node)?),
            None => None,
        };
        let plain = !source.entry.covers && !target.over_something();
        let moved = match plain {
            true => fs::renameat(source.upper(), source.side.name, target.upper(), target.side.name),
            false => Err(Errno::NOTEMPTY),
        };
        match moved {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.exchange_with_empty(source, target)?,
            Err(errno) => return Err(errno),
        }
        inner.branches = [0].into();
        inner.set_names(None);
        if let (Some(replaced), Some(node)) = (&mut replaced, &target.node) {
            replaced.removed = true;
            replaced.set_names(None);
            self.drop_directory(node, &replaced.branches);
        }
        let last = target.is_shown_above();
        self.renamed(locked, source, target, pinned, last)
    }

    /// Moves a directory where something is below, or where one is that is not empty on its branch: an empty one, through which
    /// nothing is seen, is put there, both are exchanged, and it is deleted.
    fn exchange_with_empty(&self, source: &End<'_>, target: &End<'_>) -> Result<()> {
        let whiteouts = self.whiteouts()?;
        if target.over_something() {
            whiteouts.make_opaque(open_directory(source.upper(), source.side.name)?.as_fd())?;
        }
        let (to, name) = (target.upper(), target.side.name);
        let empty = whiteouts.aside(name, |aside| fs::mkdirat(to, aside, Mode::RWXU))?;
        let place = || {
            whiteouts.make_opaque(open_directory(to, &empty)?.as_fd())?;
            match target.is_shown_above() {
                true => fs::renameat_with(to, &*empty, to, name, RenameFlags::EXCHANGE),
                false => fs::renameat(to, &*empty, to, name),
            }
        };
        let placed = place();
        if !matches!(placed, Ok(())) || target.is_shown_above() {
            // What stays is deleted with the directory that it is in.
            let _stays = mica_tree::remove(to, &empty);
        }
        placed?;
        if target.entry.whiteout {
            whiteouts.uncover(to, name)?;
        }
        let from = source.upper();
        fs::renameat_with(from, source.side.name, to, name, RenameFlags::EXCHANGE)?;
        if source.entry.covers {
            whiteouts.hide(from, source.side.name)?;
        }
        let aside = whiteouts.aside(source.side.name, |aside| {
            fs::renameat_with(from, source.side.name, from, aside, RenameFlags::NOREPLACE)
        })?;
        let _stays = mica_tree::remove(from, &aside);
        Ok(())
    }

    fn exchange(&self, locked: &mut Locked<'_>, one: &End<'_>, other: &End<'_>) -> Result<()> {
        let mut inner = Vec::new();
        for (end, onto) in [(one, other), (other, one)] {
            let Some(node) = end.node.as_ref().filter(|node| node.is_directory()) else { continue };
            let directory = self.change_names(node)?;
            self.is_all_above(&directory)?;
            if onto.over_something() {
                self.whiteouts()?.make_opaque(open_directory(end.upper(), end.side.name)?.as_fd())?;
            }
            inner.push(directory);
        }
        let names = (one.side.name, other.side.name);
        fs::renameat_with(one.upper(), names.0, other.upper(), names.1, RenameFlags::EXCHANGE)?;
        for directory in &mut inner {
            directory.branches = [0].into();
            directory.set_names(None);
        }
        let place = |entry: &Entry, top: &Option<Top>| Entry {
            top: top.as_ref().map(|top| Top::new(top.kind, top.branch, top.inode)),
            ..entry.clone()
        };
        locked.from.names_mut()?.set(names.0, place(&one.entry, &other.entry.top));
        locked.to().names_mut()?.set(names.1, place(&other.entry, &one.entry.top));
        rename_node(one.node.as_deref(), one.side, other.side);
        rename_node(other.node.as_deref(), other.side, one.side);
        Ok(())
    }

    /// Takes note that the source has the name of the target, which is gone.
    fn renamed(
        &self,
        locked: &mut Locked<'_>,
        source: &End<'_>,
        target: &End<'_>,
        pinned: Option<Arc<OwnedFd>>,
        last: bool,
    ) -> Result<()> {
        if let Some(top) = target.entry.top.as_ref().filter(|_| last) {
            self.gone(top);
        }
        if let Some(node) = &target.node {
            node.place().remove(target.side.parent, target.side.name, pinned);
        }
        rename_node(source.node.as_deref(), source.side, target.side);
        let top = source.entry.top.as_ref().map(|top| Top::new(top.kind, top.branch, top.inode));
        let entry = Entry { top, covers: target.entry.covers, ..Entry::NOTHING };
        locked.to().names_mut()?.set(target.side.name, entry);
        let covers = source.entry.covers;
        let entry = Entry { whiteout: covers, covers, ..Entry::NOTHING };
        locked.from.names_mut()?.set(source.side.name, entry);
        self.lower_name_gone(target)
    }

    /// A name below of a file with several is hidden now.
    fn lower_name_gone(&self, target: &End<'_>) -> Result<()> {
        let Some(top) = target.entry.top.as_ref().filter(|top| top.branch != 0 && !top.is_directory()) else {
            return Ok(());
        };
        let directory = self.directory(target.side.parent, top.branch)?;
        match super::reach::stat_at(directory.as_fd(), target.side.name)?.stx_nlink {
            0 | 1 => {}
            _ => self.pseudo_links()?.lost(self.number_of(top)?),
        }
        Ok(())
    }

    fn pin_target(&self, target: &End<'_>) -> Result<Option<Arc<OwnedFd>>> {
        let Some(node) = &target.node else { return Ok(None) };
        let last = {
            let place = node.place();
            place.pinned.is_none() && place.is_only(target.side.parent, target.side.name)
        };
        if last { self.pin_freely(node).map(Some) } else { Ok(None) }
    }

    fn loses_last_name(&self, target: &End<'_>) -> Result<bool> {
        let Some(top) = target.entry.top.as_ref() else { return Ok(false) };
        let kept = top.branch == 0 && self.numbers.is_kept(self.branch(0)?.device, top.inode);
        let stat = |()| super::reach::stat_at(target.upper(), target.side.name);
        Ok(kept && stat(())?.stx_nlink == 1)
    }
}

fn rename_node(node: Option<&Node>, from: Side<'_>, to: Side<'_>) {
    if let Some(node) = node {
        let mut place = node.place();
        // The new one first, so that there is always one.
        if node.is_directory() {
            place.names.clear();
        }
        place.add(to.parent, to.name);
        place.remove(from.parent, from.name, None);
    }
}

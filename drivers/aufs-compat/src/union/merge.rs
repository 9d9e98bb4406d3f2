//! Which of the entries of several branches is shown.

use std::collections::{HashMap, HashSet};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Result;
use super::name::{OPAQUE, WHITEOUT, is_own};
use super::names::{Entry, Top};

/// Something in a directory of one branch.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Box<[u8]>,
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
}

/// The entries of a directory, as one branch after the other is added, the topmost first.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    names: HashMap<Box<[u8]>, State>,
}

#[derive(Debug, Default)]
struct State {
    entry: Entry,
    /// The branches below the first that a directory goes on in.
    more: Vec<u16>,
    /// What is below does not matter any more.
    stopped: bool,
}

/// What the branch is that is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) branch: u16,
    /// Its whiteouts can be removed, so they are remembered.
    pub(crate) writable: bool,
    /// It has whiteouts. Else names that look like them are not shown, and mean nothing.
    pub(crate) whiteouts: bool,
}

impl Merge {
    /// Adds what the directory holds on the next branch. Says whether it is opaque there: then that was the last. Fails with
    /// `EIO` where what says so is no regular file.
    pub(crate) fn add(&mut self, source: Source, found: Vec<Found>) -> Result<bool> {
        let mut opaque = false;
        let mut hidden: HashSet<Box<[u8]>> = HashSet::new();
        let mut shown = Vec::with_capacity(found.len());
        for found in found {
            if !found.name.starts_with(WHITEOUT) {
                shown.push(found);
            } else if source.whiteouts && *found.name == *OPAQUE {
                if found.kind != FileType::RegularFile {
                    return Err(Errno::IO);
                }
                opaque = true;
            } else if source.whiteouts && !is_own(&found.name) {
                let name: Box<[u8]> = found.name[WHITEOUT.len()..].into();
                self.hide(source, &name, found.kind);
                hidden.insert(name);
            }
        }
        for found in shown {
            if !hidden.contains(&found.name) {
                self.show(source, found);
            } else if let Some(state) = self.names.get_mut(&found.name).filter(|_| source.writable) {
                state.entry.shadowed = true;
            }
        }
        for name in hidden {
            if let Some(state) = self.names.get_mut(&name) {
                // What the writable branch hides is looked for all the same, to know whether it has to stay hidden.
                state.stopped |= !source.writable || state.entry.broken;
            }
        }
        Ok(opaque)
    }

    fn hide(&mut self, source: Source, name: &[u8], kind: FileType) {
        let state = self.names.entry(name.into()).or_default();
        if state.stopped {
            return;
        }
        if kind != FileType::RegularFile {
            // Something above that is shown, or that hides it, was met first.
            state.entry.broken = state.entry.top.is_none() && !state.entry.whiteout;
        } else if source.writable {
            state.entry.whiteout = true;
        }
    }

    fn show(&mut self, source: Source, found: Found) {
        let Found { name, kind, inode } = found;
        let state = self.names.entry(name).or_default();
        if state.stopped {
            return;
        }
        let directory = kind == FileType::Directory;
        match &mut state.entry.top {
            None if state.entry.whiteout => {
                state.entry.covers = true;
                state.stopped = true;
            }
            None => {
                state.entry.top = Some(Top::new(kind, source.branch, inode));
                state.entry.covers = !source.writable;
                // What is under a file of the writable branch is looked for once more, for the same reason.
                state.stopped = !directory && !source.writable;
            }
            Some(top) => {
                state.entry.covers = true;
                if top.is_directory() && directory {
                    state.more.push(source.branch);
                } else {
                    state.stopped = true;
                }
            }
        }
    }

    /// What all that was added comes to.
    pub(crate) fn finish(self) -> HashMap<Box<[u8]>, Entry> {
        let entry = |State { mut entry, more, .. }: State| {
            if let Some(top) = &mut entry.top {
                top.more = more.into();
            }
            entry
        };
        self.names.into_iter().map(|(name, state)| (name, entry(state))).collect()
    }
}

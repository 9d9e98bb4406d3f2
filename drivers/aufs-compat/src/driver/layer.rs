//! What there is of one layer, as Docker's AUFS driver had it: `diff/ID` and `layers/ID`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mica_core::{Error, LayerId, Result};

/// The mode of a detached layer's root until the tarball sets one: one that no tarball has.
const UNSET: u32 = 0o3700;

/// What a layer is. The mode of `layers/ID` says it: what is readable there can be mounted whole, what is writable there can
/// be filled. So one rename makes a layer what it is from then on, and its parents known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Writable,
    Detached,
    Committed,
}

impl State {
    fn mode(self) -> u32 {
        match self {
            Self::Writable => 0o644,
            Self::Detached => 0o200,
            Self::Committed => 0o444,
        }
    }

    fn of(mode: u32) -> Self {
        match (mode & 0o400 != 0, mode & 0o200 != 0) {
            (_, false) => Self::Committed,
            (true, true) => Self::Writable,
            (false, true) => Self::Detached,
        }
    }
}

/// One layer in the driver's root.
#[derive(Debug)]
pub(super) struct Layer {
    id: LayerId,
    diff: PathBuf,
    record: PathBuf,
}

impl Layer {
    /// Names a layer that the caller knows to be there.
    pub(super) fn at(root: &Path, id: &LayerId) -> Self {
        let place = |part| root.join(part).join(id.as_str());
        Self { id: id.clone(), diff: place("diff"), record: place("layers") }
    }

    pub(super) fn open(root: &Path, id: &LayerId) -> Result<Self> {
        let layer = Self::at(root, id);
        if layer.diff.is_dir() { Ok(layer) } else { Err(Error::no_layer(id)) }
    }

    /// The branch.
    pub(super) fn diff(&self) -> &Path {
        &self.diff
    }

    pub(super) fn open_diff(&self) -> Result<File> {
        File::open(&self.diff).map_err(self.failed("open"))
    }

    pub(super) fn state(&self) -> Result<State> {
        match fs::symlink_metadata(&self.record) {
            Ok(record) => Ok(State::of(record.mode())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Corrupt {
                what: format!("layer '{}'", self.id),
                reason: format!("'{}' is not there; remove the layer", self.record.display()),
            }),
            Err(e) => Err(self.failed("look at")(e)),
        }
    }

    /// The layer, if it is committed.
    pub(super) fn frozen(self) -> Result<Self> {
        if self.state()? == State::Committed { Ok(self) } else { Err(Error::writable(&self.id)) }
    }

    /// The layer, if it is not committed.
    pub(super) fn writable(self) -> Result<Self> {
        if self.state()? == State::Committed { Err(Error::committed(&self.id)) } else { Ok(self) }
    }

    /// The layer, if it knows its parents.
    pub(super) fn attached(self) -> Result<Self> {
        if self.state()? == State::Detached { Err(Error::detached(&self.id)) } else { Ok(self) }
    }

    /// Says what the layer is and what it stands on, in one step, by a file that is made at `new`.
    pub(super) fn record(&self, new: &Path, parents: &[LayerId], state: State) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(parents.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(state.mode()))?;
        fs::rename(new, &self.record)
    }

    /// Forgets what was recorded of a layer that is gone.
    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.record) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Gives `root`, the root of this layer, mode, owner, times and extended attributes of this layer's.
    pub(super) fn bequeath(&self, root: &Path) -> io::Result<()> {
        let (from, to) = (File::open(&self.diff)?, File::open(root)?);
        mica_tree::copy_attributes(from.as_fd(), to.as_fd()).map_err(io::Error::from)
    }

    /// Whether the tarball of a detached layer has not said what its root is like.
    pub(super) fn root_is_unset(&self) -> Result<bool> {
        let root = fs::metadata(&self.diff).map_err(self.failed("look at"))?;
        Ok(root.mode() & 0o7777 == UNSET)
    }

    pub(super) fn failed(&self, doing: &str) -> impl FnOnce(io::Error) -> Error {
        let text = format!("{doing} layer '{}'", self.id);
        Error::io(move || text)
    }
}

/// Makes a new directory the root of a layer without a parent, or of one whose parents are not known.
pub(super) fn make_root(dir: &Path, detached: bool) -> io::Result<()> {
    set_mode(dir, if detached { UNSET } else { 0o755 })
}

pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_known_by_its_mode_also_as_docker_wrote_it() {
        for state in [State::Writable, State::Detached, State::Committed] {
            assert_eq!(State::of(state.mode()), state);
        }
        // With a umask of 077.
        assert_eq!(State::of(0o600), State::Writable);
    }
}

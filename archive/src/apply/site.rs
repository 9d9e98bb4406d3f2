//! The rules of this run, and what it has done so far.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use mica_core::WhiteoutForm;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::fault::{Attempt, Fault, failed};
use super::frame::Frame;
use super::metadata::{Creator, XattrRules};
use super::name::{OPAQUE, WHITEOUT, join};
use super::remove;
use super::seen::{Place, PlaceSet, Places};
use super::{Applied, Displaced};

pub(super) struct Site<'a> {
    pub(super) form: WhiteoutForm,
    pub(super) rules: XattrRules,
    pub(super) creator: Creator,
    pub(super) places: Places,
    pub(super) applied: Applied,
    displaced: Option<Displaced<'a>>,
    /// What this run made or went through; kept in a merged tree only, where it says what an opaque directory
    /// keeps. In the other forms everything is of this run.
    made: PlaceSet,
    /// Those that were there and that the archive has not listed: their metadata are older than this run.
    passed: PlaceSet,
    /// Directories below which nothing of the layers below is visible.
    opaque: PlaceSet,
    /// Names that `.wh.` files of this run hide.
    hidden: PlaceSet,
}

impl fmt::Debug for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("form", &self.form)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl<'a> Site<'a> {
    pub(super) fn new(form: WhiteoutForm, rules: XattrRules, displaced: Option<Displaced<'a>>) -> Self {
        Self {
            form,
            rules,
            creator: Creator::current(),
            places: Places::default(),
            applied: Applied::default(),
            displaced,
            made: PlaceSet::default(),
            passed: PlaceSet::default(),
            opaque: PlaceSet::default(),
            hidden: PlaceSet::default(),
        }
    }

    /// Notes that members lie in this directory, which was there.
    pub(super) fn found_directory(&mut self, place: Place) {
        if self.form == WhiteoutForm::Merged && self.made.insert(place) {
            self.passed.insert(place);
        }
    }

    /// Notes that the archive lists this directory.
    pub(super) fn list_directory(&mut self, directory: &Frame, path: &[u8]) {
        self.passed.remove(&directory.place);
        self.applied.implied.remove(path);
    }

    /// Whether the archive has not listed this directory, which is older than this run.
    pub(super) fn only_passed(&self, place: Place) -> bool {
        self.passed.contains(&place)
    }

    /// Notes something that was created: in the directory `parent`, under `name`.
    pub(super) fn note_created(&mut self, parent: &Frame, name: &[u8]) {
        self.applied.inodes += 1;
        if self.form == WhiteoutForm::Merged {
            self.made.insert(self.places.child(parent.place, name));
        }
    }

    /// A directory was made, `over` something else that hid what the layers below have there.
    pub(super) fn made_directory(&mut self, directory: &mut Frame, over: bool) -> Attempt {
        self.applied.inodes += 1;
        match self.form {
            WhiteoutForm::Merged => {
                self.made.insert(directory.place);
                self.opaque.insert(directory.place);
                directory.alone = true;
                Ok(())
            }
            // Without this, what is below would show through again. It may have been noted as opaque before, then
            // removed, and its mark with it.
            _ if over => self.set_mark(directory),
            _ => Ok(()),
        }
    }

    /// Removes `name` from `parent`, which lies at `path`, whatever it is.
    pub(super) fn remove(&mut self, parent: &Frame, path: &[u8], name: &[u8]) -> Attempt {
        self.applied.forget(&join(path, name));
        let dir = parent.fd.as_fd();
        let Some(displaced) = &mut self.displaced else {
            return remove::tree(dir, name, None);
        };
        let all_is_ours = self.form != WhiteoutForm::Merged;
        let (made, places, start) = (&self.made, &self.places, parent.place);
        let mut tell = |file: &[u8]| {
            if all_is_ours || made.contains(&places.below(start, file)) {
                displaced(&join(path, file)).map_err(Fault::Said)?;
            }
            Ok(())
        };
        remove::tree(dir, name, Some(&mut tell))
    }

    /// Takes away the whiteout of `name` that stands beside it, in the form that has such. Says whether there
    /// was one.
    pub(super) fn uncover(&mut self, parent: &Frame, name: &[u8]) -> Attempt<bool> {
        if self.hidden.is_empty() || !self.hidden.remove(&self.places.child(parent.place, name)) {
            return Ok(false);
        }
        match rustix::fs::unlinkat(&parent.fd, [WHITEOUT, name].concat(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            // It went with a directory that is another one now.
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("removing the whiteout of")(errno)),
        }
    }

    /// Hides what the layers below call `name`, after the tree's own was removed.
    pub(super) fn hide(&mut self, parent: &Frame, path: &[u8], name: &[u8]) -> Attempt {
        match self.form {
            WhiteoutForm::Merged => return Ok(()),
            // Overlayfs lists a directory that has nothing below it as it is, whiteouts included.
            WhiteoutForm::Overlay { .. } if parent.alone => return Ok(()),
            WhiteoutForm::Overlay { .. } => {
                self.applied.hide_in(path);
                let mode = Mode::empty();
                rustix::fs::mknodat(&parent.fd, name, FileType::CharacterDevice, mode, 0)
                    .map_err(failed("making the whiteout of"))?;
            }
            WhiteoutForm::Aufs => {
                if !self.hidden.insert(self.places.child(parent.place, name)) {
                    return Ok(());
                }
                marker(parent.fd.as_fd(), &[WHITEOUT, name].concat())?;
            }
        }
        self.applied.inodes += 1;
        Ok(())
    }

    /// Hides all that the layers below have in this directory, once however often it is asked: a long list of
    /// the same marker must not cost its square (CVE-2026-95838).
    pub(super) fn mark_opaque(&mut self, directory: &mut Frame) -> Attempt {
        if self.opaque.contains(&directory.place) {
            return Ok(());
        }
        self.set_mark(directory)
    }

    fn set_mark(&mut self, directory: &mut Frame) -> Attempt {
        directory.alone = true;
        self.opaque.insert(directory.place);
        if directory.depth == 0 {
            self.applied.opaque_root = true;
        }
        match self.form {
            WhiteoutForm::Merged => Ok(()),
            WhiteoutForm::Overlay { user_xattr } => {
                let name = if user_xattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
                rustix::fs::fsetxattr(&directory.fd, name, b"y", XattrFlags::empty())
                    .map_err(failed("making opaque the directory of"))
            }
            WhiteoutForm::Aufs => {
                self.applied.inodes += 1;
                marker(directory.fd.as_fd(), OPAQUE)
            }
        }
    }

    /// Whether this, which is neither directory nor link, hides what the layers below have in its place: the clean path
    /// that leads there.
    pub(super) fn hides(&self, stat: &Stat, path: &[u8]) -> bool {
        match self.form {
            WhiteoutForm::Merged => self.made.contains(&self.places.below(Place::ROOT, path)),
            WhiteoutForm::Overlay { .. } => !is_whiteout(stat),
            WhiteoutForm::Aufs => true,
        }
    }

    /// Whether the tree has character devices 0:0 for whiteouts.
    pub(super) fn hides_by_device(&self) -> bool {
        matches!(self.form, WhiteoutForm::Overlay { .. })
    }

    /// Whether nothing of the layers below is left below a directory.
    pub(super) fn is_opaque(&self, place: Place) -> bool {
        self.opaque.contains(&place)
    }

    /// Whether a directory that becomes opaque may hold something that has to go then: in a merged tree what is
    /// older than this run, in overlay form whiteouts, which overlayfs would list as they are.
    pub(super) fn may_hold_stale(&self) -> bool {
        match self.form {
            WhiteoutForm::Merged => true,
            WhiteoutForm::Overlay { .. } => !self.applied.hiding.is_empty(),
            WhiteoutForm::Aufs => false,
        }
    }

    /// Whether this is such a thing: `name` in `dir`.
    pub(super) fn is_stale(&self, dir: BorrowedFd<'_>, name: &[u8], place: Place) -> Result<bool, Errno> {
        match self.form {
            WhiteoutForm::Merged => Ok(!self.made.contains(&place)),
            WhiteoutForm::Overlay { .. } => {
                Ok(is_whiteout(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
            }
            WhiteoutForm::Aufs => Ok(false),
        }
    }

    /// Notes that nothing of the layers below is left in a directory, nor its metadata.
    pub(super) fn cleared(&mut self, place: Place) {
        self.passed.remove(&place);
        self.opaque.insert(place);
    }
}

fn marker(dir: BorrowedFd<'_>, name: &[u8]) -> Attempt {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o444)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed("making the whiteout of")(errno)),
    }
}

/// Whether overlayfs takes this for a whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

//! Whether files and directories are as they were when they were last read.
//!
//! A watch would say so too, but each needs one of the few instances of inotify that all containers share
//! (`fs.inotify.max_user_instances` is 128), and keeps telling of changes nobody asks about.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The kernel's clock for files stands still for as long as a tick, 10 ms at the most. A change in the tick of the one before
/// it leaves the same time.
const TICK: Duration = Duration::from_millis(20);

/// What paths were like just before they were read. The default is like nothing.
#[derive(Debug, Default)]
pub(super) struct Seen {
    stamps: Vec<(Option<Stamp>, PathBuf)>,
    /// None of them had changed a moment before.
    is_settled: bool,
}

/// What tells one state of a file from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    changed: SystemTime,
}

impl Seen {
    /// Looks at paths that are about to be read.
    pub(super) fn look(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let now = SystemTime::now();
        // A clock that was set back since gives the next change another time in any case.
        let is_apart = |changed: SystemTime| changed + TICK < now || now + TICK < changed;
        let stamps: Vec<_> = paths.into_iter().map(|path| (stamp(&path), path)).collect();
        let is_settled = stamps.iter().all(|(stamp, _)| stamp.is_none_or(|file| is_apart(file.changed)));
        Self { stamps, is_settled }
    }

    /// Whether what was read then is still what is there.
    pub(super) fn is_current(&self) -> bool {
        self.is_settled && self.stamps.iter().all(|(then, path)| stamp(path) == *then)
    }
}

/// `None` of a file that is not there.
fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some(Stamp { inode: file.ino(), length: file.len(), changed: file.modified().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks again until the last change is long enough ago, as one query after the other does.
    fn settled(path: &Path) -> Seen {
        loop {
            let seen = Seen::look([path.to_owned()]);
            if seen.is_settled {
                return seen;
            }
        }
    }

    #[test]
    fn a_directory_is_current_until_a_file_of_it_is_replaced_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, aside) = (dir.path().join("a.json"), dir.path().join("a.new"));
        fs::write(&file, "1").unwrap();
        let seen = settled(dir.path());
        assert!(seen.is_current());
        fs::write(&aside, "2").unwrap();
        fs::rename(&aside, &file).unwrap();
        assert!(!seen.is_current());
        let seen = settled(dir.path());
        fs::remove_file(&file).unwrap();
        assert!(!seen.is_current());
    }

    #[test]
    fn what_changed_a_moment_ago_may_change_again_unseen() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        assert!(!Seen::look([dir.path().to_owned()]).is_current());
        assert!(!Seen::default().is_current());
    }

    #[test]
    fn a_clock_that_was_set_back_costs_no_reading_for_each_query() {
        let dir = tempfile::tempdir().unwrap();
        let later = SystemTime::now() + Duration::from_secs(3600);
        fs::File::open(dir.path()).unwrap().set_modified(later).unwrap();
        let seen = Seen::look([dir.path().to_owned()]);
        assert!(seen.is_current());
        fs::write(dir.path().join("a"), "").unwrap();
        assert!(!seen.is_current());
    }

    #[test]
    fn a_file_that_appears_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let seen = settled(&path);
        assert!(seen.is_current());
        fs::write(&path, "").unwrap();
        assert!(!seen.is_current());
    }
}

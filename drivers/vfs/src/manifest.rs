//! Which inode each path of a fresh copy got, and when that inode was last changed.
//!
//! A path is as the copy left it when it still leads, from unmoved directories, to the same inode, and that inode's
//! ctime is what it was: every change of content, metadata, links or name moves the ctime, and nothing can set it back
//! but the clock. A ctime that is not older than the record itself counts as changed, because the clock behind it is
//! coarse and a change could hide in the same tick.
//!
//! The file is a header and fixed records, all little-endian, and needs no sync: a damaged or missing one means that
//! everything may have changed, which costs time and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mica_tree::Visit;
use rustix::fs::Stat;

const MAGIC: &[u8; 8] = b"vfsman\x01\n";

/// A name in a directory: the directory's inode number and a hash of the name. The root is (0, 0).
type Place = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    ctime: i128,
}

/// What was at each place when the copy was new.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    places: HashMap<Place, State>,
    taken: i128,
}

impl Manifest {
    /// Writes the manifest of the directory `tree` to `path`, with those inodes that are `known` to equal the parent's.
    pub(crate) fn take(tree: &Path, path: &Path, known: impl Fn(u64) -> bool) -> io::Result<()> {
        let (mut records, mut newest) = (Vec::new(), i128::MIN);
        let mut record = |place: Place, state: State| {
            newest = newest.max(state.ctime);
            if known(state.inode) {
                for number in [place.0, place.1, state.inode] {
                    records.extend_from_slice(&number.to_le_bytes());
                }
                records.extend_from_slice(&state.ctime.to_le_bytes());
            }
        };
        let root = fs::metadata(tree)?;
        record((0, 0), State { inode: root.ino(), ctime: nanoseconds(root.ctime(), root.ctime_nsec()) });
        mica_tree::walk(File::open(tree)?.as_fd(), &mut |visit| {
            record(place(&visit), state(visit.stat));
            Ok(())
        })?;
        let mut file = File::create_new(path)?;
        let taken = later_than(newest, &file)?;
        file.write_all(MAGIC)?;
        file.write_all(&taken.to_le_bytes())?;
        file.write_all(&records)
    }

    /// Reads it; `None` where there is none that can be used.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(MAGIC)?;
        let (taken, bytes) = bytes.split_first_chunk()?;
        let (records, rest) = bytes.as_chunks::<40>();
        let number = |record: &[u8; 40], at: usize| {
            record[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or_default()
        };
        let places = records.iter().map(|record| {
            let ctime =
                record[24..].first_chunk().map(|bytes| i128::from_le_bytes(*bytes)).unwrap_or_default();
            ((number(record, 0), number(record, 8)), State { inode: number(record, 16), ctime })
        });
        rest.is_empty().then(|| Self { places: places.collect(), taken: i128::from_le_bytes(*taken) })
    }

    fn holds(&self, place: Place, now: State) -> bool {
        now.ctime < self.taken && self.places.get(&place) == Some(&now)
    }

    /// Visits everything in the tree, its root included, and tells whether it is as the manifest says.
    fn compare(&self, tree: &Path, told: &mut dyn FnMut(u64, u64, bool)) -> io::Result<()> {
        let dir = File::open(tree)?;
        let root = dir.metadata()?;
        let now = State { inode: root.ino(), ctime: nanoseconds(root.ctime(), root.ctime_nsec()) };
        told(root.ino(), root.blocks() * 512, self.holds((0, 0), now));
        let mut moved = HashSet::new();
        mica_tree::walk(dir.as_fd(), &mut |visit| {
            let (place, now) = (place(&visit), state(visit.stat));
            let in_place = !moved.contains(&visit.parent);
            if !in_place || self.places.get(&place).is_none_or(|then| then.inode != now.inode) {
                moved.insert(now.inode);
            }
            let bytes = visit.stat.st_blocks.cast_unsigned() * 512;
            told(now.inode, bytes, in_place && self.holds(place, now));
            Ok(())
        })?;
        Ok(())
    }
}

/// The inodes that may differ from the manifest; `None` where there is no manifest.
pub(crate) fn changed(tree: &Path, manifest: &Path) -> io::Result<Option<HashSet<u64>>> {
    let Some(manifest) = Manifest::read(manifest)? else {
        return Ok(None);
    };
    let mut found = HashSet::new();
    manifest.compare(tree, &mut |inode, _, same| {
        if !same {
            found.insert(inode);
        }
    })?;
    Ok(Some(found))
}

/// The inodes that are as the manifest says; none where there is no manifest.
pub(crate) fn unchanged(tree: &Path, manifest: &Path) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    let mut differing = HashSet::new();
    if let Some(manifest) = Manifest::read(manifest)? {
        manifest.compare(tree, &mut |inode, _, same| {
            let _ = if same { found.insert(inode) } else { differing.insert(inode) };
        })?;
    }
    found.retain(|inode| !differing.contains(inode));
    Ok(found)
}

/// The bytes of everything that may differ from the manifest.
pub(crate) fn changed_bytes(tree: &Path, manifest: &Path) -> io::Result<u64> {
    let manifest = Manifest::read(manifest)?.unwrap_or_default();
    let (mut total, mut seen) = (0, HashSet::new());
    manifest.compare(tree, &mut |inode, bytes, same| {
        if !same && seen.insert(inode) {
            total += bytes;
        }
    })?;
    Ok(total)
}

/// The time by the file system's own clock, after it has gone on from `newest`: a tick, which is 10 ms at the most (HZ=100),
/// or else that clock is too coarse to wait for, and what is as young as the record counts as changed.
fn later_than(newest: i128, file: &File) -> io::Result<i128> {
    let mut now = i128::MIN;
    for _ in 0..30 {
        file.set_modified(std::time::SystemTime::now())?;
        let stat = file.metadata()?;
        now = nanoseconds(stat.ctime(), stat.ctime_nsec());
        if now > newest {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(now)
}

fn place(visit: &Visit<'_>) -> Place {
    (visit.parent, hash(visit.name))
}

fn state(stat: &Stat) -> State {
    State { inode: stat.st_ino, ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec.cast_signed()) }
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

/// FNV-1a. A name that collides with another one of its directory gains nothing: the inode and its ctime must fit too.
fn hash(name: &[u8]) -> u64 {
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Copy {
        dir: tempfile::TempDir,
    }

    impl Copy {
        /// A tree with its manifest.
        fn taken() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            fs::create_dir_all(tree.join("a/b")).unwrap();
            for file in ["one", "a/two", "a/b/three"] {
                fs::write(tree.join(file), file).unwrap();
            }
            fs::hard_link(tree.join("one"), tree.join("a/b/linked")).unwrap();
            let copy = Self { dir };
            copy.wait_for_a_tick();
            Manifest::take(&tree, &copy.manifest(), |_| true).unwrap();
            copy
        }

        /// So that nothing is as young as the manifest: a busy virtual machine can lose its ticks for longer than
        /// [`later_than`] waits.
        fn wait_for_a_tick(&self) {
            let file = File::create_new(self.dir.path().join("clock")).unwrap();
            let made = file.metadata().unwrap();
            let made = nanoseconds(made.ctime(), made.ctime_nsec());
            let start = std::time::Instant::now();
            while later_than(made, &file).unwrap() <= made {
                assert!(start.elapsed().as_secs() < 60, "the clock of the file system stands still");
            }
        }

        fn tree(&self) -> std::path::PathBuf {
            self.dir.path().join("tree")
        }

        fn manifest(&self) -> std::path::PathBuf {
            self.dir.path().join("manifest")
        }

        fn inode(&self, path: &str) -> u64 {
            fs::symlink_metadata(self.tree().join(path)).unwrap().ino()
        }

        fn assert_changed(&self, paths: &[&str]) {
            let expected: HashSet<u64> = paths.iter().map(|path| self.inode(path)).collect();
            assert_eq!(changed(&self.tree(), &self.manifest()).unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn an_untouched_copy_has_no_changes() {
        Copy::taken().assert_changed(&[]);
    }

    #[test]
    fn content_metadata_and_names_are_noticed() {
        let copy = Copy::taken();
        fs::write(copy.tree().join("a/two"), "TWO").unwrap();
        copy.assert_changed(&["a/two"]);
        fs::set_permissions(copy.tree().join("a/b"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        copy.assert_changed(&["a/two", "a/b"]);
        fs::remove_file(copy.tree().join("one")).unwrap();
        copy.assert_changed(&["a/two", "a/b", "", "a/b/linked"]);
    }

    #[test]
    fn a_renamed_directory_takes_everything_below_it_along() {
        let copy = Copy::taken();
        fs::rename(copy.tree().join("a"), copy.tree().join("z")).unwrap();
        copy.assert_changed(&["", "z", "z/two", "z/b", "z/b/three", "z/b/linked"]);
    }

    #[test]
    fn two_directories_that_swap_names_are_noticed() {
        let copy = Copy::taken();
        let path = |name: &str| copy.tree().join(name);
        fs::rename(path("a/b"), path("c")).unwrap();
        fs::rename(path("a"), path("b")).unwrap();
        fs::rename(path("c"), path("a")).unwrap();
        copy.assert_changed(&["", "a", "a/three", "a/linked", "b", "b/two"]);
    }

    #[test]
    fn a_file_that_is_as_young_as_the_manifest_counts_as_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, manifest) = (dir.path().join("tree"), dir.path().join("manifest"));
        fs::create_dir(&tree).unwrap();
        Manifest::take(&tree, &manifest, |_| true).unwrap();
        fs::write(tree.join("young"), "x").unwrap();
        let young = fs::metadata(tree.join("young")).unwrap();
        let mut taken = Manifest::read(&manifest).unwrap().unwrap();
        taken.taken = nanoseconds(young.ctime(), young.ctime_nsec());
        let root = fs::metadata(&tree).unwrap().ino();
        taken.places.insert((root, hash(b"young")), State { inode: young.ino(), ctime: taken.taken });
        let mut same = Vec::new();
        taken
            .compare(&tree, &mut |inode, _, equal| same.extend((inode == young.ino()).then_some(equal)))
            .unwrap();
        assert_eq!(same, [false]);
    }

    #[test]
    fn a_damaged_manifest_says_that_everything_may_have_changed() {
        let copy = Copy::taken();
        let whole = fs::read(copy.manifest()).unwrap();
        fs::write(copy.manifest(), &whole[..whole.len() - 1]).unwrap();
        assert_eq!(changed(&copy.tree(), &copy.manifest()).unwrap(), None);
        fs::write(copy.manifest(), vec![0; whole.len()]).unwrap();
        assert_eq!(changed(&copy.tree(), &copy.manifest()).unwrap(), None);
        let zeroed: Vec<u8> =
            whole[..64].iter().copied().chain(std::iter::repeat_n(0, whole.len() - 64)).collect();
        fs::write(copy.manifest(), zeroed).unwrap();
        assert_eq!(changed(&copy.tree(), &copy.manifest()).unwrap().unwrap().len(), 6);
    }
}

//! A copied tree equals its source, and a removed one is gone, whatever they hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, IFlags, Mode, XattrFlags, ioctl_setflags, mknodat};

/// Everything that a copy must keep, by path.
fn picture(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let dir = File::open(root).unwrap();
    let mut paths = vec![(dir.metadata().unwrap().ino(), Vec::new())];
    mica_tree::walk(dir.as_fd(), &mut |visit| {
        let base = paths.iter().find(|(inode, _)| *inode == visit.parent).unwrap().1.clone();
        let path = [base.as_slice(), visit.name].join(&b'/');
        let stat = visit.stat;
        let full = root.join(OsStr::from_bytes(&path[1..]));
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => format!("{} bytes {:?}", stat.st_size, fnv(&fs::read(&full).unwrap())),
            FileType::Symlink => fs::read_link(&full).unwrap().display().to_string(),
            FileType::Directory => {
                paths.push((stat.st_ino, path.clone()));
                String::new()
            }
            _ => format!("device {}", stat.st_rdev),
        };
        let first = first_names.entry(stat.st_ino).or_insert_with(|| path.clone()).clone();
        let linked = if stat.st_nlink > 1 && !full.is_dir() { first } else { Vec::new() };
        let attributes = attributes(&full);
        let mtime = (stat.st_mtime, stat.st_mtime_nsec);
        let text = format!(
            "{:o} {}:{} {mtime:?} {content} {attributes:?} {linked:?} {}",
            stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink
        );
        seen.insert(path, text);
        Ok(())
    })
    .unwrap();
    seen
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = Vec::with_capacity(4096);
    rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)).unwrap();
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = Vec::with_capacity(65536);
            rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/file"), "content").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/b/second name")).unwrap();
    symlink("../../nowhere", root.join("a/link")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not utf-8 \xff")), [7; 100_000]).unwrap();
    fs::write(root.join("n".repeat(255)), "long name").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 8 << 20).unwrap();
    sparse.set_len(32 << 20).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, 0x103),
        ("whiteout", FileType::CharacterDevice, 0),
    ] {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    drop(UnixListener::bind(root.join("socket")).unwrap());
    for (path, name) in [("a/file", "user.x"), ("a/b", "trusted.overlay.opaque"), ("whiteout", "trusted.y")] {
        rustix::fs::lsetxattr(root.join(path), name, &[b'v'; 300], XattrFlags::empty()).unwrap();
    }
    rustix::fs::lsetxattr(root.join("a/link"), "trusted.on-a-link", b"z", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("empty"), "security.capability", &CAPABILITY, XattrFlags::empty())
        .unwrap();
    std::os::unix::fs::chown(root.join("empty"), Some(1000), Some(70000)).unwrap();
    rustix::fs::setxattr(root.join("empty"), "security.capability", &CAPABILITY, XattrFlags::empty())
        .unwrap();
    fs::set_permissions(root.join("a/b/second name"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o1000)).unwrap();
}

/// `cap_net_raw+ep`, in the form of linux/capability.h, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn copied(from: &Path, to: &Path, threads: usize) {
    mica_tree::copy(File::open(from).unwrap().as_fd(), File::open(to).unwrap().as_fd(), threads).unwrap();
}

#[test]
fn a_copy_keeps_everything() {
    for threads in [1, 4] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(from.path());
        copied(from.path(), to.path(), threads);
        let (source, copy) = (picture(from.path()), picture(to.path()));
        assert_eq!(source.keys().collect::<Vec<_>>(), copy.keys().collect::<Vec<_>>());
        for (path, text) in source {
            assert_eq!(copy[&path], text, "{}", String::from_utf8_lossy(&path));
        }
        assert_eq!(from.path().metadata().unwrap().mtime_nsec(), to.path().metadata().unwrap().mtime_nsec());
    }
}

#[test]
fn a_copy_keeps_the_holes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    copied(from.path(), to.path(), 2);
    let copy = fs::metadata(to.path().join("sparse")).unwrap();
    assert_eq!(copy.len(), 32 << 20);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
}

#[test]
fn many_threads_copy_many_directories_with_links_among_them() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in 0..40 {
        let dir = from.path().join(format!("{}/{dir}", dir % 7));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..20 {
            fs::write(dir.join(file.to_string()), format!("{file}")).unwrap();
        }
        let first = from.path().join("first");
        if !first.exists() {
            fs::write(&first, "linked").unwrap();
        }
        fs::hard_link(&first, dir.join("linked")).unwrap();
    }
    copied(from.path(), to.path(), 8);
    assert_eq!(fs::metadata(to.path().join("first")).unwrap().nlink(), 41);
    let usage = |path: &Path| mica_tree::usage(File::open(path).unwrap().as_fd()).unwrap().inodes;
    assert_eq!((usage(from.path()), usage(to.path())), (40 * 20 + 40 + 7 + 1 + 1, 40 * 20 + 40 + 7 + 1 + 1));
}

#[test]
fn a_copy_leaves_out_what_it_is_told_to_with_all_below() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["kept/inside", "kept/scratch/inside", "scratch/inside"] {
        fs::create_dir_all(from.path().join(path)).unwrap();
    }
    fs::write(from.path().join("kept/scratch.not"), "").unwrap();
    let (source, target) = (File::open(from.path()).unwrap(), File::open(to.path()).unwrap());
    mica_tree::copy_without(source.as_fd(), target.as_fd(), 2, &|name| name == b"scratch").unwrap();
    let names: Vec<_> = picture(to.path()).into_keys().collect();
    assert_eq!(names, [&b"/kept"[..], b"/kept/inside", b"/kept/scratch.not"]);
}

#[test]
fn a_failed_copy_names_the_file() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    fs::write(from.path().join("a/b/c"), "x").unwrap();
    fs::create_dir_all(to.path().join("a")).unwrap();
    let from = File::open(from.path()).unwrap();
    let to = File::open(to.path()).unwrap();
    let error = mica_tree::copy(from.as_fd(), to.as_fd(), 2).unwrap_err();
    assert_eq!(error.to_string(), "create 'a': File exists (os error 17)");
}

#[test]
fn removal_takes_immutable_and_unreadable_things_too_and_is_idempotent() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let stuck = [tree.join("a/file"), tree.join("a/b"), tree.join("a")];
    for path in &stuck {
        ioctl_setflags(File::open(path).unwrap(), IFlags::IMMUTABLE).unwrap();
    }
    let parent = File::open(dir.path()).unwrap();
    mica_tree::remove(parent.as_fd(), b"tree").unwrap();
    assert!(!tree.exists());
    mica_tree::remove(parent.as_fd(), b"tree").unwrap();
}

#[test]
fn removal_does_not_follow_links() {
    let dir = tempfile::tempdir().unwrap();
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("kept"), "x").unwrap();
    symlink(victim.path(), dir.path().join("link")).unwrap();
    mica_tree::remove_children(File::open(dir.path()).unwrap().as_fd()).unwrap();
    assert!(victim.path().join("kept").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

//! What a layer changed is found the same way from its own directory and from two whole trees, and a tarball of it
//! makes the same tree again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mica_archive::apply::{ApplyOptions, Extractor};
use mica_archive::diff::{self, Change, ChangeKind};
use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_core::{Changes, Trees, WhiteoutForm};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

const OVERLAY: WhiteoutForm = WhiteoutForm::Overlay { user_xattr: false };

/// A parent with a layer on top, as overlayfs shows them. The mount is nowhere but in its descriptor.
struct Layer {
    dir: tempfile::TempDir,
    _mounted: OwnedFd,
    merged: PathBuf,
}

/// As every driver does whose child shows its parent's inodes.
fn wait_for_the_next_tick() {
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let before = now();
    while now() == before {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

impl Layer {
    fn new(fill_parent: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["lower", "upper", "work"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        fs::set_permissions(dir.path().join("upper"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path().join("lower"), fs::Permissions::from_mode(0o755)).unwrap();
        fill_parent(&dir.path().join("lower"));
        wait_for_the_next_tick();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for (option, part) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
            fsconfig_set_string(&context, option, dir.path().join(part)).unwrap();
        }
        for option in ["index", "metacopy", "redirect_dir"] {
            fsconfig_set_string(&context, option, "off").unwrap();
        }
        fsconfig_create(&context).unwrap();
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let merged = format!("/proc/self/fd/{}", mounted.as_raw_fd()).into();
        Self { dir, _mounted: mounted, merged }
    }

    fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    fn upper(&self) -> Changes {
        Changes::Upper { dir: self.dir.path().join("upper"), whiteouts: OVERLAY }
    }

    fn list(&self, changes: &Changes) -> Vec<String> {
        let list = diff::changes(changes, self, &|_| false).unwrap();
        list.iter().map(line).collect()
    }

    fn assert_list(&self, expected: &[&str]) {
        for changes in [self.upper(), Changes::Compare { only: None }] {
            assert_eq!(self.list(&changes), expected, "{changes:?}");
        }
    }

    fn tarball(&self, changes: &Changes) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        diff::write(changes, self, &|_| false, &mut writer).unwrap();
        writer.finish().unwrap()
    }

    /// The parent with the tarball applied to it.
    fn applied(&self, changes: &Changes) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut writer = Writer::new(Vec::new());
        diff::write_tree(&self.lower(), &|_| false, &mut writer).unwrap();
        extract(&writer.finish().unwrap(), copy.path());
        extract(&self.tarball(changes), copy.path());
        copy
    }
}

impl Trees for Layer {
    fn layer(&self) -> mica_core::Result<&Path> {
        Ok(&self.merged)
    }

    fn parent(&self) -> mica_core::Result<Option<&Path>> {
        Ok(Some(Box::leak(self.lower().into_boxed_path())))
    }
}

fn line(change: &Change) -> String {
    let letter = match change.kind {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'C',
        ChangeKind::Deleted => 'D',
    };
    format!("{letter} {}", String::from_utf8_lossy(&change.path))
}

fn extract(tarball: &[u8], root: &Path) {
    let root: OwnedFd = File::open(root).unwrap().into();
    let mut extractor = Extractor::new(root, ApplyOptions::new(WhiteoutForm::Merged)).unwrap();
    let mut reader = Reader::new(tarball);
    while let Some(entry) = reader.next().unwrap() {
        extractor.entry(&entry, &mut reader.content()).unwrap();
    }
    extractor.finish().unwrap();
}

fn members(tarball: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(tarball);
    let mut found = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let link = match entry.kind {
            mica_archive::Kind::Hardlink(target) => format!(" => {}", String::from_utf8_lossy(&target)),
            _ => String::new(),
        };
        found.push(format!("{}{link}", String::from_utf8_lossy(&entry.path)));
    }
    found
}

/// Every member comes after the directories that it is in.
fn assert_directories_listed(tarball: &[u8]) {
    let mut listed = HashSet::new();
    for member in members(tarball) {
        let path = member.split(" => ").next().unwrap().to_owned();
        if let Some((directory, _)) = path.trim_end_matches('/').rsplit_once('/') {
            assert!(listed.contains(&format!("{directory}/")), "{path}");
        }
        listed.insert(path);
    }
}

/// What a tree shows, by path; the times of directories only where they were set on purpose.
fn picture(root: &Path) -> BTreeMap<String, String> {
    fn add(dir: &Path, path: &str, seen: &mut BTreeMap<String, String>, links: &mut BTreeMap<u64, String>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            let meta = entry.path().symlink_metadata().unwrap();
            let content = if meta.is_file() {
                format!("{:?} {}.{}", fs::read(entry.path()).unwrap(), meta.mtime(), meta.mtime_nsec())
            } else if meta.is_symlink() {
                fs::read_link(entry.path()).unwrap().display().to_string()
            } else {
                meta.rdev().to_string()
            };
            // Overlayfs counts hidden names too, so a second name is what shows up, not what the number of links says.
            let second = links.get(&meta.ino()).cloned();
            links.entry(meta.ino()).or_insert_with(|| path.clone());
            let text = format!("{:o} {}:{} {content} {second:?}", meta.mode(), meta.uid(), meta.gid());
            if meta.is_dir() {
                add(&entry.path(), &path, seen, links);
            }
            seen.insert(path, text);
        }
    }
    let mut seen = BTreeMap::new();
    add(root, "", &mut seen, &mut BTreeMap::new());
    seen
}

fn usual(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    for file in ["etc/hosts", "etc/passwd", "etc/deep/er/file", "usr/bin/tool"] {
        fs::write(root.join(file), file).unwrap();
    }
    symlink("tool", root.join("usr/bin/link")).unwrap();
}

#[test]
fn nothing_changed_is_an_empty_list_and_an_empty_tarball() {
    let layer = Layer::new(usual);
    layer.assert_list(&[]);
    assert_eq!(members(&layer.tarball(&layer.upper())), [""; 0]);
}

#[test]
fn a_change_comes_with_the_directories_on_its_way() {
    let layer = Layer::new(usual);
    fs::write(layer.merged.join("etc/deep/er/file"), "new").unwrap();
    fs::write(layer.merged.join("etc/added"), "new").unwrap();
    layer.assert_list(&["C etc", "A etc/added", "C etc/deep", "C etc/deep/er", "C etc/deep/er/file"]);
    let expected = ["etc/", "etc/added", "etc/deep/", "etc/deep/er/", "etc/deep/er/file"];
    assert_eq!(members(&layer.tarball(&layer.upper())), expected);
    assert_eq!(members(&layer.tarball(&Changes::Compare { only: None })), expected);
}

#[test]
fn a_deletion_is_a_whiteout() {
    let layer = Layer::new(usual);
    fs::remove_file(layer.merged.join("etc/hosts")).unwrap();
    fs::remove_dir_all(layer.merged.join("usr/bin")).unwrap();
    layer.assert_list(&["C etc", "D etc/hosts", "C usr", "D usr/bin"]);
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        assert_eq!(members(&layer.tarball(&changes)), ["etc/", "etc/.wh.hosts", "usr/", "usr/.wh.bin"]);
    }
}

/// moby's and containers/storage's "echo": a directory that is removed and made again shows nothing of the old one.
#[test]
fn a_directory_that_was_made_again_is_opaque() {
    let layer = Layer::new(usual);
    fs::remove_dir_all(layer.merged.join("etc")).unwrap();
    fs::create_dir(layer.merged.join("etc")).unwrap();
    fs::write(layer.merged.join("etc/passwd"), "new").unwrap();
    layer.assert_list(&["C etc", "D etc/deep", "D etc/hosts", "C etc/passwd"]);
    assert_eq!(members(&layer.tarball(&layer.upper())), ["etc/", "etc/.wh..wh..opq", "etc/passwd"]);
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        assert_eq!(picture(layer.applied(&changes).path()), picture(&layer.merged));
    }
}

/// Only the uppermost directory is marked opaque; what is made again below it hides the parent's all the same.
#[test]
fn a_directory_in_one_that_was_made_again_shows_nothing_old() {
    let layer = Layer::new(usual);
    fs::remove_dir_all(layer.merged.join("etc")).unwrap();
    fs::create_dir_all(layer.merged.join("etc/deep")).unwrap();
    fs::write(layer.merged.join("etc/deep/new"), "new").unwrap();
    layer.assert_list(&[
        "C etc",
        "C etc/deep",
        "D etc/deep/er",
        "A etc/deep/new",
        "D etc/hosts",
        "D etc/passwd",
    ]);
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        assert_eq!(picture(layer.applied(&changes).path()), picture(&layer.merged));
    }
}

#[test]
fn metadata_alone_is_a_change() {
    let layer = Layer::new(usual);
    fs::set_permissions(layer.merged.join("usr/bin"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(layer.merged.join("etc/hosts"), Some(7), None).unwrap();
    rustix::fs::setxattr(layer.merged.join("etc/passwd"), "user.x", b"y", XattrFlags::empty()).unwrap();
    layer.assert_list(&["C etc", "C etc/hosts", "C etc/passwd", "C usr", "C usr/bin"]);
}

#[test]
fn a_file_that_was_written_with_what_it_had_and_given_its_time_back_is_no_change() {
    let layer = Layer::new(usual);
    let path = layer.merged.join("etc/hosts");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, b"etc/hosts").unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    layer.assert_list(&[]);
    let file = File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, b"ETC/HOSTS").unwrap();
    file.set_modified(before).unwrap();
    layer.assert_list(&["C etc", "C etc/hosts"]);
}

#[test]
fn another_kind_of_file_at_a_path_is_a_change_with_all_below_it_new() {
    let layer = Layer::new(usual);
    fs::remove_file(layer.merged.join("etc/hosts")).unwrap();
    fs::create_dir(layer.merged.join("etc/hosts")).unwrap();
    fs::write(layer.merged.join("etc/hosts/inside"), "x").unwrap();
    fs::remove_dir_all(layer.merged.join("usr")).unwrap();
    symlink("etc", layer.merged.join("usr")).unwrap();
    layer.assert_list(&["C etc", "C etc/hosts", "A etc/hosts/inside", "C usr"]);
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        assert_eq!(picture(layer.applied(&changes).path()), picture(&layer.merged));
    }
}

#[test]
fn sockets_are_listed_and_left_out_of_the_tarball() {
    let layer = Layer::new(usual);
    mknodat(CWD, layer.merged.join("socket"), FileType::Socket, Mode::RUSR, 0).unwrap();
    mknodat(CWD, layer.merged.join("null"), FileType::CharacterDevice, Mode::RUSR, 0x103).unwrap();
    layer.assert_list(&["A null", "A socket"]);
    assert_eq!(members(&layer.tarball(&layer.upper())), ["null"]);
}

#[test]
fn what_is_left_out_is_as_if_it_were_untouched() {
    let layer = Layer::new(usual);
    fs::write(layer.merged.join("etc/hosts"), "new").unwrap();
    fs::remove_file(layer.merged.join("etc/passwd")).unwrap();
    fs::create_dir(layer.merged.join("proc")).unwrap();
    let left_out = |path: &[u8]| path.starts_with(b"etc/") || path == b"proc";
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        let list = diff::changes(&changes, &layer, &left_out).unwrap();
        assert!(list.iter().all(|change| change.path == b"etc"), "{list:?}");
    }
}

#[test]
fn a_new_name_of_an_old_file_stays_one_file_with_it() {
    let (parent, child) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    usual(parent.path());
    extract(&whole(parent.path()), child.path());
    fs::hard_link(child.path().join("etc/hosts"), child.path().join("usr/second")).unwrap();
    fs::hard_link(child.path().join("usr/bin/tool"), child.path().join("a")).unwrap();
    let trees = Plain(child.path().to_owned(), parent.path().to_owned());
    let mut writer = Writer::new(Vec::new());
    diff::write(&Changes::Compare { only: None }, &trees, &|_| false, &mut writer).unwrap();
    let tarball = writer.finish().unwrap();
    extract(&tarball, parent.path());
    assert_eq!(picture(parent.path()), picture(child.path()));
    assert_eq!(members(&tarball)[..4], ["a", "usr/", "usr/bin/", "usr/bin/tool => a"]);
    assert_directories_listed(&tarball);
}

/// Other engines would make a directory that is not listed with mode 0755 and owner root.
#[test]
fn a_name_that_was_passed_is_listed_with_its_directories() {
    let (parent, child) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(parent.path().join("a/b")).unwrap();
    fs::create_dir(parent.path().join("z")).unwrap();
    for name in ["a/b/first", "a/second"] {
        fs::write(parent.path().join(name), name).unwrap();
    }
    fs::hard_link(parent.path().join("a/b/first"), parent.path().join("z/first")).unwrap();
    fs::hard_link(parent.path().join("a/second"), parent.path().join("z/second")).unwrap();
    fs::set_permissions(parent.path().join("a"), fs::Permissions::from_mode(0o711)).unwrap();
    extract(&whole(parent.path()), child.path());
    fs::hard_link(child.path().join("a/b/first"), child.path().join("z/third")).unwrap();
    fs::hard_link(child.path().join("a/second"), child.path().join("z/fourth")).unwrap();
    let trees = Plain(child.path().to_owned(), parent.path().to_owned());
    let mut writer = Writer::new(Vec::new());
    diff::write(&Changes::Compare { only: None }, &trees, &|_| false, &mut writer).unwrap();
    let tarball = writer.finish().unwrap();
    let expected = [
        "z/",
        "z/fourth",
        "a/",
        "a/second => z/fourth",
        "z/second => z/fourth",
        "z/third",
        "a/b/",
        "a/b/first => z/third",
        "z/first => z/third",
    ];
    assert_eq!(members(&tarball), expected);
    let alone = tempfile::tempdir().unwrap();
    extract(&tarball, alone.path());
    assert_eq!(fs::metadata(alone.path().join("a")).unwrap().mode() & 0o7777, 0o711);
    extract(&tarball, parent.path());
    assert_eq!(picture(parent.path()), picture(child.path()));
}

#[test]
fn only_the_inodes_that_may_differ_are_compared() {
    let (parent, child) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    usual(parent.path());
    extract(&whole(parent.path()), child.path());
    for file in ["etc/hosts", "usr/bin/tool"] {
        fs::write(child.path().join(file), "new content").unwrap();
    }
    let only = HashSet::from([fs::metadata(child.path().join("etc/hosts")).unwrap().ino()]);
    let trees = Plain(child.path().to_owned(), parent.path().to_owned());
    let list = diff::changes(&Changes::Compare { only: Some(only) }, &trees, &|_| false).unwrap();
    assert_eq!(list.iter().map(line).collect::<Vec<_>>(), ["C etc", "C etc/hosts"]);
}

#[test]
fn a_root_with_another_mode_is_a_member() {
    let layer = Layer::new(usual);
    fs::set_permissions(&layer.merged, fs::Permissions::from_mode(0o1777)).unwrap();
    for changes in [layer.upper(), Changes::Compare { only: None }] {
        assert_eq!(members(&layer.tarball(&changes)), ["./"]);
    }
}

#[test]
fn attributes_of_the_union_and_of_the_host_stay_behind() {
    let layer = Layer::new(usual);
    fs::write(layer.merged.join("etc/hosts"), "new").unwrap();
    fs::create_dir(layer.merged.join("dir")).unwrap();
    let tarball = layer.tarball(&layer.upper());
    assert!(!tarball.windows(8).any(|part| part == b"overlay."));
}

struct Plain(PathBuf, PathBuf);

impl Trees for Plain {
    fn layer(&self) -> mica_core::Result<&Path> {
        Ok(&self.0)
    }

    fn parent(&self) -> mica_core::Result<Option<&Path>> {
        Ok(Some(&self.1))
    }
}

fn whole(tree: &Path) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    diff::write_tree(tree, &|_| false, &mut writer).unwrap();
    writer.finish().unwrap()
}

/// One thing that a program does in a container.
#[derive(Clone, Debug)]
enum Edit {
    Write(u8, u8),
    MakeDir(u8),
    Remove(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Symlink(u8),
    Chmod(u8, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let path = 0..30_u8;
    prop_oneof![
        (path.clone(), any::<u8>()).prop_map(|(p, c)| Edit::Write(p, c)),
        path.clone().prop_map(Edit::MakeDir),
        path.clone().prop_map(Edit::Remove),
        (path.clone(), path.clone()).prop_map(|(p, q)| Edit::Rename(p, q)),
        (path.clone(), path.clone()).prop_map(|(p, q)| Edit::Link(p, q)),
        path.clone().prop_map(Edit::Symlink),
        (path, any::<u8>()).prop_map(|(p, m)| Edit::Chmod(p, m)),
    ]
}

/// Paths that nest: 5 is `c`, 17 is `b/c`, 29 is `b/c/c`, say, so that edits meet.
fn path_of(number: u8) -> PathBuf {
    let name = |n: u8| OsStr::from_bytes(&b"abcd\xffe"[usize::from(n) % 6..][..1]).to_owned();
    let mut path = PathBuf::from(name(number));
    for level in 1..=number / 10 {
        path = Path::new(&name(number / 3 + level)).join(path);
    }
    path
}

/// Does it as far as it goes; what a program may not do changes nothing.
fn perform(root: &Path, edit: &Edit) {
    let at = |number: &u8| root.join(path_of(*number));
    let _ = match edit {
        Edit::Write(path, content) => fs::write(at(path), [*content; 3]),
        Edit::MakeDir(path) => fs::create_dir_all(at(path)),
        Edit::Remove(path) => fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path))),
        Edit::Rename(from, to) => fs::rename(at(from), at(to)),
        Edit::Link(from, to) => fs::hard_link(at(from), at(to)),
        Edit::Symlink(path) => symlink("a", at(path)),
        Edit::Chmod(path, mode) => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(0o700 | u32::from(*mode & 0o77)))
        }
    };
}

/// Overlayfs parts the names of a file when it copies one up, even if nothing is written then; a comparison cannot know.
fn without_links(picture: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let strip = |text: String| text.rsplit_once(' ').map(|(text, _)| text.to_owned()).unwrap_or(text);
    picture.into_iter().map(|(path, text)| (path, strip(text))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_agree_and_a_tarball_makes_the_tree_again(
        parent in prop::collection::vec(edit(), 0..25),
        child in prop::collection::vec(edit(), 1..25),
    ) {
        let layer = Layer::new(|root| parent.iter().for_each(|edit| perform(root, edit)));
        child.iter().for_each(|edit| perform(&layer.merged, edit));
        let compare = Changes::Compare { only: None };
        prop_assert_eq!(layer.list(&layer.upper()), layer.list(&compare));
        let shown = without_links(picture(&layer.merged));
        for changes in [layer.upper(), compare] {
            assert_directories_listed(&layer.tarball(&changes));
            let applied = without_links(picture(layer.applied(&changes).path()));
            prop_assert_eq!(&applied, &shown, "{:?}", changes);
        }
    }
}

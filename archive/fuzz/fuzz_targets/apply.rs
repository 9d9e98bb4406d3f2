//! Any list of members, some with ACLs as text, is extracted or refused, in each form and over a tree that holds traps;
//! nothing beside the tree changes or shows in it.

#![no_main]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mica_archive::apply::{ApplyOptions, Extractor, UnsupportedXattrs, WhiteoutForm};
use mica_archive::{Entry, Kind, Segment, Time};

const FORMS: [WhiteoutForm; 3] =
    [WhiteoutForm::Merged, WhiteoutForm::Overlay { user_xattr: false }, WhiteoutForm::Aufs];

/// What paths and targets are made of.
const PARTS: [&str; 16] = [
    "a",
    "b",
    "c",
    "..",
    ".",
    "",
    "victim",
    "hello",
    "out",
    "loop",
    ".wh.a",
    ".wh.victim",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    "lib",
    "b/c",
];

/// What ACLs are made of.
const RULES: [&str; 16] = [
    "user::rwx,",
    "group::r-x\n",
    "other:r--,",
    "mask::rwx #",
    "user:lisa:rwx:1000,",
    "user:lisa:rwx,",
    "u:0:x,",
    "g:4294967295:r,",
    "group:2:rw\n",
    "mask:",
    ":",
    ",",
    "\n",
    "7",
    "rwx",
    "\u{ff}",
];

const SECRET: &str = "hello world";

fuzz_target!(|bytes: &[u8]| {
    let place = tempfile::tempdir().expect("a directory");
    let victim = place.path().join("victim");
    fs::create_dir(&victim).expect("a directory");
    fs::write(victim.join("hello"), SECRET).expect("a file");
    let before = (look(&victim), look(&victim.join("hello")));
    for (number, form) in FORMS.into_iter().enumerate() {
        let tree = place.path().join(format!("tree{number}"));
        traps(&tree, &victim);
        apply(&tree, form, bytes);
        check(&tree);
    }
    assert_eq!((look(&victim), look(&victim.join("hello"))), before);
    assert_eq!(fs::read_to_string(victim.join("hello")).expect("the victim"), SECRET);
    assert_eq!(fs::read_dir(place.path()).expect("the directory").count(), 1 + FORMS.len());
});

/// A lower layer of links that lead out, up and round.
fn traps(tree: &Path, victim: &Path) {
    fs::create_dir_all(tree.join("a/b/c")).expect("directories");
    fs::write(tree.join("a/b/hello"), "inside").expect("a file");
    symlink(victim, tree.join("out")).expect("a link");
    symlink("../../victim", tree.join("a/victim")).expect("a link");
    symlink("loop", tree.join("loop")).expect("a link");
    symlink("a/b", tree.join("lib")).expect("a link");
}

fn apply(tree: &Path, form: WhiteoutForm, mut bytes: &[u8]) {
    let told = |path: &[u8]| {
        assert!(!path.starts_with(b"/") && !path.split(|&byte| byte == b'/').any(|name| name == b".."));
        Ok(())
    };
    let mut options = ApplyOptions::new(form);
    options.xattrs = UnsupportedXattrs::Warn;
    options.displaced = Some(Box::new(told));
    let root = File::open(tree).expect("the tree");
    let mut extractor = Extractor::new(root, options).expect("the tree");
    while let Some(entry) = entry(&mut bytes) {
        if extractor.entry(&entry, &mut &b"content"[..]).is_err() {
            return;
        }
    }
    extractor.finish().expect("metadata that was checked");
}

fn entry(bytes: &mut &[u8]) -> Option<Entry> {
    let [kind, mode, rest @ ..] = *bytes else { return None };
    let (number, mode) = (*kind, *mode);
    *bytes = rest;
    let path = path(bytes);
    let size = u64::from(mode % 8);
    let kind = match number % 10 {
        0 | 1 => Kind::File { size, sparse: None },
        2 => {
            let segment = Segment { offset: u64::from(mode), length: size };
            Kind::File { size: u64::from(mode) + 4, sparse: Some(vec![segment]) }
        }
        3 | 4 => Kind::Directory,
        5 | 6 => Kind::Symlink(self::path(bytes)),
        7 => Kind::Hardlink(self::path(bytes)),
        8 => Kind::CharDevice(u32::from(mode % 2), u32::from(mode % 3)),
        _ => Kind::Fifo,
    };
    let mode = u32::from(mode) << 4;
    let mtime = Time { seconds: 1, nanoseconds: 2 };
    let xattrs = match number / 10 % 4 {
        0 => vec![(b"SCHILY.acl.access".to_vec(), acl(bytes))],
        1 => vec![(b"SCHILY.acl.default".to_vec(), acl(bytes))],
        _ => Vec::new(),
    };
    Some(Entry { path, kind, mode, uid: mode % 3, gid: 0, mtime, xattrs })
}

/// The first byte says how many rules and parts of such follow, to the four that an ACL needs or to none.
fn acl(bytes: &mut &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return Vec::new() };
    let (parts, rest) = rest.split_at(rest.len().min(usize::from(first % 16)));
    *bytes = rest;
    let rules = parts.iter().map(|part| RULES[usize::from(part % 16)]);
    let start = if first & 0x80 == 0 { "" } else { "user::rwx,group::r-x,mask::rwx,other::---," };
    format!("{start}{}", rules.collect::<String>()).into_bytes()
}

/// Up to seven parts; the first byte says how many, and whether the path is absolute.
fn path(bytes: &mut &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return b"a".to_vec() };
    let (parts, rest) = rest.split_at(rest.len().min(usize::from(first % 8)));
    *bytes = rest;
    let names: Vec<_> = parts.iter().map(|part| PARTS[usize::from(part % 16)]).collect();
    let start = if first & 0x80 == 0 { "" } else { "/" };
    format!("{start}{}", names.join("/")).into_bytes()
}

fn look(path: &Path) -> (u32, u32, u64, i64, i64) {
    let meta = fs::symlink_metadata(path).expect("the victim");
    (meta.mode(), meta.uid(), meta.nlink(), meta.ctime(), meta.ctime_nsec())
}

fn check(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("a name that was listed").file_type();
        if kind.is_dir() {
            check(&path);
        } else if kind.is_file() {
            assert_ne!(fs::read(&path).expect("a file"), SECRET.as_bytes());
        }
    }
}

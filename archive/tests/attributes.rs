//! ACLs and extended attributes, in each of the forms that GNU tar and bsdtar have for them: the tree gets what the
//! files had that were archived, and the tarball comes out as it went in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{END, block, extended, record};
use mica_archive::apply::{Applied, ApplyOptions, UnsupportedXattrs, WhiteoutForm};
use mica_archive::ingest::Expected;
use mica_archive::{Result, layer, split};
use rustix::fs::XattrFlags;
use tempfile::{TempDir, tempdir};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
/// Every Debian system has this user and this group, as number 1; of the other number there is no name.
const DAEMON: u32 = 1;
const NOBODY_NAMED: u32 = 4_000_000;

/// An ACL in the kernel's form, in which only these users and the group may do more than read.
fn acl(users: &[u32], groups: &[u32]) -> Vec<u8> {
    let rules = [(0x01_u16, 6_u16, u32::MAX)].into_iter();
    let rules = rules.chain(users.iter().map(|&user| (0x02, 7, user))).chain([(0x04, 4, u32::MAX)]);
    let rules = rules.chain(groups.iter().map(|&group| (0x08, 5, group)));
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, number) in rules.chain([(0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]) {
        value.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        value.extend(number.to_le_bytes());
    }
    value
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::lgetxattr(path, name.as_ref(), &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// The names of a file's attributes.
fn listed(path: &Path) -> BTreeSet<Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length].split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

/// A file and a directory with ACLs, and a second name of the file.
fn tree_with_acls(users: &[u32]) -> TempDir {
    let tree = tempdir().unwrap();
    let (file, dir) = (tree.path().join("file"), tree.path().join("dir"));
    fs::write(&file, "content").unwrap();
    fs::create_dir(&dir).unwrap();
    set(&file, ACCESS, &acl(users, &[77]));
    set(&dir, ACCESS, &acl(users, &[]));
    set(&dir, DEFAULT, &acl(&[], &[77]));
    fs::hard_link(&file, tree.path().join("second")).unwrap();
    tree
}

fn packed(program: &str, options: &[&str], tree: &Path) -> Vec<u8> {
    let mut pack = Command::new(program);
    let done = pack.args(options).arg("-cf-").arg("-C").arg(tree).arg(".").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The tree of an archive that was applied, reproduced, and compared.
fn applied(archive: &[u8], xattrs: UnsupportedXattrs, form: WhiteoutForm) -> Result<(TempDir, Applied)> {
    let tree = tempdir().unwrap();
    let root: OwnedFd = File::open(tree.path()).unwrap().into();
    let options = ApplyOptions { xattrs, ..ApplyOptions::new(form) };
    let split = tempfile::tempfile().unwrap();
    let (ingested, applied, split) =
        layer::apply_and_record(archive, root, options, &Expected::default(), split)?;
    let (root, mut again) = (File::open(tree.path()).unwrap(), Vec::new());
    split::assemble(&split, root.as_fd(), &ingested.diff_id, &mut again)?;
    assert!(again == archive, "the tarball is another one now");
    Ok((tree, applied))
}

fn strictly(archive: &[u8]) -> TempDir {
    applied(archive, UnsupportedXattrs::Strict, WhiteoutForm::Merged).unwrap().0
}

#[track_caller]
fn assert_same_acls(found: &Path, expected: &Path) {
    for name in ["file", "second", "dir"] {
        let (found, expected) = (found.join(name), expected.join(name));
        assert_eq!(get(&found, ACCESS), get(&expected, ACCESS), "{name}");
        assert_eq!(get(&found, DEFAULT), get(&expected, DEFAULT), "{name}");
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode();
        assert_eq!(mode(&found), mode(&expected), "{name}");
    }
}

#[test]
fn acls_that_bsdtar_writes_are_set_by_their_numbers() {
    let source = tree_with_acls(&[DAEMON, NOBODY_NAMED]);
    let archive = packed("bsdtar", &["--format=pax"], source.path());
    assert!(archive.windows(19).any(|text| text == b"user:daemon:rwx:1,u"));
    for form in [WhiteoutForm::Merged, WhiteoutForm::Overlay { user_xattr: false }, WhiteoutForm::Aufs] {
        let (tree, told) = applied(&archive, UnsupportedXattrs::Strict, form).unwrap();
        assert_same_acls(tree.path(), source.path());
        assert_eq!(told.warnings, [""; 0]);
    }
}

#[test]
fn acls_that_gnu_tar_writes_are_set_where_they_have_numbers() {
    let source = tree_with_acls(&[NOBODY_NAMED]);
    let archive = packed("tar", &["--acls"], source.path());
    assert!(archive.windows(17).any(|text| text == b"SCHILY.acl.access"));
    assert_same_acls(strictly(&archive).path(), source.path());
}

#[test]
fn the_kernels_form_of_an_acl_counts_more_than_its_text() {
    let source = tree_with_acls(&[DAEMON, NOBODY_NAMED]);
    let archive = packed("tar", &["--acls", "--xattrs", "--xattrs-include=*"], source.path());
    assert!(archive.windows(11).any(|text| text == b"user:daemon"));
    assert_same_acls(strictly(&archive).path(), source.path());
}

#[test]
fn an_acl_that_names_a_user_without_a_number_is_refused_or_set_without_that_rule() {
    let source = tree_with_acls(&[DAEMON, NOBODY_NAMED]);
    let archive = packed("tar", &["--acls"], source.path());
    let refused = applied(&archive, UnsupportedXattrs::Strict, WhiteoutForm::Merged).unwrap_err().to_string();
    assert!(refused.contains("SCHILY.acl.access") && refused.contains("'daemon'"), "{refused}");
    let (tree, told) = applied(&archive, UnsupportedXattrs::Warn, WhiteoutForm::Merged).unwrap();
    assert_same_acls(tree.path(), tree_with_acls(&[NOBODY_NAMED]).path());
    assert_eq!(told.warnings.len(), 2, "{:?}", told.warnings);
    assert!(told.warnings.iter().all(|warning| warning.contains("'daemon'")), "{:?}", told.warnings);
}

/// The owning group's rights are below the mask then, and not what the header says.
#[test]
fn an_acl_decides_about_the_group_bits_of_the_mode() {
    let records = record("SCHILY.acl.access", b"user::rw-,group::---,other::---,user:7:rwx,mask::r-x");
    let archive = [&extended(b'x', &records)[..], &block(b'0', b"file", 0, |_| {}), &END].concat();
    let tree = strictly(&archive);
    assert_eq!(fs::metadata(tree.path().join("file")).unwrap().mode() & 0o777, 0o650);
}

#[test]
fn what_is_no_acl_is_refused_or_left_out() {
    for (key, text) in [
        ("SCHILY.acl.access", &b"user::rwx"[..]),
        ("SCHILY.acl.default", b"\xff\0"),
        ("SCHILY.acl.ace", b"owner@:rwxp::allow"),
    ] {
        let archive =
            [&extended(b'x', &record(key, text))[..], &block(b'5', b"dir", 0, |_| {}), &END].concat();
        let refused =
            applied(&archive, UnsupportedXattrs::Strict, WhiteoutForm::Merged).unwrap_err().to_string();
        assert!(refused.contains("'dir'") && refused.contains(key), "{refused}");
        let (tree, told) = applied(&archive, UnsupportedXattrs::Warn, WhiteoutForm::Merged).unwrap();
        assert!(told.warnings.len() == 1 && told.warnings[0].contains(key), "{:?}", told.warnings);
        assert_eq!(get(&tree.path().join("dir"), ACCESS), None);
    }
}

#[test]
fn the_root_of_a_layer_may_have_an_acl() {
    let source = tempdir().unwrap();
    set(source.path(), DEFAULT, &acl(&[NOBODY_NAMED], &[]));
    let tree = strictly(&packed("bsdtar", &["--format=pax"], source.path()));
    assert_eq!(get(tree.path(), DEFAULT), Some(acl(&[NOBODY_NAMED], &[])));
}

#[test]
fn a_whiteout_with_an_acl_is_a_whiteout() {
    let records = record("SCHILY.acl.access", b"user:lisa:rwx");
    let archive = [&extended(b'x', &records)[..], &block(b'0', b".wh.file", 0, |_| {}), &END].concat();
    strictly(&archive);
}

#[test]
fn attributes_are_read_in_each_form_that_bsdtar_has() {
    let source = tempdir().unwrap();
    let file = source.path().join("file");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let names = [&b"user.plain"[..], b"user.a=b %\xc3\xa9", b"user.\xff", b"trusted.t"];
    for name in names {
        rustix::fs::setxattr(&file, std::ffi::OsStr::from_bytes(name), &bytes, XattrFlags::empty()).unwrap();
    }
    set(&file, "user.empty", b"");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&file, "security.capability", &capability);
    for options in [&["--format=pax"][..], &["--format=pax", "--options=xattrheader=LIBARCHIVE"]] {
        let tree = strictly(&packed("bsdtar", options, source.path()));
        let found = tree.path().join("file");
        for name in names {
            assert_eq!(get(&found, name).as_ref(), Some(&bytes), "{} {options:?}", name.escape_ascii());
        }
        assert_eq!(get(&found, "user.empty").unwrap(), b"");
        assert_eq!(get(&found, "security.capability").unwrap(), capability);
        assert_eq!(listed(&found), listed(&file));
    }
}

#[test]
fn an_attribute_whose_encoding_is_broken_is_refused_or_left_out() {
    let records = record("LIBARCHIVE.xattr.user.x", b"no base64");
    let archive = [&extended(b'x', &records)[..], &block(b'0', b"file", 0, |_| {}), &END].concat();
    let refused = applied(&archive, UnsupportedXattrs::Strict, WhiteoutForm::Merged).unwrap_err().to_string();
    assert!(refused.contains("LIBARCHIVE.xattr.user.x") && refused.contains("base64"), "{refused}");
    let (_, told) = applied(&archive, UnsupportedXattrs::Warn, WhiteoutForm::Merged).unwrap();
    assert_eq!(told.warnings.len(), 1, "{:?}", told.warnings);
}

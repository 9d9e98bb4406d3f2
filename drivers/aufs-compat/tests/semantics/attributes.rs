//! Owners, modes, ACLs, attributes, and what may be executed or opened by whom.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::{
    CWD, FileType, Mode as RawMode, XattrFlags, lgetxattr, lgetxattr_query, lremovexattr, lsetxattr, statvfs,
};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, chmod, chown, exists, mkdir, mknod, names_of_branch, read, set_xattr, symlink, write, xattr,
};
use crate::common::{Branches, Mode, Volume};

const NOBODY: u32 = 65534;

/// A shell of a user without any privilege.
fn as_nobody(script: &str, dir: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(dir).uid(NOBODY).gid(NOBODY).output().unwrap()
}

/// The text of an ACL in the form of the attribute: the entries as tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Everybody's but `NOBODY`'s permissions are the owner's and group's.
fn for_nobody(permissions: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(1, 7, none), (2, permissions, NOBODY), (4, 5, none), (16, 7, none), (32, 0, none)])
}

pub(crate) fn an_acl_keeps_no_setgid_for_who_is_not_of_the_group(mode: Mode) {
    let branches = Branches::two(mode);
    for name in ["others", "own"] {
        write(branches.lower(name), "x");
        chown(branches.lower(name), NOBODY, if name == "own" { NOBODY } else { 0 });
        chmod(branches.lower(name), 0o2755);
    }
    let union = branches.mount();
    let set = |name: &str| {
        let path = union.at(name);
        let changed = std::thread::spawn(move || {
            use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
            set_thread_groups(&[]).unwrap();
            set_thread_gid(rustix::fs::Gid::from_raw(NOBODY)).unwrap();
            set_thread_uid(rustix::fs::Uid::from_raw(NOBODY)).unwrap();
            lsetxattr(&path, "system.posix_acl_access", &for_nobody(5), XattrFlags::empty())
        });
        changed.join().unwrap().unwrap();
        fs::metadata(union.at(name)).unwrap().mode() & 0o7777
    };
    assert_eq!(set("others"), 0o770);
    assert_eq!(set("own"), 0o2770);
}

pub(crate) fn setuid_counts(mode: Mode) {
    let branches = Branches::two(mode);
    for (path, program) in
        [(branches.lower("below"), "/usr/bin/id"), (branches.upper("above"), "/usr/bin/id")]
    {
        fs::copy(program, &path).unwrap();
        chmod(&path, 0o4755);
    }
    let union = branches.mount();
    for name in ["below", "above"] {
        let output = as_nobody(&format!("./{name} -u"), union.root());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{name}: {output:?}");
    }
    // A write by somebody else takes it away, and so does another owner.
    chmod(union.at("below"), 0o4777);
    assert!(as_nobody("echo >> below", union.root()).status.success());
    assert_eq!(fs::metadata(union.at("below")).unwrap().mode() & 0o7777, 0o777);
    chown(union.at("above"), 1, 1);
    assert_eq!(fs::metadata(union.at("above")).unwrap().mode() & 0o7777, 0o755);
}

pub(crate) fn devices_work(mode: Mode) {
    let branches = Branches::two(mode);
    mknod(&branches.lower("zero"), FileType::CharacterDevice, (1, 5));
    let union = branches.mount();
    mknod(&union.at("null"), FileType::CharacterDevice, (1, 3));
    let mut zeroes = [1; 16];
    File::open(union.at("zero")).unwrap().read_exact_at(&mut zeroes, 0).unwrap();
    assert_eq!(zeroes, [0; 16]);
    OpenOptions::new().write(true).open(union.at("null")).unwrap().write_all(b"gone").unwrap();
    assert!(fs::metadata(branches.upper("null")).unwrap().file_type().is_char_device());
    // A device of this number is a whiteout to overlayfs, but not here.
    mknod(&union.at("none"), FileType::CharacterDevice, (0, 0));
    assert!(fs::metadata(union.at("none")).unwrap().file_type().is_char_device());
}

pub(crate) fn fifos_and_sockets_carry_data(mode: Mode) {
    let branches = Branches::two(mode);
    crate::common::files::mkfifo(branches.lower("fifo"));
    let union = branches.mount();
    let path = union.at("fifo");
    let writer = std::thread::spawn(move || fs::write(path, "through").unwrap());
    assert_eq!(read(union.at("fifo")), "through");
    writer.join().unwrap();
    // A socket's address is short, so by a descriptor.
    let dir = File::open(union.root()).unwrap();
    let address = format!("/proc/self/fd/{}/socket", std::os::fd::AsRawFd::as_raw_fd(&dir));
    let listener = std::os::unix::net::UnixListener::bind(&address).unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(&address).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let text = std::io::read_to_string(listener.accept().unwrap().0).unwrap();
    assert_eq!(text, "hello");
}

pub(crate) fn what_a_user_makes_is_the_users(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("open"));
    chmod(branches.lower("open"), 0o1777);
    mkdir(&branches.lower("group"));
    chown(branches.lower("group"), 0, 44);
    chmod(branches.lower("group"), 0o2777);
    let union = branches.mount();
    let script = "umask 027; for d in open group; do touch $d/file; mkdir $d/dir; mkfifo $d/fifo; ln -s x $d/link; done";
    let output = as_nobody(script, union.root());
    assert!(output.status.success(), "{output:?}");
    for (name, mode) in [("file", 0o640), ("dir", 0o750), ("fifo", 0o640)] {
        let meta = fs::symlink_metadata(union.at("open").join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (NOBODY, NOBODY, mode), "{name}");
        let meta = fs::symlink_metadata(union.at("group").join(name)).unwrap();
        let mode = if name == "dir" { mode | 0o2000 } else { mode };
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (NOBODY, 44, mode), "{name} of a group");
    }
    let link = fs::symlink_metadata(union.at("open/link")).unwrap();
    assert_eq!((link.uid(), link.gid()), (NOBODY, NOBODY));
    assert!(!as_nobody("touch new", union.root()).status.success());
    write(union.at("open/roots"), "");
    assert!(!as_nobody("rm -f open/roots", union.root()).status.success(), "sticky");
    assert!(as_nobody("rm -f open/file", union.root()).status.success());
}

pub(crate) fn who_may_not_read_below_may_not_read(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    write(branches.lower("secret"), "x");
    chmod(branches.lower("secret"), 0o600);
    // The permissions of a directory are those of the topmost.
    for (number, mode) in [(1, 0o755), (2, 0o700)] {
        mkdir(&branches.path(number).join("dir"));
        write(branches.path(number).join(format!("dir/{number}")), "x");
        chmod(branches.path(number).join("dir"), mode);
    }
    let union = branches.mount();
    assert!(!as_nobody("cat secret", union.root()).status.success());
    assert!(!as_nobody("echo > secret", union.root()).status.success());
    assert!(as_nobody("cat dir/1 dir/2", union.root()).status.success());
    assert_eq!(names_of_branch(branches.path(0)), Vec::<String>::new());
}

pub(crate) fn acls_are_obeyed_and_inherited(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("allowed"), "x");
    chmod(branches.lower("allowed"), 0o600);
    mkdir(&branches.lower("dir"));
    set_xattr(branches.lower("dir"), "system.posix_acl_default", &for_nobody(6));
    set_xattr(branches.lower("dir"), "system.posix_acl_access", &for_nobody(7));
    let union = branches.mount();
    assert!(!as_nobody("cat allowed", union.root()).status.success());
    set_xattr(union.at("allowed"), "system.posix_acl_access", &for_nobody(4));
    let output = as_nobody("cat allowed", union.root());
    assert!(output.status.success(), "{output:?}");
    assert!(exists(branches.upper("allowed")));
    assert!(!as_nobody("echo > allowed", union.root()).status.success());
    // By a default ACL, whatever the umask.
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; touch dir/file; mkdir dir/sub"]).current_dir(union.root());
    assert!(shell.status().unwrap().success());
    assert_eq!(xattr(union.at("dir/sub"), "system.posix_acl_default").unwrap(), for_nobody(6));
    assert_eq!(xattr(branches.upper("dir"), "system.posix_acl_default").unwrap(), for_nobody(6));
    assert_eq!(fs::metadata(union.at("dir/file")).unwrap().mode() & 0o777, 0o660);
    assert!(as_nobody("echo new > dir/file && cat dir/file", union.root()).status.success());
    // A mode sets the mask of an ACL, and an ACL without more than a mode is none.
    chmod(union.at("dir/file"), 0o600);
    assert!(!as_nobody("cat dir/file", union.root()).status.success());
    lremovexattr(union.at("dir"), "system.posix_acl_default").unwrap();
    write(union.at("dir/plain"), "");
    assert_eq!(xattr(union.at("dir/plain"), "system.posix_acl_access").refusal(), Errno::NODATA);
}

pub(crate) fn attributes_are_set_listed_and_removed(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "x");
    mkdir(&branches.lower("dir"));
    symlink("x", branches.lower("link"));
    set_xattr(branches.lower("file"), "user.below", b"1");
    let union = branches.mount();
    let list = |name: &str| {
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(union.at(name), &mut *list).unwrap();
        list.truncate(length);
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<String> = names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
        names.sort();
        names
    };
    let file = union.at("file");
    assert_eq!(list("file"), ["user.below"]);
    assert_eq!(lsetxattr(&file, "user.below", b"2", XattrFlags::CREATE).refusal(), Errno::EXIST);
    assert_eq!(lsetxattr(&file, "user.none", b"2", XattrFlags::REPLACE).refusal(), Errno::NODATA);
    assert_eq!(lremovexattr(&file, "user.none").refusal(), Errno::NODATA);
    assert_eq!(names_of_branch(branches.path(0)), Vec::<String>::new());
    lsetxattr(&file, "user.below", b"22", XattrFlags::REPLACE).unwrap();
    lsetxattr(&file, "user.new", b"3", XattrFlags::CREATE).unwrap();
    assert_eq!(list("file"), ["user.below", "user.new"]);
    assert_eq!(lgetxattr(&file, "user.below", &mut [0u8; 1][..]).refusal(), Errno::RANGE);
    assert_eq!(lgetxattr_query(&file, "user.below"), Ok(2));
    lremovexattr(&file, "user.below").unwrap();
    assert_eq!(lremovexattr(&file, "user.below").refusal(), Errno::NODATA);
    assert_eq!(list("file"), ["user.new"]);
    assert_eq!(xattr(branches.lower("file"), "user.below").unwrap(), b"1");
    set_xattr(union.at("dir"), "trusted.x", b"d");
    set_xattr(union.at("link"), "trusted.x", b"l");
    assert_eq!(list("dir"), ["trusted.x"]);
    assert_eq!(xattr(branches.upper("link"), "trusted.x").unwrap(), b"l");
    assert_eq!(lsetxattr(union.at("link"), "user.x", b"", XattrFlags::empty()).refusal(), Errno::PERM);
}

pub(crate) fn capabilities_are_kept_and_lost_at_a_write(mode: Mode) {
    let branches = Branches::two(mode);
    let capabilities = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    fs::copy("/bin/cat", branches.lower("cat")).unwrap();
    set_xattr(branches.lower("cat"), "security.capability", capabilities);
    let union = branches.mount();
    assert_eq!(xattr(union.at("cat"), "security.capability").unwrap(), capabilities);
    set_xattr(union.at("cat"), "user.x", b"1");
    assert_eq!(xattr(branches.upper("cat"), "security.capability").unwrap(), capabilities);
    crate::common::files::append(union.at("cat"), "x");
    assert_eq!(xattr(union.at("cat"), "security.capability").refusal(), Errno::NODATA);
}

pub(crate) fn the_space_is_that_of_the_writable_branch(mode: Mode) {
    let branches = Branches::two(mode);
    let small = Volume::tmpfs(branches.path(0), 4096);
    let union = branches.mount();
    let (shown, expected) = (statvfs(union.root()).unwrap(), statvfs(small.path()).unwrap());
    assert_eq!((shown.f_blocks * shown.f_frsize), (expected.f_blocks * expected.f_frsize));
    assert_eq!((shown.f_bfree * shown.f_frsize), (expected.f_bfree * expected.f_frsize));
    assert_eq!(shown.f_files, expected.f_files);
}

pub(crate) fn a_union_without_a_writable_branch_is_read_only(mode: Mode) {
    let branches = Branches::new(mode, &["ro+wh", "ro+wh"]);
    write(branches.lower("file"), "x");
    mkdir(&branches.lower("dir"));
    let before = [branches.path(0), branches.path(1)].map(crate::common::files::names);
    let union = branches.mount();
    assert_eq!(read(union.at("file")), "x");
    assert_eq!(fs::write(union.at("file"), "y").refusal(), Errno::ROFS);
    assert_eq!(fs::create_dir(union.at("new")).refusal(), Errno::ROFS);
    assert_eq!(fs::remove_file(union.at("file")).refusal(), Errno::ROFS);
    assert_eq!(fs::rename(union.at("file"), union.at("b")).refusal(), Errno::ROFS);
    assert_eq!(std::os::unix::fs::chown(union.at("dir"), Some(1), None).refusal(), Errno::ROFS);
    let made = rustix::fs::mknodat(CWD, union.at("x"), FileType::Fifo, RawMode::RUSR, 0);
    assert_eq!(made.refusal(), Errno::ROFS);
    union.unmount();
    assert_eq!([branches.path(0), branches.path(1)].map(crate::common::files::names), before);
}

pub(crate) fn times_are_set_to_the_nanosecond(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "x");
    mkdir(&branches.lower("dir"));
    symlink("x", branches.lower("link"));
    let union = branches.mount();
    for name in ["file", "dir", "link"] {
        crate::common::files::set_times(union.at(name), 1_234_567_890, 4_000_000_000);
        let meta = fs::symlink_metadata(union.at(name)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (4_000_000_000, 123_456_789), "{name}");
        assert_eq!((meta.atime(), meta.atime_nsec()), (1_234_567_890, 123_456_789), "{name}");
        let meta = fs::symlink_metadata(branches.upper(name)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (4_000_000_000, 123_456_789), "{name}");
    }
}

//! Names: those that AUFS keeps for itself, long ones, and any bytes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode as RawMode, RenameFlags, mknodat, statvfs};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, exists, mkdir, name, names, names_of_branch, read, rename_with, symlink, write,
};
use crate::common::{Branches, Mode, Union};

/// Every call that takes the name at `path`, with what it answers. `file` and `dir` exist in the union.
fn answers(union: &Union, path: &Path) -> Vec<(&'static str, Errno)> {
    let (file, dir) = (union.at("file"), union.at("dir"));
    let nothing = RenameFlags::empty();
    vec![
        ("stat", fs::symlink_metadata(path).refusal()),
        ("open", File::open(path).refusal()),
        ("create", File::create(path).refusal()),
        ("mkdir", fs::create_dir(path).refusal()),
        ("symlink", std::os::unix::fs::symlink("x", path).refusal()),
        ("mkfifo", mknodat(CWD, path, FileType::Fifo, RawMode::RUSR, 0).refusal()),
        ("link to", fs::hard_link(&file, path).refusal()),
        ("link from", fs::hard_link(path, union.at("other")).refusal()),
        ("rename to", rename_with(&file, path, nothing).refusal()),
        ("rename a directory to", rename_with(&dir, path, nothing).refusal()),
        ("rename from", rename_with(path, &union.at("other"), nothing).refusal()),
        ("exchange", rename_with(&file, path, RenameFlags::EXCHANGE).refusal()),
        ("unlink", fs::remove_file(path).refusal()),
        ("rmdir", fs::remove_dir(path).refusal()),
        ("truncate", fs::OpenOptions::new().write(true).open(path).refusal()),
        ("list attributes", rustix::fs::llistxattr(path, &mut [0u8; 64][..]).refusal()),
    ]
}

fn file_and_dir(branches: &Branches) {
    write(branches.lower("file"), "below");
    mkdir(&branches.lower("dir"));
}

pub(crate) fn those_that_begin_as_whiteouts_are_refused(mode: Mode) {
    let branches = Branches::two(mode);
    file_and_dir(&branches);
    write(branches.lower(".wh.gone"), "");
    write(branches.lower("dir/.wh..wh..opq"), "");
    let union = branches.mount();
    let refused =
        [".wh.", ".wh.new", ".wh.gone", ".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph", ".wh..wh..opq"];
    for name in refused.into_iter().chain(["dir/.wh.new", "dir/.wh..wh..opq"]) {
        for (call, answer) in answers(&union, &union.at(name)) {
            assert_eq!(answer, Errno::PERM, "{call} {name}");
        }
    }
    assert_eq!(names(union.root()), ["dir", "file"]);
    assert_eq!(names(union.at("dir")), Vec::<String>::new());
    // What only looks alike is a name as any other.
    for name in [".wh", ".whx", "wh.x", ".WH.x", "x.wh."] {
        write(union.at(name), name);
        assert_eq!(read(branches.upper(name)), name);
    }
}

pub(crate) fn those_over_242_bytes_are_too_long(mode: Mode) {
    let branches = Branches::two(mode);
    file_and_dir(&branches);
    let union = branches.mount();
    assert_eq!(statvfs(union.root()).unwrap().f_namemax, 242);
    for length in [243, 255] {
        for place in ["", "dir"] {
            let path = union.at(place).join("n".repeat(length));
            for (call, answer) in answers(&union, &path) {
                assert_eq!(answer, Errno::NAMETOOLONG, "{call} a name of {length} bytes");
            }
        }
    }
    assert_eq!(names(union.root()), ["dir", "file"]);
}

pub(crate) fn those_of_242_bytes_do_everything(mode: Mode) {
    let branches = Branches::two(mode);
    let [below, new, moved, dir] = ["b", "n", "m", "d"].map(|letter| letter.repeat(242));
    write(branches.lower(&below), "below");
    let union = branches.mount();
    write(union.at(&new), "new");
    fs::rename(union.at(&new), union.at(&moved)).unwrap();
    fs::create_dir(union.at(&dir)).unwrap();
    fs::remove_dir(union.at(&dir)).unwrap();
    assert_eq!(read(union.at(&below)), "below");
    fs::remove_file(union.at(&below)).unwrap();
    assert_eq!(names(union.root()), std::slice::from_ref(&moved));
    assert_eq!(names_of_branch(branches.path(0)), [format!(".wh.{below}"), moved]);
}

pub(crate) fn a_branch_may_hold_names_that_are_too_long(mode: Mode) {
    let branches = Branches::two(mode);
    let long = "l".repeat(250);
    write(branches.lower(&long), "");
    write(branches.lower("short"), "");
    let union = branches.mount();
    assert!(names(union.root()).contains(&"short".to_owned()));
    assert_eq!(fs::symlink_metadata(union.at(long)).refusal(), Errno::NAMETOOLONG);
}

/// Names that are no UTF-8, or mean something to a shell, to a list of branches, or to `/proc/mounts`.
fn odd() -> Vec<OsString> {
    let odd: [&[u8]; 14] = [
        b"\xff\xfe",
        b"caf\xe9",
        b"\xc3\x28",
        b"...",
        b" ",
        b"\n",
        b"-rf",
        b"$(x)",
        b"\\040",
        b"a:b=rw",
        b"\x01\x7f",
        b"%s%n",
        b"\xe2\x80\xae",
        b",",
    ];
    odd.map(name).to_vec()
}

pub(crate) fn any_bytes_are_a_name(mode: Mode) {
    let branches = Branches::two(mode);
    for name in odd() {
        write(branches.lower(&name), name.as_bytes());
    }
    let union = branches.mount();
    let shown = names(branches.path(1));
    assert_eq!(names(union.root()), shown);
    mkdir(&union.at("new"));
    for name in odd() {
        let path = union.at(&name);
        assert_eq!(fs::read(&path).unwrap(), name.as_bytes());
        fs::rename(&path, union.at("new").join(&name)).unwrap();
        assert!(!exists(&path));
        let mut whiteout = OsString::from(".wh.");
        whiteout.push(&name);
        assert!(exists(branches.upper(whiteout)));
    }
    assert_eq!(names(union.at("new")), shown);
    assert_eq!(names(branches.upper("new")), shown);
    for name in odd() {
        write(union.at(&name), "again");
        fs::remove_file(union.at(&name)).unwrap();
        fs::remove_file(union.at("new").join(&name)).unwrap();
    }
    assert_eq!(names(union.root()), ["new"]);
    assert_eq!(names(branches.path(1)), shown);
}

pub(crate) fn any_bytes_are_a_target_of_a_link(mode: Mode) {
    let branches = Branches::two(mode);
    std::os::unix::fs::symlink(name(b"\xff/\n"), branches.lower("link")).unwrap();
    symlink("a".repeat(4000).as_str(), branches.lower("long"));
    let union = branches.mount();
    assert_eq!(fs::read_link(union.at("link")).unwrap().as_os_str(), name(b"\xff/\n"));
    fs::rename(union.at("link"), union.at("moved")).unwrap();
    assert_eq!(fs::read_link(branches.upper("moved")).unwrap().as_os_str(), name(b"\xff/\n"));
    assert_eq!(fs::read_link(union.at("long")).unwrap().as_os_str().len(), 4000);
}

//! What a union takes of the machine, how many branches it may have, and how it starts and ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rustix::io::Errno;

use crate::common::files::{Refusable, exists, mkdir, names, read, write};
use crate::common::{Branches, Mode, Union, Volume};

/// What a known file may cost the server, in bytes.
const MEMORY_OF_A_FILE: u64 = 700;

/// A volume of files without content, which is deleted without a walk.
fn files_below(branches: &Branches, dirs: usize, files: usize) -> Volume {
    let volume = Volume::tmpfs(branches.path(1), 2 << 20);
    for dir in 0..dirs {
        let path = volume.path().join(format!("dir-{dir}"));
        fs::create_dir(&path).unwrap();
        for file in 0..files {
            File::create(path.join(format!("a file of some name {file}"))).unwrap();
        }
    }
    volume
}

/// Stats every file once, in the order of the listing.
fn walk(dir: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        found += if meta.is_dir() { walk(&path) } else { 1 };
    }
    found
}

fn descriptors(union: &Union) -> usize {
    fs::read_dir(union.process().join("fd")).unwrap().count()
}

/// In bytes.
fn memory(union: &Union) -> u64 {
    let status = fs::read_to_string(union.process().join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

pub(crate) fn few_descriptors_carry_many_files(mode: Mode) {
    let branches = Branches::two(mode);
    let _volume = files_below(&branches, 600, 20);
    let union = branches.mount_with_descriptors(256);
    assert_eq!(walk(union.root()), 600 * 20);
    assert!(descriptors(&union) < 200, "{} descriptors", descriptors(&union));
    for dir in 0..600 {
        let dir = union.at(format!("dir-{dir}"));
        write(dir.join("a file of some name 7"), "copied up");
        fs::remove_file(dir.join("a file of some name 8")).unwrap();
    }
    assert_eq!(walk(union.root()), 600 * 19);
    assert!(descriptors(&union) < 200, "{} descriptors", descriptors(&union));
    // Who opens too many files is told so, and all is well when they are closed.
    let open: Vec<_> =
        (0..400).map(|dir| File::open(union.at(format!("dir-{dir}/a file of some name 3")))).collect();
    for file in &open {
        assert!(file.as_ref().map_or_else(|error| error.raw_os_error() == Some(24), |_| true), "{file:?}");
    }
    drop(open);
    assert_eq!(read(union.at("dir-5/a file of some name 7")), "copied up");
    assert_eq!(walk(union.root()), 600 * 19);
}

/// So many files that no descriptor of each could be held: `MICA_LONG_TESTS` makes them 200,000.
pub(crate) fn memory_and_descriptors_are_bounded(mode: Mode) {
    let dirs = if std::env::var_os("MICA_LONG_TESTS").is_some() { 2000 } else { 200 };
    let branches = Branches::two(mode);
    let _volume = files_below(&branches, dirs, 100);
    let union = branches.mount();
    fs::read_dir(union.root()).unwrap().count();
    let before = memory(&union);
    let started = Instant::now();
    assert_eq!(walk(union.root()), dirs * 100);
    let (took, each) = (started.elapsed(), memory(&union).saturating_sub(before) / (dirs as u64 * 100));
    println!("{} files: {each} bytes each, {} descriptors, {took:?}", dirs * 100, descriptors(&union));
    assert!(each <= MEMORY_OF_A_FILE, "{each} bytes for each known file");
    assert!(descriptors(&union) < 6000, "{} descriptors", descriptors(&union));
}

fn many_branches(mode: Mode, count: usize) {
    let mut attributes = vec!["ro+wh"; count];
    attributes[0] = "rw";
    let branches = Branches::new(mode, &attributes);
    for number in 0..count {
        let path = branches.path(number);
        mkdir(&path.join("dir"));
        write(path.join(format!("dir/{number}")), number.to_string());
        write(path.join("dir/all"), number.to_string());
        if number > 0 && number % 10 == 0 {
            write(path.join(format!("dir/.wh.{}", number + 1)), "");
        }
    }
    let union = branches.mount();
    let expected = (0..count).filter(|number| *number < 11 || number % 10 != 1).count() + 1;
    assert_eq!(names(union.at("dir")).len(), expected);
    assert_eq!(read(union.at("dir/all")), "0");
    for number in [1, count / 2 / 10 * 10, count - 2] {
        assert_eq!(read(union.at(format!("dir/{number}"))), number.to_string());
    }
    assert_eq!(File::open(union.at("dir/21")).refusal(), Errno::NOENT);
    let deepest = union.at(format!("dir/{}", count - 2));
    crate::common::files::append(&deepest, "+");
    assert_eq!(read(branches.path(0).join(format!("dir/{}", count - 2))), format!("{}+", count - 2));
    fs::remove_file(union.at("dir/all")).unwrap();
    assert_eq!(fs::rename(union.at("dir"), union.at("moved")).refusal(), Errno::XDEV);
    fs::remove_dir_all(union.at("dir")).unwrap();
    assert_eq!(names(union.root()), Vec::<String>::new());
}

pub(crate) fn there_can_be_127_branches(mode: Mode) {
    many_branches(mode, 127);
}

pub(crate) fn there_can_be_300_branches(mode: Mode) {
    many_branches(mode, 300);
}

pub(crate) fn one_branch_alone_is_a_union(mode: Mode) {
    let branches = Branches::new(mode, &["rw"]);
    write(branches.path(0).join("old"), "old");
    let union = branches.mount();
    write(union.at("new"), "new");
    fs::rename(union.at("old"), union.at("moved")).unwrap();
    assert_eq!(names(union.root()), ["moved", "new"]);
    fs::remove_file(union.at("moved")).unwrap();
    union.unmount();
    assert_eq!(crate::common::files::names_of_branch(branches.path(0)), ["new"]);
}

pub(crate) fn what_is_asked_wrongly_is_refused_by_name(mode: Mode) {
    let branches = Branches::two(mode);
    let (a, b) = (branches.path(0), branches.path(1));
    let (a, b, target) = (a.display(), b.display(), branches.target());
    let cases = [
        (format!("br:{a}=rw:{b}=ro+wh"), "frobnicate", "frobnicate"),
        (format!("br:{a}=rw:{b}=ro+wh"), "dio,xyz=1", "xyz"),
        (format!("br:{a}=rw:{b}=sometimes"), "", "sometimes"),
        (format!("br:{a}=rw:{b}/none=ro+wh"), "", "/none"),
        (format!("br:{b}=ro:{a}=rw"), "", "only the first one can"),
        ("br:".to_owned(), "", "br"),
    ];
    for (list, options, named) in cases {
        let mut words = vec![OsStr::new(&list), target.as_os_str()];
        if !options.is_empty() {
            words.extend([OsStr::new("-o"), OsStr::new(options)]);
        }
        let told = branches.refused(&words);
        assert!(told.contains(named), "{list} {options}: {told:?}");
        assert!(told.lines().count() <= 2, "{told}");
    }
    assert_eq!(names(target), Vec::<String>::new());
}

pub(crate) fn options_of_old_mounts_are_taken(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    let union = branches.mount_with("dio,xino=/dev/shm/aufs.xino,dirperm1,plink,udba=reval,noatime");
    assert_eq!(read(union.at("a")), "below");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(union.root().to_str().unwrap())).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    assert!(words[2].starts_with("fuse."), "{line}");
    assert!(!words[3].contains("nosuid") && !words[3].contains("nodev"), "{line}");
}

pub(crate) fn without_its_server_a_union_is_not_connected(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    let (union, other) = (branches.mount(), Branches::two(mode));
    let others = other.mount();
    let open = File::open(union.at("a")).unwrap();
    union.kill();
    assert_eq!(fs::symlink_metadata(union.at("b")).refusal(), Errno::NOTCONN);
    assert_eq!(fs::write(union.at("c"), "x").refusal(), Errno::NOTCONN);
    drop(open);
    write(others.at("mine"), "works");
    assert_eq!(read(others.at("mine")), "works");
    drop(union);
    // The branches are as they were, and can be mounted again.
    assert_eq!(read(branches.mount().at("a")), "below");
}

pub(crate) fn the_server_ends_with_the_mount(mode: Mode) {
    let branches = Branches::two(mode);
    let union = branches.mount();
    let process = union.process();
    let open = File::open(union.root()).unwrap();
    assert_eq!(
        rustix::mount::unmount(union.root(), rustix::mount::UnmountFlags::empty()).refusal(),
        Errno::BUSY
    );
    drop(open);
    union.unmount();
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    assert!(status.is_empty() || status.contains("Z (zombie)"), "{status}");
    assert_eq!(names(branches.target()), Vec::<String>::new());
}

pub(crate) fn mount_can_make_it_read_only_and_back(mode: Mode) {
    let branches = Branches::two(mode);
    let union = branches.mount();
    let remount = |how: &str| {
        // As mount(8) calls it.
        let mut mount = Command::new(env!("CARGO_BIN_EXE_mica-aufs"));
        mount.arg("none").arg(union.root()).args(["-o", &format!("rw,remount,user_id=0,allow_other,{how}")]);
        let output = mount.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    remount("ro");
    assert_eq!(fs::write(union.at("a"), "").refusal(), Errno::ROFS);
    remount("rw");
    write(union.at("a"), "x");
    assert!(exists(branches.upper("a")));
}

pub(crate) fn the_server_gives_up_the_rights_that_it_does_not_need(mode: Mode) {
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, SYS_ADMIN, MKNOD, SETFCAP.
    let needed = [0, 1, 2, 3, 4, 9, 21, 27, 31].map(|bit| 1u64 << bit).iter().sum::<u64>();
    let branches = Branches::two(mode);
    let union = branches.mount();
    let status = fs::read_to_string(union.process().join("status")).unwrap();
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        let has = u64::from_str_radix(line.trim(), 16).unwrap();
        assert_eq!(has & !needed, 0, "{set} {has:x}");
    }
}

pub(crate) fn many_creates_in_one_directory_stay_cheap(mode: Mode) {
    let branches = Branches::two(mode);
    let _volume = Volume::tmpfs(branches.path(0), 1 << 20);
    let union = branches.mount();
    let mut made = 0..;
    let mut time_of = |count: usize| {
        let started = Instant::now();
        for number in made.by_ref().take(count) {
            File::create(union.at(number.to_string())).unwrap();
        }
        started.elapsed()
    };
    let (first, _, last) = (time_of(1000), time_of(4000), time_of(1000));
    assert!(last < first * 4, "the first thousand took {first:?}, the sixth {last:?}");
    assert_eq!(names(union.root()).len(), 6000);
}

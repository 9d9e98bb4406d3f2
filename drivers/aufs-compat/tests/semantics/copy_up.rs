//! What is copied up, when, and what with.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mica_conformance::tree::Times;
use rustix::fs::{FallocateFlags, FileType, OFlags, fallocate};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, append, chmod, chown, exists, inode, mkdir, mkfifo, mknod, names, names_of_branch, noise,
    read, set_times, set_xattr, symlink, write, xattr,
};
use crate::common::sys::Mapping;
use crate::common::{Branches, Mode, Volume};

/// Attributes of every kind that a file can have; the last two are an ACL and capabilities.
const ATTRIBUTES: [(&str, &[u8]); 5] = [
    ("user.one", b"1\0\xff"),
    ("user.empty", b""),
    ("trusted.two", b"2"),
    (
        "system.posix_acl_access",
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x02\0\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
    ),
    ("security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
];

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

pub(crate) fn opening_for_writing_copies_nothing(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    let union = branches.mount();
    let file = open(&union.at("a"));
    let other = OpenOptions::new().append(true).open(union.at("a")).unwrap();
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"below");
    drop((file, other));
    assert_eq!(names_of_branch(branches.path(0)), Vec::<String>::new());
}

/// A change of a file of a lower branch, and what it holds then.
type Change = (&'static str, fn(&Path), &'static str);

const CHANGES: [Change; 13] = [
    ("write", |path| open(path).write_all_at(b"B", 0).unwrap(), "Below"),
    ("append", |path| append(path, "!"), "below!"),
    ("truncate", |path| rustix::fs::ftruncate(open(path), 2).unwrap(), "be"),
    ("extend", |path| open(path).set_len(7).unwrap(), "below\0\0"),
    ("open with O_TRUNC", |path| drop(File::create(path).unwrap()), ""),
    ("chmod", |path| chmod(path, 0o600), "below"),
    ("chown", |path| chown(path, 7, 8), "below"),
    ("utimes", |path| set_times(path, 1, 2), "below"),
    ("setxattr", |path| set_xattr(path, "user.x", b"y"), "below"),
    ("link", |path| fs::hard_link(path, path.with_file_name("name")).unwrap(), "below"),
    ("fallocate", |path| fallocate(open(path), FallocateFlags::empty(), 0, 6).unwrap(), "below\0"),
    (
        "punch",
        |path| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(open(path), flags, 1, 3).unwrap();
        },
        "b\0\0\0w",
    ),
    (
        "mmap",
        |path| {
            let mapping = Mapping::write(&open(path));
            mapping.put(0, b"BEL");
            mapping.sync();
        },
        "BELow",
    ),
];

pub(crate) fn each_change_copies_and_leaves_the_lower_file(mode: Mode) {
    for (what, change, content) in CHANGES {
        let branches = Branches::two(mode);
        mkdir(&branches.lower("dir"));
        write(branches.lower("dir/file"), "below");
        set_times(branches.lower("dir/file"), 1000, 2000);
        let lower = branches.all_lower();
        let union = branches.mount();
        change(&union.at("dir/file"));
        assert_eq!(read(union.at("dir/file")), content, "{what}");
        assert_eq!(read(branches.upper("dir/file")), content, "{what}, in the branch");
        assert_eq!(branches.all_lower(), lower, "{what}");
        let before = union.snapshot();
        union.unmount();
        branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
        assert_eq!(names(branches.upper(".wh..wh.orph")), Vec::<String>::new(), "{what}");
    }
}

pub(crate) fn attributes_and_times_go_with_the_content(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("a/b"));
    let file = branches.lower("a/b/file");
    write(&file, noise(100_000, 1));
    for path in [&file, &branches.lower("a/b"), &branches.lower("a")] {
        chown(path, 11, 12);
        chmod(path, if path == &file { 0o6640 } else { 0o1771 });
        for (name, value) in ATTRIBUTES.iter().take(if path == &file { 5 } else { 4 }) {
            set_xattr(path, name, value);
        }
        set_times(path, 1_000_000_000, 1_100_000_000);
    }
    let below = branches.all_lower();
    let union = branches.mount();
    rustix::fs::lsetxattr(union.at("a/b/file"), "user.new", b"", rustix::fs::XattrFlags::CREATE).unwrap();
    assert!(exists(branches.upper("a/b/file")));
    rustix::fs::lremovexattr(branches.upper("a/b/file"), "user.new").unwrap();
    for (name, value) in ATTRIBUTES {
        assert_eq!(xattr(branches.upper("a/b/file"), name).unwrap(), value, "{name}");
    }
    let upper = mica_conformance::tree::Snapshot::of(&branches.path(0)).unwrap();
    for path in ["a", "a/b", "a/b/file"] {
        let (mut found, mut expected) =
            (upper.nodes[Path::new(path)].clone(), below[0].nodes[Path::new(path)].clone());
        (found.inode, expected.inode) = (0, 0);
        assert_eq!(found, expected, "{path}");
    }
    let accessed = fs::metadata(branches.upper("a/b")).unwrap().atime();
    assert!(accessed >= 1_000_000_000);
}

pub(crate) fn the_directories_above_keep_their_times(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("a/b"));
    write(branches.lower("a/b/file"), "x");
    for path in ["a/b", "a"] {
        set_times(branches.lower(path), 1000, 2000);
    }
    let union = branches.mount();
    let root = fs::metadata(union.root()).unwrap();
    append(union.at("a/b/file"), "y");
    for path in ["a/b", "a"] {
        assert_eq!(fs::metadata(union.at(path)).unwrap().mtime(), 2000, "{path}");
    }
    let again = fs::metadata(union.root()).unwrap();
    assert_eq!((again.mtime(), again.mtime_nsec()), (root.mtime(), root.mtime_nsec()));
}

pub(crate) fn other_kinds_are_copied_as_what_they_are(mode: Mode) {
    let branches = Branches::two(mode);
    symlink("somewhere/\u{e9}", branches.lower("link"));
    mkfifo(branches.lower("fifo"));
    mknod(&branches.lower("char"), FileType::CharacterDevice, (1, 7));
    mknod(&branches.lower("block"), FileType::BlockDevice, (7, 200));
    mknod(&branches.lower("socket"), FileType::Socket, (0, 0));
    mknod(&branches.lower("zero"), FileType::CharacterDevice, (0, 0));
    let all = ["link", "fifo", "char", "block", "socket", "zero"];
    for name in all {
        set_xattr(branches.lower(name), "trusted.x", name.as_bytes());
    }
    let union = branches.mount();
    let below = fs::read_dir(branches.path(1)).unwrap().count();
    for name in all {
        let was = fs::symlink_metadata(union.at(name)).unwrap();
        chown(union.at(name), 5, 6);
        let is = fs::symlink_metadata(branches.upper(name)).unwrap();
        assert_eq!((was.mode(), was.rdev()), (is.mode(), is.rdev()), "{name}");
        assert_eq!((was.mtime(), was.mtime_nsec()), (is.mtime(), is.mtime_nsec()), "{name}");
        assert_eq!(xattr(branches.upper(name), "trusted.x").unwrap(), name.as_bytes());
        assert_eq!(fs::symlink_metadata(union.at(name)).unwrap().uid(), 5);
        fs::rename(union.at(name), union.at(format!("{name}-moved"))).unwrap();
    }
    assert_eq!(fs::read_link(union.at("link-moved")).unwrap().to_str(), Some("somewhere/\u{e9}"));
    assert_eq!(fs::read_dir(branches.path(1)).unwrap().count(), below);
}

pub(crate) fn holes_stay_holes(mode: Mode) {
    let branches = Branches::two(mode);
    let file = File::create(branches.lower("sparse")).unwrap();
    file.set_len(4 << 30).unwrap();
    file.write_all_at(&[1; 4096], 1 << 30).unwrap();
    file.write_all_at(&[2; 4096], 3 << 30).unwrap();
    drop(file);
    let union = branches.mount();
    open(&union.at("sparse")).write_all_at(&[3; 4096], 2 << 30).unwrap();
    let upper = fs::metadata(branches.upper("sparse")).unwrap();
    assert_eq!(upper.len(), 4 << 30);
    assert!(upper.blocks() * 512 <= 1 << 20, "{} blocks", upper.blocks());
    let file = File::open(union.at("sparse")).unwrap();
    for (gigabyte, byte) in [(0, 0), (1, 1), (2, 3), (3, 2)] {
        let mut found = [9; 4096];
        file.read_exact_at(&mut found, gigabyte << 30).unwrap();
        assert!(found.iter().all(|&found| found == byte), "at {gigabyte} GiB");
    }
}

pub(crate) fn truncation_copies_only_what_stays(mode: Mode) {
    let branches = Branches::two(mode);
    let small = Volume::tmpfs(branches.path(0), 1024);
    let content = noise(8 << 20, 3);
    write(branches.lower("big"), &content);
    write(branches.lower("other"), &content);
    let union = branches.mount();
    // The branch has no room for the whole of it.
    open(&union.at("big")).set_len(1000).unwrap();
    assert_eq!(fs::read(union.at("big")).unwrap(), &content[..1000]);
    write(union.at("other"), "new");
    assert_eq!(read(small.path().join("other")), "new");
}

pub(crate) fn a_full_disk_leaves_nothing(mode: Mode) {
    let branches = Branches::two(mode);
    let small = Volume::tmpfs(branches.path(0), 2048);
    mkdir(&branches.lower("dir"));
    write(branches.lower("dir/big"), noise(8 << 20, 4));
    let union = branches.mount();
    let reader = File::open(union.at("dir/big")).unwrap();
    let writer = open(&union.at("dir/big"));
    for _ in 0..3 {
        assert_eq!(writer.write_all_at(b"x", 0).refusal(), Errno::NOSPC);
        assert_eq!(
            fs::set_permissions(union.at("dir/big"), Permissions::from_mode(0o600)).refusal(),
            Errno::NOSPC
        );
        assert_eq!(fs::rename(union.at("dir/big"), union.at("moved")).refusal(), Errno::NOSPC);
    }
    assert!(!exists(small.path().join("dir/big")));
    assert_eq!(names(small.path().join(".wh..wh.orph")), Vec::<String>::new());
    let free = rustix::fs::statvfs(small.path()).unwrap();
    assert!(free.f_bfree * 10 > free.f_blocks * 8, "{} of {} blocks are free", free.f_bfree, free.f_blocks);
    // All is as before, and works where there is room.
    assert_eq!(crate::common::files::content(&reader), noise(8 << 20, 4));
    assert_eq!(inode(union.at("dir/big")), reader.metadata().unwrap().ino());
    write(union.at("dir/small"), "fits");
    assert_eq!(fs::write(union.at("dir/new"), noise(8 << 20, 5)).refusal(), Errno::NOSPC);
    fs::remove_file(union.at("dir/new")).unwrap();
    // Only after the removal the kernel tells that nobody has the file any more.
    let since = Instant::now();
    while let Err(error) = writer.set_len(10) {
        assert!(error.kind() == ErrorKind::StorageFull && since.elapsed().as_secs() < 10, "{error}");
    }
    assert_eq!(crate::common::files::content(&reader), &noise(8 << 20, 4)[..10]);
}

/// Where there is room for content, but none for another file or name.
pub(crate) fn a_disk_that_takes_no_more_files_changes_nothing(mode: Mode) {
    let branches = Branches::two(mode);
    let small = Volume::with_files(branches.path(0), 4096, 40);
    mkdir(&branches.lower("dir/sub"));
    for name in ["file", "dir/file", "dir/sub/file", "linked"] {
        write(branches.lower(name), "below");
    }
    fs::hard_link(branches.lower("linked"), branches.lower("dir/linked")).unwrap();
    let union = branches.mount();
    mkdir(&union.at("new"));
    write(union.at("new/file"), "new");
    let fill =
        (0..).take_while(|number| File::create(small.path().join(format!("{number}"))).is_ok()).count();
    assert!(fill > 3);
    let before = union.snapshot();
    let refused = [
        fs::remove_file(union.at("file")),
        fs::remove_file(union.at("dir/sub/file")),
        fs::rename(union.at("file"), union.at("moved")),
        fs::rename(union.at("dir/file"), union.at("file")),
        fs::rename(union.at("new/file"), union.at("dir/sub/file")),
        fs::hard_link(union.at("file"), union.at("name")),
        fs::hard_link(union.at("new/file"), union.at("name")),
        fs::create_dir(union.at("made")),
        fs::write(union.at("made"), "x"),
        fs::write(union.at("dir/file"), "x"),
        fs::write(union.at("linked"), "x"),
        std::os::unix::fs::symlink("x", union.at("made")),
        fs::set_permissions(union.at("dir"), Permissions::from_mode(0o700)),
        rustix::fs::lsetxattr(union.at("file"), "user.x", b"1", rustix::fs::XattrFlags::empty())
            .map_err(Into::into),
    ];
    for (number, refused) in refused.into_iter().enumerate() {
        let error = refused.expect_err(&format!("number {number} was done"));
        assert_eq!(error.kind(), ErrorKind::StorageFull, "number {number}: {error}");
    }
    union.snapshot().expect(&before, Times::OfFiles).unwrap();
    assert_eq!(names(small.path().join(".wh..wh.orph")), Vec::<String>::new());
    for number in 0..fill {
        fs::remove_file(small.path().join(format!("{number}"))).unwrap();
    }
    fs::remove_file(union.at("file")).unwrap();
    fs::rename(union.at("dir/file"), union.at("file")).unwrap();
    append(union.at("linked"), "+");
    assert_eq!(read(union.at("dir/linked")), "below+");
}

pub(crate) fn who_reads_sees_what_is_written(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), vec![b'a'; 10_000]);
    let union = branches.mount();
    let path = union.at("file");
    let readers: Vec<File> = (0..3).map(|_| File::open(&path).unwrap()).collect();
    let mapped = Mapping::read(&readers[0]);
    assert_eq!(mapped.copy(5000, 1), b"a");
    let (one, other) = (open(&path), open(&path));
    let both = |at: u64| {
        let mut found = vec![mapped.copy(at as usize, 1)[0]];
        for reader in readers.iter().chain([&one, &other]) {
            let mut byte = [0];
            reader.read_exact_at(&mut byte, at).unwrap();
            found.push(byte[0]);
        }
        found
    };
    one.write_all_at(b"b", 5000).unwrap();
    assert_eq!(both(5000), [b'b'; 6]);
    other.write_all_at(b"c", 6000).unwrap();
    assert_eq!(both(6000), [b'c'; 6]);
    assert_eq!(both(5000), [b'b'; 6]);
    open(&path).write_all_at(b"d", 9999).unwrap();
    assert_eq!(both(9999), [b'd'; 6]);
    append(&path, "tail");
    for reader in &readers {
        assert_eq!(reader.metadata().unwrap().len(), 10_004);
        assert_eq!(&crate::common::files::content(reader)[10_000..], b"tail");
    }
    let late = File::open(&path).unwrap();
    assert_eq!(crate::common::files::content(&late), crate::common::files::content(&readers[2]));
}

pub(crate) fn with_stale_reads_who_has_it_open_keeps_the_old_content(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "below");
    let union = branches.mount_with("stale_reads");
    let reader = File::open(union.at("file")).unwrap();
    let writer = open(&union.at("file"));
    writer.write_all_at(b"B", 0).unwrap();
    let mut old = [0; 5];
    reader.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(read(union.at("file")), "Below");
    if mode == Mode::Passthrough {
        assert_eq!(&old, b"below");
    }
    for (text, expected) in [("+", "Below+"), ("!", "Below+!")] {
        append(union.at("file"), text);
        assert_eq!(read(union.at("file")), expected);
        assert_eq!(read(branches.upper("file")), expected);
    }
    writer.write_all_at(b"C", 0).unwrap();
    assert_eq!(read(union.at("file")), "Celow+!");
    drop((reader, writer));
    fs::rename(union.at("file"), union.at("moved")).unwrap();
    assert_eq!(read(union.at("moved")), "Celow+!");
}

pub(crate) fn a_position_and_its_flags_outlive_it(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "0123456789");
    let union = branches.mount();
    let mut writer = open(&union.at("file"));
    let mut appender = OpenOptions::new().append(true).open(union.at("file")).unwrap();
    writer.write_all(b"ab").unwrap();
    appender.write_all(b"!").unwrap();
    writer.write_all(b"cd").unwrap();
    appender.write_all(b"?").unwrap();
    assert_eq!(read(union.at("file")), "abcd456789!?");
    assert_eq!(File::open(union.at("file")).unwrap().write_all_at(b"x", 0).refusal(), Errno::BADF);
}

pub(crate) fn locks_and_watches_outlive_it(mode: Mode) {
    use rustix::fs::{FlockOperation, fcntl_lock, flock, inotify};
    let branches = Branches::two(mode);
    write(branches.lower("file"), "below");
    let union = branches.mount();
    let holder = open(&union.at("file"));
    flock(&holder, FlockOperation::LockExclusive).unwrap();
    fcntl_lock(&holder, FlockOperation::LockExclusive).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, union.at("file"), inotify::WatchFlags::MODIFY).unwrap();
    append(union.at("file"), "above");
    let late = open(&union.at("file"));
    assert_eq!(flock(&late, FlockOperation::NonBlockingLockExclusive).refusal(), Errno::WOULDBLOCK);
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    assert!(events.next().unwrap().events().contains(inotify::ReadFlags::MODIFY));
    drop(holder);
    flock(&late, FlockOperation::NonBlockingLockExclusive).unwrap();
}

pub(crate) fn what_runs_is_not_written(mode: Mode) {
    let branches = Branches::two(mode);
    fs::copy("/bin/sleep", branches.lower("sleep")).unwrap();
    fs::copy("/bin/sleep", branches.upper("above")).unwrap();
    let union = branches.mount();
    for name in ["sleep", "above"] {
        let mut child = std::process::Command::new(union.at(name)).arg("1000").spawn().unwrap();
        let opens =
            [OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::TRUNC, OFlags::RDONLY | OFlags::TRUNC];
        let opened = opens.map(|flags| rustix::fs::open(union.at(name), flags, rustix::fs::Mode::empty()));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        for (flags, opened) in opens.iter().zip(opened) {
            assert_eq!(opened.refusal(), Errno::TXTBSY, "{name}, {flags:?}");
        }
        assert_eq!(ended, None, "{name}");
        append(union.at(name), "x");
        assert!(std::process::Command::new(union.at(name)).arg("0").status().unwrap().success());
    }
}

pub(crate) fn a_change_time_moves_when_a_file_is_changed(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "below");
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    File::open(branches.lower("file")).unwrap().set_modified(long_ago).unwrap();
    let union = branches.mount();
    append(union.at("file"), "above");
    let modified = fs::metadata(union.at("file")).unwrap().modified().unwrap();
    assert!(modified > long_ago + Duration::from_secs(900));
}

pub(crate) fn big_files_come_up_whole(mode: Mode) {
    let branches = Branches::two(mode);
    let mut content = noise((5 << 20) + 123, 8);
    write(branches.lower("file"), &content);
    let union = branches.mount();
    let mut file = OpenOptions::new().append(true).open(union.at("file")).unwrap();
    file.write_all(b"end").unwrap();
    content.extend(b"end");
    assert!(fs::read(union.at("file")).unwrap() == content);
    assert!(fs::read(branches.upper("file")).unwrap() == content);
}

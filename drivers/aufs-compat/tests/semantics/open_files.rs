//! Files that are open: deleted, without a name, mapped, past the page cache.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, OFlags, copy_file_range, fadvise, fallocate, linkat};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, content, exists, inode, mkdir, names, names_of_branch, noise, read, set_xattr, write, xattr,
};
use crate::common::sys::Mapping;
use crate::common::{Branches, Mode, Union};

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// How much the server has read, in bytes. What it splices is not counted.
fn read_by_server(union: &Union) -> u64 {
    let io = fs::read_to_string(union.process().join("io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

pub(crate) fn the_kernel_reads_what_it_may_by_itself(mode: Mode) {
    if mode == Mode::Passthrough && !mica_mount::fuse_passthrough().unwrap() {
        eprintln!("skip: aufs-compat/passes-through: the kernel passes no file of FUSE through");
        return;
    }
    let branches = Branches::two(mode);
    write(branches.upper("above"), noise(1 << 20, 1));
    write(branches.lower("below"), noise(1 << 20, 2));
    for (name, options, by_kernel) in
        [("above", "", true), ("below", "", false), ("below", "ro", true), ("below", "stale_reads", true)]
    {
        let union = branches.mount_with(options);
        let before = read_by_server(&union);
        let file = File::open(union.at(name)).unwrap();
        fadvise(&file, 0, None, Advice::Random).unwrap();
        for page in 0..256 {
            file.read_exact_at(&mut [0; 4096], page * 4096).unwrap();
        }
        let asked = read_by_server(&union) - before;
        let by_kernel = by_kernel && mode == Mode::Passthrough;
        assert_eq!(asked < 256 << 10, by_kernel, "{name} with '{options}': {asked} bytes");
    }
}

pub(crate) fn a_deleted_file_can_be_used(mode: Mode) {
    for below in [true, false] {
        let branches = Branches::two(mode);
        write(branches.path(usize::from(below)).join("file"), "content");
        let lower = branches.all_lower();
        let union = branches.mount();
        let (reader, writer) = (File::open(union.at("file")).unwrap(), open(&union.at("file")));
        let number = reader.metadata().unwrap().ino();
        fs::remove_file(union.at("file")).unwrap();
        assert_eq!(content(&reader), b"content", "below: {below}");
        writer.write_all_at(b"C", 0).unwrap();
        writer.set_len(9).unwrap();
        writer.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        rustix::fs::fchown(&writer, None, Some(rustix::fs::Gid::from_raw(9))).unwrap();
        rustix::fs::fsetxattr(&writer, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let mut value = [0; 4];
        assert_eq!(rustix::fs::fgetxattr(&reader, "user.x", &mut value).unwrap(), 1);
        assert_eq!(content(&reader), b"Content\0\0");
        let meta = reader.metadata().unwrap();
        assert_eq!((meta.ino(), meta.nlink(), meta.mode() & 0o777, meta.gid()), (number, 0, 0o640, 9));
        let by_number = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let again = linkat(CWD, &by_number, CWD, union.at("again"), AtFlags::SYMLINK_FOLLOW);
        assert_eq!(again.refusal(), Errno::NOENT);
        // A new file of the name is another.
        write(union.at("file"), "new");
        assert_eq!(content(&reader), b"Content\0\0");
        drop((reader, writer));
        assert_eq!(read(union.at("file")), "new");
        union.unmount();
        assert_eq!(names_of_branch(branches.path(0)), ["file"]);
        assert_eq!(names(branches.upper(".wh..wh.orph")), Vec::<String>::new());
        assert_eq!(branches.all_lower(), lower);
    }
}

pub(crate) fn a_replaced_file_can_be_used(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "old");
    write(branches.upper("above"), "old");
    let union = branches.mount();
    for name in ["file", "above"] {
        let file = open(&union.at(name));
        write(union.at("new"), "new");
        fs::rename(union.at("new"), union.at(name)).unwrap();
        file.write_all_at(b"O", 0).unwrap();
        assert_eq!(content(&file), b"Old", "{name}");
        assert_eq!(read(union.at(name)), "new", "{name}");
    }
}

pub(crate) fn a_moved_file_can_be_used(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    write(branches.lower("file"), "content");
    let union = branches.mount();
    let (reader, writer) = (File::open(union.at("file")).unwrap(), open(&union.at("file")));
    fs::rename(union.at("file"), union.at("dir/moved")).unwrap();
    writer.write_all_at(b"C", 0).unwrap();
    assert_eq!(content(&reader), b"Content");
    mkdir(&union.at("new"));
    fs::rename(union.at("dir/moved"), union.at("new/moved")).unwrap();
    fs::rename(union.at("new"), union.at("newer")).unwrap();
    writer.write_all_at(b"D", 0).unwrap();
    assert_eq!(content(&reader), b"Dontent");
    assert_eq!(read(branches.upper("newer/moved")), "Dontent");
}

pub(crate) fn a_file_without_a_name_can_get_one(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    let union = branches.mount();
    let unnamed = |flags: OFlags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o640).custom_flags((OFlags::TMPFILE | flags).bits() as i32);
        options.open(union.at("dir"))
    };
    let mut file = unnamed(OFlags::empty()).unwrap();
    file.write_all(b"content").unwrap();
    assert_eq!(names(union.at("dir")), Vec::<String>::new());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, name(&file), CWD, union.at("dir/named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(read(union.at("dir/named")), "content");
    assert_eq!(inode(union.at("dir/named")), file.metadata().unwrap().ino());
    assert_eq!(fs::metadata(union.at("dir/named")).unwrap().mode() & 0o777, 0o640);
    let mut never = unnamed(OFlags::EXCL).unwrap();
    never.write_all(b"x").unwrap();
    let refused = linkat(CWD, name(&never), CWD, union.at("never"), AtFlags::SYMLINK_FOLLOW);
    assert_eq!(refused.refusal(), Errno::NOENT);
    drop((file, never));
    union.unmount();
    assert_eq!(names(branches.upper("dir")), ["named"]);
    assert_eq!(names(branches.upper(".wh..wh.orph")), Vec::<String>::new());
}

pub(crate) fn a_shared_mapping_writes_the_file(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("below"), vec![b'.'; 8192]);
    write(branches.upper("above"), vec![b'.'; 8192]);
    let union = branches.mount();
    for name in ["below", "above"] {
        let reader = File::open(union.at(name)).unwrap();
        let mapping = Mapping::write(&open(&union.at(name)));
        mapping.put(4094, b"middle");
        let seen = Mapping::read(&reader);
        assert_eq!(seen.copy(4094, 6), b"middle", "{name}");
        mapping.sync();
        assert_eq!(&content(&reader)[4094..4100], b"middle", "{name}");
        assert_eq!(&fs::read(branches.upper(name)).unwrap()[4094..4100], b"middle", "{name}");
        open(&union.at(name)).write_all_at(b"M", 4094).unwrap();
        assert_eq!(mapping.copy(4094, 6), b"Middle", "{name}");
    }
    assert_eq!(fs::read(branches.lower("below")).unwrap(), vec![b'.'; 8192]);
}

pub(crate) fn a_large_file_is_read_whole(mode: Mode) {
    let branches = Branches::two(mode);
    let all = noise((5 << 20) + 123, 3);
    write(branches.lower("large"), &all);
    let union = branches.mount();
    assert!(fs::read(union.at("large")).unwrap() == all);
    let flags = OFlags::DIRECT.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(union.at("large")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for offset in [0, 4096, 3 << 20, 5 << 20, 6 << 20] {
        let there = &all[all.len().min(offset)..all.len().min(offset + buffer.len())];
        let length = file.read_at(&mut buffer, offset as u64).unwrap();
        assert!(&buffer[..length] == there, "{length} at {offset}");
    }
}

pub(crate) fn direct_io_and_the_page_cache_agree(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("below"), vec![b'.'; 16384]);
    write(branches.upper("above"), vec![b'.'; 16384]);
    let union = branches.mount();
    // The kernel and the disk want it aligned.
    let mut memory = vec![0u8; 3 * 4096];
    let at = memory.as_ptr().align_offset(4096);
    let block = &mut memory[at..at + 4096];
    for name in ["below", "above"] {
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(union.at(name))
            .unwrap();
        let cached = open(&union.at(name));
        assert_eq!(content(&cached), vec![b'.'; 16384]);
        block.fill(b'd');
        direct.write_all_at(block, 4096).unwrap();
        assert_eq!(&content(&cached)[4095..4097], b".d", "{name}");
        cached.write_all_at(b"c", 8192).unwrap();
        direct.read_exact_at(block, 8192).unwrap();
        assert_eq!(&block[..2], b"c.", "{name}");
    }
}

pub(crate) fn holes_can_be_found_made_and_filled(mode: Mode) {
    let branches = Branches::two(mode);
    for name in ["below", "above"] {
        let file = File::create(branches.path(usize::from(name == "below")).join(name)).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 65536], 512 << 10).unwrap();
    }
    let union = branches.mount();
    for name in ["below", "above"] {
        let mut file = open(&union.at(name));
        let seek = |file: &File, from| {
            (
                rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)),
                rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(from)),
            )
        };
        assert_eq!(seek(&file, 0), (Ok(512 << 10), Ok(0)), "{name}");
        assert_eq!(seek(&file, 512 << 10), (Ok(512 << 10), Ok(576 << 10)), "{name}");
        assert_eq!(seek(&file, 600 << 10).0, Err(Errno::NXIO), "{name}");
        let keep = FallocateFlags::KEEP_SIZE;
        fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, 512 << 10, 32 << 10).unwrap();
        assert_eq!(seek(&file, 0).0, Ok(544 << 10), "{name}");
        fallocate(&file, keep, 1 << 20, 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        fallocate(&file, FallocateFlags::empty(), 1 << 20, 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut whole = Vec::new();
        file.read_to_end(&mut whole).unwrap();
        let ones: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == 1).collect();
        assert_eq!((ones.len(), ones[0]), (32 << 10, 544 << 10), "{name}");
    }
}

pub(crate) fn a_range_can_be_copied_between_files(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("from"), noise(100_000, 5));
    write(branches.lower("to"), vec![0; 1000]);
    let union = branches.mount();
    let (from, to) = (File::open(union.at("from")).unwrap(), open(&union.at("to")));
    let (mut read_at, mut write_at) = (5, 500);
    while read_at < 100_000 {
        let copied = copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), 100_000).unwrap();
        assert!(copied > 0);
    }
    assert!(content(&to)[500..] == noise(100_000, 5)[5..]);
    assert!(fs::read(branches.upper("to")).unwrap() == content(&to));
    assert!(!exists(branches.upper("from")));
}

pub(crate) fn what_was_synced_is_on_the_branch(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("below"), "old");
    let union = branches.mount();
    for name in ["below", "new"] {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(union.at(name)).unwrap();
        file.write_all_at(b"123", 0).unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(branches.upper(name)), "123");
    }
    File::open(union.root()).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(File::open(union.root()).unwrap()).unwrap();
}

pub(crate) fn many_open_files_are_all_kept(mode: Mode) {
    let branches = Branches::two(mode);
    for number in 0..300 {
        write(branches.path(number % 2).join(number.to_string()), number.to_string());
    }
    let union = branches.mount();
    let files: Vec<File> = (0..300).map(|number| open(&union.at(number.to_string()))).collect();
    for (number, file) in files.iter().enumerate() {
        file.write_all_at(b"x", 10).unwrap();
        if number % 3 == 0 {
            fs::remove_file(union.at(number.to_string())).unwrap();
        }
    }
    for (number, file) in files.iter().enumerate() {
        let expected = format!("{number}{}x", "\0".repeat(10 - number.to_string().len()));
        assert_eq!(content(file), expected.as_bytes());
    }
}

pub(crate) fn an_attribute_by_a_descriptor_is_the_files(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("file"), "x");
    let union = branches.mount();
    let file = File::open(union.at("file")).unwrap();
    set_xattr(union.at("file"), "user.x", b"1");
    let mut value = [0; 4];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.x", &mut value), Ok(1));
    rustix::fs::fremovexattr(&file, "user.x").unwrap();
    assert_eq!(xattr(union.at("file"), "user.x").refusal(), Errno::NODATA);
}

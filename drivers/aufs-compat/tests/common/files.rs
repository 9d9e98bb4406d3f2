//! The words that the tests are written in.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

/// Something that the kernel may refuse.
pub(crate) trait Refusable {
    /// The error. Fails when it was done.
    fn refusal(self) -> Errno;
}

impl<T: Debug> Refusable for io::Result<T> {
    fn refusal(self) -> Errno {
        Errno::from_io_error(&self.expect_err("it was done")).expect("an error of the kernel's")
    }
}

impl<T: Debug> Refusable for Result<T, Errno> {
    fn refusal(self) -> Errno {
        self.expect_err("it was done")
    }
}

pub(crate) fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    chmod(path, 0o644);
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

pub(crate) fn append(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(content.as_ref()).unwrap();
}

/// Makes a directory and those above it.
pub(crate) fn mkdir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
    chmod(path, 0o755);
}

pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn chown(path: impl AsRef<Path>, owner: u32, group: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(group)).unwrap();
}

pub(crate) fn symlink(target: &str, path: impl AsRef<Path>) {
    std::os::unix::fs::symlink(target, path).unwrap();
}

pub(crate) fn mknod(path: &Path, kind: FileType, device: (u32, u32)) {
    let number = rustix::fs::makedev(device.0, device.1);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), number).unwrap();
}

pub(crate) fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

/// Sets both times, of a link too.
pub(crate) fn set_times(path: impl AsRef<Path>, accessed: i64, modified: i64) {
    let time = |seconds| Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
    rustix::fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path.as_ref(), name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("set {name}: {error}"));
}

pub(crate) fn xattr(path: impl AsRef<Path>, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::lgetxattr(path.as_ref(), name, &mut *value)?;
    value.truncate(length);
    Ok(value)
}

/// The names in a directory, in order. What is not UTF-8 is shown as escapes.
pub(crate) fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir.as_ref()).unwrap_or_else(|error| panic!("{:?}: {error}", dir.as_ref()));
    let names = entries.map(|entry| entry.unwrap().file_name().into_vec().escape_ascii().to_string());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The names in the root of a branch without those that AUFS keeps there.
pub(crate) fn names_of_branch(dir: impl AsRef<Path>) -> Vec<String> {
    let kept = [".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph"];
    names(dir).into_iter().filter(|name| !kept.contains(&name.as_str())).collect()
}

pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    fs::symlink_metadata(path).is_ok()
}

pub(crate) fn inode(path: impl AsRef<Path>) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// Makes something that is not a file, a directory or a link: a fifo.
pub(crate) fn mkfifo(path: impl AsRef<Path>) {
    mknod(path.as_ref(), FileType::Fifo, (0, 0));
}

pub(crate) fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// All of a file by its descriptor, whose position is left alone.
pub(crate) fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..length.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).take(length).collect()
}

/// Random numbers from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// One of `0..end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

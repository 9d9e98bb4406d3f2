//! Edits of a directory, each with its path in the error: the words that the cases are written in.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::outcome::{Doing, Verdict};

/// Makes or replaces a file of mode 0644.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Verdict {
    fs::write(path, content).doing(|| format!("write {}", path.display()))?;
    chmod(path, 0o644)
}

/// Adds to the end of a file.
pub(crate) fn append(path: &Path, content: &str) -> Verdict {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .doing(|| format!("append to {}", path.display()))
}

/// Overwrites a part of a file.
pub(crate) fn patch(path: &Path, offset: u64, content: &[u8]) -> Verdict {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.write_all_at(content, offset)).doing(|| format!("patch {}", path.display()))
}

/// What a file holds, as text.
pub(crate) fn read(path: &Path) -> Verdict<String> {
    let content = fs::read(path).doing(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Makes a directory of mode 0755 and those above it.
pub(crate) fn mkdir(path: &Path) -> Verdict {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        mkdir(above)?;
    }
    fs::create_dir(path).doing(|| format!("mkdir {}", path.display()))?;
    chmod(path, 0o755)
}

/// Removes a file or a whole directory.
pub(crate) fn remove(path: &Path) -> Verdict {
    let kind = fs::symlink_metadata(path).doing(|| format!("remove {}", path.display()))?;
    if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .doing(|| format!("remove {}", path.display()))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Verdict {
    fs::rename(from, to).doing(|| format!("rename {} to {}", from.display(), to.display()))
}

pub(crate) fn link(from: &Path, to: &Path) -> Verdict {
    fs::hard_link(from, to).doing(|| format!("link {} to {}", from.display(), to.display()))
}

pub(crate) fn symlink(target: impl AsRef<Path>, path: &Path) -> Verdict {
    std::os::unix::fs::symlink(target, path).doing(|| format!("symlink {}", path.display()))
}

pub(crate) fn chmod(path: &Path, mode: u32) -> Verdict {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing(|| format!("chmod {}", path.display()))
}

/// Does not follow a link.
pub(crate) fn chown(path: &Path, uid: u32, gid: u32) -> Verdict {
    lchown(path, Some(uid), Some(gid)).doing(|| format!("chown {}", path.display()))
}

/// Sets both times, of a link too.
pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) -> Verdict {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| format!("set the time of {}", path.display()))
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Verdict {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .doing(|| format!("set {name} of {}", path.display()))
}

pub(crate) fn remove_xattr(path: &Path, name: &str) -> Verdict {
    rustix::fs::lremovexattr(path, name).doing(|| format!("remove {name} of {}", path.display()))
}

/// Makes a device of mode 0660.
pub(crate) fn device(path: &Path, kind: FileType, major: u32, minor: u32) -> Verdict {
    let number = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o660), number)
        .doing(|| format!("mknod {}", path.display()))?;
    chmod(path, 0o660)
}

pub(crate) fn fifo(path: &Path) -> Verdict {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .doing(|| format!("mkfifo {}", path.display()))?;
    chmod(path, 0o640)
}

/// Makes a socket file. The path is bound through a descriptor of its directory, since a socket address holds 107 bytes.
pub(crate) fn socket(path: &Path) -> Verdict<UnixListener> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let held = File::open(dir).doing(|| format!("open {}", dir.display()))?;
    let short =
        Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&held).to_string()).join(name);
    let listener = UnixListener::bind(short).doing(|| format!("bind {}", path.display()))?;
    chmod(path, 0o755)?;
    Ok(listener)
}

/// A file of `size` bytes that no file system stores for less: the same for the same seed.
pub(crate) fn noise(path: &Path, size: u64, seed: u64) -> Verdict {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .doing(|| format!("create {}", path.display()))?;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = [0u8; 4096];
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let now = left.min(block.len() as u64);
        file.write_all(&block[..now as usize]).doing(|| format!("write {}", path.display()))?;
        left -= now;
    }
    chmod(path, 0o644)
}

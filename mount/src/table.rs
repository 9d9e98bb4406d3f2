//! What is mounted where, as this process sees it.
//!
//! Asked by `listmount` and `statmount` where the kernel has them (Linux 6.8), which answer about one mount at a time; else read
//! from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use mica_core::{Error, Result};

use crate::sys;

/// A mount that has a name in this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is mounted.
    pub at: PathBuf,
    /// The directory of its file system that shows up there; `/` but for bind mounts.
    pub root: PathBuf,
    /// The kernel's name of the file system, such as `overlay`.
    pub fstype: String,
}

/// Everything that is mounted at `dir` or below it. `dir` is absolute and free of links.
pub fn below(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = all()?;
    entries.retain(|entry| entry.at.starts_with(dir));
    Ok(entries)
}

/// Whether something is mounted at exactly this path, which is absolute and free of links.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(all()?.iter().any(|entry| entry.at == path))
}

/// Everything that is mounted.
pub fn all() -> Result<Vec<Entry>> {
    match from_calls() {
        // A filter of system calls that is older than these may answer EPERM.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => from_proc(),
        other => other.map_err(Error::io(|| "list the mounts")),
    }
}

/// The table by `/proc/self/mountinfo`, for kernels without the calls.
fn from_proc() -> Result<Vec<Entry>> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(Error::io(|| "read '/proc/self/mountinfo'"))?;
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            entry(line).ok_or_else(|| Error::Corrupt {
                what: "'/proc/self/mountinfo'".to_owned(),
                reason: format!("no mount can be read from '{}'", line.escape_ascii()),
            })
        })
        .collect()
}

/// A line such as `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, see proc(5).
fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&b| b == b' ');
    let root = unescape(fields.nth(3)?);
    let at = unescape(fields.next()?);
    let fstype = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Entry { at, root, fstype: String::from_utf8_lossy(fstype).into_owned() })
}

/// Undoes the kernel's writing of blanks, line ends and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &rest[4..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// `LSMT_ROOT`: the root of the mount namespace.
const ROOT: u64 = u64::MAX;

/// `STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE`.
const WANTED: u64 = 0x8 | 0x10 | 0x20;

/// Where `struct statmount` (`linux/mount.h`) keeps the offsets of these strings, in 32-bit words, and where the strings begin, in bytes.
const FS_TYPE: usize = 9;
const MNT_ROOT: usize = 26;
const MNT_POINT: usize = 27;
const STRINGS: usize = 512;

fn from_calls() -> std::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut ids = [0u64; 512];
    let mut last = 0;
    loop {
        let count = sys::listmount(ROOT, last, &mut ids)?;
        for &id in &ids[..count] {
            match stat(id) {
                Ok(entry) => entries.extend(entry),
                // It was unmounted meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        if count < ids.len() {
            return Ok(entries);
        }
        last = ids[count - 1];
    }
}

/// One mount; `None` for one that this process cannot reach by a path.
fn stat(id: u64) -> std::io::Result<Option<Entry>> {
    let mut buffer = vec![0u64; 256];
    loop {
        match sys::statmount(id, WANTED, &mut buffer) {
            Err(e) if e.raw_os_error() == Some(libc::EOVERFLOW) => buffer = vec![0; buffer.len() * 4],
            other => break other?,
        }
    }
    let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let string = |word: usize| -> Option<OsString> {
        let offset = bytes.get(word * 4..word * 4 + 4)?;
        let offset = STRINGS + u32::from_ne_bytes(offset.try_into().ok()?) as usize;
        let text = bytes.get(offset..)?.split(|&b| b == 0).next()?;
        Some(OsString::from_vec(text.to_vec()))
    };
    let entry = || {
        let (at, root, fstype) = (string(MNT_POINT)?, string(MNT_ROOT)?, string(FS_TYPE)?);
        let fstype = String::from_utf8_lossy(fstype.as_bytes()).into_owned();
        Some(Entry { at: at.into(), root: root.into(), fstype })
    };
    Ok(entry().filter(|entry| entry.at.is_absolute()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = br"36 35 98:0 /a\134b /mnt\040\011x\012y rw,noatime shared:1 master:1 - ext4 /dev/root rw";
        let read = entry(line).unwrap();
        assert_eq!(read.at, Path::new("/mnt \tx\ny"));
        assert_eq!(read.root, Path::new(r"/a\b"));
        assert_eq!(read.fstype, "ext4");
        assert_eq!(entry(b"36 35 98:0 /"), None);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(br"\04\9\400"), Path::new(r"\04\9\400"));
    }

    #[test]
    fn the_calls_and_the_text_agree() {
        let place = tempfile::tempdir().unwrap();
        let odd = place.path().join("a b\t\\c\n,:é");
        std::fs::create_dir(&odd).unwrap();
        rustix::mount::mount_bind(&odd, &odd).unwrap();
        let (calls, text) = (from_calls(), from_proc());
        rustix::mount::unmount(&odd, rustix::mount::UnmountFlags::empty()).unwrap();
        let sorted = |mut entries: Vec<Entry>| {
            entries.sort_by(|a, b| (&a.at, &a.root, &a.fstype).cmp(&(&b.at, &b.root, &b.fstype)));
            entries.retain(|entry| entry.at.starts_with(place.path()));
            entries
        };
        let text = sorted(text.unwrap());
        assert_eq!(text.len(), 1);
        assert_eq!((&text[0].at, text[0].fstype.is_empty()), (&odd, false));
        match calls {
            Ok(calls) => assert_eq!(sorted(calls), text),
            Err(e) => assert!(matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)), "{e}"),
        }
    }
}

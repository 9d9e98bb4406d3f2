//! An entry as header blocks.

use std::ops::Range;

use crate::header::{
    self, BLOCK, CHECKSUM, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, PREFIX, SIZE, TYPE, UID, USTAR,
};
use crate::reader::MAX_EXTENDED;
use crate::{Entry, Error, Kind, Result, Time, pax};

/// The largest numbers of 7 and of 11 octal digits.
const MAX_SHORT: u64 = 0o7_777_777;
const MAX_LONG: u64 = 0o77_777_777_777;

/// Says that names are not UTF-8, which PAX takes them for otherwise.
const BINARY: &[u8] = b"21 hdrcharset=BINARY\n";

/// The entry's header, with an extended header before it where one is needed.
pub(super) fn headers(entry: &Entry) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    let header = header(entry, &mut records)?;
    if records.is_empty() {
        return Ok(header.to_vec());
    }
    if records.len() as u64 > MAX_EXTENDED {
        return Err(refused(entry, "its name and extended attributes take over 1 MiB"));
    }
    let mut blocks = extended_header(entry, records.len()).to_vec();
    blocks.append(&mut records);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    blocks.extend_from_slice(&header);
    Ok(blocks)
}

fn refused(entry: &Entry, reason: &str) -> Error {
    Error::Refused { path: entry.path.escape_ascii().to_string(), reason: reason.to_owned() }
}

/// The ustar header; what does not fit in it goes to `records`.
fn header(entry: &Entry, records: &mut Vec<u8>) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let path = path(entry)?;
    if !put_path(&mut block, &path) {
        put_name(&mut block, records, "path", &path);
    }
    let (kind, size) = match &entry.kind {
        Kind::File { size, .. } => (b'0', *size),
        Kind::Hardlink(_) => (b'1', 0),
        Kind::Symlink(_) => (b'2', 0),
        Kind::CharDevice(..) => (b'3', 0),
        Kind::BlockDevice(..) => (b'4', 0),
        Kind::Directory => (b'5', 0),
        Kind::Fifo => (b'6', 0),
    };
    block[TYPE] = kind;
    if let Kind::Hardlink(target) | Kind::Symlink(target) = &entry.kind {
        check_name(entry, target)?;
        if target.len() <= LINK.len() {
            block[LINK.start..LINK.start + target.len()].copy_from_slice(target);
        } else {
            put_name(&mut block, records, "linkpath", target);
        }
    }
    put_octal(&mut block, MODE, u64::from(entry.mode & 0o7777));
    put_number(&mut block, SIZE, records, "size", size, MAX_LONG);
    put_number(&mut block, UID, records, "uid", u64::from(entry.uid), MAX_SHORT);
    put_number(&mut block, GID, records, "gid", u64::from(entry.gid), MAX_SHORT);
    put_time(&mut block, records, entry.mtime);
    if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = entry.kind {
        if u64::from(major.max(minor)) > MAX_SHORT {
            return Err(refused(entry, "its device number is out of range"));
        }
        put_octal(&mut block, MAJOR, u64::from(major));
        put_octal(&mut block, MINOR, u64::from(minor));
    }
    put_xattrs(records, entry)?;
    seal(&mut block);
    Ok(block)
}

/// The name as the archive has it: that of a directory ends in a slash.
fn path(entry: &Entry) -> Result<Vec<u8>> {
    check_name(entry, &entry.path)?;
    let mut path = entry.path.clone();
    if entry.kind == Kind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    Ok(path)
}

fn check_name(entry: &Entry, name: &[u8]) -> Result<()> {
    match name {
        [] => Err(refused(entry, "a name is empty")),
        name if name.contains(&0) => Err(refused(entry, "a name holds a NUL")),
        _ => Ok(()),
    }
}

/// Puts a path into name and prefix; whether it fits.
fn put_path(block: &mut [u8; BLOCK], path: &[u8]) -> bool {
    if path.len() <= NAME.len() {
        block[..path.len()].copy_from_slice(path);
        return true;
    }
    // The name may not be empty, so a slash at the very end is none to split at.
    let earliest = path.len() - NAME.len() - 1;
    let latest = PREFIX.len().min(path.len() - 2);
    let Some(at) = (earliest.max(1)..=latest).find(|&at| path[at] == b'/') else {
        return false;
    };
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    block[..name.len()].copy_from_slice(name);
    block[PREFIX.start..PREFIX.start + prefix.len()].copy_from_slice(prefix);
    true
}

/// Records a name that is too long. The header has the start of a path, for readers without PAX.
fn put_name(block: &mut [u8; BLOCK], records: &mut Vec<u8>, key: &str, name: &[u8]) {
    if std::str::from_utf8(name).is_err() && !records.starts_with(BINARY) {
        records.splice(0..0, BINARY.iter().copied());
    }
    pax::push_record(records, key.as_bytes(), name);
    let field = if key == "path" { NAME } else { LINK };
    let start = &name[..field.len()];
    block[field].copy_from_slice(start);
}

/// A number too large for its field is zero there: a reader that knows no PAX should not half understand it.
fn put_number(
    block: &mut [u8; BLOCK],
    field: Range<usize>,
    records: &mut Vec<u8>,
    key: &str,
    value: u64,
    most: u64,
) {
    if value > most {
        pax::push_record(records, key.as_bytes(), value.to_string().as_bytes());
    }
    put_octal(block, field, if value > most { 0 } else { value });
}

fn put_time(block: &mut [u8; BLOCK], records: &mut Vec<u8>, time: Time) {
    let seconds = u64::try_from(time.seconds).ok().filter(|&seconds| seconds <= MAX_LONG);
    if time.nanoseconds != 0 || seconds.is_none() {
        pax::push_record(records, b"mtime", pax::format_time(time).as_bytes());
    }
    put_octal(block, MTIME, seconds.unwrap_or(0));
}

fn put_xattrs(records: &mut Vec<u8>, entry: &Entry) -> Result<()> {
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.iter().any(|byte| matches!(byte, b'=' | 0)) {
            return Err(refused(
                entry,
                "a PAX record cannot hold the name of one of its extended attributes",
            ));
        }
        let prefix = if name.starts_with(pax::ACL) { b"" } else { pax::XATTR };
        pax::push_record(records, &[prefix, name].concat(), value);
    }
    Ok(())
}

/// Fills a field with octal digits and a NUL.
fn put_octal(block: &mut [u8; BLOCK], field: Range<usize>, mut value: u64) {
    let digits = field.start..field.end - 1;
    for byte in block[digits].iter_mut().rev() {
        *byte = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

fn seal(block: &mut [u8; BLOCK]) {
    block[MAGIC].copy_from_slice(USTAR);
    let (sum, _) = header::checksums(block);
    put_octal(block, CHECKSUM.start..CHECKSUM.end - 1, u64::from(sum));
    block[CHECKSUM.end - 1] = b' ';
}

fn extended_header(entry: &Entry, length: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let last = entry.path.rsplit(|&byte| byte == b'/').find(|part| !part.is_empty()).unwrap_or(b"root");
    let name = [b"PaxHeaders/", &last[..last.len().min(80)]].concat();
    block[..name.len()].copy_from_slice(&name);
    block[TYPE] = b'x';
    put_octal(&mut block, MODE, 0o644);
    put_octal(&mut block, UID, 0);
    put_octal(&mut block, GID, 0);
    put_octal(&mut block, SIZE, length as u64);
    put_octal(&mut block, MTIME, 0);
    seal(&mut block);
    block
}

//! From a member's headers, in whatever dialect, to an [`Entry`] and the length of what follows.

use std::io::BufRead;

use super::source::Source;
use crate::header::{BLOCK, Field, Header};
use crate::pax::{Defaults, Records};
use crate::sparse::{self, TextMap};
use crate::tap::Tap;
use crate::{Entry, Error, Kind, Result, Segment, Time};

/// The extended headers that stood before a member's own.
#[derive(Default)]
pub(super) struct Before {
    records: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Before {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_none() && self.path.is_none() && self.link.is_none()
    }

    pub(super) fn set_records(&mut self, records: Vec<u8>) -> Field<()> {
        set(&mut self.records, records, "extended headers")
    }

    pub(super) fn set_path(&mut self, name: Vec<u8>) -> Field<()> {
        set(&mut self.path, without_nul(name)?, "long names")
    }

    pub(super) fn set_link(&mut self, name: Vec<u8>) -> Field<()> {
        set(&mut self.link, without_nul(name)?, "long link names")
    }
}

/// Which of two would count depends on who reads, so there may be only one.
fn set(slot: &mut Option<Vec<u8>>, value: Vec<u8>, what: &str) -> Field<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("two {what} for one member")),
    }
}

fn without_nul(mut name: Vec<u8>) -> Field<Vec<u8>> {
    let end = name.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    name.truncate(end);
    if name.contains(&0) { Err("a long name holds a NUL".to_owned()) } else { Ok(name) }
}

/// A member, and how it lies in the archive.
pub(super) struct Member {
    pub(super) entry: Entry,
    /// Bytes of content.
    pub(super) stored: u64,
    /// Bytes from there to the next header.
    pub(super) padding: usize,
}

/// What a member's content is: the length of the file, the map of a sparse one, and the bytes in the archive.
struct Extent {
    size: u64,
    sparse: Option<Vec<Segment>>,
    stored: u64,
}

impl Member {
    /// Resolves the header that starts `at`; reads the sparse map that may follow it.
    pub(super) fn resolve<R: BufRead, T: Tap>(
        header: &Header<'_>,
        before: Before,
        defaults: &Defaults,
        source: &mut Source<R, T>,
        at: u64,
    ) -> Result<Self> {
        let corrupt = |reason| Error::Corrupt { what: "tar header", offset: at, reason };
        let mut records = Records::new(defaults);
        records.add(before.records.as_deref().unwrap_or_default()).map_err(corrupt)?;

        let path = [records.sparse.name.take(), records.path.take(), before.path];
        let path = path.into_iter().flatten().next().unwrap_or_else(|| header.path());
        let link = records.link.take().or(before.link);
        let link = || link.unwrap_or_else(|| header.link().to_vec());
        let mut stored = 0;
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => {
                let extent = extent(header, &records, source, at)?;
                stored = extent.stored;
                Kind::File { size: extent.size, sparse: extent.sparse }
            }
            b'1' => Kind::Hardlink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device(header, Kind::CharDevice).map_err(corrupt)?,
            b'4' => device(header, Kind::BlockDevice).map_err(corrupt)?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(corrupt(unknown(other))),
        };
        let entry = entry(path, kind, header, records).map_err(corrupt)?;
        let padding = stored.wrapping_neg() as usize % BLOCK;
        Ok(Self { entry, stored, padding })
    }
}

fn entry(path: Vec<u8>, kind: Kind, header: &Header<'_>, mut records: Records) -> Field<Entry> {
    let mtime = match records.mtime {
        Some(mtime) => mtime,
        None => Time { seconds: header.mtime()?, nanoseconds: 0 },
    };
    Ok(Entry {
        path,
        kind,
        mode: header.mode()?,
        uid: records.uid.map_or_else(|| header.uid(), Ok)?,
        gid: records.gid.map_or_else(|| header.gid(), Ok)?,
        mtime,
        xattrs: records.take_xattrs(),
    })
}

fn device(header: &Header<'_>, kind: fn(u32, u32) -> Kind) -> Field<Kind> {
    header.device().map(|(major, minor)| kind(major, minor))
}

fn unknown(kind: u8) -> String {
    format!("member of unknown type '{}'", kind.escape_ascii())
}

/// Where the content of a file ends: the only place that decides it.
fn extent<R: BufRead, T: Tap>(
    header: &Header<'_>,
    records: &Records,
    source: &mut Source<R, T>,
    at: u64,
) -> Result<Extent> {
    let corrupt = |reason| Error::Corrupt { what: "tar header", offset: at, reason };
    let mut stored = records.size.map_or_else(|| header.size(), Ok).map_err(corrupt)?;
    let map = if header.kind() == b'S' {
        Some((old_gnu_map(header, source)?, header.sparse_size().map_err(corrupt)?))
    } else if records.sparse.is_in_content().map_err(corrupt)? {
        let map = leading_map(source, &mut stored)?;
        Some((map, records.sparse.real_size.unwrap_or(stored)))
    } else if let Some(numbers) = &records.sparse.numbers {
        let map = sparse::segments(numbers).map_err(corrupt)?;
        Some((map, records.sparse.real_size.unwrap_or(stored)))
    } else {
        None
    };
    let Some((map, size)) = map else {
        return Ok(Extent { size: stored, sparse: None, stored });
    };
    let map = sparse::check(map, size, stored).map_err(corrupt)?;
    Ok(Extent { size, sparse: Some(map), stored })
}

/// The map in an old GNU header and the blocks after it.
fn old_gnu_map<R: BufRead, T: Tap>(header: &Header<'_>, source: &mut Source<R, T>) -> Result<Vec<Segment>> {
    let mut map = Vec::new();
    let mut goes_on = header.sparse_map(&mut map).map_err(|reason| malformed(source.position, reason))?;
    while goes_on {
        let at = source.position;
        let mut block = [0; BLOCK];
        source.raw_exact(&mut block)?;
        goes_on = sparse::from_extension(&block, &mut map).map_err(|reason| malformed(at, reason))?;
    }
    Ok(map)
}

/// The map of format 1.0, which takes whole blocks at the start of the content.
fn leading_map<R: BufRead, T: Tap>(source: &mut Source<R, T>, stored: &mut u64) -> Result<Vec<Segment>> {
    let mut map = TextMap::default();
    loop {
        let at = source.position;
        *stored = stored
            .checked_sub(BLOCK as u64)
            .ok_or_else(|| malformed(at, "it goes on after the member's end".to_owned()))?;
        let mut block = [0; BLOCK];
        source.raw_exact(&mut block)?;
        if let Some(map) = map.add(&block).map_err(|reason| malformed(at, reason))? {
            return Ok(map);
        }
    }
}

fn malformed(offset: u64, reason: String) -> Error {
    Error::Corrupt { what: "sparse map", offset, reason }
}

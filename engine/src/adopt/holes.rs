//! Extracting what a directory was packed into, with the holes that its files have and a tarball has not.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use mica_archive::apply::{ApplyOptions, Extractor};
use mica_archive::ingest::{Expected, ingest};
use mica_archive::{Entry, Kind, Segment};
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom, fstat, openat2, seek};
use rustix::io::Errno;

use crate::Result;

/// Files of fewer bytes are not worth the look.
const SMALL: u64 = 64 << 10;
const BUFFER: usize = 64 << 10;

/// Extracts the tarball of the directory `packed` into `root`.
pub(super) fn extract(
    tarball: impl Read + Send,
    packed: BorrowedFd<'_>,
    root: OwnedFd,
    options: ApplyOptions<'_>,
) -> Result<()> {
    let mut extractor = Extractor::new(root, options)?;
    ingest(tarball, (), &Expected::default(), |entry, content| match with_holes(packed, entry) {
        None => extractor.entry(entry, content),
        Some((entry, segments)) => extractor.entry(&entry, &mut Data { content, segments, at: 0 }),
    })?;
    extractor.finish()?;
    Ok(())
}

/// The same file as a sparse one, and where it has data; `None` for what has no holes.
fn with_holes(packed: BorrowedFd<'_>, entry: &Entry) -> Option<(Entry, Vec<Segment>)> {
    let Kind::File { size, sparse: None } = entry.kind else { return None };
    if size < SMALL {
        return None;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(openat2(packed, entry.path.as_slice(), flags, Mode::empty(), resolve).ok()?);
    let stat = fstat(&file).ok()?;
    // Without holes, or another file by now, it is extracted as it came.
    if stat.st_size.cast_unsigned() != size || stat.st_blocks.cast_unsigned() * 512 >= size {
        return None;
    }
    let segments = data(&file, size)?;
    let kind = Kind::File { size, sparse: Some(segments.clone()) };
    Some((Entry { kind, ..entry.clone() }, segments))
}

fn data(file: &File, size: u64) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found.ok()?.min(size),
        };
        at = seek(file, SeekFrom::Hole(offset)).ok()?.min(size);
        segments.push(Segment { offset, length: at - offset });
    }
    Some(segments)
}

/// The data of a sparse file out of its whole content. What is passed over must be zero.
struct Data<'a> {
    content: &'a mut dyn Read,
    segments: Vec<Segment>,
    /// How much of the content was read.
    at: u64,
}

impl Read for Data<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(&Segment { offset, length }) = self.segments.first() {
            self.pass(offset)?;
            let left = offset + length - self.at;
            if left == 0 {
                self.segments.remove(0);
                continue;
            }
            let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.content.read(&mut into[..most])?;
            self.at += read as u64;
            return Ok(read);
        }
        Ok(0)
    }
}

impl Data<'_> {
    /// Reads up to this offset.
    fn pass(&mut self, offset: u64) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        while self.at < offset {
            let most = BUFFER.min(usize::try_from(offset - self.at).unwrap_or(BUFFER));
            let read = self.content.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if buffer[..read].iter().any(|&byte| byte != 0) {
                return Err(io::Error::other("it was written to while it was read"));
            }
            self.at += read as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_data_of_a_file_is_all_but_its_holes(parts in prop::collection::vec((0..5u64, 0..5u64), 0..8)) {
            let (mut content, mut segments, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for (hole, length) in parts {
                content.resize(content.len() + hole as usize, 0);
                segments.push(Segment { offset: content.len() as u64, length });
                content.resize(content.len() + length as usize, 7);
                expected.resize(expected.len() + length as usize, 7);
            }
            let mut found = Vec::new();
            Data { content: &mut &content[..], segments, at: 0 }.read_to_end(&mut found).unwrap();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_hole_that_is_none_by_now_is_no_hole() {
        let segments = vec![Segment { offset: 2, length: 1 }];
        let read = Data { content: &mut &b"\0x1"[..], segments, at: 0 }.read(&mut [0; 8]);
        assert!(read.unwrap_err().to_string().contains("was written to"));
    }
}

//! Which inodes differ between two volumes of one file system, found in the blocks that differ: no directory is read.
//!
//! A snapshot keeps the inode numbers of its origin, and every change of content, metadata or names changes the time
//! in an inode. So it is enough to compare the inodes that lie in changed blocks, which the layout of the file system
//! tells: ext4 has tables of them ("ext4 Data Structures and Algorithms", kernel documentation), and in xfs an
//! inode says itself which one it is ("XFS Algorithms & Data Structures").

mod ext4;
mod xfs;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::options::Kind;

/// An inode that is not what the parent has under its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) number: u64,
    /// It is a directory, and was one.
    pub(crate) directory: bool,
}

/// The two devices.
#[derive(Debug)]
pub(crate) struct Pair {
    parent: File,
    layer: File,
    /// The size of the layer's.
    bytes: u64,
}

impl Pair {
    pub(crate) fn open(parent: &Path, layer: &Path) -> io::Result<Self> {
        let open = |node| {
            let file = File::open(node)?;
            super::sys::forget(&file)?;
            Ok::<_, io::Error>(file)
        };
        Self::new(open(parent)?, open(layer)?)
    }

    fn new(parent: File, mut layer: File) -> io::Result<Self> {
        let bytes = layer.seek(SeekFrom::End(0))?;
        Ok(Self { parent, layer, bytes })
    }

    /// The inodes that differ, given the ranges of bytes outside of which the devices are equal. `None` where the file
    /// system has a form that is not known here. What the devices hold is believed only as far as it fits their size.
    pub(crate) fn changed(&self, kind: Kind, ranges: &[Range<u64>]) -> io::Result<Option<Vec<Changed>>> {
        match kind {
            Kind::Ext4 => ext4::changed(self, ranges),
            Kind::Xfs => xfs::changed(self, ranges),
        }
    }

    /// Reads the same range of both; the parent's part that lies beyond its end is zeroes.
    fn read(&self, range: Range<u64>) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let (mut parent, mut layer) = (vec![0; length], vec![0; length]);
        self.layer.read_exact_at(&mut layer, range.start)?;
        let mut have = 0;
        while have < length {
            match self.parent.read_at(&mut parent[have..], range.start + have as u64)? {
                0 => break,
                more => have += more,
            }
        }
        Ok((parent, layer))
    }
}

/// The parts of `ranges`, which are in order, that lie in `within`, widened to whole units from its start, in pieces of at most `most` units.
fn cut(ranges: &[Range<u64>], within: Range<u64>, unit: u64, most: u64) -> Vec<Range<u64>> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let first = ranges.partition_point(|range| range.end <= within.start);
    for range in ranges[first..].iter().take_while(|range| range.start < within.end) {
        let start = (range.start.max(within.start) - within.start) / unit * unit + within.start;
        let end =
            ((range.end.min(within.end) - within.start).div_ceil(unit) * unit + within.start).min(within.end);
        let mut at = start.max(pieces.last().map_or(0, |piece| piece.end));
        while at < end {
            let to = (at + unit * most).min(end);
            pieces.push(at..to);
            at = to;
        }
    }
    pieces
}

fn le16(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 2).map_or(0, |b| u64::from(u16::from_le_bytes([b[0], b[1]])))
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    le16(bytes, at) | le16(bytes, at + 2) << 16
}

/// A number of so many bytes, the highest first; zero where they are not there.
pub(crate) fn be(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes
        .get(at..at + length)
        .unwrap_or_default()
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn is_dir(mode: u64) -> bool {
    mode & 0o170_000 == 0o040_000
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::OnceLock;

    use super::*;

    #[test]
    fn ranges_are_cut_to_whole_units_within_a_table() {
        let ranges = [0..10, 100..130, 140..150, 290..400];
        assert_eq!(cut(&ranges, 96..300, 16, 2), [96..128, 128..144, 144..160, 288..300]);
        assert_eq!(cut(&ranges, 10..96, 16, 2), []);
    }

    #[test]
    fn pieces_never_overlap() {
        assert_eq!(cut(&[0..5, 6..9, 40..41], 0..64, 16, 8), [0..16, 32..48]);
    }

    /// A new file system beside one with these bytes changed can be looked at, whatever that tells.
    pub(super) fn survives(kind: Kind, damage: impl Iterator<Item = (usize, u8)>) {
        let (file, bytes) = (tempfile::tempfile().unwrap(), kind.smallest());
        let image = image(kind);
        file.write_all_at(image, 0).unwrap();
        file.set_len(bytes).unwrap();
        let layer = tempfile::tempfile().unwrap();
        layer.write_all_at(image, 0).unwrap();
        layer.set_len(bytes).unwrap();
        for (at, byte) in damage {
            layer.write_all_at(&[byte], at as u64).unwrap();
        }
        let pair = Pair::new(file, layer).unwrap();
        let far = bytes - 4096..u64::MAX;
        // An error is an answer as well.
        if let Ok(Some(changed)) = pair.changed(kind, &[0..1 << 20, far]) {
            assert!(changed.len() as u64 <= bytes / 256);
        }
    }

    /// The first MiB of a new file system.
    fn image(kind: Kind) -> &'static [u8] {
        static IMAGES: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
        IMAGES[kind as usize].get_or_init(|| make(kind))
    }

    fn make(kind: Kind) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(kind.smallest()).unwrap();
        let made =
            Command::new(format!("/usr/sbin/mkfs.{}", kind.name())).arg("-q").arg(file.path()).status();
        assert!(made.unwrap().success());
        let mut start = vec![0; 1 << 20];
        file.as_file().read_exact_at(&mut start, 0).unwrap();
        start
    }
}

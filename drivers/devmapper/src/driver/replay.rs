//! What a crash left in the log of a layer's file system: mounting it puts that where it belongs, and nothing else does.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use mica_core::{Error, Result};
use mica_mount::Mounter;

use super::dm::Device;
use super::filesystem::{self, Mounting};
use super::inodes::be;
use super::pool::Pool;
use crate::options::Kind;

/// Has nothing be left in the log of a volume that is not mounted. The caller holds the lock.
pub(crate) fn replay(pool: &Pool, device: &Device) -> Result<()> {
    let (kind, node) = (pool.record.filesystem, device.node());
    let empty = filesystem::direct(&node).and_then(|file| is_empty(kind, file));
    if empty.map_err(Error::io(|| format!("read the log of '{}'", node.display())))? {
        return Ok(());
    }
    let how = Mounting {
        node: &node,
        quota: pool.record.quota,
        more: "",
        read_only: false,
        label: None,
        id_map: None,
    };
    Mounter::new(pool.root()).open(&kind.mount(&how))?.close()
}

/// Whether nothing is known to be in the log.
fn is_empty(kind: Kind, device: File) -> io::Result<bool> {
    match kind {
        Kind::Ext4 => Ok(!filesystem::needs_recovery(&device)?),
        Kind::Xfs => Ok(Log::find(device)?.map_or(Ok(false), |log| log.ends_with_unmount())?),
    }
}

/// The log of an xfs, in sectors of 512 bytes. Its form is that of "XFS Algorithms & Data Structures", "Journaling Log".
struct Log {
    device: File,
    start: u64,
    sectors: u64,
}

const SECTOR: u64 = 512;
const RECORD: u64 = 0xfeed_babe;
/// How far back the beginning of the last record is looked for: that of an unmount has two sectors.
const BACK: u64 = 128;
/// A header of one sector is enough for so much.
const PER_HEADER: u64 = 32 << 10;
/// The operation of a record that says that all before it is where it belongs.
const UNMOUNT: u8 = 0x20;

impl Log {
    /// `None` where the superblock does not tell.
    fn find(mut device: File) -> io::Result<Option<Self>> {
        let bytes = device.seek(SeekFrom::End(0))?;
        let mut superblock = [0; 512];
        device.read_exact_at(&mut superblock, 0)?;
        let field = |at, length| be(&superblock, at, length);
        let (block, at, blocks) = (field(4, 4), field(48, 8), field(96, 4));
        let (group_blocks, shift) = (field(84, 4), field(124, 1));
        if !superblock.starts_with(b"XFSB") || at == 0 || shift > 32 {
            return Ok(None);
        }
        let (group, within) = (at >> shift, at & ((1 << shift) - 1));
        let first = group.checked_mul(group_blocks).and_then(|first| first.checked_add(within));
        let start = first.and_then(|first| first.checked_mul(block));
        let end = start.and_then(|start| start.checked_add(blocks * block));
        let log = start.zip(end).filter(|(_, end)| *end <= bytes && blocks * block >= 2 * SECTOR);
        Ok(log.map(|(start, end)| Self { device, start, sectors: (end - start) / SECTOR }))
    }

    /// Whether the last record is that of an unmount. `false` also where that cannot be told.
    fn ends_with_unmount(&self) -> io::Result<bool> {
        let head = self.head()?;
        let first = head.saturating_sub(BACK);
        let mut last = vec![0; ((head - first) * SECTOR) as usize];
        self.device.read_exact_at(&mut last, self.start + first * SECTOR)?;
        let int = |sector: &[u8], at| be(sector, at, 4);
        let sectors: Vec<&[u8]> = last.chunks_exact(SECTOR as usize).collect();
        let Some(at) = sectors.iter().rposition(|sector| int(sector, 0) == RECORD) else {
            return Ok(false);
        };
        let header = sectors[at];
        let headers = int(header, 320).div_ceil(PER_HEADER).max(1);
        let length = headers + int(header, 12).div_ceil(SECTOR);
        let whole = at as u64 + length == sectors.len() as u64 && int(header, 40) == 1;
        let operation = sectors.get(at + headers as usize).map_or(0, |sector| sector[9]);
        Ok(whole && operation & UNMOUNT != 0)
    }

    /// The sector after the last one that was written. The log is written round and round, and each sector has the number
    /// of the round.
    fn head(&self) -> io::Result<u64> {
        let round = self.round(0)?;
        let (mut written, mut other) = (0, self.sectors);
        while other - written > 1 {
            let middle = written + (other - written) / 2;
            if self.round(middle)? == round { written = middle } else { other = middle }
        }
        Ok(other)
    }

    fn round(&self, sector: u64) -> io::Result<u64> {
        let mut start = [0; 8];
        self.device.read_exact_at(&mut start, self.start + sector * SECTOR)?;
        let int = |at| be(&start, at, 4);
        Ok(if int(0) == RECORD { int(4) } else { int(0) })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// A new xfs.
    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(Kind::Xfs.smallest()).unwrap();
        let made = Command::new("/usr/sbin/mkfs.xfs").args(["-q", "-K"]).arg(file.path()).status();
        assert!(made.unwrap().success());
        file
    }

    #[test]
    fn a_new_log_is_empty_and_one_without_the_mark_of_unmounting_is_not() {
        let image = image();
        let log = Log::find(image.reopen().unwrap()).unwrap().unwrap();
        assert!(log.ends_with_unmount().unwrap());
        let operation = log.start + (log.head().unwrap() - 1) * SECTOR;
        image.as_file().write_all_at(&[0], operation + 9).unwrap();
        assert!(!log.ends_with_unmount().unwrap());
    }

    #[test]
    fn a_damaged_log_is_looked_at_without_a_fault() {
        let image = image();
        let start = Log::find(image.reopen().unwrap()).unwrap().unwrap().start;
        let mut good = vec![0; 4096];
        image.as_file().read_exact_at(&mut good, start).unwrap();
        let damage = prop::collection::vec((any::<bool>(), 0u64..1024, any::<u8>()), 1..8);
        proptest!(ProptestConfig::with_cases(200), |(damage in damage)| {
            let mut superblock = vec![0; 512];
            image.as_file().read_exact_at(&mut superblock, 0).unwrap();
            for (log, at, byte) in damage {
                let at = if log { start + at } else { at % 512 };
                image.as_file().write_all_at(&[byte], at).unwrap();
            }
            let _ = is_empty(Kind::Xfs, image.reopen().unwrap());
            image.as_file().write_all_at(&superblock, 0).unwrap();
            image.as_file().write_all_at(&good, start).unwrap();
        });
    }
}

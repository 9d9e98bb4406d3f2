//! ext4: each block group has a table of inodes, whose place its descriptor tells.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{Changed, Pair, cut, is_dir, le16, le32};

const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xef53;
const WIDE: u64 = 0x80;
/// The features that leave the tables where they are: `filetype`, `extents`, `64bit`, `mmp`, `flex_bg`, `ea_inode`,
/// `csum_seed`, `largedir`, `inline_data`, `encrypt` and `casefold`. Not `recover`: a log that was not replayed holds more
/// than the tables.
const KNOWN: u64 = 0x3_e6c2;
/// The journal, quotas and other inodes below it belong to the file system.
const ROOT: u64 = 2;
const FIRST: u64 = 11;

/// What the superblock says of where inodes are.
struct Layout {
    block: u64,
    groups: u64,
    inodes_per_group: u64,
    inode: u64,
    descriptor: u64,
    /// Where the descriptors begin.
    descriptors: u64,
}

pub(super) fn changed(pair: &Pair, ranges: &[Range<u64>]) -> io::Result<Option<Vec<Changed>>> {
    let Some(layout) = Layout::read(pair)? else { return Ok(None) };
    let mut changed = Vec::new();
    for group in 0..layout.groups {
        let Some(table) = layout.table(pair, group)? else { return Ok(None) };
        for piece in cut(ranges, table.clone(), layout.inode, 4096) {
            let first = group * layout.inodes_per_group + (piece.start - table.start) / layout.inode + 1;
            let (parent, layer) = pair.read(piece)?;
            let size = layout.inode as usize;
            let both = parent.chunks_exact(size).zip(layer.chunks_exact(size));
            for (number, (was, is)) in (first..).zip(both).filter(|(_, (was, is))| was != is) {
                let mode = le16(is, 0);
                if mode != 0 && (number == ROOT || number >= FIRST) {
                    changed.push(Changed { number, directory: is_dir(mode) && is_dir(le16(was, 0)) });
                }
            }
        }
    }
    Ok(Some(changed))
}

impl Layout {
    /// `None` where the kernel would not mount it either, or where tables may be elsewhere.
    fn read(pair: &Pair) -> io::Result<Option<Self>> {
        let mut superblock = [0; 1024];
        pair.layer.read_exact_at(&mut superblock, SUPERBLOCK)?;
        let field = |at| le32(&superblock, at);
        let (inodes, inodes_per_group) = (field(0x00), field(0x28));
        let inode = le16(&superblock, 0x58);
        let incompatible = field(0x60);
        let (wide, descriptor) = (incompatible & WIDE != 0, le16(&superblock, 0xfe));
        let known = le16(&superblock, 0x38) == MAGIC && incompatible & !KNOWN == 0 && field(0x18) <= 6;
        // Smaller inodes have times by the second.
        let sized = (256..=4096).contains(&inode) && inode.is_power_of_two();
        let described = !wide || (64..=1024).contains(&descriptor);
        let whole = inodes_per_group > 0 && inodes % inodes_per_group == 0 && inodes * inode <= pair.bytes;
        if !(known && sized && described && whole) {
            return Ok(None);
        }
        let block = 1024 << field(0x18);
        // The block after the superblock's.
        let descriptors = (field(0x14) + 1) * block;
        let (groups, descriptor) = (inodes / inodes_per_group, if wide { descriptor } else { 32 });
        Ok(Some(Self { block, groups, inodes_per_group, inode, descriptor, descriptors }))
    }

    /// Where the inodes of a group are; `None` where that is not on the device.
    fn table(&self, pair: &Pair, group: u64) -> io::Result<Option<Range<u64>>> {
        let mut descriptor = [0; 64];
        let known = if self.descriptor >= 64 { 64 } else { 32 };
        pair.layer.read_exact_at(&mut descriptor[..known], self.descriptors + group * self.descriptor)?;
        let block = le32(&descriptor, 0x28) << 32 | le32(&descriptor, 0x08);
        let start = block.checked_mul(self.block);
        let end = start.and_then(|start| start.checked_add(self.inodes_per_group * self.inode));
        Ok(start.zip(end).map(|(start, end)| start..end).filter(|table| table.end <= pair.bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::survives;
    use crate::options::Kind;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_damaged_file_system_is_read_without_a_fault(
            damage in prop::collection::vec((0usize..1024, any::<u8>()), 1..8),
            descriptors in prop::collection::vec((0usize..64, any::<u8>()), 0..8),
        ) {
            let superblock = damage.into_iter().map(|(at, byte)| (1024 + at, byte));
            let descriptors = descriptors.into_iter().map(|(at, byte)| (4096 + at, byte));
            survives(Kind::Ext4, superblock.chain(descriptors));
        }
    }
}

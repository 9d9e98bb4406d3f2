//! xfs: inodes lie anywhere, in chunks, and each of version 3 has its own number in it.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{Changed, Pair, be, cut, is_dir};

const MAGIC: &[u8] = b"XFSB";
const INODE_MAGIC: &[u8] = b"IN";

/// What the superblock says of where inodes are.
struct Layout {
    block: u64,
    blocks: u64,
    inode: u64,
    ag_blocks: u64,
    /// The bits of an inode number below that of its allocation group: block and place in it.
    ag_bits: u32,
    place_bits: u32,
    /// Inodes of the file system itself: the bitmap and summary of realtime space, and the quotas.
    own: Vec<u64>,
}

pub(super) fn changed(pair: &Pair, ranges: &[Range<u64>]) -> io::Result<Option<Vec<Changed>>> {
    let Some(layout) = Layout::read(pair)? else { return Ok(None) };
    let mut changed = Vec::new();
    for piece in cut(ranges, 0..layout.blocks * layout.block, layout.block, 256) {
        let start = piece.start;
        let (parent, layer) = pair.read(piece)?;
        let size = layout.inode as usize;
        let both = parent.chunks_exact(size).zip(layer.chunks_exact(size));
        for (at, (was, is)) in (start..).step_by(size).zip(both).filter(|(_, (was, is))| was != is) {
            let number = be(is, 152, 8);
            let (mode, version) = (be(is, 2, 2), be(is, 4, 1));
            // Data of a file may look like an inode; it would have to know its place, and costs a comparison at worst.
            let is_inode =
                is.starts_with(INODE_MAGIC) && version == 3 && number == layout.number(at) && mode != 0;
            if is_inode && !layout.own.contains(&number) {
                changed.push(Changed { number, directory: is_dir(mode) && is_dir(be(was, 2, 2)) });
            }
        }
    }
    Ok(Some(changed))
}

impl Layout {
    /// `None` where the kernel would not mount it either, or where inodes do not know their numbers.
    fn read(pair: &Pair) -> io::Result<Option<Self>> {
        let mut superblock = [0; 512];
        pair.layer.read_exact_at(&mut superblock, 0)?;
        let field = |at, length| be(&superblock, at, length);
        let (block, blocks, inode) = (field(4, 4), field(8, 8), field(104, 2));
        let (ag_blocks, ag_shift, place_bits) = (field(84, 4), field(124, 1), field(123, 1));
        let known = superblock.starts_with(MAGIC) && field(100, 2) & 0xf == 5;
        let sized = (512..=65536).contains(&block) && (512..=2048).contains(&inode) && inode <= block;
        let powers = block.is_power_of_two() && inode.is_power_of_two();
        let placed = ag_blocks > 0 && ag_shift <= 32 && place_bits <= 8;
        let there = blocks.checked_mul(block).is_some_and(|bytes| bytes <= pair.bytes);
        if !(known && sized && powers && placed && there) {
            return Ok(None);
        }
        Ok(Some(Self {
            block,
            blocks,
            inode,
            ag_blocks,
            ag_bits: (ag_shift + place_bits) as u32,
            place_bits: place_bits as u32,
            own: [64, 72, 160, 168, 232].map(|at| field(at, 8)).to_vec(),
        }))
    }

    /// The number of an inode at this byte of the device.
    fn number(&self, at: u64) -> u64 {
        let (block, place) = (at / self.block, at % self.block / self.inode);
        let (group, block) = (block / self.ag_blocks, block % self.ag_blocks);
        group << self.ag_bits | block << self.place_bits | place
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
            damage in prop::collection::vec((0usize..512, any::<u8>()), 1..8),
        ) {
            survives(Kind::Xfs, damage.into_iter());
        }
    }
}

//! ext4: each block group has a table of inodes, whose place its descriptor tells.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{Changed, Pair, cut, is_dir, le16, le32};

const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xef53;
const META_BG: u64 = 0x10;
const WIDE: u64 = 0x80;
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
    let mut descriptors =
        vec![0; usize::try_from(layout.groups * layout.descriptor).map_err(io::Error::other)?];
    pair.layer.read_exact_at(&mut descriptors, layout.descriptors)?;
    let mut changed = Vec::new();
    for (group, descriptor) in (0..).zip(descriptors.chunks_exact(layout.descriptor as usize)) {
        let high = if layout.descriptor >= 64 { le32(descriptor, 0x28) } else { 0 };
        let start = (high << 32 | le32(descriptor, 0x08)) * layout.block;
        let table = start..start + layout.inodes_per_group * layout.inode;
        for piece in cut(ranges, table, layout.inode, 4096) {
            let first = group * layout.inodes_per_group + (piece.start - start) / layout.inode + 1;
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
    fn read(pair: &Pair) -> io::Result<Option<Self>> {
        let mut superblock = [0; 1024];
        pair.layer.read_exact_at(&mut superblock, SUPERBLOCK)?;
        let field = |at| le32(&superblock, at);
        let incompatible = field(0x60);
        let known = le16(&superblock, 0x38) == MAGIC && incompatible & META_BG == 0 && field(0x18) <= 6;
        let (inodes, inodes_per_group) = (field(0x00), field(0x28));
        let inode = le16(&superblock, 0x58);
        if !known || inodes_per_group == 0 || !(128..=4096).contains(&inode) {
            return Ok(None);
        }
        let block = 1024 << field(0x18);
        let wide = le16(&superblock, 0xfe);
        let descriptor = if incompatible & WIDE != 0 && wide >= 64 { wide } else { 32 };
        // The block after the superblock's.
        let descriptors = (field(0x14) + 1) * block;
        let groups = inodes.div_ceil(inodes_per_group);
        Ok(Some(Self { block, groups, inodes_per_group, inode, descriptor, descriptors }))
    }
}

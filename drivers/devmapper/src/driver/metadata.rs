//! What a pool's metadata says while the pool is not active: which volumes there are.
//!
//! The layout is that of the kernel's `dm-thin-metadata.c` and `persistent-data/dm-btree-internal.h`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::sys;

const BLOCK: usize = 4096;
const MAGIC: u64 = 27_022_010;
/// A tree of 2^24 entries is lower than that by far.
const MOST_LEVELS: u8 = 8;
const LEAF: u32 = 2;
const HEADER: usize = 32;

/// The volumes of a pool that is not active, in order; `None` where this is no metadata.
pub(crate) fn volumes(path: &Path) -> io::Result<Option<Vec<u32>>> {
    let file = File::open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        sys::forget(&file)?;
    }
    let superblock = Block::read(&file, 0)?;
    if superblock.long(32) != MAGIC {
        return Ok(None);
    }
    let mut volumes = Vec::new();
    collect(&file, superblock.long(328), MOST_LEVELS, &mut volumes)?;
    Ok(Some(volumes))
}

/// Adds the keys of the tree of volumes below a block.
fn collect(file: &File, number: u64, levels: u8, volumes: &mut Vec<u32>) -> io::Result<()> {
    let node = Block::read(file, number)?;
    let entries = node.int(16) as usize;
    let (most, is_leaf) = (node.int(20) as usize, node.int(4) & LEAF != 0);
    let fits = entries <= most && most <= (BLOCK - HEADER) / 16;
    if !fits || levels == 0 || node.long(8) != number {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("block {number} is damaged")));
    }
    for entry in 0..entries {
        if is_leaf {
            let key = node.long(HEADER + 8 * entry);
            volumes.push(u32::try_from(key).map_err(|_| io::ErrorKind::InvalidData)?);
        } else {
            collect(file, node.long(HEADER + 8 * (most + entry)), levels - 1, volumes)?;
        }
    }
    Ok(())
}

struct Block([u8; BLOCK]);

impl Block {
    fn read(file: &File, number: u64) -> io::Result<Self> {
        let mut block = Self([0; BLOCK]);
        let at = number.checked_mul(BLOCK as u64).ok_or(io::ErrorKind::InvalidData)?;
        file.read_exact_at(&mut block.0, at)?;
        Ok(block)
    }

    fn int(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.int(at)) | u64::from(self.int(at + 4)) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(blocks: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (number, block) in blocks.iter().enumerate() {
            file.as_file().write_all_at(block, (number * BLOCK) as u64).unwrap();
        }
        file.as_file().set_len((blocks.len() * BLOCK) as u64).unwrap();
        file
    }

    fn put(block: &mut [u8], at: usize, number: u64) {
        block[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }

    fn superblock(root: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put(&mut block, 32, MAGIC);
        put(&mut block, 328, root);
        block
    }

    /// A node with the keys that has its values, each of 8 bytes, after room for `most` keys.
    fn node(number: u64, flags: u32, most: u32, entries: &[(u64, u64)]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put(&mut block, 0, u64::from(flags) << 32);
        put(&mut block, 8, number);
        put(&mut block, 16, entries.len() as u64 | u64::from(most) << 32);
        for (index, (key, value)) in entries.iter().enumerate() {
            put(&mut block, HEADER + 8 * index, *key);
            put(&mut block, HEADER + 8 * (most as usize + index), *value);
        }
        block
    }

    #[test]
    fn the_volumes_are_the_keys_of_all_leaves() {
        let leaves = [node(2, LEAF, 126, &[(1, 0), (3, 0)]), node(3, LEAF, 126, &[(9, 0)])];
        let [first, second] = leaves;
        let file = file(&[superblock(1), node(1, 1, 252, &[(1, 2), (9, 3)]), first, second]);
        assert_eq!(volumes(file.path()).unwrap().unwrap(), [1, 3, 9]);
    }

    #[test]
    fn what_is_no_metadata_is_none() {
        assert_eq!(volumes(file(&[vec![0; BLOCK]]).path()).unwrap(), None);
    }

    #[test]
    fn damage_is_an_error() {
        let circle = node(1, 1, 252, &[(1, 1)]);
        let elsewhere = node(5, LEAF, 126, &[]);
        let many = node(1, LEAF, 0, &[(1, 1)]);
        for damaged in [circle, elsewhere, many] {
            assert!(volumes(file(&[superblock(1), damaged]).path()).is_err());
        }
        assert!(volumes(file(&[superblock(u64::MAX)]).path()).is_err());
        assert!(volumes(file(&[superblock(7)]).path()).is_err());
    }
}

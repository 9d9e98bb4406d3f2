//! How large a pool is, and how it gets larger.
//!
//! Nobody watches a pool while containers write to it. So a pool on files is made large enough before a volume is
//! mounted for writing: for all that every active volume may still take, as far as the files may grow. A pool on
//! devices is as large as they are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mica_core::{Error, Result, failpoint};
use rustix::fs::FallocateFlags;

use super::{MIB, Nodes, Pool, SECTOR};
use crate::driver::dm::Table;
use crate::driver::sys;
use crate::driver::thin::{Health, Status};
use crate::options::Backing;

/// What data grows by: each step stops whoever writes for a moment.
const STEP: u64 = 256 * MIB;
const LEAST_METADATA: u64 = 2 * MIB;
/// The kernel uses no more: `DM_SM_METADATA_MAX_BLOCKS`.
const MOST_METADATA: u64 = 255 * ((1 << 14) - 64) * METADATA_BLOCK;
/// Of metadata, in bytes.
pub(crate) const METADATA_BLOCK: u64 = 4096;
/// The bytes of metadata that a block of data takes at the most (Documentation/admin-guide/device-mapper/
/// thin-provisioning.rst).
const METADATA_PER_BLOCK: u64 = 48;

/// The size of metadata for so much data.
pub(super) fn metadata_for(data: u64, block: u64) -> u64 {
    (data / block * METADATA_PER_BLOCK).next_multiple_of(MIB).clamp(LEAST_METADATA, MOST_METADATA)
}

/// How many bytes the data of a pool on files may have before the file system below is full.
fn room(root: &Path) -> io::Result<u64> {
    let taken = fs::metadata(root.join("data"))?.blocks() * SECTOR;
    Ok(taken.saturating_add(free(root)?))
}

/// How many bytes the file system of a directory has free.
fn free(dir: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(dir)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Makes a file larger. With `whole` it gets all its blocks at once.
pub(super) fn enlarge(path: &Path, size: u64, whole: bool) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if whole {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            allocated => allocated?,
        }
    }
    if file.metadata()?.len() < size {
        file.set_len(size)?;
    }
    file.sync_all()
}

impl Pool {
    /// Makes room for `bytes` more than all that active volumes may take: files grow up to `limit`, and devices that were
    /// enlarged are used whole. The caller holds the lock.
    pub(crate) fn grow(&self, bytes: u64, limit: u64) -> Result<()> {
        let status = self.thin.status()?;
        if matches!(status.health, Health::NeedsCheck | Health::Failed) {
            return Ok(());
        }
        let doing = || format!("grow the pool '{}'", self.thin.name());
        match &self.record.backing {
            Backing::Files => {
                let promised = self.thin.promised()?.saturating_add(bytes);
                self.grow_files(&status, promised, limit).map_err(Error::io(doing))
            }
            Backing::Devices { .. } => self.follow(&status).map_err(Error::io(doing)),
            Backing::Pool { .. } => Ok(()),
        }
    }

    fn grow_files(&self, status: &Status, promised: u64, limit: u64) -> io::Result<()> {
        let block = self.record.block_size;
        let (used, total) = (status.data.used * block, status.data.total * block);
        let wanted = used.saturating_add(promised);
        let wanted =
            wanted.checked_next_multiple_of(STEP).unwrap_or(wanted).min(limit).min(room(&self.root)?);
        let data = (wanted / block * block).max(total);
        // Whatever happens to the file system below, metadata must find its blocks: a pool that cannot write it stops.
        // What it has in use already grows with each snapshot, so the rule is applied to what is still to be written.
        let metadata = status.metadata.total * METADATA_BLOCK;
        let spare = 2 * status.metadata_reserve.max(256) * METADATA_BLOCK;
        let needed = status.metadata.used * METADATA_BLOCK
            + (data - used.min(data)) / block * METADATA_PER_BLOCK
            + spare;
        let needed = match needed > metadata {
            true => needed.next_multiple_of(MIB).min(MOST_METADATA).max(metadata),
            false => metadata,
        };
        if data == total && needed == metadata {
            return Ok(());
        }
        enlarge(&self.root.join("metadata"), needed, true)?;
        enlarge(&self.root.join("data"), data, false)?;
        failpoint::hit("devmapper.grow.files")?;
        let nodes = self.active_nodes()?;
        for node in [&nodes.data, &nodes.metadata] {
            sys::grown(node)?;
        }
        failpoint::hit("devmapper.grow.devices")?;
        self.reload(&nodes)
    }

    /// Uses all of the devices, which somebody may have enlarged while the pool was active.
    fn follow(&self, status: &Status) -> io::Result<()> {
        let nodes = self.active_nodes()?;
        let data = sys::size(&nodes.data)? / self.record.block_size;
        let metadata = sys::size(&nodes.metadata)?.min(MOST_METADATA) / METADATA_BLOCK;
        if data > status.data.total || metadata > status.metadata.total {
            self.reload(&nodes)?;
        }
        Ok(())
    }

    /// Has the kernel look at the sizes of the devices of an active pool.
    fn reload(&self, nodes: &Nodes) -> io::Result<()> {
        let block = self.record.block_size / SECTOR;
        let sectors = sys::size(&nodes.data)? / SECTOR / block * block;
        let arguments = self.thin.dm().arguments(self.thin.name())?;
        self.thin
            .dm()
            .change(self.thin.name(), &Table { sectors, target: "thin-pool", arguments, read_only: false })
            .map(drop)
    }

    /// How many blocks of data can be written before the pool is full, or the file system below a pool on files.
    pub(crate) fn free_blocks(&self, status: &Status) -> Result<u64> {
        let free = status.data.free();
        if self.record.backing != Backing::Files {
            return Ok(free);
        }
        let below =
            self::free(&self.root).map_err(Error::io(|| format!("look at '{}'", self.root.display())))?;
        Ok(free.min(below / self.record.block_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_follows_the_data() {
        assert_eq!(metadata_for(64 * MIB, 64 << 10), 2 * MIB);
        assert_eq!(metadata_for(100 << 30, 64 << 10), 75 * MIB);
        assert_eq!(metadata_for(1 << 60, 64 << 10), MOST_METADATA);
    }

    #[test]
    fn a_file_gets_all_its_blocks_where_it_must() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (size, whole, blocks) in [(MIB, true, MIB / SECTOR), (4 * MIB, false, MIB / SECTOR)] {
            File::options().write(true).create(true).truncate(false).open(&path).unwrap();
            enlarge(&path, size, whole).unwrap();
            let file = fs::metadata(&path).unwrap();
            assert_eq!((file.len(), file.blocks()), (size, blocks));
        }
    }
}

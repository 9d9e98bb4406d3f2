//! `system df`: what takes how much space, and what of it could be given back.

use std::collections::BTreeMap;

use mica_archive::Digest;

use crate::{Engine, Error, Result, layers};

/// What one kind of thing takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `Images`, `Containers`, …
    pub kind: &'static str,
    /// How many there are.
    pub total: usize,
    /// How many are in use.
    pub active: usize,
    /// The bytes that they take.
    pub size: u64,
    /// The bytes that removing those that are not in use would give back.
    pub reclaimable: u64,
}

impl Engine {
    /// What takes how much space. What images share is counted once.
    pub fn disk_usage(&self) -> Result<Vec<Row>> {
        Ok(vec![self.images_usage()?, self.containers_usage()?, self.volumes_usage()?])
    }

    fn images_usage(&self) -> Result<Row> {
        let used = self.image_uses()?;
        let images = self.images()?.found;
        let is_active = |id: &Digest| used.contains_key(id);
        // The layer, and whether an image in use has it.
        let mut needed = BTreeMap::new();
        for one in &images {
            for chain in one.image.chain() {
                *needed.entry(*chain).or_insert(false) |= is_active(one.image.id());
            }
        }
        let mut row = Row { kind: "Images", total: images.len(), active: 0, size: 0, reclaimable: 0 };
        row.active = images.iter().filter(|one| is_active(one.image.id())).count();
        for (chain, is_needed) in needed {
            let size = layers::read(self.root(), &chain)?.map_or(0, |record| record.size);
            row.size += size;
            row.reclaimable += if is_needed { 0 } else { size };
        }
        Ok(row)
    }

    fn containers_usage(&self) -> Result<Row> {
        let mut row = Row { kind: "Containers", total: 0, active: 0, size: 0, reclaimable: 0 };
        for (container, state) in self.list_containers()?.found {
            let is_live = state.status.is_live();
            // One that was removed meanwhile takes nothing.
            let size = self.layer_usage(&container).map_or(0, |usage| usage.bytes);
            row.total += 1;
            row.active += usize::from(is_live);
            row.size += size;
            row.reclaimable += if is_live { 0 } else { size };
        }
        Ok(row)
    }

    fn volumes_usage(&self) -> Result<Row> {
        // While a container cannot be read, any volume may be its.
        let users = match self.volume_users() {
            Err(Error::Damaged { .. }) => None,
            users => Some(users?),
        };
        let mut row = Row { kind: "Local Volumes", total: 0, active: 0, size: 0, reclaimable: 0 };
        for volume in self.volumes()? {
            let is_used = users.as_ref().is_none_or(|users| users.contains_key(volume.name()));
            let size = volume.usage()?;
            row.total += 1;
            row.active += usize::from(is_used);
            row.size += size;
            row.reclaimable += if is_used { 0 } else { size };
        }
        Ok(row)
    }
}

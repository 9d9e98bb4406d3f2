//! The first command after the host was started, which may have lost its power.
//!
//! Containers are made and removed without waiting for the disk where nothing depends on them: their intents are not
//! synced, nor is the record of one that removes itself. What a power cut left of such commands is found by looking, once.

use std::fs;
use std::path::Path;

use mica_core::durable;

use crate::container::{Busy, Container};
use crate::{Barrier, Engine, Error, Result, root};

/// Marks the directory of a container that removes itself, also where its record is lost.
pub(crate) const PASSING: &str = "auto-remove";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Engine {
    /// Removes what a power cut left, unless that was done since the host was started. Returns what could not be done.
    pub(crate) fn recover_from_power_cut(&self) -> Result<Vec<String>> {
        let Ok(boot) = fs::read(BOOT_ID) else { return Ok(Vec::new()) };
        let path = self.root().boot();
        if root::read_optional(&path, 256)?.as_deref() == Some(&boot) {
            return Ok(Vec::new());
        }
        let mut warnings = self.remove_passing()?;
        warnings.extend(self.remove_unnamed()?);
        // Two of these at once would write the same.
        let _lock = self.root().lock()?;
        durable::write(&path, &boot).map_err(Error::io(|| format!("write '{}'", path.display())))?;
        Ok(warnings)
    }

    /// Removes the containers that were to remove themselves: none of them runs any more.
    fn remove_passing(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for id in root::names(&self.root().containers())? {
            let dir = self.root().containers().join(&id);
            if dir.join(PASSING).exists()
                && let Err(error) = self.remove_one_passing(&dir, &id)
            {
                warnings.push(format!("cannot remove container {id}, which was to remove itself: {error}"));
            }
        }
        Ok(warnings)
    }

    fn remove_one_passing(&self, dir: &Path, id: &str) -> Result<()> {
        // Where nobody can have it, somebody starts it, or has removed it.
        let Ok(Some(busy)) = Busy::try_take(dir, id) else { return Ok(()) };
        match Container::read(dir.to_owned()) {
            Ok(Some(container)) => self.remove_held(&container, &busy, true),
            _ => self.transaction("remove what a power cut left", Barrier::None, |tx| {
                let _lock = self.root().lock()?;
                fs::rename(dir, tx.staging().join("container"))
                    .map_err(Error::io(|| format!("remove '{}'", dir.display())))
            }),
        }
    }
}

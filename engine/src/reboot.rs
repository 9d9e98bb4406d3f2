//! The first command after the host was started, which may have lost its power.
//!
//! Containers are made and removed without waiting for the disk where nothing depends on them: their intents are not
//! synced, nor is the record of one that removes itself. What a power cut left of such commands is found by looking, once.

use std::fs;
use std::path::Path;

use mica_core::durable;

use crate::container::{self, Busy, Container, KILLED, State, Status};
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
        let mut warnings = self.recover_containers()?;
        // Where a record is gone, as after a repair of the file system, its layer must not go too.
        let containers = self.root().containers();
        if root::names(&containers)?.iter().all(|id| containers.join(id).join("config.json").exists()) {
            warnings.extend(self.remove_unnamed()?);
        }
        // Two of these at once would write the same.
        let _lock = self.root().lock()?;
        durable::write(&path, &boot).map_err(Error::io(|| format!("write '{}'", path.display())))?;
        Ok(warnings)
    }

    /// Removes the containers that were to remove themselves, and has the others be known to have ended.
    fn recover_containers(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for id in root::names(&self.root().containers())? {
            let dir = self.root().containers().join(&id);
            // Where nobody can have it, somebody starts it, or has removed it.
            let Ok(Some(busy)) = Busy::try_take(&dir, &id) else { continue };
            let done = match dir.join(PASSING).exists() {
                true => self.remove_passing(&dir, &busy),
                false => record_end(&dir),
            };
            if let Err(error) = done {
                warnings.push(format!("cannot clean up container {id} after a power cut: {error}"));
            }
        }
        Ok(warnings)
    }

    fn remove_passing(&self, dir: &Path, busy: &Busy) -> Result<()> {
        match Container::read(dir.to_owned()) {
            Ok(Some(container)) => self.remove_held(&container, busy, true),
            _ => self.transaction("remove what a power cut left", Barrier::None, |tx| {
                let _lock = self.root().lock()?;
                fs::rename(dir, tx.staging().join("container"))
                    .map_err(Error::io(|| format!("remove '{}'", dir.display())))
            }),
        }
    }
}

/// States are not synced. Whatever it was, nothing runs now.
fn record_end(dir: &Path) -> Result<()> {
    let Err(Error::Damaged { .. }) = State::read(dir) else { return Ok(()) };
    let state = State {
        status: Status::Exited,
        exit_code: KILLED,
        error: "its state was lost when the host lost its power".to_owned(),
        finished: container::now(),
        ..State::default()
    };
    state.write(dir)
}

//! Pausing every process of a container.

use std::time::{Duration, Instant};
use std::{fs, io, thread};

use super::{Cgroup, Group};
use crate::error::{Context, Error, Result};

/// A process that cannot be stopped now (in uninterruptible sleep) keeps the whole group from being frozen.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Stops every process; returns when all stand still. On failure they run on.
    pub(crate) fn freeze(&self) -> Result<()> {
        let frozen = self.set_frozen(true);
        if frozen.is_err() {
            self.thaw()?;
        }
        frozen
    }

    /// Lets them run on; does nothing where none is frozen, or no group is left.
    pub(crate) fn thaw(&self) -> Result<()> {
        match self.set_frozen(false) {
            Err(Error::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            thawed => thawed,
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let what = || if frozen { "pausing the container" } else { "resuming the container" };
        let deadline = Instant::now() + PATIENCE;
        while !self.step(frozen).context(what)? {
            if Instant::now() > deadline {
                return Err(Error::spec(format!("{}: some process does not follow", what())));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Asks for the state and says whether it is reached. On v1 it has to be asked for again until it is: a
    /// group that got a new process meanwhile stays FREEZING (freezer-subsystem.rst).
    fn step(&self, frozen: bool) -> io::Result<bool> {
        if let Some(Group { dir, .. }) = self.v1("freezer") {
            let (state, file) = (if frozen { "FROZEN" } else { "THAWED" }, dir.join("freezer.state"));
            fs::write(&file, state)?;
            return Ok(fs::read_to_string(&file)?.trim() == state);
        }
        let Some(Group { dir, .. }) = self.v2() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this host has no freezer"));
        };
        fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        Ok(fs::read_to_string(dir.join("cgroup.events"))?.lines().any(|line| line == wanted))
    }
}

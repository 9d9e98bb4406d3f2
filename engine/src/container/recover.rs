//! After the death of a supervisor: its container's processes died with it, its mounts went with its namespace. What
//! stays are control groups, a socket, what it had in networks, and a state that says that it runs.

use mica_core::{MountOptions, failpoint};

use super::link::SOCKET;
use super::state::{self, State, Status};
use super::{Busy, Container, NetworkMode, remove_file};
use crate::supervisor::machine;
use crate::{Engine, Error, Result};

/// As of a process that SIGKILL ended, which is what happens to a container whose supervisor dies.
pub(crate) const KILLED: u8 = 137;

impl Engine {
    /// Puts a container right that this process holds, if its supervisor was killed.
    pub(super) fn put_right_held(&self, container: &Container) -> Result<()> {
        let state = State::read(container.dir())?;
        if state.status.is_live() { self.put_right(container).map(drop) } else { Ok(()) }
    }

    /// Puts a container right whose lock is free while its state says that it lives, or that it ended and did not remove
    /// itself as it was to. This can be done again after a crash on the way.
    pub(super) fn recover_container(&self, container: &Container, mut busy: Busy) -> Result<State> {
        // It may have ended in good order between the look at its state and the lock.
        let mut state = State::read(container.dir())?;
        if state.status.is_live() {
            state = self.freeing(|| {
                busy.note("being cleaned up")?;
                self.put_right(container)
            })?;
        }
        if state.status == Status::Exited && container.record().settings.auto_remove {
            self.remove_held(container, &busy, true)?;
        }
        Ok(state)
    }

    /// Removes what a container left that was killed, and records its end. This process holds it.
    fn put_right(&self, container: &Container) -> Result<State> {
        let record = container.record();
        machine::clean_up(container, self.runtime_of(container))?;
        failpoint::hit("recover.cleaned").map_err(Error::io(|| "clean up a container"))?;
        let left = self.release_networks(container, true).err();
        failpoint::hit("recover.released").map_err(Error::io(|| "clean up a container"))?;
        let store = self.store(Some(&record.driver))?;
        store.write(&record.layer(), &MountOptions::default())?.release()?;
        remove_file(&container.dir().join(SOCKET))?;
        let text = "its supervisor was killed";
        let state = State {
            status: Status::Exited,
            supervisor: 0,
            pid: 0,
            exit_code: KILLED,
            error: left.map_or_else(|| text.to_owned(), |left| format!("{text}; {left}")),
            finished: state::now(),
            ..State::read(container.dir())?
        };
        state.write(container.dir())?;
        failpoint::hit("recover.recorded").map_err(Error::io(|| "clean up a container"))?;
        Ok(state)
    }

    /// Takes away what a container that does not run has in networks, and if it was `killed` also what it leased and did not
    /// get to record. What cannot be taken away now is tried again when it is started or removed.
    pub(super) fn release_networks(&self, container: &Container, killed: bool) -> Result<()> {
        if container.record().settings.networking.mode != NetworkMode::Connected {
            return Ok(());
        }
        self.networks().release(container.id(), killed)
    }

    /// The OCI runtime of a container, by name or path; `None` is the built-in one.
    pub(crate) fn runtime_of<'a>(&self, container: &'a Container) -> Option<&'a str> {
        container.record().settings.runtime.as_deref()
    }
}

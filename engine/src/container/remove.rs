//! Removing containers.

use std::fs;

use mica_core::failpoint;

use super::attach::{Event, PAUSE};
use super::state::{State, Status};
use super::{Busy, Container, names, signal};
use crate::supervisor::wire::Request;
use crate::{Barrier, Engine, Error, Result};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The ids of the containers.
    pub containers: Vec<String>,
    /// The bytes that their layers took.
    pub bytes: u64,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

impl Engine {
    /// Removes a container. One that runs is refused, or with `force` killed first. With `volumes` those that were made
    /// for it alone go too.
    pub fn remove(&self, container: &Container, force: bool, volumes: bool) -> Result<()> {
        self.freeing(|| self.remove_now(container, force, volumes))
    }

    fn remove_now(&self, container: &Container, force: bool, volumes: bool) -> Result<()> {
        loop {
            let was_live = self.end_for_removal(container, force)?;
            if was_live && !container.dir().exists() {
                // It was to remove itself.
                return Ok(());
            }
            match Busy::take(container.dir(), container.name(), "being removed") {
                // Somebody has started it again.
                Err(Error::Conflict(_)) if force && self.state(container)?.status.is_live() => {}
                busy => return self.discard(container, &busy?, volumes),
            }
        }
    }

    /// Kills a container that runs, or without `force` refuses to. Returns whether it ran.
    fn end_for_removal(&self, container: &Container, force: bool) -> Result<bool> {
        let state = self.state(container)?;
        if !state.status.is_live() {
            return Ok(false);
        }
        if !force {
            let is = if state.status == Status::Starting { "being started" } else { state.status.word() };
            return Err(Error::Conflict(format!(
                "cannot remove container {}: it is {is}; stop it first, or remove it with -f",
                container.name(),
            )));
        }
        self.kill_and_wait(container).map(|()| true)
    }

    /// Removes a container whose record or state cannot be read, and does not run. Where it is the record, the container's layer
    /// is not known, and `storage check` finds it.
    pub fn remove_damaged(&self, name: &str, volumes: bool) -> Result<()> {
        let missing = || Error::no_such("container", name.escape_debug().to_string());
        let name = name.strip_prefix('/').unwrap_or(name);
        let id = if names::is_valid(name) { self.container_id(name)? } else { None };
        let dir = self.root().containers().join(id.ok_or_else(missing)?);
        self.freeing(|| {
            let busy = Busy::take(&dir, name, "being removed")?;
            if let Ok(Some(container)) = Container::read(dir.clone()) {
                return self.discard(&container, &busy, volumes);
            }
            self.transaction("remove a damaged container", Barrier::None, |tx| {
                let aside = tx.staging().join("container");
                let _lock = self.root().lock()?;
                fs::rename(&dir, &aside).map_err(Error::io(|| format!("remove '{}'", dir.display())))
            })
        })
    }

    /// Removes a container that this process holds and that does not run.
    pub(crate) fn remove_held(&self, container: &Container, held: &Busy, volumes: bool) -> Result<()> {
        self.freeing(|| self.discard(container, held, volumes))
    }

    fn discard(&self, container: &Container, _held: &Busy, volumes: bool) -> Result<()> {
        let record = container.record();
        self.release_networks(container, false)?;
        self.transaction("remove a container", Barrier::None, |tx| {
            let store = self.store(Some(&record.driver))?;
            tx.discard(&store, &record.layer)?;
            if volumes {
                tx.discard_volumes(&record.settings)?;
            }
            failpoint::hit("remove.announced").map_err(Error::io(|| "remove a container"))?;
            let aside = tx.staging().join("container");
            let failed = || format!("remove '{}'", container.dir().display());
            let _lock = self.root().lock()?;
            fs::rename(container.dir(), &aside).map_err(Error::io(failed))?;
            failpoint::hit("remove.renamed").map_err(Error::io(failed))?;
            names::release(self.root(), &record.name, &record.id)
        })
    }

    /// Removes every container that does not run. Docker's `container prune`.
    pub fn prune_containers(&self) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for container in self.containers()? {
            let state = match self.state(&container) {
                Ok(state) => state,
                Err(error) => {
                    pruned.failures.push(error.to_string());
                    continue;
                }
            };
            if state.status.is_live() {
                continue;
            }
            let bytes = self.layer_usage(&container).map_or(0, |usage| usage.bytes);
            match self.remove(&container, false, false) {
                Ok(()) => {
                    pruned.containers.push(container.id().to_owned());
                    pruned.bytes += bytes;
                }
                // Somebody else was faster.
                Err(Error::NoSuch { .. }) => {}
                Err(error) => pruned.failures.push(error.to_string()),
            }
        }
        Ok(pruned)
    }

    /// What the container's own files take.
    pub fn layer_usage(&self, container: &Container) -> Result<mica_core::Usage> {
        let record = container.record();
        Ok(self.store(Some(&record.driver))?.usage(&record.layer())?)
    }

    fn kill_and_wait(&self, container: &Container) -> Result<()> {
        let number = signal::require("KILL")?;
        while self.state(container)?.status.is_live() {
            // Connected before it is killed, or this would wait for the end of the next run where somebody starts it again.
            let attached = self.attach(container, false, false);
            let told = attached
                .and_then(|attached| container.ask(&Request::Signal { number, all: true }).map(|_| attached));
            match told {
                Ok(attached) => while !matches!(attached.next()?, Event::Exited(..)) {},
                // It is on its way up or down.
                Err(Error::Conflict(_) | Error::Runtime { .. }) => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the container is in its life. One whose supervisor died is put right first: what it left is removed, and its
    /// end is recorded. One that removes itself is gone after that.
    pub fn state(&self, container: &Container) -> Result<State> {
        let state = State::read(container.dir())?;
        let is_left = state.status == Status::Exited && container.record().settings.auto_remove;
        if !state.status.is_live() && !is_left {
            return Ok(state);
        }
        match Busy::try_take(container.dir(), container.name()) {
            Ok(None) => Ok(state),
            Ok(Some(busy)) => self.recover_container(container, busy),
            // It was removed meanwhile.
            Err(Error::NoSuch { .. }) => Ok(State { status: Status::Exited, ..state }),
            Err(error) => Err(error),
        }
    }
}

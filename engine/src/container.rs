//! Containers: what they are, where they are in their lives, and everything that can be done with one.
//!
//! A container is a directory `containers/ID`, which appears and vanishes by one rename. `config.json` says what it is,
//! `state.json` where it is in its life, and whoever holds `lock` may change it. While it runs that is its *supervisor*,
//! one process of its own (see `supervisor`), which is reached through a socket in the directory.
//! There is no daemon: a supervisor that died left its lock, and the next command that looks puts things right.

mod attach;
mod busy;
mod commit;
pub(crate) mod connections;
mod copy;
mod create;
pub(crate) mod etc;
mod exec;
mod init_layer;
mod inspect;
pub(crate) mod link;
mod logs;
mod names;
mod networking;
mod published;
mod reach;
mod receive;
mod record;
mod recover;
mod remove;
pub mod signal;
mod spec;
mod start;
mod state;
mod stop;
mod trees;
pub(crate) mod user;
pub(crate) mod volume;

use std::path::{Path, PathBuf};

pub use crate::supervisor::wire::Stream;
pub use attach::{Attached, Event};
pub(crate) use busy::Busy;
pub use commit::CommitOptions;
pub use copy::CopyOptions;
pub use create::CreateOptions;
pub use exec::{ExecOptions, Execution};
pub use logs::{LogLine, LogOptions, parse_time};
pub(crate) use names::is_valid as is_valid_name;
pub use networking::{ConnectWish, Connection, NetworkMode, Networking};
pub use published::Published;
pub(crate) use receive::Arrival;
pub use record::{
    CgroupNamespace, LogLimits, MountPoint, Record, Seccomp, Settings, Source, Ulimit, set_variable, short,
};
pub(crate) use recover::KILLED;
pub use remove::Pruned;
pub(crate) use spec::{Bundled, console_size, process_capabilities};
pub(crate) use start::await_single_thread;
pub use start::{StartOptions, Started};
pub(crate) use state::remove_file;
pub use state::{State, Status, now, seconds};

use crate::listing::Listing;
use crate::{Engine, Error, Result, root};

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 16 << 20;

/// A container.
#[derive(Clone, Debug)]
pub struct Container {
    record: Record,
    dir: PathBuf,
}

impl Container {
    /// What it is.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where its root file system is mounted, in the mount namespace of its supervisor.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The file that keeps what it prints.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.record.id))
    }

    pub(crate) fn read(dir: PathBuf) -> Result<Option<Self>> {
        let path = dir.join("config.json");
        let Some(text) = root::read_optional(&path, MAX_RECORD)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&text);
        let record =
            record.map_err(|e| Error::damaged(format!("container record '{}'", path.display()), e))?;
        Ok(Some(Self { record, dir }))
    }
}

impl Engine {
    /// All containers, the newest first. Fails where one cannot be read.
    pub fn containers(&self) -> Result<Vec<Container>> {
        self.read_containers()?.whole()
    }

    /// All containers that can be read, the newest first, with where they are in their lives.
    pub fn list_containers(&self) -> Result<Listing<(Container, State)>> {
        let Listing { found, damaged } = self.read_containers()?;
        let mut listing = Listing { found: Vec::with_capacity(found.len()), damaged };
        for container in found {
            listing.add(self.state(&container).map(|state| Some((container, state))))?;
        }
        Ok(listing)
    }

    fn read_containers(&self) -> Result<Listing<Container>> {
        let mut listing = Listing::new();
        for id in root::names(&self.root().containers())? {
            listing.add(Container::read(self.root().containers().join(id)))?;
        }
        let created = |one: &Container| (one.record.created.clone(), one.record.id.clone());
        listing.found.sort_by_key(|one| std::cmp::Reverse(created(one)));
        Ok(listing)
    }

    /// The container of this id, name, or beginning of an id that no other has.
    pub fn container(&self, name: &str) -> Result<Container> {
        let missing = || Error::no_such("container", name.escape_debug().to_string());
        let wanted = name.strip_prefix('/').unwrap_or(name);
        if !names::is_valid(wanted) {
            return Err(missing());
        }
        let id = self.container_id(wanted)?.ok_or_else(missing)?;
        Container::read(self.root().containers().join(id))?.ok_or_else(missing)
    }

    fn container_id(&self, wanted: &str) -> Result<Option<String>> {
        match names::lookup(self.root(), wanted)? {
            Some(id) => Ok(Some(id)),
            None => self.id_that_begins(wanted),
        }
    }

    fn id_that_begins(&self, beginning: &str) -> Result<Option<String>> {
        if !beginning.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(None);
        }
        let ids = root::names(&self.root().containers())?;
        let mut matching = ids.into_iter().filter(|id| id.starts_with(beginning));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "'{beginning}' begins more than one container id; give more digits"
            ))),
            (found, _) => Ok(found),
        }
    }
}

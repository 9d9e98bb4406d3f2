//! Endpoints of containers that are no engine's: of those a network namespace is known, and nothing else.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mica_core::network::{NetworkId, Port};
use rustix::fs::fstatfs;
use serde::{Deserialize, Serialize};

use super::record::MAX_RECORD;
use super::{EndpointRecord, NetworkRecord, Networks};
use crate::lock::{Lock, Passing};
use crate::{Error, Result, root};

/// The file system that namespaces are files of (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// A network namespace that somebody else made, who keeps it at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// Where it was.
    pub namespace: PathBuf,
    /// The device of its file.
    pub device: u64,
    /// The inode of its file.
    pub inode: u64,
}

impl Outside {
    /// Opens the namespace at a path. Fails with [`Error::Invalid`] for what is none, and for the one that this thread is in.
    pub fn open(path: &Path) -> Result<(File, Self)> {
        let shown = path.display();
        let failed = || format!("open network namespace '{shown}'");
        let file = File::open(path).map_err(Error::io(failed))?;
        let is_namespace = fstatfs(file.as_fd()).map_err(|e| Error::io(failed)(e.into()))?.f_type == NSFS;
        let outside = Self::of(path, &file).map_err(Error::io(failed))?;
        let own = fs::metadata("/proc/thread-self/ns/net").map_err(Error::io(failed))?;
        match is_namespace {
            false => Err(Error::Invalid(format!("'{shown}' is no network namespace"))),
            true if (own.dev(), own.ino()) == (outside.device, outside.inode) => {
                Err(Error::Invalid(format!("'{shown}' is the host's own network namespace")))
            }
            true => Ok((file, outside)),
        }
    }

    /// Opens it again; `None` where it is gone, or another one is at its path.
    pub fn reopen(&self) -> Option<File> {
        let file = File::open(&self.namespace).ok()?;
        (Self::of(&self.namespace, &file).ok()? == *self).then_some(file)
    }

    fn of(path: &Path, file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { namespace: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Networks {
    /// The endpoint of this container in this network.
    pub(crate) fn endpoint(&self, network: &NetworkId, container: &str) -> Result<Option<EndpointRecord>> {
        let path = self.endpoint_dir(network).join(format!("{container}.json"));
        let Some(text) = root::read_optional(&path, MAX_RECORD)? else { return Ok(None) };
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|e| Error::damaged(format!("endpoint record '{}'", path.display()), e))
    }

    /// Waits until nobody else is at this endpoint, which no supervisor guards.
    pub(crate) fn turn_at(&self, container: &str) -> Result<Passing> {
        Passing::wait(&self.run_directory("turns")?.join(container))
    }

    /// Whose endpoint publishes one of these ports already: `None` of those who could.
    ///
    /// Nobody holds the ports of an endpoint outside by a socket. Who asks this holds those that it wants by one, until its
    /// own endpoint is recorded: so of two who want the same port one finds the other's socket or its record.
    pub(crate) fn publisher(&self, ports: &[Port]) -> Result<Option<(Port, EndpointRecord)>> {
        for network in self.records()?.found {
            for record in self.endpoints(&network.network.id)? {
                let taken = record.endpoint.ports.iter();
                let found = taken.copied().find(|taken| ports.iter().any(|port| port.overlaps(taken)));
                if let Some(port) = found {
                    return Ok(Some((port, record)));
                }
            }
        }
        Ok(None)
    }

    /// Gives the endpoints outside what they lack after [`up`](Self::up) had to rebuild their network.
    pub(crate) fn mend_outside(&self, network: &NetworkRecord) -> Result<()> {
        let driver = self.driver(&network.driver)?;
        let endpoints = self.endpoints(&network.network.id)?.into_iter();
        for EndpointRecord { container, .. } in endpoints.filter(|record| record.outside.is_some()) {
            // Who is at one just now has a look at all of it.
            let Some(turn) = Lock::now(&self.run_directory("turns")?.join(&container))? else { continue };
            if let Some(mut record) = self.endpoint(&network.network.id, &container)?
                && let Some(was) = record.attachment.take()
                && let Some(namespace) = record.outside.as_ref().and_then(Outside::reopen)
            {
                let now = driver.update(&network.network, &was, &record.endpoint, namespace.as_fd())?;
                self.write_endpoint(&EndpointRecord { attachment: Some(now), ..record })?;
            }
            turn.remove()?;
        }
        Ok(())
    }
}

//! Endpoints of containers that are no engine's: of those a network namespace is known, and nothing else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mica_core::network::{Endpoint, NetworkId, Scope};
use rustix::fs::fstatfs;
use serde::{Deserialize, Serialize};

use super::containers::all;
use super::record::MAX_RECORD;
use super::{EndpointRecord, NetworkRecord, NetworkReport, Networks};
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
        let own = super::here().map_err(Error::io(failed))?;
        match is_namespace {
            false => Err(Error::Invalid(format!("'{shown}' is no network namespace"))),
            true if own == (outside.device, outside.inode) => {
                Err(Error::Invalid(format!("'{shown}' is the host's own network namespace")))
            }
            true => Ok((file, outside)),
        }
    }

    /// Opens it again; `None` where it is gone, or another one is at its path.
    pub fn reopen(&self) -> Option<File> {
        self.reopen_at(&self.namespace)
    }

    /// Opens it where it may be now.
    pub fn reopen_at(&self, path: &Path) -> Option<File> {
        let file = File::open(path).ok()?;
        let found = Self::of(path, &file).ok()?;
        ((found.device, found.inode) == (self.device, self.inode)).then_some(file)
    }

    fn of(path: &Path, file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { namespace: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Networks {
    /// The network of exactly this name, if it is recorded.
    pub(crate) fn recorded(&self, name: &str) -> Result<Option<NetworkRecord>> {
        let listing = self.records()?;
        match listing.found.iter().find(|known| known.name() == name) {
            Some(found) => Ok(Some(found.clone())),
            // It may be one of the damaged.
            None => listing.whole().map(|_| None),
        }
    }

    /// The endpoint of this container in this network.
    pub(crate) fn endpoint(&self, network: &NetworkId, container: &str) -> Result<Option<EndpointRecord>> {
        let path = self.endpoint_dir(network)?.join(format!("{container}.json"));
        let Some(text) = root::read_optional(&path, MAX_RECORD)? else { return Ok(None) };
        let record = serde_json::from_slice(&text);
        record.map(Some).map_err(|e| Error::damaged(format!("endpoint record '{}'", path.display()), e))
    }

    /// Waits until nobody else is at this endpoint, which no supervisor guards.
    pub(crate) fn turn_at(&self, container: &str) -> Result<Passing> {
        Passing::wait(&self.run_directory("turns")?.join(container))
    }

    /// Takes an endpoint away with all that it has. What fails half-way keeps its record.
    pub(crate) fn take_away(&self, record: &EndpointRecord, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        self.detach(record, namespace)?;
        self.give_back(record)
    }

    /// Takes away the endpoints outside that nobody keeps, and whatever of the network no record names. Goes on after a
    /// failure, and names all.
    pub(crate) fn collect_outside(
        &self,
        network: &NetworkRecord,
        keep: &dyn Fn(&EndpointRecord) -> bool,
    ) -> Result<()> {
        let id = network.network.id;
        let driver = self.driver(&network.driver)?;
        let mut failures = Vec::new();
        let endpoints = self.endpoints(&id)?.into_iter();
        for found in endpoints.filter(|record| record.outside.is_some() && !keep(record)) {
            let _turn = self.turn_at(&found.container)?;
            let Some(record) = self.endpoint(&id, &found.container)? else { continue };
            let namespace = record.outside.as_ref().and_then(Outside::reopen);
            failures.extend(self.take_away(&record, namespace.as_ref().map(AsFd::as_fd)).err());
        }
        // Listed first: what is recorded while it is looked at must not seem forgotten.
        let owned = driver.list()?;
        let recorded: BTreeSet<_> =
            self.endpoints(&id)?.into_iter().map(|record| record.endpoint.id).collect();
        let lost = owned.into_iter().filter_map(|owned| match owned.scope {
            Scope::Endpoint(network, endpoint) if network == id => Some(endpoint),
            _ => None,
        });
        for endpoint in lost.collect::<BTreeSet<_>>().difference(&recorded) {
            let taken = driver.detach(&network.network, &Endpoint::unrecorded(*endpoint), None, None);
            failures.extend(taken.err().map(Error::from));
        }
        self.sweep_leases(&id)?;
        all(failures)
    }

    /// Gives the endpoints outside what they lack after [`up`](Self::up) had to rebuild their network.
    pub(crate) fn mend_outside(&self, network: &NetworkRecord) -> Result<()> {
        self.each_outside(network, &mut |record, namespace| match (record.attachment.is_some(), namespace) {
            (true, Some(namespace)) => self.mend_one(network, record, &namespace),
            _ => Ok(()),
        })
    }

    /// Compares the endpoints outside with the kernel. With `repair` they are mended, and those taken away whose namespace is
    /// gone, or whose making was not ended.
    pub(super) fn check_outside(&self, repair: bool, report: &mut NetworkReport) -> Result<()> {
        for network in self.records()?.found {
            let driver = self.driver(&network.driver)?;
            self.each_outside(&network, &mut |record, namespace| {
                let container = format!("container '{}' in network '{}'", record.name, network.name());
                let (Some(was), Some(namespace)) = (&record.attachment, &namespace) else {
                    let text =
                        format!("endpoint of {container}, of another runtime, whose namespace is gone");
                    let taken = repair.then(|| self.take_away(&record, namespace.as_ref().map(AsFd::as_fd)));
                    tell(report, &text, &format!("removed the {text}"), taken);
                    return Ok(());
                };
                let check = || driver.check(&network.network, &record.endpoint, was, namespace.as_fd());
                let Err(error) = check() else { return Ok(()) };
                let mend = || self.mend_one(&network, record.clone(), namespace).and_then(|()| Ok(check()?));
                let done = format!("mended for {container}: {error}");
                tell(report, &format!("{container}: {error}"), &done, repair.then(mend));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Goes through the endpoints outside at which nobody is just now, each with its namespace, if that is still there.
    fn each_outside(
        &self,
        network: &NetworkRecord,
        work: &mut dyn FnMut(EndpointRecord, Option<File>) -> Result<()>,
    ) -> Result<()> {
        let endpoints = self.endpoints(&network.network.id)?.into_iter();
        for EndpointRecord { container, .. } in endpoints.filter(|record| record.outside.is_some()) {
            let Some(turn) = Lock::now(&self.run_directory("turns")?.join(&container))? else { continue };
            if let Some(record) = self.endpoint(&network.network.id, &container)? {
                let namespace = record.outside.as_ref().and_then(Outside::reopen);
                work(record, namespace)?;
            }
            turn.remove()?;
        }
        Ok(())
    }

    fn mend_one(&self, network: &NetworkRecord, record: EndpointRecord, namespace: &File) -> Result<()> {
        let Some(was) = &record.attachment else { return Ok(()) };
        let driver = self.driver(&network.driver)?;
        let now = driver.update(&network.network, was, &record.endpoint, namespace.as_fd())?;
        self.write_endpoint(&EndpointRecord { attachment: Some(now), ..record })
    }
}

/// Tells of a fault, or what became of it where a repair was tried.
fn tell(report: &mut NetworkReport, fault: &str, done: &str, repair: Option<Result<()>>) {
    match repair {
        None => report.faults.push(format!("{fault}; 'mica network check --repair' mends it")),
        Some(Ok(())) => report.done.push(done.to_owned()),
        Some(Err(error)) => report.faults.push(format!("{fault}: {error}")),
    }
}

//! What the driver knows of its layers: a small file each.
//!
//! ```text
//! pending/ID         a layer that is being made, written before the pool is told
//! layers/ID          a layer
//! removing/VOLUME    a layer that is being deleted, until the pool has forgotten its volume
//! newest             the layer made last, once it is deleted
//! ```
//!
//! A pending layer is there when the pool's transaction id says so: it counts the layers that were ever made, and is
//! raised last. So no step of making or deleting one can be lost half-way, and the newest of all files has the
//! transaction id of the pool.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mica_core::{Error, LayerId, Result, durable};
use serde::{Deserialize, Serialize};

const PARTS: [&str; 3] = ["pending", "layers", "removing"];
const NEWEST: &str = "newest";
/// The transaction of what is never to be a layer.
const NEVER: u64 = u64::MAX;
/// What [`durable::write`] calls a file before it is whole.
const ASIDE: &str = ".layer.new";
/// Ends the names of layers' files, so that what a write leaves aside is no layer's.
const SUFFIX: &str = ".layer";

/// A layer as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// The thin volume's number in the pool.
    pub(crate) volume: u32,
    /// The pool's transaction id once the layer is there.
    pub(crate) transaction: u64,
    /// The size of the volume.
    pub(crate) bytes: u64,
    pub(crate) committed: bool,
    /// The file system keeps a quota of its own for this layer.
    pub(crate) limited: bool,
}

impl Layer {
    /// Fails with `State` where it is committed; `rule` is what forbids the call then.
    pub(crate) fn expect_writable(&self, id: &LayerId, rule: &'static str) -> Result<()> {
        match self.committed {
            true => Err(Error::State { what: format!("layer '{id}'"), state: "committed", rule }),
            false => Ok(()),
        }
    }

    /// A copy of this layer that is to be deleted again, whatever happens.
    pub(crate) fn passing(&self, volume: u32) -> Self {
        Self { volume, transaction: NEVER, committed: false, ..self.clone() }
    }

    /// The transaction that made it, or is to; `None` for what is only to be deleted again.
    pub(crate) fn made_by(&self) -> Option<u64> {
        Some(self.transaction).filter(|transaction| *transaction != NEVER)
    }
}

/// The directories with the files.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    /// Opens them below an existing directory.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for part in PARTS {
            match fs::DirBuilder::new().mode(0o700).create(root.join(part)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(Error::io(|| format!("open '{}'", root.display())))?,
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn layer(&self, id: &LayerId) -> Result<Layer> {
        read(&self.at("layers", id), || format!("layer '{id}'"))?.ok_or_else(|| Error::no_layer(id))
    }

    pub(crate) fn exists(&self, id: &LayerId) -> bool {
        self.at("layers", id).exists()
    }

    pub(crate) fn list(&self) -> Result<Vec<LayerId>> {
        names(&self.root.join("layers"))
    }

    /// The intent to make a layer.
    pub(crate) fn intend(&self, id: &LayerId, layer: &Layer) -> Result<()> {
        write(&self.at("pending", id), layer).map_err(Error::io(|| format!("create layer '{id}'")))
    }

    /// The layers that were intended, and are neither there nor given up.
    pub(crate) fn intended(&self) -> Result<Vec<(LayerId, Layer)>> {
        self.read_all("pending")
    }

    /// An intended layer is there. Needs no syncing: the pool's transaction id tells it again.
    pub(crate) fn establish(&self, id: &LayerId) -> io::Result<()> {
        fs::rename(self.at("pending", id), self.at("layers", id))
    }

    /// An intended layer is given up, and the pool knows nothing of it.
    pub(crate) fn give_up(&self, id: &LayerId) -> io::Result<()> {
        remove(&self.at("pending", id))
    }

    /// Replaces a layer's file.
    pub(crate) fn replace(&self, id: &LayerId, layer: &Layer) -> io::Result<()> {
        write(&self.at("layers", id), layer)
    }

    /// A layer is to be deleted: from here on there is none of this id.
    pub(crate) fn take_away(&self, id: &LayerId, layer: &Layer) -> io::Result<()> {
        // Its intent is gone for good first: it would bring the layer back.
        durable::sync_dir(&self.root.join("pending"))?;
        durable::rename(&self.at("layers", id), &self.leaving_at(layer))?;
        durable::sync_dir(&self.root.join("layers"))
    }

    /// An intended layer is to be given up, but the pool cannot delete its volume now.
    pub(crate) fn postpone(&self, layer: &Layer) -> io::Result<()> {
        write(&self.leaving_at(layer), &layer.passing(layer.volume))
    }

    /// The layers that are being deleted.
    pub(crate) fn leaving(&self) -> Result<Vec<Layer>> {
        Ok(self.read_all("removing")?.into_iter().map(|(_, layer)| layer).collect())
    }

    /// The pool has forgotten a deleted layer.
    pub(crate) fn forget(&self, layer: &Layer) -> Result<()> {
        let path = self.leaving_at(layer);
        let known = match self.newest_deleted() {
            // A damaged one stays, since a lower one would be wrong.
            Err(Error::Corrupt { .. }) => u64::MAX,
            newest => newest?.map_or(0, |newest| newest.transaction),
        };
        let done = match layer.made_by().is_some_and(|transaction| transaction > known) {
            true => fs::rename(&path, self.root.join(NEWEST)),
            false => remove(&path),
        };
        done.map_err(Error::io(|| "delete the record of a layer"))
    }

    /// The layer made last of those that are deleted.
    pub(crate) fn newest_deleted(&self) -> Result<Option<Layer>> {
        read(&self.root.join(NEWEST), || "the layer deleted last".to_owned())
    }

    /// Every layer that is there.
    pub(crate) fn layers(&self) -> Result<Vec<(LayerId, Layer)>> {
        self.read_all("layers")
    }

    /// Returns when every layer's file survives a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        durable::sync_dir(&self.root.join("layers")).map_err(Error::io(|| "sync the layers"))
    }

    /// Deletes what writes that a crash cut off have left aside.
    pub(crate) fn tidy(&self) -> Result<()> {
        let tidy = || {
            for part in PARTS {
                for entry in fs::read_dir(self.root.join(part))? {
                    let path = entry?.path();
                    if path.to_str().is_some_and(|path| path.ends_with(ASIDE)) {
                        remove(&path)?;
                    }
                }
            }
            Ok(())
        };
        tidy().map_err(Error::io(|| "delete what a crash left"))
    }

    /// Every volume that some layer has, made or not.
    pub(crate) fn volumes(&self) -> Result<Vec<u32>> {
        let all = PARTS.into_iter().map(|part| self.read_all(part));
        let all: Vec<_> = all.collect::<Result<_>>()?;
        Ok(all.into_iter().flatten().map(|(_, layer)| layer.volume).collect())
    }

    fn at(&self, part: &str, id: &LayerId) -> PathBuf {
        self.root.join(part).join(format!("{id}{SUFFIX}"))
    }

    /// By the volume: the next layer of the same id may be deleted while this one still is.
    fn leaving_at(&self, layer: &Layer) -> PathBuf {
        self.root.join("removing").join(format!("{}{SUFFIX}", layer.volume))
    }

    fn read_all(&self, part: &str) -> Result<Vec<(LayerId, Layer)>> {
        let ids = names(&self.root.join(part))?;
        let read = |id: LayerId| {
            let layer = read(&self.at(part, &id), || format!("layer '{id}'"))?;
            Ok(layer.map(|layer| (id, layer)))
        };
        ids.into_iter().map(read).filter_map(Result::transpose).collect()
    }
}

/// The ids among the names in a directory; what a write left aside is none.
fn names(dir: &Path) -> Result<Vec<LayerId>> {
    let entries: io::Result<Vec<_>> = fs::read_dir(dir).and_then(Iterator::collect);
    let entries = entries.map_err(Error::io(|| "list the layers"))?;
    let names = entries.iter().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect())
}

fn read(path: &Path, what: impl Fn() -> String) -> Result<Option<Layer>> {
    let content = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content.map_err(Error::io(|| format!("read the record of {}", what())))?,
    };
    let layer = serde_json::from_slice(&content);
    layer.map(Some).map_err(|e| Error::Corrupt { what: what(), reason: format!("its record: {e}") })
}

fn write(path: &Path, layer: &Layer) -> io::Result<()> {
    durable::write(path, &serde_json::to_vec(layer)?)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(transaction: u32) -> Layer {
        Layer {
            volume: transaction,
            transaction: transaction.into(),
            bytes: 1,
            committed: false,
            limited: false,
        }
    }

    fn deleted(records: &Records, transaction: u32) {
        let (id, layer) = ("x".parse().unwrap(), layer(transaction));
        records.intend(&id, &layer).unwrap();
        records.establish(&id).unwrap();
        records.take_away(&id, &layer).unwrap();
        assert_eq!(records.leaving().unwrap(), std::slice::from_ref(&layer));
        records.forget(&layer).unwrap();
        assert_eq!(records.leaving().unwrap(), []);
    }

    #[test]
    fn the_newest_layer_is_known_after_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        for (transaction, newest) in [(5, 5), (3, 5), (7, 7)] {
            deleted(&records, transaction);
            assert_eq!(records.newest_deleted().unwrap(), Some(layer(newest)));
        }
        fs::write(dir.path().join(NEWEST), "{").unwrap();
        deleted(&records, 8);
        assert!(matches!(records.newest_deleted(), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn layers_of_one_id_are_deleted_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let id = "x".parse().unwrap();
        for transaction in [2, 3] {
            records.intend(&id, &layer(transaction)).unwrap();
            records.establish(&id).unwrap();
            records.take_away(&id, &layer(transaction)).unwrap();
        }
        records.postpone(&layer(4)).unwrap();
        let mut leaving = records.leaving().unwrap();
        leaving.sort_by_key(|layer| layer.volume);
        assert_eq!(leaving, [layer(2), layer(3), layer(4).passing(4)]);
        records.forget(&leaving[2]).unwrap();
        assert_eq!(records.newest_deleted().unwrap(), None);
    }
}

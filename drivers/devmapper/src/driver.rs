//! The driver on a kernel that can be asked.

mod changes;
mod delta;
mod dm;
mod filesystem;
mod holders;
mod inodes;
mod pool;
mod quota;
mod records;
mod space;
mod sys;
mod thin;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mica_core::graphdriver::Posix;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountRequest,
    Mounts, OptionMap, Quota, Result, Support, Trees, Usage, failpoint, options as core_options,
};
use mica_mount::Mounter;

use crate::NAME;
use crate::options::Options;
use changes::Volume;
use dm::Writes;
use filesystem::Mounting;

use pool::{BASE, Pool, Record};
use records::{Guard, Layer, Records};
use volumes::Origin;

pub(crate) fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let options: Options = core_options::parse(NAME, given, Options::DOCS)?;
    options.check()?;
    let record = Record::read(root)?;
    if let Some(record) = &record {
        record.agrees(&options, given)?;
    }
    space::needed(record.as_ref().map_or(options.filesystem, |record| record.filesystem))?;
    let quota = record.as_ref().is_none_or(|record| record.quota);
    let driver = Devmapper {
        root: root.to_owned(),
        records: Records::open(root)?,
        capabilities: capabilities(quota),
        options,
        pool: Mutex::new(None),
    };
    if record.is_some_and(|record| record.ready) {
        driver.change(|_| Ok(()))?;
    }
    Ok(Box::new(driver))
}

fn capabilities(quota: bool) -> Capabilities {
    let kept = || match quota {
        true => Support::Yes,
        false => Support::no("the kernel keeps no project quota on the layers' file system"),
    };
    Capabilities {
        quota_bytes: kept(),
        quota_inodes: kept(),
        id_maps: Support::Yes,
        max_depth: None,
        detached_apply: false,
        duplicate: true,
        shared_data: true,
        posix: Posix { rename_lower_dirs: true, coherent_open: true, lower_hard_links: true },
    }
}

#[derive(Debug)]
struct Devmapper {
    root: PathBuf,
    records: Records,
    options: Options,
    capabilities: Capabilities,
    /// Opened when it is first needed: a root without layers has no pool.
    pool: Mutex<Option<Pool>>,
}

impl Devmapper {
    /// Does something with the pool under the lock of the root. What a crash left is finished first.
    fn change<T>(&self, work: impl FnOnce(&Pool) -> Result<T>) -> Result<T> {
        let mut opened = self.opened();
        let _guard = Guard::take(&self.root)?;
        let pool = match opened.take() {
            Some(pool) => {
                pool.wake()?;
                pool
            }
            None => {
                let pool = pool::set_up(&self.root, &self.options)?;
                volumes::recover(&pool, &self.records)?;
                pool
            }
        };
        let done = work(&pool);
        let rested = pool.rest();
        *opened = Some(pool);
        done.and_then(|done| rested.map(|()| done))
    }

    fn opened(&self) -> MutexGuard<'_, Option<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self, id: &LayerId, rule: &'static str) -> Result<Layer> {
        let layer = self.records.layer(id)?;
        if layer.committed {
            return Err(Error::State { what: format!("layer '{id}'"), state: "committed", rule });
        }
        Ok(layer)
    }

    /// What a layer on this chain is a snapshot of.
    fn origin(&self, chain: Chain<'_>, pool: &Pool) -> Result<Origin> {
        let Some(id) = chain.parent() else {
            let bytes = pool.record.base_size;
            return Ok(Origin { volume: BASE, bytes, limited: false, writes: Writes::Flushed });
        };
        let parent = self.records.layer(id)?;
        if !parent.committed {
            let rule = "only a committed layer can be a parent";
            return Err(Error::State { what: format!("layer '{id}'"), state: "writable", rule });
        }
        Ok(Origin {
            volume: parent.volume,
            bytes: parent.bytes,
            limited: parent.limited,
            writes: Writes::Flushed,
        })
    }

    fn make(&self, pool: &Pool, id: &LayerId, origin: Origin, quota: &Quota) -> Result<()> {
        if self.records.exists(id) {
            return Err(Error::layer_exists(id));
        }
        space::admit(pool, &self.options)?;
        volumes::make(pool, &self.records, id, origin, |layer| {
            let asked = quota.bytes.is_some() || quota.inodes.is_some();
            let bytes = self.options.base_size.0.max(layer.bytes);
            if asked || origin.limited || bytes > layer.bytes {
                self.settle(pool, layer, quota, bytes)?;
            }
            Ok(())
        })
    }

    /// Gives a new layer's volume its size and its quota.
    fn settle(&self, pool: &Pool, layer: &mut Layer, quota: &Quota, bytes: u64) -> Result<()> {
        let doing = || "set the size and the quota of a layer";
        let mounter = Mounter::new(&self.root);
        pool.thin.with_active(layer.volume, layer.bytes, |device| {
            let tree = mounter.open(&self.mounting(pool, &device.node(), false))?;
            let root = filesystem::root_of(&tree).map_err(Error::io(doing))?;
            let wanted = match quota.bytes {
                Some(more) => quota::size_for(&root, more).map_err(Error::io(doing))?.max(bytes),
                None => bytes,
            };
            if wanted > layer.bytes {
                let wanted = wanted.next_multiple_of(pool.record.block_size);
                pool.thin.resize(layer.volume, wanted)?;
                pool.record.filesystem.grow(&root, wanted).map_err(Error::io(doing))?;
                layer.bytes = wanted;
            }
            if pool.record.quota {
                quota::limit(&root, quota).map_err(Error::io(doing))?;
            }
            layer.limited = quota.bytes.is_some() || quota.inodes.is_some();
            rustix::fs::syncfs(&root).map_err(std::io::Error::from).map_err(Error::io(doing))?;
            drop(root);
            tree.close()
        })
    }

    fn mounting(&self, pool: &Pool, node: &Path, read_only: bool) -> Mounts {
        pool.record.filesystem.mount(&Mounting {
            node,
            quota: pool.record.quota,
            more: &self.options.mount_options,
            read_only,
            label: None,
            id_map: None,
        })
    }
}

impl GraphDriver for Devmapper {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        if Record::read(&self.root)?.is_none() {
            return Ok(vec![("Pool".to_owned(), "made with the first layer".to_owned())]);
        }
        self.change(space::status)
    }

    fn check(&self) -> Result<Vec<String>> {
        match Record::read(&self.root)? {
            Some(_) => self.change(space::check),
            None => Ok(Vec::new()),
        }
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(NAME, options)?;
        self.change(|pool| {
            let origin = self.origin(chain, pool)?;
            self.make(pool, chain.id, origin, &options.quota)
        })?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let read_only = request.access == Access::Read;
        let layer = match read_only {
            true => self.records.layer(chain.id)?,
            false => self.writable(chain.id, "a committed layer is never written")?,
        };
        self.change(|pool| {
            if !read_only {
                pool.grow(layer.bytes, self.options.file_size.0)?;
            }
            let device = pool.thin.activate(layer.volume, layer.bytes)?;
            Ok(pool.record.filesystem.mount(&Mounting {
                node: &device.node(),
                quota: pool.record.quota && !read_only,
                more: &self.options.mount_options,
                read_only,
                label: request.options.label.clone(),
                id_map: request.options.id_map.clone(),
            }))
        })
    }

    fn release(&self, chain: Chain<'_>, _: Access) -> Result<()> {
        match self.records.layer(chain.id) {
            Ok(layer) => self.change(|pool| pool.thin.deactivate(layer.volume)),
            Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        let layer = self.records.layer(chain.id)?;
        if layer.committed {
            return Ok(());
        }
        self.change(|pool| {
            space::whole(pool, &layer, chain.id)?;
            let doing = || format!("commit layer '{}'", chain.id);
            failpoint::hit("devmapper.commit.checked").map_err(Error::io(doing))?;
            let committed = Layer { committed: true, ..layer.clone() };
            self.records.replace(chain.id, &committed).map_err(Error::io(doing))
        })
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        for id in layers {
            self.records.layer(id)?;
        }
        self.change(space::flush)?;
        self.records.sync()
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let layer = self.writable(from.id, "only a writable layer is duplicated")?;
        self.change(|pool| {
            let (volume, bytes, limited) = (layer.volume, layer.bytes, layer.limited);
            let origin = Origin { volume, bytes, limited, writes: Writes::Settled };
            self.make(pool, to, origin, &Quota::default())
        })
    }

    fn changes(&self, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        let layer = self.records.layer(chain.id)?;
        let Some(parent) = chain.parent() else {
            return Ok(Changes::Compare { only: None });
        };
        let parent = self.records.layer(parent)?;
        let parent = Volume { number: parent.volume, bytes: parent.bytes };
        let changed = self.change(|pool| changes::inodes(pool, &self.records, chain.id, parent, &layer))?;
        let only = changed.map(|changed| changes::with_moved(&changed, trees)).transpose()?;
        Ok(Changes::Compare { only })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        let layer = self.records.layer(chain.id)?;
        let parent = chain.parent().map(|id| self.records.layer(id)).transpose()?;
        let parent = parent.map_or(BASE, |layer| layer.volume);
        self.change(|pool| space::usage(pool, parent, &layer))
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let layer = self.records.layer(chain.id)?;
        let record = Record::read(&self.root)?.ok_or_else(|| Error::no_layer(chain.id))?;
        record.thin()?.describe(layer.volume, layer.bytes)
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        let layer = match self.records.layer(id) {
            Err(Error::NotFound { .. }) => return Ok(()),
            layer => layer?,
        };
        self.change(|pool| pool.thin.deactivate(layer.volume))?;
        // Not under the lock: whoever has the device open may need that to let go.
        let what = || format!("layer '{id}'");
        let thin = self.change(|pool| pool.thin.again())?;
        thin.wait_until_inactive(layer.volume, what)?;
        self.change(|pool| {
            let layer = volumes::take_away(&self.records, id)?;
            space::discard(pool, &layer, &self.options)?;
            volumes::finish(pool, &self.records, id, &layer)
        })
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.records.list()
    }
}

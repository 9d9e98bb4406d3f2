//! The driver on a kernel that can be asked.

mod changes;
mod compare;
mod delta;
mod dm;
mod filesystem;
mod holders;
mod inodes;
mod locks;
mod metadata;
mod pool;
mod quota;
mod records;
mod replay;
mod space;
mod sys;
mod thin;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mica_core::graphdriver::Posix;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountRequest,
    Mounts, OptionMap, Quota, Result, Support, Trees, Usage, failpoint, options as core_options,
};
use mica_mount::Mounter;

use rustix::time::ClockId;

use crate::NAME;
use crate::options::{Options, size};
use changes::Volume;
use dm::Writes;
use filesystem::Mounting;

use locks::{Guard, Presence};
use pool::{BASE, Pool, Record};
use records::{Layer, Records};
use volumes::Origin;

pub(crate) fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let options: Options = core_options::parse(NAME, given, Options::DOCS)?;
    options.check()?;
    let record = Record::read(root)?;
    if let Some(record) = record.as_ref().filter(|record| record.ready) {
        record.agrees(&options)?;
    }
    space::needed(record.as_ref().map_or(options.filesystem(), |record| record.filesystem))?;
    let quota = record.as_ref().is_none_or(|record| record.quota);
    let mut driver = Devmapper {
        presence: Presence::begin(root)?,
        root: root.to_owned(),
        records: Records::open(root)?,
        capabilities: capabilities(quota),
        options,
        pool: Mutex::new(None),
    };
    let is_alone = driver.presence.is_alone();
    match record {
        Some(record) if record.ready => {
            driver.change(|pool| if is_alone { volumes::put_away(pool) } else { Ok(()) })?;
        }
        Some(record) if is_alone => {
            let _guard = Guard::take(root)?;
            Pool::put_away(root, record)?;
        }
        Some(_) => {}
        None => {
            let _guard = Guard::take(root)?;
            // Somebody may be making it at this moment.
            if Record::read(root)?.is_none() {
                pool::look(&driver.options)?;
            }
        }
    }
    driver.presence.share(root)?;
    Ok(Box::new(driver))
}

fn capabilities(quota: bool) -> Capabilities {
    let kept = || match quota {
        true => Support::Yes,
        false => Support::no(quota::LACKING),
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
    presence: Presence,
    /// Opened when it is first needed: a root without layers has no pool.
    pool: Mutex<Option<Pool>>,
}

impl Devmapper {
    /// Does something with the pool under the lock of the root. What a crash left is finished first.
    fn change<T>(&self, work: impl FnOnce(&Pool) -> Result<T>) -> Result<T> {
        let mut opened = self.opened();
        let _guard = Guard::take(&self.root)?;
        let (pool, is_new) = match opened.take() {
            Some(pool) => {
                pool.wake()?;
                (pool, false)
            }
            None => (pool::set_up(&self.root, &self.options)?, true),
        };
        let sound = self.recover(&pool, is_new);
        let is_sound = sound.is_ok();
        let done = sound.and_then(|()| work(&pool));
        let rested = pool.rest();
        // What does not fit together is compared again each time, since somebody may have mended it.
        *opened = Some(pool).filter(|_| is_sound);
        done.and_then(|done| rested.map(|()| done))
    }

    /// Another process may have been killed at any time, so this looks each time, and longer at first.
    fn recover(&self, pool: &Pool, is_new: bool) -> Result<()> {
        if !is_new {
            return volumes::recover(pool, &self.records);
        }
        self.records.tidy()?;
        compare::check(pool, &self.records, &self.root)?;
        volumes::recover(pool, &self.records)?;
        compare::free_leaked(pool, &self.records)
    }

    /// Does something with a layer, as [`change`](Self::change) does. Where it fails since the pool has no volume of the
    /// layer, or of its parent, the error says so.
    fn with<T>(&self, chain: Chain<'_>, work: impl FnOnce(&Pool, &Layer) -> Result<T>) -> Result<T> {
        // Nothing is made, such as a pool, for a layer that is not there.
        self.records.layer(chain.id)?;
        self.change(|pool| {
            let layer = self.records.layer(chain.id)?;
            work(pool, &layer).map_err(|error| volumes::explain(pool, &self.records, chain, error))
        })
    }

    fn opened(&self) -> MutexGuard<'_, Option<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
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
        let base_size = self.options.base_size.map_or(origin.bytes, |size| size.0);
        if base_size < origin.bytes && !origin.limited {
            return Err(Error::Options(format!(
                "'base_size' is {}, and the layer that '{id}' stands on has {}: file systems only grow",
                size(base_size),
                size(origin.bytes)
            )));
        }
        space::admit(pool, &self.options)?;
        volumes::make(pool, &self.records, id, origin, |layer| {
            let asked = *quota != Quota::default();
            let bytes = base_size.max(layer.bytes);
            if asked || origin.limited || bytes > layer.bytes {
                // The intent is undone with the volume, so it need not know how large that is.
                self.settle(pool, layer, quota, bytes, |_| Ok(()))?;
            }
            Ok(())
        })
    }

    /// Gives a layer that is about to be written the limits of the driver's options, where it has none. What was written
    /// to it before counts.
    fn limit_by_default(&self, pool: &Pool, chain: Chain<'_>, layer: &mut Layer) -> Result<()> {
        let quota = self.options.quota();
        if layer.limited || quota == Quota::default() {
            return Ok(());
        }
        if !pool.record.quota {
            return Err(Error::Options(format!(
                "'{NAME}.size' and '{NAME}.inodes' cannot be kept: {}",
                quota::LACKING
            )));
        }
        let written = self.usage_of(pool, chain, layer)?.bytes;
        let left = Quota { bytes: quota.bytes.map(|bytes| bytes.saturating_sub(written)), ..quota };
        let save = |layer: &Layer| {
            self.records.replace(chain.id, layer).map_err(Error::io(|| format!("limit layer '{}'", chain.id)))
        };
        self.settle(pool, layer, &left, layer.bytes, save)?;
        save(layer)
    }

    fn usage_of(&self, pool: &Pool, chain: Chain<'_>, layer: &Layer) -> Result<Usage> {
        let parent = chain.parent().map(|id| self.records.layer(id)).transpose()?;
        space::usage(pool, parent.map_or(BASE, |layer| layer.volume), layer)
    }

    /// Gives a layer's volume its size and its quota. `save` is called before the file system needs the new size.
    fn settle(
        &self,
        pool: &Pool,
        layer: &mut Layer,
        quota: &Quota,
        bytes: u64,
        save: impl FnOnce(&Layer) -> Result<()>,
    ) -> Result<()> {
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
                layer.bytes = wanted;
                failpoint::hit("devmapper.settle.enlarged").map_err(Error::io(doing))?;
                save(layer)?;
                pool.record.filesystem.grow(&root, wanted).map_err(Error::io(doing))?;
            }
            if pool.record.quota {
                quota::limit(&root, quota).map_err(Error::io(doing))?;
            }
            failpoint::hit("devmapper.settle.limited").map_err(Error::io(doing))?;
            layer.limited = *quota != Quota::default();
            rustix::fs::syncfs(&root).map_err(std::io::Error::from).map_err(Error::io(doing))?;
            drop(root);
            tree.close()
        })
    }

    /// Deletes a layer that has no device.
    fn delete(&self, pool: &Pool, id: &LayerId) -> Result<()> {
        let layer = match volumes::take_away(&self.records, id) {
            // Somebody else has removed it meanwhile.
            Err(Error::NotFound { .. }) => return Ok(()),
            layer => layer?,
        };
        failpoint::hit("devmapper.remove.taken").map_err(Error::io(|| format!("remove layer '{id}'")))?;
        match space::discard(pool, &layer, &self.options) {
            Err(error) if volumes::is_lacking(&error) => {}
            discarded => discarded?,
        }
        volumes::finish(pool, &self.records, &layer)
    }

    fn mounting(&self, pool: &Pool, node: &Path, read_only: bool) -> Mounts {
        pool.record.filesystem.mount(&Mounting {
            node,
            quota: pool.record.quota,
            more: self.options.more_mount_options(),
            read_only,
            label: None,
            id_map: None,
        })
    }
}

/// Returns when times of files are later than any that was given before. A snapshot keeps those of its origin, and before
/// Linux 6.13 they have the kernel's tick: what changed within the same one would look as if nothing had.
fn wait_for_the_next_tick() {
    let now = || rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    let before = now();
    while now() == before {
        thread::sleep(Duration::from_millis(1));
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
            let made = self.make(pool, chain.id, origin, &options.quota);
            made.map_err(|error| volumes::explain(pool, &self.records, chain, error))
        })?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let read_only = request.access == Access::Read;
        self.with(chain, |pool, layer| {
            let mut layer = layer.clone();
            if !read_only {
                layer.expect_writable(chain.id, "a committed layer is never written")?;
                pool.grow(layer.bytes, self.options.file_size())?;
                space::takes_writes(pool, &pool.thin.status()?)?;
            }
            if request.access == Access::Write {
                self.limit_by_default(pool, chain, &mut layer)?;
            }
            let device = pool.thin.activate(layer.volume, layer.bytes, layer.committed)?;
            failpoint::hit("devmapper.mounts.activated").map_err(Error::io(|| "mount a layer"))?;
            Ok(pool.record.filesystem.mount(&Mounting {
                node: &device.node(),
                quota: pool.record.quota && !read_only,
                more: self.options.more_mount_options(),
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
        self.with(chain, |pool, layer| {
            if layer.committed {
                return Ok(());
            }
            space::whole(pool, layer, chain.id)?;
            let doing = || format!("commit layer '{}'", chain.id);
            failpoint::hit("devmapper.commit.checked").map_err(Error::io(doing))?;
            let committed = Layer { committed: true, ..layer.clone() };
            self.records.replace(chain.id, &committed).map_err(Error::io(doing))?;
            failpoint::hit("devmapper.commit.recorded").map_err(Error::io(doing))?;
            wait_for_the_next_tick();
            Ok(())
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
        self.with(from, |pool, layer| {
            layer.expect_writable(from.id, "only a writable layer is duplicated")?;
            let (volume, bytes, limited) = (layer.volume, layer.bytes, layer.limited);
            let origin = Origin { volume, bytes, limited, writes: Writes::Settled };
            self.make(pool, to, origin, &Quota::default())
        })
    }

    fn changes(&self, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        let Some(parent) = chain.parent() else {
            return self.records.layer(chain.id).map(|_| Changes::Compare { only: None });
        };
        let changed = self.with(chain, |pool, layer| {
            let parent = self.records.layer(parent)?;
            let parent = Volume { number: parent.volume, bytes: parent.bytes };
            changes::inodes(pool, &self.records, chain.id, parent, layer)
        })?;
        let only = changed.map(|changed| changes::with_moved(&changed, trees)).transpose()?;
        Ok(Changes::Compare { only })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        self.with(chain, |pool, layer| self.usage_of(pool, chain, layer))
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
        let busy = self.change(|pool| {
            space::takes_deletions(pool)?;
            pool.thin.deactivate(layer.volume)?;
            if pool.thin.is_active(layer.volume)? {
                return pool.thin.again().map(Some);
            }
            self.delete(pool, id).map(|()| None)
        })?;
        let Some(thin) = busy else { return Ok(()) };
        // Not under the lock: whoever has the device open may need that to let go.
        thin.wait_until_inactive(layer.volume, || format!("layer '{id}'"))?;
        self.change(|pool| self.delete(pool, id))
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.records.list()
    }
}

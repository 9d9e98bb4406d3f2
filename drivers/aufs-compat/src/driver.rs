//! The storage driver: layers kept as Docker's AUFS driver kept them, mounted as unions.

mod host;
mod layer;
mod mounts;
mod pseudo_links;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mica_core::graphdriver::Posix;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountRequest,
    Mounts, Result, Support, Trees, Usage, WhiteoutForm, failpoint,
};
use mica_tree::Shelf;

use crate::union::name::{OPAQUE, PSEUDO_LINKS};
use crate::{NAME, Options};
use layer::{Layer, State};

/// A union has as many branches as one likes; this is what overlayfs takes, so that an image fits both.
const MAX_DEPTH: usize = 500;

/// The directories of the root beside those of the shelf: what stands on what, and Docker's place for mounts.
const PARTS: [&str; 2] = ["layers", "mnt"];

#[derive(Debug)]
pub(crate) struct AufsCompat {
    root: PathBuf,
    shelf: Shelf,
    options: Options,
    capabilities: Capabilities,
}

impl AufsCompat {
    pub(crate) fn open(root: &Path, options: Options) -> Result<Self> {
        if options.passthrough == Some(true) && !mica_mount::fuse_passthrough()? {
            return Err(Error::Unavailable {
                reason: format!(
                    "'{NAME}.passthrough' needs Linux 6.9 with CONFIG_FUSE_PASSTHROUGH; leave it out"
                ),
            });
        }
        let shelf = prepare(root)?;
        let capabilities = capabilities(&options);
        let driver = Self { root: root.to_owned(), shelf, options, capabilities };
        driver.sweep().map_err(Error::io(|| format!("open '{}'", root.display())))?;
        Ok(driver)
    }

    /// Forgets what was recorded of layers that a crash kept from coming to be, or that it left half removed.
    fn sweep(&self) -> io::Result<()> {
        let records = self.root.join("layers");
        let is_stale = |name: &OsStr| !self.root.join("diff").join(name).exists();
        let stale: Vec<_> = fs::read_dir(&records)?
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
            .filter(|name| is_stale(name))
            .collect();
        // Whoever makes a layer just now has its record there before the layer: the next open will look again.
        let making = File::open(&records)?;
        if stale.is_empty() || making.try_lock().is_err() {
            return Ok(());
        }
        stale.iter().filter(|name| is_stale(name)).try_for_each(|name| fs::remove_file(records.join(name)))
    }

    fn layer(&self, id: &LayerId) -> Result<Layer> {
        Layer::open(&self.root, id)
    }

    /// The nearest parent, if there is one: there and committed, and no more than fit above it.
    fn parent(&self, chain: Chain<'_>) -> Result<Option<Layer>> {
        if chain.depth() > MAX_DEPTH {
            let depth = chain.depth();
            return Err(Error::Options(format!(
                "layer '{}' is the {depth}th of its chain; {NAME} takes {MAX_DEPTH}",
                chain.id
            )));
        }
        chain.parent().map(|id| self.layer(id)?.frozen()).transpose()
    }

    /// Makes a layer in this state, which nobody sees before `fill` is through with the directory that becomes its branch.
    fn make(&self, chain: Chain<'_>, state: State, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let layer = Layer::at(&self.root, chain.id);
        let making = File::open(self.root.join("layers")).and_then(|dir| dir.lock_shared().map(|()| dir));
        let _making = making.map_err(layer.failed("create"))?;
        let made = self.shelf.create(chain.id, |dir| {
            fill(dir).map_err(layer.failed("create"))?;
            self.record(&layer, chain.parents, state).map_err(layer.failed("create"))?;
            failpoint::hit("aufs-compat.create.recorded").map_err(layer.failed("create"))
        });
        if made.is_err() && !layer.diff().exists() {
            // What cannot be forgotten now is forgotten by the next open.
            let _ = layer.forget();
        }
        made
    }

    /// Makes the names that a mount left to make whose helper was killed.
    fn make_names(&self, layer: &Layer, parents: &[LayerId]) -> io::Result<()> {
        if !pseudo_links::are_waiting(layer.diff())? {
            return Ok(());
        }
        pseudo_links::make(self.branches(layer.diff(), parents, mounts::WRITTEN))
    }

    /// Says what a layer is from now on.
    fn record(&self, layer: &Layer, parents: &[LayerId], state: State) -> io::Result<()> {
        let aside = self.shelf.stage("record")?;
        layer.record(&aside.path().join("new"), parents, state)
    }
}

impl GraphDriver for AufsCompat {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        let backing = mica_tree::file_system(self.shelf.root().as_fd()).map_err(io::Error::from);
        let backing = backing.map_err(Error::io(|| "look at the file system"))?;
        let passthrough = self.options.passthrough != Some(false) && mica_mount::fuse_passthrough()?;
        let rows = [
            ("Root Dir", self.root.display().to_string()),
            ("Backing Filesystem", backing),
            ("Dirs", self.list()?.len().to_string()),
            ("Dirperm1 Supported", "true".to_owned()),
            ("Passthrough", passthrough.to_string()),
        ];
        Ok(rows.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(NAME, options)?;
        let parent = self.parent(chain)?;
        let state = if options.detached { State::Detached } else { State::Writable };
        self.make(chain, state, |root| match &parent {
            Some(parent) => parent.bequeath(root),
            None => layer::make_root(root, options.detached),
        })?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let layer = self.layer(chain.id)?;
        match request.access {
            Access::Read => Ok(self.read(&layer.attached()?, chain, &request.options)),
            Access::Write => Ok(self.write(&layer.attached()?.writable()?, chain, &request.options)),
            Access::Apply => self.apply(&layer.writable()?, chain),
        }
    }

    fn release(&self, _: Chain<'_>, _: Access) -> Result<()> {
        Ok(())
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        let layer = self.layer(chain.id)?;
        match layer.state()? {
            State::Committed => return Ok(()),
            State::Writable => {}
            State::Detached => {
                let parent = self.parent(chain)?;
                if layer.root_is_unset()? {
                    let inherited = match parent {
                        Some(parent) => parent.bequeath(layer.diff()),
                        None => layer::make_root(layer.diff(), false),
                    };
                    inherited.map_err(layer.failed("commit"))?;
                }
                failpoint::hit("aufs-compat.commit.inherited").map_err(layer.failed("commit"))?;
            }
        }
        self.make_names(&layer, chain.parents).map_err(layer.failed("commit"))?;
        self.record(&layer, chain.parents, State::Committed).map_err(layer.failed("commit"))?;
        failpoint::hit("aufs-compat.commit.marked").map_err(layer.failed("commit"))
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        self.shelf.sync(layers)
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let source = self.layer(from.id)?.attached()?.writable()?;
        let parents = from.parents;
        self.make(Chain { id: to, ..from }, State::Writable, |root| {
            let (from, to) = (File::open(source.diff())?, File::open(root)?);
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let waiting = pseudo_links::are_waiting(source.diff())?;
            let left_out = |name: &[u8]| is_bookkeeping(name) && !(waiting && name == PSEUDO_LINKS);
            mica_tree::copy_without(from.as_fd(), to.as_fd(), threads, &left_out)?;
            if waiting {
                pseudo_links::rename_copied(root)?;
                pseudo_links::make(self.branches(root, parents, mounts::WRITTEN))?;
            }
            Ok(())
        })
    }

    fn changes(&self, chain: Chain<'_>, _: &dyn Trees) -> Result<Changes> {
        let dir = self.layer(chain.id)?.diff().to_owned();
        Ok(Changes::Upper { dir, whiteouts: WhiteoutForm::Aufs })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        let layer = self.layer(chain.id)?;
        let usage = mica_tree::usage(layer.open_diff()?.as_fd()).map_err(io::Error::from);
        let usage = usage.map_err(layer.failed("measure"))?;
        Ok(Usage { bytes: usage.bytes, inodes: Some(usage.inodes) })
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        self.places(&self.layer(chain.id)?, chain)
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.shelf.remove(id)?;
        let layer = Layer::at(&self.root, id);
        failpoint::hit("aufs-compat.remove.removed").map_err(layer.failed("remove"))?;
        layer.forget().map_err(layer.failed("remove"))
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.shelf.list()
    }
}

/// The root with all its directories, and nothing of them that was not there where the driver cannot work.
fn prepare(root: &Path) -> Result<Shelf> {
    let opening = || format!("open '{}'", root.display());
    let tried = (|| {
        let shelf = Shelf::open_at(root, "diff")?;
        for part in PARTS {
            match DirBuilder::new().mode(0o700).create(root.join(part)) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io(opening)(e)),
                _ => {}
            }
        }
        let staged = shelf.stage("probe").map_err(Error::io(opening))?;
        host::check(staged.path(), shelf.root())?;
        drop(staged);
        Ok(shelf)
    })();
    if tried.is_err() {
        for part in ["diff", "staging", "removing"].iter().chain(&PARTS) {
            // Fails where it holds something, as it should.
            let _ = fs::remove_dir(root.join(part));
        }
    }
    tried
}

/// What AUFS keeps in a branch for itself, while that is mounted. What makes a directory opaque is content.
fn is_bookkeeping(name: &[u8]) -> bool {
    name.starts_with(b".wh..wh.") && name != OPAQUE
}

fn capabilities(options: &Options) -> Capabilities {
    let no_quota = "AUFS keeps no limits, and neither does aufs-compat; take a driver with quotas";
    Capabilities {
        quota_bytes: Support::no(no_quota),
        quota_inodes: Support::no(no_quota),
        id_maps: Support::no("not offered by aufs-compat; take another driver"),
        max_depth: Some(MAX_DEPTH),
        detached_apply: true,
        duplicate: true,
        shared_data: true,
        posix: Posix {
            rename_lower_dirs: false,
            coherent_open: !options.stale_reads,
            lower_hard_links: true,
        },
    }
}

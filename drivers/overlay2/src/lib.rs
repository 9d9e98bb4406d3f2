//! Layers laid over each other by the kernel's overlayfs: one directory a layer, nothing copied until it is written.
//!
//! ```text
//! layers/ID/diff         what the layer changed: an overlay's lower directory, or the upper one of the layer that is written
//! layers/ID/work         overlayfs' scratch space, while the layer is mounted for writing
//! layers/ID/committed    says that the layer is frozen
//! layers/ID/detached     says that the layer does not know its parents yet
//! ```
//!
//! Mounting is naming these directories, so nothing here depends on how large a layer is, but for
//! [`duplicate`](GraphDriver::duplicate), [`usage`](GraphDriver::usage) and [`remove`](GraphDriver::remove).

mod known;
mod layer;
mod mounts;
mod probe;
mod quota;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use mica_core::graphdriver::Posix;
use mica_core::{
    Access, ByteSize, Capabilities, Chain, Changes, Created, DriverEntry, Error, GraphDriver, LayerId,
    LayerOptions, MountRequest, Mounts, OptionMap, Result, Support, Trees, Usage, failpoint, options,
};
use mica_tree::Shelf;

use layer::{Layer, State};
use probe::Host;
use quota::Quotas;

const NAME: &str = "overlay2";

/// The kernel lays 500 lower directories over each other, and a tree that is read has no other.
const MAX_DEPTH: usize = 500;

/// The entry for the registry.
pub const DRIVER: DriverEntry = DriverEntry {
    name: NAME,
    about: "the kernel's overlayfs; fast to create, mount and diff",
    options: Options::DOCS,
    open,
    helper: None,
};

mica_core::driver_options! {
    /// What `--storage-opt overlay2.NAME=VALUE` sets.
    pub(crate) struct Options {
        /// The most bytes that a container may write, where it asks for no limit of its own.
        /// Needs project quota on xfs or ext4.
        size: Option<ByteSize> = None,
        /// The most files that a container may make, likewise.
        inodes: Option<u64> = None,
        /// Skip all syncing of a container that is thrown away after a crash.
        volatile: bool = true,
        /// Keep overlayfs' marks in 'user.' and not in 'trusted.' attributes, as in a user namespace they must be.
        /// Found out where it is not given.
        userxattr: Option<bool> = None,
    }
}

fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let options: Options = options::parse(NAME, given, Options::DOCS)?;
    Ok(Box::new(Overlay2::open(root, options)?))
}

#[derive(Debug)]
struct Overlay2 {
    shelf: Shelf,
    host: Host,
    quotas: Option<Quotas>,
    options: Options,
    capabilities: Capabilities,
}

impl Overlay2 {
    fn open(path: &Path, options: Options) -> Result<Self> {
        let root = File::open(path).map_err(Error::io(|| format!("open '{}'", path.display())))?;
        let quotas = Quotas::probe(path, &root);
        let asked = options.size.is_some() || options.inodes.is_some();
        if let (Err(reason), true) = (&quotas, asked) {
            return Err(Error::Options(format!(
                "'{NAME}.size' and '{NAME}.inodes' cannot be kept: {reason}"
            )));
        }
        let (shelf, host) = known::prepare(path, &root, options.userxattr)?;
        let capabilities = capabilities(&host, quotas.as_ref().err());
        Ok(Self { shelf, host, quotas: quotas.ok(), options, capabilities })
    }

    fn layer(&self, id: &LayerId) -> Result<Layer> {
        Layer::open(self.shelf.path(id), id)
    }

    /// The nearest parent, if there is one: there and committed, and no more than fit above it.
    fn parent(&self, chain: Chain<'_>) -> Result<Option<Layer>> {
        if chain.depth() > MAX_DEPTH {
            let depth = chain.depth();
            return Err(Error::Options(format!(
                "layer '{}' is the {depth}th of its chain; the kernel's overlayfs takes {MAX_DEPTH}",
                chain.id
            )));
        }
        chain.parent().map(|id| self.layer(id)?.frozen()).transpose()
    }

    /// Makes a layer that nobody sees before `fill` is through with its empty `diff`.
    fn make(&self, id: &LayerId, fill: impl FnOnce(&Layer) -> Result<()>) -> Result<()> {
        self.shelf.create(id, |dir| fill(&Layer::make(dir, id)?))
    }
}

impl GraphDriver for Overlay2 {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        let backing = mica_tree::file_system(self.shelf.root().as_fd()).map_err(io::Error::from);
        let backing = backing.map_err(Error::io(|| "look at the file system"))?;
        let rows = [
            ("Backing Filesystem", backing.as_str()),
            // An open without these fails.
            ("Supports d_type", "true"),
            ("Native Overlay Diff", "true"),
            ("Using metacopy", "false"),
            ("userxattr", if self.host.user_xattr { "true" } else { "false" }),
        ];
        Ok(rows.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(NAME, options)?;
        let parent = self.parent(chain)?;
        let limits = quota::wanted(self.quotas.as_ref(), &options.quota)?;
        self.make(chain.id, |layer| {
            match &parent {
                _ if options.detached => layer.detach()?,
                Some(parent) => layer.inherit(parent)?,
                None => {}
            }
            match limits {
                Some(quotas) => {
                    quotas.limit(&layer.open_diff()?, &options.quota).map_err(layer.failed("limit"))
                }
                None => Ok(()),
            }
        })?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let layer = self.layer(chain.id)?;
        match request.access {
            Access::Read => self.read(&layer.attached()?, chain, &request.options),
            Access::Write => self.write(&layer.attached()?.writable()?, chain, &request.options),
            Access::Apply => self.apply(&layer.writable()?, chain, &request.options),
        }
    }

    fn release(&self, chain: Chain<'_>, access: Access) -> Result<()> {
        match (access, self.layer(chain.id)) {
            (Access::Write, Ok(layer)) => layer.remove_work(),
            (Access::Write, Err(error)) if !matches!(error, Error::NotFound { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        let layer = self.layer(chain.id)?;
        match layer.state()? {
            State::Committed => return Ok(()),
            State::Writable => {}
            State::Detached => {
                if let Some(parent) = self.parent(chain)? {
                    layer.inherit_if_unset(&parent)?;
                }
                failpoint::hit("overlay2.commit.inherited").map_err(layer.failed("commit"))?;
            }
        }
        layer.remove_work()?;
        layer.freeze()?;
        failpoint::hit("overlay2.commit.marked").map_err(layer.failed("commit"))
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        self.shelf.sync(layers)
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let from = self.layer(from.id)?.attached()?.writable()?;
        self.make(to, |layer| {
            let (source, target) = (from.open_diff()?, layer.open_diff()?);
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let copied = mica_tree::copy(source.as_fd(), target.as_fd(), threads);
            copied.map_err(io::Error::from).map_err(from.failed("copy"))
        })
    }

    fn changes(&self, chain: Chain<'_>, _: &dyn Trees) -> Result<Changes> {
        let dir = self.layer(chain.id)?.diff();
        Ok(Changes::Upper { dir, whiteouts: self.marks() })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        let layer = self.layer(chain.id)?;
        let usage = mica_tree::usage(layer.open_diff()?.as_fd()).map_err(io::Error::from);
        let usage = usage.map_err(layer.failed("measure"))?;
        Ok(Usage { bytes: usage.bytes, inodes: Some(usage.inodes) })
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        Ok(self.places(&self.layer(chain.id)?, chain))
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        let doing = || format!("remove layer '{id}'");
        let project = match (&self.quotas, self.layer(id).and_then(|layer| layer.open_diff())) {
            (Some(quotas), Ok(diff)) => Some((quotas, quotas.project(&diff).map_err(Error::io(doing))?)),
            _ => None,
        };
        self.shelf.remove(id)?;
        failpoint::hit("overlay2.remove.removed").map_err(Error::io(doing))?;
        match project {
            Some((quotas, project)) => quotas.free(project).map_err(Error::io(doing)),
            None => Ok(()),
        }
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.shelf.list()
    }
}

fn capabilities(host: &Host, no_quota: Option<&String>) -> Capabilities {
    let quota = no_quota.map_or(Support::Yes, Support::no);
    Capabilities {
        quota_bytes: quota.clone(),
        quota_inodes: quota,
        id_maps: host.id_maps.clone(),
        max_depth: Some(MAX_DEPTH),
        detached_apply: true,
        duplicate: true,
        shared_data: true,
        posix: Posix { rename_lower_dirs: false, coherent_open: true, lower_hard_links: false },
    }
}

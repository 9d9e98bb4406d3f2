//! A full copy a layer: the driver that works on any file system, and that the others are compared with.
//!
//! A layer is a directory `tree` with everything that it shows, so mounting it is a bind mount and no layer needs
//! another. Creating one copies its parent's tree: shared file by file where the file system can (xfs, btrfs), else byte by
//! byte without the holes. A `manifest` written then says which inode each path got and when it was last changed,
//! and that is how [`changes`](GraphDriver::changes) knows without reading what differs from the parent.

mod manifest;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use mica_core::graphdriver::Posix;
use mica_core::mount::Bind;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, DriverEntry, Error, GraphDriver, LayerId, LayerOptions,
    MountRequest, MountSpec, Mounts, OptionMap, Result, Support, Trees, Usage, WhiteoutForm, failpoint,
    options,
};
use mica_tree::Shelf;

use manifest::Manifest;

const NAME: &str = "vfs";

/// The entry for the registry.
pub const DRIVER: DriverEntry = DriverEntry {
    name: NAME,
    about: "a full copy a layer; any file system, cheap with reflinks",
    options: Options::DOCS,
    open,
    helper: None,
};

mica_core::driver_options! {
    /// What `--storage-opt vfs.NAME=VALUE` sets.
    pub(crate) struct Options {
        /// How many threads copy a layer; 0 is one for each processor.
        threads: u32 = 0,
    }
}

fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let given: Options = options::parse(NAME, given, Options::DOCS)?;
    Ok(Box::new(Vfs::open(root, &given)?))
}

#[derive(Debug)]
struct Vfs {
    shelf: Shelf,
    threads: usize,
    capabilities: Capabilities,
}

impl Vfs {
    fn open(root: &Path, given: &Options) -> Result<Self> {
        let threads = match given.threads {
            0 => available_parallelism().map_or(1, usize::from),
            many => many as usize,
        };
        let shelf = Shelf::open(root)?;
        let reflink = reflinks(root).map_err(Error::io(|| format!("open '{}'", root.display())))?;
        Ok(Self { shelf, threads, capabilities: capabilities(reflink) })
    }

    fn layer(&self, id: &LayerId) -> Result<Layer> {
        Ok(Layer { id: id.clone(), dir: self.shelf.layer(id)? })
    }

    /// Makes a layer that nobody sees before `fill` is through with its empty tree.
    fn make(&self, id: &LayerId, fill: impl FnOnce(&Layer) -> Result<()>) -> Result<()> {
        self.shelf.create(id, |dir| {
            let layer = Layer { id: id.clone(), dir: dir.to_owned() };
            let made = fs::create_dir(layer.tree()).and_then(|()| set_mode(&layer.tree(), 0o755));
            made.map_err(layer.failed("create"))?;
            fill(&layer)
        })
    }
}

impl GraphDriver for Vfs {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        let backing = mica_tree::file_system(self.shelf.root().as_fd()).map_err(io::Error::from);
        let backing = backing.map_err(Error::io(|| "look at the file system"))?;
        let shared =
            if self.capabilities.shared_data { "yes, by reflinks" } else { "no, every layer is a full copy" };
        Ok(vec![
            ("Backing Filesystem".to_owned(), backing),
            ("Unchanged Files Shared".to_owned(), shared.to_owned()),
        ])
    }

    fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(NAME, options)?;
        let parent = chain.parent().map(|id| self.layer(id)?.frozen()).transpose()?;
        self.make(chain.id, |layer| {
            let Some(parent) = parent else { return Ok(()) };
            copy(&parent, layer, self.threads, None)?;
            Manifest::take(&layer.tree(), &layer.manifest(), |_| true).map_err(layer.failed("record"))
        })?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let layer = self.layer(chain.id)?;
        let read_only = request.access == Access::Read;
        let layer = if read_only { layer } else { layer.writable()? };
        let bind = Bind { source: layer.tree(), read_only, ..Bind::default() };
        Ok(Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts: WhiteoutForm::Merged })
    }

    fn release(&self, _: Chain<'_>, _: Access) -> Result<()> {
        Ok(())
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        let layer = self.layer(chain.id)?;
        File::create(layer.committed()).map_err(layer.failed("commit"))?;
        failpoint::hit("vfs.commit.marked").map_err(layer.failed("commit"))
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        self.shelf.sync(layers)
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let from = self.layer(from.id)?.writable()?;
        self.make(to, |layer| {
            let unchanged =
                manifest::unchanged(&from.tree(), &from.manifest()).map_err(from.failed("compare"))?;
            let copies = Mutex::new(HashSet::new());
            let note = |pair: mica_tree::Pair| {
                if unchanged.contains(&pair.from) {
                    copies.lock().unwrap_or_else(PoisonError::into_inner).insert(pair.to);
                }
            };
            copy(&from, layer, self.threads, Some(&note))?;
            if !from.manifest().exists() {
                return Ok(());
            }
            let copies = copies.into_inner().unwrap_or_else(PoisonError::into_inner);
            let known = |inode| copies.contains(&inode);
            Manifest::take(&layer.tree(), &layer.manifest(), known).map_err(layer.failed("record"))
        })
    }

    fn changes(&self, chain: Chain<'_>, _: &dyn Trees) -> Result<Changes> {
        let layer = self.layer(chain.id)?;
        let only = manifest::changed(&layer.tree(), &layer.manifest()).map_err(layer.failed("compare"))?;
        Ok(Changes::Compare { only })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        let layer = self.layer(chain.id)?;
        let tree = File::open(layer.tree()).map_err(layer.failed("measure"))?;
        let all = mica_tree::usage(tree.as_fd()).map_err(io::Error::from).map_err(layer.failed("measure"))?;
        let mut bytes = all.bytes;
        if self.capabilities.shared_data {
            bytes =
                manifest::changed_bytes(&layer.tree(), &layer.manifest()).map_err(layer.failed("measure"))?;
        }
        Ok(Usage { bytes, inodes: Some(all.inodes) })
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let tree = self.layer(chain.id)?.tree();
        Ok(vec![("UpperDir".to_owned(), tree.display().to_string())])
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.shelf.remove(id)
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.shelf.list()
    }
}

/// The directory of one layer.
#[derive(Debug)]
struct Layer {
    id: LayerId,
    dir: PathBuf,
}

impl Layer {
    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    fn manifest(&self) -> PathBuf {
        self.dir.join("manifest")
    }

    fn committed(&self) -> PathBuf {
        self.dir.join("committed")
    }

    fn frozen(self) -> Result<Self> {
        if self.committed().exists() { Ok(self) } else { Err(Error::writable(&self.id)) }
    }

    fn writable(self) -> Result<Self> {
        if self.committed().exists() { Err(Error::committed(&self.id)) } else { Ok(self) }
    }

    fn failed(&self, doing: &str) -> impl FnOnce(io::Error) -> Error {
        let text = format!("{doing} layer '{}'", self.id);
        Error::io(move || text)
    }
}

type Note<'a> = &'a (dyn Fn(mica_tree::Pair) + Sync);

fn copy(from: &Layer, to: &Layer, threads: usize, note: Option<Note<'_>>) -> Result<()> {
    let trees = File::open(from.tree()).and_then(|source| Ok((source, File::open(to.tree())?)));
    let (source, target) = trees.map_err(to.failed("create"))?;
    let copied = match note {
        Some(note) => mica_tree::copy_paired(source.as_fd(), target.as_fd(), threads, note),
        None => mica_tree::copy(source.as_fd(), target.as_fd(), threads),
    };
    copied.map_err(io::Error::from).map_err(to.failed("create"))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Whether files on this file system can share their content, found out by letting two do it.
fn reflinks(root: &Path) -> io::Result<bool> {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let temporary = || rustix::fs::open(root, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    let (Ok(one), Ok(other)) = (temporary(), temporary()) else {
        return Ok(false);
    };
    rustix::io::write(&one, &[1; 4096])?;
    Ok(rustix::fs::ioctl_ficlone(&other, &one).is_ok())
}

fn capabilities(reflink: bool) -> Capabilities {
    Capabilities {
        quota_bytes: Support::no("a vfs layer is a plain directory; take a driver with quotas"),
        quota_inodes: Support::no("a vfs layer is a plain directory; take a driver with quotas"),
        id_maps: Support::no("not offered by vfs; take another driver"),
        max_depth: None,
        detached_apply: false,
        duplicate: true,
        shared_data: reflink,
        posix: Posix { rename_lower_dirs: true, coherent_open: true, lower_hard_links: true },
    }
}

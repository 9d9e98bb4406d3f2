//! A full copy a layer: the driver that works on any file system, and that the others are compared with.
//!
//! A layer is a directory `tree` with everything that it shows, so mounting it is a bind mount and no layer needs
//! another. Creating one copies its parent's tree: shared file by file where the file system can (xfs, btrfs), else byte by
//! byte without the holes. A `manifest` written then says which inode each path got and when it was last changed,
//! and that is how [`changes`](GraphDriver::changes) knows without reading what differs from the parent.

mod manifest;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use mica_core::graphdriver::Posix;
use mica_core::mount::Bind;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, DriverEntry, Error, GraphDriver, LayerId, LayerOptions,
    MountRequest, MountSpec, Mounts, OptionMap, Result, Support, Trees, Usage, WhiteoutForm, failpoint,
    options,
};
use mica_tree::{Shelf, Staged};

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
    /// Opened before the first write, so that `sync` reports every write-back error since (syncfs(2)).
    root: File,
    threads: usize,
    capabilities: Capabilities,
}

impl Vfs {
    fn open(root: &Path, given: &Options) -> Result<Self> {
        let doing = || format!("open '{}'", root.display());
        let threads = match given.threads {
            0 => available_parallelism().map_or(1, usize::from),
            many => many as usize,
        };
        let shelf = Shelf::open(root).map_err(Error::io(doing))?;
        let reflink = reflinks(root).map_err(Error::io(doing))?;
        let root = File::open(root).map_err(Error::io(doing))?;
        Ok(Self { shelf, root, threads, capabilities: capabilities(reflink) })
    }

    fn layer(&self, id: &LayerId) -> Result<Layer> {
        let dir = self.shelf.path(id.as_str());
        if dir.is_dir() { Ok(Layer { id: id.clone(), dir }) } else { Err(Error::no_layer(id)) }
    }

    /// A new layer that is not seen yet, its tree empty.
    fn stage(&self, id: &LayerId) -> Result<(Staged, Layer)> {
        let doing = || format!("create layer '{id}'");
        if self.shelf.path(id.as_str()).exists() {
            return Err(Error::layer_exists(id));
        }
        let staged = self.shelf.stage(id.as_str()).map_err(Error::io(doing))?;
        let layer = Layer { id: id.clone(), dir: staged.path().to_owned() };
        fs::create_dir(layer.tree()).map_err(Error::io(doing))?;
        set_mode(&layer.tree(), 0o755).map_err(Error::io(doing))?;
        Ok((staged, layer))
    }

    fn publish(&self, staged: Staged, id: &LayerId) -> Result<()> {
        let doing = || format!("create layer '{id}'");
        failpoint::hit("vfs.create.copied").map_err(Error::io(doing))?;
        staged.publish().map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::layer_exists(id),
            _ => Error::io(doing)(e),
        })?;
        failpoint::hit("vfs.create.published").map_err(Error::io(doing))
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
        let backing = mica_tree::file_system(self.root.as_fd()).map_err(io::Error::from);
        let backing = backing.map_err(Error::io(|| "look at the file system"))?;
        let shared =
            if self.capabilities.shared_data { "yes, by reflinks" } else { "no, every layer is a full copy" };
        Ok(vec![
            ("Backing Filesystem".to_owned(), backing),
            ("Unchanged Files Shared".to_owned(), shared.to_owned()),
        ])
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let refuse = |op| Err(Error::Unsupported { driver: NAME.to_owned(), op });
        match options {
            LayerOptions { detached: true, .. } => return refuse("detached apply"),
            LayerOptions { quota, .. } if quota.bytes.is_some() => return refuse("a quota of bytes"),
            LayerOptions { quota, .. } if quota.inodes.is_some() => return refuse("a quota of inodes"),
            LayerOptions { .. } => {}
        }
        let parent = chain.parent().map(|id| self.layer(id)?.frozen()).transpose()?;
        let (staged, layer) = self.stage(chain.id)?;
        if let Some(parent) = parent {
            copy(&parent, &layer, self.threads, None)?;
            Manifest::take(&layer.tree(), &layer.manifest(), |_| true).map_err(layer.failed("record"))?;
        }
        self.publish(staged, chain.id)?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let layer = self.layer(chain.id)?;
        if request.options.id_map.is_some() {
            return Err(Error::Unsupported { driver: NAME.to_owned(), op: "id maps" });
        }
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
        for id in layers {
            self.layer(id)?;
        }
        let synced = rustix::fs::syncfs(&self.root).map_err(io::Error::from);
        synced.map_err(Error::io(|| "sync the file system"))
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let from = self.layer(from.id)?.writable()?;
        let (staged, layer) = self.stage(to)?;
        let unchanged =
            manifest::unchanged(&from.tree(), &from.manifest()).map_err(from.failed("compare"))?;
        let copies = std::sync::Mutex::new(std::collections::HashSet::new());
        let note = |pair: mica_tree::Pair| {
            if unchanged.contains(&pair.from) {
                copies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(pair.to);
            }
        };
        copy(&from, &layer, self.threads, Some(&note))?;
        let copies = copies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if from.manifest().exists() {
            let known = |inode| copies.contains(&inode);
            Manifest::take(&layer.tree(), &layer.manifest(), known).map_err(layer.failed("record"))?;
        }
        self.publish(staged, to)
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

    fn remove(&self, id: &LayerId) -> Result<()> {
        let doing = || format!("remove layer '{id}'");
        self.shelf.remove(id.as_str()).map_err(Error::io(doing))?;
        Ok(())
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        let names = self.shelf.list().map_err(Error::io(|| "list the layers"))?;
        names.iter().map(|name| name.parse()).collect()
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

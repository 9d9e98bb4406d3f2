//! The simplest driver that keeps the whole contract: each layer is a copy of its parent's tree, made file by file.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use mica_core::graphdriver::Posix;
use mica_core::mount::{Bind, MountSpec};
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountRequest,
    Mounts, OptionMap, Result, Support, Trees, Usage, WhiteoutForm, options,
};

#[path = "copy.rs"]
mod copy;

mica_core::driver_options! {
    /// None.
    struct Options {}
}

#[derive(Debug)]
pub(crate) struct Plain {
    name: &'static str,
    root: PathBuf,
    capabilities: Capabilities,
}

impl Plain {
    pub(crate) fn open(name: &'static str, root: &Path, given: &OptionMap) -> Result<Self> {
        let _: Options = options::parse(name, given, Options::DOCS)?;
        let plain = Self { name, root: root.to_owned(), capabilities: capabilities() };
        for dir in ["layers", "aside"] {
            fs::create_dir_all(root.join(dir)).map_err(Error::io(|| format!("make {dir}")))?;
        }
        plain.finish_what_a_crash_left()?;
        Ok(plain)
    }

    /// Where a layer is: its `tree`, and the file `committed`.
    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        self.root.join("layers").join(id)
    }

    pub(crate) fn tree(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join("tree")
    }

    /// A directory for what is not a layer, or not yet, or no more.
    pub(crate) fn aside_dir(&self) -> PathBuf {
        self.root.join("aside")
    }

    pub(crate) fn is_committed(&self, id: &LayerId) -> bool {
        self.layer(id).join("committed").exists()
    }

    fn known(&self, id: &LayerId) -> Result<()> {
        if self.layer(id).exists() { Ok(()) } else { Err(Error::no_layer(id)) }
    }

    /// A name in `aside` that nobody has, and a lock that says that it is in use.
    pub(crate) fn aside(&self, id: &LayerId) -> Result<(PathBuf, File)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = self.aside_dir().join(format!("{}-{number}-{id:.100}", std::process::id()));
        // Shared, so that nobody sweeps between the making of the directory and its lock.
        let no_sweep = File::open(self.aside_dir()).and_then(|aside| aside.lock_shared().map(|()| aside));
        let locked = no_sweep.and_then(|_held| {
            fs::create_dir(&dir)?;
            let file = File::open(&dir)?;
            file.lock()?;
            Ok(file)
        });
        Ok((dir, locked.map_err(Error::io(|| format!("make a directory for '{id}'")))?))
    }

    fn finish_what_a_crash_left(&self) -> Result<()> {
        let listing = Error::io(|| "list what is aside");
        let sweep = || {
            let aside = File::open(self.aside_dir())?;
            aside.lock()?;
            Ok((fs::read_dir(self.aside_dir())?, aside))
        };
        let (entries, _held) = sweep().map_err(listing)?;
        for entry in entries.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            // Its owner may have been done with it since it was listed.
            if file.try_lock().is_ok() && entry.path().exists() {
                delete(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes a writable layer with the content of `tree`.
    fn copy(&self, tree: Option<&Path>, id: &LayerId) -> Result<()> {
        if self.layer(id).exists() {
            return Err(Error::layer_exists(id));
        }
        let (dir, _lock) = self.aside(id)?;
        let to = dir.join("tree");
        let doing = || format!("make '{id}'");
        fs::create_dir(&to).map_err(Error::io(doing))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).map_err(Error::io(doing))?;
        if let Some(from) = tree
            && let Err(error) = copy::tree(from, &to)
        {
            delete(&dir)?;
            return Err(Error::io(doing)(error));
        }
        fs::rename(&dir, self.layer(id)).map_err(Error::io(doing))
    }
}

fn capabilities() -> Capabilities {
    let no = || Support::no("a plain directory keeps no quota");
    Capabilities {
        quota_bytes: no(),
        quota_inodes: no(),
        id_maps: Support::Yes,
        max_depth: None,
        detached_apply: false,
        duplicate: true,
        shared_data: false,
        posix: Posix { rename_lower_dirs: true, coherent_open: true, lower_hard_links: true },
    }
}

fn delete(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).map_err(Error::io(|| format!("delete {}", dir.display())))
}

impl GraphDriver for Plain {
    fn name(&self) -> &str {
        self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        Ok(vec![("Root".to_owned(), self.root.display().to_string())])
    }

    fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(self.name, options)?;
        if let Some(parent) = chain.parent() {
            self.known(parent)?;
            if !self.is_committed(parent) {
                return Err(Error::writable(parent));
            }
        }
        self.copy(chain.parent().map(|parent| self.tree(parent)).as_deref(), chain.id)?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.known(chain.id)?;
        let read_only = request.access == Access::Read;
        if !read_only && self.is_committed(chain.id) {
            return Err(Error::committed(chain.id));
        }
        let bind = Bind {
            source: self.tree(chain.id),
            read_only,
            id_map: request.options.id_map.clone(),
            ..Bind::default()
        };
        Ok(Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts: WhiteoutForm::Merged })
    }

    fn release(&self, _: Chain<'_>, _: Access) -> Result<()> {
        Ok(())
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        self.known(chain.id)?;
        let mark = self.layer(chain.id).join("committed");
        fs::write(mark, "").map_err(Error::io(|| format!("commit '{}'", chain.id)))
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        layers.iter().try_for_each(|id| self.known(id))?;
        let root = File::open(&self.root).map_err(Error::io(|| "open the root"))?;
        rustix::fs::syncfs(root).map_err(|e| Error::io(|| "sync")(e.into()))
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        self.known(from.id)?;
        if self.is_committed(from.id) {
            return Err(Error::committed(from.id));
        }
        self.copy(Some(&self.tree(from.id)), to)
    }

    fn changes(&self, chain: Chain<'_>, _: &dyn Trees) -> Result<Changes> {
        self.known(chain.id)?;
        Ok(Changes::Compare { only: None })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        self.known(chain.id)?;
        let mut usage = Usage { bytes: 0, inodes: Some(0) };
        add_up(&self.tree(chain.id), &mut usage).map_err(Error::io(|| format!("walk '{}'", chain.id)))?;
        Ok(usage)
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        self.known(chain.id)?;
        Ok(vec![("UpperDir".to_owned(), self.tree(chain.id).display().to_string())])
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        if !self.layer(id).exists() {
            return Ok(());
        }
        let (dir, _lock) = self.aside(id)?;
        fs::rename(self.layer(id), dir.join("gone")).map_err(Error::io(|| format!("remove '{id}'")))?;
        delete(&dir)
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        let entries = fs::read_dir(self.root.join("layers")).map_err(Error::io(|| "list the layers"))?;
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().parse()).collect()
    }
}

fn add_up(path: &Path, usage: &mut Usage) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    usage.bytes += meta.blocks() * 512;
    usage.inodes = usage.inodes.map(|n| n + 1);
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            add_up(&entry?.path(), usage)?;
        }
    }
    Ok(())
}

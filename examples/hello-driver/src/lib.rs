//! A storage driver outside Mica's tree: the least that keeps the contract.
//!
//! Each layer is a full copy of its parent, so mounting one is a bind mount, and no layer needs another to be read. A
//! layer's directory holds `tree`, which is what it shows, and once it is frozen an empty file `committed`.
//! [`Shelf`] has these directories appear whole and vanish at once, which is all of the crash safety that is needed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mica_core::graphdriver::Posix;
use mica_core::mount::Bind;
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, DriverEntry, Error, GraphDriver, LayerId, LayerOptions,
    MountRequest, MountSpec, Mounts, OptionMap, Result, Support, Trees, Usage, WhiteoutForm, options,
};
use mica_tree::Shelf;

const NAME: &str = "hello";

/// The entry for the registry.
pub const DRIVER: DriverEntry = DriverEntry {
    name: NAME,
    about: "the example of docs/adding-a-driver.md: plain copies",
    options: Options::DOCS,
    open,
    helper: None,
};

mica_core::driver_options! {
    /// What `--storage-opt hello.NAME=VALUE` sets.
    pub(crate) struct Options {
        /// How many threads copy a layer.
        threads: u16 = 2,
    }
}

fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    // Unknown options are refused before anything is touched.
    let Options { threads } = options::parse(NAME, given, Options::DOCS)?;
    let shelf = Shelf::open(root)?;
    Ok(Box::new(Hello { shelf, threads: threads.max(1).into(), capabilities: capabilities() }))
}

fn capabilities() -> Capabilities {
    Capabilities {
        quota_bytes: Support::no("a layer is a plain directory"),
        quota_inodes: Support::no("a layer is a plain directory"),
        id_maps: Support::no("left out of the example"),
        max_depth: None,
        detached_apply: false,
        duplicate: true,
        shared_data: false,
        posix: Posix { rename_lower_dirs: true, coherent_open: true, lower_hard_links: true },
    }
}

#[derive(Debug)]
struct Hello {
    shelf: Shelf,
    threads: usize,
    capabilities: Capabilities,
}

impl GraphDriver for Hello {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        Ok(vec![("Threads".to_owned(), self.threads.to_string())])
    }

    fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.capabilities.admit_layer(NAME, options)?;
        let parent = chain.parent().map(|id| self.committed(id)).transpose()?;
        self.copy(parent.as_deref(), chain.id)?;
        Ok(Created::Fresh)
    }

    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.capabilities.admit_mount(NAME, &request.options)?;
        let read_only = request.access == Access::Read;
        let dir = if read_only { self.shelf.layer(chain.id)? } else { self.writable(chain.id)? };
        let bind = Bind { source: dir.join("tree"), read_only, ..Bind::default() };
        // The tree is the whole tree, so whoever applies a tarball deletes files in it as anywhere else.
        Ok(Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts: WhiteoutForm::Merged })
    }

    fn release(&self, _: Chain<'_>, _: Access) -> Result<()> {
        Ok(())
    }

    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        let mark = self.shelf.layer(chain.id)?.join("committed");
        File::create(mark).map_err(Error::io(|| format!("commit layer '{}'", chain.id)))?;
        Ok(())
    }

    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        self.shelf.sync(layers)
    }

    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        let from = self.writable(from.id)?;
        self.copy(Some(&from), to)
    }

    fn changes(&self, chain: Chain<'_>, _: &dyn Trees) -> Result<Changes> {
        self.shelf.layer(chain.id)?;
        Ok(Changes::Compare { only: None })
    }

    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        let tree = File::open(self.shelf.layer(chain.id)?.join("tree"));
        let usage = tree.and_then(|tree| Ok(mica_tree::usage(tree.as_fd())?));
        let usage = usage.map_err(Error::io(|| format!("measure layer '{}'", chain.id)))?;
        Ok(Usage { bytes: usage.bytes, inodes: Some(usage.inodes) })
    }

    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let tree = self.shelf.layer(chain.id)?.join("tree");
        Ok(vec![("UpperDir".to_owned(), tree.display().to_string())])
    }

    fn remove(&self, id: &LayerId) -> Result<()> {
        self.shelf.remove(id)
    }

    fn list(&self) -> Result<Vec<LayerId>> {
        self.shelf.list()
    }
}

impl Hello {
    fn committed(&self, id: &LayerId) -> Result<PathBuf> {
        let dir = self.shelf.layer(id)?;
        if dir.join("committed").exists() { Ok(dir) } else { Err(Error::writable(id)) }
    }

    fn writable(&self, id: &LayerId) -> Result<PathBuf> {
        let dir = self.shelf.layer(id)?;
        if dir.join("committed").exists() { Err(Error::committed(id)) } else { Ok(dir) }
    }

    /// Makes the layer `to` with the tree of `from`, or an empty one. Nobody sees it before it is whole.
    fn copy(&self, from: Option<&Path>, to: &LayerId) -> Result<()> {
        self.shelf.create(to, |dir| {
            let filled = fill(from, &dir.join("tree"), self.threads);
            filled.map_err(Error::io(|| format!("create layer '{to}'")))
        })
    }
}

fn fill(from: Option<&Path>, tree: &Path, threads: usize) -> io::Result<()> {
    fs::create_dir(tree)?;
    let Some(from) = from else {
        return fs::set_permissions(tree, fs::Permissions::from_mode(0o755));
    };
    let (from, tree) = (File::open(from.join("tree"))?, File::open(tree)?);
    Ok(mica_tree::copy(from.as_fd(), tree.as_fd(), threads)?)
}

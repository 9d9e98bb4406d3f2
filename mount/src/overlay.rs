//! Directories laid over each other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mica_core::mount::Overlay;
use mica_core::{Error, Result};
use rustix::fs::CWD;
use rustix::mount::MountAttrFlags;

use crate::context::{Context, LONGEST_STRING};
use crate::scratch::{Scratch, open_dir};
use crate::{Calls, bind, classic, idmap};

/// `OVL_MAX_STACK` of the kernel.
const MOST_LOWERS: usize = 500;

/// What every overlay is told, whatever the defaults of the host: an upper directory then holds whole files, each at its
/// own path. `nofollow` and not `off`, which still follows a redirect that it finds, and which `userxattr` refuses.
pub(crate) const FIXED: [(&str, &str); 4] =
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow"), ("xino", "off")];

/// The mount, detached.
pub(crate) fn open(spec: &Overlay, calls: Calls, scratch: &Path) -> Result<OwnedFd> {
    if calls >= Calls::Strings {
        return one_by_one(&Layers::of(spec)?, calls, scratch);
    }
    let mut place = Scratch::make(scratch)?;
    place.mounted_by(|at| classic::overlay(spec, at, scratch))?;
    let tree = bind::clone(place.at(), None)?;
    place.close()?;
    Ok(tree)
}

/// The directories of an overlay, as the mount is to see them.
pub(crate) struct Layers<'a> {
    pub(crate) spec: &'a Overlay,
    /// A mount of a directory above them all, with the owners shifted. They must come from one mount, for the kernel
    /// wants the upper and the work directory on one (`ovl_get_upper`, `ovl_get_workdir`).
    shifted: Option<(PathBuf, OwnedFd)>,
}

impl<'a> Layers<'a> {
    pub(crate) fn of(spec: &'a Overlay) -> Result<Self> {
        let count = spec.lowers.len();
        if count > MOST_LOWERS {
            return Err(Error::Options(format!(
                "an overlay of {count} lower layers: the kernel takes {MOST_LOWERS} at the most"
            )));
        }
        let shifted = match &spec.id_map {
            Some(map) => {
                let above = common_directory(directories(spec));
                let mount = bind::clone(&above, Some(map))?;
                Some((above, mount))
            }
            None => None,
        };
        Ok(Self { spec, shifted })
    }

    pub(crate) fn open(&self, dir: &Path) -> Result<OwnedFd> {
        match &self.shifted {
            Some((above, mount)) => match dir.strip_prefix(above) {
                Ok(below) if below != Path::new("") => open_dir(mount.as_fd(), below),
                _ => open_dir(mount.as_fd(), Path::new(".")),
            },
            None => open_dir(CWD.as_fd(), dir),
        }
    }

    /// Whether the paths of the layers lead to what is to be mounted.
    pub(crate) fn have_paths(&self) -> bool {
        self.shifted.is_none()
    }

    fn create(&self, context: &Context) -> io::Result<()> {
        if self.have_paths() {
            return Ok(context.create()?);
        }
        idmap::run_as_mapped_root(self.spec.id_map.as_ref(), || Ok(context.create()?))
    }

    /// Gives the layers a place in the tree of names while the value lives, if they have none.
    pub(crate) fn attach(&self, scratch: &Path) -> Result<Option<Scratch>> {
        let Some((_, mount)) = &self.shifted else {
            return Ok(None);
        };
        let mut place = Scratch::make(scratch)?;
        place.attach(mount.as_fd())?;
        Ok(Some(place))
    }
}

/// What errors begin with.
pub(crate) fn doing(spec: &Overlay) -> String {
    let top = spec.upper.as_ref().map(|upper| &upper.dir).or(spec.lowers.first());
    let top = top.map(|dir| dir.display().to_string()).unwrap_or_default();
    let count = spec.lowers.len() + usize::from(spec.upper.is_some());
    format!("mount an overlay of {count} layers, the topmost '{top}'")
}

fn one_by_one(layers: &Layers<'_>, calls: Calls, scratch: &Path) -> Result<OwnedFd> {
    let mut context = configure(layers, calls)?;
    let mut created = layers.create(&context);
    let mut _attached = None;
    if !layers.have_paths() && created.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
        // Until 6.15 the kernel takes no layer from a detached mount (`clone_private_mount`).
        _attached = layers.attach(scratch)?;
        context = configure(layers, calls)?;
        created = layers.create(&context);
    }
    context.check(created)?;
    let read_only = layers.spec.upper.is_none();
    context.mount(if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() })
}

fn configure(layers: &Layers<'_>, calls: Calls) -> Result<Context> {
    let spec = layers.spec;
    let context = Context::open("overlay", doing(spec))?;
    context.string("source", "overlay")?;
    for (name, value) in FIXED {
        context.string(name, value)?;
    }
    for name in flags(spec) {
        context.flag(name)?;
    }
    if let Some(label) = &spec.label {
        context.string("context", label.as_str())?;
    }
    for lower in &spec.lowers {
        name_layer(&context, "lowerdir+", layers, lower, calls)?;
    }
    if let Some(upper) = &spec.upper {
        name_layer(&context, "upperdir", layers, &upper.dir, calls)?;
        name_layer(&context, "workdir", layers, &upper.work, calls)?;
    }
    Ok(context)
}

/// The options without a value.
pub(crate) fn flags(spec: &Overlay) -> impl Iterator<Item = &'static str> {
    [("userxattr", spec.user_xattr), ("volatile", spec.volatile)]
        .into_iter()
        .filter_map(|(name, wanted)| wanted.then_some(name))
}

/// Names one layer. By descriptor where possible: the mount table then shows its path, whatever its length and characters.
fn name_layer(context: &Context, key: &str, layers: &Layers<'_>, dir: &Path, calls: Calls) -> Result<()> {
    if calls < Calls::Descriptors && layers.have_paths() && is_plain(dir) {
        return context.string(key, dir);
    }
    let layer = layers.open(dir)?;
    if calls >= Calls::Descriptors {
        context.descriptor(key, layer)
    } else {
        context.string(key, descriptor_path(layer.as_fd()))
    }
}

/// Whether a path means itself in every form of mount option. What each kernel escapes and splits differs.
pub(crate) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.len() <= LONGEST_STRING && !bytes.iter().any(|b| matches!(b, b',' | b':' | b'\\'))
}

/// A path by which this process, and no other, reaches what is open as `fd`.
pub(crate) fn descriptor_path(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Every directory of an overlay.
pub(crate) fn directories(spec: &Overlay) -> impl Iterator<Item = &Path> {
    let upper = spec.upper.iter().flat_map(|upper| [&upper.dir, &upper.work]);
    spec.lowers.iter().chain(upper).map(PathBuf::as_path)
}

/// The deepest directory that holds or is all of these.
fn common_directory<'a>(mut dirs: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = dirs.next().unwrap_or(Path::new("/")).to_owned();
    dirs.fold(first, |common, dir| {
        let shared = common.components().zip(dir.components()).take_while(|(a, b)| a == b);
        shared.map(|(component, _)| component).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_directory_is_found_by_component() {
        let common = |dirs: &[&str]| common_directory(dirs.iter().map(Path::new));
        assert_eq!(common(&["/a/bc/d", "/a/bd", "/a/b"]), Path::new("/a"));
        assert_eq!(common(&["/a/b"]), Path::new("/a/b"));
        assert_eq!(common(&["/a/b", "/a/b/c"]), Path::new("/a/b"));
        assert_eq!(common(&["/a", "/b"]), Path::new("/"));
    }

    #[test]
    fn a_path_that_a_kernel_might_split_or_cut_is_not_plain() {
        assert!(is_plain(Path::new("/a b/é=x")));
        for path in ["/a,b", "/a:b", r"/a\b", &format!("/{}", "x".repeat(255))] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
    }
}

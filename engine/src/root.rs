//! The data root: the directory that holds everything. `docs/on-disk.md` describes each file.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mica_core::durable;

use crate::lock::{Lock, Passing};
use crate::{Error, Result};

/// The newest format that this program reads and the one that it writes.
pub const FORMAT: u32 = 1;

const DIRECTORIES: [&str; 9] =
    ["images", "layers", "containers", "volumes", "storage", "uses", "intents", "locks", "tmp"];

/// An open data root.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Opens the data root, and makes it where the directory is missing or empty.
    ///
    /// Refuses a newer format, and a directory that holds anything else.
    pub fn open(path: &Path) -> Result<Self> {
        make_directory(path).map_err(Error::io(|| format!("create data root '{}'", path.display())))?;
        let path = path.canonicalize();
        let path = path.map_err(Error::io(|| "find the data root".to_owned()))?;
        let root = Self { path };
        if !root.is_of_this_format()? {
            root.initialise()?;
        }
        Ok(root)
    }

    /// The directory itself; absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Image configs, each named by its digest.
    pub fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// Records of image layers, each a directory named by its chain.
    pub fn layers(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// Containers, each a directory named by its id.
    pub fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }

    /// Named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// Records of networks.
    pub fn networks(&self) -> PathBuf {
        self.path.join("networks")
    }

    /// Which containers are to have fixed addresses, a directory for each network.
    pub fn promised(&self) -> PathBuf {
        self.path.join("promised")
    }

    /// The name that this root has in the kernel.
    pub fn owner(&self) -> PathBuf {
        self.path.join("owner")
    }

    /// The directory that belongs to a storage driver.
    pub fn storage(&self, driver: &str) -> PathBuf {
        self.path.join("storage").join(driver)
    }

    /// The locks that say who uses a layer of a storage driver.
    pub fn uses(&self, driver: &str) -> PathBuf {
        self.path.join("uses").join(driver)
    }

    /// The name of the driver that made the first layer.
    pub fn driver(&self) -> PathBuf {
        self.path.join("driver")
    }

    /// The start of the host at which it was looked for what a power cut left.
    pub fn boot(&self) -> PathBuf {
        self.path.join("boot")
    }

    /// What is being made now.
    pub fn intents(&self) -> PathBuf {
        self.path.join("intents")
    }

    /// Scratch space, one directory for each intent.
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The names that images have.
    pub fn tags(&self) -> PathBuf {
        self.path.join("tags.json")
    }

    /// Room for who removes something from a full disk.
    pub fn reserve(&self) -> PathBuf {
        self.path.join("reserve")
    }

    /// Holds the whole root for a moment: whoever reads and then changes tags, images, records or intents has it. It
    /// is never held while content is written, nor while another lock is waited for.
    pub fn lock(&self) -> Result<Lock> {
        Lock::wait(&self.path.join("lock"))
    }

    /// The files of locks that may be held for long.
    pub(crate) fn locks(&self) -> PathBuf {
        self.path.join("locks")
    }

    /// Waits for one of them.
    pub(crate) fn long_lock(&self, name: &str) -> Result<Passing> {
        Passing::wait(&self.locks().join(name))
    }

    /// Whether the version file is there; refuses one that is not ours to read.
    fn is_of_this_format(&self) -> Result<bool> {
        let path = self.path.join("version");
        let Some(text) = read_optional(&path, 64)? else {
            return Ok(false);
        };
        let text = String::from_utf8_lossy(&text);
        let found: u32 = text.trim().parse().map_err(|_| {
            Error::Invalid(format!(
                "'{}' is damaged: '{}' is no number; write back the format of this data root, {FORMAT} if no newer mica used it, \
                 or use another --root",
                path.display(),
                text.trim().escape_debug()
            ))
        })?;
        if found > FORMAT {
            return Err(Error::Newer { root: self.path.display().to_string(), found, known: FORMAT });
        }
        Ok(true)
    }

    fn initialise(&self) -> Result<()> {
        match self.refuse_foreign() {
            // Another command made it since it was looked at, and goes on to fill it.
            Err(_) if self.is_of_this_format()? => return Ok(()),
            other => other?,
        }
        let _lock = self.lock()?;
        // It may have been there, or be a file system of its own, with the mode of any directory (CVE-2021-41091).
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))
            .map_err(Error::io(|| format!("close '{}' to other users", self.path.display())))?;
        for name in DIRECTORIES {
            let path = self.path.join(name);
            make_directory(&path).map_err(Error::io(|| format!("create '{}'", path.display())))?;
        }
        let version = self.path.join("version");
        durable::write(&version, format!("{FORMAT}\n").as_bytes())
            .map_err(Error::io(|| format!("write '{}'", version.display())))
    }

    /// A crash while the root was made leaves a part of our names and no version; anything else is not ours.
    fn refuse_foreign(&self) -> Result<()> {
        let failed = || format!("read '{}'", self.path.display());
        for entry in fs::read_dir(&self.path).map_err(Error::io(failed))? {
            let name = entry.map_err(Error::io(failed))?.file_name();
            let ours =
                ["lock", "version.new", "version"].iter().chain(&DIRECTORIES).any(|known| name == *known);
            // A fresh ext4 has this, and a data root is often a file system of its own.
            if !ours && name != "lost+found" {
                return Err(Error::Invalid(format!(
                    "'{}' is no data root: it holds '{}' and no version file; name an empty directory with --root",
                    self.path.display(),
                    name.display()
                )));
            }
        }
        Ok(())
    }
}

/// Makes a directory that root alone may enter, and those above it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The content of a file of at most `limit` bytes; `None` where it is missing.
pub(crate) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let failed = || format!("read '{}'", path.display());
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io(failed))?,
    };
    // With room for most, which are small, it is read at once.
    let mut content = Vec::with_capacity(limit.min(4 << 10) as usize + 1);
    file.take(limit + 1).read_to_end(&mut content).map_err(Error::io(failed))?;
    if content.len() as u64 > limit {
        return Err(Error::damaged(format!("'{}'", path.display()), format!("longer than {limit} bytes")));
    }
    Ok(Some(content))
}

/// Removes a file or a tree, and does not mind if it is gone.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(|| format!("remove '{}'", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// The names in a directory that are UTF-8, which ours all are.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = || format!("read '{}'", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(failed))? {
        if let Ok(name) = entry.map_err(Error::io(failed))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn cve_2021_41091_a_directory_that_was_there_is_closed_to_other_users() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Root::open(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        // Whoever opens it again has a reason.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        Root::open(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o711);
    }

    #[test]
    fn a_new_root_is_private_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        Root::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        for name in DIRECTORIES {
            assert_eq!(mode(&path.join(name)), 0o700, "{name}");
        }
        Root::open(&path).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_with_what_would_work() {
        let dir = tempfile::tempdir().unwrap();
        Root::open(dir.path()).unwrap();
        fs::write(dir.path().join("version"), "2\n").unwrap();
        let text = Root::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("has format 2") && text.contains("newer mica"), "{text}");
        fs::write(dir.path().join("version"), "two").unwrap();
        let text = Root::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("'two' is no number; write back"), "{text}");
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("passwd"), "root").unwrap();
        let text = Root::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("it holds 'passwd'"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_root_half_made_by_a_crash_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        fs::write(dir.path().join("version.new"), "").unwrap();
        Root::open(dir.path()).unwrap();
        assert!(dir.path().join("layers").is_dir());
    }
}

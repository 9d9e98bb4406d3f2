//! What a probe found, kept until the next boot: a probe mounts and unmounts, and every command opens the driver.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mica_core::{Error, Result, Support};
use mica_tree::Shelf;

use crate::probe::Host;

/// The file with what was found, and all that this depends on.
#[derive(Debug)]
struct Known {
    file: PathBuf,
    key: String,
}

/// The shelf in `path`, and what overlayfs can do there. Where that is too little, a new shelf is taken away again.
pub(crate) fn prepare(path: &Path, root: &File, user_xattr: Option<bool>) -> Result<(Shelf, Host)> {
    let shelf = Shelf::open(path)?;
    match host(path, root, &shelf, user_xattr) {
        Ok(host) => Ok((shelf, host)),
        Err(error) => {
            for part in ["layers", "staging", "removing"] {
                // Fails where it holds something, as it should.
                let _ = fs::remove_dir(path.join(part));
            }
            Err(error)
        }
    }
}

/// From the file, or by a probe.
fn host(path: &Path, root: &File, shelf: &Shelf, user_xattr: Option<bool>) -> Result<Host> {
    let doing = || format!("probe '{}'", path.display());
    let known = Known::open(path, root, user_xattr).map_err(Error::io(doing))?;
    if let Some(host) = known.read() {
        return Ok(host);
    }
    let staged = shelf.stage("probe").map_err(Error::io(doing))?;
    let host = Host::probe(staged.path(), root, user_xattr)?;
    known.write(staged.path(), &host).map_err(Error::io(doing))?;
    Ok(host)
}

impl Known {
    fn open(path: &Path, root: &File, user_xattr: Option<bool>) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        // Another user namespace has other privileges, another device is another file system.
        let namespace =
            fs::metadata("/proc/self/ns/user").map(|namespace| namespace.ino()).unwrap_or_default();
        let key = format!("{} {namespace} {} {user_xattr:?}", boot.trim(), root.metadata()?.dev());
        Ok(Self { file: path.join("probed"), key })
    }

    /// What the file says; `None` also for one that was written by another boot, or only in part.
    fn read(&self) -> Option<Host> {
        let text = fs::read_to_string(&self.file).ok()?;
        let (key, rest) = text.strip_suffix("\n.\n")?.split_once('\n')?;
        let mut lines = rest.splitn(3, '\n');
        let user_xattr = lines.next()?.parse().ok()?;
        let volatile = lines.next()?.parse().ok()?;
        let id_maps = match lines.next()? {
            "" => Support::Yes,
            reason => Support::no(reason),
        };
        (key == self.key).then_some(Host { user_xattr, volatile, id_maps })
    }

    fn write(&self, aside: &Path, host: &Host) -> io::Result<()> {
        let reason = match &host.id_maps {
            Support::Yes => "",
            Support::No { reason } => reason,
        };
        let text = format!("{}\n{}\n{}\n{reason}\n.\n", self.key, host.user_xattr, host.volatile);
        let new = aside.join("probed");
        fs::write(&new, text)?;
        fs::rename(new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_known_again_for_the_same_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let known = |user_xattr| Known::open(dir.path(), &root, user_xattr).unwrap();
        assert!(known(None).read().is_none());
        for id_maps in [Support::Yes, Support::no("a reason")] {
            let host = Host { user_xattr: false, volatile: true, id_maps: id_maps.clone() };
            fs::create_dir_all(dir.path().join("aside")).unwrap();
            known(None).write(&dir.path().join("aside"), &host).unwrap();
            let read = known(None).read().unwrap();
            assert_eq!((read.user_xattr, read.volatile, read.id_maps), (false, true, id_maps));
            assert!(known(Some(false)).read().is_none());
        }
        fs::write(dir.path().join("probed"), format!("{}\nfalse\ntrue\n", known(None).key)).unwrap();
        assert!(known(None).read().is_none(), "half a file");
    }
}

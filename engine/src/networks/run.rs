//! What a data root is called in the kernel, and where it keeps what ends with the host's run.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use mica_core::durable;
use mica_core::network::OwnerId;

use crate::intent::random_id;
use crate::{Error, Result, Root, root};

const RUN: &str = "/run/mica";
/// The link to the data root.
const ROOT: &str = "root";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of the engine whose root this is; chosen when it is first asked for.
pub(super) fn owner(root: &Root) -> Result<OwnerId> {
    let read = || -> Result<Option<OwnerId>> {
        let Some(text) = root::read_optional(&root.owner(), 64)? else { return Ok(None) };
        let damaged = |error| {
            let what = format!("'{}'", root.owner().display());
            let hint = "stop all containers and remove it, and one is chosen anew";
            Error::Storage(mica_core::Error::Corrupt { what, reason: format!("{error}; {hint}") })
        };
        String::from_utf8_lossy(&text).trim().parse().map(Some).map_err(damaged)
    };
    if let Some(owner) = read()? {
        return Ok(owner);
    }
    let _lock = root.lock()?;
    if let Some(owner) = read()? {
        return Ok(owner);
    }
    let digits = random_id()?;
    let owner: OwnerId = digits[..16].parse()?;
    durable::write(&root.owner(), format!("{owner}\n").as_bytes())
        .map_err(Error::io(|| format!("write '{}'", root.owner().display())))?;
    Ok(owner)
}

/// When the id was chosen, as records say a time.
pub(super) fn made(root: &Root) -> String {
    let modified = fs::metadata(root.owner()).and_then(|file| file.modified()).ok();
    let time = modified.and_then(|time| jiff::Timestamp::try_from(time).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// The directory for what does not outlive the host's run. What an earlier run left is removed, where `/run` keeps it.
pub(super) fn directory(root: &Root, owner: &OwnerId) -> Result<PathBuf> {
    let boot = fs::read_to_string(BOOT_ID).map_err(Error::io(|| format!("read '{BOOT_ID}'")))?;
    let ours = Path::new(RUN).join(owner.to_string());
    let dir = of_boot(&ours, boot.trim());
    dir.and_then(|dir| name_root(&ours, root.path()).map(|()| dir))
        .map_err(Error::io(|| format!("use '{}'", ours.display())))
}

/// Says for people whose directory it is, by a link to the data root.
fn name_root(ours: &Path, root: &Path) -> io::Result<()> {
    let link = ours.join(ROOT);
    if fs::read_link(&link).is_ok_and(|named| named == root) {
        return Ok(());
    }
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match symlink(root, &link) {
        // Another command is at it, too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn of_boot(ours: &Path, boot: &str) -> io::Result<PathBuf> {
    let dir = ours.join(boot);
    root::make_directory(&dir)?;
    for entry in fs::read_dir(ours)? {
        let entry = entry?;
        if entry.file_name() != boot && entry.file_name() != ROOT {
            match fs::remove_dir_all(entry.path()) {
                // Another command is at it, too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_keeps_the_id_that_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let owner_of = || owner(&root).unwrap();
        assert_eq!(owner_of(), owner_of());
        fs::write(root.owner(), "web\n").unwrap();
        let text = owner(&root).unwrap_err().to_string();
        assert!(text.contains("must be 16 hexadecimal digits") && text.contains("remove it"), "{text}");
    }

    #[test]
    fn what_an_earlier_run_of_the_host_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let old = of_boot(dir.path(), "old").unwrap();
        fs::write(old.join("x"), "").unwrap();
        let new = of_boot(dir.path(), "new").unwrap();
        assert!(!old.exists() && new.is_dir());
        fs::write(new.join("x"), "").unwrap();
        assert!(of_boot(dir.path(), "new").unwrap().join("x").exists());
    }

    #[test]
    fn a_directory_says_whose_it_is_also_after_the_root_was_moved() {
        let dir = tempfile::tempdir().unwrap();
        let named = || fs::read_link(dir.path().join("root")).unwrap();
        for root in ["/old", "/old", "/new"] {
            name_root(dir.path(), Path::new(root)).unwrap();
            of_boot(dir.path(), "boot").unwrap();
            assert_eq!(named(), Path::new(root));
        }
    }
}

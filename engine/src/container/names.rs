//! Names of containers: a link `names/NAME` to each id, so that a name is found, and refused, without reading every
//! record.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::Container;
use crate::supervisor::wire::Request;
use crate::{Engine, Error, Result, Root, intent};

/// What a file name may have (NAME_MAX).
const MAX_NAME: usize = 255;

/// First and second words of the names that are made up.
const FIRST: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clear", "cobalt", "crisp", "deft", "eager", "fair", "fleet", "glad",
    "golden", "hardy", "jolly", "keen", "kind", "lively", "lucid", "mellow", "neat", "noble", "patient",
    "proud", "quick", "quiet", "rapid", "sharp", "steady", "sunny", "vivid", "witty",
];
const SECOND: [&str; 32] = [
    "agate", "basalt", "beryl", "biotite", "calcite", "chert", "cinnabar", "diorite", "feldspar", "flint",
    "fluorite", "gabbro", "galena", "garnet", "gneiss", "granite", "gypsum", "halite", "hematite", "jasper",
    "marble", "obsidian", "olivine", "onyx", "opal", "pyrite", "quartz", "schist", "slate", "topaz", "tuff",
    "zircon",
];

/// Whether a container or a volume may be called so. Docker's rule, but that one character is enough.
pub(crate) fn is_valid(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Refuses what no container may be called.
pub(super) fn check(name: &str) -> Result<()> {
    if is_valid(name) {
        return Ok(());
    }
    if name.len() > MAX_NAME {
        let length = name.len();
        return Err(Error::Invalid(format!(
            "invalid container name: it has {length} characters, and may have {MAX_NAME}"
        )));
    }
    Err(Error::Invalid(format!(
        "invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        name.escape_debug()
    )))
}

fn link(root: &Root, name: &str) -> PathBuf {
    root.path().join("names").join(name)
}

/// The container of this name.
pub(super) fn lookup(root: &Root, name: &str) -> Result<Option<String>> {
    let link = link(root, name);
    match fs::read_link(&link) {
        Ok(id) => {
            let id = id.to_string_lossy().into_owned();
            // A link whose container is gone was left by a crash, and is free.
            Ok(root.containers().join(&id).exists().then_some(id))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(|| format!("read '{}'", link.display()))(e)),
    }
}

/// Lets a name mean this container, which may not be in place yet. The caller has the root's lock.
pub(super) fn claim(root: &Root, name: &str, id: &str) -> Result<()> {
    if let Some(other) = lookup(root, name)? {
        return Err(Error::Conflict(format!(
            "the container name '/{name}' is already in use by container '{other}'; remove or rename that container"
        )));
    }
    let link = link(root, name);
    let failed = || format!("create '{}'", link.display());
    fs::create_dir_all(root.path().join("names")).map_err(Error::io(failed))?;
    super::remove_file(&link)?;
    symlink(id, &link).map_err(Error::io(failed))
}

/// Frees a name, if it still means this container. The caller has the root's lock.
pub(super) fn release(root: &Root, name: &str, id: &str) -> Result<()> {
    let link = link(root, name);
    match fs::read_link(&link) {
        Ok(other) if other.as_os_str() == id => super::remove_file(&link),
        _ => Ok(()),
    }
}

/// A name that no container has.
pub(super) fn invent(root: &Root) -> Result<String> {
    let digits = intent::random_id()?;
    let number = |at: usize| usize::from_str_radix(&digits[at..at + 2], 16).unwrap_or_default();
    for at in (0..digits.len() - 4).step_by(4) {
        let name = format!("{}_{}", FIRST[number(at) % FIRST.len()], SECOND[number(at + 2) % SECOND.len()]);
        if lookup(root, &name)?.is_none() {
            return Ok(name);
        }
    }
    Ok(format!("{}_{}", FIRST[number(0) % FIRST.len()], &digits[..12]))
}

impl Engine {
    /// Gives a container another name, also among its neighbours if it runs.
    pub fn rename(&self, container: &Container, name: &str) -> Result<()> {
        check(name)?;
        self.rename_record(container, name)?;
        match container.ask(&Request::Rename(name.to_owned())) {
            // One that does not run has no neighbours.
            Err(Error::Conflict(_)) => Ok(()),
            told => told.map(drop),
        }
    }

    fn rename_record(&self, container: &Container, name: &str) -> Result<()> {
        let root = self.root();
        let _lock = root.lock()?;
        claim(root, name, container.id())?;
        let mut record = container.record().clone();
        let old = std::mem::replace(&mut record.name, name.to_owned());
        super::create::write_record(container.dir(), &record)?;
        release(root, &old, container.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_container_until_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        fs::create_dir(root.containers().join("a1")).unwrap();
        claim(&root, "w", "a1").unwrap();
        let text = claim(&root, "w", "b2").unwrap_err().to_string();
        assert!(text.contains("'/w' is already in use by container 'a1'"), "{text}");
        fs::remove_dir(root.containers().join("a1")).unwrap();
        assert_eq!(lookup(&root, "w").unwrap(), None, "a link that a crash left is free");
        fs::create_dir(root.containers().join("b2")).unwrap();
        claim(&root, "w", "b2").unwrap();
        release(&root, "w", "a1").unwrap();
        assert_eq!(lookup(&root, "w").unwrap().as_deref(), Some("b2"), "another's name stays");
    }

    #[test]
    fn a_name_never_leads_out_of_its_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", "a b", "a\n", "é", &"a".repeat(256)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["w", "a.b-c_d", "0"] {
            assert!(check(good).is_ok(), "{good}");
        }
    }
}

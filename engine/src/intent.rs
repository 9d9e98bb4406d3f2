//! Intents: what is being made, written down before it is made.
//!
//! An intent is a file in `intents/`, held by `flock` for as long as its process lives, to which a line of JSON is
//! appended before each thing that a crash would leave behind. An intent that nobody holds is a crash's: whoever
//! opens the root next takes it and undoes what no record names. A torn line announces nothing: what follows it was not begun.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mica_archive::Digest;
use mica_core::{LayerId, durable};
use serde::{Deserialize, Serialize};

use crate::chain::ChainId;
use crate::lock::try_lock;
use crate::root::{self, Root};
use crate::{Error, Result};

/// Whether an intent is on disk before what it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Synced before what it announces: survives a power cut.
    Disk,
    /// Survives the end of the process, not a power cut, after which `mica storage check` finds what was left.
    None,
}

/// One line of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// What it is for, for people.
    Doing(String),
    /// A layer of a driver that is being made or removed.
    Layer {
        /// The driver.
        driver: String,
        /// The layer.
        id: LayerId,
    },
    /// An image layer that was recorded, or that is needed and must stay until this intent ends.
    Chain(ChainId),
    /// An image that must stay until this intent ends.
    Pin(Digest),
    /// An image that is being made, unless a crash comes first.
    Image(Digest),
    /// A volume without a name of its own that is being made or removed: it goes unless a container names it in the end.
    Volume(String),
    /// All is recorded: what remains is to tidy up.
    Done,
}

impl Line {
    /// Whether it must be on disk before what it announces; the others bind live processes only.
    fn is_for_a_crash(&self) -> bool {
        match self {
            Self::Layer { .. } | Self::Chain(_) | Self::Image(_) | Self::Volume(_) | Self::Done => true,
            Self::Doing(_) | Self::Pin(_) => false,
        }
    }
}

/// An intent of this process.
#[derive(Debug)]
pub struct Intent {
    id: String,
    path: PathBuf,
    barrier: Barrier,
    /// Its descriptor holds the lock.
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    lines: Vec<Line>,
}

impl Intent {
    /// Begins an intent. `what` says to people what it is for.
    pub fn begin(root: &Root, what: &str, barrier: Barrier) -> Result<Self> {
        let id = random_id()?;
        let path = root.intents().join(&id);
        let failed = || format!("write intent '{}'", path.display());
        // Under the root's lock nobody takes the new file for a crash's before it is held.
        let root_lock = root.lock()?;
        let file = OpenOptions::new().append(true).read(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io(failed))?;
        try_lock(&file).map_err(Error::io(failed))?;
        drop(root_lock);
        let intent = Self { id, path, barrier, open: Mutex::new(Open { file, lines: Vec::new() }) };
        match intent.announce_itself(root, what) {
            Ok(()) => Ok(intent),
            Err(error) => intent.end().and(Err(error)),
        }
    }

    fn announce_itself(&self, root: &Root, what: &str) -> Result<()> {
        self.add(Line::Doing(what.to_owned()))?;
        if self.barrier == Barrier::Disk {
            durable::sync_dir(&root.intents()).map_err(Error::io(|| "sync the intents".to_owned()))?;
        }
        Ok(())
    }

    /// Its name, which names its directory in `tmp` too.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Announces something. When this returns it may be begun.
    pub fn add(&self, line: Line) -> Result<()> {
        self.add_all([line])
    }

    /// Announces several things at the cost of one. What was announced already is not again.
    pub fn add_all(&self, lines: impl IntoIterator<Item = Line>) -> Result<()> {
        let failed = || format!("write intent '{}'", self.path.display());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<Line> = lines.into_iter().filter(|line| !open.lines.contains(line)).collect();
        let mut text = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut text, line).map_err(|e| Error::io(failed)(e.into()))?;
            text.push(b'\n');
        }
        open.file.write_all(&text).map_err(Error::io(failed))?;
        if self.barrier == Barrier::Disk && lines.iter().any(Line::is_for_a_crash) {
            open.file.sync_data().map_err(Error::io(failed))?;
        }
        open.lines.extend(lines);
        Ok(())
    }

    /// All that was announced so far.
    pub fn lines(&self) -> Vec<Line> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Ends it. Everything that it named is recorded or gone.
    pub fn end(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(Error::io(|| format!("remove '{}'", self.path.display())))
    }
}

/// The intents of processes that are gone, each held by this process now.
pub fn dead(root: &Root) -> Result<Vec<Intent>> {
    if root::names(&root.intents())?.is_empty() {
        return Ok(Vec::new());
    }
    let _lock = root.lock()?;
    let mut dead = Vec::new();
    for (id, path, file) in files(root)? {
        let is_free = try_lock(&file).map_err(Error::io(|| format!("lock '{}'", path.display())))?;
        // One that ended since it was listed is free, too, and gone.
        if is_free && path.exists() {
            let lines = read_lines(&path, &file)?;
            dead.push(Intent { id, path, barrier: Barrier::Disk, open: Mutex::new(Open { file, lines }) });
        }
    }
    Ok(dead)
}

/// What the intents of all live processes but `but` announce. The caller has the root's lock.
pub fn announced(root: &Root, but: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (id, path, file) in files(root)? {
        let is_held =
            id != but && !try_lock(&file).map_err(Error::io(|| format!("lock '{}'", path.display())))?;
        if is_held {
            lines.append(&mut read_lines(&path, &file)?);
        }
    }
    Ok(lines)
}

fn files(root: &Root) -> Result<Vec<(String, PathBuf, File)>> {
    let mut files = Vec::new();
    for id in root::names(&root.intents())? {
        let path = root.intents().join(&id);
        match OpenOptions::new().append(true).read(true).open(&path) {
            Ok(file) => files.push((id, path, file)),
            // Its process ended it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(|| format!("open '{}'", path.display()))(e)),
        }
    }
    Ok(files)
}

fn read_lines(path: &Path, mut file: &File) -> Result<Vec<Line>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Error::io(|| format!("read '{}'", path.display())))?;
    // What is torn, or was never synced and is zeros after a power cut, announces nothing.
    Ok(text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// 32 hex digits that nobody else has.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(Error::io(|| "read '/dev/urandom'".to_owned()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_dead_only_when_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let intent = Intent::begin(&root, "a test", Barrier::None).unwrap();
        let pin = Line::Pin(Digest::of(b"x"));
        intent.add(pin.clone()).unwrap();
        assert!(dead(&root).unwrap().is_empty());
        assert_eq!(announced(&root, "").unwrap(), [Line::Doing("a test".to_owned()), pin.clone()]);
        assert_eq!(announced(&root, intent.id()).unwrap(), []);
        drop(intent);
        let found = dead(&root).unwrap();
        assert_eq!(found[0].lines()[1], pin);
        assert!(dead(&root).unwrap().is_empty(), "a dead one is taken once");
        for intent in found {
            intent.end().unwrap();
        }
        assert!(dead(&root).unwrap().is_empty());
    }

    #[test]
    fn torn_and_lost_lines_announce_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let intent = Intent::begin(&root, "a test", Barrier::Disk).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&intent.path)
            .unwrap()
            .write_all(b"\0\0\0\0\n{\"layer\":{\"driver\":\"vf")
            .unwrap();
        drop(intent);
        let lines = dead(&root).unwrap()[0].lines();
        assert_eq!(lines, [Line::Doing("a test".to_owned())]);
    }

    #[test]
    fn what_was_announced_is_not_announced_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let intent = Intent::begin(&root, "a test", Barrier::Disk).unwrap();
        let pins = [b"x", b"y"].map(|content| Line::Pin(Digest::of(content)));
        intent.add_all(pins.clone()).unwrap();
        intent.add(pins[1].clone()).unwrap();
        assert_eq!(intent.lines()[1..], pins);
        assert_eq!(std::fs::read_to_string(&intent.path).unwrap().lines().count(), 3);
    }
}

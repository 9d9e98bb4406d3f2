//! Volumes: directories of the data root that outlive containers.
//!
//! A container names its volumes in its record; a volume knows of no container. It gets its content from the image when the
//! first container that names it is started, see `container::volume`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mica_core::{durable, failpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::container::{Settings, Source, is_valid_name, now};
use crate::intent::{Intent, Line, random_id};
use crate::{Barrier, Engine, Error, Result, Root, Transaction, root};

/// The label of a volume that nobody gave a name, which is Docker's.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// A volume.
#[derive(Clone, Debug)]
pub struct Volume {
    name: String,
    dir: PathBuf,
    record: Record,
}

/// `volume.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    created: String,
    labels: BTreeMap<String, String>,
    filled: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunedVolumes {
    /// The names of the volumes.
    pub names: Vec<String>,
    /// The bytes that they took.
    pub bytes: u64,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

impl Volume {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.record.labels
    }

    /// Whether nobody gave it a name.
    pub fn is_anonymous(&self) -> bool {
        self.record.labels.contains_key(ANONYMOUS)
    }

    /// Where its files are.
    pub fn data(&self) -> PathBuf {
        self.dir.join("_data")
    }

    /// As `inspect` shows it.
    pub fn inspect(&self) -> Value {
        let labels = &self.record.labels;
        json!({
            "CreatedAt": self.record.created,
            "Driver": "local",
            "Labels": if labels.is_empty() { Value::Null } else { json!(labels) },
            "Mountpoint": self.data(),
            "Name": self.name,
            "Options": Value::Null,
            "Scope": "local",
        })
    }

    /// The bytes that its files take.
    pub fn usage(&self) -> Result<u64> {
        let failed = || format!("measure volume '{}'", self.name);
        let data = match File::open(self.data()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            data => data.map_err(Error::io(failed))?,
        };
        let usage = mica_tree::usage(data.as_fd()).map_err(io::Error::from);
        Ok(usage.map_err(Error::io(failed))?.bytes)
    }

    pub(crate) fn read(root: &Root, name: &str) -> Result<Option<Self>> {
        let dir = directory(root, name);
        let made = match fs::metadata(&dir).and_then(|dir| dir.modified()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            made => made.map_err(Error::io(|| format!("read volume '{name}'")))?,
        };
        let text = root::read_optional(&dir.join("volume.json"), MAX_RECORD)?;
        // The volume is its files: without a record, or with one that a power cut tore, it is still there.
        let record = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_else(|| Record {
            created: jiff::Timestamp::try_from(made).map(|time| time.to_string()).unwrap_or_default(),
            filled: dir.join("_data").exists(),
            ..Record::default()
        });
        Ok(Some(Self { name: name.to_owned(), dir, record }))
    }

    /// As [`read`](Self::read); one that is gone although a container names it is made anew.
    pub(crate) fn read_or_make(root: &Root, name: &str) -> Result<Self> {
        let dir = directory(root, name);
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(Error::io(|| format!("create volume '{name}'")))?;
        }
        Self::read(root, name)?.ok_or_else(|| Error::no_such("volume", name))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it had its chance to get content from an image.
    pub(crate) fn is_filled(&self) -> bool {
        self.record.filled
    }

    /// Records that it had.
    pub(crate) fn set_filled(mut self) -> Result<()> {
        self.record.filled = true;
        self.write()
    }

    /// Replaces the record. Of an anonymous volume it is not synced, for after a power cut no container needs it.
    fn write(&self) -> Result<()> {
        let path = self.dir.join("volume.json");
        let failed = || format!("write '{}'", path.display());
        let text = serde_json::to_vec(&self.record).map_err(|e| Error::io(failed)(e.into()))?;
        if !self.is_anonymous() {
            return durable::write(&path, &text).map_err(Error::io(failed));
        }
        let aside = self.dir.join("volume.json.new");
        fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).map_err(Error::io(failed))
    }

    /// Makes a volume where nobody sees it.
    fn stage(tx: &Transaction<'_>, name: &str, labels: BTreeMap<String, String>) -> Result<Self> {
        let dir = tx.staging().join("volumes").join(name);
        let failed = || format!("create volume '{name}'");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(Error::io(failed))?;
        let record = Record { created: now(), labels, filled: false };
        let volume = Self { name: name.to_owned(), dir, record };
        DirBuilder::new().mode(0o755).create(volume.data()).map_err(Error::io(failed))?;
        volume.write()?;
        Ok(volume)
    }

    /// Gives it its place, unless there is a volume of this name. The caller has the root's lock.
    fn place(&self, root: &Root) -> Result<()> {
        let place = directory(root, &self.name);
        let sync = || if self.is_anonymous() { Ok(()) } else { durable::sync_parent(&place) };
        match fs::rename(&self.dir, &place).and_then(|()| sync()) {
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                Ok(())
            }
            placed => placed.map_err(Error::io(|| format!("create volume '{}'", self.name))),
        }
    }
}

fn directory(root: &Root, name: &str) -> PathBuf {
    root.volumes().join(name)
}

/// The files of the volume of this name.
pub(crate) fn data(root: &Root, name: &str) -> PathBuf {
    directory(root, name).join("_data")
}

/// A name for a volume that nobody names.
pub(crate) fn invent_name() -> Result<String> {
    Ok(random_id()? + &random_id()?)
}

/// Refuses what no volume may be called.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "'{}' is no volume name (only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed); a host directory is an absolute path",
        name.escape_debug()
    )))
}

fn anonymous() -> BTreeMap<String, String> {
    BTreeMap::from([(ANONYMOUS.to_owned(), String::new())])
}

/// Takes a volume out of its place; it is deleted with the scratch space. The caller has the root's lock.
fn take_away(root: &Root, name: &str, scratch: &Path) -> Result<()> {
    let away = scratch.join("removed");
    let failed = || format!("remove volume '{name}'");
    fs::create_dir_all(&away).map_err(Error::io(failed))?;
    match fs::rename(directory(root, name), away.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(Error::io(failed)),
    }
}

impl Engine {
    /// All volumes, by name.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for name in root::names(&self.root().volumes())? {
            // One that was removed meanwhile is none.
            volumes.extend(Volume::read(self.root(), &name)?);
        }
        Ok(volumes)
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        let found = if is_valid_name(name) { Volume::read(self.root(), name)? } else { None };
        found.ok_or_else(|| Error::no_such("volume", name.escape_debug().to_string()))
    }

    /// The ids of the containers that name each volume.
    pub fn volume_users(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.containers()? {
            for name in container.record().settings.volumes() {
                let ids = users.entry(name.to_owned()).or_default();
                if ids.iter().all(|id| id != container.id()) {
                    ids.push(container.id().to_owned());
                }
            }
        }
        Ok(users)
    }

    /// Makes a volume; `None` makes up a name. One that exists stays as it is.
    pub fn create_volume(&self, name: Option<&str>, labels: &BTreeMap<String, String>) -> Result<Volume> {
        let mut labels = labels.clone();
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                labels.append(&mut anonymous());
                invent_name()?
            }
        };
        check_name(&name)?;
        self.transaction("create a volume", Barrier::None, |tx| {
            let staged = Volume::stage(tx, &name, labels)?;
            failpoint::hit("volume.staged").map_err(Error::io(|| "create a volume"))?;
            let _lock = self.root().lock()?;
            staged.place(self.root())
        })?;
        self.volume(&name)
    }

    /// Removes a volume that no container names.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        self.freeing(|| {
            self.transaction("remove a volume", Barrier::None, |tx| {
                let _lock = self.root().lock()?;
                let volume = self.volume(name)?;
                if let Some(ids) = self.volume_users()?.get(name) {
                    return Err(Error::Conflict(format!(
                        "remove {name}: volume is in use - [{}]; remove the container first",
                        ids.join(", ")
                    )));
                }
                take_away(self.root(), volume.name(), tx.staging())?;
                let synced = durable::sync_dir(&self.root().volumes());
                synced
                    .and_then(|()| failpoint::hit("volume.removed"))
                    .map_err(Error::io(|| format!("remove volume '{name}'")))
            })
        })
    }

    /// Removes those of the volumes that no container names.
    pub fn prune_volumes(&self, wanted: impl Fn(&Volume) -> bool) -> Result<PrunedVolumes> {
        let mut pruned = PrunedVolumes::default();
        let users = self.volume_users()?;
        for volume in self.volumes()?.iter().filter(|volume| wanted(volume)) {
            if users.contains_key(volume.name()) {
                continue;
            }
            let bytes = volume.usage().unwrap_or_default();
            match self.remove_volume(volume.name()) {
                Ok(()) => {
                    pruned.names.push(volume.name().to_owned());
                    pruned.bytes += bytes;
                }
                // Somebody else was faster, or came to use it.
                Err(Error::NoSuch { .. } | Error::Conflict(_)) => {}
                Err(error) => pruned.failures.push(error.to_string()),
            }
        }
        Ok(pruned)
    }

    /// Makes the volumes of a container that do not exist, where nobody sees them.
    pub(crate) fn stage_volumes(&self, tx: &Transaction<'_>, settings: &Settings) -> Result<Vec<Volume>> {
        let mut staged: Vec<Volume> = Vec::new();
        for mount in &settings.mounts {
            let Source::Volume { name, anonymous: is_anonymous } = &mount.source else { continue };
            if directory(self.root(), name).exists() || staged.iter().any(|volume| volume.name == *name) {
                continue;
            }
            let labels = if *is_anonymous { anonymous() } else { BTreeMap::new() };
            staged.push(Volume::stage(tx, name, labels)?);
        }
        Ok(staged)
    }

    /// Gives them their places. One without a name goes again unless the container comes to be. The caller has the root's
    /// lock.
    pub(crate) fn place_volumes(&self, tx: &Transaction<'_>, staged: &[Volume]) -> Result<()> {
        for volume in staged {
            if volume.is_anonymous() {
                tx.announce(Line::Volume(volume.name.clone()))?;
            }
            volume.place(self.root())?;
        }
        Ok(())
    }

    /// Takes the volumes that an intent announces and no container names out of their places. The caller has the root's
    /// lock.
    pub(crate) fn discard_volumes(&self, intent: &Intent, kept: &BTreeSet<String>) -> Result<()> {
        let lines = intent.lines();
        let announced = lines.iter().filter_map(|line| match line {
            Line::Volume(name) if !kept.contains(name) => Some(name),
            _ => None,
        });
        let announced: Vec<&String> = announced.collect();
        if announced.is_empty() {
            return Ok(());
        }
        let users = match self.volume_users() {
            // While a container cannot be read, nobody knows what it needs.
            Err(Error::Damaged { .. }) => return Ok(()),
            users => users?,
        };
        let scratch = self.root().tmp().join(intent.id());
        announced
            .into_iter()
            .filter(|name| !users.contains_key(*name))
            .try_for_each(|name| take_away(self.root(), name, &scratch))
    }
}

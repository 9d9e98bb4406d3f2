//! Taking a container: what it was, and what it changed, on its image.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use mica_archive::apply::{ApplyOptions, WhiteoutForm};
use mica_archive::ingest::Expected;
use mica_archive::layer;
use mica_mount::Held;
use rustix::fs::fstat;

use super::Adoption;
use super::config::{Config, HostConfig};
use super::database::{Database, is_id};
use super::root::OldRoot;
use super::writable::Writable;
use crate::container::{Arrival, now};
use crate::{Error, Result, pipe};

/// The longest record of a container that is read, in bytes.
const MAX_RECORD: u64 = 16 << 20;

/// Reads the record of the container whose directory has this name; `None` for what is no container.
pub(super) fn read(old: &OldRoot, id: &str) -> Result<Option<Config>> {
    if !is_id(id) {
        return Ok(None);
    }
    match old.read(&format!("containers/{id}/config.v2.json"), MAX_RECORD)? {
        Some(text) => Config::parse(&text, id).map(Some),
        None => Ok(None),
    }
}

fn read_host(old: &OldRoot, id: &str) -> Result<HostConfig> {
    let text = old.read(&format!("containers/{id}/hostconfig.json"), MAX_RECORD)?;
    let text = text.unwrap_or_else(|| b"{}".to_vec());
    serde_json::from_slice(&text).map_err(|e| Error::Invalid(format!("its host config cannot be read: {e}")))
}

/// The layer of a container.
pub(super) fn writable(old: &Arc<OldRoot>, database: &Database, config: &Config) -> Result<Writable> {
    let format = database.format();
    let mount = database.mount(&config.id)?;
    let (layer, parent) =
        mount.ok_or_else(|| Error::Invalid("Docker has no record of its layer".to_owned()))?;
    let image = config.image().ok_or_else(|| Error::Invalid("its config names no image".to_owned()))?;
    let image = database.image(&image).map_err(Error::doing(|| "its image"))?;
    if image.top() != parent.as_ref() {
        return Err(Error::Invalid(format!("its layer does not stand on its image {}", image.id())));
    }
    refuse_shifted(old, format.name())?;
    Writable::open(old, format.directory(&layer), format.whiteouts())
}

/// With userns-remap the files of containers belong to others than they say inside.
fn refuse_shifted(old: &OldRoot, place: &str) -> Result<()> {
    let Some(directory) = old.directory(place)? else { return Ok(()) };
    let stat =
        fstat(directory).map_err(|e| Error::io(|| format!("read '{}'", old.shown(place)))(e.into()))?;
    if (stat.st_uid, stat.st_gid) == (0, 0) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "its files belong to shifted users ('{}' belongs to {}:{}): Docker ran with userns-remap or without root; images can be \
         taken from there, containers cannot",
        old.shown(place),
        stat.st_uid,
        stat.st_gid
    )))
}

impl Adoption<'_> {
    /// Takes the container of this old id, whose image is taken, and is the one of this id here. Returns what does not
    /// come along.
    pub(super) fn take_container(&self, database: &Database, id: &str) -> Result<Vec<String>> {
        let config = read(&self.old, id)?.ok_or_else(|| Error::no_such("container", id))?;
        let image = config.image().ok_or_else(|| Error::Invalid("its config names no image".to_owned()))?;
        let taken = self.take_image(database, &image).map_err(Error::doing(|| "its image"))?;
        let writable = writable(&self.old, database, &config)?;
        let (name, image_name) = (config.name().to_owned(), config.image_name().to_owned());
        let created = Some(config.created.clone()).filter(|text| text.parse::<jiff::Timestamp>().is_ok());
        let state = config.state();
        let (settings, lost) = config.settings(read_host(&self.old, id)?);
        self.engine.receive(&Arrival {
            id: id.to_owned(),
            name: &name,
            created: created.unwrap_or_else(now),
            image: taken.image.id().to_string(),
            image_name,
            settings,
            state,
            fill: &|held| self.fill(held, &writable),
        })?;
        Ok([taken.warnings, lost].concat())
    }

    /// Does to the tree of an image what the old container did to it.
    fn fill(&self, held: &Held, writable: &Writable) -> Result<()> {
        let options = ApplyOptions { xattrs: self.options.xattrs, ..ApplyOptions::new(WhiteoutForm::Merged) };
        let root = held.tree().root().as_fd().try_clone_to_owned();
        let root = root.map_err(Error::io(|| "open the tree of a container"))?;
        pipe::through(
            |writer| writable.write(io::BufWriter::with_capacity(64 << 10, writer)),
            |reader| Ok(layer::apply(reader, root, options, &Expected::default()).map(drop)?),
        )
    }
}

//! Taking a container: what it was, and what it changed, on its image.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use mica_archive::Digest;
use mica_archive::apply::{ApplyOptions, WhiteoutForm};
use mica_mount::Held;
use oci_spec::image::Arch;
use rustix::fs::fstat;
use serde_json::json;

use super::config::{Config, HostConfig};
use super::database::{Database, is_id};
use super::root::OldRoot;
use super::writable::Writable;
use super::{Adoption, holes};
use crate::container::{Arrival, ConnectWish, now};
use crate::error::shown;
use crate::{Error, Image, Result, pipe};

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

/// What a container is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) image: Image,
    /// What of the image is not as it was.
    pub(super) warning: Option<String>,
    pub(super) writable: Writable,
}

/// Finds the layer of a container, and the image that it stands on.
pub(super) fn parts(old: &Arc<OldRoot>, database: &Database, config: &Config) -> Result<Parts> {
    let format = database.format();
    let mount = database.mount(&config.id)?;
    let (layer, top) = mount.ok_or_else(|| Error::Invalid("Docker has no record of its layer".to_owned()))?;
    let id = config.image().ok_or_else(|| Error::Invalid("its config names no image".to_owned()))?;
    let is_gone = !database.images()?.contains(&id);
    let image = match &top {
        Some(top) if is_gone => image_of_layers(&database.diff_ids(top)?, config)?,
        _ => database.image(&id).map_err(Error::doing(|| "its image"))?,
    };
    if image.top() != top.as_ref() {
        return Err(Error::Invalid(format!("its layer does not stand on its image {id}")));
    }
    refuse_shifted(old, format.name())?;
    let warning = is_gone
        .then(|| format!("its image {id} was removed: it stands on one of the same layers, {}", image.id()));
    let writable = Writable::open(old, format.directory(&layer), format.whiteouts())?;
    Ok(Parts { image, warning, writable })
}

/// An image in place of the one that was removed by force from under a container, the same each time.
fn image_of_layers(diff_ids: &[Digest], config: &Config) -> Result<Image> {
    let blob = json!({
        "architecture": Arch::default().to_string(),
        "os": "linux",
        "created": Some(&config.created).filter(|created| is_time(created)),
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    Image::parse(blob.to_string().into_bytes())
}

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
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
    /// Takes a container, and its image where that is not here. Returns what does not come along.
    pub(super) fn take_container(&self, database: &Database, id: &str) -> Result<Vec<String>> {
        let mut config = read(&self.old, id)?.ok_or_else(|| Error::no_such("container", id))?;
        let Parts { image, warning, writable } = parts(&self.old, database, &config)?;
        let taken = self.take_image(database, image).map_err(Error::doing(|| "its image"))?;
        let (name, image_name) = (config.name().to_owned(), config.image_name().to_owned());
        let created = Some(config.created.clone()).filter(|created| is_time(created));
        let state = config.state();
        let host = read_host(&self.old, id)?;
        let mut lost = Vec::new();
        let places = config.take_places(&host, &mut lost);
        let networks = self.found_again(&name, places, &mut lost);
        let (settings, not_taken) = config.settings(host);
        lost.extend(not_taken);
        for name in settings.volumes().filter(|name| self.engine.volume(name).is_ok()) {
            lost.push(format!("it uses the volume '{name}' that was here before"));
        }
        self.engine.receive(&Arrival {
            id: id.to_owned(),
            name: &name,
            created: created.unwrap_or_else(now),
            image: taken.image.id().to_string(),
            image_name,
            settings,
            networks,
            state,
            fill: &|held| self.fill(held, &writable),
        })?;
        Ok([taken.warnings, warning.into_iter().collect(), lost].concat())
    }

    /// Those of its networks that are here, and what of its wishes they grant.
    fn found_again(
        &self,
        container: &str,
        places: Vec<(String, ConnectWish)>,
        lost: &mut Vec<String>,
    ) -> Vec<(String, ConnectWish)> {
        let networks = self.engine.networks();
        let mut found = Vec::new();
        for (name, mut wish) in places {
            let record = match networks.get(&name) {
                Ok(record) if record.name() == name => record,
                missing => {
                    let why = missing.err().unwrap_or_else(|| Error::no_such("network", shown(&name)));
                    lost.push(not_connected(&shown(&name), container, &wish, &why));
                    continue;
                }
            };
            if !wish.addresses.is_empty()
                && let Err(error) = record.refuse_wish(&wish)
            {
                lost.push(format!("it comes without its addresses in network '{name}': {error}"));
                wish.addresses.clear();
            }
            if let Err(error) = record.refuse_wish(&wish) {
                lost.push(format!("it comes without its aliases in network '{name}': {error}"));
                wish.aliases.clear();
            }
            found.push((name, wish));
        }
        found
    }

    /// Does to the tree of an image what the old container did to it.
    fn fill(&self, held: &Held, writable: &Writable) -> Result<()> {
        let options = ApplyOptions { xattrs: self.options.xattrs, ..ApplyOptions::new(WhiteoutForm::Merged) };
        let root = held.tree().root().as_fd().try_clone_to_owned();
        let root = root.map_err(Error::io(|| "open the tree of a container"))?;
        pipe::through(
            |writer| writable.write(io::BufWriter::with_capacity(64 << 10, writer)),
            |reader| holes::extract(reader, writable.files(), root, options),
        )
    }
}

fn not_connected(network: &str, container: &str, wish: &ConnectWish, why: &Error) -> String {
    let flag = |address: &IpAddr| if address.is_ipv4() { "--ip" } else { "--ip6" };
    let addresses = wish.addresses.iter().map(|address| format!("{} {address} ", flag(address)));
    let aliases = wish.aliases.iter().map(|name| format!("--alias {name} "));
    let flags: String = addresses.chain(aliases).collect();
    format!(
        "it is not connected to network '{network}': {why}; 'mica network create' makes one, and 'mica network connect \
         {flags}{network} {container}' connects it"
    )
}

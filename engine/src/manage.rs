//! Listing, naming, and removing images.

use std::collections::{BTreeMap, BTreeSet};

use mica_archive::Digest;
use mica_core::failpoint;

use crate::image::Image;
use crate::images::{self, Found};
use crate::intent::Line;
use crate::listing::Listing;
use crate::tags::Tags;
use crate::uses::{self, Use};
use crate::{Barrier, Engine, Error, Reference, Result, Transaction, layers};

/// An image in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The image.
    pub image: Image,
    /// Its names, in order.
    pub names: Vec<Reference>,
    /// The bytes of the files of all its layers.
    pub size: u64,
}

/// A step in the making of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in seconds since 1970.
    pub created: i64,
    /// By which command.
    pub created_by: String,
    /// The bytes of the files that it added.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

/// What removing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone.
    pub untagged: Vec<Reference>,
    /// The images that are gone.
    pub deleted: Vec<Digest>,
    /// The bytes of the layers that are gone with them.
    pub reclaimed: u64,
}

impl Engine {
    /// All images that can be read, the newest first.
    pub fn images(&self) -> Result<Listing<Listed>> {
        let tags = Tags::read(self.root())?;
        let listed = |id: &Digest| -> Result<Option<Listed>> {
            let Some(image) = images::read(self.root(), id)? else { return Ok(None) };
            Ok(Some(Listed { names: tags.of(id), size: self.size(&image)?, image }))
        };
        let mut listing = Listing::new();
        for id in images::ids(self.root())? {
            listing.add(listed(&id))?;
        }
        listing.found.sort_by_key(|one| (std::cmp::Reverse(one.image.created()), *one.image.id()));
        Ok(listing)
    }

    /// The bytes of the files of an image's layers.
    pub fn size(&self, image: &Image) -> Result<u64> {
        image
            .chain()
            .iter()
            .try_fold(0, |sum, id| Ok(sum + layers::read(self.root(), id)?.map_or(0, |r| r.size)))
    }

    /// How an image came to be, the last step first.
    pub fn history(&self, image: &Image) -> Result<Vec<Step>> {
        let mut sizes = image.chain().iter();
        let mut steps = Vec::new();
        for entry in image.config().history().iter().flatten() {
            let layer = if entry.empty_layer().unwrap_or(false) { None } else { sizes.next() };
            let record = layer.map(|id| layers::read(self.root(), id)).transpose()?.flatten();
            let created = entry.created().as_deref().unwrap_or_default().parse::<jiff::Timestamp>();
            steps.push(Step {
                created: created.map_or(0, jiff::Timestamp::as_second),
                created_by: entry.created_by().clone().unwrap_or_default(),
                size: record.map_or(0, |record| record.size),
                comment: entry.comment().clone().unwrap_or_default(),
            });
        }
        steps.reverse();
        Ok(steps)
    }

    /// Gives an image another name.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        self.transaction("tag", Barrier::None, |transaction| {
            let image = transaction.image(image)?;
            transaction.tag(name, image.id())
        })
    }

    /// Removes a name, and the image with the last one, as `docker rmi` does. An image that a container uses is
    /// not removed; with `force` it loses its names.
    pub fn remove_image(&self, text: &str, force: bool) -> Result<Removed> {
        // This removes the containers that were to remove themselves and were killed before: they keep no image.
        self.list_containers()?;
        self.freeing(|| self.transaction("rmi", Barrier::Disk, |tx| self.remove_image_in(tx, text, force)))
    }

    fn remove_image_in(&self, transaction: &Transaction<'_>, text: &str, force: bool) -> Result<Removed> {
        let _lock = self.root().lock()?;
        let found = images::find(self.root(), text)?;
        let mut tags = Tags::read(self.root())?;
        let names = tags.of(found.id());
        let by_name = if let Found::ByName(name, _) = &found { Some(name) } else { None };
        let gone = by_name.map_or_else(|| names.clone(), |name| going_with(&names, name));
        let is_last = gone.len() == names.len();
        let user = if is_last { self.user_of(found.id(), transaction)? } else { None };
        if let Some(user) = user.as_ref().filter(|_| !force) {
            return Err(in_use(text, found.id(), user));
        }
        let go_with_one = names.is_empty() || names.iter().any(|name| going_with(&names, name) == names);
        if by_name.is_none() && !go_with_one && !force {
            return Err(many_names(found.id(), &names));
        }
        for name in &gone {
            tags.remove(name);
        }
        let image = (is_last && user.is_none()).then_some(*found.id());
        self.forget(transaction, &tags, gone, image)
    }

    /// Removes the images that have no name, or with `all` those that no container uses; those in use stay.
    pub fn prune_images(&self, all: bool) -> Result<Removed> {
        // This removes the containers that were to remove themselves and were killed before: they keep no image.
        self.list_containers()?;
        self.freeing(|| self.transaction("prune", Barrier::Disk, |tx| self.prune_images_in(tx, all)))
    }

    fn prune_images_in(&self, transaction: &Transaction<'_>, all: bool) -> Result<Removed> {
        let _lock = self.root().lock()?;
        let mut tags = Tags::read(self.root())?;
        let mut removed = Removed::default();
        for id in images::ids(self.root())? {
            let names = tags.of(&id);
            if (!names.is_empty() && !all) || self.user_of(&id, transaction)?.is_some() {
                continue;
            }
            for name in &names {
                tags.remove(name);
            }
            let one = self.forget(transaction, &tags, names, Some(id))?;
            removed.untagged.extend(one.untagged);
            removed.deleted.extend(one.deleted);
            removed.reclaimed += one.reclaimed;
        }
        Ok(removed)
    }

    /// Writes the names that remain, and lets an image go; its layers follow when the transaction is settled. The
    /// caller has the root's lock.
    fn forget(
        &self,
        transaction: &Transaction<'_>,
        tags: &Tags,
        untagged: Vec<Reference>,
        image: Option<Digest>,
    ) -> Result<Removed> {
        let hit = |point| failpoint::hit(point).map_err(Error::io(|| "remove an image".to_owned()));
        let mut removed = Removed { untagged, ..Removed::default() };
        if let Some(id) = image {
            removed.deleted.push(id);
            removed.reclaimed = self.announce_layers(transaction, &id)?;
        }
        hit("rmi.announced")?;
        if !removed.untagged.is_empty() {
            tags.write(self.root())?;
        }
        hit("rmi.untagged")?;
        if let Some(id) = image {
            images::remove(self.root(), &id)?;
        }
        hit("rmi.forgotten")?;
        Ok(removed)
    }

    /// Announces the layers of an image, and returns the size of those that no other image has.
    fn announce_layers(&self, transaction: &Transaction<'_>, id: &Digest) -> Result<u64> {
        // Of a damaged image the layers are not known; `storage check --repair` finds them.
        let Ok(Some(image)) = images::read(self.root(), id) else { return Ok(0) };
        // Only unless the names are gone before the image, it goes too.
        transaction.announce(Line::Image(*id))?;
        let mut others = BTreeSet::new();
        let mut are_known = true;
        for other in images::ids(self.root())?.iter().filter(|other| *other != id) {
            match images::read(self.root(), other) {
                Ok(other) => others.extend(other.iter().flat_map(|image| image.chain().to_vec())),
                // While nobody knows what it needs, the layers stay.
                Err(Error::Damaged { .. }) => are_known = false,
                Err(error) => return Err(error),
            }
        }
        let mut reclaimed = 0;
        for chain in image.chain() {
            transaction.announce(Line::Chain(*chain))?;
            if are_known && !others.contains(chain) {
                reclaimed += layers::read(self.root(), chain)?.map_or(0, |record| record.size);
            }
        }
        Ok(reclaimed)
    }

    /// Who keeps an image from being removed: a container, or somebody who works with it now.
    fn user_of(&self, id: &Digest, transaction: &Transaction<'_>) -> Result<Option<String>> {
        let container = uses::all(self.root())?.into_iter().find(|found| found.image == *id);
        if let Some(Use { id, name, .. }) = container {
            return Ok(Some(format!("container {name} ({})", &id[..id.len().min(12)])));
        }
        let pinned = transaction.announced_by_others()?.contains(&Line::Pin(*id));
        Ok(pinned.then(|| "a command that runs now".to_owned()))
    }

    /// How many containers that can be read use each image.
    pub fn image_uses(&self) -> Result<BTreeMap<Digest, usize>> {
        let mut count = BTreeMap::new();
        for found in uses::list(self.root())?.found {
            *count.entry(found.image).or_default() += 1;
        }
        Ok(count)
    }
}

/// What goes with a name: with the last tag of a repository its digests do.
fn going_with(names: &[Reference], name: &Reference) -> Vec<Reference> {
    let is_beside = |other: &Reference| other.repository() == name.repository();
    let tags = names.iter().filter(|other| is_beside(other) && other.tag().is_some()).count();
    let all = name.tag().is_some() && tags == 1;
    names.iter().filter(|other| *other == name || (all && is_beside(other))).cloned().collect()
}

fn many_names(id: &Digest, names: &[Reference]) -> Error {
    Error::Conflict(format!(
        "image {} has more than one name ({}); remove them one by one, or all with --force",
        &id.hex()[..12],
        names.iter().map(Reference::to_string).collect::<Vec<_>>().join(", ")
    ))
}

fn in_use(text: &str, id: &Digest, user: &str) -> Error {
    Error::Conflict(format!(
        "image {text} ({}) is used by {user}; remove that first, or only the names with --force",
        &id.hex()[..12]
    ))
}

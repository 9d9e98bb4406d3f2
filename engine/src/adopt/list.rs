//! What of an old root is to be taken.

use std::collections::BTreeSet;

use mica_archive::Digest;

use super::config::Config;
use super::{Adoption, Item, Kind, container};
use crate::error::shown;
use crate::tags::Tags;
use crate::{Error, Reference, Result, images};

/// A container of the old root.
struct Found {
    config: Config,
    /// Which of the databases has its layer.
    database: usize,
    /// Why it cannot be taken.
    refused: Option<String>,
}

impl Adoption<'_> {
    /// Lists the images that are meant, those with a name first, and then the containers.
    pub(super) fn list(&mut self) -> Result<()> {
        let everything = self.options.images.is_empty() && self.options.containers.is_empty();
        let containers = match everything {
            true => self.all_containers()?,
            false => self.chosen_containers()?,
        };
        let mut wanted: Vec<(usize, Digest)> = Vec::new();
        for (index, database) in self.databases.iter().enumerate().filter(|_| everything) {
            wanted.extend(database.shown_images()?.into_iter().map(|id| (index, id)));
        }
        for text in &self.options.images {
            wanted.push(self.find_image(text)?);
        }
        for found in containers.iter().filter(|found| found.refused.is_none()) {
            // One that was removed from under its container is none.
            let there = self.databases[found.database].images()?;
            wanted
                .extend(found.config.image().filter(|id| there.contains(id)).map(|id| (found.database, id)));
        }
        let mut seen = BTreeSet::new();
        wanted.retain(|(_, id)| seen.insert(*id));
        self.items = wanted.iter().map(|(index, id)| self.image_item(*index, id)).collect();
        self.items.sort_by(|one, other| {
            (one.names.is_empty(), &one.names, &one.id).cmp(&(
                other.names.is_empty(),
                &other.names,
                &other.id,
            ))
        });
        for found in containers {
            let item = self.container_item(found);
            self.items.push(item);
        }
        Ok(())
    }

    fn find_image(&self, text: &str) -> Result<(usize, Digest)> {
        for (index, database) in self.databases.iter().enumerate() {
            if let Some(id) = database.find(text)? {
                return Ok((index, id));
            }
        }
        Err(self.missing("image", text))
    }

    fn missing(&self, kind: &str, text: &str) -> Error {
        Error::Invalid(format!("no such {kind} in '{}': {}", self.old.path().display(), shown(text)))
    }

    fn image_item(&self, index: usize, id: &Digest) -> Item {
        let database = &self.databases[index];
        let names = database.names(id);
        let mut item = Item {
            kind: Kind::Image,
            names: names.iter().map(ToString::to_string).collect(),
            id: id.hex(),
            bytes: 0,
            is_here: false,
            refused: None,
            warnings: Vec::new(),
            database: index,
        };
        let look = || -> Result<(u64, bool)> {
            let is_here = images::read(self.engine.root(), id)?.is_some() && self.are_known(names)?;
            let layers = database.layers(&database.image(id)?);
            let layers = if is_here { layers.unwrap_or_default() } else { layers? };
            Ok((layers.iter().map(|layer| layer.size).sum(), is_here))
        };
        match look() {
            Ok((bytes, is_here)) => (item.bytes, item.is_here) = (bytes, is_here),
            Err(error) => item.refused = Some(error.to_string()),
        }
        item
    }

    /// Whether all of these names mean some image here.
    pub(super) fn are_known(&self, names: &[Reference]) -> Result<bool> {
        let tags = Tags::read(self.engine.root())?;
        Ok(names.iter().all(|name| tags.get(name).is_some()))
    }

    fn all_containers(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for id in self.old.names("containers")? {
            let config = match container::read(&self.old, &id) {
                Ok(None) => continue,
                Ok(Some(config)) => config,
                Err(error) => {
                    let refused = Some(error.to_string());
                    all.push(Found { config: Config::unread(&id), database: 0, refused });
                    continue;
                }
            };
            let database = self.databases.iter().position(|one| one.format().name() == config.driver);
            let refused = match database {
                _ if config.is_dead() => Some("Docker was removing it".to_owned()),
                None => Some(format!("its files are kept by storage driver '{}'", shown(&config.driver))),
                Some(_) => None,
            };
            all.push(Found { config, database: database.unwrap_or_default(), refused });
        }
        Ok(all)
    }

    fn chosen_containers(&self) -> Result<Vec<Found>> {
        if self.options.containers.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.all_containers()?;
        let mut chosen = BTreeSet::new();
        for text in &self.options.containers {
            let wanted = text.trim_start_matches('/');
            let named = found.iter().filter(|one| one.config.name() == wanted || one.config.id == wanted);
            let begun = found.iter().filter(|one| !wanted.is_empty() && one.config.id.starts_with(wanted));
            let ids: BTreeSet<_> = named.map(|one| &one.config.id).collect();
            let ids = if ids.is_empty() { begun.map(|one| &one.config.id).collect() } else { ids };
            match (ids.first(), ids.len()) {
                (Some(id), 1) => drop(chosen.insert((*id).clone())),
                (Some(_), _) => {
                    let text = shown(text);
                    return Err(Error::Invalid(format!(
                        "'{text}' begins more than one container id; give more digits"
                    )));
                }
                (None, _) => return Err(self.missing("container", text)),
            }
        }
        found.retain(|one| chosen.contains(&one.config.id));
        Ok(found)
    }

    fn container_item(&self, found: Found) -> Item {
        let Found { config, database, refused } = found;
        let is_here = self.has_container(&config.id);
        let mut item = Item {
            kind: Kind::Container,
            names: Some(config.name().to_owned()).filter(|name| !name.is_empty()).into_iter().collect(),
            id: config.id.clone(),
            bytes: 0,
            is_here,
            refused: refused.filter(|_| !is_here),
            warnings: Vec::new(),
            database,
        };
        if item.refused.is_none() && !is_here {
            let parts = container::parts(&self.old, &self.databases[database], &config);
            match parts.and_then(|parts| parts.writable.survey()) {
                Ok(survey) => {
                    (item.bytes, item.refused, item.warnings) =
                        (survey.bytes, survey.refused, survey.warnings);
                }
                Err(error) => item.refused = Some(error.to_string()),
            }
        }
        item
    }
}

//! Checking images, their names, and the containers of them.

use super::Checker;
use crate::container::State;
use crate::listing::Listing;
use crate::tags::Tags;
use crate::{Engine, Error, Result, images, layers, uses};
use mica_archive::Digest;

impl Checker<'_> {
    /// Every image is what its name says, and all its layers are recorded.
    pub(super) fn check_images(&mut self) -> Result<()> {
        let root = self.engine.root();
        for id in images::ids(root)? {
            self.report.images += 1;
            let defect = match images::read(root, &id) {
                Err(error) => Some(told(&error)),
                Ok(None) => None,
                Ok(Some(image)) => image
                    .chain()
                    .iter()
                    .find(|chain| !layers::directory(root, chain).exists())
                    .map(|chain| format!("image {id} lacks layer {chain}; load or import it again")),
            };
            if let Some(why) = defect {
                self.found(why, "removed", |engine| forget(engine, &id));
            }
        }
        Ok(())
    }

    /// The names can be read. Mended before everything that changes them.
    pub(super) fn check_tags_file(&mut self) {
        if let Err(error) = Tags::read(self.engine.root()) {
            self.found(
                error.to_string(),
                "set aside as 'tags.json.damaged', the images are there by their ids",
                |engine| {
                    let path = engine.root().tags();
                    let aside = path.with_extension("json.damaged");
                    mica_core::durable::rename(&path, &aside)
                        .map_err(Error::io(|| format!("rename '{}'", path.display())))
                },
            );
        }
    }

    /// Every name means an image that is there.
    pub(super) fn check_tags(&mut self) -> Result<()> {
        let root = self.engine.root();
        // A file that cannot be read was told already.
        let Ok(tags) = Tags::read(root) else { return Ok(()) };
        for (name, id) in tags.iter() {
            if !images::path(root, id).exists() {
                self.found(
                    format!("the name {name} means image {id}, which is missing"),
                    "removed",
                    |engine| {
                        let _lock = engine.root().lock()?;
                        let mut tags = Tags::read(engine.root())?;
                        tags.remove(name);
                        tags.write(engine.root())
                    },
                );
            }
        }
        Ok(())
    }

    /// Every container has its image and its layer.
    pub(super) fn check_containers(&mut self) -> Result<()> {
        let root = self.engine.root();
        let Listing { found, damaged } = uses::list(root)?;
        let states = found.iter().filter_map(|user| State::read(&root.containers().join(&user.id)).err());
        for error in damaged.into_iter().chain(states) {
            self.left(told(&error), "put it back, or remove the container with 'mica rm -f'");
        }
        for user in found {
            if !images::path(root, &user.image).exists() {
                self.left(
                    format!("container {} has lost its image {}", user.name, user.image),
                    "remove the container",
                );
            }
            if self.drivers.get(&user.driver).is_some_and(|(_, held)| !held.contains(&user.layer)) {
                let what =
                    format!("container {} has lost its layer {} in {}", user.name, user.layer, user.driver);
                self.left(what, "remove the container");
            }
        }
        Ok(())
    }
}

/// What is wrong, without the advice to do what is being done.
fn told(error: &Error) -> String {
    match error {
        Error::Damaged { what, reason } => format!("{what} is damaged: {reason}"),
        other => other.to_string(),
    }
}

fn forget(engine: &Engine, id: &Digest) -> Result<()> {
    if let Some(user) = uses::all(engine.root())?.into_iter().find(|user| user.image == *id) {
        return Err(Error::Conflict(format!("container {} is made of it", user.name)));
    }
    let _lock = engine.root().lock()?;
    let mut tags = Tags::read(engine.root())?;
    for name in tags.of(id) {
        tags.remove(&name);
    }
    tags.write(engine.root())?;
    images::remove(engine.root(), id)
}

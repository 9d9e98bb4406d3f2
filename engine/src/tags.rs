//! The names that images have: one small file, replaced whole.

use std::collections::BTreeMap;

use mica_archive::Digest;
use mica_core::durable;
use serde::{Deserialize, Serialize};

use crate::reference::Reference;
use crate::root::{self, Root};
use crate::{Error, Result};

/// More names than this are a damaged file.
const MAX_FILE: u64 = 64 << 20;

/// Which name means which image. Whoever changes it holds the root's lock from reading to writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<Reference, Digest>);

impl Tags {
    /// Reads the names of a root.
    pub fn read(root: &Root) -> Result<Self> {
        let path = root.tags();
        let Some(text) = root::read_optional(&path, MAX_FILE)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("'{}'", path.display()), e))
    }

    /// Puts them on disk for good.
    pub fn write(&self, root: &Root) -> Result<()> {
        let failed = || format!("write '{}'", root.tags().display());
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::io(failed)(e.into()))?;
        durable::write(&root.tags(), &text).map_err(Error::io(failed))
    }

    /// The image of this name.
    pub fn get(&self, name: &Reference) -> Option<&Digest> {
        self.0.get(name)
    }

    /// Lets the name mean this image; returns the one that it meant before.
    pub fn set(&mut self, name: Reference, image: Digest) -> Option<Digest> {
        self.0.insert(name, image)
    }

    /// Forgets the name; returns the image that it meant.
    pub fn remove(&mut self, name: &Reference) -> Option<Digest> {
        self.0.remove(name)
    }

    /// The names of an image, in order.
    pub fn of(&self, image: &Digest) -> Vec<Reference> {
        self.iter().filter(|(_, id)| *id == image).map(|(name, _)| name.clone()).collect()
    }

    /// All names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Reference, &Digest)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stored_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut tags = Tags::read(&root).unwrap();
        let image = Digest::of(b"x");
        assert_eq!(tags.set("debian".parse().unwrap(), image), None);
        tags.write(&root).unwrap();
        let text = std::fs::read_to_string(root.tags()).unwrap();
        assert!(text.contains("docker.io/library/debian:latest"), "{text}");
        assert_eq!(Tags::read(&root).unwrap(), tags);
        assert_eq!(tags.of(&image), ["debian".parse().unwrap()]);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::write(root.tags(), r#"{"UPPER:1": "sha256:0"}"#).unwrap();
        let text = Tags::read(&root).unwrap_err().to_string();
        assert!(text.contains("tags.json") && text.contains("UPPER"), "{text}");
    }
}

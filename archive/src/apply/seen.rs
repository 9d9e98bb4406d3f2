//! What this run has made, in eight bytes a name.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

/// The place of something in the tree: a keyed hash of its parent's place and its name. The key is random, so an
/// archive cannot be made to collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

impl Place {
    pub(super) const ROOT: Self = Self(0);
}

/// Makes [`Place`]s.
#[derive(Debug, Default)]
pub(super) struct Places(RandomState);

impl Places {
    pub(super) fn child(&self, parent: Place, name: &[u8]) -> Place {
        Place(self.0.hash_one((parent.0, name)))
    }

    /// The place that a clean path leads to from `start`.
    pub(super) fn below(&self, start: Place, path: &[u8]) -> Place {
        path.split(|&byte| byte == b'/').fold(start, |place, name| self.child(place, name))
    }
}

/// A set of places.
pub(super) type PlaceSet = HashSet<Place, BuildHasherDefault<AsIs>>;

/// A [`Place`] is a good hash already.
#[derive(Debug, Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, place: u64) {
        self.0 = place;
    }
}

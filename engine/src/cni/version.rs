//! The versions of the protocol.

use std::fmt;

use serde_json::{Value, json};

use super::config::Fields;

/// A version that is spoken here; a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// All of them, with their names.
const ALL: [(&str, Version); 5] = [
    ("0.3.0", Version::V0_3_0),
    ("0.3.1", Version::V0_3_1),
    ("0.4.0", Version::V0_4_0),
    ("1.0.0", Version::V1_0_0),
    ("1.1.0", Version::V1_1_0),
];

impl Version {
    /// The one that is spoken where none is agreed on.
    pub(super) const NEWEST: Self = Self::V1_1_0;

    /// The version of this name, if it is spoken.
    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|(known, _)| *known == name).map(|(_, version)| *version)
    }

    /// The names of all.
    pub(super) fn names() -> Vec<&'static str> {
        ALL.iter().map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALL.iter().find(|(_, version)| version == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// What `VERSION` is answered.
pub(super) fn answer(fields: &Fields) -> Value {
    let asked = fields.said_version().map_or_else(|| Version::NEWEST.to_string(), str::to_owned);
    json!({ "cniVersion": asked, "supportedVersions": Version::names() })
}

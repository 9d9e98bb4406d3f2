//! Chain ids: the name of a layer together with everything below it.

use std::fmt;
use std::str::FromStr;

use mica_archive::Digest;
use serde::{Deserialize, Serialize};

/// The name of a layer on top of certain others (OCI image specification, "Layer ChainID"). Two images that begin
/// with the same layers in the same order share those layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The layer with this DiffID on top of `parent`.
    pub fn new(parent: Option<&Self>, diff_id: &Digest) -> Self {
        match parent {
            None => Self(*diff_id),
            Some(Self(parent)) => Self(Digest::of(format!("{parent} {diff_id}").as_bytes())),
        }
    }

    /// The chain of each layer of an image, the base first.
    pub fn of_all(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            chain.push(Self::new(chain.last(), diff_id));
        }
        chain
    }

    /// The 64 hex digits, as they name the record.
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// The chain whose record has this name.
    pub fn from_hex(hex: &str) -> Option<Self> {
        Digest::from_str(&format!("sha256:{hex}")).ok().map(Self)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_the_digest_of_what_is_below_and_the_layer() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let chain = ChainId::of_all(&[a, b]);
        assert_eq!(chain[0].to_string(), a.to_string());
        assert_eq!(chain[1].to_string(), Digest::of(format!("{a} {b}").as_bytes()).to_string());
        assert_eq!(ChainId::from_hex(&chain[1].hex()), Some(chain[1]));
        assert_eq!(ChainId::from_hex("../../etc"), None);
    }
}

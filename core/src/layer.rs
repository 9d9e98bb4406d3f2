//! The name of a layer, and the chain of layers that a driver is handed.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of a layer inside one driver: 1 to 128 of `a-z 0-9 . _ -`, the first a letter or a digit.
///
/// The engine chooses it. It is safe as a file name and in a mount option, and it never names a parent directory,
/// so a driver may join it to its root without another look (a hostile id that walks out of the root was
/// CVE-2014-9358).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

impl LayerId {
    /// The longest id, in bytes.
    pub const MAX: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LayerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=Self::MAX).contains(&bytes.len())
            && plain(bytes[0])
            && bytes.iter().all(|&b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::Options(format!(
            "layer id '{}' must be 1 to {} of a-z, 0-9, '.', '_', '-' and begin with a letter or a digit",
            text.escape_debug(),
            Self::MAX
        )))
    }
}

impl TryFrom<String> for LayerId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for LayerId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// A layer together with everything it stands on.
///
/// The engine owns the graph and hands each call the whole chain, so that a driver keeps no database of parents.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// The layer that the call is about.
    pub id: &'a LayerId,
    /// Its parents, nearest first, all committed. Empty for a base layer.
    pub parents: &'a [LayerId],
}

impl<'a> Chain<'a> {
    /// The nearest parent.
    pub fn parent(&self) -> Option<&'a LayerId> {
        self.parents.first()
    }

    /// The chain of the nearest parent.
    pub fn below(&self) -> Option<Chain<'a>> {
        let (id, parents) = self.parents.split_first()?;
        Some(Chain { id, parents })
    }

    /// How many layers the chain has, this one included.
    pub fn depth(&self) -> usize {
        self.parents.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for good in ["a", "0", "ab-c_d.e", &"f".repeat(128)] {
            assert_eq!(good.parse::<LayerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "A", "a b", "a\n", "a:b", "a,b", "é", &"f".repeat(129)]
        {
            assert!(bad.parse::<LayerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hostile_id_is_refused_when_a_record_is_read() {
        let hostile = serde::de::value::StrDeserializer::<serde::de::value::Error>::new("../../etc");
        assert!(LayerId::deserialize(hostile).is_err());
    }

    #[test]
    fn the_chain_below_begins_with_the_parent() {
        let ids: Vec<LayerId> = ["c", "b", "a"].iter().map(|id| id.parse().unwrap()).collect();
        let chain = Chain { id: &ids[0], parents: &ids[1..] };
        assert_eq!((chain.depth(), chain.parent()), (3, Some(&ids[1])));
        let below = chain.below().unwrap();
        assert_eq!((below.id, below.parents), (&ids[1], &ids[2..]));
        assert!(below.below().unwrap().below().is_none());
    }
}

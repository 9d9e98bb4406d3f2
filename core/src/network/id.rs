//! The names by which networks, endpoints and engines are known, and the mark that they leave in the kernel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Declares an id: bytes that are written as lower-case hex digits.
macro_rules! hex_id {
    ($(#[doc = $doc:literal])+ $Id:ident, $bytes:literal, $what:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $Id([u8; $bytes]);

        impl $Id {
            /// The id of these bytes, which are random, or a digest of what tells this thing from all others.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl FromStr for $Id {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let mut bytes = [0; $bytes];
                from_hex(text, &mut bytes).ok_or_else(|| {
                    Error::Options(format!(
                        concat!($what, " id '{}' must be {} hexadecimal digits in lower case"),
                        text.escape_debug(),
                        2 * $bytes
                    ))
                })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $Id {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$Id> for String {
            fn from(id: $Id) -> Self {
                id.to_string()
            }
        }

        impl fmt::Display for $Id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $Id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Id), "({})"), self)
            }
        }
    };
}

hex_id!(
    /// The name of a network: 32 hexadecimal digits, the same for as long as its record lives.
    NetworkId,
    16,
    "network"
);
hex_id!(
    /// The name of an endpoint: 32 hexadecimal digits, new for each one that is made, and never used again. Names of
    /// kernel objects begin with its first digits, so those must be as random as the rest.
    EndpointId,
    16,
    "endpoint"
);
hex_id!(
    /// The name of an engine on this host, so of a data root: 16 hexadecimal digits. Two engines may share a kernel,
    /// and neither touches what bears the other's name.
    OwnerId,
    8,
    "owner"
);

fn from_hex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(())
}

/// What an object in the kernel is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All networks of the driver, such as a table of rules.
    Driver,
    /// This network.
    Network(NetworkId),
    /// This endpoint of this network.
    Endpoint(NetworkId, EndpointId),
}

/// What is written on a kernel object, so that its owner is known when every record is lost: the alias of a link, the
/// comment of a rule or of an element of a map.
///
/// As text it is `mica:OWNER`, `mica:OWNER:NETWORK` or `mica:OWNER:NETWORK:ENDPOINT`, of at most [`Mark::MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The engine.
    pub owner: OwnerId,
    /// What the object is part of.
    pub scope: Scope,
}

impl Mark {
    /// The longest mark, in bytes: it fits a link's alias (255) and an nftables comment (128).
    pub const MAX: usize = 87;
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mica:{}", self.owner)?;
        match self.scope {
            Scope::Driver => Ok(()),
            Scope::Network(network) => write!(f, ":{network}"),
            Scope::Endpoint(network, endpoint) => write!(f, ":{network}:{endpoint}"),
        }
    }
}

impl FromStr for Mark {
    type Err = Error;

    /// Fails with [`Error::Options`] for what is no mark: an object that somebody else made.
    fn from_str(text: &str) -> Result<Self> {
        let foreign = || Error::Options(format!("'{}' is no mark of an owner", text.escape_debug()));
        let parts: Vec<&str> = text.split(':').collect();
        let (owner, scope) = match parts[..] {
            ["mica", owner] => (owner, Scope::Driver),
            ["mica", owner, network] => (owner, Scope::Network(network.parse()?)),
            ["mica", owner, network, endpoint] => {
                (owner, Scope::Endpoint(network.parse()?, endpoint.parse()?))
            }
            _ => return Err(foreign()),
        };
        Ok(Self { owner: owner.parse()?, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([0xab; 16]);
    const ENDPOINT: EndpointId = EndpointId::from_bytes([0x0c; 16]);

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let text = "0c".repeat(16);
        assert_eq!(ENDPOINT.to_string(), text);
        assert_eq!(text.parse::<EndpointId>().unwrap(), ENDPOINT);
        assert_eq!(serde_json::to_string(&ENDPOINT).unwrap(), format!("\"{text}\""));
        assert_eq!(format!("{NETWORK:?}"), format!("NetworkId({})", "ab".repeat(16)));
    }

    #[test]
    fn what_is_no_id_is_refused_with_what_one_looks_like() {
        for bad in
            ["", "0", &"0C".repeat(16), &"0c".repeat(15), &"0c".repeat(17), "../etc/passwd", &"é".repeat(16)]
        {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad}");
        }
        let text = "x\n".parse::<NetworkId>().unwrap_err().to_string();
        assert_eq!(text, "network id 'x\\n' must be 32 hexadecimal digits in lower case");
        assert!(serde_json::from_str::<NetworkId>("\"../../etc\"").is_err());
    }

    #[test]
    fn a_mark_names_its_owner_and_fits_where_the_kernel_keeps_it() {
        let owner = OwnerId::from_bytes([1; 8]);
        let mark = |scope| Mark { owner, scope };
        let longest = mark(Scope::Endpoint(NETWORK, ENDPOINT));
        let text = longest.to_string();
        assert_eq!(text.len(), Mark::MAX);
        for mark in [longest, mark(Scope::Network(NETWORK)), mark(Scope::Driver)] {
            assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
        }
        for foreign in ["", "mica:", "mica:01", "docker0", &format!("{text}:x"), &text[1..], &text[..60]] {
            assert!(foreign.parse::<Mark>().is_err(), "{foreign}");
        }
    }
}

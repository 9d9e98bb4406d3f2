//! The names of interfaces, as the kernel takes them, and their hardware addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{EndpointId, NetworkId};
use crate::{Error, Result};

/// The name of a network interface: 1 to 15 bytes of visible ASCII without `/`, `:` and `%`.
///
/// The kernel takes no more than 15 (`IFNAMSIZ` counts the final NUL), no `/`, no `:` and no blank, and reads a `%`
/// as a pattern to fill in (`dev_valid_name`, `dev_alloc_name`). `all` and `default` are refused as well, because a
/// setting below `/proc/sys/net` that bears such a name is everybody's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The longest name, in bytes.
    pub const MAX: usize = 15;

    /// The name that an endpoint's object of this kind has: the prefix and the first 11 digits of the id, so that
    /// whoever knows the endpoint knows the name, and a person finds one from the other.
    ///
    /// 44 bits tell a million endpoints of one host apart but for a chance of three per cent, so the name alone
    /// proves nothing: what bears it is deleted only after its [`Mark`](super::Mark) was read.
    pub fn of_endpoint(prefix: Prefix, id: &EndpointId) -> Self {
        Self::derived(prefix, &id.to_string())
    }

    /// The name that a network's object of this kind has.
    pub fn of_network(prefix: Prefix, id: &NetworkId) -> Self {
        Self::derived(prefix, &id.to_string())
    }

    /// The name that an engine gives a container's interface by default: `eth0` for its first.
    pub fn inner(number: u16) -> Self {
        Self(format!("eth{number}"))
    }

    fn derived(Prefix(prefix): Prefix, digits: &str) -> Self {
        let prefix = prefix.iter().map(|&letter| char::from(letter));
        Self(prefix.chain(digits.chars()).take(Self::MAX).collect())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let name = text.escape_debug();
            Err(Error::Options(format!("'{name}' cannot be the name of an interface: {why}")))
        };
        let usable = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
        match text {
            "" => refuse("it is empty"),
            _ if text.len() > Self::MAX => refuse("the kernel takes 15 bytes at the most"),
            _ if !text.bytes().all(usable) => refuse("it holds a blank, a '/', a ':', a '%' or no ASCII"),
            "." | ".." | "all" | "default" => refuse("the kernel gives that word another meaning"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the derived names of a driver's interfaces begin with: four lower-case letters that say what the thing is.
///
/// It is meant for a constant, where anything else does not compile:
///
/// ```
/// use mica_core::network::{EndpointId, InterfaceName, Prefix};
///
/// const VETH: Prefix = Prefix::new(b"veth");
/// let id = EndpointId::from_bytes([0x5e; 16]);
/// assert_eq!(InterfaceName::of_endpoint(VETH, &id).as_str(), "veth5e5e5e5e5e5");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix([u8; 4]);

impl Prefix {
    /// The prefix of these letters.
    ///
    /// # Panics
    ///
    /// Where a byte is no lower-case letter; in a constant that is an error of the compiler.
    pub const fn new(letters: &[u8; 4]) -> Self {
        let [a, b, c, d] = *letters;
        assert!(
            a.is_ascii_lowercase()
                && b.is_ascii_lowercase()
                && c.is_ascii_lowercase()
                && d.is_ascii_lowercase(),
            "a prefix is four lower-case letters"
        );
        Self(*letters)
    }
}

/// The hardware address of one interface: neither a group's nor all zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address of these bytes. Fails with [`Error::Options`] for a group's address and for all zeros, which no
    /// interface can have.
    pub fn new(bytes: [u8; 6]) -> Result<Self> {
        let address = Self(bytes);
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(Error::Options(format!(
                "'{address}' cannot be the address of one interface; make its second digit even, as in 02:00:00:00:00:01"
            )));
        }
        Ok(address)
    }

    /// The address of an endpoint for which none is wished: a locally administered one of its id's bytes. It is the
    /// same whenever the endpoint is attached again, so neighbours need not learn it anew.
    pub fn of_endpoint(id: &EndpointId) -> Self {
        let [a, b, c, d, e, ..] = *id.as_bytes();
        Self([0x02, a, b, c, d, e])
    }

    /// The bytes, in the order in which they are sent.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let text = text.escape_debug();
            Error::Options(format!("'{text}' is no MAC address; write one as 02:42:ac:11:00:02"))
        };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() { Err(refuse()) } else { Self::new(bytes) }
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(address: Mac) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VETH: Prefix = Prefix::new(b"veth");

    #[test]
    fn the_kernels_rules_for_a_name_are_kept() {
        for good in ["eth0", "mica0", "a", "fifteen-bytes.x", "br_lan", "veth@x"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", "sixteen-bytes.xx", "a b", "a/b", "a:1", "veth%d", "a\n", "é", "all", "default"]
        {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
        let text = "a-name-that-is-long".parse::<InterfaceName>().unwrap_err().to_string();
        assert_eq!(
            text,
            "'a-name-that-is-long' cannot be the name of an interface: the kernel takes 15 bytes at the most"
        );
    }

    #[test]
    fn a_derived_name_fills_the_kernels_length_and_differs_with_the_id() {
        let id = |byte| EndpointId::from_bytes([byte; 16]);
        let name = InterfaceName::of_endpoint(VETH, &id(0xa1));
        assert_eq!(name.as_str(), "vetha1a1a1a1a1a");
        assert_eq!(name.as_str().len(), InterfaceName::MAX);
        assert_eq!(name.as_str().parse::<InterfaceName>().unwrap(), name);
        assert_ne!(name, InterfaceName::of_endpoint(VETH, &id(0xa2)));
        let network = NetworkId::from_bytes([0xa1; 16]);
        assert_eq!(InterfaceName::of_network(Prefix::new(b"mcbr"), &network).as_str(), "mcbra1a1a1a1a1a");
    }

    #[test]
    fn a_record_with_a_hostile_name_is_refused() {
        assert!(serde_json::from_str::<InterfaceName>("\"../../sys\"").is_err());
    }

    #[test]
    fn an_endpoints_own_address_is_local_and_stays_the_same() {
        let id = EndpointId::from_bytes([0xff; 16]);
        let address = Mac::of_endpoint(&id);
        assert_eq!(address.to_string(), "02:ff:ff:ff:ff:ff");
        assert_eq!(Mac::new(address.octets()).unwrap(), address);
    }

    #[test]
    fn a_hardware_address_is_read_as_people_write_it() {
        let address: Mac = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!("02-42-AC-11-00-02".parse::<Mac>().unwrap(), address);
        assert_eq!(serde_json::to_string(&address).unwrap(), "\"02:42:ac:11:00:02\"");
        assert_eq!(serde_json::from_str::<Mac>("\"02:42:ac:11:00:02\"").unwrap(), address);
        for bad in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "02:42:ac:11:00:+2",
            "zz:42:ac:11:00:02",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        for no_interfaces in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            let text = no_interfaces.parse::<Mac>().unwrap_err().to_string();
            assert!(text.contains("second digit even"), "{text}");
        }
    }
}

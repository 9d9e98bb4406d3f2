//! Addresses, the subnets that they come from, and the two families of both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One of the two families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many bits an address has: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// Either family, both, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Families {
    /// IPv4 is among them.
    pub v4: bool,
    /// IPv6 is among them.
    pub v6: bool,
}

impl Families {
    /// Neither.
    pub const NONE: Self = Self { v4: false, v6: false };

    /// Whether this family is among them.
    pub const fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A block of addresses, such as `172.30.0.0/24`: its first address, and how many leading bits all of them share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The block that begins at `first` and whose addresses share `prefix` bits. Fails with [`Error::Options`] where
    /// there is none.
    pub fn new(first: IpAddr, prefix: u8) -> Result<Self> {
        let inside = Address::new(first, prefix)?;
        let subnet = inside.subnet();
        if subnet.first != first {
            return Err(Error::Options(format!(
                "'{inside}' is an address inside a subnet; write '{subnet}'"
            )));
        }
        Ok(subnet)
    }

    /// The first address, which in IPv4 names the block and belongs to no host.
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The last address, which in IPv4 is the broadcast one.
    pub fn last(self) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | !mask4(self.prefix)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | !mask6(self.prefix)).into(),
        }
    }

    /// How many leading bits the addresses share.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The family of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.first)
    }

    /// Whether this address is one of the block's.
    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && (self.first..=self.last()).contains(&address)
    }

    /// Whether any address is in both blocks. One of them then holds the other.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// An address of this block, as an interface bears it. Fails with [`Error::Options`] for one from elsewhere.
    pub fn address(self, address: IpAddr) -> Result<Address> {
        if !self.contains(address) {
            return Err(Error::Options(format!(
                "address {address} is not in {self}; take one from {} to {}",
                self.first,
                self.last()
            )));
        }
        Address::new(address, self.prefix)
    }
}

/// An address as an interface bears it, such as `172.30.0.9/24`: with the length of the prefix that it shares with
/// those whom it reaches directly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    ip: IpAddr,
    prefix: u8,
}

impl Address {
    /// The address with its prefix. Fails with [`Error::Options`] for a prefix longer than the address.
    pub fn new(ip: IpAddr, prefix: u8) -> Result<Self> {
        let family = Family::of(ip);
        if prefix > family.bits() {
            let most = family.bits();
            return Err(Error::Options(format!(
                "'{ip}/{prefix}': a prefix of {family} has at most {most} bits"
            )));
        }
        Ok(Self { ip, prefix })
    }

    /// The address alone.
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// How many leading bits the subnet's addresses share.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The block that it is in.
    pub fn subnet(self) -> Subnet {
        let first = match self.ip {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & mask4(self.prefix)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & mask6(self.prefix)).into(),
        };
        Subnet { first, prefix: self.prefix }
    }
}

/// The leading `prefix` bits; a shift by all 32 is none in Rust, hence the check.
fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// Splits `ADDRESS/BITS`.
fn parse(text: &str, what: &str) -> Result<(IpAddr, u8)> {
    let parts = text.split_once('/').and_then(|(ip, prefix)| {
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        Some((ip.parse().ok()?, prefix.parse().ok().filter(|_| digits)?))
    });
    parts.ok_or_else(|| Error::Options(format!("'{}' is no {what}", text.escape_debug())))
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, prefix) = parse(text, "subnet; write one as 172.30.0.0/24 or fd00:30::/64")?;
        Self::new(first, prefix)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (ip, prefix) = parse(text, "address with a prefix; write one as 172.30.0.9/24 or fd00:30::9/64")?;
        Self::new(ip, prefix)
    }
}

macro_rules! as_text {
    ($($Type:ident $first:ident),*) => {$(
        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.$first, self.prefix)
            }
        }

        impl fmt::Debug for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Type), "({})"), self)
            }
        }

        impl TryFrom<String> for $Type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$Type> for String {
            fn from(value: $Type) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Subnet first, Address ip);

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_by_its_first_address() {
        for good in ["172.30.0.0/24", "0.0.0.0/0", "::/0", "10.0.0.1/32", "fd00:30::/64", "fd00::1/128"] {
            assert_eq!(subnet(good).to_string(), good);
            assert_eq!(serde_json::to_string(&subnet(good)).unwrap(), format!("\"{good}\""));
        }
        let text = "172.30.0.9/24".parse::<Subnet>().unwrap_err().to_string();
        assert_eq!(text, "'172.30.0.9/24' is an address inside a subnet; write '172.30.0.0/24'");
        for bad in [
            "",
            "/",
            "172.30.0.0",
            "172.30.0.0/",
            "172.30.0.0/33",
            "172.30.0.0/+8",
            "fd00::/129",
            "x/8",
            "1/8",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_knows_its_subnet() {
        let address: Address = "172.30.0.9/24".parse().unwrap();
        assert_eq!(address.subnet(), subnet("172.30.0.0/24"));
        assert_eq!(serde_json::from_str::<Address>("\"172.30.0.9/24\"").unwrap(), address);
        assert_eq!("fd00:30::9/0".parse::<Address>().unwrap().subnet(), subnet("::/0"));
    }

    #[test]
    fn a_subnet_gives_its_own_addresses_only() {
        let net = subnet("172.30.0.0/30");
        assert_eq!((net.first(), net.last()), ("172.30.0.0".parse().unwrap(), "172.30.0.3".parse().unwrap()));
        assert_eq!(net.address("172.30.0.2".parse().unwrap()).unwrap().to_string(), "172.30.0.2/30");
        let text = net.address("172.30.0.4".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            text,
            "address 172.30.0.4 is not in 172.30.0.0/30; take one from 172.30.0.0 to 172.30.0.3"
        );
        assert!(!subnet("::/0").contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn subnets_overlap_when_one_holds_the_other() {
        let all = subnet("0.0.0.0/0");
        for (one, other, overlap) in [
            ("172.30.0.0/24", "172.30.0.0/16", true),
            ("172.30.0.0/24", "172.30.1.0/24", false),
            ("fd00::/64", "fd00::1/128", true),
            ("fd00::/64", "fd00:0:0:1::/64", false),
        ] {
            assert_eq!(subnet(one).overlaps(subnet(other)), overlap, "{one} {other}");
            assert_eq!(subnet(other).overlaps(subnet(one)), overlap, "{other} {one}");
        }
        assert!(all.overlaps(subnet("10.0.0.0/8")) && !all.overlaps(subnet("::/0")));
    }
}

//! What a container sees by name: the containers of its networks, and through whom it sees the rest.

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType, rdata};
use mica_core::network::Subnet;

use crate::{HostName, Server};

/// All that a container's resolver tells it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The names of its networks.
    pub names: Names,
    /// Who is asked, from the host, for all other names, the first one first. Empty where no query may leave: where
    /// all networks of the container are internal.
    pub servers: Vec<Server>,
}

/// The names of containers, with their addresses.
#[derive(Clone, Debug, Default)]
pub struct Names {
    addresses: HashMap<Name, Vec<IpAddr>>,
    pointers: HashMap<IpAddr, Name>,
    subnets: Vec<Subnet>,
}

/// What there is to tell about a name.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// The name has these; none where it has nothing of what was asked for.
    Data(Vec<RData>),
    /// There is no such name, and nobody else knows better.
    NoSuchName,
}

impl Names {
    /// Adds a name of a container, or more addresses of one: several containers may share an alias. The first name
    /// that an address gets is the one that the address leads back to.
    pub fn insert(&mut self, name: &HostName, addresses: &[IpAddr]) {
        // A host name fits the lengths that this checks.
        let Ok(name) = Name::from_labels(name.as_str().split('.').map(str::as_bytes)) else { return };
        for &address in addresses {
            self.pointers.entry(address).or_insert_with(|| name.clone());
        }
        let known = self.addresses.entry(name).or_default();
        for address in addresses {
            if !known.contains(address) {
                known.push(*address);
            }
        }
    }

    /// Adds a subnet of the container's networks. What an address of it is called nobody else is asked.
    pub fn insert_subnet(&mut self, subnet: Subnet) {
        self.subnets.push(subnet);
    }

    /// What these names say; `None` where others must be asked.
    pub(crate) fn find(&self, query: &Query) -> Option<Found> {
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return None;
        }
        let mut name = query.name().clone();
        name.set_fqdn(true);
        if let Some(addresses) = self.addresses.get(&name) {
            let asked = |data: &RData| [RecordType::ANY, data.record_type()].contains(&query.query_type());
            return Some(Found::Data(addresses.iter().map(record).filter(asked).collect()));
        }
        let address = pointed_at(&name)?;
        match self.pointers.get(&address) {
            Some(pointer) if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) => {
                Some(Found::Data(vec![RData::PTR(rdata::PTR(pointer.clone()))]))
            }
            Some(_) => Some(Found::Data(Vec::new())),
            None => self.subnets.iter().any(|net| net.contains(address)).then_some(Found::NoSuchName),
        }
    }
}

fn record(address: &IpAddr) -> RData {
    match *address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for, where it names a whole one.
fn pointed_at(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        let name = |text: &str| text.parse::<HostName>().unwrap();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        names.insert(&name("Web"), &[at("172.30.0.2"), at("fd00::2")]);
        names.insert(&name("all"), &[at("172.30.0.2"), at("172.30.0.3")]);
        names.insert(&name("all"), &[at("172.30.0.3"), at("172.30.0.4")]);
        names.insert_subnet(Subnet::new(at("172.30.0.0"), 24).unwrap());
        names
    }

    fn find(name: &str, kind: RecordType) -> Option<String> {
        let found = names().find(&Query::query(Name::from_ascii(name).unwrap(), kind))?;
        Some(match found {
            Found::Data(data) => data.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Found::NoSuchName => "no such name".to_owned(),
        })
    }

    #[test]
    fn a_name_has_its_addresses_by_family_whatever_its_case() {
        assert_eq!(find("web.", RecordType::A).unwrap(), "172.30.0.2");
        assert_eq!(find("WEB.", RecordType::AAAA).unwrap(), "fd00::2");
        assert_eq!(find("web.", RecordType::ANY).unwrap(), "172.30.0.2 fd00::2");
    }

    #[test]
    fn a_name_that_is_known_is_never_asked_of_others() {
        assert_eq!(find("web.", RecordType::MX).unwrap(), "");
        assert_eq!(find("all.", RecordType::AAAA).unwrap(), "");
        assert_eq!(find("other.", RecordType::A), None);
        assert_eq!(find("web.example.org.", RecordType::A), None);
    }

    #[test]
    fn an_alias_that_containers_share_has_all_their_addresses() {
        assert_eq!(find("all.", RecordType::A).unwrap(), "172.30.0.2 172.30.0.3 172.30.0.4");
    }

    #[test]
    fn an_address_leads_back_to_its_first_name() {
        assert_eq!(find("2.0.30.172.in-addr.arpa.", RecordType::PTR).unwrap(), "Web.");
        let v6 = format!("2.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(find(&v6, RecordType::PTR).unwrap(), "Web.");
        assert_eq!(find("2.0.30.172.in-addr.arpa.", RecordType::A).unwrap(), "");
    }

    #[test]
    fn what_an_address_of_a_network_is_called_nobody_else_is_asked() {
        assert_eq!(find("9.0.30.172.in-addr.arpa.", RecordType::PTR).unwrap(), "no such name");
        assert_eq!(find("9.9.9.9.in-addr.arpa.", RecordType::PTR), None);
        assert_eq!(find("30.172.in-addr.arpa.", RecordType::PTR), None);
    }
}

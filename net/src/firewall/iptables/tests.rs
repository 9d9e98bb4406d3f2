//! Against the programs and the kernel, in namespaces that play the host.

use mica_core::network::{EndpointId, Mac, Subnet};

use super::*;
use crate::played;

const OWNER: OwnerId = OwnerId::from_bytes([0x0a; 8]);
const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);

fn ground() -> Ground {
    let subnet = |text: &str| text.parse::<Subnet>().unwrap();
    Ground {
        network: NETWORK,
        bridge: "mica0".parse().unwrap(),
        subnets: vec![subnet("172.30.1.0/24"), subnet("fd00:1::/64")],
        internal: false,
        masquerade: true,
        icc: true,
    }
}

fn endpoint(number: u8, ports: &[&str]) -> Guarded {
    let id = EndpointId::from_bytes([number; 16]);
    let port = |text: &&str| serde_json::from_str(&format!("\"{text}\"")).unwrap();
    Guarded {
        mark: Mark { owner: OWNER, scope: Scope::Endpoint(NETWORK, id) },
        interface: "lo".parse().unwrap(),
        mac: Mac::of_endpoint(&id),
        addresses: vec![
            format!("172.30.1.{number}").parse().unwrap(),
            format!("fd00:1::{number}").parse().unwrap(),
        ],
        ports: ports.iter().map(port).collect(),
        published: Families { v4: true, v6: true },
    }
}

/// A host, and this firewall on it. Both kinds of the programs keep the promises.
struct Bed {
    host: std::os::fd::OwnedFd,
    firewall: Iptables,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn both() -> [Self; 2] {
        [["iptables", "ip6tables"], ["iptables-legacy", "ip6tables-legacy"]].map(|[v4, v6]| {
            let dir = tempfile::tempdir().unwrap();
            let tools = vec![Tool::new(Family::V4, v4), Tool::new(Family::V6, v6)];
            let firewall = Iptables {
                owner: OWNER,
                lock: dir.path().join("lock"),
                tools,
                lacking: None,
                connections: Connections::default(),
            };
            Self { host: played::machine(), firewall, _dir: dir }
        })
    }

    fn on<T: Send>(&self, call: impl FnOnce(&Iptables) -> Result<T> + Send) -> Result<T> {
        played::on(&self.host, || call(&self.firewall))
    }

    /// Everything in the tables, as the programs print it.
    fn text(&self) -> String {
        let show = |firewall: &Iptables| {
            // One by one: of all at once only those are shown that were used.
            let tables =
                firewall.tools.iter().flat_map(|tool| Table::ALL.map(|table| tool.show(&[table]).unwrap()));
            let text = tables.collect::<Vec<_>>().concat();
            // Comments tell the time.
            Ok(text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect())
        };
        self.on(show).unwrap()
    }

    /// Commands for `iptables`, as the host's owner would give them.
    fn owner(&self, table: Table, commands: &[&str]) {
        self.on(|firewall| {
            let mut batch = tool::Batch::default();
            commands.iter().for_each(|command| batch.push(table, (*command).to_owned()));
            firewall.tools[0].restore(&batch)
        })
        .unwrap();
    }
}

#[test]
fn raising_twice_changes_nothing_and_lowering_leaves_nothing() {
    for bed in Bed::both() {
        let before = bed.text();
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        bed.on(|firewall| firewall.close(Families { v4: true, v6: true })).unwrap();
        let raised = bed.text();
        assert!(raised.contains("172.30.1.0/24") && raised.contains("fd00:1::/64"), "{raised}");
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        bed.on(|firewall| firewall.close(Families { v4: true, v6: true })).unwrap();
        assert_eq!(bed.text(), raised);
        assert_eq!(bed.on(|firewall| firewall.missing(&ground(), None)).unwrap(), [""; 0]);
        for _ in 0..2 {
            bed.on(|firewall| firewall.lower(NETWORK)).unwrap();
            bed.on(Firewall::clear).unwrap();
            assert_eq!(bed.text(), before);
            assert_eq!(bed.on(Firewall::list).unwrap(), []);
        }
    }
}

#[test]
fn closing_heeds_that_br_netfilter_came_and_does_not_bring_it() {
    let mark = endpoint(2, &[]).mark;
    assert!(!rules::close(mark, false).line().contains("physdev"));
    for bed in Bed::both() {
        let before = |firewall: &Iptables| {
            let mark = firewall.mark(Scope::Driver);
            let mut wanted = rules::shared(Family::V4, mark);
            wanted.push(rules::close(mark, false));
            let listing = firewall.tools[0].list(&Table::ALL, OWNER)?;
            firewall.tools[0].restore(&listing.difference(OWNER, &wanted, |_| false))
        };
        bed.on(before).unwrap();
        bed.on(|firewall| firewall.close(Families { v4: true, v6: false })).unwrap();
        let text = bed.text();
        let drops: Vec<_> = text.lines().filter(|line| line.contains(" close")).collect();
        assert!(matches!(drops[..], [one] if one.contains("--physdev-is-bridged")), "{drops:?}");
    }
}

#[test]
fn processes_that_raise_at_once_add_each_rule_once() {
    let [bed, alone] = Bed::both();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| bed.on(|firewall| firewall.raise(&ground())).unwrap());
        }
    });
    alone.on(|firewall| firewall.raise(&ground())).unwrap();
    let rules = |bed: &Bed| {
        let listed = bed.on(Firewall::list).unwrap();
        listed.into_iter().map(|owned| owned.object.replace("-legacy", "")).collect::<Vec<_>>()
    };
    assert_eq!(rules(&bed).len(), rules(&alone).len());
    assert_eq!(
        rules(&bed).into_iter().collect::<std::collections::BTreeSet<_>>(),
        rules(&alone).into_iter().collect()
    );
}

#[test]
fn ports_come_change_and_go_with_their_endpoint() {
    for bed in Bed::both() {
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        let raised = bed.text();
        let was =
            endpoint(2, &["8080:80/tcp", "127.0.0.1:3000-3099:5000-5099/udp", "[2001:db8::1]:7:7/sctp"]);
        bed.on(|firewall| firewall.lead(&ground(), None, &was)).unwrap();
        let led = bed.text();
        for part in ["172.30.1.2:80", "[fd00:1::2]:80", "172.30.1.2:5000-5099", "[fd00:1::2]:7", "sctp"] {
            assert!(led.contains(part), "{part} in {led}");
        }
        let now = endpoint(2, &["8080:80/tcp", "9090:90/tcp"]);
        bed.on(|firewall| firewall.lead(&ground(), Some(&was), &now)).unwrap();
        let changed = bed.text();
        assert!(changed.contains("--dport 9090") && !changed.contains("5000"), "{changed}");
        for _ in 0..2 {
            bed.on(|firewall| firewall.release(&now.mark, None)).unwrap();
            assert_eq!(bed.text(), raised);
        }
    }
}

#[test]
fn a_port_that_leads_elsewhere_is_refused_with_whose_it_is() {
    let [bed, _] = Bed::both();
    bed.on(|firewall| firewall.raise(&ground())).unwrap();
    let first = endpoint(2, &["8000-8099:8000-8099/tcp"]);
    bed.on(|firewall| firewall.lead(&ground(), None, &first)).unwrap();
    let text = bed.text();
    let refused = bed.on(|firewall| firewall.lead(&ground(), None, &endpoint(3, &["127.0.0.1:8042:80/tcp"])));
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    assert_eq!(bed.text(), text);
    bed.on(|firewall| firewall.lead(&ground(), None, &endpoint(3, &["8042:80/udp", "8100:80/tcp"]))).unwrap();
}

#[test]
fn another_engines_rules_stay() {
    let [bed, _] = Bed::both();
    let dir = tempfile::tempdir().unwrap();
    let owner = OwnerId::from_bytes([0x0b; 8]);
    let other = bed.on(|_| Iptables::open(owner, dir.path())).unwrap();
    bed.on(|_| other.raise(&ground())).unwrap();
    let text = bed.text();
    bed.on(|firewall| firewall.raise(&ground())).unwrap();
    bed.on(|firewall| firewall.lower(NETWORK)).unwrap();
    bed.on(Firewall::clear).unwrap();
    assert_eq!(bed.text(), text);
    assert_eq!(bed.on(|_| other.missing(&ground(), None)).unwrap(), [""; 0]);
}

#[test]
fn the_owners_own_rules_are_asked_first_and_kept() {
    for bed in Bed::both() {
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        bed.owner(Table::Filter, &["-A MICA-USER -s 10.1.2.3/32 -j DROP"]);
        bed.on(|firewall| firewall.lower(NETWORK)).unwrap();
        bed.on(Firewall::clear).unwrap();
        assert!(bed.text().contains("-A MICA-USER -s 10.1.2.3/32 -j DROP"));
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        let text = bed.text();
        let first =
            text.lines().find(|line| line.starts_with("-A FORWARD") && !line.ends_with("-drop")).unwrap();
        assert!(first.ends_with("-j MICA-USER"), "{first}");
    }
}

#[test]
fn a_chain_that_drops_everything_is_named_until_its_owner_opens_it() {
    for bed in Bed::both() {
        bed.owner(Table::Filter, &["-P FORWARD DROP"]);
        bed.on(|firewall| firewall.raise(&ground())).unwrap();
        assert_eq!(bed.on(|firewall| firewall.forbidden(&ground())).unwrap(), None);
        bed.owner(Table::Filter, &["-N strict", "-A strict -j REJECT", "-I FORWARD 2 -j strict"]);
        let text = bed.on(|firewall| firewall.forbidden(&ground())).unwrap().unwrap();
        assert!(text.starts_with("chain 'strict' of iptables"), "{text}");
        bed.owner(Table::Filter, &["-I MICA-USER -i mica0 -j ACCEPT", "-I MICA-USER -o mica0 -j ACCEPT"]);
        assert_eq!(bed.on(|firewall| firewall.forbidden(&ground())).unwrap(), None);
    }
}

#[test]
fn a_missing_rule_is_named_and_comes_back() {
    let [bed, _] = Bed::both();
    bed.on(|firewall| firewall.raise(&ground())).unwrap();
    let text = bed.text();
    bed.owner(Table::Mangle, &["-F mica-0a0a0a0a0a0a0a0a-drop"]);
    let missing = bed.on(|firewall| firewall.missing(&ground(), None)).unwrap();
    assert_eq!(missing, ["rule 'enter mica0' of iptables"]);
    bed.on(|firewall| firewall.raise(&ground())).unwrap();
    assert_eq!(bed.text(), text);
}

#[test]
fn a_filter_of_senders_is_missed_when_it_is_gone_or_anothers() {
    let [bed, _] = Bed::both();
    let (was, now) = (endpoint(2, &[]), endpoint(3, &[]));
    let missing = |endpoint| bed.on(|firewall| firewall.missing(&ground(), Some(endpoint))).unwrap();
    bed.on(|firewall| firewall.raise(&ground())).unwrap();
    assert_eq!(missing(&was), ["filter of senders on 'lo'"]);
    for _ in 0..2 {
        bed.on(|firewall| firewall.guard(&ground(), &was)).unwrap();
        assert_eq!(missing(&was), [""; 0]);
    }
    assert_eq!(missing(&now), ["filter of senders on 'lo'"]);
    bed.on(|firewall| firewall.publish(&ground(), &was, &now)).unwrap();
    assert_eq!(missing(&now), [""; 0]);
}

#[test]
fn a_name_that_a_rule_would_read_as_something_else_is_refused() {
    for bad in ["br+", "a\"b", "-i", "!x", "a;b", "$x", "a'b"] {
        let bridge = bad.parse().unwrap();
        let refused = rules::network(Family::V4, endpoint(2, &[]).mark, &Ground { bridge, ..ground() });
        assert!(matches!(refused, Err(Error::Options(_))), "{bad}");
    }
}

#[test]
fn a_failure_says_what_the_program_said() {
    let [bed, _] = Bed::both();
    let mut batch = tool::Batch::default();
    batch.push(Table::Filter, "-A no-such-chain -j DROP".to_owned());
    let text = bed.on(|firewall| firewall.tools[0].restore(&batch)).unwrap_err().to_string();
    assert!(text.starts_with("change rules with iptables-restore: "), "{text}");
}

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use mica_core::network::{EndpointId, InterfaceName, Mac};

use super::*;
use crate::played;

const OWNER: OwnerId = OwnerId::from_bytes([7; 8]);
const NETWORK: NetworkId = NetworkId::from_bytes([0xaa; 16]);

/// Does something on a new host with this engine's rules.
fn played(work: impl FnOnce(&Nft) + Send) {
    on(&played::machine(), work);
}

fn on(host: &OwnedFd, work: impl FnOnce(&Nft) + Send) {
    played::on(host, || {
        work(&Nft::open(OWNER)?);
        Ok(())
    })
    .unwrap();
}

fn ground() -> Ground {
    Ground {
        network: NETWORK,
        bridge: "mica0".parse().unwrap(),
        subnets: vec!["172.30.0.0/24".parse().unwrap(), "fd00:30::/64".parse().unwrap()],
        internal: false,
        masquerade: true,
        icc: true,
    }
}

fn guarded(number: u8, ports: &[&str]) -> Guarded {
    let endpoint = EndpointId::from_bytes([number; 16]);
    Guarded {
        mark: Mark { owner: OWNER, scope: Scope::Endpoint(NETWORK, endpoint) },
        interface: format!("micv{number}").parse::<InterfaceName>().unwrap(),
        mac: Mac::of_endpoint(&endpoint),
        addresses: vec![
            format!("172.30.0.{number}").parse().unwrap(),
            format!("fd00:30::{number}").parse().unwrap(),
        ],
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        published: Families { v4: true, v6: true },
    }
}

/// Runs `nft` in the namespace of the calling thread, as the owner of a host would.
fn nft(commands: &str) -> String {
    let mut nft = Command::new("nft");
    let mut child = nft
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("apt install nftables");
    io::Write::write_all(&mut child.stdin.take().unwrap(), commands.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "nft: {commands}");
    String::from_utf8(done.stdout).unwrap()
}

fn rules() -> String {
    nft("list ruleset")
}

fn missing(nft: &Nft, endpoint: &Guarded) -> Vec<String> {
    nft.missing(&ground(), Some(endpoint)).unwrap()
}

#[test]
fn opening_writes_nothing() {
    played(|_| assert_eq!(rules(), ""));
}

#[test]
fn what_is_raised_and_guarded_stands_and_goes_whole() {
    played(|firewall| {
        let endpoint = guarded(2, &["8080:80", "127.0.0.1:9090:90/udp", "[fd00::1]:3000-3009:4000-4009"]);
        firewall.raise(&ground()).unwrap();
        let bare = rules();
        firewall.guard(&ground(), &endpoint).unwrap();
        assert_eq!(missing(firewall, &endpoint), Vec::<String>::new());
        assert!(rules().contains("set bridges {\n\t\ttype ifname\n\t\telements = { \"mica0\" comment"));
        firewall.release(&endpoint.mark, Some((&ground(), &endpoint))).unwrap();
        firewall.release(&endpoint.mark, Some((&ground(), &endpoint))).unwrap();
        assert_eq!(rules(), bare);
        firewall.lower(NETWORK).unwrap();
        firewall.lower(NETWORK).unwrap();
        firewall.clear().unwrap();
        firewall.clear().unwrap();
        assert_eq!(rules(), "");
    });
}

#[test]
fn an_endpoint_is_found_by_its_mark_alone() {
    played(|firewall| {
        let (one, other) = (guarded(2, &["8080:80"]), guarded(3, &["8081:80"]));
        firewall.raise(&ground()).unwrap();
        firewall.guard(&ground(), &other).unwrap();
        let without = rules();
        firewall.guard(&ground(), &one).unwrap();
        firewall.release(&one.mark, None).unwrap();
        assert_eq!(rules(), without);
        assert_eq!(missing(firewall, &other), Vec::<String>::new());
    });
}

#[test]
fn raising_what_stands_changes_nothing() {
    played(|firewall| {
        firewall.raise(&ground()).unwrap();
        let generation = || {
            let mut nl = Netfilter::open().unwrap();
            let ask = ruleset::request(Layer::Inet, libc::NFT_MSG_GETGEN, Attributes::new());
            nl.get(&ask).unwrap().unwrap().attributes
        };
        let before = generation();
        firewall.raise(&ground()).unwrap();
        assert_eq!(generation(), before);
    });
}

#[test]
fn what_somebody_flushed_is_named_and_comes_back() {
    played(|firewall| {
        let endpoint = guarded(2, &["8080:80"]);
        firewall.raise(&ground()).unwrap();
        firewall.guard(&ground(), &endpoint).unwrap();
        let whole = rules();
        let table = ruleset::table(OWNER);
        for flush in [
            "flush ruleset".to_owned(),
            format!("delete table bridge {table}"),
            format!("flush chain inet {table} to_ours"),
            format!("flush set inet {table} bridges"),
            format!("flush map inet {table} from"),
            format!("flush map inet {table} published4"),
        ] {
            nft(&flush);
            assert!(!missing(firewall, &endpoint).is_empty(), "{flush}");
            firewall.raise(&ground()).unwrap();
            firewall.publish(&ground(), &endpoint, &endpoint).unwrap();
            assert_eq!(missing(firewall, &endpoint), Vec::<String>::new(), "{flush}");
            assert_eq!(sorted(&rules()), sorted(&whole), "{flush}");
        }
    });
}

/// The elements of a set are listed in no order.
fn sorted(rules: &str) -> Vec<&str> {
    let mut words: Vec<_> = rules.split([',', '\n', '{', '}']).map(str::trim).collect();
    words.sort_unstable();
    words
}

#[test]
fn the_chain_of_the_hosts_owner_survives_a_repair() {
    played(|firewall| {
        firewall.raise(&ground()).unwrap();
        let table = ruleset::table(OWNER);
        nft(&format!(
            "add rule inet {table} user meta l4proto tcp ct original proto-dst 8080 drop\nflush chain inet {table} from_ours"
        ));
        firewall.raise(&ground()).unwrap();
        assert!(rules().contains("ct original proto-dst 8080 drop"));
        assert!(firewall.missing(&ground(), None).unwrap().is_empty());
    });
}

#[test]
fn a_port_that_another_endpoint_has_is_refused_and_nothing_is_left() {
    played(|firewall| {
        firewall.raise(&ground()).unwrap();
        firewall.guard(&ground(), &guarded(2, &["8080:80"])).unwrap();
        let before = rules();
        let error = firewall.guard(&ground(), &guarded(3, &["8079:79", "8080:80"])).unwrap_err();
        let by = "02".repeat(16);
        assert_eq!(error.to_string(), format!("port 8080/tcp is in use by endpoint '{by}'"));
        assert!(matches!(error, Error::InUse { .. }));
        let (bare, more) = (guarded(3, &[]), guarded(3, &["8080:80"]));
        firewall.guard(&ground(), &bare).unwrap();
        let error = firewall.publish(&ground(), &bare, &more).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        firewall.release(&bare.mark, None).unwrap();
        assert_eq!(rules(), before);
    });
}

#[test]
fn ports_change_and_the_rest_stays() {
    played(|firewall| {
        firewall.raise(&ground()).unwrap();
        let (was, now) = (guarded(2, &["8080:80", "8081:81"]), guarded(2, &["8081:81", "8082:80"]));
        firewall.guard(&ground(), &was).unwrap();
        firewall.publish(&ground(), &was, &now).unwrap();
        assert_eq!(missing(firewall, &now), Vec::<String>::new());
        assert_eq!(missing(firewall, &was), ["port 8080/tcp"]);
    });
}

#[test]
fn a_range_of_ports_is_one_transaction() {
    played(|firewall| {
        let endpoint = guarded(2, &["20000-29999:20000-29999", "20000-29999:20000-29999/udp"]);
        firewall.raise(&ground()).unwrap();
        firewall.guard(&ground(), &endpoint).unwrap();
        let mut nl = Netfilter::open().unwrap();
        let count = |nl: &mut Netfilter| firewall.elements(nl, Set::Published(Family::V4)).unwrap().len();
        assert_eq!(count(&mut nl), 2 * 10_000);
        firewall.release(&endpoint.mark, None).unwrap();
        assert_eq!(count(&mut nl), 0);
    });
}

#[test]
fn everything_listed_bears_the_mark_and_another_engine_keeps_its_own() {
    played(|firewall| {
        let other = Nft::open(OwnerId::from_bytes([8; 8])).unwrap();
        let mut theirs = guarded(3, &["8081:80"]);
        theirs.mark.owner = other.owner;
        other.raise(&ground()).unwrap();
        other.guard(&ground(), &theirs).unwrap();
        let before = other.list().unwrap().len();
        assert_eq!(firewall.list().unwrap(), []);
        let endpoint = guarded(2, &["8080:80"]);
        firewall.raise(&ground()).unwrap();
        firewall.guard(&ground(), &endpoint).unwrap();
        let listed = firewall.list().unwrap();
        for scope in [Scope::Driver, Scope::Network(NETWORK), endpoint.mark.scope] {
            assert!(listed.iter().any(|owned| owned.scope == scope), "{scope:?}");
        }
        firewall.release(&theirs.mark, None).unwrap();
        firewall.lower(NETWORK).unwrap();
        firewall.clear().unwrap();
        assert_eq!(other.list().unwrap().len(), before);
    });
}

const DOCKER: &str = "
    table ip filter {
        chain DOCKER-USER {
        }
        chain FORWARD {
            type filter hook forward priority filter
            policy drop
            counter jump DOCKER-USER
            oifname docker0 ct state established accept
        }
    }";

#[test]
fn a_place_for_others_accepts_is_used_and_left_as_it_was() {
    played(|firewall| {
        nft(DOCKER);
        let before = rules();
        firewall.raise(&ground()).unwrap();
        assert_eq!(firewall.forbidden(&ground()).unwrap(), None);
        let opened = rules();
        assert!(opened.contains("iifname \"mica0\" accept") && opened.contains("oifname \"mica0\" accept"));
        firewall.raise(&ground()).unwrap();
        assert_eq!(rules(), opened);
        firewall.lower(NETWORK).unwrap();
        firewall.clear().unwrap();
        assert_eq!(rules(), before);
    });
}

/// Runs a program of the host's owner.
fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let done = Command::new(words.next().unwrap()).args(words).output().expect("apt install iptables");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn iptables_can_still_read_its_own_tables() {
    played(|firewall| {
        run("iptables-nft -P FORWARD DROP");
        run("iptables-nft -N DOCKER-USER");
        run("iptables-nft -A FORWARD -j DOCKER-USER");
        firewall.raise(&ground()).unwrap();
        assert_eq!(firewall.forbidden(&ground()).unwrap(), None);
        let rules = run("iptables-nft -S DOCKER-USER");
        for way in ["-i mica0", "-o mica0"] {
            let mark = Mark { owner: OWNER, scope: Scope::Network(NETWORK) };
            let rule = format!("-A DOCKER-USER {way} -m comment --comment \"{mark}\" -j ACCEPT");
            assert!(rules.contains(&rule), "{rules}");
        }
        firewall.lower(NETWORK).unwrap();
        assert_eq!(run("iptables-nft -S DOCKER-USER"), "-N DOCKER-USER\n");
    });
}

#[test]
fn a_policy_of_the_older_iptables_is_seen() {
    played(|firewall| {
        for tool in ["iptables-legacy", "ip6tables-legacy"] {
            run(&format!("{tool} -P FORWARD DROP"));
            firewall.raise(&ground()).unwrap();
            let text = firewall.forbidden(&ground()).unwrap().unwrap();
            assert!(text.contains(&format!("{tool} -I FORWARD -i mica0 -j ACCEPT")), "{text}");
            run(&format!("{tool} -N ours"));
            run(&format!("{tool} -A ours -i mica0 -m comment --comment ours -j ACCEPT"));
            run(&format!("{tool} -A ours -o mica1 -j ACCEPT"));
            run(&format!("{tool} -A ours -o mica0 -p tcp -j ACCEPT"));
            run(&format!("{tool} -A FORWARD -j ours"));
            assert!(firewall.forbidden(&ground()).unwrap().is_some());
            run(&format!("{tool} -A FORWARD -o mica+ -j ACCEPT"));
            assert_eq!(firewall.forbidden(&ground()).unwrap(), None);
        }
    });
}

#[test]
fn a_policy_that_cuts_a_network_off_is_named_with_what_opens_it() {
    played(|firewall| {
        nft("add table ip filter\n\
             add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }");
        firewall.raise(&ground()).unwrap();
        let text = firewall.forbidden(&ground()).unwrap().unwrap();
        assert_eq!(
            text,
            "chain 'FORWARD' of table 'ip filter' drops what is forwarded; what opens it: \
             iptables -I FORWARD -i mica0 -j ACCEPT; iptables -I FORWARD -o mica0 -j ACCEPT"
        );
        nft("add rule ip filter FORWARD iifname mica0 accept");
        assert!(firewall.forbidden(&ground()).unwrap().is_some());
        nft("add rule ip filter FORWARD oifname \"mica*\" accept");
        assert_eq!(firewall.forbidden(&ground()).unwrap(), None);
    });
}

#[test]
fn a_rule_at_the_end_that_rejects_the_rest_cuts_off_as_a_policy_does() {
    played(|firewall| {
        nft("add table inet firewalld\n\
             add chain inet firewalld last { type filter hook forward priority 10; }\n\
             add rule inet firewalld last ct state established accept\n\
             add rule inet firewalld last reject with icmpx type admin-prohibited");
        firewall.raise(&ground()).unwrap();
        let text = firewall.forbidden(&ground()).unwrap().unwrap();
        assert!(text.contains("nft insert rule inet firewalld last iifname mica0 accept"), "{text}");
    });
}

#[test]
fn closing_stands_once_and_is_mended() {
    played(|firewall| {
        firewall.raise(&ground()).unwrap();
        let both = Families { v4: true, v6: true };
        firewall.close(both).unwrap();
        let closed = rules();
        firewall.close(both).unwrap();
        assert_eq!(rules(), closed);
        nft("flush ruleset");
        firewall.raise(&ground()).unwrap();
        firewall.close(both).unwrap();
        assert_eq!(sorted(&rules()), sorted(&closed));
    });
}

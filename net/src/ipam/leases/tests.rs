use std::os::unix::process::ExitStatusExt;
use std::sync::{Barrier, Mutex};

use mica_core::network::{Families, Pool};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

fn pool(subnet: &str, gateway: &str) -> Pool {
    Pool { subnet: subnet.parse().unwrap(), gateway: Some(ip(gateway)), range: None, reserved: Vec::new() }
}

fn network(pools: Vec<Pool>) -> Network {
    Network {
        name: "web".to_owned(),
        pools,
        routes: Families::NONE,
        ..Network::unrecorded(NetworkId::from_bytes([9; 16]))
    }
}

/// Leases in a directory of their own, the network that they are of, and the endpoints that have a record.
struct Scene {
    _dir: TempDir,
    leases: Leases,
    network: Network,
    recorded: Mutex<BTreeSet<EndpointId>>,
    promised: BTreeSet<IpAddr>,
}

impl Scene {
    fn new(pools: Vec<Pool>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path()).unwrap();
        let network = network(pools);
        Self { _dir: dir, leases, network, recorded: Mutex::default(), promised: BTreeSet::new() }
    }

    fn small() -> Self {
        Self::new(vec![pool("10.0.0.0/29", "10.0.0.1")])
    }

    fn begin(&self, number: u8, wishes: &[&str]) -> Result<Lease> {
        let wishes: Vec<_> = wishes.iter().map(|wish| ip(wish)).collect();
        let wanted = Wanted {
            network: &self.network,
            endpoint: endpoint(number),
            wishes: &wishes,
            promised: &self.promised,
        };
        self.leases.take(&wanted, &|id| self.owner(id))
    }

    fn owner(&self, id: &EndpointId) -> Result<Option<String>> {
        let known = self.recorded.lock().unwrap().contains(id);
        Ok(known.then(|| format!("container '{}'", id.as_bytes()[0])))
    }

    /// A lease whose endpoint was recorded, as text.
    fn take(&self, number: u8, wishes: &[&str]) -> Result<Vec<String>> {
        let lease = self.begin(number, wishes)?;
        self.recorded.lock().unwrap().insert(endpoint(number));
        Ok(lease.addresses.iter().map(IpAddr::to_string).collect())
    }

    /// The whole end of an endpoint.
    fn end(&self, number: u8) {
        self.recorded.lock().unwrap().remove(&endpoint(number));
        self.leases.give_back(&self.network.id, &endpoint(number)).unwrap();
    }
}

#[test]
fn each_family_gets_an_address_and_a_wish_is_kept() {
    let scene = Scene::new(vec![pool("10.0.0.0/24", "10.0.0.1"), pool("fd00::/64", "fd00::1")]);
    assert_eq!(scene.take(1, &[]).unwrap(), ["10.0.0.2", "fd00::2"]);
    assert_eq!(scene.take(2, &["fd00::99"]).unwrap(), ["10.0.0.3", "fd00::99"]);
    assert_eq!(scene.take(3, &["10.0.0.9", "fd00::3"]).unwrap(), ["10.0.0.9", "fd00::3"]);
    assert_eq!(scene.take(4, &[]).unwrap(), ["10.0.0.4", "fd00::4"]);
    assert_eq!(scene.leases.held(&scene.network.id).unwrap()[&ip("fd00::99")], endpoint(2));
}

#[test]
fn an_address_that_was_given_back_comes_round_last() {
    let scene = Scene::small();
    assert_eq!(scene.take(1, &[]).unwrap(), ["10.0.0.2"]);
    scene.end(1);
    for (number, expected) in
        [(2, "10.0.0.3"), (3, "10.0.0.4"), (4, "10.0.0.5"), (5, "10.0.0.6"), (6, "10.0.0.2")]
    {
        assert_eq!(scene.take(number, &[]).unwrap(), [expected]);
    }
}

/// podman#25422: a container got the address that a stopped one was made with.
#[test]
fn a_promised_address_is_left_to_who_wishes_for_it() {
    let mut scene = Scene::small();
    scene.promised = BTreeSet::from([ip("10.0.0.2"), ip("10.0.0.4")]);
    assert_eq!(scene.take(1, &[]).unwrap(), ["10.0.0.3"]);
    assert_eq!(scene.take(2, &["10.0.0.2"]).unwrap(), ["10.0.0.2"]);
    assert_eq!(scene.take(3, &[]).unwrap(), ["10.0.0.5"]);
}

#[test]
fn a_range_bounds_what_is_chosen_and_not_what_is_wished_for() {
    let ranged = Pool { range: Some("10.0.0.4/31".parse().unwrap()), ..pool("10.0.0.0/24", "10.0.0.1") };
    let reserved = Pool { reserved: vec![ip("10.0.0.4"), ip("10.0.0.9")], ..ranged };
    let scene = Scene::new(vec![reserved]);
    assert_eq!(scene.take(1, &[]).unwrap(), ["10.0.0.5"]);
    assert_eq!(scene.take(2, &["10.0.0.77"]).unwrap(), ["10.0.0.77"]);
    let text = scene.take(3, &[]).unwrap_err().to_string();
    assert!(text.starts_with("network 'web' is full") && text.ends_with("held by container '1'"), "{text}");
    let text = scene.take(3, &["10.0.0.9"]).unwrap_err().to_string();
    assert_eq!(text, "address 10.0.0.9 of network 'web' is in use by a reservation");
}

#[test]
fn a_wish_that_cannot_be_kept_is_refused_with_the_reason_and_leases_nothing() {
    let scene = Scene::new(vec![pool("fd00::/64", "fd00::1"), pool("10.0.0.0/29", "10.0.0.1")]);
    scene.take(1, &["10.0.0.3"]).unwrap();
    let before = scene.leases.held(&scene.network.id).unwrap();
    for (wishes, part) in [
        (&["10.0.0.3"][..], "address 10.0.0.3 of network 'web' is in use by container '1'"),
        (&["10.0.0.1"], "in use by its gateway"),
        (&["10.0.0.0"], "cannot be a host's"),
        (&["10.0.0.7"], "cannot be a host's"),
        (&["10.0.1.9"], "take one from 10.0.0.0 to 10.0.0.7"),
        (&["10.0.0.4", "10.0.0.5"], "one of each family"),
    ] {
        let text = scene.take(2, wishes).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(scene.begin(1, &[]), Err(Error::AlreadyExists { .. })));
    assert_eq!(scene.leases.held(&scene.network.id).unwrap(), before);
    let alone = Scene::small();
    let text = alone.take(2, &["fd00::2"]).unwrap_err().to_string();
    assert_eq!(text, "address fd00::2: network 'web' has no IPv6");
}

#[test]
fn a_full_network_names_its_first_holders() {
    let scene = Scene::new(vec![pool("10.0.0.0/28", "10.0.0.1")]);
    for number in 1..=13 {
        scene.take(number, &[]).unwrap();
    }
    let error = scene.take(14, &[]).unwrap_err();
    assert!(matches!(error, Error::Full { .. }));
    let text = error.to_string();
    assert!(text.contains("container '1', container '2'") && text.ends_with("and 5 others"), "{text}");
}

/// podman#15708: after a crash a fixed address was refused for good.
#[test]
fn what_a_crash_left_is_given_back_when_it_is_in_the_way() {
    let scene = Scene::small();
    drop(scene.begin(1, &["10.0.0.3"]).unwrap());
    assert_eq!(scene.take(2, &["10.0.0.3"]).unwrap(), ["10.0.0.3"]);
    for number in 3..=6 {
        drop(scene.begin(number, &[]).unwrap());
    }
    assert_eq!(scene.take(7, &[]).unwrap().len(), 1, "four of five leases had no record");
    let unknown = scene.leases.sweep(&scene.network.id, &|id| scene.owner(id)).unwrap();
    assert!(unknown.is_empty(), "the full pool was swept already: {unknown:?}");
}

#[test]
fn a_lease_stands_without_a_record_while_its_command_is_at_work() {
    let scene = Scene::small();
    let lease = scene.begin(1, &["10.0.0.3"]).unwrap();
    let text = scene.take(2, &["10.0.0.3"]).unwrap_err().to_string();
    assert!(text.contains("which is being started"), "{text}");
    assert!(scene.leases.sweep(&scene.network.id, &|id| scene.owner(id)).unwrap().is_empty());
    drop(lease);
    let swept = scene.leases.sweep(&scene.network.id, &|id| scene.owner(id)).unwrap();
    assert_eq!(swept, BTreeSet::from([endpoint(1)]));
}

/// containernetworking/cni#204: leases of containers that ran before the reboot filled the network.
#[test]
fn no_lease_outlives_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::small();
    let of_boot = |boot| Leases::of_boot(dir.path(), boot).unwrap();
    let wanted =
        Wanted { network: &scene.network, endpoint: endpoint(1), wishes: &[], promised: &scene.promised };
    let first = of_boot("first");
    drop(first.take(&wanted, &|id| scene.owner(id)).unwrap());
    assert_eq!(of_boot("first").held(&scene.network.id).unwrap().len(), 1);
    // A power cut may have torn it.
    fs::write(first.table(&scene.network.id), b"\0\0\0").unwrap();
    assert!(matches!(of_boot("first").held(&scene.network.id), Err(Error::Corrupt { .. })));
    assert!(of_boot("second").held(&scene.network.id).unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_crash_at_any_step_leaves_leases_that_can_be_used() {
    const DIR: &str = "MICA_TEST_LEASES";
    let scene = Scene::small();
    if let Some(dir) = std::env::var_os(DIR) {
        let leases = Leases::open(Path::new(&dir)).unwrap();
        let _ = Scene { leases, ..scene }.begin(1, &["10.0.0.3"]);
        panic!("the failpoint was not reached");
    }
    // What a process that crashes made for itself goes with this.
    let theirs = tempfile::tempdir().unwrap();
    for point in ["ipam.lease.aside", "ipam.lease.written"] {
        let dir = tempfile::tempdir().unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::a_crash_at_any_step_leaves_leases_that_can_be_used")])
            .env(DIR, dir.path())
            .env("TMPDIR", theirs.path())
            .env(failpoint::VARIABLE, point)
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{point}");
        let after = Scene { leases: Leases::open(dir.path()).unwrap(), ..Scene::small() };
        assert_eq!(after.take(2, &["10.0.0.3"]).unwrap(), ["10.0.0.3"], "{point}");
    }
}

#[test]
fn a_removed_network_leaves_no_file() {
    let scene = Scene::small();
    scene.take(1, &[]).unwrap();
    scene.leases.forget(&scene.network.id).unwrap();
    scene.leases.forget(&scene.network.id).unwrap();
    scene.leases.give_back(&scene.network.id, &endpoint(1)).unwrap();
    assert!(!scene.leases.table(&scene.network.id).exists());
}

#[test]
fn no_two_of_many_at_once_get_the_same_address() {
    let scene = Scene::new(vec![pool("10.0.0.0/24", "10.0.0.1"), pool("fd00::/64", "fd00::1")]);
    let start = Barrier::new(16);
    let given: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (scene, start, given) = (&scene, &start, &given);
            scope.spawn(move || {
                start.wait();
                for turn in 0..8 {
                    let leased = scene.take(thread * 8 + turn, &[]).unwrap();
                    given.lock().unwrap().extend(leased);
                }
            });
        }
    });
    let given = given.into_inner().unwrap();
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 2 * 16 * 8);
    assert_eq!(scene.leases.held(&scene.network.id).unwrap().len(), given.len());
}

/// What can happen to a small network, of which the model is a list of addresses and a number.
#[derive(Clone, Debug)]
enum Step {
    Take {
        number: u8,
        wish: Option<u8>,
    },
    /// Taken, but its command dies before it writes the record.
    Die {
        number: u8,
    },
    End {
        number: u8,
    },
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..12, proptest::option::weighted(0.3, 0u8..16)).prop_map(|(number, wish)| Step::Take { number, wish }),
        1 => (0u8..12).prop_map(|number| Step::Die { number }),
        3 => (0u8..12).prop_map(|number| Step::End { number }),
        1 => Just(Step::Sweep),
    ]
}

/// The last byte of each address that somebody holds, and of the one that was chosen last.
#[derive(Default)]
struct Model {
    held: BTreeMap<u8, u8>,
    last: Option<u8>,
}

impl Model {
    /// 10.0.0.1 is the gateway, 10.0.0.5 reserved, 10.0.0.6 promised.
    const CHOSEN: [u8; 11] = [2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14];
    const NEVER: [u8; 4] = [0, 1, 5, 15];

    fn take(&mut self, number: u8, wish: Option<u8>, recorded: &BTreeSet<u8>) -> Option<u8> {
        if self.held.values().any(|&held| held == number) {
            return None;
        }
        let given = self.give(wish).or_else(|| {
            if wish.is_none_or(|wish| !Self::NEVER.contains(&wish)) {
                self.held.retain(|_, held| recorded.contains(held));
            }
            self.give(wish)
        })?;
        self.held.insert(given, number);
        if wish.is_none() {
            self.last = Some(given);
        }
        Some(given)
    }

    fn give(&self, wish: Option<u8>) -> Option<u8> {
        let free = |byte: &u8| !self.held.contains_key(byte);
        if let Some(wish) = wish {
            return Some(wish).filter(|wish| !Self::NEVER.contains(wish)).filter(free);
        }
        let last = self.last.unwrap_or(0);
        let (before, after): (Vec<u8>, Vec<u8>) = Self::CHOSEN.into_iter().partition(|&byte| byte <= last);
        after.into_iter().chain(before).find(free)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leases_agree_with_a_list_of_addresses(steps in proptest::collection::vec(step(), 1..60)) {
        let small = Pool { reserved: vec![ip("10.0.0.5")], ..pool("10.0.0.0/28", "10.0.0.1") };
        let mut scene = Scene::new(vec![small]);
        scene.promised = BTreeSet::from([ip("10.0.0.6")]);
        let (mut model, mut recorded) = (Model::default(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Take { number, wish } => {
                    let wishes = wish.map(|wish| format!("10.0.0.{wish}"));
                    let given = scene.take(number, wishes.as_deref().as_slice()).ok();
                    let expected = model.take(number, wish, &recorded);
                    prop_assert_eq!(given, expected.map(|byte| vec![format!("10.0.0.{byte}")]));
                    recorded.extend(expected.map(|_| number));
                }
                Step::Die { number } => {
                    let given = scene.begin(number, &[]).ok().map(|lease| lease.addresses);
                    let expected = model.take(number, None, &recorded);
                    prop_assert_eq!(given, expected.map(|byte| vec![ip(&format!("10.0.0.{byte}"))]));
                }
                Step::End { number } => {
                    scene.end(number);
                    recorded.remove(&number);
                    model.held.retain(|_, held| *held != number);
                }
                Step::Sweep => {
                    scene.leases.sweep(&scene.network.id, &|id| scene.owner(id)).unwrap();
                    model.held.retain(|_, held| recorded.contains(held));
                }
            }
            let held = scene.leases.held(&scene.network.id).unwrap();
            let held: BTreeMap<_, _> = held.into_iter().map(|(ip, id)| (ip.to_string(), id.as_bytes()[0])).collect();
            let expected = model.held.iter().map(|(byte, number)| (format!("10.0.0.{byte}"), *number)).collect();
            prop_assert_eq!(held, expected);
        }
    }
}

//! What containers know by name: each other, themselves, the host, and the rest of the world.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use mica_conformance::network::Namespace;

use crate::bed::{Answer, Bed, either_runtime, kill, once};

/// The address of every name that the host's resolver is asked for.
const ANYWHERE: &str = "192.0.2.7";

/// The resolver of the host, which has an answer to everything.
struct Resolver {
    socket: Arc<UdpSocket>,
    asked: Arc<Mutex<BTreeSet<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(at: &str) -> Self {
        let socket = Arc::new(UdpSocket::bind((at, 53)).unwrap());
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let (serving, told) = (socket.clone(), asked.clone());
        let thread = thread::spawn(move || {
            let mut query = [0; 512];
            loop {
                let (length, client) = serving.recv_from(&mut query).unwrap();
                if length == 0 {
                    return;
                }
                let (name, answer) = answer(&query[..length]);
                told.lock().unwrap().insert(name);
                // The client may be gone.
                let _ = serving.send_to(&answer, client);
            }
        });
        Self { socket, asked, thread: Some(thread) }
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().contains(name)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.socket.send_to(&[], self.socket.local_addr().unwrap()).unwrap();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// The name that is asked for, and an answer: one address in IPv4, none in IPv6.
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let mut labels = Vec::new();
    let mut rest = &query[12..];
    while let Some((length @ 1..=63, behind)) = rest.split_first() {
        let (label, behind) = behind.split_at(usize::from(*length));
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = behind;
    }
    let question = &query[12..query.len() - rest.len() + 5];
    let has_address = rest[2] == 1;
    let mut message = query[..2].to_vec();
    message.extend([0x81, 0x80, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    message.extend(question);
    if has_address {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        message.extend(ANYWHERE.parse::<Ipv4Addr>().unwrap().octets());
    }
    (labels.join("."), message)
}

/// Runs a command on a host with this `resolv.conf`.
fn with_resolv(bed: &Bed, resolv: &str, arguments: &[&str]) -> String {
    let file = bed.file("resolv.conf", resolv.as_bytes());
    let mica = bed.command(arguments);
    let script = format!("mount --bind '{file}' /etc/resolv.conf && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(mica.get_program()).args(mica.get_args());
    let answer = Answer::from(command.output().unwrap());
    assert_eq!(answer.status, Some(0), "{arguments:?}: {answer:?}");
    answer.out
}

/// Starts a container that stays.
fn start(bed: &Bed, name: &str, flags: &[&str]) {
    bed.ok(&[&["run", "-d", "--name", name], flags, &["busybox", "sleep", "1000"]].concat());
}

/// What a container's resolver says of a name: its addresses, or names; nothing where there is no such name.
fn lookup(bed: &Bed, container: &str, name: &str) -> BTreeSet<String> {
    let answer = bed.run(&["exec", container, "busybox", "nslookup", name]);
    let (_, said) = answer.out.split_once("\n\n").unwrap_or_else(|| panic!("{name}: {answer:?}"));
    let value = |line: &str| {
        let pointed = line.split_once("name = ").map(|(_, name)| name.to_owned());
        pointed.or_else(|| line.strip_prefix("Address: ").map(str::to_owned))
    };
    said.lines().filter_map(value).collect()
}

/// The addresses of a container that others see, in all of its networks.
fn addresses(bed: &Bed, container: &str) -> BTreeSet<String> {
    let shown = bed.ok(&["exec", container, "busybox", "ip", "-o", "addr", "show", "scope", "global"]);
    let address = |line: &str| Some(line.split_whitespace().nth(3)?.split_once('/')?.0.to_owned());
    shown.lines().filter_map(address).collect()
}

fn etc(bed: &Bed, container: &str, file: &str) -> String {
    bed.ok(&["exec", container, "cat", &format!("/etc/{file}")])
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

#[test]
fn containers_of_a_network_find_each_other_by_each_of_their_names() {
    either_runtime(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "db", &["--network", "shop", "--network-alias", "store", "--hostname", "tables"]);
        start(bed, "web", &["--network", "shop"]);
        let db = addresses(bed, "db");
        assert!(!db.is_empty());
        let id = bed.field("db", "{{.Id}}");
        for name in ["db", "DB", "store", "tables", &id[..12], "db.shop", "store.shop"] {
            assert_eq!(lookup(bed, "web", name), db, "{name}");
        }
        assert_eq!(lookup(bed, "db", "web"), addresses(bed, "web"));
        for address in &db {
            assert_eq!(lookup(bed, "web", address), BTreeSet::from(["db.shop".to_owned()]));
        }
        bed.ok(&["rm", "-f", "db"]);
        let gone = lookup(bed, "web", &db.first().unwrap().clone());
        assert_eq!((lookup(bed, "web", "web").len(), gone), (db.len(), none()));
    });
}

#[test]
fn an_alias_that_several_containers_share_leads_to_all_of_them() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        let flags = ["--network", "shop", "--network-alias", "worker"];
        ["one", "two"].iter().for_each(|name| start(bed, name, &flags));
        let both = &addresses(bed, "one") | &addresses(bed, "two");
        assert_eq!(lookup(bed, "one", "worker"), both);
    });
}

#[test]
fn a_container_has_no_names_of_networks_that_it_is_not_in() {
    once(|bed| {
        let _resolver = Resolver::start("127.0.0.53");
        bed.ok(&["network", "create", "--internal", "one"]);
        bed.ok(&["network", "create", "--internal", "two"]);
        start(bed, "a", &["--network", "one"]);
        start(bed, "b", &["--network", "two"]);
        assert_eq!(lookup(bed, "a", "b"), none());
        bed.ok(&["network", "connect", "--alias", "other", "one", "b"]);
        let there = addresses(bed, "b");
        let found = lookup(bed, "a", "b");
        assert!(!found.is_empty() && found.is_subset(&there) && found != there, "{found:?} of {there:?}");
        assert_eq!(lookup(bed, "a", "other"), found);
        assert_eq!(lookup(bed, "b", "a"), addresses(bed, "a"));
        bed.ok(&["network", "disconnect", "one", "b"]);
        assert_eq!((lookup(bed, "a", "b"), lookup(bed, "b", "a")), (none(), none()));
    });
}

#[test]
fn a_name_leads_to_where_its_container_was_started_again() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "web", &["--network", "shop"]);
        start(bed, "db", &["--network", "shop"]);
        let before = lookup(bed, "web", "db");
        bed.ok(&["kill", "db"]);
        bed.ok(&["wait", "db"]);
        assert_eq!(lookup(bed, "web", "db"), none());
        bed.ok(&["start", "db"]);
        let after = lookup(bed, "web", "db");
        assert_eq!(after, addresses(bed, "db"));
        assert!(after.is_disjoint(&before), "an address is handed out again as late as possible");
        assert_eq!(lookup(bed, "db", "web"), addresses(bed, "web"));
    });
}

#[test]
fn a_container_whose_supervisor_was_killed_is_found_by_nobody() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "web", &["--network", "shop"]);
        start(bed, "db", &["--network", "shop"]);
        assert_eq!(lookup(bed, "web", "db"), addresses(bed, "db"));
        kill(bed.supervisor("db"));
        // Whoever looks puts right what it left.
        assert_eq!(bed.field("db", "{{.State.Status}}"), "exited");
        assert_eq!(lookup(bed, "web", "db"), none());
        bed.ok(&["start", "db"]);
        assert_eq!(lookup(bed, "web", "db"), addresses(bed, "db"));
        assert_eq!(lookup(bed, "db", "web"), addresses(bed, "web"));
    });
}

#[test]
fn a_container_that_is_renamed_while_it_runs_is_found_by_its_new_name_alone() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        bed.ok(&["network", "create", "later"]);
        start(bed, "web", &["--network", "shop", "--network", "later"]);
        start(bed, "db", &["--network", "shop"]);
        bed.ok(&["rename", "db", "store"]);
        let shop = addresses(bed, "store");
        assert_eq!(lookup(bed, "web", "store"), shop);
        assert_eq!(lookup(bed, "web", shop.first().unwrap()), BTreeSet::from(["store.shop".to_owned()]));
        assert_eq!(lookup(bed, "web", "db.shop"), none());
        bed.ok(&["network", "connect", "later", "store"]);
        assert_eq!(lookup(bed, "web", "store"), addresses(bed, "store"));
        let refused = bed.fails(1, &["network", "rm", "shop"]);
        assert!(refused.contains("'store'") && !refused.contains("'db'"), "{refused}");
    });
}

/// CVE-2024-29018: a query that is passed on carries data out of a network that has no other way out.
#[test]
fn a_container_of_internal_networks_alone_asks_nobody_outside() {
    once(|bed| {
        let resolver = Resolver::start("127.0.0.53");
        let resolv = "nameserver 127.0.0.53\n";
        bed.ok(&["network", "create", "--internal", "inside"]);
        bed.ok(&["network", "create", "open"]);
        for network in ["inside", "open"] {
            let flags = ["run", "-d", "--name", network, "--network", network, "busybox", "sleep", "1000"];
            with_resolv(bed, resolv, &flags);
        }
        assert_eq!(lookup(bed, "open", "a.example.org"), BTreeSet::from([ANYWHERE.to_owned()]));
        assert!(resolver.was_asked("a.example.org"));
        assert_eq!(lookup(bed, "inside", "secret.example.org"), none());
        assert!(!resolver.was_asked("secret.example.org"));
        bed.ok(&["network", "connect", "open", "inside"]);
        assert_eq!(lookup(bed, "inside", "b.example.org"), BTreeSet::from([ANYWHERE.to_owned()]));
        bed.ok(&["network", "disconnect", "open", "inside"]);
        assert_eq!(lookup(bed, "inside", "secret.example.org"), none());
        assert!(!resolver.was_asked("secret.example.org"));
    });
}

#[test]
fn a_container_that_lost_its_way_out_asks_nobody_outside_even_where_records_are_damaged() {
    once(|bed| {
        let resolver = Resolver::start("127.0.0.53");
        bed.ok(&["network", "create", "--internal", "inside"]);
        bed.ok(&["network", "create", "open"]);
        let run = ["run", "-d", "--name", "web", "--network", "inside", "--network", "open"];
        with_resolv(bed, "nameserver 127.0.0.53\n", &[&run[..], &["busybox", "sleep", "1000"]].concat());
        assert_eq!(lookup(bed, "web", "a.example.org"), BTreeSet::from([ANYWHERE.to_owned()]));

        let id = bed.ok(&["network", "inspect", "-f", "{{.Id}}", "inside"]);
        let owner = fs::read_to_string(bed.root().join("owner")).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let run = Path::new("/run/mica").join(owner.trim()).join(boot.trim());
        let damaged = run.join("endpoints").join(id.trim()).join("x.json");
        fs::write(&damaged, "{").unwrap();
        let said = bed.fails(1, &["network", "disconnect", "open", "web"]);
        assert!(said.contains("x.json"), "{said}");
        assert_eq!(lookup(bed, "web", "secret.example.org"), none());
        assert!(!resolver.was_asked("secret.example.org"));

        fs::remove_file(damaged).unwrap();
        assert!(!lookup(bed, "web", "web").is_empty());
        assert_eq!(lookup(bed, "web", "secret.example.org"), none());
        assert!(!resolver.was_asked("secret.example.org"));
    });
}

#[test]
fn a_resolver_on_the_hosts_loopback_is_asked_and_never_copied_in() {
    once(|bed| {
        let _resolver = Resolver::start("127.0.0.53");
        let run = ["run", "-d", "--name", "web", "busybox", "sleep", "1000"];
        with_resolv(bed, "nameserver 127.0.0.53\nsearch example.org\n", &run);
        let resolv = etc(bed, "web", "resolv.conf");
        assert!(resolv.starts_with("nameserver 127.0.0.11\nsearch example.org\n"), "{resolv}");
        assert!(!resolv.contains("127.0.0.53"), "{resolv}");
        assert_eq!(lookup(bed, "web", "a.example.org"), BTreeSet::from([ANYWHERE.to_owned()]));
        bed.ok(&["rm", "-f", "web"]);
        // One that containers reach too is asked by them.
        with_resolv(bed, "nameserver 10.9.8.7\nnameserver 127.0.0.53\n", &run);
        assert_eq!(etc(bed, "web", "resolv.conf"), "nameserver 10.9.8.7\n");
    });
}

#[test]
fn a_host_that_changes_its_resolver_takes_its_containers_along() {
    once(|bed| {
        let (old, new) = (Resolver::start("127.0.0.53"), Resolver::start("127.0.0.54"));
        bed.ok(&["network", "create", "shop"]);
        let run = ["run", "-d", "--name", "web", "--network", "shop", "busybox", "sleep", "1000"];
        with_resolv(bed, "nameserver 127.0.0.53\n", &run);
        lookup(bed, "web", "a.example.org");
        assert!(old.was_asked("a.example.org") && !new.was_asked("a.example.org"));
        bed.file("resolv.conf", b"nameserver 127.0.0.54\n");
        lookup(bed, "web", "b.example.org");
        assert!(new.was_asked("b.example.org") && !old.was_asked("b.example.org"));
    });
}

#[test]
fn the_users_servers_domains_and_options_replace_the_hosts() {
    once(|bed| {
        let resolver = Resolver::start("127.0.0.54");
        bed.ok(&["network", "create", "shop"]);
        let wishes = ["--dns-search", "a.test", "--dns-option", "timeout:1"];
        let direct = [&["--dns", "10.9.8.7"], &wishes[..]].concat();
        let text = bed.sh(&direct, "cat /etc/resolv.conf");
        assert_eq!(text, "nameserver 10.9.8.7\nsearch a.test\noptions timeout:1\n");
        start(bed, "web", &[&["--network", "shop", "--dns", "127.0.0.54"], &wishes[..]].concat());
        let text = etc(bed, "web", "resolv.conf");
        assert_eq!(text, "nameserver 127.0.0.11\nsearch a.test\noptions timeout:1 ndots:0\n");
        assert_eq!(lookup(bed, "web", "b.example.org"), BTreeSet::from([ANYWHERE.to_owned()]));
        assert!(resolver.was_asked("b.example.org"));
    });
}

#[test]
fn the_host_is_reached_by_the_name_that_the_user_gave_it() {
    once(|bed| {
        let listener = TcpListener::bind("0.0.0.0:8099").unwrap();
        let hosts = ["--add-host", "host.internal:host-gateway", "--add-host", "db:10.1.2.3"];
        bed.ok(&["network", "create", "shop"]);
        let asked = thread::scope(|scope| {
            let server = scope.spawn(move || -> io::Result<()> {
                for _ in 0..2 {
                    let (mut client, _) = listener.accept()?;
                    // To close before the request has been read would be a reset.
                    let request = BufReader::new(&client).lines().map_while(Result::ok);
                    request.take_while(|line| !line.is_empty()).for_each(drop);
                    client.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe host\n")?;
                }
                Ok(())
            });
            let flags = [&["--network", "shop"], &hosts[..]].concat();
            let script = "busybox wget -qO - http://host.internal:8099/";
            let said = [bed.sh(&hosts, script), bed.sh(&flags, script)];
            server.join().unwrap().unwrap();
            said
        });
        assert_eq!(asked, ["the host\n", "the host\n"]);
        assert!(bed.sh(&hosts, "cat /etc/hosts").contains("\n10.1.2.3\tdb\n"));
        let refused = bed.run(&["run", "--rm", "--network", "none", hosts[0], hosts[1], "busybox", "true"]);
        assert_eq!(refused.status, Some(125), "{refused:?}");
        assert!(refused.err.contains("'host.internal' cannot be the host's gateway"), "{refused:?}");
    });
}

#[test]
fn a_container_may_have_port_53_and_keeps_its_resolver() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "web", &["--network", "shop"]);
        let pid = bed.field("web", "{{.State.Pid}}");
        let file = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let inside = Namespace::of(file.as_fd()).unwrap();
        drop(file);
        let bind = || Ok((UdpSocket::bind("0.0.0.0:53")?, TcpListener::bind("0.0.0.0:53")?));
        let held = inside.inside(bind).unwrap();
        assert_eq!(lookup(bed, "web", "web"), addresses(bed, "web"));
        drop((held, inside));
    });
}

#[test]
fn a_container_finds_itself_and_its_files_follow_its_networks() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "web", &["--hostname", "web.example.org"]);
        assert_eq!(etc(bed, "web", "hostname"), "web.example.org\n");
        let first = addresses(bed, "web");
        let known =
            |hosts: &str, address: &String| hosts.contains(&format!("\n{address}\tweb.example.org web\n"));
        let hosts = etc(bed, "web", "hosts");
        assert!(!first.is_empty() && first.iter().all(|address| known(&hosts, address)), "{hosts}");
        assert!(!etc(bed, "web", "resolv.conf").contains("127.0.0.11"));

        bed.ok(&["network", "connect", "shop", "web"]);
        let (hosts, both) = (etc(bed, "web", "hosts"), addresses(bed, "web"));
        assert!(both.len() > first.len() && both.iter().all(|address| known(&hosts, address)), "{hosts}");
        assert!(etc(bed, "web", "resolv.conf").starts_with("nameserver 127.0.0.11\n"));
        assert_eq!(lookup(bed, "web", "web"), &both - &first);

        bed.ok(&["network", "disconnect", "bridge", "web"]);
        let hosts = etc(bed, "web", "hosts");
        assert!(!first.iter().any(|address| known(&hosts, address)), "{hosts}");

        bed.ok(&["exec", "web", "sh", "-c", "echo 10.0.0.9 mine >> /etc/hosts"]);
        let edited = etc(bed, "web", "hosts");
        bed.ok(&["network", "connect", "bridge", "web"]);
        assert_eq!(etc(bed, "web", "hosts"), edited, "what the user wrote stays");
    });
}

#[test]
fn a_container_in_anothers_namespace_has_its_names() {
    once(|bed| {
        bed.ok(&["network", "create", "shop"]);
        start(bed, "web", &["--network", "shop"]);
        start(bed, "side", &["--network", "container:web"]);
        for file in ["hosts", "hostname", "resolv.conf"] {
            assert_eq!(etc(bed, "side", file), etc(bed, "web", file), "{file}");
        }
        assert_eq!(lookup(bed, "side", "web"), addresses(bed, "web"));
        bed.ok(&["exec", "side", "sh", "-c", "echo 10.0.0.9 mine >> /etc/hosts"]);
        assert!(etc(bed, "web", "hosts").ends_with("\n10.0.0.9 mine\n"));
    });
}

#[test]
fn a_container_without_a_network_of_its_own_has_the_hosts_files_or_its_own_name_alone() {
    once(|bed| {
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let flags = ["--network", "host", "--add-host", "db:10.1.2.3"];
        assert_eq!(bed.sh(&flags, "cat /etc/hosts"), format!("10.1.2.3\tdb\n{hosts}"));
        assert_eq!(bed.sh(&flags, "cat /etc/resolv.conf"), resolv);
        let flags = ["--network", "host", "--add-host", "here:host-gateway"];
        assert_eq!(bed.sh(&flags, "cat /etc/hosts"), format!("127.0.0.1\there\n{hosts}"));
        let flags = ["--network", "none", "--hostname", "web"];
        let text = bed.sh(&flags, "cat /etc/hosts");
        assert!(text.ends_with("\n127.0.1.1\tweb\n"), "{text}");
    });
}

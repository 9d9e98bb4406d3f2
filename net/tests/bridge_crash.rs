//! Something happens between two steps of a bridge's or an endpoint's making: the process dies, and another one
//! clears up after it; or a step fails, and the driver does so itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use libtest_mimic::{Arguments, Trial};
use mica_conformance::network::{Namespace, kernel};
use mica_core::network::{Endpoint, EndpointId, Families, Network, NetworkDriver, NetworkId, OwnerId, Pool};
use mica_core::{Error, OptionMap, failpoint};
use mica_net::BRIDGE;

/// The variables that tell the child where the driver's directory is, what it is set to, and into which container it
/// attaches.
const ROOT: &str = "MICA_CRASH_ROOT";
const FIREWALL: &str = "MICA_CRASH_FIREWALL";
const CONTAINER: &str = "MICA_CRASH_CONTAINER";

const POINTS: [&str; 6] = [
    "bridge.up.made",
    "bridge.up.raised",
    "host.noted",
    "bridge.attach.born",
    "bridge.attach.inside",
    "bridge.attach.guarded",
];

/// What the child ends with whose step failed, and who left nothing of it.
const CLEARED_UP: i32 = 3;

fn main() -> ExitCode {
    if let (Some(root), Ok(firewall)) = (std::env::var_os(ROOT), std::env::var(FIREWALL)) {
        let container = File::open(std::env::var_os(CONTAINER).unwrap()).unwrap();
        fail(&*open(root.as_ref(), &firewall).unwrap(), container.as_fd());
    }
    let mut trials = Vec::new();
    for firewall in ["nft", "iptables", "none"] {
        // Without a firewall nothing of the host is changed.
        for point in POINTS.into_iter().filter(|point| firewall != "none" || *point != "host.noted") {
            trials.push(Trial::test(format!("{firewall}-dies-at-{point}"), move || {
                under(firewall, |driver, root, container| dies(driver, root, firewall, point, container));
                Ok(())
            }));
            trials.push(Trial::test(format!("{firewall}-fails-at-{point}"), move || {
                under(firewall, |_, root, container| fails(root, firewall, point, container));
                Ok(())
            }));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Plays a host with this firewall, and a container.
fn under(firewall: &str, test: impl FnOnce(&dyn NetworkDriver, &Path, &Namespace) -> io::Result<()> + Send) {
    let (host, container) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let play = || {
        let dir = tempfile::tempdir()?;
        match open(dir.path(), firewall) {
            Err(Error::Unavailable { reason }) => eprintln!("skip: bridge_crash/{firewall}: {reason}"),
            driver => test(&*driver.unwrap(), dir.path(), &container)?,
        }
        Ok(())
    };
    host.inside(play).unwrap();
}

fn dies(
    driver: &dyn NetworkDriver,
    root: &Path,
    firewall: &str,
    point: &str,
    container: &Namespace,
) -> io::Result<()> {
    let before = (names()?, forwarding()?);
    let died = child(root, firewall, point, container)?;
    assert_eq!(died.signal(), Some(libc::SIGABRT), "the point was not reached: {died}");
    let left = driver.list().unwrap();
    assert!(left.iter().any(|owned| owned.object.starts_with("link")), "{left:?}");
    driver.detach(&network(), &endpoint(), None, None).unwrap();
    driver.down(&network()).unwrap();
    driver.restore().unwrap();
    assert_eq!(driver.list().unwrap(), []);
    assert_eq!((names()?, forwarding()?), before);
    connect(driver, container.as_fd()).unwrap();
    Ok(())
}

fn fails(root: &Path, firewall: &str, point: &str, container: &Namespace) -> io::Result<()> {
    let failed = child(root, firewall, &format!("{point}=error"), container)?;
    assert_eq!(failed.code(), Some(CLEARED_UP), "{failed}");
    Ok(())
}

/// Connects, as far as the failpoint lets it, and ends.
fn fail(driver: &dyn NetworkDriver, container: BorrowedFd<'_>) -> ! {
    let links = || names().unwrap();
    let before = links();
    let net = driver.plan(network()).unwrap();
    if driver.up(&net).is_err() {
        assert_eq!(links(), before);
    } else {
        let up = (links(), driver.list().unwrap().len());
        driver.attach(&net, &endpoint(), container).unwrap_err();
        assert_eq!((links(), driver.list().unwrap().len()), up);
    }
    std::process::exit(CLEARED_UP)
}

fn names() -> io::Result<Vec<String>> {
    Ok(kernel::links()?.into_iter().map(|link| link.name).collect())
}

/// Whether the host forwards, in both families.
fn forwarding() -> io::Result<[String; 2]> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}"));
    Ok([read("ipv4/ip_forward")?, read("ipv6/conf/all/forwarding")?])
}

fn child(root: &Path, firewall: &str, point: &str, container: &Namespace) -> io::Result<ExitStatus> {
    let descriptor = format!("/proc/{}/fd/{}", std::process::id(), container.as_fd().as_raw_fd());
    Command::new(std::env::current_exe()?)
        .env(ROOT, root)
        .env(FIREWALL, firewall)
        .env(CONTAINER, descriptor)
        .env(failpoint::VARIABLE, point)
        .stderr(Stdio::null())
        .status()
}

fn open(root: &Path, firewall: &str) -> mica_core::Result<Box<dyn NetworkDriver>> {
    let settings = OptionMap::from([("firewall".to_owned(), firewall.to_owned())]);
    (BRIDGE.open)(OwnerId::from_bytes([0xc4; 8]), root, &settings)
}

fn connect(driver: &dyn NetworkDriver, container: BorrowedFd<'_>) -> mica_core::Result<()> {
    let net = driver.plan(network())?;
    driver.up(&net)?;
    let ports = if driver.capabilities().ports.is_yes() { vec!["8080:80".parse()?] } else { Vec::new() };
    let attached = driver.attach(&net, &Endpoint { ports, ..endpoint() }, container)?;
    driver.check(&net, &Endpoint { ports: attached.ports.clone(), ..endpoint() }, &attached, container)
}

fn network() -> Network {
    let pool = |subnet: &str| Pool {
        subnet: subnet.parse().unwrap(),
        gateway: None,
        range: None,
        reserved: Vec::new(),
    };
    let pools = vec![pool("10.77.0.0/24"), pool("fd77::/64")];
    Network { pools, ..Network::unrecorded(NetworkId::from_bytes([0x77; 16])) }
}

fn endpoint() -> Endpoint {
    Endpoint {
        addresses: vec!["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()],
        gateway: Families { v4: true, v6: true },
        ..Endpoint::unrecorded(EndpointId::from_bytes([0x99; 16]))
    }
}

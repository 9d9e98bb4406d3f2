//! The process dies between two steps of a bridge's or an endpoint's making, and another one clears up after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};
use mica_conformance::network::{Namespace, kernel};
use mica_core::network::{Endpoint, EndpointId, Families, Network, NetworkDriver, NetworkId, OwnerId, Pool};
use mica_core::{Error, OptionMap, failpoint};
use mica_net::BRIDGE;

/// The variables that tell the child where the driver's directory is, what it is set to, and into which container it attaches.
const ROOT: &str = "MICA_CRASH_ROOT";
const FIREWALL: &str = "MICA_CRASH_FIREWALL";
const CONTAINER: &str = "MICA_CRASH_CONTAINER";

const POINTS: [&str; 5] = [
    "bridge.up.made",
    "bridge.up.raised",
    "bridge.attach.born",
    "bridge.attach.inside",
    "bridge.attach.guarded",
];

fn main() -> ExitCode {
    if let (Some(root), Ok(firewall)) = (std::env::var_os(ROOT), std::env::var(FIREWALL)) {
        let container = File::open(std::env::var_os(CONTAINER).unwrap()).unwrap();
        connect(&*open(root.as_ref(), &firewall).unwrap(), container.as_fd()).unwrap();
        return ExitCode::SUCCESS;
    }
    let trials = ["nft", "iptables", "none"].iter().flat_map(|firewall| {
        let trial = move |point| {
            Trial::test(format!("{firewall}-dies-at-{point}"), move || {
                survive(firewall, point);
                Ok(())
            })
        };
        POINTS.into_iter().map(trial)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn survive(firewall: &str, point: &str) {
    let (host, container) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let died = host.inside(|| {
        let dir = tempfile::tempdir()?;
        let driver = match open(dir.path(), firewall) {
            Err(Error::Unavailable { reason }) => {
                eprintln!("skip: {firewall}-dies-at-{point}: {reason}");
                return Ok(());
            }
            driver => driver.unwrap(),
        };
        let before = names()?;
        crash(dir.path(), firewall, point, &container)?;
        let left = driver.list().unwrap();
        assert!(!left.is_empty() && left.iter().any(|owned| owned.object.starts_with("link")), "{left:?}");
        driver.detach(&network(), &endpoint(), None, None).unwrap();
        driver.down(&network()).unwrap();
        driver.restore().unwrap();
        assert_eq!(driver.list().unwrap(), []);
        assert_eq!(names()?, before);
        connect(&*driver, container.as_fd()).unwrap();
        Ok(())
    });
    died.unwrap();
}

fn names() -> io::Result<Vec<String>> {
    Ok(kernel::links()?.into_iter().map(|link| link.name).collect())
}

fn crash(root: &Path, firewall: &str, point: &str, container: &Namespace) -> io::Result<()> {
    let descriptor = format!("/proc/{}/fd/{}", std::process::id(), container.as_fd().as_raw_fd());
    let died = Command::new(std::env::current_exe()?)
        .env(ROOT, root)
        .env(FIREWALL, firewall)
        .env(CONTAINER, PathBuf::from(descriptor))
        .env(failpoint::VARIABLE, point)
        .stderr(Stdio::null())
        .status()?;
    assert_eq!(died.signal(), Some(libc::SIGABRT), "the point was not reached: {died}");
    Ok(())
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

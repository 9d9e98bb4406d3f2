//! What the verbs need from the system: Debian packages and one cargo tool.

use crate::options::Options;
use crate::run::{cargo, command, is_root, output};
use crate::unpacked::{DOCKER, unpack};
use crate::{Result, run};
use std::process::ExitCode;
use std::time::Duration;

struct Package {
    name: &'static str,
    why: &'static str,
    demo: bool,
}

/// Everything beyond Rust, git and gcc, which were there when this was compiled.
const PACKAGES: &[Package] = &[
    Package { name: "busybox-static", why: "the root file system of test containers", demo: true },
    Package { name: "libclang-dev", why: "devmapper's build reads C headers with it", demo: true },
    Package { name: "libdevmapper-dev", why: "the headers of device mapper", demo: true },
    Package { name: "pkg-config", why: "finds those headers", demo: true },
    Package { name: "mmdebstrap", why: "makes the demo's Debian root file system", demo: true },
    Package { name: "runc", why: "the oracle that our runtime is compared with", demo: false },
    Package {
        name: "crun",
        why: "another OCI runtime behind --runtime, and what benchmarks compare with",
        demo: false,
    },
    Package { name: "skopeo", why: "reads what mica saves, and writes what it loads", demo: false },
    Package { name: "umoci", why: "unpacks OCI layouts that mica saves, and packs others", demo: false },
    Package { name: "libarchive-tools", why: "bsdtar, which writes ACLs in a form of its own", demo: false },
    Package { name: "e2fsprogs", why: "ext4 with project quota, and for devmapper's layers", demo: false },
    Package { name: "xfsprogs", why: "xfs with reflinks and quota, and for devmapper's layers", demo: false },
    Package { name: "thin-provisioning-tools", why: "thin_delta and thin_check", demo: false },
    Package { name: "fuse3", why: "mount.fuse, which mounts what fstab calls fuse.mica-aufs", demo: false },
    Package {
        name: "fuse-overlayfs",
        why: "another union by FUSE, which benchmarks compare with",
        demo: false,
    },
    Package {
        name: "containernetworking-plugins",
        why: "what else connects containers, which benchmarks compare with",
        demo: false,
    },
    Package { name: "netavark", why: "another one", demo: false },
    Package { name: "libacl1-dev", why: "the suite for POSIX is linked with it", demo: false },
    Package { name: "iproute2", why: "ip and ss, which lay out the networks of tests", demo: false },
    Package { name: "iptables", why: "the bridge's second firewall, in both of its kinds", demo: false },
    Package { name: "nftables", why: "nft, by which tests look at rules and break them", demo: false },
];

/// Those without which the driver devmapper cannot be built.
const HEADERS: [&str; 3] = ["libclang-dev", "libdevmapper-dev", "pkg-config"];

/// The version that `conformance/expected-skips.txt` and `.config/nextest.toml` were written for.
const NEXTEST: &str = "0.9.143";

/// For whom the system is made ready.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum For {
    Demo,
    Tests,
}

/// `cargo xtask setup`.
pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    let lacking = ensure(For::Tests, options.install)?;
    if lacking {
        return Ok(ExitCode::FAILURE);
    }
    println!("setup: everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing, or with `install` false says only what that is. Returns whether something still lacks.
pub(crate) fn ensure(whom: For, install: bool) -> Result<bool> {
    let missing = missing_packages(whom)?;
    for package in &missing {
        println!("setup: missing package {}: {}", package.name, package.why);
    }
    let nextest = whom == For::Demo || has_nextest();
    if !nextest {
        println!("setup: missing cargo-nextest: runs each test in a process of its own, with a time-out");
    }
    let docker = run::target_dir()?.join("docker");
    let has_docker = whom == For::Demo || docker.exists();
    if !has_docker {
        let packages = DOCKER.join(" and ");
        println!("setup: missing in {}, unpacked: {packages}: an old root to adopt", docker.display());
    }
    if !install {
        return Ok(!missing.is_empty() || !nextest || !has_docker);
    }
    if !missing.is_empty() {
        install_packages(&missing.iter().map(|package| package.name).collect::<Vec<_>>())?;
    }
    if !nextest {
        install_nextest()?;
    }
    if !has_docker {
        unpack(&DOCKER, &docker)?;
    }
    Ok(false)
}

/// What cargo is told beside, so that it builds what can be built here.
pub(crate) fn features() -> Result<&'static [&'static str]> {
    let missing = missing_packages(For::Demo)?;
    let lacking = missing.iter().any(|package| HEADERS.contains(&package.name));
    Ok(if lacking { &["--no-default-features"] } else { &[] })
}

fn missing_packages(whom: For) -> Result<Vec<&'static Package>> {
    let wanted: Vec<_> = PACKAGES.iter().filter(|package| whom == For::Tests || package.demo).collect();
    let names: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    let query = command("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"])
        .args(&names)
        .output();
    // The exit status is 1 when a package is unknown, with the known ones on stdout all the same.
    let Ok(query) = query else {
        return Err(format!("no dpkg-query: not a Debian system? the packages are: {}", names.join(" ")));
    };
    let installed = installed(&String::from_utf8_lossy(&query.stdout));
    Ok(wanted.into_iter().filter(|package| !installed.iter().any(|name| name == package.name)).collect())
}

/// The installed packages in dpkg-query's `NAME STATUS` lines.
fn installed(listing: &str) -> Vec<String> {
    let pairs = listing.lines().filter_map(|line| line.split_once(' '));
    pairs.filter(|(_, status)| *status == "installed").map(|(name, _)| name.to_owned()).collect()
}

fn install_packages(names: &[&str]) -> Result<()> {
    if !is_root() {
        return Err(format!(
            "not root: let root run `apt-get install {}`, or use --no-install",
            names.join(" ")
        ));
    }
    println!("setup: apt-get update and install {}", names.join(" "));
    let install = || -> Result<()> {
        apt(&["update"])?;
        apt(&[&["install", "--yes", "--no-install-recommends"], names].concat())
    };
    // Another apt may hold the lists' lock, for which there is no time-out option; and mirrors have bad moments.
    install().or_else(|error| {
        println!("setup: {error}; once more");
        std::thread::sleep(Duration::from_secs(10));
        install()
    })
}

fn apt(args: &[&str]) -> Result<()> {
    let mut apt = command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=400"]).args(args);
    let output = apt.output().map_err(|e| format!("cannot run apt-get: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("apt-get {} failed: {}", args[0], apt_error(&stderr)))
}

/// The first of apt's error lines; the later ones only follow from it.
fn apt_error(stderr: &str) -> &str {
    let told = stderr.lines().find_map(|line| line.strip_prefix("E: "));
    told.unwrap_or("no word on stderr; is the network there?")
}

fn has_nextest() -> bool {
    output(cargo().args(["nextest", "--version"])).is_ok()
}

fn install_nextest() -> Result<()> {
    println!("setup: cargo install cargo-nextest {NEXTEST} (some minutes)");
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", "cargo-nextest", "--version", NEXTEST]);
    if run::passes(&mut install)? {
        return Ok(());
    }
    Err("cargo-nextest could not be installed: see https://nexte.st for other ways".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_is_not_installed() {
        let listing = "runc installed\ncrun config-files\nacl not-installed\n";
        assert_eq!(installed(listing), ["runc"]);
    }

    #[test]
    fn apts_first_error_is_told() {
        let stderr = "W: old list\nE: Unable to locate package crun\nE: Unable to fetch some archives\n";
        assert_eq!(apt_error(stderr), "Unable to locate package crun");
    }

    #[test]
    fn every_package_says_why() {
        assert!(PACKAGES.iter().all(|package| !package.why.is_empty()));
    }
}

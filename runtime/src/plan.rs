//! A bundle, checked: everything that can be known to be wrong with it is said before a process exists.

mod mounts;
mod process;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxNamespaceType, Spec};

pub(crate) use mounts::{Attributes, Filesystem, Kind, MountPlan};
pub(crate) use process::{CapabilityPlan, ProcessPlan};

use crate::error::{Error, Result};

/// What is done to make a container, in the order of the fields.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) root: PathBuf,
    pub(crate) root_readonly: bool,
    /// `MS_*` for `/`, before anything is mounted and, if the bundle names one, for the new root afterwards.
    pub(crate) propagation: Option<Propagation>,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) devices: Vec<LinuxDevice>,
    pub(crate) masked: Vec<String>,
    pub(crate) readonly: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) process: ProcessPlan,
}

/// A propagation type, for one mount or for all below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    pub(crate) flag: u64,
    pub(crate) recursive: bool,
}

impl Propagation {
    /// The OCI names: `private`, `rslave`, ….
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (recursive, base) = match name.strip_prefix('r') {
            Some(base) => (true, base),
            None => (false, name),
        };
        let flag = match base {
            "private" => libc::MS_PRIVATE,
            "shared" => libc::MS_SHARED,
            "slave" => libc::MS_SLAVE,
            "unbindable" => libc::MS_UNBINDABLE,
            _ => return None,
        };
        Some(Self { flag, recursive })
    }
}

/// The namespaces to make, and those of others to join.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those that are made.
    pub(crate) new: libc::c_int,
    /// `CLONE_NEW*` and the file of those that are joined.
    pub(crate) join: Vec<(libc::c_int, PathBuf)>,
}

impl Namespaces {
    fn parse(linux: &Linux) -> Result<Self> {
        let mut namespaces = Self::default();
        for namespace in linux.namespaces().iter().flatten() {
            let flag = match namespace.typ() {
                LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
                LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
                LinuxNamespaceType::Network => libc::CLONE_NEWNET,
                LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
                LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
                LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
                other => return Err(unsupported(&format!("a {other} namespace"))),
            };
            if namespaces.covers(flag) {
                return Err(Error::spec(format!("namespace {} is listed twice", namespace.typ())));
            }
            match namespace.path() {
                None => namespaces.new |= flag,
                Some(_) if flag == libc::CLONE_NEWNS => {
                    return Err(unsupported("joining another container's mount namespace"));
                }
                Some(path) => namespaces.join.push((flag, path.clone())),
            }
        }
        if namespaces.new & libc::CLONE_NEWNS == 0 {
            return Err(Error::spec("the bundle has no mount namespace; a container needs one"));
        }
        Ok(namespaces)
    }

    /// Whether processes inside have another namespace of this type than their supervisor.
    pub(crate) fn covers(&self, flag: libc::c_int) -> bool {
        self.new & flag != 0 || self.join.iter().any(|(joined, _)| *joined == flag)
    }

    /// `CLONE_NEW*` of all that differ from the supervisor's.
    pub(crate) fn all(&self) -> libc::c_int {
        self.join.iter().fold(self.new, |flags, (flag, _)| flags | flag)
    }
}

impl Plan {
    /// Checks `spec`, whose relative root path is meant relative to `bundle`.
    pub(crate) fn new(spec: &Spec, bundle: &Path) -> Result<Self> {
        let missing = |part: &str| Error::spec(format!("the bundle has no {part:?} section"));
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
        refuse_unsupported(spec, linux)?;
        let namespaces = Namespaces::parse(linux)?;
        let need_uts = |name: &Option<String>, what| match name {
            Some(name) if !name.is_empty() && namespaces.new & libc::CLONE_NEWUTS == 0 => {
                Err(Error::spec(format!("{what} {name:?} needs a uts namespace of its own")))
            }
            name => Ok(name.clone().filter(|name| !name.is_empty())),
        };
        Ok(Self {
            hostname: need_uts(spec.hostname(), "hostname")?,
            domainname: need_uts(spec.domainname(), "domainname")?,
            root: bundle.join(root.path()),
            root_readonly: root.readonly().unwrap_or(false),
            propagation: rootfs_propagation(linux)?,
            mounts: spec.mounts().iter().flatten().map(MountPlan::new).collect::<Result<_>>()?,
            devices: linux.devices().clone().unwrap_or_default(),
            masked: linux.masked_paths().clone().unwrap_or_default(),
            readonly: linux.readonly_paths().clone().unwrap_or_default(),
            sysctls: sysctls(linux, &namespaces)?,
            process: ProcessPlan::new(process)?,
            namespaces,
        })
    }
}

fn rootfs_propagation(linux: &Linux) -> Result<Option<Propagation>> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(None),
        Some(name) => Propagation::parse(name)
            .map(Some)
            .ok_or_else(|| Error::spec(format!("unknown rootfs propagation {name:?}; rprivate is one"))),
    }
}

fn unsupported(what: &str) -> Error {
    Error::spec(format!("the built-in runtime does not do {what}; `--runtime runc` may"))
}

/// Parts of a bundle that would silently not happen.
fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<()> {
    let process = spec.process().as_ref();
    let text = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| *hooks != oci_spec::runtime::Hooks::default());
    let mappings = [linux.uid_mappings(), linux.gid_mappings()];
    let parts = [
        (hooks, "hooks"),
        (mappings.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty())), "id mappings"),
        (linux.intel_rdt().is_some(), "Intel RDT"),
        (linux.personality().is_some(), "personalities"),
        (linux.memory_policy().is_some(), "memory policies"),
        (linux.net_devices().as_ref().is_some_and(|list| !list.is_empty()), "moving network devices"),
        (linux.time_offsets().as_ref().is_some_and(|list| !list.is_empty()), "time offsets"),
        (text(linux.mount_label()), "SELinux labels"),
        (process.is_some_and(|process| text(process.selinux_label())), "SELinux labels"),
        (process.is_some_and(|process| text(process.apparmor_profile())), "AppArmor profiles"),
        (process.is_some_and(|process| process.scheduler().is_some()), "scheduler policies"),
        (process.is_some_and(|process| process.io_priority().is_some()), "I/O priorities"),
        (process.is_some_and(|process| process.exec_cpu_affinity().is_some()), "exec CPU affinity"),
    ];
    match parts.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(unsupported(what)),
        None => Ok(()),
    }
}

/// Only those that belong to a namespace of the container: any other would change the host.
fn sysctls(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<(String, String)>> {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let mut list = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let path = key.replace('.', "/");
        let ipc =
            path.starts_with("fs/mqueue/") || path.strip_prefix("kernel/").is_some_and(|k| IPC.contains(&k));
        let (flag, namespace) = match () {
            () if ipc => (libc::CLONE_NEWIPC, "ipc"),
            () if path.starts_with("net/") => (libc::CLONE_NEWNET, "net"),
            () if path == "kernel/domainname" => (libc::CLONE_NEWUTS, "uts"),
            () => {
                return Err(Error::spec(format!(
                    "sysctl {key} belongs to no namespace and would change the host"
                )));
            }
        };
        if !namespaces.covers(flag) {
            return Err(Error::spec(format!(
                "sysctl {key} needs a {namespace} namespace apart from the host's"
            )));
        }
        list.push((path, value.clone()));
    }
    Ok(list)
}

//! What a container is when nobody asks for anything else: Docker's defaults, as a bundle that any runtime
//! takes.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, Process, Root, Spec,
};

use crate::seccomp::{self, KernelVersion};

/// The capabilities of a process that is not privileged.
pub const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Files of the kernel that tell about the host, or are known to be dangerous; hidden.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Files of the kernel by which the host could be changed.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Type, target and options of each mount; the type is the source too.
const MOUNTS: [(&str, &str, &[&str]); 7] = [
    ("proc", "/proc", &["nosuid", "noexec", "nodev"]),
    ("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ("cgroup", "/sys/fs/cgroup", &["ro", "nosuid", "noexec", "nodev"]),
    ("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
    ("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
];

/// Docker's default container on this host, running `args` as root in `rootfs`.
///
/// Its namespaces are all its own (that of control groups only where [`has_own_cgroup_namespace`] says so),
/// its network has `lo` and nothing else, its seccomp filter is [`seccomp::default_profile`]. It has no
/// `cgroupsPath`, hostname or limit. Whoever takes the network namespace out takes the `net.` sysctls out
/// too.
#[must_use]
pub fn default_spec(rootfs: &Path, args: &[String]) -> Spec {
    let mut root = Root::default();
    root.set_path(rootfs.to_owned()).set_readonly(Some(false));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_hostname(None)
        .set_annotations(None)
        .set_root(Some(root))
        .set_process(Some(process(args)))
        .set_mounts(Some(MOUNTS.iter().map(|(kind, target, options)| mount(kind, target, options)).collect()))
        .set_linux(Some(linux()));
    spec
}

/// Whether a container has a cgroup namespace of its own by default: on a host with version 2 alone, as Docker does it.
#[must_use]
pub fn has_own_cgroup_namespace() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn process(args: &[String]) -> Process {
    let mut process = Process::default();
    process
        .set_args(Some(args.to_owned()))
        .set_env(Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]))
        .set_cwd(PathBuf::from("/"))
        .set_capabilities(Some(capabilities(CAPABILITIES.into_iter().collect())))
        .set_no_new_privileges(Some(false))
        .set_rlimits(None);
    process
}

/// `set` as what a process has and can ever get. Nothing is inheritable or ambient (CVE-2022-24769).
#[must_use]
pub fn capabilities(set: Capabilities) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_effective(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

fn mount(kind: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(kind)))
        .set_options(Some(options.iter().map(ToString::to_string).collect()));
    mount
}

fn linux() -> Linux {
    let mut namespaces = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Network,
    ];
    if has_own_cgroup_namespace() {
        namespaces.push(LinuxNamespaceType::Cgroup);
    }
    let namespace = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let mut deny = LinuxDeviceCgroup::default();
    deny.set_allow(false).set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![deny]));
    let sysctl =
        [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let text = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let bounding = CAPABILITIES.into_iter().collect();
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces.into_iter().map(namespace).collect()))
        .set_resources(Some(resources))
        .set_devices(None)
        .set_sysctl(Some(sysctl.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
        .set_masked_paths(Some(text(&MASKED_PATHS)))
        .set_readonly_paths(Some(text(&READONLY_PATHS)))
        .set_seccomp(Some(seccomp::default_profile(&bounding, kernel_version())));
    linux
}

/// Major and minor number of the running kernel; 0.0 if it does not say, for which nothing new is allowed.
fn kernel_version() -> KernelVersion {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (next(), next())
}

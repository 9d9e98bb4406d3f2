//! From a record to an OCI bundle: Docker's defaults, with what the container's settings say over them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use mica_runtime::{default_spec, defaults, seccomp};
use oci_spec::runtime::{
    BoxBuilder, Capabilities, Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, Spec, User,
};

use super::{CgroupNamespace, Container, NetworkMode, Seccomp, Settings, Ulimit, etc, set_variable};
use crate::{Error, Result};

/// What is known only once the root file system is mounted.
#[derive(Debug)]
pub(crate) struct Bundled<'a> {
    /// Where it is mounted.
    pub(crate) rootfs: &'a Path,
    /// Who the command runs as.
    pub(crate) user: User,
    /// The source of each mount of the settings, in their order.
    pub(crate) sources: Vec<PathBuf>,
    /// Rows and columns of the terminal, if the container has one.
    pub(crate) size: (u16, u16),
    /// The network namespace that was made for it, or is another container's.
    pub(crate) namespace: Option<PathBuf>,
    /// Where its own files of `/etc` are.
    pub(crate) etc: PathBuf,
    /// The most open files that its processes are to have, where this process had to raise its own limit.
    pub(crate) files: Option<u64>,
}

impl Container {
    /// The bundle of this container.
    pub(crate) fn spec(&self, bundled: &Bundled<'_>) -> Result<Spec> {
        let settings = &self.record.settings;
        let mut spec = default_spec(bundled.rootfs, &settings.args());
        let capabilities = capabilities(settings)?;
        if let Some(process) = spec.process_mut() {
            self.process(process, bundled, &capabilities)?;
        }
        if let Some(root) = spec.root_mut() {
            root.set_readonly(Some(settings.read_only));
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.extend(self.mounts(bundled));
        spec.set_mounts(Some(mounts)).set_hostname(Some(self.record.hostname()));
        if let Some(linux) = spec.linux_mut() {
            self.linux(linux, bundled, &capabilities);
        }
        Ok(spec)
    }

    fn process(&self, process: &mut Process, bundled: &Bundled<'_>, allowed: &Capabilities) -> Result<()> {
        let settings = &self.record.settings;
        process
            .set_env(Some(self.environment(process.env().as_deref().unwrap_or_default())))
            .set_cwd(PathBuf::from(settings.cwd.as_deref().unwrap_or("/")))
            .set_user(bundled.user.clone())
            .set_terminal(Some(settings.tty))
            .set_no_new_privileges(Some(settings.no_new_privileges))
            // The supervisor's own is lower, so that it outlives what it looks after.
            .set_oom_score_adj(Some(0))
            .set_capabilities(Some(process_capabilities(allowed, &bundled.user)))
            .set_rlimits(Some(self.rlimits(bundled.files)?));
        if settings.tty {
            process.set_console_size(Some(console_size(bundled.size)));
        }
        Ok(())
    }

    fn rlimits(&self, files: Option<u64>) -> Result<Vec<PosixRlimit>> {
        const FILES: &str = "nofile";
        let mut ulimits = self.record.settings.ulimits.clone();
        let is_said = ulimits.iter().any(|limit| limit.name.eq_ignore_ascii_case(FILES));
        if let Some(soft) = files.filter(|_| !is_said) {
            let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
            let (soft, hard) = (soft.cast_signed(), hard.map_or(-1, u64::cast_signed));
            ulimits.push(Ulimit { name: FILES.to_owned(), soft, hard });
        }
        ulimits.iter().map(rlimit).collect()
    }

    fn environment(&self, defaults: &[String]) -> Vec<String> {
        let settings = &self.record.settings;
        let mut env = defaults.to_vec();
        set_variable(&mut env, &format!("HOSTNAME={}", self.record.hostname()));
        if settings.tty {
            set_variable(&mut env, "TERM=xterm");
        }
        settings.env.iter().for_each(|entry| set_variable(&mut env, entry));
        env
    }

    fn mounts(&self, bundled: &Bundled<'_>) -> Vec<Mount> {
        let settings = &self.record.settings;
        let own = etc::NAMES.map(|name| bind(&bundled.etc.join(name), &format!("/etc/{name}"), false));
        let memory = settings.tmpfs.iter().map(|(target, options)| tmpfs(target, options));
        let given = settings.mounts.iter().zip(&bundled.sources);
        let given = given.map(|(mount, source)| bind(source, &mount.target, mount.read_only));
        let mut mounts: Vec<Mount> = own.into_iter().chain(memory).chain(given).collect();
        // What is mounted at /a must not cover what is mounted at /a/b.
        mounts.sort_by_key(|mount| mount.destination().components().count());
        mounts
    }

    fn linux(&self, linux: &mut Linux, bundled: &Bundled<'_>, capabilities: &Capabilities) {
        let settings = &self.record.settings;
        linux.set_cgroups_path(Some(self.record.cgroup()));
        if settings.networking.mode == NetworkMode::Host {
            share(linux, LinuxNamespaceType::Network);
        }
        if let Some(path) = &bundled.namespace {
            join(linux, LinuxNamespaceType::Network, path);
        }
        if let NetworkMode::Host | NetworkMode::Container(_) = settings.networking.mode {
            // They would change what is not the container's own.
            linux.set_sysctl(None);
        }
        match settings.cgroup_namespace {
            Some(CgroupNamespace::Host) => share(linux, LinuxNamespaceType::Cgroup),
            Some(CgroupNamespace::Private) => own(linux, LinuxNamespaceType::Cgroup),
            None => {}
        }
        match &settings.seccomp {
            Seccomp::Default if !(settings.cap_add.is_empty() && settings.cap_drop.is_empty()) => {
                linux.set_seccomp(Some(seccomp::default_profile(capabilities, kernel_version())));
            }
            Seccomp::Default => {}
            Seccomp::Unconfined => drop(linux.set_seccomp(None)),
            Seccomp::Profile(profile) => drop(linux.set_seccomp(Some((**profile).clone()))),
        }
        let mut resources = linux.resources().clone().unwrap_or_default();
        limit(&mut resources, settings);
        linux.set_resources(Some(resources));
    }
}

/// Leaves the container the host's namespace of this type.
fn share(linux: &mut Linux, kind: LinuxNamespaceType) {
    if let Some(namespaces) = linux.namespaces_mut() {
        namespaces.retain(|namespace| namespace.typ() != kind);
    }
}

/// Gives the container a namespace of this type.
fn own(linux: &mut Linux, kind: LinuxNamespaceType) {
    share(linux, kind);
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    linux.namespaces_mut().get_or_insert_default().push(namespace);
}

/// Has the container join a namespace of this type that is there.
fn join(linux: &mut Linux, kind: LinuxNamespaceType, path: &Path) {
    own(linux, kind);
    let namespaces = linux.namespaces_mut().iter_mut().flatten();
    namespaces.filter(|namespace| namespace.typ() == kind).for_each(|namespace| {
        namespace.set_path(Some(path.to_owned()));
    });
}

/// Rows and columns as a bundle says them.
pub(crate) fn console_size((rows, columns): (u16, u16)) -> oci_spec::runtime::Box {
    // Nothing of it can be missing.
    BoxBuilder::default().height(rows).width(columns).build().unwrap_or_default()
}

fn limit(resources: &mut LinuxResources, settings: &Settings) {
    if let Some(bytes) = settings.memory {
        let mut memory = LinuxMemory::default();
        // As much swap again, as Docker gives.
        memory.set_limit(Some(bytes)).set_swap(Some(bytes.saturating_mul(2)));
        resources.set_memory(Some(memory));
    }
    if let Some(nano_cpus) = settings.nano_cpus {
        const PERIOD: i64 = 100_000;
        let mut cpu = LinuxCpu::default();
        cpu.set_period(Some(PERIOD.cast_unsigned())).set_quota(Some(nano_cpus / (1_000_000_000 / PERIOD)));
        resources.set_cpu(Some(cpu));
    }
    if let Some(most) = settings.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(most);
        resources.set_pids(Some(pids));
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    let mode = if read_only { "rro" } else { "rw" };
    mount("bind", source, target, ["rbind", "rprivate", mode].map(str::to_owned).into())
}

fn tmpfs(target: &str, options: &str) -> Mount {
    let mut words: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
    words.extend(options.split(',').filter(|word| !word.is_empty()).map(str::to_owned));
    mount("tmpfs", Path::new("tmpfs"), target, words)
}

fn mount(kind: &str, source: &Path, target: &str, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

/// The capabilities that a container's processes may ever have.
fn capabilities(settings: &Settings) -> Result<Capabilities> {
    let mut set: Capabilities = defaults::CAPABILITIES.into_iter().collect();
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    if settings.cap_add.iter().any(is_all) {
        set = every_capability();
    }
    if settings.cap_drop.iter().any(is_all) {
        set.clear();
    }
    let named = |list: &[String]| -> Result<Vec<Capability>> {
        list.iter().filter(|name| !is_all(name)).map(|name| capability(name)).collect()
    };
    set.extend(named(&settings.cap_add)?);
    for dropped in named(&settings.cap_drop)? {
        set.remove(&dropped);
    }
    Ok(set)
}

/// A user that is not root begins with none of the allowed ones, as execve(2) has it.
pub(crate) fn process_capabilities(allowed: &Capabilities, user: &User) -> LinuxCapabilities {
    let mut sets = defaults::capabilities(allowed.clone());
    if user.uid() != 0 {
        sets.set_permitted(None).set_effective(None);
    }
    sets
}

/// `NET_ADMIN`, with or without `CAP_`, in any case.
pub(crate) fn capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(plain)
        .map_err(|_| Error::Invalid(format!("unknown capability '{name}'; one is NET_ADMIN, and ALL is all")))
}

/// All that this kernel knows.
fn every_capability() -> Capabilities {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    let last: u32 = last.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(40);
    let names = rustix::thread::CapabilitySet::all();
    let known = names.iter_names().filter(|(_, bit)| bit.bits().trailing_zeros() <= last);
    known.filter_map(|(name, _)| Capability::from_str(name).ok()).collect()
}

/// The limits that a container can set, by their names in `--ulimit`.
pub(crate) fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    let kind = PosixRlimitType::from_str(&format!("RLIMIT_{}", limit.name.to_ascii_uppercase())).map_err(|_| {
        Error::Invalid(format!(
            "unknown ulimit '{}'; those that exist are core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, \
             rss, rtprio, rttime, sigpending, stack",
            limit.name
        ))
    })?;
    // -1 is no limit, for the kernel the largest number.
    let (soft, hard) = (limit.soft.cast_unsigned(), limit.hard.cast_unsigned());
    let built = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
    built.map_err(|e| Error::Invalid(e.to_string()))
}

fn kernel_version() -> seccomp::KernelVersion {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str]) -> usize {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let settings = Settings { cap_add: list(add), cap_drop: list(drop), ..Settings::default() };
        capabilities(&settings).unwrap().len()
    }

    #[test]
    fn capabilities_are_added_to_and_taken_from_the_default_ones() {
        assert_eq!(names(&[], &[]), 14);
        assert_eq!(names(&["CAP_NET_ADMIN", "chown"], &[]), 15);
        assert_eq!(names(&[], &["all"]), 0);
        assert_eq!(names(&["NET_ADMIN"], &["ALL"]), 1);
        assert!(names(&["ALL"], &[]) > 35);
        assert!(capability("CAP_NONSENSE").unwrap_err().to_string().contains("'CAP_NONSENSE'"));
    }

    #[test]
    fn no_ulimit_is_the_kernels_infinity() {
        let limit = Ulimit { name: "nofile".into(), soft: -1, hard: -1 };
        assert_eq!(rlimit(&limit).unwrap().soft(), u64::MAX);
        assert!(rlimit(&Ulimit { name: "files".into(), soft: 1, hard: 1 }).is_err());
    }
}

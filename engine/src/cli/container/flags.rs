//! The flags that say how a container runs.

use std::env::VarError;
use std::path::{Path, PathBuf};

use clap::Args;
use mica_core::ByteSize;

use super::network_flags::NetworkFlags;
use crate::container::{
    CgroupNamespace, LogLimits, MountPoint, Seccomp, Settings, Source, Ulimit, set_variable, signal,
};
use crate::{Error, Result};

/// The image, and the command in it.
#[derive(Debug, Args)]
pub(super) struct ImageAndCommand {
    /// The image, by name or id
    pub(super) image: String,
    /// The command, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// How a container runs.
#[derive(Debug, Args)]
pub(super) struct SettingsFlags {
    /// Call the container so
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Keep its standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub(super) rm: bool,
    /// Set a variable; a name alone takes this command's value
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Set the variables that a file lists, one in a line
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// Show a directory of the host, or a volume, at a place of the container
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    volumes: Vec<String>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Start the command in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run the command as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Begin the command with this program, in place of the image's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Its hostname
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    #[command(flatten)]
    pub(super) network: NetworkFlags,
    /// What it sees of control groups: 'private' or 'host' [default: 'private' with cgroup v2 alone, else 'host']
    #[arg(long, value_name = "NAMESPACE")]
    cgroupns: Option<String>,
    /// Run it with this OCI runtime [default: that of 'mica --runtime', else the built-in one]
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<String>,
    /// Let nothing be written to its root file system
    #[arg(long)]
    read_only: bool,
    /// Give it a capability, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability from it, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// 'no-new-privileges', 'seccomp=unconfined' or 'seccomp=FILE'
    #[arg(long = "security-opt", value_name = "OPTION")]
    security: Vec<String>,
    /// Limit each of its processes, such as nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// The most memory that it may have
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// How many processors it may use
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    cpus: Option<f64>,
    /// How many processes and threads it may have; -1 is as many as it likes
    #[arg(long, value_name = "NUMBER", value_parser = whole)]
    pids_limit: Option<i64>,
    /// Limit what it writes: size=SIZE or inodes=NUMBER
    #[arg(long = "storage-opt", value_name = "OPTION")]
    storage: Vec<String>,
    /// Describe it
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Limit its log: max-size=SIZE or max-file=NUMBER
    #[arg(long = "log-opt", value_name = "OPTION")]
    log: Vec<String>,
    /// The signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Print this; '-h' is the hostname, as Docker's
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl SettingsFlags {
    /// Whether the container is to have a hostname of its own.
    pub(super) fn has_hostname(&self) -> bool {
        self.hostname.as_ref().is_some_and(|name| !name.is_empty())
    }

    /// As settings without what is seen of networks, for this OCI runtime unless they name another.
    pub(super) fn settings(self, runtime: Option<String>) -> Result<Settings> {
        let mut settings = Settings {
            entrypoint: self
                .entrypoint
                .map(|program| if program.is_empty() { vec![] } else { vec![program] }),
            env: environment(&self.env_files, &self.env)?,
            cwd: self.workdir.map(absolute).transpose()?,
            user: self.user,
            tty: self.tty,
            stdin: self.interactive,
            hostname: self.hostname.filter(|name| !name.is_empty()).map(hostname).transpose()?,
            cgroup_namespace: self.cgroupns.as_deref().map(cgroup_namespace).transpose()?,
            read_only: self.read_only,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            ulimits: self.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
            memory: self.memory.map(memory).transpose()?,
            nano_cpus: self.cpus.map(nano_cpus).transpose()?,
            pids_limit: self.pids_limit.filter(|&most| most != 0),
            tmpfs: self.tmpfs.iter().map(|text| tmpfs(text)).collect::<Result<_>>()?,
            mounts: self.volumes.iter().map(|text| mount(text)).collect::<Result<_>>()?,
            stop_signal: self.stop_signal.map(|name| signal::require(&name)).transpose()?,
            auto_remove: self.rm,
            runtime: self.runtime.or(runtime),
            ..Settings::default()
        };
        for label in self.labels {
            let (name, value) = label.split_once('=').unwrap_or((&label, ""));
            if name.is_empty() {
                return Err(Error::Invalid(format!("invalid label '{label}': write NAME[=VALUE]")));
            }
            settings.labels.insert(name.to_owned(), value.to_owned());
        }
        self.security.iter().try_for_each(|option| security(&mut settings, option))?;
        self.storage.iter().try_for_each(|option| storage(&mut settings, option))?;
        self.log.iter().try_for_each(|option| log(&mut settings.log, option))?;
        refuse_same_target(&settings)?;
        Ok(settings)
    }
}

/// For flags that take a number.
fn number(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "not a number")
}

/// For flags that take a whole number, be it negative.
pub(super) fn whole(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "not a whole number")
}

/// Variables of files, then those of flags over them.
pub(super) fn environment(files: &[PathBuf], flags: &[String]) -> Result<Vec<String>> {
    let mut env = Vec::new();
    let mut add = |entry: &str| -> Result<()> {
        if entry.starts_with('=') || entry.is_empty() {
            return Err(Error::Invalid(format!("invalid variable '{entry}': write NAME=VALUE")));
        }
        match entry.contains('=') {
            true => set_variable(&mut env, entry),
            // One that this command has not got is not set.
            false => match std::env::var(entry) {
                Ok(value) => set_variable(&mut env, &format!("{entry}={value}")),
                Err(VarError::NotPresent) => env.push(entry.to_owned()),
                Err(VarError::NotUnicode(_)) => {
                    return Err(Error::Invalid(format!("the value of variable '{entry}' is not UTF-8")));
                }
            },
        }
        Ok(())
    };
    for file in files {
        let text =
            std::fs::read_to_string(file).map_err(Error::io(|| format!("read '{}'", file.display())))?;
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.into_iter().try_for_each(&mut add)?;
    }
    flags.iter().try_for_each(|entry| add(entry))?;
    Ok(env)
}

fn cgroup_namespace(name: &str) -> Result<CgroupNamespace> {
    match name {
        "private" => Ok(CgroupNamespace::Private),
        "host" => Ok(CgroupNamespace::Host),
        _ => Err(Error::Invalid(format!(
            "unknown cgroup namespace '{name}'; those that exist are: host, private"
        ))),
    }
}

fn absolute(path: String) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(Error::Invalid(format!("the working directory '{path}' must be an absolute path")))
}

fn hostname(name: String) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(Error::Invalid(format!(
        "invalid hostname '{}': it has 1 to 64 letters, digits, '-', '_' and '.'",
        name.escape_debug()
    )))
}

fn ulimit(text: &str) -> Result<Ulimit> {
    let refuse =
        || Error::Invalid(format!("invalid ulimit '{text}': write NAME=SOFT[:HARD], -1 for no limit"));
    let (name, limits) = text.split_once('=').ok_or_else(refuse)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().ok().filter(|&number| number >= -1).ok_or_else(refuse);
    let (soft, hard) = (number(soft)?, number(hard)?);
    let is_over = hard != -1 && (soft == -1 || soft > hard);
    if is_over {
        return Err(Error::Invalid(format!("invalid ulimit '{text}': the soft limit is over the hard one")));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

fn memory(size: ByteSize) -> Result<i64> {
    const LEAST: u64 = 6 << 20;
    if size.0 < LEAST {
        return Err(Error::Invalid("the memory limit must be 6m at the least".to_owned()));
    }
    i64::try_from(size.0).map_err(|_| Error::Invalid("the memory limit is too large".to_owned()))
}

fn nano_cpus(cpus: f64) -> Result<i64> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    // The kernel's shortest share is a millisecond of a tenth of a second.
    if !(0.01..=most as f64).contains(&cpus) {
        return Err(Error::Invalid(format!(
            "--cpus {cpus}: give a number from 0.01 to {most}, which is how many processors there are"
        )));
    }
    Ok((cpus * 1e9).round() as i64)
}

fn tmpfs(text: &str) -> Result<(String, String)> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(Error::Invalid(format!("invalid tmpfs '{text}': write /TARGET[:OPTIONS]")));
    }
    Ok((target.to_owned(), options.to_owned()))
}

/// `SOURCE:TARGET[:OPTIONS]`, or `TARGET` alone for a volume without a name.
fn mount(text: &str) -> Result<MountPoint> {
    let refuse = |why: &str| Error::Invalid(format!("invalid volume '{text}': {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(refuse("write SOURCE:TARGET[:ro]")),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(refuse(&format!("unknown option '{other}'; those that exist are: ro, rw"))),
        }
    }
    let source = match source {
        Some("") => return Err(refuse("write SOURCE:TARGET[:ro]")),
        Some(path) if path.starts_with('/') => Source::Bind(path.into()),
        Some(path) if path.starts_with('.') => Source::Bind(
            std::path::absolute(Path::new(path)).map_err(Error::io(|| format!("find '{path}'")))?,
        ),
        Some(name) => Source::Volume { name: name.to_owned(), anonymous: false },
        None => {
            let name = crate::volumes::invent_name()?;
            Source::Volume { name, anonymous: true }
        }
    };
    Ok(MountPoint { source, target: target.to_owned(), read_only })
}

fn refuse_same_target(settings: &Settings) -> Result<()> {
    let mut targets: Vec<&str> = settings.mounts.iter().map(|mount| mount.target.as_str()).collect();
    targets.extend(settings.tmpfs.iter().map(|(target, _)| target.as_str()));
    targets.sort_unstable();
    match targets.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::Invalid(format!("two mounts at '{}'", pair[0]))),
        None => Ok(()),
    }
}

fn security(settings: &mut Settings, option: &str) -> Result<()> {
    match option.split_once(['=', ':']).unwrap_or((option, "")) {
        ("no-new-privileges", "" | "true") => settings.no_new_privileges = true,
        ("no-new-privileges", "false") => settings.no_new_privileges = false,
        ("seccomp", "unconfined") => settings.seccomp = Seccomp::Unconfined,
        ("seccomp", "builtin" | "default") => settings.seccomp = Seccomp::Default,
        ("seccomp", path) if !path.is_empty() => settings.seccomp = profile(Path::new(path))?,
        _ => {
            return Err(Error::Invalid(format!(
                "unknown security option '{option}'; those that exist are: no-new-privileges, seccomp=unconfined, \
                 seccomp=FILE"
            )));
        }
    }
    Ok(())
}

/// A profile in the form of the OCI runtime specification.
fn profile(path: &Path) -> Result<Seccomp> {
    let text = std::fs::read(path).map_err(Error::io(|| format!("read '{}'", path.display())))?;
    let profile = serde_json::from_slice(&text);
    let profile = profile.map_err(|e| {
        Error::Invalid(format!("seccomp profile '{}' is not in the OCI form: {e}", path.display()))
    })?;
    Ok(Seccomp::Profile(Box::new(profile)))
}

fn storage(settings: &mut Settings, option: &str) -> Result<()> {
    let refuse = |why: &str| Error::Invalid(format!("storage option '{option}': {why}"));
    match option.split_once('=') {
        Some(("size", size)) => {
            settings.size = Some(size.parse::<ByteSize>().map_err(|why| refuse(&why))?.0);
        }
        Some(("inodes", count)) => {
            settings.inodes = Some(count.parse().map_err(|_| refuse("it must be a whole number"))?);
        }
        _ => return Err(refuse("those of a container are: size=SIZE, inodes=NUMBER")),
    }
    Ok(())
}

fn log(limits: &mut LogLimits, option: &str) -> Result<()> {
    let refuse = |why: &str| Error::Invalid(format!("log option '{option}': {why}"));
    match option.split_once('=') {
        Some(("max-size", size)) => {
            let size = size.parse::<ByteSize>().map_err(|why| refuse(&why))?;
            limits.max_size = Some(size.0).filter(|&size| size > 0);
        }
        Some(("max-file", count)) => {
            let count = count.parse::<u32>().ok().filter(|&count| (1..=1000).contains(&count));
            limits.max_file = count.ok_or_else(|| refuse("it must be a number from 1 to 1000"))?;
        }
        _ => return Err(refuse("those that exist are: max-size=SIZE, max-file=NUMBER")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_path_or_a_name() {
        let read = |text: &str| mount(text).unwrap();
        let bind = MountPoint { source: Source::Bind("/a".into()), target: "/b".into(), read_only: true };
        assert_eq!(read("/a:/b:ro"), bind);
        let source = Source::Volume { name: "data".into(), anonymous: false };
        assert_eq!(read("data:/b"), MountPoint { source, target: "/b".into(), read_only: false });
        assert!(matches!(read("/b").source, Source::Volume { anonymous: true, .. }));
        assert!(matches!(read("./x:/b").source, Source::Bind(path) if path.is_absolute()));
        for bad in ["a:b:c:d", ":/b", "/a:/b:rx"] {
            assert!(mount(bad).unwrap_err().to_string().contains(&format!("'{bad}'")));
        }
    }

    #[test]
    fn a_limit_is_checked_before_anything_is_made() {
        assert_eq!(ulimit("nofile=5:-1").unwrap(), Ulimit { name: "nofile".into(), soft: 5, hard: -1 });
        for bad in ["nofile", "nofile=", "nofile=9:5", "nofile=-1:5", "nofile=-2", "nofile=x"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
        assert_eq!(nano_cpus(0.5).unwrap(), 500_000_000);
        assert!(nano_cpus(0.0).is_err() && nano_cpus(f64::NAN).is_err());
        assert!(memory(ByteSize(100)).is_err());
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_exists() {
        let mut settings = Settings::default();
        let text = security(&mut settings, "apparmor=x").unwrap_err().to_string();
        assert!(text.contains("seccomp=FILE"), "{text}");
        let text = storage(&mut settings, "color=red").unwrap_err().to_string();
        assert!(text.contains("size=SIZE"), "{text}");
    }
}

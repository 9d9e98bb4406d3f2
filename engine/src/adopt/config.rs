//! `config.v2.json` and `hostconfig.json`: what an old container was, in words of ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mica_archive::Digest;
use serde::{Deserialize, Deserializer};

use super::network::OldNetwork;
use super::places::OldPlaces;
use crate::container::{
    CgroupNamespace, ConnectWish, KILLED, MountPoint, Seccomp, Settings, Source, State, Status, Ulimit,
    signal,
};
use crate::{Error, Result};

/// A container of Docker's.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) created: String,
    #[serde(deserialize_with = "nullable")]
    image: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) driver: String,
    #[serde(deserialize_with = "nullable")]
    config: Process,
    #[serde(deserialize_with = "nullable")]
    state: OldState,
    #[serde(deserialize_with = "nullable")]
    mount_points: BTreeMap<String, OldMount>,
    #[serde(deserialize_with = "nullable")]
    network_settings: OldPlaces,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    #[serde(deserialize_with = "nullable")]
    hostname: String,
    #[serde(deserialize_with = "nullable")]
    mac_address: String,
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "nullable")]
    tty: bool,
    #[serde(deserialize_with = "nullable")]
    open_stdin: bool,
    #[serde(deserialize_with = "nullable")]
    stdin_once: bool,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    cmd: Option<Words>,
    entrypoint: Option<Words>,
    #[serde(deserialize_with = "nullable")]
    image: String,
    #[serde(deserialize_with = "nullable")]
    working_dir: String,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    stop_signal: String,
}

/// Words of a command. Old ones were written as a single word.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OldState {
    #[serde(deserialize_with = "nullable")]
    running: bool,
    #[serde(rename = "OOMKilled", deserialize_with = "nullable")]
    oom_killed: bool,
    #[serde(deserialize_with = "nullable")]
    removal_in_progress: bool,
    #[serde(deserialize_with = "nullable")]
    dead: bool,
    #[serde(deserialize_with = "nullable")]
    exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    error: String,
    #[serde(deserialize_with = "nullable")]
    started_at: String,
    #[serde(deserialize_with = "nullable")]
    finished_at: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OldMount {
    #[serde(deserialize_with = "nullable")]
    source: String,
    #[serde(deserialize_with = "nullable")]
    destination: String,
    #[serde(rename = "RW", deserialize_with = "nullable")]
    is_writable: bool,
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(rename = "Type", deserialize_with = "nullable")]
    kind: String,
}

/// What the host gave to it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    #[serde(flatten)]
    network: OldNetwork,
    #[serde(deserialize_with = "nullable")]
    restart_policy: Restart,
    #[serde(deserialize_with = "nullable")]
    cap_add: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    cap_drop: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    cgroupns_mode: String,
    #[serde(deserialize_with = "nullable")]
    privileged: bool,
    #[serde(deserialize_with = "nullable")]
    readonly_rootfs: bool,
    #[serde(deserialize_with = "nullable")]
    security_opt: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    tmpfs: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    memory: i64,
    #[serde(rename = "NanoCpus", deserialize_with = "nullable")]
    nano_cpus: i64,
    #[serde(deserialize_with = "nullable")]
    pids_limit: i64,
    #[serde(deserialize_with = "nullable")]
    devices: Vec<serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    ulimits: Vec<OldUlimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Restart {
    #[serde(deserialize_with = "nullable")]
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OldUlimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// Go writes `null` for a list or a map that is empty.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Words {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        }
    }
}

impl Config {
    /// Reads it; `id` is the name of its directory.
    pub(super) fn parse(text: &[u8], id: &str) -> Result<Self> {
        let config: Self = serde_json::from_slice(text)
            .map_err(|e| Error::Invalid(format!("its config cannot be read: {e}")))?;
        if config.id != id {
            return Err(Error::Invalid(format!(
                "its config is that of '{}'",
                crate::error::shown(&config.id)
            )));
        }
        Ok(config)
    }

    /// That of a container whose record cannot be read.
    pub(super) fn unread(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// The image that it was made from.
    pub(super) fn image(&self) -> Option<Digest> {
        self.image.parse().ok()
    }

    /// What that was called.
    pub(super) fn image_name(&self) -> &str {
        if self.config.image.is_empty() { &self.image } else { &self.config.image }
    }

    /// Whether Docker was removing it.
    pub(super) fn is_dead(&self) -> bool {
        self.state.dead || self.state.removal_in_progress
    }

    /// Where it is in its life: stopped, whatever Docker last wrote.
    pub(super) fn state(&self) -> State {
        let state = &self.state;
        let (started, finished) = (time(&state.started_at), time(&state.finished_at));
        if started.is_empty() {
            return State { error: state.error.clone(), ..State::default() };
        }
        let exit_code = if state.running { KILLED } else { (state.exit_code & 0xff) as u8 };
        let finished = if state.running || finished.is_empty() { started.clone() } else { finished };
        State {
            status: Status::Exited,
            exit_code,
            oom_killed: state.oom_killed,
            error: state.error.clone(),
            started,
            finished,
            ..State::default()
        }
    }

    /// The networks that it was connected to, by name, and what it wished for there, if it had any to itself. What cannot be had is
    /// added to what is lost.
    pub(super) fn take_places(
        &mut self,
        host: &HostConfig,
        lost: &mut Vec<String>,
    ) -> Vec<(String, ConnectWish)> {
        let places = std::mem::take(&mut self.network_settings);
        let first = host.network.connected();
        first
            .map(|first| places.translate(first, &self.id, &self.config.mac_address, lost))
            .unwrap_or_default()
    }

    /// How it runs, and what of that does not come along, a sentence each.
    pub(super) fn settings(self, host: HostConfig) -> (Settings, Vec<String>) {
        let mut warnings = Vec::new();
        let mounts =
            self.mount_points.into_values().filter_map(|mount| mount.translate(&mut warnings)).collect();
        let process = self.config;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut settings = Settings {
            entrypoint: Some(process.entrypoint.map(Words::list).unwrap_or_default()),
            cmd: Some(process.cmd.map(Words::list).unwrap_or_default()),
            env: process.env,
            cwd: given(process.working_dir),
            user: given(process.user),
            tty: process.tty,
            stdin: process.open_stdin,
            stdin_once: process.stdin_once,
            hostname: given(process.hostname),
            labels: process.labels,
            stop_signal: signal::parse(&process.stop_signal),
            mounts,
            ..Settings::default()
        };
        host.translate(&mut settings, &mut warnings);
        (settings, warnings)
    }
}

impl OldMount {
    fn translate(self, warnings: &mut Vec<String>) -> Option<MountPoint> {
        let Self { source, destination: target, is_writable, name, kind } = self;
        let source = match kind.as_str() {
            "bind" | "" if name.is_empty() => {
                warnings.push(format!("'{source}' of the host stays mounted at '{target}'"));
                Source::Bind(PathBuf::from(source))
            }
            "volume" | "" => {
                warnings.push(format!(
                    "what is in its volume '{name}' at '{target}' does not come along: copy '{source}' to the volume here before \
                     it is started"
                ));
                let is_random = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
                Source::Volume { name, anonymous: is_random }
            }
            // It stands among those of the host's part, too.
            "tmpfs" => return None,
            other => {
                warnings
                    .push(format!("its mount at '{target}' is of type '{other}', and does not come along"));
                return None;
            }
        };
        Some(MountPoint { source, target, read_only: !is_writable })
    }
}

impl HostConfig {
    fn translate(self, settings: &mut Settings, warnings: &mut Vec<String>) {
        let positive = |number: i64| Some(number).filter(|number| *number > 0);
        settings.cgroup_namespace = match self.cgroupns_mode.as_str() {
            "host" => Some(CgroupNamespace::Host),
            "private" => Some(CgroupNamespace::Private),
            _ => None,
        };
        settings.read_only = self.readonly_rootfs;
        settings.memory = positive(self.memory);
        settings.nano_cpus = positive(self.nano_cpus);
        settings.pids_limit = positive(self.pids_limit);
        settings.tmpfs = self.tmpfs.into_iter().collect();
        settings.ulimits = self
            .ulimits
            .into_iter()
            .map(|OldUlimit { name, soft, hard }| Ulimit { name, soft, hard })
            .collect();
        let bare = |name: String| name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned);
        settings.cap_add = self.cap_add.into_iter().map(bare).collect();
        settings.cap_drop = self.cap_drop.into_iter().map(bare).collect();
        let mut lost = Vec::new();
        settings.networking = self.network.translate(&mut lost);
        for option in self.security_opt {
            match option.replace(':', "=").as_str() {
                "no-new-privileges" | "no-new-privileges=true" => settings.no_new_privileges = true,
                "seccomp=unconfined" => settings.seccomp = Seccomp::Unconfined,
                _ => lost.push(format!("the security option '{}'", crate::error::shown(&option))),
            }
        }
        lost.extend((!self.devices.is_empty()).then(|| "devices".to_owned()));
        lost.extend(self.privileged.then(|| "the privileges of '--privileged'".to_owned()));
        let restarts = !matches!(self.restart_policy.name.as_str(), "" | "no");
        lost.extend(
            restarts.then(|| format!("'--restart {}'", crate::error::shown(&self.restart_policy.name))),
        );
        if !lost.is_empty() {
            warnings.push(format!("it comes without {}", lost.join(", ")));
        }
    }
}

/// A time as records have it; empty for Go's zero, and for what is none.
fn time(text: &str) -> String {
    let time = text.parse::<jiff::Timestamp>().ok().filter(|time| time.as_second() > 0);
    time.map(|time| time.to_string()).unwrap_or_default()
}

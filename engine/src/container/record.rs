//! What a container is: its `config.json`, written when it is created and replaced only by a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mica_archive::Digest;
use mica_core::{LayerId, Writable};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use super::Networking;

/// The record of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Its name, which no other container has.
    pub name: String,
    /// When it was created, as RFC 3339 says it.
    pub created: String,
    /// The image that it was made from.
    pub image: Digest,
    /// What the image was called then.
    pub image_name: String,
    /// The driver that has its layer.
    pub driver: String,
    /// Its writable layer.
    pub layer: LayerId,
    /// What the layer stands on, nearest first: the layer of mount points, then those of the image.
    pub parents: Vec<LayerId>,
    /// What no commit takes along, where the image's links lead elsewhere with it; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<BTreeSet<String>>,
    /// How it runs.
    pub settings: Settings,
}

impl Record {
    /// Its writable layer, for the store of its driver.
    pub fn layer(&self) -> mica_core::Layer<Writable> {
        mica_core::Layer::recorded(self.layer.clone(), self.parents.clone())
    }

    /// The first 12 digits of the id, as lists show it.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }

    /// The name that the container has in its own eyes.
    pub fn hostname(&self) -> String {
        self.settings.hostname.clone().unwrap_or_else(|| self.short_id().to_owned())
    }

    /// The path of its control groups, below the root of each hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("/mica-{}", self.id))
    }
}

/// The first 12 digits of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// How a container runs: what the image says, with what the user said over it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The words that the command begins with; `None` leaves it to the image.
    pub entrypoint: Option<Vec<String>>,
    /// The rest of the command; `None` leaves it to the image.
    pub cmd: Option<Vec<String>>,
    /// `NAME=VALUE`, each name once.
    pub env: Vec<String>,
    /// Where the command starts; `None` leaves it to the image.
    pub cwd: Option<String>,
    /// `USER[:GROUP]` by name or number; `None` leaves it to the image.
    pub user: Option<String>,
    /// The command has a terminal.
    pub tty: bool,
    /// The command's standard input is open, and not `/dev/null`.
    pub stdin: bool,
    /// Standard input ends with the first client that was attached to it.
    pub stdin_once: bool,
    /// `None` takes the first digits of the id.
    pub hostname: Option<String>,
    /// What it sees of networks.
    pub networking: Networking,
    /// What it sees of control groups; `None` is Docker's default on this host.
    pub cgroup_namespace: Option<CgroupNamespace>,
    /// Its root file system cannot be written.
    pub read_only: bool,
    /// Capabilities beyond the default ones, without `CAP_`; `ALL` is all.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// Nothing that it executes gains privileges.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// The most memory, in bytes.
    pub memory: Option<i64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// The most processes and threads.
    pub pids_limit: Option<i64>,
    /// Empty file systems in memory: where, and their options.
    pub tmpfs: Vec<(String, String)>,
    /// Directories and volumes of the host.
    pub mounts: Vec<MountPoint>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// How much of what it prints is kept.
    pub log: LogLimits,
    /// The signal that asks it to end, as a number; `None` leaves it to the image, then to SIGTERM.
    pub stop_signal: Option<i32>,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// The OCI runtime, by name or path; `None` is the built-in one.
    pub runtime: Option<String>,
    /// The most bytes that its layer may take.
    pub size: Option<u64>,
    /// The most files that its layer may have.
    pub inodes: Option<u64>,
}

/// What a container sees of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupNamespace {
    /// Its own ones, as if they were the only ones.
    Private,
    /// Their places among those of the host.
    Host,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Those of the default profile, which depends on the container's capabilities.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those of a profile of the user's.
    Profile(Box<LinuxSeccomp>),
}

/// A limit of each process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// The limit that holds; -1 is none.
    pub soft: i64,
    /// The highest that the soft limit can be raised to; -1 is none.
    pub hard: i64,
}

/// Something of the host that shows up in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What it is.
    pub source: Source,
    /// Where it shows up.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// It was made for this container alone.
        anonymous: bool,
    },
}

/// How much of what a container prints is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file that reaches this many bytes is set aside; `None` never.
    pub max_size: Option<u64>,
    /// How many files there are at most, the current one included.
    pub max_file: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: None, max_file: 1 }
    }
}

impl Settings {
    /// Takes from the image what the user left to it.
    pub fn inherit(&mut self, image: &ImageConfiguration) {
        let Some(config) = image.config() else { return };
        // A new entrypoint makes the image's arguments meaningless.
        if self.entrypoint.is_none() {
            self.entrypoint = config.entrypoint().clone().filter(|words| !words.is_empty());
            self.cmd = self.cmd.take().or_else(|| config.cmd().clone());
        }
        let own = std::mem::take(&mut self.env);
        for entry in config.env().iter().flatten().chain(&own) {
            set_variable(&mut self.env, entry);
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        self.cwd = self.cwd.take().or_else(|| given(config.working_dir()));
        self.user = self.user.take().or_else(|| given(config.user()));
        for (name, value) in config.labels().iter().flatten() {
            self.labels.entry(name.clone()).or_insert_with(|| value.clone());
        }
        // What is no port says nothing.
        for port in config.exposed_ports().iter().flatten().filter_map(|port| port.parse().ok()) {
            if !self.networking.exposed.contains(&port) {
                self.networking.exposed.push(port);
            }
        }
        if self.stop_signal.is_none() {
            self.stop_signal = config.stop_signal().as_deref().and_then(super::signal::parse);
        }
    }

    /// The names of its volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            Source::Volume { name, .. } => Some(name.as_str()),
            Source::Bind(_) => None,
        })
    }

    /// The command, whole.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).flatten().cloned().collect()
    }
}

/// Sets `NAME=VALUE` in place of what the name had; a bare `NAME` takes it away.
pub fn set_variable(env: &mut Vec<String>, entry: &str) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let place = env.iter().position(|other| name(other) == name(entry));
    match (place, entry.contains('=')) {
        (Some(place), true) => entry.clone_into(&mut env[place]),
        (None, true) => env.push(entry.to_owned()),
        (Some(place), false) => drop(env.remove(place)),
        (None, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str) -> ImageConfiguration {
        serde_json::from_str(&format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
        ))
        .unwrap()
    }

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn arguments_replace_the_images_and_keep_its_entrypoint() {
        let image = image(r#"{"Entrypoint":["/run"],"Cmd":["--help"]}"#);
        let mut settings = Settings { cmd: words("a b"), ..Settings::default() };
        settings.inherit(&image);
        assert_eq!(settings.args(), ["/run", "a", "b"]);
        let mut settings = Settings::default();
        settings.inherit(&image);
        assert_eq!(settings.args(), ["/run", "--help"]);
    }

    #[test]
    fn another_entrypoint_drops_the_images_arguments() {
        let mut settings = Settings { entrypoint: words("sh"), ..Settings::default() };
        settings.inherit(&image(r#"{"Entrypoint":["/run"],"Cmd":["--help"]}"#));
        assert_eq!(settings.args(), ["sh"]);
    }

    #[test]
    fn variables_of_the_user_stand_over_those_of_the_image() {
        let mut settings = Settings { env: vec!["A=2".into(), "C".into()], ..Settings::default() };
        settings.inherit(&image(r#"{"Env":["A=1","B=1","C=1"],"WorkingDir":"","User":"daemon"}"#));
        assert_eq!(settings.env, ["A=2", "B=1"]);
        assert_eq!((settings.cwd, settings.user.as_deref()), (None, Some("daemon")));
    }

    #[test]
    fn a_container_exposes_the_ports_of_its_image_and_its_own() {
        let mut settings = Settings::default();
        settings.networking.exposed.push("80".parse().unwrap());
        settings.inherit(&image(r#"{"ExposedPorts":{"80/tcp":{},"53/udp":{},"what":{}}}"#));
        let texts: Vec<String> = settings.networking.exposed.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["80/tcp", "53/udp"]);
    }
}

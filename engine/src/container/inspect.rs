//! Everything about a container, in Docker's shape.

mod network;

use mica_runtime::defaults::has_own_cgroup_namespace;
use serde_json::{Map, Value, json};

use super::state::State;
use super::{CgroupNamespace, Container, MountPoint, Record, Seccomp, Settings, Source, Status, signal};
use crate::inspect::graph_data;
use crate::{Engine, Result, volumes};
use network::Seen;

/// What Docker says where there is no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// A container as `inspect` shows it. With `size` what it takes on disk, too.
    pub fn inspect_container(&self, container: &Container, size: bool) -> Result<Value> {
        let state = self.state(container)?;
        let record = container.record();
        let args = record.settings.args();
        let networks = Seen::of(self, container)?;
        let mut object = json!({
            "Id": record.id,
            "Created": record.created,
            "Path": args.first().cloned().unwrap_or_default(),
            "Args": args.get(1..).unwrap_or_default(),
            "State": state_object(&state),
            "Image": record.image.to_string(),
            "ResolvConfPath": container.dir().join("resolv.conf"),
            "HostnamePath": container.dir().join("hostname"),
            "HostsPath": container.dir().join("hosts"),
            "LogPath": container.log(),
            "Name": format!("/{}", record.name),
            "RestartCount": 0,
            "Driver": record.driver,
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": Value::Null,
            "HostConfig": host_config(record, &networks.mode(&record.settings)),
            "GraphDriver": { "Data": self.graph_data(container, &state), "Name": record.driver },
            "Mounts": record.settings.mounts.iter().map(|mount| self.mount_object(mount)).collect::<Vec<_>>(),
            "Config": config(record),
            "NetworkSettings": networks.settings(&record.settings, &state),
        });
        if size && let Some(object) = object.as_object_mut() {
            let own = self.layer_usage(container)?.bytes;
            let image = self.image(&record.image.to_string()).and_then(|image| self.size(&image));
            object.insert("SizeRw".to_owned(), own.into());
            object.insert("SizeRootFs".to_owned(), (own + image.unwrap_or_default()).into());
        }
        Ok(object)
    }

    /// Where the parts of the container's file system are. `MergedDir` is the whole of it: while the container runs, through the
    /// mount namespace of its supervisor.
    fn graph_data(&self, container: &Container, state: &State) -> Value {
        let rootfs = container.rootfs();
        let merged = match (state.status.is_live(), rootfs.strip_prefix("/")) {
            (true, Ok(below)) => format!("/proc/{}/root/{}", state.supervisor, below.display()),
            _ => rootfs.display().to_string(),
        };
        let record = container.record();
        let mut data = match self.store(Some(&record.driver)) {
            Ok(store) => graph_data(&store, &record.layer()),
            // Everything else is known without the driver.
            Err(_) => Map::new(),
        };
        data.insert("MergedDir".to_owned(), merged.into());
        data.into()
    }

    fn mount_object(&self, mount: &MountPoint) -> Value {
        let mode = if mount.read_only { "ro" } else { "" };
        match &mount.source {
            Source::Bind(path) => json!({
                "Type": "bind",
                "Source": path,
                "Destination": mount.target,
                "Mode": mode,
                "RW": !mount.read_only,
                "Propagation": "rprivate",
            }),
            Source::Volume { name, .. } => json!({
                "Type": "volume",
                "Name": name,
                "Source": volumes::data(self.root(), name),
                "Destination": mount.target,
                "Driver": "local",
                "Mode": mode,
                "RW": !mount.read_only,
                "Propagation": "",
            }),
        }
    }
}

fn state_object(state: &State) -> Value {
    let time = |time: &str| if time.is_empty() { NEVER.to_owned() } else { time.to_owned() };
    json!({
        "Status": state.status.word(),
        "Running": matches!(state.status, Status::Running | Status::Paused),
        "Paused": state.status == Status::Paused,
        "Restarting": false,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(&state.started),
        "FinishedAt": time(&state.finished),
    })
}

fn cgroup_namespace(settings: &Settings) -> &'static str {
    match settings.cgroup_namespace {
        Some(CgroupNamespace::Private) => "private",
        None if has_own_cgroup_namespace() => "private",
        Some(CgroupNamespace::Host) | None => "host",
    }
}

fn host_config(record: &Record, network: &str) -> Value {
    let settings = &record.settings;
    let limits = settings.log;
    let mut log = Map::new();
    if let Some(size) = limits.max_size {
        log.insert("max-size".to_owned(), size.to_string().into());
    }
    if limits.max_file > 1 {
        log.insert("max-file".to_owned(), limits.max_file.to_string().into());
    }
    let list = |names: &[String]| if names.is_empty() { Value::Null } else { names.into() };
    let tmpfs: Map<String, Value> =
        settings.tmpfs.iter().map(|(target, options)| (target.clone(), options.as_str().into())).collect();
    let ulimits = settings.ulimits.iter();
    let ulimits = ulimits.map(|limit| json!({ "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard }));
    json!({
        "Binds": binds(settings),
        "LogConfig": { "Type": "json-file", "Config": log },
        "NetworkMode": network,
        "PortBindings": network::bindings(settings),
        "PublishAllPorts": settings.networking.publish_all,
        "Dns": settings.networking.servers,
        "DnsOptions": settings.networking.resolver_options,
        "DnsSearch": settings.networking.search,
        "ExtraHosts": list(&settings.networking.extra_hosts),
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": settings.auto_remove,
        "CapAdd": list(&settings.cap_add),
        "CapDrop": list(&settings.cap_drop),
        "CgroupnsMode": cgroup_namespace(settings),
        "IpcMode": "private",
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": false,
        "ReadonlyRootfs": settings.read_only,
        "SecurityOpt": security(settings),
        "StorageOpt": storage(settings),
        "Tmpfs": if tmpfs.is_empty() { Value::Null } else { tmpfs.into() },
        "ShmSize": 64 << 20,
        "Runtime": settings.runtime.as_deref().unwrap_or("mica"),
        "Memory": settings.memory.unwrap_or(0),
        "MemorySwap": settings.memory.map_or(0, |bytes| bytes.saturating_mul(2)),
        "NanoCpus": settings.nano_cpus.unwrap_or(0),
        "PidsLimit": settings.pids_limit,
        "Ulimits": ulimits.collect::<Vec<_>>(),
        "MaskedPaths": mica_runtime::defaults::MASKED_PATHS,
        "ReadonlyPaths": mica_runtime::defaults::READONLY_PATHS,
    })
}

fn binds(settings: &Settings) -> Value {
    let named = settings.mounts.iter().filter_map(|mount| {
        let source = match &mount.source {
            Source::Bind(path) => path.display().to_string(),
            Source::Volume { name, anonymous: false } => name.clone(),
            Source::Volume { .. } => return None,
        };
        Some(format!("{source}:{}{}", mount.target, if mount.read_only { ":ro" } else { "" }))
    });
    let binds: Vec<String> = named.collect();
    if binds.is_empty() { Value::Null } else { binds.into() }
}

fn security(settings: &Settings) -> Value {
    let mut options = Vec::new();
    if settings.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &settings.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(profile) => {
            options.extend(serde_json::to_string(profile).ok().map(|text| format!("seccomp={text}")));
        }
    }
    if options.is_empty() { Value::Null } else { options.into() }
}

fn storage(settings: &Settings) -> Value {
    let mut options = Map::new();
    for (name, value) in [("size", settings.size), ("inodes", settings.inodes)] {
        if let Some(value) = value {
            options.insert(name.to_owned(), value.to_string().into());
        }
    }
    if options.is_empty() { Value::Null } else { options.into() }
}

fn config(record: &Record) -> Value {
    let settings = &record.settings;
    json!({
        "Hostname": record.hostname(),
        "Domainname": "",
        "User": settings.user.as_deref().unwrap_or_default(),
        "AttachStdin": settings.stdin_once,
        "AttachStdout": true,
        "AttachStderr": true,
        "ExposedPorts": network::exposed_ports(settings),
        "Tty": settings.tty,
        "OpenStdin": settings.stdin,
        "StdinOnce": settings.stdin_once,
        "Env": settings.env,
        "Cmd": settings.cmd,
        "Image": record.image_name,
        "Volumes": Value::Null,
        "WorkingDir": settings.cwd.as_deref().unwrap_or_default(),
        "Entrypoint": settings.entrypoint,
        "OnBuild": Value::Null,
        "Labels": settings.labels,
        "StopSignal": settings.stop_signal.map(signal::name),
    })
}

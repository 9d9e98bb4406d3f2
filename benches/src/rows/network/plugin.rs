//! Programs that a container runtime starts to connect a container: `mica-cni`, the plugins of CNI, netavark.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use mica_conformance::network::kernel;
use serde_json::{Value, json};

use super::{Bound, Contender, HAND, Row, What};
use crate::network::by_hand::{ByHand, Place};
use crate::network::{Connects, Container, IPV4, Machine, failed};
use crate::rows::make;
use crate::stage::Stage;
use crate::{Result, measure};

const MICA: &str = "mica-cni";
const VERB: &str = "mica cni";
const BRIDGE: &str = "CNI bridge";
const MASQUERADE: &str = "CNI bridge, masquerade";
const PORTMAP: &str = "CNI portmap alone";
const NETAVARK: &str = "netavark";

/// Where Debian has them.
const PLUGINS: &str = "/usr/lib/cni";
const NETAVARK_PROGRAM: &str = "/usr/lib/podman/netavark";

const SUBNET: &str = "10.102.0.0/16";
const GATEWAY: &str = "10.102.0.1";

/// What is done.
#[derive(Clone, Copy, PartialEq)]
enum Verb {
    Add,
    Delete,
}

/// A program that connects containers.
struct Plugin {
    program: PathBuf,
    speaks: Speaks,
    /// What it reads.
    config: PathBuf,
}

/// How it is told what to do.
#[derive(Clone, Copy)]
enum Speaks {
    Cni,
    /// As CNI, after this word.
    CniAfter(&'static str),
    Netavark,
}

impl Plugin {
    fn new(stage: &Stage, program: impl Into<PathBuf>, speaks: Speaks, config: &Value) -> Result<Self> {
        let config_path = directory(stage)?.join("config.json");
        let plugin = Self { program: program.into(), speaks, config: config_path };
        plugin.configure(config)?;
        Ok(plugin)
    }

    fn configure(&self, config: &Value) -> Result<()> {
        fs::write(&self.config, config.to_string()).map_err(failed("write a configuration"))
    }

    fn command(&self, verb: Verb, container: &Container) -> Command {
        let mut command = Command::new(&self.program);
        // A path by which a child of this process finds it.
        let descriptor = container.namespace.as_fd().as_raw_fd();
        let namespace = format!("/proc/{}/fd/{descriptor}", std::process::id());
        if let Speaks::Netavark = self.speaks {
            let dir = self.config.parent().unwrap_or(&self.config);
            let verb = if verb == Verb::Add { "setup" } else { "teardown" };
            command.arg("--config").arg(dir).args([verb, &namespace]);
            return command;
        }
        if let Speaks::CniAfter(word) = self.speaks {
            command.arg(word);
        }
        let id = format!("bench-{}", container.number);
        command.env("CNI_COMMAND", if verb == Verb::Add { "ADD" } else { "DEL" }).env("CNI_CONTAINERID", id);
        command.env("CNI_NETNS", namespace).env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS);
        command
    }

    fn run(&self, verb: Verb, container: &Container) -> Result<()> {
        measure::run_with(&mut self.command(verb, container), &self.config).map(drop)
    }

    /// Adds, and reads what it answers.
    fn answer(&self, container: &Container) -> Result<Value> {
        let failed = |e: &dyn Display| format!("'{}': {e}", self.program.display());
        let config = File::open(&self.config).map_err(|e| failed(&e))?;
        let output = self.command(Verb::Add, container).stdin(config).output().map_err(|e| failed(&e))?;
        let answer = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))?;
        if output.status.success() { Ok(answer) } else { Err(failed(&answer)) }
    }
}

/// A plugin at its turns.
struct Turn {
    name: &'static str,
    plugin: Plugin,
    /// What is added before it, with the configuration of this one, which gets the answer.
    first: Option<(Plugin, Value)>,
    machine: Machine,
}

impl Turn {
    fn before(&self, verb: Verb, container: &Container) -> Result<()> {
        self.machine.enter()?;
        if let Some((first, config)) = &self.first {
            let mut config = config.clone();
            config["prevResult"] = first.answer(container)?;
            self.plugin.configure(&config)?;
        }
        if verb == Verb::Delete { self.plugin.run(Verb::Add, container) } else { Ok(()) }
    }

    fn after(&self, verb: Verb, container: Container) -> Result<()> {
        let links = container.namespace.inside(kernel::links).map_err(failed("list links"))?;
        if (verb == Verb::Add) != links.iter().any(|link| link.name == "eth0") {
            return Err(format!("{} did not do what it was asked for", self.name));
        }
        if verb == Verb::Add {
            self.plugin.run(Verb::Delete, &container)?;
        }
        if let Some((first, _)) = &self.first {
            first.run(Verb::Delete, &container)?;
        }
        drop(container);
        self.machine.drain()
    }
}

/// A container connected without ports, one connected with one, one disconnected. A program that is not here is left out,
/// and a line says so.
pub(crate) fn plugin(stage: &Stage) -> Result<Vec<Row<'_>>> {
    make(&stage.path("plugins"))?;
    let plain = || -> Result<Vec<Rc<Turn>>> {
        let turns = [
            turn(MICA, mica(stage, MICA, &json!([]))?, None)?,
            turn(VERB, mica(stage, VERB, &json!([]))?, None)?,
            turn(BRIDGE, bridge(stage, false)?, None)?,
            turn(MASQUERADE, bridge(stage, true)?, None)?,
            turn(NETAVARK, netavark(stage, &json!([]))?, None)?,
        ];
        Ok(turns.into_iter().flatten().collect())
    };
    let port = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let portmap_config = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "portmap", "snat": true,
        "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": port},
    });
    let portmap = Plugin::new(stage, Path::new(PLUGINS).join("portmap"), Speaks::Cni, &portmap_config)?;
    let podmans = json!([{
        "host_ip": "", "host_port": 8080, "container_port": 80, "protocol": "tcp", "range": 1,
    }]);
    let ported = [
        turn(MICA, mica(stage, MICA, &port)?, None)?,
        turn(PORTMAP, portmap, Some((bridge(stage, true)?, portmap_config)))?,
        turn(NETAVARK, netavark(stage, &podmans)?, None)?,
    ];
    let ported: Vec<_> = ported.into_iter().flatten().collect();
    Ok(vec![
        adding("net.plugin.add", plain()?),
        adding("net.plugin.add.port", ported),
        deleting("net.plugin.delete", plain()?)?,
    ])
}

fn adding(name: &'static str, turns: Vec<Rc<Turn>>) -> Row<'static> {
    let others = others(&turns).into_iter();
    let bounds = others.map(|other| Bound::ratio(What::Wall, MICA, other, 0.2)).collect();
    Row { name, contenders: turns.into_iter().map(|turn| contender(turn, Verb::Add)).collect(), bounds }
}

/// Whoever removes a link waits for the kernel to let go of it, which is most of the time: a bound on that is one beside the
/// least that it takes, and beside others there are bounds on what a program does itself.
fn deleting(name: &'static str, turns: Vec<Rc<Turn>>) -> Result<Row<'static>> {
    let mut bounds = vec![Bound::ratio(What::Wall, MICA, HAND, 1.25)];
    bounds.extend(others(&turns).into_iter().map(|other| {
        // Without masquerading there is no rule to be taken away, which is what Mica does beside the link.
        let most = if other == BRIDGE { 0.5 } else { 0.2 };
        Bound::ratio(What::Cpu, MICA, other, most)
    }));
    let mut contenders = vec![by_hand(Rc::new(ByHand::new(IPV4)?))];
    contenders.extend(turns.into_iter().map(|turn| contender(turn, Verb::Delete)));
    Ok(Row { name, contenders, bounds })
}

fn others(turns: &[Rc<Turn>]) -> Vec<&'static str> {
    turns.iter().map(|turn| turn.name).filter(|name| ![MICA, VERB].contains(name)).collect()
}

/// One link removed whose other end is in a namespace that lives: the least that disconnecting a container takes.
fn by_hand(way: Rc<ByHand>) -> Contender<'static> {
    let kept: Rc<RefCell<Option<(Container, Place)>>> = Rc::default();
    let (made, taken) = (kept.clone(), kept.clone());
    let after = way.clone();
    let command = move || {
        let mut command = Command::new("ip");
        command.args(["link", "delete"]).args(kept.borrow().iter().map(|(_, place)| place.link()));
        command
    };
    Contender::new(HAND, command)
        .before(move || {
            let container = way.machine().container()?;
            let mut place = way.place(&container)?;
            way.machine().enter()?;
            way.attach(&container, &mut place)?;
            *made.borrow_mut() = Some((container, place));
            Ok(())
        })
        .after(move || {
            after.check_empty()?;
            drop(taken.take());
            after.machine().drain()
        })
}

fn turn(name: &'static str, plugin: Plugin, first: Option<(Plugin, Value)>) -> Result<Option<Rc<Turn>>> {
    if !plugin.program.exists() {
        eprintln!("mica-bench: {name} is left out: there is no '{}'", plugin.program.display());
        return Ok(None);
    }
    Ok(Some(Rc::new(Turn { name, plugin, first, machine: Machine::new()? })))
}

fn contender(turn: Rc<Turn>, verb: Verb) -> Contender<'static> {
    let kept: Rc<RefCell<Option<Container>>> = Rc::default();
    let (made, taken, config) = (kept.clone(), kept.clone(), turn.plugin.config.clone());
    let (before, after) = (turn.clone(), turn.clone());
    let command = move || match &*kept.borrow() {
        Some(container) => turn.plugin.command(verb, container),
        None => Command::new("false"),
    };
    Contender::new(after.name, command)
        .input(config)
        .before(move || {
            let container = before.machine.container()?;
            before.before(verb, &container)?;
            *made.borrow_mut() = Some(container);
            Ok(())
        })
        .after(move || taken.take().map_or(Ok(()), |container| after.after(verb, container)))
}

/// IPv4 alone, as the others have it.
fn mica(stage: &Stage, name: &str, ports: &Value) -> Result<Plugin> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "mica-cni", "subnets": [SUBNET], "ipv6": false,
        "root": directory(stage)?,
        "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports},
    });
    if name == VERB {
        return Plugin::new(stage, &stage.mica, Speaks::CniAfter("cni"), &config);
    }
    Plugin::new(stage, stage.mica.with_file_name("mica-cni"), Speaks::Cni, &config)
}

fn bridge(stage: &Stage, masquerade: bool) -> Result<Plugin> {
    let config = json!({
        "cniVersion": "0.4.0", "name": "bench", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "isDefaultGateway": true, "ipMasq": masquerade,
        "ipam": {
            "type": "host-local", "ranges": [[{"subnet": SUBNET, "gateway": GATEWAY}]],
            "dataDir": directory(stage)?,
        },
    });
    Plugin::new(stage, Path::new(PLUGINS).join("bridge"), Speaks::Cni, &config)
}

/// Its addresses come from its caller, here always the same one: the container before is gone.
fn netavark(stage: &Stage, ports: &Value) -> Result<Plugin> {
    let config = json!({
        "container_id": "bench", "container_name": "bench", "port_mappings": ports,
        "networks": {"bench": {"interface_name": "eth0", "static_ips": ["10.102.0.2"]}},
        "network_info": {"bench": {
            "name": "bench", "id": "6e".repeat(32), "driver": "bridge", "network_interface": "podman1",
            "subnets": [{"subnet": SUBNET, "gateway": GATEWAY}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        }},
    });
    Plugin::new(stage, NETAVARK_PROGRAM, Speaks::Netavark, &config)
}

/// A new one, for a program's files.
fn directory(stage: &Stage) -> Result<PathBuf> {
    let dir = tempfile::tempdir_in(stage.path("plugins")).map_err(failed("make a directory"))?;
    Ok(dir.keep())
}

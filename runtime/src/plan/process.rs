//! The process section of a bundle.

use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimit, PosixRlimitType, Process};
use rustix::process::{Resource, Rlimit};
use rustix::termios::Winsize;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Error, Result};

/// A process to be executed, ready for the calls that make it.
#[derive(Clone, Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
    /// `None`: those of the supervisor are kept.
    pub(crate) capabilities: Option<CapabilityPlan>,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// The size of the terminal, if the process has one.
    pub(crate) terminal: Option<Winsize>,
}

/// The five sets of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
    pub(crate) sets: CapabilitySets,
}

impl ProcessPlan {
    pub(crate) fn new(process: &Process) -> Result<Self> {
        let user = process.user();
        let args = strings("argument", process.args().as_deref().unwrap_or_default())?;
        if args.is_empty() {
            return Err(Error::spec("no command: the process has no arguments"));
        }
        if !process.cwd().is_absolute() {
            return Err(Error::spec(format!(
                "working directory {} is not absolute",
                process.cwd().display()
            )));
        }
        Ok(Self {
            args,
            env: environment(process.env().as_deref().unwrap_or_default())?,
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: process.capabilities().as_ref().map(CapabilityPlan::new).transpose()?,
            rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
            terminal: process.terminal().unwrap_or(false).then(|| size(process)),
        })
    }

    /// The value of a variable of the process's environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|entry| entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

fn size(process: &Process) -> Winsize {
    let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
    let (rows, columns) =
        process.console_size().map_or((0, 0), |size| (cells(size.height()), cells(size.width())));
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn strings(what: &str, list: &[String]) -> Result<Vec<CString>> {
    let convert = |text: &String| {
        CString::new(text.as_bytes()).map_err(|_| Error::spec(format!("{what} {text:?} contains a NUL byte")))
    };
    list.iter().map(convert).collect()
}

/// Of a variable given twice the last value counts, as everywhere.
fn environment(list: &[String]) -> Result<Vec<CString>> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut kept: Vec<String> = Vec::with_capacity(list.len());
    for entry in list {
        match kept.iter_mut().find(|other| name(other) == name(entry)) {
            Some(other) => other.clone_from(entry),
            None => kept.push(entry.clone()),
        }
    }
    strings("environment entry", &kept)
}

impl CapabilityPlan {
    fn new(capabilities: &LinuxCapabilities) -> Result<Self> {
        let set = |list: &Option<Capabilities>| list.as_ref().map_or(Ok(CapabilitySet::empty()), bits);
        Ok(Self {
            bounding: set(capabilities.bounding())?,
            ambient: set(capabilities.ambient())?,
            sets: CapabilitySets {
                effective: set(capabilities.effective())?,
                permitted: set(capabilities.permitted())?,
                inheritable: set(capabilities.inheritable())?,
            },
        })
    }
}

fn bits(capabilities: &Capabilities) -> Result<CapabilitySet> {
    capabilities.iter().try_fold(CapabilitySet::empty(), |set, capability| {
        let wanted = capability.to_string();
        let known = CapabilitySet::all().iter_names().find(|(name, _)| *name == wanted);
        known.map(|(_, bit)| set | bit).ok_or_else(|| Error::spec(format!("unknown capability CAP_{wanted}")))
    })
}

fn rlimits(list: &[PosixRlimit]) -> Result<Vec<(Resource, Rlimit)>> {
    let mut limits: Vec<(Resource, Rlimit)> = Vec::with_capacity(list.len());
    for limit in list {
        let resource = resource(limit.typ());
        if limits.iter().any(|(other, _)| *other == resource) {
            return Err(Error::spec(format!("rlimit {} is given twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::spec(format!(
                "rlimit {}: soft {} is over hard {}",
                limit.typ(),
                limit.soft(),
                limit.hard()
            )));
        }
        let value = |number: u64| (number != libc::RLIM_INFINITY).then_some(number);
        limits.push((resource, Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) }));
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

//! Limits of a bundle, set on the groups of a container.

use std::fs;
use std::io::{self, ErrorKind};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxPids, LinuxResources};

use super::{Cgroup, Group, Version, devices, v1, v2};
use crate::error::{Context, Error, Result};

/// One value for one file; the first of `files` that exists takes it.
#[derive(Debug)]
pub(super) struct Setting {
    controller: &'static str,
    files: Vec<&'static str>,
    value: String,
}

impl Setting {
    /// `None` for a limit that the bundle does not name.
    pub(super) fn new<T: ToString>(
        controller: &'static str,
        file: &'static str,
        value: Option<T>,
    ) -> Option<Self> {
        value.map(|value| Self { controller, files: vec![file], value: value.to_string() })
    }
}

/// What a bundle sets: there zero, or an empty list, is no limit.
pub(super) fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// The files of the block I/O controller in one version of control groups.
#[derive(Debug)]
pub(super) struct BlockIo {
    pub(super) controller: &'static str,
    /// The first that exists takes the weight.
    pub(super) weight: [&'static str; 2],
    /// For bytes read and written a second, then for operations: the file, and what stands before the rate there.
    pub(super) throttles: [(&'static str, &'static str); 4],
}

impl BlockIo {
    fn settings(&self, io: &LinuxBlockIo) -> Vec<Option<Setting>> {
        let weight = given(io.weight()).map(|weight| weight.to_string());
        let weight =
            weight.map(|value| Setting { controller: self.controller, files: self.weight.to_vec(), value });
        let rates = [
            io.throttle_read_bps_device(),
            io.throttle_write_bps_device(),
            io.throttle_read_iops_device(),
            io.throttle_write_iops_device(),
        ];
        let throttles = self.throttles.iter().zip(rates).flat_map(|((file, key), devices)| {
            devices.iter().flatten().map(move |device| {
                let line = format!("{}:{} {key}{}", device.major(), device.minor(), device.rate());
                Setting::new(self.controller, file, Some(line))
            })
        });
        std::iter::once(weight).chain(throttles).collect()
    }
}

/// The same in both versions.
fn cpuset(cpu: &LinuxCpu) -> Vec<Option<Setting>> {
    let set = |file, list: &Option<String>| Setting::new("cpuset", file, given(list.clone()));
    vec![set("cpuset.cpus", cpu.cpus()), set("cpuset.mems", cpu.mems())]
}

impl Cgroup {
    /// Sets every limit that `resources` names, and leaves others as they are.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.apply_all(resources, Version::V1)?;
        self.apply_all(resources, Version::V2)?;
        for limit in resources.hugepage_limits().iter().flatten() {
            self.hugepages(limit.page_size(), limit.limit())?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            let what = || format!("setting {file} to {value:?}");
            let group = self
                .v2()
                .ok_or_else(|| Error::spec(format!("{file}: this host has no unified hierarchy")))?;
            if file.contains('/') {
                return Err(Error::spec(format!("{file:?} is not a file of a control group")));
            }
            fs::write(group.dir.join(file), value).context(what)?;
        }
        match resources.devices().as_deref() {
            None | Some([]) => Ok(()),
            Some(rules) => self.restrict_devices(rules),
        }
    }

    /// A controller is in a v1 hierarchy or in the unified one; each setting goes where its controller is.
    fn apply_all(&self, resources: &LinuxResources, version: Version) -> Result<()> {
        let mut settings = Vec::new();
        let mut here =
            |controller: &str, make: &mut dyn FnMut() -> Result<Vec<Option<Setting>>>| -> Result<()> {
                if self.version(controller) == version {
                    settings.extend(make()?.into_iter().flatten());
                }
                Ok(())
            };
        let old = version == Version::V1;
        if let Some(memory) = resources.memory() {
            here("memory", &mut || if old { Ok(v1::memory(memory)) } else { v2::memory(memory) })?;
        }
        if let Some(cpu) = resources.cpu() {
            here("cpu", &mut || Ok(if old { v1::cpu(cpu) } else { v2::cpu(cpu) }))?;
            here("cpuset", &mut || Ok(cpuset(cpu)))?;
        }
        if let Some(io) = resources.block_io() {
            let files = if old { &v1::BLOCK_IO } else { &v2::BLOCK_IO };
            here("blkio", &mut || Ok(files.settings(io)))?;
        }
        if let Some(limit) = given(resources.pids().as_ref().map(LinuxPids::limit)) {
            here("pids", &mut || Ok(vec![Setting::new("pids", "pids.max", Some(v2::max(limit)))]))?;
        }
        settings.iter().try_for_each(|setting| self.set(setting, version))
    }

    fn version(&self, controller: &str) -> Version {
        if self.v1(controller).is_some() { Version::V1 } else { Version::V2 }
    }

    fn set(&self, setting: &Setting, version: Version) -> Result<()> {
        let group = match version {
            Version::V1 => self.v1(setting.controller),
            Version::V2 => self.v2(),
        };
        let what = || format!("setting {} to {}", setting.files[0], setting.value);
        let missing = |thing| Error::spec(format!("{}: this host gives containers no {thing}", what()));
        let group = group.ok_or_else(|| missing(format!("{} controller", setting.controller)))?;
        for file in &setting.files {
            match write(group, file, &setting.value) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                written => return written.context(what),
            }
        }
        Err(missing(format!("file {} (controller {})", setting.files[0], setting.controller)))
    }

    fn hugepages(&self, size: &str, limit: i64) -> Result<()> {
        let (group, file) = match self.v1("hugetlb") {
            Some(group) => (Some(group), format!("hugetlb.{size}.limit_in_bytes")),
            None => (self.v2(), format!("hugetlb.{size}.max")),
        };
        let what = || format!("setting {file} to {limit}");
        let group =
            group.ok_or_else(|| Error::spec(format!("{}: this host has no hugetlb controller", what())))?;
        write(group, &file, &limit.to_string()).context(what)
    }

    fn restrict_devices(&self, rules: &[oci_spec::runtime::LinuxDeviceCgroup]) -> Result<()> {
        let rules = devices::rules(rules)?;
        match (self.v1("devices"), self.v2()) {
            (Some(group), _) => devices::apply_v1(&group.dir, &rules),
            (None, Some(group)) => devices::apply_v2(&group.dir, &rules),
            (None, None) => Err(Error::spec("device rules: this host has no hierarchy of control groups")),
        }
    }
}

/// Without O_CREAT, which a control group answers with EACCES instead of ENOENT.
fn write(group: &Group, file: &str, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(group.dir.join(file))?;
    io::Write::write_all(&mut file, value.as_bytes())
}

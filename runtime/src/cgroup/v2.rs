//! Limits as files of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::resources::Setting;
use crate::error::{Error, Result};

/// The controllers of every container, for statistics and for limits that are set later, and those that
/// `resources` needs.
pub(super) fn controllers(resources: Option<&LinuxResources>) -> Vec<&'static str> {
    let mut controllers = vec!["cpu", "cpuset", "io", "memory", "pids"];
    let pages = resources.and_then(|resources| resources.hugepage_limits().as_ref());
    if pages.is_some_and(|limits| !limits.is_empty()) {
        controllers.push("hugetlb");
    }
    controllers
}

/// Hands those of `controllers` that `dir` has on to the groups below it, one by one: of those that cannot be
/// (a group with processes of its own hands on none), only a limit that needs it fails, when it is set.
pub(super) fn delegate(dir: &Path, controllers: &[&str]) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let control = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for controller in controllers {
        if has(&available, controller) && !has(&enabled, controller) {
            let _ = fs::write(&control, format!("+{controller}"));
        }
    }
}

pub(super) fn memory(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let set = |file, value: Option<i64>| value.map(|value| Setting::new("memory", file, max(value)));
    let swap = match (memory.limit(), memory.swap().filter(|swap| *swap != 0)) {
        (_, None) => None,
        (_, Some(-1)) => Some(-1),
        // The bundle counts memory and swap together, this file swap alone.
        (Some(limit), Some(both)) if limit >= 0 && both >= limit => Some(both - limit),
        (limit, Some(both)) => {
            let limit = limit.map_or("none".to_owned(), |limit| limit.to_string());
            return Err(Error::spec(format!(
                "memory and swap limit {both} must not be below the memory limit ({limit})"
            )));
        }
    };
    let settings = [
        set("memory.max", memory.limit()),
        set("memory.swap.max", swap),
        set("memory.low", memory.reservation()),
    ];
    Ok(settings.into_iter().flatten().collect())
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Setting> {
    let set =
        |controller, file, value: Option<String>| value.map(|value| Setting::new(controller, file, value));
    let text = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let bandwidth = match (cpu.quota().filter(|quota| *quota != 0), text(cpu.period())) {
        (None, None) => None,
        (quota, period) => {
            Some(format!("{} {}", max(quota.unwrap_or(-1)), period.unwrap_or_else(|| "100000".into())))
        }
    };
    [
        set(
            "cpu",
            "cpu.weight",
            cpu.shares().filter(|shares| *shares != 0).map(|shares| weight(shares).to_string()),
        ),
        set("cpu", "cpu.max", bandwidth),
        set("cpu", "cpu.max.burst", text(cpu.burst())),
        set("cpu", "cpu.idle", cpu.idle().map(|idle| idle.to_string())),
        set("cpuset", "cpuset.cpus", cpu.cpus().clone().filter(|list| !list.is_empty())),
        set("cpuset", "cpuset.mems", cpu.mems().clone().filter(|list| !list.is_empty())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn block_io(io: &LinuxBlockIo) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        let files = vec!["io.bfq.weight", "io.weight"];
        settings.push(Setting { controller: "io", files, value: weight.to_string() });
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new("io", "io.max", value));
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
    settings
}

fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Shares (2 to 262144) on the scale of weights (1 to 10000), as the OCI specification's implementers agreed.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_shares_scale_are_the_ends_of_the_weight_scale() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn swap_below_memory_is_refused_and_not_wrapped() {
        let limits = oci_spec::runtime::LinuxMemoryBuilder::default().limit(200).swap(100).build().unwrap();
        assert!(memory(&limits).unwrap_err().to_string().contains("must not be below"));
    }
}

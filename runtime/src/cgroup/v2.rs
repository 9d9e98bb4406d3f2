//! Limits as files of the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::resources::{BlockIo, Setting, given};
use crate::error::{Error, Result};

pub(super) const BLOCK_IO: BlockIo = BlockIo {
    controller: "io",
    weight: ["io.bfq.weight", "io.weight"],
    throttles: [("io.max", "rbps="), ("io.max", "wbps="), ("io.max", "riops="), ("io.max", "wiops=")],
};

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

pub(super) fn memory(memory: &LinuxMemory) -> Result<Vec<Option<Setting>>> {
    let set = |file, value: Option<i64>| Setting::new("memory", file, value.map(max));
    let swap = match (memory.limit(), given(memory.swap())) {
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
    Ok(vec![
        set("memory.max", memory.limit()),
        set("memory.swap.max", swap),
        set("memory.low", memory.reservation()),
    ])
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Option<Setting>> {
    let bandwidth = match (given(cpu.quota()), given(cpu.period())) {
        (None, None) => None,
        (quota, period) => Some(format!("{} {}", max(quota.unwrap_or(-1)), period.unwrap_or(100_000))),
    };
    vec![
        Setting::new("cpu", "cpu.weight", given(cpu.shares()).map(weight)),
        Setting::new("cpu", "cpu.max", bandwidth),
        Setting::new("cpu", "cpu.max.burst", given(cpu.burst())),
        Setting::new("cpu", "cpu.idle", cpu.idle()),
    ]
}

/// A limit as a file of either version says it; below zero is none.
pub(super) fn max(value: i64) -> String {
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

//! Limits as files of the v1 controllers (Documentation/admin-guide/cgroup-v1).

use std::path::Path;
use std::{fs, io};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxThrottleDevice};

use super::resources::Setting;

/// A new cpuset group has neither processors nor memory nodes, and no process can enter it: it gets its
/// parent's.
pub(super) fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(dir.join(file))?.trim().is_empty() {
            fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)?;
        }
    }
    Ok(())
}

pub(super) fn memory(memory: &LinuxMemory) -> Vec<Setting> {
    let set = |file, value: Option<String>| value.map(|value| Setting::new("memory", file, value));
    let flag = |value: Option<bool>| value.filter(|on| *on).map(|_| "1".to_owned());
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    // The plain limit may not exceed the one with swap, which a new group has unlimited.
    [
        set("memory.limit_in_bytes", number(memory.limit())),
        set("memory.memsw.limit_in_bytes", number(memory.swap().filter(|swap| *swap != 0))),
        set("memory.soft_limit_in_bytes", number(memory.reservation())),
        set("memory.swappiness", memory.swappiness().map(|value| value.to_string())),
        set("memory.oom_control", flag(memory.disable_oom_killer())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Setting> {
    let set =
        |controller, file, value: Option<String>| value.map(|value| Setting::new(controller, file, value));
    let number = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    [
        set("cpu", "cpu.shares", number(cpu.shares())),
        set("cpu", "cpu.cfs_period_us", number(cpu.period())),
        set(
            "cpu",
            "cpu.cfs_quota_us",
            cpu.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string()),
        ),
        set("cpu", "cpu.cfs_burst_us", number(cpu.burst())),
        set("cpu", "cpu.idle", cpu.idle().map(|idle| idle.to_string())),
        set("cpu", "cpu.rt_period_us", number(cpu.realtime_period())),
        set(
            "cpu",
            "cpu.rt_runtime_us",
            cpu.realtime_runtime().filter(|us| *us != 0).map(|us| us.to_string()),
        ),
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
        // CFQ's file is gone since Linux 5.0; BFQ's has a name of its own.
        let files = vec!["blkio.weight", "blkio.bfq.weight"];
        settings.push(Setting { controller: "blkio", files, value: weight.to_string() });
    }
    let mut throttle = |file, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(Setting::new("blkio", file, value));
        }
    };
    throttle("blkio.throttle.read_bps_device", io.throttle_read_bps_device());
    throttle("blkio.throttle.write_bps_device", io.throttle_write_bps_device());
    throttle("blkio.throttle.read_iops_device", io.throttle_read_iops_device());
    throttle("blkio.throttle.write_iops_device", io.throttle_write_iops_device());
    settings
}

//! Limits as files of the v1 controllers (Documentation/admin-guide/cgroup-v1).

use std::path::Path;
use std::{fs, io};

use oci_spec::runtime::{LinuxCpu, LinuxMemory};

use super::resources::{BlockIo, Setting, given};

pub(super) const BLOCK_IO: BlockIo = BlockIo {
    controller: "blkio",
    // CFQ's file is gone since Linux 5.0; BFQ's has a name of its own.
    weight: ["blkio.weight", "blkio.bfq.weight"],
    throttles: [
        ("blkio.throttle.read_bps_device", ""),
        ("blkio.throttle.write_bps_device", ""),
        ("blkio.throttle.read_iops_device", ""),
        ("blkio.throttle.write_iops_device", ""),
    ],
};

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

pub(super) fn memory(memory: &LinuxMemory) -> Vec<Option<Setting>> {
    let killer_is_off = memory.disable_oom_killer().filter(|off| *off);
    // The plain limit may not exceed the one with swap, which a new group has unlimited.
    vec![
        Setting::new("memory", "memory.limit_in_bytes", memory.limit()),
        Setting::new("memory", "memory.memsw.limit_in_bytes", given(memory.swap())),
        Setting::new("memory", "memory.soft_limit_in_bytes", memory.reservation()),
        Setting::new("memory", "memory.swappiness", memory.swappiness()),
        Setting::new("memory", "memory.oom_control", killer_is_off.map(u8::from)),
    ]
}

pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Option<Setting>> {
    vec![
        Setting::new("cpu", "cpu.shares", given(cpu.shares())),
        Setting::new("cpu", "cpu.cfs_period_us", given(cpu.period())),
        Setting::new("cpu", "cpu.cfs_quota_us", given(cpu.quota())),
        Setting::new("cpu", "cpu.cfs_burst_us", given(cpu.burst())),
        Setting::new("cpu", "cpu.idle", cpu.idle()),
        Setting::new("cpu", "cpu.rt_period_us", given(cpu.realtime_period())),
        Setting::new("cpu", "cpu.rt_runtime_us", given(cpu.realtime_runtime())),
    ]
}

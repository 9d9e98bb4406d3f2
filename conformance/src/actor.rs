//! Threads that act as somebody with fewer rights than the suite has.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::outcome::{Doing, Stop, Verdict};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// Does something as a user that owns nothing and may do nothing special.
pub(crate) fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Verdict<T> {
    with_fewer_rights(work, || {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        Ok(set_thread_res_uid(user, user, user)?)
    })
}

/// Does something as root, but bound by quotas: `CAP_SYS_RESOURCE` lets a process write past a project quota, and the
/// blocks that ext4 keeps for root.
pub(crate) fn under_quota<T: Send>(work: impl FnOnce() -> T + Send) -> Verdict<T> {
    with_fewer_rights(work, || {
        let mut sets = capabilities(None)?;
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
        Ok(set_capabilities(None, sets)?)
    })
}

fn with_fewer_rights<T: Send>(
    work: impl FnOnce() -> T + Send,
    drop_rights: impl FnOnce() -> io::Result<()> + Send,
) -> Verdict<T> {
    let acted = std::thread::scope(|scope| scope.spawn(|| drop_rights().map(|()| work())).join());
    acted.map_err(|_| Stop::failed("the thread with fewer rights panicked"))?.doing(|| "give up rights")
}

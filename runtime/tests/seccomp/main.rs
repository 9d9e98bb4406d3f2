//! What a compiled filter promises: the same answer as its profile, for every call, at every boundary; in an
//! interpreter, and in the kernel of this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cache;
mod default;
mod kernel;
mod meaning;
mod profiles;
mod sys;
mod vm;

use std::collections::HashSet;

use mica_runtime::seccomp::{self, Program};
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

/// A profile in the form in which it stands in a bundle.
fn profile(json: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// What a container has when nobody says otherwise.
fn usual_capabilities() -> Capabilities {
    use Capability::*;
    HashSet::from([
        AuditWrite,
        Chown,
        DacOverride,
        Fowner,
        Fsetid,
        Kill,
        Mknod,
        NetBindService,
        NetRaw,
        Setfcap,
        Setgid,
        Setpcap,
        Setuid,
        SysChroot,
    ])
}

fn default_program() -> Program {
    seccomp::compile(&seccomp::default_profile(&usual_capabilities(), (6, 1))).unwrap()
}

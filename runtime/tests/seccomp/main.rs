//! What a compiled filter promises: the same answer as its profile, for every call, at every boundary; in an
//! interpreter, and in the kernel of this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cache;
mod kernel;
mod sys;

// What they expect is spelt in the numbers of an x86_64 host.
#[cfg(target_arch = "x86_64")]
mod default;
#[cfg(target_arch = "x86_64")]
mod meaning;
#[cfg(target_arch = "x86_64")]
mod profiles;
#[cfg(target_arch = "x86_64")]
mod vm;

use std::collections::HashSet;

use mica_runtime::seccomp::{self, Program};
use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

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

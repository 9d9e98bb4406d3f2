//! Drivers that lie about what they can do: a claim that is not kept is caught, and so is an ability that is not claimed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/fault.rs"]
mod fault;
#[path = "support/plain.rs"]
mod plain;

use fault::{Fault, is_caught_by};
use mica_core::mount::MountSpec;
use mica_core::{
    Capabilities, Chain, Created, GraphDriver, LayerOptions, MountRequest, Mounts, Quota, Result, Support,
};
use plain::Plain;

/// Declares a driver that makes a claim, and is not otherwise changed.
macro_rules! claims {
    ($fault:ident, $claim:expr) => {
        #[derive(Debug, Default)]
        struct $fault;

        impl Fault for $fault {
            fn claims(honest: &mut Capabilities) {
                let claim: fn(&mut Capabilities) = $claim;
                claim(honest);
            }
        }
    };
}

claims!(ClaimsSharedData, |claims| claims.shared_data = true);

#[test]
fn claimed_shared_data() {
    is_caught_by::<ClaimsSharedData>(&["usage-of-child"]);
}

claims!(ClaimsDetachedApply, |claims| claims.detached_apply = true);

#[test]
fn claimed_detached_apply() {
    is_caught_by::<ClaimsDetachedApply>(&["detached-apply", "detached-whiteouts", "detached-in-parallel"]);
}

claims!(ClaimsDepth, |claims| claims.max_depth = Some(150));

#[test]
fn claimed_limit_of_depth() {
    is_caught_by::<ClaimsDepth>(&["too-deep"]);
}

claims!(HidesDuplicate, |claims| claims.duplicate = false);

#[test]
fn unclaimed_duplicate() {
    is_caught_by::<HidesDuplicate>(&[
        "duplicate",
        "duplicate-of-mounted",
        "duplicates-are-apart",
        "duplicate-errors",
    ]);
}

claims!(HidesIdMaps, |claims| claims.id_maps = Support::no("so it says"));

#[test]
fn unclaimed_id_maps() {
    is_caught_by::<HidesIdMaps>(&["id-maps"]);
}

claims!(HidesRenames, |claims| claims.posix.rename_lower_dirs = false);

#[test]
fn unclaimed_renames_of_lower_directories() {
    is_caught_by::<HidesRenames>(&["renames-of-lower-directories"]);
}

claims!(HidesCoherence, |claims| claims.posix.coherent_open = false);

#[test]
fn unclaimed_coherent_open() {
    is_caught_by::<HidesCoherence>(&["open-file-across-first-write"]);
}

claims!(HidesHardLinks, |claims| claims.posix.lower_hard_links = false);

#[test]
fn unclaimed_lower_hard_links() {
    is_caught_by::<HidesHardLinks>(&["hard-links-across-layers"]);
}

/// Takes a quota, and does not keep it.
#[derive(Debug, Default)]
struct ClaimsQuota;

impl Fault for ClaimsQuota {
    fn claims(honest: &mut Capabilities) {
        honest.quota_bytes = Support::Yes;
        honest.quota_inodes = Support::Yes;
    }

    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        plain.create(chain, &LayerOptions { quota: Quota::default(), ..options.clone() })
    }
}

#[test]
fn claimed_quota() {
    is_caught_by::<ClaimsQuota>(&[
        "quota-bytes",
        "quota-bytes-is-the-layers",
        "quota-bytes-of-duplicate",
        "quota-inodes",
    ]);
}

/// Takes a quota although it claims none, and does not keep it.
#[derive(Debug, Default)]
struct IgnoresQuota;

impl Fault for IgnoresQuota {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        plain.create(chain, &LayerOptions { quota: Quota::default(), ..options.clone() })
    }
}

#[test]
fn ignored_quota() {
    is_caught_by::<IgnoresQuota>(&[
        "quota-bytes",
        "quota-bytes-is-the-layers",
        "quota-bytes-of-duplicate",
        "quota-inodes",
    ]);
}

#[derive(Debug, Default)]
struct IgnoresIdMaps;

impl Fault for IgnoresIdMaps {
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let mut mounts = plain.mounts(chain, request)?;
        for spec in &mut mounts.specs {
            if let MountSpec::Bind(bind) = spec {
                bind.id_map = None;
            }
        }
        Ok(mounts)
    }
}

#[test]
fn ignored_id_maps() {
    is_caught_by::<IgnoresIdMaps>(&["id-maps"]);
}

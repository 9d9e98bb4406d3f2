//! Drivers that lie about what they can do: a claim that is not kept is caught, and so is an ability that is not claimed.

use mica_core::mount::MountSpec;
use mica_core::{
    Capabilities, Chain, Created, GraphDriver, LayerOptions, MountRequest, Mounts, Quota, Result, Support,
};

use crate::fault::Fault;
use crate::plain::Plain;

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

claims!(ClaimsDetachedApply, |claims| claims.detached_apply = true);

claims!(ClaimsDepth, |claims| claims.max_depth = Some(150));

claims!(HidesDuplicate, |claims| claims.duplicate = false);

claims!(HidesIdMaps, |claims| claims.id_maps = Support::no("so it says"));

claims!(HidesRenames, |claims| claims.posix.rename_lower_dirs = false);

claims!(HidesCoherence, |claims| claims.posix.coherent_open = false);

claims!(HidesHardLinks, |claims| claims.posix.lower_hard_links = false);

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

/// Takes a quota although it claims none, and does not keep it.
#[derive(Debug, Default)]
struct IgnoresQuota;

impl Fault for IgnoresQuota {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        plain.create(chain, &LayerOptions { quota: Quota::default(), ..options.clone() })
    }
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

caught! {
    claimed_shared_data: ClaimsSharedData => ["usage-of-child"];
    claimed_detached_apply: ClaimsDetachedApply => ["detached-apply", "detached-whiteouts", "detached-in-parallel"];
    claimed_limit_of_depth: ClaimsDepth => ["too-deep"];
    unclaimed_duplicate: HidesDuplicate => ["duplicate", "duplicate-of-mounted", "duplicates-are-apart", "duplicate-errors"];
    unclaimed_id_maps: HidesIdMaps => ["id-maps"];
    unclaimed_renames_of_lower_directories: HidesRenames => ["renames-of-lower-directories", "changes-of-renamed-directories"];
    unclaimed_coherent_open: HidesCoherence => ["open-file-across-first-write"];
    unclaimed_lower_hard_links: HidesHardLinks => ["hard-links-across-layers"];
    claimed_quota: ClaimsQuota => ["quota-bytes", "quota-bytes-is-the-layers", "quota-bytes-of-duplicate", "quota-inodes"];
    ignored_quota: IgnoresQuota => ["quota-bytes", "quota-bytes-is-the-layers", "quota-bytes-of-duplicate", "quota-inodes"];
    ignored_id_maps: IgnoresIdMaps => ["id-maps"];
}

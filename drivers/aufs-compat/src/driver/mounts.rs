//! How a layer is mounted.

use std::path::Path;

use mica_core::mount::{Bind, Helper};
use mica_core::{Chain, LayerId, MountOptions, MountSpec, Mounts, Result, WhiteoutForm};

use super::AufsCompat;
use super::layer::{Layer, State};
use crate::branches::{BranchSpec, Permission};
use crate::mount_options::ServeOptions;
use crate::{NAME, helper};

/// What a branch is for. Every one of a layer may hide what is below.
pub(super) const WRITTEN: Permission = Permission::Writable { whole_whiteouts: false };
const READ: Permission = Permission::ReadOnly { real: false, whiteouts: true };

impl AufsCompat {
    /// The layer's own branch over those of its parents.
    pub(super) fn read(&self, layer: &Layer, chain: Chain<'_>, options: &MountOptions) -> Mounts {
        self.union(layer, chain, READ, options)
    }

    /// The layer's own branch, written, over those of its parents.
    pub(super) fn write(&self, layer: &Layer, chain: Chain<'_>, options: &MountOptions) -> Mounts {
        self.union(layer, chain, WRITTEN, options)
    }

    /// The layer's own branch. That of a base layer is its whole tree, where a deletion deletes.
    pub(super) fn apply(&self, layer: &Layer, chain: Chain<'_>) -> Result<Mounts> {
        let base = chain.parents.is_empty() && layer.state()? == State::Writable;
        Ok(alone(layer, false, if base { WhiteoutForm::Merged } else { WhiteoutForm::Aufs }))
    }

    /// Where the layer is, and the branches of its tree as AUFS shows them in `/sys/fs/aufs/si_…/brN`.
    pub(super) fn places(&self, layer: &Layer, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        let own = if layer.state()? == State::Committed { READ } else { WRITTEN };
        let mut rows = vec![("UpperDir".to_owned(), layer.diff().display().to_string())];
        for (number, branch) in self.branches(layer.diff(), chain.parents, own).iter().enumerate() {
            rows.push((format!("br{number}"), branch.text().display().to_string()));
        }
        Ok(rows)
    }

    /// A union, or the one branch as it is where there is no other.
    fn union(&self, layer: &Layer, chain: Chain<'_>, own: Permission, options: &MountOptions) -> Mounts {
        let read_only = !own.is_writable();
        if chain.parents.is_empty() {
            return alone(layer, read_only, WhiteoutForm::Merged);
        }
        let served = ServeOptions {
            stale_reads: self.options.stale_reads,
            volatile: options.volatile && self.options.volatile,
            passthrough: self.options.passthrough.unwrap_or(true),
            threads: Some(self.options.threads.into()).filter(|&threads| threads > 0),
            id: None,
        };
        let args = helper::arguments(&self.branches(layer.diff(), chain.parents, own), &served);
        let helper = Helper { driver: NAME.to_owned(), args, read_only, label: options.label.clone() };
        Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Merged }
    }

    /// A layer's own branch, and those of its parents.
    pub(super) fn branches(
        &self,
        own: &Path,
        parents: &[LayerId],
        permission: Permission,
    ) -> Vec<BranchSpec> {
        let own = BranchSpec { path: own.to_owned(), permission };
        let parents = parents.iter().map(|id| Layer::at(&self.root, id).diff().to_owned());
        std::iter::once(own).chain(parents.map(|path| BranchSpec { path, permission: READ })).collect()
    }
}

fn alone(layer: &Layer, read_only: bool, whiteouts: WhiteoutForm) -> Mounts {
    let bind = Bind { source: layer.diff().to_owned(), read_only, ..Bind::default() };
    Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts }
}

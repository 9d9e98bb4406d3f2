//! How a layer is mounted.

use std::ffi::OsString;

use mica_core::mount::{Bind, Helper};
use mica_core::{Chain, LayerId, MountOptions, MountSpec, Mounts, Result, WhiteoutForm};

use super::AufsCompat;
use super::layer::{Layer, State};
use crate::NAME;

/// What a branch is for, as AUFS writes it. Every branch of a layer may hide what is below.
const WRITTEN: &str = "rw";
const READ: &str = "ro+wh";

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
        for (number, branch) in self.branches(layer, chain.parents, own).enumerate() {
            rows.push((format!("br{number}"), branch.display().to_string()));
        }
        Ok(rows)
    }

    /// A union, or the one branch as it is where there is no other.
    fn union(&self, layer: &Layer, chain: Chain<'_>, own: &str, options: &MountOptions) -> Mounts {
        let read_only = own == READ;
        if chain.parents.is_empty() {
            return alone(layer, read_only, WhiteoutForm::Merged);
        }
        let mut args = vec![OsString::from(self.helper_options(options))];
        args.extend(self.branches(layer, chain.parents, own));
        let helper = Helper { driver: NAME.to_owned(), args, read_only, label: options.label.clone() };
        Mounts { specs: vec![MountSpec::Helper(helper)], whiteouts: WhiteoutForm::Merged }
    }

    /// What the helper is told beside the branches.
    fn helper_options(&self, options: &MountOptions) -> String {
        let passthrough = match self.options.passthrough {
            None => "auto",
            Some(true) => "yes",
            Some(false) => "no",
        };
        let mut words = vec![format!("passthrough={passthrough}")];
        if self.options.stale_reads {
            words.push("stale_reads".to_owned());
        }
        if options.volatile && self.options.volatile {
            words.push("volatile".to_owned());
        }
        if self.options.threads > 0 {
            words.push(format!("threads={}", self.options.threads));
        }
        words.join(",")
    }

    /// Each branch with what it is for, the layer's own first.
    fn branches(&self, layer: &Layer, parents: &[LayerId], own: &str) -> impl Iterator<Item = OsString> {
        let branch = |layer: &Layer, purpose: &str| {
            let mut text = layer.diff().as_os_str().to_owned();
            text.push("=");
            text.push(purpose);
            text
        };
        let first = branch(layer, own);
        std::iter::once(first).chain(parents.iter().map(move |id| branch(&Layer::at(&self.root, id), READ)))
    }
}

fn alone(layer: &Layer, read_only: bool, whiteouts: WhiteoutForm) -> Mounts {
    let bind = Bind { source: layer.diff().to_owned(), read_only, ..Bind::default() };
    Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts }
}

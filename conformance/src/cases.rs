//! The list, by theme.
// A case owns its bench, so that it can end it, as a program ends, and open another.
#![allow(clippy::needless_pass_by_value)]

mod apply;
mod changes;
mod concurrency;
mod depth;
mod duplicate;
mod errors;
mod full;
mod kinds;
mod leftovers;
mod lifecycle;
mod posix;
mod random;
mod recovery;
mod space;
mod tree;

use crate::case::Case;

/// Every case, in the order in which they are best read.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    let themes = [
        lifecycle::CASES,
        tree::CASES,
        kinds::CASES,
        posix::CASES,
        apply::CASES,
        changes::CASES,
        depth::CASES,
        duplicate::CASES,
        errors::CASES,
        space::CASES,
        full::CASES,
        concurrency::CASES,
        recovery::CASES,
        random::CASES,
        leftovers::CASES,
    ];
    themes.into_iter().flatten()
}

/// Declares a list of cases: `"name" run "promise";`, and for one that depends on a capability
/// `"name" run "promise", Capability else otherwise;`.
macro_rules! list {
    ($($name:literal $run:path = $promise:literal $(, $capability:ident else $otherwise:path)?;)+) => {
        pub(super) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            name: $name,
            promise: $promise,
            gate: list!(@gate $($capability $otherwise)?),
            run: $run,
        }),+];
    };
    (@gate) => { None };
    (@gate $capability:ident $otherwise:path) => {
        Some($crate::case::Gate { capability: $crate::case::Capability::$capability, otherwise: $otherwise })
    };
}

pub(crate) use list;

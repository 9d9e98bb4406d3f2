//! The list, by theme.

mod depth;
mod duplicate;
mod errors;
mod kinds;
mod lifecycle;
mod posix;
mod tree;

use crate::case::Case;

/// Every case, in the order in which they are best read.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [lifecycle::CASES, tree::CASES, kinds::CASES, posix::CASES, depth::CASES, duplicate::CASES, errors::CASES]
        .into_iter()
        .flatten()
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

//! The list, by theme.

mod attach;
mod broken;
mod crowds;
mod detach;
mod lifecycle;
mod owners;
mod plan;
mod ports;
mod shield;
mod update;

use super::Case;

/// Every case, in the order in which they are best read.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    let themes = [
        plan::CASES,
        lifecycle::CASES,
        attach::CASES,
        detach::CASES,
        update::CASES,
        ports::CASES,
        shield::CASES,
        broken::CASES,
        owners::CASES,
        crowds::CASES,
    ];
    themes.into_iter().flatten()
}

/// Declares a list of cases: `"name" run = "promise";`, and for one that depends on a capability
/// `"name" run = "promise", Capability else otherwise;`.
macro_rules! list {
    ($($name:literal $run:path = $promise:literal $(, $capability:ident else $otherwise:path)?;)+) => {
        pub(super) const CASES: &[$crate::network::Case] = &[$($crate::network::Case {
            name: $name,
            promise: $promise,
            gate: list!(@gate $($capability $otherwise)?),
            run: $run,
        }),+];
    };
    (@gate) => { None };
    (@gate $capability:ident $otherwise:path) => {
        Some($crate::network::Gate {
            capability: $crate::network::Capability::$capability,
            otherwise: $otherwise,
        })
    };
}

pub(crate) use list;

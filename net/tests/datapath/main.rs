//! What gets through to containers on a bridge, and what does not, under each firewall.
//!
//! Each test plays a whole host in network namespaces of its own: the host, a machine outside of it, and containers. Each is
//! run with every back end, and with both kinds of `iptables`. A test of a rule that keeps something out takes the rule away and
//! shows that the thing then gets in: else it would prove nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod guards;
mod known;
mod lift;
mod namespace;
mod paths;
mod scene;
mod senders;
mod traffic;
mod transit;

/// Makes a test of each function for each back end.
macro_rules! under_both {
    ($($(#[$attribute:meta])* fn $name:ident($scene:ident: Scene) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$attribute])*
            fn run(mut $scene: Scene) $body

            #[test]
            fn nft() {
                if let Some(scene) = Scene::under(Backend::Nft, stringify!($name)) {
                    run(scene);
                }
            }

            #[test]
            fn iptables() {
                if let Some(scene) = Scene::under(Backend::Iptables, stringify!($name)) {
                    run(scene);
                }
            }

            #[test]
            fn iptables_legacy() {
                if let Some(scene) = Scene::under_legacy(stringify!($name)) {
                    run(scene);
                }
            }
        }
    )*};
}
pub(crate) use under_both;

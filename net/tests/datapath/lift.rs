//! Takes rules away, as somebody's own script might, to show what they kept out.

use crate::scene::{Backend, OWNER, Scene};

/// What rules keep out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard {
    /// What is meant for the loopback and does not come from there.
    Loopback,
    /// What is meant for a container's own address and comes from elsewhere.
    Entering,
    /// What comes from a container and goes elsewhere.
    Leaving,
    /// What goes from one container to another by way of the host.
    Within,
    /// What the host would forward for others.
    Transit,
    /// Frames with a sender that is not their own. Under iptables these are filters of links and not rules.
    Senders,
}

impl Guard {
    /// The chains that nft has for it.
    fn chains(self) -> &'static [[&'static str; 2]] {
        match self {
            Self::Loopback => &[["inet", "loopback"]],
            Self::Entering => {
                &[["inet", "shield"], ["inet", "to_ours"], ["inet", "between"], ["inet", "inner"]]
            }
            Self::Leaving => &[["inet", "from_ours"], ["inet", "inner"]],
            Self::Within => &[["inet", "between"]],
            Self::Transit => &[["inet", "transit"], ["inet", "leaving"]],
            Self::Senders => &[["bridge", "senders"]],
        }
    }

    /// What the comments of its rules have after the mark under iptables.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Loopback => &[" loopback"],
            Self::Entering => &[" direct ", " enter "],
            Self::Leaving => &[" leave "],
            Self::Within => &[" within "],
            Self::Transit => &[" close"],
            Self::Senders => &[],
        }
    }
}

/// Takes these guards away from the whole host.
pub(crate) fn lift(scene: &Scene, guards: &[Guard]) {
    for guard in guards {
        match scene.backend {
            Backend::Nft => {
                for [family, chain] in guard.chains() {
                    scene.host.program("nft", &["flush", "chain", family, &format!("mica_{OWNER}"), chain]);
                }
            }
            Backend::Iptables => {
                let lifted: usize = ["iptables", "ip6tables"]
                    .map(|program| delete(scene, program, guard.keys()))
                    .iter()
                    .sum();
                assert!(lifted > 0, "no rule for {guard:?}");
            }
        }
    }
}

/// Deletes the rules that drop something and whose comments have one of these keys.
fn delete(scene: &Scene, program: &str, keys: &[&str]) -> usize {
    let mut deleted = 0;
    for table in ["raw", "mangle", "filter"] {
        let listing = scene.host.program(program, &["-t", table, "-S"]);
        let rules: Vec<_> = listing.lines().filter_map(|line| line.strip_prefix("-A ")).collect();
        let meant = |rule: &str| rule.ends_with("-j DROP") && keys.iter().any(|key| rule.contains(key));
        let chain = |rule: &str| rule.split(' ').next().unwrap().to_owned();
        // The last first, because rules are numbered within their chain.
        for (n, rule) in rules.iter().enumerate().rev().filter(|(_, rule)| meant(rule)) {
            let before = rules[..n].iter().filter(|other| chain(other) == chain(rule));
            let number = (before.count() + 1).to_string();
            scene.host.program(program, &["-t", table, "-D", &chain(rule), &number]);
            deleted += 1;
        }
    }
    deleted
}

//! What an OCI profile says of each number: its meaning, before it is a program.
//!
//! Where the OCI specification is silent, runc is followed, so that one profile means the same under both:
//! a name that an ABI lacks is skipped, the host's own ABI always belongs to the profile, and a rule that has two
//! conditions on one argument stands for as many rules of one condition each. The first rule that matches decides.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxSeccompOperator as Op;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as OciAction, LinuxSeccompArg, LinuxSyscall};

use super::abi::Abi;
use super::{Error, Result};

/// What the kernel is to do with a call: a `SECCOMP_RET_*` with its data, as a filter returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Action(pub(super) u32);

impl Action {
    /// For the calls of an ABI that the profile does not name: nothing was decided about them.
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    /// For calls newer than the profile. Libraries try a new call and take an older one when it is not there;
    /// "not permitted" would stop them.
    pub(super) const ENOSYS: Self = Self(0x0005_0000 | libc::ENOSYS as u32);

    fn from_oci(action: OciAction, errno: Option<u32>) -> Result<Self> {
        let (code, data, max) = match action {
            OciAction::ScmpActErrno => (0x0005_0000, errno.unwrap_or(libc::EPERM as u32), 4095),
            OciAction::ScmpActTrace => (0x7ff0_0000, errno.unwrap_or(libc::EPERM as u32), 0xffff),
            _ if errno.is_some() => return Err(Error::ErrnoUnused { action }),
            OciAction::ScmpActKill | OciAction::ScmpActKillThread => (0, 0, 0),
            OciAction::ScmpActKillProcess => (Self::KILL_PROCESS.0, 0, 0),
            OciAction::ScmpActTrap => (0x0003_0000, 0, 0),
            OciAction::ScmpActLog => (0x7ffc_0000, 0, 0),
            OciAction::ScmpActAllow => (0x7fff_0000, 0, 0),
            OciAction::ScmpActNotify => return Err(Error::Notify),
        };
        if data > max {
            return Err(Error::ErrnoTooLarge { errno: data, max });
        }
        Ok(Self(code | data))
    }
}

/// How an argument, cut to `mask`, is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    GreaterOrEqual,
    Greater,
}

/// A test of one argument: the comparison, and the answer that makes it hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) mask: u64,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
    pub(super) holds: bool,
}

impl Condition {
    pub(super) fn masked(argument: u32, mask: u64, value: u64) -> Self {
        Self { argument, mask, comparison: Comparison::Equal, value: value & mask, holds: true }
    }

    fn from_oci(arg: &LinuxSeccompArg, abi: Abi) -> Result<Self> {
        let Ok(argument @ 0..=5) = u32::try_from(arg.index()) else {
            return Err(Error::Argument { index: arg.index() });
        };
        let mask = abi.argument();
        let all = |comparison, holds| Self { argument, mask, comparison, value: arg.value() & mask, holds };
        Ok(match arg.op() {
            Op::ScmpCmpEq => all(Comparison::Equal, true),
            Op::ScmpCmpNe => all(Comparison::Equal, false),
            Op::ScmpCmpGe => all(Comparison::GreaterOrEqual, true),
            Op::ScmpCmpLt => all(Comparison::GreaterOrEqual, false),
            Op::ScmpCmpGt => all(Comparison::Greater, true),
            Op::ScmpCmpLe => all(Comparison::Greater, false),
            Op::ScmpCmpMaskedEq => Self::masked(argument, arg.value() & mask, arg.value_two().unwrap_or(0)),
        })
    }
}

/// An action for the calls whose arguments meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// What becomes of a call: the action of the first rule that matches, or else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: Action,
}

impl Verdict {
    fn always(action: Action) -> Self {
        Self { rules: Vec::new(), otherwise: action }
    }

    /// Keeps of `rules` what can have an effect.
    fn new(mut rules: Vec<Rule>, default: Action) -> Self {
        let mut otherwise = default;
        if let Some(last) = rules.iter().position(|rule| rule.conditions.is_empty()) {
            otherwise = rules[last].action;
            rules.truncate(last);
        }
        while rules.last().is_some_and(|rule| rule.action == otherwise) {
            rules.pop();
        }
        Self { rules, otherwise }
    }
}

/// The numbers of one audit architecture, cut into spans of one verdict each: where each begins, in order, from 0.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) spans: Vec<(u32, Verdict)>,
}

/// The sections of `profile`, the host's own first.
pub(super) fn sections(profile: &LinuxSeccomp) -> Result<Vec<Section>> {
    let mut abis = vec![Abi::NATIVE];
    abis.extend(profile.architectures().iter().flatten().filter_map(|arch| Abi::from_oci(*arch)));
    abis.sort_by_key(|abi| (abi.audit() != Abi::NATIVE.audit(), abi.audit(), *abi));
    abis.dedup();
    abis.chunk_by(|a, b| a.audit() == b.audit()).map(|abis| section(profile, abis)).collect()
}

/// The section of `abis`, which share an audit architecture.
fn section(profile: &LinuxSeccomp, abis: &[Abi]) -> Result<Section> {
    let default = Action::from_oci(profile.default_action(), profile.default_errno_ret())?;
    let unknown = match profile.default_action() {
        // Who lets everything else pass, or has a tracer that answers, means the calls of tomorrow too.
        OciAction::ScmpActAllow | OciAction::ScmpActLog | OciAction::ScmpActTrace => default,
        _ => Action::ENOSYS,
    };
    let mut starts = BTreeMap::from([(0, Verdict::always(Action::KILL_PROCESS))]);
    for abi in abis {
        let rules = rules(profile, *abi)?;
        starts.extend(spans(*abi, rules, default, unknown));
        if *abi == Abi::X86_64 {
            starts.insert(Abi::X32.base(), Verdict::always(Action::KILL_PROCESS));
        }
    }
    // A tracer sets this number to have a call skipped: no ABI's, and no reason to die.
    starts.insert(u32::MAX, Verdict::always(unknown));
    let mut spans: Vec<(u32, Verdict)> = starts.into_iter().collect();
    spans.dedup_by(|next, kept| next.1 == kept.1);
    Ok(Section { audit: abis[0].audit(), spans })
}

/// The rules for each number of `abi` that `profile` names, in the profile's order.
fn rules(profile: &LinuxSeccomp, abi: Abi) -> Result<BTreeMap<u32, Vec<Rule>>> {
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = Action::from_oci(entry.action(), entry.errno_ret())?;
        let alternatives = alternatives(entry, abi)?;
        for name in entry.names() {
            if let Some(number) = abi.number(name) {
                let new =
                    alternatives.iter().map(|conditions| Rule { conditions: conditions.clone(), action });
                rules.entry(number).or_default().extend(new);
            }
            // Behind a multiplexer the arguments are in memory, where no filter sees them.
            let unconditional = alternatives.iter().any(Vec::is_empty);
            if let Some((number, which)) = abi.multiplexed(name).filter(|_| unconditional) {
                rules.entry(number).or_default().push(Rule { conditions: vec![which], action });
            }
        }
    }
    Ok(rules)
}

/// The conditions of `entry`: it applies where all of one of the lists are met.
fn alternatives(entry: &LinuxSyscall, abi: Abi) -> Result<Vec<Vec<Condition>>> {
    let conditions = entry.args().iter().flatten().map(|arg| Condition::from_oci(arg, abi));
    let conditions: Vec<Condition> = conditions.collect::<Result<_>>()?;
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(n, condition)| conditions[..n].iter().any(|earlier| earlier.argument == condition.argument));
    Ok(if repeated {
        conditions.into_iter().map(|condition| vec![condition]).collect()
    } else {
        vec![conditions]
    })
}

/// Where the verdict of `abi`'s numbers can change, and what it is from there on.
fn spans(
    abi: Abi,
    rules: BTreeMap<u32, Vec<Rule>>,
    default: Action,
    unknown: Action,
) -> BTreeMap<u32, Verdict> {
    let mut spans = BTreeMap::from([(abi.base(), Verdict::always(default))]);
    let private = abi.private().unwrap_or(u32::MAX);
    let newest = |numbers: std::ops::Range<u32>| rules.range(numbers).next_back().map(|(number, _)| *number);
    let newest = [newest(abi.base()..private), newest(private..u32::MAX)];
    if abi.private().is_some() {
        spans.insert(private, Verdict::always(default));
    }
    for (number, rules) in rules {
        let beyond = if newest.contains(&Some(number)) { unknown } else { default };
        spans.insert(number, Verdict::new(rules, default));
        if number + 1 != private {
            spans.insert(number + 1, Verdict::always(beyond));
        }
    }
    spans
}

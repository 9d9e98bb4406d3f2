//! An assembler for the kernel's classic BPF.
//!
//! Its jumps go forward only, so a program is laid down from its end: whatever is jumped to is there already, and
//! every distance is known when a jump is written.

use std::collections::HashMap;

use super::policy::{Action, Comparison, Condition, Section, Verdict};

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does: `BPF_LD | BPF_W | BPF_ABS` …
    pub code: u16,
    /// How many instructions a jump skips where its test is true.
    pub jt: u8,
    /// How many where it is false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Loads a word of `struct seccomp_data` by its offset.
pub(super) const LOAD: u16 = 0x20;
/// Keeps the bits of the operand.
pub(super) const AND: u16 = 0x54;
/// Skips `k` instructions.
pub(super) const SKIP: u16 = 0x05;
/// Jumps on equality.
pub(super) const EQUAL: u16 = 0x15;
/// Jumps on greater.
pub(super) const GREATER: u16 = 0x25;
/// Jumps on greater or equal.
pub(super) const GREATER_OR_EQUAL: u16 = 0x35;
/// Ends with the operand as the answer.
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`: the number, the audit architecture, the first of six 64-bit arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Where a jump goes.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// To the instruction that was the nth to be laid down.
    At(usize),
    /// To any instruction that returns this.
    Return(Action),
}

/// A program, its last instruction first.
#[derive(Debug, Default)]
struct Assembler {
    backwards: Vec<Instruction>,
    /// The latest instruction to return each action.
    returns: HashMap<Action, usize>,
}

/// Assembles the filter that gives each call its verdict: it finds the section by the architecture, the verdict by
/// halving the section's spans, and then tests arguments where the verdict has rules.
pub(super) fn assemble(sections: &[Section]) -> Vec<Instruction> {
    let mut program = Assembler::default();
    let starts: Vec<(u32, Target)> = sections.iter().rev().map(|section| program.section(section)).collect();
    let mut next = Target::Return(Action::KILL_PROCESS);
    for (audit, start) in starts {
        next = program.branch(EQUAL, audit, start, next);
    }
    program.put(LOAD, ARCHITECTURE);
    program.backwards.reverse();
    program.backwards
}

impl Assembler {
    fn section(&mut self, section: &Section) -> (u32, Target) {
        let leaves: Vec<(u32, Target)> =
            section.spans.iter().map(|(from, verdict)| (*from, self.verdict(verdict))).collect();
        let mut start = self.search(&leaves);
        if leaves.len() > 1 {
            start = self.put(LOAD, NUMBER);
        }
        (section.audit, start)
    }

    /// Finds the last of `leaves` that does not begin above the number.
    fn search(&mut self, leaves: &[(u32, Target)]) -> Target {
        match leaves {
            [] => Target::Return(Action::KILL_PROCESS),
            [(_, leaf)] => *leaf,
            _ => {
                let (lower, upper) = leaves.split_at(leaves.len() / 2);
                let above = self.search(upper);
                let below = self.search(lower);
                self.branch(GREATER_OR_EQUAL, upper[0].0, above, below)
            }
        }
    }

    /// The rules of `verdict`, tried in order.
    fn verdict(&mut self, verdict: &Verdict) -> Target {
        verdict.rules.iter().rev().fold(Target::Return(verdict.otherwise), |next, rule| {
            let matched = Target::Return(rule.action);
            rule.conditions.iter().rev().fold(matched, |met, condition| self.condition(condition, met, next))
        })
    }

    /// Compares an argument by halves, the upper first.
    fn condition(&mut self, condition: &Condition, met: Target, unmet: Target) -> Target {
        let (yes, no) = if condition.holds { (met, unmet) } else { (unmet, met) };
        let offset = ARGUMENTS + 8 * condition.argument;
        let halves = |n: u64| ((n >> 32) as u32, n as u32);
        let ((high_mask, low_mask), (high, low)) = (halves(condition.mask), halves(condition.value));
        let code = match condition.comparison {
            Comparison::Equal => EQUAL,
            Comparison::Greater => GREATER,
            Comparison::GreaterOrEqual => GREATER_OR_EQUAL,
        };
        let lower = self.half(offset, low_mask, (code, low), yes, no);
        if high_mask == 0 {
            return lower;
        }
        let differs = if code == EQUAL { no } else { self.branch(GREATER, high, yes, no) };
        self.half(offset + 4, high_mask, (EQUAL, high), lower, differs)
    }

    /// Tests the word at `offset`, cut to `mask`.
    fn half(&mut self, offset: u32, mask: u32, (code, k): (u16, u32), yes: Target, no: Target) -> Target {
        if mask == 0 {
            return yes;
        }
        self.branch(code, k, yes, no);
        if mask != u32::MAX {
            self.put(AND, mask);
        }
        self.put(LOAD, offset)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        let no = self.within_reach(no);
        let yes = self.within_reach(yes);
        let skip = |target: usize| (self.backwards.len() - target - 1) as u8;
        let instruction = Instruction { code, jt: skip(yes), jf: skip(no), k };
        self.backwards.push(instruction);
        Target::At(self.backwards.len() - 1)
    }

    /// Where to jump so as to arrive at `target`, at most 255 instructions away from the next but one.
    fn within_reach(&mut self, target: Target) -> usize {
        let next = self.backwards.len();
        let near = |at: &usize| next - at <= usize::from(u8::MAX);
        match target {
            Target::At(at) if near(&at) => return at,
            Target::At(at) => self.put(SKIP, (next - at - 1) as u32),
            Target::Return(action) => {
                if let Some(at) = self.returns.get(&action).copied().filter(near) {
                    return at;
                }
                self.returns.insert(action, next);
                self.put(RETURN, action.0)
            }
        };
        next
    }

    fn put(&mut self, code: u16, k: u32) -> Target {
        self.backwards.push(Instruction { code, jt: 0, jf: 0, k });
        Target::At(self.backwards.len() - 1)
    }
}

//! Device rules as an eBPF program, for v2 groups (Documentation/admin-guide/cgroup-v2.rst, "Device
//! controller").

use super::devices::{Access, Kind, Rule};
use crate::sys::Instruction;

// Operations (linux/bpf.h, linux/bpf_common.h): class, source of the operand, and what is done.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE: u8 = 0xb4;
const JUMP_IF_EQUAL: u8 = 0x16;
const JUMP_IF_NOT_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

// Registers: the verdict, the question (`struct bpf_cgroup_dev_ctx`), and its parts.
const VERDICT: u8 = 0;
const QUESTION: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// All accesses: BPF_DEVCG_ACC_MKNOD, _READ and _WRITE.
const EVERY: i32 = 1 | 2 | 4;

/// A program that answers as the last matching of `rules` says, and yes where none matches.
///
/// An allowing rule matches a request all of which it allows, a denying one a request any of which it denies.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, QUESTION, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, QUESTION, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, QUESTION, 4, 0),
        instruction(LOAD_WORD, MINOR, QUESTION, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let tests = tests(rule);
        // Nothing can be behind a rule that always matches: the kernel refuses code that is never reached.
        let always = tests.is_empty();
        program.extend(link(tests));
        program.extend(verdict(rule.allow));
        if always {
            return program;
        }
    }
    program.extend(verdict(true));
    program
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE, VERDICT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

/// What has to hold for a rule to match; each jump leads to the next rule, by a distance still to be filled
/// in.
fn tests(rule: &Rule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    let mut unless = |operation, register, value| tests.push(instruction(operation, register, 0, 0, value));
    match rule.kind {
        Kind::Any => {}
        Kind::Block => unless(JUMP_IF_NOT_EQUAL, KIND, 1),
        Kind::Character => unless(JUMP_IF_NOT_EQUAL, KIND, 2),
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            unless(JUMP_IF_NOT_EQUAL, register, number as i32);
        }
    }
    let Access { read, write, mknod } = rule.access;
    let bits = i32::from(mknod) | i32::from(read) << 1 | i32::from(write) << 2;
    if bits != EVERY {
        let (mask, operation) =
            if rule.allow { (EVERY & !bits, JUMP_IF_NOT_EQUAL) } else { (bits, JUMP_IF_EQUAL) };
        tests.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        tests.push(instruction(AND, SCRATCH, 0, 0, mask));
        tests.push(instruction(operation, SCRATCH, 0, 0, 0));
    }
    tests
}

/// Fills in the distances: over the tests that follow and the two instructions of the verdict.
fn link(mut tests: Vec<Instruction>) -> Vec<Instruction> {
    let length = tests.len();
    for (index, test) in tests.iter_mut().enumerate() {
        if matches!(test[0], JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL) {
            // A rule has at most six tests.
            let distance = (length - index - 1 + 2) as i16;
            test[2..4].copy_from_slice(&distance.to_ne_bytes());
        }
    }
    tests
}

fn instruction(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let [offset_0, offset_1] = offset.to_ne_bytes();
    let [a, b, c, d] = value.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    [operation, registers, offset_0, offset_1, a, b, c, d]
}

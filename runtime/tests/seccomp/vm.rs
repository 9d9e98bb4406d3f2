//! The kernel's side of a filter: an interpreter of the instructions that seccomp accepts.

use mica_runtime::seccomp::{Instruction, Program};

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) audit: u32,
    pub(crate) number: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    /// The word at `offset` of `struct seccomp_data`; the instruction pointer is 0.
    fn word(&self, offset: u32) -> u32 {
        assert_eq!(offset % 4, 0, "an unaligned load");
        match offset {
            0 => self.number,
            4 => self.audit,
            8 | 12 => 0,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("a load beyond the data: {offset}"),
        }
    }
}

/// The answer of `program` to `call`, and the instructions that it took.
pub(crate) fn run(program: &Program, call: &Call) -> (u32, usize) {
    let (mut at, mut a, mut steps) = (0, 0_u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = program.instructions()[at];
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        at += 1;
        steps += 1;
        match code {
            0x20 => a = call.word(k),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x06 => return (k, steps),
            _ => panic!("an instruction that seccomp knows not: {code:#x}"),
        }
    }
}

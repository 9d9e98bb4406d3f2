//! Files that many threads open, read, write and close at once, while they are copied up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::main(common::tests![
        opens::a_reader_sees_every_write_that_was_done_before,
        opens::a_file_that_many_empty_and_fill_is_whole_in_the_end,
    ])
}

mod opens {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use crate::common::files::write;
    use crate::common::{Branches, Mode, Union};

    const THREADS: usize = 6;
    const FILES: usize = 12;
    const ROUNDS: u64 = 400;

    fn name(file: usize) -> String {
        format!("file{file}")
    }

    /// Numbers that differ, and are the same each time.
    fn noise(seed: u64) -> u64 {
        let mixed = (seed ^ (seed >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }

    fn number_at(file: &File, slot: usize) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, slot as u64 * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Each thread counts up in its own place of each file.
    pub(crate) fn a_reader_sees_every_write_that_was_done_before(mode: Mode) {
        let branches = Branches::two(mode);
        for file in 0..FILES {
            write(branches.path(usize::from(file % 3 != 0)).join(name(file)), vec![0; 3 * 4096]);
        }
        let union = branches.mount();
        let done: Vec<[AtomicU64; THREADS]> = (0..FILES).map(|_| Default::default()).collect();
        thread::scope(|scope| {
            for me in 0..THREADS {
                let (union, done) = (&union, &done);
                scope.spawn(move || count(union, done, me));
            }
        });
        for (file, done) in done.iter().enumerate() {
            let open = File::open(union.at(name(file))).unwrap();
            let above = File::open(branches.upper(name(file))).unwrap();
            for (slot, done) in done.iter().enumerate() {
                assert_eq!(number_at(&open, slot), done.load(Ordering::SeqCst));
                assert_eq!(number_at(&above, slot), done.load(Ordering::SeqCst));
            }
        }
    }

    fn count(union: &Union, done: &[[AtomicU64; THREADS]], me: usize) {
        let mut held: Vec<(usize, File)> = Vec::new();
        for round in 0..ROUNDS {
            let random = noise(round * THREADS as u64 + me as u64);
            let file = random as usize % FILES;
            let writes = random >> 8 & 3 == 0;
            let open = OpenOptions::new().read(true).write(writes).open(union.at(name(file))).unwrap();
            if writes {
                let next = done[file][me].load(Ordering::SeqCst) + 1;
                open.write_all_at(&next.to_le_bytes(), me as u64 * 8).unwrap();
                done[file][me].store(next, Ordering::SeqCst);
            }
            held.push((file, open));
            let (file, open) = &held[(random >> 16) as usize % held.len()];
            let slot = (random >> 40) as usize % THREADS;
            let before = done[*file][slot].load(Ordering::SeqCst);
            let seen = number_at(open, slot);
            assert!(seen >= before, "{file}: {before} was written, and {seen} read");
            if held.len() > 10 {
                held.swap_remove((random >> 32) as usize % held.len());
            }
        }
    }

    pub(crate) fn a_file_that_many_empty_and_fill_is_whole_in_the_end(mode: Mode) {
        let branches = Branches::two(mode);
        for file in 0..FILES {
            write(branches.lower(name(file)), vec![b'0'; 5000]);
        }
        let union = branches.mount();
        thread::scope(|scope| {
            for me in 0..THREADS as u64 {
                let union = &union;
                scope.spawn(move || {
                    for round in 0..ROUNDS / 4 {
                        let random = noise(round * THREADS as u64 + me);
                        let path = union.at(name(random as usize % FILES));
                        if random & 0x700 == 0 {
                            let file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
                            file.write_all_at(&vec![b'1'; 5000], 0).unwrap();
                        } else {
                            let mut content = vec![b'?'; 5000];
                            let read = File::open(path).unwrap().read_at(&mut content, 0).unwrap();
                            assert!(content[..read].iter().all(|byte| b"01".contains(byte)), "{read} bytes");
                        }
                    }
                });
            }
        });
        for file in 0..FILES {
            let content = std::fs::read(union.at(name(file))).unwrap();
            assert!([b'0', b'1'].iter().any(|&byte| content == vec![byte; 5000]), "{} bytes", content.len());
            assert_eq!(std::fs::read(branches.lower(name(file))).unwrap(), vec![b'0'; 5000]);
        }
    }
}

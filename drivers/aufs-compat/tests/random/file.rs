//! One file at a time, by several descriptors, in every way that it can be read and written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, OFlags, copy_file_range, fallocate};

use crate::Game;
use crate::common::files::{Dice, chmod, content, exists, noise, set_xattr};
use crate::common::sys::Mapping;
use crate::common::{Branches, Mode, Union};

const NAME: &str = "file";
const OTHER: &str = "other";
/// The file is not longer.
const LONGEST: u64 = 300_000;
/// What a direct read or write is a multiple of.
const BLOCK: u64 = 4096;
const DESCRIPTORS: usize = 6;
/// How many steps a file lives.
const LIFE: u64 = 250;

pub(crate) fn one_file_is_what_was_written_to_it(mode: Mode) {
    let mut game = Game::new("one file");
    let (mut files, mut copied) = (0, 0);
    while game.goes_on() {
        let branches = Branches::two(mode);
        let below = game.dice.below(4) > 0;
        let dice = &mut game.dice;
        let lower = Subject::prepare(&branches, below, dice);
        let union = branches.mount();
        let mut subject = Subject::new(&union, lower, dice);
        for step in 0..LIFE {
            let before = exists(branches.upper(NAME));
            let done = subject.step(dice);
            copied += u64::from(!before && exists(branches.upper(NAME)));
            subject.check(dice, &format!("file {files}, step {step}: {done}"));
        }
        let expected = subject.end(dice);
        union.unmount();
        let kept = fs::read(branches.mount().at(NAME)).ok();
        assert!(kept == expected, "file {files} is another after an unmount");
        files += 1;
    }
    eprintln!("one file: {files} files, of which {copied} were copied up");
    assert!(files < 8 || copied > 0, "nothing was ever copied up");
}

struct Subject {
    path: PathBuf,
    /// Each with whether it can be written.
    open: Vec<(File, bool)>,
    expected: Vec<u8>,
    /// Another file, to copy from.
    other: (File, Vec<u8>),
}

impl Subject {
    /// Makes a file with some content, and another, on a branch. Returns what they hold.
    fn prepare(branches: &Branches, below: bool, dice: &mut Dice) -> [Vec<u8>; 2] {
        let [content, other] =
            [LONGEST, 50_000].map(|longest| noise(1 + dice.below(longest) as usize, dice.next()));
        fs::write(branches.path(usize::from(below)).join(NAME), &content).unwrap();
        fs::write(branches.lower(OTHER), &other).unwrap();
        [content, other]
    }

    fn new(union: &Union, [expected, other]: [Vec<u8>; 2], dice: &mut Dice) -> Self {
        let other = (File::open(union.at(OTHER)).unwrap(), other);
        let mut subject = Self { path: union.at(NAME), open: Vec::new(), expected, other };
        for _ in 0..3 {
            subject.open(dice);
        }
        subject
    }

    fn open(&mut self, dice: &mut Dice) -> String {
        let writes = dice.below(2) == 0;
        let file = OpenOptions::new().read(true).write(writes).open(&self.path).unwrap();
        self.open.push((file, writes));
        format!("open, writes: {writes}")
    }

    /// A descriptor that can be written, which is made if there is none.
    fn writer(&mut self, dice: &mut Dice) -> File {
        let writers: Vec<&File> =
            self.open.iter().filter(|(_, writes)| *writes).map(|(file, _)| file).collect();
        if let Some(writer) = (!writers.is_empty()).then(|| dice.pick(&writers)) {
            return writer.try_clone().unwrap();
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
        self.open.push((file.try_clone().unwrap(), true));
        file
    }

    /// A start and a length, which may lie beyond the end.
    fn range(dice: &mut Dice, longest: u64) -> (u64, u64) {
        let start = dice.below(longest);
        (start, 1 + dice.below((longest - start).min(40_000)))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        self.expected.resize(self.expected.len().max(end), 0);
        self.expected[at as usize..end].copy_from_slice(bytes);
    }

    /// Does something. Says what.
    fn step(&mut self, dice: &mut Dice) -> String {
        match dice.below(20) {
            0..4 => self.write(dice),
            4 | 5 => self.truncate(dice),
            6 => self.map_and_read(dice),
            7..9 => self.map_and_write(dice),
            9 => self.allocate(dice),
            10 => self.punch(dice),
            11 => self.copy_from_other(dice),
            12 => self.copy_within(dice),
            13 => self.write_directly(dice),
            14 => self.read_directly(dice),
            15 if self.open.len() > 1 => {
                let at = dice.below(self.open.len() as u64) as usize;
                self.open.swap_remove(at);
                format!("close {at}")
            }
            15..17 if self.open.len() < DESCRIPTORS => self.open(dice),
            17 => self.change_attributes(dice),
            18 => {
                self.writer(dice).sync_all().unwrap();
                "fsync".to_owned()
            }
            _ => self.append(dice),
        }
    }

    fn write(&mut self, dice: &mut Dice) -> String {
        let ((at, length), bytes) = (Self::range(dice, LONGEST), dice.next());
        let bytes = noise(length as usize, bytes);
        self.writer(dice).write_all_at(&bytes, at).unwrap();
        self.put(at, &bytes);
        format!("write {length} at {at}")
    }

    fn append(&mut self, dice: &mut Dice) -> String {
        let room = LONGEST.saturating_sub(self.expected.len() as u64).min(10_000);
        let bytes = noise(dice.below(room + 1) as usize, dice.next());
        let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        self.put(self.expected.len() as u64, &bytes);
        format!("append {}", bytes.len())
    }

    fn truncate(&mut self, dice: &mut Dice) -> String {
        let length = dice.below(LONGEST);
        self.writer(dice).set_len(length).unwrap();
        self.expected.resize(length as usize, 0);
        format!("truncate to {length}")
    }

    fn map_and_read(&mut self, dice: &mut Dice) -> String {
        if self.expected.is_empty() {
            return "nothing".to_owned();
        }
        let (at, length) = Self::range(dice, self.expected.len() as u64);
        let (file, _) = dice.pick(&self.open);
        let found = Mapping::read(file).copy(at as usize, length as usize);
        assert!(found == self.expected[at as usize..(at + length) as usize], "mapped {length} at {at}");
        format!("read {length} at {at} by a mapping")
    }

    fn map_and_write(&mut self, dice: &mut Dice) -> String {
        if self.expected.is_empty() {
            return "nothing".to_owned();
        }
        let (at, length) = Self::range(dice, self.expected.len() as u64);
        let bytes = noise(length as usize, dice.next());
        let mapping = Mapping::write(&self.writer(dice));
        mapping.put(at as usize, &bytes);
        let synced = dice.below(2) == 0;
        if synced {
            mapping.sync();
        }
        self.put(at, &bytes);
        format!("write {length} at {at} by a mapping, synced: {synced}")
    }

    fn allocate(&mut self, dice: &mut Dice) -> String {
        let (at, length) = Self::range(dice, LONGEST);
        let keeps = dice.below(2) == 0;
        let flags = if keeps { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        fallocate(self.writer(dice), flags, at, length).unwrap();
        if !keeps {
            self.expected.resize(self.expected.len().max((at + length) as usize), 0);
        }
        format!("allocate {length} at {at}, keeps the size: {keeps}")
    }

    fn punch(&mut self, dice: &mut Dice) -> String {
        let (at, length) = Self::range(dice, LONGEST);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.writer(dice), flags, at, length).unwrap();
        let end = self.expected.len().min((at + length) as usize);
        self.expected[(at as usize).min(end)..end].fill(0);
        format!("punch {length} at {at}")
    }

    fn copy_from_other(&mut self, dice: &mut Dice) -> String {
        let ((from, length), to) = (Self::range(dice, self.other.1.len() as u64), dice.below(LONGEST / 2));
        let writer = self.writer(dice);
        let (mut read_at, mut write_at) = (from, to);
        while read_at < from + length {
            let left = (from + length - read_at) as usize;
            let done = copy_file_range(&self.other.0, Some(&mut read_at), &writer, Some(&mut write_at), left);
            assert!(done.unwrap() > 0);
        }
        let bytes = self.other.1[from as usize..(from + length) as usize].to_vec();
        self.put(to, &bytes);
        format!("copy {length} at {from} of another file to {to}")
    }

    fn copy_within(&mut self, dice: &mut Dice) -> String {
        let half = self.expected.len() as u64 / 2;
        if half == 0 {
            return "nothing".to_owned();
        }
        let ((from, length), writer) = (Self::range(dice, half), self.writer(dice));
        let (mut read_at, mut write_at) = (from, half + from);
        let done =
            copy_file_range(&writer, Some(&mut read_at), &writer, Some(&mut write_at), length as usize)
                .unwrap();
        let bytes = self.expected[from as usize..from as usize + done].to_vec();
        self.put(half + from, &bytes);
        format!("copy {done} at {from} to {}", half + from)
    }

    fn directly(&self) -> File {
        let flags = OFlags::DIRECT.bits() as i32;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path).unwrap()
    }

    fn write_directly(&mut self, dice: &mut Dice) -> String {
        let (at, length) = (dice.below(LONGEST / BLOCK - 4) * BLOCK, (1 + dice.below(3)) * BLOCK);
        let (mut memory, bytes) = (aligned(length), noise(length as usize, dice.next()));
        memory.bytes().copy_from_slice(&bytes);
        self.directly().write_all_at(memory.bytes(), at).unwrap();
        self.put(at, &bytes);
        format!("write {length} at {at} directly")
    }

    fn read_directly(&mut self, dice: &mut Dice) -> String {
        let (at, length) = (dice.below(LONGEST / BLOCK) * BLOCK, (1 + dice.below(3)) * BLOCK);
        let mut memory = aligned(length);
        let read = self.directly().read_at(memory.bytes(), at).unwrap();
        let start = self.expected.len().min(at as usize);
        let expected = &self.expected[start..self.expected.len().min(start + length as usize)];
        assert!(&memory.bytes()[..read] == expected, "read {length} at {at} directly: {read}");
        format!("read {length} at {at} directly")
    }

    fn change_attributes(&mut self, dice: &mut Dice) -> String {
        match dice.below(4) {
            0 => chmod(&self.path, 0o600 | dice.below(8) as u32),
            1 => set_xattr(&self.path, "user.x", &dice.next().to_le_bytes()),
            2 => {
                let moved = self.path.with_extension("moved");
                fs::rename(&self.path, &moved).unwrap();
                fs::rename(&moved, &self.path).unwrap();
            }
            _ => {
                let second = self.path.with_extension("second");
                fs::hard_link(&self.path, &second).unwrap();
                fs::remove_file(second).unwrap();
            }
        }
        "change the attributes or the name".to_owned()
    }

    /// Compares the whole file, by one descriptor and by the path's length.
    fn check(&self, dice: &mut Dice, what: &str) {
        assert_eq!(
            fs::metadata(&self.path).unwrap().len(),
            self.expected.len() as u64,
            "length after {what}"
        );
        let at = dice.below(self.open.len() as u64) as usize;
        let (file, writes) = &self.open[at];
        let mut found = vec![0; self.expected.len() + 1];
        let mut length = 0;
        loop {
            match file.read_at(&mut found[length..], length as u64).unwrap() {
                0 => break,
                read => length += read,
            }
        }
        found.truncate(length);
        if found != self.expected {
            let first = found.iter().zip(&self.expected).position(|(found, expected)| found != expected);
            let lengths = (found.len(), self.expected.len());
            panic!(
                "other at {first:?}, lengths {lengths:?}, by descriptor {at} (writes: {writes}), after {what}"
            );
        }
    }

    /// Deletes it or not, and closes it. Returns what it holds then.
    fn end(self, dice: &mut Dice) -> Option<Vec<u8>> {
        if dice.below(2) == 0 {
            return Some(self.expected);
        }
        fs::remove_file(&self.path).unwrap();
        for (file, _) in &self.open {
            assert!(content(file) == self.expected, "after its deletion");
        }
        None
    }
}

/// Memory as the kernel wants it for direct access.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

fn aligned(length: u64) -> Aligned {
    let memory = vec![0; (length + BLOCK) as usize];
    let start = memory.as_ptr().align_offset(BLOCK as usize);
    Aligned { memory, start, length: length as usize }
}

//! What a container prints, kept as Docker's `json-file` keeps it: one line of JSON for each line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::wire::Stream;
use crate::container::LogLimits;

/// A longer line is cut into entries of this many bytes, of which the last alone ends in a line feed.
const LONGEST_LINE: usize = 16 * 1024;

/// The log of a container, while its supervisor writes it.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limits: LogLimits,
    /// What came of a line that has not ended yet.
    begun: [Vec<u8>; 2],
}

impl Log {
    /// Goes on with the log at `path`, or begins it.
    pub(crate) fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, limits, begun: Default::default() })
    }

    /// Keeps what was printed.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        let mut entries = Entries::default();
        while let Some(end) = cut(begun.len(), bytes) {
            let (line, rest) = bytes.split_at(end);
            begun.extend_from_slice(line);
            self.add(&mut entries, stream, &begun)?;
            begun.clear();
            bytes = rest;
        }
        begun.extend_from_slice(bytes);
        self.begun[stream as usize] = begun;
        self.put(&mut entries)
    }

    /// Keeps what was printed without a line feed at the end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let mut entries = Entries::default();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            if !begun.is_empty() {
                self.add(&mut entries, stream, &begun)?;
            }
        }
        self.put(&mut entries)
    }

    /// Gathers an entry; where the file has no room for it those before it are written and another file is begun.
    fn add(&mut self, entries: &mut Entries, stream: Stream, line: &[u8]) -> io::Result<()> {
        let before = entries.0.len();
        entries.push(stream, line);
        let is_full = |most| self.size + entries.0.len() as u64 > most && self.size + before as u64 > 0;
        if self.limits.max_size.is_some_and(is_full) {
            let next = entries.0.split_off(before);
            self.put(entries)?;
            self.rotate()?;
            entries.0 = next;
        }
        Ok(())
    }

    fn put(&mut self, entries: &mut Entries) -> io::Result<()> {
        self.file.write_all(&entries.0)?;
        self.size += entries.0.len() as u64;
        entries.0.clear();
        Ok(())
    }

    /// Sets the file aside as `….1`, which becomes `….2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.limits.max_file.max(1)).rev() {
            let from = if number == 1 { self.path.clone() } else { numbered(number - 1) };
            match std::fs::rename(from, numbered(number)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.limits.max_file <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Where the next entry ends in `bytes`, of which `begun` bytes came before: behind a line feed, or where the line gets
/// too long.
fn cut(begun: usize, bytes: &[u8]) -> Option<usize> {
    let room = LONGEST_LINE.saturating_sub(begun);
    match bytes.iter().take(room).position(|&byte| byte == b'\n') {
        Some(at) => Some(at + 1),
        None if bytes.len() < room => None,
        // Not in the middle of a character, if it is one.
        None => {
            Some((room.saturating_sub(3)..=room).rev().find(|&at| is_boundary(bytes, at)).unwrap_or(room))
        }
    }
}

fn is_boundary(bytes: &[u8], at: usize) -> bool {
    at > 0 && bytes.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

/// Entries on their way to the file, so that many go in one write.
#[derive(Debug, Default)]
struct Entries(Vec<u8>);

impl Entries {
    fn push(&mut self, stream: Stream, line: &[u8]) {
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        self.0.extend_from_slice(b"{\"log\":");
        // Neither a text nor a vector refuses to be written.
        let _ = serde_json::to_writer(&mut self.0, &String::from_utf8_lossy(line));
        let _ = writeln!(self.0, ",\"stream\":\"{name}\",\"time\":\"{}\"}}", jiff::Timestamp::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limits: LogLimits) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log"), limits).unwrap();
        (dir, log)
    }

    fn texts(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(|line| value(line)["log"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_line_is_one_entry_however_it_comes() {
        let (dir, mut log) = log(LogLimits::default());
        log.write(Stream::Stdout, b"a\nb").unwrap();
        log.write(Stream::Stderr, b"e\n").unwrap();
        log.write(Stream::Stdout, b"c\n\xff\n\"q\"").unwrap();
        assert_eq!(texts(&dir.path().join("log")), ["a\n", "e\n", "bc\n", "\u{fffd}\n"]);
        log.finish().unwrap();
        assert_eq!(texts(&dir.path().join("log")).last().unwrap(), "\"q\"");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let (dir, mut log) = log(LogLimits::default());
        let line = "é".repeat(20_000);
        for piece in line.as_bytes().chunks(1001) {
            log.write(Stream::Stdout, piece).unwrap();
        }
        log.write(Stream::Stdout, b"\n").unwrap();
        let texts = texts(&dir.path().join("log"));
        assert_eq!(texts.concat(), line + "\n");
        assert!(texts.len() == 3 && texts.iter().all(|text| text.len() <= LONGEST_LINE));
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_goes() {
        let (dir, mut log) = log(LogLimits { max_size: Some(100), max_file: 2 });
        for number in 0..4 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        assert_eq!(texts(&dir.path().join("log")), ["line 3\n"]);
        assert_eq!(texts(&dir.path().join("log.1")), ["line 2\n"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn one_file_alone_begins_anew() {
        let (dir, mut log) = log(LogLimits { max_size: Some(100), max_file: 1 });
        log.write(Stream::Stdout, b"one\n").unwrap();
        log.write(Stream::Stdout, b"two, which is one too many for the file\n").unwrap();
        assert_eq!(texts(&dir.path().join("log")).len(), 1);
    }
}

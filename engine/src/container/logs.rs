//! Reading what a container has printed, and goes on to print.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use serde::Deserialize;

use super::attach::Event;
use super::{Attached, Container, Stream};
use crate::{Engine, Error, Result};

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// What is printed later, too, until the container ends.
    pub follow: bool,
    /// The last entries only.
    pub tail: Option<usize>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Not after this.
    pub until: Option<Timestamp>,
}

/// An entry of a log: a line, with its line feed if it had one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogLine {
    /// The text.
    pub log: String,
    /// `stdout` or `stderr`.
    stream: String,
    /// When it was printed, as RFC 3339 says it.
    pub time: String,
}

impl LogLine {
    /// What it was printed on.
    pub fn stream(&self) -> Stream {
        if self.stream == "stderr" { Stream::Stderr } else { Stream::Stdout }
    }
}

/// What takes entries; false is enough.
type Take<'a> = &'a mut dyn FnMut(&LogLine) -> Result<bool>;

impl Engine {
    /// Hands the entries of a container's log to `take`, in order.
    pub fn logs(&self, container: &Container, options: &LogOptions, take: Take<'_>) -> Result<()> {
        // Watched before the first look, so that nothing is missed between the two.
        let mut follow = None;
        if options.follow && self.state(container)?.status.is_live() {
            follow = Some(Watch::new(self, container)?);
        }
        let mut log = Log::open(container)?;
        let mut tail = VecDeque::new();
        while let Some(line) = log.next(options)? {
            match options.tail {
                None if !take(&line)? => return Ok(()),
                None => {}
                Some(most) => {
                    tail.push_back(line);
                    if tail.len() > most {
                        tail.pop_front();
                    }
                }
            }
        }
        for line in tail {
            if !take(&line)? {
                return Ok(());
            }
        }
        let Some(mut watch) = follow else { return Ok(()) };
        loop {
            let is_over = watch.wait()?;
            log.look_again()?;
            while let Some(line) = log.next(options)? {
                if !take(&line)? {
                    return Ok(());
                }
            }
            if is_over {
                return Ok(());
            }
        }
    }
}

/// The files of a log, one after the other.
struct Log {
    path: PathBuf,
    /// Those that are still to be read, the next one first.
    files: VecDeque<BufReader<File>>,
    /// The inode of the file that is written now, as far as it was seen.
    newest: u64,
    /// A line that is being written.
    begun: Vec<u8>,
}

impl Log {
    /// Opens what there is: a container that never ran has no log.
    fn open(container: &Container) -> Result<Self> {
        let mut log = Self { path: container.log(), files: VecDeque::new(), newest: 0, begun: Vec::new() };
        log.look_again()?;
        let mut number = 1;
        while let Some(file) = open(&log.numbered(number))? {
            log.files.push_front(BufReader::new(file));
            number += 1;
        }
        Ok(log)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Notices that the file was set aside and another begun.
    fn look_again(&mut self) -> Result<()> {
        if let Some(file) = open(&self.path)? {
            let inode =
                file.metadata().map_err(Error::io(|| format!("read '{}'", self.path.display())))?.ino();
            if inode != self.newest {
                self.newest = inode;
                self.files.push_back(BufReader::new(file));
            }
        }
        Ok(())
    }

    fn next(&mut self, options: &LogOptions) -> Result<Option<LogLine>> {
        while let Some(file) = self.files.front_mut() {
            let read = file.read_until(b'\n', &mut self.begun);
            read.map_err(Error::io(|| format!("read '{}'", self.path.display())))?;
            if self.begun.last() != Some(&b'\n') {
                if self.files.len() == 1 {
                    // The rest is on its way.
                    return Ok(None);
                }
                self.files.pop_front();
                self.begun.clear();
                continue;
            }
            // A line that a crash tore is none.
            let line = serde_json::from_slice::<LogLine>(&std::mem::take(&mut self.begun));
            if let Some(line) = line.ok().filter(|line| is_wanted(line, options)) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

fn is_wanted(line: &LogLine, options: &LogOptions) -> bool {
    if options.since.is_none() && options.until.is_none() {
        return true;
    }
    let Ok(time) = line.time.parse::<Timestamp>() else { return true };
    options.since.is_none_or(|since| time >= since) && options.until.is_none_or(|until| time <= until)
}

fn open(path: &std::path::Path) -> Result<Option<File>> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(Error::io(|| format!("open '{}'", path.display()))),
    }
}

/// Tells when a log has grown and when its container has ended.
struct Watch {
    inotify: OwnedFd,
    attached: Option<Attached>,
}

impl Watch {
    fn new(engine: &Engine, container: &Container) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io(|| "follow a log")(e.into());
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let inotify = inotify.map_err(failed)?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&inotify, container.dir(), flags).map_err(failed)?;
        // One that ends now has printed all.
        let attached = engine.attach(container, false, false).ok();
        Ok(Self { inotify, attached })
    }

    /// Waits for a change; true when there will be no other.
    fn wait(&mut self) -> Result<bool> {
        let Some(attached) = &self.attached else { return Ok(true) };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(attached, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::io(|| "follow a log")(e.into())),
                Ok(_) => break,
            }
        }
        let is_over = !fds[1].revents().is_empty();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // What exactly happened is not asked; the log is looked at either way.
        while events.next().is_ok() {}
        Ok(is_over && matches!(attached.next()?, Event::Exited(..)))
    }
}

/// A point in time as `--since` takes it: RFC 3339, seconds since 1970, or how long ago (`10m`, `1h30m`).
pub fn parse_time(text: &str) -> Result<Timestamp> {
    let refuse = || {
        Error::Invalid(format!(
            "invalid time '{text}': write it as 2026-11-21T04:00:00Z, as seconds since 1970, or as a time ago such as 10m"
        ))
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let milliseconds = seconds * 1000.0;
        return if milliseconds.abs() < 1e15 {
            Timestamp::from_millisecond(milliseconds as i64).map_err(|_| refuse())
        } else {
            Err(refuse())
        };
    }
    let ago: jiff::SignedDuration = text.parse().map_err(|_| refuse())?;
    Timestamp::now().checked_sub(ago).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_number_or_an_age() {
        let known: Timestamp = "2026-11-21T01:14:44Z".parse().unwrap();
        assert_eq!(parse_time("2026-11-21T01:14:44Z").unwrap(), known);
        assert_eq!(parse_time(&known.as_second().to_string()).unwrap(), known);
        let ago = Timestamp::now().as_second() - parse_time("1h30m").unwrap().as_second();
        assert!((5400..5410).contains(&ago), "{ago}");
        for bad in ["", "x", "yesterday", "1e99", "10q"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}

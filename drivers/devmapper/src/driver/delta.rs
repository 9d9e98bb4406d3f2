//! Which blocks of a volume differ from those of another one: asked of the pool's metadata, so that no block is read.
//!
//! The pool gives out a snapshot of its metadata, one at a time, which thin_delta(8) reads while the pool goes on.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::process::{Command, Stdio};

use mica_core::{Error, Result, failpoint};

use super::pool::Pool;

const TOOL: &str = "thin_delta";

/// Whether the tool is installed.
pub(crate) fn tool() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(TOOL).is_file())
}

/// The ranges of blocks of a volume that are not its parent's, in order; `None` where the tool is not installed, or the
/// pool takes no changes and so gives out no snapshot. The caller holds the lock.
pub(crate) fn blocks(pool: &Pool, parent: u32, volume: u32) -> Result<Option<Vec<Range<u64>>>> {
    let doing = || format!("compare volume {volume} with {parent}");
    if !pool.thin.status()?.health.takes_changes() {
        return Ok(None);
    }
    let snapshot = Snapshot::take(pool).map_err(Error::io(doing))?;
    failpoint::hit("devmapper.changes.reserved").map_err(Error::io(doing))?;
    let node = pool.metadata_node().map_err(Error::io(doing))?;
    // What the kernel wrote last must not be hidden by what this host read before.
    File::open(&node).and_then(|file| super::sys::forget(&file)).map_err(Error::io(doing))?;
    let mut command = Command::new(TOOL);
    command.args(["--metadata-snap", "--thin1", &parent.to_string(), "--thin2", &volume.to_string()]);
    let output = match command.arg(&node).stdin(Stdio::null()).output() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output.map_err(Error::io(doing))?,
    };
    snapshot.release().map_err(Error::io(doing))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::driver(
            doing(),
            format!("{TOOL}: {}", text.lines().next().unwrap_or("it failed")),
        ));
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map(Some).map_err(|e| Error::driver(doing(), e))
}

/// Reads the tool's XML, whose elements each stand on a line of their own.
fn parse(xml: &str) -> Result<Vec<Range<u64>>, String> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for line in xml.lines().map(str::trim) {
        // Blocks that only the parent has were discarded in the child: they are changes, too.
        let changed = ["<different ", "<right_only ", "<left_only "].iter().any(|tag| line.starts_with(tag));
        if !changed {
            continue;
        }
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = line.split_once(&format!(" {name}=\""))?;
            rest.split('"').next()?.parse().ok()
        };
        let begin = number("begin");
        let end = begin.zip(number("length")).and_then(|(begin, length)| begin.checked_add(length));
        let (Some(begin), Some(end)) = (begin, end) else { return Err(format!("{TOOL} says '{line}'")) };
        match ranges.last_mut() {
            Some(last) if last.end == begin => last.end = end,
            Some(last) if last.end > begin => {
                return Err(format!("{TOOL} says '{line}' after block {begin}"));
            }
            _ => ranges.push(begin..end),
        }
    }
    if !xml.contains("</diff>") {
        return Err(format!("{TOOL} says nothing of how the volumes differ"));
    }
    Ok(ranges)
}

/// The pool's snapshot of its metadata, given back when this is dropped.
struct Snapshot<'a>(&'a Pool);

impl<'a> Snapshot<'a> {
    fn take(pool: &'a Pool) -> io::Result<Self> {
        let name = pool.thin.name();
        match pool.thin.dm().message(name, "reserve_metadata_snap") {
            // Who took it was killed: under the lock there is no other.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                pool.thin.dm().message(name, "release_metadata_snap")?;
                pool.thin.dm().message(name, "reserve_metadata_snap")?;
            }
            answer => answer?,
        }
        Ok(Self(pool))
    }

    fn release(self) -> io::Result<()> {
        let released = self.0.thin.dm().message(self.0.thin.name(), "release_metadata_snap");
        std::mem::forget(self);
        released
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let _ = self.0.thin.dm().message(self.0.thin.name(), "release_metadata_snap");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changed_blocks_are_read_and_joined() {
        let xml = r#"<superblock uuid="" time="3" transaction="3" data_block_size="128" nr_data_blocks="4096">
  <diff left="1" right="3">
    <same begin="0" length="5"/>
    <different begin="5" length="1"/>
    <right_only begin="6" length="2"/>
    <same begin="8" length="1"/>
    <left_only begin="9" length="1"/>
  </diff>
</superblock>"#;
        assert_eq!(parse(xml).unwrap(), [5..8, 9..10]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let of = |elements: &str| parse(&format!("<diff left=\"1\" right=\"3\">\n{elements}\n</diff>"));
        assert_eq!(of(""), Ok(Vec::new()));
        assert!(of("<different begin=\"x\" length=\"1\"/>").is_err());
        assert!(of("<different begin=\"18446744073709551615\" length=\"1\"/>").is_err());
        assert!(of("<different begin=\"5\" length=\"1\"/>\n<different begin=\"4\" length=\"1\"/>").is_err());
    }

    #[test]
    fn an_answer_that_was_cut_off_is_an_error() {
        assert!(parse("").is_err());
        assert!(parse("<diff left=\"1\" right=\"3\">\n<different begin=\"5\" length=\"1\"/>\n").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in "(<(different|left_only|diff|/diff)|[ a-z]*=\"?[0-9x]{0,21}\"?|/?>|\n){0,40}") {
            if let Ok(ranges) = parse(&text) {
                prop_assert!(ranges.iter().all(|range| range.start <= range.end));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}

//! Any bytes are read to an end or an error, and what is read survives being written.

#![no_main]

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind};
use mica_archive_fuzz::sealed;

/// Holes are written out in full, so a file of this size is left alone.
const MAX_FILE: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let members = members(&sealed(bytes));
    let mut writer = Writer::new(Vec::new());
    let mut expected = Vec::new();
    for (entry, content) in members {
        // The writer refuses what no header can say, such as an empty name.
        match writer.append(&entry, &mut Cursor::new(&content)) {
            Ok(()) => expected.push(plain(entry)),
            Err(_) => return,
        }
    }
    let archive = writer.finish().expect("a Vec takes everything");
    let found: Vec<_> = self::members(&archive).into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(found, expected);
});

/// As the writer writes it.
fn plain(mut entry: Entry) -> Entry {
    match &mut entry.kind {
        Kind::File { sparse, .. } => *sparse = None,
        Kind::Directory if !entry.path.ends_with(b"/") => entry.path.push(b'/'),
        _ => {}
    }
    entry
}

/// The members up to the first error.
fn members(bytes: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    let mut members = Vec::new();
    while let Ok(Some(entry)) = reader.next() {
        let mut content = Vec::new();
        if reader.content().read_to_end(&mut content).is_err() {
            break;
        }
        if !matches!(entry.kind, Kind::File { size, .. } if size > MAX_FILE) {
            members.push((entry, content));
        }
    }
    members
}

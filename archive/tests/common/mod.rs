//! What the tests of this crate share: members, and archives made of them.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Read;

use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Result, Time};

/// A member with nothing remarkable about it.
pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        xattrs: Vec::new(),
    }
}

/// A file with this content, ready for [`archive`].
pub(crate) fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    (entry(path, Kind::File { size: content.len() as u64, sparse: None }), content.to_vec())
}

/// An archive of these members.
pub(crate) fn archive(members: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in members {
        writer.append(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// All members of an archive with their content as stored.
pub(crate) fn members(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(archive);
    let mut members = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content).map_err(mica_archive::Error::io("read"))?;
        members.push((entry, content));
    }
    reader.finish()?;
    Ok(members)
}

/// A header block of the given type, name and size, with a right checksum; `edit` comes before that.
pub(crate) fn block(kind: u8, name: &[u8], size: u64, edit: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// Fills up to a whole block.
pub(crate) fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An extended header (`x`, `g`, `L`, `K`) with this content.
pub(crate) fn extended(kind: u8, content: &[u8]) -> Vec<u8> {
    [&block(kind, b"extended", content.len() as u64, |_| {})[..], &padded(content)].concat()
}

/// One PAX record.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The two blocks that end an archive.
pub(crate) const END: [u8; 1024] = [0; 1024];

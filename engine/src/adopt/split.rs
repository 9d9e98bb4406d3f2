//! tar-split's record of a layer: what Docker keeps to write the layer's tarball again, byte for byte.
//!
//! It is gzip over lines of JSON (vbatts/tar-split, `tar/storage`). A line of type 2 is a piece of the archive that is no
//! content: headers, padding, the end. One of type 1 stands for the content of a file of the layer's directory, with its
//! length and its CRC-64. A name that is no UTF-8 stands in `name_raw`, base64 as every payload.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_64_GO_ISO, Crc, Table};
use mica_archive::compress::Decoder;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use serde::Deserialize;

use crate::error::shown;
use crate::{Error, Result};

/// The longest line. Of headers an archive has at most some MiB in a row; its padding is cut into pieces.
const MAX_LINE: u64 = 32 << 20;
const BUFFER: usize = 128 << 10;
/// As Go's `hash/crc64` calls it, `ISO`.
static CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The content of a file.
    File {
        /// Its name as it stands in the archive.
        name: Vec<u8>,
        /// Its length in bytes.
        size: u64,
        /// The CRC-64 of its content, where one is there.
        checksum: Option<u64>,
    },
    /// Bytes of the archive.
    Segment(Vec<u8>),
}

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

/// The lines of a record.
#[derive(Debug)]
pub(super) struct Pieces<R> {
    source: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Pieces<R> {
    /// Of a record that is decompressed.
    pub(super) fn new(source: R) -> Self {
        Self { source, line: Vec::new(), number: 0 }
    }

    /// The next one; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Piece>> {
        self.line.clear();
        self.number += 1;
        let taken = self.source.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut self.line);
        if taken.map_err(|e| self.refuse(&e.to_string()))? == 0 {
            return Ok(None);
        }
        if self.line.len() as u64 > MAX_LINE {
            return Err(self.refuse(&format!("it is longer than {MAX_LINE} bytes")));
        }
        let line: Line = serde_json::from_slice(&self.line).map_err(|e| self.refuse(&e.to_string()))?;
        let payload = line.payload.as_deref().unwrap_or_default();
        let payload = STANDARD.decode(payload).map_err(|_| self.refuse("its payload is no base64"))?;
        match line.kind {
            1 => {
                let checksum = match payload.as_slice() {
                    [] => None,
                    bytes => Some(u64::from_be_bytes(
                        bytes.try_into().map_err(|_| self.refuse("its checksum has not 8 bytes"))?,
                    )),
                };
                let raw = line.name_raw.as_deref().unwrap_or_default();
                let raw = STANDARD.decode(raw).map_err(|_| self.refuse("its name is no base64"))?;
                let plain = line.name.map(String::into_bytes).unwrap_or_default();
                let name = if plain.is_empty() { raw } else { plain };
                Ok(Some(Piece::File { name, size: line.size, checksum }))
            }
            2 => Ok(Some(Piece::Segment(payload))),
            other => Err(self.refuse(&format!("its type is {other}, and 1 and 2 are known"))),
        }
    }

    fn refuse(&self, why: &str) -> Error {
        Error::Invalid(format!("line {} of its tar-split cannot be used: {}", self.number, shown(why)))
    }
}

/// Writes the tarball that the record tells of to `out`, with the contents from the layer's directory. Whether it is the
/// layer's, its digest tells.
pub(super) fn assemble(record: File, directory: BorrowedFd<'_>, out: &mut dyn Write) -> Result<()> {
    let decoder = Decoder::new(BufReader::with_capacity(BUFFER, record))?;
    let mut pieces = Pieces::new(BufReader::with_capacity(BUFFER, decoder));
    let mut buffer = vec![0; BUFFER];
    while let Some(piece) = pieces.next()? {
        match piece {
            Piece::Segment(bytes) => out.write_all(&bytes).map_err(writing)?,
            Piece::File { size: 0, .. } => {}
            Piece::File { name, size, checksum } => {
                let refuse =
                    |why: String| Error::Invalid(format!("its file '{}' {why}", name.escape_ascii()));
                let mut file = open(directory, &name).map_err(|e| refuse(format!("cannot be read: {e}")))?;
                let (copied, found) = copy(&mut file, size, &mut buffer, out, &name)?;
                if copied < size || file.read(&mut [0]).map_err(|e| refuse(e.to_string()))? > 0 {
                    return Err(refuse(format!("has not the {size} bytes that it came with")));
                }
                if checksum.is_some_and(|checksum| checksum != found) {
                    return Err(refuse("was changed since it came".to_owned()));
                }
            }
        }
    }
    Ok(())
}

fn copy(
    file: &mut File,
    size: u64,
    buffer: &mut [u8],
    out: &mut dyn Write,
    name: &[u8],
) -> Result<(u64, u64)> {
    let (mut left, mut checksum) = (size, CHECKSUM.digest());
    while left > 0 {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = match file.read(&mut buffer[..most]) {
            Ok(0) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(Error::io(|| format!("read '{}'", name.escape_ascii())))?,
        };
        checksum.update(&buffer[..length]);
        out.write_all(&buffer[..length]).map_err(writing)?;
        left -= length as u64;
    }
    Ok((size - left, checksum.finalize()))
}

/// Opens a file where the member of this name was put, as if the layer's directory was the root of all.
fn open(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = loop {
        match openat2(directory, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => break opened?,
        }
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(File::from(file))
}

fn writing(error: io::Error) -> Error {
    Error::Io { doing: "hand a layer on".to_owned(), source: error }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &[u8]) -> Result<Vec<Piece>> {
        let mut pieces = Pieces::new(text);
        let mut found = Vec::new();
        while let Some(piece) = pieces.next()? {
            found.push(piece);
        }
        Ok(found)
    }

    /// Lines as Docker 20.10 writes them.
    const RECORD: &str = r#"{"type":2,"payload":"Li9ldGMv","position":0}
{"type":1,"name":"./etc/","payload":null,"position":1}
{"type":1,"name":"a\u003cb","size":1,"payload":"NCAAAAAAAAA=","position":2}
{"type":1,"name_raw":"/2E=","payload":"","position":3}
"#;

    #[test]
    fn checksums_are_those_of_go() {
        // Rows of hash/crc64's own table.
        for (text, sum) in [("", 0), ("a", 0x3420 << 48), ("ab", 0x36c42 << 44)] {
            assert_eq!(CHECKSUM.checksum(text.as_bytes()), sum, "{text}");
        }
    }

    #[test]
    fn the_lines_of_docker_are_understood() {
        let file = |name: &[u8], size, checksum| Piece::File { name: name.to_vec(), size, checksum };
        assert_eq!(
            pieces(RECORD.as_bytes()).unwrap(),
            [
                Piece::Segment(b"./etc/".to_vec()),
                file(b"./etc/", 0, None),
                file(b"a<b", 1, Some(0x3420 << 48)),
                file(b"\xffa", 0, None),
            ]
        );
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_line() {
        for line in [
            "[]",
            r#"{"type":3}"#,
            r#"{"type":"1"}"#,
            r#"{"type":1,"size":-1}"#,
            r#"{"type":1,"payload":"YQ=="}"#,
            r#"{"type":2,"payload":"YQ"}"#,
            r#"{"type":1,"name_raw":"*"}"#,
            "\u{0}",
        ] {
            let text = format!("{{\"type\":2}}\n{line}\n");
            let told = pieces(text.as_bytes()).unwrap_err().to_string();
            assert!(told.starts_with("line 2 of its tar-split cannot be used: "), "{line}: {told}");
            assert!(!told.contains(char::is_control), "{told:?}");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let told = Pieces::new(BufReader::new(io::repeat(b'x'))).next().unwrap_err().to_string();
        assert!(told.contains("longer than"), "{told}");
    }

    /// What `assemble` makes of one file line.
    fn assembled(directory: &std::path::Path, line: &str) -> Result<Vec<u8>> {
        let mut record = tempfile::tempfile().unwrap();
        record.write_all(line.as_bytes()).unwrap();
        io::Seek::rewind(&mut record).unwrap();
        let directory = File::open(directory).unwrap();
        let mut out = Vec::new();
        assemble(record, directory.as_fd(), &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_file_is_found_behind_links_and_never_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("file"), "secret").unwrap();
        std::fs::create_dir(dir.path().join("usr")).unwrap();
        std::fs::write(dir.path().join("usr/file"), "abcdef").unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("lib")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let line = |name: &str| format!(r#"{{"type":1,"name":"{name}","size":6}}"#);
        for name in ["usr/file", "./usr//file", "/lib/file", "../../usr/file"] {
            assert_eq!(assembled(dir.path(), &line(name)).unwrap(), b"abcdef", "{name}");
        }
        let up = format!("../../../../../..{}/file", outside.path().display());
        for name in ["out/file", "usr", "none", &up, "", "\\u0000"] {
            let told = assembled(dir.path(), &line(name)).unwrap_err().to_string();
            assert!(told.contains("cannot be read"), "{name}: {told}");
        }
    }

    #[test]
    fn a_file_that_was_changed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        let line =
            |size: u64, sum: &str| format!(r#"{{"type":1,"name":"a","size":{size},"payload":"{sum}"}}"#);
        assert_eq!(assembled(dir.path(), &line(1, "NCAAAAAAAAA=")).unwrap(), b"a");
        for (size, sum, why) in [
            (1, "NCAAAAAAAAE=", "was changed"),
            (2, "", "has not the 2 bytes"),
            (u64::MAX, "", "has not the"),
        ] {
            let told = assembled(dir.path(), &line(size, sum)).unwrap_err().to_string();
            assert!(told.contains("'a'") && told.contains(why), "{told}");
        }
        std::fs::write(dir.path().join("a"), "ab").unwrap();
        assert!(assembled(dir.path(), &line(1, "NCAAAAAAAAA=")).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Bytes of a record in the place of others: an answer, and one line when it is no.
        #[test]
        fn no_record_is_too_strange(
            at in any::<prop::sample::Index>(),
            length in 0..8usize,
            bytes in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut record = RECORD.as_bytes().to_vec();
            let at = at.index(record.len());
            let end = (at + length).min(record.len());
            record.splice(at..end, bytes);
            if let Err(error) = pieces(&record) {
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }

        #[test]
        fn what_is_written_is_read(
            name in prop::collection::vec(any::<u8>(), 1..20),
            size in 0..=u64::MAX,
            bytes in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let encode = |bytes: &[u8]| -> String {
                const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                bytes.chunks(3).flat_map(|group| {
                    let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
                    let digit = move |at: usize| DIGITS[(bits >> (18 - 6 * at) & 63) as usize] as char;
                    (0..4).map(move |at| if at <= group.len() { digit(at) } else { '=' })
                }).collect()
            };
            let record = format!(
                "{{\"type\":1,\"name_raw\":\"{}\",\"size\":{size}}}\n{{\"type\":2,\"payload\":\"{}\"}}\n",
                encode(&name), encode(&bytes)
            );
            let read = pieces(record.as_bytes()).unwrap();
            prop_assert_eq!(read, [Piece::File { name, size, checksum: None }, Piece::Segment(bytes)]);
        }
    }
}

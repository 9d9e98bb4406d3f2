//! The archive that `load` was given, opened so that its members can be read in any order.
//!
//! A plain tar in a regular file is read where it is; a stream or a compressed archive is spooled first. Nothing in
//! it is extracted by its name: names are only looked up.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use mica_archive::compress::{Compression, Decoder};
use mica_archive::reader::Reader;
use mica_archive::{Digest, Entry, Kind};

use crate::error::shown;
use crate::{Error, Result};

/// More members than any image archive has.
const MAX_MEMBERS: usize = 100_000;
/// More than any manifest or config may have, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// More than all manifests and configs of one archive have, in bytes, each as often as it is read.
const MAX_DOCUMENTS: u64 = 128 << 20;
const BUFFER: usize = 128 << 10;

/// An indexed archive.
#[derive(Debug)]
pub(crate) struct Source {
    file: Arc<File>,
    members: Members,
    /// The bytes of documents that may still be read.
    patience: Cell<u64>,
}

type Members = HashMap<String, Member>;

#[derive(Clone, Debug)]
enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// Another name, from the root of the archive, for what it leads to.
    Link(String),
}

/// The content of one member.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Source {
    /// Opens the archive. `spool` is where its plain form goes if it needs one.
    pub(crate) fn open(mut archive: File, spool: &Path) -> Result<Self> {
        let failed = || "read the image archive".to_owned();
        let mut start = Vec::new();
        let is_file = archive.metadata().map_err(Error::io(failed))?.is_file();
        Read::by_ref(&mut archive).take(6).read_to_end(&mut start).map_err(Error::io(failed))?;
        let (file, members) = if is_file && Compression::of(&start) == Compression::None {
            archive.rewind().map_err(Error::io(failed))?;
            let (members, _) = index(&archive, Reader::seek_next)?;
            (archive, members)
        } else {
            spooled(io::Cursor::new(start).chain(archive), spool)?
        };
        Ok(Self { file: Arc::new(file), members, patience: Cell::new(MAX_DOCUMENTS) })
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// The content of the file of this name.
    pub(crate) fn find(&self, name: &str) -> Result<Span> {
        let missing = || Error::Invalid(format!("the image archive has no file '{}'", shown(name)));
        let mut name = clean(name.as_bytes()).ok_or_else(missing)?;
        // Each step of a chain of links is another member; a circle is as good as nothing.
        for _ in 0..8 {
            match self.members.get(&name).ok_or_else(missing)? {
                Member::File { at, size } => {
                    return Ok(Span { file: Arc::clone(&self.file), at: *at, left: *size });
                }
                Member::Link(target) => name.clone_from(target),
            }
        }
        Err(missing())
    }

    /// A small file, such as a manifest.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let span = self.find(name)?;
        if span.left > MAX_DOCUMENT {
            return Err(Error::Invalid(format!(
                "'{}' of the image archive has {} bytes, more than the limit of {MAX_DOCUMENT}",
                shown(name),
                span.left
            )));
        }
        self.read(span)
    }

    /// The content of a document.
    pub(crate) fn read(&self, mut span: Span) -> Result<Vec<u8>> {
        let left = self.patience.get().checked_sub(span.left).ok_or_else(|| {
            Error::Invalid(format!(
                "image archive refused: its manifests and configs have more than {MAX_DOCUMENTS} bytes together"
            ))
        })?;
        self.patience.set(left);
        let mut content = Vec::new();
        span.read_to_end(&mut content).map_err(Error::io(|| "read the image archive".to_owned()))?;
        Ok(content)
    }

    /// A small file of an OCI layout, which must be what its digest says.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let content = self.document(&blob_name(digest))?;
        let found = Digest::of(&content);
        if found != *digest {
            return Err(Error::Invalid(format!("blob {digest} of the image archive has the digest {found}")));
        }
        Ok(content)
    }
}

/// Where an OCI layout has a blob.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Span {
    /// How long it is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.left
    }
}

impl Read for Span {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = self.file.read_at(&mut buffer[..most], self.at)?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image archive became shorter"));
        }
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

/// Writes the plain form of a stream to a file, as far as it is an archive.
fn spooled(archive: impl Read, spool: &Path) -> Result<(File, Members)> {
    let failed = || "unpack the image archive".to_owned();
    let file =
        File::options().read(true).write(true).create_new(true).open(spool).map_err(Error::io(failed))?;
    let decoder = Decoder::new(BufReader::with_capacity(BUFFER, archive))?;
    let (members, reader) = index(Spool { source: decoder, file: &file }, Reader::next)?;
    // Whoever writes the stream is not to be told that nobody reads the padding.
    reader.finish()?;
    Ok((file, members))
}

/// A stream that is kept in a file as it is read.
struct Spool<'a, R> {
    source: R,
    file: &'a File,
}

impl<R: Read> Read for Spool<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.file
            .write_all(&buffer[..length])
            .map_err(|error| io::Error::other(mica_archive::Error::io("unpack the image archive")(error)))?;
        Ok(length)
    }
}

/// Lists the members that `next` finds, which decides how content is passed over.
fn index<R: Read>(
    archive: R,
    next: fn(&mut Reader<BufReader<R>>) -> mica_archive::Result<Option<Entry>>,
) -> Result<(Members, Reader<BufReader<R>>)> {
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER, archive));
    let mut members = Members::new();
    while let Some(entry) = next(&mut reader)? {
        let refuse = |why: &str| {
            Error::Invalid(format!("image archive refused: its member '{}' {why}", entry.path.escape_ascii()))
        };
        let name = clean(&entry.path).ok_or_else(|| refuse("has a name that is no plain relative path"))?;
        let member = match &entry.kind {
            Kind::File { size, sparse: None } => Member::File { at: reader.position(), size: *size },
            Kind::File { .. } => return Err(refuse("is a sparse file")),
            Kind::Symlink(target) => {
                Member::Link(beside(&name, target).ok_or_else(|| refuse("leads out of it"))?)
            }
            Kind::Hardlink(target) => Member::Link(clean(target).ok_or_else(|| refuse("leads out of it"))?),
            Kind::Directory => continue,
            _ => return Err(refuse("is a device")),
        };
        if members.len() >= MAX_MEMBERS {
            return Err(Error::Invalid(format!(
                "image archive refused: it has more than {MAX_MEMBERS} members"
            )));
        }
        if members.insert(name, member).is_some() {
            return Err(refuse("is there twice"));
        }
    }
    Ok((members, reader))
}

/// A name without `./`; `None` for one that is absolute, empty, or has `..` in it.
fn clean(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let is_plain = !text.starts_with('/') && !parts.contains(&"..") && !text.is_empty();
    is_plain.then(|| parts.join("/"))
}

/// What a link at `name` leads to; `None` when that is outside.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/'))?;
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_names_are_taken() {
        for (name, clean_name) in [
            ("./a/b", Some("a/b")),
            ("a//b/", Some("a/b")),
            ("/a", None),
            ("../a", None),
            ("a/../b", None),
            ("", None),
            ("..a/b", Some("..a/b")),
        ] {
            assert_eq!(clean(name.as_bytes()).as_deref(), clean_name, "{name}");
        }
        assert_eq!(clean(b"\xff"), None);
    }

    #[test]
    fn a_link_leads_within_the_archive_or_nowhere() {
        assert_eq!(beside("x/layer.tar", b"../y/layer.tar").as_deref(), Some("y/layer.tar"));
        assert_eq!(beside("layer.tar", b"./y").as_deref(), Some("y"));
        assert_eq!(beside("x/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(beside("layer.tar", b"/etc/passwd"), None);
    }
}

//! What Docker does with a layer tarball: it extracts it into a directory, in the form of its storage driver, and keeps
//! what is no content of a file in a record of tar-split.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mica_archive::reader::Reader;
use mica_archive::tap::Tap;
use mica_archive::{Entry, Kind, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat,
};
use serde_json::{Value, json};

use crate::archives::gzip;
use crate::docker::Driver;

/// Extracts a tarball as the storage driver would.
pub(crate) fn untar(driver: Driver, tarball: &[u8], to: &Path) {
    let mut reader = Reader::new(tarball);
    let mut times = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let name = String::from_utf8(entry.path.clone()).unwrap();
        let path = to.join(name.trim_start_matches("./"));
        let file = path.file_name().map(|name| name.to_str().unwrap().to_owned()).unwrap_or_default();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if driver == Driver::Overlay2 && file.starts_with(".wh.") {
            hide(&path, &file);
            continue;
        }
        match &entry.kind {
            Kind::Directory => fs::create_dir_all(&path).unwrap(),
            Kind::Symlink(target) => symlink(String::from_utf8_lossy(target).as_ref(), &path).unwrap(),
            Kind::Hardlink(target) => {
                fs::hard_link(to.join(String::from_utf8_lossy(target).as_ref()), &path).unwrap();
            }
            Kind::File { .. } => {
                let mut content = Vec::new();
                reader.content().read_to_end(&mut content).unwrap();
                fs::write(&path, content).unwrap();
            }
            other => panic!("{other:?} in a fixture"),
        }
        if !matches!(entry.kind, Kind::Symlink(_) | Kind::Hardlink(_)) {
            fs::set_permissions(&path, PermissionsExt::from_mode(entry.mode)).unwrap();
            times.push((path, entry.mtime));
        }
    }
    for (path, time) in times.into_iter().rev() {
        let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    }
}

/// A deletion, as overlayfs has it.
fn hide(path: &Path, name: &str) {
    let parent = path.parent().unwrap();
    match name {
        ".wh..wh..opq" => setxattr(parent, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap(),
        name => whiteout(&parent.join(&name[".wh.".len()..])),
    }
}

/// Makes a whiteout of overlayfs.
pub(crate) fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// The record of a tarball, `tar-split.json.gz`.
pub(crate) fn tar_split(tarball: &[u8]) -> Vec<u8> {
    let mut reader = Reader::with_tap(Cursor::new(tarball), Record::default());
    while reader.next().unwrap().is_some() {
        reader.content().read_to_end(&mut Vec::new()).unwrap();
    }
    let (_, mut record) = reader.finish().unwrap();
    record.end_file();
    record.end_segment();
    let lines: String = record.lines.iter().map(|line| format!("{line}\n")).collect();
    gzip(lines.as_bytes())
}

#[derive(Default)]
struct Record {
    lines: Vec<Value>,
    segment: Vec<u8>,
    file: Option<(Vec<u8>, Vec<u8>)>,
}

impl Record {
    fn end_segment(&mut self) {
        if !self.segment.is_empty() {
            let payload = base64(&std::mem::take(&mut self.segment));
            self.lines.push(json!({ "type": 2, "payload": payload, "position": self.lines.len() }));
        }
    }

    fn end_file(&mut self) {
        let Some((name, content)) = self.file.take() else { return };
        let mut line = json!({ "type": 1, "payload": null, "position": self.lines.len() });
        match String::from_utf8(name) {
            Ok(name) => line["name"] = json!(name),
            Err(raw) => line["name_raw"] = json!(base64(raw.as_bytes())),
        }
        if !content.is_empty() {
            line["size"] = json!(content.len());
            line["payload"] = json!(base64(&crc64(&content).to_be_bytes()));
        }
        self.lines.push(line);
    }
}

impl Tap for Record {
    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.end_file();
        self.segment.extend_from_slice(bytes);
        Ok(())
    }

    fn member(&mut self, entry: &Entry, _: u64) -> Result<()> {
        self.end_file();
        self.end_segment();
        self.file = Some((entry.path.clone(), Vec::new()));
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.as_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }
}

/// Bit by bit, as ISO 3309 has it.
fn crc64(bytes: &[u8]) -> u64 {
    let crc = bytes.iter().fold(!0u64, |crc, &byte| {
        (0..8)
            .fold(crc ^ u64::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xd8 << 56 } else { crc >> 1 })
    });
    !crc
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

//! Images of a known shape, the same at every run.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;

use mica_archive::digest::Hasher;
use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Time};

use crate::Result;

/// How large an image is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    /// In each layer.
    pub(crate) files: usize,
}

impl Shape {
    /// Has another process of this program write an image archive.
    pub(crate) fn make(self, path: &Path) -> Result<()> {
        let mut make = Command::new("/proc/self/exe");
        make.arg("image").arg(path).args([self.layers, self.files].map(|number| number.to_string()));
        crate::measure::run(&mut make).map(drop)
    }
}

/// Writes an image archive as `docker save` makes it. The first layer has a static busybox as `/bin/sh`.
pub(crate) fn write(path: &Path, layers: &str, files: &str) -> Result<()> {
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no number"));
    let shape = Shape { layers: number(layers)?, files: number(files)? };
    let failed = |e: &dyn std::fmt::Display| format!("make '{}': {e}", path.display());
    let mut archive = Writer::new(BufWriter::new(File::create(path).map_err(|e| failed(&e))?));
    let mut names = Vec::new();
    let mut diff_ids = Vec::new();
    for number in 0..shape.layers {
        let layer = layer(number, shape.files).map_err(|e| failed(&e))?;
        let mut hasher = Hasher::new();
        hasher.update(&layer);
        let name = format!("{number}/layer.tar");
        archive.append(&file(name.as_bytes(), layer.len()), &mut &*layer).map_err(|e| failed(&e))?;
        names.push(name);
        diff_ids.push(hasher.finish().to_string());
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": ["bench:latest"], "Layers": names}]);
    for (name, json) in [("config.json", config), ("manifest.json", manifest)] {
        let text = json.to_string();
        let appended = archive.append(&file(name.as_bytes(), text.len()), &mut text.as_bytes());
        appended.map_err(|e| failed(&e))?;
    }
    archive.finish().map_err(|e| failed(&e)).map(drop)
}

fn layer(number: usize, files: usize) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut archive = Writer::new(Vec::new());
    if number == 0 {
        let busybox = std::fs::read("/bin/busybox")?;
        archive.append(&Entry { mode: 0o755, ..file(b"bin/busybox", busybox.len()) }, &mut &*busybox)?;
        let link = Kind::Symlink(b"busybox".to_vec());
        archive.append(&Entry { kind: link, ..file(b"bin/sh", 0) }, &mut io::empty())?;
    }
    let mut random = Random(number as u64 + 1);
    for index in 0..files {
        if index % 50 == 0 {
            let path = format!("data/{number}/{}/", index / 50).into_bytes();
            archive
                .append(&Entry { kind: Kind::Directory, mode: 0o755, ..file(&path, 0) }, &mut io::empty())?;
        }
        let path = format!("data/{number}/{}/{index}", index / 50);
        // Most files of a distribution are small, and a few are not; the mean is about 8 KiB.
        let size = if index % 40 == 0 { 150_000 } else { 1 << (6 + random.next() % 8) };
        let content: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        archive.append(&file(path.as_bytes(), size), &mut &*content)?;
    }
    Ok(archive.finish()?)
}

fn file(path: &[u8], size: usize) -> Entry {
    let kind = Kind::File { size: size as u64, sparse: None };
    let mtime = Time { seconds: 1_600_000_000, nanoseconds: 0 };
    Entry { path: path.to_vec(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

/// A multiplicative generator (Knuth's MMIX constants): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Prints the digest of a file: the floor of hashing.
pub(crate) fn hash(path: &Path) -> Result<()> {
    let failed = |e: io::Error| format!("hash '{}': {e}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    writeln!(io::stdout(), "{}", hasher.finish()).map_err(failed)
}

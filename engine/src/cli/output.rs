//! A file that a command writes for the user: whole, or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result, intent};

/// How much is written at once.
const BUFFER: usize = 128 << 10;

/// What is written takes the place of what is at the path when it is [put there](Self::put_in_place), and is gone when it is
/// dropped before.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    path: &'a Path,
    /// Where it is until then; `None` for a device or a pipe, which is written as it is.
    aside: Option<PathBuf>,
    file: BufWriter<File>,
}

impl<'a> Output<'a> {
    /// Begins a file that only its owner can read.
    pub(crate) fn create(path: &'a Path) -> Result<Self> {
        let failed = || format!("write '{}'", path.display());
        let found = path.metadata();
        if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(Error::Invalid(format!("write '{}': it is a directory", path.display())));
        }
        let mut options = File::options();
        options.write(true);
        let aside = match found {
            Ok(found) if !found.is_file() => None,
            _ => Some(directory(path)?.join(format!(".mica-{}", intent::random_id()?))),
        };
        let file = match &aside {
            Some(aside) => options.create_new(true).mode(0o600).open(aside),
            None => options.open(path),
        };
        let file = BufWriter::with_capacity(BUFFER, file.map_err(Error::io(failed))?);
        Ok(Self { path, aside, file })
    }

    /// Gives it its name.
    pub(crate) fn put_in_place(mut self) -> Result<()> {
        let failed = || format!("write '{}'", self.path.display());
        self.file.flush().map_err(Error::io(failed))?;
        if let Some(aside) = &self.aside {
            fs::rename(aside, self.path).map_err(Error::io(failed))?;
            self.aside = None;
        }
        Ok(())
    }
}

/// The directory that a file is to be in, which must be there.
fn directory(path: &Path) -> Result<&Path> {
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    match parent.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::Doing {
            doing: format!("write '{}'", path.display()),
            source: Box::new(Error::no_such("directory", parent.display().to_string())),
        }),
        // What else may be wrong with it, the file will meet.
        _ => Ok(parent),
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside {
            // Why it was given up matters more than that it stays.
            let _ = fs::remove_file(aside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_until_the_whole_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"new").unwrap();
        output.put_in_place().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_written_and_not_replaced() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let null = dir.path().join("null");
        mknodat(CWD, &null, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3)).unwrap();
        let mut output = Output::create(&null).unwrap();
        output.write_all(b"x").unwrap();
        output.put_in_place().unwrap();
        assert!(!null.metadata().unwrap().is_file());
    }
}

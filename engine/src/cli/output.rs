//! A file that a command writes for the user: whole, or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mica_core::failpoint;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

use crate::{Error, Result, intent};

/// How much is written at once.
const BUFFER: usize = 128 << 10;

/// What is written takes the place of what is at the path when it is [put there](Self::put_in_place), and is gone when it is
/// dropped before.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    path: &'a Path,
    aside: Aside,
    file: BufWriter<File>,
}

/// What a file is until it is in its place.
#[derive(Debug)]
enum Aside {
    /// A device or a pipe, which is written as it is.
    No,
    /// A file without a name, which is gone with the process, however that ends.
    Unnamed,
    /// A file beside the path, where the file system has none without a name, as NFS.
    Named(PathBuf),
}

impl<'a> Output<'a> {
    /// Begins a file that only its owner can read.
    pub(crate) fn create(path: &'a Path) -> Result<Self> {
        let found = path.metadata();
        if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err(Error::Invalid(format!("write '{}': it is a directory", path.display())));
        }
        let begun = match found {
            Ok(found) if !found.is_file() => {
                File::options().write(true).open(path).map(|file| (Aside::No, file))
            }
            _ => begin_in(directory(path)?),
        };
        let (aside, file) = begun.map_err(Error::io(|| format!("write '{}'", path.display())))?;
        Ok(Self { path, aside, file: BufWriter::with_capacity(BUFFER, file) })
    }

    /// Gives it its name.
    pub(crate) fn put_in_place(mut self) -> Result<()> {
        self.name_it().map_err(Error::io(|| format!("write '{}'", self.path.display())))
    }

    fn name_it(&mut self) -> io::Result<()> {
        self.file.flush()?;
        failpoint::hit("output.written")?;
        if let Aside::Unnamed = self.aside {
            match self.link(self.path) {
                // A link takes no file's place: it needs a name to be renamed from.
                Err(Errno::EXIST) => {
                    let name = fresh_name(self.path.parent().unwrap_or(Path::new("")))?;
                    self.link(&name)?;
                    self.aside = Aside::Named(name);
                }
                linked => return Ok(linked?),
            }
        }
        if let Aside::Named(name) = &self.aside {
            fs::rename(name, self.path)?;
            self.aside = Aside::No;
        }
        Ok(())
    }

    /// Through `/proc`, which takes no privilege, as `AT_EMPTY_PATH` does (open(2)).
    fn link(&self, name: &Path) -> Result<(), Errno> {
        let file = format!("/proc/self/fd/{}", self.file.get_ref().as_raw_fd());
        linkat(CWD, file, CWD, name, AtFlags::SYMLINK_FOLLOW)
    }
}

fn begin_in(directory: &Path) -> io::Result<(Aside, File)> {
    match open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            let name = fresh_name(directory)?;
            let file = File::options().write(true).create_new(true).mode(0o600).open(&name)?;
            Ok((Aside::Named(name), file))
        }
        file => Ok((Aside::Unnamed, file?.into())),
    }
}

fn fresh_name(directory: &Path) -> io::Result<PathBuf> {
    Ok(directory.join(format!(".mica-{}", intent::random_id().map_err(io::Error::other)?)))
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
        if let Aside::Named(aside) = &self.aside {
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
    fn a_file_that_has_a_name_takes_its_place_or_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let named = || {
            let name = fresh_name(dir.path()).unwrap();
            let file = BufWriter::new(File::create_new(&name).unwrap());
            Output { path: &path, aside: Aside::Named(name), file }
        };
        drop(named());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        named().put_in_place().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
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

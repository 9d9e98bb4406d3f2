//! What is done on a mount that is measured, each by a process of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

const MIB: usize = 1 << 20;
/// Of a small file.
const SMALL: usize = 800;

/// This program, doing one of the things below.
pub(crate) fn command(verb: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["client", verb]);
    command
}

/// Does what `command` asked for.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("'{text}' is no number"));
    let done = match words {
        ["read", file] => read(file),
        ["write", file, mib] => write(file, number(mib)?),
        ["append", file] => {
            OpenOptions::new().append(true).open(file).and_then(|mut file| file.write_all(b"x"))
        }
        ["lstat", dir, names] => lstat(dir.as_ref(), names),
        ["create", dir, dirs, files] => create(dir.as_ref(), number(dirs)?, number(files)?),
        ["files", dir, files, dirs] => tree(dir.as_ref(), number(dirs)?, number(files)?),
        ["spread", from, to, branches] => spread(from.as_ref(), to.as_ref(), number(branches)?),
        ["deal", from, to, branches] => deal(from.as_ref(), to.as_ref(), number(branches)?),
        _ => return Err(format!("no such thing to do: {}", words.join(" "))),
    };
    done.map_err(|e| format!("{}: {e}", words.join(" ")))
}

/// Reads a file from its beginning to its end.
fn read(file: &str) -> io::Result<()> {
    let (mut file, mut buffer) = (File::open(file)?, vec![0; MIB]);
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

fn write(file: &str, mib: usize) -> io::Result<()> {
    let (mut file, buffer) = (File::create(file)?, vec![7; MIB]);
    (0..mib).try_for_each(|_| file.write_all(&buffer))
}

/// Looks at every file that is listed, each far from the one before.
fn lstat(dir: &Path, names: &str) -> io::Result<()> {
    const STRIDE: usize = 7919;
    let names = fs::read_to_string(names)?;
    let names: Vec<_> = names.lines().collect();
    let mut jumps = (0..names.len()).map(|number| names[number * STRIDE % names.len()]);
    jumps.try_for_each(|name| fs::symlink_metadata(dir.join(name)).map(drop))
}

/// Makes, writes and deletes files, a directory after the other.
fn create(dir: &Path, dirs: usize, files: usize) -> io::Result<()> {
    let content = [7; SMALL];
    for dir in (0..dirs).map(|number| dir.join(format!("made-{number}"))) {
        fs::create_dir(&dir)?;
        let names: Vec<PathBuf> = (0..files).map(|number| dir.join(format!("file-{number}"))).collect();
        names.iter().try_for_each(|name| File::create_new(name)?.write_all(&content))?;
        names.iter().try_for_each(fs::remove_file)?;
        fs::remove_dir(&dir)?;
    }
    Ok(())
}

/// Makes a tree of small files.
fn tree(dir: &Path, dirs: usize, files: usize) -> io::Result<()> {
    for dir in (0..dirs).map(|number| dir.join(format!("dir-{number:03}"))) {
        fs::create_dir(&dir)?;
        (0..files).try_for_each(|number| fs::write(dir.join(format!("file-{number:04}")), [7; SMALL]))?;
    }
    Ok(())
}

/// Has the files of a tree in branches in turn, each of which has all the directories.
fn spread(from: &Path, to: &Path, branches: usize) -> io::Result<()> {
    let mut number = 0;
    for dir in fs::read_dir(from)? {
        let dir = dir?;
        let place = |branch: usize| to.join(branch.to_string()).join(dir.file_name());
        (0..branches).try_for_each(|branch| fs::create_dir(place(branch)))?;
        for file in fs::read_dir(dir.path())? {
            let file = file?;
            fs::copy(file.path(), place(number % branches).join(file.file_name()))?;
            number += 1;
        }
    }
    Ok(())
}

/// Copies each directory of a tree to one of several, in turn.
fn deal(from: &Path, to: &Path, branches: usize) -> io::Result<()> {
    for (number, dir) in fs::read_dir(from)?.enumerate() {
        let dir = dir?;
        let place = to.join((number % branches).to_string()).join(dir.file_name());
        fs::create_dir(&place)?;
        for file in fs::read_dir(dir.path())? {
            let file = file?;
            fs::copy(file.path(), place.join(file.file_name()))?;
        }
    }
    Ok(())
}

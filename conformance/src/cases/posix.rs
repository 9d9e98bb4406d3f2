//! How far a mounted tree behaves like one plain file system: what containerd's suite lists and never wrote, and more.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use mica_core::{Layer, Writable};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::list;
use crate::actor::as_nobody;
use crate::bench::{Bench, How};
use crate::files::{append, chmod, mkdir, patch, read, remove, socket, write};
use crate::mounted::Mounted;
use crate::outcome::{Doing, Verdict, ensure};
use crate::sys;

list! {
    // docker#12080
    "sockets-connect" sockets_connect =
        "a socket that was bound in the tree can be connected to through it";
    // docker#19647
    "directory-inode-is-stable" directory_inode_is_stable =
        "a directory keeps its inode number when something is written in it";
    // docker#12327
    "open-file-across-first-write" open_file_across_first_write =
        "a file that was opened for reading before the first write to it shows what is written; else it shows the parent's content",
        CoherentOpen else open_file_keeps_old_content;
    "open-file-after-unlink" open_file_after_unlink =
        "a file that came from a parent and is open can be read after its name is gone";
    "open-file-for-writing" open_file_for_writing =
        "one descriptor that reads and writes a file of a parent sees its own writes";
    // docker#19082
    "getcwd" getcwd =
        "a process finds its working directory by name, also one that came from a parent and was written to";
    "chmod-of-open-file" chmod_of_open_file =
        "a change of mode is seen through a descriptor that was open before, when the file is the layer's own";
    "remove-while-walking" remove_while_walking =
        "a directory can be emptied while it is being listed, and then removed";
    "emptied-lower-directory" emptied_lower_directory =
        "a directory whose names were all deleted can be removed; one with names left answers ENOTEMPTY";
    "exclusive-create" exclusive_create =
        "an exclusive create fails where a parent has the name, and works where it was deleted";
    "truncate-and-append" truncate_and_append =
        "a file of a parent can be cut, lengthened and appended to";
    "rename-exchange" rename_exchange =
        "two files, of the parent's or the layer's own, can be exchanged, and a rename that must not replace does not";
    "permissions-count" permissions_count =
        "who is not the owner is refused by the mode, as in any directory";
}

/// A layer on a base that was made so, mounted for writing.
fn above(bench: &Bench<'_>, make: impl FnOnce(&Path) -> Verdict) -> Verdict<(Layer<Writable>, Mounted)> {
    let base = bench.layer("base", None, make)?;
    let layer = bench.create("layer", Some(&base))?;
    let tree = bench.mount(&layer, How::Write)?;
    Ok((layer, tree))
}

fn sockets_connect(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| mkdir(&tree.join("run")))?;
    mounted.visit(|tree| {
        let path = tree.path().join("run/socket");
        let listener = socket(&path)?;
        // By a descriptor of its directory: an address holds 107 bytes.
        let run = File::open(tree.path().join("run")).doing(|| "open the directory")?;
        let short = format!("/proc/self/fd/{}/socket", run.as_raw_fd());
        let mut client = UnixStream::connect(&short).doing(|| "connect")?;
        let (mut server, _) = listener.accept().doing(|| "accept")?;
        client
            .write_all(b"hello")
            .and_then(|()| client.shutdown(std::net::Shutdown::Write))
            .doing(|| "send")?;
        let mut text = String::new();
        server.read_to_string(&mut text).doing(|| "receive")?;
        ensure!(text == "hello", "the server received '{text}'");
        remove(&path)?;
        ensure!(UnixStream::connect(&short).is_err(), "a removed socket can be connected to");
        Ok(())
    })
}

fn directory_inode_is_stable(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| {
        mkdir(&tree.join("dir/sub"))?;
        write(&tree.join("dir/file"), "x")
    })?;
    mounted.visit(|tree| {
        let inode =
            |name: &str| tree.path().join(name).metadata().map(|m| (m.dev(), m.ino())).doing(|| "stat");
        let before = (inode("dir")?, inode("dir/sub")?);
        write(&tree.path().join("dir/new"), "x")?;
        append(&tree.path().join("dir/file"), "y")?;
        chmod(&tree.path().join("dir/sub"), 0o700)?;
        let after = (inode("dir")?, inode("dir/sub")?);
        ensure!(before == after, "the directories' device and inode were {before:?} and are {after:?}");
        Ok(())
    })
}

/// What a descriptor shows that was opened before the first write to a file of the parent.
fn early_reader(bench: &Bench<'_>) -> Verdict<String> {
    let (_, mounted) = above(bench, |tree| write(&tree.join("file"), "old text"))?;
    mounted.visit(|tree| {
        let path = tree.path().join("file");
        let early = File::open(&path).doing(|| "open for reading")?;
        patch(&path, 0, b"new")?;
        let late = read(&path)?;
        ensure!(late == "new text", "a later open shows '{late}'");
        let mut text = [0; 8];
        early.read_exact_at(&mut text, 0).doing(|| "read from the early descriptor")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
}

fn open_file_across_first_write(bench: Bench<'_>) -> Verdict {
    let text = early_reader(&bench)?;
    ensure!(text == "new text", "a descriptor from before the write shows '{text}', expected 'new text'");
    Ok(())
}

fn open_file_keeps_old_content(bench: Bench<'_>) -> Verdict {
    let text = early_reader(&bench)?;
    ensure!(
        text == "old text",
        "a descriptor from before the write shows '{text}': this is coherent_open, which is not claimed"
    );
    Ok(())
}

fn open_file_after_unlink(bench: Bench<'_>) -> Verdict {
    let (layer, mounted) = above(&bench, |tree| write(&tree.join("file"), "text"))?;
    mounted.visit(|tree| {
        let path = tree.path().join("file");
        let mut open = OpenOptions::new().read(true).write(true).open(&path).doing(|| "open")?;
        remove(&path)?;
        open.write_all(b"TEXT and more").doing(|| "write to the removed file")?;
        let mut text = [0; 13];
        open.read_exact_at(&mut text, 0).doing(|| "read the removed file")?;
        ensure!(&text == b"TEXT and more", "the removed file shows '{}'", text.escape_ascii());
        write(&path, "another")
    })?;
    let text = bench.look(&layer, |tree| read(&tree.join("file")))?;
    ensure!(text == "another", "the file that took the name shows '{text}'");
    Ok(())
}

fn open_file_for_writing(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| write(&tree.join("file"), "0123456789"))?;
    mounted.visit(|tree| {
        let path = tree.path().join("file");
        let file = OpenOptions::new().read(true).write(true).open(&path).doing(|| "open")?;
        file.write_all_at(b"ab", 4).doing(|| "write")?;
        let mut text = [0; 10];
        file.read_exact_at(&mut text, 0).doing(|| "read")?;
        ensure!(&text == b"0123ab6789", "the descriptor shows '{}'", text.escape_ascii());
        file.set_len(5).doing(|| "cut")?;
        ensure!(read(&path)? == "0123a", "the name shows another file than the descriptor");
        Ok(())
    })
}

fn getcwd(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| mkdir(&tree.join("a/b")))?;
    mounted.visit(|tree| {
        let dir = tree.path().join("a/b");
        // In a child, for the working directory belongs to the whole process.
        let child = sys::fork(|| {
            let found = std::env::set_current_dir(&dir)
                .and_then(|()| fs::write("file", "makes this directory the layer's own"))
                .and_then(|()| fs::create_dir("c"))
                .and_then(|()| std::env::set_current_dir("c"))
                .and_then(|()| std::env::set_current_dir(".."))
                .and_then(|()| std::env::current_dir());
            u8::from(!found.is_ok_and(|found| found == dir))
        });
        let status = child.and_then(sys::Child::wait).doing(|| "run a child")?;
        ensure!(
            status == Some(0),
            "a process in a directory of the parent does not find its name after a write"
        );
        Ok(())
    })
}

fn chmod_of_open_file(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| write(&tree.join("lower"), "x"))?;
    mounted.visit(|tree| {
        let path = tree.path().join("lower");
        append(&path, "y")?;
        let open = File::open(&path).doing(|| "open")?;
        chmod(&path, 0o4711)?;
        let mode = open.metadata().doing(|| "stat")?.mode() & 0o7777;
        ensure!(mode == 0o4711, "the open file's mode is {mode:04o}, expected 4711");
        Ok(())
    })
}

fn remove_while_walking(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| {
        mkdir(&tree.join("dir"))?;
        (0..1000).try_for_each(|n| write(&tree.join(format!("dir/lower-{n}")), ""))
    })?;
    mounted.visit(|tree| {
        let dir = tree.path().join("dir");
        (0..1000).try_for_each(|n| write(&dir.join(format!("upper-{n}")), ""))?;
        let mut seen = 0;
        for entry in fs::read_dir(&dir).doing(|| "list")? {
            remove(&entry.doing(|| "list")?.path())?;
            seen += 1;
        }
        ensure!(seen == 2000, "the list had {seen} names while they were removed, expected 2000");
        fs::remove_dir(&dir).doing(|| "remove the emptied directory")
    })
}

fn emptied_lower_directory(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| {
        mkdir(&tree.join("dir/sub"))?;
        write(&tree.join("dir/file"), "x")
    })?;
    mounted.visit(|tree| {
        let dir = tree.path().join("dir");
        let not_empty = |left: &str| {
            let answer = fs::remove_dir(&dir).map_err(|error| error.raw_os_error());
            let expected = Some(Errno::NOTEMPTY.raw_os_error());
            ensure!(answer == Err(expected), "to remove a directory with {left} answered {answer:?}");
            Ok(())
        };
        not_empty("a file and a directory")?;
        remove(&dir.join("file"))?;
        not_empty("a directory")?;
        remove(&dir.join("sub"))?;
        fs::remove_dir(&dir).doing(|| "remove the emptied directory")?;
        ensure!(fs::symlink_metadata(&dir).is_err(), "the removed directory is there");
        Ok(())
    })
}

fn exclusive_create(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("file"), "x")
    })?;
    mounted.visit(|tree| {
        let (file, dir) = (tree.path().join("file"), tree.path().join("dir"));
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).map(drop);
        let answers = [create(), fs::create_dir(&dir), fs::create_dir(&file)];
        for answer in answers {
            let answer = answer.map_err(|error| error.raw_os_error());
            let expected = Some(Errno::EXIST.raw_os_error());
            ensure!(
                answer == Err(expected),
                "to make what a parent has answered {answer:?}, expected EEXIST"
            );
        }
        remove(&file)?;
        create().doing(|| "make a file whose name was deleted")?;
        let empty = file.metadata().doing(|| "stat")?;
        ensure!(
            empty.len() == 0 && empty.mode() & 0o777 == 0o600,
            "the new file shows the deleted one's metadata"
        );
        remove(&dir)?;
        fs::DirBuilder::new().mode(0o700).create(&dir).doing(|| "make a directory whose name was deleted")
    })
}

fn truncate_and_append(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("lengths")?;
    let names = ["cut", "emptied", "longer", "appended"];
    twin.layer(|tree| names.iter().try_for_each(|name| write(&tree.join(name), "0123456789")))?;
    twin.layer(|tree| {
        let resize = |name: &str, length| {
            let file = OpenOptions::new().write(true).open(tree.join(name));
            file.and_then(|file| file.set_len(length)).doing(|| format!("resize {name}"))
        };
        resize("cut", 3)?;
        resize("longer", 5000)?;
        OpenOptions::new().write(true).truncate(true).open(tree.join("emptied")).doing(|| "empty it")?;
        append(&tree.join("appended"), "!")
    })?;
    twin.layer(|tree| append(&tree.join("longer"), "end")).map(drop)
}

fn rename_exchange(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("exchange")?;
    twin.layer(|tree| write(&tree.join("a"), "a").and_then(|()| write(&tree.join("b"), "b")))?;
    twin.layer(|tree| {
        write(&tree.join("c"), "c")?;
        let swap = |one: &str, other: &str| {
            rustix::fs::renameat_with(CWD, tree.join(one), CWD, tree.join(other), RenameFlags::EXCHANGE)
                .doing(|| format!("exchange {one} and {other}"))
        };
        swap("a", "b")?;
        swap("b", "c")?;
        let answer =
            rustix::fs::renameat_with(CWD, tree.join("a"), CWD, tree.join("b"), RenameFlags::NOREPLACE);
        ensure!(answer == Err(Errno::EXIST), "a rename that must not replace answered {answer:?}");
        Ok(())
    })
    .map(drop)
}

fn permissions_count(bench: Bench<'_>) -> Verdict {
    let (_, mounted) = above(&bench, |tree| {
        write(&tree.join("secret"), "x")?;
        chmod(&tree.join("secret"), 0o600)?;
        write(&tree.join("shared"), "x")?;
        chmod(&tree.join("shared"), 0o666)
    })?;
    mounted.visit(|tree| {
        // By a descriptor: the directories above may be closed to others.
        let root = File::open(tree.path()).doing(|| "open the tree")?;
        let open = |name: &str, flags| rustix::fs::openat(&root, name, flags, Mode::RUSR).map(drop);
        let answers = as_nobody(|| {
            let create = OFlags::WRONLY | OFlags::CREATE;
            (open("secret", OFlags::RDONLY), open("shared", OFlags::WRONLY), open("new", create))
        })?;
        let expected = (Err(Errno::ACCESS), Ok(()), Err(Errno::ACCESS));
        ensure!(answers == expected, "another user was answered {answers:?}, expected {expected:?}");
        Ok(())
    })
}

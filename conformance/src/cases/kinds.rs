//! Every kind of file, every attribute, every name: written in one layer, seen and changed through others.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use super::list;
use crate::bench::{Bench, How};
use crate::files::{
    append, chmod, chown, device, fifo, link, mkdir, patch, remove, remove_xattr, rename, set_time,
    set_xattr, socket, symlink, write,
};
use crate::outcome::{Doing, Verdict, ensure};
use crate::tree::Times;

list! {
    "symbolic-links" symbolic_links =
        "symbolic links keep their text, whatever it is, up to the 1023 bytes of xfs, and as long as the file system takes it";
    "devices" devices =
        "character and block devices keep their numbers, modes and owners, also numbers that not every file system takes";
    "fifos" fifos =
        "named pipes stay named pipes";
    // docker#12080
    "sockets" sockets =
        "a socket file stays one";
    "hard-links" hard_links =
        "names of one file that a layer made are one file in it, once committed, and in its children";
    "hard-links-to-lower-files" hard_links_to_lower_files =
        "a new name of a file that came from a parent is the same file";
    "hard-links-across-layers" hard_links_across_layers =
        "two names of one file of a parent stay one file when it is written; else the written name becomes its own",
        LowerHardLinks else hard_links_break;
    "extended-attributes" extended_attributes =
        "extended attributes are kept, changed and removed like content";
    "root-attributes" root_attributes =
        "the tree's root directory has the extended attributes of the parent's";
    "access-control-lists" access_control_lists =
        "access control lists are kept, the default one of a directory too";
    "file-capabilities" file_capabilities =
        "file capabilities are kept when the owner of another file, or another attribute, changes";
    "sparse-files" sparse_files =
        "a hole in a file takes no space, in a child that did not touch it neither";
    "times" times =
        "modification times are kept to the nanosecond, before 1970 and after 2038";
    "odd-names" odd_names =
        "names are bytes: any but '/' and NUL, as many as statfs(2) says, which is 242 at the least";
    "long-paths" long_paths =
        "names may be as long as statfs(2) says and no longer, in directories as deep as anywhere";
}

/// Whether a layer takes what this makes, which is beyond the limits of some file systems.
///
/// A layer is on the driver's file system, so it takes what a plain directory beside the root takes, and refuses what that
/// refuses. Only one that is a file system of its own may have limits of its own. What is refused leaves nothing.
fn takes(bench: &Bench<'_>, limit: Errno, make: impl Fn(&Path) -> rustix::io::Result<()>) -> Verdict<bool> {
    let plain = bench.room().plain().join("beyond");
    let layer = bench.create("beyond", None)?;
    bench.mount(&layer, How::Write)?.visit(|tree| {
        let path = tree.path().join("beyond");
        let (shown, expected) = (make(&path), make(&plain));
        for (answer, path) in [(shown, &path), (expected, &plain)] {
            let made = path.symlink_metadata().is_ok();
            ensure!(answer.is_ok() == made, "{answer:?} was answered, and that something was made is {made}");
            ensure!(answer.is_ok() || answer == Err(limit), "{answer:?} was answered, expected {limit:?}");
        }
        ensure!(
            shown == expected || tree.has_own_file_system(),
            "the tree answered {shown:?}, and a directory on the same file system {expected:?}"
        );
        Ok(shown.is_ok() && expected.is_ok())
    })
}

fn symbolic_links(bench: Bench<'_>) -> Verdict {
    let (long, longest) = ("x".repeat(1023), "x/".repeat(2000));
    let all = takes(&bench, Errno::NAMETOOLONG, |path| rustix::fs::symlink(&*longest, path))?;
    let longest = if all { &longest } else { &long };
    let mut twin = bench.twin("links")?;
    twin.layer(|tree| {
        let links = [("relative", "a/b"), ("absolute", "/etc/passwd"), ("up", "../../.."), ("long", &*long)];
        links.iter().try_for_each(|(name, target)| symlink(target, &tree.join(name)))?;
        symlink(longest, &tree.join("longest"))?;
        symlink(OsStr::from_bytes(b"\xff\xfe\n"), &tree.join("bytes"))?;
        symlink("loop", &tree.join("loop"))?;
        chown(&tree.join("relative"), 1, 2)
    })?;
    twin.layer(|tree| {
        remove(&tree.join("up"))?;
        symlink("changed", &tree.join("up"))?;
        rename(&tree.join("absolute"), &tree.join("moved"))
    })
    .map(drop)
}

fn devices(bench: Bench<'_>) -> Verdict {
    // Xfs keeps 9 bits of a major and 18 of a minor number (`xfs_generic_create`).
    let beyond = |path: &Path| {
        let number = rustix::fs::makedev(4000, 1_000_000);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), number)
    };
    let widest = if takes(&bench, Errno::INVAL, beyond)? { (4000, 1_000_000) } else { (511, 262_143) };
    let mut twin = bench.twin("devices")?;
    twin.layer(|tree| {
        device(&tree.join("null"), FileType::CharacterDevice, 1, 3)?;
        device(&tree.join("disk"), FileType::BlockDevice, 8, 17)?;
        for (name, (major, minor)) in [("wide", (500, 200_000)), ("widest", widest)] {
            device(&tree.join(name), FileType::CharacterDevice, major, minor)?;
        }
        chmod(&tree.join("null"), 0o666)?;
        chown(&tree.join("disk"), 0, 6)
    })?;
    twin.layer(|tree| {
        chmod(&tree.join("disk"), 0o600)?;
        remove(&tree.join("null"))?;
        rename(&tree.join("wide"), &tree.join("moved"))
    })
    .map(drop)
}

fn fifos(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("fifos")?;
    twin.layer(|tree| fifo(&tree.join("kept")).and_then(|()| fifo(&tree.join("changed"))))?;
    twin.layer(|tree| {
        chown(&tree.join("changed"), 3, 3)?;
        // Not of "changed": with `userxattr` overlayfs cannot note on a pipe where it came from.
        fifo(&tree.join("new"))?;
        link(&tree.join("new"), &tree.join("linked"))
    })
    .map(drop)
}

fn sockets(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("sockets")?;
    twin.layer(|tree| {
        socket(&tree.join("kept"))?;
        socket(&tree.join("changed")).map(drop)
    })?;
    twin.layer(|tree| chmod(&tree.join("changed"), 0o600)).map(drop)
}

fn hard_links(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("links")?;
    twin.layer(|tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("a"), "one file")?;
        link(&tree.join("a"), &tree.join("b"))?;
        link(&tree.join("a"), &tree.join("dir/c"))?;
        append(&tree.join("b"), ", three names")?;
        symlink("x", &tree.join("l1"))?;
        link(&tree.join("l1"), &tree.join("l2"))
    })?;
    twin.layer(|tree| write(&tree.join("other"), "x"))?;
    twin.layer(|tree| remove(&tree.join("a"))).map(drop)
}

fn hard_links_to_lower_files(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("links")?;
    twin.layer(|tree| write(&tree.join("a"), "text"))?;
    twin.layer(|tree| {
        link(&tree.join("a"), &tree.join("b"))?;
        append(&tree.join("a"), " and more")
    })?;
    twin.layer(|tree| remove(&tree.join("a"))).map(drop)
}

fn two_names(tree: &Path) -> Verdict {
    write(&tree.join("a"), "text")?;
    link(&tree.join("a"), &tree.join("b"))
}

fn hard_links_across_layers(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("links")?;
    twin.layer(two_names)?;
    twin.layer(|tree| append(&tree.join("a"), " and more")).map(drop)
}

fn hard_links_break(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, two_names)?;
    let child = bench.layer("child", Some(&base), |tree| append(&tree.join("a"), " and more"))?;
    bench.look(&child, |tree| {
        let texts = (crate::files::read(&tree.join("a"))?, crate::files::read(&tree.join("b"))?);
        ensure!(texts.0 == "text and more", "the written name shows '{}'", texts.0);
        ensure!(texts.1 == "text", "the other name shows '{}', expected it to stay as it was", texts.1);
        Ok(())
    })
}

fn extended_attributes(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("attributes")?;
    twin.layer(|tree| {
        write(&tree.join("file"), "x")?;
        mkdir(&tree.join("dir"))?;
        symlink("file", &tree.join("link"))?;
        fifo(&tree.join("fifo"))?;
        for name in ["file", "dir"] {
            set_xattr(&tree.join(name), "user.text", b"value")?;
            set_xattr(&tree.join(name), "user.empty", b"")?;
            set_xattr(&tree.join(name), "user.bytes", &[0, 255, 10, 0])?;
        }
        set_xattr(&tree.join("file"), "user.long", &[b'x'; 2000])?;
        ["file", "dir", "link", "fifo"]
            .iter()
            .try_for_each(|name| set_xattr(&tree.join(name), "trusted.test", b"t"))
    })?;
    twin.layer(|tree| {
        set_xattr(&tree.join("file"), "user.text", b"changed")?;
        remove_xattr(&tree.join("dir"), "user.text")
    })?;
    twin.layer(|tree| append(&tree.join("file"), "y"))?;
    twin.layer(|tree| chmod(&tree.join("dir"), 0o700)).map(drop)
}

fn root_attributes(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("root")?;
    twin.layer(|tree| set_xattr(tree, "user.root", b"1"))?;
    twin.layer(|_| Ok(()))?;
    twin.layer(|tree| set_xattr(tree, "user.root", b"2"))?;
    twin.layer(|tree| remove_xattr(tree, "user.root")).map(drop)
}

/// Owner rwx, the user 1000 r-x, group r-x, mask r-x, others nothing: `system.posix_acl_access` in the kernel's form.
fn acl() -> Vec<u8> {
    let entries = [
        (0x01u16, 7u16, u32::MAX),
        (0x02, 5, 1000),
        (0x04, 5, u32::MAX),
        (0x10, 5, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn access_control_lists(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("acls")?;
    twin.layer(|tree| {
        write(&tree.join("file"), "x")?;
        mkdir(&tree.join("dir"))?;
        set_xattr(&tree.join("file"), "system.posix_acl_access", &acl())?;
        set_xattr(&tree.join("dir"), "system.posix_acl_access", &acl())?;
        set_xattr(&tree.join("dir"), "system.posix_acl_default", &acl())
    })?;
    twin.layer(|tree| append(&tree.join("file"), "y"))?;
    twin.layer(|tree| File::create(tree.join("dir/inherits")).map(drop).doing(|| "make a file"))?;
    twin.layer(|tree| remove_xattr(&tree.join("dir"), "system.posix_acl_default")).map(drop)
}

fn file_capabilities(bench: Bench<'_>) -> Verdict {
    // cap_net_bind_service=ep, revision 2 (capability.h).
    let value = [0x0200_0001u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    let mut twin = bench.twin("capabilities")?;
    twin.layer(|tree| {
        write(&tree.join("server"), "#!/bin/true")?;
        chmod(&tree.join("server"), 0o755)?;
        set_xattr(&tree.join("server"), "security.capability", &value)
    })?;
    twin.layer(|tree| chmod(&tree.join("server"), 0o711))?;
    twin.layer(|tree| rename(&tree.join("server"), &tree.join("moved")))?;
    twin.layer(|tree| append(&tree.join("moved"), "\n")).map(drop)
}

fn sparse_files(bench: Bench<'_>) -> Verdict {
    let size = 16 << 20;
    let check = |tree: &Path| {
        let meta = tree.join("sparse").metadata().doing(|| "stat the sparse file")?;
        ensure!(meta.len() == size, "the file is {} bytes long, expected {size}", meta.len());
        let taken = meta.blocks() * 512;
        ensure!(taken <= 1 << 20, "a file of {size} bytes with 8 KiB of data takes {taken} bytes");
        Ok(())
    };
    let mut twin = bench.twin("sparse")?;
    twin.layer(|tree| {
        let file = File::create(tree.join("sparse")).doing(|| "make a file")?;
        file.set_len(size).doing(|| "lengthen it")?;
        chmod(&tree.join("sparse"), 0o600)?;
        patch(&tree.join("sparse"), 4 << 20, &[1; 4096])?;
        patch(&tree.join("sparse"), size - 4096, &[2; 4096])
    })?;
    bench.look(twin.base()?, check)?;
    twin.layer(|tree| write(&tree.join("other"), "x"))?;
    bench.look(twin.top()?, check).map_err(|stop| stop.within("in a child"))
}

fn times(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("times")?.with_times(Times::OfAll);
    let all = |tree: &Path| {
        set_time(&tree.join("dir/new"), 1_700_000_000, 123_456_789)?;
        set_time(&tree.join("dir/link"), 1_000_000_000, 1)?;
        set_time(&tree.join("dir"), 4_294_967_295, 999_999_999)?;
        set_time(&tree.join("old"), -1, 500_000_000)?;
        set_time(tree, 1_234_567_890, 987_654_321)
    };
    twin.layer(|tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("dir/new"), "x")?;
        symlink("new", &tree.join("dir/link"))?;
        write(&tree.join("old"), "x")?;
        all(tree)
    })?;
    twin.layer(|_| Ok(()))?;
    twin.layer(|tree| {
        chmod(&tree.join("dir/new"), 0o600)?;
        chown(&tree.join("dir/link"), 1, 1)?;
        chmod(&tree.join("old"), 0o600)
    })?;
    twin.layer(|tree| {
        append(&tree.join("dir/new"), "y")?;
        all(tree)
    })
    .map(drop)
}

/// How long a name can be in a layer that has a parent. AUFS keeps 13 of 255 bytes for itself.
fn longest_name(bench: &Bench<'_>) -> Verdict<usize> {
    let base = bench.layer("short", None, |_| Ok(()))?;
    let layer = bench.create("shown", Some(&base))?;
    bench.edit(&layer, |tree| {
        let says = rustix::fs::statvfs(tree).doing(|| "ask for the longest name")?.f_namemax;
        ensure!((242..=255).contains(&says), "names have {says} bytes at the most");
        let longer = tree.join("x".repeat(says as usize + 1));
        let answer = rustix::fs::mkdir(&longer, Mode::RWXU);
        ensure!(answer == Err(Errno::NAMETOOLONG), "one of {} bytes answers {answer:?}", says + 1);
        Ok(says as usize)
    })
}

fn odd_names(bench: Bench<'_>) -> Verdict {
    let longest = longest_name(&bench)?;
    let mut names: Vec<Vec<u8>> = [
        " ", "-rf", "a b", "a\nb", "a\\b", "a:b", "a,b", "a=b", "\"", "'", "*", "é", "...", ".wh", "\u{7f}",
        "#work",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([vec![b'x'; longest], vec![0xff; longest], b"\xfe\x01\x80".to_vec()]);
    let at = |tree: &Path, name: &[u8]| tree.join(OsStr::from_bytes(name));
    let mut twin = bench.twin("names")?;
    twin.layer(|tree| names.iter().try_for_each(|name| write(&at(tree, name), name)))?;
    twin.layer(|tree| names.iter().try_for_each(|name| append(&at(tree, name), "more")))?;
    twin.layer(|tree| names.iter().try_for_each(|name| remove(&at(tree, name))))?;
    twin.layer(|tree| names.iter().try_for_each(|name| mkdir(&at(tree, name).join(OsStr::from_bytes(name)))))
        .map(drop)
}

fn long_paths(bench: Bench<'_>) -> Verdict {
    // With what comes before it the whole stays below the 4095 bytes that a path may have in one call.
    let longest = longest_name(&bench)?;
    let below: std::path::PathBuf = (0..13).map(|level| format!("{level:x}").repeat(longest)).collect();
    let mut twin = bench.twin("long")?;
    twin.layer(|tree| {
        mkdir(&tree.join(&below))?;
        write(&tree.join(&below).join("file"), "deep")
    })?;
    twin.layer(|tree| append(&tree.join(&below).join("file"), " down"))?;
    twin.layer(|tree| remove(&tree.join(&below)))?;
    twin.layer(|tree| remove(&tree.join("0".repeat(longest)))).map(drop)
}

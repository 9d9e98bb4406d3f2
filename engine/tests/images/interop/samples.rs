//! Layers with everything in them that tools have stumbled over.

use mica_archive::{Entry, Kind};

use crate::archives::{entry, tar_of};

type Member = (Entry, Vec<u8>);

fn layer(members: &[Member]) -> Vec<u8> {
    tar_of(&members.iter().map(|(entry, content)| (entry.clone(), &content[..])).collect::<Vec<_>>())
}

fn file(path: impl AsRef<[u8]>, content: &[u8]) -> Member {
    let kind = Kind::File { size: content.len() as u64, sparse: None };
    (named(path, kind), content.to_vec())
}

fn other(path: impl AsRef<[u8]>, kind: Kind) -> Member {
    (named(path, kind), Vec::new())
}

fn named(path: impl AsRef<[u8]>, kind: Kind) -> Entry {
    Entry { path: path.as_ref().to_vec(), ..entry("", kind) }
}

/// One layer of everything that a tree can have.
pub(super) fn everything() -> Vec<u8> {
    let mut members: Vec<Member> = Vec::new();
    for directory in
        ["./", "d/", "d/a/", "d/c/", "d/c/x/", "opaque/", "opaque/sub/", "repl/", "repl/dir/", "tmp/"]
    {
        members.push(other(directory, Kind::Directory));
    }
    members.last_mut().unwrap().0.mode = 0o1777;
    let (mut setuid, content) = file("setuid", b"x");
    (setuid.mode, setuid.uid, setuid.gid) = (0o6711, 12, 4_000_000_000);
    members.push((setuid, content));
    let (mut attributes, content) = file("attributes", b"x");
    // cap_net_raw+ep as the kernel has it (linux/capability.h, revision 2).
    let capability = [&[1, 0, 0, 2, 0, 32][..], &[0; 14]].concat();
    attributes.xattrs.push((b"security.capability".to_vec(), capability));
    attributes.xattrs.push((b"user.binary".to_vec(), b"\x00=\n\xff".to_vec()));
    members.push((attributes, content));
    let deep = format!("{0}/{0}", "n".repeat(200));
    members.push(other(format!("{}/", "n".repeat(200)), Kind::Directory));
    members.push(file(&deep, b"long"));
    members.push(other("hard", Kind::Hardlink(deep.clone().into_bytes())));
    members.push(other("soft", Kind::Symlink(deep.into_bytes())));
    members.push(other("d/dangling", Kind::Symlink(b"/nowhere".to_vec())));
    members.push(other("null", Kind::CharDevice(1, 3)));
    members.push(other("block", Kind::BlockDevice(300, 70_000)));
    members.push(other("fifo", Kind::Fifo));
    members.push(file(b"latin1-\xe9\xff", b"1"));
    members.push(file("line\nbreak \"quote\" \u{65e5}", b"2"));
    let mut hollow = vec![0; 300_000];
    hollow[150_000] = 1;
    members.push(file("hollow", &hollow));
    let mut old = file("old", b"");
    old.0.mtime.seconds = 1;
    members.push(old);
    for path in ["d/a/f", "d/c/x/f", "opaque/old", "opaque/sub/old", "repl/dir/f", "repl/file", "gone"] {
        members.push(file(path, path.as_bytes()));
    }
    layer(&members)
}

/// Layers that change each other in every way, one of them empty, and one there twice.
pub(super) fn layers() -> Vec<Vec<u8>> {
    let change = layer(&[
        other("d/", Kind::Directory),
        file("d/.wh.c", b""),
        other("opaque/", Kind::Directory),
        file("opaque/.wh..wh..opq", b""),
        file("opaque/new", b"new"),
        other("repl/", Kind::Directory),
        file("repl/dir", b"a file now"),
        other("repl/file/", Kind::Directory),
        file("repl/file/in", b"in"),
        file(".wh.gone", b""),
        file(b".wh.latin1-\xe9\xff", b""),
    ]);
    let again =
        layer(&[file("gone", b"back"), other("d/c", Kind::Symlink(b"a".to_vec())), file(".wh.hard", b"")]);
    vec![everything(), change, layer(&[]), again.clone(), layer(&[file(".wh.gone", b"")]), again]
}

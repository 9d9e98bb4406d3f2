//! Names of members: made clean, and told apart from whiteouts.

use super::fault::{Attempt, refuse};

/// How the name of a whiteout starts (OCI image specification, "whiteouts"; aufs manual).
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// How the name of AUFS's own bookkeeping starts.
const AUFS: &[u8] = b".wh..wh.";
/// The file that makes its directory opaque.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the last component of a member's path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The root of the tree itself.
    Root,
    /// Something with this name.
    Plain(&'a [u8]),
    /// That the thing with this name goes away.
    Whiteout(&'a [u8]),
    /// That what the layers below have in this directory goes away.
    Opaque,
    /// Nothing: the bookkeeping of an AUFS branch.
    Bookkeeping,
}

/// Writes `path` to `out` without leading, trailing and double slashes and without `.` and `..`, by the text
/// alone.
///
/// As in a chroot, `..` at the root is the root. A relative path that uses this to name something is refused all
/// the same: nobody writes `../etc/passwd` with good intentions. `follow` says that it is the target of a hard
/// link, where such paths are found in honest images too.
pub(super) fn clean(path: &[u8], follow: bool, out: &mut Vec<u8>) -> Attempt {
    out.clear();
    if path.contains(&0) {
        return refuse("its path contains a NUL byte");
    }
    let mut above = false;
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                above |= out.is_empty();
                out.truncate(split(out).0.len());
            }
            name => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(name);
            }
        }
    }
    if above && !follow && !path.starts_with(b"/") && !out.is_empty() {
        return refuse("its path leads out of the root by '..'");
    }
    Ok(())
}

/// A clean path as its parent directory, empty for the root, and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The path of `name` in the directory at `parent`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Classifies a clean path, by its parent and last component.
pub(super) fn meaning<'a>(parent: &[u8], last: &'a [u8]) -> Attempt<Meaning<'a>> {
    if last.is_empty() {
        return Ok(Meaning::Root);
    }
    let in_bookkeeping = || parent.split(|&byte| byte == b'/').any(|name| name.starts_with(AUFS));
    let Some(hidden) = last.strip_prefix(WHITEOUT) else {
        return Ok(if in_bookkeeping() { Meaning::Bookkeeping } else { Meaning::Plain(last) });
    };
    match hidden {
        _ if in_bookkeeping() => Ok(Meaning::Bookkeeping),
        _ if last == OPAQUE => Ok(Meaning::Opaque),
        _ if last.starts_with(AUFS) => Ok(Meaning::Bookkeeping),
        // "." and ".." would remove the directory itself or its parent.
        b"" | b"." | b".." => refuse("it is a whiteout that names nothing"),
        name => Ok(Meaning::Whiteout(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(path: &str) -> Option<String> {
        let mut out = Vec::new();
        clean(path.as_bytes(), false, &mut out).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_path_is_cleaned_by_its_text() {
        for (path, clean) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a/./b", "a/b"),
            ("a/../b", "b"),
            ("/../a", "a"),
            ("", ""),
            (".", ""),
            ("..", ""),
            ("a/../..", ""),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
    }

    #[test]
    fn a_relative_path_that_climbs_out_is_refused_for_a_member_and_clamped_for_a_link() {
        for path in ["../a", "a/../../b", "./../a"] {
            assert_eq!(cleaned(path), None, "{path}");
        }
        let mut out = Vec::new();
        clean(b"../../etc/passwd", true, &mut out).unwrap();
        assert_eq!(out, b"etc/passwd");
    }

    #[test]
    fn only_the_last_component_makes_a_whiteout() {
        let table: &[(&str, Option<Meaning<'_>>)] = &[
            ("", Some(Meaning::Root)),
            ("a/b", Some(Meaning::Plain(b"b"))),
            ("a/.wh.b", Some(Meaning::Whiteout(b"b"))),
            (".wh.etc/b", Some(Meaning::Plain(b"b"))),
            ("a/.wh..wh..opq", Some(Meaning::Opaque)),
            (".wh..wh.plnk", Some(Meaning::Bookkeeping)),
            (".wh..wh.plnk/12.7", Some(Meaning::Bookkeeping)),
            (".wh..wh.aufs", Some(Meaning::Bookkeeping)),
            (".wh..hidden", Some(Meaning::Whiteout(b".hidden"))),
            (".wh.", None),
            (".wh..", None),
            ("a/.wh...", None),
        ];
        for (path, expected) in table {
            let (parent, last) = split(path.as_bytes());
            assert_eq!(meaning(parent, last).ok(), *expected, "{path}");
        }
    }
}

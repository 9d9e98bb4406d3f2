//! Names that AUFS keeps for itself on a branch.

use rustix::io::Errno;

use super::Result;

/// Hides the name that follows.
pub const WHITEOUT: &[u8] = b".wh.";
/// In a directory: nothing of it is shown from the branches below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// In the root of the writable branch: the file that whiteouts are links to.
pub const BASE: &[u8] = b".wh..wh.aufs";
/// In the root of the writable branch: second names of files with several names that were copied up.
pub const PSEUDO_LINKS: &[u8] = b".wh..wh.plnk";
/// In the root of the writable branch: what has no name yet, or not any more.
pub const ORPHANS: &[u8] = b".wh..wh.orph";
/// What all names begin with that are no whiteouts.
const OWN: &[u8] = b".wh..wh.";
/// How long a name can be: a temporary name has two prefixes, a dot and four digits besides, in 255 bytes.
pub const LONGEST: usize = 255 - 2 * WHITEOUT.len() - 1 - 4;

/// Whether this name on a branch is not a whiteout, but of the other names that AUFS keeps for itself.
pub(crate) fn is_own(name: &[u8]) -> bool {
    name.starts_with(OWN)
}

/// Refuses what no file of the union can be called: `EPERM` for what AUFS keeps for itself, `ENAMETOOLONG`.
pub(crate) fn check(name: &[u8]) -> Result<()> {
    if name.starts_with(WHITEOUT) {
        return Err(Errno::PERM);
    }
    if name.len() > LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// The name that hides `name`.
pub(crate) fn whiteout(name: &[u8]) -> Vec<u8> {
    [WHITEOUT, name].concat()
}

/// A name of something that is about to be `name`, or was.
pub(crate) fn temporary(name: &[u8], number: u16) -> Vec<u8> {
    [OWN, name, format!(".{number:04x}").as_bytes()].concat()
}

/// The name that `name` is a temporary name of.
pub(crate) fn temporary_of(name: &[u8]) -> Option<&[u8]> {
    let rest = name.strip_prefix(OWN)?;
    let (name, digits) = rest.split_at_checked(rest.len().checked_sub(5)?)?;
    let [b'.', digits @ ..] = digits else { return None };
    let hexadecimal = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (!name.is_empty() && digits.iter().all(hexadecimal)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_fits_and_says_whose_it_is() {
        let longest = vec![b'x'; LONGEST];
        assert_eq!(temporary(&longest, 0xbeef).len(), 255);
        assert_eq!(temporary_of(&temporary(b"a.b", 7)), Some(&b"a.b"[..]));
        for other in
            [OPAQUE, BASE, PSEUDO_LINKS, ORPHANS, b".wh..wh..0000", b".wh..wh.x.00G0", b"x.0000", b""]
        {
            assert_eq!(temporary_of(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn what_aufs_keeps_and_what_is_too_long_is_refused() {
        assert_eq!(check(b".wh.x"), Err(Errno::PERM));
        assert_eq!(check(b".wh."), Err(Errno::PERM));
        assert_eq!(check(&[b'x'; LONGEST + 1]), Err(Errno::NAMETOOLONG));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(check(bad), Err(Errno::INVAL));
        }
        for good in [&b".w"[..], b"x.wh.y", b"\xff\xfe", &[b'x'; LONGEST]] {
            assert_eq!(check(good), Ok(()));
        }
    }
}

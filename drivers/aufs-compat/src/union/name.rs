//! Names that AUFS keeps for itself on a branch.

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
/// How long a name can be: a temporary name has two prefixes, a dot and four digits besides, in 255 bytes.
pub const LONGEST: usize = 255 - 2 * WHITEOUT.len() - 1 - 4;

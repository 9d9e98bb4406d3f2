//! One member of a layer tarball, in the shape that apply reads and diff writes.

/// What a member is. Sizes are bytes; device numbers are the kernel's major and minor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file whose content follows. A sparse file lists its data, everything else is a hole.
    File {
        /// The length of the file once extracted, holes included.
        size: u64,
        /// The data segments of a sparse file, ascending and without overlap; `None` for a plain one.
        sparse: Option<Vec<Segment>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and the text it holds.
    Symlink(Vec<u8>),
    /// A second name of the member that the path, relative to the root of the layer, names.
    Hardlink(Vec<u8>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A run of data in a sparse file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the run starts in the extracted file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// A point in time as tar and the kernel know it: seconds since 1970, which may be negative, and 0..1e9 nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// A member's name and metadata. Names are bytes: nothing says that they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the archive, whole (long-name records and PAX already applied), not cleaned.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at the most.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change of content.
    pub mtime: Time,
    /// Extended attributes by full name (`user.x`, `security.capability`), in the archive's order. One that the archive
    /// has in another form than the kernel's has the key of its PAX record for a name, and the value as it stands
    /// there: an ACL as text (`SCHILY.acl.access`), a value that could not be decoded (`LIBARCHIVE.xattr.user.x`).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

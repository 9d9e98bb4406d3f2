//! Project quota: two system interfaces that no crate at hand wraps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::{Getter, Setter, ioctl, opcode};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) flags: u32,
    extent_size: u32,
    extents: u32,
    pub(crate) project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
pub(crate) const INHERIT: u32 = 0x200;

const GET: rustix::ioctl::Opcode = opcode::read::<Attributes>(b'X', 31);
const SET: rustix::ioctl::Opcode = opcode::write::<Attributes>(b'X', 32);

pub(crate) fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    // SAFETY: FS_IOC_FSGETXATTR fills in a structure of this layout.
    Ok(unsafe { ioctl(file, Getter::<GET, Attributes>::new()) }?)
}

pub(crate) fn set_attributes(file: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    // SAFETY: FS_IOC_FSSETXATTR reads a structure of this layout.
    Ok(unsafe { ioctl(file, Setter::<SET, Attributes>::new(attributes)) }?)
}

/// What a project uses and may use: `struct if_dqblk` of `linux/quota.h`. Hard limits of 0 are none.
pub(crate) type Record = libc::dqblk;

/// `PRJQUOTA`, the third kind after users and groups.
const PROJECT: u32 = 2;

/// `Q_XGETQSTATV` of `linux/dqblk_xfs.h`.
const Q_XGETQSTATV: u32 = 0x5808;

/// The record of a project on the file system of `file`, empty for one that it has never heard of.
pub(crate) fn record(file: BorrowedFd<'_>, project: u32) -> io::Result<Record> {
    let empty = Record {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    };
    let mut record = empty;
    // SAFETY: Q_GETQUOTA fills in a `struct if_dqblk`.
    let read = unsafe { quotactl(file, libc::Q_GETQUOTA as u32, project, std::ptr::from_mut(&mut record)) };
    match read {
        // So answers xfs (`xfs_qm_dqget`); ext4 makes a record for whom one is asked for.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(empty),
        read => read.map(|()| record),
    }
}

/// Sets the hard limits, those of bytes in units of 1024.
pub(crate) fn set_limits(file: BorrowedFd<'_>, project: u32, kilobytes: u64, inodes: u64) -> io::Result<()> {
    let mut record = record(file, project)?;
    record.dqb_bhardlimit = kilobytes;
    record.dqb_ihardlimit = inodes;
    record.dqb_bsoftlimit = 0;
    record.dqb_isoftlimit = 0;
    record.dqb_valid = libc::QIF_LIMITS;
    // SAFETY: Q_SETQUOTA reads a `struct if_dqblk`.
    unsafe { quotactl(file, libc::Q_SETQUOTA as u32, project, std::ptr::from_mut(&mut record)) }
}

/// `struct fs_quota_statv` of `linux/dqblk_xfs.h`, of which only the flags matter here.
#[repr(C, align(8))]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    rest: [u8; 188],
}

/// Whether limits of projects are kept, and not only their usage counted.
pub(crate) fn enforced(file: BorrowedFd<'_>) -> io::Result<bool> {
    const FS_QSTATV_VERSION1: i8 = 1;
    const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
    let mut state = State { version: FS_QSTATV_VERSION1, pad: 0, flags: 0, rest: [0; 188] };
    // SAFETY: Q_XGETQSTATV fills in a structure of version 1, which is smaller than this one.
    unsafe { quotactl(file, Q_XGETQSTATV, 0, std::ptr::from_mut(&mut state)) }?;
    Ok(state.flags & FS_QUOTA_PDQ_ENFD != 0)
}

/// # Safety
///
/// `data` points to what the command reads or writes.
unsafe fn quotactl<T>(file: BorrowedFd<'_>, command: u32, project: u32, data: *mut T) -> io::Result<()> {
    let command = command << 8 | PROJECT;
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Which file system something is on.

use std::os::fd::BorrowedFd;

use rustix::fs::fstatfs;

/// The name of the file system that holds this file, as Docker prints it; its magic number where it has no name here
/// (linux/magic.h).
pub fn file_system(file: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let magic = fstatfs(file)?.f_type.cast_unsigned() & 0xffff_ffff;
    Ok(match magic {
        0xef53 => "extfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0xe0f5_e1e2 => "erofs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x6573_5546 => "fuse".to_owned(),
        0x4d44 => "vfat".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        0xf2f5_2010 => "f2fs".to_owned(),
        0xca45_1a4e => "bcachefs".to_owned(),
        0x7371_7368 => "squashfs".to_owned(),
        other => format!("{other:#x}"),
    })
}

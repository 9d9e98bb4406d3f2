//! Loop devices, which are block devices on files, and what else is asked of block devices.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::ioctl::{self, Getter, NoArg, Setter, opcode};

const LOOP_GET_STATUS64: ioctl::Opcode = 0x4C05;
const LOOP_SET_CAPACITY: ioctl::Opcode = 0x4C07;
const LOOP_CONFIGURE: ioctl::Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes a block device of a file. It goes with its last user, so the caller keeps it open until it has another one.
pub(crate) fn attach(file: &File) -> io::Result<(PathBuf, File)> {
    // The file system of the file may not be able to do direct I/O, and may say so only when it is read.
    let direct = configure(file, LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO);
    let direct = direct.and_then(|(path, device)| device.read_at(&mut [0; 4096], 0).map(|_| (path, device)));
    direct.or_else(|_| configure(file, LO_FLAGS_AUTOCLEAR))
}

fn configure(file: &File, flags: u32) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: the command takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        // SAFETY: all zeroes is a value of these plain structures.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = flags;
        // SAFETY: LOOP_CONFIGURE reads a structure of this layout.
        match unsafe { ioctl::ioctl(&device, Setter::<LOOP_CONFIGURE, Config>::new(config)) } {
            Ok(()) => return Ok((path, device)),
            // Another process took it first.
            Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file that a loop device is made of, as the numbers of its file system's device and of its inode.
pub(crate) fn backing(device: &Path) -> io::Result<(u64, u64)> {
    let device = File::open(device)?;
    // SAFETY: the command fills in a structure of this layout.
    let info = unsafe { ioctl::ioctl(&device, Getter::<LOOP_GET_STATUS64, Info>::new()) }?;
    Ok((info.device, info.inode))
}

/// Tells a loop device that its file has grown.
pub(crate) fn grown(device: &Path) -> io::Result<()> {
    let device = File::open(device)?;
    // SAFETY: the command takes no argument.
    Ok(unsafe { ioctl::ioctl(&device, NoArg::<LOOP_SET_CAPACITY>::new()) }?)
}

/// The size of a block device in bytes.
pub(crate) fn size(device: &Path) -> io::Result<u64> {
    const BLKGETSIZE64: ioctl::Opcode = opcode::read::<usize>(0x12, 114);
    let file = File::open(device)?;
    if !file.metadata()?.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a block device"));
    }
    // SAFETY: the command fills in a number of 64 bits.
    Ok(unsafe { ioctl::ioctl(&file, Getter::<BLKGETSIZE64, u64>::new()) }?)
}

/// Gives all blocks of a device back.
pub(crate) fn discard(device: &Path) -> io::Result<()> {
    const BLKDISCARD: ioctl::Opcode = opcode::none(0x12, 119);
    let range = [0, size(device)?];
    let device = OpenOptions::new().write(true).open(device)?;
    // SAFETY: BLKDISCARD reads two numbers of 64 bits.
    Ok(unsafe { ioctl::ioctl(&device, Setter::<BLKDISCARD, [u64; 2]>::new(range)) }?)
}

/// Drops what the page cache has of a device, so that it is read anew.
pub(crate) fn forget(device: &File) -> io::Result<()> {
    const BLKFLSBUF: ioctl::Opcode = opcode::none(0x12, 97);
    // SAFETY: the command takes no argument.
    Ok(unsafe { ioctl::ioctl(device, NoArg::<BLKFLSBUF>::new()) }?)
}

/// Has a mounted ext4 use this many of its blocks.
pub(crate) fn grow_ext4(root: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    const EXT4_IOC_RESIZE_FS: ioctl::Opcode = opcode::write::<u64>(b'f', 16);
    // SAFETY: the command reads a number of 64 bits.
    Ok(unsafe { ioctl::ioctl(root, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }?)
}

/// `struct xfs_growfs_data` of xfs_fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct GrowData {
    blocks: u64,
    most_inodes_percent: u32,
}

/// Has a mounted xfs use this many of its blocks.
pub(crate) fn grow_xfs(root: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    const XFS_IOC_FSGROWFSDATA: ioctl::Opcode = opcode::write::<GrowData>(b'X', 110);
    let data = GrowData { blocks, most_inodes_percent: 25 };
    // SAFETY: the command reads a structure of this layout.
    Ok(unsafe { ioctl::ioctl(root, Setter::<XFS_IOC_FSGROWFSDATA, GrowData>::new(data)) }?)
}

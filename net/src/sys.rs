//! The system calls that no safe crate wraps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use mica_core::network::InterfaceName;

/// Asks a link for its carrier (`linux/ethtool.h`).
const ETHTOOL_GLINK: u32 = 10;

/// Reads an option of a socket whose value answers what the buffer held before. It must answer with as many bytes.
pub(crate) fn ask_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<()> {
    let whole = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut length = whole;
    // SAFETY: the pointer and the length are those of one buffer, borrowed for the call alone; the kernel reads and writes no more
    // than `length` bytes of it, and any bytes are a valid content.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    match done {
        0 if length == whole => Ok(()),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a link has a carrier, in the namespace of the socket. A link of a kind that has none never does. Since Linux 6.8 the
/// kernel has also done all that is under way with it when this returns (`linkwatch_sync_dev` in `ethtool_op_get_link`).
pub(crate) fn has_carrier(socket: BorrowedFd<'_>, link: &InterfaceName) -> io::Result<bool> {
    #[repr(C)]
    struct Question {
        command: u32,
        answer: u32,
    }
    let mut question = Question { command: ETHTOOL_GLINK, answer: 0 };
    let mut request = about(link);
    request.ifr_ifru.ifru_data = (&raw mut question).cast();
    // SAFETY: the kernel reads and writes the request and, for this command, the eight bytes of the question, which
    // both outlive the call. The name is shorter than its place, so a NUL ends it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    match done {
        0 => Ok(question.answer != 0),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            error => Err(error),
        },
    }
}

/// The flags of a link (`IFF_*`), in the namespace of the socket.
pub(crate) fn flags(socket: BorrowedFd<'_>, link: &InterfaceName) -> io::Result<i32> {
    let mut request = about(link);
    // SAFETY: the kernel reads and writes the request, which outlives the call. The name is shorter than its place, so a
    // NUL ends it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has answered with flags.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// The hardware address of an Ethernet link, in the namespace of the socket.
pub(crate) fn hardware_address(socket: BorrowedFd<'_>, link: &InterfaceName) -> io::Result<[u8; 6]> {
    let mut request = about(link);
    // SAFETY: the kernel reads and writes the request, which outlives the call. The name is shorter than its place, so a
    // NUL ends it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR as _, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has answered with an address.
    let [a, b, c, d, e, f, ..] = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    Ok([a, b, c, d, e, f].map(i8::cast_unsigned))
}

fn about(link: &InterfaceName) -> libc::ifreq {
    // SAFETY: of a structure of numbers and pointers all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, letter) in request.ifr_name.iter_mut().zip(link.as_str().bytes()) {
        *place = letter.cast_signed();
    }
    request
}

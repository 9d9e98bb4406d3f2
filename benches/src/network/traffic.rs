//! Bytes over TCP: a server in a container that sends as many as it is asked for, and who asks.
//!
//! The server stays on one processor, the last that this process may use.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::Duration;

use mica_conformance::network::Namespace;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::Pid;

use super::failed;
use crate::Result;

const PIECE: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a thread runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stay {
    /// On the processor on which servers are.
    OnOne,
    Anywhere,
}

/// Says where the calling thread runs.
pub(crate) fn stay(place: Stay) -> Result<()> {
    const THIS_THREAD: Pid = Pid::from_raw(0);
    /// Those that the process began with.
    static ALL: LazyLock<nix::Result<CpuSet>> = LazyLock::new(|| sched_getaffinity(THIS_THREAD));
    let go = || {
        let all = (*ALL)?;
        let mut wanted = all;
        if place == Stay::OnOne {
            let last = (0..CpuSet::count()).rev().find(|&one| all.is_set(one) == Ok(true));
            wanted = CpuSet::new();
            wanted.set(last.unwrap_or_default())?;
        }
        sched_setaffinity(THIS_THREAD, &wanted)
    };
    go().map_err(|e: nix::Error| format!("choose a processor: {e}"))
}

/// A server at a port of a machine, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn new(machine: &Namespace, port: u16) -> Result<Self> {
        let listener = machine.inside(|| TcpListener::bind(("0.0.0.0", port))).map_err(failed("listen"))?;
        let accepting = listener.try_clone().map_err(failed("listen"))?;
        let serve = move || {
            // Elsewhere it would serve, too.
            let _ = stay(Stay::OnOne);
            // Whoever asks sees what goes wrong.
            while let Ok((stream, _)) = accepting.accept() {
                let _ = answer(stream);
            }
        };
        Ok(Self { listener, thread: Some(std::thread::spawn(serve)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It wakes who waits for a client.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until who asks hangs up.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut wanted, piece) = ([0; 8], vec![7; PIECE]);
    loop {
        stream.read_exact(&mut wanted)?;
        let mut left = u64::from_ne_bytes(wanted) as usize;
        while left > 0 {
            left -= stream.write(&piece[..left.min(PIECE)])?;
        }
    }
}

/// Who asks, over one connection. The thread that makes it is on the machine that asks.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    piece: Vec<u8>,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Result<Self> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // Else each connection is remembered for a minute, and there are ports for 28,000 only.
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&stream, sockopt::Linger, &at_once)?;
            Ok(Self { stream, piece: Vec::new() })
        };
        connect().map_err(failed(&format!("connect to {server}")))
    }

    /// Asks for so many bytes and reads them all.
    pub(crate) fn fetch(&mut self, bytes: usize) -> Result<()> {
        let Self { stream, piece } = self;
        let mut fetch = || {
            piece.resize(bytes.min(PIECE), 0);
            stream.write_all(&(bytes as u64).to_ne_bytes())?;
            let mut left = bytes;
            while left > 0 {
                match stream.read(piece)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => left -= read,
                }
            }
            Ok(())
        };
        fetch().map_err(failed("fetch bytes"))
    }
}

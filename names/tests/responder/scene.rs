//! Network namespaces, and a responder that serves in one of them.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use mica_names::{HostName, Names, Responder, Server, View};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, poll};

/// A network namespace of its own, with `lo` up. It ends with its last socket and descriptor.
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            Self::of("/proc/thread-self/ns/net")
        });
        made.join().unwrap()
    }

    pub(crate) fn of(path: &str) -> Self {
        Self(File::open(path).unwrap().into())
    }

    /// Does this inside, on a thread of its own.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs a command in the namespace that the thread is in; what it wrote.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The host and a container, each a namespace; the test runs on the host.
pub(crate) fn on_a_host(test: impl FnOnce(&Namespace) + Send) {
    let host = Namespace::new();
    let container = Namespace::new();
    host.enter(|| test(&container));
}

/// Names with an address each, and servers.
pub(crate) fn view(names: &[(&str, &str)], servers: &[&str]) -> View {
    let mut known = Names::default();
    for (name, address) in names {
        known.insert(&name.parse::<HostName>().unwrap(), &[address.parse().unwrap()]);
    }
    View { names: known, servers: servers.iter().map(|server| server.parse::<Server>().unwrap()).collect() }
}

/// A responder on a thread of its own, which waits for it beside something else, as a supervisor does.
pub(crate) struct Served {
    thread: Option<JoinHandle<()>>,
    orders: Option<(PipeWriter, Sender<View>)>,
    done: Receiver<()>,
}

impl Served {
    pub(crate) fn start(container: &Namespace, view: View) -> Self {
        Self::serve(Responder::start(container.as_fd(), view).unwrap())
    }

    pub(crate) fn serve(responder: Responder) -> Self {
        let (wakes, wake) = pipe().unwrap();
        let (send, views) = channel();
        let (tell, done) = channel();
        let thread = thread::spawn(move || run_until_closed(responder, wakes, &views, &tell));
        Self { thread: Some(thread), orders: Some((wake, send)), done }
    }

    pub(crate) fn show(&mut self, view: View) {
        let (wake, send) = self.orders.as_mut().unwrap();
        send.send(view).unwrap();
        wake.write_all(&[1]).unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.orders = None;
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn run_until_closed(
    mut responder: Responder,
    mut wakes: PipeReader,
    views: &Receiver<View>,
    tell: &Sender<()>,
) {
    loop {
        let mut ready = [PollFd::new(&responder, PollFlags::IN), PollFd::new(&wakes, PollFlags::IN)];
        poll(&mut ready, None).unwrap();
        let (serve, order) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if serve {
            responder.turn().unwrap();
        }
        if order {
            if wakes.read(&mut [0]).unwrap() == 0 {
                return;
            }
            responder.show(views.recv().unwrap());
            tell.send(()).unwrap();
        }
    }
}

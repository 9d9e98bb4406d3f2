//! Terminals: raw bytes, sizes, keys that detach.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::bed::{Bed, each_runtime, once};

/// A command in a terminal of 33 lines of 111 characters.
struct Screen {
    master: File,
    child: Child,
}

impl Screen {
    fn open(bed: &Bed, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(33, 111)).unwrap();
        let slave: OwnedFd =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .unwrap();
        let mut command = bed.command(arguments);
        command.stdin(slave.try_clone().unwrap()).stdout(slave).stderr(Stdio::inherit());
        Self { master: master.into(), child: command.spawn().unwrap() }
    }

    /// Reads until the text is there.
    fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            let length = self.master.read(&mut buffer).unwrap_or(0);
            assert!(length > 0, "'{text}' does not come after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    fn status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn a_terminal_has_the_size_of_the_clients_and_follows_it() {
    each_runtime(|bed| {
        let script =
            "tty; stty size; trap 'stty size; exit 6' WINCH; echo ready; while true; do sleep 0.05; done";
        let mut screen = Screen::open(bed, &["run", "--rm", "-it", "busybox", "sh", "-c", script]);
        let text = screen.until("ready");
        assert!(text.contains("/dev/") && text.contains("33 111"), "{text}");
        tcsetwinsize(&screen.master, size(20, 70)).unwrap();
        let pid = rustix::process::Pid::from_raw(screen.child.id().cast_signed()).unwrap();
        // The test's terminal is nobody's controlling one, so the kernel tells nobody.
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
        screen.until("20 70");
        assert_eq!(screen.status(), Some(6));
    });
}

#[test]
fn keys_reach_the_command_and_some_detach_without_ending_it() {
    once(|bed| {
        let mut screen = Screen::open(bed, &["run", "-it", "--name", "c", "busybox", "sh"]);
        screen.press(b"echo $((40+2))\n");
        screen.until("42");
        screen.press(b"\x10\x11");
        assert_eq!(screen.status(), Some(0));
        assert!(bed.ok(&["ps"]).contains("Up "));
        let mut screen = Screen::open(bed, &["attach", "c"]);
        screen.press(b"echo $((50+7)); exit 5\n");
        screen.until("57");
        assert_eq!(screen.status(), Some(5));
    });
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    each_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        let mut screen = Screen::open(bed, &["exec", "-it", "c", "sh"]);
        screen.press(b"stty size; tty; echo $TERM\n");
        let text = screen.until("xterm");
        assert!(text.contains("33 111") && text.contains("/dev/pts/"), "{text}");
        screen.press(b"exit 9\n");
        assert_eq!(screen.status(), Some(9));
    });
}

#[test]
fn a_terminal_that_is_left_is_as_it_was() {
    once(|bed| {
        let mut screen = Screen::open(bed, &["run", "--rm", "-it", "busybox", "sh", "-c", "echo up; read x"]);
        let cooked = |screen: &Screen| {
            let modes = rustix::termios::tcgetattr(&screen.master).unwrap().local_modes;
            modes.contains(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO)
        };
        screen.until("up");
        assert!(!cooked(&screen), "each key goes to the container");
        screen.press(b"\n");
        screen.child.wait().unwrap();
        assert!(cooked(&screen), "the shell gets lines again");
    });
}

#[test]
fn what_is_no_terminal_is_refused_where_one_is_needed() {
    once(|bed| {
        assert!(bed.fails(125, &["run", "--rm", "-it", "busybox", "sh"]).contains("not a TTY"));
        // Without input none is needed.
        assert!(bed.ok(&["run", "--rm", "-t", "busybox", "tty"]).contains("/dev/"));
    });
}

//! Connections to the kernel that are kept for the next call: what opening one takes is felt where a call asks little.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

use mica_core::{Error, Result};

/// What is opened to one part of the kernel, for the network namespace that the thread is in.
pub(crate) trait Connection: Sized {
    /// That part, for people.
    const TO: &str;

    fn open() -> io::Result<Self>;
}

/// Connections that nobody uses at the moment.
pub(crate) struct Kept<C>(Mutex<Vec<(Namespace, C)>>);

/// Which network namespace: the device and the inode of its file, which are no other's as long as a socket is open in it.
type Namespace = (u64, u64);

impl<C: Connection> Kept<C> {
    /// Does something over a connection for the calling thread's network namespace. One over which something failed is not
    /// used again.
    pub(crate) fn with<T, E: From<io::Error>>(
        &self,
        work: impl FnOnce(&mut C) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        /// As many calls are rarely at work at once.
        const MOST: usize = 4;
        let file = fs::metadata("/proc/thread-self/ns/net")?;
        let namespace = (file.dev(), file.ino());
        let mut idle = self.idle();
        let place = idle.iter().position(|(of, _)| *of == namespace);
        let kept = place.map(|place| idle.swap_remove(place).1);
        drop(idle);
        let mut connection = kept.map_or_else(C::open, Ok)?;
        let done = work(&mut connection)?;
        let mut idle = self.idle();
        if idle.len() < MOST {
            idle.push((namespace, connection));
        }
        Ok(done)
    }

    /// The same for work whose errors are a driver's.
    pub(crate) fn with_driver<T>(&self, work: impl FnOnce(&mut C) -> Result<T>) -> Result<T> {
        let done = self.with(|connection| work(connection).map_err(Failure::Of));
        done.map_err(|failure| match failure {
            Failure::Of(error) => error,
            Failure::Connecting(error) => Error::io(|| format!("connect to the kernel's {}", C::TO))(error),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Namespace, C)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Default for Kept<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> fmt::Debug for Kept<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// Why nothing came of something over a connection.
enum Failure {
    Connecting(io::Error),
    Of(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connecting(error)
    }
}

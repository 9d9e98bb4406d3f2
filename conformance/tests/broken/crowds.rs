//! Drivers that are for one user.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread::{self, ThreadId};

use mica_core::{Chain, Created, Error, GraphDriver, LayerOptions, MountRequest, Mounts, Result};

use crate::fault::Fault;
use crate::plain::Plain;

/// Refuses what comes from another thread than the one that opened it.
#[derive(Debug, Default)]
struct ServesOneThread {
    thread: OnceLock<ThreadId>,
}

impl ServesOneThread {
    fn check(&self) -> Result<()> {
        let known = self.thread.get() == Some(&thread::current().id());
        if known { Ok(()) } else { Err(Error::driver("serve a thread", "it is another's")) }
    }
}

impl Fault for ServesOneThread {
    fn opened(&self, _: &Plain, _: &Path) -> Result<()> {
        self.thread.get_or_init(|| thread::current().id());
        Ok(())
    }

    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.check()?;
        plain.create(chain, options)
    }

    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.check()?;
        plain.mounts(chain, request)
    }
}

/// Keeps everybody else out while it is open.
#[derive(Debug, Default)]
struct OpensOnce {
    lock: Mutex<Option<File>>,
}

impl Fault for OpensOnce {
    fn opened(&self, _: &Plain, root: &Path) -> Result<()> {
        let lock = File::create(root.join("lock")).map_err(Error::io(|| "make the lock"))?;
        lock.try_lock().map_err(|error| Error::driver("lock the root", error))?;
        *self.lock.lock().unwrap() = Some(lock);
        Ok(())
    }
}

/// Opening removes what is being made, whoever makes it.
#[derive(Debug, Default)]
struct CleansTooMuch;

impl Fault for CleansTooMuch {
    fn opened(&self, plain: &Plain, _: &Path) -> Result<()> {
        let unfinished = plain.list()?.into_iter().filter(|id| !plain.is_committed(id));
        unfinished.into_iter().try_for_each(|id| plain.remove(&id))
    }
}

caught! {
    calls_from_one_thread: ServesOneThread => ["parallel-creates", "parallel-lives", "parallel-readers"];
    roots_of_one_process: OpensOnce => [
        "in-use-by-reader",
        "crash-after-commit",
        "crash-among-removals",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "in-use-by-writer",
        "open-leaves-the-living-alone",
        "parallel-processes",
        "crash-while-mounted",
    ];
    open_that_removes_what_others_make: CleansTooMuch => [
        "restart",
        "open-leaves-the-living-alone",
        "list-is-exact",
        "ids-do-not-collide",
        "in-use-by-writer",
        "parallel-processes",
        "crash-while-mounted",
    ];
}

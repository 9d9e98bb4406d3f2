//! Drivers that do not bear with others: other engines, other processes, other threads.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::thread::{self, ThreadId};

use mica_conformance::network::kernel;
use mica_core::network::{Attachment, Endpoint, HostChange, Network, NetworkDriver, Owned};
use mica_core::{Error, Result};

use crate::fault::Fault;
use crate::plain::Plain;

#[derive(Debug, Default)]
struct ListsNothing;

impl Fault for ListsNothing {
    fn list(&self, _: &Plain) -> Result<Vec<Owned>> {
        Ok(Vec::new())
    }
}

/// Every link with a mark of whomever.
fn everybodys() -> impl Iterator<Item = (String, Owned)> {
    kernel::links().unwrap().into_iter().filter_map(|link| {
        let scope = link.mark()?.scope;
        Some((link.name.clone(), Owned { scope, object: format!("link '{}'", link.name) }))
    })
}

#[derive(Debug, Default)]
struct ListsEverybodys;

impl Fault for ListsEverybodys {
    fn list(&self, _: &Plain) -> Result<Vec<Owned>> {
        Ok(everybodys().map(|(_, owned)| owned).collect())
    }
}

#[derive(Debug, Default)]
struct RestoresTooMuch;

impl Fault for RestoresTooMuch {
    fn restore(&self, _: &Plain) -> Result<Vec<HostChange>> {
        everybodys().for_each(|(name, _)| drop(kernel::remove_link(&name)));
        Ok(Vec::new())
    }
}

/// Serves the thread that opened it.
#[derive(Debug, Default)]
struct ServesOneThread {
    thread: OnceLock<ThreadId>,
}

impl Fault for ServesOneThread {
    fn opened(&self, _: &Path) -> Result<()> {
        self.thread.get_or_init(|| thread::current().id());
        Ok(())
    }

    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        if self.thread.get() != Some(&thread::current().id()) {
            return Err(Error::driver("serve a thread", "it is another's"));
        }
        plain.attach(net, ep, ns)
    }
}

/// Keeps everybody else out while it is open.
#[derive(Debug, Default)]
struct OpensOnce {
    lock: Mutex<Option<File>>,
}

impl Fault for OpensOnce {
    fn opened(&self, dir: &Path) -> Result<()> {
        let lock = File::create(dir.join("open")).map_err(Error::io(|| "make the lock"))?;
        lock.try_lock().map_err(|error| Error::driver("lock the directory", error))?;
        *self.lock.lock().unwrap() = Some(lock);
        Ok(())
    }
}

caught! {
    a_list_of_nothing: ListsNothing => ["list-names-what-bears-the-mark", "list-after-a-crash"];
    a_list_of_everybodys: ListsEverybodys => ["list-is-the-owners"];
    a_restore_of_everybodys: RestoresTooMuch => ["two-engines-share-a-host"];
    calls_from_one_thread: ServesOneThread => ["parallel-attaches", "parallel-networks"];
    a_directory_of_one_process: OpensOnce => ["parallel-processes"];
}

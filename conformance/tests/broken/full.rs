//! Drivers that meet a full disk badly.

use std::fs::{self, OpenOptions};

use mica_core::{Chain, Created, Error, GraphDriver, LayerId, LayerOptions, Result};

use crate::fault::Fault;
use crate::plain::Plain;
use crate::trees::files;

fn is_full(plain: &Plain) -> bool {
    rustix::fs::statvfs(plain.aside_dir()).unwrap().f_bavail == 0
}

/// What was written when there was no room ends early in the committed layer, and nobody is told.
#[derive(Debug, Default)]
struct LosesWhatHasNoRoom;

impl Fault for LosesWhatHasNoRoom {
    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        if is_full(plain) {
            for (path, meta) in files(&plain.tree(chain.id)).filter(|(_, meta)| meta.is_file()) {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(meta.len().saturating_sub(1)).unwrap();
            }
        }
        plain.commit(chain)
    }
}

/// A layer that finds no room for what its parent has is made without.
#[derive(Debug, Default)]
struct CreatesWithoutRoom;

impl Fault for CreatesWithoutRoom {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        match plain.create(chain, options) {
            Err(Error::NoSpace { .. }) => plain.create(Chain { id: chain.id, parents: &[] }, options),
            created => created,
        }
    }
}

/// Notes what it is about to remove, for which there must be room.
#[derive(Debug, Default)]
struct RemovesWithRoom;

impl Fault for RemovesWithRoom {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        let (dir, _lock) = plain.aside(id)?;
        let noted = fs::write(dir.join("note"), [b'x'; 4096]);
        let noted = noted.map_err(Error::io(|| format!("note that '{id}' is removed")));
        let removed = noted.and_then(|()| plain.remove(id));
        fs::remove_dir_all(dir).map_err(Error::io(|| "remove a note"))?;
        removed
    }
}

caught! {
    writes_that_are_lost_without_a_word: LosesWhatHasNoRoom => ["full-disk"];
    create_of_a_part: CreatesWithoutRoom => ["full-disk-create"];
    remove_that_needs_room: RemovesWithRoom => ["full-disk-recovers"];
}

//! Filling one layer of a driver from a tarball.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::PathBuf;

use mica_archive::apply::{Applied, ApplyOptions, UnsupportedXattrs};
use mica_archive::ingest::Expected;
use mica_archive::{Digest, layer};
use mica_core::{Committed, Hold, Layer};
use mica_mount::Held;

use crate::transaction::NewLayer;
use crate::{Engine, Error, Result};

/// What a tarball turned out to be, and where it went.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) diff_id: Digest,
    tar_size: u64,
    split: PathBuf,
    lenient: bool,
    pub(crate) applied: Applied,
}

impl Filled {
    /// To be recorded, now that the layer is committed and synced.
    pub(crate) fn committed(self, layer: Layer<Committed>) -> NewLayer {
        let Self { diff_id, tar_size, split, lenient, applied } = self;
        let (size, opaque) = (applied.bytes, applied.opaque_root);
        NewLayer { layer, diff_id, size, tar_size, split, opaque, lenient }
    }
}

impl Engine {
    /// Extracts a tarball, in whatever compression, into a layer that is held for [`Access::Apply`](mica_core::Access).
    /// The split goes to a new file. After an error the layer and the file are to be removed.
    pub(crate) fn fill(
        &self,
        hold: Hold,
        source: &mut (dyn Read + Send),
        expected: &Expected,
        xattrs: UnsupportedXattrs,
        split: PathBuf,
    ) -> Result<Filled> {
        let failed = || format!("write '{}'", split.display());
        let file = File::create_new(&split).map_err(Error::io(failed))?;
        let options = ApplyOptions { xattrs, ..ApplyOptions::new(hold.mounts().whiteouts) };
        let held = Held::open(hold, &self.mounter())?;
        let root = held.tree().root().try_clone_to_owned();
        let root = root.map_err(Error::io(|| "open the tree of a new layer".to_owned()))?;
        let (ingested, mut applied, _) = layer::apply_and_record(
            source,
            root,
            options,
            expected,
            BufWriter::with_capacity(64 << 10, file),
        )?;
        held.close()?;
        if applied.more_warnings > 0 {
            applied.warnings.push(format!("and {} more of this kind", applied.more_warnings));
        }
        Ok(Filled {
            diff_id: ingested.diff_id,
            tar_size: ingested.size,
            split,
            lenient: xattrs == UnsupportedXattrs::Warn,
            applied,
        })
    }
}

//! Applying a layer as a whole: taken in, extracted, and recorded so that its tarball can be made again.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use crate::apply::{Applied, ApplyOptions, Extractor};
use crate::ingest::{Expected, Ingested, ingest};
use crate::{Error, Result, split};

/// Extracts the tarball that `source` has into `root`; nothing is kept that could reproduce it.
///
/// After an error the tree holds a part of the layer, or all of a layer that is not the expected one: throw it away.
pub fn apply(
    source: impl Read + Send,
    root: OwnedFd,
    options: ApplyOptions<'_>,
    expected: &Expected,
) -> Result<(Ingested, Applied)> {
    let mut extractor = Extractor::new(root, options)?;
    let (ingested, ()) = ingest(source, (), expected, |entry, content| extractor.entry(entry, content))?;
    Ok((ingested, extractor.finish()?))
}

/// As [`apply`], and writes the split of the tarball to `split`, which comes back complete but not synced. What
/// `options` have for displaced files is replaced.
pub fn apply_and_record<'a, W: Write + Send + 'a>(
    source: impl Read + Send,
    root: OwnedFd,
    mut options: ApplyOptions<'a>,
    expected: &Expected,
    split: W,
) -> Result<(Ingested, Applied, W)> {
    let (recorder, keeper) = split::record(split)?;
    let tree = root.try_clone().map_err(Error::io("opening the root of the tree"))?;
    let saver = keeper.clone();
    options.displaced = Some(Box::new(move |path| saver.displaced(tree.as_fd(), path)));
    let mut extractor = Extractor::new(root, options)?;
    let (ingested, recorder) = ingest(source, recorder, expected, |entry, content| {
        extractor.entry(entry, content)?;
        keeper.placed(extractor.content_at().as_deref())
    })?;
    let applied = extractor.finish()?;
    Ok((ingested, applied, recorder.finish()?))
}

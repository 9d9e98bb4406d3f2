//! A chain of layers and a plain directory that live through the same changes, and must look the same after each.

use std::path::{Path, PathBuf};

use mica_core::{Committed, Layer, Writable};

use crate::bench::Bench;
use crate::files;
use crate::outcome::{Stop, Verdict};
use crate::tree::{Snapshot, Times};

/// The two, grown layer by layer.
#[derive(Debug)]
pub(crate) struct Twin<'b, 'r> {
    bench: &'b Bench<'r>,
    name: String,
    plain: PathBuf,
    committed: Vec<Layer<Committed>>,
    layers: usize,
    times: Times,
}

impl<'b, 'r> Twin<'b, 'r> {
    pub(crate) fn new(bench: &'b Bench<'r>, name: &str) -> Verdict<Self> {
        let plain = bench.room().plain().join(name);
        files::mkdir(&plain)?;
        Ok(Self {
            bench,
            name: name.to_owned(),
            plain,
            committed: Vec::new(),
            layers: 0,
            times: Times::Ignored,
        })
    }

    /// Compares times as well. The changes set them all.
    pub(crate) fn with_times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// The layers so far, the first at the bottom.
    pub(crate) fn committed(&self) -> &[Layer<Committed>] {
        &self.committed
    }

    /// The layer at the bottom.
    pub(crate) fn base(&self) -> Verdict<&Layer<Committed>> {
        self.committed.first().ok_or_else(|| Stop::failed("the chain has no layer"))
    }

    /// The layer on top.
    pub(crate) fn top(&self) -> Verdict<&Layer<Committed>> {
        self.committed.last().ok_or_else(|| Stop::failed("the chain has no layer"))
    }

    /// Puts a committed layer with this change on top, and makes the change in the plain directory. The two are
    /// compared while the change is mounted, and as the committed layer shows it.
    pub(crate) fn layer(&mut self, change: impl Fn(&Path) -> Verdict) -> Verdict<&mut Self> {
        let layer = self.writable(change)?;
        self.committed.push(self.bench.commit(layer)?);
        self.check("as committed")?;
        Ok(self)
    }

    /// The same with a layer that stays writable, and is not part of the chain.
    pub(crate) fn writable(&mut self, change: impl Fn(&Path) -> Verdict) -> Verdict<Layer<Writable>> {
        self.layers += 1;
        let layer = self.bench.create(&format!("{}-{}", self.name, self.layers), self.committed.last())?;
        change(&self.plain).map_err(|stop| stop.within("in the plain directory"))?;
        let shown = self.bench.edit(&layer, |tree| {
            change(tree)?;
            Snapshot::of(tree)
        })?;
        self.expect(&shown, "as changed")?;
        Ok(layer)
    }

    /// Compares the layer on top with the plain directory.
    pub(crate) fn check(&self, when: &str) -> Verdict {
        self.expect(&self.bench.snapshot(self.top()?)?, when)
    }

    fn expect(&self, shown: &Snapshot, when: &str) -> Verdict {
        let expected = Snapshot::of(&self.plain)?;
        shown
            .expect(&expected, self.times)
            .map_err(|stop| stop.within(format!("layer {} {when}", self.layers)))
    }
}

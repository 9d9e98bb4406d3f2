//! How often a case repeats one thing: with ever other inputs, or once more on what it made.

use std::time::{Duration, Instant};

/// After this time a case makes no more repetitions than it must.
const ENOUGH: Duration = Duration::from_secs(20);

/// Counts repetitions. They are the same in every run, and come in the same order; where one takes long, as with device
/// mapper in a guest, there are fewer.
#[derive(Debug)]
pub(crate) struct Patience {
    since: Instant,
    least: usize,
}

impl Patience {
    /// There will be so many repetitions, however long they take.
    pub(crate) fn at_least(repetitions: usize) -> Self {
        Self { since: Instant::now(), least: repetitions }
    }

    /// Whether another one is to be made, which is counted.
    pub(crate) fn lasts(&mut self) -> bool {
        let must = self.least > 0;
        self.least = self.least.saturating_sub(1);
        must || self.since.elapsed() < ENOUGH
    }
}

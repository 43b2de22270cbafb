//! Work on many entries at once.

use std::ops::Range;

/// Below this many entries a second thread does not pay.
const FEW: usize = 512;
/// Most threads.
const MOST: usize = 4;

/// Does `work` on neighbouring ranges of `0..count`, on a few threads when that pays. The results, in order.
pub(crate) fn split<T: Send>(count: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let threads = if count < FEW { 1 } else { cores().min(count.div_ceil(FEW / 2)) };
    if threads <= 1 {
        return vec![work(0..count)];
    }
    let part = count.div_ceil(threads);
    let work = &work;
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|n| (n * part).min(count)..((n + 1) * part).min(count))
            .map(|range| scope.spawn(move || work(range)))
            .collect();
        spawned
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// How many threads may work at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, MOST)
}

//! Tasks on threads. No result depends on which thread runs a task, or when.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::{Context, Error, Result};

/// Below this many FLOPs for each thread, waking another one costs more than it brings: some 10 µs of one core.
const FLOPS_PER_THREAD: f64 = 1e6;

/// How many threads a call of `flops` is worth.
#[inline]
pub(crate) fn threads(context: &Context, flops: f64) -> usize {
    let worth = ((flops / FLOPS_PER_THREAD) as usize).max(1); // a cast of what is too large gives the largest number
    match context.threads() {
        Some(1) => 1,
        _ if worth == 1 => 1, // without asking rayon, which would start its pool
        asked => asked.unwrap_or(usize::MAX).min(rayon::current_num_threads()).min(worth),
    }
}

/// Runs `task(0..tasks)`, pulled one by one by so many threads of the current pool. Returns an error of any task.
pub(crate) fn run(threads: usize, tasks: usize, task: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    if threads <= 1 || tasks <= 1 {
        return (0..tasks).try_for_each(task);
    }
    let next = AtomicUsize::new(0);
    let failure: OnceLock<Error> = OnceLock::new();
    (0..threads.min(tasks)).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks || failure.get().is_some() {
                break;
            }
            if let Err(error) = task(index) {
                let _ = failure.set(error); // the first one is kept
            }
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

/// Into how many parts to cut an axis so that, with `others` parts of another, there are four tasks for each thread; and as
/// many for one thread as for the other, if that takes no more than twice as many.
pub(crate) fn cut(threads: usize, others: usize) -> usize {
    if threads <= 1 {
        return 1;
    }
    let wanted = (4 * threads).div_ceil(others);
    (wanted..=2 * wanted).find(|parts| (parts * others).is_multiple_of(threads)).unwrap_or(wanted)
}

/// A pointer that tasks share; each writes elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

impl<T> Shared<T> {
    pub(crate) fn new(ptr: *mut T) -> Self {
        Shared(ptr)
    }
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: tasks write disjoint elements, as each use says.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

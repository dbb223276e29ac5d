//! What this machine can do at most: the two figures that every performance figure is a fraction of.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::cpu::Kernels;
use crate::{Context, Element, Error, Result};

/// FLOP/s of a loop of independent FMAs at the context's SIMD level, by `threads` threads at once, for the accumulator of
/// `T`: the best of several runs, some 50 ms in all.
///
/// # Example
///
/// ```
/// use trilinear::{Context, machine};
///
/// let peak = machine::peak_flops::<f32>(&Context::from_env()?, 1)?;
/// assert!(peak > 1e8);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn peak_flops<T: Element>(context: &Context, threads: usize) -> Result<f64> {
    let table = T::table(context.capability());
    let rounds = 400_000;
    let flops = (2 * 12 * table.lanes * rounds * threads) as f64;
    best(threads, 10, || {
        // SAFETY: the capability of `context` is the proof that the processor has the instructions.
        black_box(unsafe { (table.arithmetic.peak)(black_box(rounds)) });
    })
    .map(|seconds| flops / seconds)
}

/// Bytes per second of reading a buffer of `bytes` bytes in all (it should far exceed the last cache) by `threads`
/// threads at once, with the vector loads of the context's SIMD level: the best of several passes.
/// Errors: [`Error::OutOfMemory`].
pub fn read_bandwidth(context: &Context, threads: usize, bytes: usize) -> Result<f64> {
    let table = f32::table(context.capability());
    let len = bytes / size_of::<f32>() / threads.max(1);
    let buffers: Vec<Vec<f32>> = (0..threads).map(|_| buffer(len)).collect::<Result<_>>()?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let seconds = best_with(
        threads,
        5,
        || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % threads.max(1),
        |&mut which| {
            // SAFETY: as in `peak_flops`; the buffer has `len` elements.
            black_box(unsafe { (table.arithmetic.read)(buffers[which].as_ptr(), len) });
        },
    )?;
    Ok((len * size_of::<f32>() * threads) as f64 / seconds)
}

/// Pages that are really there.
fn buffer(len: usize) -> Result<Vec<f32>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len * size_of::<f32>() })?;
    buffer.resize(len, 1.0);
    Ok(buffer)
}

fn best(threads: usize, runs: usize, work: impl Fn() + Sync) -> Result<f64> {
    best_with(threads, runs, || (), |()| work())
}

/// Seconds of the fastest of `runs` runs in which every thread does `work` once, all starting together.
fn best_with<S>(
    threads: usize,
    runs: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S) + Sync,
) -> Result<f64> {
    if threads == 0 {
        return Err(Error::Threads);
    }
    let barrier = Barrier::new(threads);
    let times = std::sync::Mutex::new(vec![0.0f64; runs]);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut state = state();
                work(&mut state);
                for run in 0..runs {
                    barrier.wait();
                    let start = Instant::now();
                    work(&mut state);
                    let seconds = start.elapsed().as_secs_f64();
                    if let Ok(mut times) = times.lock() {
                        times[run] = times[run].max(seconds);
                    }
                    barrier.wait();
                }
            });
        }
    });
    let times = times.into_inner().unwrap_or_default();
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

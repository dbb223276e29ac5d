//! `cargo bench --bench microkernel`: how near to the processor's peak the microkernel comes when nothing else is in its
//! way: one thread, and operands that fit the first two caches.
//!
//! Each SIMD level of this processor is measured through the public API, on a dense call by [`Algorithm::FusedDot`] of
//! whole tiles: 4·MR rows of the batch, 8·NR rows of W for each output. The packing of z and x is part of it, some
//! percent. After each level a line compares the best of its samples with the peak of the same level, measured beside it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use trilinear::{Algorithm, Context, Device, Element, Interaction, Result, SimdLevel, View, ViewMut, machine};

/// One pass of the microkernel's depth or a few, at every level.
const J: usize = 256;
const K: usize = 4;

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .nresamples(2000)
        .configure_from_args();
    for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
        let context = Context::new(Device::Cpu)?.with_threads(1)?.with_simd(level)?.with_algorithm(Algorithm::FusedDot);
        bench::<f32>(&mut criterion, context)?;
        bench::<f64>(&mut criterion, context)?;
    }
    criterion.final_summary();
    Ok(())
}

fn bench<T: Element>(criterion: &mut Criterion, context: Context) -> Result<()> {
    let kernel = Interaction::<T>::linear(1, 1, 1)?.with_context(Context::new(Device::Cpu)?.with_simd(context.simd())?);
    let kernel = kernel.plan(1)?.kernel;
    let (nr, mr) = tile(kernel);
    let (n, i) = (4 * mr, 8 * nr);
    let [w, z, x] = [K * i * J, n * i, n * J].map(|len| vec![T::from_f64(0.5); len]);
    let mut y = vec![T::default(); n * K];
    let layer = Interaction::dense(View::new(&w, [K, i, J])?)?.with_context(context);
    assert_eq!((layer.plan(n)?.algorithm, layer.plan(n)?.kernel), (Algorithm::FusedDot, kernel));
    let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, J])?);
    let flops = 2 * n * i * J * K;

    let best = Cell::new(f64::INFINITY);
    let mut outcome = Ok(());
    let mut group = criterion.benchmark_group(format!("microkernel/dense/in-cache/cpu/{}", T::DTYPE));
    group.throughput(Throughput::Elements(flops as u64));
    group.bench_function(kernel, |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for _ in 0..iterations {
                let result = ViewMut::new(&mut y, [n, K]).and_then(|y| layer.forward_into(z, x, y));
                if result.is_err() {
                    outcome = result;
                }
            }
            let elapsed = start.elapsed();
            best.set(best.get().min(elapsed.as_secs_f64() / iterations as f64));
            elapsed
        });
    });
    group.finish();
    outcome?;
    // In a test each call runs once, with cold caches, and its rate says nothing.
    let test = std::env::args().any(|argument| argument == "--test");
    if best.get().is_finite() && !test {
        let (rate, peak) = (flops as f64 / best.get(), machine::peak_flops::<T>(&context, 1)?);
        let (rate, peak, percent) = (rate * 1e-9, peak * 1e-9, 100.0 * rate / peak);
        println!("{kernel}: {rate:.1} GFLOP/s at best, {percent:.1}% of the peak of {peak:.1}");
    }
    Ok(())
}

/// NR and MR, from a kernel's name, such as `x86_64-f32-avx2-6x16`.
fn tile(kernel: &str) -> (usize, usize) {
    let tile = kernel.rsplit('-').next().and_then(|tile| tile.split_once('x'));
    tile.and_then(|(nr, mr)| Some((nr.parse().ok()?, mr.parse().ok()?))).unwrap_or((8, 32))
}

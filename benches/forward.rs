//! `cargo bench --bench forward`: the forward pass on the named shapes, on one thread, with the baselines beside it.
//!
//! Groups are `pass/form/preset/device/dtype`; in each, `trilinear` takes the weights as they are (training changes them
//! every step) and `trilinear-prepared` packed ones. Shapes whose call takes longer than about half a second are left out;
//! `trilinear bench` measures those too. Criterion's rates are FLOP/s.
//!
//! With `-- --test` everything runs once, and each baseline's result must equal ours: the data are multiples of ½ so
//! small that every sum is exact.

#[path = "../src/bin/trilinear/baselines.rs"]
mod baselines;

use std::time::Duration;

use baselines::{Baselines, Operands, Shape, Weights};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use trilinear::presets::PRESETS;
use trilinear::{Context, Device, Element, Interaction, Result, View, ViewMut, bf16, f16};

/// FLOPs of the largest call: about half a second of one core with vectors of 256 bits.
const MOST: u64 = 16_000_000_000;
/// The same for `-- --test`.
const MOST_IN_TEST: u64 = 3_000_000_000;
/// Bytes that the intermediates of a baseline may take.
const MOST_BYTES: usize = 256 << 20;

/// Shapes beside the presets, where small calls and memory are the limit: N, I, J, K, R.
const SHAPES: [(&str, [usize; 5]); 4] = [
    ("1x16x16x16", [1, 16, 16, 16, 4]),
    ("1x256x256x256", [1, 256, 256, 256, 64]),
    ("32x64x64x64", [32, 64, 64, 64, 16]),
    ("256x128x128x128", [256, 128, 128, 128, 32]),
];

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(500))
        .nresamples(2000)
        .configure_from_args();
    let bench = Bench {
        context: Context::new(Device::Cpu)?.with_threads(1)?,
        test: std::env::args().any(|argument| argument == "--test"),
    };
    let mut all: Vec<(&str, Shape, bool)> =
        SHAPES.iter().map(|&(name, [n, i, j, k, r])| (name, Shape { n, rows: 1, i, j, k, r: Some(r) }, true)).collect();
    all.extend(
        PRESETS.iter().map(|p| (p.name, Shape { n: p.n, rows: p.rows, i: p.i, j: p.j, k: p.k, r: p.r }, p.dense)),
    );
    for (name, shape, dense) in all {
        let full = Shape { r: None, ..shape };
        if dense {
            bench.case::<f32>(&mut criterion, name, full)?;
        }
        if shape.r.is_some() {
            bench.case::<f32>(&mut criterion, name, shape)?;
        }
        if ["chainer5205", "256x128x128x128"].contains(&name) {
            bench.case::<f64>(&mut criterion, name, full)?;
        }
        if ["chainer5205", "256x128x128x128", "1x256x256x256"].contains(&name) {
            bench.case::<f16>(&mut criterion, name, full)?;
            bench.case::<bf16>(&mut criterion, name, full)?;
        }
    }
    criterion.final_summary();
    Ok(())
}

/// Multiply-adds count two.
fn flops(Shape { n, rows, i, j, k, r }: Shape) -> u64 {
    let multiply_adds = match r {
        Some(r) => n * r * (i + rows * (j + k)),
        None if rows > 1 => n * k * j * (i + rows),
        None => n * k * i * j,
    };
    2 * multiply_adds as u64
}

struct Bench {
    context: Context,
    test: bool,
}

impl Bench {
    /// Ours and the baselines on one shape, unless it is too large.
    fn case<T: Baselines>(&self, criterion: &mut Criterion, name: &str, shape: Shape) -> Result<()> {
        let flops = flops(shape);
        if flops > if self.test { MOST_IN_TEST } else { MOST } {
            return Ok(());
        }
        let Shape { n, rows, i, j, k, r } = shape;
        let pass = if rows > 1 { "forward-shared" } else { "forward" };
        let form = if r.is_some() { "cp" } else { "dense" };
        let mut group = criterion.benchmark_group(format!("{pass}/{form}/{name}/cpu/{}", T::DTYPE));
        group.throughput(Throughput::Elements(flops)).sampling_mode(SamplingMode::Flat);

        let (z, x) = (data::<T>(n * i), data::<T>(n * rows * j));
        // W, or its factors.
        let weights = match r {
            Some(r) => [data(k * r), data(i * r), data(j * r)],
            None => [data(k * i * j), Vec::new(), Vec::new()],
        };
        let [first, b, c] = &weights;
        let (layer, weights) = match r {
            Some(r) => {
                let factors = [View::new(first, [k, r])?, View::new(b, [i, r])?, View::new(c, [j, r])?];
                (Interaction::cp(factors[0], factors[1], factors[2])?, Weights::Cp { a: first, b, c })
            }
            None => (Interaction::dense(View::new(first, [k, i, j])?)?, Weights::Dense(first)),
        };
        let layer = layer.with_context(self.context);
        let mut y = vec![T::default(); n * rows * k];
        let prepared = layer.prepare()?;
        for (id, layer) in [("trilinear", layer), ("trilinear-prepared", prepared.layer())] {
            measure(&mut group, id, || {
                let z = View::new(&z, [n, i])?;
                if rows > 1 {
                    layer.forward_shared_into(z, View::new(&x, [n, rows, j])?, ViewMut::new(&mut y, [n, rows, k])?)
                } else {
                    layer.forward_into(z, View::new(&x, [n, j])?, ViewMut::new(&mut y, [n, k])?)
                }
            })?;
        }
        let ours = y.clone();
        for mut baseline in T::baselines(shape, 1, MOST_BYTES) {
            y.fill(T::default());
            let operands = Operands { z: &z, x: &x, weights };
            measure(&mut group, baseline.name, || baseline.run(operands, &mut y))?;
            // A filter may have left out either.
            let ran = |y: &[T]| y.iter().any(|&value| value != T::default());
            if self.test && ran(&y) && ran(&ours) {
                assert!(y == ours, "{name}: {} and trilinear differ", baseline.name);
            }
        }
        group.finish();
        Ok(())
    }
}

/// Repeats `call`, and returns an error that it met.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, id: &str, mut call: impl FnMut() -> Result<()>) -> Result<()> {
    let mut outcome = Ok(());
    group.bench_function(id, |bench| {
        bench.iter(|| {
            let result = call();
            if result.is_err() {
                outcome = result;
            }
        });
    });
    outcome
}

/// ±½ and ±1, the same in every run.
fn data<T: Element>(len: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ len as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f64([-1.0, -0.5, 0.5, 1.0][(state >> 62) as usize])
    };
    (0..len).map(|_| next()).collect()
}

//! `cargo bench --bench forward`: the forward pass on the named shapes, on one thread, with the baselines beside it; and on
//! a few of them the backward pass, all gradients in one call.
//!
//! Groups are `pass/form/preset/device/dtype`; in each, `trilinear` takes the weights as they are (training changes them
//! every step) and `trilinear-prepared` packed ones. Shapes whose call takes longer than about half a second are left out;
//! `trilinear bench` measures those too. Criterion's rates are FLOP/s.
//!
//! With `-- --test` everything runs once, and each baseline's result must equal ours: the data are multiples of ½ so
//! small that every sum is exact.

#[path = "../src/bin/trilinear/baselines/mod.rs"]
#[allow(dead_code, reason = "of the benchmark `forms`")]
mod baselines;
#[path = "../src/bin/trilinear/forms.rs"]
#[allow(dead_code, reason = "of the benchmark `forms`, and of the command")]
mod forms;
#[path = "../src/bin/trilinear/work.rs"]
#[allow(dead_code, reason = "what the command prints")]
mod work;

use std::time::Duration;

use baselines::{Baselines, Operands, Results, Weights};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use trilinear::presets::PRESETS;
use trilinear::{Context, Device, Element, Gradient, Interaction, Result, View, ViewMut, bf16, f16};
use trilinear::{Wanted, WantedFactors};
use work::{Pass, Shape, Work};

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
    let mut all: Vec<(&str, Shape, bool)> = SHAPES
        .iter()
        .map(|&(name, [n, i, j, k, r])| (name, Shape { n, rows: 1, sharing: 1, i, j, k, r: Some(r) }, true))
        .collect();
    all.extend(PRESETS.iter().map(|p| {
        (p.name, Shape { n: p.n, rows: p.rows, sharing: p.sharing, i: p.i, j: p.j, k: p.k, r: p.r }, p.dense)
    }));
    for (name, shape, dense) in all {
        let full = Shape { r: None, ..shape };
        if dense {
            bench.case::<f32>(&mut criterion, name, full)?;
        }
        if shape.r.is_some() {
            bench.case::<f32>(&mut criterion, name, shape)?;
        }
        if SHAPES.iter().any(|(small, _)| *small == name) || name == "chainer5205" {
            bench.backward::<f32>(&mut criterion, name, full)?;
            bench.backward::<f32>(&mut criterion, name, shape)?;
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

struct Bench {
    context: Context,
    test: bool,
}

impl Bench {
    /// Ours and the baselines on one shape, unless it is too large.
    fn case<T: Baselines>(&self, criterion: &mut Criterion, name: &str, shape: Shape) -> Result<()> {
        let Some(flops) = self.flops::<T>(Work::FORWARD, shape) else { return Ok(()) };
        let Shape { n, rows, sharing, i, j, k, r } = shape;
        let pass = match (sharing, rows) {
            (1, 1) => "forward",
            (1, _) => "forward-shared",
            _ => "forward-pairs",
        };
        let form = if r.is_some() { "cp" } else { "dense" };
        let mut group = criterion.benchmark_group(format!("{pass}/{form}/{name}/cpu/{}", T::DTYPE));
        group.throughput(Throughput::Elements(flops)).sampling_mode(SamplingMode::Flat);

        let (z, x) = (data::<T>(n * i), data::<T>(n / sharing * rows * j));
        // W, or its factors.
        let weights = match r {
            Some(r) => [data(k * r), data(i * r), data(j * r)],
            None => [data(k * i * j), Vec::new(), Vec::new()],
        };
        let [first, b, c] = &weights;
        let weights = if r.is_some() { Weights::Cp { a: first, b, c } } else { Weights::Dense(first) };
        let layer = layer(weights, shape)?.with_context(self.context);
        let mut y = vec![T::default(); n * rows * k];
        let prepared = layer.prepare()?;
        for (id, layer) in [("trilinear", layer), ("trilinear-prepared", prepared.layer())] {
            measure(&mut group, id, || {
                if sharing > 1 {
                    let p = n / sharing;
                    let (z, x) = (View::new(&z, [p, sharing, i])?, View::new(&x, [p, rows, j])?);
                    return layer.forward_pairs_into(z, x, ViewMut::new(&mut y, [p, sharing, rows, k])?);
                }
                let z = View::new(&z, [n, i])?;
                if rows > 1 {
                    layer.forward_shared_into(z, View::new(&x, [n, rows, j])?, ViewMut::new(&mut y, [n, rows, k])?)
                } else {
                    layer.forward_into(z, View::new(&x, [n, j])?, ViewMut::new(&mut y, [n, k])?)
                }
            })?;
        }
        let ours = y.clone();
        for mut baseline in T::baselines(Work::FORWARD, shape, 1, MOST_BYTES) {
            y.fill(T::default());
            let operands = Operands { z: &z, x: &x, g: &[], weights };
            measure(&mut group, baseline.name, || {
                let [z, x, w, a, b, c] = std::array::from_fn(|_| Default::default());
                baseline.run(operands, Results { y: &mut y, z, x, w, a, b, c })
            })?;
            // A filter may have left out either.
            let ran = |y: &[T]| y.iter().any(|&value| value != T::default());
            if self.test && ran(&y) && ran(&ours) {
                assert!(y == ours, "{name}: {} and trilinear differ", baseline.name);
            }
        }
        group.finish();
        Ok(())
    }

    /// FLOPs of a call, unless they are too many.
    fn flops<T: Element>(&self, work: Work, shape: Shape) -> Option<u64> {
        let cost = work.cost(shape, [T::DTYPE.bytes(), T::Accumulator::DTYPE.bytes()]);
        u64::try_from(cost.flops).ok().filter(|&flops| flops <= if self.test { MOST_IN_TEST } else { MOST })
    }

    /// dz, dx and those of the weights, by ours and the baselines.
    fn backward<T: Baselines>(&self, criterion: &mut Criterion, name: &str, shape: Shape) -> Result<()> {
        let work = Work { pass: Pass::Backward, ..Work::FORWARD };
        let Some(flops) = self.flops::<T>(work, shape) else { return Ok(()) };
        let Shape { n, i, j, k, r, .. } = shape;
        let (z, x, g) = (data::<T>(n * i), data::<T>(n * j), data::<T>(n * k + 1));
        let g = &g[1..]; // not the numbers of z or x
        let lengths = match r {
            Some(r) => [0, k * r, i * r, j * r],
            None => [k * i * j, 0, 0, 0],
        };
        let [w, a, b, c] = lengths.map(data::<T>);
        let weights = if r.is_some() { Weights::Cp { a: &a, b: &b, c: &c } } else { Weights::Dense(&w) };
        let layer = layer(weights, shape)?.with_context(self.context);
        let [lw, la, lb, lc] = lengths;
        let mut gradients = [n * i, n * j, lw, la, lb, lc].map(|len| vec![T::Accumulator::default(); len]);
        let call = |gradients: &mut [Vec<T::Accumulator>; 6]| {
            let [dz, dx, dw, da, db, dc] = gradients;
            let (cp, rank) = (r.is_some(), r.unwrap_or(0));
            let factor = |to, rows| -> Result<_> {
                Ok(if cp { Some(Gradient::write(ViewMut::new(to, [rows, rank])?)) } else { None })
            };
            let wanted = Wanted {
                z: Some(Gradient::write(ViewMut::new(dz, [n, i])?)),
                x: Some(Gradient::write(ViewMut::new(dx, [n, j])?)),
                w: if cp { None } else { Some(Gradient::write(ViewMut::new(dw, [k, i, j])?)) },
                cp: WantedFactors { a: factor(da, k)?, b: factor(db, i)?, c: factor(dc, j)?, lambda: None },
                ..Wanted::default()
            };
            layer.backward_into(View::new(&z, [n, i])?, View::new(&x, [n, j])?, View::new(g, [n, k])?, wanted)
        };
        // Ours for the baselines to be compared with, whatever a filter leaves out.
        call(&mut gradients)?;
        let form = if r.is_some() { "cp" } else { "dense" };
        let mut group = criterion.benchmark_group(format!("backward/{form}/{name}/cpu/{}", T::DTYPE));
        group.throughput(Throughput::Elements(flops)).sampling_mode(SamplingMode::Flat);
        measure(&mut group, "trilinear", || call(&mut gradients))?;
        let ours = gradients.clone();
        for mut baseline in T::baselines(work, shape, 1, MOST_BYTES) {
            let operands = Operands { z: &z, x: &x, g, weights };
            gradients.iter_mut().for_each(|part| part.fill(T::Accumulator::default()));
            measure(&mut group, baseline.name, || {
                let [z, x, w, a, b, c] = &mut gradients;
                baseline.run(operands, Results { y: &mut [], z, x, w, a, b, c })
            })?;
            // A filter may have left it out.
            let ran = gradients[0].iter().any(|&value| value != T::Accumulator::default());
            if self.test && ran {
                assert!(gradients == ours, "{name}: {} and trilinear differ", baseline.name);
            }
        }
        group.finish();
        Ok(())
    }
}

/// The layer of these weights.
fn layer<'a, T: Element>(weights: Weights<'a, T>, shape: Shape) -> Result<Interaction<'a, T>> {
    let Shape { i, j, k, r, .. } = shape;
    match weights {
        Weights::Dense(w) => Interaction::dense(View::new(w, [k, i, j])?),
        Weights::Cp { a, b, c } => {
            let r = r.unwrap_or(0);
            Interaction::cp(View::new(a, [k, r])?, View::new(b, [i, r])?, View::new(c, [j, r])?)
        }
        Weights::Structured { .. } => unreachable!("these are of the benchmark `forms`"),
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

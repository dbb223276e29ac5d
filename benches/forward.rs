//! `cargo bench --bench forward`: the forward pass on the named shapes, on one thread, with the baselines beside it.
//!
//! Groups are `pass/form/preset/device/dtype`; in each, `trilinear` takes the weights as they are (training changes them
//! every step) and `trilinear-prepared` packed ones. Shapes whose call takes longer than about half a second are left out;
//! `trilinear bench` measures those too. Criterion's rates are FLOP/s.
//!
//! With `-- --test` everything runs once, and each baseline's result must equal ours: the data are multiples of ½ so
//! small that every sum is exact.

mod baselines;

use std::time::Duration;

use baselines::{Float, Library, Sizes};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use trilinear::presets::PRESETS;
use trilinear::{Context, Device, Element, Interaction, Result, View, ViewMut, bf16, f16};

/// FLOPs of the largest call: about half a second of one core with vectors of 256 bits.
const MOST: u64 = 16_000_000_000;
/// The same for `-- --test`.
const MOST_IN_TEST: u64 = 3_000_000_000;
/// FLOPs of the largest call of the naive loops, which reach about 1 GFLOP/s.
const MOST_NAIVE: u64 = 20_000_000;
/// Elements of the largest intermediate of a baseline.
const MOST_ELEMENTS: usize = 1 << 26;

/// Shapes beside the presets, where small calls and memory are the limit.
const SHAPES: [(&str, Sizes); 4] = [
    ("1x16x16x16", sizes([1, 16, 16, 16, 4])),
    ("1x256x256x256", sizes([1, 256, 256, 256, 64])),
    ("32x64x64x64", sizes([32, 64, 64, 64, 16])),
    ("256x128x128x128", sizes([256, 128, 128, 128, 32])),
];

const fn sizes([n, i, j, k, r]: [usize; 5]) -> Sizes {
    Sizes { n, rows: 1, i, j, k, r }
}

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
    let mut all: Vec<(&str, Sizes, bool)> = SHAPES.iter().map(|&(name, s)| (name, s, true)).collect();
    all.extend(PRESETS.iter().map(|p| {
        let s = Sizes { n: p.n, rows: p.rows, i: p.i, j: p.j, k: p.k, r: p.r.unwrap_or(0) };
        (p.name, s, p.dense)
    }));
    for (name, s, dense) in all {
        if dense && s.rows == 1 {
            bench.dense::<f32>(&mut criterion, name, s)?;
        }
        if dense && s.rows > 1 {
            bench.shared::<f32>(&mut criterion, name, s)?;
        }
        if s.r > 0 && s.rows == 1 {
            bench.cp::<f32>(&mut criterion, name, s)?;
        }
        if ["chainer5205", "256x128x128x128"].contains(&name) {
            bench.dense::<f64>(&mut criterion, name, s)?;
            bench.dense_ours::<f16>(&mut criterion, name, s)?;
            bench.dense_ours::<bf16>(&mut criterion, name, s)?;
        }
        if name == "1x256x256x256" {
            bench.dense_ours::<f16>(&mut criterion, name, s)?;
            bench.dense_ours::<bf16>(&mut criterion, name, s)?;
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
    /// The group of a call, unless it is too large.
    fn group<'c>(
        &self,
        criterion: &'c mut Criterion,
        id: [&str; 4],
        flops: usize,
    ) -> Option<BenchmarkGroup<'c, WallTime>> {
        let [pass, form, name, dtype] = id;
        let flops = flops as u64;
        if flops > if self.test { MOST_IN_TEST } else { MOST } {
            return None;
        }
        let mut group = criterion.benchmark_group(format!("{pass}/{form}/{name}/cpu/{dtype}"));
        group.throughput(Throughput::Elements(flops)).sampling_mode(SamplingMode::Flat);
        Some(group)
    }

    fn dense<T: Float>(&self, criterion: &mut Criterion, name: &str, s: Sizes) -> Result<()> {
        let flops = 2 * s.n * s.i * s.j * s.k;
        let dtype = T::DTYPE.to_string();
        let Some(mut group) = self.group(criterion, ["forward", "dense", name, &dtype], flops) else { return Ok(()) };
        let (w, z, x) = (data::<T>(s.k * s.i * s.j), data::<T>(s.n * s.i), data::<T>(s.n * s.j));
        let ours = self.ours_dense(&mut group, s, [&w, &z, &x])?;
        let mut y = vec![T::ZERO; s.n * s.k];
        if flops as u64 <= MOST_NAIVE {
            group.bench_function("naive", |b| b.iter(|| baselines::naive(s, &w, &z, &x, &mut y)));
            self.check(name, "naive", &mut y, &ours);
        }
        type Baseline<T> = fn(Library, Sizes, &[T], &[T], &[T], &mut [T], &mut [T]);
        let baselines: [(&str, Baseline<T>, usize); 3] = [
            ("outer-product", baselines::outer_product, s.n * s.i * s.j),
            ("two-gemms", baselines::two_gemms, s.n * s.k * s.i),
            ("gemm-per-output", baselines::gemm_per_output, s.n * s.j),
        ];
        for (what, baseline, elements) in baselines {
            if elements > MOST_ELEMENTS {
                continue;
            }
            let mut inner = vec![T::ZERO; elements];
            for library in Library::ALL {
                let id = format!("{what}-{}", library.name());
                group.bench_function(&id, |b| b.iter(|| baseline(library, s, &w, &z, &x, &mut inner, &mut y)));
                self.check(name, &id, &mut y, &ours);
            }
        }
        group.finish();
        Ok(())
    }

    /// Storage types that the libraries of the baselines do not multiply.
    fn dense_ours<T: Element>(&self, criterion: &mut Criterion, name: &str, s: Sizes) -> Result<()> {
        let flops = 2 * s.n * s.i * s.j * s.k;
        let dtype = T::DTYPE.to_string();
        let Some(mut group) = self.group(criterion, ["forward", "dense", name, &dtype], flops) else { return Ok(()) };
        let (w, z, x) = (data::<T>(s.k * s.i * s.j), data::<T>(s.n * s.i), data::<T>(s.n * s.j));
        self.ours_dense(&mut group, s, [&w, &z, &x])?;
        group.finish();
        Ok(())
    }

    fn ours_dense<T: Element>(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        s: Sizes,
        [w, z, x]: [&[T]; 3],
    ) -> Result<Vec<T>> {
        let layer = Interaction::dense(View::new(w, [s.k, s.i, s.j])?)?.with_context(self.context);
        let (z, x) = (View::new(z, [s.n, s.i])?, View::new(x, [s.n, s.j])?);
        ours(group, layer, [s.n, s.k], |layer, y| layer.forward_into(z, x, y))
    }

    fn shared<T: Float>(&self, criterion: &mut Criterion, name: &str, s: Sizes) -> Result<()> {
        let flops = 2 * s.n * s.k * s.j * (s.i + s.rows);
        let dtype = T::DTYPE.to_string();
        let Some(mut group) = self.group(criterion, ["forward-shared", "dense", name, &dtype], flops) else {
            return Ok(());
        };
        let (w, z, x) = (data::<T>(s.k * s.i * s.j), data::<T>(s.n * s.i), data::<T>(s.n * s.rows * s.j));
        let layer = Interaction::dense(View::new(&w, [s.k, s.i, s.j])?)?.with_context(self.context);
        let (zv, xv) = (View::new(&z, [s.n, s.i])?, View::new(&x, [s.n, s.rows, s.j])?);
        let ours = ours(&mut group, layer, [s.n, s.rows, s.k], |layer, y| layer.forward_shared_into(zv, xv, y))?;
        let (mut generated, mut y) = (vec![T::ZERO; s.n * s.k * s.j], vec![T::ZERO; s.n * s.rows * s.k]);
        for library in Library::ALL {
            let id = format!("generate-{}", library.name());
            group.bench_function(&id, |b| {
                b.iter(|| baselines::shared(library, s, &w, &z, &x, &mut generated, &mut y));
            });
            self.check(name, &id, &mut y, &ours);
        }
        group.finish();
        Ok(())
    }

    fn cp<T: Float>(&self, criterion: &mut Criterion, name: &str, s: Sizes) -> Result<()> {
        let flops = 2 * s.n * s.r * (s.i + s.j + s.k);
        let dtype = T::DTYPE.to_string();
        let Some(mut group) = self.group(criterion, ["forward", "cp", name, &dtype], flops) else { return Ok(()) };
        let (a, b, c) = (data::<T>(s.k * s.r), data::<T>(s.i * s.r), data::<T>(s.j * s.r));
        let (z, x) = (data::<T>(s.n * s.i), data::<T>(s.n * s.j));
        let factors = [View::new(&a, [s.k, s.r])?, View::new(&b, [s.i, s.r])?, View::new(&c, [s.j, s.r])?];
        let layer = Interaction::cp(factors[0], factors[1], factors[2])?.with_context(self.context);
        let (zv, xv) = (View::new(&z, [s.n, s.i])?, View::new(&x, [s.n, s.j])?);
        let ours = ours(&mut group, layer, [s.n, s.k], |layer, y| layer.forward_into(zv, xv, y))?;
        let [mut p, mut q, mut y] = [s.r, s.r, s.k].map(|columns| vec![T::ZERO; s.n * columns]);
        for library in Library::ALL {
            let id = format!("three-gemms-{}", library.name());
            group.bench_function(&id, |bench| {
                bench.iter(|| {
                    baselines::three_gemms(library, s, [&a, &b, &c], &z, &x, [&mut p, &mut q], &mut y);
                });
            });
            self.check(name, &id, &mut y, &ours);
        }
        group.finish();
        Ok(())
    }

    /// In a test, that a baseline computed what we did (a filter may have left it out), and forgets it.
    fn check<T: Float>(&self, name: &str, id: &str, y: &mut [T], ours: &[T]) {
        let ran = |y: &[T]| y.iter().any(|&value| value != T::ZERO);
        if self.test && ran(y) && ran(ours) {
            assert!(y == ours, "{name}: {id} and trilinear differ");
        }
        y.fill(T::ZERO);
    }
}

/// `call` with the layer and with prepared weights; returns y, which is zero if a filter left both out.
fn ours<'a, T: Element, const D: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    layer: Interaction<'a, T>,
    shape: [usize; D],
    call: impl Fn(&Interaction<'_, T>, ViewMut<'_, T, D>) -> Result<()>,
) -> Result<Vec<T>> {
    let mut y = vec![T::default(); shape.iter().product()];
    let mut run = |id: &str, layer: &Interaction<'_, T>| {
        let mut outcome = Ok(());
        group.bench_function(id, |b| {
            b.iter(|| {
                let result = ViewMut::new(&mut y, shape).and_then(|y| call(layer, y));
                if result.is_err() {
                    outcome = result;
                }
            });
        });
        outcome
    };
    run("trilinear", &layer)?;
    run("trilinear-prepared", &layer.prepare()?.layer())?;
    Ok(y)
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

//! `trilinear check`: every kernel of every SIMD level and device found here, against the reference and its bounds.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context as _, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};
use trilinear::reference::{self, Reference, error_bound};
use trilinear::{Algorithm, Axes, Context, DType, Device, Element, Error, Interaction, SimdLevel, View, ViewMut};
use trilinear::{bf16, f16};

use crate::host;

mod gradients;
mod pairs;

const EXAMPLES: &str = "\
Every SIMD level that this processor has, the first CUDA device if there is one, every storage type and every algorithm compute
shapes around the edges of their tiles, forward and backward, on one thread and on several, into memory full of NaN. Each element
must lie within the published error bound of the reference; results of one and of several threads must have the same bits.

Exit code 0 if all is right, 1 if not.

Examples:
  trilinear check
  trilinear check --dtype bf16    one storage type only
  trilinear check --device cuda:0    that device only; cpu: the processor only";

/// Options of `check`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this storage type (repeatable): f32, f64, f16, bf16
    #[arg(long, value_name = "TYPE", value_parser = crate::bench::parse_dtype)]
    dtype: Vec<DType>,
    /// Only this device: cpu or cuda:N [default: the processor, and cuda:0 if it is there]
    #[arg(long)]
    device: Option<Device>,
}

/// How many failures are described one by one.
const DESCRIBED: usize = 10;

/// What was found for one kernel.
#[derive(Default)]
struct Tally {
    cases: usize,
    /// The largest error as a part of its bound.
    worst: f64,
    failures: usize,
}

struct Line {
    /// Of the processor; a CUDA device has none.
    level: Option<SimdLevel>,
    dtype: DType,
    operation: String,
    tally: Tally,
}

struct Checker {
    pool: ThreadPool,
    threads: usize,
    device: Option<Device>,
    lines: Vec<Line>,
    failures: Vec<String>,
    /// Why operations were left out.
    skipped: BTreeSet<String>,
}

/// Whether every kernel is right.
pub(crate) fn run(args: Args) -> Result<bool> {
    // Two threads at least: their division of the work can be tested on one processor too.
    let threads = host::threads().max(2);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().context("threads could not be started")?;
    // One that was asked for must be there.
    args.device.map_or(Ok(()), Device::check)?;
    let (device, skipped) = (args.device, BTreeSet::new());
    let mut checker = Checker { pool, threads, device, lines: Vec::new(), failures: Vec::new(), skipped };
    let wanted = |dtype| args.dtype.is_empty() || args.dtype.contains(&dtype);
    if wanted(DType::F32) {
        checker.check::<f32>()?;
    }
    if wanted(DType::F64) {
        checker.check::<f64>()?;
    }
    if wanted(DType::F16) {
        checker.check::<f16>()?;
    }
    if wanted(DType::Bf16) {
        checker.check::<bf16>()?;
    }
    checker.report()
}

/// n, i, j, k and the rank of the CP form.
type Sizes = [usize; 5];

/// Shapes around the edges of `nr`×`mr` tiles (weights × batch) and of what streams, and some for several threads.
fn shapes(tiles: &BTreeSet<(usize, usize)>) -> BTreeSet<Sizes> {
    let edges = |len: usize| [len.saturating_sub(1), len, len + 1, 2 * len + 1];
    let mut shapes: BTreeSet<Sizes> = [
        [0, 3, 2, 2, 2],
        [3, 0, 2, 2, 2],
        [3, 2, 0, 2, 2],
        [3, 2, 2, 0, 2],
        [3, 2, 2, 2, 0],
        [1, 1, 1, 1, 1],
        [1, 16, 16, 16, 16],
        [1, 67, 131, 70, 130],
        [4, 130, 67, 70, 9],
        [7, 3, 700, 2, 5],
        [7, 700, 3, 2, 5],
        [9, 30, 40, 300, 300],
        [70, 40, 40, 40, 40],
        [129, 33, 65, 31, 66],
        [600, 20, 20, 6, 200],
        // The tiles of CUDA kernels.
        [17, 5, 33, 129, 65],
        [128, 4, 16, 128, 64],
        [257, 3, 18, 127, 63],
    ]
    .into();
    for &(nr, mr) in tiles {
        for n in edges(mr) {
            shapes.extend([[n, 5, 9, 7, 3], [n, 17, 3, 1, 8]]);
            shapes.extend(edges(nr).map(|k| [n, 3, 5, k, nr]));
        }
        for len in edges(nr).into_iter().chain(edges(mr)) {
            shapes.extend([[5, len, 6, 3, 4], [5, 6, len, 3, 4], [5, 4, 6, len, 4], [5, 4, 6, 3, len]]);
            shapes.extend((1..=4).map(|n| [n, len, len + 2, 3, len]));
        }
    }
    shapes
}

/// Deterministic values in [-1, 1).
fn values<T: Element>(len: usize, seed: &mut u64) -> Vec<T> {
    let mut next = || {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        T::from_f64((*seed >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

/// What every element should be, and how far it may be off.
#[derive(Default)]
struct Expected {
    value: Vec<f64>,
    bound: Vec<f64>,
    /// Of several results: each one's name, and the index of its first element.
    names: Vec<(&'static str, usize)>,
}

impl Expected {
    fn forward<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Result<Self> {
        Ok(Expected::of::<T>(reference::forward(layer, z, x)?))
    }

    /// In the type E.
    fn of<E: Element>(exact: Reference) -> Self {
        let value = exact.value.as_slice().to_vec();
        let bound = (0..value.len()).map(|index| exact.error_bound(E::DTYPE, index)).collect();
        Expected { value, bound, names: Vec::new() }
    }

    fn append(&mut self, other: Expected) {
        self.value.extend(other.value);
        self.bound.extend(other.bound);
    }

    /// An element, for people.
    fn describe(&self, index: usize) -> String {
        match self.names.iter().rev().find(|(_, first)| *first <= index) {
            Some((name, first)) => format!("element {} of {name}", index - first),
            None => format!("element {index}"),
        }
    }

    /// W′ of each row of z (the outputs for the unit vectors in the place of x), then b′.
    fn generated<T: Element>(parts: &Parts<'_, T>, z: View<'_, T, 2>) -> Result<Self> {
        let [groups, i] = z.shape();
        let (k, j) = (parts.whole.outputs(), parts.whole.x_features());
        let mut identity = vec![T::default(); j * j];
        identity.iter_mut().step_by(j + 1).for_each(|one| *one = T::from_f64(1.0));
        let (mut value, mut bound) = (vec![0.0; groups * k * j], vec![0.0; groups * k * j]);
        // A sum over i, for CP over the rank too, and V; the units that are not there add nothing.
        let depth = i + parts.whole.rank().unwrap_or(0) + 5;
        for group in 0..groups {
            let z = z.slice(0, group..group + 1)?.broadcast(0, j)?;
            let exact = reference::forward(&parts.weights, z, View::new(&identity, [j, j])?)?;
            for (index, (&v, &magnitude)) in exact.value.as_slice().iter().zip(exact.magnitude.as_slice()).enumerate() {
                let to = (group * k + index % k) * j + index / k;
                (value[to], bound[to]) = (v, error_bound(T::DTYPE, depth, v, magnitude));
            }
        }
        let bias = Expected::forward(&parts.bias, z, View::new(&[], [groups, 0])?)?;
        value.extend(bias.value);
        bound.extend(bias.bound);
        Ok(Expected { value, bound, names: Vec::new() })
    }
}

/// The CUDA device that is checked unless another is asked for, if it is there.
const CUDA: Device = Device::Cuda(0);

/// The SIMD level of a context of the processor.
fn level(context: &Context) -> Option<SimdLevel> {
    (context.device() == Device::Cpu).then(|| context.simd())
}

/// One computation, into a buffer.
type Compute<'a, E> = &'a (dyn Fn(Context, &mut [E]) -> trilinear::Result<()> + Sync);

/// A layer, and the parts of it that generate weights (W and V) and biases (U and b).
struct Parts<'a, T: Element> {
    whole: Interaction<'a, T>,
    weights: Interaction<'a, T>,
    bias: Interaction<'a, T>,
}

impl Checker {
    fn check<T: Element>(&mut self) -> Result<()> {
        let plain = Context::new(Device::Cpu)?;
        let one = [T::default()];
        let mut levels = Vec::new();
        let mut tiles = BTreeSet::new();
        for level in SimdLevel::ALL {
            let Ok(context) = plain.with_simd(level) else { continue };
            let kernel = Interaction::dense(View::new(&one, [1, 1, 1])?)?.with_context(context).plan(1)?.kernel;
            // The name ends in the tile: NRxMR.
            let tile = kernel.rsplit('-').next().and_then(|tile| tile.split_once('x'));
            if let Some((Ok(nr), Ok(mr))) = tile.map(|(nr, mr)| (nr.parse(), mr.parse())) {
                tiles.insert((nr, mr));
            }
            levels.push(context);
        }
        // Of a device that is there every kernel is checked too, by the same shapes.
        let cuda = self.cuda().map(Context::new);
        if self.device.is_some_and(|device| device != Device::Cpu) {
            levels.clear();
        }
        levels.extend(cuda.and_then(std::result::Result::ok));
        let mut seed = 1;
        for sizes in shapes(&tiles) {
            self.dense::<T>(&levels, sizes, &mut seed)?;
            self.cp::<T>(&levels, sizes, &mut seed)?;
            self.gradients::<T>(&levels, sizes, &mut seed)?;
            self.pairs::<T>(&levels, sizes, &mut seed)?;
            self.blocks::<T>(&levels, sizes, &mut seed)?;
        }
        Ok(())
    }

    /// Dense W in three axis orders, the linear terms alone, shared context and generated weights.
    fn dense<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, _] = sizes;
        let (w, u, v, b) =
            (values::<T>(k * i * j, seed), values::<T>(k * i, seed), values::<T>(k * j, seed), values::<T>(k, seed));
        let (z, x) = (values::<T>(n * i, seed), values::<T>(n * j, seed));
        let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?);
        let (u, v, b) = (View::new(&u, [k, i])?, View::new(&v, [k, j])?, View::vector(&b));
        let forced = [Algorithm::Stream, Algorithm::FusedDot, Algorithm::KhatriRao].map(Some);
        let layers = [
            ("dense", Interaction::dense(View::new(&w, [k, i, j])?)?.with_u(u)?.with_v(v)?.with_b(b)?),
            ("dense, x before z", Interaction::dense(Axes::OUT_X_Z.view(View::new(&w, [k, j, i])?))?),
            ("dense, outputs last", Interaction::dense(Axes::ZX_OUT.view(View::new(&w, [i, j, k])?))?),
        ];
        for (form, layer) in &layers {
            let exact = Expected::forward(layer, z, x)?;
            for algorithm in std::iter::once(None).chain(forced) {
                self.case((levels, T::DTYPE), form, algorithm, sizes, &exact, &|context, y| {
                    layer.with_context(context).forward_into(z, x, ViewMut::new(y, [n, k])?)
                })?;
            }
        }
        let linear = Interaction::linear(k, i, j)?.with_u(u)?.with_v(v)?.with_b(b)?;
        self.case((levels, T::DTYPE), "linear", None, sizes, &Expected::forward(&linear, z, x)?, &|context, y| {
            linear.with_context(context).forward_into(z, x, ViewMut::new(y, [n, k])?)
        })?;
        let parts = Parts {
            whole: layers[0].1,
            weights: Interaction::dense(View::new(&w, [k, i, j])?)?.with_v(v)?,
            bias: Interaction::linear(k, i, 0)?.with_u(u)?.with_b(b)?,
        };
        self.contexts(levels, ["shared context, dense", "generate, dense"], &parts, sizes, seed)
    }

    /// CP, and the same of it.
    fn cp<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, r] = sizes;
        let (a, b, c, lambda) =
            (values::<T>(k * r, seed), values::<T>(i * r, seed), values::<T>(j * r, seed), values::<T>(r, seed));
        let (u, v, bias) = (values::<T>(k * i, seed), values::<T>(k * j, seed), values::<T>(k, seed));
        let (z, x) = (values::<T>(n * i, seed), values::<T>(n * j, seed));
        let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?);
        let (u, v, bias) = (View::new(&u, [k, i])?, View::new(&v, [k, j])?, View::vector(&bias));
        let weights = Interaction::cp(View::new(&a, [k, r])?, View::new(&b, [i, r])?, View::new(&c, [j, r])?)?
            .with_lambda(View::vector(&lambda))?
            .with_v(v)?;
        let layer = weights.with_u(u)?.with_b(bias)?;
        let exact = Expected::forward(&layer, z, x)?;
        for algorithm in [None, Some(Algorithm::CpStream), Some(Algorithm::CpBlocked)] {
            self.case((levels, T::DTYPE), "cp", algorithm, sizes, &exact, &|context, y| {
                layer.with_context(context).forward_into(z, x, ViewMut::new(y, [n, k])?)
            })?;
        }
        let parts = Parts { whole: layer, weights, bias: Interaction::linear(k, i, 0)?.with_u(u)?.with_b(bias)? };
        self.contexts(levels, ["shared context, cp", "generate, cp"], &parts, sizes, seed)
    }

    /// One z for several rows of x, and the weights that each z generates. Few groups: the reference is slow.
    fn contexts<T: Element>(
        &mut self,
        levels: &[Context],
        [shared, generate]: [&str; 2],
        parts: &Parts<'_, T>,
        sizes: Sizes,
        seed: &mut u64,
    ) -> Result<()> {
        let [n, i, j, k, _] = sizes;
        let (groups, rows) = (n.min(3), n.min(40));
        let layer = parts.whole;
        let (z, x) = (values::<T>(groups * i, seed), values::<T>(groups * rows * j, seed));
        // Each row of z repeated for its rows of x.
        let expanded: Vec<T> = match i {
            0 => Vec::new(),
            _ => z.chunks(i).flat_map(|z| std::iter::repeat_n(z, rows)).flatten().copied().collect(),
        };
        let batch = groups * rows;
        let exact = Expected::forward(&layer, View::new(&expanded, [batch, i])?, View::new(&x, [batch, j])?)?;
        let (z, x) = (View::new(&z, [groups, i])?, View::new(&x, [groups, rows, j])?);
        self.case((levels, T::DTYPE), shared, None, sizes, &exact, &|context, y| {
            layer.with_context(context).forward_shared_into(z, x, ViewMut::new(y, [groups, rows, k])?)
        })?;
        if i * j * j * k * groups > 2_000_000 {
            return Ok(());
        }
        self.case((levels, T::DTYPE), generate, None, sizes, &Expected::generated(parts, z)?, &|context, y| {
            let (weights, bias) = y.split_at_mut(groups * k * j);
            let (weights, bias) = (ViewMut::new(weights, [groups, k, j])?, ViewMut::new(bias, [groups, k])?);
            layer.with_context(context).generate_into(z, weights, bias)
        })
    }

    /// One computation at every level, on one thread and on several.
    fn case<E: Element>(
        &mut self,
        (levels, dtype): (&[Context], DType),
        form: &str,
        algorithm: Option<Algorithm>,
        sizes: Sizes,
        expected: &Expected,
        compute: Compute<'_, E>,
    ) -> Result<()> {
        let operation = algorithm.map_or(form.to_owned(), |algorithm| format!("{form} by {algorithm}"));
        for &context in levels {
            let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
            let mut one = vec![E::from_f64(f64::NAN); expected.value.len()];
            let mut several = one.clone();
            match compute(context.with_threads(1)?, &mut one) {
                // Not every algorithm can compute every shape; those that can are counted.
                Err(Error::Algorithm { .. }) => continue,
                Err(error @ Error::Unsupported { .. }) => {
                    self.skipped.insert(format!("{operation}: {error}"));
                    continue;
                }
                result => result?,
            }
            let parallel = context.with_threads(self.threads)?;
            self.pool.install(|| compute(parallel, &mut several))?;
            let what = || {
                let [n, i, j, k, r] = sizes;
                let place = level(&context).map_or_else(|| context.device().to_string(), |level| level.to_string());
                format!("{operation}, {place}, {dtype}, n={n} i={i} j={j} k={k} r={r}")
            };
            let mut worst = 0.0f64;
            let mut failure = None;
            for (index, (value, (exact, bound))) in
                one.iter().zip(expected.value.iter().zip(&expected.bound)).enumerate()
            {
                let error = (value.to_f64() - exact).abs();
                let within = error <= *bound; // which NaN is not
                if !within {
                    failure = failure.or_else(|| {
                        let element = expected.describe(index);
                        Some(format!("{}: {element} is {value}, not {exact:.9e} ± {bound:.1e}", what()))
                    });
                    worst = if error.is_nan() { f64::INFINITY } else { worst.max(error / bound) };
                } else if error > 0.0 {
                    worst = worst.max(error / bound);
                }
            }
            let bits = |value: &E| value.to_f64().to_bits();
            if failure.is_none() && !one.iter().map(bits).eq(several.iter().map(bits)) {
                failure = Some(format!("{}: other bits on {} threads than on one", what(), self.threads));
            }
            let tally = self.tally(level(&context), dtype, &operation);
            tally.cases += 1;
            tally.worst = tally.worst.max(worst);
            if let Some(failure) = failure {
                tally.failures += 1;
                self.failures.push(failure);
            }
        }
        Ok(())
    }

    /// The CUDA device to check.
    fn cuda(&self) -> Option<Device> {
        self.device.map_or(Some(CUDA), |device| (device != Device::Cpu).then_some(device))
    }

    fn tally(&mut self, level: Option<SimdLevel>, dtype: DType, operation: &str) -> &mut Tally {
        let found = |line: &Line| line.level == level && line.dtype == dtype && line.operation == operation;
        let index = self.lines.iter().position(found).unwrap_or_else(|| {
            let operation = operation.to_owned();
            self.lines.push(Line { level, dtype, operation, tally: Tally::default() });
            self.lines.len() - 1
        });
        &mut self.lines[index].tally
    }

    /// Prints the tables. Whether all is right.
    fn report(self) -> Result<bool> {
        let mut out = std::io::stdout();
        writeln!(out, "{}: on 1 thread and on {}", host::cpu_name(), self.threads)?;
        let mut builder = Builder::default();
        let mut dtypes: Vec<DType> = self.lines.iter().map(|line| line.dtype).collect();
        dtypes.dedup();
        builder.push_record(
            ["SIMD level".into(), "operation".into()].into_iter().chain(dtypes.iter().map(DType::to_string)),
        );
        let mut printed = Vec::new();
        for line in &self.lines {
            if printed.contains(&(line.level, &line.operation)) {
                continue;
            }
            printed.push((line.level, &line.operation));
        }
        printed.sort();
        for (level, operation) in printed {
            let cuda = || self.cuda().map_or_else(String::new, |device| device.to_string());
            let mut cells = vec![level.map_or_else(cuda, |level| level.to_string()), operation.clone()];
            for dtype in &dtypes {
                let found = |line: &&Line| line.level == level && line.operation == *operation && line.dtype == *dtype;
                cells.push(self.lines.iter().find(found).map_or(String::new(), |line| line.tally.cell()));
            }
            builder.push_record(cells);
        }
        let mut table = builder.build();
        table.with(Style::sharp()).modify(Columns::new(2..), Alignment::right());
        writeln!(out, "{table}\nCells: shapes computed, and the largest error as a part of its bound.")?;
        for level in SimdLevel::ALL.into_iter().filter(|level| !level.is_available()) {
            writeln!(out, "not checked: {level}, which this processor does not have")?;
        }
        for reason in &self.skipped {
            writeln!(out, "not checked: {reason}")?;
        }
        if let Some(Err(error)) = self.cuda().map(Device::check) {
            writeln!(out, "not checked: {error}")?;
        }
        let cases: usize = self.lines.iter().map(|line| line.tally.cases).sum();
        for failure in self.failures.iter().take(DESCRIBED) {
            eprintln!("wrong: {failure}");
        }
        match self.failures.len() {
            0 => writeln!(out, "all {cases} cases are right")?,
            failures => writeln!(out, "{failures} of {cases} cases are WRONG")?,
        }
        Ok(self.failures.is_empty())
    }
}

impl Tally {
    fn cell(&self) -> String {
        match self.failures {
            0 => format!("{}, {:.2}", self.cases, self.worst),
            failures => format!("{}, {:.2}, {failures} WRONG", self.cases, self.worst),
        }
    }
}

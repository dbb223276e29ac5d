//! One row of `bench`: ours and the baselines on the same data, interleaved, each result checked before it is timed.

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use trilinear::{Context, DType, Interaction, Plan, Prepared, View, ViewMut, machine, reference};

use crate::baselines::{Baseline, Baselines, Operands, Shape, Weights};
use crate::cases::Case;
use crate::host;

/// Of the memory that the system calls available, this part is used.
const MEMORY_PART: f64 = 0.8;
/// The read bandwidth is measured on a buffer of at least this size, and of four times the last cache.
const BANDWIDTH_BUFFER: usize = 128 << 20;
/// Baselines slower than the best by this factor are not measured more than a few times.
const HOPELESS: f64 = 1.5;

/// What the options say of how to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Time for each row.
    pub(crate) seconds: f64,
    pub(crate) prepared: bool,
    pub(crate) baselines: bool,
}

/// The row that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) case: Case,
    pub(crate) threads: usize,
    /// The algorithm, if forced, included.
    pub(crate) context: Context,
    /// The same without one.
    pub(crate) plain: Context,
}

/// What was measured.
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) peak: f64,
    pub(crate) bandwidth: f64,
    pub(crate) ours: Time,
    pub(crate) prepared: Option<Time>,
    /// Median seconds of every baseline.
    pub(crate) baselines: Vec<(&'static str, f64)>,
}

/// Seconds of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) median: f64,
    /// Of the fastest sample: where other programs take part of the machine, closer to what it can do.
    pub(crate) fastest: f64,
}

/// Measured, or why not.
pub(crate) enum Measured {
    Row(Outcome),
    Skipped(String),
}

/// Bytes per second that `threads` threads read from memory.
pub(crate) fn bandwidth(context: &Context, threads: usize) -> trilinear::Result<f64> {
    machine::read_bandwidth(context, threads, BANDWIDTH_BUFFER.max(4 * host::last_cache()))
}

/// Measures a row, in the rayon pool that it is called in.
fn row<T: Baselines>(job: &Job, settings: Settings) -> Result<Measured> {
    let skip = |reason: String| Ok(Measured::Skipped(reason));
    let (estimate, lengths) = match (job.case.plan::<T>(job.plain), job.case.elements()) {
        (Ok(plan), Some(lengths)) => (plan, lengths),
        (Err(trilinear::Error::TooLarge { .. }), _) | (_, None) => {
            return skip("its tensors do not fit in the address space".into());
        }
        (Err(error), _) => return Err(error.into()),
    };
    let peak = machine::peak_flops::<T>(&job.plain, job.threads)?;
    let read = || bandwidth(&job.plain, job.threads);
    let bandwidth = read()?;
    // Near the corner of the roofline, memory is measured too: else a cache could make the figure look better.
    let streams = estimate.bytes as f64 / bandwidth > 0.8 * (estimate.flops as f64 / peak);
    let one = lengths.bytes(T::DTYPE).saturating_add(64 * 6);
    let available = host::available_memory().map_or(f64::INFINITY, |bytes| bytes as f64 * MEMORY_PART);
    // Prepared weights are copies; of half-width types, once more in f32.
    let weights = lengths.weight_bytes(T::DTYPE) as f64;
    let copies = if settings.prepared { weights * if size_of::<T>() == 2 { 3.0 } else { 1.0 } } else { 0.0 };
    let needed = |sets: u128| (one as f64 + copies) * sets as f64 + (estimate.scratch * job.threads) as f64;
    let wanted = if streams { 2 * host::last_cache() as u128 / one.max(1) + 1 } else { 1 };
    let sets = if needed(wanted) <= available { wanted } else { 1 };
    if needed(sets) > available {
        let (needed, available) = (host::bytes(needed(sets)), host::bytes(available));
        return skip(format!("it needs {needed} of memory, and only {available} can be used"));
    }
    let spare = (available - needed(sets)).min(usize::MAX as f64) as usize;
    let baselines = match settings.baselines {
        true => T::baselines(job.case.shape, job.threads, spare),
        false => Vec::new(),
    };
    let Some(data) = Data::<T>::new(&job.case, sets as usize) else {
        return skip("its tensors could not be allocated".into());
    };
    let plan = match data.plan(job) {
        Ok(mut plan) => {
            // The real layer chooses; the estimate counts z and x once where they are tied.
            plan.bytes = estimate.bytes;
            plan
        }
        Err(error @ trilinear::Error::Algorithm { .. }) => return skip(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let (ours, prepared, baselines) = interleave(job, settings, &data, baselines)?;
    // The clock moves, and so does what others leave of the memory's bandwidth: of the figures before and after, the one
    // that is harder to reach.
    let peak = peak.max(machine::peak_flops::<T>(&job.plain, job.threads)?);
    let bandwidth = if streams { bandwidth.max(read()?) } else { bandwidth };
    Ok(Measured::Row(Outcome { plan, peak, bandwidth, ours, prepared, baselines }))
}

/// Computes y of a set.
type Call<'a, T> = Box<dyn FnMut(usize, &mut [T]) -> Result<()> + 'a>;

/// One way to compute the row, and its times.
struct Contender<'a, T> {
    name: &'static str,
    is_baseline: bool,
    call: Call<'a, T>,
    /// Calls in a sample.
    calls: usize,
    /// Seconds of a call.
    samples: Vec<f64>,
    active: bool,
}

impl<'a, T> Contender<'a, T> {
    fn new(name: &'static str, is_baseline: bool, call: impl FnMut(usize, &mut [T]) -> Result<()> + 'a) -> Self {
        Contender { name, is_baseline, call: Box::new(call), calls: 1, samples: Vec::new(), active: true }
    }

    /// Seconds of a call, in the mean of a sample of so many. Sets are taken in turn by all contenders together, so
    /// that each call finds its operands last touched a whole round of sets ago.
    fn sample(&mut self, calls: usize, sets: usize, next: &mut usize, y: &mut Outputs<T>) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            *next = if *next + 1 < sets { *next + 1 } else { 0 };
            (self.call)(*next, y.set(*next))?;
        }
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    }

    fn time(&self) -> Time {
        Time { median: median(&self.samples), fastest: self.samples.iter().copied().fold(f64::INFINITY, f64::min) }
    }
}

/// Of an even number, the mean of the middle two.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len => (sorted[(len - 1) / 2] + sorted[len / 2]) / 2.0,
    }
}

type Times = (Time, Option<Time>, Vec<(&'static str, f64)>);

/// Of ours, of ours with prepared weights, and of the baselines.
fn interleave<T: Baselines>(
    job: &Job,
    settings: Settings,
    data: &Data<T>,
    baselines: Vec<Baseline<T>>,
) -> Result<Times> {
    let prepared: Vec<Prepared<T>> = match settings.prepared {
        true => (0..data.sets).map(|set| data.layer(set, job.context)?.prepare()).collect::<trilinear::Result<_>>()?,
        false => Vec::new(),
    };
    let mut contenders =
        vec![Contender::new("ours", false, |set, y| Ok(data.call(&data.layer(set, job.context)?, set, y)?))];
    if settings.prepared {
        let prepared = &prepared;
        let call = move |set: usize, y: &mut [T]| Ok(data.call(&prepared[set].layer(), set, y)?);
        contenders.push(Contender::new("prepared", false, call));
    }
    for mut baseline in baselines {
        let name = baseline.name;
        let call = move |set, y: &mut [T]| Ok(baseline.run(data.operands(set), y)?);
        contenders.push(Contender::new(name, true, call));
    }
    let mut y = Outputs::new(data.sets, data.lengths.y);
    let budget = settings.seconds;
    // The first call of each shows that it is right, and how long it takes.
    let mut expected = Vec::new();
    let mut longest = 0.0f64;
    for contender in &mut contenders {
        let y = y.set(0);
        y.fill(T::from_f64(f64::NAN));
        let start = Instant::now();
        (contender.call)(0, y)?;
        let first = start.elapsed().as_secs_f64();
        if contender.is_baseline || expected.is_empty() {
            match expected.is_empty() {
                true => data.check(job, y)?,
                false => compare(contender.name, y, &expected)?,
            }
        } else if y != expected {
            bail!("prepared weights give other bits than unprepared ones: please report this");
        }
        if expected.is_empty() {
            expected = y.to_vec();
        }
        longest = longest.max(first);
        if first > budget {
            contender.samples.push(first);
        }
    }
    drop(expected);
    drop_hopeless(&mut contenders);
    // Samples of many calls where calls are short, so that reading the clock does not count.
    let target = (budget / (20.0 * contenders.len() as f64)).clamp(20e-6, 5e-3);
    let mut next = 0;
    if longest <= budget {
        for contender in &mut contenders {
            let mut calls = 1;
            let mut seconds = contender.sample(1, data.sets, &mut next, &mut y)?;
            while seconds * (calls as f64) < target / 4.0 {
                calls *= 4;
                seconds = contender.sample(calls, data.sets, &mut next, &mut y)?;
            }
            contender.calls = (target / seconds).clamp(1.0, 1e7) as usize;
        }
    }
    let start = Instant::now();
    for round in 0.. {
        let enough = if longest > budget { 1 } else { 3 };
        if round >= enough && (longest > budget || start.elapsed().as_secs_f64() >= budget) {
            break;
        }
        for contender in contenders.iter_mut().filter(|contender| contender.active) {
            if contender.calls > 1 && data.sets == 1 {
                // What the one before left in the caches is not this one's.
                contender.sample(1, data.sets, &mut next, &mut y)?;
            }
            let seconds = contender.sample(contender.calls, data.sets, &mut next, &mut y)?;
            contender.samples.push(seconds);
        }
        if round == 2 {
            drop_hopeless(&mut contenders);
        }
    }
    let [ours, prepared] = [0, 1].map(|index| contenders.iter().filter(|c| !c.is_baseline).nth(index));
    let ours = ours.map_or(Time { median: f64::NAN, fastest: f64::NAN }, Contender::time);
    let prepared = prepared.map(Contender::time);
    let baselines = contenders.iter().filter(|c| c.is_baseline).map(|c| (c.name, c.time().median));
    Ok((ours, prepared, baselines.collect()))
}

/// No more samples of baselines that cannot be the best, so that the others get the time. By the fastest sample: one
/// slow one, of a machine that others use too, must not take a baseline out.
fn drop_hopeless<T>(contenders: &mut [Contender<'_, T>]) {
    let baselines = contenders.iter_mut().filter(|contender| contender.is_baseline);
    let baselines: Vec<_> = baselines.filter(|contender| !contender.samples.is_empty()).collect();
    let best = baselines.iter().map(|contender| contender.time().fastest).fold(f64::INFINITY, f64::min);
    for contender in baselines {
        contender.active = contender.time().fastest <= HOPELESS * best;
    }
}

/// A baseline's result against ours, relative to the largest element.
fn compare<T: Baselines>(name: &str, y: &[T], ours: &[T]) -> Result<()> {
    let largest = ours.iter().fold(0.0, |largest: f64, value| largest.max(value.to_f64().abs()));
    let tolerance = (1e-3 + 4.0 * T::DTYPE.storage_roundoff()) * largest;
    let close = |(y, ours): (&T, &T)| (y.to_f64() - ours.to_f64()).abs() <= tolerance; // which NaN is not
    match y.iter().zip(ours).position(|pair| !close(pair)) {
        None => Ok(()),
        Some(index) => {
            let (y, ours) = (y[index], ours[index]);
            bail!("baseline `{name}` gives {y} where ours is {ours} (element {index}): please report this")
        }
    }
}

/// The operands of a row, in as many copies as memory is to be measured with.
struct Data<T> {
    shape: Shape,
    tied: bool,
    lengths: crate::cases::Lengths,
    sets: usize,
    /// Elements from one set to the next.
    stride: usize,
    /// The first element at a cache line's start.
    start: usize,
    /// Of z, x and the three parts of the weights, in a set.
    offsets: [usize; 5],
    elements: Vec<T>,
}

impl<T: Baselines> Data<T> {
    /// `None` if there is not the memory.
    fn new(case: &Case, sets: usize) -> Option<Self> {
        let lengths = case.elements()?;
        let line = 64 / size_of::<T>();
        let [w0, w1, w2] = lengths.weights;
        let mut offsets = [0; 5];
        let mut stride = 0usize;
        for (offset, len) in offsets.iter_mut().zip([lengths.z, lengths.x, w0, w1, w2]) {
            *offset = stride;
            stride = stride.checked_add(len.checked_next_multiple_of(line)?)?;
        }
        let len = stride.checked_mul(sets)?.checked_add(line)?;
        let mut elements: Vec<T> = Vec::new();
        elements.try_reserve_exact(len).ok()?;
        let start = elements.as_ptr().align_offset(64).min(line);
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        elements.resize_with(start + stride, || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            T::from_f64((seed >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        });
        for _ in 1..sets {
            elements.extend_from_within(start..start + stride);
        }
        Some(Data { shape: case.shape, tied: case.tied, lengths, sets, stride, start, offsets, elements })
    }

    fn operands(&self, set: usize) -> Operands<'_, T> {
        let part =
            |index: usize, len: usize| &self.elements[self.start + set * self.stride + self.offsets[index]..][..len];
        let z = part(0, self.lengths.z);
        let x = if self.tied { z } else { part(1, self.lengths.x) };
        let [w0, w1, w2] = self.lengths.weights;
        let weights = match self.shape.r {
            None => Weights::Dense(part(2, w0)),
            Some(_) => Weights::Cp { a: part(2, w0), b: part(3, w1), c: part(4, w2) },
        };
        Operands { z, x, weights }
    }

    fn layer(&self, set: usize, context: Context) -> trilinear::Result<Interaction<'_, T>> {
        layer(self.operands(set).weights, self.shape, context)
    }

    fn call(&self, layer: &Interaction<'_, T>, set: usize, y: &mut [T]) -> trilinear::Result<()> {
        let Shape { n, rows, i, j, k, .. } = self.shape;
        let Operands { z, x, .. } = self.operands(set);
        let z = View::new(z, [n, i])?;
        match rows {
            1 => layer.forward_into(z, View::new(x, [n, j])?, ViewMut::new(y, [n, k])?),
            _ => layer.forward_shared_into(z, View::new(x, [n, rows, j])?, ViewMut::new(y, [n, rows, k])?),
        }
    }

    fn plan(&self, job: &Job) -> trilinear::Result<Plan> {
        let layer = self.layer(0, job.context)?;
        match self.shape.rows {
            1 => layer.plan(self.shape.n),
            rows => layer.plan_shared(self.shape.n, rows),
        }
    }

    /// Four elements of our result against the reference, with its bound.
    fn check(&self, job: &Job, y: &[T]) -> Result<()> {
        let Shape { n, rows, i, j, k, r } = self.shape;
        let Operands { z, x, weights } = self.operands(0);
        // The first, the last, and two in between.
        for (row, out) in [(0, 0), (1, 2), (2, 1), (3, 3)] {
            let (row, out) = ((n * rows - 1) * row / 3, (k - 1) * out / 3);
            let weights = match (weights, r) {
                (Weights::Cp { a, b, c }, Some(r)) => Weights::Cp { a: &a[out * r..][..r], b, c },
                (Weights::Dense(w), _) => Weights::Dense(&w[out * i * j..][..i * j]),
                (other, None) => other,
            };
            let layer = layer(weights, Shape { k: 1, ..self.shape }, job.plain)?;
            let (z, x) = (View::row(&z[row / rows * i..][..i]), View::row(&x[row * j..][..j]));
            let exact = reference::forward(&layer, z, x)?;
            let (value, expected) = (y[row * k + out].to_f64(), exact.value.as_slice()[0]);
            let within = (value - expected).abs() <= exact.error_bound(T::DTYPE, 0); // which NaN is not
            if !within {
                return Err(anyhow!("wrong result at row {row}, output {out}: {value} instead of {expected}")
                    .context(format!("{} in {}: please report this", job.case.label(), T::DTYPE)));
            }
        }
        Ok(())
    }
}

fn layer<'a, T: Baselines>(
    weights: Weights<'a, T>,
    Shape { i, j, k, r, .. }: Shape,
    context: Context,
) -> trilinear::Result<Interaction<'a, T>> {
    let layer = match weights {
        Weights::Dense(w) => Interaction::dense(View::new(w, [k, i, j])?)?,
        Weights::Cp { a, b, c } => {
            let r = r.unwrap_or(0);
            Interaction::cp(View::new(a, [k, r])?, View::new(b, [i, r])?, View::new(c, [j, r])?)?
        }
    };
    Ok(layer.with_context(context))
}

/// y of each set.
struct Outputs<T> {
    elements: Vec<T>,
    len: usize,
    stride: usize,
}

impl<T: Baselines> Outputs<T> {
    fn new(sets: usize, len: usize) -> Self {
        let stride = len.next_multiple_of(64 / size_of::<T>());
        // NaN rather than zeros, which the system would only promise: the pages are there before the clock runs.
        Outputs { elements: vec![T::from_f64(f64::NAN); stride * sets], len, stride }
    }
}

impl<T> Outputs<T> {
    fn set(&mut self, set: usize) -> &mut [T] {
        &mut self.elements[set * self.stride..][..self.len]
    }
}

/// For every storage type: the function that measures it.
pub(crate) fn row_in(dtype: DType, job: &Job, settings: Settings) -> Result<Measured> {
    match dtype {
        DType::F32 => row::<f32>(job, settings),
        DType::F64 => row::<f64>(job, settings),
        DType::F16 => row::<trilinear::f16>(job, settings),
        DType::Bf16 => row::<trilinear::bf16>(job, settings),
        _ => bail!("there are no benchmarks of {dtype}"),
    }
}

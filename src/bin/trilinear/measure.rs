//! One row of `bench`: ours and the baselines on the same data, interleaved, each result checked before it is timed.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Result, bail};
use trilinear::{Context, DType, Element, Plan, Prepared, Saved, machine};

use crate::baselines::{Baseline, Baselines, Results};
use crate::cases::Case;
use crate::exact::{self, Snapshot};
use crate::host;
use crate::operands::{Data, Outputs};
use crate::work::{Cost, Work};

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
    pub(crate) work: Work,
    /// Of the processor.
    pub(crate) threads: usize,
    /// The algorithm, if forced, included.
    pub(crate) context: Context,
    /// The same without one.
    pub(crate) plain: Context,
}

/// What was measured.
pub(crate) struct Outcome {
    /// Of the forward pass.
    pub(crate) plan: Plan,
    pub(crate) cost: Cost,
    pub(crate) peak: f64,
    pub(crate) bandwidth: f64,
    pub(crate) ours: Time,
    pub(crate) prepared: Option<Time>,
    pub(crate) baselines: Vec<Rival>,
}

/// A baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    /// The median.
    pub(crate) seconds: f64,
    /// Bytes of its intermediate tensors, of those on a device.
    pub(crate) intermediates: Option<u128>,
}

/// Seconds of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) median: f64,
    /// Of the fastest sample: where other programs take part of the machine, closer to what it can do.
    pub(crate) fastest: f64,
}

impl Time {
    pub(crate) fn of(samples: &[f64]) -> Time {
        Time { median: median(samples), fastest: samples.iter().copied().fold(f64::INFINITY, f64::min) }
    }
}

/// Measured, or why not.
pub(crate) enum Measured {
    Row(Box<Outcome>),
    Skipped(String),
}

/// Bytes per second that `threads` threads read from memory.
pub(crate) fn bandwidth(context: &Context, threads: usize) -> trilinear::Result<f64> {
    machine::read_bandwidth(context, threads, BANDWIDTH_BUFFER.max(4 * host::last_cache()))
}

/// Measures a row, in the rayon pool that it is called in.
fn row<T: Baselines>(job: &Job, settings: Settings) -> Result<Measured> {
    let skip = |reason: String| Ok(Measured::Skipped(reason));
    if let Some(obstacle) = job.case.obstacle(job.work) {
        return skip(obstacle.into());
    }
    let (estimate, lengths) = match (job.case.plan::<T>(job.plain), job.case.elements(job.work)) {
        (Ok(plan), Some(lengths)) => (plan, lengths),
        (Err(trilinear::Error::TooLarge { .. }), _) | (_, None) => {
            return skip("its tensors do not fit in the address space".into());
        }
        (Err(error), _) => return Err(error.into()),
    };
    let accumulator = T::Accumulator::DTYPE;
    let cost = job.case.cost(job.work, [T::DTYPE.bytes(), accumulator.bytes()]);
    let peak = machine::peak_flops::<T>(&job.plain, job.threads)?;
    let read = || bandwidth(&job.plain, job.threads);
    let bandwidth = read()?;
    // Near the corner of the roofline, memory is measured too: else a cache could make the figure look better.
    let streams = cost.bytes as f64 / bandwidth > 0.8 * (cost.flops as f64 / peak);
    let one = lengths.bytes(T::DTYPE, accumulator).saturating_add(64 * 13);
    let available = host::available_memory().map_or(f64::INFINITY, |bytes| bytes as f64 * MEMORY_PART);
    // Prepared weights are copies; of half-width types, once more in f32.
    let weights = lengths.weight_bytes(T::DTYPE) as f64;
    let copies = if settings.prepared { weights * if size_of::<T>() == 2 { 3.0 } else { 1.0 } } else { 0.0 };
    // The results of the first contender are kept until those of all others have been compared.
    let fixed = lengths.result_bytes(T::DTYPE, accumulator) as f64 + (estimate.scratch * job.threads) as f64;
    let needed = |sets: u128| (one as f64 + copies) * sets as f64 + fixed;
    // What a call does not touch keeps nothing out of the caches.
    let wanted = if streams { 2 * host::last_cache() as u128 / cost.bytes.max(1) + 1 } else { 1 };
    let sets = if needed(wanted) <= available { wanted } else { 1 };
    if needed(sets) > available {
        let (needed, available) = (host::bytes(needed(sets)), host::bytes(available));
        return skip(format!("it needs {needed} of memory, and only {available} can be used"));
    }
    let spare = (available - needed(sets)).min(usize::MAX as f64) as usize;
    let baselines = match (settings.baselines, job.case.structure) {
        (true, None) => T::baselines(job.work, job.case.shape, job.threads, spare),
        (true, Some(form)) => T::of_form(form, job.work, job.case.shape, job.threads, spare),
        (false, _) => Vec::new(),
    };
    let no_memory = "its tensors could not be allocated";
    let Some(data) = Data::<T>::new(&job.case, job.work, sets as usize) else { return skip(no_memory.into()) };
    let plan = match data.plan(job.context) {
        Ok(plan) => plan,
        Err(error @ trilinear::Error::Algorithm { .. }) => return skip(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let Some(mut outputs) = Outputs::new(data.sets, data.lengths) else { return skip(no_memory.into()) };
    let (ours, prepared, baselines) = match interleave(job, settings, &data, &mut outputs, baselines) {
        Ok(times) => times,
        Err(error) => match error.downcast_ref() {
            Some(unsupported @ trilinear::Error::Unsupported { .. }) => return skip(unsupported.to_string()),
            _ => return Err(error.context(format!("{} in {}", job.case.label(), T::DTYPE))),
        },
    };
    // The clock moves, and so does what others leave of the memory's bandwidth: of the figures before and after, the one
    // that is harder to reach.
    let peak = peak.max(machine::peak_flops::<T>(&job.plain, job.threads)?);
    let bandwidth = if streams { bandwidth.max(read()?) } else { bandwidth };
    Ok(Measured::Row(Box::new(Outcome { plan, cost, peak, bandwidth, ours, prepared, baselines })))
}

/// Computes the results of a set.
type Call<'a, T> = Box<dyn FnMut(usize, Results<'_, T>) -> Result<()> + 'a>;

/// One way to compute the row, and its times.
struct Contender<'a, T: Baselines> {
    name: &'static str,
    is_baseline: bool,
    call: Call<'a, T>,
    /// Calls in a sample.
    calls: usize,
    /// Seconds of a call.
    samples: Vec<f64>,
    active: bool,
}

impl<'a, T: Baselines> Contender<'a, T> {
    fn new(name: &'static str, is_baseline: bool, call: impl FnMut(usize, Results<'_, T>) -> Result<()> + 'a) -> Self {
        Contender { name, is_baseline, call: Box::new(call), calls: 1, samples: Vec::new(), active: true }
    }

    /// Seconds of a call, in the mean of a sample of so many. Sets are taken in turn by all contenders together, so
    /// that each call finds its operands last touched a whole round of sets ago.
    fn sample(&mut self, calls: usize, sets: usize, next: &mut usize, to: &mut Outputs<T>) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            *next = if *next + 1 < sets { *next + 1 } else { 0 };
            (self.call)(*next, to.set(*next))?;
        }
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    }

    fn time(&self) -> Time {
        Time::of(&self.samples)
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

type Times = (Time, Option<Time>, Vec<Rival>);

/// Of ours, of ours with prepared weights, and of the baselines.
fn interleave<T: Baselines>(
    job: &Job,
    settings: Settings,
    data: &Data<T>,
    outputs: &mut Outputs<T>,
    baselines: Vec<Baseline<T>>,
) -> Result<Times> {
    // Blocks are made anew by each call, and used as they are.
    let prepares = settings.prepared && job.case.structure.is_none();
    let prepared: Vec<Prepared<T>> = match prepares {
        true => (0..data.sets).map(|set| data.layer(set, job.context)?.prepare()).collect::<trilinear::Result<_>>()?,
        false => Vec::new(),
    };
    // Kept for the backward pass by a forward pass before it, or in the call that is timed.
    let saved: Vec<RefCell<Saved<T>>> =
        (0..data.sets).map(|set| data.save(set, job.context).map(RefCell::new)).collect::<trilinear::Result<_>>()?;
    let saved = saved.as_slice();
    let mut contenders = vec![Contender::new("ours", false, move |set, to| match data.structure {
        Some(structure) => Ok(structure.call((data.work, data.shape, job.context), data.operands(set), to)?),
        None => Ok(data.call(&data.layer(set, job.context)?, set, to, &mut saved[set].borrow_mut())?),
    })];
    if prepares {
        let prepared = &prepared;
        let call = move |set: usize, to: Results<'_, T>| {
            Ok(data.call(&prepared[set].layer(), set, to, &mut saved[set].borrow_mut())?)
        };
        contenders.push(Contender::new("prepared", false, call));
    }
    for mut baseline in baselines {
        let name = baseline.name;
        let call = move |set, to: Results<'_, T>| Ok(baseline.run(data.operands(set), to)?);
        contenders.push(Contender::new(name, true, call));
    }
    let (budget, accumulator) = (settings.seconds, T::Accumulator::DTYPE);
    // The first call of each shows that it is right, and how long it takes.
    let mut expected: Option<Snapshot<T>> = None;
    let mut longest = 0.0f64;
    let alone = contenders.len() == 1;
    for contender in &mut contenders {
        exact::clear(&mut outputs.set(0));
        let start = Instant::now();
        (contender.call)(0, outputs.set(0))?;
        let first = start.elapsed().as_secs_f64();
        let results = outputs.set(0);
        match &expected {
            None => exact::check(data, job.plain, &results)?,
            Some(expected) if contender.is_baseline => {
                exact::compare((contender.name, accumulator), &results, expected)?
            }
            Some(expected) if !expected.equals(&results) => {
                bail!("prepared weights give other bits than unprepared ones: please report this")
            }
            Some(_) => {}
        }
        if expected.is_none() && !alone {
            expected = Some(Snapshot::of(&results));
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
            let mut seconds = contender.sample(1, data.sets, &mut next, outputs)?;
            while seconds * (calls as f64) < target / 4.0 {
                calls *= 4;
                seconds = contender.sample(calls, data.sets, &mut next, outputs)?;
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
                contender.sample(1, data.sets, &mut next, outputs)?;
            }
            let seconds = contender.sample(contender.calls, data.sets, &mut next, outputs)?;
            contender.samples.push(seconds);
        }
        if round == 2 {
            drop_hopeless(&mut contenders);
        }
    }
    let [ours, prepared] = [0, 1].map(|index| contenders.iter().filter(|c| !c.is_baseline).nth(index));
    let ours = ours.map_or(Time { median: f64::NAN, fastest: f64::NAN }, Contender::time);
    let prepared = prepared.map(Contender::time);
    let rival = |c: &Contender<'_, T>| Rival { name: c.name, seconds: c.time().median, intermediates: None };
    let baselines = contenders.iter().filter(|c| c.is_baseline).map(rival);
    Ok((ours, prepared, baselines.collect()))
}

/// No more samples of baselines that cannot be the best, so that the others get the time. By the fastest sample: one
/// slow one, of a machine that others use too, must not take a baseline out.
fn drop_hopeless<T: Baselines>(contenders: &mut [Contender<'_, T>]) {
    let baselines = contenders.iter_mut().filter(|contender| contender.is_baseline);
    let baselines: Vec<_> = baselines.filter(|contender| !contender.samples.is_empty()).collect();
    let best = baselines.iter().map(|contender| contender.time().fastest).fold(f64::INFINITY, f64::min);
    for contender in baselines {
        contender.active = contender.time().fastest <= HOPELESS * best;
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

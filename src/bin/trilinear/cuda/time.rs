//! One row of `bench` on a GPU: ours and the baselines on the same data, by turns, timed by events, with nothing in L2.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use trilinear::{DType, Element};

use super::baselines::{self, Ready};
use super::driver::Gpu;
use super::gemm::Blas;
use super::loaded::{Loaded, Skip};
use crate::baselines::Baselines;
use crate::exact::{self, Snapshot};
use crate::measure::{Job, Measured, Outcome, Rival, Settings, Time};

/// Of the device's free memory, this part is used.
const MEMORY_PART: f64 = 0.9;
/// Calls of each way at least.
const ROUNDS: usize = 5;

/// A GPU, and cuBLAS if there is one.
pub(crate) struct Timer {
    pub(crate) gpu: Gpu,
    blas: Option<Rc<Blas>>,
}

/// Ours, or a baseline.
struct Contender<T: Element> {
    baseline: Option<Ready<T>>,
    samples: Vec<f64>,
}

impl Timer {
    /// A timer without cuBLAS says why on stderr.
    pub(crate) fn open(ordinal: usize, baselines: bool, tf32: bool) -> Result<Timer> {
        let gpu = Gpu::open(ordinal)?;
        let blas = match baselines {
            true => Blas::open(tf32).map_err(|why| eprintln!("{why}")).ok().map(Rc::new),
            false => None,
        };
        Ok(Timer { gpu, blas })
    }

    /// For every storage type: the function that measures it.
    pub(crate) fn row_in(&self, dtype: DType, job: &Job, settings: Settings) -> Result<Measured> {
        match dtype {
            DType::F32 => self.row::<f32>(job, settings),
            DType::F64 => self.row::<f64>(job, settings),
            DType::F16 => self.row::<trilinear::f16>(job, settings),
            DType::Bf16 => self.row::<trilinear::bf16>(job, settings),
            _ => bail!("there are no benchmarks of {dtype}"),
        }
    }

    fn row<T: Baselines>(&self, job: &Job, settings: Settings) -> Result<Measured> {
        let free = self.gpu.free_memory()? as f64 * MEMORY_PART;
        let mut loaded = match Loaded::<T>::new(job, free)? {
            Ok(loaded) => loaded,
            Err(Skip(reason)) => return Ok(Measured::Skipped(reason)),
        };
        // The first call of each shows that it is right.
        loaded.call_and_check()?;
        let mut contenders = vec![Contender { baseline: None, samples: Vec::new() }];
        contenders.extend(
            self.baselines(&mut loaded)?
                .into_iter()
                .map(|ready| Contender { baseline: Some(ready), samples: Vec::new() }),
        );
        let start = Instant::now();
        while contenders[0].samples.len() < ROUNDS || start.elapsed().as_secs_f64() < settings.seconds {
            for Contender { baseline, samples } in &mut contenders {
                samples.push(match baseline {
                    None => self.gpu.time(|| loaded.call())?,
                    Some(ready) => self.gpu.time(|| ready.call(&loaded.tensors))?,
                });
            }
        }
        let mut times = contenders.iter().map(|contender| Time::of(&contender.samples));
        let Some(ours) = times.next() else { bail!("nothing was timed") };
        let baselines = contenders.iter().zip(std::iter::once(ours).chain(times));
        let rival = |(way, time): (&Contender<T>, Time)| {
            let Ready { name, intermediates, .. } = way.baseline.as_ref()?;
            let bytes = intermediates.iter().map(|tensor| (tensor.shape()[0] * size_of::<T>()) as u128).sum();
            Some(Rival { name, seconds: time.median, intermediates: Some(bytes) })
        };
        let baselines = baselines.filter_map(rival).collect();
        // Of an architecture that is not in the table nothing is known but the bandwidth.
        let peak = self.gpu.peak(T::DTYPE, job.plain.tf32()).unwrap_or(f64::INFINITY);
        Ok(Measured::Row(Box::new(Outcome {
            plan: loaded.plan,
            cost: loaded.cost,
            peak,
            bandwidth: self.gpu.bandwidth,
            ours,
            prepared: None,
            baselines,
        })))
    }

    /// Those that there is memory for, each checked against ours.
    fn baselines<T: Baselines>(&self, loaded: &mut Loaded<T>) -> Result<Vec<Ready<T>>> {
        let Some(blas) = &self.blas else { return Ok(Vec::new()) };
        let ours = Snapshot::of(&loaded.tensors.results(&mut loaded.outputs)?);
        let mut all = Vec::new();
        for baseline in baselines::of::<T>(loaded.tensors.work, loaded.tensors.shape) {
            let (name, bytes) = (baseline.name, baseline.bytes());
            if bytes as f64 > self.gpu.free_memory()? as f64 * MEMORY_PART {
                continue;
            }
            let ready = baseline.prepare(self.gpu.device, blas)?;
            loaded.clear()?;
            ready.call(&loaded.tensors)?;
            exact::compare((name, T::DTYPE), &loaded.tensors.results(&mut loaded.outputs)?, &ours)?;
            all.push(ready);
        }
        Ok(all)
    }
}

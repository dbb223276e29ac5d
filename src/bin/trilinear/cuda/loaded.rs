//! A call whose operands are in a device's memory, and what is known of it before it runs.

use anyhow::Result;
use trilinear::{Context, Element, Plan, Saved};

use super::tensors::Tensors;
use crate::baselines::Baselines;
use crate::exact;
use crate::host;
use crate::measure::Job;
use crate::operands::{Data, Outputs};
use crate::work::Cost;

/// Ours, ready to be called.
pub(crate) struct Loaded<T: Element> {
    pub(crate) tensors: Tensors<T>,
    /// The results on the host, as far as they have been copied.
    pub(crate) outputs: Outputs<T>,
    pub(crate) plan: Plan,
    pub(crate) cost: Cost,
    data: Data<T>,
    saved: Saved<T>,
    context: Context,
}

/// Why there is nothing to measure.
pub(crate) struct Skip(pub(crate) String);

impl<T: Baselines> Loaded<T> {
    /// Copies operands to the device, of which `free` bytes can be used.
    pub(crate) fn new(job: &Job, free: f64) -> Result<Result<Self, Skip>> {
        let skip = |reason: &str| Ok(Err(Skip(reason.into())));
        let (case, work, context) = (job.case, job.work, job.context);
        if let Some(obstacle) = work.obstacle(case.shape) {
            return skip(obstacle);
        }
        let (plan, lengths) = match (case.plan::<T>(job.plain), case.elements(work)) {
            (Ok(plan), Some(lengths)) => (plan, lengths),
            (Err(trilinear::Error::TooLarge { .. }), _) | (_, None) => {
                return skip("its tensors do not fit in the address space");
            }
            (Err(error @ trilinear::Error::Unsupported { .. }), _) => return skip(&error.to_string()),
            (Err(error), _) => return Err(error.into()),
        };
        let accumulator = T::Accumulator::DTYPE;
        // Of CP's backward pass, the hidden layer's rows are in scratch too.
        let scratch = plan.scratch as f64 * if work.backward() { 4.0 } else { 1.0 };
        let needed = lengths.bytes(T::DTYPE, accumulator) as f64 + scratch;
        let available = host::available_memory().map_or(f64::INFINITY, |bytes| bytes as f64 / 2.0);
        for (place, available) in [("the device's", free), ("the host's", available)] {
            if needed > available {
                let (needed, available) = (host::bytes(needed), host::bytes(available));
                return skip(&format!("it needs {needed} of {place} memory, and only {available} can be used"));
            }
        }
        let no_memory = "its tensors could not be allocated";
        let Some(data) = Data::<T>::new(&case, work, 1) else { return skip(no_memory) };
        let Some(outputs) = Outputs::new(1, data.lengths) else { return skip(no_memory) };
        let plan = match data.plan(context) {
            Ok(plan) => plan,
            Err(error @ (trilinear::Error::Algorithm { .. } | trilinear::Error::Unsupported { .. })) => {
                return skip(&error.to_string());
            }
            Err(error) => return Err(error.into()),
        };
        let tensors = match Tensors::new(context.device(), &data) {
            Ok(tensors) => tensors,
            Err(error @ trilinear::Error::DeviceMemory { .. }) => return skip(&error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let cost = work.cost(case.shape, [T::DTYPE.bytes(), accumulator.bytes()]);
        let saved = tensors.save(context)?;
        Ok(Ok(Loaded { tensors, outputs, plan, cost, data, saved, context }))
    }

    /// Enqueues it.
    pub(crate) fn call(&mut self) -> Result<()> {
        Ok(self.tensors.call(self.context, &mut self.saved)?)
    }

    /// NaN in all results.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let mut results = self.outputs.set(0);
        exact::clear(&mut results);
        Ok(self.tensors.set_results(&results)?)
    }

    /// Into results full of NaN. Errors: a result that is not within its bound.
    pub(crate) fn call_and_check(&mut self) -> Result<()> {
        self.clear()?;
        self.call()?;
        let results = self.tensors.results(&mut self.outputs)?;
        exact::check(&self.data, self.context, &results)
    }
}

//! `bench` on the simulated device: what the launches of a call did, in counts. There are no times: its speed says nothing.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use trilinear::{DType, Device, Element};

use super::loaded::{Loaded, Skip};
use super::profiler::Profiler;
use crate::baselines::Baselines;
use crate::cases::Case;
use crate::measure::Job;
use crate::report::{self, arithmetic};
use crate::work::{Cost, Launch, Work};

/// Calls of more FLOPs are skipped: the device computes some 100 MFLOP in a second.
const MOST_FLOPS: u128 = 1_200_000_000;
/// Of global memory, what is moved at once.
const SECTOR: u64 = 32;

/// The launches of one call.
pub(crate) struct Counts {
    case: Case,
    work: Work,
    dtype: DType,
    tf32: bool,
    device: Device,
    cost: Cost,
    launches: Vec<Counted>,
}

/// One launch.
struct Counted {
    /// As the simulated device tells it.
    counts: Value,
    /// What it had to move, if the model knows the launch.
    least: Option<Launch>,
}

/// For every storage type: the function that counts.
pub(crate) fn row_in(profiler: &Profiler, dtype: DType, job: &Job) -> Result<Result<Counts, Skip>> {
    match dtype {
        DType::F32 => row::<f32>(profiler, job),
        DType::F64 => row::<f64>(profiler, job),
        DType::F16 => row::<trilinear::f16>(profiler, job),
        DType::Bf16 => row::<trilinear::bf16>(profiler, job),
        _ => bail!("there are no benchmarks of {dtype}"),
    }
}

fn row<T: Baselines>(profiler: &Profiler, job: &Job) -> Result<Result<Counts, Skip>> {
    let sizes = [T::DTYPE.bytes(), T::Accumulator::DTYPE.bytes()];
    let flops = job.work.cost(job.case.shape, sizes).flops;
    if flops > MOST_FLOPS {
        let (mega, most) = (flops / 1_000_000, MOST_FLOPS / 1_000_000);
        return Ok(Err(Skip(format!("of {mega} MFLOP, and the simulated device is given at most {most}"))));
    }
    let mut loaded = match Loaded::<T>::new(job, f64::INFINITY)? {
        Ok(loaded) => loaded,
        Err(skip) => return Ok(Err(skip)),
    };
    let counts = profiler.launches(|| loaded.call_and_check())?;
    let model = job.work.launches(job.case.shape, sizes);
    let name = |counts: &Value| counts["kernel"].as_str().unwrap_or_default().to_owned();
    let known = model.len() == counts.len()
        && model
            .iter()
            .zip(&counts)
            .all(|(launch, counts)| name(counts).trim_start_matches('d').starts_with(launch.operation));
    let least = |index: usize| if known { model.get(index).copied() } else { None };
    let launches = counts.into_iter().enumerate().map(|(index, counts)| Counted { counts, least: least(index) });
    Ok(Ok(Counts {
        case: job.case,
        work: job.work,
        dtype: T::DTYPE,
        tf32: job.plain.tf32(),
        device: job.plain.device(),
        cost: loaded.cost,
        launches: launches.collect(),
    }))
}

impl Counted {
    fn number(&self, path: &str) -> u64 {
        self.counts.pointer(path).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Bytes of all sectors touched, request by request: what is asked of L2.
    fn moved(&self) -> u64 {
        SECTOR * (self.number("/global_loads/sectors") + self.number("/global_stores/sectors"))
    }

    /// Bytes that were touched at all.
    fn distinct(&self) -> u64 {
        self.number("/global_loads/unique_bytes") + self.number("/global_stores/unique_bytes")
    }

    fn sectors_per_request(&self, which: &str) -> f64 {
        self.number(&format!("/{which}/sectors")) as f64 / self.number(&format!("/{which}/requests")).max(1) as f64
    }

    fn conflicts(&self) -> u64 {
        let beyond =
            |which: &str| self.number(&format!("/{which}/transactions")) - self.number(&format!("/{which}/minimum"));
        beyond("shared_loads") + beyond("shared_stores")
    }

    /// The classes of which most instructions were executed, with their shares.
    fn mix(&self, of: &str, most: usize) -> String {
        let classes = self.counts[of].as_object();
        let mut shares: Vec<(&str, u64)> = classes
            .map(|classes| classes.iter().map(|(class, count)| (&**class, count["warps"].as_u64().unwrap_or(0))))
            .into_iter()
            .flatten()
            .collect();
        shares.sort_by_key(|&(_, warps)| std::cmp::Reverse(warps));
        let all = shares.iter().map(|&(_, warps)| warps).sum::<u64>().max(1) as f64;
        let text = |&(class, warps): &(&str, u64)| format!("{class} {:.1}%", 100.0 * warps as f64 / all);
        shares.iter().take(most).map(text).collect::<Vec<_>>().join(", ")
    }

    fn json(&self) -> Value {
        let mut json = self.counts.as_object().cloned().unwrap_or_default();
        let least = self.least.map(|least| least.read + least.written);
        json.extend([
            ("moved_bytes".to_owned(), json!(self.moved())),
            ("distinct_bytes".into(), json!(self.distinct())),
            ("minimum_read_bytes".into(), json!(self.least.map(|least| least.read as f64))),
            ("minimum_written_bytes".into(), json!(self.least.map(|least| least.written as f64))),
            ("ratio".into(), json!(least.map(|least| self.moved() as f64 / least as f64))),
        ]);
        Value::Object(json)
    }
}

impl Counts {
    fn moved(&self) -> u64 {
        self.launches.iter().map(Counted::moved).sum()
    }

    pub(crate) fn json(&self) -> Value {
        let mut json: Map<String, Value> = report::identity(&self.case, self.work, self.dtype, self.device, self.tf32);
        let launches: Vec<Value> = self.launches.iter().map(Counted::json).collect();
        json.extend([
            ("simulated".to_owned(), json!(true)),
            ("flops".into(), json!(self.cost.flops as f64)),
            ("recomputed_flops".into(), json!(self.cost.recomputed as f64)),
            ("minimum_bytes".into(), json!(self.cost.bytes as f64)),
            ("moved_bytes".into(), json!(self.moved())),
            ("ratio".into(), json!(self.moved() as f64 / self.cost.bytes as f64)),
            ("launches".into(), json!(launches)),
        ]);
        Value::Object(json)
    }

    /// A line for the call, and one for each launch, under [`HEADINGS`].
    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        let ratio = |moved: u64, least: Option<u128>| {
            least.map_or("–".into(), |least| format!("{:.2}", moved as f64 / least.max(1) as f64))
        };
        let mut call = vec![
            self.case.label(),
            self.work.label(),
            format!("{} {}", self.case.form, arithmetic(self.dtype, self.tf32)),
            format!("{} launch{}", self.launches.len(), if self.launches.len() == 1 { "" } else { "es" }),
        ];
        call.resize(8, String::new());
        call.extend([
            self.moved().to_string(),
            ratio(self.moved(), Some(self.cost.bytes)),
            String::new(),
            String::new(),
        ]);
        let launches = self.launches.iter().map(|launch| {
            let least = launch.least.map(|least| least.read + least.written);
            let (loads, stores) =
                (launch.sectors_per_request("global_loads"), launch.sectors_per_request("global_stores"));
            vec![
                String::new(),
                String::new(),
                String::new(),
                format!("{} × {}", launch.number("/blocks"), launch.counts["kernel"].as_str().unwrap_or("?")),
                format!("{}: {}", launch.number("/instructions/warps"), launch.mix("classes", 3)),
                launch.mix("inner", 2),
                format!("{:.1}%", 100.0 * launch.counts["tensor_share"].as_f64().unwrap_or(0.0)),
                format!("{loads:.1}, {stores:.1}"),
                launch.moved().to_string(),
                ratio(launch.moved(), least),
                format!("{}, {}", launch.number("/inner_conflicts"), launch.conflicts()),
                launch.number("/barriers").to_string(),
            ]
        });
        std::iter::once(call).chain(launches).collect()
    }
}

/// Of the columns.
pub(crate) const HEADINGS: [&str; 12] = [
    "shape N,I,J,K[,R]",
    "pass",
    "form",
    "blocks × kernel",
    "instructions of warps, most of all",
    "inner loop",
    "tensor cores",
    "sectors a load, store",
    "global bytes",
    "÷ least",
    "conflicts, inner and all",
    "barriers",
];

/// What the columns mean.
pub(crate) const LEGEND: &str = "\
Counts of the simulated device, whose instructions are PTX's; it has no times. Global bytes are those of all 32-byte sectors that
requests touch, before any cache; the least is every operand read once and every result written once: of the call in its own line,
of a launch on its own in the launch's. Conflicts are passes over the banks of shared memory beyond the least.";

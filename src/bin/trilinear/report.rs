//! Results as a table for people and as JSON for programs.

use serde_json::{Map, Value, json};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};
use trilinear::{DType, Device};

use crate::cases::Case;
use crate::forms::Structure;
use crate::host;
use crate::measure::{Job, Outcome, Rival, Time};
use crate::work::{Pass, Shape, Work};

/// A line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) work: Work,
    pub(crate) goal: Option<f64>,
    pub(crate) dtype: DType,
    /// Of the processor; a CUDA device has none.
    pub(crate) threads: Option<usize>,
    pub(crate) device: Device,
    /// Whether products of f32 may be those of tf32.
    pub(crate) tf32: bool,
    pub(crate) prepared: bool,
    pub(crate) kernel: &'static str,
    /// Of the forward pass, if there is one in the call.
    pub(crate) algorithm: Option<String>,
    /// Of a call: the median, and the fastest sample.
    pub(crate) seconds: f64,
    pub(crate) fastest: f64,
    pub(crate) flops: f64,
    /// Those of them that are for what a forward pass has computed before.
    pub(crate) recomputed: f64,
    pub(crate) bytes: f64,
    /// FLOP/s.
    pub(crate) peak: f64,
    /// Bytes per second.
    pub(crate) bandwidth: f64,
    pub(crate) baselines: Vec<Rival>,
}

impl Row {
    /// The lines of an outcome: one, or two with prepared weights.
    pub(crate) fn of(job: &Job, dtype: DType, outcome: &Outcome) -> Vec<Row> {
        let row = |Time { median, fastest }, prepared| Row {
            case: job.case,
            work: job.work,
            goal: job.case.goal_of(job.work),
            dtype,
            threads: (outcome.plan.device == Device::Cpu).then_some(job.threads),
            device: outcome.plan.device,
            tf32: job.plain.tf32(),
            prepared,
            kernel: outcome.plan.kernel,
            algorithm: (job.work.forward() && job.case.structure != Some(Structure::Mahalanobis))
                .then(|| outcome.plan.algorithm.to_string()),
            seconds: median,
            fastest,
            flops: outcome.cost.flops as f64,
            recomputed: outcome.cost.recomputed as f64,
            bytes: outcome.cost.bytes as f64,
            peak: outcome.peak,
            bandwidth: outcome.bandwidth,
            baselines: outcome.baselines.clone(),
        };
        std::iter::once(row(outcome.ours, false)).chain(outcome.prepared.map(|time| row(time, true))).collect()
    }

    /// The time below which its FLOPs cannot be done here, nor its bytes moved.
    pub(crate) fn floor(&self) -> f64 {
        (self.flops / self.peak).max(self.bytes / self.bandwidth)
    }

    /// The fraction without the FLOPs of what is computed again.
    pub(crate) fn nominal_fraction(&self) -> f64 {
        ((self.flops - self.recomputed) / self.peak).max(self.bytes / self.bandwidth) / self.seconds
    }

    /// What makes the floor.
    pub(crate) fn bound(&self) -> &'static str {
        if self.flops / self.peak >= self.bytes / self.bandwidth { "compute" } else { "bandwidth" }
    }

    /// Of what the machine could do.
    pub(crate) fn fraction(&self) -> f64 {
        self.floor() / self.seconds
    }

    pub(crate) fn gflops(&self) -> f64 {
        self.flops / self.seconds / 1e9
    }

    pub(crate) fn best_baseline(&self) -> Option<Rival> {
        self.baselines.iter().copied().min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// The form, its core, and whether the weights were prepared.
    pub(crate) fn form(&self) -> String {
        let ranks = self.case.ranks().map_or(String::new(), |ranks| format!(" {ranks}"));
        format!("{}{ranks}{}", self.case.form, if self.prepared { " prepared" } else { "" })
    }

    pub(crate) fn json(&self) -> Value {
        let best = self.best_baseline();
        let rival = |Rival { name, seconds, intermediates }: &Rival| {
            let intermediates = intermediates.map(|bytes| bytes as f64);
            json!({ "name": name, "seconds": seconds, "intermediate_bytes": intermediates })
        };
        let baselines: Vec<Value> = self.baselines.iter().map(rival).collect();
        let mut row = identity(&self.case, self.work, self.dtype, self.device, self.tf32);
        let Value::Object(measured) = json!({
            "threads": self.threads,
            "seconds": self.seconds,
            "fastest_seconds": self.fastest,
            "flops": self.flops,
            "recomputed_flops": self.recomputed,
            "bytes": self.bytes,
            "gflops": self.gflops(),
            "peak_gflops": self.peak / 1e9,
            "read_gbps": self.bandwidth / 1e9,
            "fraction": self.fraction(),
            "nominal_fraction": self.nominal_fraction(),
            "bound": self.bound(),
            "goal": self.goal,
            "kernel": self.kernel,
            "algorithm": self.algorithm,
            "prepared": self.prepared,
            "best_baseline": best.map(|best| best.name),
            "best_baseline_seconds": best.map(|best| best.seconds),
            "baselines": baselines,
        }) else {
            return Value::Null;
        };
        row.extend(measured);
        Value::Object(row)
    }

    /// The cells under [`headings`].
    pub(crate) fn cells(&self, goals: bool) -> Vec<String> {
        let limit = if self.bound() == "compute" { "peak" } else { "bandwidth" };
        let mut cells = vec![
            self.case.label(),
            self.work.label(),
            self.form(),
            arithmetic(self.dtype, self.tf32),
            self.threads.map_or_else(|| self.device.to_string(), |threads| threads.to_string()),
            self.algorithm.clone().unwrap_or_else(|| "–".into()),
            duration(self.seconds),
            format!("{:.1}", self.gflops()),
            format!("{:.1}% of {limit}", 100.0 * self.fraction()),
        ];
        if goals {
            cells.push(self.goal.map_or(String::new(), |goal| {
                let verdict = if self.fraction() >= goal { "reached" } else { "missed" };
                format!("{:.0}% {verdict}", 100.0 * goal)
            }));
        }
        cells.push(match self.best_baseline() {
            Some(Rival { name, seconds, intermediates }) => {
                let kept = intermediates.map(|bytes| format!(", which keeps {}", host::bytes(bytes as f64)));
                format!("{:.2}× {name}{}", seconds / self.seconds, kept.unwrap_or_default())
            }
            None => "–".into(),
        });
        cells
    }
}

/// The fields of a JSON object that say what was measured.
pub(crate) fn identity(case: &Case, work: Work, dtype: DType, device: Device, tf32: bool) -> Map<String, Value> {
    let Shape { n, rows, sharing, i, j, k, r } = case.shape;
    let gradient = (work.pass != Pass::Forward).then(|| work.which.name());
    let fields = [
        ("preset", json!(case.preset)),
        ("pass", json!(work.pass.name())),
        ("gradient", json!(gradient)),
        ("saved", json!(work.saved)),
        ("tied", json!(work.tied)),
        ("form", json!(case.form.to_string())),
        ("dtype", json!(dtype.to_string())),
        ("tf32", json!(tf32 && dtype == DType::F32)),
        ("device", json!(device.to_string())),
        ("n", json!(n)),
        ("rows", json!(rows)),
        ("sharing", json!(sharing)),
        ("i", json!(i)),
        ("j", json!(j)),
        ("k", json!(k)),
        ("r", json!(r)),
        ("ranks", json!(case.ranks())),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The type, and whether its products are those of tf32.
pub(crate) fn arithmetic(dtype: DType, tf32: bool) -> String {
    if tf32 && dtype == DType::F32 { "f32 (tf32)".into() } else { dtype.to_string() }
}

/// Lines under headings, with figures in some columns.
pub(crate) fn lines(
    headings: &[&'static str],
    lines: impl IntoIterator<Item = Vec<String>>,
    figures: std::ops::Range<usize>,
) -> String {
    let mut builder = Builder::default();
    builder.push_record(headings.iter().copied());
    lines.into_iter().for_each(|line| builder.push_record(line));
    let mut table = builder.build();
    table.with(Style::sharp()).modify(Columns::new(figures), Alignment::right());
    table.to_string()
}

/// Column headings. The last column is how many times as fast ours is.
pub(crate) fn headings(goals: bool) -> Vec<&'static str> {
    let mut headings =
        vec!["shape N,I,J,K[,R]", "pass", "form", "dtype", "threads", "algorithm", "time", "GFLOP/s", "fraction"];
    if goals {
        headings.push("goal");
    }
    headings.push("speed against the best baseline");
    headings
}

/// All rows as a table.
pub(crate) fn table(rows: &[Row]) -> String {
    let goals = rows.iter().any(|row| row.goal.is_some());
    lines(&headings(goals), rows.iter().map(|row| row.cells(goals)), 6..9)
}

/// Seconds for people.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

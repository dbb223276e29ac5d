//! Results as a table for people and as JSON for programs.

use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};
use trilinear::{DType, Device};

use crate::cases::Case;
use crate::measure::{Job, Outcome, Time};
use crate::work::{Pass, Shape, Work};

/// A line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) work: Work,
    pub(crate) goal: Option<f64>,
    pub(crate) dtype: DType,
    pub(crate) threads: usize,
    pub(crate) device: Device,
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
    pub(crate) baselines: Vec<(&'static str, f64)>,
}

impl Row {
    /// The lines of an outcome: one, or two with prepared weights.
    pub(crate) fn of(job: &Job, dtype: DType, outcome: &Outcome) -> Vec<Row> {
        let row = |Time { median, fastest }, prepared| Row {
            case: job.case,
            work: job.work,
            goal: job.case.goal_of(job.work),
            dtype,
            threads: job.threads,
            device: outcome.plan.device,
            prepared,
            kernel: outcome.plan.kernel,
            algorithm: job.work.forward().then(|| outcome.plan.algorithm.to_string()),
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

    pub(crate) fn best_baseline(&self) -> Option<(&'static str, f64)> {
        self.baselines.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The form, and whether the weights were prepared.
    pub(crate) fn form(&self) -> String {
        format!("{}{}", self.case.form, if self.prepared { " prepared" } else { "" })
    }

    pub(crate) fn json(&self) -> Value {
        let Shape { n, rows, sharing, i, j, k, r } = self.case.shape;
        let best = self.best_baseline();
        let baselines: Vec<Value> =
            self.baselines.iter().map(|(name, seconds)| json!({ "name": name, "seconds": seconds })).collect();
        json!({
            "preset": self.case.preset,
            "pass": self.work.pass.name(),
            "gradient": (self.work.pass != Pass::Forward).then(|| self.work.which.name()),
            "saved": self.work.saved,
            "tied": self.work.tied,
            "form": self.case.form.to_string(),
            "dtype": self.dtype.to_string(),
            "threads": self.threads,
            "device": self.device.to_string(),
            "n": n,
            "rows": rows,
            "sharing": sharing,
            "i": i,
            "j": j,
            "k": k,
            "r": r,
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
            "best_baseline": best.map(|best| best.0),
            "best_baseline_seconds": best.map(|best| best.1),
            "baselines": baselines,
        })
    }

    /// The cells under [`headings`].
    pub(crate) fn cells(&self, goals: bool) -> Vec<String> {
        let limit = if self.bound() == "compute" { "peak" } else { "bandwidth" };
        let mut cells = vec![
            self.case.label(),
            self.work.label(),
            self.form(),
            self.dtype.to_string(),
            self.threads.to_string(),
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
            Some((name, seconds)) => format!("{:.2}× {name}", seconds / self.seconds),
            None => "–".into(),
        });
        cells
    }
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
    let mut builder = Builder::default();
    builder.push_record(headings(goals));
    for row in rows {
        builder.push_record(row.cells(goals));
    }
    let mut table = builder.build();
    table.with(Style::sharp()).modify(Columns::new(6..9), Alignment::right());
    table.to_string()
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

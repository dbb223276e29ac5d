//! Fits as a table for people and as JSON for programs.

use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};
use trilinear::decompose::{Cp, Real, Report, Stopped};

use crate::report::duration;

/// A line of the report.
pub(crate) struct Fit {
    pub(crate) rank: usize,
    pub(crate) report: Report,
    /// It is the one that was asked for.
    pub(crate) chosen: bool,
}

pub(crate) const HEADINGS: [&str; 8] =
    ["rank", "parameters", "of W's", "error", "error of y", "iterations", "time", "ended"];

impl Fit {
    pub(crate) fn of<T: Real>(cp: &Cp<T>, chosen: bool) -> Fit {
        Fit { rank: cp.rank(), report: cp.report.clone(), chosen }
    }

    /// The cells under [`HEADINGS`].
    pub(crate) fn cells(&self) -> Vec<String> {
        let Report { error, errors, seconds, parameters: [before, after], output_error, .. } = &self.report;
        vec![
            format!("{}{}", self.rank, if self.chosen { " ←" } else { "" }),
            after.to_string(),
            if *before == 0 { "–".into() } else { format!("{:.2}%", 100.0 * *after as f64 / *before as f64) },
            format!("{error:.6}"),
            output_error.map_or("–".into(), |error| format!("{error:.6}")),
            errors.len().to_string(),
            duration(*seconds),
            self.ended().into(),
        ]
    }

    fn ended(&self) -> &'static str {
        match self.report.stopped {
            Stopped::Converged => "converged",
            Stopped::Iterations => "iterations",
            Stopped::Cancelled => "interrupted",
        }
    }

    pub(crate) fn json(&self, source: &str) -> Value {
        let Report { error, errors, start, seconds, mttkrp_seconds, parameters, output_error, .. } = &self.report;
        json!({
            "source": source,
            "rank": self.rank,
            "chosen": self.chosen,
            "error": error,
            "output_error": output_error,
            "errors": errors,
            "start": start,
            "ended": self.ended(),
            "seconds": seconds,
            "mttkrp_seconds": mttkrp_seconds,
            "dense_parameters": parameters[0],
            "parameters": parameters[1],
        })
    }
}

/// All fits as a table.
pub(crate) fn table(fits: &[Fit]) -> String {
    let mut builder = Builder::default();
    builder.push_record(HEADINGS);
    for fit in fits {
        builder.push_record(fit.cells());
    }
    let mut table = builder.build();
    table.with(Style::sharp()).modify(Columns::new(1..7), Alignment::right());
    table.to_string()
}

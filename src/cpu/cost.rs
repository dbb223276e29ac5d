//! The cost model: cycles that each algorithm takes for a tile of the batch, from what the kernels issue.

use super::problem::Problem;
use super::simd::Kernels;
use super::small;
use crate::{Algorithm, Error, Result};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) algorithm: Algorithm,
    /// z and x exchanged.
    pub(crate) swap: bool,
    /// By [`super::small`] rather than [`super::dense`].
    pub(crate) small: bool,
}

/// The way for a dense W: the one forced, or the cheapest.
#[inline]
pub(crate) fn choose<T: Kernels>(p: &Problem<'_, T>, forced: Option<Algorithm>) -> Result<Choice> {
    let stream = || {
        let swap = !small::streams(p);
        let possible = p.n <= small::ROWS && (!swap || small::streams(&p.swap()));
        possible.then_some(Choice { algorithm: Algorithm::Stream, swap, small: true })
    };
    match forced {
        None => Ok(stream().unwrap_or_else(|| cheapest(p))),
        Some(Algorithm::Stream) => stream().ok_or(Error::Algorithm {
            algorithm: Algorithm::Stream,
            reason: "it takes at most 4 rows, and W contiguous along z or x",
        }),
        Some(algorithm @ (Algorithm::FusedDot | Algorithm::KhatriRao)) => Ok(choose_swap(p, algorithm)),
        Some(algorithm) => Err(Error::Algorithm { algorithm, reason: "W is dense" }),
    }
}

fn cheapest<T: Kernels>(p: &Problem<'_, T>) -> Choice {
    let fused = choose_swap(p, Algorithm::FusedDot);
    let khatri_rao = choose_swap(p, Algorithm::KhatriRao);
    let cost = |choice: Choice| {
        let p = if choice.swap { p.swap() } else { *p };
        cycles(&p, choice.algorithm)
    };
    if cost(fused) <= cost(khatri_rao) { fused } else { khatri_rao }
}

/// The cheaper roles of z and x for an algorithm.
fn choose_swap<T: Kernels>(p: &Problem<'_, T>, algorithm: Algorithm) -> Choice {
    let swap = cycles(&p.swap(), algorithm) < cycles(p, algorithm);
    Choice { algorithm, swap, small: false }
}

/// Cycles for one tile of the batch.
fn cycles<T: Kernels>(p: &Problem<'_, T>, algorithm: Algorithm) -> f64 {
    let (k, i, j) = (p.k as f64, p.i as f64, p.j as f64);
    let tiles = (p.n as f64 / p.table.mr as f64).max(1.0);
    let vectors = p.table.mr as f64 / p.table.lanes as f64;
    let elements = k * i * j;
    let unit = p.layout[2] == 1 || p.j <= 1;
    let contiguous = unit && (algorithm != Algorithm::KhatriRao || p.layout[1] == p.j as isize);
    // Staging W takes about half a cycle an element by vectors, three by strides.
    let staging = match (contiguous && T::IN_PLACE, unit) {
        (true, _) => 0.0,
        (_, true) => 0.5 * elements / tiles,
        _ => 3.0 * elements / tiles,
    };
    staging
        + match algorithm {
            Algorithm::KhatriRao => {
                let kc = p.kc() as f64;
                let passes = (i * j / kc).ceil();
                passes * rows(p, p.k, (i * j / passes).min(kc), vectors) + 2.0 * vectors * i * j
            }
            _ => {
                let passes = (j / p.kc() as f64).ceil();
                k * passes * rows(p, p.i, j / passes, vectors)
            }
        }
}

/// Cycles of the microkernel for so many rows: two FMAs a cycle (8 to cover their latency), and what it takes to start
/// and finish a tile.
fn rows<T: Kernels>(p: &Problem<'_, T>, rows: usize, depth: f64, vectors: f64) -> f64 {
    const START: f64 = 10.0;
    let tiles = rows.div_ceil(p.table.nr) as f64;
    let size = rows as f64 / tiles.max(1.0);
    let step = (vectors * size / 2.0).max(4.0);
    tiles * (depth * step + START + vectors * size)
}

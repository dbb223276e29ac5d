//! The cost model: cycles that each algorithm takes for a tile of the batch, from what the kernels issue.

use super::problem::Problem;
use super::simd::Kernels;
use super::small;
use super::trilinear::{Trilinear, rows};
use crate::{Algorithm, Error, Result};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) algorithm: Algorithm,
    /// z and x exchanged, if the algorithm has roles for them.
    pub(crate) swap: bool,
    /// By [`super::small`] rather than for batches.
    pub(crate) small: bool,
}

/// The way for a dense W: the one forced, or the cheapest.
#[inline]
pub(crate) fn choose<'a, T: Kernels>(
    p: &Problem<'_, T>,
    trilinear: impl FnOnce() -> Trilinear<'a, T>,
    forced: Option<Algorithm>,
) -> Result<Choice> {
    let stream = || {
        let swap = !small::streams(p);
        let possible = p.n <= small::ROWS && (!swap || small::streams(&p.swap()));
        possible.then_some(Choice { algorithm: Algorithm::Stream, swap, small: true })
    };
    match forced {
        None => Ok(stream().unwrap_or_else(|| cheapest(p, &trilinear()))),
        Some(Algorithm::Stream) => stream().ok_or(Error::Algorithm {
            algorithm: Algorithm::Stream,
            reason: "it takes at most 4 rows, and W contiguous along z or x",
        }),
        Some(Algorithm::FusedDot) => Ok(FUSED),
        Some(Algorithm::KhatriRao) => Ok(khatri_rao(p)),
        Some(algorithm) => Err(Error::Algorithm { algorithm, reason: "W is dense" }),
    }
}

const FUSED: Choice = Choice { algorithm: Algorithm::FusedDot, swap: false, small: false };

fn cheapest<T: Kernels>(p: &Problem<'_, T>, trilinear: &Trilinear<'_, T>) -> Choice {
    let other = khatri_rao(p);
    let cost = if other.swap { cycles(&p.swap()) } else { cycles(p) };
    let (_, fused) = trilinear.roles([true, false, false]);
    if fused <= cost { FUSED } else { other }
}

/// The Khatri-Rao product with the cheaper roles of z and x.
fn khatri_rao<T: Kernels>(p: &Problem<'_, T>) -> Choice {
    Choice { algorithm: Algorithm::KhatriRao, swap: cycles(&p.swap()) < cycles(p), small: false }
}

/// Cycles of the Khatri-Rao product for one tile of the batch.
fn cycles<T: Kernels>(p: &Problem<'_, T>) -> f64 {
    let (k, i, j) = (p.k as f64, p.i as f64, p.j as f64);
    let tiles = (p.n as f64 / p.table.mr as f64).max(1.0);
    let vectors = p.table.mr as f64 / p.table.lanes as f64;
    let elements = k * i * j;
    let unit = p.layout[2] == 1 || p.j <= 1;
    let contiguous = unit && p.layout[1] == p.j as isize;
    // Staging W takes about half a cycle an element by vectors, three by strides.
    let staging = match (contiguous && T::IN_PLACE, unit) {
        (true, _) => 0.0,
        (_, true) => 0.5 * elements / tiles,
        _ => 3.0 * elements / tiles,
    };
    let kc = p.kc() as f64;
    let passes = (i * j / kc).ceil();
    staging + passes * rows(p.table, p.k, (i * j / passes).min(kc), vectors, 1.0) + 2.0 * vectors * i * j
}

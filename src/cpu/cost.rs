//! Which algorithm computes a dense forward pass; what blocked ones cost is told by [`super::trilinear`].

use super::problem::Problem;
use super::simd::Kernels;
use super::small;
use super::trilinear::Trilinear;
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
        None => Ok(stream().unwrap_or_else(|| cheapest(&trilinear()))),
        Some(Algorithm::Stream) => stream().ok_or(Error::Algorithm {
            algorithm: Algorithm::Stream,
            reason: "it takes at most 4 rows, and W contiguous along z or x",
        }),
        Some(algorithm @ (Algorithm::FusedDot | Algorithm::KhatriRao)) => Ok(Choice { algorithm, ..FUSED }),
        Some(algorithm) => Err(Error::Algorithm { algorithm, reason: "W is dense" }),
    }
}

const FUSED: Choice = Choice { algorithm: Algorithm::FusedDot, swap: false, small: false };

fn cheapest<T: Kernels>(t: &Trilinear<'_, T>) -> Choice {
    let (roles, _) = t.roles([true, false, false]);
    if roles.khatri_rao { Choice { algorithm: Algorithm::KhatriRao, ..FUSED } } else { FUSED }
}

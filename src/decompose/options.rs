//! What a fit is asked for, and what it tells while it runs.

use std::fmt;
use std::ops::ControlFlow;

use super::{Real, target};
use crate::error::check;
use crate::{Context, Error, Result, View};

/// What a fit is asked for. Most fields have a good default:
///
/// ```
/// use trilinear::decompose::{Init, Options};
///
/// let options = Options::<f32> { iterations: 50, init: Init::Random, ..Options::new(8) };
/// assert_eq!(options.rank, 8);
/// ```
#[derive(Clone, Copy)]
pub struct Options<'a, T> {
    /// R, the number of components; of block terms the number of blocks.
    pub rank: usize,
    /// Iterations of each start, at most. Default: 200.
    pub iterations: usize,
    /// A start ends when an iteration changes the relative error by less. Default: 10⁻⁷.
    pub tolerance: f64,
    /// Further starts, from random factors; the best of all is the result. Default: 0.
    pub restarts: usize,
    /// Of the random numbers. The same seed gives the same result, for any number of threads. Default: 0.
    pub seed: u64,
    /// The first start. Default: [`Init::Hosvd`].
    pub init: Init<'a, T>,
    /// ρ of ‖W − Ŵ‖² + ρ Σ λ², which is minimised, columns having length 1. It keeps components from growing against each other.
    /// Default: 0.
    pub ridge: f64,
    /// No factor has negative elements (Cichocki and Phan, *Fast Local Algorithms for Large Scale Nonnegative Matrix and Tensor
    /// Factorizations*, IEICE Trans. 2009). Default: no.
    pub nonnegative: bool,
    /// Samples z [N, I] and x [N, J], for whose like the error of the output shall be least, rather than that of W: see
    /// [`cp`](super::cp). Default: none.
    pub data: Option<[View<'a, T, 2>; 2]>,
    /// Threads and SIMD level. A fit is computed on the processor. Default: as the environment says.
    pub context: Option<Context>,
    /// Called after each iteration; [`ControlFlow::Break`] ends the fit with the best result so far. Default: none.
    pub progress: Option<OnProgress<'a>>,
}

/// What is called after each iteration, and says whether to go on.
pub type OnProgress<'a> = &'a dyn Fn(&Progress) -> ControlFlow<()>;

/// The factors that a fit starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a, T> {
    /// The leading left singular vectors of W's three unfoldings (De Lathauwer, De Moor and Vandewalle, *A Multilinear
    /// Singular Value Decomposition*, SIAM J. Matrix Anal. Appl. 2000), and random columns beyond an axis' length, or if that
    /// is more than 4096. With [`Options::nonnegative`] their magnitudes. Of block terms with a block for each output, the
    /// leading singular vectors of each slice W\[k\], which are exact where these have no higher rank.
    Hosvd,
    /// Numbers in [−1, 1); with [`Options::nonnegative`] in [0, 1).
    Random,
    /// A warm start, as from [`Cp::init`](super::Cp::init).
    Given {
        /// a [K, R], b [I, R], c [J, R]; of block terms as their CP form has them.
        factors: [View<'a, T, 2>; 3],
        /// λ \[R\], if it is not 1.
        lambda: Option<View<'a, T, 1>>,
    },
}

/// How far a fit is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// R of this fit.
    pub rank: usize,
    /// Which start, from 0.
    pub start: usize,
    /// How many there are.
    pub starts: usize,
    /// Iterations of this start so far, at least 1.
    pub iteration: usize,
    /// How many there will be at most.
    pub iterations: usize,
    /// Relative error after this iteration.
    pub error: f64,
    /// Since the beginning of this fit.
    pub seconds: f64,
}

impl<T: Real> Options<'_, T> {
    /// The defaults.
    pub fn new(rank: usize) -> Self {
        Options {
            rank,
            iterations: 200,
            tolerance: 1e-7,
            restarts: 0,
            seed: 0,
            init: Init::Hosvd,
            ridge: 0.0,
            nonnegative: false,
            data: None,
            context: None,
            progress: None,
        }
    }

    /// That the numbers make sense for W of these lengths; and the context.
    pub(super) fn check(&self, lengths: [usize; 3]) -> Result<Context> {
        number("tolerance", self.tolerance)?;
        number("ridge", self.ridge)?;
        if let Some([z, x]) = &self.data {
            check("z", "features", lengths[1], z.shape()[1])?;
            check("x", "features", lengths[2], x.shape()[1])?;
            check("z", "rows", x.shape()[0], z.shape()[0])?;
            if self.nonnegative {
                return Err(Error::Unsupported { what: "non-negative fits for data" });
            }
        }
        target::context(self.context)
    }

    /// That the rank does too, with `block` columns for each of its components; and the number of columns.
    pub(super) fn check_rank(&self, lengths: [usize; 3], block: usize) -> Result<usize> {
        let products = [(0, 1), (0, 2), (1, 2)].map(|(p, q)| lengths[p].saturating_mul(lengths[q]));
        let most = products.into_iter().min().unwrap_or(0).max(1);
        let columns = self.rank.saturating_mul(block);
        if columns > most {
            let expected = "at most the product of W's two shortest axes, the highest rank that it can have";
            return Err(Error::Value { what: "rank", given: columns.to_string(), expected });
        }
        if let Init::Given { factors, lambda } = &self.init {
            for ((name, factor), len) in ["a", "b", "c"].into_iter().zip(factors).zip(lengths) {
                check(name, "rows", len, factor.shape()[0])?;
                check(name, "rank", columns, factor.shape()[1])?;
            }
            lambda.map_or(Ok(()), |lambda| check("lambda", "rank", columns, lambda.shape()[0]))?;
        }
        Ok(columns)
    }
}

fn number(what: &'static str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(Error::Value { what, given: value.to_string(), expected: "a finite number of at least 0" }),
    }
}

impl<T> fmt::Debug for Options<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("rank", &self.rank)
            .field("iterations", &self.iterations)
            .field("tolerance", &self.tolerance)
            .field("restarts", &self.restarts)
            .field("seed", &self.seed)
            .field("ridge", &self.ridge)
            .field("nonnegative", &self.nonnegative)
            .field("data", &self.data)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

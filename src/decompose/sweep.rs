//! The error of each rank, and the rank for an error.

use super::fit::Problem;
use super::report::{Cp, Stopped};
use super::{Init, Options, Real};
use crate::{Error, Result, View};

/// Fits of one W by rank: each has a higher rank and a lower error than those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep<T> {
    /// By rank.
    pub fits: Vec<Cp<T>>,
}

impl<T: Real> Sweep<T> {
    /// The one of lowest rank whose relative error is at most this: the suggestion for a wanted error.
    pub fn for_error(&self, error: f64) -> Option<&Cp<T>> {
        self.fits.iter().find(|fit| fit.report.error <= error)
    }

    /// The one of least error with at most so many parameters: the suggestion for a budget.
    pub fn for_parameters(&self, most: usize) -> Option<&Cp<T>> {
        self.fits.iter().rfind(|fit| fit.report.parameters[1] <= most)
    }

    /// Fits this rank too, starting from the next lower one as well as from where the options say. True if there may be more.
    fn add(&mut self, problem: &Problem<'_, T>, rank: usize, options: &Options<'_, T>) -> Result<bool> {
        let at = self.fits.partition_point(|fit| fit.rank() < rank);
        let fit = problem.cp(&Options { rank, ..*options }, at.checked_sub(1).map(|lower| &self.fits[lower]))?;
        let goes_on = fit.report.stopped != Stopped::Cancelled;
        self.fits.insert(at, fit);
        Ok(goes_on)
    }

    /// Without fits that are no better than one of lower rank.
    fn finish(mut self) -> Self {
        let mut least = f64::INFINITY;
        self.fits.retain(|fit| {
            let better = fit.report.error < least;
            least = least.min(fit.report.error);
            better
        });
        self
    }
}

/// Fits of these ranks, each starting from the next lower one as well as from where the options say ([`Options::rank`] is not
/// used; [`super::Init::Given`] cannot be). Ranks that bring no lower error are left out. A cancelled sweep has the fits so far.
/// Errors: as [`super::cp`].
///
/// # Example
///
/// ```
/// use trilinear::decompose::{Options, sweep};
/// use trilinear::View;
///
/// let w: Vec<f32> = (0..60).map(|at| ((at * at) % 17) as f32).collect();
/// let sweep = sweep(View::new(&w, [3, 4, 5])?, &[1, 2, 4], &Options::new(0))?;
/// for fit in &sweep.fits {
///     println!("rank {}: {} parameters, error {:.3}", fit.rank(), fit.report.parameters[1], fit.report.error);
/// }
/// assert!(sweep.for_parameters(30).is_some_and(|fit| fit.rank() == 2));
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn sweep<T: Real>(w: View<'_, T, 3>, ranks: &[usize], options: &Options<'_, T>) -> Result<Sweep<T>> {
    let mut ranks = ranks.to_vec();
    ranks.sort_unstable();
    ranks.dedup();
    let (problem, mut sweep) = (Problem::new(w, options)?, Sweep { fits: Vec::new() });
    let highest = ranks.last().copied().unwrap_or(0);
    Options { rank: highest, init: Init::Random, ..*options }.check_rank(w.shape(), 1)?;
    for rank in ranks {
        if !sweep.add(&problem, rank, options)? {
            break;
        }
    }
    Ok(sweep.finish())
}

/// Fits on the way to the lowest rank with at most this relative error: ranks are doubled up to [`Options::rank`], then bisected.
/// [`Sweep::for_error`] is the result, or `None` if no rank tried is that good. Errors: as [`super::cp`].
///
/// # Example
///
/// ```
/// use trilinear::decompose::{Options, search};
/// use trilinear::View;
///
/// let w: Vec<f32> = (0..60).map(|at| ((at * at) % 17) as f32).collect();
/// let fits = search(View::new(&w, [3, 4, 5])?, 0.3, &Options::new(12))?;
/// assert!(fits.for_error(0.3).is_some_and(|fit| fit.report.error <= 0.3));
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn search<T: Real>(w: View<'_, T, 3>, error: f64, options: &Options<'_, T>) -> Result<Sweep<T>> {
    if error.is_nan() || error < 0.0 {
        return Err(Error::Value { what: "error", given: error.to_string(), expected: "a number of at least 0" });
    }
    let (problem, mut sweep) = (Problem::new(w, options)?, Sweep { fits: Vec::new() });
    Options { init: Init::Random, ..*options }.check_rank(w.shape(), 1)?;
    let good = |sweep: &Sweep<T>| sweep.for_error(error).map(Cp::rank);
    let mut rank = options.rank.min(1);
    loop {
        if !sweep.add(&problem, rank, options)? {
            return Ok(sweep.finish());
        }
        if good(&sweep).is_some() || rank == options.rank {
            break;
        }
        rank = rank.saturating_mul(2).min(options.rank);
    }
    while let Some(high) = good(&sweep) {
        // The highest rank below that was not good enough.
        let low = sweep.fits.iter().map(Cp::rank).filter(|&rank| rank < high).max().unwrap_or(high);
        if high - low < 2 || !sweep.add(&problem, low.midpoint(high), options)? {
            break;
        }
    }
    Ok(sweep.finish())
}

//! One fit: its starts, and the best of them.

use super::als::{Als, Run};
use super::data::Whitening;
use super::model::Model;
use super::report::{Cp, Report, Stopped};
use super::start;
use super::target::Target;
use super::{Init, Options, Real};
use crate::strides::elements;
use crate::{Interaction, Result, Tensor, View};

/// The CP decomposition of `w` [K, I, J] that alternating least squares finds (Carroll and Chang, *Analysis of Individual
/// Differences in Multidimensional Scaling via an N-way Generalization of "Eckart-Young" Decomposition*, Psychometrika 1970;
/// Kolda and Bader, *Tensor Decompositions and Applications*, SIAM Review 2009, fig. 3.3): W\[k,i,j\] ≈ Σᵣ λ\[r\] a\[k,r\] b\[i,r\] c\[j,r\].
///
/// The products with W are [`crate::mttkrp`]. Normal equations are solved in f64, by Cholesky's decomposition or, where they
/// are singular, without the directions that change nothing; so no iteration increases the error (with a ridge: what that
/// minimises), but for rounding. The error is computed without forming Ŵ, unless it is so small that it would be lost to
/// cancellation: then from panels of Ŵ. A W that is not row-major is copied. Two updates in a row share a contraction of W, for which there is as
/// much memory again as W takes, at most.
///
/// **For data** ([`Options::data`]) what is minimised is the expected error of y = zᵀWx for independent z and x that are
/// distributed like the samples: ‖(W − Ŵ) ×ᵢ S_z^½ ×ⱼ S_x^½‖, S = E\[zzᵀ\] and E\[xxᵀ\], which is a fit of the whitened tensor. (Of a
/// matrix that is Chen et al., *DRONE: Data-aware Low-rank Compression for Large NLP Models*, NeurIPS 2021.) Directions in which samples hardly
/// reach are given a millionth of the mean variance.
///
/// Errors: [`crate::Error::Value`] for options that mean nothing, [`crate::Error::Shape`], [`crate::Error::NotFinite`] and those of
/// allocation.
///
/// # Example
///
/// ```
/// use trilinear::decompose::{Options, cp};
/// use trilinear::View;
///
/// let w: Vec<f64> = (0..24).map(|at| (at / 12 + 1) as f64 * (at / 4 % 3) as f64 * (at % 4) as f64).collect(); // rank 1
/// let fit = cp(View::new(&w, [2, 3, 4])?, &Options::new(1))?;
/// assert!(fit.report.error < 1e-12);
/// let y = fit.interaction()?.forward(View::row(&[0.0, 0.0, 1.0]), View::row(&[0.0, 0.0, 0.0, 1.0]))?;
/// assert!((y.as_slice()[1] - w[23]).abs() < 1e-9);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn cp<T: Real>(w: View<'_, T, 3>, options: &Options<'_, T>) -> Result<Cp<T>> {
    Problem::new(w, options)?.cp(options, None)
}

/// W as it is fitted, for several fits.
pub(super) struct Problem<'a, T> {
    w: View<'a, T, 3>,
    /// What is fitted in its place: a copy with its elements in order, or whitened.
    copy: Option<Tensor<T, 3>>,
    whitening: Option<Whitening<'a, T>>,
}

impl<'a, T: Real> Problem<'a, T> {
    pub(super) fn new(w: View<'a, T, 3>, options: &Options<'a, T>) -> Result<Self> {
        let context = options.check(w.shape())?;
        let whitening = options.data.map(|data| Whitening::new(data, context)).transpose()?;
        let copy = match &whitening {
            Some(whitening) => Some(whitening.apply(w)?),
            None if w.as_slice().is_none() => Some(Tensor::from_view(w)?),
            None => None,
        };
        Ok(Problem { w, copy, whitening })
    }

    /// The best CP decomposition of all starts, and of the one that continues `lower`, of lower rank.
    pub(super) fn cp(&self, options: &Options<'_, T>, lower: Option<&Cp<T>>) -> Result<Cp<T>> {
        let (model, mut report, scale) = self.best(options, 1, lower)?;
        let mut order: Vec<usize> = (0..options.rank).collect();
        order.sort_by(|&p, &q| model.lambda[q].abs().total_cmp(&model.lambda[p].abs()));
        let ([a, b, c], lambda) = model.finish(&order, scale)?;
        let layer = Interaction::cp(a.view(), b.view(), c.view())?.with_lambda(lambda.view())?;
        report.output_error = self.output_error(layer)?;
        Ok(Cp { a, b, c, lambda, report })
    }

    /// On the samples.
    pub(super) fn output_error(&self, layer: Interaction<'_, T>) -> Result<Option<f64>> {
        self.whitening.as_ref().map(|whitening| whitening.output_error(self.w, layer)).transpose()
    }

    /// The best model of all starts, its report, and the scale of its λ.
    pub(super) fn best(
        &self,
        options: &Options<'_, T>,
        block: usize,
        lower: Option<&Cp<T>>,
    ) -> Result<(Model<T>, Report, f64)> {
        let w = self.copy.as_ref().map_or(self.w, Tensor::view);
        let lengths = w.shape();
        let rank = options.check_rank(lengths, block)?;
        let target = Target::new(w, options.check(lengths)?)?;
        let blocks = options.rank.saturating_mul(lengths[0]);
        let after = blocks.saturating_add(rank.saturating_mul(lengths[1].saturating_add(lengths[2])));
        let mut report = Report {
            error: if target.norm2 > 0.0 { 1.0 } else { 0.0 },
            errors: Vec::new(),
            stopped: Stopped::Converged,
            start: 0,
            seconds: 0.0,
            mttkrp_seconds: 0.0,
            parameters: [elements(&lengths)?, after],
            output_error: None,
        };
        if rank == 0 || target.norm2 == 0.0 {
            let factors = lengths.map(|len| Tensor::zeros([len, rank]));
            let [a, b, c] = factors;
            let model = Model::new([a?, b?, c?], Some(vec![0.0; rank]), target.context)?;
            return Ok((model, report, 1.0));
        }
        let mut als = Als::new(&target, options, block)?;
        let mut best: Option<(usize, Run<T>)> = None;
        let starts = 1 + options.restarts + usize::from(lower.is_some());
        for number in 0..starts {
            let (mut model, given) = match lower.filter(|_| number == starts - 1) {
                Some(lower) => (start::continued(&target, options, lower)?, true),
                None => (
                    start::model(&target, options, block, number)?,
                    number == 0 && matches!(options.init, Init::Given { .. }),
                ),
            };
            // Given factors are those of W.
            if let (Some(whitening), true) = (&self.whitening, given) {
                whitening.turn(&mut model)?;
            }
            let run = als.run(model, [number, starts])?;
            let cancelled = run.stopped == Stopped::Cancelled;
            if best.as_ref().is_none_or(|(_, best)| run.error < best.error) {
                best = Some((number, run));
            }
            if cancelled {
                report.stopped = Stopped::Cancelled;
                break;
            }
        }
        let Some((number, run)) = best else { return Err(crate::Error::NotFinite { operand: "w" }) };
        if report.stopped != Stopped::Cancelled {
            report.stopped = run.stopped;
        }
        (report.error, report.errors, report.start) = (run.error, run.errors, number);
        let mut model = run.model;
        if let Some(whitening) = &self.whitening {
            whitening.turn_back(&mut model)?;
        }
        (report.seconds, report.mttkrp_seconds) = (als.seconds(), als.in_mttkrp.as_secs_f64());
        Ok((model, report, target.scale))
    }
}

//! Alternating least squares: each factor in turn is the best one for the other two.
//!
//! ```text
//!   M = MTTKRP of W with the other two factors                               [len, R]
//!   G = the product of their Grams, element by element                       [R, R]
//!   F = M G⁻¹; λ = the lengths of its columns, which are then divided by them
//!
//!   ‖W − Ŵ‖² = ‖W‖² − 2 Σ M⊙F + λᵀ(AᵀA ⊙ BᵀB ⊙ CᵀC)λ                        of the last M and F of an iteration
//! ```
//!
//! Block terms have L columns of b and c for each column of a: M and G are summed over them.
//! Factors are rounded to T after each update; all that is not a product with W is computed in f64.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::model::Model;
use super::normal::Normal;
use super::products::Products;
use super::report::Stopped;
use super::target::Target;
use super::{Options, Progress, Real};
use crate::{Error, Result, Tensor};

/// One fit: its memory, and what it has done.
pub(super) struct Als<'a, T> {
    target: &'a Target<'a, T>,
    options: &'a Options<'a, T>,
    /// L: columns of b and c for each column of a.
    block: usize,
    normal: Normal,
    products: Products<T>,
    /// MTTKRP.
    m: Vec<T>,
    /// The same in units of the target's scale, then the factor.
    raw: Vec<f64>,
    began: Instant,
    pub(super) in_mttkrp: Duration,
}

/// What a start led to.
pub(super) struct Run<T> {
    pub(super) model: Model<T>,
    /// Relative error after each iteration.
    pub(super) errors: Vec<f64>,
    pub(super) error: f64,
    pub(super) stopped: Stopped,
}

impl<'a, T: Real> Als<'a, T> {
    pub(super) fn new(target: &'a Target<'a, T>, options: &'a Options<'a, T>, block: usize) -> Result<Self> {
        let (rank, longest) = (options.rank * block, target.w.shape().into_iter().max().unwrap_or(0));
        Ok(Als {
            target,
            options,
            block,
            normal: Normal::new(rank, T::DTYPE.accumulator_roundoff())?,
            products: Products::new(target.w.shape(), rank)?,
            m: Tensor::zeros([longest, rank])?.into_vec(),
            raw: Tensor::zeros([longest, rank])?.into_vec(),
            began: Instant::now(),
            in_mttkrp: Duration::ZERO,
        })
    }

    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Iterations from a model on, until one changes little, or there have been enough, or the caller has.
    pub(super) fn run(&mut self, mut model: Model<T>, [start, starts]: [usize; 2]) -> Result<Run<T>> {
        let Options { rank, iterations, tolerance, progress, .. } = *self.options;
        self.products.forget();
        let (mut errors, mut stopped) = (Vec::new(), Stopped::Iterations);
        while errors.len() < iterations {
            for mode in 0..3 {
                self.update(&mut model, mode)?;
            }
            let error = self.error(&model)?;
            let last = errors.last().copied().unwrap_or(f64::INFINITY);
            errors.push(error);
            let iteration = errors.len();
            let told = Progress { rank, start, starts, iteration, iterations, error, seconds: self.seconds() };
            if progress.is_some_and(|progress| progress(&told) == ControlFlow::Break(())) {
                stopped = Stopped::Cancelled;
                break;
            }
            if f64::abs(last - error) < tolerance || error == 0.0 {
                stopped = Stopped::Converged;
                break;
            }
        }
        let error = match errors.last() {
            Some(&error) => error,
            None => (self.target.residual2(&model)? / self.target.norm2).sqrt(),
        };
        Ok(Run { model, errors, error, stopped })
    }

    /// The factor of one axis for the other two.
    fn update(&mut self, model: &mut Model<T>, mode: usize) -> Result<()> {
        let ([p, q], [len, r]) = ([[1, 2], [0, 2], [0, 1]][mode], model.factors[mode].shape());
        let (began, m, context) = (Instant::now(), &mut self.m[..len * r], &self.target.context);
        self.products.along(self.target.w, &model.factors, mode, m, context)?;
        self.in_mttkrp += began.elapsed();

        let (m, scale) = (&self.m[..len * r], 1.0 / self.target.scale);
        let [gp, gq] = [model.grams[p].as_slice(), model.grams[q].as_slice()];
        // Of a the columns of a block share one.
        let block = if mode == 0 { self.block } else { 1 };
        let columns = r / block;
        self.normal.set_rank(columns);
        let (raw, g) = (&mut self.raw[..len * columns], &mut self.normal.g.as_mut_slice()[..columns * columns]);
        if block == 1 {
            raw.iter_mut().zip(m).for_each(|(raw, m)| *raw = m.to_f64() * scale);
            g.iter_mut().zip(gp.iter().zip(gq)).for_each(|(g, (p, q))| *g = p * q);
        } else {
            let lambda = &model.lambda;
            for (raw, m) in raw.chunks_exact_mut(columns.max(1)).zip(m.chunks_exact(r.max(1))) {
                for (at, raw) in raw.iter_mut().enumerate() {
                    *raw = (at * block..(at + 1) * block).map(|l| m[l].to_f64() * scale * lambda[l]).sum();
                }
            }
            for (at, g) in g.iter_mut().enumerate() {
                let [row, column] = [at / columns, at % columns].map(|b| b * block..(b + 1) * block);
                let term = |p: usize, q: usize| lambda[p] * lambda[q] * gp[p * r + q] * gq[p * r + q];
                *g = row.flat_map(|p| column.clone().map(move |q| (p, q))).map(|(p, q)| term(p, q)).sum();
            }
        }
        for at in 0..columns {
            let weights = at * block..(at + 1) * block;
            let unit: f64 = if block == 1 { 1.0 } else { model.lambda[weights].iter().map(|w| w * w).sum() };
            g[at * columns + at] += self.options.ridge * unit;
        }
        let (factor, lambda) = (model.factors[mode].as_slice(), &model.lambda);
        let old = |at: usize| match block {
            1 => factor[at].to_f64() * lambda[at % r],
            _ => factor[at / columns * r + at % columns * block].to_f64(),
        };
        match self.options.nonnegative {
            true => self.normal.solve_nonnegative(raw, old)?,
            false => self.normal.solve(raw, old)?,
        }
        match block {
            1 => model.set(mode, raw, 1)?,
            _ => model.scale_by(mode, raw, block)?, // b and c keep their blocks' λ
        }
        match model.lambda.iter().all(|lambda| lambda.is_finite()) {
            true => Ok(()),
            false => Err(Error::NotFinite { operand: "w" }),
        }
    }

    /// The relative error after the last factor's update.
    fn error(&self, model: &Model<T>) -> Result<f64> {
        let (c, r, target) = (&model.factors[2], model.lambda.len().max(1), self.target);
        let row = |(m, c): (&[T], &[T])| -> f64 {
            let products = m.iter().zip(c).zip(&model.lambda);
            products.map(|((m, c), lambda)| m.to_f64() * c.to_f64() * lambda).sum()
        };
        let inner: f64 = self.m.chunks_exact(r).zip(c.as_slice().chunks_exact(r)).map(row).sum();
        let squared = target.norm2 - 2.0 * inner / target.scale + model.norm2();
        // The rounding errors of M are relative to ‖W‖².
        let exact = if squared > 1e4 * T::DTYPE.accumulator_roundoff() * target.norm2 {
            squared
        } else {
            target.residual2(model)?
        };
        Ok((exact / target.norm2).sqrt())
    }
}

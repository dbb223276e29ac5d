//! A decomposition while it is fitted: factors with columns of length 1, and their Grams.

use super::Real;
use crate::{Context, Error, Interaction, Result, Tensor, View};

/// Σᵣ λ\[r\] a\[k,r\] b\[i,r\] c\[j,r\], in units of the target's scale.
#[derive(Clone)]
pub(super) struct Model<T> {
    /// a [K, R], b [I, R], c [J, R]; columns have length 1, or are zero.
    pub(super) factors: [Tensor<T, 2>; 3],
    pub(super) lambda: Vec<f64>,
    /// FᵀF of each factor.
    pub(super) grams: [Tensor<f64, 2>; 3],
    /// The factor as f64, for its Gram.
    wide: Tensor<f64, 2>,
    context: Context,
}

impl<T: Real> Model<T> {
    /// Of factors with columns of any length. Errors: those of allocation.
    pub(super) fn new(factors: [Tensor<T, 2>; 3], lambda: Option<Vec<f64>>, context: Context) -> Result<Self> {
        let r = factors[0].shape()[1];
        let longest = factors.iter().map(|factor| factor.shape()[0]).max().unwrap_or(0);
        let grams = [Tensor::zeros([r, r])?, Tensor::zeros([r, r])?, Tensor::zeros([r, r])?];
        let (lambda, wide) = (lambda.unwrap_or_else(|| vec![1.0; r]), Tensor::zeros([longest, r])?);
        let mut model = Model { factors, lambda, grams, wide, context };
        for mode in 0..3 {
            let raw: Vec<f64> = model.factors[mode].as_slice().iter().map(|value| value.to_f64()).collect();
            model.scale_by(mode, &raw, 1)?;
        }
        Ok(model)
    }

    /// Takes `raw` as a factor for whose components λ is to be multiplied by its columns' lengths. A column stands for
    /// `repeat` columns of the factor.
    pub(super) fn scale_by(&mut self, mode: usize, raw: &[f64], repeat: usize) -> Result<()> {
        let before = self.lambda.clone();
        self.set(mode, raw, repeat)?;
        self.lambda.iter_mut().zip(before).for_each(|(lambda, before)| *lambda *= before);
        Ok(())
    }

    /// The same, but λ is replaced by the lengths.
    pub(super) fn set(&mut self, mode: usize, raw: &[f64], repeat: usize) -> Result<()> {
        let [len, r] = self.factors[mode].shape();
        let columns = r / repeat.max(1);
        if r == 0 {
            return Ok(());
        }
        let mut lengths = vec![0.0; columns];
        for row in raw.chunks_exact(columns) {
            lengths.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
        }
        lengths.iter_mut().for_each(|length| *length = length.sqrt());
        let inverse: Vec<f64> = lengths.iter().map(|&length| if length > 0.0 { 1.0 / length } else { 0.0 }).collect();
        let (to, wide) = (self.factors[mode].as_mut_slice(), self.wide.as_mut_slice());
        let rows = to.chunks_exact_mut(r).zip(wide.chunks_exact_mut(r));
        for (row, (to, wide)) in raw.chunks_exact(columns).zip(rows) {
            let copies = to.chunks_exact_mut(repeat).zip(wide.chunks_exact_mut(repeat));
            for ((value, inverse), (to, wide)) in row.iter().zip(&inverse).zip(copies) {
                let unit = T::from_f64(value * inverse);
                to.fill(unit);
                wide.fill(unit.to_f64()); // as it was rounded
            }
        }
        self.lambda.iter_mut().enumerate().for_each(|(at, lambda)| *lambda = lengths[at / repeat]);
        // FᵀF is a linear layer of Fᵀ on itself.
        let columns = View::new(&self.wide.as_slice()[..len * r], [len, r])?.transpose();
        let layer = Interaction::linear(r, 0, len)?.with_v(columns)?.with_context(self.context);
        layer.forward_into(View::new(&[], [r, 0])?, columns, self.grams[mode].view_mut())
    }

    /// ‖Ŵ‖².
    pub(super) fn norm2(&self) -> f64 {
        let (r, [a, b, c]) = (self.lambda.len(), self.grams.each_ref().map(Tensor::as_slice));
        let row = |p: usize| -> f64 {
            let part = p * r..(p + 1) * r;
            let grams = a[part.clone()].iter().zip(&b[part.clone()]).zip(&c[part]);
            grams.zip(&self.lambda).map(|(((a, b), c), lambda)| a * b * c * lambda).sum()
        };
        (0..r).map(|p| self.lambda[p] * row(p)).sum()
    }

    /// Factors and λ as T, the columns in another order, and `scale` in λ. Errors: [`Error::NotFinite`] if T cannot hold λ,
    /// as that of a W near the largest number there is; those of allocation.
    pub(super) fn finish(&self, order: &[usize], scale: f64) -> Result<([Tensor<T, 2>; 3], Tensor<T, 1>)> {
        let r = order.len();
        let ordered = |factor: &Tensor<T, 2>| {
            let rows = factor.as_slice().chunks_exact(r.max(1));
            Tensor::from_vec(rows.flat_map(|row| order.iter().map(|&at| row[at])).collect(), factor.shape())
        };
        let [a, b, c] = self.factors.each_ref().map(ordered);
        let lambda: Vec<T> = order.iter().map(|&at| T::from_f64(self.lambda[at] * scale)).collect();
        if !lambda.iter().all(|lambda| lambda.to_f64().is_finite()) {
            return Err(Error::NotFinite { operand: "lambda" });
        }
        Ok(([a?, b?, c?], Tensor::from_vec(lambda, [r])?))
    }
}

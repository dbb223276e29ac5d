//! Fits for data: the tensor whitened by the second moments of its inputs.

use super::Real;
use super::model::Model;
use super::normal::eigen;
use super::start::gram;
use super::target::sum_of_squares;
use crate::{Context, Error, Interaction, Result, Tensor, View, ViewMut};

/// Variance of directions that the samples hardly reach, in units of the mean one.
const LEAST: f64 = 1e-6;

/// W̃ = W ×ᵢ S_z^½ ×ⱼ S_x^½, whose distances are expected errors of y, and the way back.
pub(super) struct Whitening<'a, T> {
    data: [View<'a, T, 2>; 2],
    /// Of z and x.
    roots: [Roots; 2],
    context: Context,
}

/// S^½ and S^−½.
struct Roots {
    root: Tensor<f64, 2>,
    inverse: Tensor<f64, 2>,
}

impl Roots {
    fn new<T: Real>(operand: &'static str, data: View<'_, T, 2>, context: Context) -> Result<Self> {
        let [rows, len] = data.shape();
        if rows == 0 {
            return Err(Error::Value { what: "data", given: "no rows".into(), expected: "at least one" });
        }
        let values = Tensor::from_view(data)?;
        let wide = Tensor::from_vec(values.as_slice().iter().map(|value| value.to_f64()).collect(), [rows, len])?;
        let moments = gram(wide.view().transpose(), context)?;
        let moments: Vec<f64> = moments.as_slice().iter().map(|sum| sum / rows as f64).collect();
        if !moments.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite { operand });
        }
        let (variances, vectors) = eigen(&moments, len)?;
        let mean = variances.iter().map(|variance| variance.max(0.0)).sum::<f64>() / len.max(1) as f64;
        // Σ variance^power v vᵀ.
        let power = |power: f64| {
            let weight = |&variance: &f64| f64::max(variance, LEAST * mean).powf(power / 2.0);
            let weights: Vec<f64> = variances.iter().map(|v| if mean > 0.0 { weight(v) } else { 0.0 }).collect();
            let rows = vectors.chunks_exact(len.max(1)).zip(weights);
            let scaled = rows.flat_map(|(vector, weight)| vector.iter().map(move |value| value * weight)).collect();
            gram(Tensor::from_vec(scaled, [len, len])?.view().transpose(), context)
        };
        Ok(Roots { root: power(0.5)?, inverse: power(-0.5)? })
    }
}

impl<'a, T: Real> Whitening<'a, T> {
    pub(super) fn new(data: [View<'a, T, 2>; 2], context: Context) -> Result<Self> {
        let [z, x] = data;
        Ok(Whitening { data, roots: [Roots::new("z", z, context)?, Roots::new("x", x, context)?], context })
    }

    /// W̃.
    pub(super) fn apply(&self, w: View<'_, T, 3>) -> Result<Tensor<T, 3>> {
        let ([k, i, j], w) = (w.shape(), Tensor::from_view(w)?);
        if w.as_slice().is_empty() {
            return Ok(w);
        }
        let root = |of: &Roots| {
            Tensor::from_vec(of.root.as_slice().iter().map(|&v| T::from_f64(v)).collect(), of.root.shape())
        };
        let [z, x] = [root(&self.roots[0])?, root(&self.roots[1])?];
        let rows = View::new(w.as_slice(), [k * i, j])?;
        let by_x = Interaction::linear(j, 0, j)?.with_v(x.view())?.with_context(self.context);
        let half = by_x.forward(View::new(&[], [k * i, 0])?, rows)?;
        let by_z = Interaction::linear(i, 0, i)?.with_v(z.view())?.with_context(self.context);
        let mut whitened = Tensor::zeros([k, i, j])?;
        let slices = half.as_slice().chunks_exact(i * j);
        for (from, to) in slices.zip(whitened.as_mut_slice().chunks_exact_mut(i * j)) {
            let columns = View::new(from, [i, j])?.transpose();
            by_z.forward_into(View::new(&[], [j, 0])?, columns, ViewMut::new(to, [i, j])?.transpose())?;
        }
        Ok(whitened)
    }

    /// From factors of W to those of W̃.
    pub(super) fn turn(&self, model: &mut Model<T>) -> Result<()> {
        self.by(model, |roots| &roots.root)
    }

    /// From factors of W̃ to those of W.
    pub(super) fn turn_back(&self, model: &mut Model<T>) -> Result<()> {
        self.by(model, |roots| &roots.inverse)
    }

    fn by(&self, model: &mut Model<T>, root: fn(&Roots) -> &Tensor<f64, 2>) -> Result<()> {
        for (mode, roots) in [1, 2].into_iter().zip(&self.roots) {
            let [len, r] = model.factors[mode].shape();
            let wide = model.factors[mode].as_slice().iter().map(|value| value.to_f64()).collect();
            let wide = Tensor::<f64, 2>::from_vec(wide, [len, r])?;
            let layer = Interaction::linear(r, 0, len)?.with_v(wide.view().transpose())?.with_context(self.context);
            let raw = layer.forward(View::new(&[], [len, 0])?, root(roots).view())?;
            model.scale_by(mode, raw.as_slice(), 1)?;
        }
        Ok(())
    }

    /// ‖Y − Ŷ‖/‖Y‖ on the samples.
    pub(super) fn output_error(&self, w: View<'_, T, 3>, layer: Interaction<'_, T>) -> Result<f64> {
        let [z, x] = self.data;
        let y = Interaction::dense(w)?.with_context(self.context).forward(z, x)?;
        let fitted = layer.with_context(self.context).forward(z, x)?;
        let (y, fitted) = (y.as_slice(), fitted.as_slice());
        let difference = sum_of_squares(y.len(), |at| y[at].to_f64() - fitted[at].to_f64());
        let all = sum_of_squares(y.len(), |at| y[at].to_f64());
        Ok(if difference == 0.0 { 0.0 } else { (difference / all).sqrt() })
    }
}

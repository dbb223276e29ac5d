//! The tensor that a fit approximates, and the distance of a decomposition from it.

use super::Real;
use super::model::Model;
use crate::{Context, Device, Error, Interaction, Result, Tensor, View, ViewMut};

/// Elements that a panel of the reconstruction may have: it stays in L2.
const PANEL: usize = 1 << 16;

/// W with its elements in order, and what is known of it. All sums are of W/`scale`, so that no square over- or underflows.
pub(super) struct Target<'a, T> {
    pub(super) w: View<'a, T, 3>,
    pub(super) context: Context,
    /// A power of two near the largest magnitude.
    pub(super) scale: f64,
    /// ‖W/scale‖².
    pub(super) norm2: f64,
}

/// The context of a fit. Errors: [`Error::Unsupported`] if it is of another device than the processor.
pub(super) fn context(given: Option<Context>) -> Result<Context> {
    match given {
        None => Context::from_env()?.with_device(Device::Cpu),
        Some(context) if context.device() == Device::Cpu => Ok(context),
        Some(_) => Err(Error::Unsupported { what: "fits on a CUDA device" }),
    }
}

impl<'a, T: Real> Target<'a, T> {
    /// Of a row-major W in the host's memory. Errors: [`Error::NotFinite`].
    pub(super) fn new(w: View<'a, T, 3>, context: Context) -> Result<Self> {
        let elements = w.as_slice().unwrap_or_default();
        let largest = elements.iter().fold(0.0, |most: f64, value| most.max(value.to_f64().abs()));
        let scale = if largest > 0.0 { largest.log2().floor().clamp(-1000.0, 1000.0).exp2() } else { 1.0 };
        let norm2 = sum_of_squares(elements.len(), |at| elements[at].to_f64() / scale);
        // Of NaN the largest magnitude knows nothing, but their sum does.
        if norm2.is_finite() { Ok(Target { w, context, scale, norm2 }) } else { Err(Error::NotFinite { operand: "w" }) }
    }

    /// ‖W − Ŵ‖²/scale², from panels of Ŵ's rows (k, i): exact where the difference of squares would cancel.
    pub(super) fn residual2(&self, model: &Model<T>) -> Result<f64> {
        let [k, i, j] = self.w.shape();
        let (r, elements) = (model.lambda.len(), self.w.as_slice().unwrap_or_default());
        let rows = (PANEL / (r + j).max(1)).clamp(16, 256);
        let (mut h, mut y) = (Tensor::zeros([rows, r])?, Tensor::zeros([rows, j])?);
        let [a, b, _] = model.factors.each_ref().map(Tensor::as_slice);
        let lambda: Vec<f64> = model.lambda.iter().map(|lambda| lambda * self.scale).collect();
        let columns = Interaction::linear(j, 0, r)?.with_v(model.factors[2].view())?.with_context(self.context);
        let mut sum = 0.0;
        for first in (0..k * i).step_by(rows) {
            let rows = rows.min(k * i - first);
            for (row, h) in (first..first + rows).zip(h.as_mut_slice().chunks_exact_mut(r.max(1))) {
                let (a, b) = (&a[row / i * r..][..r], &b[row % i * r..][..r]);
                for ((h, lambda), (a, b)) in h.iter_mut().zip(&lambda).zip(a.iter().zip(b)) {
                    *h = T::from_f64(lambda * a.to_f64() * b.to_f64());
                }
            }
            let (w, y) = (&elements[first * j..][..rows * j], &mut y.as_mut_slice()[..rows * j]);
            let z = View::new(&[], [rows, 0])?;
            columns.forward_into(z, h.view().slice_rows((0, rows)), ViewMut::new(y, [rows, j])?)?;
            sum += sum_of_squares(w.len(), |at| (w[at].to_f64() - y[at].to_f64()) / self.scale);
        }
        Ok(sum)
    }
}

/// Σ of squares of so many numbers, in blocks: the rounding errors of long sums stay small, and lanes are independent.
pub(super) fn sum_of_squares(len: usize, value: impl Fn(usize) -> f64) -> f64 {
    const BLOCK: usize = 4096;
    const LANES: usize = 8;
    let block = |first: usize| {
        let (mut lanes, end) = ([0.0; LANES], (first + BLOCK).min(len));
        let whole = (end - first) / LANES * LANES;
        for at in (first..first + whole).step_by(LANES) {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                let value = value(at + lane);
                *sum += value * value;
            }
        }
        let rest: f64 = (first + whole..end).map(&value).map(|value| value * value).sum();
        lanes.iter().sum::<f64>() + rest
    };
    (0..len).step_by(BLOCK).map(block).sum()
}

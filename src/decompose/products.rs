//! The products of W that the updates need, two of them for each contraction: factors are updated in the order a, b, c, a, …, so
//! that W contracted with the factor that was updated last is what the next two updates have in common (Ma and Solomonik, *Efficient
//! Parallel CP Decomposition with Pairwise Perturbation and Multi-Sweep Dimension Tree*, IPDPS 2021).
//!
//! ```text
//!   t[p][q][r] = Σ_o W[p,q,o] F_o[o][r]          axes p and q in their order in W, o the other one: a GEMM
//!   m[p][r] = Σ_q t[p][q][r] F_q[q][r]           the update of p
//!   m[q][r] = Σ_p t[p][q][r] F_p[p][r]           that of q
//! ```

use super::Real;
use crate::{Axis, Context, Interaction, Result, Tensor, View, ViewMut, mttkrp_into};

/// The last contraction.
pub(super) struct Products<T> {
    /// o, if the contraction is of factors that have not changed since.
    over: Option<usize>,
    t: Vec<T>,
    /// Whether contractions over each axis are no larger than W.
    allowed: [bool; 3],
}

impl<T: Real> Products<T> {
    /// For W of these lengths. Errors: those of allocation.
    pub(super) fn new(lengths: [usize; 3], rank: usize) -> Result<Self> {
        let elements: usize = lengths.into_iter().product();
        let size = |len: usize| elements.checked_div(len).unwrap_or(0) * rank;
        let allowed = lengths.map(|len| rank <= len);
        let most = (0..3).filter(|&over| allowed[over]).map(|over| size(lengths[over])).max().unwrap_or(0);
        Ok(Products { over: None, t: Tensor::zeros([most])?.into_vec(), allowed })
    }

    /// That the factors are others than those of the last call.
    pub(super) fn forget(&mut self) {
        self.over = None;
    }

    /// MTTKRP along `mode`, whose factor is updated next.
    pub(super) fn along(
        &mut self,
        w: View<'_, T, 3>,
        factors: &[Tensor<T, 2>; 3],
        mode: usize,
        m: &mut [T],
        context: &Context,
    ) -> Result<()> {
        let last = (mode + 2) % 3;
        if self.over.is_none_or(|over| over == mode) && self.allowed[last] {
            self.contract(w, &factors[last], last, context)?;
        } else if self.over.is_none_or(|over| over == mode) {
            self.over = None;
            let [p, q] = [[1, 2], [0, 2], [0, 1]][mode].map(|axis| factors[axis].view());
            let axis = [Axis::Out, Axis::Z, Axis::X][mode];
            return mttkrp_into(w, axis, [p, q], ViewMut::new(m, factors[mode].shape())?, context);
        }
        let over = self.over.unwrap_or(last);
        self.sum(factors, over, mode, m);
        Ok(())
    }

    /// t, over an axis.
    fn contract(&mut self, w: View<'_, T, 3>, factor: &Tensor<T, 2>, over: usize, context: &Context) -> Result<()> {
        let ([k, i, j], [len, r], elements) = (w.shape(), factor.shape(), w.as_slice().unwrap_or_default());
        let layer = Interaction::linear(r, 0, len)?.with_v(factor.view().transpose())?.with_context(*context);
        let product = |x: View<'_, T, 2>, to: &mut [T]| {
            let rows = x.shape()[0];
            layer.forward_into(View::new(&[], [rows, 0])?, x, ViewMut::new(&mut to[..rows * r], [rows, r])?)
        };
        match over {
            0 => product(View::new(elements, [k, i * j])?.transpose(), &mut self.t)?,
            1 => {
                let slices = elements.chunks_exact((i * j).max(1)).zip(self.t.chunks_exact_mut((j * r).max(1)));
                for (slice, to) in slices {
                    product(View::new(slice, [i, j])?.transpose(), to)?;
                }
            }
            _ => product(View::new(elements, [k * i, j])?, &mut self.t)?,
        }
        self.over = Some(over);
        Ok(())
    }

    /// m, from t.
    fn sum(&self, factors: &[Tensor<T, 2>; 3], over: usize, mode: usize, m: &mut [T]) {
        let [p, q] = [[1, 2], [0, 2], [0, 1]][over];
        let ([_, r], length) = (factors[mode].shape(), factors[q].shape()[0]);
        let other = factors[if mode == p { q } else { p }].as_slice();
        m.fill(T::default());
        if r == 0 || length == 0 {
            return;
        }
        let add = |m: &mut [T], t: &[T], factor: &[T]| {
            for (m, (t, factor)) in m.iter_mut().zip(t.iter().zip(factor)) {
                *m = *m + *t * *factor;
            }
        };
        for (p_row, t) in self.t.chunks_exact(length * r).take(factors[p].shape()[0]).enumerate() {
            let rows = t.chunks_exact(r);
            if mode == p {
                let m = &mut m[p_row * r..][..r];
                rows.zip(other.chunks_exact(r)).for_each(|(t, factor)| add(m, t, factor));
            } else {
                let factor = &other[p_row * r..][..r];
                rows.zip(m.chunks_exact_mut(r)).for_each(|(t, m)| add(m, t, factor));
            }
        }
    }
}

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
use crate::{Axis, Context, Result, Tensor, View, ViewMut, mttkrp_into};

/// Shorter axes are not worth it: the sums from t cost as much as a contraction of several elements.
const SHORTEST: usize = 16;
/// Multiply-adds that a contraction should have, or each of several calls: a microsecond.
const LEAST_WORK: usize = 1 << 16;

/// Components whose sums are formed at once.
const LANES: usize = 16;

/// The last contraction.
pub(super) struct Products<T> {
    /// o, if the contraction is of factors that have not changed since.
    over: Option<usize>,
    t: Vec<T>,
    /// [1, R].
    ones: Tensor<T, 2>,
    /// Whether contractions over each axis are no larger than W, and worth it.
    allowed: [bool; 3],
}

impl<T: Real> Products<T> {
    /// For W of these lengths. Errors: those of allocation.
    pub(super) fn new(lengths: [usize; 3], rank: usize) -> Result<Self> {
        let elements: usize = lengths.into_iter().product();
        let size = |len: usize| elements.checked_div(len).unwrap_or(0) * rank;
        let allowed = [0, 1, 2].map(|over| {
            let calls = if over == 1 { lengths[0] } else { 1 };
            let work = (elements / calls.max(1)).saturating_mul(rank);
            rank <= lengths[over] && lengths[over] >= SHORTEST && work >= LEAST_WORK
        });
        let most = (0..3).filter(|&over| allowed[over]).map(|over| size(lengths[over])).max().unwrap_or(0);
        let mut ones = Tensor::zeros([1, rank])?;
        ones.as_mut_slice().fill(T::from_f64(1.0));
        Ok(Products { over: None, t: Tensor::zeros([most])?.into_vec(), ones, allowed })
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

    /// t, over an axis: an MTTKRP of W, or of each of its slices, as a matrix.
    fn contract(&mut self, w: View<'_, T, 3>, factor: &Tensor<T, 2>, over: usize, context: &Context) -> Result<()> {
        let ([k, i, j], [_, r], elements) = (w.shape(), factor.shape(), w.as_slice().unwrap_or_default());
        let (ones, factor) = (self.ones.view(), factor.view());
        match over {
            0 => {
                let to = ViewMut::new(&mut self.t[..i * j * r], [i * j, r])?;
                mttkrp_into(View::new(elements, [k, 1, i * j])?, Axis::X, [factor, ones], to, context)?;
            }
            1 => {
                let slices = elements.chunks_exact((i * j).max(1)).zip(self.t.chunks_exact_mut((j * r).max(1)));
                for (slice, to) in slices {
                    let to = ViewMut::new(to, [j, r])?;
                    mttkrp_into(View::new(slice, [1, i, j])?, Axis::X, [ones, factor], to, context)?;
                }
            }
            _ => {
                let to = ViewMut::new(&mut self.t[..k * i * r], [k * i, r])?;
                mttkrp_into(View::new(elements, [1, k * i, j])?, Axis::Z, [ones, factor], to, context)?;
            }
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
        for (p_row, t) in self.t.chunks_exact(length * r).take(factors[p].shape()[0]).enumerate() {
            if mode == p {
                let m = &mut m[p_row * r..][..r];
                // A block of components at a time, whose sums stay in registers.
                for first in (0..r).step_by(LANES) {
                    let lanes = first..r.min(first + LANES);
                    let rows = t.chunks_exact(r).zip(other.chunks_exact(r));
                    let mut sums = [T::default(); LANES];
                    for (t, f) in rows {
                        match (t[lanes.clone()].first_chunk::<LANES>(), f[lanes.clone()].first_chunk::<LANES>()) {
                            (Some(t), Some(f)) => add(&mut sums, t, f), // of known length
                            _ => add(&mut sums, &t[lanes.clone()], &f[lanes.clone()]),
                        }
                    }
                    m[lanes.clone()].copy_from_slice(&sums[..lanes.len()]);
                }
            } else {
                let factor = &other[p_row * r..][..r];
                t.chunks_exact(r).zip(m.chunks_exact_mut(r)).for_each(|(t, m)| add(m, t, factor));
            }
        }
    }
}

/// m += t⊙f.
#[inline(always)]
fn add<T: Real>(m: &mut [T], t: &[T], f: &[T]) {
    for (m, (t, f)) in m.iter_mut().zip(t.iter().zip(f)) {
        *m = *m + *t * *f;
    }
}

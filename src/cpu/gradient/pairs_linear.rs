//! Gradients of the linear terms of all pairs, of one side: with h\[p,s,k\] = Σ_t g\[p,s,t,k\]
//!
//! ```text
//!   dz[p,s][i] += Σ_k h[p,s,k] U[k][i]      dU[k][i] = Σ_ps h[p,s,k] z[p,s][i]      db[k] = Σ_ps h[p,s,k]
//! ```

use super::jobs::{Array, Call, Job, ROWS, Term, To};
use super::pairs::{Given, blocks, evenly};
use crate::cpu::cache::{part, parts};
use crate::cpu::kernels::add_into;
use crate::cpu::operand::Part;
use crate::cpu::pairs::{GENERATED, flat, rows_of};
use crate::cpu::product::{Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::{Result, View};

/// One side: its input [P, S, I] and its weights [K, I], and the gradient of y with this side's axis before the other's.
pub(super) struct Side<'a, T: Kernels> {
    pub(super) input: View<'a, T, 3>,
    pub(super) weights: Option<View<'a, T, 2>>,
    pub(super) given: Given<'a, T>,
}

impl<T: Kernels> Side<'_, T> {
    pub(super) fn run(
        &self,
        call: Call<T>,
        input: Option<To<T::Acc>>,
        weights: Option<To<T::Acc>>,
        bias: Option<To<T::Acc>>,
    ) -> Result<()> {
        if input.is_none() && weights.is_none() && bias.is_none() {
            return Ok(());
        }
        let [problems, s, _, outs] = self.given.g.shape();
        let features = self.input.shape()[2];
        let even = flat(self.input.shape(), self.input.strides()) && input.is_none_or(|to| evenly(to, s));
        let [pb, sb] = blocks(problems, s, ROWS, even);
        let kb = part(outs, GENERATED / (2 * pb * sb), call.table.mr).max(1);
        let ld = kb.next_multiple_of(call.table.mr) + 16;
        scratch::with([pb * sb * ld], |[sums]| {
            let sums = Array(Target::scratch(sums, ld));
            for p in parts(problems, pb, 1) {
                for s_part in parts(s, sb, 1) {
                    for k in parts(outs, kb, call.table.mr) {
                        let (rows, first) = (p.1 * s_part.1, p.0 == 0 && s_part.0 == 0);
                        call.tasks(rows, |product, row| {
                            let (p, s) = (p.0 + row / s_part.1, s_part.0 + row % s_part.1);
                            // SAFETY: a row of the scratch for each task; within g.
                            unsafe { self.sum(product, p, s, k, sums.at(row, 0).first) };
                        })?;
                        let from = rows_of(self.input, p, s_part);
                        let (to_k, r) = (|to: To<T::Acc>| to.rows(0, 0, 1), (0, k.1));
                        let dz = input.zip(self.weights).map(|(to, weights)| {
                            let lanes = Lanes::matrix(weights.slice_rows(k));
                            let terms = [Some(Term { rows: sums, lanes, linear: None }), None];
                            let add = to.add || k.0 > 0;
                            Job::Input { to: to.rows(p.0, s_part.0, s), add, terms, rows, columns: features, r }
                        });
                        let dweights = weights.map(|to| {
                            let Target { first: from_k, row_stride, column_stride, .. } = to_k(to).offset(k.0, 0);
                            let turned = Target {
                                first: from_k,
                                row_stride: column_stride,
                                column_stride: row_stride,
                                padded: false,
                            };
                            Job::Factor { to: turned, add: to.add || !first, input: from, lanes: sums, r }
                        });
                        let db = bias.map(|to| {
                            // A vector's stride is that of its elements.
                            let to_first = to_k(to).offset(k.0, 0);
                            let row = Target { column_stride: to_first.row_stride, ..to_first };
                            Job::Sum { to: row, add: to.add || !first, lanes: sums, rows: (rows, 1), r }
                        });
                        // SAFETY: the shapes agree, and the destinations are disjoint.
                        unsafe { call.jobs(&[dz, dweights, db])? };
                    }
                }
            }
            Ok(())
        })
    }

    /// Σ_t g of a row.
    unsafe fn sum(&self, product: &Product<T>, p: usize, s: usize, k: Part, to: *mut T::Acc) {
        let t = self.given.g.shape()[2];
        // SAFETY: see `run`; KC rows of ROWS columns can be staged.
        unsafe {
            std::slice::from_raw_parts_mut(to, k.1.next_multiple_of(product.table.lanes)).fill(T::Acc::default());
            for column in parts(k.1, ROWS, 1) {
                let to = std::slice::from_raw_parts_mut(to.add(column.0), column.1);
                for t in parts(t, product.kc, 1) {
                    let pitch = self.given.stage(p, [(s, 1), t, (k.0 + column.0, column.1)], product.staged);
                    for row in 0..t.1 {
                        add_into(to, std::slice::from_raw_parts(product.staged.add(row * pitch), column.1));
                    }
                }
            }
        }
    }
}

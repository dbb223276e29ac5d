//! Gradients of a CP layer of at most four rows: nothing is packed, the factors are read in place, once for P, Q and dH, and B
//! and C once more, out of a cache if they fit it, for dz and dx.
//!
//! ```text
//!   1.   P = zB   Q = xC   dH = gA                  rows of a factor added up            tasks: parts of the factors
//!   2.   H = P⊙Q⊙λ   DQ = dH⊙λ⊙Q   DP = dH⊙λ⊙P      dλ[r] = Σ_n dH·P·Q
//!   3.   dz = DQ Bᵀ + gU   dx = DP Cᵀ + gV          dots with rows of a factor           tasks: parts of the factors
//!        dA = gᵀH   dB = zᵀDQ   dC = xᵀDP           outer products
//! ```
//!
//! The factors are cut into a fixed number of parts, for one thread too; sums over them are added in order.

use super::cp::{Destinations, Factors, Needed};
use super::few::{PART, PARTS, add_linear};
use crate::cpu::cache::caches;
use crate::cpu::kernels::{Components, Outer, Sweep, add_into};
use crate::cpu::operand::Part;
use crate::cpu::output::Sink;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::scratch;
use crate::cpu::simd::{Accumulator, Kernels};
use crate::cpu::small::{self, copy_rows, pad};
use crate::{Result, View};

/// Whether [`run`] can compute these gradients, of factors whose components are contiguous.
pub(super) fn possible<T: Kernels>(p: &Factors<'_, T>, to: &Destinations<T::Acc>) -> bool {
    let [_, rank] = p.factors[0].shape();
    let unit = to.factors.iter().flatten().all(|to| rank == 1 || to.rows(0, 0, 1).column_stride == 1);
    let empty = rank == 0 || p.factors.iter().any(|factor| factor.shape()[0] == 0);
    (1..=small::ROWS).contains(&p.groups) && unit && !empty
}

/// The rows of a factor, cut into parts.
#[derive(Clone, Copy)]
struct Rows {
    len: usize,
    most: usize,
}

impl Rows {
    fn new(len: usize, rank: usize) -> Rows {
        let parts = (len.saturating_mul(rank) / PART).clamp(1, PARTS);
        Rows { len, most: len.div_ceil(parts) }
    }

    fn parts(self) -> usize {
        self.len.div_ceil(self.most)
    }

    fn part(self, index: usize) -> Part {
        let first = index * self.most;
        (first, self.most.min(self.len - first))
    }
}

/// Runs `task` with each part of the factors that are used: which factor, which part.
fn parts(
    threads: usize,
    rows: [Rows; 3],
    used: [bool; 3],
    task: impl Fn(usize, usize) -> Result<()> + Sync,
) -> Result<()> {
    let counts: [usize; 3] = std::array::from_fn(|of| if used[of] { rows[of].parts() } else { 0 });
    parallel::run(threads, counts.iter().sum(), |mut index| {
        for (of, count) in counts.into_iter().enumerate() {
            if index < count {
                return task(of, index);
            }
            index -= count;
        }
        Ok(())
    })
}

/// All of the gradients, where they are [`possible`], of the layer's `inputs` g, z and x, on so many threads.
pub(super) fn run<T: Kernels>(
    p: &Factors<'_, T>,
    inputs: [View<'_, T, 2>; 3],
    to: &Destinations<T::Acc>,
    threads: usize,
) -> Result<()> {
    let (n, table, [_, rank]) = (p.groups, p.table, p.factors[0].shape());
    let needed = Needed::of(to);
    // Throughout: A with g, B with z, C with x. Of these dH, P and Q are sums over rows, then H, DQ and DP lie there.
    let combined = [needed.d(), needed.p() && p.saved.is_none(), needed.q() && p.saved.is_none()];
    let dots = [false, to.z.is_some() || to.tied.is_some(), to.x.is_some() || to.tied.is_some()];
    let rows = p.factors.map(|factor| Rows::new(factor.shape()[0], rank));
    let written = to.factors.iter().zip(rows).filter(|(to, _)| to.is_some());
    let written = written.fold(0usize, |sum, (_, rows)| sum.saturating_add(rows.len.saturating_mul(rank)));
    let past = written.saturating_mul(size_of::<T::Acc>()) > caches().l3 / 2;
    // A whole vector can be read from any element on.
    let ld = pad(rank).saturating_add(16);
    let pads = rows.map(|rows| pad(rows.len));
    let [g_len, z_len, x_len] = pads.map(|pad| n.saturating_mul(pad));
    let [d_len, p_len, q_len] = rows.map(|rows| (n * rows.parts()).saturating_mul(ld));
    let lengths = [g_len, z_len, x_len, d_len, p_len, q_len, z_len, x_len, ld, ld];
    scratch::with(lengths, |[g, z, x, d_sums, p_sums, q_sums, dz, dx, lambda, d_lambda]| {
        let copies = [g, z, x].map(Shared::new);
        let sums = [d_sums, p_sums, q_sums].map(Shared::new);
        let results = [dz, dz, dx].map(Shared::new);
        let one = [T::Acc::ONE; small::ROWS];
        let nowhere = std::ptr::null_mut::<T::Acc>;
        // SAFETY: the scratch has these lengths, the operands' shapes agree, and tasks write sums and rows of their own.
        unsafe {
            let zero = |to: *mut T::Acc, len: usize| std::slice::from_raw_parts_mut(to, len).fill(T::Acc::default());
            for of in 0..3 {
                copy_rows(table, inputs[of], copies[of].get(), pads[of]);
            }
            let sweep = |of: usize, (first, rows): Part| Sweep {
                w: p.factors[of].slice_rows((first, rows)).as_ptr(),
                p_stride: 0,
                q_stride: p.factors[of].strides()[0],
                ps: 1,
                qs: rows,
                depth: rank,
                batch: n,
                inputs: [
                    (one.as_ptr(), 1),
                    (copies[of].get().add(first).cast_const(), pads[of]),
                    (sums[of].get().cast_const(), ld),
                ],
                sums: [nowhere(); 3],
                outer: None,
            };
            parts(threads, rows, combined, |of, part| {
                let to = sums[of].get().add(part * n * ld);
                zero(to, n * ld);
                (table.sweep)(&Sweep { sums: [nowhere(), nowhere(), to], ..sweep(of, rows[of].part(part)) });
                Ok(())
            })?;
            for (of, sums) in sums.iter().enumerate().filter(|(of, _)| combined[*of]) {
                let total = std::slice::from_raw_parts_mut(sums.get(), n * ld);
                for part in 1..rows[of].parts() {
                    add_into(total, std::slice::from_raw_parts(sums.get().add(part * n * ld), n * ld));
                }
            }

            zero(lambda, ld);
            zero(d_lambda, ld);
            for component in 0..rank {
                *lambda.add(component) = p.lambda.get([component]).unwrap_or_default().to_acc();
            }
            let saved = |of: usize| p.saved.map(|(saved, pitch)| (saved[of].as_ptr(), pitch));
            let (from_p, p_stride) = saved(0).unwrap_or((p_sums.cast_const(), ld));
            let (from_q, q_stride) = saved(1).unwrap_or((q_sums.cast_const(), ld));
            let given = |used: bool, from: *const T::Acc| if used { from } else { std::ptr::null() };
            let wanted = |used: bool, to: *mut T::Acc| if used { to } else { nowhere() };
            (table.arithmetic.components)(&Components {
                rows: n,
                columns: rank,
                p: given(needed.p(), from_p),
                p_stride,
                q: given(needed.q(), from_q),
                q_stride,
                d: given(needed.d(), d_sums.cast_const()),
                stride: ld,
                lambda,
                h: wanted(needed.h, d_sums),
                dq: wanted(needed.dq, p_sums),
                dp: wanted(needed.dp, q_sums),
                d_lambda: wanted(needed.lambda, d_lambda),
                dq_sum: nowhere(),
            });
            // Past the last component 0·∞ may have become NaN.
            for row in 0..n {
                for sums in [d_sums, p_sums, q_sums] {
                    zero(sums.add(row * ld + rank), ld - rank);
                }
            }
            if let Some(to) = to.lambda {
                for component in 0..rank {
                    let (place, sum) = (to.element(component), *d_lambda.add(component));
                    *place = if to.add { *place + sum } else { sum };
                }
            }

            zero(dz, z_len);
            zero(dx, x_len);
            let used = std::array::from_fn(|of| dots[of] || to.factors[of].is_some());
            parts(threads, rows, used, |of, part| {
                let part = rows[of].part(part);
                let outer = to.factors[of].map(|to| {
                    let rows = to.rows(part.0, 0, 1);
                    let past = past && !to.add;
                    Outer { to: rows.first, p_stride: 0, q_stride: rows.row_stride, add: to.add, past }
                });
                let dots = if dots[of] { results[of].get().add(part.0) } else { nowhere() };
                (table.sweep)(&Sweep { sums: [nowhere(), dots, nowhere()], outer, ..sweep(of, part) });
                Ok(())
            })?;
            for (of, weights) in [(1, p.u), (2, p.v)] {
                if let (Some(weights), true) = (weights, dots[of]) {
                    add_linear(table, weights, (g, pads[0]), n, (results[of].get(), pads[of]))?;
                }
            }
            let write = |to: Sink<T>, of: usize| {
                for row in 0..n {
                    let from = results[of].get().add(row * pads[of]);
                    to.write_row(row, std::slice::from_raw_parts(from, rows[of].len));
                }
            };
            for (of, to) in [(1, to.z), (2, to.x)] {
                if let Some(to) = to {
                    write(to.sink(), of);
                }
            }
            if let Some(to) = to.tied {
                write(to.sink(), 1);
                write(to.sink().adding(), 2);
            }
        }
        Ok(())
    })
}

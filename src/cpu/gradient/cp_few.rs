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

/// All of the gradients, where they are [`possible`], of the layer's `inputs` g, z and x, on so many threads.
pub(super) fn run<T: Kernels>(
    p: &Factors<'_, T>,
    inputs: [View<'_, T, 2>; 3],
    to: &Destinations<T::Acc>,
    threads: usize,
) -> Result<()> {
    let (n, [_, rank], needed) = (p.groups, p.factors[0].shape(), Needed::of(to));
    if !(needed.h || needed.d()) {
        return Ok(());
    }
    let rows = p.factors.map(|factor| Rows::new(factor.shape()[0], rank));
    // A whole vector can be read from any element on.
    let ld = pad(rank).saturating_add(16);
    let pads = rows.map(|rows| pad(rows.len));
    let [g_len, z_len, x_len] = pads.map(|pad| n.saturating_mul(pad));
    let [d_len, p_len, q_len] = rows.map(|rows| (n * rows.parts()).saturating_mul(ld));
    let lengths = [g_len, z_len, x_len, d_len, p_len, q_len, z_len, x_len, ld, ld];
    scratch::with(lengths, |[g, z, x, d_sums, p_sums, q_sums, dz, dx, lambda, d_lambda]| {
        let call = Call {
            p,
            to,
            needed,
            rank,
            rows,
            pads,
            ld,
            threads,
            copies: [g, z, x].map(Shared::new),
            sums: [d_sums, p_sums, q_sums].map(Shared::new),
            results: [dz, dx].map(Shared::new),
            one: [T::Acc::ONE; small::ROWS],
        };
        // SAFETY: the scratch has these lengths, and the operands' shapes agree.
        unsafe {
            for ((input, copy), pad) in inputs.into_iter().zip([g, z, x]).zip(pads) {
                copy_rows(p.table, input, copy, pad);
            }
            call.combine()?;
            call.components(lambda, d_lambda);
            call.apply()
        }
    })
}

fn zero<A: Copy + Default>(to: *mut A, len: usize) {
    // SAFETY: scratch of at least this length: the callers' contract.
    unsafe { std::slice::from_raw_parts_mut(to, len).fill(A::default()) }
}

/// Throughout, A goes with g, B with z and C with x.
struct Call<'a, T: Kernels> {
    p: &'a Factors<'a, T>,
    to: &'a Destinations<T::Acc>,
    needed: Needed,
    rank: usize,
    rows: [Rows; 3],
    /// Distances of rows of inputs, and of dz and dx.
    pads: [usize; 3],
    /// Distance of rows of components.
    ld: usize,
    threads: usize,
    copies: [Shared<T::Acc>; 3],
    /// dH, P and Q of each part, then in the place of the first ones H, DQ and DP.
    sums: [Shared<T::Acc>; 3],
    /// dz and dx.
    results: [Shared<T::Acc>; 2],
    one: [T::Acc; small::ROWS],
}

impl<T: Kernels> Call<'_, T> {
    /// Runs `task` with each part of the factors that are used: which factor, which part.
    fn parts(&self, used: [bool; 3], task: impl Fn(usize, usize) + Sync) -> Result<()> {
        let counts: [usize; 3] = std::array::from_fn(|of| if used[of] { self.rows[of].parts() } else { 0 });
        parallel::run(self.threads, counts.iter().sum(), |mut index| {
            for (of, count) in counts.into_iter().enumerate() {
                if index < count {
                    task(of, index);
                    break;
                }
                index -= count;
            }
            Ok(())
        })
    }

    /// These rows of a factor, of its input and of what is added up for it, or met by it, with nothing wanted yet.
    unsafe fn sweep(&self, of: usize, (first, rows): Part) -> Sweep<T, T::Acc> {
        let factor = self.p.factors[of];
        Sweep {
            w: factor.slice_rows((first, rows)).host_ptr(),
            p_stride: 0,
            q_stride: factor.strides()[0],
            ps: 1,
            qs: rows,
            depth: self.rank,
            batch: self.p.groups,
            inputs: [
                (self.one.as_ptr(), 1),
                (self.copies[of].get().wrapping_add(first).cast_const(), self.pads[of]),
                (self.sums[of].get().cast_const(), self.ld),
            ],
            sums: [std::ptr::null_mut(); 3],
            outer: None,
        }
    }

    /// dH, P and Q: those that are needed and not saved.
    unsafe fn combine(&self) -> Result<()> {
        let (needed, saved, len) = (self.needed, self.p.saved.is_some(), self.p.groups * self.ld);
        let used = [needed.d(), needed.p() && !saved, needed.q() && !saved];
        // SAFETY: see `run`; each part has sums of its own.
        unsafe {
            self.parts(used, |of, part| {
                let to = self.sums[of].get().add(part * len);
                zero(to, len);
                let sums = [std::ptr::null_mut(), std::ptr::null_mut(), to];
                (self.p.table.sweep)(&Sweep { sums, ..self.sweep(of, self.rows[of].part(part)) });
            })?;
            for of in (0..3).filter(|&of| used[of]) {
                let sums = self.sums[of].get();
                for part in 1..self.rows[of].parts() {
                    let from = std::slice::from_raw_parts(sums.add(part * len), len);
                    add_into(std::slice::from_raw_parts_mut(sums, len), from);
                }
            }
        }
        Ok(())
    }

    /// H, DQ and DP, and dλ to where it goes.
    unsafe fn components(&self, lambda: *mut T::Acc, d_lambda: *mut T::Acc) {
        let (p, needed, ld) = (self.p, self.needed, self.ld);
        let [of_a, of_b, of_c] = self.sums.map(|sums| sums.get());
        let saved = |of: usize| p.saved.map(|(saved, pitch)| (saved[of].as_ptr(), pitch));
        let (from_p, p_stride) = saved(0).unwrap_or((of_b.cast_const(), ld));
        let (from_q, q_stride) = saved(1).unwrap_or((of_c.cast_const(), ld));
        let given = |used: bool, from: *const T::Acc| if used { from } else { std::ptr::null() };
        let wanted = |used: bool, to: *mut T::Acc| if used { to } else { std::ptr::null_mut() };
        zero(lambda, ld);
        zero(d_lambda, ld);
        // SAFETY: see `run`.
        unsafe {
            for component in 0..self.rank {
                *lambda.add(component) = p.lambda.get([component]).unwrap_or_default().to_acc();
            }
            (p.table.arithmetic.components)(&Components {
                rows: p.groups,
                columns: self.rank,
                p: given(needed.p(), from_p),
                p_stride,
                q: given(needed.q(), from_q),
                q_stride,
                d: given(needed.d(), of_a.cast_const()),
                stride: ld,
                lambda,
                h: wanted(needed.h, of_a),
                dq: wanted(needed.dq, of_b),
                dp: wanted(needed.dp, of_c),
                d_lambda: wanted(needed.lambda, d_lambda),
                dq_sum: std::ptr::null_mut(),
            });
            // Past the last component 0·∞ may have become NaN.
            for row in 0..p.groups {
                for sums in [of_a, of_b, of_c] {
                    zero(sums.add(row * ld + self.rank), ld - self.rank);
                }
            }
            if let Some(to) = self.to.lambda {
                for component in 0..self.rank {
                    let (place, sum) = (to.element(component), *d_lambda.add(component));
                    *place = if to.add { *place + sum } else { sum };
                }
            }
        }
    }

    /// Whether dA, dB and dC together do not fit the caches.
    fn past(&self) -> bool {
        let written = self.to.factors.iter().zip(self.rows).filter(|(to, _)| to.is_some());
        let elements = written.map(|(_, rows)| rows.len.saturating_mul(self.rank)).fold(0, usize::saturating_add);
        elements.saturating_mul(size_of::<T::Acc>()) > caches().l3 / 2
    }

    /// dz, dx, dA, dB and dC.
    unsafe fn apply(&self) -> Result<()> {
        let (p, to, n, past) = (self.p, self.to, self.p.groups, self.past());
        let [dz, dx] = self.results.map(|results| results.get());
        let dots = [None, to.z.or(to.tied).map(|_| self.results[0]), to.x.or(to.tied).map(|_| self.results[1])];
        let used = std::array::from_fn(|of| dots[of].is_some() || to.factors[of].is_some());
        zero(dz, n * self.pads[1]);
        zero(dx, n * self.pads[2]);
        // SAFETY: see `run`; tasks write rows of their own.
        unsafe {
            self.parts(used, |of, part| {
                let rows = self.rows[of].part(part);
                let outer = to.factors[of].map(|to| {
                    let target = to.rows(rows.0, 0, 1);
                    let past = past && !to.add;
                    Outer { to: target.first, p_stride: 0, q_stride: target.row_stride, add: to.add, past }
                });
                let dots = dots[of].map_or(std::ptr::null_mut(), |results| results.get().add(rows.0));
                let sums = [std::ptr::null_mut(), dots, std::ptr::null_mut()];
                (p.table.sweep)(&Sweep { sums, outer, ..self.sweep(of, rows) });
            })?;
            let g = (self.copies[0].get().cast_const(), self.pads[0]);
            for (of, weights) in [(1, p.u), (2, p.v)] {
                if let (Some(weights), Some(results)) = (weights, dots[of]) {
                    add_linear(p.table, weights, g, n, (results.get(), self.pads[of]))?;
                }
            }
            let write = |to: Sink<T>, (from, of): (*mut T::Acc, usize)| {
                for row in 0..n {
                    to.write_row(row, std::slice::from_raw_parts(from.add(row * self.pads[of]), self.rows[of].len));
                }
            };
            if let Some(to) = to.z {
                write(to.sink(), (dz, 1));
            }
            if let Some(to) = to.x {
                write(to.sink(), (dx, 2));
            }
            if let Some(to) = to.tied {
                write(to.sink(), (dz, 1));
                write(to.sink().adding(), (dx, 2));
            }
        }
        Ok(())
    }
}

//! Gradients of all pairs of a CP layer: with P = zB, Q = xC and W′\[s,k\] = λ ⊙ A\[k\] ⊙ P\[s\],
//!
//! ```text
//!   dW′[s,k] = Σ_t g[s,t,k] Q[t]      dQ[t] = Σ_sk g[s,t,k] W′[s,k]                        pairs.rs
//!   dP[s]    = Σ_k λ ⊙ A[k] ⊙ dW′[s,k]      dA[k] = Σ_s λ ⊙ P[s] ⊙ dW′[s,k]      dλ = Σ_sk A[k] ⊙ P[s] ⊙ dW′[s,k]
//!   dz = dP Bᵀ      dB = zᵀ dP      dx = dQ Cᵀ      dC = xᵀ dQ
//!
//!   loop 4   blocks of problems, or of rows s and t of one        P, Q, dP and dQ, each of at most 1 MiB of f32
//!   loop 3     outputs k                                          W′ and dW′, the same
//! ```

use super::jobs::{Array, Call, Job, ROWS, Term, To};
use super::pairs::{Given, Meeting, Span, blocks, cut, evenly};
use crate::cpu::cache::{part, parts};
use crate::cpu::kernels::{Components, Epilogue, Hadamard};
use crate::cpu::operand::Part;
use crate::cpu::pairs::{GENERATED, Pairs, flat, rows_of};
use crate::cpu::product::{Lanes, Target};
use crate::cpu::scratch;
use crate::cpu::simd::{Accumulator, Kernels};
use crate::cpu::small::copy_rows;
use crate::interaction::Core;
use crate::{Result, View};

/// Rows of P, and of Q, in a block.
const MOST_ROWS: usize = 1024;
/// Rows of P whose share of dλ is one sum.
const LAMBDA_ROWS: usize = 16;

/// dz and dx, dA, dB and dC, and dλ.
pub(super) fn run<T: Kernels>(
    pairs: &Pairs<'_, T>,
    given: Given<'_, T>,
    call: Call<T>,
    [dz, dx]: [Option<To<T::Acc>>; 2],
    [da, db, dc]: [Option<To<T::Acc>>; 3],
    dlambda: Option<To<T::Acc>>,
) -> Result<()> {
    let Core::Cp { a, b, c, lambda } = pairs.core else { return Ok(()) };
    let needed = Needed {
        p: dz.is_some() || db.is_some(),
        a: da.is_some(),
        lambda: dlambda.is_some(),
        q: dx.is_some() || dc.is_some(),
    };
    if !(needed.weights() || needed.q) {
        return Ok(());
    }
    let ([problems, s, t, outs], rank, table) = (pairs.sizes, a.shape()[1], call.table);
    let ld = rank.next_multiple_of(table.mr) + 16;
    let most = (GENERATED / ld).clamp(1, MOST_ROWS);
    let even = |view: View<'_, T, 3>| flat(view.shape(), view.strides());
    let even = even(pairs.z) && even(pairs.x) && dz.is_none_or(|to| evenly(to, s)) && dx.is_none_or(|to| evenly(to, t));
    let [pb, _] = blocks(problems, s.max(t), most, even);
    let [sb, tb] = if pb > 1 { [s, t] } else { [s, t].map(|len| part(len, most, 1).max(1)) };
    let kb = part(outs, (GENERATED / ld / (pb * sb)).max(1), 1).max(1);
    let (s_rows, t_rows) = (pb * sb, pb * tb);
    let when = |used: bool, len: usize| if used { len } else { 0 };
    let lengths = [
        s_rows * ld,
        t_rows * ld,
        when(needed.weights(), s_rows * ld),
        when(needed.q, t_rows * ld),
        when(needed.q, s_rows * kb * ld),
        when(needed.weights(), s_rows * kb * ld),
        kb * ld,
        when(needed.a, kb * ld),
        s_rows.div_ceil(LAMBDA_ROWS) * ld,
        ld,
    ];
    scratch::with::<T::Acc, 10, _>(lengths, |[p, q, dp, dq, generated, weights, a_rows, da_rows, d_lambda, scale]| {
        let [p, q, dp, dq, a_rows, da_rows, d_lambda] =
            [p, q, dp, dq, a_rows, da_rows, d_lambda].map(|first| Array(Target::scratch(first, ld)));
        let (z_columns, x_columns) = (pairs.z.shape()[2], pairs.x.shape()[2]);
        let r = (0, rank);
        // SAFETY: the scratch has the lengths of the blocks, and all shapes agree; here and below.
        unsafe {
            for r in 0..ld {
                *scale.add(r) = match lambda {
                    Some(lambda) => lambda.get([r]).map_or(T::Acc::default(), T::to_acc),
                    None => T::Acc::ONE,
                };
            }
        }
        for problems in parts(problems, pb, 1) {
            for s_part in parts(s, sb, 1) {
                for t_part in parts(t, tb, 1) {
                    let first = problems.0 == 0 && s_part.0 == 0 && t_part.0 == 0;
                    let (z, x) = (rows_of(pairs.z, problems, s_part), rows_of(pairs.x, problems, t_part));
                    let (s_rows, t_rows) = (z.shape()[0], x.shape()[0]);
                    // SAFETY: as above.
                    unsafe {
                        call.project(z, Lanes::matrix(b), r, p)?;
                        call.project(x, Lanes::matrix(c), r, q)?;
                        let zero = |to: Array<T::Acc>, len| {
                            std::slice::from_raw_parts_mut(to.at(0, 0).first, len).fill(T::Acc::default());
                        };
                        zero(dp, when(needed.weights(), s_rows * ld));
                        zero(dq, when(needed.q, t_rows * ld));
                        zero(d_lambda, s_rows.div_ceil(LAMBDA_ROWS) * ld);
                        for k in parts(outs, kb, 1) {
                            copy_rows(table, a.slice_rows(k), a_rows.at(0, 0).first, ld);
                            let span = Span { p: problems, s: s_part, t: t_part, k };
                            let [generated, weights] =
                                [generated, weights].map(|first| Array(Target::scratch(first, k.1 * ld)));
                            let block = Block {
                                call,
                                needed,
                                meeting: Meeting { given, span, width: rank, ld },
                                p,
                                q,
                                dp,
                                dq,
                                generated,
                                weights,
                                a: a_rows,
                                da: da_rows,
                                d_lambda,
                                scale: Array(Target::scratch(scale, ld)),
                            };
                            block.form(s_rows)?;
                            block.apply(s_rows)?;
                            if let Some(to) = da {
                                let rows = to.rows(0, 0, 1).offset(k.0, 0);
                                write(da_rows, [k.1, rank], rows, to.add || !first);
                            }
                        }
                        if let Some(to) = dlambda {
                            for r in 0..rank {
                                let place = to.element(r);
                                let before = if to.add || !first { *place } else { T::Acc::default() };
                                let chunks = 0..s_rows.div_ceil(LAMBDA_ROWS);
                                *place = chunks.fold(before, |sum, chunk| sum + *d_lambda.at(chunk, r).first);
                            }
                        }
                        let term = |rows, lanes| [Some(Term { rows, lanes, linear: None }), None];
                        let (bt, ct) = (Lanes::matrix(b.transpose()), Lanes::matrix(c.transpose()));
                        call.jobs(&[
                            dz.map(|to| Job::Input {
                                to: to.rows(problems.0, s_part.0, s),
                                add: to.add || t_part.0 > 0,
                                terms: term(dp, bt),
                                rows: s_rows,
                                columns: z_columns,
                                r,
                            }),
                            dx.map(|to| Job::Input {
                                to: to.rows(problems.0, t_part.0, t),
                                add: to.add || s_part.0 > 0,
                                terms: term(dq, ct),
                                rows: t_rows,
                                columns: x_columns,
                                r,
                            }),
                            db.map(|to| Job::Factor {
                                to: to.rows(0, 0, 1),
                                add: to.add || !first,
                                input: z,
                                lanes: dp,
                                r,
                            }),
                            dc.map(|to| Job::Factor {
                                to: to.rows(0, 0, 1),
                                add: to.add || !first,
                                input: x,
                                lanes: dq,
                                r,
                            }),
                        ])?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// What has to be computed.
#[derive(Clone, Copy)]
struct Needed {
    p: bool,
    a: bool,
    lambda: bool,
    q: bool,
}

impl Needed {
    /// dW′.
    fn weights(&self) -> bool {
        self.p || self.a || self.lambda
    }
}

/// Some outputs of a block of problems or rows.
struct Block<'a, T: Kernels> {
    call: Call<T>,
    needed: Needed,
    meeting: Meeting<'a, T>,
    p: Array<T::Acc>,
    q: Array<T::Acc>,
    dp: Array<T::Acc>,
    dq: Array<T::Acc>,
    /// W′ and dW′.
    generated: Array<T::Acc>,
    weights: Array<T::Acc>,
    a: Array<T::Acc>,
    da: Array<T::Acc>,
    /// Of [`LAMBDA_ROWS`] rows of P each.
    d_lambda: Array<T::Acc>,
    /// λ, one row.
    scale: Array<T::Acc>,
}

impl<T: Kernels> Block<'_, T> {
    /// dW′ and W′.
    unsafe fn form(&self, rows: usize) -> Result<()> {
        let (table, Meeting { span, width, ld, .. }) = (self.call.table, self.meeting);
        let first = if self.needed.weights() { self.meeting.tasks(table.nr) } else { 0 };
        let each = cut(&self.call, rows, 1, 1);
        let second = if self.needed.q { rows.div_ceil(each) } else { 0 };
        self.call.tasks(first + second, |product, index| {
            // SAFETY: see `run`; each task has rows of its own.
            unsafe {
                if index < first {
                    let lanes = |problem: usize, n: Part, column: usize| {
                        let vectors = (width - column).min(table.mr).div_ceil(table.lanes);
                        (self.q.at(problem * span.t.1 + n.0, column).first.cast_const(), ld as isize, vectors)
                    };
                    return self.meeting.gradient(product, index, lanes, self.weights);
                }
                for row in (index - first) * each..((index - first + 1) * each).min(rows) {
                    (table.arithmetic.hadamard)(&Hadamard {
                        to: self.generated.at(row, 0).first,
                        to_stride: ld,
                        factors: [(self.p.at(row, 0).first.cast_const(), 0), (self.a.at(0, 0).first.cast_const(), ld)],
                        scale: self.scale.at(0, 0).first,
                        rows: span.k.1,
                        columns: width,
                    });
                }
            }
        })
    }

    /// dQ, dP, dλ and dA.
    unsafe fn apply(&self, rows: usize) -> Result<()> {
        let (table, Meeting { span, width, ld, .. }) = (self.call.table, self.meeting);
        let t_each = cut(&self.call, span.t.1, span.p.1, table.nr).min(part(span.t.1, ROWS, table.nr).max(1));
        let t_cuts = span.t.1.div_ceil(t_each);
        let counts = [
            if self.needed.q { span.p.1 * t_cuts } else { 0 },
            if self.needed.p || self.needed.lambda { rows.div_ceil(LAMBDA_ROWS) } else { 0 },
            if self.needed.a { span.k.1 } else { 0 },
        ];
        let components = |rows, p: (*const T::Acc, usize), q: (*const T::Acc, usize), d, stride| Components {
            rows,
            columns: width,
            p: p.0,
            p_stride: p.1,
            q: q.0,
            q_stride: q.1,
            d,
            stride,
            lambda: self.scale.at(0, 0).first,
            h: std::ptr::null_mut(),
            dq: std::ptr::null_mut(),
            dp: std::ptr::null_mut(),
            d_lambda: std::ptr::null_mut(),
            dq_sum: std::ptr::null_mut(),
        };
        self.call.tasks(counts.iter().sum(), |product, index| {
            // SAFETY: see `run`; each task has rows of its own.
            unsafe {
                if index < counts[0] {
                    let (problem, t0) = (index / t_cuts, index % t_cuts * t_each);
                    let t = (t0, t_each.min(span.t.1 - t0));
                    let to = Target::scratch(self.dq.at(problem * span.t.1 + t0, 0).first, ld);
                    return self.meeting.back(product, (problem, t), self.generated, to, Epilogue::Add);
                }
                let index = index - counts[0];
                if index < counts[1] {
                    for row in index * LAMBDA_ROWS..((index + 1) * LAMBDA_ROWS).min(rows) {
                        let p = (self.p.at(row, 0).first.cast_const(), 0);
                        let a = (self.a.at(0, 0).first.cast_const(), ld);
                        let d = self.weights.at(row, 0).first.cast_const();
                        (table.arithmetic.components)(&Components {
                            d_lambda: self.d_lambda.at(index, 0).first,
                            dq_sum: self.dp.at(row, 0).first,
                            ..components(span.k.1, p, a, d, ld)
                        });
                    }
                    return;
                }
                let k = index - counts[1];
                let to = self.da.at(k, 0).first;
                std::slice::from_raw_parts_mut(to, ld).fill(T::Acc::default());
                let a = (self.a.at(k, 0).first.cast_const(), 0);
                let p = (self.p.at(0, 0).first.cast_const(), ld);
                let d = self.weights.at(0, k * ld);
                (table.arithmetic.components)(&Components {
                    dq_sum: to,
                    ..components(rows, a, p, d.first.cast_const(), d.row_stride as usize)
                });
            }
        })
    }
}

/// Rows of scratch to a destination.
unsafe fn write<A: Accumulator>(from: Array<A>, [rows, columns]: [usize; 2], to: Target<A>, add: bool) {
    for row in 0..rows {
        for column in 0..columns {
            let place = to.offset(row, column).first;
            // SAFETY: see `run`.
            unsafe {
                let value = *from.at(row, column).first;
                *place = if add { *place + value } else { value };
            }
        }
    }
}

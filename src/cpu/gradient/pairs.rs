//! Gradients of all pairs, y\[p,s,t,k\] = Σ_d W′\[p,s,k\]\[d\] X\[p,t\]\[d\] + …: with g the gradient of y,
//!
//! ```text
//!   dW′[s,k][d] = Σ_t  g[s,t,k] X[t][d]        rows (s, k), depth t, lanes d          g is staged as [t][(s, k)]
//!   dX[t][d]    = Σ_sk g[s,t,k] W′[s,k][d]     rows t, depth (s, k), lanes d
//! ```
//!
//! of each problem p, and from dW′ the gradients of what W′ was made of:
//!
//! ```text
//!   dense   X = x, W′ = zᵀW              dz[s][i]  = Σ_kj dW′[s,k][j] W[k][i][j]     dW[k][i][j] = Σ_s z[s][i] dW′[s,k][j]
//!   CP      X = xC, W′ = λ ⊙ A[k] ⊙ zB   pairs_cp.rs
//!   linear  of Σ_t g with z, and of Σ_s g with x                                     pairs_linear.rs
//! ```
//!
//! Blocks of rows (p, s) × outputs k are taken in order, for each one list of tasks that form W′ and dW′ and one that use them.
//! They do not depend on the number of threads, and no sum is shared.

use super::jobs::{Array, Call, ROWS, To, factor};
use crate::cpu::cache::{caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, gather};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::pairs::{GENERATED, Pairs, flat, rows_of};
use crate::cpu::product::{Block, IN_PLACE_ROWS, Lanes, Product, Target};
use crate::cpu::simd::Kernels;
use crate::cpu::{forms, parallel, plan, scratch};
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted};
use crate::{Element, Interaction, Result, View};

/// The gradients of all pairs; each term of g is multiplied by `scale`.
pub(crate) fn backward_pairs<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 4>,
    wanted: Wanted<'_, T, 3, 3>,
    scale: f64,
) -> Result<()> {
    if g.is_empty() {
        return Ok(());
    }
    if matches!(layer.core, Core::Blocks(_)) {
        return forms::backward_pairs(layer, z, x, g, wanted); // which are not scaled: check_reduced
    }
    let context = layer.context()?;
    let [p, s, t, _] = g.shape();
    let threads = parallel::threads(&context, plan::pairs_flops(layer, [p, s, t]) as f64);
    let pairs = Pairs::new(layer, &context, z, x)?;
    let swap = pairs.prefers_swap();
    let pairs = if swap { pairs.swap() } else { pairs };
    let given = Given { g: if swap { g.permute([0, 2, 1, 3])? } else { g }, scale: T::Accumulator::from_f64(scale) };
    let kc = caches().kc(pairs.table);
    let all = pairs.sizes[0].saturating_mul(pairs.sizes[1]);
    let call = Call { table: pairs.table, kc, few: all <= IN_PLACE_ROWS, threads };
    let (dz, dx) = if swap { (wanted.x, wanted.z) } else { (wanted.z, wanted.x) };
    let (du, dv) = if swap { (wanted.v, wanted.u) } else { (wanted.u, wanted.v) };
    let (mut dz, mut dx) = (dz.map(To::batch), dx.map(To::batch));
    let dw = wanted.w.map(|Gradient { to, add }| -> Result<_> {
        let to = if swap { to.permute([0, 2, 1])? } else { to };
        Ok(To::batch(Gradient { to, add }))
    });
    let dw = dw.transpose()?;
    // What comes later is added to what is there by then.
    let added = |to: Option<To<T::Acc>>| {
        to.map(|mut to| {
            to.add = true;
            to
        })
    };
    if let Core::Dense(w) = pairs.core {
        Dense { pairs: &pairs, given, call, w: Some(w) }.run([dz, dx, dw])?;
        (dz, dx) = (added(dz), added(dx));
    } else if dw.is_some() {
        Dense { pairs: &pairs, given, call, w: None }.run([None, None, dw])?;
    }
    if matches!(pairs.core, Core::Cp { .. }) {
        let [da, db, dc] = [wanted.cp.a, wanted.cp.b, wanted.cp.c].map(|to| to.map(To::matrix));
        let factors = if swap { [da, dc, db] } else { [da, db, dc] };
        super::pairs_cp::run(&pairs, given, call, [dz, dx], factors, wanted.cp.lambda.map(To::vector))?;
        (dz, dx) = (added(dz), added(dx));
    }
    let of_z = super::pairs_linear::Side { input: pairs.z, weights: pairs.u, given };
    of_z.run(call, dz.filter(|_| pairs.u.is_some()), du.map(To::matrix), wanted.b.map(To::vector))?;
    let given = Given { g: given.g.permute([0, 2, 1, 3])?, ..given };
    let of_x = super::pairs_linear::Side { input: pairs.x, weights: pairs.v, given };
    of_x.run(call, dx.filter(|_| pairs.v.is_some()), dv.map(To::matrix), None)
}

/// The gradients of the sum of all problems' pairs times `scale`, and b, for `g` [S, T, K].
pub(crate) fn backward_pairs_reduced<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 3>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    mut wanted: Wanted<'_, T, 3, 3>,
    scale: f64,
) -> Result<()> {
    let ([s, t, k], [ss, st, sk]) = (g.shape(), g.strides());
    // All problems have the same gradient, ...
    // SAFETY: the elements of g, again for each problem.
    let of = |problems: usize| unsafe { View::from_raw_parts(g.host_ptr(), [problems, s, t, k], [0, ss, st, sk]) };
    // ... but b is there once.
    if let Some(bias) = wanted.b.take() {
        let context = layer.context()?;
        let none = View::strided(&[], 0, [1, s, 0], [0; 3])?;
        let table = T::table(context.capability());
        let call = Call { table, kc: caches().kc(table), few: true, threads: 1 };
        let given = Given { g: of(1), scale: T::Accumulator::from_f64(1.0) };
        let side = super::pairs_linear::Side { input: none, weights: None, given };
        side.run(call, None, None, Some(To::vector(bias)))?;
    }
    backward_pairs(layer, z, x, of(z.shape()[0]), wanted, scale)
}

/// The gradient of y [P, S, T, K], and what it is multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Given<'a, T: Kernels> {
    pub(super) g: View<'a, T, 4>,
    pub(super) scale: T::Acc,
}

impl<T: Kernels> Given<'_, T> {
    /// Part of a problem as rows t of columns (s, k), so far apart.
    ///
    /// # Safety
    ///
    /// All within g; room at `to` for t rows of s·k + 16.
    pub(super) unsafe fn stage(&self, problem: usize, [s, t, k]: [Part; 3], to: *mut T::Acc) -> usize {
        let [gp, gs, gt, gk] = self.g.strides();
        let pitch = s.1 * k.1 + 16;
        let [p, s0, t0, k0] = [problem, s.0, t.0, k.0].map(|index| index as isize);
        let offset = p.wrapping_mul(gp).wrapping_add(s0.wrapping_mul(gs));
        let offset = offset.wrapping_add(t0.wrapping_mul(gt)).wrapping_add(k0.wrapping_mul(gk));
        let (from, scaled) = (self.g.host_ptr().wrapping_offset(offset), |value: T| value.to_acc() * self.scale);
        // SAFETY: the caller's contract.
        unsafe {
            if k.1 == 1 {
                gather(from, (gt, gs), (t.1, s.1), to, pitch, scaled);
                return pitch;
            }
            for row in 0..s.1 {
                let from = from.wrapping_offset((row as isize).wrapping_mul(gs));
                gather(from, (gt, gk), (t.1, k.1), to.add(row * k.1), pitch, scaled);
            }
        }
        pitch
    }
}

/// A block: problems, rows of z and of x of each, outputs.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) p: Part,
    pub(super) s: Part,
    pub(super) t: Part,
    pub(super) k: Part,
}

/// dW′ and dX of a block, whose W′ and dW′ have rows (s, k) of so many elements, `ld` apart.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'a, T: Kernels> {
    pub(super) given: Given<'a, T>,
    pub(super) span: Span,
    pub(super) width: usize,
    pub(super) ld: usize,
}

impl<T: Kernels> Meeting<'_, T> {
    /// Rows of z, and outputs, of a task of dW′.
    fn cut(&self, nr: usize) -> [usize; 2] {
        let (s, k) = (self.span.s.1, self.span.k.1);
        [part(s, (ROWS / k).max(1), 1).max(1), part(k, ROWS, nr).max(1)]
    }

    /// Tasks that dW′ is made by.
    pub(super) fn tasks(&self, nr: usize) -> usize {
        let [s, k] = self.cut(nr);
        self.span.p.1 * self.span.s.1.div_ceil(s) * self.span.k.1.div_ceil(k)
    }

    /// dW′, a task's part. `lanes` tells where rows of X of a problem are, from a column on: pointer, distance, vectors.
    ///
    /// # Safety
    ///
    /// `weights` has a row for each row of z; the rest as [`Product::run`].
    pub(super) unsafe fn gradient(
        &self,
        product: &Product<T>,
        index: usize,
        lanes: impl Fn(usize, Part, usize) -> (*const T::Acc, isize, usize),
        weights: Array<T::Acc>,
    ) {
        let (span, table) = (self.span, product.table);
        let [sc, kc] = self.cut(table.nr);
        let (k_cuts, s_cuts) = (span.k.1.div_ceil(kc), span.s.1.div_ceil(sc));
        let (k0, s0, p) = (index % k_cuts * kc, index / k_cuts % s_cuts * sc, index / k_cuts / s_cuts);
        let (s, k) = ((s0, sc.min(span.s.1 - s0)), (k0, kc.min(span.k.1 - k0)));
        let to = weights.at(p * span.s.1 + s.0, k.0 * self.ld).first;
        let to = Target::scratch(to, self.ld);
        let mut epilogue = Epilogue::Set;
        for n in parts(span.t.1, product.kc, table.lanes) {
            let staged = [(span.s.0 + s.0, s.1), (span.t.0 + n.0, n.1), (span.k.0 + k.0, k.1)];
            // SAFETY: the caller's contract.
            unsafe {
                let b_step = self.given.stage(span.p.0 + p, staged, product.staged) as isize;
                for column in (0..self.width).step_by(table.mr) {
                    let lanes = lanes(p, n, column);
                    let gemm = product_of::<T>(lanes, (product.staged, 1, b_step), s.1 * k.1, n.1);
                    product.store(&gemm, self.width - column, to.offset(0, column), epilogue);
                }
            }
            epilogue = Epilogue::Add;
        }
    }

    /// dX of some rows t of a problem, both counted from those of the block.
    ///
    /// # Safety
    ///
    /// As [`gradient`](Self::gradient); `to` has the rows.
    pub(super) unsafe fn back(
        &self,
        product: &Product<T>,
        (p, t): (usize, Part),
        generated: Array<T::Acc>,
        to: Target<T::Acc>,
        mut epilogue: Epilogue,
    ) {
        let (span, table) = (self.span, product.table);
        for s in parts(span.s.1, (product.kc / span.k.1).max(1), 1) {
            for k in parts(span.k.1, product.kc, table.lanes) {
                let staged = [(span.s.0 + s.0, s.1), (span.t.0 + t.0, t.1), (span.k.0 + k.0, k.1)];
                // SAFETY: the caller's contract.
                unsafe {
                    let b_stride = self.given.stage(span.p.0 + p, staged, product.staged) as isize;
                    for column in (0..self.width).step_by(table.mr) {
                        let left = self.width - column;
                        let lanes = generated.at(p * span.s.1 + s.0, k.0 * self.ld + column).first.cast_const();
                        let lanes = (lanes, self.ld as isize, left.min(table.mr).div_ceil(table.lanes));
                        let gemm = product_of::<T>(lanes, (product.staged, b_stride, 1), t.1, s.1 * k.1);
                        product.store(&gemm, left, to.offset(0, column), epilogue);
                    }
                }
                epilogue = Epilogue::Add;
            }
        }
    }
}

fn product_of<T: Kernels>(
    (a, a_stride, vectors): (*const T::Acc, isize, usize),
    (b, b_stride, b_step): (*mut T::Acc, isize, isize),
    rows: usize,
    depth: usize,
) -> Gemm<T::Acc> {
    let (out, epilogue, fetch) = (std::ptr::null_mut(), Epilogue::Set, Fetch::Nothing);
    Gemm { a, a_stride, vectors, b, b_stride, b_step, rows, depth, out, out_stride: 0, epilogue, fetch }
}

/// How an axis of so many is cut into tasks, of which one thread needs one only: the size of each.
pub(super) fn cut<T: Kernels>(call: &Call<T>, len: usize, others: usize, unit: usize) -> usize {
    let wanted = if call.threads > 1 { (4 * call.threads).div_ceil(others.max(1)) } else { 1 };
    part(len, len.div_ceil(wanted).max(unit), unit).max(1)
}

/// Whether the rows of all problems of a destination are evenly spaced.
pub(super) fn evenly<A>(to: To<A>, rows: usize) -> bool {
    rows == 1 || to.flat(rows)
}

/// Problems and rows of each in a block of at most `most` rows: of several problems all rows, if theirs are evenly spaced.
pub(super) fn blocks(problems: usize, rows: usize, most: usize, even: bool) -> [usize; 2] {
    if even && 2 * rows <= most {
        return [part(problems, most / rows.max(1), 1).max(1), rows];
    }
    [1, part(rows, most, 1).max(1)]
}

/// dz, dx and dW of dense W; dW alone of no W.
struct Dense<'a, T: Kernels> {
    pairs: &'a Pairs<'a, T>,
    given: Given<'a, T>,
    call: Call<T>,
    w: Option<View<'a, T, 3>>,
}

impl<T: Kernels> Dense<'_, T> {
    fn run(&self, [dz, dx, dw]: [Option<To<T::Acc>>; 3]) -> Result<()> {
        let (p, [problems, s, t, outs]) = (self.pairs, self.pairs.sizes);
        let (table, width) = (p.table, p.x.shape()[2]);
        let weights = dz.is_some() || dw.is_some();
        if !weights && dx.is_none() {
            return Ok(());
        }
        let ld = width.next_multiple_of(table.mr) + 16;
        let most = (GENERATED / ld).max(1);
        let even = flat(p.z.shape(), p.z.strides()) && dz.is_none_or(|to| evenly(to, s));
        let [pb, sb] = blocks(problems, s, most.min(ROWS), even);
        let kb = part(outs, (most / (pb * sb)).max(1), 1).max(1);
        let len = |used: bool| if used { pb * sb * kb * ld } else { 0 };
        scratch::with([len(weights), len(dx.is_some())], |[weights, generated]| {
            for problems in parts(problems, pb, 1) {
                for s in parts(s, sb, 1) {
                    for k in parts(outs, kb, 1) {
                        let span = Span { p: problems, s, t: (0, t), k };
                        let [weights, generated] =
                            [weights, generated].map(|first| Array(Target::scratch(first, k.1 * ld)));
                        let meeting = Meeting { given: self.given, span, width, ld };
                        // SAFETY: the scratch has the lengths of the blocks, and all shapes agree.
                        unsafe {
                            self.form(meeting, [dz.is_some() || dw.is_some(), dx.is_some()], weights, generated)?;
                            self.apply(meeting, [dz, dx, dw], weights, generated)?;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// dW′ and W′ of a block.
    unsafe fn form(
        &self,
        meeting: Meeting<'_, T>,
        [weights_wanted, generated_wanted]: [bool; 2],
        weights: Array<T::Acc>,
        generated: Array<T::Acc>,
    ) -> Result<()> {
        let (p, table, Meeting { span, width, ld, .. }) = (self.pairs, self.pairs.table, meeting);
        let first = if weights_wanted { meeting.tasks(table.nr) } else { 0 };
        let columns = cut(&self.call, width, span.k.1, table.mr);
        let cuts = width.div_ceil(columns);
        let second = if generated_wanted { span.k.1 * cuts } else { 0 };
        self.call.tasks(first + second, |product, index| {
            // SAFETY: see `run`; each task has rows or columns of its own.
            unsafe {
                if index < first {
                    let lanes = |problem: usize, n: Part, column: usize| {
                        let x = p.x.matrix(span.p.0 + problem);
                        rows_of_x(product, x, n, column)
                    };
                    return meeting.gradient(product, index, lanes, weights);
                }
                let (k, j) = ((index - first) / cuts, (index - first) % cuts * columns);
                let Some(w) = self.w else { return };
                let z = rows_of(p.z, span.p, span.s);
                let block = Block { rows: z.shape()[0], over: 0, columns: (j, columns.min(width - j)) };
                let lanes = Lanes::matrix(w.matrix(span.k.0 + k));
                product.run(Cube::matrix(z), lanes, block, generated.at(0, k * ld + j), Epilogue::Set);
            }
        })
    }

    /// dz, dx and dW of a block.
    unsafe fn apply(
        &self,
        meeting: Meeting<'_, T>,
        [dz, dx, dw]: [Option<To<T::Acc>>; 3],
        weights: Array<T::Acc>,
        generated: Array<T::Acc>,
    ) -> Result<()> {
        let (p, table, Meeting { span, width, ld, .. }) = (self.pairs, self.pairs.table, meeting);
        let ([_, s, t, _], [_, _, features]) = (p.sizes, p.z.shape());
        let z = rows_of(p.z, span.p, span.s);
        let rows = z.shape()[0];
        let epilogue = |add: bool| if add { Epilogue::Add } else { Epilogue::Set };
        // Rows of x, features of z, features of z of an output.
        let t_each = cut(&self.call, t, span.p.1, table.nr).min(part(t, ROWS, table.nr).max(1));
        let i_each = cut(&self.call, features, 1, table.mr);
        let row_each = part(features, ROWS, table.nr).max(1);
        let [t_cuts, i_cuts, row_cuts] = [t.div_ceil(t_each), features.div_ceil(i_each), features.div_ceil(row_each)];
        let counts = [
            if dx.is_some() { span.p.1 * t_cuts } else { 0 },
            if dz.is_some() { i_cuts } else { 0 },
            if dw.is_some() { span.k.1 * row_cuts } else { 0 },
        ];
        self.call.tasks(counts.iter().sum(), |product, index| {
            // SAFETY: see `run`; each task has a part of a destination of its own.
            unsafe {
                if index < counts[0] {
                    let Some(dx) = dx else { return };
                    let (problem, t0) = (index / t_cuts, index % t_cuts * t_each);
                    let to = dx.rows(span.p.0 + problem, t0, 0);
                    let epilogue = epilogue(dx.add || span.s.0 > 0 || span.k.0 > 0);
                    return meeting.back(product, (problem, (t0, t_each.min(t - t0))), generated, to, epilogue);
                }
                let index = index - counts[0];
                if index < counts[1] {
                    let (Some(dz), Some(w)) = (dz, self.w) else { return };
                    let i = (index * i_each, i_each.min(features - index * i_each));
                    let block = Block { rows, over: 0, columns: i };
                    for k in 0..span.k.1 {
                        let from = weights.at(0, k * ld);
                        let from =
                            View::from_raw_parts(from.first.cast_const(), [1, rows, width], [0, from.row_stride, 1]);
                        let lanes = Lanes::matrix(w.matrix(span.k.0 + k).transpose());
                        let to = dz.rows(span.p.0, span.s.0, s).offset(0, i.0);
                        let epilogue = epilogue(dz.add || span.k.0 + k > 0);
                        product.run(Cube::Widened(from), lanes, block, to, epilogue);
                    }
                    return;
                }
                let index = index - counts[1];
                let Some(dw) = dw else { return };
                let (k, i0) = (index / row_cuts, index % row_cuts * row_each);
                let lanes = (Array(weights.at(0, k * ld)), (0, width));
                let to = dw.rows(span.k.0 + k, i0, 0);
                let epilogue = epilogue(dw.add || span.p.0 > 0 || span.s.0 > 0);
                factor(product, z, (i0, row_each.min(features - i0)), lanes, to, epilogue);
            }
        })
    }
}

/// Rows n of a matrix from a column on as lanes: in place where they are whole and contiguous accumulators, else packed.
unsafe fn rows_of_x<T: Kernels>(
    product: &Product<T>,
    x: View<'_, T, 2>,
    n: Part,
    column: usize,
) -> (*const T::Acc, isize, usize) {
    let ([_, width], [row, step], table) = (x.shape(), x.strides(), product.table);
    if T::IN_PLACE && step == 1 && width - column >= table.mr {
        let from = x.host_ptr().wrapping_offset((n.0 as isize).wrapping_mul(row)).wrapping_add(column);
        return (from.cast(), row, table.mr / table.lanes);
    }
    // SAFETY: see `Dense::run`; a strip of KC × MR.
    let vectors = unsafe { Lanes::matrix(x).pack(table, n, (column, width), product.strip) };
    (product.strip.cast_const(), (vectors * table.lanes) as isize, vectors)
}

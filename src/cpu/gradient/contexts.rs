//! Gradients of W′ = zᵀW + V and b′ = zᵀU + b, generated for each of G rows of z, and of y = x W′ᵀ + b′:
//!
//! ```text
//!   loop 2   blocks of groups g, in order
//!   loop 1     blocks of outputs k, in order                                                   scratch
//!     1.         dW′[g][k][j] = Σ_m g[g][m][k] x[g][m][j], or as given   lanes over j            [G-block][K-block][J]
//!                W′[g][k][j]  = Σ_i z[g][i] W[k][i][j] + V[k][j]         lanes over j            the same, if dx is wanted
//!                db′[g][k]    = Σ_m g[g][m][k]                                                   [G-block][K-block]
//!     2.         dx[g][m][j] += Σ_k g[g][m][k] W′[g][k][j]               rows m, lanes j
//!                dz[g][i]    += Σ_kj dW′[g][k][j] W[k][i][j] + Σ_k db′[g][k] U[k][i]    rows g, lanes i
//!                dW[k][i][j] += Σ_g z[g][i] dW′[g][k][j]                 rows i, lanes j, depth g
//!                dU[k][i]    += Σ_g z[g][i] db′[g][k]                    rows i, lanes k, depth g
//!                dV, db       : sums of dW′ and db′
//! ```
//!
//! Each of the two steps is one list of tasks. The blocks do not depend on the number of threads, and no sum is shared.

use super::jobs::{Array, Call, ROWS, To, across, factor};
use crate::Result;
use crate::View;
use crate::cpu::cache::{caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, add_into};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::product::{Block, IN_PLACE_ROWS, Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::table::Table;

/// Elements of W′, and of dW′, in a block: 2 MiB of f32, which pass through L2.
const GENERATED: usize = 1 << 19;
/// Outputs that a block should have at least, the depth of dx, ...
const OUTPUTS: usize = 64;
/// ... and groups, the depth of dW, which is read and written once for each block of them.
const GROUPS: usize = 24;

/// Where dW′ comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// x [G, M, J] and g [G, M, K].
    Applied(View<'a, T, 3>, View<'a, T, 3>),
    /// Itself, [G, K, J].
    Given(View<'a, T, 3>),
}

/// Operands, whose sizes agree.
pub(super) struct Contexts<'a, T: Kernels> {
    pub(super) table: &'static Table<T>,
    /// G, K, I, J.
    pub(super) sizes: [usize; 4],
    pub(super) z: View<'a, T, 2>,
    pub(super) source: Source<'a, T>,
    pub(super) w: Option<View<'a, T, 3>>,
    pub(super) u: Option<View<'a, T, 2>>,
    pub(super) v: Option<View<'a, T, 2>>,
    /// Whether W is given by factors: then dz has their share already, and dx is complete.
    pub(super) factored: bool,
    pub(super) threads: usize,
}

/// Where the gradients go; dU and db only of a source that is applied, dV of one that is given.
pub(super) struct Destinations<A> {
    pub(super) z: Option<To<A>>,
    pub(super) x: Option<To<A>>,
    pub(super) w: Option<To<A>>,
    pub(super) u: Option<To<A>>,
    pub(super) v: Option<To<A>>,
    pub(super) b: Option<To<A>>,
}

/// What is computed in the first step.
#[derive(Clone, Copy)]
struct Needed {
    weights: bool,
    generated: bool,
    bias: bool,
}

impl<'a, T: Kernels> Contexts<'a, T> {
    pub(super) fn run(&self, to: &Destinations<T::Acc>) -> Result<()> {
        let [groups, outputs, _, columns] = self.sizes;
        let table = self.table;
        let to = Destinations { x: to.x.filter(|_| !self.factored), ..*to };
        let adds_z = self.w.is_some() || self.u.is_some() || !self.factored;
        let to = Destinations { z: to.z.filter(|_| adds_z), ..to };
        let applied = matches!(self.source, Source::Applied(..));
        let needed = Needed {
            weights: to.w.is_some() || to.v.is_some() || (to.z.is_some() && self.w.is_some()),
            generated: to.x.is_some(),
            bias: applied && (to.u.is_some() || to.b.is_some() || (to.z.is_some() && self.u.is_some())),
        };
        if [to.z, to.x, to.w, to.u, to.v, to.b].iter().all(Option::is_none) {
            return Ok(());
        }
        let ld = columns.next_multiple_of(table.mr) + 16;
        let rows = (GENERATED / ld).max(1);
        let gb = part(groups, (rows / outputs.clamp(1, OUTPUTS)).clamp(GROUPS.min(rows), ROWS), 1).max(1);
        let kb = part(outputs, (rows / gb).max(1), 1).max(1);
        let array = |used: bool, len: usize| if used { gb * len } else { 0 };
        let bias_ld = kb.next_multiple_of(table.mr) + 16;
        let lengths = [array(needed.weights, kb * ld), array(needed.generated, kb * ld), array(needed.bias, bias_ld)];
        let kc = caches().kc(table);
        scratch::with(lengths, |[weights, generated, bias]| {
            let call = Call { table, kc, few: gb <= IN_PLACE_ROWS, threads: self.threads };
            for g in parts(groups, gb, 1) {
                for k in parts(outputs, kb, 1) {
                    let arrays = [(weights, kb * ld), (generated, kb * ld), (bias, bias_ld)];
                    let [weights, generated, bias] = arrays.map(|(first, ld)| Array(Target::scratch(first, ld)));
                    let pass = Pass { p: self, call, needed, g, k, ld, weights, generated, bias };
                    // SAFETY: the scratch has the lengths of the blocks, and all shapes agree.
                    unsafe {
                        pass.form()?;
                        pass.apply(&to)?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Some groups and some outputs.
struct Pass<'a, T: Kernels> {
    p: &'a Contexts<'a, T>,
    call: Call<T>,
    needed: Needed,
    g: Part,
    k: Part,
    /// Distance between outputs of a group.
    ld: usize,
    weights: Array<T::Acc>,
    generated: Array<T::Acc>,
    bias: Array<T::Acc>,
}

/// Row `index` of the outermost axis.
fn at<'a, T>(view: View<'a, T, 3>, index: usize) -> View<'a, T, 2> {
    let ([_, rows, columns], [outer, row, column]) = (view.shape(), view.strides());
    let first = view.host_ptr().wrapping_offset((index as isize).wrapping_mul(outer));
    // SAFETY: a row of the axis.
    unsafe { View::from_raw_parts(first, [rows, columns], [row, column]) }
}

/// So many columns from one on.
fn columns<'a, T>(view: View<'a, T, 2>, (first, len): Part) -> View<'a, T, 2> {
    let ([rows, _], [row, column]) = (view.shape(), view.strides());
    let from = view.host_ptr().wrapping_offset((first as isize).wrapping_mul(column));
    // SAFETY: columns of the matrix.
    unsafe { View::from_raw_parts(from, [rows, len], [row, column]) }
}

impl<'a, T: Kernels> Pass<'a, T> {
    /// The first step.
    unsafe fn form(&self) -> Result<()> {
        let (p, needed) = (self.p, self.needed);
        let count = |used: bool, tasks: usize| if used { tasks } else { 0 };
        let counts = [count(needed.weights, self.g.1), count(needed.generated, self.k.1), count(needed.bias, self.g.1)];
        self.call.tasks(counts.iter().sum(), |product, index| {
            // SAFETY: see `Contexts::run`; each task has a group or an output.
            unsafe {
                match index {
                    index if index < counts[0] => self.gradient(product, index),
                    index if index < counts[0] + counts[1] => self.generate(product, index - counts[0]),
                    index => {
                        let Source::Applied(_, g) = p.source else { return };
                        let group = index - counts[0] - counts[1];
                        let g = columns(at(g, self.g.0 + group), self.k);
                        sum_rows(product, g, self.bias.at(group, 0).first);
                    }
                }
            }
        })
    }

    /// dW′ of a group.
    unsafe fn gradient(&self, product: &Product<T>, group: usize) {
        let (table, to) = (self.p.table, self.weights.at(group, 0));
        let to = Target::scratch(to.first, self.ld);
        // SAFETY: see `Contexts::run`.
        unsafe {
            match self.p.source {
                Source::Given(weights) => {
                    let rows = at(weights, self.g.0 + group).slice_rows(self.k);
                    copy_rows(table, rows, to.first, self.ld);
                }
                Source::Applied(x, g) => {
                    let (x, g) = (at(x, self.g.0 + group), columns(at(g, self.g.0 + group), self.k));
                    let [depth, width] = x.shape();
                    let lanes = Lanes::matrix(x);
                    let in_place = T::IN_PLACE && x.strides()[1] == 1;
                    for k in parts(self.k.1, ROWS, table.nr) {
                        let mut epilogue = Epilogue::Set;
                        for n in parts(depth, product.kc, table.lanes) {
                            let (b, b_step) = across(table, g, n, k, product.staged);
                            for column in (0..width).step_by(table.mr) {
                                let left = width - column;
                                let vectors = left.min(table.mr).div_ceil(table.lanes);
                                let (a, a_stride) = if in_place && left >= table.mr {
                                    let offset = (n.0 as isize).wrapping_mul(x.strides()[0]);
                                    (x.host_ptr().wrapping_offset(offset).wrapping_add(column).cast(), x.strides()[0])
                                } else {
                                    lanes.pack(table, n, (column, width), product.strip);
                                    (product.strip.cast_const(), (vectors * table.lanes) as isize)
                                };
                                let gemm = self.gemm((a, a_stride, vectors), (b, 1, b_step), k.1, n.1);
                                product.store(&gemm, left, to.offset(k.0, column), epilogue);
                            }
                            epilogue = Epilogue::Add;
                        }
                    }
                }
            }
        }
    }

    fn gemm(
        &self,
        (a, a_stride, vectors): (*const T::Acc, isize, usize),
        (b, b_stride, b_step): (*const T::Acc, isize, isize),
        rows: usize,
        depth: usize,
    ) -> Gemm<T::Acc> {
        let (out, epilogue, fetch) = (std::ptr::null_mut(), Epilogue::Set, Fetch::Nothing);
        Gemm { a, a_stride, vectors, b, b_stride, b_step, rows, depth, out, out_stride: 0, epilogue, fetch }
    }

    /// W′ of an output, for all groups.
    unsafe fn generate(&self, product: &Product<T>, k: usize) {
        let (p, output, width) = (self.p, self.k.0 + k, self.p.sizes[3]);
        // SAFETY: see `Contexts::run`.
        unsafe {
            for group in 0..self.g.1 {
                let to = self.generated.at(group, k * self.ld).first;
                match p.v {
                    Some(v) => copy_rows(p.table, v.slice_rows((output, 1)), to, self.ld),
                    None => std::slice::from_raw_parts_mut(to, self.ld).fill(T::Acc::default()),
                }
            }
            let Some(w) = p.w else { return };
            let rows = Cube::matrix(p.z.slice_rows(self.g));
            let block = Block { rows: self.g.1, over: 0, columns: (0, width) };
            product.run(rows, Lanes::matrix(at(w, output)), block, self.generated.at(0, k * self.ld), Epilogue::Add);
        }
    }

    /// The second step.
    unsafe fn apply(&self, to: &Destinations<T::Acc>) -> Result<()> {
        let (p, table) = (self.p, self.p.table);
        let [_, _, features, _] = p.sizes;
        let rows = if let Source::Applied(x, _) = p.source { x.shape()[1] } else { 0 };
        // Parts of the rows of a group, and of the features of z: one for a single thread.
        let wanted = if self.call.threads > 1 { 4 * self.call.threads } else { 1 };
        let mb = part(rows, ROWS, table.nr).max(1);
        let ib = part(features, features.div_ceil(wanted), table.mr).max(1);
        let (m_parts, i_parts) = (rows.div_ceil(mb), features.div_ceil(ib));
        let count = |used: bool, tasks: usize| if used { tasks } else { 0 };
        let i_rows = features.div_ceil(ROWS);
        let counts = [
            count(to.x.is_some(), self.g.1 * m_parts),
            count(to.z.is_some(), i_parts),
            count(to.w.is_some(), self.k.1 * i_rows),
            count(to.u.is_some(), i_rows),
            count(to.v.is_some(), self.k.1),
            count(to.b.is_some(), 1),
        ];
        self.call.tasks(counts.iter().sum(), |product, index| {
            let mut index = index;
            let i_row = |index: usize| (index * ROWS, ROWS.min(features - index * ROWS));
            for (kind, count) in counts.into_iter().enumerate() {
                if index >= count {
                    index -= count;
                    continue;
                }
                // SAFETY: see `Contexts::run`; no other task has this part of the destination.
                unsafe {
                    match (kind, to.x, to.z, to.w, to.u, to.v, to.b) {
                        (0, Some(to), ..) => {
                            let (group, m) = (index / m_parts, index % m_parts * mb);
                            self.dx(product, to, group, (m, mb.min(rows - m)));
                        }
                        (1, _, Some(to), ..) => {
                            let i = index * ib;
                            self.dz(product, to, (i, ib.min(features - i)));
                        }
                        (2, _, _, Some(to), ..) => {
                            let (k, i) = (index / i_rows, i_row(index % i_rows));
                            let z = p.z.slice_rows(self.g);
                            let lanes = Array(self.weights.at(0, k * self.ld));
                            let target = to.rows(self.k.0 + k, i.0, 0);
                            factor(product, z, i, (lanes, (0, p.sizes[3])), target, self.epilogue(to.add));
                        }
                        (3, _, _, _, Some(to), ..) => {
                            let i = i_row(index);
                            let Target { first, row_stride, column_stride, .. } = to.rows(self.k.0, 0, 1);
                            let target =
                                Target { first, row_stride: column_stride, column_stride: row_stride, padded: false };
                            let (z, lanes) = (p.z.slice_rows(self.g), (self.bias, (0, self.k.1)));
                            factor(product, z, i, lanes, target.offset(i.0, 0), self.epilogue(to.add));
                        }
                        (4, _, _, _, _, Some(to), _) => {
                            let row = to.rows(self.k.0 + index, 0, 1);
                            let from = self.weights.at(0, index * self.ld);
                            self.sum_groups(product, from, p.sizes[3], row, self.epilogue(to.add));
                        }
                        (_, _, _, _, _, _, Some(to)) => {
                            let row = to.rows(self.k.0, 0, 1);
                            // A vector's stride is that of its elements.
                            let row = Target { column_stride: row.row_stride, ..row };
                            self.sum_groups(product, self.bias.at(0, 0), self.k.1, row, self.epilogue(to.add));
                        }
                        _ => {}
                    }
                }
                return;
            }
        })
    }

    /// What sums over groups do with what is there.
    fn epilogue(&self, add: bool) -> Epilogue {
        if add || self.g.0 > 0 { Epilogue::Add } else { Epilogue::Set }
    }

    /// Before the first of several sums over blocks of outputs.
    unsafe fn begin(&self, to: Target<T::Acc>, add: bool, rows: usize, columns: usize) {
        if add || self.k.0 > 0 {
            return;
        }
        for row in 0..rows {
            for column in 0..columns {
                // SAFETY: see `Contexts::run`.
                unsafe { to.offset(row, column).first.write(T::Acc::default()) };
            }
        }
    }

    /// dx of some rows of a group.
    unsafe fn dx(&self, product: &Product<T>, to: To<T::Acc>, group: usize, m: Part) {
        let (table, width) = (self.p.table, self.p.sizes[3]);
        let Source::Applied(_, g) = self.p.source else { return };
        let target = to.rows(self.g.0 + group, m.0, 0);
        // SAFETY: see `Contexts::run`.
        unsafe {
            self.begin(target, to.add, m.1, width);
            let g = Cube::matrix(at(g, self.g.0 + group).slice_rows(m));
            for k in parts(self.k.1, product.kc, table.lanes) {
                let depth = (self.k.0 + k.0, k.1);
                let (b, _, b_stride) = g.stage(table, [(0, 1), (0, m.1), depth], product.staged, k.1 + 16);
                for column in (0..width).step_by(table.mr) {
                    let left = width - column;
                    let lanes = self.generated.at(group, k.0 * self.ld + column).first.cast_const();
                    let vectors = left.min(table.mr).div_ceil(table.lanes);
                    let gemm = self.gemm((lanes, self.ld as isize, vectors), (b, b_stride, 1), m.1, k.1);
                    product.store(&gemm, left, target.offset(0, column), Epilogue::Add);
                }
            }
        }
    }

    /// dz of all groups, some features.
    unsafe fn dz(&self, product: &Product<T>, to: To<T::Acc>, i: Part) {
        let p = self.p;
        let target = to.rows(self.g.0, 0, 1).offset(0, i.0);
        let block = Block { rows: self.g.1, over: 0, columns: i };
        let rows = |from: Target<T::Acc>, depth: usize| {
            // SAFETY: rows of scratch.
            Cube::Widened(unsafe {
                View::from_raw_parts(from.first.cast_const(), [1, self.g.1, depth], [0, from.row_stride, 1])
            })
        };
        // SAFETY: see `Contexts::run`.
        unsafe {
            self.begin(target, to.add || p.factored, self.g.1, i.1);
            if let Some(w) = p.w {
                for k in 0..self.k.1 {
                    let lanes = Lanes::matrix(at(w, self.k.0 + k).transpose());
                    let from = rows(self.weights.at(0, k * self.ld), p.sizes[3]);
                    product.run(from, lanes, block, target, Epilogue::Add);
                }
            }
            if let (Some(u), Source::Applied(..)) = (p.u, p.source) {
                let from = rows(self.bias.at(0, 0), self.k.1);
                product.run(from, Lanes::matrix(u.slice_rows(self.k)), block, target, Epilogue::Add);
            }
        }
    }

    /// A row that is the sum of those of all groups.
    unsafe fn sum_groups(
        &self,
        product: &Product<T>,
        from: Target<T::Acc>,
        len: usize,
        to: Target<T::Acc>,
        epilogue: Epilogue,
    ) {
        for column in parts(len, product.kc, 1) {
            // SAFETY: see `Contexts::run`; a strip has room for KC elements.
            unsafe {
                let sums = std::slice::from_raw_parts_mut(product.strip, column.1);
                sums.fill(T::Acc::default());
                for group in 0..self.g.1 {
                    let from = from.offset(group, column.0).first.cast_const();
                    add_into(sums, std::slice::from_raw_parts(from, column.1));
                }
                for (index, &sum) in sums.iter().enumerate() {
                    let to = to.offset(0, column.0 + index).first;
                    *to = if epilogue == Epilogue::Set { sum } else { *to + sum };
                }
            }
        }
    }
}

/// The sum of all rows.
unsafe fn sum_rows<T: Kernels>(product: &Product<T>, from: View<'_, T, 2>, to: *mut T::Acc) {
    let [rows, len] = from.shape();
    // SAFETY: see `Contexts::run`; KC rows of ROWS columns can be staged.
    unsafe {
        std::slice::from_raw_parts_mut(to, len).fill(T::Acc::default());
        for column in parts(len, ROWS, 1) {
            let to = std::slice::from_raw_parts_mut(to.add(column.0), column.1);
            for n in parts(rows, product.kc, 1) {
                let (from, step) = across(product.table, from, n, column, product.staged);
                for row in 0..n.1 {
                    let from = from.wrapping_offset((row as isize).wrapping_mul(step));
                    add_into(to, std::slice::from_raw_parts(from, column.1));
                }
            }
        }
    }
}

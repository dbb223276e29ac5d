//! Gradients of a CP layer: with P = zB and Q = xC, computed again block by block,
//!
//! ```text
//!   H = P⊙Q⊙λ   dH = gA   DQ = dH⊙λ⊙Q   DP = dH⊙λ⊙P        [rows][r], scratch
//!   dA = gᵀH    dB = zᵀDQ   dC = xᵀDP   dλ[r] = Σ_n dH·P·Q     dz = DQ Bᵀ + gU    dx = DP Cᵀ + gV
//!
//!   loop 3   blocks of NC rows of the batch, in order                                          H, DQ, DP in L2
//!   loop 2     R by RC
//!   loop 1       P, Q, dH, products like those of the forward pass, and of them H, DQ, DP      tasks: rows × strips of r
//!                dz, dx: rows of DQ, DP × strips of Bᵀ, Cᵀ                                     tasks: rows × strips of i, j
//!                dA, dB, dC: the depth is n, rows are columns k, i, j of g, z, x as they are,  tasks: rows × strips of r
//!                lanes those of H, DQ, DP
//! ```
//!
//! No sum is shared by tasks, and the blocks do not depend on the number of threads, so that neither do the bits.
//!
//! **One z for M rows of x** (a shared context): P is one row for each group, and of DQ only the sum over a group's rows is
//! kept, with which dz and dB are those of a batch of groups. A batch is the same with M = 1.

use super::jobs::{Array, Call, Job, ROWS, Term, To};
use crate::cpu::cache::{caches, part, parts};
use crate::cpu::kernels::{Components, Epilogue};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::parallel::Shared;
use crate::cpu::product::{Block, IN_PLACE_ROWS, Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::table::Table;
use crate::{Result, View};

/// RC: components of a row of each of H, DQ and DP.
const COMPONENTS: usize = 256;
/// Bytes of each of H, DQ and DP: with what they meet of z, x or g, two thirds of a usual L2 ...
const BLOCK_BYTES: usize = 384 << 10;
/// ... and NC, its most rows.
const MOST_ROWS: usize = 1024;
/// Bytes of packed factors that a call may keep; what does not fit is packed strip by strip for each block.
const PACKED_BYTES: usize = 4 << 20;

/// Operands of a CP layer's gradients, whose sizes agree: `groups` rows of z, each of which meets `each` rows of x.
pub(super) struct Factors<'a, T: Kernels> {
    pub(super) table: &'static Table<T>,
    pub(super) groups: usize,
    pub(super) each: usize,
    /// [G, I].
    pub(super) z: View<'a, T, 2>,
    /// [G, M, J]; or in the place of Q = xC, the same of every group, a matrix [M, R].
    pub(super) x: Side<'a, T>,
    /// [G, M, K].
    pub(super) g: View<'a, T, 3>,
    /// A [K, R], B [I, R], C [J, R].
    pub(super) factors: [View<'a, T, 2>; 3],
    pub(super) lambda: View<'a, T, 1>,
    /// Of a batch; the share of a group's g in dz is not computed here.
    pub(super) u: Option<View<'a, T, 2>>,
    pub(super) v: Option<View<'a, T, 2>>,
    /// P and Q of all rows of x, rows of whole vectors so far apart.
    pub(super) saved: Option<([&'a [T::Acc]; 2], usize)>,
}

/// What Q is.
#[derive(Clone, Copy)]
pub(super) enum Side<'a, T> {
    Input(View<'a, T, 3>),
    Fixed(View<'a, T, 2>),
}

impl<'a, T> Side<'a, T> {
    fn input(self) -> Option<View<'a, T, 3>> {
        if let Side::Input(x) = self { Some(x) } else { None }
    }
}

/// Where the gradients go.
#[derive(Clone, Copy)]
pub(super) struct Destinations<A> {
    /// [G, I].
    pub(super) z: Option<To<A>>,
    /// [G, M, J].
    pub(super) x: Option<To<A>>,
    /// dz + dx, of a batch.
    pub(super) tied: Option<To<A>>,
    /// dA, dB, and dC or, of a fixed Q, dQ.
    pub(super) factors: [Option<To<A>>; 3],
    pub(super) lambda: Option<To<A>>,
}

/// What has to be computed for the destinations.
#[derive(Clone, Copy)]
pub(super) struct Needed {
    pub(super) h: bool,
    pub(super) dq: bool,
    pub(super) dp: bool,
    pub(super) lambda: bool,
}

impl Needed {
    pub(super) fn of<A>(to: &Destinations<A>) -> Needed {
        let ([da, db, dc], tied) = (&to.factors, to.tied.is_some());
        Needed {
            h: da.is_some(),
            dq: to.z.is_some() || db.is_some() || tied,
            dp: to.x.is_some() || dc.is_some() || tied,
            lambda: to.lambda.is_some(),
        }
    }

    pub(super) fn p(&self) -> bool {
        self.h || self.dp || self.lambda
    }
    pub(super) fn q(&self) -> bool {
        self.h || self.dq || self.lambda
    }
    pub(super) fn d(&self) -> bool {
        self.dq || self.dp || self.lambda
    }
}

/// Sizes of the blocks.
struct Blocks {
    /// Groups in a block of the batch.
    groups: usize,
    /// NC: rows of x that are handled at once, a multiple of `unit`.
    rows: usize,
    unit: usize,
    /// Whether these are whole groups of several rows.
    whole: bool,
    rc: usize,
    /// Distance between rows of components: 16 more, so that the rows of a strip do not share their cache sets.
    ld: usize,
    kc: usize,
    /// Rows of a task that computes components.
    sub: usize,
    /// Lengths of the call's scratch: P, Q, D, ΣDQ, fixed rows of Q; dλ and ΣDQ of each task; λ.
    lengths: [usize; 8],
}

impl Blocks {
    fn new<T: Kernels>(p: &Factors<'_, T>, dx_flat: bool) -> Blocks {
        let (table, size, each) = (p.table, size_of::<T::Acc>(), p.each);
        let rc = part(p.factors[0].shape()[1], COMPONENTS, table.mr).next_multiple_of(table.mr).max(table.mr);
        let ld = rc + 16;
        let most = (BLOCK_BYTES / size / rc).clamp(ROWS, MOST_ROWS);
        // Where the factors are small beside L2, all that a block reads twice stays there: its rows of g, z and x too.
        let [k, i, j] = p.factors.map(|factor| factor.shape()[0]);
        let (features, l2) = (i.saturating_add(j), caches().l2);
        let row = features.saturating_mul(2).saturating_add(k).saturating_add(3 * ld).saturating_mul(size);
        let small = features.saturating_add(k).saturating_mul(rc * size) <= l2 / 4;
        let most = if small { most.min((l2 / 4 * 3 / row).max(ROWS)) } else { most };
        let even = |view: View<'_, T, 3>| view.strides()[0] == view.strides()[1].wrapping_mul(each as isize);
        let whole = (2..=most).contains(&each);
        let (groups, rows, unit) = if whole {
            let at_once = if dx_flat && p.x.input().is_none_or(even) && even(p.g) { most / each } else { 1 };
            let groups = part(p.groups, ROWS, 1).max(1);
            (groups, at_once.min(groups) * each, each)
        } else if each > 1 {
            (1, part(each, most, table.nr), table.nr)
        } else {
            let groups = part(p.groups, most, table.nr).max(1);
            (groups, groups * each, table.nr)
        };
        let sub = if whole { (ROWS / each).max(1) * each } else { part(rows, ROWS, table.nr).max(1) };
        let subs = rows.div_ceil(sub).max(1);
        let sums = if each == 1 { 0 } else { groups * ld };
        let fixed = if p.x.input().is_none() { each.min(rows) * ld } else { 0 };
        let lengths = [groups * ld, rows * ld, rows * ld, sums, fixed, subs * rc, subs * rc, rc];
        Blocks { groups, rows, unit, whole, rc, ld, kc: caches().kc(table), sub, lengths }
    }

    /// Tasks that compute the components of so many rows.
    fn subs(&self, rows: usize) -> usize {
        rows.div_ceil(self.sub).max(1)
    }
}

impl<T: Kernels> Factors<'_, T> {
    /// All of the gradients, on so many threads.
    pub(super) fn run(&self, to: &Destinations<T::Acc>, threads: usize) -> Result<()> {
        let tied = to.tied.is_some();
        let needed = Needed::of(to);
        if !(needed.h || needed.d()) {
            return Ok(());
        }
        let blocks = Blocks::new(self, to.x.is_none_or(|to| to.flat(self.each)));
        let table = self.table;
        let [a, b, c] = self.factors;
        let rank = a.shape()[1];
        let few = self.groups.saturating_mul(self.each) <= IN_PLACE_ROWS;
        let views = [
            (needed.q() && self.saved.is_none() && self.x.input().is_some(), c),
            (needed.p() && (self.saved.is_none() || self.each != 1), b),
            (needed.d(), a),
            (to.z.is_some() || tied, b.transpose()),
            (to.x.is_some() || tied, c.transpose()),
        ];
        let mut room = if few { 0 } else { PACKED_BYTES / size_of::<T::Acc>() };
        let packed = views.map(|(used, view)| {
            let [depth, columns] = view.shape();
            let len = depth.saturating_mul(columns.next_multiple_of(table.mr));
            let len = if used && len <= room { len } else { 0 };
            room -= len;
            len
        });
        let [p, q, d, sums, fixed, lambdas, partial, lambda] = blocks.lengths;
        let lengths = [p, q, d, sums, fixed, lambdas, partial, lambda, packed.iter().sum()];
        scratch::with(lengths, |[p, q, d, sums, fixed, lambdas, partial, lambda, mut next]| {
            let [c, b, a, bt, ct] = std::array::from_fn(|index| {
                let mut nowhere = std::ptr::null_mut();
                let next = if packed[index] > 0 { &mut next } else { &mut nowhere };
                // SAFETY: `packed` counted the strips of each.
                unsafe { Lanes::pack_all(table, views[index].1, next) }
            });
            let run = Run {
                p: self,
                blocks: &blocks,
                needed,
                call: Call { table, kc: blocks.kc, few, threads },
                lanes: [a, b, c],
                turned: [bt, ct],
                arrays: [p, q, d, sums, fixed].map(|array| Array(Target::scratch(array, blocks.ld))),
                rows: [lambdas, partial, lambda].map(Shared::new),
            };
            let unit = if self.each == 1 { table.nr } else { 1 };
            let most = blocks.groups.next_multiple_of(unit);
            for (index, groups) in parts(self.groups, most, unit).enumerate() {
                for r in parts(rank, blocks.rc, table.mr) {
                    // SAFETY: the scratch has the lengths of the blocks, and all shapes agree.
                    unsafe { run.block(to, groups, r, index == 0)? };
                }
            }
            Ok(())
        })
    }
}

struct Run<'a, T: Kernels> {
    p: &'a Factors<'a, T>,
    blocks: &'a Blocks,
    needed: Needed,
    call: Call<T>,
    /// A, B, C with the components as lanes.
    lanes: [Lanes<'a, T>; 3],
    /// Bᵀ and Cᵀ.
    turned: [Lanes<'a, T>; 2],
    /// P, Q, D, ΣDQ, fixed rows of Q. H replaces dH; DP replaces P, and DQ replaces Q; where P is shared, DP replaces Q.
    arrays: [Array<T::Acc>; 5],
    /// dλ and ΣDQ of each task that computes components; λ.
    rows: [Shared<T::Acc>; 3],
}

/// Rows of x that are handled at once: those from row `m` of a group on, the group's place in the block being `within`.
#[derive(Clone, Copy)]
struct Inner {
    group: usize,
    within: usize,
    m: usize,
    rows: usize,
}

impl<T: Kernels> Run<'_, T> {
    /// Components `r` of a block of groups.
    unsafe fn block(&self, to: &Destinations<T::Acc>, groups: Part, r: Part, first: bool) -> Result<()> {
        let (p, blocks, each) = (self.p, self.blocks, self.p.each);
        let z = p.z.slice_rows(groups);
        let i = p.z.shape()[1];
        let [ps, qs, h, sums, fixed] = self.arrays;
        let [bt, ct] = self.turned;
        let [da, db, dc] = to.factors;
        let factor = |to: Option<To<T::Acc>>, input, lanes, fresh: bool| {
            to.map(|to| Job::Factor { to: to.rows(0, 0, 1), add: to.add || !fresh, input, lanes, r })
        };
        // SAFETY: see `Factors::run`, here and in all that it calls.
        unsafe {
            for component in 0..r.1 {
                let lambda = p.lambda.get([r.0 + component]).unwrap_or_default();
                *self.rows[2].get().add(component) = lambda.to_acc();
            }
            if each != 1 {
                for group in 0..groups.1 {
                    std::slice::from_raw_parts_mut(sums.at(group, 0).first, blocks.ld).fill(T::Acc::default());
                }
                if self.needed.p() {
                    self.call.project(z, self.lanes[1], r, ps)?;
                }
            }
            let most = blocks.rows.next_multiple_of(blocks.unit);
            for (start, rows) in parts(groups.1 * each, most, blocks.unit) {
                let (within, m) = if blocks.whole { (start / each, 0) } else { (0, start) };
                let inner = Inner { group: groups.0 + within, within, m, rows };
                if let Side::Fixed(rows) = p.x {
                    let from = rows.slice_rows((m, rows_of_q(each, inner))).slice(1, r.0..r.0 + r.1)?;
                    copy_rows(p.table, from, fixed.at(0, 0).first, blocks.ld);
                }
                self.components(inner, z, r)?;
                let fresh = first && start == 0;
                self.gather(to.lambda, rows, r, fresh);
                let (g, x) = (inner.of(p.g), p.x.input().map(|x| inner.of(x)));
                let j = x.map_or(0, |x| x.shape()[1]);
                let dq = Term { rows: qs, lanes: bt, linear: p.u.map(|u| [g, u]) };
                let dp = Term { rows: if each == 1 { ps } else { qs }, lanes: ct, linear: p.v.map(|v| [g, v]) };
                let input = |to: Option<To<T::Acc>>, terms, columns| {
                    let (group, m) = (inner.group, inner.m);
                    to.map(|to| Job::Input { to: to.rows(group, m, each), add: to.add, terms, rows, columns, r })
                };
                let batch = |to| if each == 1 { to } else { None };
                self.call.jobs(&[
                    input(to.x, [Some(dp), None], j),
                    input(batch(to.z), [Some(dq), None], i),
                    input(batch(to.tied), [Some(dq), Some(dp)], i),
                    factor(da, g, h, fresh),
                    match x {
                        Some(x) => factor(dc, x, dp.rows, fresh),
                        None => dc.map(|to| {
                            // Rows of A of later parts of a group are written by the first block of groups too.
                            let add = to.add || !(first && (start == 0 || !blocks.whole));
                            Job::Sum {
                                to: to.rows(m, 0, 1),
                                add,
                                lanes: dp.rows,
                                // All of A where there is no group.
                                rows: (rows, if rows == 0 { each } else { rows_of_q(each, inner) }),
                                r,
                            }
                        }),
                    },
                    factor(batch(db), z, qs, fresh),
                ])?;
            }
            if each != 1 {
                let terms = [Some(Term { rows: sums, lanes: bt, linear: None }), None];
                let (rows, columns) = (groups.1, i);
                let dz =
                    to.z.map(|to| Job::Input { to: to.rows(groups.0, 0, 1), add: to.add, terms, rows, columns, r });
                self.call.jobs(&[dz, factor(db, z, sums, first)])?;
            }
        }
        Ok(())
    }

    /// P, Q and dH of these rows, and what follows from them elementwise.
    unsafe fn components(&self, inner: Inner, z: View<'_, T, 2>, r: Part) -> Result<()> {
        let (blocks, mr) = (self.blocks, self.p.table.mr);
        let subs = blocks.subs(inner.rows);
        let strips = if self.call.threads > 1 { (4 * self.call.threads).div_ceil(subs) } else { 1 };
        let width = part(r.1, r.1.div_ceil(strips), mr).max(1);
        let cuts = r.1.div_ceil(width);
        self.call.tasks(subs * cuts, |product, index| {
            let (sub, column) = (index / cuts, index % cuts * width);
            let rows = (sub * blocks.sub, blocks.sub.min(inner.rows - sub * blocks.sub));
            let columns = (column, width.min(r.1 - column));
            // SAFETY: see `Factors::run`; no other task has these rows and components.
            unsafe { self.task(product, inner, z, (sub, rows), (r.0, columns)) };
        })
    }

    /// The task of these rows and components.
    unsafe fn task(
        &self,
        product: &Product<T>,
        inner: Inner,
        z: View<'_, T, 2>,
        (sub, rows): (usize, Part),
        (r, columns): (usize, Part),
    ) {
        let (p, blocks, needed) = (self.p, self.blocks, self.needed);
        let (table, each) = (p.table, p.each);
        let own = each == 1;
        // SAFETY: see `components`.
        unsafe {
            let run = |from: View<'_, T, 2>, lanes, array: Array<T::Acc>| {
                for part in parts(rows.1, ROWS, table.nr) {
                    let from = Cube::matrix(from.slice_rows((rows.0 + part.0, part.1)));
                    let block = Block { rows: part.1, over: 0, columns: (r + columns.0, columns.1) };
                    product.run(from, lanes, block, array.at(rows.0 + part.0, columns.0), Epilogue::Set);
                }
            };
            let saved = |of: usize| {
                let row = inner.group * each + inner.m + rows.0;
                p.saved.map(|(saved, pitch)| (saved[of].as_ptr().wrapping_add(row * pitch + r + columns.0), pitch))
            };
            let [ps, qs, ds, ..] = self.arrays.map(|array| array.at(rows.0, columns.0).first);
            let (mut from_p, mut from_q) = ((ps.cast_const(), blocks.ld), (qs.cast_const(), blocks.ld));
            if needed.p() && own {
                match saved(0) {
                    Some(saved) => from_p = saved,
                    None => run(z, self.lanes[1], self.arrays[0]),
                }
            }
            if needed.q() {
                match (saved(1), p.x) {
                    (Some(saved), _) => from_q = saved,
                    (None, Side::Input(x)) => run(inner.of(x), self.lanes[2], self.arrays[1]),
                    (None, Side::Fixed(_)) => {
                        let row = if blocks.whole || own { 0 } else { rows.0 };
                        let first = self.arrays[4].at(row, columns.0).first.cast_const();
                        from_q = (first, if own { 0 } else { blocks.ld });
                    }
                }
            }
            let repeated = blocks.whole && p.x.input().is_none();
            if needed.d() {
                run(inner.of(p.g), self.lanes[0], self.arrays[2]);
            }
            let zero = |row: *mut T::Acc| {
                std::slice::from_raw_parts_mut(row, columns.1.next_multiple_of(table.lanes)).fill(T::Acc::default());
            };
            let [d_lambda, partial] = [0, 1].map(|of| self.rows[of].get().add(sub * blocks.rc + columns.0));
            zero(d_lambda);
            zero(partial);
            let given = |used: bool, from: *const T::Acc| if used { from } else { std::ptr::null() };
            let wanted = |used: bool, to: *mut T::Acc| if used { to } else { std::ptr::null_mut() };
            // Rows of one z at a time.
            let segment = if blocks.whole { each } else { rows.1.max(1) };
            for first in (0..rows.1).step_by(segment) {
                let group = inner.within + if blocks.whole { (rows.0 + first) / each } else { 0 };
                let at = first * blocks.ld;
                let sum = if blocks.whole { self.arrays[3].at(group, columns.0).first } else { partial };
                if !own {
                    from_p = (self.arrays[0].at(group, columns.0).first.cast_const(), 0);
                }
                (table.arithmetic.components)(&Components {
                    rows: segment.min(rows.1 - first),
                    columns: columns.1,
                    p: given(needed.p(), from_p.0),
                    p_stride: from_p.1,
                    q: given(needed.q(), from_q.0.wrapping_add(if repeated { 0 } else { first * from_q.1 })),
                    q_stride: from_q.1,
                    d: given(needed.d(), ds.add(at).cast_const()),
                    stride: blocks.ld,
                    lambda: self.rows[2].get().add(columns.0),
                    h: wanted(needed.h, ds.add(at)),
                    dq: wanted(needed.dq && own, qs.add(at)),
                    dp: wanted(needed.dp, if own { ps } else { qs.add(at) }),
                    d_lambda: wanted(needed.lambda, d_lambda),
                    dq_sum: wanted(needed.dq && !own, sum),
                });
            }
        }
    }

    /// Sums of the tasks that computed components, in order: dλ, and ΣDQ of a group of many rows.
    unsafe fn gather(&self, d_lambda: Option<To<T::Acc>>, rows: usize, r: Part, fresh: bool) {
        let blocks = self.blocks;
        let sum = |of: usize, component: usize, before: T::Acc| {
            let from = |sub: usize| self.rows[of].get().wrapping_add(sub * blocks.rc + component);
            // SAFETY: see `Factors::run`; no task runs.
            (0..blocks.subs(rows)).fold(before, |sum, sub| sum + unsafe { *from(sub) })
        };
        for component in 0..r.1 {
            // SAFETY: as above; λ has all components.
            unsafe {
                if let Some(to) = d_lambda {
                    let place = to.element(r.0 + component);
                    let before = if fresh && !to.add { T::Acc::default() } else { *place };
                    *place = sum(0, component, before);
                }
                if self.p.each > 1 && !blocks.whole && self.needed.dq {
                    let place = self.arrays[3].at(0, component).first;
                    *place = sum(1, component, *place);
                }
            }
        }
    }
}

/// Rows of a fixed Q that these rows meet.
fn rows_of_q(each: usize, inner: Inner) -> usize {
    if each == 0 { 0 } else { each.min(inner.rows) }
}

impl Inner {
    /// These rows of a batch of groups.
    fn of<'a, T>(&self, view: View<'a, T, 3>) -> View<'a, T, 2> {
        let ([_, each, columns], [sg, sm, sc]) = (view.shape(), view.strides());
        let offset = (self.group as isize).wrapping_mul(sg).wrapping_add((self.m as isize).wrapping_mul(sm));
        let stride = if each == 1 { sg } else { sm };
        // SAFETY: rows of the batch, evenly spaced as the blocks are cut.
        unsafe { View::from_raw_parts(view.host_ptr().wrapping_offset(offset), [self.rows, columns], [stride, sc]) }
    }
}

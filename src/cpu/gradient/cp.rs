//! Gradients of a CP layer. With P = zB and Q = xC, which are computed again, D = gA ⊙ λ:
//!
//! ```text
//!   dA = gᵀ(P⊙Q⊙λ)    dB = zᵀ(D⊙Q)      dC = xᵀ(D⊙P)      dλ = Σ_n gA ⊙ P ⊙ Q
//!                     dz = (D⊙Q)Bᵀ + gU  dx = (D⊙P)Cᵀ + gV
//!
//!   loop 3   blocks of NC rows, one after the other, for any number of threads the same
//!   loop 2     R by RC: P, Q, D of the block, [NC][RC] each                                    in L2
//!   phase 1      rows n:        P, Q, D, and their products in place                           tasks: parts of the rows
//!   phase 2      rows n:        dz, dx, lanes over i and j, packed Bᵀ and Cᵀ                   tasks: parts of the rows,
//!                rows k, i, j:  dA, dB, dC, depth n, lanes over r: the products as they lie        of k, of i, of j
//! ```
//!
//! Everything that is wanted shares P, Q and D. The inputs are the row operand of both phases: in phase 1 by rows, in
//! phase 2 turned, by the distances that the microkernel is given. Nothing of N × R elements exists (tt-pytorch keeps it,
//! tt-pytorch#6), unless the caller saved P and Q.

use crate::cpu::cache::{caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, Hadamard, add_into};
use crate::cpu::operand::{Cube, Part};
use crate::cpu::parallel;
use crate::cpu::product::{Block, IN_PLACE_ROWS, Lanes, Product, Rows, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::{copy_rows, pad};
use crate::cpu::table::Table;
use crate::gradients::Gradient;
use crate::{Context, Result, View};

/// RC.
const COMPONENTS: usize = 512;
/// Elements of a block's P, Q, D, H and inputs: 1 MiB of f32, what L2 has or twice that.
const BLOCK: usize = 256 << 10;
/// NC is at least this: dA, dB and dC are read and written for each block, two accesses for 2·NC FMAs ...
const LEAST_ROWS: usize = 192;
/// ... and at most this, a strip of lanes of which is 64 KiB.
const MOST_ROWS: usize = 512;
/// Rows k, i or j in a task.
const FACTOR_ROWS: usize = 96;
/// Bytes of packed factors that a call may keep.
const PACKED_BYTES: usize = 8 << 20;

/// Operands, whose sizes agree.
pub(super) struct Cp<'a, T: Kernels> {
    pub(super) table: &'static Table<T>,
    pub(super) factors: [View<'a, T, 2>; 3],
    pub(super) lambda: Option<View<'a, T, 1>>,
    pub(super) u: Option<View<'a, T, 2>>,
    pub(super) v: Option<View<'a, T, 2>>,
    /// g, z, x.
    pub(super) inputs: [View<'a, T, 2>; 3],
    /// P and Q that were kept, rows so far apart.
    pub(super) saved: Option<([&'a [T::Acc]; 2], usize)>,
}

/// Where the gradients go.
pub(super) struct To<A> {
    /// dz, dx.
    pub(super) inputs: [Option<Place<A>>; 2],
    /// dA, dB, dC.
    pub(super) factors: [Option<Place<A>>; 3],
    pub(super) lambda: Option<Place<A>>,
}

/// Where one gradient goes.
#[derive(Clone, Copy)]
pub(super) struct Place<A> {
    first: *mut A,
    strides: [isize; 2],
    add: bool,
}

// SAFETY: tasks write disjoint elements, as each use says.
unsafe impl<A: Send> Sync for To<A> {}

impl<A> To<A> {
    /// Whether nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.iter().chain(&self.factors).chain([&self.lambda]).all(Option::is_none)
    }
}

impl<A> Place<A> {
    pub(super) fn new(Gradient { mut to, add }: Gradient<'_, A, 2>) -> Self {
        Place { first: to.as_mut_ptr(), strides: to.strides(), add }
    }

    /// The same, added to what is there by then.
    pub(super) fn adding(self) -> Self {
        Place { add: true, ..self }
    }

    fn target(&self) -> Target<A> {
        let [row_stride, column_stride] = self.strides;
        Target { first: self.first, row_stride, column_stride, padded: false }
    }

    /// What sums do with what is there: the first ones replace it, unless they are to be added.
    fn epilogue(&self, first: bool) -> Epilogue {
        if first && !self.add { Epilogue::Set } else { Epilogue::Add }
    }
}

/// Sizes of the blocks.
struct Blocks {
    nc: usize,
    rc: usize,
    /// Distance between rows of P, Q, D, H: an odd number of cache lines, so that they use all sets of L1.
    ld: usize,
    kc: usize,
    /// Rows of a task.
    rows: usize,
    /// Lengths of the call's scratch arrays: P, Q, D, H, gA⊙P⊙Q, λ, copies of g, z, x, packed factors.
    call: [usize; 10],
    /// Lengths of a task's: a strip, a tile, staged rows.
    task: [usize; 3],
}

/// The call's scratch arrays.
#[derive(Clone, Copy)]
struct Arrays<A> {
    p: *mut A,
    q: *mut A,
    d: *mut A,
    h: *mut A,
    t: *mut A,
    lambda: *mut A,
}

// SAFETY: tasks write disjoint rows in phase 1, and only read in phase 2.
unsafe impl<A: Send> Sync for Arrays<A> {}

/// An input's rows of a block as accumulators: where, how far apart.
#[derive(Clone, Copy)]
struct Input<A> {
    first: *const A,
    stride: isize,
    columns: usize,
}

// SAFETY: only read.
unsafe impl<A: Sync> Sync for Input<A> {}

impl<A> Input<A> {
    fn rows(&self, (first, len): Part) -> ([usize; 3], [isize; 3], *const A) {
        let from = self.first.wrapping_offset((first as isize).wrapping_mul(self.stride));
        ([1, len, self.columns], [0, self.stride, 1], from)
    }
}

impl<'a, T: Kernels> Cp<'a, T> {
    pub(super) fn new(context: &Context, factors: [View<'a, T, 2>; 3], inputs: [View<'a, T, 2>; 3]) -> Self {
        let table = T::table(context.capability());
        Cp { table, factors, lambda: None, u: None, v: None, inputs, saved: None }
    }

    fn n(&self) -> usize {
        self.inputs[0].shape()[0]
    }

    /// Whether an input can be read in place.
    fn in_place(input: &View<'_, T, 2>) -> bool {
        T::IN_PLACE && (input.strides()[1] == 1 || input.shape()[1] <= 1)
    }

    fn blocks(&self, to: &To<T::Acc>, threads: usize) -> Blocks {
        let (table, size, n) = (self.table, size_of::<T::Acc>(), self.n());
        let [[k, r], [i, _], [j, _]] = self.factors.map(|factor| factor.shape());
        let odd = |len: usize| (len.div_ceil(16) | 1) * 16;
        let rc = part(r, COMPONENTS, table.mr).next_multiple_of(table.mr).max(table.mr);
        let ld = odd(rc);
        let fit = BLOCK / (4 * ld + i.min(1 << 20) + j.min(1 << 20) + k.min(1 << 20));
        let nc = part(n, fit.clamp(LEAST_ROWS, MOST_ROWS), table.nr).max(1);
        let rows = if threads > 1 { part(nc, nc.div_ceil(2 * threads), table.nr).max(1) } else { nc };
        let kc = caches().kc(table);
        let [p, q, d] = self.needed(to).map(|needed| if needed { nc * ld } else { 0 });
        let h = if to.factors[0].is_some() { nc * ld } else { 0 };
        let t = if to.lambda.is_some() { nc * ld } else { 0 };
        let copies = self.inputs.map(|input| if Self::in_place(&input) { 0 } else { nc * pad(input.shape()[1]) });
        let columns = |len: usize| len.next_multiple_of(table.mr);
        let turned = [(to.inputs[0], i), (to.inputs[1], j)].map(|(to, len)| to.map_or(0, |_| r * columns(len)));
        let packed =
            (i.saturating_add(j).saturating_add(k)).saturating_mul(columns(r)).saturating_add(turned[0] + turned[1]);
        let packed = if packed.saturating_mul(size) <= PACKED_BYTES && n > IN_PLACE_ROWS { packed } else { 0 };
        let call = [p, q, d, h, t, rc, copies[0], copies[1], copies[2], packed];
        Blocks { nc, rc, ld, kc, rows, call, task: [kc * table.mr, rows.max(FACTOR_ROWS) * table.mr, rows * (kc + 16)] }
    }

    /// Whether P, Q and D are needed.
    fn needed(&self, to: &To<T::Acc>) -> [bool; 3] {
        let ([dz, dx], [da, db, dc]) = (to.inputs.map(|to| to.is_some()), to.factors.map(|to| to.is_some()));
        let dl = to.lambda.is_some();
        [da || dl || dx || dc, da || dl || dz || db, dl || dz || dx || db || dc]
    }

    /// All gradients that have a place, on so many threads.
    pub(super) fn run(&self, to: &To<T::Acc>, threads: usize) -> Result<()> {
        let (blocks, table) = (self.blocks(to, threads), self.table);
        scratch::with(blocks.call, |[p, q, d, h, t, lambda, copies @ .., packed]| {
            let arrays = Arrays { p, q, d, h, t, lambda };
            let [a, b, c] = self.factors;
            let mut next = if blocks.call[9] > 0 { packed } else { std::ptr::null_mut() };
            // SAFETY: `blocks` counted the strips.
            let lanes = [a, b, c].map(|view| unsafe { Lanes::pack_all(table, view, &mut next) });
            let turned = [(b, to.inputs[0]), (c, to.inputs[1])].map(|(view, to)| match to {
                // SAFETY: as above.
                Some(_) => unsafe { Lanes::pack_all(table, view.transpose(), &mut next) },
                None => Lanes::matrix(view.transpose()),
            });
            for n in parts(self.n(), blocks.nc, table.nr) {
                let mut inputs = [Input { first: std::ptr::null(), stride: 0, columns: 0 }; 3];
                for (index, to) in copies.into_iter().enumerate() {
                    // SAFETY: `blocks` counted the copies.
                    inputs[index] = unsafe { self.input(index, n, to) };
                }
                for r in parts(a.shape()[1], blocks.rc, table.mr) {
                    let pass =
                        Pass { cp: self, blocks: &blocks, arrays, inputs, lanes: &lanes, turned: &turned, n, r, to };
                    // SAFETY: the operands' shapes agree, and the scratch has the lengths of these blocks.
                    unsafe { pass.run(threads)? };
                }
            }
            Ok(())
        })
    }

    /// Rows n of an input, in place or copied.
    unsafe fn input(&self, index: usize, n: Part, to: *mut T::Acc) -> Input<T::Acc> {
        let view = self.inputs[index].slice_rows(n);
        let columns = view.shape()[1];
        if Self::in_place(&view) {
            return Input { first: view.as_ptr().cast(), stride: view.strides()[0], columns };
        }
        // SAFETY: the caller's contract.
        unsafe { copy_rows(self.table, view, to, pad(columns)) };
        Input { first: to.cast_const(), stride: pad(columns) as isize, columns }
    }
}

/// One block of rows and of components.
struct Pass<'a, T: Kernels> {
    cp: &'a Cp<'a, T>,
    blocks: &'a Blocks,
    arrays: Arrays<T::Acc>,
    inputs: [Input<T::Acc>; 3],
    /// A, B, C with lanes over r.
    lanes: &'a [Lanes<'a, T>; 3],
    /// Bᵀ, Cᵀ with lanes over i and j.
    turned: &'a [Lanes<'a, T>; 2],
    n: Part,
    r: Part,
    to: &'a To<T::Acc>,
}

impl<T: Kernels> Pass<'_, T> {
    /// Both phases.
    unsafe fn run(&self, threads: usize) -> Result<()> {
        let blocks = self.blocks;
        if let Some(lambda) = self.cp.lambda {
            for component in 0..self.r.1 {
                // SAFETY: room for RC components.
                unsafe {
                    let value = lambda.get([self.r.0 + component]).unwrap_or_default().to_acc();
                    *self.arrays.lambda.add(component) = value;
                }
            }
        }
        let row_tasks = self.n.1.div_ceil(blocks.rows).max(1);
        let rows =
            |index: usize| (index * blocks.rows, blocks.rows.min(self.n.1 - (index * blocks.rows).min(self.n.1)));
        parallel::run(threads, row_tasks, |index| {
            scratch::with(blocks.task, |scratch| {
                // SAFETY: no other task has these rows; the scratch is `blocks.task` long. So below.
                unsafe { self.products(rows(index), scratch) };
                Ok(())
            })
        })?;
        let factor = |index: usize| match self.to.factors[index] {
            Some(_) => self.inputs[index].columns.div_ceil(FACTOR_ROWS),
            None => 0,
        };
        let inputs = self.to.inputs.map(|to| if to.is_some() { row_tasks } else { 0 });
        let counts = [inputs[0], inputs[1], factor(0), factor(1), factor(2), usize::from(self.to.lambda.is_some())];
        parallel::run(threads, counts.iter().sum(), |index| {
            let mut index = index;
            for (kind, count) in counts.into_iter().enumerate() {
                if index < count {
                    return scratch::with(blocks.task, |scratch| {
                        // SAFETY: as above; phase 1 is complete, and each task has results of its own.
                        unsafe {
                            match kind {
                                0 | 1 => self.input(kind, rows(index), scratch),
                                2..5 => {
                                    let len = self.inputs[kind - 2].columns;
                                    let first = index * FACTOR_ROWS;
                                    self.factor(kind - 2, (first, FACTOR_ROWS.min(len - first)), scratch);
                                }
                                _ => self.lambda(),
                            }
                        }
                        Ok(())
                    });
                }
                index -= count;
            }
            Ok(())
        })
    }

    fn product(&self, [strip, tile, staged]: [*mut T::Acc; 3]) -> Product<T> {
        let (few, factors) = (self.cp.n() <= IN_PLACE_ROWS, std::ptr::null_mut());
        Product { table: self.cp.table, kc: self.blocks.kc, few, strip, tile, staged, factors }
    }

    /// Phase 1: P, Q, D of some rows, and what the second phase takes of them.
    unsafe fn products(&self, rows: Part, scratch: [*mut T::Acc; 3]) {
        let (arrays, ld) = (self.arrays, self.blocks.ld);
        let product = self.product(scratch);
        let needed = self.cp.needed(self.to);
        let at = |array: *mut T::Acc| array.wrapping_add(rows.0 * ld);
        // SAFETY: see `run`.
        unsafe {
            let columns = Block { rows: rows.1, over: 0, columns: self.r };
            // A belongs to g, B to z, C to x.
            for (index, array, needed) in [(1, arrays.p, needed[0]), (2, arrays.q, needed[1]), (0, arrays.d, needed[2])]
            {
                if needed && (index == 0 || self.cp.saved.is_none()) {
                    let (shape, strides, first) = self.inputs[index].rows(rows);
                    let input = View::from_raw_parts(first, shape, strides);
                    let to = Target::scratch(at(array), ld);
                    product.run(Rows::Stored(Cube::Widened(input)), self.lanes[index], columns, to, Epilogue::Set);
                }
            }
            let kept = |which: usize, array: *mut T::Acc| match self.cp.saved {
                Some((kept, stride)) => {
                    (kept[which].as_ptr().wrapping_add((self.n.0 + rows.0) * stride + self.r.0), stride)
                }
                None => (at(array).cast_const(), ld),
            };
            let (p, q, d) = (kept(0, arrays.p), kept(1, arrays.q), (at(arrays.d).cast_const(), ld));
            let scale = if self.cp.lambda.is_some() { arrays.lambda.cast_const() } else { std::ptr::null() };
            let hadamard = |to: *mut T::Acc, factors: [(*const T::Acc, usize); 2], scale: *const T::Acc| {
                (self.cp.table.arithmetic.hadamard)(&Hadamard {
                    to: at(to),
                    to_stride: ld,
                    factors,
                    scale,
                    rows: rows.1,
                    columns: self.r.1,
                });
            };
            let none = std::ptr::null();
            if self.to.lambda.is_some() {
                hadamard(arrays.t, [p, q], none);
                hadamard(arrays.t, [(at(arrays.t).cast_const(), ld), d], none);
            }
            if self.to.factors[0].is_some() {
                hadamard(arrays.h, [p, q], scale);
            }
            if self.to.inputs[1].is_some() || self.to.factors[2].is_some() {
                hadamard(arrays.p, [d, p], scale);
            }
            if self.to.inputs[0].is_some() || self.to.factors[1].is_some() {
                hadamard(arrays.q, [d, q], scale);
            }
        }
    }

    /// Phase 2: dz (0) or dx (1) of some rows.
    unsafe fn input(&self, which: usize, rows: Part, scratch: [*mut T::Acc; 3]) {
        let Some(place) = self.to.inputs[which] else { return };
        let (product, ld) = (self.product(scratch), self.blocks.ld);
        let from = [self.arrays.q, self.arrays.p][which].wrapping_add(rows.0 * ld).cast_const();
        let columns = self.turned[which].view.shape()[2];
        let to = place.target().offset(self.n.0 + rows.0, 0);
        // SAFETY: see `run`.
        unsafe {
            let from = View::from_raw_parts(from, [1, rows.1, self.r.1], [0, ld as isize, 1]);
            let block = Block { rows: rows.1, over: self.r.0, columns: (0, columns) };
            let epilogue = place.epilogue(self.r.0 == 0);
            product.run(Rows::Stored(Cube::Widened(from)), self.turned[which], block, to, epilogue);
            if let (Some(linear), 0) = ([self.cp.u, self.cp.v][which], self.r.0) {
                let (shape, strides, first) = self.inputs[0].rows(rows);
                let g = View::from_raw_parts(first, shape, strides);
                let block = Block { over: 0, ..block };
                product.run(Rows::Stored(Cube::Widened(g)), Lanes::matrix(linear), block, to, Epilogue::Add);
            }
        }
    }

    /// Phase 2: some rows of dA (0), dB (1) or dC (2).
    unsafe fn factor(&self, which: usize, rows: Part, scratch: [*mut T::Acc; 3]) {
        let Some(place) = self.to.factors[which] else { return };
        let (table, product, ld) = (self.cp.table, self.product(scratch), self.blocks.ld);
        let lanes = [self.arrays.h, self.arrays.q, self.arrays.p][which].cast_const();
        let input = self.inputs[which];
        let to = place.target().offset(rows.0, self.r.0);
        for column in (0..self.r.1).step_by(table.mr) {
            let left = self.r.1 - column;
            let gemm = Gemm {
                a: lanes.wrapping_add(column),
                a_stride: ld as isize,
                vectors: left.min(table.mr).div_ceil(table.lanes),
                b: input.first.wrapping_add(rows.0),
                b_stride: 1,
                b_step: input.stride,
                rows: rows.1,
                depth: self.n.1,
                out: std::ptr::null_mut(),
                out_stride: 0,
                epilogue: Epilogue::Set,
                fetch: Fetch::Nothing,
            };
            // SAFETY: see `run`.
            unsafe { product.store(&gemm, left, to.offset(0, column), place.epilogue(self.n.0 == 0)) };
        }
    }

    /// Phase 2: dλ.
    unsafe fn lambda(&self) {
        let Some(place) = self.to.lambda else { return };
        let (t, ld, len) = (self.arrays.t, self.blocks.ld, self.r.1);
        // SAFETY: see `run`. The first row becomes the sum of all.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(t, len);
            if self.n.1 == 0 {
                sums.fill(T::Acc::default());
            }
            for row in 1..self.n.1 {
                add_into(sums, std::slice::from_raw_parts(t.add(row * ld).cast_const(), len));
            }
            for (component, &sum) in sums.iter().enumerate() {
                let to = place.target().offset(self.r.0 + component, 0).first;
                *to = if place.epilogue(self.n.0 == 0) == Epilogue::Set { sum } else { *to + sum };
            }
        }
    }
}

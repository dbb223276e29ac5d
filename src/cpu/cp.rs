//! CP forward: P = zB, Q = xC, y = (P ⊙ Q ⊙ λ)Aᵀ + zUᵀ + xVᵀ + b, by blocks of rows whose P and Q stay in cache.
//!
//! ```text
//!   loop 4   blocks of NC rows × blocks of outputs: the tasks of the threads
//!   loop 3     R by RC: P of the block becomes H = P ⊙ Q ⊙ λ in place, [NC][RC]       in L2
//!   each of P, Q and y is a product of rows with packed weights:
//!   loop 2       depth by KC
//!   loop 1         strips of MR columns of the weights, packed [KC][MR]               in L1, lanes over columns
//!   microkernel      tiles of NR rows of z, x or H, read in place
//! ```
//!
//! y is written by the microkernel's epilogue itself where its rows are contiguous. B, C and Aᵀ are packed once for the
//! call if they fit [`PACKED_BYTES`], else strip by strip for each block.
//!
//! For at most [`super::small::ROWS`] rows nothing is packed: rows of B and C are added up in order, and the
//! projection streams A as [`super::small`] streams U.

use super::cache::{Caches, caches, part, parts};
use super::kernels::{Epilogue, Fold, Hadamard, Stream, Sweep};
use super::operand::{Cube, Part};
use super::output::{Place, Sink};
use super::parallel::{self, Shared};
use super::product::{Block, IN_PLACE_ROWS, Lanes, Product, Target};
use super::scratch;
use super::simd::{Accumulator, Kernels};
use super::small::pad;
use super::table::Table;
use crate::{Context, Result, View, ViewMut};

/// RC: P of a block of 192 rows, f32, is 384 KiB.
const COMPONENTS: usize = 512;
/// NC: a multiple of every level's NR. Packing a strip costs about two cycles for each step of depth, using it one for
/// each row: 1%.
const ROWS: usize = 192;
/// Bytes of y that a task may fill. Few rows are rather taken than few outputs, which each compute P and Q anew ...
const OUTPUT_BYTES: usize = 4 << 20;
/// ... unless they would be fewer than this.
const FEW_ROWS: usize = 48;
/// Bytes of packed weights that a call may keep: with the blocks' scratch a few MiB.
const PACKED_BYTES: usize = 4 << 20;

/// Operands of a CP forward; all sizes agree.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a, T: Kernels> {
    pub(crate) table: &'static Table<T>,
    pub(crate) caches: Caches,
    pub(crate) n: usize,
    pub(crate) a: View<'a, T, 2>,
    pub(crate) b: View<'a, T, 2>,
    pub(crate) c: View<'a, T, 2>,
    pub(crate) lambda: Option<View<'a, T, 1>>,
    pub(crate) u: Option<View<'a, T, 2>>,
    pub(crate) v: Option<View<'a, T, 2>>,
    pub(crate) bias: Option<View<'a, T, 1>>,
    /// Where P and Q are kept, if they are.
    pub(crate) saving: Option<Saving<T::Acc>>,
}

/// Where P and Q are kept: rows of whole vectors, so far apart.
#[derive(Clone, Copy)]
pub(crate) struct Saving<A> {
    p: *mut A,
    q: *mut A,
    pitch: usize,
}

// SAFETY: each task writes rows of its own.
unsafe impl<A: Send> Send for Saving<A> {}
// SAFETY: as above.
unsafe impl<A: Send> Sync for Saving<A> {}

impl<A> Saving<A> {
    /// Into arrays of as many rows as the batch has.
    pub(crate) fn new(p: &mut [A], q: &mut [A], pitch: usize) -> Self {
        Saving { p: p.as_mut_ptr(), q: q.as_mut_ptr(), pitch }
    }

    /// The rows from `n` on, components from `r` on.
    fn targets(&self, n: usize, r: usize) -> [Target<A>; 2] {
        [self.p, self.q].map(|first| Target::scratch(first.wrapping_add(n * self.pitch + r), self.pitch))
    }
}

/// Sizes of the blocks.
pub(crate) struct Blocks {
    nc: usize,
    kb: usize,
    rc: usize,
    kc: usize,
    /// Length of the weights packed for the whole call, if they are.
    pub(crate) packed: usize,
    /// Lengths of a task's scratch arrays: P, Q, y, a strip, a strip of y, staged rows, λ.
    pub(crate) lengths: [usize; 7],
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(p: &Problem<'_, T>, threads: usize) -> Blocks {
        let table = p.table;
        let size = size_of::<T::Acc>();
        let [k, r] = p.a.shape();
        let (i, j) = (p.b.shape()[0], p.c.shape()[0]);
        let fit = (OUTPUT_BYTES / size / k.max(1)).clamp(FEW_ROWS, ROWS) / table.nr * table.nr;
        let most = if threads > 1 { fit.min(p.n.div_ceil(4 * threads)) } else { fit };
        let nc = part(p.n, most.next_multiple_of(table.nr), table.nr).max(1);
        let rc = part(r, COMPONENTS, table.mr).next_multiple_of(table.mr).max(table.mr);
        let kb = part(k, OUTPUT_BYTES / size / nc, table.mr).next_multiple_of(table.mr).max(table.mr);
        let kc = p.caches.kc(table);
        let columns = |len: usize| len.next_multiple_of(table.mr);
        let packed = (i.saturating_add(j)).saturating_mul(columns(r)).saturating_add(r.saturating_mul(columns(k)));
        let packed = if packed.saturating_mul(size) <= PACKED_BYTES && p.n > IN_PLACE_ROWS { packed } else { 0 };
        let q = if j > kc { nc * rc } else { rc }; // P of a shared z is one row
        let lengths = [nc * rc, q, nc * kb, kc * table.mr, nc * table.mr, nc * (kc + 16), rc];
        Blocks { nc, kb, rc, kc, packed, lengths }
    }
}

/// What sums start from: one row for all, or a row for each; zeros without.
#[derive(Clone, Copy)]
enum Start<'a, T> {
    Same(Option<View<'a, T, 1>>),
    Each(Option<View<'a, T, 2>>),
}

impl<'a, T: Kernels> Problem<'a, T> {
    pub(crate) fn new(context: &Context, n: usize, [a, b, c]: [View<'a, T, 2>; 3]) -> Self {
        let table = T::table(context.capability());
        Problem { table, caches: caches(), n, a, b, c, lambda: None, u: None, v: None, bias: None, saving: None }
    }

    /// y = M(x, z) on so many threads.
    pub(crate) fn forward(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, y: Sink<T>, threads: usize) -> Result<()> {
        let blocks = Blocks::new(self, threads);
        let outputs = self.a.shape()[0];
        scratch::with([blocks.packed], |[packed]| {
            let mut next = if blocks.packed > 0 { packed } else { std::ptr::null_mut() };
            // SAFETY: `Blocks` counted the strips of the three.
            let weights = [self.b, self.c, self.a.transpose()]
                .map(|view| unsafe { Lanes::pack_all(self.table, view, &mut next) });
            let (n_blocks, k_blocks) = (self.n.div_ceil(blocks.nc), outputs.div_ceil(blocks.kb));
            parallel::run(threads, n_blocks * k_blocks, |index| {
                let (n0, k0) = (index % n_blocks * blocks.nc, index / n_blocks * blocks.kb);
                let n = (n0, blocks.nc.min(self.n - n0));
                let k = (k0, blocks.kb.min(outputs - k0));
                scratch::with(blocks.lengths, |scratch| {
                    let task = Task { p: self, blocks: &blocks, weights: &weights, n, k, scratch };
                    // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands'
                    // shapes agree, and no other task has these rows and outputs of y.
                    unsafe { task.run(z, x, y) };
                    Ok(())
                })
            })
        })
    }

    /// y [G, M, K]: each group is a batch whose z is broadcast, of which zB is computed once.
    pub(crate) fn forward_shared(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 3>,
        mut y: ViewMut<'_, T, 3>,
        threads: usize,
    ) -> Result<()> {
        let ([groups, rows, features], [xg, xm, xj]) = (x.shape(), x.strides());
        let ([yg, ym, yk], outputs) = (y.strides(), self.a.shape()[0]);
        let to = Shared::new(y.host_mut_ptr());
        // A thread for each group, or all for each where there are few.
        let (outer, inner) = if groups >= 2 * threads { (threads, 1) } else { (1, threads) };
        parallel::run(outer, groups, |g| {
            let z = z.slice(0, g..g + 1)?.broadcast(0, rows)?;
            // SAFETY: group g of x and of y, whose other axes are those of a batch; no other task has this group.
            let (x, y) = unsafe {
                (
                    View::from_raw_parts(x.host_ptr().wrapping_offset(g as isize * xg), [rows, features], [xm, xj]),
                    ViewMut::from_raw_parts(to.get().wrapping_offset(g as isize * yg), [rows, outputs], [ym, yk])?,
                )
            };
            self.forward(z, x, Sink::stored(y), inner)
        })
    }

    /// W′ [G, K, J]: rows k of A ⊙ λ ⊙ zB times Cᵀ, plus V.
    pub(crate) fn generate(&self, z: View<'_, T, 2>, mut weights: ViewMut<'_, T, 3>, threads: usize) -> Result<()> {
        let ([groups, k, _], [sg, sk, sj]) = (weights.shape(), weights.strides());
        let to = Shared::new(weights.host_mut_ptr());
        // The rows are A's, the projection C's: y = ((zB) ⊙ A ⊙ λ) Cᵀ is this problem with C for A, blocked alike.
        let turned = Problem { n: k, a: self.c, c: self.a, u: None, v: None, bias: None, ..*self };
        let blocks = Blocks::new(&turned, 1);
        let factors = [self.b, self.a, self.c.transpose()].map(Lanes::matrix);
        let (n_blocks, k_blocks) = (k.div_ceil(blocks.nc), self.c.shape()[0].div_ceil(blocks.kb));
        parallel::run(threads, groups * n_blocks * k_blocks, |index| {
            let (g, block) = (index / (n_blocks * k_blocks), index % (n_blocks * k_blocks));
            let (n0, k0) = (block % n_blocks * blocks.nc, block / n_blocks * blocks.kb);
            let n = (n0, blocks.nc.min(k - n0));
            let columns = (k0, blocks.kb.min(self.c.shape()[0] - k0));
            let z = z.slice(0, g..g + 1)?;
            scratch::with(blocks.lengths, |scratch| {
                let task = Task { p: &turned, blocks: &blocks, weights: &factors, n, k: columns, scratch };
                let to = to.get().wrapping_offset(g as isize * sg);
                // SAFETY: as in `forward`, and no other task has these rows and columns of W′.
                unsafe { task.generate(z, self.v, Sink { place: Place::Stored(to), strides: [sk, sj] }) };
                Ok(())
            })
        })
    }
}

struct Task<'a, T: Kernels> {
    p: &'a Problem<'a, T>,
    blocks: &'a Blocks,
    weights: &'a [Lanes<'a, T>; 3],
    n: Part,
    k: Part,
    scratch: [*mut T::Acc; 7],
}

impl<T: Kernels> Task<'_, T> {
    unsafe fn run(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, to: Sink<T>) {
        let (p, blocks, rows) = (self.p, self.blocks, self.n.1);
        let [b, c, a] = *self.weights;
        // SAFETY: see `forward`, here and in all that it calls.
        unsafe {
            let y = self.start(to, Start::Same(p.bias));
            let mut epilogue = if p.bias.is_some() { Epilogue::Add } else { Epilogue::Set };
            let h = Target::scratch(self.scratch[0], blocks.rc);
            let other = Target { first: self.scratch[1], ..h };
            let (z, x) = (z.slice_rows(self.n), x.slice_rows(self.n));
            let shared = z.strides()[0] == 0 && rows > 1;
            for r in parts(p.a.shape()[1], blocks.rc, p.table.mr) {
                let of_rows = |columns| Block { rows, over: 0, columns };
                if let (Some(saving), 0) = (self.p.saving, self.k.0) {
                    // Only the tasks of the first outputs keep them.
                    let [p, q] = saving.targets(self.n.0, r.0);
                    self.product().run(Cube::matrix(z), b, of_rows(r), p, Epilogue::Set);
                    self.product().run(Cube::matrix(x), c, of_rows(r), q, Epilogue::Set);
                    (self.p.table.arithmetic.hadamard)(&Hadamard {
                        to: h.first,
                        to_stride: blocks.rc,
                        factors: [p, q].map(|kept| (kept.first.cast_const(), saving.pitch)),
                        scale: std::ptr::null(),
                        rows,
                        columns: r.1,
                    });
                } else if shared {
                    let one = Block { rows: 1, ..of_rows(r) };
                    self.product().run(Cube::matrix(z), b, one, other, Epilogue::Set);
                    self.product().run(Cube::matrix(x), c, of_rows(r), h, Epilogue::Set);
                    self.hadamard(h.first, |_, r| *other.first.add(r), r.1);
                } else {
                    self.product().run(Cube::matrix(z), b, of_rows(r), h, Epilogue::Set);
                    if x.shape()[1] <= blocks.kc {
                        self.product().run(Cube::matrix(x), c, of_rows(r), h, Epilogue::Multiply);
                    } else {
                        self.product().run(Cube::matrix(x), c, of_rows(r), other, Epilogue::Set);
                        self.hadamard(h.first, |n, r| *other.offset(n, r).first, r.1);
                    }
                }
                self.scale(h.first, r);
                self.project(h, a, r, y, epilogue);
                epilogue = Epilogue::Add;
            }
            for (weights, inputs) in [(p.u, z), (p.v, x)] {
                if let Some(weights) = weights {
                    let weights = Lanes::matrix(weights.transpose());
                    let block = Block { rows, over: 0, columns: self.k };
                    self.product().run(Cube::matrix(inputs), weights, block, y, Epilogue::Add);
                }
            }
            self.finish(y, to);
        }
    }

    fn product(&self) -> Product<T> {
        let [_, _, _, strip, tile, staged, _] = self.scratch;
        let few = self.p.n <= IN_PLACE_ROWS;
        Product { table: self.p.table, kc: self.blocks.kc, few, strip, tile, staged }
    }

    /// W′ of one row of z: see [`Problem::generate`].
    unsafe fn generate(&self, z: View<'_, T, 2>, v: Option<View<'_, T, 2>>, to: Sink<T>) {
        let (rows, blocks) = (self.n.1, self.blocks);
        let [b, factor, projection] = *self.weights;
        // SAFETY: see `Problem::generate`.
        unsafe {
            let y = self.start(to, Start::Each(v));
            let mut epilogue = if v.is_some() { Epilogue::Add } else { Epilogue::Set };
            let h = Target::scratch(self.scratch[0], blocks.rc);
            let p = Target { first: self.scratch[1], ..h };
            for r in parts(self.p.a.shape()[1], blocks.rc, self.p.table.mr) {
                let one = Block { rows: 1, over: 0, columns: r };
                self.product().run(Cube::matrix(z), b, one, p, Epilogue::Set);
                for n in 0..rows {
                    for component in 0..r.1 {
                        let a = factor.view.get([self.n.0 + n, r.0 + component]).unwrap_or_default().to_acc();
                        *h.offset(n, component).first = *p.first.add(component) * a;
                    }
                }
                self.scale(h.first, r);
                self.project(h, projection, r, y, epilogue);
                epilogue = Epilogue::Add;
            }
            self.finish(y, to);
        }
    }

    /// Where the sums of this block go, set to what they start from, if to anything: y itself, if its rows are such as the
    /// microkernel writes.
    unsafe fn start(&self, to: Sink<T>, rows: Start<'_, T>) -> Target<T::Acc> {
        let y = match to.at(self.n.0, self.k.0).direct(self.k.1) {
            Some(first) => Target { first, row_stride: to.strides[0], column_stride: 1, padded: false },
            None => Target::scratch(self.scratch[2], self.blocks.kb),
        };
        for n in 0..self.n.1 {
            // SAFETY: rows and columns of this block.
            let row = unsafe { std::slice::from_raw_parts_mut(y.offset(n, 0).first, self.k.1) };
            match rows {
                Start::Same(None) | Start::Each(None) => return y, // the first components are written, not added
                Start::Same(Some(b)) if n == 0 => {
                    for (k, y) in row.iter_mut().enumerate() {
                        *y = b.get([self.k.0 + k]).unwrap_or_default().to_acc();
                    }
                }
                // SAFETY: the first row lies before this one.
                Start::Same(Some(_)) => row.copy_from_slice(unsafe { std::slice::from_raw_parts(y.first, row.len()) }),
                Start::Each(Some(v)) => {
                    for (k, y) in row.iter_mut().enumerate() {
                        *y = v.get([self.n.0 + n, self.k.0 + k]).unwrap_or_default().to_acc();
                    }
                }
            }
        }
        y
    }

    /// The sums, written to y unless they are there.
    unsafe fn finish(&self, y: Target<T::Acc>, to: Sink<T>) {
        let to = to.at(self.n.0, self.k.0);
        if to.direct(self.k.1).is_some() {
            return;
        }
        for n in 0..self.n.1 {
            // SAFETY: rows and columns of this block, in scratch and in y.
            unsafe { to.write_row(n, std::slice::from_raw_parts(y.offset(n, 0).first, self.k.1)) };
        }
    }

    /// H ⊙= λ.
    unsafe fn scale(&self, h: *mut T::Acc, r: Part) {
        let Some(lambda) = self.p.lambda else { return };
        let scale = self.scratch[6];
        // SAFETY: room for RC components.
        unsafe {
            for component in 0..r.1 {
                *scale.add(component) = lambda.get([r.0 + component]).unwrap_or_default().to_acc();
            }
            self.hadamard(h, |_, r| *scale.add(r), r.1);
        }
    }

    /// H ⊙= factor.
    unsafe fn hadamard(&self, h: *mut T::Acc, factor: impl Fn(usize, usize) -> T::Acc, components: usize) {
        for n in 0..self.n.1 {
            // SAFETY: rows and components are within the block.
            let h = unsafe { std::slice::from_raw_parts_mut(h.add(n * self.blocks.rc), components) };
            for (r, h) in h.iter_mut().enumerate() {
                *h = *h * factor(n, r);
            }
        }
    }

    /// y ←/+ H · Aᵀ, for components r.
    unsafe fn project(
        &self,
        h: Target<T::Acc>,
        weights: Lanes<'_, T>,
        r: Part,
        to: Target<T::Acc>,
        epilogue: Epilogue,
    ) {
        let rows = self.n.1;
        let block = Block { rows, over: r.0, columns: self.k };
        // SAFETY: see `forward`; H is one output of rows × components.
        unsafe {
            let h = View::from_raw_parts(h.first.cast_const(), [1, rows, r.1], [0, h.row_stride, 1]);
            self.product().run(Cube::Widened(h), weights, block, to, epilogue);
        }
    }
}

/// Lengths of scratch arrays of [`Problem::forward_small`]: z, x, P, Q, sums.
pub(crate) fn small_lengths<T: Kernels>(p: &Problem<'_, T>) -> [usize; 5] {
    let rows = |len: usize| p.n.saturating_mul(pad(len));
    let [k, r] = p.a.shape();
    [rows(p.b.shape()[0]), rows(p.c.shape()[0]), rows(r), rows(r), k.saturating_mul(p.n)]
}

impl<'a, T: Kernels> Problem<'a, T> {
    /// y = M(x, z) for at most four rows, whose factors [`streams`] accepts.
    pub(crate) fn forward_small(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, y: Sink<T>) -> Result<()> {
        let table = self.table;
        let [k, r] = self.a.shape();
        scratch::with(small_lengths(self), |[zs, xs, first, second, sums]| {
            // SAFETY: the scratch has these lengths, and the operands' shapes agree.
            unsafe {
                super::small::copy_rows(table, z, zs, pad(self.b.shape()[0]));
                super::small::copy_rows(table, x, xs, pad(self.c.shape()[0]));
                let one = [T::Acc::ONE; super::small::ROWS];
                for (factor, rows, to) in [(self.b, zs, first), (self.c, xs, second)] {
                    std::slice::from_raw_parts_mut(to, self.n * pad(r)).fill(T::Acc::default());
                    (table.sweep)(&Sweep {
                        w: factor.host_ptr(),
                        p_stride: 0,
                        q_stride: factor.strides()[0],
                        ps: 1,
                        qs: factor.shape()[0],
                        depth: r,
                        batch: self.n,
                        inputs: [(one.as_ptr(), 1), (rows, pad(factor.shape()[0])), (to, pad(r))],
                        sums: [std::ptr::null_mut(), std::ptr::null_mut(), to],
                        outer: None,
                    });
                }
                if let Some(saving) = self.saving {
                    for (from, to) in [(first, saving.p), (second, saving.q)] {
                        std::ptr::copy_nonoverlapping(from, to, self.n * pad(r));
                    }
                }
                for n in 0..self.n {
                    for component in 0..pad(r) {
                        let (p, q) = (first.add(n * pad(r) + component), second.add(n * pad(r) + component));
                        let lambda = self.lambda.and_then(|l| l.get([component]));
                        let h = if component < r { *p * *q } else { T::Acc::default() };
                        *p = lambda.map_or(h, |lambda| h * lambda.to_acc());
                    }
                }
                std::slice::from_raw_parts_mut(sums, k * self.n).fill(T::Acc::default());
                (table.stream)(&Stream {
                    w: self.a.host_ptr(),
                    row_stride: self.a.strides()[0],
                    out_stride: 0,
                    outs: 1,
                    rows: k,
                    depth: r,
                    x: first,
                    x_stride: pad(r),
                    z: first,
                    z_stride: 0,
                    batch: self.n,
                    y: sums,
                    fold: Fold::None,
                    from_memory: true,
                });
                super::small::add_linear(table, self.u, (zs, pad(self.b.shape()[0])), self.n, sums)?;
                super::small::add_linear(table, self.v, (xs, pad(self.c.shape()[0])), self.n, sums)?;
                super::small::write(self.bias, sums, [self.n, k], y);
            }
            Ok(())
        })
    }
}

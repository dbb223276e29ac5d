//! CP forward: P = zB, Q = xC, y = (P ⊙ Q ⊙ λ)Aᵀ + zUᵀ + xVᵀ + b, by blocks of rows whose P and Q stay in cache.
//!
//! ```text
//!   loop 4   n-blocks × k-blocks: tasks
//!   loop 3     R by RC: P and Q of the block, [nc][RC]                              in L2
//!   loop 2       I (then J) by KC; strips of MR components r: [KC][MR] of B (of C)  in L1, lanes over r
//!   microkernel    tiles of NR rows of z (of x), read in place
//!   then         H = P ⊙ Q ⊙ λ transposed into panels [RC][MR], lanes over n
//!   microkernel  tiles of NR rows of A, read in place
//! ```
//!
//! For at most [`super::small::ROWS`] rows, strips are as wide as the registers allow and read in place, so that B and C
//! are streamed in order; the projection streams A as [`super::small`] streams U.

use super::cache::{Caches, caches, part, parts};
use super::kernels::{Epilogue, Fold, Gemm, Pack, Stream};
use super::operand::{Cube, Part};
use super::output::{Output, Staging};
use super::parallel::{self, Shared};
use super::scratch;
use super::simd::Kernels;
use super::table::Table;
use crate::{Context, Result, View, ViewMut};

/// RC: P and Q of a block of 96 rows, f32, are 192 KiB each.
const COMPONENTS: usize = 512;
/// Rows of a block: a multiple of every level's MR and NR. Packing a strip costs about two cycles for each step of
/// depth, using it one for each row: 2%.
const ROWS: usize = 192;
/// Bytes of y that a task may fill.
const OUTPUT_BYTES: usize = 2 << 20;

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
}

/// Sizes of the blocks.
pub(crate) struct Blocks {
    nc: usize,
    kb: usize,
    rc: usize,
    kc: usize,
    /// Lengths of scratch arrays: P, Q, panels (of H, z or x), y, a strip, staged rows.
    pub(crate) lengths: [usize; 6],
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(p: &Problem<'_, T>, threads: usize) -> Blocks {
        let table = p.table;
        let size = size_of::<T::Acc>();
        let [k, r] = p.a.shape();
        let most = if threads > 1 { ROWS.min(p.n.div_ceil(threads).next_multiple_of(table.mr)) } else { ROWS };
        let nc = part(p.n, most, table.mr).next_multiple_of(table.mr);
        let rc = part(r, COMPONENTS, table.mr).next_multiple_of(table.mr);
        let kb = part(k, OUTPUT_BYTES / size / nc, 1).max(1);
        let kc = (p.caches.l1 / 2 / (table.mr * size)).clamp(64, 512) / 16 * 16;
        let staged = (p.caches.l2 / 2 / size).max(nc.max(2 * table.nr) * (kc + 16));
        Blocks { nc, kb, rc, kc, lengths: [nc * rc, nc * rc, nc * rc.max(kc), nc * kb, kc * table.mr, staged] }
    }
}

impl<'a, T: Kernels> Problem<'a, T> {
    pub(crate) fn new(context: &Context, n: usize, [a, b, c]: [View<'a, T, 2>; 3]) -> Self {
        let table = T::table(context.capability());
        Problem { table, caches: caches(), n, a, b, c, lambda: None, u: None, v: None, bias: None }
    }

    /// y = M(x, z) on so many threads.
    pub(crate) fn forward(
        &self,
        z: View<'_, T, 2>,
        x: View<'_, T, 2>,
        mut y: ViewMut<'_, T, 2>,
        threads: usize,
    ) -> Result<()> {
        let blocks = Blocks::new(self, threads);
        let (strides, outputs) = (y.strides(), self.a.shape()[0]);
        let to = Shared::new(y.as_mut_ptr());
        let (n_blocks, k_blocks) = (self.n.div_ceil(blocks.nc), outputs.div_ceil(blocks.kb));
        parallel::run(threads, n_blocks * k_blocks, |index| {
            let (n0, k0) = (index % n_blocks * blocks.nc, index / n_blocks * blocks.kb);
            let n = (n0, blocks.nc.min(self.n - n0));
            let k = (k0, blocks.kb.min(outputs - k0));
            scratch::with(blocks.lengths, |[first, second, panels, sums, strip, staged]| {
                let y = Output { table: self.table, n, k, panels: sums };
                let staging = Staging { buffer: staged, len: blocks.lengths[5] };
                let task = Task { p: self, blocks: &blocks, y, first, second, panels, strip, staging };
                // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands'
                // shapes agree, and no other task has these rows and outputs of y.
                unsafe {
                    task.sum(z, x);
                    y.write(to.get(), strides);
                }
                Ok(())
            })
        })
    }
}

struct Task<'a, T: Kernels> {
    p: &'a Problem<'a, T>,
    blocks: &'a Blocks,
    y: Output<T>,
    first: *mut T::Acc,
    second: *mut T::Acc,
    panels: *mut T::Acc,
    strip: *mut T::Acc,
    staging: Staging<T::Acc>,
}

impl<T: Kernels> Task<'_, T> {
    unsafe fn sum(&self, z: View<'_, T, 2>, x: View<'_, T, 2>) {
        let (p, y, blocks) = (self.p, &self.y, self.blocks);
        // SAFETY: see `forward`, here and in all that it calls.
        unsafe {
            y.set(p.bias);
            for r in parts(p.a.shape()[1], blocks.rc, p.table.mr) {
                self.factor(p.b, z, r, self.first);
                self.factor(p.c, x, r, self.second);
                self.form_h(r);
                y.add_product(Cube::matrix(p.a), r, self.panels, blocks.kc, self.staging);
            }
            for (weights, inputs) in [(p.u, z), (p.v, x)] {
                let Some(weights) = weights else { continue };
                for columns in parts(inputs.shape()[1], blocks.kc, p.table.lanes) {
                    y.pack(inputs, columns, self.panels);
                    y.add_product(Cube::matrix(weights), columns, self.panels, blocks.kc, self.staging);
                }
            }
        }
    }

    /// `to` [n][RC] = rows n of z (or x) times components r of B (or C).
    unsafe fn factor(&self, factor: View<'_, T, 2>, inputs: View<'_, T, 2>, r: Part, to: *mut T::Acc) {
        let (table, (n0, rows), blocks) = (self.p.table, self.y.n, self.blocks);
        let inputs = Cube::matrix(inputs);
        let [sd, sr] = factor.strides();
        // SAFETY: rows, depth and components within the operands; RC is a multiple of MR, so whole strips fit.
        unsafe {
            for (index, (d0, depth)) in parts(factor.shape()[0], blocks.kc, table.lanes).enumerate() {
                let block = [(0, 1), (n0, rows), (d0, depth)];
                let (b, _, b_stride) = inputs.stage(table, block, self.staging.buffer, depth + 16);
                for s in (0..r.1).step_by(table.mr) {
                    let components = (r.1 - s).min(table.mr);
                    let vectors = components.div_ceil(table.lanes);
                    let offset = (d0 as isize).wrapping_mul(sd).wrapping_add((r.0 + s) as isize * sr);
                    let width = vectors * table.lanes;
                    (table.pack)(&Pack {
                        from: factor.as_ptr().wrapping_offset(offset),
                        row_stride: sr,
                        column_stride: sd,
                        rows: components,
                        depth,
                        to: self.strip,
                        width,
                    });
                    (table.arithmetic.gemm)(&Gemm {
                        a: self.strip,
                        a_stride: width as isize,
                        vectors,
                        b,
                        b_stride,
                        rows,
                        depth,
                        out: to.add(s),
                        out_stride: blocks.rc,
                        epilogue: if index == 0 { Epilogue::Set } else { Epilogue::Add },
                    });
                }
            }
        }
    }

    /// Panels [RC][MR] of P ⊙ Q ⊙ λ.
    unsafe fn form_h(&self, r: Part) {
        let (table, rc, rows) = (self.p.table, self.blocks.rc, self.y.n.1);
        // SAFETY: P, Q and the panels have room for the block.
        unsafe {
            for n in 0..rows {
                let p = std::slice::from_raw_parts_mut(self.first.add(n * rc), r.1);
                let q = std::slice::from_raw_parts(self.second.add(n * rc), r.1);
                for (p, &q) in p.iter_mut().zip(q) {
                    *p = *p * q;
                }
            }
            for tile in self.y.tiles() {
                let panel = self.y.panel(self.panels, tile, r.1);
                (table.arithmetic.transpose)(&Pack {
                    from: self.first.add(tile.index * table.mr * rc),
                    row_stride: rc as isize,
                    column_stride: 1,
                    rows: tile.rows,
                    depth: r.1,
                    to: panel,
                    width: tile.width,
                });
                if let Some(lambda) = self.p.lambda {
                    for component in 0..r.1 {
                        let scale = lambda.get([r.0 + component]).unwrap_or_default().to_acc();
                        for lane in 0..tile.width {
                            let h = panel.add(component * tile.width + lane);
                            *h = *h * scale;
                        }
                    }
                }
            }
        }
    }
}

/// Whether [`Problem::forward_small`] can read the factors in place.
pub(crate) fn streams<T: Kernels>(a: &View<'_, T, 2>, b: &View<'_, T, 2>, c: &View<'_, T, 2>) -> bool {
    let unit = |view: &View<'_, T, 2>| view.strides()[1] == 1;
    unit(a) && unit(b) && unit(c)
}

/// Lengths of scratch arrays of [`Problem::forward_small`]: z, x, P, Q, sums.
pub(crate) fn small_lengths<T: Kernels>(p: &Problem<'_, T>) -> [usize; 5] {
    let pad = |len: usize| len.next_multiple_of(16);
    let r = pad(p.a.shape()[1]);
    [p.n * pad(p.b.shape()[0]), p.n * pad(p.c.shape()[0]), p.n * r, p.n * r, p.a.shape()[0] * p.n]
}

impl<'a, T: Kernels> Problem<'a, T> {
    /// y = M(x, z) for at most four rows, whose factors [`streams`] accepts.
    pub(crate) fn forward_small(&self, z: View<'_, T, 2>, x: View<'_, T, 2>, mut y: ViewMut<'_, T, 2>) -> Result<()> {
        let table = self.table;
        let [k, r] = self.a.shape();
        scratch::with(small_lengths(self), |[zs, xs, first, second, sums]| {
            let pad = |len: usize| len.next_multiple_of(16);
            // SAFETY: the scratch has these lengths, and the operands' shapes agree.
            unsafe {
                super::small::copy_rows(table, z, zs, pad(self.b.shape()[0]));
                super::small::copy_rows(table, x, xs, pad(self.c.shape()[0]));
                for (factor, rows, to) in [(self.b, zs, first), (self.c, xs, second)] {
                    (table.combine)(&super::kernels::Combine {
                        rows: factor.as_ptr(),
                        row_stride: factor.strides()[0],
                        depth: factor.shape()[0],
                        columns: r,
                        z: rows,
                        z_stride: pad(factor.shape()[0]),
                        batch: self.n,
                        to,
                        to_stride: pad(r),
                    });
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
                    w: self.a.as_ptr(),
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
                });
                super::small::add_linear(table, self.u, (zs, pad(self.b.shape()[0])), self.n, sums);
                super::small::add_linear(table, self.v, (xs, pad(self.c.shape()[0])), self.n, sums);
                super::small::write(self.bias, sums, [self.n, k], y.as_mut_ptr(), y.strides());
            }
            Ok(())
        })
    }
}

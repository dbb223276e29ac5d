//! Dense forward as a GEMM of W with the Khatri-Rao product z⊗x, by BLIS's loops with the batch in the place of the columns.
//!
//! ```text
//!   y[n][k] = Σ_ij W[k][i][j] · (z[n][i] x[n][j])
//!
//!   loop 5   n-blocks × k-blocks: the tasks of the threads; y of a task stays in its scratch
//!   loop 4     I by IC, J by JC: panels of z and x, packed once for the task (sizes that exceed a block are rare)
//!   loop 3       the depth (i, j) by KC
//!   loop 2         rows k of W by blocks                                    W block              in L2
//!   loop 1           tiles of MR rows of the batch: products of KC × MR                          in L1
//!   microkernel        tiles of NR rows of W
//! ```
//!
//! y\[n,k\] is added up in an order that depends only on I, J, K and on the processor: not on N, the threads or the tasks.

use super::cache::{part, parts};
use super::kernels::{Epilogue, Fetch, FormKhatriRao, Gemm};
use super::operand::{Cube, Part};
use super::output::{Output, Panels, Sink, Staging};
use super::parallel;
use super::problem::Problem;
use super::scratch;
use super::simd::Kernels;
use crate::{Result, View};

/// IC and JC: a panel of so many features and 16 f32 lanes is 256 KiB.
const FEATURES: usize = 4096;
/// Bytes that the panels of z and x of a task may fill, and those of y: they pass through the last cache.
const PANEL_BYTES: usize = 1 << 20;
/// Outputs that a task should have at least, to share the packing of z and x.
const OUTPUTS: usize = 16;

/// Sizes of the blocks.
pub(crate) struct Blocks {
    /// Rows of the batch in a task, a multiple of MR.
    nc: usize,
    /// Outputs in a task.
    kb: usize,
    ic: usize,
    jc: usize,
    kc: usize,
    /// Lengths of scratch arrays: panels of z and x, of y, products, and staged W.
    pub(crate) lengths: [usize; 4],
    /// Distance between staged rows of W.
    ld: usize,
}

impl Blocks {
    pub(crate) fn new<T: Kernels>(p: &Problem<'_, T>, threads: usize) -> Blocks {
        let (mr, size, kc) = (p.table.mr, size_of::<T::Acc>(), p.kc());
        let (ic, jc) = (part(p.i, FEATURES, 1), part(p.j, FEATURES, p.table.lanes));
        let fit = (PANEL_BYTES / size / (ic + jc).max(1) / mr * mr).clamp(mr, 32 * mr);
        // With several threads the batch is cut for each, and then the outputs until there are four tasks for each.
        let most = if threads > 1 { fit.min(p.n.div_ceil(threads).next_multiple_of(mr)) } else { fit };
        let nc = part(p.n, most, mr).next_multiple_of(mr).max(mr);
        let n_blocks = p.n.div_ceil(nc).max(1);
        let fit = (PANEL_BYTES / size / nc).max(1);
        let wanted = parallel::cut(threads, n_blocks);
        let kb = part(p.k, fit.min(p.k.div_ceil(wanted).max(OUTPUTS)), 1).max(1);
        let ld = ld_of(kc);
        let staged = p.w_block().max(2 * p.table.nr * ld);
        Blocks { nc, kb, ic, jc, kc, ld, lengths: [nc * (ic + jc), nc * kb, kc * mr, staged] }
    }
}

/// y = M(x, z) on so many threads.
pub(crate) fn forward<T: Kernels>(
    p: &Problem<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    to: Sink<T>,
    threads: usize,
) -> Result<()> {
    let blocks = Blocks::new(p, threads);
    let (n_blocks, k_blocks) = (p.n.div_ceil(blocks.nc), p.k.div_ceil(blocks.kb));
    parallel::run(threads, n_blocks * k_blocks, |index| {
        let (n0, k0) = (index % n_blocks * blocks.nc, index / n_blocks * blocks.kb);
        let n = (n0, blocks.nc.min(p.n - n0));
        let k = (k0, blocks.kb.min(p.k - k0));
        scratch::with(blocks.lengths, |[inputs, sums, products, staged]| {
            let y = Output { table: p.table, n, k, sums };
            let staging = Staging { buffer: staged, len: blocks.lengths[3] };
            // A tile's panels of z and x lie side by side, so that one pointer brings the next tile's.
            let distance = p.table.mr * (blocks.ic + blocks.jc);
            let zp = Panels { first: inputs, distance };
            let xp = Panels { first: inputs.wrapping_add(p.table.mr * blocks.ic), distance };
            let task = Task { p, blocks: &blocks, y, zp, xp, products, staging };
            // SAFETY: the scratch has the lengths that `Blocks` computed for these blocks, the operands' shapes
            // agree, and no other task has these rows and outputs of y.
            unsafe {
                task.sum(z, x);
                y.write(to);
            }
            Ok(())
        })
    })
}

/// Distance between staged rows of W: a line more than the depth, so that rows do not share their cache sets.
fn ld_of(depth: usize) -> usize {
    depth.next_multiple_of(16) + 16
}

struct Task<'a, T: Kernels> {
    p: &'a Problem<'a, T>,
    blocks: &'a Blocks,
    y: Output<T>,
    zp: Panels<T::Acc>,
    xp: Panels<T::Acc>,
    products: *mut T::Acc,
    staging: Staging<T::Acc>,
}

impl<T: Kernels> Task<'_, T> {
    /// Loops 4.
    unsafe fn sum(&self, z: View<'_, T, 2>, x: View<'_, T, 2>) {
        let (p, y, kc) = (self.p, &self.y, self.blocks.kc);
        let x_blocks = parts(p.j, self.blocks.jc, p.table.lanes);
        let repack = x_blocks.clone().count() > 1;
        // SAFETY: see `forward`, here and in all that it calls.
        unsafe {
            y.set(p.b);
            for (ib, i) in parts(p.i, self.blocks.ic, 1).enumerate() {
                y.pack(z, i, self.zp);
                if let Some(u) = p.u {
                    y.add_product(Cube::matrix(u), i, self.zp, kc, self.staging);
                }
                for j in x_blocks.clone() {
                    if ib == 0 || repack {
                        y.pack(x, j, self.xp);
                    }
                    if let (0, Some(v)) = (ib, p.v) {
                        y.add_product(Cube::matrix(v), j, self.xp, kc, self.staging);
                    }
                    if let Some(w) = p.w {
                        self.khatri_rao(w, i, j);
                    }
                }
            }
        }
    }

    unsafe fn khatri_rao(&self, w: Cube<'_, T>, i: Part, j: Part) {
        let (table, y, kc) = (self.p.table, &self.y, self.blocks.kc);
        let [_, si, _] = w.strides();
        for (d0, columns) in parts(j.1, kc, table.lanes) {
            // A row of the block is contiguous if it is part of one row of W, or whole rows.
            for (i0, rows) in parts(i.1, kc / columns.max(1), 1) {
                let in_place = w.in_place() && (rows == 1 || si == columns as isize);
                for (k0, outs) in parts(y.k.1, self.staging.len / self.blocks.ld, table.nr) {
                    let block = [(y.k.0 + k0, outs), (i.0 + i0, rows), (j.0 + d0, columns)];
                    // SAFETY: the block is within W and the panels, and fits the staging.
                    unsafe {
                        let (b, b_stride) = if in_place {
                            let (b, out_stride, _) = w.stage(table, block, self.staging.buffer, columns);
                            (b, out_stride)
                        } else {
                            w.copy(table, block, self.staging.buffer, self.blocks.ld, columns);
                            (self.staging.buffer.cast_const(), self.blocks.ld as isize)
                        };
                        for tile in y.tiles() {
                            (table.arithmetic.form_khatri_rao)(&FormKhatriRao {
                                z: self.zp.at(tile).add(i0 * tile.width),
                                rows,
                                x: self.xp.at(tile).add(d0 * tile.width),
                                columns,
                                to: self.products,
                                width: tile.width,
                            });
                            (table.arithmetic.gemm)(&Gemm {
                                a: self.products,
                                a_stride: tile.width as isize,
                                vectors: tile.vectors,
                                b,
                                b_stride,
                                b_step: 1,
                                rows: outs,
                                depth: rows * columns,
                                out: y.sums_of(tile, k0),
                                out_stride: tile.width,
                                epilogue: Epilogue::Add,
                                fetch: Fetch::Nothing,
                            });
                        }
                    }
                }
            }
        }
    }
}

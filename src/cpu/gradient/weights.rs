//! Gradient in W: dW\[k\]\[i\]\[j\] ←/+ Σ_n g\[n\]\[k\] · z\[n\]\[i\] · x\[n\]\[j\], a GEMM whose depth is the batch. The products of two
//! of the three are formed in L1, in the order of memory; nothing is transposed:
//!
//! ```text
//!   Scaled     rows i of one k: [n][i] g[n][k] z[n][i]      lanes j:       strips of x [n][MR]
//!   Products   rows k: g, in place or widened               lanes (i, j):  strips of [n][(i, j)] z[n][i] x[n][j]
//!
//!   loop 6   blocks of dW: the tasks of the threads
//!   loop 5     the batch by blocks whose g, z and x stay in cache                                     L2
//!                            Scaled                                      Products
//!   loop 4     one k after the other, IC rows i                          strips of MR lanes (i, j)
//!   loop 3       the depth n by KC: rows are formed, IC × KC             a strip is formed, KC × MR   L1
//!   loop 2         strips of MR lanes j, packed for the block
//!   loop 1           tiles of NR rows i                                  tiles of NR rows k
//! ```
//!
//! `Products` fills its lanes whatever J is; `Scaled` writes whole rows of dW. A strip or its rows, formed in L1, are used at
//! once: written to L2 they would cost four times as much. Of each element the order of the sum is that of n.

use super::few;
use crate::cpu::cache::{Caches, caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, OuterStrip, add_into};
use crate::cpu::operand::Part;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::product::{Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::{self, copy_rows};
use crate::cpu::table::Table;
use crate::cpu::trilinear::rows;
use crate::{Context, Result, View, ViewMut};

/// Bytes of a block of dW and of the strips of x that belong to it, half of a usual L2 each.
const BLOCK_BYTES: usize = 512 << 10;
/// Bytes of a block of g, z and x.
const INPUT_BYTES: usize = 384 << 10;
/// Rows (k, i), or k, that a block should have at least, to share the packing of x or the forming of products.
const BLOCK_ROWS: usize = 512;
/// Most rows that are scaled at once, where the batch is small.
const SCALED: usize = 128;

/// Operands, whose sizes agree.
pub(super) struct Weights<'a, T: Kernels> {
    table: &'static Table<T>,
    caches: Caches,
    /// [N, K].
    g: View<'a, T, 2>,
    /// [N, I].
    z: View<'a, T, 2>,
    /// [N, J].
    x: View<'a, T, 2>,
}

/// Which products are formed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Scaled,
    Products,
}

/// Sizes of the blocks.
struct Blocks {
    form: Form,
    /// Of dW: k, i and j, or k and lanes (i, j).
    k: usize,
    i: usize,
    j: usize,
    /// Rows of the batch in a block.
    n: usize,
    /// Depth of a pass.
    kc: usize,
    /// Rows scaled at once.
    ic: usize,
    /// Distances between the rows of the copies of g, z and x: an odd number of cache lines, so that they use all sets of L1.
    pitch: [usize; 3],
    /// Lengths of scratch arrays: g, z, x (or its strips), products, a tile, and the sums of several passes.
    lengths: [usize; 6],
}

impl<'a, T: Kernels> Weights<'a, T> {
    pub(super) fn new(context: &Context, g: View<'a, T, 2>, z: View<'a, T, 2>, x: View<'a, T, 2>) -> Self {
        Weights { table: T::table(context.capability()), caches: caches(), g, z, x }
    }

    /// K, I, J.
    fn sizes(&self) -> [usize; 3] {
        [self.g, self.z, self.x].map(|input| input.shape()[1])
    }

    /// The cheaper form, by cycles for each row of the batch. Lanes (i, j) are possible where they are contiguous in dW.
    fn form(&self, [_, si, sj]: [isize; 3]) -> Form {
        let [k, i, j] = self.sizes();
        let lanes = self.table.lanes;
        let vectors = self.table.mr as f64 / lanes as f64;
        if sj != 1 || (si != j as isize && i > 1) {
            return Form::Scaled;
        }
        // A product takes a load, a multiplication and a store: two cycles a vector.
        // A strip of fewer vectors takes a little more than its share.
        let strips = |columns: usize| {
            let filled = columns.div_ceil(lanes) as f64 / vectors;
            filled + if filled.fract() > 0.0 { 0.15 } else { 0.0 }
        };
        let step = |len: usize| rows(self.table, len, 1.0, vectors, 0.0) - rows(self.table, len, 0.0, vectors, 0.0);
        let scaled = k as f64 * (2.0 * i as f64 / lanes as f64 + strips(j) * step(i));
        let products = 2.0 * i as f64 * j.div_ceil(lanes) as f64 + strips(i.saturating_mul(j)) * step(k);
        // Rows k, far apart in dW, are written a tenth slower.
        if 1.1 * products < scaled { Form::Products } else { Form::Scaled }
    }

    fn blocks(&self, strides: [isize; 3], threads: usize) -> Blocks {
        let (table, size) = (self.table, size_of::<T::Acc>());
        let ([k, i, j], n) = (self.sizes(), self.g.shape()[0]);
        // A strip takes half of L1, the rows that it meets the other.
        let kc = part(n, (self.caches.kc::<T>(table) / 2).max(64), table.lanes).max(table.lanes);
        let form = self.form(strides);
        let pitch = |len: usize| (len.div_ceil(16) | 1) * 16;
        let wanted = if threads > 1 { 4 * threads } else { 1 };
        let batch = |row: usize| (INPUT_BYTES / size / row.max(1) / kc).max(1) * kc;
        match form {
            Form::Scaled => {
                let jb = part(j, BLOCK_BYTES / size / kc, table.mr).next_multiple_of(table.mr).max(table.mr);
                let others = wanted.div_ceil(j.div_ceil(jb).max(1));
                let most = (BLOCK_BYTES / size / jb).min(i.div_ceil(others.div_ceil(k.max(1))).max(table.nr));
                let ib = part(i, most, table.nr).max(1);
                let most = (BLOCK_BYTES / size / jb / ib).max(BLOCK_ROWS / ib).clamp(1, BLOCK_ROWS);
                let others = others.div_ceil(i.div_ceil(ib).max(1));
                let kb = part(k, most.min(k.div_ceil(others)), 1).max(1);
                let ic = part(ib, (self.caches.l1 / 2 / size / kc).clamp(table.lanes, SCALED), table.lanes);
                let pitch = [pitch(kb), pitch(ib), 0];
                let nb = batch(pitch[0] + pitch[1] + jb).min(n.next_multiple_of(kc));
                let lengths = [pitch[0] * nb, pitch[1] * nb, jb * nb, (ic + 16) * kc, ic * table.mr, 0];
                Blocks { form, k: kb, i: ib, j: jb, n: nb, kc, ic, pitch, lengths }
            }
            Form::Products => {
                let lanes = i * j;
                let least = wanted.div_ceil(k.div_ceil(BLOCK_ROWS / 2).max(1));
                let most = (BLOCK_BYTES / size / k.clamp(1, BLOCK_ROWS / 2)).min(lanes.div_ceil(least));
                let jb = part(lanes, most.next_multiple_of(table.mr), table.mr).max(1);
                let others = wanted.div_ceil(lanes.div_ceil(jb).max(1));
                let kb = part(k, (BLOCK_ROWS / 2).min(k.div_ceil(others)).max(table.nr), table.nr).max(1);
                let pitch = [pitch(kb), pitch((jb / j.max(1) + 2).min(i)), pitch(j)];
                let nb = batch(pitch.iter().sum()).min(n.next_multiple_of(kc));
                // The rows k of dW lie far apart, often in the same sets of a cache, to which several passes would return.
                let sums = if n > kc { kb * jb.next_multiple_of(table.mr) } else { 0 };
                let products = (table.mr + 16) * kc;
                let lengths = [pitch[0] * nb, pitch[1] * nb, pitch[2] * nb, products, kb * table.mr, sums];
                Blocks { form, k: kb, i: 1, j: jb, n: nb, kc, ic: 0, pitch, lengths }
            }
        }
    }

    /// The gradient written or added to `to` [K, I, J].
    pub(super) fn run(&self, mut to: ViewMut<'_, T::Acc, 3>, add: bool, threads: usize) -> Result<()> {
        let ([_, i, j], n) = (self.sizes(), self.g.shape()[0]);
        if (1..=small::ROWS).contains(&n) && (to.strides()[2] == 1 || j <= 1) {
            let bytes = to.shape().iter().product::<usize>().saturating_mul(size_of::<T::Acc>());
            let past = !add && i * j > 1 && bytes > self.caches.l3 / 2;
            return few::weights(self.table, [self.g, self.z, self.x], to, (add, past), threads);
        }
        let strides = to.strides();
        let [k, i, j] = self.sizes();
        let blocks = self.blocks(strides, threads);
        let [i, j] = if blocks.form == Form::Products { [1, i * j] } else { [i, j] };
        let [k_blocks, i_blocks, j_blocks] =
            [(k, blocks.k), (i, blocks.i), (j, blocks.j)].map(|(len, block)| len.div_ceil(block));
        let first = Shared::new(to.host_mut_ptr());
        parallel::run(threads, k_blocks * i_blocks * j_blocks, |index| {
            let of = |index: usize, block: usize, len: usize| (index * block, block.min(len - index * block));
            let j = of(index % j_blocks, blocks.j, j);
            let i = of(index / j_blocks % i_blocks, blocks.i, i);
            let k = of(index / j_blocks / i_blocks, blocks.k, k);
            scratch::with(blocks.lengths, |scratch| {
                let task = Task { w: self, blocks: &blocks, k, i, j, scratch, first: first.get(), strides };
                // SAFETY: the scratch has the lengths of these blocks, the operands' shapes agree, and no other task
                // has this block of the gradient.
                unsafe {
                    match blocks.form {
                        Form::Scaled => task.scaled(add),
                        Form::Products => task.products(add),
                    }
                }
                Ok(())
            })
        })
    }
}

struct Task<'a, T: Kernels> {
    w: &'a Weights<'a, T>,
    blocks: &'a Blocks,
    k: Part,
    i: Part,
    /// Lanes (i, j) of `Products`.
    j: Part,
    scratch: [*mut T::Acc; 6],
    /// dW.
    first: *mut T::Acc,
    strides: [isize; 3],
}

impl<T: Kernels> Task<'_, T> {
    /// From this element on, with rows along one axis.
    fn target(&self, index: [usize; 3], row_stride: isize) -> Target<T::Acc> {
        let offset =
            (0..3).fold(0isize, |sum, axis| sum.wrapping_add((index[axis] as isize).wrapping_mul(self.strides[axis])));
        let first = self.first.wrapping_offset(offset);
        Target { first, row_stride, column_stride: self.strides[2], padded: false }
    }

    /// Rows n and some columns of an input as accumulators, padded with zeros; and their distance. They are copied even where
    /// they could be read in place: rows whose distance is a power of two, as in most layers, share a few sets of L1.
    unsafe fn rows(
        &self,
        input: View<'_, T, 2>,
        n: Part,
        columns: Part,
        (to, pitch): (*mut T::Acc, usize),
    ) -> (*const T::Acc, isize) {
        let [sn, sc] = input.strides();
        let offset = (n.0 as isize).wrapping_mul(sn).wrapping_add((columns.0 as isize).wrapping_mul(sc));
        let from = input.host_ptr().wrapping_offset(offset);
        // SAFETY: rows and columns are within the input; room for the rows.
        unsafe { copy_rows(self.w.table, View::from_raw_parts(from, [n.1, columns.1], [sn, sc]), to, pitch) };
        (to.cast_const(), pitch as isize)
    }

    /// Blocks of the batch.
    fn batch(&self) -> impl Iterator<Item = Part> + use<T> {
        parts(self.w.g.shape()[0], self.blocks.n, self.blocks.kc)
    }

    /// Passes of a block of the batch.
    fn passes(&self, n: Part) -> impl Iterator<Item = Part> + use<T> {
        let kc = self.blocks.kc;
        parts(n.1, kc, kc)
    }

    /// A strip of lanes, as wide as the tile or as what is left, times rows, whose elements are one apart.
    unsafe fn strip(
        &self,
        (a, a_stride): (*const T::Acc, usize),
        left: usize,
        (b, b_step, rows): (*const T::Acc, isize, usize),
        depth: usize,
        (to, epilogue): (Target<T::Acc>, Epilogue),
    ) {
        let (table, none) = (self.w.table, std::ptr::null_mut());
        let product = Product { table, kc: depth, few: false, strip: none, tile: self.scratch[4], staged: none };
        let gemm = Gemm {
            a,
            a_stride: a_stride as isize,
            vectors: left.min(table.mr).div_ceil(table.lanes),
            b,
            b_stride: 1,
            b_step,
            rows,
            depth,
            out: none,
            out_stride: 0,
            epilogue: Epilogue::Set,
            fetch: if left > table.mr && depth <= 4 * table.nr { Fetch::Out } else { Fetch::Nothing },
        };
        // SAFETY: see `run`.
        unsafe { product.store(&gemm, left, to, epilogue) };
    }

    /// What the sums of a pass do with what is there.
    fn epilogue(&self, n: usize, add: bool) -> Epilogue {
        if n == 0 && !add { Epilogue::Set } else { Epilogue::Add }
    }

    unsafe fn scaled(&self, add: bool) {
        let (w, blocks, table) = (self.w, self.blocks, self.w.table);
        let [g, z, strips, scaled, ..] = self.scratch;
        let [g_pitch, z_pitch, _] = blocks.pitch;
        let (x, mr) = (Lanes::matrix(w.x), table.mr);
        // SAFETY: see `run`, here and in all that it calls.
        unsafe {
            for block in self.batch() {
                let (g, g_stride) = self.rows(w.g, block, self.k, (g, g_pitch));
                let (z, z_stride) = self.rows(w.z, block, self.i, (z, z_pitch));
                // Strips of a pass lie behind each other.
                let padded = self.j.1.next_multiple_of(mr);
                for n in self.passes(block) {
                    for column in (0..self.j.1).step_by(mr) {
                        let to = strips.add(n.0 * padded + column * n.1);
                        let from = (block.0 + n.0, n.1);
                        x.pack(table, from, (self.j.0 + column, self.j.0 + self.j.1), to);
                    }
                }
                for k in 0..self.k.1 {
                    for ic in parts(self.i.1, blocks.ic, table.lanes) {
                        let pitch = ic.1.next_multiple_of(table.lanes);
                        let to = self.target([self.k.0 + k, self.i.0 + ic.0, self.j.0], self.strides[1]);
                        for n in self.passes(block) {
                            (table.arithmetic.outer_strip)(&OuterStrip {
                                rows: n.1,
                                left: g.wrapping_offset(n.0 as isize * g_stride).wrapping_add(k),
                                left_stride: g_stride,
                                right: z.wrapping_offset(n.0 as isize * z_stride).wrapping_add(ic.0),
                                right_stride: z_stride,
                                rights: ic.1,
                                from: 0,
                                width: ic.1,
                                to: scaled,
                                to_stride: pitch,
                            });
                            let rows = (scaled.cast_const(), pitch as isize, ic.1);
                            let epilogue = self.epilogue(block.0 + n.0, add);
                            for column in (0..self.j.1).step_by(mr) {
                                let left = self.j.1 - column;
                                let width = left.min(mr).next_multiple_of(table.lanes);
                                let strip = (strips.add(n.0 * padded + column * n.1).cast_const(), width);
                                self.strip(strip, left, rows, n.1, (to.offset(0, column), epilogue));
                            }
                        }
                    }
                }
            }
        }
    }

    unsafe fn products(&self, add: bool) {
        let (w, blocks, table) = (self.w, self.blocks, self.w.table);
        let [g, z, x, products, _, sums] = self.scratch;
        let [g_pitch, z_pitch, x_pitch] = blocks.pitch;
        let (mr, several, columns) = (table.mr, blocks.lengths[5] > 0, w.x.shape()[1]);
        let dw = self.target([self.k.0, self.j.0 / columns, self.j.0 % columns], self.strides[0]);
        // Of several passes the sums of a strip lie together.
        let to = |lane: usize| match several {
            true => Target::scratch(sums.wrapping_add(lane * self.k.1), mr),
            false => dw.offset(0, lane),
        };
        let first = self.j.0 / columns;
        let i = (first, (self.j.0 + self.j.1).div_ceil(columns) - first);
        // SAFETY: see `run`, here and in all that it calls.
        unsafe {
            for block in self.batch() {
                let (g, g_stride) = self.rows(w.g, block, self.k, (g, g_pitch));
                let (z, z_stride) = self.rows(w.z, block, i, (z, z_pitch));
                let (x, x_stride) = self.rows(w.x, block, (0, columns), (x, x_pitch));
                for lane in (0..self.j.1).step_by(mr) {
                    let left = self.j.1 - lane;
                    // Vectors of a row of x that is not a whole number of them stick out of the strip.
                    let aligned = columns.is_multiple_of(table.lanes);
                    let width = left.min(mr).next_multiple_of(table.lanes) + if aligned { 0 } else { table.lanes };
                    for n in self.passes(block) {
                        (table.arithmetic.outer_strip)(&OuterStrip {
                            rows: n.1,
                            left: z.wrapping_offset(n.0 as isize * z_stride),
                            left_stride: z_stride,
                            right: x.wrapping_offset(n.0 as isize * x_stride),
                            right_stride: x_stride,
                            rights: columns,
                            from: self.j.0 + lane - first * columns,
                            width: left.min(mr),
                            to: products,
                            to_stride: width,
                        });
                        let rows = (g.wrapping_offset(n.0 as isize * g_stride), g_stride, self.k.1);
                        let epilogue = self.epilogue(block.0 + n.0, add && !several);
                        self.strip((products, width), left, rows, n.1, (to(lane), epilogue));
                    }
                }
            }
            for lane in (0..if several { self.j.1 } else { 0 }).step_by(mr) {
                let len = (self.j.1 - lane).min(mr);
                for row in 0..self.k.1 {
                    let from = std::slice::from_raw_parts(to(lane).offset(row, 0).first, len);
                    let dw = dw.offset(row, lane).first;
                    match add {
                        true => add_into(std::slice::from_raw_parts_mut(dw, len), from),
                        false => std::ptr::copy_nonoverlapping(from.as_ptr(), dw, len),
                    }
                }
            }
        }
    }
}

//! Gradient in W: dW\[k\]\[i\]\[j\] ←/+ Σ_n g\[n\]\[k\] · z\[n\]\[i\] · x\[n\]\[j\], a GEMM whose depth is the batch. The products of two
//! of the three are formed in cache, in the order of memory, nothing is transposed:
//!
//! ```text
//!   Scaled     rows i of one k: [n][i] g[n][k] z[n][i]      lanes j:       strips of x [n][MR]
//!   Products   rows k: g, in place or widened               lanes (i, j):  [n][(i, j)] z[n][i] x[n][j]
//!
//!   loop 5   blocks of dW, K × I × J, of some 512 KiB: the tasks of the threads are groups of them     L2
//!   loop 4     depth n by KC
//!   loop 3       Scaled: one k after the other, i by IC.  Products: once for all k
//!   loop 2         strips of MR lanes                                                                  L1
//!   loop 1           tiles of NR rows
//! ```
//!
//! A block is complete before the next one is begun, so that dW passes memory once. `Products` fills its lanes whatever J is;
//! `Scaled` writes whole rows of dW. Of each element the order of the sum depends on N and the processor only.

use crate::cpu::cache::{Caches, caches, part, parts};
use crate::cpu::kernels::{Epilogue, Fetch, Gemm, OuterRows, add_into};
use crate::cpu::operand::Part;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::product::{Lanes, Product, Target};
use crate::cpu::scratch;
use crate::cpu::simd::Kernels;
use crate::cpu::small::copy_rows;
use crate::cpu::table::Table;
use crate::cpu::trilinear::rows;
use crate::{Context, Result, View, ViewMut};

/// IC: a multiple of every level's NR. With KC = 256 the scaled rows are 128 KiB of f32.
const SCALED: usize = 120;
/// Bytes of a block of dW, half of a usual L2 ...
const BLOCK_BYTES: usize = 512 << 10;
/// ... of strips of x, and of products z⊗x.
const LANE_BYTES: usize = 384 << 10;
/// Rows (k, i), or k, that a block should have at least, to share the packing of x or the forming of products.
const BLOCK_ROWS: usize = 512;

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
    /// Of dW.
    k: usize,
    i: usize,
    j: usize,
    kc: usize,
    /// Distances between the rows of the copies of g, z and x, and of the products: a vector longer than what they hold.
    pitch: [usize; 4],
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
        let strips = |columns: usize| columns.div_ceil(lanes) as f64 / vectors;
        let step = |len: usize| rows(self.table, len, 1.0, vectors, 0.0) - rows(self.table, len, 0.0, vectors, 0.0);
        let scaled = k as f64 * (2.0 * i as f64 / lanes as f64 + strips(j) * step(i));
        let products = 2.0 * i as f64 * j.div_ceil(lanes) as f64 + strips(i.saturating_mul(j)) * step(k);
        if products < scaled { Form::Products } else { Form::Scaled }
    }

    fn blocks(&self, strides: [isize; 3], threads: usize) -> Blocks {
        let (table, size) = (self.table, size_of::<T::Acc>());
        let [k, i, j] = self.sizes();
        let kc = self.caches.kc::<T>(table);
        let form = self.form(strides);
        let lanes = (LANE_BYTES / size / kc).max(table.mr);
        let pitch = |len: usize| len.next_multiple_of(16) + 16;
        let wanted = if threads > 1 { 4 * threads } else { 1 };
        match form {
            Form::Scaled => {
                let jb = part(j, lanes, table.mr).next_multiple_of(table.mr).max(table.mr);
                let others = wanted.div_ceil(j.div_ceil(jb).max(1));
                let most = (BLOCK_BYTES / size / jb).min(i.div_ceil(others.div_ceil(k.max(1))).max(table.nr));
                let ib = part(i, most, table.nr).max(1);
                let most = (BLOCK_BYTES / size / jb / ib).max(BLOCK_ROWS / ib).clamp(1, BLOCK_ROWS);
                let others = others.div_ceil(i.div_ceil(ib).max(1));
                let kb = part(k, most.min(k.div_ceil(others)), 1).max(1);
                let ic = SCALED.min(ib);
                let pitch = [pitch(kb), pitch(ic), 0, pitch(ic)];
                let lengths = [pitch[0] * kc, pitch[1] * kc, jb * kc, pitch[3] * kc, ic * table.mr, 0];
                Blocks { form, k: kb, i: ib, j: jb, kc, pitch, lengths }
            }
            Form::Products => {
                let jb = part(j, lanes, table.mr).max(1);
                // As many rows as fit, and if possible whole vectors of lanes.
                let most = if jb < j { 1 } else { (lanes * 9 / 8 / jb).clamp(1, i.max(1)) };
                let whole = (1..=most).rev().find(|rows| (rows * jb).is_multiple_of(table.lanes));
                let ib = whole.filter(|rows| 2 * rows > most).unwrap_or(most);
                let others = wanted.div_ceil((j.div_ceil(jb) * i.div_ceil(ib)).max(1));
                let kb = part(k, (BLOCK_ROWS / 2).min(k.div_ceil(others)).max(table.nr), table.nr).max(1);
                let pitch = [pitch(kb), pitch(ib), pitch(jb), pitch(ib * jb)];
                // The rows k of dW lie far apart, often in the same sets of a cache, to which several passes would return.
                let sums = if self.g.shape()[0] > kc { kb * pitch[3] } else { 0 };
                let lengths = [pitch[0] * kc, pitch[1] * kc, pitch[2] * kc, pitch[3] * kc + 16, kb * table.mr, sums];
                Blocks { form, k: kb, i: ib, j: jb, kc, pitch, lengths }
            }
        }
    }

    /// The gradient written or added to `to` [K, I, J].
    pub(super) fn run(&self, mut to: ViewMut<'_, T::Acc, 3>, add: bool, threads: usize) -> Result<()> {
        let strides = to.strides();
        let [k, i, j] = self.sizes();
        let blocks = self.blocks(strides, threads);
        let [k_blocks, i_blocks, j_blocks] =
            [(k, blocks.k), (i, blocks.i), (j, blocks.j)].map(|(len, block)| len.div_ceil(block));
        let first = Shared::new(to.as_mut_ptr());
        parallel::run(threads, k_blocks * i_blocks * j_blocks, |index| {
            let of = |index: usize, block: usize, len: usize| (index * block, block.min(len - index * block));
            let j = of(index % j_blocks, blocks.j, j);
            let i = of(index / j_blocks % i_blocks, blocks.i, i);
            let k = of(index / j_blocks / i_blocks, blocks.k, k);
            scratch::with(blocks.lengths, |scratch| {
                let [sk, si, sj] = strides;
                let task =
                    Task { w: self, blocks: &blocks, k, i, j, scratch, first: first.get(), strides: [sk, si, sj] };
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

    /// Rows n and some columns of an input as accumulators, and the distance of the rows: in place, or copied and padded with
    /// zeros. With `padded` it must be possible to read whole vectors.
    unsafe fn rows(
        &self,
        input: View<'_, T, 2>,
        n: Part,
        columns: Part,
        (to, pitch): (*mut T::Acc, usize),
        padded: bool,
    ) -> (*const T::Acc, isize) {
        let [sn, sc] = input.strides();
        let offset = (n.0 as isize).wrapping_mul(sn).wrapping_add((columns.0 as isize).wrapping_mul(sc));
        let from = input.as_ptr().wrapping_offset(offset);
        if T::IN_PLACE && sc == 1 && (!padded || columns.1.is_multiple_of(self.w.table.lanes)) {
            return (from.cast(), sn);
        }
        // SAFETY: rows and columns are within the input; room for the rows.
        unsafe { copy_rows(self.w.table, View::from_raw_parts(from, [n.1, columns.1], [sn, sc]), to, pitch) };
        (to.cast_const(), pitch as isize)
    }

    /// The blocks of the batch, and what their sums do with what is there.
    fn depths(&self, add: bool) -> impl Iterator<Item = (Part, Epilogue)> + use<T> {
        let (n, kc, lanes) = (self.w.g.shape()[0], self.blocks.kc, self.w.table.lanes);
        parts(n, kc, lanes)
            .enumerate()
            .map(move |(index, n)| (n, if index == 0 && !add { Epilogue::Set } else { Epilogue::Add }))
    }

    /// Strips of the lane operand times rows, whose elements are one apart and depths `b_step`.
    unsafe fn strips(
        &self,
        lanes: impl Fn(usize) -> (*const T::Acc, isize),
        columns: usize,
        (b, b_step, rows): (*const T::Acc, isize, usize),
        depth: usize,
        (to, epilogue): (Target<T::Acc>, Epilogue),
    ) {
        let (table, none) = (self.w.table, std::ptr::null_mut());
        let product =
            Product { table, kc: depth, few: false, strip: none, tile: self.scratch[4], staged: none, factors: none };
        for column in (0..columns).step_by(table.mr) {
            let (a, a_stride) = lanes(column);
            let left = columns - column;
            let gemm = Gemm {
                a,
                a_stride,
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
            unsafe { product.store(&gemm, left, to.offset(0, column), epilogue) };
        }
    }

    unsafe fn scaled(&self, add: bool) {
        let (w, blocks, table) = (self.w, self.blocks, self.w.table);
        let [g, z, strips, scaled, ..] = self.scratch;
        let [g_pitch, z_pitch, _, pitch] = blocks.pitch;
        let x = Lanes::matrix(w.x);
        // SAFETY: see `run`, here and in all that it calls.
        unsafe {
            for (n, epilogue) in self.depths(add) {
                let (g, g_stride) = self.rows(w.g, n, self.k, (g, g_pitch), false);
                for column in (0..self.j.1).step_by(table.mr) {
                    x.pack(table, [(0, 1), n], (self.j.0 + column, self.j.0 + self.j.1), strips.add(column * n.1));
                }
                for ic in parts(self.i.1, SCALED, table.nr) {
                    let (z, z_stride) = self.rows(w.z, n, (self.i.0 + ic.0, ic.1), (z, z_pitch), true);
                    for k in 0..self.k.1 {
                        (table.arithmetic.outer_rows)(&OuterRows {
                            rows: n.1,
                            left: g.add(k),
                            left_stride: g_stride,
                            lefts: 1,
                            right: z,
                            right_stride: z_stride,
                            rights: ic.1,
                            to: scaled,
                            to_stride: pitch,
                        });
                        let strip = |column: usize| {
                            let vectors = (self.j.1 - column).min(table.mr).div_ceil(table.lanes);
                            (strips.wrapping_add(column * n.1).cast_const(), (vectors * table.lanes) as isize)
                        };
                        let to = self.target([self.k.0 + k, self.i.0 + ic.0, self.j.0], self.strides[1]);
                        self.strips(strip, self.j.1, (scaled, pitch as isize, ic.1), n.1, (to, epilogue));
                    }
                }
            }
        }
    }

    unsafe fn products(&self, add: bool) {
        let (w, blocks, table) = (self.w, self.blocks, self.w.table);
        let [g, z, x, products, _, sums] = self.scratch;
        let [g_pitch, z_pitch, x_pitch, pitch] = blocks.pitch;
        let (columns, several) = (self.i.1 * self.j.1, blocks.lengths[5] > 0);
        let dw = self.target([self.k.0, self.i.0, self.j.0], self.strides[0]);
        let to = if several { Target::scratch(sums, pitch) } else { dw };
        // SAFETY: see `run`, here and in all that it calls.
        unsafe {
            for (n, epilogue) in self.depths(add && !several) {
                let (g, g_stride) = self.rows(w.g, n, self.k, (g, g_pitch), false);
                let (z, z_stride) = self.rows(w.z, n, self.i, (z, z_pitch), false);
                let (x, x_stride) = self.rows(w.x, n, self.j, (x, x_pitch), true);
                (table.arithmetic.outer_rows)(&OuterRows {
                    rows: n.1,
                    left: z,
                    left_stride: z_stride,
                    lefts: self.i.1,
                    right: x,
                    right_stride: x_stride,
                    rights: self.j.1,
                    to: products,
                    to_stride: pitch,
                });
                let strip = |column: usize| (products.wrapping_add(column).cast_const(), pitch as isize);
                self.strips(strip, columns, (g, g_stride, self.k.1), n.1, (to, epilogue));
            }
            for row in 0..if several { self.k.1 } else { 0 } {
                let from = std::slice::from_raw_parts(to.offset(row, 0).first, columns);
                let dw = dw.offset(row, 0).first;
                match add {
                    true => add_into(std::slice::from_raw_parts_mut(dw, columns), from),
                    false => std::ptr::copy_nonoverlapping(from.as_ptr(), dw, columns),
                }
            }
        }
    }
}

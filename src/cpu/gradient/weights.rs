//! Gradient in W: dW\[k\]\[i\]\[j\] ←/+ Σ_n g\[n\]\[k\] · z\[n\]\[i\] · x\[n\]\[j\], a GEMM whose depth is the batch, in the order of
//! memory; nothing is transposed. Its rows are i (or k), its lanes (k, j) (or (i, j)): products of two inputs, which the
//! microkernel of the first rows forms:
//!
//! ```text
//!   rows    z [n][i]                               lanes   g[n][k] · x[n][j], vectors of j, of one k after the other
//!
//!   loop 5   blocks of dW, or of a small one parts of the batch: the tasks of the threads
//!   loop 4     the depth n by KC                                         dW in L2, z and x in L1 and L2
//!   loop 3       strips of MV vectors of lanes (k, j), each KC × MR      L1
//!   loop 2         tiles of NR rows i, of which the first forms the strip
//! ```
//!
//! A row of one input costs the forming of a strip, a multiplication a vector, so the longer of i and k are the rows. Of
//! each element the order of the sum is that of n; a small dW is that of several parts of the batch, which are added in order:
//! as many for any number of threads, since blocks of it would each copy the same inputs.

use super::few;
use crate::cpu::cache::{Caches, caches, part, parts};
use crate::cpu::kernels::{Pack, Products, add_into};
use crate::cpu::operand::Part;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::scratch;
use crate::cpu::simd::{Accumulator, Kernels};
use crate::cpu::small::{self, copy_rows};
use crate::cpu::table::Table;
use crate::cpu::trilinear::rows;
use crate::{Context, Gradient, Result, View, ViewMut};

/// Bytes of a block of dW, a usual L2. It passes through once for each KC rows of the batch.
const BLOCK_BYTES: usize = 1 << 20;
/// Rows (k, i) that a block should have at least, to share the copies of its inputs.
const BLOCK_ROWS: usize = 512;

/// Bytes of a dW of which each part of the batch makes its own, ...
const PART_BYTES: usize = 64 << 10;
/// ... their number at most, and the passes of one at least.
const PARTS: usize = 8;
const PART_PASSES: usize = 4;

/// Operands, whose sizes agree.
pub(in crate::cpu) struct Weights<'a, T: Kernels> {
    table: &'static Table<T>,
    caches: Caches,
    /// g [N, K], z [N, I], x [N, J].
    inputs: [View<'a, T, 2>; 3],
}

/// Sizes of the blocks.
struct Blocks {
    /// Axes of dW: that of the rows, and that of the factors of lanes.
    rows: usize,
    left: usize,
    /// Block of each axis of dW.
    lengths: [usize; 3],
    /// Depth of a pass.
    kc: usize,
    /// Rows of the batch in a part.
    nc: usize,
    /// Distances between the rows of the copies of two inputs: an odd number of cache lines, so that they use all sets of
    /// L1. Of the factors, which are transposed, KC.
    pitch: [usize; 3],
    /// Lengths of scratch arrays: the copies of g, z and x, a strip, a tile.
    scratch: [usize; 5],
}

impl<'a, T: Kernels> Weights<'a, T> {
    pub(in crate::cpu) fn new(context: &Context, g: View<'a, T, 2>, z: View<'a, T, 2>, x: View<'a, T, 2>) -> Self {
        Weights { table: T::table(context.capability()), caches: caches(), inputs: [g, z, x] }
    }

    /// Rows of the batch.
    fn n(&self) -> usize {
        self.inputs[0].shape()[0]
    }

    /// K, I, J.
    fn sizes(&self) -> [usize; 3] {
        self.inputs.map(|input| input.shape()[1])
    }

    /// The axes of the rows and of the factors, the cheaper way by cycles for each row of the batch.
    fn axes(&self) -> [usize; 2] {
        let sizes = self.sizes();
        let vectors = (self.table.mr / self.table.lanes) as f64;
        let step = |len: usize| rows(self.table, len, 1.0, vectors, 0.0) - rows(self.table, len, 0.0, vectors, 0.0);
        let cost = |rows: usize, left: usize| sizes[left] as f64 * (step(sizes[rows]) + vectors / 2.0);
        // Rows k, far apart in dW, are written a tenth slower.
        if 1.1 * cost(0, 1) < cost(1, 0) { [0, 1] } else { [1, 0] }
    }

    fn blocks(&self, threads: usize) -> Blocks {
        let (table, size) = (self.table, size_of::<T::Acc>());
        let ([rows, left], sizes, n) = (self.axes(), self.sizes(), self.n());
        // Each step takes a line of the rows and of x, which NR rows of FMAs hide if they come from L2.
        let most = self.caches.l1 / 128 * table.nr / 12;
        let kc = part(n, most, table.lanes).next_multiple_of(table.lanes).max(table.lanes);
        let small = sizes.iter().fold(size, |bytes, &len| bytes.saturating_mul(len)) <= PART_BYTES;
        let n_parts = if small { (n / (PART_PASSES * kc)).clamp(1, PARTS) } else { 1 };
        let nc = part(n, n.div_ceil(n_parts).next_multiple_of(kc), kc).max(1);
        let wanted = if threads > 1 { (4 * threads).div_ceil(n_parts) } else { 1 };
        let j = part(sizes[2], BLOCK_BYTES / size / kc, table.mr).max(1);
        let others = wanted.div_ceil(sizes[2].div_ceil(j).max(1));
        let most =
            (BLOCK_BYTES / size / j).min(sizes[rows].div_ceil(others.div_ceil(sizes[left].max(1))).max(table.nr));
        let r = part(sizes[rows], most, table.nr).max(1);
        let most = (BLOCK_BYTES / size / j / r).max(BLOCK_ROWS / r).clamp(1, BLOCK_ROWS);
        let others = others.div_ceil(sizes[rows].div_ceil(r).max(1));
        let l = part(sizes[left], most.min(sizes[left].div_ceil(others)), 1).max(1);
        let mut lengths = [0, 0, j];
        (lengths[rows], lengths[left]) = (r, l);
        let mut pitch = lengths.map(|len| (len.div_ceil(16) | 1) * 16);
        pitch[left] = kc;
        let mut copies = pitch.map(|pitch| pitch * kc);
        copies[left] = l * kc;
        let [g, z, x] = copies;
        Blocks { rows, left, lengths, kc, nc, pitch, scratch: [g, z, x, table.mr * kc, r * table.mr] }
    }

    /// The gradient written or added to `to` [K, I, J].
    pub(in crate::cpu) fn run(&self, mut to: ViewMut<'_, T::Acc, 3>, add: bool, threads: usize) -> Result<()> {
        let (sizes, n) = (self.sizes(), self.n());
        if (1..=small::ROWS).contains(&n) && (to.strides()[2] == 1 || sizes[2] <= 1) {
            return few::weights(self.table, &self.caches, self.inputs, Gradient { to, add }, threads);
        }
        let strides = to.strides();
        let blocks = self.blocks(threads);
        let counts: [usize; 3] = std::array::from_fn(|axis| sizes[axis].div_ceil(blocks.lengths[axis]));
        let n_parts = n.div_ceil(blocks.nc).max(1);
        let tasks = counts.iter().product::<usize>();
        let len = sizes.iter().fold(1, |len: usize, &size| len.saturating_mul(size));
        let first = Shared::new(to.host_mut_ptr());
        scratch::with([(n_parts - 1).saturating_mul(len)], |[others]: [*mut T::Acc; 1]| {
            let others = Shared::new(others);
            let other = |part: usize| others.get().wrapping_add((part - 1) * len);
            parallel::run(threads, n_parts * tasks, |index| {
                let (part, index) = (index / tasks, index % tasks);
                let index = [index / counts[2] / counts[1], index / counts[2] % counts[1], index % counts[2]];
                let block = std::array::from_fn(|axis| {
                    let (from, len) = (index[axis] * blocks.lengths[axis], blocks.lengths[axis]);
                    (from, len.min(sizes[axis] - from))
                });
                let n = (part * blocks.nc, blocks.nc.min(n - part * blocks.nc));
                let (first, strides, add) = match part {
                    0 => (first.get(), strides, add),
                    _ => (other(part), [sizes[1] * sizes[2], sizes[2], 1].map(|stride| stride as isize), false),
                };
                scratch::with(blocks.scratch, |scratch| {
                    let task = Task { w: self, blocks: &blocks, n, block, scratch, first, strides };
                    // SAFETY: the scratch has the lengths of these blocks, the operands' shapes agree, and no other task
                    // has this block of the gradient, or of the part's.
                    unsafe { task.run(add) };
                    Ok(())
                })
            })?;
            let row = |index: usize, strides: [isize; 3]| {
                let [k, i] = [index / sizes[1], index % sizes[1]].map(|index| index as isize);
                k.wrapping_mul(strides[0]).wrapping_add(i.wrapping_mul(strides[1]))
            };
            for part in 1..n_parts {
                for index in 0..sizes[0] * sizes[1] {
                    let to = first.get().wrapping_offset(row(index, strides));
                    // SAFETY: rows of dW and of the part, all of which are complete.
                    unsafe { add_row(to, strides[2], other(part).wrapping_add(index * sizes[2]), sizes[2]) };
                }
            }
            Ok(())
        })
    }
}

/// A row added to one whose elements are `stride` apart.
unsafe fn add_row<A: Accumulator>(to: *mut A, stride: isize, from: *const A, len: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let from = std::slice::from_raw_parts(from, len);
        if stride == 1 {
            add_into(std::slice::from_raw_parts_mut(to, len), from);
            return;
        }
        for (column, &sum) in from.iter().enumerate() {
            *to.wrapping_offset((column as isize).wrapping_mul(stride)) += sum;
        }
    }
}

struct Task<'a, T: Kernels> {
    w: &'a Weights<'a, T>,
    blocks: &'a Blocks,
    /// Rows of the batch.
    n: Part,
    /// Of K, I and J.
    block: [Part; 3],
    scratch: [*mut T::Acc; 5],
    /// dW.
    first: *mut T::Acc,
    strides: [isize; 3],
}

impl<T: Kernels> Task<'_, T> {
    /// Row 0 of the block, of this factor, from this column on.
    fn target(&self, left: usize, column: usize) -> *mut T::Acc {
        let mut index = self.block.map(|(first, _)| first);
        index[self.blocks.left] += left;
        index[2] += column;
        let offset =
            (0..3).fold(0isize, |sum, axis| sum.wrapping_add((index[axis] as isize).wrapping_mul(self.strides[axis])));
        self.first.wrapping_offset(offset)
    }

    /// Where row `n` of the block's columns of an input is.
    fn at(&self, axis: usize, n: usize) -> *const T {
        let (input, column) = (self.w.inputs[axis], self.block[axis].0);
        let [sn, sc] = input.strides();
        let offset = (n as isize).wrapping_mul(sn).wrapping_add((column as isize).wrapping_mul(sc));
        input.host_ptr().wrapping_offset(offset)
    }

    /// Rows n and the block's columns of an input as accumulators, vectors past the last column of x readable; and their
    /// distance. They are copied if in place they would share a few sets of L1, their distance being a power of two as in
    /// most layers.
    unsafe fn rows(&self, axis: usize, n: Part) -> (*const T::Acc, isize) {
        let (from, columns, lanes) = (self.at(axis, n.0), self.block[axis].1, self.w.table.lanes);
        let [sn, sc] = self.w.inputs[axis].strides();
        let line = 64 / size_of::<T::Acc>() as isize;
        let spread = sn % line == 0 && (sn / line % 2 != 0 || sn.abs() <= 2 * line);
        if T::IN_PLACE && sc == 1 && spread && (axis < 2 || columns.is_multiple_of(lanes)) {
            return (from.cast(), sn);
        }
        let (to, pitch) = (self.scratch[axis], self.blocks.pitch[axis]);
        // SAFETY: rows and columns are within the input; room for the rows.
        unsafe { copy_rows(self.w.table, View::from_raw_parts(from, [n.1, columns], [sn, sc]), to, pitch) };
        (to.cast_const(), pitch as isize)
    }

    /// The factors, each with its elements n side by side, KC apart.
    unsafe fn factors(&self, n: Part) -> *const T::Acc {
        let axis = self.blocks.left;
        let [row_stride, column_stride] = self.w.inputs[axis].strides();
        let (from, to, width) = (self.at(axis, n.0), self.scratch[axis], self.blocks.kc);
        // SAFETY: rows and columns are within the input; room for the factors.
        unsafe {
            (self.w.table.pack)(&Pack {
                from,
                row_stride,
                column_stride,
                rows: n.1,
                depth: self.block[axis].1,
                to,
                width,
            });
        }
        to.cast_const()
    }

    unsafe fn run(&self, add: bool) {
        let (blocks, table) = (self.blocks, self.w.table);
        let (lanes, mv) = (table.lanes, table.mr / table.lanes);
        let (rows, lefts, columns) = (self.block[blocks.rows].1, self.block[blocks.left].1, self.block[2].1);
        let [.., formed, tile] = self.scratch;
        let across = columns.div_ceil(lanes);
        // SAFETY: see `Weights::run`, here and in all that it calls.
        unsafe {
            for (n0, n) in parts(self.n.1, blocks.kc, blocks.kc) {
                let (add, n) = (n0 > 0 || add, (self.n.0 + n0, n));
                let (b, b_step) = self.rows(blocks.rows, n);
                let (x, right_step) = self.rows(2, n);
                let factors = self.factors(n);
                for first in (0..lefts * across).step_by(mv) {
                    let vectors = mv.min(lefts * across - first);
                    // Its factor and its first column.
                    let of = |v: usize| ((first + v) / across, (first + v) % across * lanes);
                    let whole = self.strides[2] == 1 && (0..vectors).all(|v| of(v).1 + lanes <= columns);
                    let ([mut left, mut right], mut out) = ([Products::NONE.0; 2], Products::NONE.1);
                    for v in 0..vectors {
                        let (factor, column) = of(v);
                        left[v] = factors.wrapping_add(factor * blocks.kc);
                        right[v] = x.wrapping_add(column);
                        out[v] = if whole { self.target(factor, column) } else { tile.wrapping_add(v * lanes) };
                    }
                    (table.arithmetic.products)(&Products {
                        vectors,
                        depth: n.1,
                        left,
                        right,
                        right_step,
                        b,
                        b_step,
                        rows,
                        formed,
                        out,
                        out_stride: if whole { self.strides[blocks.rows] } else { (vectors * lanes) as isize },
                        add: add && whole,
                    });
                    for v in 0..if whole { 0 } else { vectors } {
                        let (factor, column) = of(v);
                        let sums = tile.wrapping_add(v * lanes).cast_const();
                        let len = lanes.min(columns - column);
                        self.write((sums, vectors * lanes), self.target(factor, column), [rows, len], add);
                    }
                }
            }
        }
    }

    /// Rows of sums, so far apart, to dW.
    unsafe fn write(
        &self,
        (from, distance): (*const T::Acc, usize),
        to: *mut T::Acc,
        [rows, len]: [usize; 2],
        add: bool,
    ) {
        let (row_stride, stride) = (self.strides[self.blocks.rows], self.strides[2]);
        for row in 0..rows {
            let to = to.wrapping_offset((row as isize).wrapping_mul(row_stride));
            // SAFETY: see `Weights::run`.
            unsafe {
                let from = std::slice::from_raw_parts(from.add(row * distance), len);
                if add {
                    add_row(to, stride, from.as_ptr(), len);
                } else if stride == 1 {
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, len);
                } else {
                    for (column, &sum) in from.iter().enumerate() {
                        to.wrapping_offset((column as isize).wrapping_mul(stride)).write(sum);
                    }
                }
            }
        }
    }
}

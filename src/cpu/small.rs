//! Forward for at most four rows: the weights are streamed once, in place, and the arithmetic hides behind the reads.
//!
//! Sums of an output are added in an order that depends on I, J and K only. Where there are too few outputs to share
//! among threads, the rows i are cut into parts of a fixed size, whose sums are added in order.

use super::cache::parts;
use super::kernels::{Fold, Stream, Widened, add_into, gather};
use super::operand::Cube;
use super::output::{Place, Sink};
use super::parallel::{self, Shared};
use super::problem::Problem;
use super::scratch;
use super::simd::Kernels;
use super::table::Table;
use crate::{Result, View};

/// Rows of the batch that one pass over the weights serves.
pub(crate) const ROWS: usize = 4;
/// JC: so many features of four rows of x are 64 KiB of f32.
const FEATURES: usize = 4096;
/// z⊗x is formed whole if it has at most this many elements: then it stays in L1 while K rows of W pass.
const PRODUCTS: usize = 1024;
/// Rows of U or V that are gathered at a time.
const GATHERED: usize = 4;
/// With fewer outputs than this, the rows i are cut.
const FEW_OUTPUTS: usize = 16;
/// Elements of W in a part of the rows.
const PART: usize = 1 << 14;

/// `len` rounded up to a multiple of every level's LANES; `usize::MAX`, which no scratch has, if that does not exist.
pub(crate) fn pad(len: usize) -> usize {
    len.checked_next_multiple_of(16).unwrap_or(usize::MAX)
}

/// Lengths of scratch arrays: z, x, z⊗x, sums. Those too large for an address are `usize::MAX`, which `scratch` refuses.
pub(crate) fn lengths<T: Kernels>(p: &Problem<'_, T>) -> [usize; 4] {
    let products = if whole_product(p) { pad(p.i.saturating_mul(p.j)).saturating_add(16) } else { 0 };
    let sums = i_parts(p).saturating_mul(p.k).saturating_mul(p.n);
    [p.n.saturating_mul(pad(p.i)), p.n.saturating_mul(pad(p.j)), p.n.saturating_mul(products), sums]
}

/// Whether the kernels can read W in place. (U and V that they cannot are gathered: their share is 1/J.)
pub(crate) fn streams<T: Kernels>(p: &Problem<'_, T>) -> bool {
    let unit = |strides: [isize; 3]| strides[2] == 1 || p.j <= 1;
    p.w.is_some_and(|w| unit(w.strides()) && unit(p.layout))
}

fn whole_product<T: Kernels>(p: &Problem<'_, T>) -> bool {
    let contiguous = |strides: [isize; 3]| strides[1] == p.j as isize || p.i == 1;
    p.w.is_some_and(|w| contiguous(w.strides()) && contiguous(p.layout))
        && p.i.saturating_mul(p.j) <= PRODUCTS / p.n.max(1)
}

fn rows_in_part<T: Kernels>(p: &Problem<'_, T>) -> usize {
    if p.k < FEW_OUTPUTS { (PART / p.j.max(1)).max(4) } else { p.i.max(1) }
}

fn i_parts<T: Kernels>(p: &Problem<'_, T>) -> usize {
    if p.w.is_none() { 1 } else { p.i.div_ceil(rows_in_part(p)).max(1) }
}

/// y = M(x, z) for p.n ≤ [`ROWS`] rows.
pub(crate) fn forward<T: Kernels>(
    p: &Problem<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: Sink<T>,
    threads: usize,
) -> Result<()> {
    let lengths = lengths(p);
    scratch::with(lengths, |[zs, xs, products, sums]| {
        let (z_stride, x_stride) = (pad(p.i), pad(p.j));
        // SAFETY: the scratch has these lengths; z and x have these shapes; y too.
        unsafe {
            copy_rows(p.table, z, zs, z_stride);
            copy_rows(p.table, x, xs, x_stride);
            std::slice::from_raw_parts_mut(sums, lengths[3]).fill(T::Acc::default());
            let call = Call { p, z: (zs, z_stride), x: (xs, x_stride), products, sums: Shared::new(sums) };
            call.add_weights(threads)?;
            add_linear(p.table, p.u, (zs, z_stride), p.n, sums)?;
            add_linear(p.table, p.v, (xs, x_stride), p.n, sums)?;
            write(p.b, sums, [p.n, p.k], y);
        }
        Ok(())
    })
}

/// Rows of z or x as accumulators, padded with zeros to `stride`.
///
/// # Safety
///
/// `to` has room for the rows.
pub(crate) unsafe fn copy_rows<T: Kernels>(table: &Table<T>, from: View<'_, T, 2>, to: *mut T::Acc, stride: usize) {
    let ([rows, columns], [row_stride, column_stride]) = (from.shape(), from.strides());
    // SAFETY: rows and columns within the view; `to` has `rows` rows of `stride` ≥ `columns`.
    unsafe {
        if column_stride == 1 {
            (table.widen)(&Widened { from: from.host_ptr(), row_stride, rows, columns, to, to_stride: stride });
        }
        for n in 0..rows {
            let (from, to) = (from.host_ptr().wrapping_offset(n as isize * row_stride), to.add(n * stride));
            if column_stride != 1 {
                for c in 0..columns {
                    *to.add(c) = (*from.wrapping_offset(c as isize * column_stride)).to_acc();
                }
            }
            for c in columns..stride {
                *to.add(c) = T::Acc::default();
            }
        }
    }
}

/// sums [k][n] += weights · rows, for U with z and V with x.
///
/// # Safety
///
/// `rows` are `batch` rows of at least the weights' depth; `sums` has as many outputs as the weights.
pub(crate) unsafe fn add_linear<T: Kernels>(
    table: &Table<T>,
    weights: Option<View<'_, T, 2>>,
    rows: Rows<T::Acc>,
    batch: usize,
    sums: *mut T::Acc,
) -> Result<()> {
    let Some(weights) = weights else { return Ok(()) };
    let ([k, depth], [row_stride, column_stride]) = (weights.shape(), weights.strides());
    // SAFETY: rows and columns are within the weights; the rest is the caller's contract.
    unsafe {
        if column_stride == 1 {
            (table.stream)(&Stream {
                w: weights.host_ptr(),
                row_stride,
                out_stride: 0,
                outs: 1,
                rows: k,
                depth,
                x: rows.0,
                x_stride: rows.1,
                z: rows.0,
                z_stride: 0,
                batch,
                y: sums,
                fold: Fold::None,
                from_memory: true,
            });
            return Ok(());
        }
        // Other layouts are gathered, some rows at a time, and then added in the same order.
        scratch::with::<T, 1, ()>([GATHERED.saturating_mul(depth)], |[buffer]| {
            for (first, outs) in parts(k, GATHERED, 1) {
                let from = weights.host_ptr().wrapping_offset((first as isize).wrapping_mul(row_stride));
                gather(from, (row_stride, column_stride), (outs, depth), buffer, depth, |weight| weight);
                let contiguous = View::from_raw_parts(buffer.cast_const(), [outs, depth], [depth as isize, 1]);
                add_linear(table, Some(contiguous), rows, batch, sums.add(first * batch))?;
            }
            Ok(())
        })
    }
}

/// y = sums + b.
///
/// # Safety
///
/// `sums` is [k][n], and y has these rows and outputs.
pub(crate) unsafe fn write<T: Kernels>(
    bias: Option<View<'_, T, 1>>,
    sums: *const T::Acc,
    [n, k]: [usize; 2],
    y: Sink<T>,
) {
    let sk = y.strides[1];
    for row in 0..n {
        let to = y.at(row, 0).place;
        for out in 0..k {
            let bias = bias.map_or(T::Acc::default(), |b| b.get([out]).unwrap_or_default().to_acc());
            let offset = (out as isize).wrapping_mul(sk);
            // SAFETY: the caller's contract.
            unsafe {
                let sum = *sums.add(out * n + row) + bias;
                match to {
                    Place::Stored(to) => *to.wrapping_offset(offset) = T::from_acc(sum),
                    Place::Sums(to) => *to.wrapping_offset(offset) = sum,
                    Place::Added(to) => *to.wrapping_offset(offset) += sum,
                }
            }
        }
    }
}

/// Rows of accumulators: where, how far apart.
type Rows<A> = (*const A, usize);

struct Call<'a, T: Kernels> {
    p: &'a Problem<'a, T>,
    z: Rows<T::Acc>,
    x: Rows<T::Acc>,
    products: *mut T::Acc,
    sums: Shared<T::Acc>,
}

// SAFETY: z and x are only read by the tasks, and `products` and `sums` written as `Shared` demands.
unsafe impl<T: Kernels> Sync for Call<'_, T> {}

impl<T: Kernels> Call<'_, T> {
    unsafe fn add_weights(&self, threads: usize) -> Result<()> {
        let p = self.p;
        let (Some(Cube::Stored(w)), true) = (p.w, p.i > 0 && p.j > 0) else { return Ok(()) };
        let [sk, si, _] = w.strides();
        // SAFETY: outputs, rows and columns are within W; tasks write sums of their own.
        unsafe {
            let stream = Stream {
                w: w.host_ptr(),
                row_stride: si,
                out_stride: sk,
                outs: p.k,
                rows: p.i,
                depth: p.j,
                x: self.x.0,
                x_stride: self.x.1,
                z: self.z.0,
                z_stride: self.z.1,
                batch: p.n,
                y: self.sums.get(),
                fold: Fold::Rows,
                from_memory: size_of::<T>().saturating_mul(p.k).saturating_mul(p.i).saturating_mul(p.j) > p.caches.l1,
            };
            if whole_product(p) {
                let stride = self.form_products();
                (p.table.stream)(&Stream {
                    row_stride: sk,
                    outs: 1,
                    rows: p.k,
                    depth: p.i * p.j,
                    x: self.products,
                    x_stride: stride,
                    fold: Fold::None,
                    ..stream
                });
                return Ok(());
            }
            let stream = SharedStream(stream);
            let (i_most, i_parts) = (rows_in_part(p), i_parts(p));
            let k_parts = if threads > 1 { (8 * threads).div_ceil(i_parts).min(p.k) } else { 1 };
            let k_most = p.k.div_ceil(k_parts);
            parallel::run(threads, i_parts * k_parts, |index| {
                let (i0, k0) = (index % i_parts * i_most, index / i_parts * k_most);
                let (rows, outs) = (i_most.min(p.i - i0), k_most.min(p.k.saturating_sub(k0)));
                let stream = stream.get();
                for (j0, depth) in parts(p.j, FEATURES, 16) {
                    let offset = (k0 as isize).wrapping_mul(sk).wrapping_add(i0 as isize * si) + j0 as isize;
                    (p.table.stream)(&Stream {
                        w: stream.w.wrapping_offset(offset),
                        outs,
                        rows,
                        depth,
                        x: stream.x.wrapping_add(j0),
                        z: stream.z.wrapping_add(i0),
                        y: self.sums.get().wrapping_add((index % i_parts * p.k + k0) * p.n),
                        ..*stream
                    });
                }
                Ok(())
            })?;
            let len = p.k * p.n;
            let total = std::slice::from_raw_parts_mut(self.sums.get(), len);
            for part in 1..i_parts {
                add_into(total, std::slice::from_raw_parts(self.sums.get().add(part * len), len));
            }
        }
        Ok(())
    }

    /// z⊗x of each row; returns the distance between rows.
    unsafe fn form_products(&self) -> usize {
        let (p, len) = (self.p, self.p.i * self.p.j);
        let stride = pad(len) + 16;
        // SAFETY: `products` has n rows of `stride`: room for a vector past the last product. What lies there must be
        // zero, and is 0·z until then, which may be NaN.
        unsafe {
            for n in 0..p.n {
                let to = self.products.add(n * stride);
                let z = std::slice::from_raw_parts(self.z.0.add(n * self.z.1), p.i);
                (p.table.arithmetic.outer)(z, self.x.0.add(n * self.x.1), p.j, to);
                std::slice::from_raw_parts_mut(to.add(len), stride - len).fill(T::Acc::default());
            }
        }
        stride
    }
}

/// Operands that all tasks read.
struct SharedStream<T, A>(Stream<T, A>);

impl<T, A> SharedStream<T, A> {
    fn get(&self) -> &Stream<T, A> {
        &self.0
    }
}

// SAFETY: only pointers and sizes; each task writes sums of its own.
unsafe impl<T: Sync, A: Sync> Sync for SharedStream<T, A> {}

//! Into panels: rows of z and x transposed so that the lanes run over n, and the way back.
//!
//! ```text
//!   source rows n (any strides, any storage type)          panel [depth][width], width = vectors·LANES
//!        d0  d1  d2 …                                            n0  n1 … n15
//!   n0   a   b   c                                          d0   a   e   …   0      rows past the batch are zero
//!   n1   e   f   g                                          d1   b   f   …   0
//! ```

use crate::cpu::simd::{Accumulator, Kernels, Simd, Widen};

/// Operands of [`pack`].
pub(crate) struct Pack<T, A> {
    pub(crate) from: *const T,
    pub(crate) row_stride: isize,
    pub(crate) column_stride: isize,
    /// Source rows, at most `width`.
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) to: *mut A,
    /// Lanes of the panel: a multiple of LANES.
    pub(crate) width: usize,
}

/// Blocks of LANES rows by LANES columns that are brought in advance, a line of each row a block: 4 to 8 KiB, what a
/// core's bandwidth brings in the latency of memory. Rows are too many streams, and often too short, for the hardware.
const BLOCKS_AHEAD: usize = 8;

/// Rows of lanes that are brought in advance: each lies on a page of its own, where the hardware's prefetch stops.
const ROWS_AHEAD: isize = 16;

/// Largest LANES of any level.
const MAX_LANES: usize = 16;

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn pack<S: Widen<T>, T: Kernels<Acc = S::Acc>>(p: &Pack<T, S::Acc>) {
    let lanes = S::LANES;
    // SAFETY: columns below `depth`, rows below `rows`, lanes below `width`: the caller's contract.
    unsafe {
        if p.row_stride == 1 && p.rows == p.width {
            for d in 0..p.depth {
                let from = p.from.wrapping_offset(d as isize * p.column_stride);
                for line in (0..p.width * size_of::<T>()).step_by(64) {
                    S::prefetch(
                        from.wrapping_offset(p.column_stride.wrapping_mul(ROWS_AHEAD)).wrapping_byte_add(line).cast(),
                    );
                }
                for lane in (0..p.width).step_by(lanes) {
                    S::store(p.to.add(d * p.width + lane), S::widen(from.add(lane)));
                }
            }
            return;
        }
        // That is further along the rows, or in those that follow.
        let ahead = BLOCKS_AHEAD * lanes;
        let (groups, columns) = (ahead / p.depth.max(1), ahead % p.depth.max(1));
        let next = p.row_stride.wrapping_mul(lanes as isize);
        let ahead = next.wrapping_mul(groups as isize).wrapping_add(columns as isize);
        for first in (0..p.width).step_by(lanes) {
            let rows = p.rows.saturating_sub(first).min(lanes);
            let from = p.from.wrapping_offset(first as isize * p.row_stride);
            let to = p.to.wrapping_add(first);
            if p.column_stride == 1 {
                // The last block ends with the panel and overlaps the one before, whose elements it writes again.
                let last = p.depth.wrapping_sub(lanes);
                let whole = if rows == lanes && p.depth >= lanes { p.depth } else { 0 };
                for d in (0..whole).step_by(lanes).map(|d| d.min(last)) {
                    let (block, to) = (from.wrapping_add(d), to.add(d * p.width));
                    let wrap = if d + columns < p.depth { 0 } else { next.wrapping_sub(p.depth as isize) };
                    let line = block.wrapping_offset(ahead).wrapping_offset(wrap);
                    for r in 0..lanes {
                        S::prefetch(line.wrapping_offset(p.row_stride.wrapping_mul(r as isize)).cast());
                    }
                    if T::IN_PLACE {
                        S::transpose(block.cast(), p.row_stride, to, p.width);
                    } else {
                        let mut wide = [S::Acc::default(); MAX_LANES * MAX_LANES];
                        for r in 0..lanes {
                            let row = S::widen(block.wrapping_offset(r as isize * p.row_stride));
                            S::store(wide.as_mut_ptr().add(r * lanes), row);
                        }
                        S::transpose(wide.as_ptr(), lanes as isize, to, p.width);
                    }
                }
                // Smaller blocks are padded with zeros, and only the panel's rows of the result are kept.
                for d in (whole..p.depth).step_by(lanes) {
                    let columns = (p.depth - d).min(lanes);
                    let mut block = [S::Acc::default(); MAX_LANES * MAX_LANES];
                    let mut turned = [S::Acc::default(); MAX_LANES * MAX_LANES];
                    for r in 0..rows {
                        let row = from.wrapping_offset(r as isize * p.row_stride).wrapping_add(d);
                        let row = if columns == lanes { S::widen(row) } else { S::widen_partial(row, columns) };
                        S::store(block.as_mut_ptr().add(r * lanes), row);
                    }
                    S::transpose(block.as_ptr(), lanes as isize, turned.as_mut_ptr(), lanes);
                    for c in 0..columns {
                        S::store(to.add((d + c) * p.width), S::load(turned.as_ptr().add(c * lanes)));
                    }
                }
            } else {
                for d in 0..p.depth {
                    for r in 0..lanes {
                        *to.add(d * p.width + r) = if r < rows {
                            let offset = r as isize * p.row_stride + d as isize * p.column_stride;
                            (*from.wrapping_offset(offset)).to_acc()
                        } else {
                            S::Acc::default()
                        };
                    }
                }
            }
        }
    }
}

/// Operands of [`widen`].
pub(crate) struct Widened<T, A> {
    /// Rows of contiguous elements.
    pub(crate) from: *const T,
    pub(crate) row_stride: isize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) to: *mut A,
    pub(crate) to_stride: usize,
}

/// Rows of contiguous elements converted.
///
/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn widen<S: Widen<T>, T: Kernels<Acc = S::Acc>>(w: &Widened<T, S::Acc>) {
    // SAFETY: the caller's contract.
    unsafe {
        let whole = w.columns / S::LANES * S::LANES;
        for row in 0..w.rows {
            let (from, to) = (w.from.wrapping_offset(row as isize * w.row_stride), w.to.add(row * w.to_stride));
            for d in (0..whole).step_by(S::LANES) {
                S::store(to.add(d), S::widen(from.add(d)));
            }
            for d in whole..w.columns {
                *to.add(d) = (*from.add(d)).to_acc();
            }
        }
    }
}

/// Operands of [`hadamard`].
pub(crate) struct Hadamard<A> {
    /// Rows so far apart, with room for whole vectors; may be one of the factors.
    pub(crate) to: *mut A,
    pub(crate) to_stride: usize,
    /// Rows so far apart, of which whole vectors can be read.
    pub(crate) factors: [(*const A, usize); 2],
    /// One element for each column, or null.
    pub(crate) scale: *const A,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// The Hadamard product of two matrices, and of each row with `scale`, by whole vectors.
///
/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn hadamard<S: Simd>(h: &Hadamard<S::Acc>) {
    let [(a, a_stride), (b, b_stride)] = h.factors;
    // SAFETY: rows and whole vectors of columns are within the operands: the caller's contract.
    unsafe {
        for row in 0..h.rows {
            let (a, b, to) = (a.add(row * a_stride), b.add(row * b_stride), h.to.add(row * h.to_stride));
            for c in (0..h.columns).step_by(S::LANES) {
                let product = S::mul(S::load(a.add(c)), S::load(b.add(c)));
                S::store(to.add(c), if h.scale.is_null() { product } else { S::mul(product, S::load(h.scale.add(c))) });
            }
        }
    }
}

/// Operands of [`unpack`].
pub(crate) struct Unpack<T, A> {
    /// Panel, `columns` × `width`.
    pub(crate) from: *const A,
    pub(crate) width: usize,
    /// At most `width`.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) to: *mut T,
    pub(crate) row_stride: isize,
    pub(crate) column_stride: isize,
    /// Added to what is there, which must be in the accumulator's type.
    pub(crate) add: bool,
}

/// The way back: a panel written to rows of y, narrowed to the storage type, or added to them.
///
/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn unpack<S: Widen<T>, T: Kernels<Acc = S::Acc>>(u: &Unpack<T, S::Acc>) {
    let lanes = S::LANES;
    // SAFETY: rows and columns within the panel and y: the caller's contract.
    unsafe {
        for first in (0..u.columns).step_by(lanes) {
            let columns = (u.columns - first).min(lanes);
            for row in (0..u.rows).step_by(lanes) {
                let rows = (u.rows - row).min(lanes);
                let from = u.from.add(first * u.width + row);
                let to = u.to.wrapping_offset(row as isize * u.row_stride + first as isize * u.column_stride);
                let whole = rows == lanes && columns == lanes;
                if T::IN_PLACE && whole && u.column_stride == 1 && u.row_stride > 0 {
                    if !u.add {
                        S::transpose(from, u.width as isize, to.cast(), u.row_stride as usize);
                        continue;
                    }
                    let mut turned = [S::Acc::default(); MAX_LANES * MAX_LANES];
                    S::transpose(from, u.width as isize, turned.as_mut_ptr(), lanes);
                    for r in 0..lanes {
                        let to = to.wrapping_offset(r as isize * u.row_stride).cast::<S::Acc>();
                        S::store(to, S::add(S::load(to), S::load(turned.as_ptr().add(r * lanes))));
                    }
                    continue;
                }
                for r in 0..rows {
                    for c in 0..columns {
                        let offset = r as isize * u.row_stride + c as isize * u.column_stride;
                        let to = to.wrapping_offset(offset);
                        let before = if u.add { (*to).to_acc() } else { S::Acc::default() };
                        // -0 + 0 would be 0.
                        let sum = *from.add(c * u.width + r);
                        *to = T::from_acc(if u.add { before + sum } else { sum });
                    }
                }
            }
        }
    }
}

/// Any strided matrix [`rows`][`columns`] copied to rows of contiguous elements, `to_stride` apart, each element passed
/// through `convert`.
///
/// # Safety
///
/// Source and destination valid for the shape.
pub(crate) unsafe fn gather<T: Copy, D>(
    from: *const T,
    (row_stride, column_stride): (isize, isize),
    (rows, columns): (usize, usize),
    to: *mut D,
    to_stride: usize,
    convert: impl Fn(T) -> D,
) {
    // SAFETY: the caller's contract. Blocks of 16 × 16 use each cache line that they touch, whichever axis is the
    // contiguous one.
    unsafe {
        for column in (0..columns).step_by(16) {
            for row in (0..rows).step_by(16) {
                for r in row..rows.min(row + 16) {
                    for c in column..columns.min(column + 16) {
                        let offset = r as isize * row_stride + c as isize * column_stride;
                        to.add(r * to_stride + c).write(convert(*from.wrapping_offset(offset)));
                    }
                }
            }
        }
    }
}

/// Σ of a and b, elementwise, into `a`.
pub(crate) fn add_into<A: Accumulator>(a: &mut [A], b: &[A]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

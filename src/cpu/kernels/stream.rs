//! Few rows: W is read once, in place and in order, and each element meets all N ≤ 4 rows of the batch.
//!
//! ```text
//!   y[k][n] += Σ_i z[n][i] · Σ_j W[k][i][j] · x[n][j]       (Fold::Rows: R rows i at a time, 1 from memory; lanes over j)
//!   y[k][n] += Σ_j W[k][j] · x[n][j]                        (Fold::None: R outputs k at a time; U, V, A and tiny z⊗x)
//! ```
//!
//! Lane sums are kept in vectors until an output is complete. R·N accumulators and N vectors of x fit the registers:
//! 8 + 1 or 4 + 1, 2·2 + 2, 2·3 + 3, 2·4 + 4. The arithmetic is at most N FMAs for LANES elements of W; from memory, W takes longer.

use crate::cpu::simd::{Kernels, Simd, Widen};

/// Bytes that W is brought in advance of the next rows: what a core reads in some 200 to 350 ns.
const AHEAD: usize = 8192;

/// Whether rows are folded with z into one output, or are outputs themselves.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fold {
    Rows,
    None,
}

/// Operands of [`stream`].
pub(crate) struct Stream<T, A> {
    /// [outs][rows][depth], depth contiguous; with `Fold::None`, [rows][depth].
    pub(crate) w: *const T,
    pub(crate) row_stride: isize,
    pub(crate) out_stride: isize,
    pub(crate) outs: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// [batch] rows of `x_stride` accumulators, of which those from `depth` to the next multiple of LANES are zero.
    pub(crate) x: *const A,
    pub(crate) x_stride: usize,
    /// [batch] rows of `z_stride`; not read with `Fold::None`.
    pub(crate) z: *const A,
    pub(crate) z_stride: usize,
    /// 1..=4.
    pub(crate) batch: usize,
    /// [outs or rows][batch], added to.
    pub(crate) y: *mut A,
    pub(crate) fold: Fold,
    /// Whether W is too large to be in L1, so that it pays to ask for it in advance.
    pub(crate) from_memory: bool,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn stream<S: Widen<T>, T: Kernels<Acc = S::Acc>>(s: &Stream<T, S::Acc>) {
    // One row at a time is one stream, which memory delivers a tenth faster than several. Rows of a few vectors do not
    // cover the latency of their sums, and are taken together.
    let one = s.from_memory && s.depth >= 4 * S::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        match (s.batch, s.fold) {
            (1, Fold::Rows) if one => fold::<S, T, 1, 1>(s),
            (2, Fold::Rows) if one => fold::<S, T, 1, 2>(s),
            (3, Fold::Rows) if one => fold::<S, T, 1, 3>(s),
            (4, Fold::Rows) if one => fold::<S, T, 1, 4>(s),
            (1, Fold::Rows) => fold::<S, T, 4, 1>(s),
            (2, Fold::Rows) => fold::<S, T, 2, 2>(s),
            (3, Fold::Rows) => fold::<S, T, 2, 3>(s),
            (4, Fold::Rows) => fold::<S, T, 2, 4>(s),
            (1, Fold::None) => plain::<S, T, 8, 1>(s),
            (2, Fold::None) => plain::<S, T, 4, 2>(s),
            (3, Fold::None) => plain::<S, T, 2, 3>(s),
            (4, Fold::None) => plain::<S, T, 2, 4>(s),
            _ => {}
        }
    }
}

#[inline(always)]
unsafe fn fold<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(s: &Stream<T, S::Acc>) {
    // SAFETY: rows and outputs are below their numbers: the caller's contract.
    unsafe {
        for k in 0..s.outs {
            let w = s.w.wrapping_offset(k as isize * s.out_stride);
            let mut total = [S::zero(); N];
            let mut row = 0;
            while row + R <= s.rows {
                add_rows::<S, T, R, N>(s, w, row, &mut total);
                row += R;
            }
            while row < s.rows {
                add_rows::<S, T, 1, N>(s, w, row, &mut total);
                row += 1;
            }
            for (n, &total) in total.iter().enumerate() {
                *s.y.add(k * N + n) += S::sum(total);
            }
        }
    }
}

#[inline(always)]
unsafe fn add_rows<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(
    s: &Stream<T, S::Acc>,
    w: *const T,
    row: usize,
    total: &mut [S::Vector; N],
) {
    // SAFETY: as in `fold`.
    unsafe {
        let sums = dots::<S, T, R, N>(s, w.wrapping_offset(row as isize * s.row_stride));
        for (r, sums) in sums.iter().enumerate() {
            for (n, total) in total.iter_mut().enumerate() {
                *total = S::fma(S::splat(*s.z.add(n * s.z_stride + row + r)), sums[n], *total);
            }
        }
    }
}

#[inline(always)]
unsafe fn plain<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(s: &Stream<T, S::Acc>) {
    // SAFETY: as in `fold`.
    unsafe {
        let mut row = 0;
        while row + R <= s.rows {
            add_outputs::<S, T, R, N>(s, row);
            row += R;
        }
        while row < s.rows {
            add_outputs::<S, T, 1, N>(s, row);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn add_outputs<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(
    s: &Stream<T, S::Acc>,
    row: usize,
) {
    // SAFETY: as in `fold`.
    unsafe {
        let sums = dots::<S, T, R, N>(s, s.w.wrapping_offset(row as isize * s.row_stride));
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                *s.y.add((row + r) * N + n) += S::sum(sum);
            }
        }
    }
}

/// Lane sums of R rows of W with N rows of x.
#[inline(always)]
unsafe fn dots<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(
    s: &Stream<T, S::Acc>,
    w: *const T,
) -> [[S::Vector; N]; R] {
    // SAFETY: elements below `depth` of each row; past it only the zeros of x.
    unsafe {
        let mut sums = [[S::zero(); N]; R];
        let whole = s.depth / S::LANES * S::LANES;
        // The R rows are R streams for the hardware, too short to be followed; together they are one, `AHEAD` in front.
        let mut ahead = w.wrapping_byte_add(AHEAD).wrapping_offset(R as isize * s.row_stride);
        let step = if s.from_memory { R * S::LANES } else { 0 };
        for d in (0..whole).step_by(S::LANES) {
            let mut at = ahead;
            ahead = ahead.wrapping_add(step);
            while at < ahead {
                S::prefetch(at.cast());
                at = at.wrapping_byte_add(64);
            }
            let mut x = [S::zero(); N];
            for (n, x) in x.iter_mut().enumerate() {
                *x = S::load(s.x.add(n * s.x_stride + d));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = S::widen(w.wrapping_offset(r as isize * s.row_stride).add(d));
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = S::fma(w, x, *sum);
                }
            }
        }
        if whole < s.depth {
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = w.wrapping_offset(r as isize * s.row_stride).add(whole);
                let w = S::widen_partial(w, s.depth - whole);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(w, S::load(s.x.add(n * s.x_stride + whole)), *sum);
                }
            }
        }
        sums
    }
}

/// z⊗x of one row of the batch: to\[i·J + j\] = z\[i\] · x\[j\], by whole vectors. What a row sticks out is overwritten by
/// the next one; the last may write up to LANES − 1 elements past I·J. x is padded as in [`Stream`].
///
/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn outer<S: Simd>(z: &[S::Acc], x: *const S::Acc, columns: usize, to: *mut S::Acc) {
    // SAFETY: the caller's contract.
    unsafe {
        for (i, &z) in z.iter().enumerate() {
            let (z, to) = (S::splat(z), to.add(i * columns));
            for j in (0..columns).step_by(S::LANES) {
                S::store(to.add(j), S::mul(z, S::load(x.add(j))));
            }
        }
    }
}

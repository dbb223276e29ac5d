//! Few rows: gradients by one pass over W, or over dW, in the order of memory, p outermost, s contiguous.
//!
//! ```text
//!   t[n]        = Σ_s W[p][q][s] · u_s[n][s]
//!   d_p[n][p]  += Σ_q u_q[n][q] · t[n]         d_q[n][q] += u_p[n][p] · t[n]         dots
//!   d_s[n][s]  += u_p[n][p] u_q[n][q] · W[p][q][s]                                   an axpy
//!   dW[p][q][s] = Σ_n u_p[n][p] u_q[n][q] · u_s[n][s]
//! ```
//!
//! R rows q are taken together, so that the vectors of d_s are loaded and stored once for all of them. From memory W takes
//! longer than the arithmetic: 2·N FMAs for LANES elements, N ≤ 4.

use crate::cpu::simd::{Kernels, Simd, Widen};

/// Bytes that W is brought in advance: what a core reads in some 200 to 350 ns.
const AHEAD: usize = 8192;

/// Largest LANES of any level.
const MAX_LANES: usize = 16;

/// Operands of [`sweep`].
pub(crate) struct Sweep<T, A> {
    /// [ps][qs][depth], depth contiguous.
    pub(crate) w: *const T,
    pub(crate) p_stride: isize,
    pub(crate) q_stride: isize,
    pub(crate) ps: usize,
    pub(crate) qs: usize,
    pub(crate) depth: usize,
    /// 1..=4.
    pub(crate) batch: usize,
    /// Inputs along p, q, s: [batch] rows, so far apart; those along s padded with zeros to whole vectors.
    pub(crate) inputs: [(*const A, usize); 3],
    /// Sums along p, q, s in the same form, those along s with room for whole vectors; null if not wanted.
    pub(crate) sums: [*mut A; 3],
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn sweep<S: Widen<T>, T: Kernels<Acc = S::Acc>>(s: &Sweep<T, S::Acc>) {
    let (dot, axpy) = (!s.sums[0].is_null() || !s.sums[1].is_null(), !s.sums[2].is_null());
    // SAFETY: the caller's contract.
    unsafe {
        match (s.batch, dot, axpy) {
            (1, true, true) => rows::<S, T, 4, 1, true, true>(s),
            (2, true, true) => rows::<S, T, 2, 2, true, true>(s),
            (3, true, true) => rows::<S, T, 2, 3, true, true>(s),
            (4, true, true) => rows::<S, T, 2, 4, true, true>(s),
            (1, true, false) => rows::<S, T, 4, 1, true, false>(s),
            (2, true, false) => rows::<S, T, 2, 2, true, false>(s),
            (3, true, false) => rows::<S, T, 2, 3, true, false>(s),
            (4, true, false) => rows::<S, T, 2, 4, true, false>(s),
            (1, false, true) => rows::<S, T, 4, 1, false, true>(s),
            (2, false, true) => rows::<S, T, 2, 2, false, true>(s),
            (3, false, true) => rows::<S, T, 2, 3, false, true>(s),
            (4, false, true) => rows::<S, T, 2, 4, false, true>(s),
            _ => {}
        }
    }
}

#[inline(always)]
unsafe fn rows<
    S: Widen<T>,
    T: Kernels<Acc = S::Acc>,
    const R: usize,
    const N: usize,
    const DOT: bool,
    const AXPY: bool,
>(
    s: &Sweep<T, S::Acc>,
) {
    // SAFETY: rows and columns are below their numbers: the caller's contract.
    unsafe {
        for p in 0..s.ps {
            let mut q = 0;
            while q + R <= s.qs {
                row::<S, T, R, N, DOT, AXPY>(s, p, q);
                q += R;
            }
            while q < s.qs {
                row::<S, T, 1, N, DOT, AXPY>(s, p, q);
                q += 1;
            }
        }
    }
}

/// `R` rows from `q` on.
#[inline(always)]
unsafe fn row<
    S: Widen<T>,
    T: Kernels<Acc = S::Acc>,
    const R: usize,
    const N: usize,
    const DOT: bool,
    const AXPY: bool,
>(
    s: &Sweep<T, S::Acc>,
    p: usize,
    q: usize,
) {
    let [(up, p_ld), (uq, q_ld), (us, s_ld)] = s.inputs;
    let [dp, dq, ds] = s.sums;
    // SAFETY: the caller's contract.
    unsafe {
        let w = s.w.wrapping_offset((p as isize).wrapping_mul(s.p_stride));
        let w = w.wrapping_offset((q as isize).wrapping_mul(s.q_stride));
        let mut sums = [[S::zero(); N]; R];
        let mut factors = [[S::zero(); N]; R];
        if AXPY {
            for (r, factors) in factors.iter_mut().enumerate() {
                for (n, factor) in factors.iter_mut().enumerate() {
                    *factor = S::splat(*up.add(n * p_ld + p) * *uq.add(n * q_ld + q + r));
                }
            }
        }
        let mut d = 0;
        while d < s.depth {
            let left = s.depth - d;
            let mut weights = [S::zero(); R];
            for (r, weights) in weights.iter_mut().enumerate() {
                let from = w.wrapping_offset((r as isize).wrapping_mul(s.q_stride)).wrapping_add(d);
                S::prefetch(from.wrapping_byte_add(AHEAD).cast());
                *weights = if left >= S::LANES { S::widen(from) } else { S::widen_partial(from, left) };
            }
            for n in 0..N {
                if DOT {
                    let input = S::load(us.add(n * s_ld + d));
                    for r in 0..R {
                        sums[r][n] = S::fma(weights[r], input, sums[r][n]);
                    }
                }
                if AXPY {
                    let to = ds.add(n * s_ld + d);
                    let mut sum = S::load(to);
                    for r in 0..R {
                        sum = S::fma(weights[r], factors[r][n], sum);
                    }
                    S::store(to, sum);
                }
            }
            d += S::LANES;
        }
        if DOT {
            for (r, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    let t = S::sum(sum);
                    if !dp.is_null() {
                        *dp.add(n * p_ld + p) += *uq.add(n * q_ld + q + r) * t;
                    }
                    if !dq.is_null() {
                        *dq.add(n * q_ld + q + r) += *up.add(n * p_ld + p) * t;
                    }
                }
            }
        }
    }
}

/// Operands of [`outer_stream`].
pub(crate) struct OuterStream<A> {
    /// Rows q of dW, so far apart, of contiguous columns.
    pub(crate) to: *mut A,
    pub(crate) row_stride: isize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// 1..=4.
    pub(crate) batch: usize,
    /// One element for each row of the batch, so far apart; then rows along q, and along s, of which a
    /// whole vector can be read from any element on.
    pub(crate) factor: (*const A, usize),
    pub(crate) left: (*const A, usize),
    pub(crate) right: (*const A, usize),
    /// Added to what is there.
    pub(crate) add: bool,
    /// Written past the caches, for what does not fit them: then memory is not read first.
    pub(crate) past: bool,
}

/// Rows of dW: to\[q\]\[s\] ←/+ Σ_n factor\[n\] · left\[n\]\[q\] · right\[n\]\[s\].
///
/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn outer_stream<S: Simd>(o: &OuterStream<S::Acc>) {
    // SAFETY: the caller's contract.
    unsafe {
        match o.batch {
            1 => outer::<S, 1>(o),
            2 => outer::<S, 2>(o),
            3 => outer::<S, 3>(o),
            4 => outer::<S, 4>(o),
            _ => {}
        }
        if o.past {
            S::fence();
        }
    }
}

#[inline(always)]
unsafe fn outer<S: Simd, const N: usize>(o: &OuterStream<S::Acc>) {
    let ((factor, factor_ld), (left, left_ld), (right, right_ld)) = (o.factor, o.left, o.right);
    let bytes = S::LANES * size_of::<S::Acc>();
    // SAFETY: the caller's contract.
    unsafe {
        for q in 0..o.rows {
            let to = o.to.wrapping_offset((q as isize).wrapping_mul(o.row_stride));
            let mut factors = [S::zero(); N];
            for (n, to) in factors.iter_mut().enumerate() {
                *to = S::splat(*factor.add(n * factor_ld) * *left.add(n * left_ld + q));
            }
            // Until a whole vector is aligned, which writing past the caches needs.
            let head = (to.addr().wrapping_neg() % bytes / size_of::<S::Acc>()).min(o.columns);
            let whole = head + (o.columns - head) / S::LANES * S::LANES;
            // The ends of a row by whole vectors too, so that no bits depend on where dW lies.
            for (c, len) in [(0, head), (whole, o.columns - whole)] {
                let mut values = [S::Acc::default(); MAX_LANES];
                if len > 0 {
                    S::store(values.as_mut_ptr(), combined::<S, N>(&factors, (right.add(c), right_ld)));
                }
                for (e, &value) in values.iter().take(len).enumerate() {
                    let to = to.add(c + e);
                    *to = if o.add { *to + value } else { value };
                }
            }
            for c in (head..whole).step_by(S::LANES) {
                let (to, sum) = (to.add(c), combined::<S, N>(&factors, (right.add(c), right_ld)));
                if o.add {
                    S::store(to, S::add(S::load(to), sum));
                } else if o.past {
                    S::store_past(to, sum);
                } else {
                    S::store(to, sum);
                }
            }
        }
    }
}

/// Σ_n factors\[n\] · a vector of row n.
#[inline(always)]
unsafe fn combined<S: Simd, const N: usize>(factors: &[S::Vector; N], (row, ld): (*const S::Acc, usize)) -> S::Vector {
    // SAFETY: the caller's contract.
    unsafe {
        // From zero on, as in all other sums: −0 + 0 is 0.
        let mut sum = S::zero();
        for (n, &factor) in factors.iter().enumerate() {
            sum = S::fma(factor, S::load(row.add(n * ld)), sum);
        }
        sum
    }
}

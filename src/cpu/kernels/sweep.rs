//! Few rows: gradients by one pass over W, over dW, or over both, in the order of memory, p outermost, s contiguous.
//!
//! ```text
//!   t[n]        = Σ_s W[p][q][s] · u_s[n][s]
//!   d_p[n][p]  += Σ_q u_q[n][q] · t[n]         d_q[n][q] += u_p[n][p] · t[n]         dots
//!   d_s[n][s]  += u_p[n][p] u_q[n][q] · W[p][q][s]                                   an axpy
//!   dW[p][q][s] = Σ_n u_p[n][p] u_q[n][q] · u_s[n][s]                                outer products
//! ```
//!
//! R rows q are taken together, so that the vectors of d_s are loaded and stored once for all of them. From memory W takes
//! longer than the arithmetic: 2·N FMAs for LANES elements, N ≤ 4.
//!
//! A core reads W while it writes dW past its caches, in four fifths of the time of one after the other, if every vector that
//! is read is followed by one that is written; by turns of a few KiB it takes longer than one after the other. So it does
//! with several rows, whose sums are stores between those of dW, and where dW goes through the caches.

use crate::cpu::simd::{Kernels, Simd, Widen};

/// Bytes that W is brought in advance: what a core reads in some 200 to 350 ns.
const AHEAD: usize = 8192;

/// Largest LANES of any level.
const MAX_LANES: usize = 16;

/// Operands of [`sweep`].
pub(crate) struct Sweep<T, A> {
    /// [ps][qs][depth], depth contiguous; not read without sums.
    pub(crate) w: *const T,
    pub(crate) p_stride: isize,
    pub(crate) q_stride: isize,
    pub(crate) ps: usize,
    pub(crate) qs: usize,
    pub(crate) depth: usize,
    /// 1..=4.
    pub(crate) batch: usize,
    /// Inputs along p, q, s: [batch] rows, so far apart; those along s padded with zeros to whole vectors and, for dW, such
    /// that a whole vector can be read from any element on.
    pub(crate) inputs: [(*const A, usize); 3],
    /// Sums along p, q, s in the same form, those along s with room for whole vectors; null if not wanted.
    pub(crate) sums: [*mut A; 3],
    pub(crate) outer: Option<Outer<A>>,
}

/// dW [ps][qs][depth], depth contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Outer<A> {
    pub(crate) to: *mut A,
    pub(crate) p_stride: isize,
    pub(crate) q_stride: isize,
    /// Added to what is there.
    pub(crate) add: bool,
    /// Written past the caches, for what does not fit them: then memory is not read first.
    pub(crate) past: bool,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn sweep<S: Widen<T>, T: Kernels<Acc = S::Acc>>(s: &Sweep<T, S::Acc>) {
    // SAFETY: the caller's contract.
    unsafe {
        match s.batch {
            1 => wanted::<S, T, 4, 1>(s),
            2 => wanted::<S, T, 2, 2>(s),
            3 => wanted::<S, T, 2, 3>(s),
            4 => wanted::<S, T, 2, 4>(s),
            _ => {}
        }
        if s.outer.is_some_and(|outer| outer.past) {
            S::fence();
        }
    }
}

#[inline(always)]
unsafe fn wanted<S: Widen<T>, T: Kernels<Acc = S::Acc>, const R: usize, const N: usize>(s: &Sweep<T, S::Acc>) {
    let (dot, axpy) = (!s.sums[0].is_null() || !s.sums[1].is_null(), !s.sums[2].is_null());
    let at_once = N == 1 && dot && s.outer.is_some_and(|outer| outer.past);
    // SAFETY: the caller's contract.
    unsafe {
        match (dot, axpy) {
            (true, true) if at_once => rows::<S, T, 1, 1, true, true, true>(s),
            (true, false) if at_once => rows::<S, T, 1, 1, true, false, true>(s),
            (true, true) => rows::<S, T, R, N, true, true, false>(s),
            (true, false) => rows::<S, T, R, N, true, false, false>(s),
            (false, true) => rows::<S, T, R, N, false, true, false>(s),
            (false, false) => {}
        }
        if s.outer.is_some() && !at_once {
            rows::<S, T, 1, N, false, false, true>(s);
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
    const OUTER: bool,
>(
    s: &Sweep<T, S::Acc>,
) {
    // SAFETY: rows and columns are below their numbers: the caller's contract.
    unsafe {
        for p in 0..s.ps {
            let mut q = 0;
            while q + R <= s.qs {
                row::<S, T, R, N, DOT, AXPY, OUTER>(s, p, q);
                q += R;
            }
            while q < s.qs {
                row::<S, T, 1, N, DOT, AXPY, OUTER>(s, p, q);
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
    const OUTER: bool,
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
        if AXPY || OUTER {
            for (r, factors) in factors.iter_mut().enumerate() {
                for (n, factor) in factors.iter_mut().enumerate() {
                    *factor = S::splat(*up.add(n * p_ld + p) * *uq.add(n * q_ld + q + r));
                }
            }
        }
        let mut written = [Row { to: std::ptr::null_mut(), head: 0, whole: 0, add: false, past: false }; R];
        if let (true, Some(outer)) = (OUTER, s.outer) {
            for (r, written) in written.iter_mut().enumerate() {
                *written = Row::new::<S>(&outer, [p, q + r], s.depth);
                written.ends::<S, N>(&factors[r], (us, s_ld), s.depth);
            }
        }
        let mut d = 0;
        while d < s.depth {
            let left = s.depth - d;
            let mut weights = [S::zero(); R];
            if DOT || AXPY {
                for (r, weights) in weights.iter_mut().enumerate() {
                    let from = w.wrapping_offset((r as isize).wrapping_mul(s.q_stride)).wrapping_add(d);
                    S::prefetch(from.wrapping_byte_add(AHEAD).cast());
                    *weights = if left >= S::LANES { S::widen(from) } else { S::widen_partial(from, left) };
                }
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
            if OUTER {
                for (r, written) in written.iter().enumerate() {
                    if d < written.whole {
                        written.vector::<S, N>(&factors[r], (us, s_ld), d);
                    }
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

/// A row of dW. Its vectors begin where they are aligned, which writing past the caches needs, wherever those of W do: so no
/// bits depend on where dW lies.
#[derive(Clone, Copy)]
struct Row<A> {
    to: *mut A,
    /// Elements before the first aligned vector ...
    head: usize,
    /// ... and in whole vectors from it on.
    whole: usize,
    add: bool,
    past: bool,
}

impl<A: Copy + Default + std::ops::Add<Output = A>> Row<A> {
    #[inline(always)]
    fn new<S: Simd<Acc = A>>(outer: &Outer<A>, [p, q]: [usize; 2], columns: usize) -> Self {
        let to = outer.to.wrapping_offset((p as isize).wrapping_mul(outer.p_stride));
        let to = to.wrapping_offset((q as isize).wrapping_mul(outer.q_stride));
        let head = (to.addr().wrapping_neg() % (S::LANES * size_of::<A>()) / size_of::<A>()).min(columns);
        let whole = (columns - head) / S::LANES * S::LANES;
        Row { to, head, whole, add: outer.add, past: outer.past }
    }

    /// What is not in whole vectors.
    #[inline(always)]
    unsafe fn ends<S: Simd<Acc = A>, const N: usize>(
        &self,
        factors: &[S::Vector; N],
        (row, ld): (*const A, usize),
        columns: usize,
    ) {
        let end = self.head + self.whole;
        // SAFETY: the caller's contract.
        unsafe {
            for (c, len) in [(0, self.head), (end, columns - end)] {
                if len > 0 {
                    let mut values = [A::default(); MAX_LANES];
                    S::store(values.as_mut_ptr(), combined::<S, N>(factors, (row.add(c), ld)));
                    for (e, &value) in values.iter().take(len).enumerate() {
                        let to = self.to.add(c + e);
                        *to = if self.add { *to + value } else { value };
                    }
                }
            }
        }
    }

    /// The vector that begins so many elements after the first aligned one.
    #[inline(always)]
    unsafe fn vector<S: Simd<Acc = A>, const N: usize>(
        &self,
        factors: &[S::Vector; N],
        (row, ld): (*const A, usize),
        at: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let (to, sum) = (self.to.add(self.head + at), combined::<S, N>(factors, (row.add(self.head + at), ld)));
            if self.add {
                S::store(to, S::add(S::load(to), sum));
            } else if self.past {
                S::store_past(to, sum);
            } else {
                S::store(to, sum);
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

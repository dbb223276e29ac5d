//! The elementwise part of CP's gradients, between the products that make P, Q and dH and those that use what is formed here:
//!
//! ```text
//!   H[n][r]  = P[n][r] · Q[n][r] · λ[r]          to dA
//!   DQ[n][r] = dH[n][r] · λ[r] · Q[n][r]         to dz and dB
//!   DP[n][r] = dH[n][r] · λ[r] · P[n][r]         to dx and dC
//!   dλ[r]   += Σ_n dH[n][r] · P[n][r] · Q[n][r]
//!   ΣDQ[r]  += Σ_n DQ[n][r]                      of rows that share one z
//! ```

use crate::cpu::simd::Simd;

/// Operands of [`components`]. Rows are read and written by whole vectors, for which there must be room. Those that are null are
/// absent: read as zeros, or not written. A result may lie where an operand does.
#[derive(Clone, Copy)]
pub(crate) struct Components<A> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) p: *const A,
    pub(crate) p_stride: usize,
    pub(crate) q: *const A,
    pub(crate) q_stride: usize,
    /// dH, rows `stride` apart, as are those of the results.
    pub(crate) d: *const A,
    pub(crate) stride: usize,
    /// One row.
    pub(crate) lambda: *const A,
    pub(crate) h: *mut A,
    pub(crate) dq: *mut A,
    pub(crate) dp: *mut A,
    /// One row each, added to.
    pub(crate) d_lambda: *mut A,
    pub(crate) dq_sum: *mut A,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn components<S: Simd>(o: &Components<S::Acc>) {
    let (has_p, has_q, has_d) = (!o.p.is_null(), !o.q.is_null(), !o.d.is_null());
    // SAFETY: rows and vectors as the operands say: the caller's contract.
    unsafe {
        for n in 0..o.rows {
            for r in (0..o.columns).step_by(S::LANES) {
                let at = n * o.stride + r;
                let lambda = S::load(o.lambda.add(r));
                let p = if has_p { S::load(o.p.add(n * o.p_stride + r)) } else { S::zero() };
                let q = if has_q { S::load(o.q.add(n * o.q_stride + r)) } else { S::zero() };
                let d = if has_d { S::load(o.d.add(at)) } else { S::zero() };
                let scaled = S::mul(d, lambda);
                let dq = S::mul(scaled, q);
                if !o.d_lambda.is_null() {
                    let to = o.d_lambda.add(r);
                    S::store(to, S::fma(S::mul(d, p), q, S::load(to)));
                }
                if !o.dq_sum.is_null() {
                    let to = o.dq_sum.add(r);
                    S::store(to, S::add(dq, S::load(to)));
                }
                if !o.h.is_null() {
                    S::store(o.h.add(at), S::mul(S::mul(p, q), lambda));
                }
                if !o.dq.is_null() {
                    S::store(o.dq.add(at), dq);
                }
                if !o.dp.is_null() {
                    S::store(o.dp.add(at), S::mul(scaled, p));
                }
            }
        }
    }
}

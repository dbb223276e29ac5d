//! GEMM with the dot with z in its epilogue: y\[k\]\[n\] += Σ_i z\[i\]\[n\] · Σ_j W\[k\]\[i\]\[j\] · x\[j\]\[n\], lanes over n.
//!
//! ```text
//!   x: panel [depth][MR]    z: panel [rows][MR]    y: panel [outs][MR]    W: [outs][rows][depth], depth contiguous
//! ```
//!
//! A tile of NR rows (k, i…i+NR) leaves the microkernel as NR·MV vectors of N×K×I intermediate, is multiplied by NR·MV
//! vectors of z and added into MV vectors of y without leaving the registers: 1/depth of the tile's arithmetic.

use super::microkernel::{Ahead, microkernel, tiles};
use crate::cpu::simd::Simd;

/// Operands of [`fused_dot`].
pub(crate) struct FusedDot<A> {
    pub(crate) x: *const A,
    pub(crate) z: *const A,
    pub(crate) y: *mut A,
    /// Width of the panels in vectors, 1..=MV.
    pub(crate) vectors: usize,
    pub(crate) w: *const A,
    /// Distance between rows i of W.
    pub(crate) row_stride: isize,
    /// Distance between outputs k of W.
    pub(crate) out_stride: isize,
    pub(crate) outs: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// To be brought into L2 during this call.
    pub(crate) ahead: Ahead<A>,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn fused_dot<S: Simd>(f: &FusedDot<S::Acc>) {
    let mut ahead = f.ahead;
    // SAFETY: the caller's contract.
    unsafe {
        for k in 0..f.outs {
            match f.vectors {
                1 => tiles!(run, S, 1, f, f.rows, (k, &mut ahead)),
                2 if S::MV >= 2 => tiles!(run, S, 2, f, f.rows, (k, &mut ahead)),
                3 if S::MV >= 3 => tiles!(run, S, 3, f, f.rows, (k, &mut ahead)),
                4 if S::MV >= 4 => tiles!(run, S, 4, f, f.rows, (k, &mut ahead)),
                _ => {}
            }
        }
    }
}

/// `tiles` tiles of NR rows, from row `first` on, of output `k`.
#[inline(always)]
unsafe fn run<S: Simd, const MV: usize, const NR: usize>(
    f: &FusedDot<S::Acc>,
    first: usize,
    tiles: usize,
    (k, ahead): (usize, &mut Ahead<S::Acc>),
) {
    let width = MV * S::LANES;
    // SAFETY: all rows are below `f.rows` and `k` below `f.outs`; the rest is the caller's contract.
    unsafe {
        let w = f.w.wrapping_offset(k as isize * f.out_stride);
        let out = f.y.wrapping_add(k * width);
        for tile in 0..tiles {
            let row = first + tile * NR;
            let b = w.wrapping_offset(row as isize * f.row_stride);
            let acc = microkernel::<S, MV, NR>(f.depth, f.x, width as isize, b, (f.row_stride, 1), ahead);
            let z = f.z.wrapping_add(row * width);
            for v in 0..MV {
                let to = out.wrapping_add(v * S::LANES);
                let mut sum = S::load(to);
                for (o, acc) in acc.iter().enumerate() {
                    sum = S::fma(acc[v], S::load(z.wrapping_add(o * width + v * S::LANES)), sum);
                }
                S::store(to, sum);
            }
        }
    }
}

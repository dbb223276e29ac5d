//! GEMM whose tiles are contracted further in the epilogue, lanes over n. With t\[a\]\[b\]\[n\] = Σ_c W\[a\]\[b\]\[c\] · q\[c\]\[n\]:
//!
//! ```text
//!   dot    sums[a][n] += Σ_b t[a][b][n] · p[b][n]
//!   axpy   sums[b][n] += Σ_a t[a][b][n] · p[a][n]
//!
//!   q: panel [depth][MR]    p, sums: panels [outs or rows][MR]    W: [outs a][rows b][depth c], any distances apart
//! ```
//!
//! A tile of NR rows (a, b…b+NR) leaves the microkernel as NR·MV vectors of an intermediate of N×A×B elements, and is used
//! up without leaving the registers: for `dot` by NR·MV FMAs into MV vectors, 1/depth of the tile's arithmetic; for `axpy`
//! by as many FMAs, each with a load and a store. Both at once give two gradients for one product with W.

use super::microkernel::{Ahead, Loaded, microkernel, tiles};
use crate::cpu::simd::Simd;

/// Operands of [`fused`].
pub(crate) struct Fused<A> {
    /// The panel that meets the depth, c.
    pub(crate) lanes: *const A,
    /// Width of the panels in vectors, 1..=MV.
    pub(crate) vectors: usize,
    pub(crate) w: *const A,
    /// Distances in W along a, b and c.
    pub(crate) out_stride: isize,
    pub(crate) row_stride: isize,
    pub(crate) step: isize,
    /// Lengths of a, b and c.
    pub(crate) outs: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// Panels of b's inputs and of a's sums.
    pub(crate) dot: Option<(*const A, *mut A)>,
    /// Panels of a's inputs and of b's sums.
    pub(crate) axpy: Option<(*const A, *mut A)>,
    /// To be brought near during this call.
    pub(crate) ahead: Ahead<A>,
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn fused<S: Simd>(f: &Fused<S::Acc>) {
    let mut ahead = f.ahead;
    // SAFETY: the caller's contract.
    unsafe {
        for a in 0..f.outs {
            match f.vectors {
                1 => tiles!(run, S, 1, f, f.rows, (a, &mut ahead)),
                2 if S::MV >= 2 => tiles!(run, S, 2, f, f.rows, (a, &mut ahead)),
                3 if S::MV >= 3 => tiles!(run, S, 3, f, f.rows, (a, &mut ahead)),
                4 if S::MV >= 4 => tiles!(run, S, 4, f, f.rows, (a, &mut ahead)),
                _ => {}
            }
        }
    }
}

/// `tiles` tiles of NR rows, from row `first` on, of output `a`.
#[inline(always)]
unsafe fn run<S: Simd, const MV: usize, const NR: usize>(
    f: &Fused<S::Acc>,
    first: usize,
    tiles: usize,
    (a, ahead): (usize, &mut Ahead<S::Acc>),
) {
    let width = MV * S::LANES;
    // SAFETY: all rows are below `f.rows` and `a` below `f.outs`; the rest is the caller's contract.
    unsafe {
        let w = f.w.wrapping_offset(a as isize * f.out_stride);
        for tile in 0..tiles {
            let row = first + tile * NR;
            let b = w.wrapping_offset(row as isize * f.row_stride);
            let mut lanes = Loaded { a: f.lanes, a_stride: width as isize, ahead: ahead.now };
            let acc = microkernel::<S, MV, NR>(f.depth, &mut lanes, b, (f.row_stride, f.step));
            *ahead = Ahead { now: lanes.ahead, ..*ahead }.next_tiles(1);
            if let Some((p, sums)) = f.dot {
                let (p, sums) = (p.wrapping_add(row * width), sums.wrapping_add(a * width));
                for v in 0..MV {
                    let to = sums.wrapping_add(v * S::LANES);
                    let mut sum = S::load(to);
                    for (o, acc) in acc.iter().enumerate() {
                        sum = S::fma(acc[v], S::load(p.wrapping_add(o * width + v * S::LANES)), sum);
                    }
                    S::store(to, sum);
                }
            }
            if let Some((p, sums)) = f.axpy {
                let (p, sums) = (p.wrapping_add(a * width), sums.wrapping_add(row * width));
                for v in 0..MV {
                    let p = S::load(p.wrapping_add(v * S::LANES));
                    for (o, acc) in acc.iter().enumerate() {
                        let to = sums.wrapping_add(o * width + v * S::LANES);
                        S::store(to, S::fma(acc[v], p, S::load(to)));
                    }
                }
            }
        }
    }
}

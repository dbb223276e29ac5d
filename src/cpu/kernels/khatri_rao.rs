//! GEMM of W with the Khatri-Rao product of two panels, lanes over n:
//!
//! ```text
//!   sums[b][n] ←/+ Σ_ac W[a][b][c] · (p[a][n] · s[c][n])
//!
//!   p: panel [outs][MR]    s: panel [depth][MR]    sums: panel [rows][MR]    W: [outs a][rows b][depth c], any distances apart
//! ```
//!
//! The first tile of rows multiplies as it loads, and stores the products into L1 for the tiles that follow: a multiplication
//! for each vector and step of depth, where [`super::fused`] has an FMA for each row and a. The sums stay in registers over all
//! (a, c), so that nothing starts or ends with a short c.

use super::gemm::each;
use super::microkernel::{Ahead, Loaded, Rows, Source, tiles};
use crate::cpu::simd::Simd;

/// Operands of [`khatri_rao`].
pub(crate) struct KhatriRao<A> {
    pub(crate) factors: *const A,
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
    /// Room for `outs`·`depth` × MR.
    pub(crate) formed: *mut A,
    pub(crate) sums: *mut A,
    /// Added to what is there; else that is not read.
    pub(crate) add: bool,
    /// To be brought near during this call.
    pub(crate) ahead: Ahead<A>,
}

/// Products as they are formed.
struct Forming<V, A, const MV: usize> {
    factors: [V; MV],
    lanes: Loaded<A>,
    to: *mut A,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Forming<S::Vector, S::Acc, MV> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: the caller's contract.
        unsafe {
            let mut lanes: [S::Vector; MV] = Source::<S, MV>::next(&mut self.lanes);
            for (v, (lanes, &factor)) in lanes.iter_mut().zip(&self.factors).enumerate() {
                *lanes = S::mul(*lanes, factor);
                S::store(self.to.add(v * S::LANES), *lanes);
            }
            self.to = self.to.wrapping_add(MV * S::LANES);
            lanes
        }
    }
}

/// # Safety
///
/// See [`super`].
#[inline(always)]
pub(crate) unsafe fn khatri_rao<S: Simd>(k: &KhatriRao<S::Acc>) {
    let mut ahead = k.ahead;
    // SAFETY: the caller's contract.
    unsafe {
        match k.vectors {
            1 => tiles!(run, S, 1, k, k.rows, &mut ahead),
            2 if S::MV >= 2 => tiles!(run, S, 2, k, k.rows, &mut ahead),
            3 if S::MV >= 3 => tiles!(run, S, 3, k, k.rows, &mut ahead),
            4 if S::MV >= 4 => tiles!(run, S, 4, k, k.rows, &mut ahead),
            _ => {}
        }
    }
}

/// `tiles` tiles of NR rows, from row `first` on.
#[inline(always)]
unsafe fn run<S: Simd, const MV: usize, const NR: usize>(
    k: &KhatriRao<S::Acc>,
    first: usize,
    tiles: usize,
    ahead: &mut Ahead<S::Acc>,
) {
    let width = MV * S::LANES;
    // Rows that lie in W as the products do in their panel are one row.
    let whole = k.out_stride == k.step * k.depth as isize && ahead.now.jump == 0;
    for tile in 0..tiles {
        let row = first + tile * NR;
        // SAFETY: all rows are below `k.rows`; the rest is the caller's contract.
        unsafe {
            let mut acc = [[S::zero(); MV]; NR];
            let mut b = Rows::new(k.w.wrapping_offset(row as isize * k.row_stride), k.row_stride, k.step);
            let mut lanes = Loaded { a: k.formed.cast_const(), a_stride: width as isize, ahead: ahead.now };
            if row == 0 {
                let mut to = k.formed;
                for a in 0..k.outs {
                    let mut factors = [S::zero(); MV];
                    for (v, factor) in factors.iter_mut().enumerate() {
                        *factor = S::load(k.factors.wrapping_add(a * width + v * S::LANES));
                    }
                    lanes.a = k.lanes;
                    let mut forming = Forming { factors, lanes, to };
                    b.add::<S, MV, NR>(&mut acc, k.depth, &mut forming);
                    b.advance(k.out_stride, k.depth);
                    (lanes, to) = (forming.lanes, forming.to);
                    *ahead = Ahead { now: lanes.ahead, ..*ahead }.next_tiles(1);
                    lanes.ahead = ahead.now;
                }
            } else if whole {
                b.add::<S, MV, NR>(&mut acc, k.outs * k.depth, &mut lanes);
                *ahead = Ahead { now: lanes.ahead, ..*ahead }.next_tiles(k.outs);
            } else {
                for _ in 0..k.outs {
                    b.add::<S, MV, NR>(&mut acc, k.depth, &mut lanes);
                    b.advance(k.out_stride, k.depth);
                    *ahead = Ahead { now: lanes.ahead, ..*ahead }.next_tiles(1);
                    lanes.ahead = ahead.now;
                }
            }
            let sums = k.sums.wrapping_add(row * width);
            let at = |o: usize, v: usize| sums.wrapping_add(o * width + v * S::LANES);
            if k.add {
                each(&acc, |o, v, acc| S::store(at(o, v), S::add(S::load(at(o, v)), acc)));
            } else {
                each(&acc, |o, v, acc| S::store(at(o, v), acc));
            }
        }
    }
}

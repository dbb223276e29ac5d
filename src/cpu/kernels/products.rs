//! Rows times a strip of products: out\[o\]\[v, l\] ←/+ Σ_d B\[d\]\[o\] · left\[v\]\[d\] · right\[v\]\[d\]\[l\], the gradient in W with n as
//! the depth d.
//!
//! The first tile of rows forms the products in registers, for one multiplication each, and leaves them in L1 for the
//! tiles that follow: forming them before would take a load and a store more, at which no FMA is done.

use super::gemm::each;
use super::microkernel::{Ahead, Loaded, Source, microkernel, tiles};
use crate::cpu::simd::Simd;

/// Largest MV of any level.
const MAX_MV: usize = 4;

/// Operands of [`products`].
pub(crate) struct Products<A> {
    /// 1..=MV.
    pub(crate) vectors: usize,
    pub(crate) depth: usize,
    /// Of each vector the factor that all its lanes share, `depth` elements so far apart.
    pub(crate) left: [*const A; MAX_MV],
    pub(crate) left_step: isize,
    /// Of each vector `depth` times its lanes, so far apart.
    pub(crate) right: [*const A; MAX_MV],
    pub(crate) right_step: isize,
    /// `depth` times so many contiguous rows, so far apart.
    pub(crate) b: *const A,
    pub(crate) b_step: isize,
    pub(crate) rows: usize,
    /// Room for `depth` × `vectors`·LANES.
    pub(crate) formed: *mut A,
    /// Of each vector where row 0 goes, and the distance of rows.
    pub(crate) out: [*mut A; MAX_MV],
    pub(crate) out_stride: isize,
    /// Added to what is there; else that is not read.
    pub(crate) add: bool,
}

impl<A> Products<A> {
    /// Of no vectors yet.
    pub(crate) const NONE: ([*const A; MAX_MV], [*mut A; MAX_MV]) =
        ([std::ptr::null(); MAX_MV], [std::ptr::null_mut(); MAX_MV]);
}

/// Products as they are formed.
struct Forming<A, const MV: usize> {
    left: [*const A; MV],
    left_step: isize,
    right: [*const A; MV],
    right_step: isize,
    to: *mut A,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Forming<S::Acc, MV> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: as many steps as `Products` has room for: the caller's contract.
        unsafe {
            let mut lanes = [S::zero(); MV];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::mul(S::splat(*self.left[v]), S::load(self.right[v]));
                S::store(self.to.add(v * S::LANES), *lanes);
                self.left[v] = self.left[v].wrapping_offset(self.left_step);
                self.right[v] = self.right[v].wrapping_offset(self.right_step);
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
pub(crate) unsafe fn products<S: Simd>(p: &Products<S::Acc>) {
    // SAFETY: the caller's contract.
    unsafe {
        match p.vectors {
            1 => tiles!(run, S, 1, p, p.rows, ()),
            2 if S::MV >= 2 => tiles!(run, S, 2, p, p.rows, ()),
            3 if S::MV >= 3 => tiles!(run, S, 3, p, p.rows, ()),
            4 if S::MV >= 4 => tiles!(run, S, 4, p, p.rows, ()),
            _ => {}
        }
    }
}

/// `tiles` tiles of NR rows, from row `first` on.
#[inline(always)]
unsafe fn run<S: Simd, const MV: usize, const NR: usize>(p: &Products<S::Acc>, first: usize, tiles: usize, _: ()) {
    for tile in 0..tiles {
        let row = first + tile * NR;
        // SAFETY: all rows are below `p.rows`; the rest is the caller's contract.
        unsafe {
            let b = p.b.wrapping_add(row);
            let out = |o: usize, v: usize| p.out[v].wrapping_offset((row + o) as isize * p.out_stride);
            // A row of the tile at each step, so that its lines are in the cache before the sums are complete.
            let step = (p.out_stride as usize).wrapping_mul(size_of::<S::Acc>());
            let line = |v: usize| out(0, v).cast_const();
            let lines = Ahead {
                weights: line(0),
                weights_step: step,
                weights_jump: 0,
                panels: line(MV - 1),
                panels_step: step,
            };
            let mut none = Ahead::none(b);
            let (early, rows) = ((NR, lines), (1, p.b_step));
            let acc = if row == 0 {
                let forming = Forming::<_, MV> {
                    left: std::array::from_fn(|v| p.left[v]),
                    left_step: p.left_step,
                    right: std::array::from_fn(|v| p.right[v]),
                    right_step: p.right_step,
                    to: p.formed,
                };
                microkernel::<S, MV, NR>(p.depth, forming, b, rows, early, &mut none)
            } else {
                let formed = Loaded(p.formed.cast_const(), (MV * S::LANES) as isize);
                microkernel::<S, MV, NR>(p.depth, formed, b, rows, early, &mut none)
            };
            // One loop for each, so that the sums stay in registers.
            if p.add {
                each(&acc, |o, v, acc| S::store(out(o, v), S::add(S::load(out(o, v)), acc)));
            } else {
                each(&acc, |o, v, acc| S::store(out(o, v), acc));
            }
        }
    }
}

//! Rows times a strip of products: out\[o\]\[v, l\] ←/+ Σ_d B\[d\]\[o\] · left\[v\]\[d\] · right\[v\]\[d\]\[l\], the gradient in W with n as
//! the depth d.
//!
//! The first tile of rows forms the products in registers, for one multiplication each, and leaves them in L1 for the
//! tiles that follow: forming them before would take a load and a store more, at which no FMA is done.

use super::gemm::each;
use super::microkernel::{Rows, Source, tiles};
use crate::cpu::simd::Simd;

/// Largest MV of any level.
const MAX_MV: usize = 4;

/// Rows of the result that are asked for in advance, where a tile of so few FMAs does not take as long as memory.
const AHEAD: usize = 12;
const FEW: usize = 512;

/// Operands of [`products`].
pub(crate) struct Products<A> {
    /// 1..=MV.
    pub(crate) vectors: usize,
    pub(crate) depth: usize,
    /// Of each vector the factor that all its lanes share: `depth` elements.
    pub(crate) left: [*const A; MAX_MV],
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

/// Rows of a later tile's result, one asked for at each of the first steps, so that their lines are in the cache before its
/// sums are complete. The line that a vector ends in is asked for: where it begins in another, the strip before has
/// brought that.
struct Asking<'a, A, F> {
    source: &'a mut F,
    next: *const A,
    step: isize,
    /// From the first vector to the last one.
    across: isize,
}

impl<S: Simd, const MV: usize, F: Source<S, MV>> Source<S, MV> for Asking<'_, S::Acc, F> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: any address may be asked for; the rest is the caller's contract.
        unsafe {
            S::prefetch_near(self.next);
            S::prefetch_near(self.next.wrapping_byte_offset(self.across));
            self.next = self.next.wrapping_offset(self.step);
            self.source.next()
        }
    }
}

/// Products as they are formed.
struct Forming<A, const MV: usize> {
    left: [*const A; MV],
    right: [*const A; MV],
    right_step: isize,
    to: *mut A,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Forming<S::Acc, MV> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: within the operands by the caller's contract.
        unsafe {
            let mut lanes = [S::zero(); MV];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::mul(S::splat(*self.left[v]), S::load(self.right[v]));
                S::store(self.to.add(v * S::LANES), *lanes);
                self.left[v] = self.left[v].wrapping_add(1);
                self.right[v] = self.right[v].wrapping_offset(self.right_step);
            }
            self.to = self.to.wrapping_add(MV * S::LANES);
            lanes
        }
    }
}

/// Products that were formed.
struct Formed<A> {
    from: *const A,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Formed<S::Acc> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        // SAFETY: as above.
        unsafe {
            let mut lanes = [S::zero(); MV];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::load(self.from.add(v * S::LANES));
            }
            self.from = self.from.wrapping_add(MV * S::LANES);
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
            let across = (out(0, MV - 1).addr() as isize).wrapping_sub(out(0, 0).addr() as isize);
            // The first tile asks for its own rows too.
            let ahead = if p.depth * NR * MV < FEW { AHEAD } else { 0 };
            let (from, to) = (if row == 0 { 0 } else { row + ahead }, (row + NR + ahead).min(p.rows));
            let asked = to.saturating_sub(from).min(p.depth);
            let next = p.out[0].wrapping_offset(from as isize * p.out_stride).wrapping_add(S::LANES - 1).cast_const();
            let step = p.out_stride;
            let mut acc = [[S::zero(); MV]; NR];
            let mut rows = Rows::new(b, 1, p.b_step);
            if row == 0 {
                let mut forming = Forming::<_, MV> {
                    left: std::array::from_fn(|v| p.left[v]),
                    right: std::array::from_fn(|v| p.right[v]),
                    right_step: p.right_step,
                    to: p.formed,
                };
                let mut asking = Asking { source: &mut forming, next, step, across };
                rows.add::<S, MV, NR>(&mut acc, asked, &mut asking);
                rows.add::<S, MV, NR>(&mut acc, p.depth - asked, &mut forming);
            } else {
                let mut formed = Formed { from: p.formed.cast_const() };
                let mut asking = Asking { source: &mut formed, next, step, across };
                rows.add::<S, MV, NR>(&mut acc, asked, &mut asking);
                rows.add::<S, MV, NR>(&mut acc, p.depth - asked, &mut formed);
            }
            // One loop for each, so that the sums stay in registers.
            if p.add {
                each(&acc, |o, v, acc| S::store(out(o, v), S::add(S::load(out(o, v)), acc)));
            } else {
                each(&acc, |o, v, acc| S::store(out(o, v), acc));
            }
        }
    }
}

//! The microkernel: acc\[o\]\[l\] = Σ_d A\[d\]\[l\] · B\[o\]\[d\] for NR rows o and MR = MV·LANES lanes l.
//!
//! ```text
//!   A, the lane operand: `depth` rows of MR contiguous lanes, `a_stride` apart.   B, the row operand: NR rows of
//!   `depth` elements, read in place: rows `b_stride`, elements `b_step` apart. One of the two is 1 where it is fast:
//!   NR streams of contiguous rows, or (as drawn by turning B) one line for each step of depth.
//!
//!        A:  l0 l1 l2 … l15          B:   d0  d1  d2  d3 …
//!   d0       ▒▒ vector 0 ▒▒ 1 ▒▒     o0   b ─────────────►   one element at a time, broadcast to all lanes
//!   d1       ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒     o1   b ─────────────►
//!   …                                …
//! ```
//!
//! Each step of depth takes MV vector loads and NR broadcast loads for MV·NR FMAs. The tiles of the levels (6 × 2 of
//! AVX2, 12 × 2 of AVX-512, …) are chosen in their files, where the registers are counted.
//!
//! Rows are *not* interleaved into micropanels of NR, as GotoBLAS does: W's rows are contiguous in memory as they are,
//! NR of them are as many streams as the hardware prefetches, and reading them in place saves the packing, which at the
//! small batches of this operation would cost as much as the arithmetic.

use crate::cpu::simd::Simd;

/// What will be needed later, brought towards L2 at an even pace: at each step of depth a line of either, and so many
/// bytes on. The hardware's own prefetch stops at the end of each page and follows a few streams only.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<A> {
    pub(crate) weights: *const A,
    pub(crate) weights_step: usize,
    /// So many bytes more after each tile, where what comes is no one stream.
    pub(crate) weights_jump: isize,
    pub(crate) panels: *const A,
    pub(crate) panels_step: usize,
}

impl<A> Ahead<A> {
    /// Nothing: a line that is in use anyway.
    pub(super) fn none(used: *const A) -> Self {
        Ahead { weights: used, weights_step: 0, weights_jump: 0, panels: used, panels_step: 0 }
    }

    /// After a tile.
    pub(super) fn next_tile(self) -> Self {
        Ahead { weights: self.weights.wrapping_byte_offset(self.weights_jump), ..self }
    }

    /// So many tiles of so many steps of depth later.
    pub(crate) fn after(self, tiles: usize, depth: usize) -> Self {
        let steps = tiles * depth;
        let jumps = (tiles as isize).wrapping_mul(self.weights_jump);
        Ahead {
            weights: self.weights.wrapping_byte_add(steps.wrapping_mul(self.weights_step)).wrapping_byte_offset(jumps),
            panels: self.panels.wrapping_byte_add(steps.wrapping_mul(self.panels_step)),
            ..self
        }
    }
}

/// The lane operand, a step of depth after the other, and what is asked for in advance meanwhile.
pub(super) trait Source<S: Simd, const MV: usize> {
    /// # Safety
    ///
    /// At most `depth` times; the rest is the microkernel's contract.
    unsafe fn next(&mut self) -> [S::Vector; MV];
}

/// Lanes in memory.
pub(super) struct Loaded<A> {
    pub(super) a: *const A,
    pub(super) a_stride: isize,
    pub(super) ahead: Ahead<A>,
}

impl<S: Simd, const MV: usize> Source<S, MV> for Loaded<S::Acc> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        let ahead = &mut self.ahead;
        // SAFETY: `v` < MV: within the operand by the caller's contract.
        unsafe {
            S::prefetch(ahead.weights);
            S::prefetch(ahead.panels);
            ahead.weights = ahead.weights.wrapping_byte_add(ahead.weights_step);
            ahead.panels = ahead.panels.wrapping_byte_add(ahead.panels_step);
            let mut lanes = [S::zero(); MV];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::load(self.a.add(v * S::LANES));
            }
            self.a = self.a.wrapping_offset(self.a_stride);
            lanes
        }
    }
}

/// The row operand of a tile, at some depth.
pub(super) struct Rows<A> {
    /// Row o is `third[o / 3] + (o % 3)·stride`, which x86 addresses without arithmetic; NR chained additions would take
    /// longer than the FMAs.
    third: [*const A; 4],
    stride: isize,
    step: isize,
}

impl<A: Copy> Rows<A> {
    /// Rows `stride`, elements `step` apart.
    #[inline(always)]
    pub(super) fn new(b: *const A, stride: isize, step: isize) -> Self {
        Rows { third: std::array::from_fn(|t| opaque(b.wrapping_offset(3 * t as isize * stride))), stride, step }
    }

    /// From behind so many steps of depth to so many elements from where they began.
    #[inline(always)]
    pub(super) fn advance(&mut self, distance: isize, depth: usize) {
        for third in &mut self.third {
            *third = third.wrapping_offset(distance.wrapping_sub(self.step.wrapping_mul(depth as isize)));
        }
    }

    /// acc += A · B over so many steps of depth.
    ///
    /// # Safety
    ///
    /// As [`microkernel`].
    #[inline(always)]
    pub(super) unsafe fn add<S: Simd<Acc = A>, const MV: usize, const NR: usize>(
        &mut self,
        acc: &mut [[S::Vector; MV]; NR],
        depth: usize,
        a: &mut impl Source<S, MV>,
    ) {
        for _ in 0..depth {
            // SAFETY: at most `depth` steps, `o` < NR, `v` < MV: within the operands by the caller's contract.
            unsafe {
                let lanes = a.next();
                for (o, acc) in acc.iter_mut().enumerate() {
                    let element = S::splat(*self.third[o / 3].offset((o % 3) as isize * self.stride));
                    for (acc, &lanes) in acc.iter_mut().zip(&lanes) {
                        *acc = S::fma(lanes, element, *acc);
                    }
                }
            }
            for third in &mut self.third {
                *third = third.wrapping_offset(self.step);
            }
        }
    }
}

/// The microkernel. A tile of fewer rows or vectors is another instance, so edges run at full speed.
///
/// # Safety
///
/// A and B valid as drawn above. What is asked for in advance need not be readable.
#[inline(always)]
pub(super) unsafe fn microkernel<S: Simd, const MV: usize, const NR: usize>(
    depth: usize,
    a: &mut impl Source<S, MV>,
    b: *const S::Acc,
    (b_stride, b_step): (isize, isize),
) -> [[S::Vector; MV]; NR] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[S::zero(); MV]; NR];
        Rows::new(b, b_stride, b_step).add::<S, MV, NR>(&mut acc, depth, a);
        acc
    }
}

/// The same pointer, whose origin the optimiser does not see, so that it does not recompute it from another.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the block does not use the pointer")]
fn opaque<A>(mut pointer: *const A) -> *const A {
    // Miri does not run assembly.
    if cfg!(not(miri)) {
        // SAFETY: an empty assembly block.
        unsafe { std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags)) };
    }
    pointer
}

/// Calls `$run::<S, MV, NR>($arguments)` for `$rows` rows in tiles of at most `S::NR`, all of nearly one size: a short
/// last tile would not cover the latency of its FMAs. `$tiles` of `$first` on are passed to each call.
macro_rules! tiles {
    ($run:ident, $simd:ty, $mv:literal, $args:expr, $rows:expr, $extra:expr) => {{
        let count = usize::div_ceil($rows, <$simd>::NR);
        let (size, larger) = if count == 0 { (0, 0) } else { ($rows / count, $rows % count) };
        let parts = [(size + 1, 0, larger), (size, larger * (size + 1), count - larger)];
        for (size, first, tiles) in parts {
            if tiles == 0 {
                continue;
            }
            match size {
                1 => $run::<$simd, $mv, 1>($args, first, tiles, $extra),
                2 => $run::<$simd, $mv, 2>($args, first, tiles, $extra),
                3 => $run::<$simd, $mv, 3>($args, first, tiles, $extra),
                4 => $run::<$simd, $mv, 4>($args, first, tiles, $extra),
                5 if <$simd>::NR >= 5 => $run::<$simd, $mv, 5>($args, first, tiles, $extra),
                6 if <$simd>::NR >= 6 => $run::<$simd, $mv, 6>($args, first, tiles, $extra),
                7 if <$simd>::NR >= 7 => $run::<$simd, $mv, 7>($args, first, tiles, $extra),
                8 if <$simd>::NR >= 8 => $run::<$simd, $mv, 8>($args, first, tiles, $extra),
                9 if <$simd>::NR >= 9 => $run::<$simd, $mv, 9>($args, first, tiles, $extra),
                10 if <$simd>::NR >= 10 => $run::<$simd, $mv, 10>($args, first, tiles, $extra),
                11 if <$simd>::NR >= 11 => $run::<$simd, $mv, 11>($args, first, tiles, $extra),
                12 if <$simd>::NR >= 12 => $run::<$simd, $mv, 12>($args, first, tiles, $extra),
                _ => {}
            }
        }
    }};
}
pub(super) use tiles;

/// Independent FMAs, 12 vectors of them in each of `rounds` rounds.
///
/// # Safety
///
/// The instructions of `S` are enabled.
#[inline(always)]
pub(crate) unsafe fn peak<S: Simd>(rounds: usize) -> S::Acc {
    // SAFETY: the caller's contract.
    unsafe {
        let factor = S::splat(std::hint::black_box(S::Acc::default()));
        let mut acc = [S::zero(); 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = S::fma(*acc, factor, factor);
            }
        }
        let mut total = S::zero();
        for acc in acc {
            total = S::add(total, acc);
        }
        S::sum(total)
    }
}

/// The sum of `len` elements, rounded down to whole groups of eight vectors.
///
/// # Safety
///
/// The instructions of `S` are enabled; `len` elements are readable.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(from: *const S::Acc, len: usize) -> S::Acc {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [S::zero(); 8];
        let step = 8 * S::LANES;
        for d in (0..len / step * step).step_by(step) {
            // As far ahead as the hardware's own streams run: one that stops at each page boundary.
            S::prefetch(from.wrapping_add(d + 512));
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::load(from.add(d + v * S::LANES)));
            }
        }
        let mut total = S::zero();
        for sum in sums {
            total = S::add(total, sum);
        }
        S::sum(total)
    }
}

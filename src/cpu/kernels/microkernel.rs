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

/// Memory that is asked for in advance: at each step of depth a line, and so many bytes on.
#[derive(Clone, Copy)]
pub(crate) struct Lines<A> {
    pub(crate) next: *const A,
    pub(crate) step: usize,
    /// So many bytes more after each tile, where what comes is no one stream.
    pub(crate) jump: isize,
}

impl<A: Copy> Lines<A> {
    /// Nothing: a line that is in use anyway.
    pub(crate) fn none(used: *const A) -> Self {
        Lines { next: used, step: 0, jump: 0 }
    }

    /// So many bytes from `first` on, evenly in so many steps of depth, at most a line in each.
    pub(crate) fn evenly((first, bytes): (*const A, usize), steps: usize) -> Self {
        Lines { next: first, step: bytes.div_ceil(steps.max(1)).min(64), jump: 0 }
    }

    /// So many tiles later, of so many steps of depth each.
    fn after(self, tiles: usize, depth: usize) -> Self {
        let bytes = (tiles * depth).wrapping_mul(self.step);
        let jumps = (tiles as isize).wrapping_mul(self.jump);
        Lines { next: self.next.wrapping_byte_add(bytes).wrapping_byte_offset(jumps), ..self }
    }
}

/// What will be needed later, brought near at an even pace, one thing after the other: loads are what narrow tiles have least
/// room for. The hardware's own prefetch stops at the end of each page and follows a few streams only.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<A> {
    pub(crate) now: Lines<A>,
    /// After so many tiles, ...
    pub(crate) tiles: usize,
    /// ... what comes then.
    pub(crate) then: Lines<A>,
}

impl<A: Copy> Ahead<A> {
    /// First these bytes, then those, evenly in so many tiles of so many steps of depth.
    pub(crate) fn of(first: (*const A, usize), then: (*const A, usize), tiles: usize, depth: usize) -> Self {
        let of_first = match (first.1, then.1) {
            (_, 0) => tiles,
            (first, then) => tiles * first / (first + then),
        };
        let then = Lines::evenly(then, (tiles - of_first) * depth);
        let now = if of_first == 0 { then } else { Lines::evenly(first, of_first * depth) };
        Ahead { now, tiles: if of_first == 0 { tiles } else { of_first }, then }
    }

    /// After so many tiles, at whose end `now` has come to where it is.
    #[inline(always)]
    pub(super) fn next_tiles(self, tiles: usize) -> Self {
        if tiles < self.tiles {
            return Ahead { now: self.now.after(tiles, 0), tiles: self.tiles - tiles, ..self };
        }
        Ahead { now: self.then, tiles: usize::MAX, ..self }
    }

    /// So many tiles of so many steps of depth later.
    pub(crate) fn after(self, tiles: usize, depth: usize) -> Self {
        if tiles < self.tiles {
            return Ahead { now: self.now.after(tiles, depth), tiles: self.tiles - tiles, ..self };
        }
        Ahead { now: self.then.after(tiles - self.tiles, depth), tiles: usize::MAX, ..self }
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
    pub(super) ahead: Lines<A>,
}

impl<A> Loaded<A> {
    /// # Safety
    ///
    /// As [`Source::next`].
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd<Acc = A>, const MV: usize>(&mut self) -> [S::Vector; MV] {
        // SAFETY: `v` < MV: within the operand by the caller's contract.
        unsafe {
            let mut lanes = [S::zero(); MV];
            for (v, lanes) in lanes.iter_mut().enumerate() {
                *lanes = S::load(self.a.add(v * S::LANES));
            }
            self.a = self.a.wrapping_offset(self.a_stride);
            lanes
        }
    }
}

impl<S: Simd, const MV: usize> Source<S, MV> for Loaded<S::Acc> {
    #[inline(always)]
    unsafe fn next(&mut self) -> [S::Vector; MV] {
        let ahead = &mut self.ahead;
        // SAFETY: any address may be asked for; the rest is the caller's contract.
        unsafe {
            // Lines far apart may share a few sets of L1.
            if ahead.step > 64 {
                S::prefetch(ahead.next);
            } else {
                S::prefetch_near(ahead.next);
            }
            ahead.next = ahead.next.wrapping_byte_add(ahead.step);
            self.load::<S, MV>()
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

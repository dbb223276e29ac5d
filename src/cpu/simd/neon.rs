//! aarch64: thirty-two 128-bit registers.
//!
//! The tile is 6 rows × 4 vectors: 24 accumulators, 4 vectors of the lane operand and 1 broadcast are 29 of the 32
//! registers. Its 24 independent FMAs cover the latency (4 cycles × 4 a cycle on the widest cores), and 10 loads feed
//! them (2–3 a cycle). Vectors are short here, so the tile is wide in vectors: MR is 16 lanes as with AVX2, and each
//! broadcast serves four FMAs.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{Simd, Widen};
use crate::cpu::table::{arithmetic, table};

#[derive(Clone, Copy)]
pub(crate) struct NeonF32;

impl Simd for NeonF32 {
    type Acc = f32;
    type Vector = float32x4_t;
    const LANES: usize = 4;
    const MV: usize = 4;
    const NR: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: the caller's contract, here and below.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: float32x4_t) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4_t) -> f32 {
        // SAFETY: as above. Pairs first, always.
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: isize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's contract. 2×2 blocks of 1, then of 2 elements are exchanged.
        unsafe {
            let row = |r: isize| vld1q_f32(from.offset(r * from_stride));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let pairs = |v| vreinterpretq_f64_f32(v);
            let (ab0, ab1) = (pairs(vtrn1q_f32(a, b)), pairs(vtrn2q_f32(a, b)));
            let (cd0, cd1) = (pairs(vtrn1q_f32(c, d)), pairs(vtrn2q_f32(c, d)));
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab0, cd0)));
            vst1q_f32(to.add(to_stride), vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1)));
            vst1q_f32(to.add(2 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(ab0, cd0)));
            vst1q_f32(to.add(3 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1)));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        prefetch_line(at.cast());
    }
}

#[derive(Clone, Copy)]
pub(crate) struct NeonF64;

impl Simd for NeonF64 {
    type Acc = f64;
    type Vector = float64x2_t;
    const LANES: usize = 2;
    const MV: usize = 4;
    const NR: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> float64x2_t {
        // SAFETY: the caller's contract, here and below.
        unsafe { vdupq_n_f64(0.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f64) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vdupq_n_f64(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vld1q_f64(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: float64x2_t) {
        // SAFETY: as above.
        unsafe { vst1q_f64(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vaddq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float64x2_t, b: float64x2_t) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vmulq_f64(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float64x2_t, b: float64x2_t, c: float64x2_t) -> float64x2_t {
        // SAFETY: as above.
        unsafe { vfmaq_f64(c, a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: float64x2_t) -> f64 {
        // SAFETY: as above.
        unsafe { vaddvq_f64(v) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f64, from_stride: isize, to: *mut f64, to_stride: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let (a, b) = (vld1q_f64(from), vld1q_f64(from.offset(from_stride)));
            vst1q_f64(to, vtrn1q_f64(a, b));
            vst1q_f64(to.add(to_stride), vtrn2q_f64(a, b));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f64) {
        prefetch_line(at.cast());
    }
}

/// Towards L2. By assembly: the intrinsic is not stable.
#[inline(always)]
fn prefetch_line(at: *const u8) {
    // Miri does not run assembly.
    if cfg!(not(miri)) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }
}

impl Widen<f32> for NeonF32 {
    #[inline(always)]
    unsafe fn widen(from: *const f32) -> float32x4_t {
        // SAFETY: the caller's contract.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f32, len: usize) -> float32x4_t {
        let mut padded = [0.0; 4];
        // SAFETY: the caller's contract; `len` < 4.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

impl Widen<f64> for NeonF64 {
    #[inline(always)]
    unsafe fn widen(from: *const f64) -> float64x2_t {
        // SAFETY: the caller's contract.
        unsafe { vld1q_f64(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f64, len: usize) -> float64x2_t {
        let mut padded = [0.0; 2];
        // SAFETY: the caller's contract; `len` < 2.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

impl Widen<f16> for NeonF32 {
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> float32x4_t {
        if cfg!(miri) {
            // SAFETY: the caller's contract. Miri does not run assembly.
            let elements = unsafe { from.cast::<[f16; 4]>().read_unaligned() }.map(f16::to_f32);
            // SAFETY: as above; `elements` are four.
            return unsafe { vld1q_f32(elements.as_ptr()) };
        }
        // SAFETY: the caller's contract. The conversion is part of NEON (only arithmetic *in* f16 is not), but its
        // intrinsic is younger than the oldest Rust that this crate supports.
        unsafe {
            let wide: float32x4_t;
            std::arch::asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                wide = lateout(vreg) wide,
                half = in(vreg) vld1_u16(from.cast()),
                options(pure, nomem, nostack, preserves_flags)
            );
            wide
        }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f16, len: usize) -> float32x4_t {
        let mut padded = [f16::ZERO; 4];
        // SAFETY: the caller's contract; `len` < 4.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

impl Widen<bf16> for NeonF32 {
    #[inline(always)]
    unsafe fn widen(from: *const bf16) -> float32x4_t {
        // SAFETY: the caller's contract. A bf16 is the upper half of an f32.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const bf16, len: usize) -> float32x4_t {
        let mut padded = [bf16::ZERO; 4];
        // SAFETY: the caller's contract; `len` < 4.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

arithmetic!(ARITHMETIC_F32, NeonF32, ["neon"]);
arithmetic!(ARITHMETIC_F64, NeonF64, ["neon"]);
table!(F32, f32, NeonF32, ["neon"], ARITHMETIC_F32, "aarch64-f32-neon-6x16");
table!(F64, f64, NeonF64, ["neon"], ARITHMETIC_F64, "aarch64-f64-neon-6x8");
table!(F16, f16, NeonF32, ["neon"], ARITHMETIC_F32, "aarch64-f16-neon-6x16");
table!(BF16, bf16, NeonF32, ["neon"], ARITHMETIC_F32, "aarch64-bf16-neon-6x16");

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of a 16-bit type, by four and one by one; NaNs stay NaNs.
    fn widens_all<T: Copy>(from_bits: fn(u16) -> T, to_f32: fn(T) -> f32)
    where
        NeonF32: Widen<T>,
    {
        let same = |wide: f32, bits: u16| {
            let exact = to_f32(from_bits(bits));
            assert!(wide.to_bits() == exact.to_bits() || wide.is_nan() && exact.is_nan(), "{bits:#06x}: {wide}");
        };
        for first in (0..=u16::MAX).step_by(4) {
            let from = [0, 1, 2, 3].map(|lane| from_bits(first + lane));
            let mut to = [0.0; 4];
            // SAFETY: every aarch64 target of Rust's with a standard library has NEON; the arrays have four elements.
            unsafe { NeonF32::store(to.as_mut_ptr(), NeonF32::widen(from.as_ptr())) };
            to.iter().zip(first..).for_each(|(&wide, bits)| same(wide, bits));
            // SAFETY: as above, and one element is fewer than four.
            unsafe { NeonF32::store(to.as_mut_ptr(), NeonF32::widen_partial(from.as_ptr(), 1)) };
            same(to[0], first);
            assert_eq!(to[1..], [0.0; 3]);
        }
    }

    #[test]
    fn f16_widens() {
        widens_all(f16::from_bits, f16::to_f32);
    }

    #[test]
    fn bf16_widens() {
        widens_all(bf16::from_bits, bf16::to_f32);
    }

    #[test]
    fn transposes() {
        let from: [f32; 24] = std::array::from_fn(|index| index as f32);
        let mut to = [-1.0; 20];
        // SAFETY: as above; 4 rows, 6 apart, to 4 rows, 5 apart.
        unsafe { NeonF32::transpose(from.as_ptr(), 6, to.as_mut_ptr(), 5) };
        for (r, c) in (0..4).flat_map(|r| (0..4).map(move |c| (r, c))) {
            assert_eq!(to[c * 5 + r], from[r * 6 + c]);
        }
        assert!((0..4).all(|row| to[row * 5 + 4] == -1.0));

        let from = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let mut to = [-1.0; 6];
        // SAFETY: as above; 2 rows, 4 apart, to 2 rows, 3 apart.
        unsafe { NeonF64::transpose(from.as_ptr(), 4, to.as_mut_ptr(), 3) };
        assert_eq!(to, [0.0, 4.0, -1.0, 1.0, 5.0, -1.0]);
    }
}

//! x86-64 with AVX-512 F, BW, DQ and VL: thirty-two 512-bit registers.
//!
//! The tile is 12 rows × 2 vectors: 24 accumulators, 2 vectors of the lane operand and 1 broadcast are 27 of the 32
//! registers. Its 24 independent FMAs cover the latency (4 cycles × 2 a cycle on Intel's servers, 4 × 1 on Zen 4), and
//! 14 loads feed them.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Simd, Widen};
use crate::cpu::table::{arithmetic, table};

#[derive(Clone, Copy)]
pub(crate) struct Avx512F32;

impl Simd for Avx512F32 {
    type Acc = f32;
    type Vector = __m512;
    const LANES: usize = 16;
    const MV: usize = 2;
    const NR: usize = 12;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        // SAFETY: as above.
        unsafe {
            let half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: isize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's contract. Within each 128 bits 2×2 blocks of 1, then of 2 elements are exchanged, which
        // leaves in `fours[f][c]` the columns c, c + 4, c + 8 and c + 12 of the rows 4f..4f + 4; then those of 4 and 8.
        unsafe {
            let four = |f: isize| {
                let row = |r: isize| _mm512_loadu_ps(from.offset((4 * f + r) * from_stride));
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                [
                    _mm512_shuffle_ps::<0x44>(ab0, cd0),
                    _mm512_shuffle_ps::<0xee>(ab0, cd0),
                    _mm512_shuffle_ps::<0x44>(ab1, cd1),
                    _mm512_shuffle_ps::<0xee>(ab1, cd1),
                ]
            };
            let fours = [four(0), four(1), four(2), four(3)];
            for c in 0..4 {
                let [first, second, third, fourth] = fours.map(|four| four[c]);
                let low = _mm512_shuffle_f32x4::<0x44>(first, second);
                let high = _mm512_shuffle_f32x4::<0xee>(first, second);
                let low2 = _mm512_shuffle_f32x4::<0x44>(third, fourth);
                let high2 = _mm512_shuffle_f32x4::<0xee>(third, fourth);
                _mm512_storeu_ps(to.add(c * to_stride), _mm512_shuffle_f32x4::<0x88>(low, low2));
                _mm512_storeu_ps(to.add((c + 4) * to_stride), _mm512_shuffle_f32x4::<0xdd>(low, low2));
                _mm512_storeu_ps(to.add((c + 8) * to_stride), _mm512_shuffle_f32x4::<0x88>(high, high2));
                _mm512_storeu_ps(to.add((c + 12) * to_stride), _mm512_shuffle_f32x4::<0xdd>(high, high2));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_past(to: *mut f32, v: __m512) {
        // SAFETY: the caller's contract.
        unsafe { _mm512_stream_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_near(at: *const f32) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512F64;

impl Simd for Avx512F64 {
    type Acc = f64;
    type Vector = __m512d;
    const LANES: usize = 8;
    const MV: usize = 2;
    const NR: usize = 12;

    #[inline(always)]
    unsafe fn zero() -> __m512d {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm512_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn splat(value: f64) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_set1_pd(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: __m512d) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_pd(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512d, b: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_mul_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512d) -> f64 {
        // SAFETY: as above.
        unsafe {
            let half = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd::<1>(v));
            let v = _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd::<1>(half));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f64, from_stride: isize, to: *mut f64, to_stride: usize) {
        // SAFETY: the caller's contract. As for f32: `twos[t][c]` are the columns c, c + 2, c + 4 and c + 6 of two rows.
        unsafe {
            let two = |t: isize| {
                let row = |r: isize| _mm512_loadu_pd(from.offset((2 * t + r) * from_stride));
                [_mm512_unpacklo_pd(row(0), row(1)), _mm512_unpackhi_pd(row(0), row(1))]
            };
            let twos = [two(0), two(1), two(2), two(3)];
            for c in 0..2 {
                let [first, second, third, fourth] = twos.map(|two| two[c]);
                let low = _mm512_shuffle_f64x2::<0x44>(first, second);
                let high = _mm512_shuffle_f64x2::<0xee>(first, second);
                let low2 = _mm512_shuffle_f64x2::<0x44>(third, fourth);
                let high2 = _mm512_shuffle_f64x2::<0xee>(third, fourth);
                _mm512_storeu_pd(to.add(c * to_stride), _mm512_shuffle_f64x2::<0x88>(low, low2));
                _mm512_storeu_pd(to.add((c + 2) * to_stride), _mm512_shuffle_f64x2::<0xdd>(low, low2));
                _mm512_storeu_pd(to.add((c + 4) * to_stride), _mm512_shuffle_f64x2::<0x88>(high, high2));
                _mm512_storeu_pd(to.add((c + 6) * to_stride), _mm512_shuffle_f64x2::<0xdd>(high, high2));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_past(to: *mut f64, v: __m512d) {
        // SAFETY: the caller's contract.
        unsafe { _mm512_stream_pd(to, v) }
    }
    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f64) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_near(at: *const f64) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

impl Widen<f32> for Avx512F32 {
    #[inline(always)]
    unsafe fn widen(from: *const f32) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f32, len: usize) -> __m512 {
        // SAFETY: the caller's contract; lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_ps((1u16 << len).wrapping_sub(1), from) }
    }
}

impl Widen<f64> for Avx512F64 {
    #[inline(always)]
    unsafe fn widen(from: *const f64) -> __m512d {
        // SAFETY: the caller's contract.
        unsafe { _mm512_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f64, len: usize) -> __m512d {
        // SAFETY: the caller's contract; lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_pd((1u8 << len).wrapping_sub(1), from) }
    }
}

impl Widen<f16> for Avx512F32 {
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> __m512 {
        // SAFETY: the caller's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f16, len: usize) -> __m512 {
        let mut padded = [f16::ZERO; 16];
        // SAFETY: the caller's contract; `len` < 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

impl Widen<bf16> for Avx512F32 {
    #[inline(always)]
    unsafe fn widen(from: *const bf16) -> __m512 {
        // SAFETY: the caller's contract. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const bf16, len: usize) -> __m512 {
        let mut padded = [bf16::ZERO; 16];
        // SAFETY: the caller's contract; `len` < 16.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

arithmetic!(ARITHMETIC_F32, Avx512F32, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"]);
arithmetic!(ARITHMETIC_F64, Avx512F64, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"]);
table!(
    F32,
    f32,
    Avx512F32,
    ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"],
    ARITHMETIC_F32,
    "x86_64-f32-avx512-12x32"
);
table!(
    F64,
    f64,
    Avx512F64,
    ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"],
    ARITHMETIC_F64,
    "x86_64-f64-avx512-12x16"
);
table!(
    F16,
    f16,
    Avx512F32,
    ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"],
    ARITHMETIC_F32,
    "x86_64-f16-avx512-12x32"
);
table!(
    BF16,
    bf16,
    Avx512F32,
    ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"],
    ARITHMETIC_F32,
    "x86_64-bf16-avx512-12x32"
);

//! x86-64 with AVX2, FMA and F16C: sixteen 256-bit registers.
//!
//! The tile is 6 rows × 2 vectors: 12 accumulators, 2 vectors of the lane operand and 1 broadcast are 15 of the 16
//! registers. Twelve independent FMAs cover the latency (4–5 cycles × 2 a cycle), and 8 loads feed them (2 a cycle
//! allow 12). 4 × 3 would load one less, but needs all 16 registers; LLVM then spills one and halves the speed.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Simd, Widen};
use crate::cpu::table::{arithmetic, table};

#[derive(Clone, Copy)]
pub(crate) struct Avx2F32;

impl Simd for Avx2F32 {
    type Acc = f32;
    type Vector = __m256;
    const LANES: usize = 8;
    const MV: usize = 2;
    const NR: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        // SAFETY: as above.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: isize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's contract. 2×2 blocks of 1, then of 2, then of 4 elements are exchanged.
        unsafe {
            let row = |r: isize| _mm256_loadu_ps(from.offset(r * from_stride));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let (e, f, g, h) = (row(4), row(5), row(6), row(7));
            let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let (ef0, ef1) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
            let (gh0, gh1) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
            let abcd = [
                _mm256_shuffle_ps::<0x44>(ab0, cd0),
                _mm256_shuffle_ps::<0xee>(ab0, cd0),
                _mm256_shuffle_ps::<0x44>(ab1, cd1),
                _mm256_shuffle_ps::<0xee>(ab1, cd1),
            ];
            let efgh = [
                _mm256_shuffle_ps::<0x44>(ef0, gh0),
                _mm256_shuffle_ps::<0xee>(ef0, gh0),
                _mm256_shuffle_ps::<0x44>(ef1, gh1),
                _mm256_shuffle_ps::<0xee>(ef1, gh1),
            ];
            for column in 0..4 {
                let (low, high) = (abcd[column], efgh[column]);
                _mm256_storeu_ps(to.add(column * to_stride), _mm256_permute2f128_ps::<0x20>(low, high));
                _mm256_storeu_ps(to.add((column + 4) * to_stride), _mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_past(to: *mut f32, v: __m256) {
        // SAFETY: the caller's contract.
        unsafe { _mm256_stream_ps(to, v) }
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
pub(crate) struct Avx2F64;

impl Simd for Avx2F64 {
    type Acc = f64;
    type Vector = __m256d;
    const LANES: usize = 4;
    const MV: usize = 2;
    const NR: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> __m256d {
        // SAFETY: the caller's contract, here and below.
        unsafe { _mm256_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn splat(value: f64) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_set1_pd(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f64) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f64, v: __m256d) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_pd(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_add_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256d, b: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_mul_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256d, b: __m256d, c: __m256d) -> __m256d {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256d) -> f64 {
        // SAFETY: as above.
        unsafe {
            let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f64, from_stride: isize, to: *mut f64, to_stride: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let row = |r: isize| _mm256_loadu_pd(from.offset(r * from_stride));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            let (ab0, ab1) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            let (cd0, cd1) = (_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d));
            _mm256_storeu_pd(to, _mm256_permute2f128_pd::<0x20>(ab0, cd0));
            _mm256_storeu_pd(to.add(to_stride), _mm256_permute2f128_pd::<0x20>(ab1, cd1));
            _mm256_storeu_pd(to.add(2 * to_stride), _mm256_permute2f128_pd::<0x31>(ab0, cd0));
            _mm256_storeu_pd(to.add(3 * to_stride), _mm256_permute2f128_pd::<0x31>(ab1, cd1));
        }
    }
    #[inline(always)]
    unsafe fn store_past(to: *mut f64, v: __m256d) {
        // SAFETY: the caller's contract.
        unsafe { _mm256_stream_pd(to, v) }
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

impl Widen<f32> for Avx2F32 {
    #[inline(always)]
    unsafe fn widen(from: *const f32) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f32, len: usize) -> __m256 {
        // SAFETY: the caller's contract; lanes that the mask leaves out are not read.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(len as i32), lane))
        }
    }
}

impl Widen<f64> for Avx2F64 {
    #[inline(always)]
    unsafe fn widen(from: *const f64) -> __m256d {
        // SAFETY: the caller's contract.
        unsafe { _mm256_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f64, len: usize) -> __m256d {
        // SAFETY: the caller's contract; lanes that the mask leaves out are not read.
        unsafe {
            let lane = _mm256_setr_epi64x(0, 1, 2, 3);
            _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(len as i64), lane))
        }
    }
}

impl Widen<f16> for Avx2F32 {
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const f16, len: usize) -> __m256 {
        let mut padded = [f16::ZERO; 8];
        // SAFETY: the caller's contract; `len` < 8.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

impl Widen<bf16> for Avx2F32 {
    #[inline(always)]
    unsafe fn widen(from: *const bf16) -> __m256 {
        // SAFETY: the caller's contract. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn widen_partial(from: *const bf16, len: usize) -> __m256 {
        let mut padded = [bf16::ZERO; 8];
        // SAFETY: the caller's contract; `len` < 8.
        unsafe {
            std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), len);
            Self::widen(padded.as_ptr())
        }
    }
}

arithmetic!(ARITHMETIC_F32, Avx2F32, ["avx2,fma,f16c"]);
arithmetic!(ARITHMETIC_F64, Avx2F64, ["avx2,fma,f16c"]);
table!(F32, f32, Avx2F32, ["avx2,fma,f16c"], ARITHMETIC_F32, "x86_64-f32-avx2-6x16");
table!(F64, f64, Avx2F64, ["avx2,fma,f16c"], ARITHMETIC_F64, "x86_64-f64-avx2-6x8");
table!(F16, f16, Avx2F32, ["avx2,fma,f16c"], ARITHMETIC_F32, "x86_64-f16-avx2-6x16");
table!(BF16, bf16, Avx2F32, ["avx2,fma,f16c"], ARITHMETIC_F32, "x86_64-bf16-avx2-6x16");

// f32 in two parts of tf32, to be multiplied on tensor cores by what tf32 holds exactly: f16 and bf16.
//
// q of f32 must not be rounded to 16 bits, an error of 2⁻¹² or 2⁻⁹, and f16 has not its range. tf32 has 11 bits and the
// exponents of f32. q is hi + lo/2¹¹:
//
//   hi   the nearest tf32: |q − hi| is at most 2⁻¹¹ of q's power of two
//   lo   (q − hi)·2¹¹ to the nearest tf32, which is as large as q where q is small: nothing of it underflows
//
// q − hi has at most 12 bits, so |q − hi − lo/2¹¹| ≤ 2⁻²³|q|: two roundings of f32. The products are exact in f32. hi and
// lo have sums of their own, so that no sum has more terms than the depth, and are added at the end, one rounding more.
// Where hi's sum is infinite or no number, so is the result: 0·∞ of lo does not count.
#pragma once
#include "mma_tile.cuh"

__device__ __forceinline__ void split(float q, uint32_t& hi, uint32_t& lo) {
    constexpr uint32_t EXPONENT = 0x7f800000, LEADING = 0xffffe000;
    uint32_t bits = __float_as_uint(q);
    hi = tf32(bits);
    // Infinite, no number, or so large that rounding would make it infinite: cut.
    bool cut = (hi & EXPONENT) == EXPONENT;
    if (cut) hi = bits & LEADING;
    float rest = (bits & ~0x80000000) == EXPONENT ? 0 : (q - __uint_as_float(hi)) * 2048;
    lo = cut ? __float_as_uint(rest) & LEADING : tf32(__float_as_uint(rest));
}

template <int ROWS, int COLUMNS>
__device__ __forceinline__ void add_low(float (&sums)[ROWS][COLUMNS], const float (&low)[ROWS][COLUMNS]) {
#pragma unroll
    for (int m = 0; m < ROWS; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
            if (fabsf(sums[m][n]) < __uint_as_float(0x7f800000))
                sums[m][n] = fmaf(low[m][n], 1.0f / 2048, sums[m][n]);
}

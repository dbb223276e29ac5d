// Intrinsics of NVIDIA's cuda_fp16.h and cuda_bf16.h.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Nine results of each pair: sum, product, fused multiply-add, negated difference, smaller, larger, comparison, relu'd
// fused multiply-add, absolute value.
template <typename Two>
__device__ void arithmetic(const Two* x, const Two* y, const Two* z, Two* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const Two a = x[i], b = y[i], c = z[i];
    out[i] = __hadd2_rn(a, b);
    out[n + i] = __hmul2_rn(a, b);
    out[2 * n + i] = __hfma2(a, b, c);
    out[3 * n + i] = __hneg2(__hsub2(a, b));
    out[4 * n + i] = __hmin2(a, b);
    out[5 * n + i] = __hmax2(a, b);
    out[6 * n + i] = __hlt2(a, b);
    out[7 * n + i] = __hfma2_relu(a, b, c);
    out[8 * n + i] = __habs2(a);
}

extern "C" __global__ void half_arithmetic(const half2* x, const half2* y, const half2* z, half2* out, int n) {
    arithmetic(x, y, z, out, n);
}

extern "C" __global__ void bfloat_arithmetic(
    const __nv_bfloat162* x, const __nv_bfloat162* y, const __nv_bfloat162* z, __nv_bfloat162* out, int n) {
    arithmetic(x, y, z, out, n);
}

// Roundings of f32 to f16 and bf16, and of f16 to integers; each result widened.
extern "C" __global__ void half_conversions(const float* x, float* to_half, float* to_bfloat, int* to_int, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    to_half[i] = __half2float(__float2half_rn(x[i]));
    to_half[n + i] = __half2float(__float2half_rz(x[i]));
    to_half[2 * n + i] = __half2float(__float2half_ru(x[i]));
    to_half[3 * n + i] = __half2float(__float2half_rd(x[i]));
    to_bfloat[i] = __bfloat162float(__float2bfloat16_rn(x[i]));
    to_bfloat[n + i] = __bfloat162float(__float2bfloat16_rz(x[i]));
    const half h = __float2half_rn(x[i]);
    to_int[i] = __half2int_rn(h);
    to_int[n + i] = __half2int_rz(h);
    to_int[2 * n + i] = __half2int_rd(h);
    to_int[3 * n + i] = __half2int_ru(h);
}

// Functions that go through f32 approximations.
extern "C" __global__ void half_functions(const half* x, half* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = hsqrt(x[i]);
    out[n + i] = hexp(x[i]);
    out[2 * n + i] = hlog(x[i]);
    out[3 * n + i] = hrcp(x[i]);
    out[4 * n + i] = hrsqrt(x[i]);
    out[5 * n + i] = htanh(x[i]);
}

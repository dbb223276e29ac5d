// Matrix products by NVIDIA's mma.h: one warp computes C (16m x 16n) = A (row-major) B (column-major), tile by tile.

#include <mma.h>
#include <cuda_bf16.h>

using namespace nvcuda;

template <typename T, typename Fragment, typename Out, int M, int N, int K>
__device__ void product(const T* a, const T* b, Out* c, int n, int depth) {
    const int row = blockIdx.y * M, column = blockIdx.x * N;
    wmma::fragment<wmma::matrix_a, M, N, K, Fragment, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, M, N, K, Fragment, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, M, N, K, Out> sums;
    wmma::fill_fragment(sums, Out(0));
    for (int k = 0; k < depth; k += K) {
        wmma::load_matrix_sync(left, a + row * depth + k, depth);
        wmma::load_matrix_sync(right, b + column * depth + k, depth);
        wmma::mma_sync(sums, left, right, sums);
    }
    wmma::store_matrix_sync(c + row * n + column, sums, n, wmma::mem_row_major);
}

extern "C" __global__ void wmma_f16(const half* a, const half* b, float* c, int n, int depth) {
    product<half, half, float, 16, 16, 16>(a, b, c, n, depth);
}

extern "C" __global__ void wmma_f16_f16(const half* a, const half* b, half* c, int n, int depth) {
    product<half, half, half, 32, 8, 16>(a, b, c, n, depth);
}

extern "C" __global__ void wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int depth) {
    product<__nv_bfloat16, __nv_bfloat16, float, 8, 32, 16>(a, b, c, n, depth);
}

extern "C" __global__ void wmma_tf32(const float* a, const float* b, float* c, int n, int depth) {
    product<float, wmma::precision::tf32, float, 16, 16, 8>(a, b, c, n, depth);
}

extern "C" __global__ void wmma_f64(const double* a, const double* b, double* c, int n, int depth) {
    product<double, double, double, 8, 8, 4>(a, b, c, n, depth);
}

extern "C" __global__ void wmma_s8(const signed char* a, const signed char* b, int* c, int n, int depth) {
    product<signed char, signed char, int, 16, 16, 16>(a, b, c, n, depth);
}

// Through shared memory, with every layout turned around, and a scaled accumulator.
extern "C" __global__ void wmma_shared(const half* a, const half* b, float* c, int n, int depth) {
    __shared__ half left_tile[16 * 24], right_tile[16 * 24];
    __shared__ float out_tile[16 * 20];
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::col_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::fill_fragment(sums, 0.0f);
    for (int k = 0; k < depth; k += 16) {
        for (int i = threadIdx.x; i < 256; i += 32) {
            left_tile[(i % 16) * 24 + i / 16] = a[(blockIdx.y * 16 + i / 16) * depth + k + i % 16];
            right_tile[(i % 16) * 24 + i / 16] = b[(blockIdx.x * 16 + i / 16) * depth + k + i % 16];
        }
        __syncwarp();
        wmma::load_matrix_sync(left, left_tile, 24);
        wmma::load_matrix_sync(right, right_tile, 24);
        wmma::mma_sync(sums, left, right, sums);
        __syncwarp();
    }
    for (int i = 0; i < sums.num_elements; ++i) sums.x[i] *= 2.0f;
    wmma::store_matrix_sync(out_tile, sums, 20, wmma::mem_col_major);
    __syncwarp();
    for (int i = threadIdx.x; i < 256; i += 32)
        c[(blockIdx.y * 16 + i / 16) * n + blockIdx.x * 16 + i % 16] = out_tile[(i % 16) * 20 + i / 16];
}

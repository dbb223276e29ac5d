// Tensor cores: mma.sync on fragments that ldmatrix reads from shared memory, f32 accumulators.
//
// A step of depth is 32 bytes of a row: 16 elements of f16 or bf16 (m16n8k16; on compute capability 7.5 two m16n8k8),
// 8 of tf32 (m16n8k8). Whatever the type, the four 8×16-byte matrices of a 16×32-byte tile are the registers of
// operand A in their order, and the two of an 8×32-byte tile those of B, so one addressing serves all.
#pragma once
#include <cstdint>

#include "problem.cuh"

enum class Kind { F16, BF16, TF32 };

template <Kind KIND>
constexpr int ELEMENT = KIND == Kind::TF32 ? 4 : 2;  // bytes

__device__ __forceinline__ uint32_t shared_address(const void* at) { return uint32_t(__cvta_generic_to_shared(at)); }

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// To nearest, ties away from zero: an mma would cut the 13 low bits off.
__device__ __forceinline__ uint32_t tf32(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}

// d += a·b for one step of depth. d: two adjacent lanes of a row, and of the row eight further.
template <Kind KIND>
__device__ __forceinline__ void mma(float* upper, float* lower, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
#define MMA(SHAPE)                                                                                            \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
    if (KIND == Kind::F16)
        MMA("m16n8k16.row.col.f32.f16.f16.f32");
    else if (KIND == Kind::BF16)
        MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
    else
        MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#undef MMA
#else
    static_assert(KIND == Kind::F16, "the only one of compute capability 7.5");
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#if __CUDA_ARCH__ >= 800
// BYTES (4, 8 or 16) to shared memory, of which the first `count` are read and the others are zeros.
template <int BYTES>
__device__ __forceinline__ void copy_async(uint32_t to, const char* from, int count) {
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(count)
                     : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the LATEST groups have arrived.
template <int LATEST>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
}
#endif

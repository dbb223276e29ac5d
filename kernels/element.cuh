// Loads, conversions and stores of single elements and of 16-byte groups. The accumulator's type T is float, which
// reads f32, f16 and bf16, or double, which reads f64. The element type is known at run time, and the same for all
// threads.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "problem.cuh"

// Elements of T in 16 bytes: one vector access.
template <class T>
constexpr int VECTOR = 16 / sizeof(T);

__device__ __forceinline__ int element_shift(Type type) {  // log2 of the size in bytes
    return type == F64 ? 3 : type == F32 ? 2 : 1;
}

// VECTOR<T> elements as they lie in memory: f32 and f64 take all of it, f16 and bf16 the first two words. They are
// converted when they are stored to shared memory, so that a load is not waited for where it is issued.
template <class T>
struct Raw;

template <>
struct Raw<float> {
    uint32_t word[4];

    __device__ __forceinline__ void zero() {
        for (int e = 0; e < 4; e++) word[e] = 0;
    }
    // All four from one aligned address.
    __device__ __forceinline__ void load_vector(const char* from, Type type) {
        if (type == F32) {
            uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
            word[0] = bits.x, word[1] = bits.y, word[2] = bits.z, word[3] = bits.w;
        } else {
            uint2 bits = __ldg(reinterpret_cast<const uint2*>(from));
            word[0] = bits.x, word[1] = bits.y;
        }
    }
    // The first `count` of them, `step` bytes apart; the others stay.
    __device__ __forceinline__ void load_scalars(const char* from, int64_t step, int count, Type type) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (e < count) load_into(e, from + e * step, type);
    }
    __device__ __forceinline__ void one(Type type) {
        for (int e = 0; e < 4; e++) word[e] = type == F32 ? 0x3f800000 : type == F16 ? 0x3c003c00 : 0x3f803f80;
    }
    // A single one, as element e; the others stay.
    __device__ __forceinline__ void load_into(int e, const char* from, Type type) {
        if (type == F32) {
            word[e] = __ldg(reinterpret_cast<const uint32_t*>(from));
        } else {
            uint32_t bits = __ldg(reinterpret_cast<const uint16_t*>(from));
            word[e / 2] |= e % 2 ? bits << 16 : bits;
        }
    }
    // One of them, for all four.
    __device__ __forceinline__ void load_one(const char* from, Type type) {
        uint32_t bits = type == F32 ? __ldg(reinterpret_cast<const uint32_t*>(from))
                                    : __ldg(reinterpret_cast<const uint16_t*>(from)) * 0x10001u;
        for (int e = 0; e < 4; e++) word[e] = bits;
    }
    __device__ __forceinline__ void convert(float (&to)[4], Type type) const {
        if (type == F32) {
#pragma unroll
            for (int e = 0; e < 4; e++) to[e] = __uint_as_float(word[e]);
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint16_t bits = e % 2 ? word[e / 2] >> 16 : word[e / 2] & 0xffff;
                to[e] = type == F16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(uint32_t(bits) << 16);
            }
        }
    }
};

template <>
struct Raw<double> {
    double value[2];

    __device__ __forceinline__ void zero() { value[0] = value[1] = 0; }
    __device__ __forceinline__ void one(Type) { value[0] = value[1] = 1; }
    __device__ __forceinline__ void load_vector(const char* from, Type) {
        double2 both = __ldg(reinterpret_cast<const double2*>(from));
        value[0] = both.x, value[1] = both.y;
    }
    __device__ __forceinline__ void load_into(int e, const char* from, Type) {
        value[e] = __ldg(reinterpret_cast<const double*>(from));
    }
    __device__ __forceinline__ void load_scalars(const char* from, int64_t step, int count, Type type) {
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (e < count) load_into(e, from + e * step, type);
    }
    __device__ __forceinline__ void load_one(const char* from, Type) {
        value[0] = value[1] = __ldg(reinterpret_cast<const double*>(from));
    }
    __device__ __forceinline__ void convert(double (&to)[2], Type) const { to[0] = value[0], to[1] = value[1]; }
};

// One element, its index counted in elements.
__device__ __forceinline__ float load_element(const void* base, int64_t index, Type type, float) {
    if (type == F32) return __ldg(static_cast<const float*>(base) + index);
    uint16_t bits = __ldg(static_cast<const uint16_t*>(base) + index);
    return type == F16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(uint32_t(bits) << 16);
}
__device__ __forceinline__ double load_element(const void* base, int64_t index, Type, double) {
    return __ldg(static_cast<const double*>(base) + index);
}

// A vector of T in shared or global memory.
template <class T>
__device__ __forceinline__ void load_vector(T (&to)[VECTOR<T>], const T* from);
template <>
__device__ __forceinline__ void load_vector(float (&to)[4], const float* from) {
    float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
template <>
__device__ __forceinline__ void load_vector(double (&to)[2], const double* from) {
    double2 v = *reinterpret_cast<const double2*>(from);
    to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ void store_vector(float* to, const float (&v)[4]) {
    *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store_vector(double* to, const double (&v)[2]) {
    *reinterpret_cast<double2*>(to) = make_double2(v[0], v[1]);
}

// To shared memory, as one access: the compiler would at times make four of it, whose banks collide.
__device__ __forceinline__ void store_shared(float* to, const float (&v)[4]) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}
__device__ __forceinline__ void store_shared(double* to, const double (&v)[2]) {
    uint32_t at = uint32_t(__cvta_generic_to_shared(to));
    asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(at), "d"(v[0]), "d"(v[1]) : "memory");
}

// Writes the first `count` of the W elements v, `stride` elements apart, rounded once to the output's type (to nearest
// even). `add` adds what is there, in T, before rounding; without it the output is not read. `vectors`: stride 1, and
// aligned to W elements of the output's type.
template <class T, int W>
__device__ __forceinline__ void store_elements(void* base, int64_t index, int64_t stride, int count, Type type,
                                               bool add, bool vectors, T (&v)[W]) {
    bool whole = vectors && count >= W;
    if (sizeof(T) == 8 || type == F32) {
        T* to = static_cast<T*>(base) + index;
        if (add) {
#pragma unroll
            for (int e = 0; e < W; e++)
                if (e < count) v[e] += to[e * stride];
        }
        if (whole) {
            struct alignas(W * sizeof(T)) Vector {
                T e[W];
            } all;
#pragma unroll
            for (int e = 0; e < W; e++) all.e[e] = v[e];
            *reinterpret_cast<Vector*>(to) = all;
        } else {
#pragma unroll
            for (int e = 0; e < W; e++)
                if (e < count) to[e * stride] = v[e];
        }
    } else {
        uint16_t* to = static_cast<uint16_t*>(base) + index;
        struct alignas(W * 2) Vector {
            uint16_t e[W];
        } all;
#pragma unroll
        for (int e = 0; e < W; e++) {
            float value = v[e];
            if (add && e < count) {
                uint16_t old = to[e * stride];
                value += type == F16 ? __half2float(__ushort_as_half(old)) : __uint_as_float(uint32_t(old) << 16);
            }
            all.e[e] = type == F16 ? __half_as_ushort(__float2half_rn(value))
                                   : __bfloat16_as_ushort(__float2bfloat16_rn(value));
        }
        if (whole) {
            *reinterpret_cast<Vector*>(to) = all;
        } else {
#pragma unroll
            for (int e = 0; e < W; e++)
                if (e < count) to[e * stride] = all.e[e];
        }
    }
}

__device__ __forceinline__ bool aligned_for_vectors(const void* base, int shift, int vector) {
    return (reinterpret_cast<uintptr_t>(base) & ((vector << shift) - 1)) == 0;
}
__device__ __forceinline__ bool multiple(int64_t stride, int vector) { return (stride & (vector - 1)) == 0; }

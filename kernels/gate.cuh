// Products of components without a sum over them: diagonal cores, their gradients, and sums as they are stored.
//
//   gate    out[g][m][r] (+)= p[g][r] q[g][m][r] s[r] + c[g][m][r]
//   dgate   of_p[g][r] (+)= Σ_m d q s     of_q[g][m][r] (+)= d p s     h[g][m][r] = p q s     of_s[chunk][r] = Σ d p q
//
//   p [g][r], q, d, c, out [g][m][r], s [r]: any strides
//
// Bound by memory: each operand is read once, in vectors of 16 bytes where it is contiguous along r and aligned, and each
// result written once. A thread has W adjacent components of one row after the other; `lanes` threads have a row (or a tile
// of lanes·W components of it), so that a warp reads adjacent addresses, and THREADS/lanes rows are worked on at once. What
// is the same for all rows of a group, p and s, stays in registers.
//
// Sums. of_p is a sum of one thread over the rows of a part of a group; of several parts each leaves its own. of_s is the sum
// of a block over all of its rows, whose threads' sums are added up in shared memory, in pairs. A second stage (gram) adds
// up parts and blocks, in their order: no atomics.
//
//   shared, dgate:   sums [W][THREADS]
#pragma once
#include "element.cuh"
#include "gate_problem.cuh"

constexpr int THREADS = 256;

// The components of a thread, and its first row.
template <int W>
struct Strip {
    int64_t r, chunk;
    int count;  // components that exist, of W
    int lane, row;

    __device__ __forceinline__ explicit Strip(const Extent& e) {
        int64_t width = int64_t(e.lanes) * W, tiles = (e.r + width - 1) / width;
        chunk = blockIdx.x / tiles;
        lane = threadIdx.x & (e.lanes - 1), row = threadIdx.x / e.lanes;
        r = (blockIdx.x - chunk * tiles) * width + lane * W;
        count = e.r - r < W ? (e.r > r ? int(e.r - r) : 0) : W;
    }
    // use(group, part, first row m, end) of each part that is this thread's.
    template <class Use>
    __device__ __forceinline__ void each(const Extent& e, Use use) const {
        if (count == 0) return;
        int rows = THREADS / e.lanes;
        for (int64_t unit = chunk * rows + row; unit < e.groups * e.parts; unit += e.chunks * rows) {
            int64_t group = e.parts == 1 ? unit : unit / e.parts, part = unit - group * e.parts;
            int64_t first = part * e.rows, end = first + e.rows;
            use(group, part, first, end < e.each ? end : e.each);
        }
    }
};

// A plane as one thread sees it.
template <class T, int W>
struct Row {
    const Plane& of;
    int64_t r;
    bool vectors;

    __device__ __forceinline__ Row(const Plane& of, int64_t r) : of(of), r(r) {
        vectors = of.r == 1 && aligned_for_vectors(of.at, element_shift(of.type), W) && multiple(of.n.outer, W) &&
                  multiple(of.n.inner, W);
    }
    __device__ __forceinline__ bool is_there() const { return of.at != nullptr; }
    __device__ __forceinline__ int64_t index(int64_t group, int64_t m) const {
        return group * of.n.outer + m * of.n.inner + r * of.r;
    }
    __device__ __forceinline__ void load(T (&to)[W], int64_t group, int64_t m, int count) const {
        int64_t at = index(group, m);
        if (vectors && count == W) {
            const char* from = static_cast<const char*>(of.at) + (at << element_shift(of.type));
            if constexpr (sizeof(T) == 4 && W == 8) {
                if (of.type != F32) {
                    load_narrow(to, from);
                    return;
                }
            }
#pragma unroll
            for (int v = 0; v < W; v += VECTOR<T>) {
                Raw<T> raw;
                raw.load_vector(from + (int64_t(v) << element_shift(of.type)), of.type);
                T part[VECTOR<T>];
                raw.convert(part, of.type);
#pragma unroll
                for (int e = 0; e < VECTOR<T>; e++) to[v + e] = part[e];
            }
        } else {
#pragma unroll
            for (int e = 0; e < W; e++) to[e] = e < count ? load_element(of.at, at + e * of.r, of.type, T()) : T(0);
        }
    }
    // The same where there is something to load; else `absent`.
    __device__ __forceinline__ void load_or(T absent, T (&to)[W], int64_t group, int64_t m, int count) const {
        if (is_there()) {
            load(to, group, m, count);
        } else {
#pragma unroll
            for (int e = 0; e < W; e++) to[e] = absent;
        }
    }
    __device__ __forceinline__ void store(T (&v)[W], int64_t group, int64_t m, int count) const {
        if (is_there()) store_elements<T, W>(of.at, index(group, m), of.r, count, of.type, of.add, vectors, v);
    }

    // Eight of f16 or bf16 in 16 bytes.
    __device__ __forceinline__ void load_narrow(T (&to)[W], const char* from) const {
        uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
        const uint32_t word[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int e = 0; e < W; e++) {
            uint16_t half = e % 2 ? word[e / 2 % 4] >> 16 : word[e / 2 % 4] & 0xffff;
            to[e] = of.type == F16 ? __half2float(__ushort_as_half(half)) : __uint_as_float(uint32_t(half) << 16);
        }
    }
};

template <class T, int W>
__device__ __forceinline__ void run(const Gate& g) {
    using Row = Row<T, W>;
    const Strip<W> strip(g.extent);
    const int count = strip.count;
    const Row row_p(g.p, strip.r), row_q(g.q, strip.r), row_c(g.c, strip.r), row_s(g.s, strip.r), out(g.out, strip.r);
    T s[W];
    row_s.load_or(1, s, 0, 0, count);
    strip.each(g.extent, [&](int64_t group, int64_t, int64_t first, int64_t end) {
        T p[W];
        row_p.load_or(1, p, group, 0, count);
#pragma unroll
        for (int e = 0; e < W; e++) p[e] *= s[e];
        for (int64_t m = first; m < end; m++) {
            T q[W], v[W];
            row_q.load_or(1, q, group, m, count);
            row_c.load_or(0, v, group, m, count);
#pragma unroll
            for (int e = 0; e < W; e++) v[e] = fma(p[e], q[e], v[e]);
            out.store(v, group, m, count);
        }
    });
}

template <class T, int W>
__device__ __forceinline__ void run(const GateBack& g) {
    using Row = Row<T, W>;
    const Strip<W> strip(g.extent);
    const int count = strip.count;
    const Row row_p(g.p, strip.r), row_q(g.q, strip.r), row_d(g.d, strip.r), row_s(g.s, strip.r);
    T s[W], of_s[W];
    row_s.load_or(1, s, 0, 0, count);
#pragma unroll
    for (int e = 0; e < W; e++) of_s[e] = 0;
    strip.each(g.extent, [&](int64_t group, int64_t part, int64_t first, int64_t end) {
        T p[W], of_p[W];
        row_p.load_or(1, p, group, 0, count);
#pragma unroll
        for (int e = 0; e < W; e++) of_p[e] = 0;
        for (int64_t m = first; m < end; m++) {
            T q[W], d[W], v[W];
            row_q.load_or(1, q, group, m, count);
            row_d.load_or(1, d, group, m, count);
#pragma unroll
            for (int e = 0; e < W; e++) {
                of_p[e] = fma(d[e] * q[e], s[e], of_p[e]);
                of_s[e] = fma(d[e] * p[e], q[e], of_s[e]);
                v[e] = p[e] * q[e] * s[e];
            }
            Row(g.h, strip.r).store(v, group, m, count);
#pragma unroll
            for (int to = 0; to < 2; to++) {
#pragma unroll
                for (int e = 0; e < W; e++) v[e] = d[e] * p[e] * s[e];
                Row(g.of_q[to], strip.r).store(v, group, m, count);
            }
        }
#pragma unroll
        for (int to = 0; to < 2; to++) {
            T v[W];
#pragma unroll
            for (int e = 0; e < W; e++) v[e] = of_p[e];
            Row(g.of_p[to], strip.r).store(v, group, part, count);
        }
    });
    if (g.of_s.at == nullptr) return;
    __shared__ T sums[W][THREADS];
#pragma unroll
    for (int e = 0; e < W; e++) sums[e][threadIdx.x] = of_s[e];
    for (int half = THREADS / 2; half >= g.extent.lanes; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
#pragma unroll
            for (int e = 0; e < W; e++) sums[e][threadIdx.x] += sums[e][threadIdx.x + half];
        }
    }
    if (threadIdx.x < g.extent.lanes && count > 0) {
#pragma unroll
        for (int e = 0; e < W; e++) of_s[e] = sums[e][threadIdx.x];
        Row(g.of_s, strip.r).store(of_s, strip.chunk, 0, count);
    }
}

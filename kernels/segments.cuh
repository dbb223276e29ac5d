// What all contractions do apart from multiplying: the scales p, the segments, bias and output.
#pragma once
#include "place.cuh"
#include "stage.cuh"

__device__ __forceinline__ const void* shifted(const void* base, int64_t offset, Type type) {
    return static_cast<const char*>(base) + offset * (int64_t(1) << element_shift(type));
}

// The rows' p for SCALES slices at once, in shared memory, twice: [2][SCALES][PITCH]. SCALES elements of f32 are the
// 32-byte sector that one of them brings along; the pitch spreads SCALES × 4 rows over all banks.
constexpr int SCALES = 8;

template <class T, int BM, int THREADS>
struct Scales {
    static constexpr int PITCH = BM + VECTOR<T>, SIZE = 2 * SCALES * PITCH, LOADS = SCALES * BM / THREADS;
    static_assert(LOADS * THREADS == SCALES * BM, "every thread loads the same number of scales");
    T raw[LOADS];

    // For the slices from `slice`, a multiple of SCALES or the first of the block.
    __device__ __forceinline__ void load(const Contract& c, const Segment& s, const Place& place, uint32_t slice) {
        int64_t b = slice / SCALES * SCALES + threadIdx.x % SCALES;
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int64_t row = place.first_row + (threadIdx.x + l * THREADS) / SCALES;
            raw[l] = 0;
            if (row < c.n && b < s.slices)
                raw[l] = load_element(s.p, row_offset(row, c.per, c.n, s.p_n) + b * s.p_b + place.batch * s.p_batch,
                                      s.p_type, T());
        }
    }
    __device__ __forceinline__ void store(T* shared, uint32_t slice) const {
        T* to = shared + (slice / SCALES & 1) * (SCALES * PITCH) + threadIdx.x % SCALES * PITCH;
#pragma unroll
        for (int l = 0; l < LOADS; l++) to[(threadIdx.x + l * THREADS) / SCALES] = raw[l];
    }
    // Of one slice: [row].
    __device__ static __forceinline__ const T* at(const T* shared, uint32_t slice) {
        return shared + (slice / SCALES & 1) * (SCALES * PITCH) + slice % SCALES * PITCH;
    }
};

// A tile's segments, which it adds to its sums by `segment`.
template <class Tile>
__device__ __forceinline__ void sum_segments(Tile& tile, const Contract& c, const Place& place) {
    int64_t before = 0;
    for (int s = 0; s < c.segments; s++) {
        const Segment& part = c.segment[s];
        int64_t steps = (part.depth + Tile::BK - 1) / Tile::BK, all_steps = steps * part.slices;
        int64_t from = place.lo > before ? place.lo - before : 0;
        int64_t to = place.hi - before < all_steps ? place.hi - before : all_steps;
        if (from < to) tile.segment(c, part, place, from, to, steps);
        before += all_steps;
    }
}

// Adds the bias and writes count ≤ W adjacent lanes of a row, if there are any; `vectors`: W elements of the output are
// aligned there.
template <class T, int W>
__device__ __forceinline__ void write(const Contract& c, const Place& place, int64_t row, int64_t lane, bool vectors,
                                      T (&v)[W]) {
    if (row >= c.n) return;
    int64_t out = row_offset(row, c.per, c.n, c.out_n) + place.batch * c.out_batch + lane * c.out_a;
    int count = c.lanes - lane < W ? int(c.lanes - lane) : W;
    if (c.bias) {
        int64_t bias = row_offset(row, c.per, c.n, c.bias_n) + place.batch * c.bias_batch + lane * c.bias_a;
#pragma unroll
        for (int e = 0; e < W; e++)
            if (e < count) v[e] += load_element(c.bias, bias + e * c.bias_a, c.bias_type, T());
    }
    store_elements<T, W>(c.out, out, c.out_a, count, c.out_type, c.add, vectors, v);
}

template <int W>
__device__ __forceinline__ bool output_vectors(const Contract& c) {
    bool grouped = c.per < c.n;
    return c.out_a == 1 && aligned_for_vectors(c.out, element_shift(c.out_type), W) && multiple(c.out_n.inner, W) &&
           multiple(c.out_batch, W) && (!grouped || multiple(c.out_n.outer, W));
}

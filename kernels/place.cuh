// What a block works on, and what all contractions do apart from multiplying.
#pragma once
#include "stage.cuh"
#include "sums.cuh"

// It lies in shared memory, so as not to take registers during the inner loop.
struct Place {
    int64_t first_n, first_a, batch, tile, tiles;
    int64_t lo, hi;  // of all steps of all segments
    int problem, split;

    template <int BM, int BN, int BK>
    __device__ __forceinline__ void find(const Contracts& all) {
        int64_t block = blockIdx.x;
        problem = 0;
        while (problem + 1 < all.count && block >= all.blocks[problem]) problem++;
        if (problem) block -= all.blocks[problem - 1];
        const Contract& c = all.problem[problem];
        int64_t tiles_n = (c.n + BM - 1) / BM, tiles_a = (c.lanes + BN - 1) / BN;
        tiles = tiles_n * tiles_a * c.batches;
        tile = block / c.splits;
        split = int(block - tile * c.splits);
        // Tiles of the same lanes follow each other: they share w, the larger operand, in the second-level cache.
        int64_t rest = tile / tiles_n;
        first_n = (tile - rest * tiles_n) * BM;
        batch = rest / tiles_a;
        first_a = (rest - batch * tiles_a) * BN;
        int64_t total = 0;
        for (int s = 0; s < c.segments; s++) total += c.segment[s].slices * ((c.segment[s].depth + BK - 1) / BK);
        lo = total * split / c.splits, hi = total * (split + 1) / c.splits;
    }
};

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
            int64_t row = place.first_n + (threadIdx.x + l * THREADS) / SCALES;
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

// Runs a tile's segments; the tile adds them to its sums by `segment`.
template <class Tile>
__device__ __forceinline__ void run_segments(Tile& tile, const Contract& c, const Place& place) {
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

// Adds the bias and writes count ≤ W adjacent lanes of a row; `vectors`: W elements of the output are aligned there.
template <class T, int W>
__device__ __forceinline__ void write_lanes(const Contract& c, const Place& place, int64_t row, int64_t lane,
                                            bool vectors, T (&v)[W]) {
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

// Whether W adjacent lanes of the output lie together, aligned to their size, in every row.
template <int W>
__device__ __forceinline__ bool output_vectors(const Contract& c) {
    bool grouped = c.per < c.n;
    return c.out_a == 1 && aligned_for_vectors(c.out, element_shift(c.out_type), W) && multiple(c.out_n.inner, W) &&
           multiple(c.out_batch, W) && (!grouped || multiple(c.out_n.outer, W));
}

// What a block works on, and the frame of its work: contractions and sums over the batch differ in what they sum, and in
// how a result is found and written.
#pragma once
#include "sums.cuh"

// Rows and lanes of a problem's results, and the steps of its depth.
__device__ __forceinline__ int64_t rows_of(const Contract& c) { return c.n; }
__device__ __forceinline__ int64_t lanes_of(const Contract& c) { return c.lanes; }
template <int BK>
__device__ __forceinline__ int64_t steps_of(const Contract& c) {
    int64_t steps = 0;
    for (int s = 0; s < c.segments; s++) steps += c.segment[s].slices * ((c.segment[s].depth + BK - 1) / BK);
    return steps;
}
__device__ __forceinline__ int64_t rows_of(const Gram& g) { return g.k * g.i; }
__device__ __forceinline__ int64_t lanes_of(const Gram& g) { return g.j; }
template <int BK>
__device__ __forceinline__ int64_t steps_of(const Gram& g) {
    return (g.n + BK - 1) / BK;
}

// It lies in shared memory, so as not to take registers during the inner loop.
struct Place {
    int64_t first_row, first_lane, batch, tile, tiles;
    int64_t lo, hi;  // of the problem's steps
    int problem, split;

    // Of Contracts or Grams.
    template <int BM, int BN, int BK, class Problems>
    __device__ __forceinline__ void find(const Problems& all) {
        int64_t block = blockIdx.x;
        problem = 0;
        while (problem + 1 < all.count && block >= all.blocks[problem]) problem++;
        if (problem) block -= all.blocks[problem - 1];
        const auto& p = all.problem[problem];
        int64_t tiles_n = (rows_of(p) + BM - 1) / BM, tiles_a = (lanes_of(p) + BN - 1) / BN;
        tiles = tiles_n * tiles_a * p.batches;
        tile = block / p.splits;
        split = int(block - tile * p.splits);
        // Tiles of the same lanes follow each other: they share w, the larger operand, in the second-level cache.
        int64_t rest = tile / tiles_n;
        first_row = (tile - rest * tiles_n) * BM;
        batch = rest / tiles_a;
        first_lane = (rest - batch * tiles_a) * BN;
        int64_t steps = steps_of<BK>(p);
        lo = steps * split / p.splits, hi = steps * (split + 1) / p.splits;
    }
};

// Whether W adjacent lanes of the output lie together, aligned to their size, in every row.
template <int W>
__device__ __forceinline__ bool output_vectors(const Contract& c);
template <int W>
__device__ __forceinline__ bool output_vectors(const Gram& g);

// A block's work on one tile: its sums, those of the other blocks where its depth is cut, its results.
template <class Tile, class Problems>
__device__ __forceinline__ void run(const Problems& all) {
    extern __shared__ __align__(128) unsigned char dynamic[];
    __shared__ Place place;
    if (threadIdx.x == 0) place.find<Tile::BM, Tile::BN, Tile::BK>(all);
    __syncthreads();
    const auto& problem = all.problem[place.problem];
    Tile tile;
    zero(tile.sums);
    tile.sum(problem, place, dynamic);
    if (problem.splits > 1 && !sum_splits<Tile::COUNT>(tile.sums, problem.partial, problem.arrived, place.tile,
                                                       place.tiles, place.split, problem.splits))
        return;
    constexpr int W = Tile::Grid::WRITTEN;
    bool vectors = output_vectors<W>(problem);
    for_each_vector(tile.grid, tile.sums, [&](int row, int lane, auto& v) {
        write(problem, place, place.first_row + row, place.first_lane + lane, vectors, v);
    });
}

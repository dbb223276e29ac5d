// A tile's sums in registers, and the second stage where a depth is cut.
#pragma once
#include "element.cuh"

template <class T, int TM, int TN>
__device__ __forceinline__ void zero(T (&t)[TM][TN]) {
#pragma unroll
    for (int m = 0; m < TM; m++)
#pragma unroll
        for (int n = 0; n < TN; n++) t[m][n] = 0;
}

// Row 0 leaves, the others move up: a loop over rows then has one body, not one a row, for what is done once a tile.
template <class T, int TM, int TN>
__device__ __forceinline__ void next_row(T (&t)[TM][TN]) {
#pragma unroll
    for (int m = 0; m + 1 < TM; m++)
#pragma unroll
        for (int n = 0; n < TN; n++) t[m][n] = t[m + 1][n];
}

// The sums of a thread, row by row, in vectors of adjacent lanes as they are written: use(row, lane, v). `Grid` says where
// they lie.
template <class Grid, class T, int ROWS, int COLUMNS, class Use>
__device__ __forceinline__ void for_each_vector(const Grid& grid, T (&t)[ROWS][COLUMNS], Use use) {
    constexpr int W = Grid::WRITTEN;
#pragma unroll 1
    for (int row = 0; row < ROWS; row++, next_row(t)) {
#pragma unroll
        for (int l = 0; l < COLUMNS / W; l++) {
            T v[W];
#pragma unroll
            for (int e = 0; e < W; e++) v[e] = t[0][l * W + e];
            grid.join(v);
            use(grid.row(row), grid.written_lane(l), v);
        }
    }
}

// The second stage of a depth that is cut into `splits`: every block leaves its sums in partial[split][tile], and the
// block that arrives last adds them up, in the order of the splits: the same bits whichever block that is. No float is
// added to atomically; the one atomic counts arrivals. Each thread reads back what the same thread of other blocks
// wrote; its own it still has.
//
// False: another block will finish this tile. SIZE: accumulators of a tile.
template <int THREADS, class T, int ROWS, int COLUMNS>
__device__ __forceinline__ bool sum_splits(T (&tile_sums)[ROWS][COLUMNS], void* partial, uint32_t* arrived,
                                           int64_t tile, int64_t tiles, int split, int splits) {
    constexpr int V = VECTOR<T>, COUNT = ROWS * COLUMNS;
    T(&sums)[COUNT] = reinterpret_cast<T(&)[COUNT]>(tile_sums);
    static_assert(COUNT % V == 0, "whole vectors");
    constexpr int64_t SIZE = int64_t(THREADS) * COUNT;
    T* mine = static_cast<T*>(partial) + threadIdx.x * V;
    T* to = mine + (split * tiles + tile) * SIZE;
#pragma unroll
    for (int e = 0; e < COUNT / V; e++) {
        T v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = sums[e * V + i];
        store_vector(to + e * V * THREADS, v);
    }
    __threadfence();
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(arrived + tile, 1u) == uint32_t(splits - 1);
    __syncthreads();
    if (!last) return false;
    __threadfence();
    T own[COUNT];
#pragma unroll
    for (int e = 0; e < COUNT; e++) own[e] = sums[e], sums[e] = 0;
    for (int s = 0; s < splits; s++) {
        const T* from = mine + (s * tiles + tile) * SIZE;
#pragma unroll
        for (int e = 0; e < COUNT / V; e++) {
            T v[V];
            if (s == split) {
#pragma unroll
                for (int i = 0; i < V; i++) v[i] = own[e * V + i];
            } else {
                load_vector(v, from + e * V * THREADS);
            }
#pragma unroll
            for (int i = 0; i < V; i++) sums[e * V + i] += v[i];
        }
    }
    if (threadIdx.x == 0) arrived[tile] = 0;
    return true;
}

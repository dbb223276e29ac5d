// Copies of rows that an index chooses: of the rows of a batch those of one layer after those of another, and back.
//
//   gather    to[n][c] = from[index[n]][c]          scatter    to[index[n]][c] (+)= from[n][c]
//
//   from, to: any strides, of one type; no row is in `index` twice
//
// A block of 8 warps copies a tile of 8 rows by 1024 elements, each warp a row, in vectors of 16 bytes where both sides are
// contiguous and aligned for them. What is added to is f32 or f64.
#pragma once
#include "element.cuh"

struct RowCopy {
    int64_t n, columns;
    const int64_t* index;  // [n]
    const void* from;
    int64_t from_row, from_column;
    void* to;
    int64_t to_row, to_column;
    Type type;
    int32_t scatter;  // 1: `index` is of the rows of `to`, 0: of those of `from`
    int32_t add;      // 1: `to` is read and added to
    int32_t pad;
};

// Several in one launch. Blocks 0..blocks[0] work on copy 0, the next up to blocks[1] on copy 1, …
constexpr int COPIES = 3;
struct Copies {
    RowCopy copy[COPIES];
    int64_t blocks[COPIES];  // running sums
    int32_t count, pad;
};

constexpr int COPY_ROWS = 8, COPY_COLUMNS = 1024;

template <class E>
__device__ __forceinline__ void copy_element(const RowCopy& c, int64_t from, int64_t to) {
    static_cast<E*>(c.to)[to] = __ldg(static_cast<const E*>(c.from) + from);
}
template <class T>
__device__ __forceinline__ void add_element(const RowCopy& c, int64_t from, int64_t to) {
    static_cast<T*>(c.to)[to] += __ldg(static_cast<const T*>(c.from) + from);
}

__device__ __forceinline__ void run(const Copies& all) {
    int64_t block = blockIdx.x;
    int which = 0;
    while (which + 1 < all.count && block >= all.blocks[which]) which++;
    if (which) block -= all.blocks[which - 1];
    const RowCopy& c = all.copy[which];
    int64_t tiles_n = (c.n + COPY_ROWS - 1) / COPY_ROWS, tile = block / tiles_n;
    int64_t n = (block - tile * tiles_n) * COPY_ROWS + threadIdx.x / 32;
    if (n >= c.n) return;
    int lane = threadIdx.x % 32;
    int64_t first = tile * COPY_COLUMNS, last = c.columns - first < COPY_COLUMNS ? c.columns : first + COPY_COLUMNS;
    int64_t chosen = __ldg(c.index + n);
    int64_t from = (c.scatter ? n : chosen) * c.from_row, to = (c.scatter ? chosen : n) * c.to_row;
    int shift = element_shift(c.type), vector = 16 >> shift;
    bool vectors = !c.add && c.from_column == 1 && c.to_column == 1 && multiple(c.from_row, vector) &&
                   multiple(c.to_row, vector) && aligned_for_vectors(c.from, 0, 16) && aligned_for_vectors(c.to, 0, 16);
    int64_t at = first;
    if (vectors) {
        int64_t whole = first + (last - first) / vector * vector;
        for (at = first + lane * vector; at < whole; at += 32 * vector)
            static_cast<uint4*>(c.to)[(to + at) / vector] =
                __ldg(static_cast<const uint4*>(c.from) + (from + at) / vector);
        at = whole;
    }
    for (at += lane; at < last; at += 32) {
        int64_t source = from + at * c.from_column, target = to + at * c.to_column;
        if (c.add && shift == 3)
            add_element<double>(c, source, target);
        else if (c.add)
            add_element<float>(c, source, target);
        else if (shift == 3)
            copy_element<unsigned long long>(c, source, target);
        else if (shift == 2)
            copy_element<unsigned>(c, source, target);
        else
            copy_element<unsigned short>(c, source, target);
    }
}

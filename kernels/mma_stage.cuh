// Staging of a tile of an operand, [rows][c], for ldmatrix, in steps of 64 bytes of c. Two layouts in shared memory:
//
//   along c      [row][64 bytes], the four 16-byte chunks of a row exchanged by its number, so that the eight rows
//                that one 8×16-byte matrix takes from one column of chunks fall into eight different bank groups:
//
//                    row 0   0 1 2 3 | row 1   0 1 2 3        chunk c of row r at r·64 + 16·(c ^ (r/2 mod 4))
//                    row 2   1 0 3 2 | row 3   1 0 3 2        (a line: 128 bytes, all banks)
//                    row 4   2 3 0 1 | row 5   2 3 0 1
//                    row 6   3 2 1 0 | row 7   3 2 1 0
//
//   along rows   [c][rows], for an operand that is contiguous along its rows (ldmatrix.trans; tf32 by single words):
//                chunk m of c at c·pitch + 16·(m ^ key(c)), key(c) = c mod 8 for the eight c of a matrix, and
//                2·(c mod 4) for tf32, where a warp reads four c of eight rows, which are two chunks.
//
// Each thread brings 16-byte chunks, by cp.async where addresses are aligned to 16, 8 or 4 bytes; else element by
// element.
#pragma once
#include "mma.cuh"
#include "stage.cuh"

template <Kind KIND, int ROWS, int THREADS>
struct MmaStage {
    static constexpr int SIZE = ELEMENT<KIND>, E = 16 / SIZE;  // bytes of an element, elements of a chunk
    static constexpr int BYTES = ROWS * 64, BK = 64 / SIZE, PITCH = ROWS * SIZE;
    static constexpr int LOADS = ROWS * 4 / THREADS;
    static_assert(LOADS * THREADS == ROWS * 4, "every thread brings the same number of chunks");

    // What is the same for all threads. It lies in shared memory, so as not to take registers during the inner loop.
    struct Plan {
        int64_t step, pitch;     // bytes between two c; between two elements of a chunk
        int64_t slice;           // bytes between slices
        int64_t advance, wrap;   // bytes to the next step; from a slice's last to the next slice
        int rows;                // rows of the tile that exist
        int width;               // bytes that are contiguous and aligned: 16, 8, 4, else 0
        bool along_rows, whole;  // whole: all rows exist, in chunks of 16 bytes

        // As Stage::Plan::make. TRANSPOSABLE: rows may be the contiguous axis.
        template <bool TRANSPOSABLE>
        __device__ __forceinline__ void make(const void* base, int64_t first, int64_t per, int64_t total, Rows n,
                                             int64_t c, int64_t between, int64_t steps) {
            int64_t left = total - first;
            rows = left < ROWS ? int(left) : ROWS;
            step = c * SIZE;
            bool grouped = per < total;
            along_rows = TRANSPOSABLE && !grouped && n.inner == 1 && c != 1;
            pitch = along_rows ? SIZE : step;
            int64_t bits = reinterpret_cast<intptr_t>(base) | between * SIZE | (along_rows ? step : n.inner * SIZE) |
                           (grouped ? n.outer * SIZE : 0);
            width = pitch != SIZE ? 0 : (bits & 15) == 0 ? 16 : (bits & 7) == 0 ? 8 : (bits & 3) == 0 ? 4 : 0;
            whole = width == 16 && rows == ROWS;
            slice = between * SIZE;
            advance = step * BK;
            wrap = slice - (steps - 1) * advance;
        }
    };
    const Plan& plan;
    const char* from[LOADS];  // this thread's chunks of the step that is brought next
    int to;  // where the first goes in a tile; the others are each APART further, for the exchanges repeat
    static constexpr int APART = THREADS * 16;

    // Chunk `column` of `row`, or of c = `row` where rows are contiguous.
    __device__ static __forceinline__ int at(int row, int column) {
        return row * 64 + ((column ^ (row >> 1 & 3)) << 4);
    }
    __device__ static __forceinline__ int at_rows(int c, int chunk) {
        return c * PITCH + ((chunk ^ (SIZE == 2 ? c & 7 : 2 * (c & 3))) << 4);
    }

    // Fragments from the layout along rows, of 16 rows from `warp` + `row`, at step s. The lane's own part of the
    // address, and the exchange with it, is made once (`lane_a`, `lane_b`, with the warp's first row, a multiple of
    // 32); `row` and s are constants.
    __device__ static __forceinline__ int lane_a(int warp) {
        const int lane = threadIdx.x % 32;
        return SIZE == 2 ? at_rows(lane / 16 * 8 + lane % 8, warp / 8 + lane / 8 % 2) : lane_word(warp);
    }
    __device__ static __forceinline__ int lane_b(int warp) {
        const int lane = threadIdx.x % 32;
        return SIZE == 2 ? at_rows(lane % 16, warp / 8 + lane / 16) : lane_word(warp);
    }
    __device__ static __forceinline__ int lane_word(int warp) {
        const int lane = threadIdx.x % 32;
        return at_rows(lane % 4, warp / 4 + lane / 16) + lane / 4 % 4 * 4;
    }
    __device__ static __forceinline__ uint32_t word(const unsigned char* tile, int lane_at, int c, int row) {
        return *reinterpret_cast<const uint32_t*>(tile + (lane_at ^ (row * 4 & 96)) + (row * 4 & ~96) + c * PITCH);
    }
    __device__ static __forceinline__ void fragment_a(uint32_t (&a)[4], const unsigned char* tile, int lane_at, int s,
                                                      int row) {
        if constexpr (SIZE == 2) {
            ldmatrix_transposed(a, shared_address(tile) + (lane_at ^ row * 2) + s * 16 * PITCH);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = word(tile, lane_at, s * 8 + i / 2 * 4, row + i % 2 * 8);
        }
    }
    // Two mma's.
    __device__ static __forceinline__ void fragment_b(uint32_t (&b)[4], const unsigned char* tile, int lane_at, int s,
                                                      int row) {
        if constexpr (SIZE == 2) {
            ldmatrix_transposed(b, shared_address(tile) + (lane_at ^ row * 2) + s * 16 * PITCH);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) b[i] = word(tile, lane_at, s * 8 + i % 2 * 4, row + i / 2 * 8);
        }
    }

    __device__ __forceinline__ int row(int l) const {
        int id = threadIdx.x + l * THREADS;
        return plan.along_rows ? id % (ROWS / E) * E : id / 4;
    }
    __device__ __forceinline__ int column(int l) const {
        int id = threadIdx.x + l * THREADS;
        return plan.along_rows ? id / (ROWS / E) : id % 4 * E;
    }

    // With the operands of `make`, before step `chunk` of slice `slice`.
    __device__ __forceinline__ MmaStage(const Plan& plan, const void* base, int64_t first, int64_t per, int64_t total,
                                        Rows n, int64_t c, int64_t slice, int64_t chunk)
        : plan(plan) {
        to = plan.along_rows ? at_rows(column(0), row(0) / E) : at(row(0), column(0) / E);
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int r = row(l);
            int64_t offset = r < plan.rows ? row_offset(first + r, per, total, n) + column(l) * c : 0;
            from[l] = static_cast<const char*>(base) + offset * SIZE + slice * plan.slice + chunk * plan.advance;
        }
    }
    // To the next step; `ends`: the one brought was the last of its slice.
    __device__ __forceinline__ void next(bool ends) {
        int64_t bytes = ends ? plan.wrap : plan.advance;
#pragma unroll
        for (int l = 0; l < LOADS; l++) from[l] += bytes;
    }

    // Elements of chunk `l` that exist, where `left` of BK c do.
    __device__ __forceinline__ int count(int l, int left) const {
        int r = row(l), c = column(l);
        int exist = plan.along_rows ? (c < left ? plan.rows - r : 0) : (r < plan.rows ? left - c : 0);
        return exist < 0 ? 0 : exist < E ? exist : E;
    }
    // A chunk by registers.
    __device__ __forceinline__ uint4 fetch(const char* at, int count) const {
        uint32_t word[4] = {0, 0, 0, 0};
        if (plan.width == 16 && count == E) return __ldg(reinterpret_cast<const uint4*>(at));
#pragma unroll
        for (int e = 0; e < E; e++)
            if (e < count) {
                if (SIZE == 4)
                    word[e] = __ldg(reinterpret_cast<const uint32_t*>(at + e * plan.pitch));
                else
                    word[e / 2] |= uint32_t(__ldg(reinterpret_cast<const uint16_t*>(at + e * plan.pitch)))
                                   << (e % 2 * 16);
            }
        return make_uint4(word[0], word[1], word[2], word[3]);
    }

#if __CUDA_ARCH__ >= 800
    // Brings a step, of which `left` c exist, to shared memory; the caller commits and waits. Rows and c beyond the
    // edges are zeros.
    __device__ __forceinline__ void copy(unsigned char* tile, int left) const {
        uint32_t address = shared_address(tile) + to;
        if (plan.whole && left == BK) {
#pragma unroll
            for (int l = 0; l < LOADS; l++) copy_async<16>(address + l * APART, from[l], 16);
            return;
        }
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int exist = count(l, left), size = exist * SIZE;
            if (plan.width == 16) {
                copy_async<16>(address + l * APART, from[l], size);
            } else if (plan.width == 8) {
                copy_parts<8>(address + l * APART, from[l], size);
            } else if (plan.width == 4) {
                copy_parts<4>(address + l * APART, from[l], size);
            } else {
                *reinterpret_cast<uint4*>(tile + to + l * APART) = fetch(from[l], exist);
            }
        }
    }
    // Rounds to tf32 what this thread brought, which it has waited for; others see it after a barrier. Once here is a
    // third of the conversions of fragments, which several warps read.
    __device__ __forceinline__ void round(unsigned char* tile) const {
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            uint4* chunk = reinterpret_cast<uint4*>(tile + to + l * APART);
            uint4 v = *chunk;
            *chunk = make_uint4(tf32(v.x), tf32(v.y), tf32(v.z), tf32(v.w));
        }
    }
    template <int BYTES>
    __device__ static __forceinline__ void copy_parts(uint32_t to, const char* from, int size) {
#pragma unroll
        for (int i = 0; i < 16; i += BYTES)
            copy_async<BYTES>(to + i, size > i ? from + i : from, min(max(size - i, 0), BYTES));
    }
#else
    uint4 raw[LOADS];
    __device__ __forceinline__ void load(int left) {
        if (plan.whole && left == BK) {
#pragma unroll
            for (int l = 0; l < LOADS; l++) raw[l] = __ldg(reinterpret_cast<const uint4*>(from[l]));
            return;
        }
#pragma unroll
        for (int l = 0; l < LOADS; l++) raw[l] = fetch(from[l], count(l, left));
    }
    __device__ __forceinline__ void store(unsigned char* tile) const {
#pragma unroll
        for (int l = 0; l < LOADS; l++) *reinterpret_cast<uint4*>(tile + to + l * APART) = raw[l];
    }
#endif
};

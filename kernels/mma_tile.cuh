// The inner loop on tensor cores: t[rows][lanes] += q[row][c] · w[lane][c] over one step of 64 bytes of depth.
//
// A warp makes MT by NT tiles of 16 rows by 8 lanes, ACROSS warps lie side by side. Of a tile a thread has two adjacent
// lanes of a row, and of the row eight further: t[2·MT][2·NT], in vectors of 2 lanes. To be written, two threads exchange
// such vectors, so that each has four adjacent lanes: the four threads of a row then write 32 bytes of 16-bit results, a
// sector, and not half of two.
//
//           lanes 0..7     8..15                    0..3  4..7  8..11  12..15
//   thread  0 0 1 1 2 2 3 3   0 0 1 1 2 2 3 3   →    0     2      1      3
#pragma once
#include "mma_stage.cuh"

template <int ACROSS, int MT_, int NT_>
struct Warps {
    static constexpr int MT = MT_, NT = NT_, ROWS = 2 * MT, COLUMNS = 2 * NT, W = 2;
    static constexpr int WRITTEN = 4;  // lanes of a vector that is written

    // Of the warp.
    __device__ static __forceinline__ int first_row() { return threadIdx.x / 32 / ACROSS * (MT * 16); }
    __device__ static __forceinline__ int first_lane() { return threadIdx.x / 32 % ACROSS * (NT * 8); }
    // Where the thread's rows lie, and its vectors of lanes begin.
    __device__ static __forceinline__ int row(int m) {
        return first_row() + m / 2 * 16 + m % 2 * 8 + threadIdx.x % 32 / 4;
    }
    __device__ static __forceinline__ int lane(int vector) { return first_lane() + vector * 8 + threadIdx.x % 4 * 2; }
    __device__ static __forceinline__ int written_lane(int vector) {
        return first_lane() + vector * 16 + threadIdx.x % 2 * 8 + threadIdx.x % 4 / 2 * 4;
    }
    // Of vectors 2·l and 2·l + 1 to written vector l; all threads of the warp at once.
    __device__ static __forceinline__ void join(float (&v)[WRITTEN]) {
        const bool odd = threadIdx.x % 2;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float other = __shfl_xor_sync(~0u, odd ? v[e] : v[2 + e], 1);
            v[e] = odd ? other : v[e], v[2 + e] = odd ? v[2 + e] : other;
        }
    }

    // All tiles, for fragments of one 32 bytes of depth; b of two tiles each.
    template <Kind KIND>
    __device__ static __forceinline__ void multiply(float (&t)[ROWS][COLUMNS], const uint32_t (&a)[MT][4],
                                                    const uint32_t (&b)[NT / 2][4]) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma<KIND>(t[m * 2] + n * 2, t[m * 2 + 1] + n * 2, a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }

    // Fragments of half s of a step; chunks of 16 bytes are 2·s further there, before the exchange. Rows in the layout
    // along c, lanes in either.
    template <class Stage>
    __device__ static __forceinline__ void load_a(uint32_t (&a)[MT][4], const unsigned char* q, int s) {
        const int at = Stage::at(first_row() + threadIdx.x % 16, threadIdx.x % 32 / 16);
#pragma unroll
        for (int m = 0; m < MT; m++) ldmatrix(a[m], shared_address(q) + (at ^ s * 32) + m * 16 * 64);
    }
    template <bool ALONG_ROWS, class Stage>
    __device__ static __forceinline__ void load_b(uint32_t (&b)[NT / 2][4], const unsigned char* w, int s) {
        const int lane = threadIdx.x % 32;
        const int at = ALONG_ROWS ? Stage::lane_b(first_lane())
                                  : Stage::at(first_lane() + lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            if (ALONG_ROWS)
                Stage::fragment_b(b[n], w, at, s, n * 16);
            else
                ldmatrix(b[n], shared_address(w) + (at ^ s * 32) + n * 16 * 64);
        }
    }

    template <Kind KIND, bool ALONG_ROWS, class StageQ, class StageW>
    __device__ static __forceinline__ void multiply(float (&t)[ROWS][COLUMNS], const unsigned char* q,
                                                    const unsigned char* w) {
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t a[MT][4], b[NT / 2][4];
            load_a<StageQ>(a, q, s);
            load_b<ALONG_ROWS, StageW>(b, w, s);
            multiply<KIND>(t, a, b);
        }
    }
};

// The inner loop on the general cores: t[TM][TN] += q[rows of the thread][c] · w[lanes of the thread][c] over one tile
// of depth.
//
// A thread's TM rows are TM/V vectors of V adjacent rows, each BM/(TM/V) apart; its lanes likewise. A warp is 4 by 8
// threads, so a vector of rows is read by 8 threads (a broadcast) and the lanes' vectors of a warp are 128 adjacent
// bytes:
//
//        lanes   tx0 tx1 … tx7 (8·V adjacent)                  BN/2 further: the second vector of the same threads
//   ty0  rows 0..V-1        t  t  …                             t  t  …
//   ty1  rows V..2V-1       t  t  …                             t  t  …
#pragma once
#include "stage.cuh"

template <class T, int BM, int BN, int BK, int TM, int TN>
struct Threads {
    static constexpr int V = VECTOR<T>, ROWS = TM, COLUMNS = TN, W = V;  // accumulators; lanes of a vector
    static constexpr int WRITTEN = W;                                 // those of a vector that is written
    static constexpr int TX = BN / TN, TY = BM / TM, COUNT = TX * TY;
    static constexpr int ROW_VECTORS = TM / V, LANE_VECTORS = TN / V;
    static_assert(TX % 8 == 0 && TY % 4 == 0, "whole warps of 4 by 8");

    int ty, tx;
    __device__ __forceinline__ Threads() {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        ty = warp / (TX / 8) * 4 + lane / 8;
        tx = warp % (TX / 8) * 8 + lane % 8;
    }
    // Where the thread's rows lie, and its vectors of lanes begin.
    __device__ __forceinline__ int row(int m) const { return m / V * (BM / ROW_VECTORS) + ty * V + m % V; }
    __device__ __forceinline__ int lane(int vector) const { return vector * (BN / LANE_VECTORS) + tx * V; }
    __device__ __forceinline__ int written_lane(int vector) const { return lane(vector); }
    __device__ __forceinline__ void join(T (&)[WRITTEN]) const {}

    // `q` and `w`: where the tiles begin in `shared`, multiples of P.
    template <template <class, int, int> class Layout>
    __device__ __forceinline__ void multiply(T (&t)[TM][TN], const T* shared, int q, int w) const {
        using Q = Layout<T, BM, BK>;
        using W = Layout<T, BN, BK>;
        static_assert(ROW_VECTORS == 1 || BM / ROW_VECTORS % Q::P == 0, "a thread's vectors share a swizzle");
        static_assert(LANE_VECTORS == 1 || BN / LANE_VECTORS % W::P == 0, "a thread's vectors share a swizzle");
        // Some 512 FMAs at a time: enough to load ahead of use, and a body that stays in the instruction cache.
        constexpr int GROUPS = BK / V, WHOLE = 512 / (TM * TN * V), UNROLL = WHOLE < GROUPS / 2 ? WHOLE : GROUPS / 2;
        // All in bytes, which leave nothing to be scaled in the loop.
        constexpr int SIZE = sizeof(T);
        const char* tiles = reinterpret_cast<const char*>(shared);
        q = (q + row(0)) * SIZE, w = (w + lane(0)) * SIZE;
#pragma unroll 1
        for (int part = 0; part < BK; part += UNROLL * V) {
            // The swizzle of part + c is that of both exchanged: one operation a group, the rest is in the loads'
            // offsets.
            int q_part = (q ^ Q::swizzle(part) * SIZE) + part * BM * SIZE;
            int w_part = (w ^ W::swizzle(part) * SIZE) + part * BN * SIZE;
#pragma unroll
            for (int c = 0; c < UNROLL * V; c++) {
                auto q_row = reinterpret_cast<const T*>(tiles + (q_part ^ Q::swizzle(c) * SIZE)) + c * BM;
                auto w_lane = reinterpret_cast<const T*>(tiles + (w_part ^ W::swizzle(c) * SIZE)) + c * BN;
                T a[ROW_VECTORS][V], b[LANE_VECTORS][V];
#pragma unroll
                for (int v = 0; v < ROW_VECTORS; v++) load_vector(a[v], q_row + v * (BM / ROW_VECTORS));
#pragma unroll
                for (int v = 0; v < LANE_VECTORS; v++) load_vector(b[v], w_lane + v * (BN / LANE_VECTORS));
#pragma unroll
                for (int m = 0; m < TM; m++)
#pragma unroll
                    for (int n = 0; n < TN; n++) t[m][n] = fma(a[m / V][m % V], b[n / V][n % V], t[m][n]);
            }
        }
    }
};

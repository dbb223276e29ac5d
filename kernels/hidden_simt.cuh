// The hidden layer of CP (hidden.cuh) on the general cores (FFMA, DFMA). Tiles are staged as in contract.cuh.
//
//   shared:   w  2 × [BK][BN]      q  2 × [BK][BM]         swizzled as in stage.cuh
//
//   tile           threads  accumulators  staged  shared bytes
//   f32 64x64x16   128      3 × 32        16      16,384
//   f64 32x64x16   128      3 × 16        12      24,576            (doubles: twice the registers)
#pragma once
#include "hidden.cuh"
#include "tile.cuh"

template <class T_, int BM_, int BN_, int BK_, int TM, int TN>
struct HiddenTile {
    using T = T_;
    static constexpr int BM = BM_, BN = BN_, BK = BK_;
    using Grid = Threads<T, BM, BN, BK, TM, TN>;
    static constexpr int COUNT = Grid::COUNT, BYTES = 2 * (BM + BN) * BK * int(sizeof(T));

    Grid grid;

    __device__ __forceinline__ void project(T (&t)[TM][TN], const Hidden& h, const Projection& part,
                                            const int64_t& first_n, const int64_t& first_r, unsigned char* dynamic) {
        T* shared = reinterpret_cast<T*>(dynamic);
        using StageQ = Stage<T, BM, BK, COUNT, true>;
        using StageW = Stage<T, BN, BK, COUNT, false>;
        __shared__ typename StageQ::Plan plan_q;
        __shared__ typename StageW::Plan plan_w;
        if (threadIdx.x == 0) {
            plan_q.make(part.q, part.q_type, first_n, h.per, h.n, part.q_n, part.q_c, 0, 1);
            plan_w.make(part.w, part.w_type, first_r, h.r, h.r, Rows{0, part.w_r}, part.w_c, 0, 1);
        }
        __syncthreads();
        StageQ stage_q(plan_q, part.q, first_n, h.per, h.n, part.q_n, part.q_c, 0, 0);
        StageW stage_w(plan_w, part.w, first_r, h.r, h.r, Rows{0, part.w_r}, part.w_c, 0, 0);
        auto load = [&](int64_t c0) {
            int left = part.depth - c0 < BK ? int(part.depth - c0) : BK;
            stage_q.load(left), stage_q.next(false);
            stage_w.load(left), stage_w.next(false);
        };
        auto store = [&](int half) {
            stage_q.store(shared + 2 * BN * BK + half * (BM * BK));
            stage_w.store(shared + half * (BN * BK));
        };
        load(0);
        store(0);
        __syncthreads();
        int half = 0;
        for (int64_t c0 = 0; c0 < part.depth; c0 += BK, half ^= 1) {
            bool more = c0 + BK < part.depth;
            if (more) load(c0 + BK);
            grid.template multiply<Swizzled>(t, shared, 2 * BN * BK + half * (BM * BK), half * (BN * BK));
            if (more) store(half ^ 1);
            __syncthreads();
        }
    }
};

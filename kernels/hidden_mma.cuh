// The hidden layer of CP (hidden.cuh) on tensor cores: projections whose operands are all of KIND, f16, bf16 or f32 that
// may be rounded to tf32. Products are exact in f32 (of what is left of f32 by tf32), and P, Q, D and their products are
// f32: nothing is rounded to the storage type.
//
// A block makes 128 rows n by 64 components r with 8 warps of 32 by 32: 2×4 tiles of 16×8 for each of P, Q and D.
//
//   warps (n by r):   0 1
//                     2 3
//                     4 5
//                     6 7
//
// Steps of 64 bytes of depth, of which STAGES-1 are on their way by cp.async while one is multiplied (compute capability
// 7.5: one, by registers).
//
//   shared:   STAGES × (q 8 KB, w 4 KB)                    layouts: mma_stage.cuh
//
//   registers: 3 × 32 accumulators, 16 fragments, addresses
#pragma once
#include "hidden.cuh"
#include "mma_tile.cuh"

template <Kind KIND, int STAGES>
struct HiddenMmaTile {
    using T = float;
    static constexpr int BM = 128, BN = 64, BK = 64 / ELEMENT<KIND>, COUNT = 256;
    using Grid = Warps<2, 2, 4>;
    using StageQ = MmaStage<KIND, BM, COUNT>;
    using StageW = MmaStage<KIND, BN, COUNT>;
    static constexpr int SLOT = StageQ::BYTES + StageW::BYTES, BYTES = STAGES * SLOT;

    Grid grid;

    __device__ __forceinline__ void project(float (&t)[Grid::ROWS][Grid::COLUMNS], const Hidden& h,
                                            const Projection& part, const int64_t& first_n, const int64_t& first_r,
                                            unsigned char* shared) {
        __shared__ typename StageQ::Plan plan_q;
        __shared__ typename StageW::Plan plan_w;
        if (threadIdx.x == 0) {
            plan_q.template make<false>(part.q, first_n, h.per, h.n, part.q_n, part.q_c, 0, 1);
            plan_w.template make<true>(part.w, first_r, h.r, h.r, Rows{0, part.w_r}, part.w_c, 0, 1);
        }
        __syncthreads();
        StageQ stage_q(plan_q, part.q, first_n, h.per, h.n, part.q_n, part.q_c, 0, 0);
        StageW stage_w(plan_w, part.w, first_r, h.r, h.r, Rows{0, part.w_r}, part.w_c, 0, 0);
        int64_t to_bring = (part.depth + BK - 1) / BK, todo = to_bring;
        const int last = int(part.depth - (to_bring - 1) * BK);  // c of the last step
        int next_slot = 0, slot = 0;                             // of the ring
        auto left = [&] { return to_bring == 1 ? last : BK; };
        auto advance = [&] {
            stage_q.next(false), stage_w.next(false);
            next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
            to_bring--;
        };
        auto multiply = [&] {
            const unsigned char* q = shared + slot * SLOT;
            if (plan_w.along_rows)
                grid.template multiply<KIND, true, StageQ, StageW>(t, q, q + StageQ::BYTES);
            else
                grid.template multiply<KIND, false, StageQ, StageW>(t, q, q + StageQ::BYTES);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        };
#if __CUDA_ARCH__ >= 800
        auto bring = [&] {
            if (to_bring > 0) {
                unsigned char* q = shared + next_slot * SLOT;
                stage_q.copy(q, left());
                stage_w.copy(q + StageQ::BYTES, left());
                advance();
            }
            commit_copies();
        };
#pragma unroll 1
        for (int i = 0; i < STAGES - 1; i++) bring();
        for (; todo > 0; todo--) {
            wait_copies<STAGES - 2>();
            if constexpr (KIND == Kind::TF32) {
                stage_q.round(shared + slot * SLOT);
                stage_w.round(shared + slot * SLOT + StageQ::BYTES);
            }
            __syncthreads();
            bring();
            multiply();
        }
        __syncthreads();
#else
        auto store = [&] {
            unsigned char* q = shared + next_slot * SLOT;
            stage_q.store(q);
            stage_w.store(q + StageQ::BYTES);
            advance();
        };
        auto load = [&] { stage_q.load(left()), stage_w.load(left()); };
        if (to_bring > 0) load(), store();
        __syncthreads();
        for (; todo > 0; todo--) {
            if (to_bring > 0) load();
            multiply();
            if (to_bring > 0) store();
            __syncthreads();
        }
#endif
    }
};

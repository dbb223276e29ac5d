// out[n][a] (+)= Σ_segments Σ_c w[a][c] q[n][c] + bias[n][a]   on tensor cores, where q is f32 and w narrower: H, dP and
// dQ of CP with its factors.
//
//   w: f16 or bf16; q: f32, f16 or bf16; segments of one slice, without p; bias, out: f32, f16, bf16; any strides
//
// All is multiplied in tf32, in which w is exact and q is in two parts: two_parts.cuh. The bound of CP counts I + J + R + 4
// roundings on a term's way, of which the exact products of P, Q and y leave three unused (a first term is added to
// zero), so the parts' three are paid for.
//
// A block makes 128 rows n by 128 lanes a with 8 warps of 64 by 32, in steps of 16 c, which go through registers, where
// they are converted and split.
//
//   shared, twice:   hi, lo  [128 rows][16]      w  [128 lanes][16] or [16][128]      8 KB each: mma_stage.cuh
//
//   registers: 2 × 64 sums, 24 fragments, 16 staged, addresses: one block of 8 warps an SM
#pragma once
#include "segments.cuh"
#include "two_parts.cuh"

struct ContractSplitTile {
    static constexpr int BM = 128, BN = 128, BK = 16, COUNT = 256;
    using Grid = Warps<4, 4, 4>;
    using Layout = MmaStage<Kind::TF32, 128, COUNT>;
    using StageQ = Stage<float, BM, BK, COUNT, true>;
    using StageW = Stage<float, BN, BK, COUNT, false>;
    static constexpr int AT_W = 2 * Layout::BYTES, HALF = 3 * Layout::BYTES, BYTES = 2 * HALF;

    float sums[Grid::ROWS][Grid::COLUMNS], low[Grid::ROWS][Grid::COLUMNS];
    Grid grid;
    unsigned char* shared;

    template <bool ALONG_ROWS>
    __device__ __forceinline__ void multiply(const unsigned char* tile, bool both) {
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t a[Grid::MT][4], b[Grid::NT / 2][4];
            grid.load_b<ALONG_ROWS, Layout>(b, tile + AT_W, s);
            grid.load_a<Layout>(a, tile, s);
            grid.multiply<Kind::TF32>(sums, a, b);
            if (both) {
                grid.load_a<Layout>(a, tile + Layout::BYTES, s);
                grid.multiply<Kind::TF32>(low, a, b);
            }
        }
    }

    // Adds steps lo..hi of a segment to the sums.
    __device__ __forceinline__ void segment(const Contract& c, const Segment& s, const Place& place, int64_t lo,
                                            int64_t hi, uint32_t steps) {
        __shared__ StageQ::Plan plan_q;
        __shared__ StageW::Plan plan_w;
        const void* q = shifted(s.q, place.batch * s.q_batch, s.q_type);
        const void* w = shifted(s.w, place.batch * s.w_batch, s.w_type);
        if (threadIdx.x == 0) {
            plan_q.make(q, s.q_type, place.first_row, c.per, c.n, s.q_n, s.q_c, 0, steps);
            plan_w.make(w, s.w_type, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c, 0, steps);
        }
        __syncthreads();
        StageQ stage_q(plan_q, q, place.first_row, c.per, c.n, s.q_n, s.q_c, 0, lo);
        StageW stage_w(plan_w, w, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c, 0, lo);
        const bool both = s.q_type == F32;
        auto load = [&](int64_t step) {
            int left = s.depth - step * BK < BK ? int(s.depth - step * BK) : BK;
            stage_q.load(left), stage_q.next(false);
            stage_w.load(left), stage_w.next(false);
        };
        auto store = [&](unsigned char* tile) {
            auto put = [](unsigned char* to, const float(&v)[4]) {
                *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
            };
            stage_w.each([&](int row, int c, const float(&v)[4]) { put(tile + AT_W + Layout::at_rows(c, row / 4), v); },
                         [&](int row, int c, const float(&v)[4]) { put(tile + AT_W + Layout::at(row, c / 4), v); });
            stage_q.each(
                [&](int row, int c, const float(&v)[4]) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        uint32_t* to = reinterpret_cast<uint32_t*>(tile + Layout::at(row + e, c / 4) + c % 4 * 4);
                        split(v[e], to[0], to[Layout::BYTES / 4]);
                    }
                },
                [&](int row, int c, const float(&v)[4]) {
                    uint4 first, second;
                    split(v[0], first.x, second.x), split(v[1], first.y, second.y);
                    split(v[2], first.z, second.z), split(v[3], first.w, second.w);
                    uint4* to = reinterpret_cast<uint4*>(tile + Layout::at(row, c / 4));
                    to[0] = first;
                    if (both) to[Layout::BYTES / 16] = second;
                });
        };
        load(lo);
        store(shared);
        __syncthreads();
        int half = 0;
        for (int64_t step = lo; step < hi; step++, half ^= 1) {
            bool more = step + 1 < hi;
            if (more) load(step + 1);
            const unsigned char* tile = shared + half * HALF;
            if (plan_w.along_rows)
                multiply<true>(tile, both);
            else
                multiply<false>(tile, both);
            if (more) store(shared + (half ^ 1) * HALF);
            __syncthreads();
        }
    }

    __device__ __forceinline__ void sum(const Contract& c, const Place& place, unsigned char* dynamic) {
        shared = dynamic;
        zero(low);
        sum_segments(*this, c, place);
        add_low(sums, low);
    }
};

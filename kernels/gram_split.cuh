// out[k][i][j] (+)= scale[j] Σ_n s[n][k] q[n][j]   on tensor cores, where q is f32 and s narrower: dA, dB, dC and dλ of CP,
// whose q are its hidden layers.
//
//   s [n][k]: f16 or bf16, or absent; p absent; q [n][j]: f32, f16 or bf16; out [k][i][j]: any strides
//
// All is multiplied in tf32, in which s is exact and q is in two parts: two_parts.cuh. The bounds count N − 1 additions of the
// rows and a product, which is exact here, and four more for the products of three sums, of which two or three are used: the
// parts' three are paid for.
//
// A block makes 128 rows m = (k, i) by 128 lanes j with 8 warps of 64 by 32, in steps of 16 rows n.
//
//   shared, twice:   s, hi, lo  [16][128]      8 KB each, as in mma_stage.cuh "along rows"
//
//   registers: 2 × 64 sums, 24 fragments, 24 staged: one block of 8 warps an SM
#pragma once
#include "gram_load.cuh"
#include "two_parts.cuh"

struct GramSplitTile {
    static constexpr int BM = 128, BN = 128, BK = 16, COUNT = 256;
    using Grid = Warps<4, 4, 4>;
    using Load = GramLoad<float, ANY, BM, BN, BK, COUNT>;
    using Layout = MmaStage<Kind::TF32, 128, COUNT>;
    static constexpr int HI = Layout::BYTES, LO = 2 * Layout::BYTES, HALF = 3 * Layout::BYTES, BYTES = 2 * HALF;

    float sums[Grid::ROWS][Grid::COLUMNS], low[Grid::ROWS][Grid::COLUMNS];
    Grid grid;

    __device__ __forceinline__ void store(const Load& operands, unsigned char* tile, bool both) {
        auto at = [&](int part, int n, int lane) {
            return reinterpret_cast<uint4*>(tile + part + Layout::at_rows(n, lane / 4));
        };
#pragma unroll
        for (int l = 0; l < Load::A_LOADS; l++) {
            float a[4];
            operands.products(l, a);
            *at(0, Load::a_row(l), Load::m()) = make_uint4(__float_as_uint(a[0]), __float_as_uint(a[1]),
                                                           __float_as_uint(a[2]), __float_as_uint(a[3]));
        }
#pragma unroll
        for (int l = 0; l < Load::Q_LOADS; l++) {
            float q[4];
            uint4 hi, lo;
            operands.lanes(l, q);
            split(q[0], hi.x, lo.x), split(q[1], hi.y, lo.y), split(q[2], hi.z, lo.z), split(q[3], hi.w, lo.w);
            *at(HI, Load::q_row(l), Load::j()) = hi;
            if (both) *at(LO, Load::q_row(l), Load::j()) = lo;
        }
    }

    __device__ __forceinline__ void multiply(const unsigned char* tile, bool both) {
        const int a_at = Layout::lane_a(grid.first_row()), b_at = Layout::lane_b(grid.first_lane());
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t a[Grid::MT][4], b[Grid::NT / 2][4];
            auto load_b = [&](int part) {
#pragma unroll
                for (int n = 0; n < Grid::NT / 2; n++) Layout::fragment_b(b[n], tile + part, b_at, s, n * 16);
            };
#pragma unroll
            for (int m = 0; m < Grid::MT; m++) Layout::fragment_a(a[m], tile, a_at, s, m * 16);
            load_b(HI);
            grid.multiply<Kind::TF32>(sums, a, b);
            if (both) {
                load_b(LO);
                grid.multiply<Kind::TF32>(low, a, b);
            }
        }
    }

    __device__ __forceinline__ void sum(const Gram& g, const Place& place, unsigned char* dynamic) {
        if (place.lo == place.hi) return;
        zero(low);
        Load operands(g, place);
        const bool both = g.q_type == F32;
        operands.load(place.lo * BK);
        store(operands, dynamic, both);
        __syncthreads();
        int half = 0;
        for (int64_t step = place.lo; step < place.hi; step++, half ^= 1) {
            bool more = step + 1 < place.hi;
            if (more) operands.load((step + 1) * BK);
            multiply(dynamic + half * HALF, both);
            if (more) store(operands, dynamic + (half ^ 1) * HALF, both);
            __syncthreads();
        }
        add_low(sums, low);
    }
};

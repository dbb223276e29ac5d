// out[k][i][j] (+)= scale[j] Σ_n s[n][k] p[n][i] q[n][j]   on tensor cores: dW and the other sums over the batch.
//
//   s [n][k], p [n][i], q [n][j], all of TYPE, out [k][i][j]: any strides
//
// A block makes 128 rows m = (k, i) by 128 lanes j with 8 warps of 64 by 32, in steps of BK rows n. The product
// a[n][m] = s[n][k] p[n][i] is formed in f32 between loads and shared memory, and kept exactly:
//
//   bf16   a has 16 bits: two parts of bf16, the 8 leading bits and the rest            2 mma m16n8k16 each
//   f16    a has 22 bits and f16's range twice: two parts of tf32 of 11 bits, q is tf32 too   2 mma m16n8k8
//   tf32   a and q rounded to tf32, as the caller allows                                1 mma m16n8k8
//
// Rounding a to 16 bits instead would cost an error of 2⁻⁹ of Σ|s p q| for bf16; the accuracy promised is that of f32.
// Where s or p is absent a is an operand as it is, and one part suffices. A product that is infinite or no number is
// in the first part, and the second part, mostly zero, is not multiplied by a q that is infinite.
//
//   shared, twice:   a  PARTS × [BK][128]     q  [BK][128]      8 KB each, as in mma_stage.cuh "along rows"
//
//   registers: 64 sums, 24 to 40 fragments, 48 staged: one block of 8 warps an SM
#pragma once
#include "gram_load.cuh"
#include "mma_tile.cuh"

template <Kind KIND, int PARTS, Type TYPE>
struct GramMmaTile {
    static constexpr int BM = 128, BN = 128, BK = 64 / ELEMENT<KIND>, COUNT = 256;
    static constexpr int V = VECTOR<float>;
    using Grid = Warps<4, 4, 4>;
    using Load = GramLoad<float, TYPE, BM, BN, BK, COUNT>;
    using Stage = MmaStage<KIND, 128, COUNT>;
    static constexpr int HALF = (PARTS + 1) * Stage::BYTES, BYTES = 2 * HALF;

    float sums[Grid::ROWS][Grid::COLUMNS];
    Grid grid;

    // Four adjacent elements of a row n, at most the 16 bytes of a chunk; later rows of the thread are a multiple of
    // eight further, where chunks are exchanged alike.
    __device__ static __forceinline__ int thread_at(int n, int at) {
        return Stage::at_rows(n, at / Stage::E) + at % Stage::E * Stage::SIZE;
    }
    static_assert(Load::A_ROWS % 8 == 0 && Load::Q_ROWS % 8 == 0, "rows of a thread are a multiple of eight apart");
    __device__ static __forceinline__ void put(unsigned char* to, const uint32_t (&bits)[V]) {
        if (KIND == Kind::TF32)
            *reinterpret_cast<uint4*>(to) = make_uint4(bits[0], bits[1], bits[2], bits[3]);
        else  // the upper halves
            *reinterpret_cast<uint2*>(to) =
                make_uint2(__byte_perm(bits[0], bits[1], 0x7632), __byte_perm(bits[2], bits[3], 0x7632));
    }

    // True: this thread's q has infinities, which the second part must not meet.
    __device__ __forceinline__ bool store(const Load& operands, unsigned char* tile, int parts) {
        constexpr uint32_t LEADING = KIND == Kind::TF32 ? 0xffffe000 : 0xffff0000;
        const float infinity = __uint_as_float(0x7f800000);
        unsigned char* to_a = tile + thread_at(Load::a_row(0), Load::m());
#pragma unroll
        for (int l = 0; l < Load::A_LOADS; l++) {
            float a[V];
            uint32_t first[V], second[V];
            operands.products(l, a);
#pragma unroll
            for (int e = 0; e < V; e++) {
                first[e] = PARTS == 1 ? tf32(__float_as_uint(a[e])) : __float_as_uint(a[e]) & LEADING;
                second[e] = __float_as_uint(a[e] - __uint_as_float(first[e]));
            }
            put(to_a + l * Load::A_ROWS * Stage::PITCH, first);
            if (parts == 2) {
                if (fmaxf(fmaxf(fabsf(a[0]), fabsf(a[1])), fmaxf(fabsf(a[2]), fabsf(a[3]))) == infinity) {
#pragma unroll
                    for (int e = 0; e < V; e++)
                        if (fabsf(a[e]) == infinity) second[e] = 0;
                }
                put(to_a + Stage::BYTES + l * Load::A_ROWS * Stage::PITCH, second);
            }
        }
        bool infinite = false;
        unsigned char* to_q = tile + PARTS * Stage::BYTES + thread_at(Load::q_row(0), Load::j());
#pragma unroll
        for (int l = 0; l < Load::Q_LOADS; l++) {
            float v[V];
            uint32_t bits[V];
            operands.lanes(l, v);
#pragma unroll
            for (int e = 0; e < V; e++) {
                bits[e] = PARTS == 1 ? tf32(__float_as_uint(v[e])) : __float_as_uint(v[e]);
                infinite |= fabsf(v[e]) == infinity;
            }
            put(to_q + l * Load::Q_ROWS * Stage::PITCH, bits);
        }
        return infinite && parts == 2;
    }
    // Zeros for what is infinite.
    __device__ static __forceinline__ uint32_t finite(uint32_t word) {
        if (KIND == Kind::TF32) return (word & 0x7fffffff) == 0x7f800000 ? 0 : word;
        if ((word & 0x7fff) == 0x7f80) word &= 0xffff0000;
        if ((word & 0x7fff0000) == 0x7f800000) word &= 0xffff;
        return word;
    }

    __device__ __forceinline__ void multiply(const unsigned char* tile, int parts, bool infinite) {
        const int a_at = Stage::lane_a(grid.first_row()), b_at = Stage::lane_b(grid.first_lane());
        uint32_t b[2][Grid::NT / 2][4];
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int n = 0; n < Grid::NT / 2; n++)
                Stage::fragment_b(b[s][n], tile + PARTS * Stage::BYTES, b_at, s, n * 16);
#pragma unroll 1
        for (int part = 0; part < parts; part++) {
            if (part && infinite) {
#pragma unroll
                for (int s = 0; s < 2; s++)
#pragma unroll
                    for (int n = 0; n < Grid::NT / 2; n++)
#pragma unroll
                        for (int i = 0; i < 4; i++) b[s][n][i] = finite(b[s][n][i]);
            }
#pragma unroll
            for (int s = 0; s < 2; s++) {
                uint32_t a[Grid::MT][4];
#pragma unroll
                for (int m = 0; m < Grid::MT; m++)
                    Stage::fragment_a(a[m], tile + part * Stage::BYTES, a_at, s, m * 16);
                grid.template multiply<KIND>(sums, a, b[s]);
            }
        }
    }

    __device__ __forceinline__ void sum(const Gram& g, const Place& place, unsigned char* dynamic) {
        if (place.lo == place.hi) return;
        Load operands(g, place);
        const int parts = PARTS == 2 && g.s && g.p ? 2 : 1;
        operands.load(place.lo * BK);
        bool infinite = __syncthreads_or(store(operands, dynamic, parts));
        int half = 0;
        for (int64_t step = place.lo; step < place.hi; step++, half ^= 1) {
            bool more = step + 1 < place.hi;
            if (more) operands.load((step + 1) * BK);
            multiply(dynamic + half * HALF, parts, infinite);
            infinite = __syncthreads_or(more && store(operands, dynamic + (half ^ 1) * HALF, parts));
        }
    }
};

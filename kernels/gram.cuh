// out[k][i][j] (+)= scale[j] Σ_n s[n][k] p[n][i] q[n][j]   on the general cores: dW, dU, dV, db, dA, dB, dC.
//
//   s [n][k], p [n][i], q [n][j], out [k][i][j]: any strides
//
// A block makes a tile of BM rows m = (k, i) by BN lanes j, in steps of BK rows n of the batch. The Khatri-Rao product
// a[n][m] = s[n][k] p[n][i] is formed in registers between the loads and the store to shared memory, and is nowhere
// else: each is one multiplication, made once a tile, BM·BK of them beside the BM·BN·BK FMAs. It is rounded to T (of
// f32; products of f16 and bf16 are exact in f32).
//
// Threads read vectors along m and j, the axes that are contiguous in a batch; operands contiguous along n are read
// element by element.
//
//   shared:   a  2 × [BK][BM]      q  2 × [BK][BN]       rows of the inner loop contiguous; nothing to swizzle
//
//   tile           threads  sums  staged  shared bytes
//   f32 128x128x16 256      64    24      32,768
//   f64 64x64x16   256      16    12      32,768            (doubles: twice the registers)
#pragma once
#include "gram_load.cuh"
#include "tile.cuh"

template <class T, int BM_, int BN_, int BK_, int TM_, int TN_>
struct GramTile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_, V = VECTOR<T>;
    using Grid = Threads<T, BM, BN, BK, TM, TN>;
    static constexpr int COUNT = Grid::COUNT, AT_Q = 2 * BM * BK, BYTES = (AT_Q + 2 * BN * BK) * int(sizeof(T));
    using Load = GramLoad<T, ANY, BM, BN, BK, COUNT>;

    T sums[TM][TN];
    Grid grid;

    __device__ __forceinline__ void sum(const Gram& g, const Place& place, unsigned char* dynamic) {
        if (place.lo == place.hi) return;
        T* shared = reinterpret_cast<T*>(dynamic);
        Load operands(g, place);
        auto store = [&](int half) {
#pragma unroll
            for (int l = 0; l < Load::A_LOADS; l++) {
                T a[V];
                operands.products(l, a);
                store_shared(shared + half * (BM * BK) + Load::a_row(l) * BM + Load::m(), a);
            }
#pragma unroll
            for (int l = 0; l < Load::Q_LOADS; l++) {
                T v[V];
                operands.lanes(l, v);
                store_shared(shared + AT_Q + half * (BN * BK) + Load::q_row(l) * BN + Load::j(), v);
            }
        };
        operands.load(place.lo * BK);
        store(0);
        __syncthreads();
        int half = 0;
        for (int64_t step = place.lo; step < place.hi; step++, half ^= 1) {
            bool more = step + 1 < place.hi;
            if (more) operands.load((step + 1) * BK);
            grid.template multiply<Plain>(sums, shared, half * (BM * BK), AT_Q + half * (BN * BK));
            if (more) store(half ^ 1);
            __syncthreads();
        }
    }
};

// The hidden layer of CP and what its gradient needs, in one pass:
//
//   P[n][r] = Σ_i z[n][i] B[i][r]     Q[n][r] = Σ_j x[n][j] C[j][r]     D[n][r] = Σ_k g[n][k] A[k][r]
//   H = P⊙Q⊙λ     dP = D⊙Q⊙λ     dQ = D⊙P⊙λ     D⊙P⊙Q
//
// Operands have any strides; a projection whose w is null was computed before, and is read. Outputs are [n][r] of T.
//
// A block makes a tile of BM rows n by BN components r of all three projections, one after the other, as a GEMM of w
// with the rows, staged as in contract.cuh; the products are then formed in registers: no P, Q or D need go to memory.
//
//   shared:   w  2 × [BK][BN]      q  2 × [BK][BM]         swizzled as in stage.cuh
//
//   tile           threads  accumulators  staged  shared bytes
//   f32 64x64x32   256      3 × 16        16      32,768
//   f64 32x64x16   128      3 × 16        12      24,576            (doubles: twice the registers)
#pragma once
#include "sums.cuh"
#include "tile.cuh"

template <class T, int BM_, int BN_, int BK_, int TM_, int TN_>
struct HiddenTile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_, V = VECTOR<T>;
    using Grid = Threads<T, BM, BN, BK, TM, TN>;
    static constexpr int COUNT = Grid::COUNT, BYTES = 2 * (BM + BN) * BK * int(sizeof(T));

    Grid grid;

    __device__ __forceinline__ void project(T (&t)[TM][TN], const Hidden& h, const Projection& part,
                                            const int64_t& first_n, const int64_t& first_r, T* shared) {
        zero(t);
        if (!part.q) return;
        if (!part.w) {
#pragma unroll
            for (int m = 0; m < TM; m++) {
                int64_t n = first_n + grid.row(m / V) + m % V;
                if (n >= h.n) continue;
                int64_t row = row_offset(n, h.per, h.n, part.q_n);
#pragma unroll
                for (int l = 0; l < TN; l++) {
                    int64_t r = first_r + grid.lane(l / V) + l % V;
                    if (r < h.r) t[m][l] = load_element(part.q, row + r * part.q_c, part.q_type, T());
                }
            }
            return;
        }
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

    __device__ __forceinline__ void run(const Hidden& h) {
        extern __shared__ __align__(128) unsigned char dynamic[];
        __shared__ int64_t first_n, first_r;  // not in registers during the inner loop
        if (threadIdx.x == 0) {
            int64_t tiles_n = (h.n + BM - 1) / BM, tile_r = blockIdx.x / tiles_n;
            first_n = (blockIdx.x - tile_r * tiles_n) * BM, first_r = tile_r * BN;
        }
        __syncthreads();

        // One body for the three: each is summed in `d`, after the earlier have moved on.
        T p[TM][TN], q[TM][TN], d[TM][TN];
        zero(p), zero(q), zero(d);
#pragma unroll 1
        for (int which = 0; which < 3; which++) {
#pragma unroll
            for (int m = 0; m < TM; m++)
#pragma unroll
                for (int l = 0; l < TN; l++) p[m][l] = q[m][l], q[m][l] = d[m][l];
            project(d, h, which == 0 ? h.p : which == 1 ? h.q : h.d, first_n, first_r, reinterpret_cast<T*>(dynamic));
        }

        bool vectors = multiple(h.pitch, V);
        auto write = [&](void* base, int64_t n, int64_t r, int count, T(&v)[V]) {
            if (base)
                store_elements<T, V>(base, n * h.pitch + r, 1, count, sizeof(T) == 8 ? F64 : F32, false,
                                     vectors && aligned_for_vectors(base, sizeof(T) == 8 ? 3 : 2, V), v);
        };
        T lambda[TN];
#pragma unroll
        for (int l = 0; l < TN; l++) {
            int64_t r = first_r + grid.lane(l / V) + l % V;
            lambda[l] = h.lambda && r < h.r ? load_element(h.lambda, r * h.lambda_r, h.lambda_type, T()) : T(1);
        }
#pragma unroll 1
        for (int m = 0; m < TM; m++, next_row(p), next_row(q), next_row(d)) {
            int64_t n = first_n + grid.row(m / V) + m % V;
            if (n >= h.n) continue;
#pragma unroll
            for (int l = 0; l < TN; l += V) {
                int64_t r = first_r + grid.lane(l / V);
                int count = h.r - r < V ? int(h.r - r) : V;
                T out_p[V], out_q[V], out_h[V], out_dp[V], out_dq[V], out_dl[V];
#pragma unroll
                for (int e = 0; e < V; e++) {
                    T a = p[0][l + e], b = q[0][l + e], c = d[0][l + e];
                    out_p[e] = a, out_q[e] = b, out_h[e] = a * b * lambda[l + e];
                    out_dp[e] = c * b * lambda[l + e], out_dq[e] = c * a * lambda[l + e], out_dl[e] = c * a * b;
                }
                write(h.out_p, n, r, count, out_p);
                write(h.out_q, n, r, count, out_q);
                write(h.out_h, n, r, count, out_h);
                write(h.out_dp, n, r, count, out_dp);
                write(h.out_dq, n, r, count, out_dq);
                write(h.out_dl, n, r, count, out_dl);
            }
        }
    }
};

// out[n][a] (+)= Σ_segments Σ_b p[n][b] Σ_c w[a][b][c] q[n][b][c] + bias[n][a]   on the general cores (FFMA, DFMA).
//
//   w [a][b][c], q [n][b][c], p [n][b], bias [n][a], out [n][a]: any strides; what they are to z, x, W: problem.cuh
//
// A block makes a tile of BM rows n by BN lanes a. For a slice b, a GEMM of depth c adds to the accumulators t; they
// are then scaled by the rows' p and added to the sums: sums += p·t. That costs TM·TN FMAs for each TM·TN·depth of the
// GEMM, so 1/depth of the arithmetic; scaling the operand instead would cost TM (or BM·BK/threads) a step and round
// z·x. Without p, t runs on over all slices.
//
// Steps of depth, (b, c / BK) in this order, run over all slices of a segment without a break: while one is
// multiplied, the next is on its way from global memory to registers, and is then stored to the other half of shared
// memory.
//
//   shared:   w     2 × [BK][BN]                     swizzled as in stage.cuh
//             p     2 × [SCALES][BM + V]             p of SCALES slices, see segments.cuh
//             q     max(2, resident / BK) × [BK][BM] swizzled
//
// q of q.b = 0 (x, for all i) is the same in each slice: where `resident` has room for all its depth it is staged by
// the first slice and stays, so that the tile of x is read once. BYTES(resident) is what the launch must give.
//
//   tile f32          threads  t    sums  staged  shared bytes (resident = 0)
//   128x128x16        256      64   64    16      16,384 + 8,448 + 16,384
//   16x128x32         128      16   16    40      32,768 + 1,280 + 4,096
//   tile f64
//   64x64x16          256      16   16    8       16,384 + 8,448 + 16,384      (doubles: twice the registers)
#pragma once
#include "segments.cuh"
#include "tile.cuh"

template <class T, int BM_, int BN_, int BK_, int TM_, int TN_>
struct ContractTile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_, V = VECTOR<T>;
    using Grid = Threads<T, BM, BN, BK, TM, TN>;
    static constexpr int COUNT = Grid::COUNT;
    using Scale = Scales<T, BM, COUNT>;
    using StageQ = Stage<T, BM, BK, COUNT, true>;
    using StageW = Stage<T, BN, BK, COUNT, false>;
    static constexpr int AT_P = 2 * BN * BK,
                         AT_Q = AT_P + Scale::SIZE;  // where p and q begin in shared memory, after w
    static constexpr int BYTES(int resident) {
        int slots = resident / BK > 2 ? resident / BK : 2;
        return (AT_Q + slots * BM * BK) * int(sizeof(T));
    }

    T t[TM][TN], sums[TM][TN];
    Grid grid;
    T* shared;

    // Adds steps lo..hi of a segment to the sums; `steps` a slice. A slice has fewer than 2³² steps, a segment 2³²
    // slices.
    __device__ __forceinline__ void segment(const Contract& c, const Segment& s, const Place& place, int64_t lo,
                                            int64_t hi, uint32_t steps) {
        __shared__ typename StageQ::Plan plan_q;
        __shared__ typename StageW::Plan plan_w;
        const void* q = shifted(s.q, place.batch * s.q_batch, s.q_type);
        const void* w = shifted(s.w, place.batch * s.w_batch, s.w_type);
        if (threadIdx.x == 0) {
            plan_q.make(q, s.q_type, place.first_row, c.per, c.n, s.q_n, s.q_c, s.slices == 1 ? 0 : s.q_b, steps);
            plan_w.make(w, s.w_type, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c, s.slices == 1 ? 0 : s.w_b,
                        steps);
        }
        __syncthreads();
        uint32_t slice = lo / steps, chunk = lo - int64_t(slice) * steps;  // of the step loaded last
        StageQ stage_q(plan_q, q, place.first_row, c.per, c.n, s.q_n, s.q_c, slice, chunk);
        StageW stage_w(plan_w, w, place.first_lane, c.lanes, c.lanes, Rows{0, s.w_a}, s.w_c, slice, chunk);
        const bool scaled = s.p != nullptr;
        const bool keep = s.q_b == 0 && s.depth <= c.resident;
        const int last = int(s.depth - int64_t(steps - 1) * BK);  // c of a slice's last step

        uint32_t fresh = hi - lo < steps ? uint32_t(hi - lo) : steps;  // steps that find no q in shared memory
        int half = 0;                                                  // of w, and of q if that is not kept
        bool new_scales = scaled;
        Scale scale;
        auto load = [&] {
            bool ends = chunk + 1 == steps;
            int left = ends ? last : BK;
            if (fresh) stage_q.load(left);
            stage_w.load(left);
            stage_q.next(ends), stage_w.next(ends);
            if (new_scales) scale.load(c, s, place, slice);
        };
        auto store = [&] {
            if (fresh) {
                stage_q.store(shared + AT_Q + (keep ? chunk : half) * (BM * BK));
                if (keep) fresh--;
            }
            stage_w.store(shared + half * (BN * BK));
            if (new_scales) scale.store(shared + AT_P, slice);
        };
        load();
        store();
        __syncthreads();
        for (int64_t todo = hi - lo; todo > 0; todo--) {
            int q = AT_Q + (keep ? chunk : half) * (BM * BK), w = half * (BN * BK);
            bool more = todo > 1, ends = chunk + 1 == steps;
            half ^= 1;
            if (ends)
                chunk = 0, slice++;
            else
                chunk++;
            new_scales = scaled && ends && slice % SCALES == 0;
            if (more) load();
            grid.template multiply<Swizzled>(t, shared, q, w);
            if (scaled && (ends || !more)) flush(slice - ends);
            if (more) store();
            __syncthreads();
        }
        if (!scaled) flush();
    }

    // sums += p·t
    __device__ __forceinline__ void flush(int64_t slice) {
        const T* p = Scale::at(shared + AT_P, slice);
#pragma unroll
        for (int m = 0; m < TM; m += V) {
            T scale[V];
            load_vector(scale, p + grid.row(m));
#pragma unroll
            for (int v = 0; v < V; v++)
#pragma unroll
                for (int a = 0; a < TN; a++)
                    sums[m + v][a] = fma(scale[v], t[m + v][a], sums[m + v][a]), t[m + v][a] = 0;
        }
    }
    __device__ __forceinline__ void flush() {
#pragma unroll
        for (int m = 0; m < TM; m++)
#pragma unroll
            for (int a = 0; a < TN; a++) sums[m][a] += t[m][a], t[m][a] = 0;
    }

    __device__ __forceinline__ void sum(const Contract& c, const Place& place, unsigned char* dynamic) {
        shared = reinterpret_cast<T*>(dynamic);
        zero(t);
        sum_segments(*this, c, place);
    }
};

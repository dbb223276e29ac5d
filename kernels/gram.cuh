// out[k][i][j] (+)= scale[j] Σ_n s[n][k] p[n][i] q[n][j]   on the general cores: dW, dU, dV, db, dA, dB, dC.
//
//   s [n][k], p [n][i], q [n][j], out [k][i][j]: any strides
//
// A block makes a tile of BM rows m = (k, i) by BN lanes j, in steps of BK rows n of the batch. The Khatri-Rao product
// a[n][m] = s[n][k] p[n][i] is formed in registers between the loads and the store to shared memory, and is nowhere else: each
// is one multiplication, made once a tile, BM·BK of them beside the BM·BN·BK FMAs. It is rounded to T (of f32; products of f16
// and bf16 are exact in f32).
//
// With one i the vectors of a run along k, with s in the place of p. Threads read vectors along m and j, the axes that are
// contiguous in a batch; operands contiguous along n are read element by element.
//
//   shared:   a  2 × [BK][BM]      q  2 × [BK][BN]       rows of the inner loop contiguous; nothing to swizzle
//
//   tile           threads  sums  staged  shared bytes
//   f32 128x128x16 256      64    24      32,768
//   f64 64x64x16   256      16    12      32,768            (doubles: twice the registers)
#pragma once
#include "sums.cuh"
#include "tile.cuh"

// How threads read vectors of an operand's elements e at a row n: element first..first+V of it, the rows being n.
template <class T>
struct Strip {
    static constexpr int V = VECTOR<T>;
    const char* from;  // the first element, at n = 0; null: ones
    int64_t stride;    // bytes between elements
    int count;         // elements of the vector that exist
    Type type;
    bool vectors;

    __device__ __forceinline__ void begin(const void* base, Type element, int64_t batch, int64_t first, int64_t length,
                                          int64_t between, Rows n) {
        type = element;
        int shift = element_shift(type);
        stride = between * (int64_t(1) << shift);
        count = length - first < V ? int(length - first) : V;
        from = static_cast<const char*>(base);
        if (base) from += batch * (int64_t(1) << shift) + first * stride;
        vectors = between == 1 && count == V && aligned_for_vectors(from, shift, V) && multiple(n.inner, V) && multiple(n.outer, V);
    }
    __device__ __forceinline__ const char* at(int64_t n, int64_t per, int64_t total, Rows rows) const {
        return from + row_offset(n, per, total, rows) * (int64_t(1) << element_shift(type));
    }
    __device__ __forceinline__ void load(Raw<T>& raw, const char* at) const {
        if (vectors) {
            raw.load_vector(at, type);
        } else {
            raw.zero();
            raw.load_scalars(at, stride, count, type);
        }
    }
};

struct GramPlace {
    int64_t first_m, first_j, batch, tile, tiles, lo, hi;
    int problem, split;

    template <int BM, int BN, int BK>
    __device__ __forceinline__ void find(const Grams& all) {
        int64_t block = blockIdx.x;
        problem = 0;
        while (problem + 1 < all.count && block >= all.blocks[problem]) problem++;
        if (problem) block -= all.blocks[problem - 1];
        const Gram& g = all.problem[problem];
        int64_t tiles_m = (g.k * g.i + BM - 1) / BM, tiles_j = (g.j + BN - 1) / BN;
        tiles = tiles_m * tiles_j * g.batches;
        tile = block / g.splits;
        split = int(block - tile * g.splits);
        int64_t rest = tile / tiles_m;
        first_m = (tile - rest * tiles_m) * BM;
        batch = rest / tiles_j;
        first_j = (rest - batch * tiles_j) * BN;
        // Steps of BK rows, none of them cut.
        int64_t steps = (g.n + BK - 1) / BK;
        lo = steps * split / g.splits * BK, hi = steps * (split + 1) / g.splits * BK;
        if (hi > g.n) hi = g.n;
    }
};

template <class T, int BM_, int BN_, int BK_, int TM_, int TN_>
struct GramTile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, TM = TM_, TN = TN_, V = VECTOR<T>;
    using Grid = Threads<T, BM, BN, BK, TM, TN>;
    static constexpr int COUNT = Grid::COUNT, BYTES = 2 * (BM + BN) * BK * int(sizeof(T));
    static constexpr int A_ROWS = COUNT / (BM / V), Q_ROWS = COUNT / (BN / V);  // rows n that all threads load at once
    static constexpr int A_LOADS = BK / A_ROWS, Q_LOADS = BK / Q_ROWS;
    static_assert(A_LOADS * A_ROWS == BK && Q_LOADS * Q_ROWS == BK, "every thread loads the same number of vectors");

    T sums[TM][TN];
    Grid grid;

    // The multiple of `length` below an element e of a vector that begins at `first`: in how many rows of k it is past the first.
    __device__ static __forceinline__ int wraps(int64_t first, int e, int64_t length) {
        int count = 0;
#pragma unroll
        for (int i = 1; i <= e; i++) count += first + e >= i * length;
        return count;
    }

    __device__ __forceinline__ void sum(const Gram& g, const GramPlace& place, T* shared) {
        // m = (outer, inner): (k, i), or with one i (i, k).
        const bool flat = g.i == 1;
        const int64_t length = flat ? g.k : g.i;
        const Rows inner_n = flat ? g.s_n : g.p_n, outer_n = flat ? g.p_n : g.s_n;
        int m = threadIdx.x % (BM / V) * V;
        int64_t first = place.first_m + m, row = first / length;
        int64_t left = g.k * g.i - first;
        first -= row * length;
        Strip<T> inner, outer, q;
        inner.begin(flat ? g.s : g.p, flat ? g.s_type : g.p_type, place.batch * (flat ? g.s_batch : g.p_batch), first, length,
                    flat ? g.s_k : g.p_i, inner_n);
        // Past the end of a row of k the vector goes on with the next.
        bool wrapped = inner.count < V && left > inner.count;
        int rows = left < V ? int(left) : V;
        if (rows <= 0) inner.count = 0, inner.vectors = false;
        outer.begin(flat ? g.p : g.s, flat ? g.p_type : g.s_type, place.batch * (flat ? g.p_batch : g.s_batch), row,
                    flat ? 1 : g.k, flat ? g.p_i : g.s_k, outer_n);
        int j = threadIdx.x % (BN / V) * V;
        q.begin(g.q, g.q_type, place.batch * g.q_batch, place.first_j + j, g.j, g.q_j, g.q_n);
        if (q.count < 0) q.count = 0;

        Raw<T> raw_inner[A_LOADS], raw_outer[A_LOADS], raw_q[Q_LOADS];
        auto load = [&](int64_t n0) {
#pragma unroll
            for (int l = 0; l < A_LOADS; l++) {
                int64_t n = n0 + threadIdx.x / (BM / V) + l * A_ROWS;
                raw_inner[l].zero(), raw_outer[l].zero();
                if (n >= place.hi || rows <= 0) continue;
                if (inner.from) {
                    const char* at = inner.at(n, g.per, g.n, inner_n);
                    if (wrapped) {
#pragma unroll
                        for (int e = 0; e < V; e++)
                            if (e < rows)
                                raw_inner[l].load_into(e, at + (e - wraps(first, e, length) * length) * inner.stride, inner.type);
                    } else {
                        inner.load(raw_inner[l], at);
                    }
                }
                if (outer.from) {
                    const char* at = outer.at(n, g.per, g.n, outer_n);
                    if (wrapped) {
#pragma unroll
                        for (int e = 0; e < V; e++)
                            if (e < rows) raw_outer[l].load_into(e, at + wraps(first, e, length) * outer.stride, outer.type);
                    } else {
                        raw_outer[l].load_one(at, outer.type);
                    }
                }
            }
#pragma unroll
            for (int l = 0; l < Q_LOADS; l++) {
                int64_t n = n0 + threadIdx.x / (BN / V) + l * Q_ROWS;
                raw_q[l].zero();
                if (n < place.hi && q.from) q.load(raw_q[l], q.at(n, g.per, g.n, g.q_n));
            }
        };
        // Absent operands are ones, past the edges too: there another operand is 0.
        auto store = [&](T* to_a, T* to_q) {
#pragma unroll
            for (int l = 0; l < A_LOADS; l++) {
                T a[V], s[V];
                raw_inner[l].convert(a, inner.type);
                raw_outer[l].convert(s, outer.type);
#pragma unroll
                for (int e = 0; e < V; e++) a[e] = (inner.from ? a[e] : T(1)) * (outer.from ? s[e] : T(1));
                store_vector(to_a + (threadIdx.x / (BM / V) + l * A_ROWS) * BM + m, a);
            }
#pragma unroll
            for (int l = 0; l < Q_LOADS; l++) {
                T v[V];
                raw_q[l].convert(v, q.type);
#pragma unroll
                for (int e = 0; e < V; e++) v[e] = q.from ? v[e] : T(1);
                store_vector(to_q + (threadIdx.x / (BN / V) + l * Q_ROWS) * BN + j, v);
            }
        };
        T *shared_a = shared, *shared_q = shared + 2 * BM * BK;
        load(place.lo);
        store(shared_a, shared_q);
        __syncthreads();
        int half = 0;
        for (int64_t n = place.lo; n < place.hi; n += BK, half ^= 1) {
            bool more = n + BK < place.hi;
            if (more) load(n + BK);
            grid.template multiply<Plain>(sums, shared, half * (BM * BK), 2 * BM * BK + half * (BN * BK));
            if (more) store(shared_a + (half ^ 1) * (BM * BK), shared_q + (half ^ 1) * (BN * BK));
            __syncthreads();
        }
    }

    __device__ __forceinline__ void write(const Gram& g, const GramPlace& place) {
        int shift = element_shift(g.out_type);
        bool vectors = g.out_j == 1 && aligned_for_vectors(g.out, shift, V) && multiple(g.out_k, V) && multiple(g.out_i, V) &&
                       multiple(g.out_batch, V);
#pragma unroll 1
        for (int t = 0; t < TM; t++, next_row(sums)) {
            int64_t m = place.first_m + grid.row(t / V) + t % V, k = m / g.i;
            if (k >= g.k) continue;
            int64_t out = k * g.out_k + (m - k * g.i) * g.out_i + place.batch * g.out_batch;
#pragma unroll
            for (int l = 0; l < TN / V; l++) {
                int64_t j = place.first_j + grid.lane(l);
                int count = g.j - j < V ? int(g.j - j) : V;
                T v[V];
#pragma unroll
                for (int e = 0; e < V; e++) {
                    v[e] = sums[0][l * V + e];
                    if (g.scale && e < count) v[e] *= load_element(g.scale, (j + e) * g.scale_j, g.scale_type, T());
                }
                store_elements<T, V>(g.out, out + j * g.out_j, g.out_j, count, g.out_type, g.add, vectors, v);
            }
        }
    }

    __device__ __forceinline__ void run(const Grams& all) {
        extern __shared__ __align__(128) unsigned char dynamic[];
        __shared__ GramPlace place;
        if (threadIdx.x == 0) place.find<BM, BN, BK>(all);
        __syncthreads();
        const Gram& g = all.problem[place.problem];
        zero(sums);
        if (place.lo < place.hi) sum(g, place, reinterpret_cast<T*>(dynamic));
        if (g.splits > 1) {
            T(&flat)[TM * TN] = reinterpret_cast<T(&)[TM * TN]>(sums);
            if (!sum_splits<T, COUNT>(flat, g.partial, g.arrived, place.tile, place.tiles, place.split, g.splits)) return;
        }
        write(g, place);
    }
};

// What all sums over the batch do apart from multiplying: the loads of s, p and q, their products, and the output.
#pragma once
#include "place.cuh"
#include "stage.cuh"

constexpr int ANY = -1;  // element types that are known at run time

// How threads read vectors of an operand's elements at a row n: element first..first+V of it. TYPE: its elements'
// type, or ANY.
template <class T, int TYPE>
struct Strip {
    static constexpr int V = VECTOR<T>;
    const char* from;  // the first element, at n = 0; null: ones
    int64_t stride;    // bytes between elements
    int count;         // elements of the vector that exist
    Type given;
    bool vectors;

    __device__ __forceinline__ Type type() const { return TYPE == ANY ? given : Type(TYPE); }

    __device__ __forceinline__ void begin(const void* base, Type element, int64_t batch, int64_t first, int64_t length,
                                          int64_t between, Rows n) {
        given = base ? element : sizeof(T) == 8 ? F64 : F32;
        int shift = element_shift(type());
        stride = between * (int64_t(1) << shift);
        count = length - first < V ? int(length - first) : V;
        if (count < 0) count = 0;
        from = static_cast<const char*>(base);
        if (base) from += batch * (int64_t(1) << shift) + first * stride;
        vectors = between == 1 && count == V && aligned_for_vectors(from, shift, V) && multiple(n.inner, V) &&
                  multiple(n.outer, V);
    }
    __device__ __forceinline__ void load(Raw<T>& raw, const char* at) const {
        if (vectors)
            raw.load_vector(at, type());
        else
            raw.load_scalars(at, stride, count, type());
    }
};

// The Khatri-Rao product a[n][m] = s[n][k] p[n][i], m = (k, i), and q[n][j], for BK rows n at once. Threads hold
// vectors of V adjacent m and j of one n: `a_row` and `q_row` say of which. With one i the vectors of a run along k,
// with s in the place of p. Absent operands are ones, past the edges too: there another operand is 0. TYPE: that of s,
// p and q, or ANY.
template <class T, int TYPE, int BM, int BN, int BK, int COUNT>
struct GramLoad {
    static constexpr int V = VECTOR<T>;
    static constexpr int A_ROWS = COUNT / (BM / V), Q_ROWS = COUNT / (BN / V);  // rows n that all threads load at once
    static constexpr int A_LOADS = BK / A_ROWS, Q_LOADS = BK / Q_ROWS;
    static_assert(A_LOADS * A_ROWS == BK && Q_LOADS * Q_ROWS == BK, "every thread loads the same number of vectors");

    const Gram& g;
    const Place& place;
    Strip<T, TYPE> inner, outer, q;  // m = (outer, inner): (k, i), or with one i (i, k)
    int64_t first;                   // inner index of the vector
    int rows;                        // elements of the vector that exist
    bool wrapped;                    // the vector goes on with the next row of k
    Raw<T> raw_inner[A_LOADS], raw_outer[A_LOADS], raw_q[Q_LOADS];

    __device__ static __forceinline__ int m() { return threadIdx.x % (BM / V) * V; }
    __device__ static __forceinline__ int j() { return threadIdx.x % (BN / V) * V; }
    __device__ static __forceinline__ int a_row(int l) { return threadIdx.x / (BM / V) + l * A_ROWS; }
    __device__ static __forceinline__ int q_row(int l) { return threadIdx.x / (BN / V) + l * Q_ROWS; }

    __device__ __forceinline__ bool flat() const { return g.i == 1; }
    __device__ __forceinline__ int64_t length() const { return flat() ? g.k : g.i; }
    __device__ __forceinline__ Rows inner_n() const { return flat() ? g.s_n : g.p_n; }
    __device__ __forceinline__ Rows outer_n() const { return flat() ? g.p_n : g.s_n; }

    __device__ __forceinline__ GramLoad(const Gram& g, const Place& place) : g(g), place(place) {
        first = place.first_row + m();
        int64_t row = first / length(), left = g.k * g.i - first;
        first -= row * length();
        rows = left < V ? int(left) : V;
        inner.begin(flat() ? g.s : g.p, flat() ? g.s_type : g.p_type, place.batch * (flat() ? g.s_batch : g.p_batch),
                    first, length(), flat() ? g.s_k : g.p_i, inner_n());
        outer.begin(flat() ? g.p : g.s, flat() ? g.p_type : g.s_type, place.batch * (flat() ? g.p_batch : g.s_batch),
                    row, flat() ? 1 : g.k, flat() ? g.p_i : g.s_k, outer_n());
        q.begin(g.q, g.q_type, place.batch * g.q_batch, place.first_lane + j(), g.j, g.q_j, g.q_n);
        wrapped = inner.count < V && left > inner.count;
        ones(inner, raw_inner), ones(outer, raw_outer), ones(q, raw_q);
    }
    template <int LOADS>
    __device__ static __forceinline__ void ones(const Strip<T, TYPE>& strip, Raw<T> (&raw)[LOADS]) {
        if (strip.from) return;
#pragma unroll
        for (int l = 0; l < LOADS; l++) raw[l].one(strip.type());
    }

    // In how many rows of k element e of the vector is past the first.
    __device__ __forceinline__ int wraps(int e) const {
        int count = 0;
#pragma unroll
        for (int i = 1; i <= e; i++) count += first + e >= i * length();
        return count;
    }

    // Loads an operand's rows n0 + row + l·ROWS, where they exist: `get` one of them, at its address.
    template <int LOADS, int ROWS, class Get>
    __device__ __forceinline__ void each(const Strip<T, TYPE>& strip, Rows n, int64_t n0, int row, Raw<T> (&raw)[LOADS],
                                         Get get) {
        if (!strip.from) return;
        int64_t left = g.n - n0 - row, size = int64_t(1) << element_shift(strip.type());
        bool grouped = g.per < g.n;
        const char* at = strip.from + row_offset(n0 + row, g.per, g.n, n) * size;
        int64_t apart = n.inner * (ROWS * size);
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            raw[l].zero();
            if (l * ROWS < left) {
                if (grouped && l) at = strip.from + row_offset(n0 + row + l * ROWS, g.per, g.n, n) * size;
                get(raw[l], at);
            }
            if (!grouped) at += apart;
        }
    }

    // Issues the loads of rows n0 .. n0+BK.
    __device__ __forceinline__ void load(int64_t n0) {
        if (rows > 0) {
            each<A_LOADS, A_ROWS>(inner, inner_n(), n0, a_row(0), raw_inner, [&](Raw<T>& raw, const char* at) {
                if (!wrapped) return inner.load(raw, at);
#pragma unroll
                for (int e = 0; e < V; e++)
                    if (e < rows) raw.load_into(e, at + (e - wraps(e) * length()) * inner.stride, inner.type());
            });
            each<A_LOADS, A_ROWS>(outer, outer_n(), n0, a_row(0), raw_outer, [&](Raw<T>& raw, const char* at) {
                if (!wrapped) return raw.load_one(at, outer.type());
#pragma unroll
                for (int e = 0; e < V; e++)
                    if (e < rows) raw.load_into(e, at + wraps(e) * outer.stride, outer.type());
            });
        }
        each<Q_LOADS, Q_ROWS>(q, g.q_n, n0, q_row(0), raw_q, [&](Raw<T>& raw, const char* at) { q.load(raw, at); });
    }

    // Wait for the loads.
    __device__ __forceinline__ void products(int l, T (&a)[V]) const {
        T s[V];
        raw_inner[l].convert(a, inner.type());
        raw_outer[l].convert(s, outer.type());
#pragma unroll
        for (int e = 0; e < V; e++) a[e] *= s[e];
    }
    __device__ __forceinline__ void lanes(int l, T (&v)[V]) const { raw_q[l].convert(v, q.type()); }
};

// Scales and writes count ≤ W adjacent j of a row m, if there are any; `vectors`: W elements of the output are aligned there.
template <class T, int W>
__device__ __forceinline__ void write(const Gram& g, const Place& place, int64_t m, int64_t j, bool vectors,
                                      T (&v)[W]) {
    int64_t k = m / g.i;
    if (k >= g.k) return;
    int64_t out = k * g.out_k + (m - k * g.i) * g.out_i + place.batch * g.out_batch + j * g.out_j;
    int count = g.j - j < W ? int(g.j - j) : W;
    if (g.scale) {
#pragma unroll
        for (int e = 0; e < W; e++)
            if (e < count) v[e] *= load_element(g.scale, (j + e) * g.scale_j, g.scale_type, T());
    }
    store_elements<T, W>(g.out, out, g.out_j, count, g.out_type, g.add, vectors, v);
}

template <int W>
__device__ __forceinline__ bool output_vectors(const Gram& g) {
    return g.out_j == 1 && aligned_for_vectors(g.out, element_shift(g.out_type), W) && multiple(g.out_k, W) &&
           multiple(g.out_i, W) && multiple(g.out_batch, W);
}

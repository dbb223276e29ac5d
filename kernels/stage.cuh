// Staging of a tile of an operand, [rows][c], in shared memory.
//
// In shared memory it is [c][rows]: the inner loop reads the rows of one c, as vectors. Threads read it from global
// memory in vectors along whichever of the two axes is contiguous. Along c, one warp then writes, for each e of a
// vector,
//
//        c = e, V+e, 2V+e, …   (GROUPS of them: BK/V lanes with the same row)     ×     P/GROUPS rows
//
// which, were rows simply at [c][row], would fall into the same banks, the rows' pitch being a multiple of all 32
// banks. So row r of c lies at [c][r ^ swizzle(c)], with swizzle(c) = (P/GROUPS)·((c/V) mod GROUPS): each c/V has its
// own P/GROUPS banks, and a write takes one pass. Vectors of V rows stay whole, as the swizzle is a multiple of V.
//
//        f32, BK = 16:   c  0..3   rows 0..31 as they are          P: lanes that make up one pass of 128 bytes
//                        c  4..7   rows ^ 8
//                        c  8..11  rows ^ 16
//                        c 12..15  rows ^ 24
#pragma once
#include "element.cuh"

// n / per and n % per, with the divisions only where there are groups of rows.
__device__ __forceinline__ int64_t row_offset(int64_t n, int64_t per, int64_t total, Rows rows) {
    if (per >= total) return n * rows.inner;
    int64_t group = (n | per) >> 32 ? n / per : int64_t(uint32_t(n) / uint32_t(per));
    return group * rows.outer + (n - group * per) * rows.inner;
}

template <class T, int ROWS, int BK>
struct Swizzled {
    static constexpr int V = VECTOR<T>, P = 128 / sizeof(T), GROUPS = BK / V;
    static constexpr int SIZE = ROWS * BK;
    __device__ static __forceinline__ int swizzle(int c) { return (P / GROUPS * (c / V % GROUPS)) & (ROWS - 1) & -V; }
    __device__ static __forceinline__ int at(int c, int row) { return c * ROWS + (row ^ swizzle(c)); }
};

// [c][row], where no thread writes along c.
template <class T, int ROWS, int BK>
struct Plain {
    static constexpr int P = 128 / sizeof(T);
    __device__ static __forceinline__ int swizzle(int) { return 0; }
    __device__ static __forceinline__ int at(int c, int row) { return c * ROWS + row; }
};

// How the threads of a block read one operand's tiles, in steps of BK of c through slices; made once for a segment.
// GROUPED: its rows may be in groups.
template <class T, int ROWS, int BK, int THREADS, bool GROUPED>
struct Stage {
    using Layout = Swizzled<T, ROWS, BK>;
    static constexpr int V = VECTOR<T>;
    static constexpr int LOADS = ROWS * BK / V / THREADS;
    static_assert(LOADS * V * THREADS == ROWS * BK, "every thread loads the same number of vectors");
    static_assert(ROWS / V <= THREADS && BK / V <= THREADS, "its vectors differ in one index only");

    // What is the same for all threads. It lies in shared memory, so as not to take registers during the inner loop.
    struct Plan {
        int64_t step, pitch;    // bytes between two c; between two elements of a vector
        int64_t apart;          // bytes between two vectors of a thread, unless rows are in groups
        int64_t slice;          // bytes between slices
        int64_t advance, wrap;  // bytes to the next step; from a slice's last to the next slice
        int rows;               // rows of the tile that exist
        Type type;
        bool along_rows, vectors, whole;  // whole: all rows exist, in vectors

        // Rows first.. of an operand with `total` rows, in groups of `per`; slices of `steps` steps.
        __device__ __forceinline__ void make(const void* base, Type element, int64_t first, int64_t per, int64_t total,
                                             Rows n, int64_t c, int64_t between, int64_t steps) {
            type = element;
            int shift = element_shift(type);
            int64_t size = int64_t(1) << shift, left = total - first;
            rows = left < ROWS ? int(left) : ROWS;
            // Vectors along the rows must not cross from one group of rows to the next.
            bool grouped = GROUPED && per < total, row_vectors = !grouped || (multiple(per, V) && multiple(n.outer, V));
            bool base_aligned = aligned_for_vectors(base, shift, V) && multiple(between, V);
            bool by_c = c == 1 && base_aligned && multiple(n.inner, V) && (!grouped || multiple(n.outer, V));
            bool by_rows = n.inner == 1 && base_aligned && multiple(c, V) && row_vectors;
            int64_t across = n.inner < 0 ? -n.inner : n.inner, down = c < 0 ? -c : c;
            along_rows = by_rows || (!by_c && !grouped && across < down);
            vectors = by_c || by_rows;
            whole = vectors && rows == ROWS;
            step = c * size;
            pitch = along_rows ? n.inner * size : step;
            apart = along_rows ? step * (THREADS / (ROWS / V)) : n.inner * (size * (THREADS / (BK / V)));
            slice = between * size;
            advance = step * BK;
            wrap = slice - (steps - 1) * advance;
        }
    };
    const Plan& plan;
    const char* from[GROUPED ? LOADS : 1];  // where this thread's vectors of the first step begin, or the first of them
    int64_t ahead;                          // bytes from there to the step that is loaded next
    Raw<T> raw[LOADS];

    // First row and first c of vector `l` of this thread.
    __device__ __forceinline__ int row(int l) const {
        return plan.along_rows ? threadIdx.x % (ROWS / V) * V : threadIdx.x / (BK / V) + l * (THREADS / (BK / V));
    }
    __device__ __forceinline__ int column(int l) const {
        return plan.along_rows ? threadIdx.x / (ROWS / V) + l * (THREADS / (ROWS / V)) : threadIdx.x % (BK / V) * V;
    }

    // With the operands of `make`, before step `chunk` of slice `slice`.
    __device__ __forceinline__ Stage(const Plan& plan, const void* base, int64_t first, int64_t per, int64_t total,
                                     Rows n, int64_t c, int64_t slice, int64_t chunk)
        : plan(plan), ahead(slice * plan.slice + chunk * plan.advance) {
        int shift = element_shift(plan.type);
#pragma unroll
        for (int l = 0; l < (GROUPED ? LOADS : 1); l++) {
            int at = row(l);
            int64_t offset =
                GROUPED ? (at < plan.rows ? row_offset(first + at, per, total, n) : 0) : (first + at) * n.inner;
            from[l] = static_cast<const char*>(base) + (offset + column(l) * c) * (int64_t(1) << shift);
        }
    }
    __device__ __forceinline__ const char* vector(int l) const {
        return GROUPED ? from[l] + ahead : from[0] + ahead + l * plan.apart;
    }

    // Issues the loads of a step, of which `left` c exist. Rows and c beyond the edges are zeros.
    __device__ __forceinline__ void load(int left) {
        if (plan.whole && left == BK) {
#pragma unroll
            for (int l = 0; l < LOADS; l++) raw[l].load_vector(vector(l), plan.type);
            return;
        }
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int r = row(l), c = column(l);
            int count = plan.along_rows ? (c < left ? plan.rows - r : 0) : (r < plan.rows ? left - c : 0);
            if (plan.vectors && count >= V) {
                raw[l].load_vector(vector(l), plan.type);
            } else {
                raw[l].zero();
                raw[l].load_scalars(vector(l), plan.pitch, count, plan.type);
            }
        }
    }
    // To the next step; `ends`: the one loaded was the last of its slice.
    __device__ __forceinline__ void next(bool ends) { ahead += ends ? plan.wrap : plan.advance; }

    // Waits for the loads: by_rows or by_c of (row, c, v), as the vectors run.
    template <class ByRows, class ByC>
    __device__ __forceinline__ void each(ByRows by_rows, ByC by_c) const {
        if (plan.along_rows) {
#pragma unroll
            for (int l = 0; l < LOADS; l++) {
                T v[V];
                raw[l].convert(v, plan.type);
                by_rows(row(l), column(l), v);
            }
        } else {
#pragma unroll
            for (int l = 0; l < LOADS; l++) {
                T v[V];
                raw[l].convert(v, plan.type);
                by_c(row(l), column(l), v);
            }
        }
    }
    // Writes them to shared memory, as they are multiplied on the general cores.
    __device__ __forceinline__ void store(T* tile) const {
        each([&](int row, int c, const T(&v)[V]) { store_shared(tile + Layout::at(c, row), v); },
             [&](int row, int c, const T(&v)[V]) {
                 T* to = tile + Layout::at(c, row);  // the swizzle is one for all c of a vector
#pragma unroll
                 for (int e = 0; e < V; e++) to[e * ROWS] = v[e];
             });
    }
};

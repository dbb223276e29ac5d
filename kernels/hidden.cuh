// The hidden layer of CP and what its gradient needs, in one pass:
//
//   P[n][r] = Σ_i z[n][i] B[i][r]     Q[n][r] = Σ_j x[n][j] C[j][r]     D[n][r] = Σ_k g[n][k] A[k][r]
//   H = P⊙Q⊙λ     dP = D⊙Q⊙λ     dQ = D⊙P⊙λ     D⊙P⊙Q
//
// Operands have any strides; a projection whose w is null was computed before, and is read, and one whose q is null is not
// needed. Outputs are [n][r] of T.
//
// A block makes a tile of BM rows n by BN components r of all projections, one after the other, as a GEMM of w with the
// rows; the products are then formed in registers: no P, Q or D need go to memory. Tiles differ in how they multiply:
// hidden_simt.cuh, hidden_mma.cuh. `hidden` are the two projections of the forward pass, `dhidden` all three: a third
// fewer registers are two blocks an SM instead of one, or three instead of two.
#pragma once
#include "stage.cuh"
#include "sums.cuh"

// t of a projection that is there.
template <class Grid, class T, int ROWS, int COLUMNS>
__device__ __forceinline__ void read(T (&t)[ROWS][COLUMNS], const Grid& grid, const Hidden& h, const Projection& part,
                                     const int64_t& first_n, const int64_t& first_r) {
    constexpr int W = Grid::W;
    struct alignas(W * sizeof(T)) Vector {
        T e[W];
    };
    bool vectors = part.q_c == 1 && part.q_type == (sizeof(T) == 8 ? F64 : F32) &&
                   aligned_for_vectors(part.q, sizeof(T) == 8 ? 3 : 2, W) && multiple(part.q_n.inner, W) &&
                   multiple(part.q_n.outer, W);
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
        int64_t n = first_n + grid.row(m);
        if (n >= h.n) continue;
        int64_t row = row_offset(n, h.per, h.n, part.q_n);
#pragma unroll
        for (int l = 0; l < COLUMNS; l += W) {
            int64_t r = first_r + grid.lane(l / W);
            if (vectors && r + W <= h.r) {
                Vector v = *reinterpret_cast<const Vector*>(static_cast<const T*>(part.q) + row + r);
#pragma unroll
                for (int e = 0; e < W; e++) t[m][l + e] = v.e[e];
            } else {
#pragma unroll
                for (int e = 0; e < W; e++)
                    if (r + e < h.r) t[m][l + e] = load_element(part.q, row + (r + e) * part.q_c, part.q_type, T());
            }
        }
    }
}

// PROJECTIONS: 2, P and Q, or 3, D too.
template <class Tile, int PROJECTIONS>
__device__ __forceinline__ void run(const Hidden& h) {
    using T = typename Tile::T;
    using Grid = typename Tile::Grid;
    constexpr int ROWS = Grid::ROWS, COLUMNS = Grid::COLUMNS, W = Grid::W;
    extern __shared__ __align__(128) unsigned char dynamic[];
    __shared__ int64_t first_n, first_r;  // not in registers during the inner loop
    if (threadIdx.x == 0) {
        int64_t tiles_n = (h.n + Tile::BM - 1) / Tile::BM, tile_r = blockIdx.x / tiles_n;
        first_n = (blockIdx.x - tile_r * tiles_n) * Tile::BM, first_r = tile_r * Tile::BN;
    }
    __syncthreads();

    // One body for all: each is summed in the last, after the earlier have moved on.
    Tile tile;
    const Grid& grid = tile.grid;
    T t[PROJECTIONS][ROWS][COLUMNS];
    T(&last)[ROWS][COLUMNS] = t[PROJECTIONS - 1];
#pragma unroll
    for (int p = 0; p < PROJECTIONS; p++) zero(t[p]);
#pragma unroll 1
    for (int which = 0; which < PROJECTIONS; which++) {
#pragma unroll
        for (int p = 0; p + 1 < PROJECTIONS; p++)
#pragma unroll
            for (int m = 0; m < ROWS; m++)
#pragma unroll
                for (int l = 0; l < COLUMNS; l++) t[p][m][l] = t[p + 1][m][l];
        zero(last);
        const Projection& part = which == 0 ? h.p : which == 1 ? h.q : h.d;
        if (part.q && part.w)
            tile.project(last, h, part, first_n, first_r, dynamic);
        else if (part.q)
            read(last, grid, h, part, first_n, first_r);
    }

    constexpr int SHIFT = sizeof(T) == 8 ? 3 : 2;
    bool vectors = multiple(h.pitch, W);
    auto write = [&](void* base, int64_t n, int64_t r, int count, T(&v)[W]) {
        if (base)
            store_elements<T, W>(base, n * h.pitch + r, 1, count, sizeof(T) == 8 ? F64 : F32, false,
                                 vectors && aligned_for_vectors(base, SHIFT, W), v);
    };
    T lambda[COLUMNS];
#pragma unroll
    for (int l = 0; l < COLUMNS; l++) {
        int64_t r = first_r + grid.lane(l / W) + l % W;
        lambda[l] = h.lambda && r < h.r ? load_element(h.lambda, r * h.lambda_r, h.lambda_type, T()) : T(1);
    }
#pragma unroll 1
    for (int m = 0; m < ROWS; m++) {
        if (m) {
#pragma unroll
            for (int p = 0; p < PROJECTIONS; p++) next_row(t[p]);
        }
        int64_t n = first_n + grid.row(m);
        if (n >= h.n) continue;
#pragma unroll
        for (int l = 0; l < COLUMNS; l += W) {
            int64_t r = first_r + grid.lane(l / W);
            int count = h.r - r < W ? int(h.r - r) : W;
            T out[3][W];
#pragma unroll
            for (int e = 0; e < W; e++) {
                T p = t[0][0][l + e], q = t[1][0][l + e];
                out[0][e] = p, out[1][e] = q, out[2][e] = p * q * lambda[l + e];
            }
            write(h.out_p, n, r, count, out[0]);
            write(h.out_q, n, r, count, out[1]);
            write(h.out_h, n, r, count, out[2]);
            if constexpr (PROJECTIONS == 3) {
#pragma unroll
                for (int e = 0; e < W; e++) {
                    T p = t[0][0][l + e], q = t[1][0][l + e], d = t[2][0][l + e];
                    out[0][e] = d * q * lambda[l + e], out[1][e] = d * p * lambda[l + e], out[2][e] = d * p * q;
                }
                write(h.out_dp, n, r, count, out[0]);
                write(h.out_dq, n, r, count, out[1]);
                write(h.out_dl, n, r, count, out[2]);
            }
        }
    }
}

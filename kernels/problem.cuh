// What the host passes to every kernel, by value. src/cuda/problem.rs has the same structs with the same names; a test
// compares their sizes and offsets with what the kernels report.
//
// All strides and lengths count elements and are 64-bit. A length may be 0; a stride may be 0 or negative.
//
// Rows. The batch n of an operand has two levels, because a shared context has: row n of z [G, I] and x [G, M, J] is
// (n / per, n % per) with per = M, and lies at (n / per)·outer + (n % per)·inner. z has inner = 0. A plain batch has
// per = N, outer = 0.
#pragma once
#include <cstdint>

enum Type : int32_t { F32 = 0, F64 = 1, F16 = 2, BF16 = 3 };

struct Rows {
    int64_t outer, inner;
};

// One term of a contraction:   out[n][a] += Σ_b p[n][b] Σ_c w[a][b][c] q[n][b][c]
//
//   y of W:  a = k, b = i, c = j, p = z, q = x (q.b = 0)      dz of W:  a = i, b = k, c = j, p = g, q = x
//   dx of W: a = j, b = k, c = i, p = g, q = z                 V x:      slices = 1, p absent, q = x
//   zᵀdW′:   a = i, b = k, c = j, p absent, q = dW′ (q.b ≠ 0)
//
// The scale p multiplies the accumulators of a slice b, not the operand: products stay exact to the accumulator's type
// when w and q are f16, bf16 or tf32, and only one rounding is added.
struct Segment {
    const void* w;  // [a][b][c]
    int64_t w_a, w_b, w_c, w_batch;
    const void* q;  // [n][b][c]
    Rows q_n;
    int64_t q_b, q_c, q_batch;
    const void* p;  // [n][b]; null: ones
    Rows p_n;
    int64_t p_b, p_batch;
    int64_t slices, depth;  // lengths of b and c
    Type w_type, q_type, p_type;
    int32_t pad;
};

constexpr int SEGMENTS = 4;

// out[n][a] (+)= Σ segments + bias[n][a], for each of `batches` independent problems of one shape.
struct Contract {
    int64_t n, per, lanes;  // rows; rows of a group; length of a
    int64_t batches;
    Segment segment[SEGMENTS];
    const void* bias;  // [n][a]; null: none
    Rows bias_n;
    int64_t bias_a, bias_batch;
    void* out;  // [n][a]
    Rows out_n;
    int64_t out_a, out_batch;
    int32_t segments;
    Type bias_type, out_type;
    int32_t add;  // 1: out is read and added to; 0: out is never read
    // Where one tile's depth is cut for more blocks: `splits` parts of the slices and depths of all segments in their
    // order, each leaves its sums in partial[split][tile], and the last block to arrive, by `arrived[tile]`, adds them
    // in the order of the splits and sets arrived[tile] back to 0.
    int32_t splits;
    // A multiple of BK, or 0: the depth of q that has room in shared memory. Segments with q.b = 0 and a depth of at
    // most this keep their tile of q there over all slices; the launch gives the bytes (see contract.cuh).
    int32_t resident;
    void* partial;
    uint32_t* arrived;
};

// Several contractions in one launch. Blocks 0..blocks[0] work on problem 0, the next up to blocks[1] on problem 1, …
constexpr int CONTRACTS = 3;
struct Contracts {
    Contract problem[CONTRACTS];
    int64_t blocks[CONTRACTS];  // running sums
    int32_t count, pad;
};

// Sums over the batch:  out[k][i][j] (+)= scale[j] · Σ_n s[n][k] p[n][i] q[n][j]
//
//   dW: s = g, p = z, q = x       dU: s = g, q = z, i = 1, p absent       db: s = g, i = j = 1, p and q absent
//   dB of CP: s = z, q = dP       dλ: k = i = 1, s and p absent, q = dH⊙P⊙Q
struct Gram {
    int64_t n, per;  // depth; rows of a group
    int64_t k, i, j;
    int64_t batches;
    const void* s;  // [n][k]; null: ones, as are p and q
    Rows s_n;
    int64_t s_k, s_batch;
    const void* p;  // [n][i]
    Rows p_n;
    int64_t p_i, p_batch;
    const void* q;  // [n][j]
    Rows q_n;
    int64_t q_j, q_batch;
    const void* scale;  // [j]; null: ones
    int64_t scale_j;
    void* out;  // [k][i][j]
    int64_t out_k, out_i, out_j, out_batch;
    Type s_type, p_type, q_type, scale_type, out_type;
    int32_t add;
    int32_t splits, pad;  // of n, as in Contract
    void* partial;
    uint32_t* arrived;
};

constexpr int GRAMS = 8;
struct Grams {
    Gram problem[GRAMS];
    int64_t blocks[GRAMS];
    int32_t count, pad;
};

// One projection of CP:  t[n][r] = Σ_c q[n][c] w[c][r]      P = zB, Q = xC, D = gA
struct Projection {
    const void* q;  // [n][c]; with w null: the projection itself, [n][r], computed before; null: not needed
    Rows q_n;
    int64_t q_c;
    const void* w;  // [c][r]
    int64_t w_c, w_r;
    int64_t depth;
    Type q_type, w_type;
};

// The hidden layer of CP, H = P⊙Q⊙λ, and what its gradient needs. Each output that is not null is written, in the
// accumulator's type, [n][r] with `pitch` elements between rows.
struct Hidden {
    int64_t n, per, r;
    Projection p, q, d;  // d.q null: P and Q alone are projected
    const void* lambda;  // [r]; null: ones
    int64_t lambda_r;
    Type lambda_type;
    int32_t pad;
    int64_t pitch;
    void *out_p, *out_q;    // P, Q
    void* out_h;            // P⊙Q⊙λ
    void *out_dp, *out_dq;  // D⊙Q⊙λ, D⊙P⊙λ
    void* out_dl;           // D⊙P⊙Q
};

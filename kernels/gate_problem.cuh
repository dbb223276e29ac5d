// What the host passes to the kernels of gate.cuh, by value: as problem.cuh, in a file of its own because no other kernel has it.
#pragma once
#include "problem.cuh"

// Components of rows: [g][m][r], rows m of groups g. Null: absent.
struct Plane {
    void* at;
    Rows n;
    int64_t r;  // distance between components
    Type type;
    int32_t add;  // of results, as in Contract
};

// What products of components work on. The rows m of a group are cut into `parts`, for more threads; `lanes` is a power of 2.
struct Extent {
    int64_t groups, each, r;
    int64_t parts, rows;  // rows m of a part
    int64_t chunks;       // of all groups' parts: blocks for one tile of components
    int32_t lanes;        // threads of a block for one row
    int32_t pad;
};

// Diagonal cores:  out[g][m][r] (+)= p[g][r] q[g][m][r] s[r] + c[g][m][r]
//
//   y = d⊙z⊙x + b: p = z, q = x, s = d, c = b      H: p = P, q = Q      a sum as it is stored: q alone
struct Gate {
    Extent extent;
    Plane p, q, c;  // absent: ones; of c zeros. p has one row a group
    Plane s;
    Plane out;
};

// Their gradients, for d[g][m][r] in the products:
//
//   of_p[g][r] (+)= Σ_m d q s     of_q[g][m][r] (+)= d p s     h[g][m][r] = p q s     of_s[r] = Σ_gm d p q
struct GateBack {
    Extent extent;
    Plane p, q, d, s;
    Plane of_p[2];  // two destinations of the same; of several parts [part][g][r] instead, n.inner from part to part
    Plane of_q[2];  // written before of_p: both may add to the same elements, where a group has one row
    Plane h;
    Plane of_s;  // [chunk][r]: each block's own sum
};

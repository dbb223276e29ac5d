//! Sums over the batch: gradients of weights (see kernels/problem.cuh).
//!
//! | result | k | i | j | s, p, q |
//! |---|---|---|---|---|
//! | dW | k | i | j | g, z, x |
//! | dU, dV | k | – | i, j | g, –, z or x |
//! | db | – | – | k | –, –, g |

use super::contract::Batch;
use super::operand::{Layer, Matrix, Operand, Output, Outputs};
use super::problem::{Gram, length};

impl Gram {
    /// [k][i][j] of `batches` problems.
    pub(super) fn new(Batch { n, per }: Batch, [k, i, j]: [usize; 3], batches: usize) -> Gram {
        Gram {
            n: length(n),
            per: length(per),
            k: length(k),
            i: length(i),
            j: length(j),
            batches: length(batches),
            splits: 1,
            ..Gram::default()
        }
    }

    pub(super) fn s(self, s: Matrix) -> Gram {
        Gram { s: s.address, s_n: s.rows, s_k: s.column, s_batch: s.batch, s_type: s.kind, ..self }
    }

    pub(super) fn p(self, p: Matrix) -> Gram {
        Gram { p: p.address, p_n: p.rows, p_i: p.column, p_batch: p.batch, p_type: p.kind, ..self }
    }

    pub(super) fn q(self, q: Matrix) -> Gram {
        Gram { q: q.address, q_n: q.rows, q_j: q.column, q_batch: q.batch, q_type: q.kind, ..self }
    }

    /// Where the results go: [k][i][j], and the distance between problems.
    pub(super) fn to(self, to: Operand<3>, batch: i64, add: bool) -> Gram {
        let [out_k, out_i, out_j] = to.strides;
        let (out, out_type, add) = (to.address, to.kind, i32::from(add));
        Gram { out, out_k, out_i, out_j, out_batch: batch, out_type, add, ..self }
    }
}

/// dW [K, I, J] of dense weights. The axis along which it is contiguous is the columns.
pub(super) fn dw(batch: Batch, [k, i, j]: [usize; 3], [g, z, x]: [Matrix; 3], to: Output<3>) -> Gram {
    let Output { to: Operand { address, strides: [sk, si, sj], kind }, add } = to;
    let along = |strides: [i64; 3]| Operand { address, strides, kind };
    if sj.abs() != 1 && si.abs() == 1 {
        Gram::new(batch, [k, j, i], 1).s(g).p(x).q(z).to(along([sk, sj, si]), 0, add)
    } else if sj.abs() != 1 && sk.abs() == 1 {
        Gram::new(batch, [i, j, k], 1).s(z).p(x).q(g).to(along([si, sj, sk]), 0, add)
    } else {
        Gram::new(batch, [k, i, j], 1).s(g).p(z).q(x).to(to.to, 0, add)
    }
}

/// dW, dU, dV and db.
pub(super) fn weights<const D: usize>(
    batch: Batch,
    layer: &Layer,
    [z, x, g]: [Matrix; 3],
    to: &Outputs<D>,
) -> [Option<Gram>; 4] {
    let [k, i, j] = [layer.k, layer.i, layer.j];
    [
        to.w.map(|to| dw(batch, [k, i, j], [g, z, x], to)),
        to.u.map(|to| outer(batch, (k, g), (i, z), to)),
        to.v.map(|to| outer(batch, (k, g), (j, x), to)),
        to.b.map(|to| total(batch, (k, g), to)),
    ]
}

/// Σ_n rows[n][a] columns[n][b].
pub(super) fn outer(batch: Batch, (a, rows): (usize, Matrix), (b, columns): (usize, Matrix), to: Output<2>) -> Gram {
    let Output { to: Operand { address, strides: [sa, sb], kind }, add } = to;
    let ((a, rows, sa), (b, columns, sb)) = if sb.abs() != 1 && sa.abs() == 1 {
        ((b, columns, sb), (a, rows, sa))
    } else {
        ((a, rows, sa), (b, columns, sb))
    };
    let to = Operand { address, strides: [sa, 0, sb], kind };
    Gram::new(batch, [a, 1, b], 1).s(rows).q(columns).to(to, 0, add)
}

/// Σ_n rows[n][a].
pub(super) fn total(batch: Batch, (a, rows): (usize, Matrix), to: Output<1>) -> Gram {
    let Output { to: Operand { address, strides: [sa], kind }, add } = to;
    Gram::new(batch, [1, 1, a], 1).q(rows).to(Operand { address, strides: [0, 0, sa], kind }, 0, add)
}

/// Zeros: sums of nothing.
pub(super) fn zeros(shape: [usize; 3], to: Operand<3>) -> Gram {
    Gram::new(Batch::plain(0), shape, 1).to(to, 0, false)
}

//! CP: P = zB, Q = xC and D = gA of all rows by one kernel, whose products are the operands of the others.
//!
//! ```text
//!   forward    hidden: H = P⊙Q⊙λ     contract: y = HAᵀ + zUᵀ + xVᵀ + b
//!   backward   hidden: H, dP = D⊙Q⊙λ, dQ = D⊙P⊙λ, D⊙P⊙Q
//!              contract: dz = dP Bᵀ + gU, dx = dQ Cᵀ + gV     gram: dA = gᵀH, dB = zᵀdP, dC = xᵀdQ, dλ = Σ D⊙P⊙Q
//! ```
//!
//! The hidden layers are of blocks of rows (blocks.rs).

use super::blocks::Blocks;
use super::contract::{Batch, Cube, inputs, linear, linear_terms, sum};
use super::gram;
use super::operand::{Factors, Layer, Matrix, Operand, Output, Outputs};
use super::problem::{Address, Hidden, Projection, Rows, Segment, Type, bytes, length};
use super::recorder::Recorder;
use crate::Result;

/// P and Q that were computed before, with their distance between rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) p: Address,
    pub(super) q: Address,
    pub(super) pitch: usize,
}

impl Kept {
    /// From row `first` on.
    pub(super) fn after(self, first: usize, kind: Type) -> Kept {
        let distance = (first * self.pitch * bytes(kind)) as Address;
        Kept { p: self.p + distance, q: self.q + distance, ..self }
    }
}

/// Distance between rows of the hidden layer: whole vectors of 16 bytes, aligned.
pub(super) fn pitch(rank: usize) -> usize {
    rank.next_multiple_of(16)
}

/// Bytes of a row of `count` hidden layers.
pub(super) fn row_bytes(layer: &Layer, factors: &Factors, count: usize) -> usize {
    pitch(factors.r).saturating_mul(count * bytes(layer.kinds[1]))
}

/// An address that is aligned and not 0, of memory that is not accessed.
const SOMEWHERE: Address = 256;

/// `q` projected by `w` [c, R].
pub(super) fn projection(q: Matrix, w: Operand<2>, depth: usize) -> Projection {
    // An address of 0 says that there is none, but an operand without elements may have that too.
    Projection {
        q: q.address.max(SOMEWHERE),
        q_n: q.rows,
        q_c: q.column,
        q_type: q.kind,
        w: w.address.max(SOMEWHERE),
        w_c: w.strides[0],
        w_r: w.strides[1],
        w_type: w.kind,
        depth: length(depth),
    }
}

/// A projection that is there: [n][r].
pub(super) fn projected(q: Matrix) -> Projection {
    Projection { q: q.address, q_n: q.rows, q_c: q.column, q_type: q.kind, ..Projection::default() }
}

/// What the hidden layer of a batch writes, where it is asked for: rows of `pitch` elements.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) p: Address,
    pub(super) q: Address,
    pub(super) h: Address,
    pub(super) dp: Address,
    pub(super) dq: Address,
    pub(super) dl: Address,
}

/// Enqueues the hidden layer. `d` is the third projection, for gradients.
pub(super) fn hidden(
    recorder: &mut Recorder<'_>,
    factors: &Factors,
    batch: Batch,
    [p, q, d]: [Projection; 3],
    pitch: usize,
    to: Written,
) -> Result<()> {
    let lambda = factors.lambda;
    recorder.hidden(&Hidden {
        n: length(batch.n),
        per: length(batch.per),
        r: length(factors.r),
        p,
        q,
        d,
        lambda: lambda.map_or(0, |lambda| lambda.address),
        lambda_r: lambda.map_or(0, |lambda| lambda.strides[0]),
        lambda_type: lambda.map_or(Type::F32, |lambda| lambda.kind),
        pitch: length(pitch),
        out_p: to.p,
        out_q: to.q,
        out_h: to.h,
        out_dp: to.dp,
        out_dq: to.dq,
        out_dl: to.dl,
        ..Hidden::default()
    })
}

/// Rows of scratch, in the accumulator's type.
pub(super) fn rows(address: Address, pitch: usize, kind: Type) -> Matrix {
    Matrix { address, rows: Rows { outer: 0, inner: pitch as i64 }, column: 1, batch: 0, kind }
}

/// The same as rows of groups of `per`.
pub(super) fn grouped_rows(address: Address, pitch: usize, per: usize, kind: Type) -> Matrix {
    let inner = pitch as i64;
    Matrix { rows: Rows { outer: inner.wrapping_mul(length(per)), inner }, ..rows(address, pitch, kind) }
}

/// H of a batch in scratch, and its term of y.
pub(super) fn forward_term(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    batch: Batch,
    [p, q]: [Projection; 2],
    keep: Option<Kept>,
) -> Result<Segment> {
    let kind = layer.kinds[1];
    let pitch = keep.map_or_else(|| pitch(factors.r), |keep| keep.pitch);
    let h = recorder.scratch(&[batch.n, pitch], kind)?;
    let to = Written { h, p: keep.map_or(0, |keep| keep.p), q: keep.map_or(0, |keep| keep.q), ..Written::default() };
    hidden(recorder, factors, batch, [p, q, Projection::default()], pitch, to)?;
    Ok(linear(Cube::matrix(factors.a, 0), factors.r, grouped_rows(h, pitch, batch.per, kind)))
}

/// Rows times a factor [c, R], [n][pitch].
pub(super) fn components(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    (factor, depth, r): (Operand<2>, usize, usize),
    batch: Batch,
    rows: Matrix,
) -> Result<Matrix> {
    let (pitch, kind) = (pitch(r), layer.kinds[1]);
    let to = grouped_rows(recorder.scratch(&[batch.n, pitch], kind)?, pitch, batch.per, kind);
    let term = linear(Cube::matrix(factor, 1), depth, rows);
    sum(recorder, batch, r, &[Some(term)], None, (to, false))?;
    Ok(to)
}

/// P = zB of each group.
pub(super) fn of_groups(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    batch: Batch,
    z: Matrix,
) -> Result<Matrix> {
    components(recorder, layer, (factors.b, layer.i, factors.r), batch, z)
}

/// A row of each group, for all rows of the group.
pub(super) fn for_its_rows(groups: Matrix) -> Matrix {
    Matrix { rows: Rows { outer: groups.rows.inner, inner: 0 }, ..groups }
}

/// y of a batch. P and Q are written where they are to be kept.
pub(super) fn forward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    n: usize,
    [z, x]: [Operand<2>; 2],
    y: Output<2>,
    keep: Option<Kept>,
) -> Result<()> {
    for (first, n) in Blocks::new(n, row_bytes(layer, factors, 1))?.iter() {
        let [z, x] = [z, x].map(|of| of.after(0, first).matrix());
        let (y, keep) = (y.after(0, first), keep.map(|keep| keep.after(first, layer.kinds[1])));
        let projections = [projection(z, factors.b, layer.i), projection(x, factors.c, layer.j)];
        let mark = recorder.mark();
        let h = forward_term(recorder, layer, factors, Batch::plain(n), projections, keep)?;
        let ([u, v], bias) = (linear_terms(layer, z, x), layer.b.map(Operand::<1>::row));
        sum(recorder, Batch::plain(n), layer.k, &[Some(h), u, v], bias, (y.to.matrix(), y.add))?;
        recorder.release(mark);
    }
    Ok(())
}

/// What the gradients of factors and inputs are made of, of all rows: H, dP, dQ and D⊙P⊙Q, those that are needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub(super) h: Matrix,
    pub(super) dp: Matrix,
    pub(super) dq: Matrix,
    pub(super) dl: Matrix,
}

/// Which of them are needed: dP, dQ, H and D⊙P⊙Q.
pub(super) type Needed = [bool; 4];

/// Enqueues the hidden layer of a backward pass.
pub(super) fn backward_hidden(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    batch: Batch,
    [p, q, d]: [Projection; 3],
    [dp, dq, h, dl]: Needed,
) -> Result<Sums> {
    // P is a factor of all but dP, and so on.
    let some = |needed: bool, projection| if needed { projection } else { Projection::default() };
    let projections = [some(dq || h || dl, p), some(dp || h || dl, q), some(dp || dq || dl, d)];
    let (pitch, kind) = (pitch(factors.r), layer.kinds[1]);
    let mut room = |needed: bool| if needed { recorder.scratch(&[batch.n, pitch], kind) } else { Ok(0) };
    let to = Written { dp: room(dp)?, dq: room(dq)?, h: room(h)?, dl: room(dl)?, ..Written::default() };
    if dp || dq || h || dl {
        hidden(recorder, factors, batch, projections, pitch, to)?;
    }
    let of = |address| grouped_rows(address, pitch, batch.per, kind);
    Ok(Sums { h: of(to.h), dp: of(to.dp), dq: of(to.dq), dl: of(to.dl) })
}

/// All gradients of a batch: of its inputs in one launch after the hidden layer, of weights in another.
pub(super) fn backward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    n: usize,
    operands: [Operand<2>; 3],
    saved: Option<Kept>,
    to: &Outputs<2>,
) -> Result<()> {
    let (kind, k, r) = (layer.kinds[1], layer.k, factors.r);
    let needed = [
        to.z.is_some() || to.tied.is_some() || to.cp_b.is_some(),
        to.x.is_some() || to.tied.is_some() || to.cp_c.is_some(),
        to.cp_a.is_some(),
        to.lambda.is_some(),
    ];
    let hidden_layers = needed.into_iter().filter(|&needed| needed).count();
    for (first, n) in Blocks::new(n, row_bytes(layer, factors, hidden_layers))?.iter() {
        let [z, x, g] = operands.map(|of| of.after(0, first).matrix());
        let (to, batch, mark) = (to.after(first), Batch::plain(n), recorder.mark());
        let [p, q] = match saved.map(|kept| kept.after(first, kind)) {
            Some(kept) => [kept.p, kept.q].map(|address| projected(rows(address, kept.pitch, kind))),
            None => [projection(z, factors.b, layer.i), projection(x, factors.c, layer.j)],
        };
        let sums = backward_hidden(recorder, layer, factors, batch, [p, q, projection(g, factors.a, k)], needed)?;
        let dz = [Some(input_term(factors.b, r, sums.dp)), layer.u.map(|u| linear(Cube::matrix(u, 1), k, g))];
        let dx = [Some(input_term(factors.c, r, sums.dq)), layer.v.map(|v| linear(Cube::matrix(v, 1), k, g))];
        inputs(recorder, batch, [(&dz, layer.i), (&dx, layer.j)], [to.z, to.x, to.tied])?;
        let [w, u, v, b] = gram::weights(batch, layer, [z, x, g], &to);
        let factors = [
            to.cp_a.map(|to| gram::outer(batch, (k, g), (r, sums.h), to)),
            to.cp_b.map(|to| gram::outer(batch, (layer.i, z), (r, sums.dp), to)),
            to.cp_c.map(|to| gram::outer(batch, (layer.j, x), (r, sums.dq), to)),
            to.lambda.map(|to| gram::total(batch, (r, sums.dl), to)),
        ];
        let [a, b_of_cp, c, lambda] = factors;
        recorder.gram(&[w, u, v, b, a, b_of_cp, c, lambda].map(Option::unwrap_or_default))?;
        recorder.release(mark);
    }
    Ok(())
}

/// dP Bᵀ or dQ Cᵀ.
pub(super) fn input_term(factor: Operand<2>, rank: usize, of: Matrix) -> Segment {
    linear(Cube::matrix(factor, 0), rank, of)
}

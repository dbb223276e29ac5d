//! Gradients of all pairs: with g the gradient of y,
//!
//! ```text
//!   dW′[p,s,k][d] = Σ_t g[p,s,t,k] X[p,t][d]           rows (s, k), lanes d      of which dz, dW, and of CP dA, dB, dλ are made
//!   dX[p,t][d]    = Σ_sk g[p,s,t,k] W′[p,s,k][d]       rows t, lanes d           dx; of CP dQ, of which dx and dC are made
//!   db′[p,s,k]    = Σ_t g[p,s,t,k]                     rows (s, k), one lane     of which those of U and b are made
//! ```
//!
//! Each p is a problem of its own; blocks as forward.

use super::{InBlocks, Pairs, Span, ones, row_major};
use crate::Result;
use crate::cuda::contract::{Batch, Cube, linear as term, segment};
use crate::cuda::cp::{grouped_rows, input_term, pitch, projected};
use crate::cuda::gram::{outer, total};
use crate::cuda::operand::{Factors, Form, Matrix, Operand, Output, Outputs};
use crate::cuda::problem::{Contract, Projection, Rows, bytes};
use crate::cuda::recorder::Recorder;
use crate::cuda::shared::{in_groups, needed_of_components, of_components, of_groups};

/// All that are wanted, those of W times `scale`.
pub(super) fn backward(recorder: &mut Recorder<'_>, pairs: Pairs, to: &Outputs<3, 3>, scale: f64) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let (pairs, swapped) = pairs.oriented();
    let to = if swapped { swap(to) } else { *to };
    let kind = pairs.layer.kinds[1];
    let scale = match scale {
        1.0 => None,
        scale => Some(Matrix { address: recorder.scalar(scale, kind)?, kind, ..Matrix::default() }),
    };
    dense(recorder, &pairs, &to, scale)?;
    if let Form::Cp(factors) = pairs.layer.form {
        of_cp(recorder, &pairs, &factors, &to, scale)?;
    }
    // What comes later is added. V is in W′ of dense W.
    let later = !matches!(pairs.layer.form, Form::Absent);
    let dz = to.z.filter(|_| pairs.layer.u.is_some()).map(|to| to.later(later));
    linear(recorder, &pairs, (dz, to.u, to.b))?;
    let dx = to.x.filter(|_| pairs.layer.v.is_some() && !matches!(pairs.layer.form, Form::Dense(_)));
    linear(recorder, &pairs.swap(), (dx.map(|to| to.later(later)), to.v, None))
}

fn swap(to: &Outputs<3, 3>) -> Outputs<3, 3> {
    let Outputs { z, x, w, u, v, cp_b, cp_c, .. } = *to;
    Outputs { z: x, x: z, w: w.map(|w| w.permute([0, 2, 1])), u: v, v: u, cp_b: cp_c, cp_c: cp_b, ..*to }
}

/// Those of a block. What blocks have in common is added up.
fn part(to: &Outputs<3, 3>, Span { p, s, t }: Span) -> Outputs<3, 3> {
    let later = Outputs { z: None, x: None, ..to.after(usize::from(p.0 > 0 || s.0 > 0)) };
    Outputs {
        z: to.z.map(|to| to.after(0, p.0).after(1, s.0)),
        x: to.x.map(|to| to.after(0, p.0).after(1, t.0).later(s.0 > 0)),
        cp_c: later.cp_c.map(|to| to.later(t.0 > 0)),
        ..later
    }
}

fn rows(to: Option<Output<3>>) -> Option<(Matrix, bool)> {
    to.map(|Output { to, add }| (to.grouped(), add))
}

/// dz, dx and dW of dense W; dW alone of no W.
fn dense(recorder: &mut Recorder<'_>, pairs: &Pairs, to: &Outputs<3, 3>, scale: Option<Matrix>) -> Result<()> {
    let layer = &pairs.layer;
    let is_dense = matches!(layer.form, Form::Dense(_));
    let (gradient, back) = (to.w.is_some() || (is_dense && to.z.is_some()), is_dense && to.x.is_some());
    if !gradient && !back {
        return Ok(());
    }
    let row = layer.k.saturating_mul(layer.j).saturating_mul(bytes(layer.kinds[1]));
    for span in InBlocks::new(pairs.sizes, [row, 0])?.of_z() {
        let (pairs, to, mark) = (pairs.part(span), part(to, span), recorder.mark());
        let (batch, [_, s, t]) = (pairs.rows_of_z(), pairs.sizes);
        if gradient {
            let weights = pairs.scratch(recorder, [s, layer.k, layer.j])?;
            pairs.gradient(recorder, pairs.x, layer.j, scale, (weights, false))?;
            let [_, row, k, j] = weights.strides;
            let by_row = Operand { address: weights.address, strides: [row, k, j], kind: weights.kind };
            let to_z = rows(to.z.filter(|_| is_dense));
            of_groups(recorder, layer, (batch, pairs.z.grouped()), (Some(by_row), None), (to_z, to.w, None))?;
            recorder.release(mark);
        }
        if let Some(Output { to, add }) = to.x.filter(|_| is_dense) {
            let weights = pairs.weights(recorder, None)?;
            pairs.back(recorder, weights, (t, layer.j), scale, (to.batches(), add))?;
        }
        recorder.release(mark);
    }
    Ok(())
}

/// Those of CP factors and their inputs.
fn of_cp(
    recorder: &mut Recorder<'_>,
    pairs: &Pairs,
    factors: &Factors,
    to: &Outputs<3, 3>,
    scale: Option<Matrix>,
) -> Result<()> {
    let (layer, r, kind) = (&pairs.layer, factors.r, pairs.layer.kinds[1]);
    let with_h = to.x.is_some() || to.cp_c.is_some();
    let needed @ [dp, dq, _, dl] = needed_of_components(to.z.is_some(), to, with_h);
    let gradient = dp || dq || dl;
    if !gradient && !with_h {
        return Ok(());
    }
    let pitch = pitch(r);
    let component = pitch.saturating_mul(bytes(kind));
    // dW′ and what is needed of each of its rows; P and dP.
    let hidden_layers = usize::from(gradient) + needed.into_iter().filter(|&needed| needed).count();
    let of_z = component.saturating_mul(layer.k.saturating_mul(hidden_layers).saturating_add(2));
    let blocks = InBlocks::new(pairs.sizes, [of_z, component])?;
    for span in blocks.of_z() {
        let (of_z, to_z, mark) = (pairs.part(span), part(to, span), recorder.mark());
        let mut d = Projection::default();
        if gradient {
            let address = recorder.scratch(&[of_z.rows_of_z().n, layer.k, pitch], kind)?;
            let weights = Operand { address, strides: row_major([of_z.sizes[1], layer.k, pitch]), kind };
            for span in blocks.of_x(span) {
                let (pairs, mark) = (pairs.part(span), recorder.mark());
                let x = pairs.projected_x(recorder, factors)?;
                pairs.gradient(recorder, x, r, scale, (weights, span.t.0 > 0))?;
                recorder.release(mark);
            }
            d = projected(grouped_rows(address, pitch, layer.k, kind));
        }
        let rows_of_z = (of_z.rows_of_z(), of_z.z.grouped());
        let h =
            of_components(recorder, (layer, factors), rows_of_z, (d, needed), |_| None, (rows(to_z.z), None), &to_z)?;
        for span in blocks.of_x(span).filter(|_| with_h) {
            let (pairs, to, mark) = (pairs.part(span), part(to, span), recorder.mark());
            let (batch, [_, _, t]) = (pairs.rows_of_x(), pairs.sizes);
            let dq = grouped_rows(recorder.scratch(&[batch.n, pitch], kind)?, pitch, t, kind);
            let problems = Matrix { batch: dq.rows.outer, rows: Rows { outer: 0, ..dq.rows }, ..dq };
            pairs.back(recorder, of_z.by_output(h), (t, r), scale, (problems, false))?;
            if let Some((to, add)) = rows(to.x) {
                let c = input_term(factors.c, r, dq);
                recorder.contract(&[Contract::new(batch, layer.j, 1).plus(Some(c)).to(to, add)])?;
            }
            if let Some(to) = to.cp_c {
                recorder.gram(&[outer(batch, (layer.j, pairs.x.grouped()), (r, dq), to)])?;
            }
            recorder.release(mark);
        }
        recorder.release(mark);
    }
    Ok(())
}

impl Pairs {
    /// dW′ of g and X, whose depth is `d`.
    fn gradient(
        &self,
        recorder: &mut Recorder<'_>,
        x: Operand<3>,
        d: usize,
        scale: Option<Matrix>,
        (to, add): (Operand<4>, bool),
    ) -> Result<()> {
        let ([p, _, t], [batch, row, column]) = (self.sizes, x.strides);
        let x = Cube { address: x.address, a: column, b: 0, c: row, batch, kind: x.kind };
        let g = self.y.permute([0, 1, 3, 2]).problems();
        let sum = Contract::new(self.outputs(), d, p).plus(Some(term(x, t, g))).scaled(scale);
        recorder.contract(&[sum.to(to.problems(), add)])
    }

    /// dX of g and W′, rows t and lanes d. The longer of the axes s and k is the depth.
    fn back(
        &self,
        recorder: &mut Recorder<'_>,
        weights: Operand<4>,
        (t, d): (usize, usize),
        scale: Option<Matrix>,
        (to, add): (Matrix, bool),
    ) -> Result<()> {
        let ([p, s, _], k) = (self.sizes, self.layer.k);
        let ([g_p, g_s, g_t, g_k], [w_p, w_s, w_k, w_d]) = (self.y.strides, weights.strides);
        let steps = |slices: usize, depth: usize| slices as u128 * (depth as u128).next_multiple_of(16);
        let (lengths, of_g, of_w) = if steps(s, k) <= steps(k, s) {
            ([s, k], [g_s, g_k], [w_s, w_k])
        } else {
            ([k, s], [g_k, g_s], [w_k, w_s])
        };
        let weights = Cube { address: weights.address, a: w_d, b: of_w[0], c: of_w[1], batch: w_p, kind: weights.kind };
        let g = Operand { address: self.y.address, strides: [g_p, g_t, of_g[1]], kind: self.y.kind };
        let sum = segment(weights, lengths, None, (g.batches(), of_g[0]));
        recorder.contract(&[Contract::new(Batch::plain(t), d, p).plus(Some(sum)).scaled(scale).to(to, add)])
    }
}

/// Those of U and b, and dz of U, or with the sides exchanged of V.
pub(super) fn linear(
    recorder: &mut Recorder<'_>,
    pairs: &Pairs,
    (to_z, to_u, to_b): (Option<Output<3>>, Option<Output<2>>, Option<Output<1>>),
) -> Result<()> {
    let (layer, [k, i], kind) = (&pairs.layer, [pairs.layer.k, pairs.layer.i], pairs.layer.kinds[1]);
    if to_z.is_none() && to_u.is_none() && to_b.is_none() {
        return Ok(());
    }
    let ones = ones(recorder, pairs.y.kind)?;
    for span in InBlocks::new(pairs.sizes, [k.saturating_mul(bytes(kind)), 0])?.of_z() {
        let (pairs, mark, later) = (pairs.part(span), recorder.mark(), span.p.0 > 0 || span.s.0 > 0);
        let (batch, [p, s, t]) = (pairs.rows_of_z(), pairs.sizes);
        let address = recorder.scratch(&[batch.n, k], kind)?;
        let g = pairs.y.permute([0, 1, 3, 2]).problems();
        let sum = Contract::new(pairs.outputs(), 1, p).plus(Some(term(ones, t, g)));
        let to = Operand { address, strides: row_major([s, k, 1]), kind };
        recorder.contract(&[sum.to(to.problems(), false)])?;
        let db = in_groups(Operand { address, strides: [k as i64, 1], kind }.matrix(), batch);
        let z = pairs.z.grouped();
        if let (Some(Output { to, add }), Some(u)) = (to_z, layer.u) {
            let to = to.after(0, span.p.0).after(1, span.s.0).grouped();
            let u = term(Cube::matrix(u, 1), k, db);
            recorder.contract(&[Contract::new(batch, i, 1).plus(Some(u)).to(to, add)])?;
        }
        let sums = [
            to_u.map(|to| outer(batch, (k, db), (i, z), to.later(later))),
            to_b.map(|to| total(batch, (k, db), to.later(later))),
        ];
        recorder.gram(&sums.map(Option::unwrap_or_default))?;
        recorder.release(mark);
    }
    Ok(())
}

//! Shared contexts and generated layers: one z for M rows of x.
//!
//! ```text
//!   W′[g] = z[g]ᵀW + V, b′[g] = z[g]ᵀU + b     one contraction, each k a problem of its own; [G, K, J] and [G, K]
//!   y[g]  = x[g] W′[g]ᵀ + b′[g]                one contraction, each g a problem of its own; dx[g] = g[g] W′[g] likewise
//!   dW′[g] = g[g]ᵀ x[g], db′[g] = Σ g[g]       sums over the rows of each g, of which dz, dW and dU are made
//! ```
//!
//! W′ and dW′ are of blocks of groups that take at most `BLOCK_BYTES`.

use super::contract::{Batch, Cube, dx_terms, linear, linear_terms, segment, sum, terms};
use super::cp::{self, for_its_rows, projected, projection};
use super::gram::{outer, total};
use super::operand::{Factors, Form, Layer, Matrix, Operand, Output, Outputs};
use super::problem::{Contract, Gram, Rows, Type};
use super::recorder::{Recorder, bytes};
use crate::Result;

/// Of W′ or dW′ in scratch, unless one group has more.
const BLOCK_BYTES: usize = 256 << 20;

/// Row-major [G, K, J] in scratch, or an operand of that shape.
fn cube(address: u64, [k, j]: [usize; 2], kind: Type) -> Operand<3> {
    Operand { address, strides: [(k * j) as i64, j as i64, 1], kind }
}

fn square(address: u64, columns: usize, kind: Type) -> Operand<2> {
    Operand { address, strides: [columns as i64, 1], kind }
}

/// The operand from group `first` on.
fn from<const D: usize>(operand: Operand<D>, first: usize) -> Operand<D> {
    let distance = (first as i64).wrapping_mul(operand.strides[0]).wrapping_mul(bytes(operand.kind) as i64);
    Operand { address: operand.address.wrapping_add_signed(distance), ..operand }
}

fn output_from<const D: usize>(output: Output<D>, first: usize) -> Output<D> {
    Output { to: from(output.to, first), ..output }
}

/// Groups of a block, for W′ and dW′ of these sizes; and the blocks, of which there is one even without groups.
fn blocks(layer: &Layer, groups: usize) -> Result<impl Iterator<Item = (usize, usize)>> {
    let too_large = crate::Error::TooLarge { what: "generated weights" };
    let group = layer.k.checked_mul(layer.j).and_then(|len| len.checked_mul(bytes(layer.kinds[1]))).ok_or(too_large)?;
    let block = (BLOCK_BYTES / group.max(1)).clamp(1, groups.max(1));
    Ok((0..groups.max(1)).step_by(block).map(move |first| (first, block.min(groups - first))))
}

/// W′ of dense or absent W, as a problem whose problems are the outputs.
fn generate_weights(layer: &Layer, groups: usize, z: Operand<2>, to: Operand<3>) -> Contract {
    let w = match layer.form {
        Form::Dense(Operand { address, strides: [k, i, j], kind }) => {
            let w = Cube { address, a: j, b: 0, c: i, batch: k, kind };
            Some(linear(w, layer.i, z.matrix()))
        }
        _ => None,
    };
    let problem = Contract::new(Batch::plain(groups), layer.j, layer.k).plus(w);
    problem.bias(layer.v.map(Operand::one_a_batch)).to(to.batches_within(), false)
}

/// b′.
fn generate_bias(layer: &Layer, groups: usize, z: Operand<2>, to: Operand<2>) -> Contract {
    let u = layer.u.map(|u| linear(Cube::matrix(u, 0), layer.i, z.matrix()));
    let bias = layer.b.map(Operand::<1>::row);
    Contract::new(Batch::plain(groups), layer.k, 1).plus(u).bias(bias).to(to.matrix(), false)
}

/// W′ and b′ of each group.
pub(super) fn generate(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    groups: usize,
    z: Operand<2>,
    (weights, bias): (Operand<3>, Operand<2>),
) -> Result<()> {
    let b = generate_bias(layer, groups, z, bias);
    let Form::Cp(factors) = layer.form else {
        return recorder.contract(&[generate_weights(layer, groups, z, weights), b]);
    };
    // Of W′ the rows are (g, k), and Q is A.
    let mark = recorder.mark();
    let p = cp::of_groups(recorder, layer, &factors, groups, z)?;
    let batch = Batch::groups(groups, layer.k);
    let projections = [projected(for_its_rows(p)), projected(factors.a.in_each_group())];
    let h = cp::forward_term(recorder, layer, &factors, batch, projections, None)?;
    let term =
        super::problem::Segment { w: factors.c.address, w_a: factors.c.strides[0], w_c: factors.c.strides[1], ..h };
    let v = layer.v.map(Operand::in_each_group);
    let w = Contract::new(batch, layer.j, 1).plus(Some(term)).bias(v).to(weights.grouped(), false);
    recorder.contract(&[w, b])?;
    recorder.release(mark);
    Ok(())
}

/// y [G, M, K] of z [G, I] and x [G, M, J].
pub(super) fn forward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    [groups, each]: [usize; 2],
    (z, x): (Operand<2>, Operand<3>),
    y: Operand<3>,
) -> Result<()> {
    let batch = Batch::groups(groups, each);
    let bias = layer.b.map(Operand::<1>::row);
    match layer.form {
        Form::Cp(factors) => {
            let mark = recorder.mark();
            let p = match each {
                1 => projection(z.groups(), factors.b, layer.i),
                _ => projected(for_its_rows(cp::of_groups(recorder, layer, &factors, groups, z)?)),
            };
            let projections = [p, projection(x.grouped(), factors.c, layer.j)];
            let h = cp::forward_term(recorder, layer, &factors, batch, projections, None)?;
            let [u, v] = linear_terms(layer, z.groups(), x.grouped());
            sum(recorder, batch, layer.k, &[Some(h), u, v], bias, (y.grouped(), false))?;
            recorder.release(mark);
            Ok(())
        }
        Form::Dense(_) if each > 1 => {
            for (first, count) in blocks(layer, groups)? {
                let mark = recorder.mark();
                let (z, x, y) = (from(z, first), from(x, first), from(y, first));
                let (k, j, kind) = (layer.k, layer.j, layer.kinds[1]);
                let weights = cube(recorder.scratch(&[count, k, j], kind)?, [k, j], kind);
                let bias = match (layer.u, layer.b) {
                    (None, None) => None,
                    _ => Some(square(recorder.scratch(&[count, k], kind)?, k, kind)),
                };
                let mut problems = [generate_weights(layer, count, z, weights), Contract::default()];
                if let Some(bias) = bias {
                    problems[1] = generate_bias(layer, count, z, bias);
                }
                recorder.contract(&problems)?;
                let apply = Contract::new(Batch::plain(each), k, count).plus(Some(applied(weights, j, 1, x.batches())));
                recorder.contract(&[apply.bias(bias.map(Operand::one_a_batch)).to(y.batches(), false)])?;
                recorder.release(mark);
            }
            Ok(())
        }
        // With one row for each z there is nothing to be gained, and without W nothing to be generated.
        _ => sum(recorder, batch, layer.k, &terms(layer, z.groups(), x.grouped()), bias, (y.grouped(), false)),
    }
}

/// W′ [g][k][j] of each problem times its rows, with the lanes along axis `a`.
fn applied(weights: Operand<3>, depth: usize, a: usize, q: Matrix) -> super::problem::Segment {
    let Operand { address, strides, kind } = weights;
    linear(Cube { address, a: strides[a], b: 0, c: strides[3 - a], batch: strides[0], kind }, depth, q)
}

/// What the sums over the rows of each group make: dz, dW and dU, from dW′ (only for W) and db′.
fn of_groups(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    groups: usize,
    z: Operand<2>,
    (dw_, db): (Option<Operand<3>>, Option<Operand<2>>),
    to: (Option<Output<2>>, Option<Output<3>>, Option<Output<2>>),
) -> Result<()> {
    let (batch, [k, i, j]) = (Batch::plain(groups), [layer.k, layer.i, layer.j]);
    let (to_z, to_w, to_u) = to;
    if let Some(Output { to, add }) = to_z {
        let w = match (layer.form, dw_) {
            (Form::Dense(Operand { address, strides: [w_k, w_i, w_j], kind }), Some(dw)) => {
                let w = Cube { address, a: w_i, b: w_k, c: w_j, batch: 0, kind };
                let [group, output, column] = dw.strides;
                let rows = Matrix { rows: Rows { outer: 0, inner: group }, column, ..dw.batches() };
                Some(segment(w, [k, j], None, (Matrix { batch: 0, ..rows }, output)))
            }
            _ => None,
        };
        let u = layer.u.zip(db).map(|(u, db)| linear(Cube::matrix(u, 1), k, db.matrix()));
        recorder.contract(&[Contract::new(batch, i, 1).plus(w).plus(u).to(to.matrix(), add)])?;
    }
    let mut problems = [Gram::default(); 2];
    if let (Some(Output { to, add }), Some(dw)) = (to_w, dw_) {
        let [out_k, out_i, out_j] = to.strides;
        let to = Operand { strides: [0, out_i, out_j], ..to };
        problems[0] = Gram::new(batch, [1, i, j], k).p(z.matrix()).q(dw.batches_within()).to(to, out_k, add);
    }
    if let (Some(to), Some(db)) = (to_u, db) {
        problems[1] = outer(batch, (k, db.matrix()), (i, z.matrix()), to);
    }
    recorder.gram(&problems)
}

/// The gradients of [`forward`].
pub(super) fn backward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    [groups, each]: [usize; 2],
    (z, x, g): (Operand<2>, Operand<3>, Operand<3>),
    saved: Option<cp::Kept>,
    to: &Outputs<3>,
) -> Result<()> {
    let (k, j, kind) = (layer.k, layer.j, layer.kinds[1]);
    let batch = Batch::groups(groups, each);
    let rows = Batch::plain(each);
    // Sums over all rows.
    let mut problems = [Gram::default(); 2];
    if let Some(to) = to.v {
        problems[0] = outer(batch, (k, g.grouped()), (j, x.grouped()), to);
    }
    if let Some(to) = to.b {
        problems[1] = total(batch, (k, g.grouped()), to);
    }
    recorder.gram(&problems)?;
    let dense = matches!(layer.form, Form::Dense(_));
    let cp = match layer.form {
        Form::Cp(factors) => Some(factors),
        _ => None,
    };
    let needs_dw = to.w.is_some() || (dense && to.z.is_some());
    let needs_db = to.u.is_some() || (layer.u.is_some() && to.z.is_some());
    let dz_is_ours = cp.is_none();
    for (first, count) in blocks(layer, groups)? {
        let mark = recorder.mark();
        let (z, x, g) = (from(z, first), from(x, first), from(g, first));
        let mut sums = [Gram::default(); 2];
        let mut dw_ = None;
        if needs_dw {
            let to = cube(recorder.scratch(&[count, k, j], kind)?, [k, j], kind);
            let out = Operand { address: to.address, strides: [j as i64, 0, 1], kind };
            sums[0] = Gram::new(rows, [k, 1, j], count).s(g.batches()).q(x.batches()).to(out, to.strides[0], false);
            dw_ = Some(to);
        }
        let mut db = None;
        if needs_db && dz_is_ours {
            let to = square(recorder.scratch(&[count, k], kind)?, k, kind);
            sums[1] = sum_of_rows(rows, count, (k, g.batches()), to);
            db = Some(to);
        }
        recorder.gram(&sums)?;
        let later = |add: bool| add || first > 0;
        let to_z = to.z.filter(|_| dz_is_ours).map(|to| output_from(to, first));
        let to_w = to.w.map(|to| Output { add: later(to.add), ..to });
        let to_u = to.u.filter(|_| dz_is_ours).map(|to| Output { add: later(to.add), ..to });
        of_groups(recorder, layer, count, z, (dw_, db), (to_z, to_w, to_u))?;
        if let Some(to) = to.x.filter(|_| dense).map(|to| output_from(to, first)) {
            let weights = cube(recorder.scratch(&[count, k, j], kind)?, [k, j], kind);
            recorder.contract(&[generate_weights(layer, count, z, weights)])?;
            let term = applied(weights, k, 2, g.batches());
            recorder.contract(&[Contract::new(rows, j, count).plus(Some(term)).to(to.to.batches(), to.add)])?;
        }
        recorder.release(mark);
    }
    match cp {
        Some(factors) => backward_cp(recorder, layer, &factors, [groups, each], (z, x, g), saved, to),
        None if dense => Ok(()),
        None => {
            let terms = dx_terms(layer, g.grouped(), z.groups());
            let to = to.x.map(|to| (to.to.grouped(), to.add));
            to.map_or(Ok(()), |to| sum(recorder, batch, j, &terms, None, to))
        }
    }
}

/// Σ over the rows of each problem, [batch][column].
fn sum_of_rows(rows: Batch, batches: usize, (columns, of): (usize, Matrix), to: Operand<2>) -> Gram {
    let [batch, column] = to.strides;
    let to = Operand { address: to.address, strides: [0, 0, column], kind: to.kind };
    Gram::new(rows, [1, 1, columns], batches).q(of).to(to, batch, false)
}

fn backward_cp(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    factors: &Factors,
    [groups, each]: [usize; 2],
    (z, x, g): (Operand<2>, Operand<3>, Operand<3>),
    saved: Option<cp::Kept>,
    to: &Outputs<3>,
) -> Result<()> {
    let (k, i, j, r, kind) = (layer.k, layer.i, layer.j, factors.r, layer.kinds[1]);
    let mark = recorder.mark();
    let batch = Batch::groups(groups, each);
    let [p, q] = match saved {
        Some(kept) => [kept.p, kept.q].map(|address| projected(cp::grouped_rows(address, kept.pitch, batch.per, kind))),
        None => {
            let p = cp::of_groups(recorder, layer, factors, groups, z)?;
            [projected(for_its_rows(p)), projection(x.grouped(), factors.c, j)]
        }
    };
    let d = projection(g.grouped(), factors.a, k);
    let with_z = to.z.is_some() || to.cp_b.is_some();
    let needed = [with_z, to.x.is_some() || to.cp_c.is_some(), to.cp_a.is_some(), to.lambda.is_some()];
    let sums = cp::backward_hidden(recorder, layer, factors, batch, [p, q, d], needed)?;
    // dP and g summed over the rows that share z.
    let rows = Batch::plain(each);
    let dp = square(recorder.scratch(&[groups, r], kind)?, r, kind);
    let db = square(recorder.scratch(&[groups, k], kind)?, k, kind);
    let of_dp = Matrix { rows: Rows { outer: 0, inner: sums.dp.rows.inner }, batch: sums.dp.rows.outer, ..sums.dp };
    let mut problems = [Gram::default(); 5];
    if with_z {
        problems[0] = sum_of_rows(rows, groups, (r, of_dp), dp);
    }
    if to.u.is_some() || (layer.u.is_some() && to.z.is_some()) {
        problems[1] = sum_of_rows(rows, groups, (k, g.batches()), db);
    }
    if let Some(to) = to.cp_a {
        problems[2] = outer(batch, (k, g.grouped()), (r, sums.h), to);
    }
    if let Some(to) = to.cp_c {
        problems[3] = outer(batch, (j, x.grouped()), (r, sums.dq), to);
    }
    if let Some(to) = to.lambda {
        problems[4] = total(batch, (r, sums.dl), to);
    }
    recorder.gram(&problems)?;
    let u = layer.u.map(|u| linear(Cube::matrix(u, 1), k, db.matrix()));
    if let Some(Output { to, add }) = to.z {
        let b = cp::input_term(factors.b, r, dp.matrix());
        recorder.contract(&[Contract::new(Batch::plain(groups), i, 1).plus(Some(b)).plus(u).to(to.matrix(), add)])?;
    }
    if let Some(Output { to, add }) = to.x {
        let c = cp::input_term(factors.c, r, sums.dq);
        let [_, v] = dx_terms(layer, g.grouped(), z.groups());
        sum(recorder, batch, j, &[Some(c), v], None, (to.grouped(), add))?;
    }
    let mut problems = [Gram::default(); 2];
    if let Some(to) = to.cp_b {
        problems[0] = outer(Batch::plain(groups), (i, z.matrix()), (r, dp.matrix()), to);
    }
    if let Some(to) = to.u {
        problems[1] = outer(Batch::plain(groups), (k, db.matrix()), (i, z.matrix()), to);
    }
    recorder.gram(&problems)?;
    recorder.release(mark);
    Ok(())
}

/// The gradients of [`generate`], for those of W′ [G, K, J] and b′ [G, K].
pub(super) fn backward_generate(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    groups: usize,
    (z, weights, bias): (Operand<2>, Operand<3>, Operand<2>),
    to: &Outputs<2>,
) -> Result<()> {
    let (k, i, j, kind) = (layer.k, layer.i, layer.j, layer.kinds[1]);
    let plain = Batch::plain(groups);
    let mut problems = [Gram::default(); 2];
    if let Some(Output { to: Operand { address, strides: [out_k, out_j], kind }, add }) = to.v {
        let to = Operand { address, strides: [0, 0, out_j], kind };
        problems[0] = Gram::new(plain, [1, 1, j], k).q(weights.batches_within()).to(to, out_k, add);
    }
    if let Some(to) = to.b {
        problems[1] = total(plain, (k, bias.matrix()), to);
    }
    recorder.gram(&problems)?;
    let Form::Cp(factors) = layer.form else {
        return of_groups(recorder, layer, groups, z, (Some(weights), Some(bias)), (to.z, to.w, to.u));
    };
    of_groups(recorder, layer, groups, z, (Some(weights), Some(bias)), (None, to.w, to.u))?;
    let mark = recorder.mark();
    let r = factors.r;
    // Of W′ the rows are (g, k), Q is A, and D = dW′ C.
    let batch = Batch::groups(groups, k);
    let p = cp::of_groups(recorder, layer, &factors, groups, z)?;
    let projections =
        [projected(for_its_rows(p)), projected(factors.a.in_each_group()), projection(weights.grouped(), factors.c, j)];
    let with_z = to.z.is_some() || to.cp_b.is_some();
    let needed = [with_z, to.cp_a.is_some(), to.cp_c.is_some(), to.lambda.is_some()];
    let sums = cp::backward_hidden(recorder, layer, &factors, batch, projections, needed)?;
    let dp = square(recorder.scratch(&[groups, r], kind)?, r, kind);
    let by_group = |of: Matrix| Matrix { rows: Rows { outer: 0, inner: of.rows.inner }, batch: of.rows.outer, ..of };
    let by_output = |of: Matrix| Matrix { rows: Rows { outer: 0, inner: of.rows.outer }, batch: of.rows.inner, ..of };
    let mut problems = [Gram::default(); 4];
    if with_z {
        problems[0] = sum_of_rows(Batch::plain(k), groups, (r, by_group(sums.dp)), dp);
    }
    if let Some(Output { to, add }) = to.cp_a {
        let sum = sum_of_rows(plain, k, (r, by_output(sums.dq)), to);
        problems[1] = Gram { add: i32::from(add), ..sum };
    }
    if let Some(to) = to.cp_c {
        problems[2] = outer(batch, (j, weights.grouped()), (r, sums.h), to);
    }
    if let Some(to) = to.lambda {
        problems[3] = total(batch, (r, sums.dl), to);
    }
    recorder.gram(&problems)?;
    let u = layer.u.map(|u| linear(Cube::matrix(u, 1), k, bias.matrix()));
    let b = cp::input_term(factors.b, r, dp.matrix());
    let problem = Contract::new(plain, i, 1).plus(Some(b)).plus(u);
    if let Some(Output { to, add }) = to.z {
        recorder.contract(&[problem.to(to.matrix(), add)])?;
    }
    if let Some(to) = to.cp_b {
        recorder.gram(&[outer(plain, (i, z.matrix()), (r, dp.matrix()), to)])?;
    }
    recorder.release(mark);
    Ok(())
}

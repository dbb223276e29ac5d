//! Shared contexts and generated layers: one z for M rows of x.
//!
//! ```text
//!   W′[g] = z[g]ᵀW + V, b′[g] = z[g]ᵀU + b     one contraction, each k a problem of its own; [G, K, J] and [G, K]
//!   y[g]  = x[g] W′[g]ᵀ + b′[g]                one contraction, each g a problem of its own; dx[g] = g[g] W′[g] likewise
//!   dW′[g] = g[g]ᵀ x[g], db′[g] = Σ g[g]       sums over the rows of each g, of which dz, dW and dU are made
//! ```
//!
//! W′, dW′ and the hidden layers of CP are of blocks of groups (blocks.rs), these of some rows of one group where it has many.

use super::blocks::Blocks;
use super::contract::{Batch, Cube, dx_terms, linear, linear_terms, segment, sum, terms};
use super::cp::{self, for_its_rows, projected, projection};
use super::gram::{outer, total};
use super::operand::{Factors, Form, Layer, Matrix, Operand, Output, Outputs};
use super::problem::{Contract, Gram, Projection, Rows, Segment, Type, bytes, length};
use super::recorder::Recorder;
use crate::Result;

/// Row-major [G, K, J] in scratch, or an operand of that shape.
fn cube(address: u64, [k, j]: [usize; 2], kind: Type) -> Operand<3> {
    Operand { address, strides: [(k * j) as i64, j as i64, 1], kind }
}

fn square(address: u64, columns: usize, kind: Type) -> Operand<2> {
    Operand { address, strides: [columns as i64, 1], kind }
}

/// Groups for W′ or dW′.
fn blocks(layer: &Layer, groups: usize) -> Result<Blocks> {
    let too_large = crate::Error::TooLarge { what: "generated weights" };
    let group = layer.k.checked_mul(layer.j).and_then(|len| len.checked_mul(bytes(layer.kinds[1]))).ok_or(too_large)?;
    Blocks::new(groups, group)
}

/// Groups for hidden layers of CP that take so many bytes a row, and the rows of a block of one group.
fn blocks_of_rows([groups, each]: [usize; 2], row: usize) -> Result<[Blocks; 2]> {
    let of_groups = Blocks::new(groups, each.saturating_mul(row))?;
    Ok([of_groups, Blocks::new(each, row)?])
}

/// The rows of a block of so many groups: all, unless it is one group.
pub(super) fn rows_of(blocks: Blocks, groups: usize, each: usize) -> impl Iterator<Item = (usize, usize)> {
    let whole = if groups == 1 { None } else { Some((0, each)) };
    whole.into_iter().chain(blocks.iter().filter(move |_| groups == 1))
}

/// W′ of dense or absent W for each row of z, as a problem whose problems are the outputs.
pub(super) fn generate_weights(layer: &Layer, batch: Batch, z: Matrix, to: Matrix) -> Contract {
    let w = match layer.form {
        Form::Dense(Operand { address, strides: [k, i, j], kind }) => {
            let w = Cube { address, a: j, b: 0, c: i, batch: k, kind };
            Some(linear(w, layer.i, z))
        }
        _ => None,
    };
    Contract::new(batch, layer.j, layer.k).plus(w).bias(layer.v.map(Operand::one_a_batch)).to(to, false)
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
        let w = generate_weights(layer, Batch::plain(groups), z.matrix(), weights.batches_within());
        return recorder.contract(&[w, b]);
    };
    // Of W′ the rows are (g, k), and Q is A.
    let group = cp::row_bytes(layer, &factors, 1).saturating_mul(layer.k);
    for (first, groups) in Blocks::new(groups, group)?.iter() {
        let (z, weights, mark) = (z.after(0, first), weights.after(0, first), recorder.mark());
        let p = cp::of_groups(recorder, layer, &factors, Batch::plain(groups), z.matrix())?;
        let batch = Batch::groups(groups, layer.k);
        let projections = [projected(for_its_rows(p)), projected(factors.a.in_each_group())];
        let h = cp::forward_term(recorder, layer, &factors, batch, projections, None)?;
        let term = Segment { w: factors.c.address, w_a: factors.c.strides[0], w_c: factors.c.strides[1], ..h };
        let v = layer.v.map(Operand::in_each_group);
        let w = Contract::new(batch, layer.j, 1).plus(Some(term)).bias(v).to(weights.grouped(), false);
        recorder.contract(&[w, if first == 0 { b } else { Contract::default() }])?;
        recorder.release(mark);
    }
    Ok(())
}

/// y [G, M, K] of z [G, I] and x [G, M, J].
pub(super) fn forward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    [groups, each]: [usize; 2],
    (z, x): (Operand<2>, Operand<3>),
    y: Output<3>,
) -> Result<()> {
    let batch = Batch::groups(groups, each);
    let bias = layer.b.map(Operand::<1>::row);
    match layer.form {
        Form::Cp(factors) => {
            let [of_groups, of_rows] = blocks_of_rows([groups, each], cp::row_bytes(layer, &factors, 1))?;
            for (first, groups) in of_groups.iter() {
                let mark = recorder.mark();
                let (z, x, y) = (z.after(0, first), x.after(0, first), y.after(0, first));
                let p = match each {
                    1 => projection(z.groups(), factors.b, layer.i),
                    _ => projected(for_its_rows(cp::of_groups(
                        recorder,
                        layer,
                        &factors,
                        Batch::plain(groups),
                        z.matrix(),
                    )?)),
                };
                for (first, rows) in rows_of(of_rows, groups, each) {
                    let (batch, mark) = (Batch::groups(groups, rows), recorder.mark());
                    let (x, y) = (x.after(1, first).grouped(), y.after(1, first));
                    let projections = [p, projection(x, factors.c, layer.j)];
                    let h = cp::forward_term(recorder, layer, &factors, batch, projections, None)?;
                    let [u, v] = linear_terms(layer, z.groups(), x);
                    sum(recorder, batch, layer.k, &[Some(h), u, v], bias, (y.to.grouped(), y.add))?;
                    recorder.release(mark);
                }
                recorder.release(mark);
            }
            Ok(())
        }
        Form::Dense(_) if each > 1 => {
            for (first, count) in blocks(layer, groups)?.iter() {
                let mark = recorder.mark();
                let (z, x, y) = (z.after(0, first), x.after(0, first), y.after(0, first));
                let (k, j, kind) = (layer.k, layer.j, layer.kinds[1]);
                let weights = cube(recorder.scratch(&[count, k, j], kind)?, [k, j], kind);
                let bias = match (layer.u, layer.b) {
                    (None, None) => None,
                    _ => Some(square(recorder.scratch(&[count, k], kind)?, k, kind)),
                };
                let w = generate_weights(layer, Batch::plain(count), z.matrix(), weights.batches_within());
                let mut problems = [w, Contract::default()];
                if let Some(bias) = bias {
                    problems[1] = generate_bias(layer, count, z, bias);
                }
                recorder.contract(&problems)?;
                let apply = Contract::new(Batch::plain(each), k, count).plus(Some(applied(weights, j, 1, x.batches())));
                recorder.contract(&[apply.bias(bias.map(Operand::one_a_batch)).to(y.to.batches(), y.add)])?;
                recorder.release(mark);
            }
            Ok(())
        }
        // With one row for each z there is nothing to be gained, and without W nothing to be generated.
        _ => sum(recorder, batch, layer.k, &terms(layer, z.groups(), x.grouped()), bias, (y.to.grouped(), y.add)),
    }
}

/// W′ [g][k][j] of each problem times its rows, with the lanes along axis `a`.
fn applied(weights: Operand<3>, depth: usize, a: usize, q: Matrix) -> Segment {
    let Operand { address, strides, kind } = weights;
    linear(Cube { address, a: strides[a], b: 0, c: strides[3 - a], batch: strides[0], kind }, depth, q)
}

/// What the sums over the rows of each group make: dz, dW and dU, from dW′ (only for W) and db′ of each row of z.
pub(super) fn of_groups(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    (batch, z): (Batch, Matrix),
    (dw_, db): (Option<Operand<3>>, Option<Operand<2>>),
    to: (Option<(Matrix, bool)>, Option<Output<3>>, Option<Output<2>>),
) -> Result<()> {
    let [k, i, j] = [layer.k, layer.i, layer.j];
    let (to_z, to_w, to_u) = to;
    let db = db.map(|db| in_groups(db.matrix(), batch));
    if let Some((to, add)) = to_z {
        let w = match (layer.form, dw_) {
            (Form::Dense(Operand { address, strides: [w_k, w_i, w_j], kind }), Some(dw)) => {
                let w = Cube { address, a: w_i, b: w_k, c: w_j, batch: 0, kind };
                let [group, output, column] = dw.strides;
                let rows = Matrix { rows: Rows { outer: 0, inner: group }, column, ..dw.batches() };
                Some(segment(w, [k, j], None, (Matrix { batch: 0, ..in_groups(rows, batch) }, output)))
            }
            _ => None,
        };
        let u = layer.u.zip(db).map(|(u, db)| linear(Cube::matrix(u, 1), k, db));
        recorder.contract(&[Contract::new(batch, i, 1).plus(w).plus(u).to(to, add)])?;
    }
    let mut problems = [Gram::default(); 2];
    if let (Some(Output { to, add }), Some(dw)) = (to_w, dw_) {
        let [out_k, out_i, out_j] = to.strides;
        let to = Operand { strides: [0, out_i, out_j], ..to };
        let dw = in_groups(dw.batches_within(), batch);
        problems[0] = Gram::new(batch, [1, i, j], k).p(z).q(dw).to(to, out_k, add);
    }
    if let (Some(to), Some(db)) = (to_u, db) {
        problems[1] = outer(batch, (k, db), (i, z), to);
    }
    recorder.gram(&problems)
}

/// Evenly spaced rows as those of a batch that may have groups.
pub(super) fn in_groups(rows: Matrix, batch: Batch) -> Matrix {
    let inner = rows.rows.inner;
    Matrix { rows: Rows { outer: inner.wrapping_mul(length(batch.per)), inner }, ..rows }
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
    // Of what has no W′ nor dW′ their sizes may be any.
    let any = needs_dw || (needs_db && dz_is_ours) || (dense && to.x.is_some());
    let in_blocks = if any { Some(blocks(layer, groups)?) } else { None };
    for (first, count) in in_blocks.into_iter().flat_map(Blocks::iter) {
        let mark = recorder.mark();
        let (z, x, g, to) = (z.after(0, first), x.after(0, first), g.after(0, first), to.after(first));
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
        let (to_z, to_u) = (to.z.filter(|_| dz_is_ours), to.u.filter(|_| dz_is_ours));
        let to_z = to_z.map(|to| (to.to.matrix(), to.add));
        of_groups(recorder, layer, (Batch::plain(count), z.matrix()), (dw_, db), (to_z, to.w, to_u))?;
        // dW′ is not needed any more.
        recorder.release(mark);
        if let Some(to) = to.x.filter(|_| dense) {
            let weights = cube(recorder.scratch(&[count, k, j], kind)?, [k, j], kind);
            let plain = Batch::plain(count);
            recorder.contract(&[generate_weights(layer, plain, z.matrix(), weights.batches_within())])?;
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
    let (with_z, with_u) =
        (to.z.is_some() || to.cp_b.is_some(), to.u.is_some() || (layer.u.is_some() && to.z.is_some()));
    let needed = [with_z, to.x.is_some() || to.cp_c.is_some(), to.cp_a.is_some(), to.lambda.is_some()];
    let hidden_layers = needed.into_iter().filter(|&needed| needed).count();
    let [of_groups, of_rows] = blocks_of_rows([groups, each], cp::row_bytes(layer, factors, hidden_layers))?;
    for (first_group, groups) in of_groups.iter() {
        let mark = recorder.mark();
        let (z, x, g, to) =
            (z.after(0, first_group), x.after(0, first_group), g.after(0, first_group), to.after(first_group));
        // dP and g summed over the rows that share z.
        let dp = square(recorder.scratch(&[groups, r], kind)?, r, kind);
        let db = square(recorder.scratch(&[groups, k], kind)?, k, kind);
        let p = match saved {
            Some(_) => None,
            None => {
                let p = cp::of_groups(recorder, layer, factors, Batch::plain(groups), z.matrix())?;
                Some(projected(for_its_rows(p)))
            }
        };
        for (first, rows) in rows_of(of_rows, groups, each) {
            let (x, g, later, mark) = (x.after(1, first), g.after(1, first), first > 0, recorder.mark());
            let (batch, rows) = (Batch::groups(groups, rows), Batch::plain(rows));
            let kept = saved.map(|kept| {
                let kept = kept.after(first_group * each + first, kind);
                [kept.p, kept.q].map(|address| projected(cp::grouped_rows(address, kept.pitch, each, kind)))
            });
            let [p, q] = kept.unwrap_or([p.unwrap_or_default(), projection(x.grouped(), factors.c, j)]);
            let d = projection(g.grouped(), factors.a, k);
            let sums = cp::backward_hidden(recorder, layer, factors, batch, [p, q, d], needed)?;
            let of_dp =
                Matrix { rows: Rows { outer: 0, inner: sums.dp.rows.inner }, batch: sums.dp.rows.outer, ..sums.dp };
            let over_rows =
                |columns, of, to| Gram { add: i32::from(later), ..sum_of_rows(rows, groups, (columns, of), to) };
            let problems = [
                with_z.then(|| over_rows(r, of_dp, dp)),
                with_u.then(|| over_rows(k, g.batches(), db)),
                to.cp_a.map(|to| outer(batch, (k, g.grouped()), (r, sums.h), to.later(later))),
                to.cp_c.map(|to| outer(batch, (j, x.grouped()), (r, sums.dq), to.later(later))),
                to.lambda.map(|to| total(batch, (r, sums.dl), to.later(later))),
            ];
            recorder.gram(&problems.map(Option::unwrap_or_default))?;
            if let Some(Output { to, add }) = to.x {
                let c = cp::input_term(factors.c, r, sums.dq);
                let [_, v] = dx_terms(layer, g.grouped(), z.groups());
                sum(recorder, batch, j, &[Some(c), v], None, (to.after(1, first).grouped(), add))?;
            }
            recorder.release(mark);
        }
        let groups = Batch::plain(groups);
        if let Some(Output { to, add }) = to.z {
            let b = cp::input_term(factors.b, r, dp.matrix());
            let u = layer.u.map(|u| linear(Cube::matrix(u, 1), k, db.matrix()));
            recorder.contract(&[Contract::new(groups, i, 1).plus(Some(b)).plus(u).to(to.matrix(), add)])?;
        }
        let problems = [
            to.cp_b.map(|to| outer(groups, (i, z.matrix()), (r, dp.matrix()), to)),
            to.u.map(|to| outer(groups, (k, db.matrix()), (i, z.matrix()), to)),
        ];
        recorder.gram(&problems.map(Option::unwrap_or_default))?;
        recorder.release(mark);
    }
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
    let (k, j, plain) = (layer.k, layer.j, Batch::plain(groups));
    let mut problems = [Gram::default(); 2];
    if let Some(Output { to: Operand { address, strides: [out_k, out_j], kind }, add }) = to.v {
        let to = Operand { address, strides: [0, 0, out_j], kind };
        problems[0] = Gram::new(plain, [1, 1, j], k).q(weights.batches_within()).to(to, out_k, add);
    }
    if let Some(to) = to.b {
        problems[1] = total(plain, (k, bias.matrix()), to);
    }
    recorder.gram(&problems)?;
    let (dw, to_z) = ((Some(weights), Some(bias)), to.z.map(|to| (to.to.matrix(), to.add)));
    let Form::Cp(factors) = layer.form else {
        return of_groups(recorder, layer, (plain, z.matrix()), dw, (to_z, to.w, to.u));
    };
    of_groups(recorder, layer, (plain, z.matrix()), dw, (None, to.w, to.u))?;
    let needed = needed_of_components(to_z.is_some(), to, to.cp_c.is_some());
    let hidden_layers = needed.into_iter().filter(|&needed| needed).count();
    let group = cp::row_bytes(layer, &factors, hidden_layers).saturating_mul(k);
    for (first, groups) in Blocks::new(groups, group)?.iter() {
        let mark = recorder.mark();
        let (z, weights, bias, to) =
            (z.after(0, first), weights.after(0, first), bias.after(0, first), to.after(first));
        // Of W′ the rows are (g, k), Q is A, and D = dW′ C.
        let d = projection(weights.grouped(), factors.c, j);
        let of_c =
            |h: Matrix| to.cp_c.map(|to| outer(Batch::groups(groups, k), (j, weights.grouped()), (factors.r, h), to));
        let to_z = to.z.map(|to| (to.to.matrix(), to.add));
        let u = layer.u.map(|u| linear(Cube::matrix(u, 1), k, bias.matrix()));
        of_components(
            recorder,
            (layer, &factors),
            (Batch::plain(groups), z.matrix()),
            (d, needed),
            of_c,
            (to_z, u),
            &to,
        )?;
        recorder.release(mark);
    }
    Ok(())
}

/// What is needed of the hidden layer whose rows are those of W′: dP, dA's, H and dλ's.
pub(super) fn needed_of_components<const D: usize, const Z: usize>(
    with_z: bool,
    to: &Outputs<D, Z>,
    with_h: bool,
) -> cp::Needed {
    [with_z || to.cp_b.is_some(), to.cp_a.is_some(), with_h, to.lambda.is_some()]
}

/// Of CP, what D [g][k][r] makes, the gradient of W′'s components: dz, with the term of U, dA, dB and dλ. H, which is these
/// components, is the result, if it is needed; `of_h` may be summed with the others.
pub(super) fn of_components<const D: usize, const Z: usize>(
    recorder: &mut Recorder<'_>,
    (layer, factors): (&Layer, &Factors),
    (rows, z): (Batch, Matrix),
    (d, needed): (Projection, cp::Needed),
    of_h: impl FnOnce(Matrix) -> Option<Gram>,
    (to_z, u): (Option<(Matrix, bool)>, Option<Segment>),
    to: &Outputs<D, Z>,
) -> Result<Matrix> {
    let (k, r, kind) = (layer.k, factors.r, layer.kinds[1]);
    let (groups, batch) = (rows.n, Batch::groups(rows.n, k));
    let p = cp::of_groups(recorder, layer, factors, rows, z)?;
    let projections = [projected(for_its_rows(p)), projected(factors.a.in_each_group()), d];
    let sums = cp::backward_hidden(recorder, layer, factors, batch, projections, needed)?;
    let dp = square(recorder.scratch(&[groups, r], kind)?, r, kind);
    let by_group = |of: Matrix| Matrix { rows: Rows { outer: 0, inner: of.rows.inner }, batch: of.rows.outer, ..of };
    let by_output = |of: Matrix| Matrix { rows: Rows { outer: 0, inner: of.rows.outer }, batch: of.rows.inner, ..of };
    let problems = [
        needed[0].then(|| sum_of_rows(Batch::plain(k), groups, (r, by_group(sums.dp)), dp)),
        to.cp_a.map(|Output { to, add }| Gram {
            add: i32::from(add),
            ..sum_of_rows(Batch::plain(groups), k, (r, by_output(sums.dq)), to)
        }),
        of_h(sums.h),
        to.lambda.map(|to| total(batch, (r, sums.dl), to)),
    ];
    recorder.gram(&problems.map(Option::unwrap_or_default))?;
    let dp = in_groups(dp.matrix(), rows);
    if let Some((to, add)) = to_z {
        let b = cp::input_term(factors.b, r, dp);
        recorder.contract(&[Contract::new(rows, layer.i, 1).plus(Some(b)).plus(u).to(to, add)])?;
    }
    if let Some(to) = to.cp_b {
        recorder.gram(&[outer(rows, (layer.i, z), (r, dp), to)])?;
    }
    Ok(sums.h)
}

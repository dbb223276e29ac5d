//! All pairs: y\[p,s,t,k\] = z\[p,s\]ᵀ W_k x\[p,t\] + …, each of the S rows of z of a problem with each of the T rows of x of it.
//!
//! ```text
//!   W′[p,s,k][d] = Σ_i z[p,s][i] W[k][i][d] + V[k][d]            dense: d = j, X = x        rows (p, s), each k a problem
//!                = λ[d] A[k][d] (zB)[p,s][d]                     CP: d = r, X = xC          rows ((p, s), k)
//!   y[p,s,t,k]   = Σ_d W′[p,s,k][d] X[p,t][d] + u′ + v′          rows (s, k), lanes t, each p a problem
//!                  u′[p,s,k] = z[p,s]ᵀU + b, v′[p,t,k] = V x[p,t], where V is not in W′
//! ```
//!
//! z and x exchange their sides ([`Pairs::swap`]) where x is contracted for less. W′ and X are of blocks: of whole problems, or of
//! some rows of one. A contraction has one bias, so of u′ and v′ one is that, and the other a term of depth 1.

mod calls;
mod gradients;
mod reduced;

pub(crate) use calls::*;

use super::blocks::{BLOCK_BYTES, Blocks};
use super::contract::{Batch, Cube, linear};
use super::cp::{self, for_its_rows, pitch, projected};
use super::operand::{Factors, Form, Layer, Matrix, Operand};
use super::problem::{Contract, Projection, Segment, Type, bytes};
use super::recorder::Recorder;
use super::shared::{generate_weights, in_groups};
use crate::Result;

/// The operands of a call or of a block of it. The sides may be exchanged.
#[derive(Clone, Copy, Debug)]
struct Pairs {
    layer: Layer,
    /// P, S, T.
    sizes: [usize; 3],
    /// [P, S, I] and [P, T, J].
    z: Operand<3>,
    x: Operand<3>,
    /// y or its gradient, [P, S, T, K].
    y: Operand<4>,
}

/// First and number of problems, of rows of z and of rows of x of each.
#[derive(Clone, Copy, Debug)]
struct Span {
    p: (usize, usize),
    s: (usize, usize),
    t: (usize, usize),
}

impl Pairs {
    /// z and x exchanged, and what belongs to them.
    fn swap(self) -> Self {
        let Pairs { layer, sizes: [p, s, t], z, x, y } = self;
        let form = match layer.form {
            Form::Dense(w) => Form::Dense(w.permute([0, 2, 1])),
            Form::Cp(factors) => Form::Cp(Factors { b: factors.c, c: factors.b, ..factors }),
            Form::Absent => Form::Absent,
        };
        let layer = Layer { i: layer.j, j: layer.i, u: layer.v, v: layer.u, form, ..layer };
        Pairs { layer, sizes: [p, t, s], z: x, x: z, y: y.permute([0, 2, 1, 3]) }
    }

    /// With the cheaper side in the place of z, and whether that is x.
    fn oriented(self) -> (Self, bool) {
        let swapped = self.swap();
        if swapped.cost() < self.cost() { (swapped, true) } else { (self, false) }
    }

    /// Multiplications of a problem.
    fn cost(&self) -> f64 {
        let [k, i, j] = [self.layer.k, self.layer.i, self.layer.j].map(|len| len as f64);
        let [_, s, t] = self.sizes.map(|len| len as f64);
        match self.layer.form {
            Form::Cp(factors) => factors.r as f64 * (s * i + t * j + s * k * (t + 1.0)),
            _ => k * s * j * (i + t),
        }
    }

    fn is_empty(&self) -> bool {
        self.sizes.contains(&0) || self.layer.k == 0
    }

    fn part(&self, span: Span) -> Pairs {
        let Span { p, s, t } = span;
        Pairs {
            layer: self.layer,
            sizes: [p.1, s.1, t.1],
            z: self.z.after(0, p.0).after(1, s.0),
            x: self.x.after(0, p.0).after(1, t.0),
            y: self.y.after(0, p.0).after(1, s.0).after(2, t.0),
        }
    }

    /// All rows of z, or of x.
    fn rows_of_z(&self) -> Batch {
        Batch::groups(self.sizes[0], self.sizes[1])
    }
    fn rows_of_x(&self) -> Batch {
        Batch::groups(self.sizes[0], self.sizes[2])
    }
    /// (s, k) of a problem.
    fn outputs(&self) -> Batch {
        Batch::groups(self.sizes[1], self.layer.k)
    }

    /// Scratch [p][rows][k][d] in sums' type.
    fn scratch(&self, recorder: &mut Recorder<'_>, [rows, k, d]: [usize; 3]) -> Result<Operand<4>> {
        let kind = self.layer.kinds[1];
        let address = recorder.scratch(&[self.sizes[0], rows, k, d], kind)?;
        Ok(Operand { address, strides: row_major([rows, k, d]), kind })
    }

    /// W′ of dense W, times a scale where there is one (and then no V).
    fn weights(&self, recorder: &mut Recorder<'_>, scale: Option<Matrix>) -> Result<Operand<4>> {
        let (layer, [_, s, _]) = (&self.layer, self.sizes);
        let to = self.scratch(recorder, [s, layer.k, layer.j])?;
        let [outer, inner, batch, column] = to.strides;
        let rows = Operand { address: to.address, strides: [outer, inner, column], kind: to.kind };
        let rows = Matrix { batch, ..rows.grouped() };
        recorder.contract(&[generate_weights(layer, self.rows_of_z(), self.z.grouped(), rows).scaled(scale)])?;
        Ok(to)
    }

    /// W′ of CP.
    fn components(&self, recorder: &mut Recorder<'_>, factors: &Factors) -> Result<Operand<4>> {
        let (layer, rows) = (&self.layer, self.rows_of_z());
        let p = cp::of_groups(recorder, layer, factors, rows, self.z.grouped())?;
        let projections = [projected(for_its_rows(p)), projected(factors.a.in_each_group()), Projection::default()];
        let batch = Batch::groups(rows.n, layer.k);
        let sums = cp::backward_hidden(recorder, layer, factors, batch, projections, [false, false, true, false])?;
        Ok(self.by_output(sums.h))
    }

    /// Rows ((p, s), k) of components as [p][s][k][r].
    fn by_output(&self, rows: Matrix) -> Operand<4> {
        let Matrix { address, rows: of, kind, .. } = rows;
        let pitch = of.inner as usize;
        Operand { address, strides: row_major([self.sizes[1], self.layer.k, pitch]), kind }
    }

    /// xC as [p][t][r].
    fn projected_x(&self, recorder: &mut Recorder<'_>, factors: &Factors) -> Result<Operand<3>> {
        let of = (factors.c, self.layer.j, factors.r);
        let rows = cp::components(recorder, &self.layer, of, self.rows_of_x(), self.x.grouped())?;
        let pitch = rows.rows.inner;
        let strides = [pitch.wrapping_mul(self.sizes[2] as i64), pitch, 1];
        Ok(Operand { address: rows.address, strides, kind: rows.kind })
    }

    /// Rows of an input times its linear weights, and b, [p][row][k].
    fn linear(
        &self,
        recorder: &mut Recorder<'_>,
        (weights, depth): (Operand<2>, usize),
        (batch, rows): (Batch, Matrix),
        b: Option<Operand<1>>,
    ) -> Result<Operand<3>> {
        let (k, kind) = (self.layer.k, self.layer.kinds[1]);
        let address = recorder.scratch(&[batch.n, k], kind)?;
        let to = Operand { address, strides: [k as i64, 1], kind };
        let term = linear(Cube::matrix(weights, 0), depth, rows);
        let problem = Contract::new(batch, k, 1).plus(Some(term)).bias(b.map(Operand::<1>::row));
        recorder.contract(&[problem.to(in_groups(to.matrix(), batch), false)])?;
        Ok(Operand { address, strides: [(batch.per * k) as i64, k as i64, 1], kind })
    }

    /// What is added to rows (s, k) and lanes t of a problem beside W′ and X: a bias, and a term.
    fn beside(&self, recorder: &mut Recorder<'_>) -> Result<(Option<Matrix>, Option<Segment>)> {
        let layer = &self.layer;
        let v = layer.v.filter(|_| !matches!(layer.form, Form::Dense(_)));
        let of_k = |b: Operand<1>| Operand { address: b.address, strides: [0, 0, b.strides[0], 0], kind: b.kind };
        let v = match v {
            Some(v) => Some(self.linear(recorder, (v, layer.j), (self.rows_of_x(), self.x.grouped()), layer.b)?),
            None => None,
        };
        let b = layer.b.filter(|_| v.is_none());
        let u = match layer.u {
            Some(u) => Some(self.linear(recorder, (u, layer.i), (self.rows_of_z(), self.z.grouped()), b)?),
            None => None,
        };
        let of_s = |of: Operand<3>| {
            let [p, s, k] = of.strides;
            Operand { address: of.address, strides: [p, s, k, 0], kind: of.kind }.problems()
        };
        let of_t = |of: Operand<3>| {
            let [p, t, k] = of.strides;
            Operand { address: of.address, strides: [p, 0, k, t], kind: of.kind }.problems()
        };
        Ok(match (u, v) {
            (Some(u), Some(v)) => {
                let one = ones(recorder, u.kind)?;
                (Some(of_t(v)), Some(linear(one, 1, of_s(u))))
            }
            (Some(u), None) => (Some(of_s(u)), None),
            (None, Some(v)) => (Some(of_t(v)), None),
            (None, None) => (layer.b.map(|b| of_k(b).problems()), None),
        })
    }

    /// y of W′ and X with depth d, and what is beside them.
    fn meet(&self, recorder: &mut Recorder<'_>, product: Option<Segment>) -> Result<()> {
        let (bias, term) = self.beside(recorder)?;
        let [p, _, t] = self.sizes;
        let y = Contract::new(self.outputs(), t, p).plus(product).plus(term).bias(bias);
        recorder.contract(&[y.to(self.y.permute([0, 1, 3, 2]).problems(), false)])
    }

    /// y, by contracting z first.
    fn forward(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let blocks = InBlocks::new(self.sizes, self.bytes())?;
        for span in blocks.of_z() {
            let (part, mark) = (self.part(span), recorder.mark());
            match part.layer.form {
                Form::Dense(_) => {
                    let weights = part.weights(recorder, None)?;
                    part.meet(recorder, Some(product(weights, part.x, part.layer.j)))?;
                }
                Form::Cp(factors) => {
                    let weights = part.components(recorder, &factors)?;
                    for span in blocks.of_x(span) {
                        let (part, mark) = (self.part(span), recorder.mark());
                        let x = part.projected_x(recorder, &factors)?;
                        part.meet(recorder, Some(product(weights, x, factors.r)))?;
                        recorder.release(mark);
                    }
                }
                Form::Absent => {
                    for span in blocks.of_x(span) {
                        let mark = recorder.mark();
                        self.part(span).meet(recorder, None)?;
                        recorder.release(mark);
                    }
                }
            }
            recorder.release(mark);
        }
        Ok(())
    }

    /// Of what a row of z and a row of x need in scratch.
    fn bytes(&self) -> [usize; 2] {
        let (layer, of) = (&self.layer, bytes(self.layer.kinds[1]));
        let row = |len: usize| len.saturating_mul(of);
        let linear = |weights: Option<Operand<2>>| if weights.is_some() { row(layer.k) } else { 0 };
        match layer.form {
            Form::Dense(_) => [row(layer.k).saturating_mul(layer.j).saturating_add(linear(layer.u)), 0],
            Form::Cp(factors) => {
                let component = row(pitch(factors.r));
                [
                    component.saturating_mul(layer.k + 1).saturating_add(linear(layer.u)),
                    component.saturating_add(linear(layer.v)),
                ]
            }
            Form::Absent => [linear(layer.u), linear(layer.v)],
        }
    }
}

/// Strides of [p][rows][k][d].
fn row_major([rows, k, d]: [usize; 3]) -> [i64; 4] {
    let of_k = d as i64;
    let row = of_k.wrapping_mul(k as i64);
    [row.wrapping_mul(rows as i64), row, of_k, 1]
}

/// One element, for all lanes and any depth.
fn ones(recorder: &mut Recorder<'_>, kind: Type) -> Result<Cube> {
    Ok(Cube { address: recorder.scalar(1.0, kind)?, a: 0, b: 0, c: 0, batch: 0, kind })
}

/// Σ_d W′[p][s][k][d] X[p][t][d], rows (s, k) and lanes t.
fn product(weights: Operand<4>, x: Operand<3>, depth: usize) -> Segment {
    let [batch, t, d] = x.strides;
    linear(Cube { address: x.address, a: t, b: 0, c: d, batch, kind: x.kind }, depth, weights.problems())
}

/// All pairs in blocks of whole problems, or of some rows of z and of x of one.
#[derive(Clone, Copy, Debug)]
struct InBlocks {
    problems: Blocks,
    /// Of one problem.
    z: Blocks,
    x: Blocks,
    sizes: [usize; 3],
}

impl InBlocks {
    /// Of rows of z and of x that take so many bytes each.
    fn new(sizes @ [p, s, t]: [usize; 3], [of_z, of_x]: [usize; 2]) -> Result<InBlocks> {
        let problem = s.saturating_mul(of_z).saturating_add(t.saturating_mul(of_x));
        // Half of a block for each side.
        let bytes = |row: usize| if problem <= BLOCK_BYTES { 0 } else { row.saturating_mul(2) };
        let (z, x) = (Blocks::new(s, bytes(of_z))?, Blocks::new(t, bytes(of_x))?);
        Ok(InBlocks { problems: Blocks::new(p, problem)?, z, x, sizes })
    }

    /// With all rows of x.
    fn of_z(self) -> impl Iterator<Item = Span> {
        let [_, s, t] = self.sizes;
        self.problems.iter().flat_map(move |p| {
            let whole = if p.1 == 1 { None } else { Some((0, s)) };
            let parts = self.z.iter().filter(move |_| p.1 == 1);
            whole.into_iter().chain(parts).map(move |s| Span { p, s, t: (0, t) })
        })
    }

    /// The rows of x of one of those.
    fn of_x(self, span: Span) -> impl Iterator<Item = Span> {
        let whole = if span.p.1 == 1 { None } else { Some(span.t) };
        let parts = self.x.iter().filter(move |_| span.p.1 == 1);
        whole.into_iter().chain(parts).map(move |t| Span { t, ..span })
    }
}

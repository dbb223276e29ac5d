//! Contractions with weights: y, dz, dx of a dense or linear layer, each a sum of segments (see kernels/problem.cuh).
//!
//! | result | a | slices and depth | w | p, q |
//! |---|---|---|---|---|
//! | y of W | k | i, j | W | z, x |
//! | dz of W | i | k, j | W | g, x |
//! | dx of W | j | k, i | W | g, z |
//! | y of U, V | k | –, i or j | U, V | –, z or x |
//! | dz of U, dx of V | i or j | –, k | U, V | –, g |
//!
//! Which of the two axes that are summed over are the slices and which the depth, `bilinear` decides.

use super::operand::{Form, Layer, Matrix, Operand, Output};
use super::problem::{Contract, SEGMENTS, Segment, Type, length};
use super::recorder::Recorder;
use crate::Result;

/// Rows, and how many belong to a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) n: usize,
    pub(super) per: usize,
}

impl Batch {
    pub(super) fn plain(n: usize) -> Batch {
        Batch { n, per: n.max(1) }
    }

    pub(super) fn groups(groups: usize, each: usize) -> Batch {
        Batch { n: groups.saturating_mul(each), per: each.max(1) }
    }
}

impl Contract {
    /// `lanes` results for each row, of `batches` problems.
    pub(super) fn new(Batch { n, per }: Batch, lanes: usize, batches: usize) -> Contract {
        Contract {
            n: length(n),
            per: length(per),
            lanes: length(lanes),
            batches: length(batches),
            splits: 1,
            ..Contract::default()
        }
    }

    /// Where the results go.
    pub(super) fn to(self, to: Matrix, add: bool) -> Contract {
        Contract {
            out: to.address,
            out_n: to.rows,
            out_a: to.column,
            out_batch: to.batch,
            out_type: to.kind,
            add: i32::from(add),
            ..self
        }
    }

    /// One more term, of which there are at most `SEGMENTS`; nothing if its sum is empty.
    pub(super) fn plus(mut self, segment: Option<Segment>) -> Contract {
        if let Some(segment) = segment.filter(|segment| segment.slices > 0 && segment.depth > 0) {
            self.segment[self.segments as usize] = segment;
            self.segments += 1;
        }
        self
    }

    /// All segments times the rows' factors.
    pub(super) fn scaled(mut self, by: Option<Matrix>) -> Contract {
        self.segment[..self.segments as usize].iter_mut().for_each(|segment| *segment = segment.scaled(by));
        self
    }

    pub(super) fn bias(self, bias: Option<Matrix>) -> Contract {
        let Some(bias) = bias else { return self };
        Contract {
            bias: bias.address,
            bias_n: bias.rows,
            bias_a: bias.column,
            bias_batch: bias.batch,
            bias_type: bias.kind,
            ..self
        }
    }
}

impl Segment {
    /// With these p, if any; there are none yet.
    pub(super) fn scaled(self, p: Option<Matrix>) -> Segment {
        let Some(p) = p else { return self };
        Segment { p: p.address, p_n: p.rows, p_b: p.column, p_batch: p.batch, p_type: p.kind, ..self }
    }
}

/// Weights in the roles of a segment: [a][b][c].
#[derive(Clone, Copy, Debug)]
pub(super) struct Cube {
    pub(super) address: u64,
    pub(super) a: i64,
    pub(super) b: i64,
    pub(super) c: i64,
    pub(super) batch: i64,
    pub(super) kind: Type,
}

impl Cube {
    /// A matrix, whose axis `a` is the lanes and the other the depth.
    pub(super) fn matrix(weights: Operand<2>, a: usize) -> Cube {
        let Operand { address, strides, kind } = weights;
        Cube { address, a: strides[a], b: 0, c: strides[1 - a], batch: 0, kind }
    }
}

/// Σ_b p[n][b] Σ_c w[a][b][c] q[n][c], or without p Σ_bc w[a][b][c] q[n][b][c].
pub(super) fn segment(w: Cube, [slices, depth]: [usize; 2], p: Option<Matrix>, (q, q_b): (Matrix, i64)) -> Segment {
    let segment = Segment {
        w: w.address,
        w_a: w.a,
        w_b: w.b,
        w_c: w.c,
        w_batch: w.batch,
        w_type: w.kind,
        q: q.address,
        q_n: q.rows,
        q_b,
        q_c: q.column,
        q_batch: q.batch,
        q_type: q.kind,
        slices: length(slices),
        depth: length(depth),
        ..Segment::default()
    };
    segment.scaled(p)
}

/// Σ_c w[a][c] q[n][c].
pub(super) fn linear(w: Cube, depth: usize, q: Matrix) -> Segment {
    segment(w, [1, depth], None, (q, 0))
}

/// A factor of W's two that are summed over: W's axis, its length, and the input along it.
type Factor = (usize, usize, Matrix);

/// Σ W[k][i][j] times both inputs, with the lanes along W's axis `a`. Each slice costs its scaling, as much as some steps
/// of depth, so the longer axis is the depth, unless it is contiguous along neither lanes nor depth.
pub(super) fn bilinear(w: Operand<3>, a: usize, one: Factor, other: Factor) -> Segment {
    let cost = |slices: &Factor, depth: &Factor| {
        let apart = [a, depth.0].iter().all(|&axis| w.strides[axis].abs() != 1);
        let steps = (depth.1 as u128).next_multiple_of(16) + 8;
        (slices.1 as u128 * steps) << u32::from(apart)
    };
    let (slices, depth) = if cost(&one, &other) <= cost(&other, &one) { (one, other) } else { (other, one) };
    let cube = Cube {
        address: w.address,
        a: w.strides[a],
        b: w.strides[slices.0],
        c: w.strides[depth.0],
        batch: 0,
        kind: w.kind,
    };
    segment(cube, [slices.1, depth.1], Some(slices.2), (depth.2, 0))
}

/// The terms of y: of W dense or absent, U and V.
pub(super) fn terms(layer: &Layer, z: Matrix, x: Matrix) -> [Option<Segment>; 3] {
    let w = match layer.form {
        Form::Dense(w) => Some(bilinear(w, 0, (1, layer.i, z), (2, layer.j, x))),
        _ => None,
    };
    let [u, v] = linear_terms(layer, z, x);
    [w, u, v]
}

/// Those of U and V.
pub(super) fn linear_terms(layer: &Layer, z: Matrix, x: Matrix) -> [Option<Segment>; 2] {
    [layer.u.map(|u| linear(Cube::matrix(u, 0), layer.i, z)), layer.v.map(|v| linear(Cube::matrix(v, 0), layer.j, x))]
}

/// y of a dense or linear layer.
pub(super) fn forward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    n: usize,
    [z, x]: [Operand<2>; 2],
    y: Output<2>,
) -> Result<()> {
    let terms = terms(layer, z.matrix(), x.matrix());
    let bias = layer.b.map(Operand::<1>::row);
    sum(recorder, Batch::plain(n), layer.k, &terms, bias, (y.to.matrix(), y.add))
}

/// Terms in any number, as many at once as one launch takes.
pub(super) fn sum(
    recorder: &mut Recorder<'_>,
    batch: Batch,
    lanes: usize,
    terms: &[Option<Segment>],
    bias: Option<Matrix>,
    (to, add): (Matrix, bool),
) -> Result<()> {
    let mut problem = Contract::new(batch, lanes, 1).bias(bias).to(to, add);
    for &term in terms {
        if problem.segments as usize == SEGMENTS {
            recorder.contract(&[problem])?;
            problem = Contract::new(batch, lanes, 1).to(to, true);
        }
        problem = problem.plus(term);
    }
    recorder.contract(&[problem])
}

/// dz of W and U, as terms.
pub(super) fn dz_terms(layer: &Layer, g: Matrix, x: Matrix) -> [Option<Segment>; 2] {
    let w = match layer.form {
        Form::Dense(w) => Some(bilinear(w, 1, (0, layer.k, g), (2, layer.j, x))),
        _ => None,
    };
    [w, layer.u.map(|u| linear(Cube::matrix(u, 1), layer.k, g))]
}

/// dx of W and V, as terms.
pub(super) fn dx_terms(layer: &Layer, g: Matrix, z: Matrix) -> [Option<Segment>; 2] {
    let w = match layer.form {
        Form::Dense(w) => Some(bilinear(w, 2, (0, layer.k, g), (1, layer.i, z))),
        _ => None,
    };
    [w, layer.v.map(|v| linear(Cube::matrix(v, 1), layer.k, g))]
}

/// dz, dx and their sum, in one launch.
pub(super) fn inputs(
    recorder: &mut Recorder<'_>,
    batch: Batch,
    [dz, dx]: [(&[Option<Segment>; 2], usize); 2],
    to: [Option<Output<2>>; 3],
) -> Result<()> {
    let problem = |lanes: usize, terms: &[&[Option<Segment>; 2]], to: Option<Output<2>>| {
        let empty = Contract::new(batch, if to.is_some() { lanes } else { 0 }, 1);
        let problem = terms.iter().copied().flatten().fold(empty, |problem, &term| problem.plus(term));
        to.map_or(problem, |to| problem.to(to.to.matrix(), to.add))
    };
    let [to_z, to_x, tied] = to;
    recorder.contract(&[problem(dz.1, &[dz.0], to_z), problem(dx.1, &[dx.0], to_x), problem(dz.1, &[dz.0, dx.0], tied)])
}

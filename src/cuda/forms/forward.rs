//! y of a sum of blocks.

use super::super::contract::{Batch, Cube, bilinear, linear, linear_terms};
use super::super::cp::{self, for_its_rows, projected as projected_rows, projection};
use super::super::few::Few;
use super::super::gate::{Groups, plane};
use super::super::operand::{Layer, Matrix, Operand, Output};
use super::super::problem::{Contract, Gate, SEGMENTS, Segment, bytes};
use super::super::recorder::Recorder;
use super::super::shared;
use super::{Block, Core, components, folded, parts, projected};
use crate::Result;

/// How a block's share gets into y.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a term of a contraction, with others.
    Term,
    /// By itself: a diagonal core without A.
    Gate,
    /// By itself: a dense core without A of a shared context.
    Shared,
}

fn way(block: &Block, groups: Groups) -> Way {
    match (block.core, block.factors[0]) {
        (_, Some(_)) => Way::Term,
        (Core::Diagonal(_), None) => Way::Gate,
        (Core::Dense(_), None) if groups.each == 1 => Way::Term,
        (Core::Dense(_), None) => Way::Shared,
    }
}

/// y [G, M, K] of z [G, I] and x [G, M, J], with the linear terms of `layer`.
pub(in super::super) fn forward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    blocks: &Few<Block>,
    groups: Groups,
    (z, x): (Operand<2>, Operand<3>),
    y: Output<3>,
) -> Result<()> {
    let kind = layer.kinds[1];
    let narrow = bytes(y.to.kind) < bytes(kind);
    let sums = if narrow { cp::pitch(layer.k).saturating_mul(bytes(kind)) } else { 0 };
    let row = blocks.iter().fold(sums, |row, block| row.saturating_add(block.row_bytes(kind, 1)));
    for ([group, row], groups) in parts(groups, row)? {
        let mark = recorder.mark();
        let (z, x, y) = (z.after(0, group), x.after(0, group).after(1, row), y.after(0, group).after(1, row));
        let call = Call { layer, groups, z, x };
        call.forward(recorder, blocks, y, narrow)?;
        recorder.release(mark);
    }
    Ok(())
}

/// The rows of one block of them.
struct Call<'a> {
    layer: &'a Layer,
    groups: Groups,
    z: Operand<2>,
    x: Operand<3>,
}

impl Call<'_> {
    fn forward(&self, recorder: &mut Recorder<'_>, blocks: &Few<Block>, y: Output<3>, narrow: bool) -> Result<()> {
        let (layer, groups, kind) = (self.layer, self.groups, self.layer.kinds[1]);
        let of = |which: Way| blocks.iter().filter(move |block| way(block, groups) == which);
        let [terms, gates, cores] = [Way::Term, Way::Gate, Way::Shared].map(|which| of(which).count());
        // W′ of a dense W alone is generated with V and b′.
        let adopts = terms + gates == 0 && cores == 1 && of(Way::Shared).all(Block::is_bare);
        let linear = usize::from(layer.u.is_some()) + usize::from(layer.v.is_some()) + terms;
        let sums = !adopts && (linear > 0 || gates == 0 && (layer.b.is_some() || cores == 0));
        let shares = gates + cores + if sums { linear.div_ceil(SEGMENTS).max(1) } else { 0 };
        let mut to = match narrow && shares > 1 {
            true => Output { to: components(recorder, groups, layer.k, kind)?, add: false },
            false => y,
        };
        let mut bias = layer.b;
        if sums {
            let mut sum = Sum::new(groups, layer.k, bias.take().map(Operand::<1>::row), to);
            let z = if groups.each == 1 { self.z.matrix() } else { self.z.groups() };
            for term in linear_terms(layer, z, groups.matrix(self.x)).into_iter().flatten() {
                sum.add(recorder, term)?;
            }
            for block in of(Way::Term) {
                let term = self.term(recorder, block)?;
                sum.add(recorder, term)?;
            }
            recorder.contract(&[sum.problem])?;
            to.add = true;
        }
        for block in of(Way::Gate) {
            let mark = recorder.mark();
            self.core(recorder, block, bias.take().filter(|_| !adopts), to)?;
            recorder.release(mark);
            to.add = true;
        }
        for block in of(Way::Shared) {
            let mark = recorder.mark();
            let [p, q] = self.projected(recorder, block)?;
            if let (Core::Dense(core), Some(p), Some(q)) = (block.core, p, q) {
                let none = block.inner(core, layer.kinds);
                let inner = if adopts { Layer { u: layer.u, v: layer.v, b: layer.b, ..none } } else { none };
                shared::forward(recorder, &inner, [groups.count, groups.each], (p.head(), q), to)?;
            }
            recorder.release(mark);
            to.add = true;
        }
        if narrow && shares > 1 {
            recorder.gate(groups, layer.k, Gate { q: to.to.into(), out: y.into(), ..Gate::default() })?;
        }
        Ok(())
    }

    /// P and Q.
    fn projected(&self, recorder: &mut Recorder<'_>, block: &Block) -> Result<[Option<Operand<3>>; 2]> {
        let inputs = [(1, self.groups.heads(), self.z.heads()), (2, self.groups, self.x)];
        projected(recorder, block, self.layer.kinds[1], inputs.map(Some))
    }

    /// H of a core, written or added.
    fn core(&self, recorder: &mut Recorder<'_>, block: &Block, bias: Option<Operand<1>>, to: Output<3>) -> Result<()> {
        let [p, q] = self.projected(recorder, block)?;
        core(recorder, block, self.layer, self.groups, [p, q], bias, to)
    }

    /// A share that is a contraction.
    fn term(&self, recorder: &mut Recorder<'_>, block: &Block) -> Result<Segment> {
        let (layer, groups) = (self.layer, self.groups);
        let [_, i, j] = block.sizes;
        if let Some(factors) = block.cp() {
            let p = match groups.each {
                1 => projection(self.z.matrix(), factors.b, i),
                _ => {
                    let batch = Batch::plain(groups.count);
                    projected_rows(for_its_rows(cp::of_groups(recorder, layer, &factors, batch, self.z.matrix())?))
                }
            };
            let q = projection(groups.matrix(self.x), factors.c, j);
            return cp::forward_term(recorder, layer, &factors, groups.batch(), [p, q], None);
        }
        let [ra, rb, rc] = block.ranks;
        match (block.core, block.factors[0]) {
            (_, Some(a)) => {
                let h = components(recorder, groups, ra, layer.kinds[1])?;
                let mark = recorder.mark();
                self.core(recorder, block, None, Output { to: h, add: false })?;
                recorder.release(mark);
                let h = folded(recorder, block, 0, groups, h)?;
                Ok(linear(Cube::matrix(a, 0), block.columns(0), groups.matrix(h)))
            }
            (Core::Dense(core), None) => match self.projected(recorder, block)? {
                [Some(p), Some(q)] => Ok(bilinear(core, 0, (1, rb, groups.matrix(p)), (2, rc, groups.matrix(q)))),
                _ => Ok(Segment::default()),
            },
            // By itself.
            (Core::Diagonal(_), None) => Ok(Segment::default()),
        }
    }
}

/// H of P and Q.
pub(super) fn core(
    recorder: &mut Recorder<'_>,
    block: &Block,
    layer: &Layer,
    groups: Groups,
    [p, q]: [Option<Operand<3>>; 2],
    bias: Option<Operand<1>>,
    to: Output<3>,
) -> Result<()> {
    let [ra, rb, rc] = block.ranks;
    match (block.core, p, q) {
        (Core::Diagonal(weights), ..) => {
            let gate =
                Gate { p: plane(p), q: plane(q), s: plane(weights), c: plane(bias), out: to.into(), ..Gate::default() };
            recorder.gate(groups, ra, gate)
        }
        (Core::Dense(core), Some(p), Some(q)) if groups.each == 1 => {
            let term = bilinear(core, 0, (1, rb, groups.matrix(p)), (2, rc, groups.matrix(q)));
            recorder.contract(&[Contract::new(groups.batch(), ra, 1).plus(Some(term)).to(groups.matrix(to.to), to.add)])
        }
        (Core::Dense(core), Some(p), Some(q)) => {
            let inner = block.inner(core, layer.kinds);
            shared::forward(recorder, &inner, [groups.count, groups.each], (p.head(), q), to)
        }
        _ => Ok(()),
    }
}

/// Terms in any number, as many at once as one launch takes.
struct Sum {
    groups: Groups,
    lanes: usize,
    to: Matrix,
    problem: Contract,
}

impl Sum {
    fn new(groups: Groups, lanes: usize, bias: Option<Matrix>, to: Output<3>) -> Sum {
        let (matrix, add) = (groups.matrix(to.to), to.add);
        let problem = Contract::new(groups.batch(), lanes, 1).bias(bias).to(matrix, add);
        Sum { groups, lanes, to: matrix, problem }
    }

    fn add(&mut self, recorder: &mut Recorder<'_>, term: Segment) -> Result<()> {
        if self.problem.segments as usize == SEGMENTS {
            recorder.contract(&[self.problem])?;
            self.problem = Contract::new(self.groups.batch(), self.lanes, 1).to(self.to, true);
        }
        self.problem = self.problem.plus(Some(term));
        Ok(())
    }
}

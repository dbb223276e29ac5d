//! The gradients of a sum of blocks, one block after the other:
//!
//! ```text
//!   P = zB, Q = xC, D = gA    contract, of all in one launch; of absent factors the inputs themselves
//!   H, dP, dQ, dd             dgate of a diagonal core; of a dense one contract, and dG by gram
//!   dz = dP Bᵀ, dx = dQ Cᵀ    contract, in one launch; without B and C they are dP and dQ
//!   dA, dB, dC                gram, in one launch
//! ```

use super::super::contract::{Cube, bilinear, linear};
use super::super::cp;
use super::super::few::Few;
use super::super::gate::{Back, Groups};
use super::super::gram::{dw, outer};
use super::super::operand::{self, Form, Layer, Matrix, Operand, Output};
use super::super::problem::{Contract, Gram, Segment};
use super::super::recorder::Recorder;
use super::super::shared;
use super::{Block, Core, Outputs, components, folded, parts, projected};
use crate::Result;

/// Where the gradients of inputs go. Tied ones are of groups of one row.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Inputs {
    pub(in super::super) z: Option<Output<2>>,
    pub(in super::super) x: Option<Output<3>>,
    pub(in super::super) tied: Option<Output<2>>,
}

impl Inputs {
    /// From a group and a row of it on.
    fn after(self, [group, row]: [usize; 2]) -> Inputs {
        Inputs {
            z: self.z.map(|to| to.after(0, group).later(row > 0)),
            x: self.x.map(|to| to.after(0, group).after(1, row)),
            tied: self.tied.map(|to| to.after(0, group)),
        }
    }

    /// For the next block.
    fn added(self) -> Inputs {
        let Inputs { z, x, tied } = self;
        Inputs { z: z.map(|to| to.later(true)), x: x.map(|to| to.later(true)), tied: tied.map(|to| to.later(true)) }
    }
}

/// Those of z [G, I], x [G, M, J] and of the blocks, for g [G, M, K].
pub(in super::super) fn backward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    (blocks, wanted): (&Few<Block>, &Few<Outputs>),
    groups: Groups,
    (z, x, g): (Operand<2>, Operand<3>, Operand<3>),
    mut to: Inputs,
) -> Result<()> {
    let layer = &Layer { form: Form::Absent, u: None, v: None, b: None, ..*layer };
    for (block, wanted) in blocks.iter().zip(wanted.iter()) {
        if block.cp().is_some() {
            of_cp(recorder, layer, block, wanted, groups, (z, x, g), to)?;
        } else {
            for (first, groups) in parts(groups, block.row_bytes(layer.kinds[1], 2))? {
                let mark = recorder.mark();
                let [group, row] = first;
                let [x, g] = [x, g].map(|of| of.after(0, group).after(1, row));
                let wanted = wanted.later(group > 0 || row > 0);
                let call = Call { layer, block, groups, inputs: [g, z.after(0, group).heads(), x] };
                call.backward(recorder, &wanted, to.after(first))?;
                recorder.release(mark);
            }
        }
        to = to.added();
    }
    Ok(())
}

/// Those of a block that is CP.
fn of_cp(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    block: &Block,
    wanted: &Outputs,
    Groups { count, each }: Groups,
    (z, x, g): (Operand<2>, Operand<3>, Operand<3>),
    to: Inputs,
) -> Result<()> {
    let Some(factors) = block.cp() else { return Ok(()) };
    let layer = &Layer { form: Form::Cp(factors), ..*layer };
    if each == 1 {
        let all = of_factors(wanted, to.z, to.x.map(Output::head), to.tied);
        cp::backward(recorder, layer, &factors, count, [z, x.head(), g.head()], None, &all)
    } else {
        shared::backward(recorder, layer, [count, each], (z, x, g), None, &of_factors(wanted, to.z, to.x, None))
    }
}

/// The same as those of CP factors.
fn of_factors<const D: usize>(
    wanted: &Outputs,
    z: Option<Output<2>>,
    x: Option<Output<D>>,
    tied: Option<Output<2>>,
) -> operand::Outputs<D> {
    let ([cp_a, cp_b, cp_c], lambda) = (wanted.factors, wanted.diagonal);
    operand::Outputs { z, x, tied, cp_a, cp_b, cp_c, lambda, ..Default::default() }
}

/// One block, and the rows of one block of them.
struct Call<'a> {
    layer: &'a Layer,
    block: &'a Block,
    groups: Groups,
    /// g, z and x.
    inputs: [Operand<3>; 3],
}

/// What a core leaves in scratch of the gradients: H, dP and dQ where there are factors, and the terms of dz and dx where not.
#[derive(Default)]
struct Left {
    components: [Option<Operand<3>>; 3],
    terms: [Option<Segment>; 3],
    core: Option<Gram>,
}

impl Call<'_> {
    fn sides(&self) -> [Groups; 3] {
        [self.groups, self.groups.heads(), self.groups]
    }

    fn backward(&self, recorder: &mut Recorder<'_>, wanted: &Outputs, to: Inputs) -> Result<()> {
        let (block, sides, kind) = (self.block, self.sides(), self.layer.kinds[1]);
        let [of_a, of_b, of_c] = wanted.factors.map(|to| to.is_some());
        let of_core = wanted.core.is_some() || wanted.diagonal.is_some();
        // H, dP and dQ.
        let needed = [of_a, of_b || to.z.is_some() || to.tied.is_some(), of_c || to.x.is_some() || to.tied.is_some()];
        let [h, dp, dq] = needed;
        if !(h || dp || dq || of_core) {
            return Ok(());
        }
        let factors = [dp || dq || of_core, h || dq || of_core, h || dp || of_core];
        let inputs = [0, 1, 2].map(|side| factors[side].then_some((side, sides[side], self.inputs[side])));
        let all = projected(recorder, block, kind, inputs)?;
        let mut own = [None; 3];
        for (side, own) in own.iter_mut().enumerate() {
            if needed[side] && block.factors[side].is_some() {
                *own = Some(components(recorder, sides[side], block.ranks[side], kind)?);
            }
        }
        let mut to = to;
        let mut left = match block.core {
            Core::Diagonal(weights) => self.diagonal(recorder, weights, all, own, wanted, &mut to)?,
            Core::Dense(core) if self.groups.each == 1 => self.dense(recorder, core, all, own, needed, wanted)?,
            Core::Dense(core) => self.shared(recorder, core, all, own, wanted, to)?,
        };
        for (side, groups) in sides.into_iter().enumerate() {
            let (Some(of), Some(factor)) = (left.components[side], block.factors[side]) else { continue };
            let of = folded(recorder, block, side, groups, of)?;
            left.components[side] = Some(of);
            left.terms[side] = Some(linear(Cube::matrix(factor, 0), block.columns(side), groups.matrix(of)));
        }
        let [_, dz, dx] = left.terms;
        recorder.contract(&[
            self.input(1, [dz, None], to.z.map(Output::heads)),
            self.input(2, [dx, None], to.x),
            self.input(1, [dz, dx], to.tied.map(Output::heads)),
        ])?;
        let mut problems = [Gram::default(); 4];
        for (side, problem) in problems[..3].iter_mut().enumerate() {
            let (Some(to), Some(of)) = (wanted.factors[side], left.components[side]) else { continue };
            let [rows, columns] = [self.inputs[side], of].map(|of| sides[side].matrix(of));
            *problem = outer(sides[side].batch(), (block.sizes[side], rows), (block.columns(side), columns), to);
        }
        problems[3] = left.core.unwrap_or_default();
        recorder.gram(&problems)
    }

    /// Terms of a gradient of inputs.
    fn input(&self, side: usize, terms: [Option<Segment>; 2], to: Option<Output<3>>) -> Contract {
        let (Some(to), true) = (to, terms.iter().any(Option::is_some)) else { return Contract::default() };
        let rows = self.sides()[side];
        let [one, other] = terms;
        let problem = Contract::new(rows.batch(), self.block.sizes[side], 1).plus(one).plus(other);
        problem.to(rows.matrix(to.to), to.add)
    }

    /// What `to` has of inputs without a factor is written here.
    fn diagonal(
        &self,
        recorder: &mut Recorder<'_>,
        s: Option<Operand<1>>,
        [d, p, q]: [Option<Operand<3>>; 3],
        own: [Option<Operand<3>>; 3],
        wanted: &Outputs,
        to: &mut Inputs,
    ) -> Result<Left> {
        let [h, dp, dq] = own;
        let [_, b, c] = self.block.factors;
        let write = |to| Output { to, add: false };
        let mut tied = || {
            let now = to.tied.map(Output::heads);
            to.tied = to.tied.map(|to| to.later(true));
            now
        };
        // Those of x first, as the kernel does.
        let of_q = if c.is_some() { [dq.map(write), None] } else { [to.x, tied()] };
        let of_p = if b.is_some() { [dp.map(write), None] } else { [to.z.map(Output::heads), tied()] };
        let back = Back { p, q, d, s, of_p, of_q, h, of_s: wanted.diagonal };
        recorder.gate_back(self.groups, self.block.ranks[0], self.layer.kinds[1], back)?;
        Ok(Left { components: own, ..Left::default() })
    }

    /// A dense core of a batch.
    fn dense(
        &self,
        recorder: &mut Recorder<'_>,
        core: Operand<3>,
        all: [Option<Operand<3>>; 3],
        own: [Option<Operand<3>>; 3],
        needed: [bool; 3],
        wanted: &Outputs,
    ) -> Result<Left> {
        let (groups, ranks) = (self.groups, self.block.ranks);
        let all: [Matrix; 3] = all.map(|of| of.map(|of| groups.matrix(of)).unwrap_or_default());
        let mut left = Left { components: own, ..Left::default() };
        let mut problems = [Contract::default(); 3];
        for side in (0..3).filter(|&side| needed[side]) {
            let [one, other] = [[1, 2], [0, 2], [0, 1]][side];
            let factor = |side: usize| (side, ranks[side], all[side]);
            let term = bilinear(core, side, factor(one), factor(other));
            match own[side] {
                Some(own) => {
                    let problem = Contract::new(groups.batch(), ranks[side], 1).plus(Some(term));
                    problems[side] = problem.to(groups.matrix(own), false);
                }
                None => left.terms[side] = Some(term),
            }
        }
        recorder.contract(&problems)?;
        left.core = wanted.core.map(|to| dw(groups.batch(), ranks, all, to));
        Ok(left)
    }

    /// A dense core of a shared context.
    fn shared(
        &self,
        recorder: &mut Recorder<'_>,
        core: Operand<3>,
        all @ [d, p, q]: [Option<Operand<3>>; 3],
        own: [Option<Operand<3>>; 3],
        wanted: &Outputs,
        to: Inputs,
    ) -> Result<Left> {
        let [h, dp, dq] = own;
        let Groups { count, each } = self.groups;
        let inner = self.block.inner(core, self.layer.kinds);
        let write = |to| Output { to, add: false };
        if let Some(h) = h {
            super::forward::core(recorder, self.block, self.layer, self.groups, [p, q], None, write(h))?;
        }
        let [_, b, c] = self.block.factors;
        let outputs = operand::Outputs {
            z: if b.is_some() { dp.map(write).map(Output::head) } else { to.z },
            x: if c.is_some() { dq.map(write) } else { to.x },
            w: wanted.core,
            ..Default::default()
        };
        // Those that are factors of nothing are not read.
        let [d, p, q] = [d, p, q].map(|of| of.or(all.into_iter().flatten().next()));
        if let (Some(d), Some(p), Some(q)) = (d, p, q) {
            shared::backward(recorder, &inner, [count, each], (p.head(), q, d), None, &outputs)?;
        }
        Ok(Left { components: own, ..Left::default() })
    }
}

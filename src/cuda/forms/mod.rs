//! W as a sum of blocks (see [`crate::Block`]), by blocks of rows whose intermediate results are in scratch (blocks.rs):
//!
//! ```text
//!   P = zB, Q = xC    contract, of both in one launch; of absent factors the inputs themselves
//!   H = core(P, Q)    gate of a diagonal core; contract, or a shared context, of a dense one
//!   y = HAᵀ           contract, of up to four blocks and U, V and b in one launch; without A, H is y
//! ```
//!
//! A diagonal core with all factors is CP (cp.rs). A factor of one column makes one component, which is read for all, and meets
//! their sum. Shares of y are added up in y itself where it is of the type of sums, else in scratch: f16 and bf16 are rounded once.

mod attention;
mod backward;
mod forward;

use super::blocks::Blocks;
use super::contract::{Batch, Cube, linear};
use super::cp::pitch;
use super::few::Few;
use super::gate::Groups;
use super::operand::{Factors, Form, Layer, Matrix, Operand, Output};
use super::problem::{Contract, Gram, Rows, Type, bytes};
use super::recorder::Recorder;
use super::shared::rows_of;
use super::stage::Stage;
use crate::block::Center;
use crate::wanted::WantedBlock;
use crate::{Element, Interaction, Result};
pub(super) use attention::{attend, attend_backward};
pub(super) use backward::{Inputs, backward};
pub(super) use forward::forward;

/// A core.
#[derive(Clone, Copy, Debug)]
enum Core {
    /// With its weights.
    Diagonal(Option<Operand<1>>),
    /// [Ra, Rb, Rc].
    Dense(Operand<3>),
}

/// A block that adds something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    core: Core,
    /// A [K, Ra], B [I, Rb], C [J, Rc].
    factors: [Option<Operand<2>>; 3],
    /// Which of them are one column for several components.
    spread: [bool; 3],
    /// Ra, Rb, Rc.
    ranks: [usize; 3],
    /// K, I, J.
    sizes: [usize; 3],
}

impl Block {
    /// CP, if it is that.
    fn cp(&self) -> Option<Factors> {
        match (self.core, self.factors) {
            (Core::Diagonal(lambda), [Some(a), Some(b), Some(c)]) if self.spread == [false; 3] => {
                Some(Factors { a, b, c, lambda, r: self.ranks[0] })
            }
            _ => None,
        }
    }

    /// Whether it has no factors.
    fn is_bare(&self) -> bool {
        self.factors.iter().all(Option::is_none)
    }

    /// Columns of a factor.
    fn columns(&self, side: usize) -> usize {
        if self.spread[side] { 1 } else { self.ranks[side] }
    }

    /// The layer of P and Q that a dense core is.
    fn inner(&self, core: Operand<3>, kinds: [Type; 2]) -> Layer {
        let [k, i, j] = self.ranks;
        Layer { k, i, j, form: Form::Dense(core), u: None, v: None, b: None, kinds }
    }

    /// Bytes of a row of those of H, P and Q that may be in scratch, `times` of each, and H once more.
    fn row_bytes(&self, kind: Type, times: usize) -> usize {
        let of = |side: usize| if self.factors[side].is_some() { pitch(self.ranks[side]) } else { 0 };
        let all = times.saturating_mul(of(0).saturating_add(of(1)).saturating_add(of(2)));
        all.saturating_add(of(0)).saturating_mul(bytes(kind))
    }
}

/// Where the gradients of a block's operands go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outputs {
    core: Option<Output<3>>,
    diagonal: Option<Output<1>>,
    factors: [Option<Output<2>>; 3],
}

impl Outputs {
    /// For the next part of all sums.
    fn later(self, later: bool) -> Outputs {
        Outputs {
            core: self.core.map(|to| to.later(later)),
            diagonal: self.diagonal.map(|to| to.later(later)),
            factors: self.factors.map(|to| to.map(|to| to.later(later))),
        }
    }
}

/// The blocks of a layer that add something.
pub(super) fn blocks<T: Element>(stage: &mut Stage<'_>, layer: &Interaction<'_, T>) -> Result<Few<Block>> {
    let blocks = layer.terms().iter().filter(|block| !block.is_empty());
    Few::collect(blocks.map(|block| {
        let core = match block.center {
            Center::Diagonal(_, weights) => Core::Diagonal(stage.some(weights)?),
            Center::Dense(core) => Core::Dense(stage.input(core)?),
        };
        let [a, b, c] = block.factors;
        let factors = [stage.some(a)?, stage.some(b)?, stage.some(c)?];
        let spread = [0, 1, 2].map(|side| block.is_spread(side));
        Ok(Block { core, factors, spread, ranks: block.ranks(), sizes: block.sizes() })
    }))
}

/// Where their gradients go, if they are wanted.
pub(super) fn wanted<'a, 'b: 'a, T: Element>(
    stage: &mut Stage<'a>,
    layer: &Interaction<'_, T>,
    wanted: &mut [WantedBlock<'b, T>],
) -> Result<Few<Outputs>> {
    let mut wanted = wanted.iter_mut();
    let pairs = layer.terms().iter().map(|block| (block, wanted.next()));
    Few::collect(pairs.filter(|(block, _)| !block.is_empty()).map(|(_, wanted)| {
        let Some(wanted) = wanted else { return Ok(Outputs::default()) };
        Ok(Outputs {
            core: stage.wanted(wanted.core.take())?,
            diagonal: stage.wanted(wanted.diagonal.take())?,
            factors: [stage.wanted(wanted.a.take())?, stage.wanted(wanted.b.take())?, stage.wanted(wanted.c.take())?],
        })
    }))
}

/// Blocks of rows that take so many bytes each: whole groups, or some rows of one; with the first group and row of each.
fn parts(groups: Groups, row: usize) -> Result<impl Iterator<Item = ([usize; 2], Groups)>> {
    let Groups { count, each } = groups;
    let (of_groups, of_rows) = (Blocks::new(count, each.saturating_mul(row))?, Blocks::new(each, row)?);
    Ok(of_groups.iter().flat_map(move |(group, count)| {
        rows_of(of_rows, count, each).map(move |(row, each)| ([group, row], Groups { count, each }))
    }))
}

/// Scratch of so many components a row.
fn components(recorder: &mut Recorder<'_>, groups: Groups, columns: usize, kind: Type) -> Result<Operand<3>> {
    let pitch = if columns == 1 { 1 } else { pitch(columns) };
    let address = recorder.scratch(&[groups.count, groups.each, pitch], kind)?;
    let row = pitch as i64;
    Ok(Operand { address, strides: [row * groups.each as i64, row, 1], kind })
}

/// Components of the inputs of some sides, each its product with its factor, or the input itself.
fn projected<const N: usize>(
    recorder: &mut Recorder<'_>,
    block: &Block,
    kind: Type,
    inputs: [Option<(usize, Groups, Operand<3>)>; N],
) -> Result<[Option<Operand<3>>; N]> {
    let (mut all, mut problems) = ([None; N], [Contract::default(); N]);
    for ((input, to), problem) in inputs.into_iter().zip(&mut all).zip(&mut problems) {
        let Some((side, groups, input)) = input else { continue };
        let Some(factor) = block.factors[side] else {
            *to = Some(input);
            continue;
        };
        let columns = block.columns(side);
        let own = components(recorder, groups, columns, kind)?;
        let term = linear(Cube::matrix(factor, 1), block.sizes[side], groups.matrix(input));
        *problem = Contract::new(groups.batch(), columns, 1).plus(Some(term)).to(groups.matrix(own), false);
        let [group, row, _] = own.strides;
        *to = Some(if block.spread[side] { Operand { strides: [group, row, 0], ..own } } else { own });
    }
    recorder.contract(&problems)?;
    Ok(all)
}

/// Components as a factor on this side meets them: of one column, their sums.
fn folded(
    recorder: &mut Recorder<'_>,
    block: &Block,
    side: usize,
    groups: Groups,
    of: Operand<3>,
) -> Result<Operand<3>> {
    if !block.spread[side] {
        return Ok(of);
    }
    let sums = components(recorder, groups, 1, of.kind)?;
    // A sum over the batch whose batch are the components, and whose lanes are the rows.
    let from = Matrix {
        address: of.address,
        rows: Rows { outer: 0, inner: of.strides[2] },
        column: of.strides[1],
        batch: 0,
        kind: of.kind,
    };
    let rows = groups.count * groups.each;
    let depth = Batch::plain(block.ranks[side]);
    let to = Operand { address: sums.address, strides: [0, 0, 1], kind: of.kind };
    recorder.gram(&[Gram::new(depth, [1, 1, rows], 1).q(from).to(to, 0, false)])?;
    Ok(sums)
}

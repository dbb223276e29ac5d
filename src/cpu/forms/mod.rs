//! W as a sum of blocks: each adds its share to y and to the gradients of the inputs, in order, after that of U, V and b.
//!
//! | block | computed by |
//! |---|---|
//! | diagonal core alone | gate.rs |
//! | diagonal core with all factors | the CP engine |
//! | dense core alone | the engines of a dense layer |
//! | the others | general.rs, backward.rs |
//!
//! pairs.rs and generate.rs have all pairs, and the layers that z generates. metric.rs and attention.rs are the one-call helpers.
//!
//! Shares are added up in y itself where it is of the type of sums. Of f16 and bf16, rows at a time are added up in scratch.

mod attention;
mod backward;
mod batch;
mod gate;
mod general;
mod generate;
mod metric;
mod pairs;
mod stage;

pub(crate) use attention::{attend, attend_back};
pub(super) use generate::{backward_generate, generate};
pub(crate) use metric::Distances;
pub(super) use pairs::{backward_pairs, forward_pairs};

use super::cache::parts;
use super::gradient::jobs::{Call, To};
use super::output::{Place, Sink};
use super::{parallel, scratch};
use crate::block::Center;
use crate::interaction::Core;
use crate::wanted::{Gradient, Wanted, WantedBlock, WantedFactors};
use crate::{Block, Context, Element, Interaction, Result, View, ViewMut};
use backward::Inputs;
use batch::{Sinks, rows_of, runs};
use gate::Gating;
use general::General;
use stage::{Rows, ld};

/// Bytes of the sums of a block of rows.
const SUMS_BYTES: usize = 1 << 20;

/// The layer that a block is by itself, if an engine computes it; of the linear terms, context and sizes of `layer`.
pub(super) fn plain<'a, T: Element>(layer: &Interaction<'a, T>, block: &Block<'a, T>) -> Option<Interaction<'a, T>> {
    let core = match (block.center, block.factors) {
        (Center::Dense(core), [None, None, None]) => Interaction::dense(core),
        (Center::Diagonal(_, lambda), [Some(a), Some(b), Some(c)]) if (0..3).all(|side| !block.is_spread(side)) => {
            let cp = Interaction::cp(a, b, c);
            match lambda {
                Some(lambda) => cp.and_then(|cp| cp.with_lambda(lambda)),
                None => cp,
            }
        }
        _ => return None,
    };
    let core = core.ok()?; // the block has been checked
    Some(Interaction { u: layer.u, v: layer.v, b: layer.b, context: layer.context, ..core })
}

/// FLOPs of one row, roughly.
fn flops<T: Element>(block: &Block<'_, T>) -> f64 {
    let (ranks, sizes) = (block.ranks(), block.sizes());
    let core = if block.is_diagonal() { ranks[0] as f64 } else { ranks.iter().map(|&rank| rank as f64).product() };
    let factors = (0..3).map(|side| match block.factors[side] {
        Some(factor) => factor.shape()[1] as f64 * sizes[side] as f64,
        None => 0.0,
    });
    2.0 * (core + factors.sum::<f64>())
}

/// A call: the layer, and the rows.
#[derive(Clone, Copy)]
struct Batch<'a, T: Element> {
    layer: &'a Interaction<'a, T>,
    context: Context,
    /// [G, I] and [G, M, J].
    z: View<'a, T, 2>,
    x: View<'a, T, 3>,
}

impl<'a, T: Element> Batch<'a, T> {
    fn new(layer: &'a Interaction<'a, T>, z: View<'a, T, 2>, x: View<'a, T, 3>) -> Result<Self> {
        Ok(Batch { layer, context: layer.context()?.automatic(), z, x })
    }

    fn each(&self) -> usize {
        self.x.shape()[1]
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'a, T>> + Clone + use<'a, T> {
        self.layer.terms().iter().filter(|block| !block.is_empty()).copied()
    }

    /// U, V and b alone, if there is any.
    fn linear(&self) -> Option<Interaction<'a, T>> {
        let layer = self.layer;
        let any = layer.u.is_some() || layer.v.is_some() || layer.b.is_some();
        any.then_some(
            Interaction { core: Core::Absent, context: Some(self.context), ..*layer }.along([true, false, false]),
        )
    }

    fn threads(&self, flops: f64) -> usize {
        let rows = self.z.shape()[0] as f64 * self.each() as f64;
        parallel::threads(&self.context, rows * flops)
    }

    fn general(&self, block: Block<'a, T>) -> General<'a, T> {
        General { context: self.context, threads: self.threads(flops(&block)), block, z: self.z, x: self.x }
    }

    /// A bare diagonal core. Memory bounds it, so that its threads are counted by the bytes that a core moves in the time of a FLOP.
    fn gating(&self, block: &Block<'a, T>, bias: Option<View<'a, T, 1>>) -> Gating<'a, T> {
        let threads = self.threads(8.0 * block.ranks()[0] as f64);
        Gating { context: self.context, threads, weights: block.weights(), bias, z: self.z, x: self.x }
    }

    /// A block's share of y.
    fn share(&self, block: Block<'a, T>, bias: Option<View<'a, T, 1>>, y: Sinks<T>) -> Result<()> {
        if gate::is_bare(&block) {
            let gating = self.gating(&block, bias);
            if gating.possible(&[if y.unit() { 1 } else { 0 }]) {
                return gating.forward(y);
            }
        }
        let none = Interaction { u: None, v: None, b: None, ..*self.layer };
        match plain(&none, &block).filter(|_| !block.is_diagonal() || self.each() == 1) {
            Some(inner) if self.each() == 1 => self.rows(inner, y),
            _ => self.general(block).forward(y),
        }
    }

    /// The share of a layer of its own, group by group.
    fn rows(&self, layer: Interaction<'a, T>, y: Sinks<T>) -> Result<()> {
        let layer = layer.with_context(self.context);
        let [groups, each, _] = self.x.shape();
        if each == 1 {
            let run = batch::Run { group: 0, m: 0, rows: groups, at: 0 };
            let x = rows_of(self.x, run).slice(1, 0..layer.j)?;
            return super::forward_to(&layer, self.z.slice(1, 0..layer.i)?, x, y.rows(run));
        }
        for group in 0..groups {
            let run = batch::Run { group, m: 0, rows: each, at: 0 };
            let z = self.z.slice(0, group..group + 1)?.broadcast(0, each)?.slice(1, 0..layer.i)?;
            super::forward_to(&layer, z, rows_of(self.x, run).slice(1, 0..layer.j)?, y.rows(run))?;
        }
        Ok(())
    }

    /// Whether one kernel adds the bias to a bare diagonal core.
    fn bias_at_once(&self) -> Option<(Block<'a, T>, View<'a, T, 1>)> {
        let block = self.blocks().next().filter(gate::is_bare)?;
        let bias = self.layer.b.filter(|_| self.layer.u.is_none() && self.layer.v.is_none())?;
        self.gating(&block, Some(bias)).possible(&[]).then_some((block, bias))
    }

    /// All shares: the first is what `y` says, the rest are added.
    fn sum(&self, y: Sinks<T>) -> Result<()> {
        let mut y = y;
        let mut blocks = self.blocks();
        match self.bias_at_once().filter(|_| y.unit()) {
            Some((block, bias)) => {
                self.share(block, Some(bias), y)?;
                (y, _) = (y.adding(), blocks.next());
            }
            None => {
                if let Some(linear) = self.linear() {
                    self.rows(linear, y)?;
                    y = y.adding();
                }
            }
        }
        for block in blocks {
            self.share(block, None, y)?;
            y = y.adding();
        }
        Ok(())
    }

    /// y, to where it goes.
    fn forward(&self, y: Sinks<T>) -> Result<()> {
        let shares = self.blocks().count() + usize::from(self.linear().is_some());
        let together = self.bias_at_once().is_some() && y.unit();
        match y.in_place() {
            _ if shares <= 1 || (shares == 2 && together) => self.sum(y),
            Some(y) => self.sum(y),
            None => self.narrowed(y),
        }
    }

    /// The same by rows whose sums are added up in scratch.
    fn narrowed(&self, y: Sinks<T>) -> Result<()> {
        let ([groups, each, _], k) = (self.x.shape(), self.layer.k);
        let pitch = ld(k);
        let most = (SUMS_BYTES / size_of::<T::Acc>() / pitch).clamp(16, 1024);
        let (g_most, m_most) = if each == 1 { (most, 1) } else { ((most / each).max(1), most.min(each)) };
        let rows = g_most * m_most;
        scratch::with([rows * pitch], |[sums]| {
            let rows = Rows::new(sums, pitch);
            let table = T::table(self.context.capability());
            let call = Call::<T> { table, kc: 0, few: false, threads: self.threads(16.0 * k as f64) };
            for g in parts(groups, g_most, 1) {
                for m in parts(each, m_most, 1) {
                    let x = self.x.slice(0, g.0..g.0 + g.1)?.slice(1, m.0..m.0 + m.1)?;
                    let part = Batch { z: self.z.slice_rows(g), x, ..*self };
                    let strides = [(m.1 * pitch) as isize, pitch as isize, 1];
                    let strides = if m.1 == 1 { [pitch as isize, pitch as isize, 1] } else { strides };
                    part.sum(Sinks::new(Place::Sums(sums), strides, m.1))?;
                    for run in runs(g, m, each, y.is_flat()) {
                        // SAFETY: rows of this block, in scratch and in y.
                        unsafe { stage::write(&call, (rows.from(run.at), [run.rows, k]), y.rows(run))? };
                    }
                }
            }
            Ok(())
        })
    }
}

/// Scratch of y, of the thread that makes the call.
pub(super) fn scratch<T: Element>(
    layer: &Interaction<'_, T>,
    [groups, each]: [usize; 2],
    context: &Context,
) -> Result<usize> {
    let empty: [T; 0] = [];
    let (z, x) =
        (View::strided(&empty, 0, [0, layer.i], [0, 1])?, View::strided(&empty, 0, [0, each, layer.j], [0, 0, 1])?);
    let of_block = |block: &Block<'_, T>| {
        let general = General { context: *context, threads: 1, block: *block, z, x };
        match gate::is_bare(block) {
            true => scratch::bytes::<T::Acc>(&[ld(layer.k); 2]),
            false => scratch::bytes::<T::Acc>(&general.lengths(&general.blocks_of(groups))),
        }
    };
    let sums = if T::IN_PLACE { 0 } else { SUMS_BYTES };
    Ok(sums.saturating_add(layer.terms().iter().filter(|block| !block.is_empty()).map(of_block).max().unwrap_or(0)))
}

/// y of a batch, stored, or its sums written or added to. No axis is empty.
pub(super) fn forward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: Sink<T>,
) -> Result<()> {
    match layer.terms() {
        [block] if plain(layer, block).is_some() => match plain(layer, block) {
            // Whichever algorithm was asked for: the block has been found to be one of `Blocks`.
            Some(layer) => {
                let context = layer.context()?.automatic();
                super::forward_to(&layer.with_context(context), z, x, y)
            }
            None => Ok(()),
        },
        _ => Batch::new(layer, z, x.insert_axis())?.forward(Sinks::batch(y)),
    }
}

/// y of a shared context. No axis is empty.
pub(super) fn forward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    mut y: ViewMut<'_, T, 3>,
) -> Result<()> {
    if let [block] = layer.terms()
        && let Some(layer) = plain(layer, block)
    {
        return super::forward_shared(&layer, z, x, y);
    }
    let sinks = Sinks::new(Place::Stored(y.host_mut_ptr()), y.strides(), x.shape()[1]);
    Batch::new(layer, z, x)?.forward(sinks)
}

/// The gradients of a batch, and of its `blocks`: those of `wanted` are not looked at. What the blocks' destinations are given again is
/// added. No axis is empty.
pub(super) fn backward<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    g: View<'_, T, 2>,
    mut wanted: Wanted<'_, T>,
    blocks: &mut [WantedBlock<'_, T>],
) -> Result<()> {
    let batch = Batch::new(layer, z, x.insert_axis())?;
    let (has_u, has_v) = (layer.u.is_some(), layer.v.is_some());
    let linear = Interaction { core: Core::Absent, context: Some(batch.context), ..*layer };
    // The shares of U and V first; where there are none, the first block writes.
    let share = Wanted {
        z: again(&mut wanted.z, has_u),
        x: again(&mut wanted.x, has_v),
        tied: again(&mut wanted.tied, has_u || has_v),
        w: wanted.w,
        u: wanted.u,
        v: wanted.v,
        b: wanted.b,
        ..Wanted::default()
    };
    super::backward(&linear.along([true; 3]), z, x, g, share)?;
    let later = |to: Option<Gradient<'_, T::Accumulator, 2>>, here: bool| {
        to.map(|Gradient { to, add }| To::matrix(Gradient { to, add: add || here }))
    };
    let inputs = [later(wanted.z, has_u), later(wanted.x, has_v), later(wanted.tied, has_u || has_v)];
    blocks_backward(&batch, g.insert_axis(), inputs, blocks)
}

/// The same destination, where there is a share for it.
fn again<'b, A, const D: usize>(to: &'b mut Option<Gradient<'_, A, D>>, here: bool) -> Option<Gradient<'b, A, D>> {
    let Gradient { to, add } = to.as_mut().filter(|_| here)?;
    Some(Gradient { to: to.reborrow(), add: *add })
}

/// The gradients of a shared context. No axis is empty.
pub(super) fn backward_shared<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 3>,
    g: View<'_, T, 3>,
    wanted: Wanted<'_, T, 3>,
) -> Result<()> {
    let batch = Batch::new(layer, z, x)?;
    let linear = Interaction { core: Core::Absent, context: Some(batch.context), ..*layer };
    let (mut z_to, mut x_to) = (wanted.z, wanted.x);
    let (has_u, has_v) = (layer.u.is_some(), layer.v.is_some());
    let share = Wanted {
        z: again(&mut z_to, has_u),
        x: again(&mut x_to, has_v),
        w: wanted.w,
        u: wanted.u,
        v: wanted.v,
        b: wanted.b,
        ..Wanted::default()
    };
    super::backward_shared(&linear.along([true; 3]), z, x, g, share)?;
    let of_z = z_to.map(|Gradient { to, add }| To::matrix(Gradient { to, add: add || has_u }));
    let of_x = x_to.map(|Gradient { to, add }| To::batch(Gradient { to, add: add || has_v }));
    blocks_backward(&batch, g, [of_z, of_x, None], wanted.blocks)?;
    wanted.blocks.iter_mut().for_each(|block| *block = WantedBlock::default());
    Ok(())
}

/// The shares of the blocks in the gradients of the inputs, and the gradients of their operands.
fn blocks_backward<'a, T: Element>(
    batch: &Batch<'a, T>,
    g: View<'_, T, 3>,
    [mut z, mut x, mut tied]: [Option<To<T::Accumulator>>; 3],
    wanted: &mut [WantedBlock<'_, T>],
) -> Result<()> {
    let mut nothing = WantedBlock::default();
    for (index, block) in batch.layer.terms().iter().enumerate() {
        let wanted = match wanted.get_mut(index) {
            Some(wanted) => wanted,
            None => &mut nothing,
        };
        if block.is_empty() {
            continue; // its gradients are zeros already
        }
        let inputs = Inputs::new(z, x, tied);
        let stride = |to: Option<To<T::Accumulator>>| to.map_or(1, |to| to.column_stride());
        let strides = [g.strides()[2], stride(z), stride(x), stride(tied)];
        let gating = batch.gating(block, None);
        if gate::is_bare(block) && gating.possible(&strides) {
            gating.backward(g, &inputs, wanted.diagonal.as_mut())?;
        } else if let Some(inner) = plain_of(batch, block) {
            of_plain(batch, inner, g, &inputs, wanted)?;
        } else {
            batch.general(*block).backward(g, &inputs, wanted)?;
        }
        wanted.later();
        for to in [&mut z, &mut x, &mut tied].into_iter().flatten() {
            to.add = true;
        }
    }
    Ok(())
}

/// The layer of a block that an engine differentiates.
fn plain_of<'a, T: Element>(batch: &Batch<'a, T>, block: &Block<'a, T>) -> Option<Interaction<'a, T>> {
    let none = Interaction { u: None, v: None, b: None, context: Some(batch.context), ..*batch.layer };
    plain(&none, block)
}

/// Its gradients.
fn of_plain<T: Element>(
    batch: &Batch<'_, T>,
    layer: Interaction<'_, T>,
    g: View<'_, T, 3>,
    inputs: &Inputs<T::Accumulator>,
    wanted: &mut WantedBlock<'_, T>,
) -> Result<()> {
    let (groups, each) = (batch.z.shape()[0], batch.each());
    let [z, tied] = inputs.z;
    let matrix = |to: Option<To<T::Accumulator>>, columns: usize| {
        // SAFETY: the destination's own rows and columns.
        to.map(|to| unsafe { to.gradient([groups, columns]) }).transpose()
    };
    let WantedBlock { core, diagonal, a, b, c } = wanted;
    let w = again(core, true);
    let cp = WantedFactors { a: again(a, true), b: again(b, true), c: again(c, true), lambda: again(diagonal, true) };
    let (z, tied) = (matrix(z, layer.i)?, matrix(tied, layer.i)?);
    if each == 1 {
        let x = matrix(inputs.x[0], layer.j)?;
        let run = batch::Run { group: 0, m: 0, rows: groups, at: 0 };
        let wanted = Wanted { z, x, tied, w, cp, ..Wanted::default() };
        return super::backward(&layer, batch.z, rows_of(batch.x, run), rows_of(g, run), wanted);
    }
    // SAFETY: as above.
    let x = inputs.x[0].map(|to| unsafe { to.gradients([groups, each, layer.j]) }).transpose()?;
    super::backward_shared(&layer, batch.z, batch.x, g, Wanted { z, x, w, cp, ..Wanted::default() })
}

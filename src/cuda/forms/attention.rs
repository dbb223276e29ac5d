//! Attention, y = m⊙x with m = M(x, z), by blocks of rows whose m, and dm = g⊙x as it would be stored, are in scratch.
//!
//! ```text
//!   dx = g⊙m + what M's backward pass gives for dm     the rest is M's backward pass
//! ```

use super::super::blocks::Blocks;
use super::super::cp::pitch;
use super::super::few::Few;
use super::super::gate::Groups;
use super::super::operand::{self, Layer, Operand, Output};
use super::super::operations::{record_forward, record_gradients};
use super::super::problem::{Gate, bytes};
use super::super::recorder::Recorder;
use super::{Block, Outputs, components};
use crate::Result;

/// y (+)= p⊙q of rows.
fn product(recorder: &mut Recorder<'_>, n: usize, k: usize, [p, q]: [Operand<2>; 2], to: Output<2>) -> Result<()> {
    let [p, q] = [p, q].map(|of| of.heads().into());
    recorder.gate(Groups { count: n, each: 1 }, k, Gate { p, q, out: to.heads().into(), ..Gate::default() })
}

/// m of some rows, in scratch.
fn gate(
    recorder: &mut Recorder<'_>,
    (layer, blocks): (&Layer, &Few<Block>),
    n: usize,
    inputs: [Operand<2>; 2],
) -> Result<Operand<2>> {
    let m = components(recorder, Groups { count: n, each: 1 }, layer.k, layer.kinds[1])?.head();
    record_forward(recorder, (layer, blocks), n, inputs, Output { to: m, add: false }, None)?;
    Ok(m)
}

/// y [N, K] of z and x [N, K].
pub(in super::super) fn attend(
    recorder: &mut Recorder<'_>,
    (layer, blocks): (&Layer, &Few<Block>),
    n: usize,
    inputs: [Operand<2>; 2],
    y: Output<2>,
) -> Result<()> {
    for (first, n) in Blocks::new(n, pitch(layer.k).saturating_mul(bytes(layer.kinds[1])))?.iter() {
        let (mark, [z, x]) = (recorder.mark(), inputs.map(|of| of.after(0, first)));
        let m = gate(recorder, (layer, blocks), n, [z, x])?;
        product(recorder, n, layer.k, [m, x], y.after(0, first))?;
        recorder.release(mark);
    }
    Ok(())
}

/// All gradients, for g [N, K].
pub(in super::super) fn attend_backward(
    recorder: &mut Recorder<'_>,
    layer: &Layer,
    (blocks, wanted): (&Few<Block>, &Few<Outputs>),
    n: usize,
    operands: [Operand<2>; 3],
    to: &operand::Outputs<2>,
) -> Result<()> {
    let row = pitch(layer.k).saturating_mul(2 * bytes(layer.kinds[1]));
    for (first, n) in Blocks::new(n, row)?.iter() {
        let (mark, [z, x, g]) = (recorder.mark(), operands.map(|of| of.after(0, first)));
        let to = to.after(first);
        let dm = components(recorder, Groups { count: n, each: 1 }, layer.k, layer.kinds[0])?.head();
        product(recorder, n, layer.k, [g, x], Output { to: dm, add: false })?;
        if to.x.is_some() || to.tied.is_some() {
            let mark = recorder.mark();
            let m = gate(recorder, (layer, blocks), n, [z, x])?;
            for to in [to.x, to.tied].into_iter().flatten() {
                product(recorder, n, layer.k, [g, m], to)?;
            }
            recorder.release(mark);
        }
        let to = operand::Outputs { x: to.x.map(|to| to.later(true)), tied: to.tied.map(|to| to.later(true)), ..to };
        let wanted = Few::collect(wanted.iter().map(|wanted| Ok::<_, crate::Error>(wanted.later(first > 0))))?;
        record_gradients(recorder, layer, (blocks, &wanted), n, [z, x, dm], None, &to)?;
        recorder.release(mark);
    }
    Ok(())
}

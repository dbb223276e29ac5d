//! Layers chosen row by row: the rows are put in the order of their layers, in blocks of bounded size, and those of each layer
//! are a batch.
//!
//! ```text
//!   for each block of rows     copy z, x (and g) there  ·  the launches of each layer that has rows in it  ·  copy y (or dz, dx) back
//! ```
//!
//! Rows that are in that order already are not copied. Otherwise the order is sent to the device first, and waited for.

use super::blocks::Blocks;
use super::few::Few;
use super::gram;
use super::operand::{Form, Layer, Operand, Output, Outputs};
use super::operations::{algorithm, call, outputs, record_backward, record_forward};
use super::problem::{RowCopy, Type, bytes, length};
use super::recorder::{Recorder, Target};
use super::stage::{Stage, allocate};
use crate::grouped::{Grouped, GroupedWanted};
use crate::wanted::{Fill, Gradient};
use crate::{Element, Result, View, ViewMut};

/// Rows in the order of their layers.
struct Order {
    /// None if they are in that order as they are.
    rows: Option<Vec<u64>>,
    /// Layers that have rows, the first row of each in that order, and how many.
    layers: Vec<(usize, usize, usize)>,
}

impl Order {
    fn new(index: &[usize], layers: usize) -> Result<Order> {
        let mut counts: Vec<usize> = allocate(layers)?;
        counts.resize(layers, 0);
        index.iter().for_each(|&layer| counts[layer] += 1);
        let mut chosen = allocate(counts.iter().filter(|&&count| count > 0).count())?;
        let mut first = 0;
        for (layer, count) in counts.iter_mut().enumerate() {
            if *count > 0 {
                chosen.push((layer, first, *count));
            }
            first += std::mem::replace(count, first);
        }
        if index.is_sorted() {
            return Ok(Order { rows: None, layers: chosen });
        }
        let mut rows: Vec<u64> = allocate(index.len())?;
        rows.resize(index.len(), 0);
        for (row, &layer) in index.iter().enumerate() {
            rows[counts[layer]] = row as u64;
            counts[layer] += 1;
        }
        Ok(Order { rows: Some(rows), layers: chosen })
    }
}

/// Some rows of a layer: which of the layers that have rows, its first row in the block, how many, and how many rows of it are in
/// earlier blocks.
#[derive(Clone, Copy)]
struct Part {
    which: usize,
    first: usize,
    count: usize,
    earlier: usize,
}

impl Order {
    /// What layers have in a block.
    fn parts(&self, (first, count): (usize, usize)) -> impl Iterator<Item = Part> {
        let layers = self.layers.iter().enumerate();
        layers.filter_map(move |(which, &(_, of_layer, len))| {
            let (from, to) = (of_layer.max(first), (of_layer + len).min(first + count));
            (from < to).then(|| Part { which, first: from - first, count: to - from, earlier: from - of_layer })
        })
    }
}

/// The layers that have rows, in their order.
fn layers<T: Element>(stage: &mut Stage<'_>, grouped: &Grouped<'_, T>, order: &Order) -> Result<Vec<Layer>> {
    let mut layers = allocate(order.layers.len())?;
    for &(layer, ..) in &order.layers {
        layers.push(stage.layer(&grouped.layers[layer])?);
    }
    Ok(layers)
}

fn reads_z(layer: &Layer) -> bool {
    !matches!(layer.form, Form::Absent) || layer.u.is_some()
}

fn reads_x(layer: &Layer) -> bool {
    !matches!(layer.form, Form::Absent) || layer.v.is_some()
}

/// An operand's rows of a block: as they are, or a copy in scratch.
struct Gathered {
    to: Operand<2>,
    copy: RowCopy,
}

impl Gathered {
    /// None: they are as they should be from row `first` on.
    fn new(
        recorder: &mut Recorder<'_>,
        index: Option<u64>,
        (first, count): (usize, usize),
        (of, columns): (Operand<2>, usize),
        (scatter, add): (bool, bool),
    ) -> Result<Gathered> {
        let Some(index) = index else { return Ok(Gathered { to: of.after(0, first), copy: RowCopy::default() }) };
        // Whole vectors, aligned.
        let pitch = columns.next_multiple_of(16);
        let to =
            Operand { address: recorder.scratch(&[count, pitch], of.kind)?, strides: [pitch as i64, 1], kind: of.kind };
        let (from, into) = if scatter { (to, of) } else { (of, to) };
        let copy = RowCopy {
            n: length(count),
            columns: length(columns),
            index: index + (first * size_of::<u64>()) as u64,
            from: from.address,
            from_row: from.strides[0],
            from_column: from.strides[1],
            to: into.address,
            to_row: into.strides[0],
            to_column: into.strides[1],
            kind: of.kind,
            scatter: i32::from(scatter),
            add: i32::from(add),
            pad: 0,
        };
        Ok(Gathered { to, copy })
    }
}

/// Blocks of rows of so many elements; one block if they are not copied.
fn blocks(order: &Order, n: usize, elements: usize, kind: Type) -> Result<Blocks> {
    Blocks::new(n, if order.rows.is_some() { elements.saturating_mul(bytes(kind)) } else { 0 })
}

pub(crate) fn forward_grouped<T: Element>(
    target: &Target,
    grouped: &Grouped<'_, T>,
    index: &[usize],
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let order = Order::new(index, grouped.layers.len())?;
    for &(layer, ..) in &order.layers {
        algorithm(target, &grouped.layers[layer])?;
    }
    let [n, k] = y.shape();
    call(target, |stage| {
        let (layers, z, x) = (layers(stage, grouped, &order)?, stage.input(z)?, stage.input(x)?);
        let y = stage.output(Gradient::write(y))?.to;
        let (i, j) = (grouped.first.i, grouped.first.j);
        let i = if layers.iter().any(reads_z) { i } else { 0 };
        let j = if layers.iter().any(reads_x) { j } else { 0 };
        let blocks = blocks(&order, n, i.saturating_add(j).saturating_add(k), y.kind)?;
        Ok(move |recorder: &mut Recorder<'_>| {
            let index = order.rows.as_ref().map(|rows| recorder.numbers(rows)).transpose()?;
            for block in blocks.iter() {
                let mark = recorder.mark();
                let z = Gathered::new(recorder, index, block, (z, i), (false, false))?;
                let x = Gathered::new(recorder, index, block, (x, j), (false, false))?;
                let y = Gathered::new(recorder, index, block, (y, k), (true, false))?;
                recorder.copy(&[z.copy, x.copy])?;
                for Part { which, first, count, .. } in order.parts(block) {
                    let [z, x, to] = [z.to, x.to, y.to].map(|of| of.after(0, first));
                    let layer = (&layers[which], &Few::NONE); // sums of blocks are the processor's
                    record_forward(recorder, layer, count, [z, x], Output { to, add: false }, None)?;
                }
                recorder.copy(&[y.copy])?;
                recorder.release(mark);
            }
            Ok(())
        })
    })
}

pub(crate) fn backward_grouped<T: Element>(
    target: &Target,
    grouped: &Grouped<'_, T>,
    index: &[usize],
    [z, x, g]: [View<'_, T, 2>; 3],
    mut wanted: GroupedWanted<'_, '_, T>,
) -> Result<()> {
    let order = Order::new(index, grouped.layers.len())?;
    // Of a layer without rows, and of weights without elements, nothing is computed.
    let mut rows = order.layers.iter().peekable();
    let empty = g.is_empty();
    let mut of_layers = allocate(order.layers.len())?;
    for (layer, wanted) in wanted.layers.iter_mut().enumerate() {
        let count = rows.next_if(|&&(chosen, ..)| chosen == layer).map_or(0, |&(.., count)| count);
        let wanted = wanted.weights(false).nonzero(&grouped.layers[layer].along([true; 3]), count, target)?;
        if count > 0 {
            of_layers.push(wanted);
        }
    }
    for to in [&mut wanted.z, &mut wanted.x].into_iter().flatten() {
        if !to.add && empty {
            target.zeros(to.to.reborrow())?;
        }
    }
    if empty {
        return Ok(());
    }
    let (n, [i, j, k]) = (index.len(), [grouped.first.i, grouped.first.j, grouped.first.k]);
    call(target, |stage| {
        let layers = layers(stage, grouped, &order)?;
        let (z, x, g) = (stage.input(z)?, stage.input(x)?, stage.input(g)?);
        let nonempty = |to: &Gradient<'_, T::Accumulator, 2>| !to.to.shape().contains(&0);
        let (to_z, to_x) =
            (stage.wanted(wanted.z.take().filter(nonempty))?, stage.wanted(wanted.x.take().filter(nonempty))?);
        let mut to_layers = allocate(of_layers.len())?;
        for wanted in of_layers {
            to_layers.push(outputs(stage, wanted.without_blocks())?);
        }
        // Inputs that are not read may be endless.
        let reads = |linear: fn(&Outputs<2>) -> bool| to_layers.iter().any(|to| to.w.is_some() || linear(to));
        let i = if to_z.is_some() || layers.iter().any(reads_z) || reads(|to| to.u.is_some()) { i } else { 0 };
        let j = if to_x.is_some() || layers.iter().any(reads_x) || reads(|to| to.v.is_some()) { j } else { 0 };
        let elements = 2usize.saturating_mul(i.saturating_add(j)).saturating_add(k);
        let blocks = blocks(&order, n, elements, Type::of::<T::Accumulator>())?;
        Ok(move |recorder: &mut Recorder<'_>| {
            let index = order.rows.as_ref().map(|rows| recorder.numbers(rows)).transpose()?;
            for block in blocks.iter() {
                let mark = recorder.mark();
                let z = Gathered::new(recorder, index, block, (z, i), (false, false))?;
                let x = Gathered::new(recorder, index, block, (x, j), (false, false))?;
                let g = Gathered::new(recorder, index, block, (g, k), (false, false))?;
                let mut to = |to: Option<Output<2>>, columns: usize| {
                    let gathered = |Output { to, add }: Output<2>| {
                        let gathered = Gathered::new(recorder, index, block, (to, columns), (true, add))?;
                        Ok((gathered.copy, Output { to: gathered.to, add: add && index.is_none() }))
                    };
                    to.map(gathered).transpose()
                };
                let (dz, dx) = (to(to_z, i)?, to(to_x, j)?);
                recorder.copy(&[z.copy, x.copy, g.copy])?;
                for Part { which, first, count, earlier } in order.parts(block) {
                    let layer = &layers[which];
                    let part = |to: Option<(RowCopy, Output<2>)>| to.map(|(_, to)| to.after(0, first));
                    let [part_z, part_x] = [
                        sum_or_zeros(recorder, part(dz), [count, i], reads_z(layer))?,
                        sum_or_zeros(recorder, part(dx), [count, j], reads_x(layer))?,
                    ];
                    let weights = to_layers.get(which).map_or_else(Outputs::default, |to| to.after(earlier));
                    let to = Outputs { z: part_z, x: part_x, ..weights };
                    let operands = [z.to, x.to, g.to].map(|of| of.after(0, first));
                    record_backward(recorder, layer, count, operands, None, &to)?;
                }
                recorder.copy(&[dz, dx].map(|to| to.map_or_else(RowCopy::default, |(copy, _)| copy)))?;
                recorder.release(mark);
            }
            Ok(())
        })
    })
}

/// A destination of sums, or of none: then zeros are written there, unless they would be added.
fn sum_or_zeros(
    recorder: &mut Recorder<'_>,
    to: Option<Output<2>>,
    [rows, columns]: [usize; 2],
    any: bool,
) -> Result<Option<Output<2>>> {
    let Some(Output { to: Operand { address, strides: [row, column], kind }, add: false }) = to.filter(|_| !any) else {
        return Ok(to.filter(|_| any));
    };
    let to = Operand { address, strides: [0, row, column], kind };
    recorder.gram(&[gram::zeros([1, rows, columns], to)])?;
    Ok(None)
}

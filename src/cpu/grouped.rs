//! Layers chosen row by row: the rows are put in the order of their layers, those of each gathered into blocks that are batches.

use std::ops::Range;

use super::fill_zero;
use super::kernels::gather;
use super::parallel::{self, Shared};
use super::plan;
use super::scratch;
use super::simd::Kernels;
use crate::grouped::{Grouped, GroupedWanted};
use crate::wanted::{Gradient, OnHost};
use crate::{Element, Result, View, ViewMut, Wanted, WantedBlock};

/// Rows that are put in order at once: half a MiB of keys.
const WINDOW: usize = 1 << 16;
/// Rows of a block at most ...
const ROWS: usize = 512;
/// ... and the bytes that it may take.
const BYTES: usize = 1 << 20;

/// Rows of a block at most.
fn block<T: Element>(grouped: &Grouped<'_, T>) -> usize {
    let layer = grouped.first;
    let elements = layer.k.saturating_add(layer.i).saturating_add(layer.j);
    (BYTES / size_of::<T::Acc>() / elements.max(1)).clamp(1, ROWS)
}

/// One block: the layer, and the keys of its rows.
#[derive(Clone, Copy)]
struct Rows<'k> {
    layer: usize,
    keys: &'k [u64],
    /// The first row of the window.
    start: usize,
}

impl Rows<'_> {
    fn row(&self, n: usize) -> usize {
        self.start + (self.keys[n] % WINDOW as u64) as usize
    }

    /// All of them, if they lie one behind the other.
    fn range(&self) -> Option<Range<usize>> {
        let (first, len) = (self.row(0), self.keys.len());
        (self.row(len - 1) - first == len - 1).then_some(first..first + len)
    }
}

/// The blocks of a window of rows.
struct Blocks<'k> {
    /// Layer and row of the window, in order.
    keys: &'k [u64],
    /// Where each block starts, and where the last one ends.
    starts: &'k [u64],
    /// The first row of the window.
    start: usize,
}

impl<'k> Blocks<'k> {
    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn at(&self, block: usize) -> Rows<'k> {
        let keys = &self.keys[self.starts[block] as usize..self.starts[block + 1] as usize];
        Rows { layer: (keys[0] / WINDOW as u64) as usize, keys, start: self.start }
    }
}

/// Calls `with` for each window of the rows with its blocks, of so many rows at most.
fn windows(index: &[usize], most: usize, mut with: impl FnMut(Blocks<'_>) -> Result<()>) -> Result<()> {
    for (window, index) in index.chunks(WINDOW).enumerate() {
        scratch::with::<u64, 2, _>([index.len(), index.len() + 1], |[keys, starts]| {
            // SAFETY: of these lengths, and zeros or numbers since they were allocated.
            let (keys, starts) = unsafe {
                (
                    std::slice::from_raw_parts_mut(keys, index.len()),
                    std::slice::from_raw_parts_mut(starts, index.len() + 1),
                )
            };
            for (row, (key, &layer)) in keys.iter_mut().zip(index).enumerate() {
                *key = (layer * WINDOW + row) as u64;
            }
            keys.sort_unstable();
            let layer = |row: usize| keys[row] / WINDOW as u64;
            let mut blocks = 0;
            for row in 0..keys.len() {
                if row == 0 || layer(row) != layer(row - 1) || row - starts[blocks - 1] as usize == most {
                    starts[blocks] = row as u64;
                    blocks += 1;
                }
            }
            starts[blocks] = keys.len() as u64;
            with(Blocks { keys, starts: &starts[..=blocks], start: window * WINDOW })
        })?;
    }
    Ok(())
}

/// Rows of an input one behind the other, copied to `to`.
unsafe fn gathered<'a, T: Element>(from: View<'a, T, 2>, rows: Rows<'_>, to: *mut T) -> View<'a, T, 2> {
    let ([_, columns], [row_stride, column_stride]) = (from.shape(), from.strides());
    for n in 0..rows.keys.len() {
        let row = from.host_ptr().wrapping_offset((rows.row(n) as isize).wrapping_mul(row_stride));
        // SAFETY: a row of the view, and room for it.
        unsafe {
            match column_stride {
                1 => std::ptr::copy_nonoverlapping(row, to.add(n * columns), columns),
                _ => gather(row, (0, column_stride), (1, columns), to.add(n * columns), columns, |value| value),
            }
        }
    }
    // SAFETY: written above; it is used no longer than the scratch.
    unsafe { View::from_raw_parts(to, [rows.keys.len(), columns], [columns as isize, 1]) }
}

/// y, row by row.
pub(crate) fn forward_grouped<T: Element>(
    grouped: &Grouped<'_, T>,
    index: &[usize],
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    mut y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let context = grouped.first.context()?;
    let (k, most) = (grouped.first.k, block(grouped));
    if y.shape().contains(&0) {
        return Ok(());
    }
    let threads = parallel::threads(&context, plan::work(grouped.first, index.len()));
    let one = context.with_threads(1)?;
    let ([row_stride, column_stride], to) = (y.strides(), Shared::new(y.host_mut_ptr()));
    windows(index, most, |blocks| {
        parallel::run(threads, blocks.len(), |block| {
            let rows = blocks.at(block);
            let layer = grouped.layers[rows.layer].with_context(one);
            let n = rows.keys.len();
            let at = |row: usize| to.get().wrapping_offset((row as isize).wrapping_mul(row_stride));
            if let Some(range) = rows.range() {
                // SAFETY: rows of y, which no other block has.
                let y = unsafe { ViewMut::from_raw_parts(at(range.start), [n, k], [row_stride, column_stride])? };
                return super::forward(&layer, z.slice(0, range.clone())?, x.slice(0, range)?, y);
            }
            // What no weights reach is not gathered, for it may be endless.
            let needed = layer.along([true, false, false]);
            let (z, x) = (z.slice(1, 0..needed.i)?, x.slice(1, 0..needed.j)?);
            let layer = if layer.has_idle_parts() { &needed } else { &layer };
            scratch::with::<T, 3, _>([n * needed.i, n * needed.j, n * k], |[zs, xs, ys]| {
                // SAFETY: room for the rows; the rows of y are those of no other block.
                unsafe {
                    let (z, x) = (gathered(z, rows, zs), gathered(x, rows, xs));
                    super::forward(layer, z, x, ViewMut::from_raw_parts(ys, [n, k], [k as isize, 1])?)?;
                    for n in 0..n {
                        for out in 0..k {
                            *at(rows.row(n)).wrapping_offset((out as isize).wrapping_mul(column_stride)) =
                                *ys.add(n * k + out);
                        }
                    }
                }
                Ok(())
            })
        })
    })
}

/// The gradients: blocks in order, each on so many threads as it is worth.
pub(crate) fn backward_grouped<T: Element>(
    grouped: &Grouped<'_, T>,
    index: &[usize],
    [z, x, g]: [View<'_, T, 2>; 3],
    mut wanted: GroupedWanted<'_, '_, T>,
) -> Result<()> {
    let (most, context) = (block(grouped), grouped.first.context()?);
    let (i, j) = (grouped.first.i, grouped.first.j);
    // Layers that no row has chosen; the others' sums are added to what is there then.
    for of_layer in wanted.layers.iter_mut() {
        of_layer.zero();
    }
    for to in [&mut wanted.z, &mut wanted.x].into_iter().flatten() {
        if !to.add && (g.is_empty() || to.to.shape().contains(&0)) {
            fill_zero(&mut to.to);
        }
    }
    if g.is_empty() {
        return Ok(());
    }
    windows(index, most, |blocks| {
        for rows in (0..blocks.len()).map(|block| blocks.at(block)) {
            let layer = grouped.layers[rows.layer].with_context(context);
            let n = rows.keys.len();
            let mut none = Wanted::default();
            let of_layer = wanted.layers.get_mut(rows.layer).unwrap_or(&mut none);
            let blocks = std::mem::take(&mut of_layer.blocks);
            let (dz, dx) = (&mut wanted.z, &mut wanted.x);
            if let Some(range) = rows.range() {
                let wanted = Wanted {
                    z: dz.as_mut().map(|to| to.rows(range.clone())),
                    x: dx.as_mut().map(|to| to.rows(range.clone())),
                    ..of_layer.weights(true)
                };
                let [z, x, g] = [z, x, g].map(|view| view.slice_rows((range.start, n)));
                call(&layer, [z, x, g], wanted, blocks)?;
                of_layer.blocks = blocks;
                continue;
            }
            let sums = [dz.is_some(), dx.is_some()].map(usize::from);
            scratch::with::<T, 3, _>([n * i, n * j, n * g.shape()[1]], |[zs, xs, gs]| {
                scratch::with::<T::Acc, 2, _>([sums[0] * n * i, sums[1] * n * j], |[dzs, dxs]| {
                    // SAFETY: room for the rows.
                    unsafe {
                        let inputs = [gathered(z, rows, zs), gathered(x, rows, xs), gathered(g, rows, gs)];
                        let to = |used: &Option<_>, first, features: usize| -> Result<_> {
                            let to = || ViewMut::from_raw_parts(first, [n, features], [features as isize, 1]);
                            used.as_ref()
                                .map(|_: &Gradient<'_, T::Accumulator, 2>| to().map(Gradient::write))
                                .transpose()
                        };
                        let wanted = Wanted { z: to(dz, dzs, i)?, x: to(dx, dxs, j)?, ..of_layer.weights(true) };
                        call(&layer, inputs, wanted, blocks)?;
                        for (to, sums) in [(dz, dzs), (dx, dxs)] {
                            let Some(to) = to else { continue };
                            let (columns, strides) = (to.to.shape()[1], to.to.strides());
                            scatter::<T>((to.to.host_mut_ptr(), strides, to.add), rows, (sums, columns));
                        }
                    }
                    Ok(())
                })
            })?;
            of_layer.blocks = blocks;
        }
        Ok(())
    })
}

/// Rows of sums, of so many columns, to a gradient.
unsafe fn scatter<T: Kernels>(
    (to, [row_stride, column_stride], add): (*mut T::Acc, [isize; 2], bool),
    rows: Rows<'_>,
    (sums, columns): (*const T::Acc, usize),
) {
    for n in 0..rows.keys.len() {
        let row = to.wrapping_offset((rows.row(n) as isize).wrapping_mul(row_stride));
        for column in 0..columns {
            let place = row.wrapping_offset((column as isize).wrapping_mul(column_stride));
            // SAFETY: an element of the gradient, and of the sums.
            unsafe {
                let sum = *sums.add(n * columns + column);
                *place = if add { *place + sum } else { sum };
            }
        }
    }
}

/// [`super::backward`] of a block, with the gradients of blocks that W is the sum of.
fn call<T: Element>(
    layer: &crate::Interaction<'_, T>,
    [z, x, g]: [View<'_, T, 2>; 3],
    wanted: Wanted<'_, T>,
    blocks: &mut [WantedBlock<'_, T>],
) -> Result<()> {
    let layer = layer.along([true; 3]);
    let wanted = wanted.nonzero(&layer, g.shape()[0], &OnHost)?;
    match layer.terms() {
        [] => super::backward(&layer, z, x, g, wanted),
        _ => super::forms::backward(&layer, z, x, g, wanted, blocks),
    }
}

//! A diagonal core without factors, whose rows are contiguous: kernels/gate.rs on all threads.
//!
//! Tasks are rows, of a shared context whole groups. Sums over rows (dd, and dz of a group) are those of so many parts, whatever
//! the number of threads, and added in order.

use super::backward::Inputs;
use super::batch::{Run, Sinks, rows_of};
use super::stage::{Rows, add_parts, ld};
use crate::cpu::cache::caches;
use crate::cpu::gradient::jobs::To;
use crate::cpu::kernels::{Gate, GateBack, Gated, Row};
use crate::cpu::output::Place;
use crate::cpu::parallel::{self, Shared};
use crate::cpu::{fill_zero, scratch};
use crate::gradients::Gradient;
use crate::{Block, Context, Element, Result, View};

/// Elements of a task: enough to be worth one.
const ELEMENTS: usize = 1 << 15;
/// Parts whose dd are added up by themselves.
const PARTS: usize = 64;

/// A block, its rows, and the bias that is added at once.
pub(super) struct Gating<'a, T: Element> {
    pub(super) context: Context,
    pub(super) threads: usize,
    pub(super) weights: Option<View<'a, T, 1>>,
    pub(super) bias: Option<View<'a, T, 1>>,
    /// [G, K] and [G, M, K].
    pub(super) z: View<'a, T, 2>,
    pub(super) x: View<'a, T, 3>,
}

/// Whether a block is a diagonal core alone.
pub(super) fn is_bare<T: Element>(block: &Block<'_, T>) -> bool {
    block.is_diagonal() && block.factors.iter().all(Option::is_none)
}

impl<T: Element> Gating<'_, T> {
    /// Whether rows are contiguous.
    pub(super) fn possible(&self, others: &[isize]) -> bool {
        let [_, columns] = self.z.shape();
        let unit = |&stride: &isize| stride == 1 || columns == 1;
        unit(&self.z.strides()[1]) && unit(&self.x.strides()[2]) && others.iter().all(unit)
    }

    fn columns(&self) -> usize {
        self.z.shape()[1]
    }

    /// d and b as whole vectors.
    unsafe fn constants(&self, to: [*mut T::Acc; 2]) -> [*const T::Acc; 2] {
        let mut index = 0;
        [self.weights, self.bias].map(|view| {
            let to = to[index];
            index += 1;
            let Some(view) = view else { return std::ptr::null() };
            for column in 0..self.columns() {
                // SAFETY: the caller has room for them.
                unsafe { *to.add(column) = view.get([column]).unwrap_or_default().to_acc() };
            }
            to.cast_const()
        })
    }

    fn z_row(&self, group: usize, each: usize) -> Row<*const T> {
        let stride = self.z.strides()[0];
        let first = self.z.host_ptr().wrapping_offset((group as isize).wrapping_mul(stride));
        Row { first, stride: if each == 1 { stride } else { 0 } }
    }

    /// y, to where it goes.
    pub(super) fn forward(&self, y: Sinks<T>) -> Result<()> {
        let [groups, each, columns] = self.x.shape();
        let table = T::table(self.context.capability());
        let rows = (ELEMENTS / columns.max(1)).clamp(1, 1 << 12);
        // Rows of a batch, or of one group.
        let (count, in_group) = if each == 1 { (groups.div_ceil(rows), 1) } else { (groups, each.div_ceil(rows)) };
        let bytes = groups.saturating_mul(each).saturating_mul(columns).saturating_mul(size_of::<T::Acc>());
        scratch::with([ld(columns); 2], |constants| {
            // SAFETY: there is room for whole vectors.
            let constants = unsafe { self.constants(constants) };
            let constants = constants.map(|from| Shared::new(from.cast_mut()));
            parallel::run(self.threads, count * in_group, |index| {
                let run = match each {
                    1 => Run { group: index * rows, m: 0, rows: rows.min(groups - index * rows), at: 0 },
                    _ => {
                        let m = index % in_group * rows;
                        Run { group: index / in_group, m, rows: rows.min(each - m), at: 0 }
                    }
                };
                let (x, to) = (rows_of(self.x, run), y.rows(run));
                let row = to.strides[0];
                let lanes = size_of::<T::Acc>() * table.lanes;
                let to = match to.place {
                    Place::Stored(first) if T::IN_PLACE => Place::Sums(first.cast()),
                    other => other,
                };
                let to = match to {
                    Place::Stored(first) => Gated::Stored(Row { first, stride: row }),
                    Place::Added(first) => Gated::Added(Row { first, stride: row }),
                    Place::Sums(first) => {
                        let aligned = (first as usize).is_multiple_of(lanes)
                            && (row.wrapping_mul(size_of::<T::Acc>() as isize) % lanes as isize == 0 || run.rows == 1);
                        Gated::Sums(Row { first, stride: row }, aligned && bytes > caches().l3 / 2)
                    }
                };
                // SAFETY: rows of the operands, contiguous; no other task has these rows of y.
                unsafe {
                    (table.gate)(&Gate {
                        rows: run.rows,
                        columns,
                        z: self.z_row(run.group, each),
                        x: Row { first: x.host_ptr(), stride: x.strides()[0] },
                        scale: constants[0].get().cast_const(),
                        bias: constants[1].get().cast_const(),
                        to,
                    });
                }
                Ok(())
            })
        })
    }

    /// The gradients that are wanted, for those of y, `g` [G, M, K].
    pub(super) fn backward(
        &self,
        g: View<'_, T, 3>,
        inputs: &Inputs<T::Accumulator>,
        of_weights: Option<&mut Gradient<'_, T::Accumulator, 1>>,
    ) -> Result<()> {
        let [groups, each, columns] = self.x.shape();
        let table = T::table(self.context.capability());
        let (ld, wanted) = (ld(columns), of_weights.is_some());
        let parts = groups.clamp(1, PARTS);
        let size = groups.div_ceil(parts);
        let sums = if wanted { parts * ld } else { 0 };
        let of_z = if each == 1 { 0 } else { parts * ld };
        let [z, tied] = inputs.z;
        scratch::with([ld, ld, sums, of_z], |[weights, none, sums, of_z]| {
            // SAFETY: there is room for whole vectors, and for the sums.
            let [scale, _] = unsafe { self.constants([weights, none]) };
            let [scale, sums, of_z] = [scale.cast_mut(), sums, of_z].map(Shared::new);
            parallel::run(self.threads, parts, |index| {
                let row_of = |all: &Shared<T::Acc>| all.get().wrapping_add(index * ld);
                let clear = |row: *mut T::Acc| {
                    // SAFETY: a row of scratch, of this task alone.
                    unsafe { std::slice::from_raw_parts_mut(row, ld) }.fill(T::Acc::default());
                };
                if wanted {
                    clear(row_of(&sums));
                }
                let first = index * size;
                let count = size.min(groups.saturating_sub(first));
                let absent = (Row { first: std::ptr::null_mut(), stride: 0 }, false);
                let destination = |to: Option<To<T::Acc>>, run: Run| {
                    to.map_or(absent, |to| {
                        let target = to.rows(run.group, run.m, each);
                        (Row { first: target.first, stride: target.row_stride }, to.add)
                    })
                };
                let (step, each_run) = if each == 1 { (count.max(1), 1) } else { (1, each) };
                for group in (first..first + count).step_by(step) {
                    let run = Run { group, m: 0, rows: step * each_run, at: 0 };
                    let mut to = [destination(z, run), destination(inputs.x[0], run), destination(tied, run)];
                    if each > 1 {
                        // Both are sums over the group's rows.
                        to[0] = absent;
                        if z.is_some() {
                            clear(row_of(&of_z));
                            to[0] = (Row { first: row_of(&of_z), stride: 0 }, true);
                        }
                    }
                    let (g, x) = (rows_of(g, run), rows_of(self.x, run));
                    // SAFETY: rows of the operands, contiguous; no other task has these rows of the results.
                    unsafe {
                        (table.gate_back)(&GateBack {
                            rows: run.rows,
                            columns,
                            g: Row { first: g.host_ptr(), stride: g.strides()[0] },
                            z: self.z_row(group, each),
                            x: Row { first: x.host_ptr(), stride: x.strides()[0] },
                            scale: scale.get().cast_const(),
                            to,
                            d_scale: if wanted { row_of(&sums) } else { std::ptr::null_mut() },
                        });
                        if let (Some(to), true) = (z, each > 1) {
                            let sums = std::slice::from_raw_parts(row_of(&of_z).cast_const(), columns);
                            to.sink::<T>().write_row(group, sums);
                        }
                    }
                }
                Ok(())
            })?;
            let Some(Gradient { to, add }) = of_weights else { return Ok(()) };
            if !*add {
                fill_zero(to);
            }
            let to = (to.host_mut_ptr(), to.strides()[0]);
            // SAFETY: all parts are complete; the elements of the gradient.
            unsafe { add_parts::<T>(Rows::new(sums.get(), ld), parts, columns, to) };
            Ok(())
        })
    }
}

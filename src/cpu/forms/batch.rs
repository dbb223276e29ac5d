//! Rows of inputs and results of a batch, or of a shared context: G rows of z, each of which meets M rows of x. A batch has M = 1.

use crate::View;
use crate::cpu::operand::Part;
use crate::cpu::output::{Place, Sink};
use crate::cpu::simd::Kernels;

/// Rows that are evenly spaced in all operands: so many from row `m` of a group on, and where they are among those of their block.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) group: usize,
    pub(super) m: usize,
    pub(super) rows: usize,
    pub(super) at: usize,
}

/// The runs of rows `m` of these groups: one, if `flat` rows of all groups follow each other evenly, or a group has one.
pub(super) fn runs(groups: Part, m: Part, each: usize, flat: bool) -> impl Iterator<Item = Run> {
    let one = each == 1 || (flat && m.1 == each) || groups.1 == 1;
    let (count, rows) = if one { (1, groups.1 * m.1) } else { (groups.1, m.1) };
    (0..count).map(move |index| Run { group: groups.0 + index, m: m.0, rows, at: index * rows })
}

/// The rows of a run.
pub(super) fn rows_of<'a, T>(view: View<'a, T, 3>, run: Run) -> View<'a, T, 2> {
    let ([_, each, columns], [sg, sm, sc]) = (view.shape(), view.strides());
    let offset = (run.group as isize).wrapping_mul(sg).wrapping_add((run.m as isize).wrapping_mul(sm));
    let stride = if each == 1 { sg } else { sm };
    // SAFETY: rows of the batch, evenly spaced.
    unsafe { View::from_raw_parts(view.host_ptr().wrapping_offset(offset), [run.rows, columns], [stride, sc]) }
}

/// Whether the rows of all groups follow each other evenly.
pub(super) fn is_flat(each: usize, strides: [isize; 3]) -> bool {
    strides[0] == strides[1].wrapping_mul(each as isize)
}

/// Where results [G, M, columns] go.
#[derive(Clone, Copy)]
pub(super) struct Sinks<T: Kernels> {
    place: Place<T>,
    strides: [isize; 3],
    each: usize,
}

// SAFETY: tasks write disjoint rows, as each use says.
unsafe impl<T: Kernels> Send for Sinks<T> {}
// SAFETY: as above.
unsafe impl<T: Kernels> Sync for Sinks<T> {}

impl<T: Kernels> Sinks<T> {
    pub(super) fn new(place: Place<T>, strides: [isize; 3], each: usize) -> Self {
        Sinks { place, strides, each }
    }

    /// The rows of a batch.
    pub(super) fn batch(sink: Sink<T>) -> Self {
        Sinks { place: sink.place, strides: [sink.strides[0], sink.strides[0], sink.strides[1]], each: 1 }
    }

    /// Results in the storage type as sums, where that is one type.
    pub(super) fn in_place(self) -> Option<Self> {
        match self.place {
            Place::Stored(to) if T::IN_PLACE => Some(Sinks { place: Place::Sums(to.cast()), ..self }),
            Place::Stored(_) => None,
            _ => Some(self),
        }
    }

    pub(super) fn adding(self) -> Self {
        let place = if let Place::Sums(to) = self.place { Place::Added(to) } else { self.place };
        Sinks { place, ..self }
    }

    pub(super) fn is_flat(&self) -> bool {
        is_flat(self.each, self.strides)
    }

    pub(super) fn unit(&self) -> bool {
        self.strides[2] == 1
    }

    /// From a group and a row of each on.
    pub(super) fn at(self, group: usize, m: usize) -> Self {
        let sink = Sink { place: self.place, strides: [self.strides[0], self.strides[1]] };
        Sinks { place: sink.at(group, m).place, ..self }
    }

    /// The rows of a run.
    pub(super) fn rows(self, run: Run) -> Sink<T> {
        let row = if self.each == 1 { self.strides[0] } else { self.strides[1] };
        Sink { place: self.at(run.group, run.m).place, strides: [row, self.strides[2]] }
    }
}

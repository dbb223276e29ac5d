//! Operands as kernels see them: addresses, strides and types.

use super::problem::{Address, Rows, Type, bytes};
use crate::wanted::Gradient;
use crate::{Element, View};

/// A strided operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<const D: usize> {
    pub(super) address: Address,
    pub(super) strides: [i64; D],
    pub(super) kind: Type,
}

impl<T: Element, const D: usize> From<View<'_, T, D>> for Operand<D> {
    fn from(view: View<'_, T, D>) -> Self {
        let strides = view.strides().map(|stride| stride as i64);
        Operand { address: view.as_ptr().addr() as Address, strides, kind: Type::of::<T>() }
    }
}

impl<const D: usize> Operand<D> {
    /// The axes in another order: axis `a` of the result is axis `order[a]` of this one.
    pub(super) fn permute(self, order: [usize; D]) -> Self {
        Operand { strides: order.map(|axis| self.strides[axis]), ..self }
    }

    /// From index `first` of an axis on.
    pub(super) fn after(self, axis: usize, first: usize) -> Self {
        let distance = (first as i64).wrapping_mul(self.strides[axis]).wrapping_mul(bytes(self.kind) as i64);
        Operand { address: self.address.wrapping_add_signed(distance), ..self }
    }

    /// For plans, which access nothing.
    pub(super) fn somewhere<T: Element>(strides: [i64; D]) -> Self {
        Operand { address: 256, strides, kind: Type::of::<T>() }
    }
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<const D: usize> {
    pub(super) to: Operand<D>,
    /// Added to what is there, which is never read otherwise.
    pub(super) add: bool,
}

impl<const D: usize> Output<D> {
    pub(super) fn permute(self, order: [usize; D]) -> Self {
        Output { to: self.to.permute(order), ..self }
    }

    /// From index `first` of an axis on.
    pub(super) fn after(self, axis: usize, first: usize) -> Self {
        Output { to: self.to.after(axis, first), ..self }
    }

    /// For the next part of a sum.
    pub(super) fn later(self, later: bool) -> Self {
        Output { add: self.add || later, ..self }
    }
}

impl<A: Element, const D: usize> From<Gradient<'_, A, D>> for Output<D> {
    fn from(Gradient { mut to, add }: Gradient<'_, A, D>) -> Self {
        let strides = to.strides().map(|stride| stride as i64);
        let to = Operand { address: to.as_mut_ptr().addr() as Address, strides, kind: Type::of::<A>() };
        Output { to, add }
    }
}

/// An operand with a row for each n: [n][column].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Matrix {
    pub(super) address: Address,
    pub(super) rows: Rows,
    pub(super) column: i64,
    /// Distance between independent problems.
    pub(super) batch: i64,
    pub(super) kind: Type,
}

impl Operand<2> {
    /// A plain batch.
    pub(super) fn matrix(self) -> Matrix {
        let [row, column] = self.strides;
        Matrix { address: self.address, rows: Rows { outer: 0, inner: row }, column, batch: 0, kind: self.kind }
    }

    /// One row for each group of rows.
    pub(super) fn groups(self) -> Matrix {
        let [group, column] = self.strides;
        Matrix { rows: Rows { outer: group, inner: 0 }, column, ..self.matrix() }
    }

    /// The same row for all rows, one for each problem.
    pub(super) fn one_a_batch(self) -> Matrix {
        let [batch, column] = self.strides;
        Matrix { rows: Rows::default(), column, batch, ..self.matrix() }
    }

    /// The same rows in each group.
    pub(super) fn in_each_group(self) -> Matrix {
        self.matrix()
    }
}

impl Operand<3> {
    /// Rows of groups.
    pub(super) fn grouped(self) -> Matrix {
        let [outer, inner, column] = self.strides;
        Matrix { address: self.address, rows: Rows { outer, inner }, column, batch: 0, kind: self.kind }
    }

    /// Each group a problem of its own.
    pub(super) fn batches(self) -> Matrix {
        let [batch, row, column] = self.strides;
        Matrix { address: self.address, rows: Rows { outer: 0, inner: row }, column, batch, kind: self.kind }
    }

    /// The rows of a plain batch, and the middle axis the problems.
    pub(super) fn batches_within(self) -> Matrix {
        let [row, batch, column] = self.strides;
        Matrix { address: self.address, rows: Rows { outer: 0, inner: row }, column, batch, kind: self.kind }
    }
}

impl Operand<4> {
    /// Of [p][s][k][column]: each p a problem of its own, whose rows are (s, k).
    pub(super) fn problems(self) -> Matrix {
        let [batch, outer, inner, column] = self.strides;
        Matrix { address: self.address, rows: Rows { outer, inner }, column, batch, kind: self.kind }
    }
}

impl Operand<1> {
    /// The same row for all.
    pub(super) fn row(self) -> Matrix {
        Matrix { address: self.address, rows: Rows::default(), column: self.strides[0], batch: 0, kind: self.kind }
    }
}

/// How W is given.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Absent,
    /// [K, I, J].
    Dense(Operand<3>),
    Cp(Factors),
}

/// a [K, R], b [I, R], c [J, R], lambda \[R\].
#[derive(Clone, Copy, Debug)]
pub(super) struct Factors {
    pub(super) a: Operand<2>,
    pub(super) b: Operand<2>,
    pub(super) c: Operand<2>,
    pub(super) lambda: Option<Operand<1>>,
    pub(super) r: usize,
}

/// A layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub(super) k: usize,
    pub(super) i: usize,
    pub(super) j: usize,
    pub(super) form: Form,
    pub(super) u: Option<Operand<2>>,
    pub(super) v: Option<Operand<2>>,
    pub(super) b: Option<Operand<1>>,
    /// Of what is stored, and of sums.
    pub(super) kinds: [Type; 2],
}

/// Where gradients go. `D` is the number of axes of x, `Z` that of z.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outputs<const D: usize, const Z: usize = 2> {
    pub(super) z: Option<Output<Z>>,
    pub(super) x: Option<Output<D>>,
    pub(super) tied: Option<Output<2>>,
    pub(super) w: Option<Output<3>>,
    pub(super) u: Option<Output<2>>,
    pub(super) v: Option<Output<2>>,
    pub(super) b: Option<Output<1>>,
    pub(super) cp_a: Option<Output<2>>,
    pub(super) cp_b: Option<Output<2>>,
    pub(super) cp_c: Option<Output<2>>,
    pub(super) lambda: Option<Output<1>>,
}

impl<const D: usize, const Z: usize> Outputs<D, Z> {
    /// Those that U, V and b have a share in, and that in a dense W, beside W in another form.
    pub(super) fn linear(&self, layer: &Layer) -> Self {
        let (u, v) = (layer.u.is_some(), layer.v.is_some());
        Outputs { z: self.z.filter(|_| u), x: self.x.filter(|_| v), tied: self.tied.filter(|_| u || v), ..*self }
    }

    /// For the rows (or groups) from `first` on: those of inputs are further on, those of weights sums of all blocks.
    pub(super) fn after(&self, first: usize) -> Outputs<D, Z> {
        let later = first > 0;
        Outputs {
            z: self.z.map(|to| to.after(0, first)),
            x: self.x.map(|to| to.after(0, first)),
            tied: self.tied.map(|to| to.after(0, first)),
            w: self.w.map(|to| to.later(later)),
            u: self.u.map(|to| to.later(later)),
            v: self.v.map(|to| to.later(later)),
            b: self.b.map(|to| to.later(later)),
            cp_a: self.cp_a.map(|to| to.later(later)),
            cp_b: self.cp_b.map(|to| to.later(later)),
            cp_c: self.cp_c.map(|to| to.later(later)),
            lambda: self.lambda.map(|to| to.later(later)),
        }
    }
}

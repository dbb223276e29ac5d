//! Operands as kernels see them: addresses, strides and types.

use super::problem::{Address, Rows, Type};
use crate::gradients::Gradient;
use crate::interaction::Core;
use crate::{Element, Interaction, View};

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

impl<T: Element> From<&Interaction<'_, T>> for Layer {
    fn from(layer: &Interaction<'_, T>) -> Self {
        let form = match layer.core {
            Core::Absent | Core::Blocks(_) => Form::Absent, // dispatch.rs leaves no blocks
            Core::Dense(w) => Form::Dense(w.into()),
            Core::Cp { a, b, c, lambda } => {
                let r = a.shape()[1];
                Form::Cp(Factors { a: a.into(), b: b.into(), c: c.into(), lambda: lambda.map(Operand::from), r })
            }
        };
        Layer {
            k: layer.k,
            i: layer.i,
            j: layer.j,
            form,
            u: layer.u.map(Operand::from),
            v: layer.v.map(Operand::from),
            b: layer.b.map(Operand::from),
            kinds: [Type::of::<T>(), Type::of::<T::Accumulator>()],
        }
    }
}

/// Where gradients go. `D` is the number of axes of x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs<const D: usize> {
    pub(super) z: Option<Output<2>>,
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

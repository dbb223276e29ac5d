//! Arithmetic on values and the magnitudes of their terms at once, and operands as f64.

use std::iter::Sum;
use std::ops::{Add, Mul};

use super::Reference;
use crate::strides::elements;
use crate::{Element, Error, Result, Tensor, View};

/// A value, and the sum of the magnitudes of its terms. Of a product of sums that is the product of their magnitudes: what
/// the error of an algorithm is proportional to that rounds each sum before it multiplies them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    pub(super) value: f64,
    pub(super) magnitude: f64,
}

impl From<f64> for Terms {
    fn from(value: f64) -> Self {
        Terms { value, magnitude: value.abs() }
    }
}

impl Add for Terms {
    type Output = Terms;
    fn add(self, other: Terms) -> Terms {
        Terms { value: self.value + other.value, magnitude: self.magnitude + other.magnitude }
    }
}

impl Mul for Terms {
    type Output = Terms;
    fn mul(self, other: Terms) -> Terms {
        Terms { value: self.value * other.value, magnitude: self.magnitude * other.magnitude }
    }
}

impl Sum for Terms {
    fn sum<I: Iterator<Item = Terms>>(terms: I) -> Terms {
        terms.fold(Terms::default(), Terms::add)
    }
}

/// A matrix, row-major: an operand, or sums on the way to a result.
pub(super) struct Matrix {
    values: Vec<Terms>,
    columns: usize,
}

impl Matrix {
    /// An operand with all axes but the last taken as one. Errors: those of allocation.
    pub(super) fn of<T: Element, const D: usize>(view: View<'_, T, D>) -> Result<Matrix> {
        let (tensor, columns) = (Tensor::from_view(view)?, view.shape()[D - 1]);
        let (values, rows) = (tensor.as_slice(), tensor.as_slice().len() / columns.max(1));
        Matrix::new([rows, columns], |row, column| values[row * columns + column].to_f64().into())
    }

    /// What `of` gives for each element. Errors: those of allocation.
    pub(super) fn new(shape: [usize; 2], of: impl Fn(usize, usize) -> Terms) -> Result<Matrix> {
        let ([_, columns], len) = (shape, elements(&shape)?);
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(|_| out_of_memory(len))?;
        values.extend((0..len).map(|index| of(index / columns, index % columns)));
        Ok(Matrix { values, columns })
    }

    pub(super) fn at(&self, row: usize, column: usize) -> Terms {
        self.values[row * self.columns + column]
    }
}

fn out_of_memory(len: usize) -> Error {
    Error::OutOfMemory { bytes: len.saturating_mul(size_of::<Terms>()) }
}

/// The sums that `of` gives for each element.
pub(super) fn reference(shape: [usize; 2], depth: usize, of: impl Fn(usize, usize) -> Terms) -> Result<Reference> {
    let sums = Matrix::new(shape, of)?.values;
    Ok(Reference {
        value: Tensor::from_vec(sums.iter().map(|terms| terms.value).collect(), shape)?,
        magnitude: Tensor::from_vec(sums.iter().map(|terms| terms.magnitude).collect(), shape)?,
        depth,
    })
}

/// Σ over an index.
pub(super) fn sum(length: usize, of: impl Fn(usize) -> Terms) -> Terms {
    (0..length).map(of).sum()
}

//! Arithmetic on values and the magnitudes of their terms at once, and operands as f64.

use std::iter::Sum;
use std::ops::{Add, Mul};

use super::Reference;
use crate::{Element, Result, Tensor, View};

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
        let values = Tensor::from_view(view)?.as_slice().iter().map(|value| Terms::from(value.to_f64())).collect();
        Ok(Matrix { values, columns: view.shape()[D - 1] })
    }

    pub(super) fn new([rows, columns]: [usize; 2], of: impl Fn(usize, usize) -> Terms) -> Matrix {
        let values = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Matrix { values: values.map(|(row, column)| of(row, column)).collect(), columns }
    }

    pub(super) fn at(&self, row: usize, column: usize) -> Terms {
        self.values[row * self.columns + column]
    }
}

/// The sums that `of` gives for each element.
pub(super) fn reference(shape: [usize; 2], depth: usize, of: impl Fn(usize, usize) -> Terms) -> Result<Reference> {
    let sums = Matrix::new(shape, of).values;
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

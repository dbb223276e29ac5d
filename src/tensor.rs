//! Owned results.

use crate::strides::{advance, elements, row_major};
use crate::{Element, Error, Result, View, ViewMut};

/// An owned row-major tensor of rank `D`: what operations return.
///
/// # Example
///
/// ```
/// use trilinear::Tensor;
///
/// let t = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
/// assert_eq!(t.view().transpose().get([0, 1]), Some(3.0));
/// assert_eq!(t.into_vec(), [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T, const D: usize> {
    data: Vec<T>,
    shape: [usize; D],
}

impl<T: Element, const D: usize> Tensor<T, D> {
    /// Zeros. Errors: [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn zeros(shape: [usize; D]) -> Result<Self> {
        let len = elements(&shape)?;
        let mut data = Vec::new();
        data.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
        data.resize(len, T::default());
        Ok(Tensor { data, shape })
    }

    /// Row-major elements, taken over. Errors: [`Error::Length`].
    pub fn from_vec(data: Vec<T>, shape: [usize; D]) -> Result<Self> {
        View::new(&data, shape)?;
        Ok(Tensor { data, shape })
    }

    /// A row-major copy. Errors: [`Error::TooLarge`], [`Error::OutOfMemory`]; [`Error::Place`] of a device's memory, from which
    /// [`crate::DeviceTensor::to_tensor`] copies.
    pub fn from_view(view: View<'_, T, D>) -> Result<Self> {
        crate::place::host([Some(("view", view.place()))])?;
        let mut tensor = Tensor::zeros(view.shape())?;
        if let Some(slice) = view.as_slice() {
            tensor.data.copy_from_slice(slice);
            return Ok(tensor);
        }
        let mut index = [0; D];
        for slot in &mut tensor.data {
            *slot = view.get(index).unwrap_or_default();
            advance(&mut index, tensor.shape);
        }
        Ok(tensor)
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// The elements, borrowed as a tensor.
    pub fn view(&self) -> View<'_, T, D> {
        // SAFETY: the vector has exactly the shape's elements (an invariant of this type), row-major.
        unsafe { View::from_raw_parts(self.data.as_ptr(), self.shape, self.strides()) }
    }

    /// The elements, borrowed mutably as a tensor.
    pub fn view_mut(&mut self) -> ViewMut<'_, T, D> {
        let (shape, strides) = (self.shape, self.strides());
        // SAFETY: as in `view`; row-major strides of a vector are disjoint, so this cannot fail.
        unsafe { ViewMut::from_raw_parts(self.data.as_mut_ptr(), shape, strides).unwrap_unchecked() }
    }

    /// The elements, row-major.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The elements, row-major.
    pub fn into_vec(self) -> Vec<T> {
        self.data
    }

    fn strides(&self) -> [isize; D] {
        row_major(self.shape)
    }
}

//! Views of and to [`ndarray`](https://docs.rs/ndarray)'s arrays (feature `ndarray`). Nothing is copied, except an owned
//! array that is not row-major on its way to a [`Tensor`].
//!
//! | from | to | |
//! |---|---|---|
//! | `&Array`, `&ArrayRef`, `ArrayView`, … | [`View`] | any strides |
//! | `&mut Array`, `ArrayViewMut`, … | [`ViewMut`] | any strides; [`Error::Overlap`] should elements share memory |
//! | [`View`] | `ArrayView` | any strides; [`Error::Layout`] where ndarray cannot count so far |
//! | `Array` | [`Tensor`] | copied unless row-major |
//! | [`Tensor`] | `Array` | [`Error::Layout`] as above |
//!
//! ndarray, unlike this crate, requires that the product of the axes that are not empty fits an `isize`, even if another
//! axis is empty or the elements are all the same one. That is all that [`Error::Layout`] is about.
//!
//! # Example
//!
//! ```
//! use ndarray::{Array2, Array3, ArrayView2, array, s};
//! use trilinear::{Interaction, View, ViewMut};
//!
//! let w = Array3::<f32>::ones((2, 3, 4)); // K, I, J
//! let z = array![[1.0, 2.0, 3.0]];
//! let x = array![[4.0, 3.0, 2.0, 1.0]];
//! let layer = Interaction::dense(View::from(&w))?;
//!
//! let y = Array2::try_from(layer.forward(View::from(&z), View::from(&x))?)?;
//! assert_eq!(y, array![[60.0, 60.0]]);
//!
//! // Slices, reversed axes and outputs in place: the strides are taken as they are.
//! let backwards = View::from(x.slice(s![.., ..;-1]));
//! let mut y = Array2::zeros((1, 2));
//! layer.forward_into(View::from(&z), backwards, ViewMut::try_from(&mut y)?)?;
//! assert_eq!(ArrayView2::try_from(backwards)?, array![[1.0, 2.0, 3.0, 4.0]]);
//! # Ok::<(), trilinear::Error>(())
//! ```

use ndarray::{Array, ArrayBase, ArrayRef, ArrayView, ArrayViewMut, Axis, Data, DataMut, Ix1, Ix2, Ix3, ShapeBuilder};

use crate::{Element, Error, Result, Tensor, View, ViewMut};

/// A shape or strides of the `D` axes that the type says there are.
fn axes<A: Copy + Default, const D: usize>(of: &[A]) -> [A; D] {
    std::array::from_fn(|axis| of.get(axis).copied().unwrap_or_default())
}

const TOO_LONG: Error =
    Error::Layout { reason: "ndarray cannot hold this shape: its axes multiply to more than an isize counts" };

macro_rules! conversions {
    ($($rank:literal $dim:ident),*) => {$(
        impl<'a, T, S: Data<Elem = T>> From<&'a ArrayBase<S, $dim>> for View<'a, T, $rank> {
            fn from(array: &'a ArrayBase<S, $dim>) -> Self {
                View::from(array.view())
            }
        }

        impl<'a, T> From<&'a ArrayRef<T, $dim>> for View<'a, T, $rank> {
            fn from(array: &'a ArrayRef<T, $dim>) -> Self {
                View::from(array.view())
            }
        }

        impl<'a, T> From<ArrayView<'a, T, $dim>> for View<'a, T, $rank> {
            fn from(array: ArrayView<'a, T, $dim>) -> Self {
                // SAFETY: an array view borrows for 'a every element that its shape and strides reach.
                unsafe { View::from_raw_parts(array.as_ptr(), axes(array.shape()), axes(array.strides())) }
            }
        }

        impl<'a, T, S: DataMut<Elem = T>> TryFrom<&'a mut ArrayBase<S, $dim>> for ViewMut<'a, T, $rank> {
            type Error = Error;

            fn try_from(array: &'a mut ArrayBase<S, $dim>) -> Result<Self> {
                ViewMut::try_from(array.view_mut())
            }
        }

        impl<'a, T> TryFrom<ArrayViewMut<'a, T, $dim>> for ViewMut<'a, T, $rank> {
            type Error = Error;

            fn try_from(mut array: ArrayViewMut<'a, T, $dim>) -> Result<Self> {
                let pointer = array.as_mut_ptr();
                // SAFETY: a mutable array view borrows for 'a, for itself alone, every element that it reaches.
                unsafe { ViewMut::from_raw_parts(pointer, axes(array.shape()), axes(array.strides())) }
            }
        }

        impl<'a, T> TryFrom<View<'a, T, $rank>> for ArrayView<'a, T, $dim> {
            type Error = Error;

            fn try_from(view: View<'a, T, $rank>) -> Result<Self> {
                crate::place::host([Some(("view", view.place()))])?;
                let (shape, strides) = (view.shape(), view.strides());
                if view.is_empty() {
                    return ArrayView::from_shape(shape, &[]).map_err(|_| TOO_LONG);
                }
                // A non-empty view's reach fits an isize, being within an allocation; a broadcast axis's length need not.
                let size = shape.iter().try_fold(1isize, |size, &len| size.checked_mul(isize::try_from(len).ok()?));
                size.ok_or(TOO_LONG)?;
                // ndarray's constructor wants the lowest address and strides that ascend; axes are turned round after.
                let turned = |axis: usize| shape[axis] > 1 && strides[axis] < 0;
                let lowest: isize =
                    (0..$rank).filter(|&axis| turned(axis)).map(|axis| (shape[axis] as isize - 1) * strides[axis]).sum();
                let ascending: [usize; $rank] =
                    std::array::from_fn(|axis| if shape[axis] > 1 { strides[axis].unsigned_abs() } else { 0 });
                let sizes = shape.strides(ascending);
                // SAFETY: the lowest element is one of the view's; from it the ascending strides reach exactly the
                // view's elements, which are borrowed for 'a. The sizes that ndarray asks about were checked above.
                let mut array = unsafe { ArrayView::from_shape_ptr(sizes, view.host_ptr().offset(lowest)) };
                for axis in (0..$rank).filter(|&axis| turned(axis)) {
                    array.invert_axis(Axis(axis));
                }
                Ok(array)
            }
        }

        impl<T: Element> TryFrom<Tensor<T, $rank>> for Array<T, $dim> {
            type Error = Error;

            fn try_from(tensor: Tensor<T, $rank>) -> Result<Self> {
                let shape = tensor.shape();
                Array::from_shape_vec(shape, tensor.into_vec()).map_err(|_| TOO_LONG)
            }
        }

        impl<T: Element> TryFrom<Array<T, $dim>> for Tensor<T, $rank> {
            type Error = Error;

            fn try_from(array: Array<T, $dim>) -> Result<Self> {
                let shape = axes(array.shape());
                if !array.is_standard_layout() {
                    return Tensor::from_view(View::from(&array));
                }
                let len = array.len();
                let (mut elements, offset) = array.into_raw_vec_and_offset();
                // What is left of a larger array may have others' elements on either side.
                elements.drain(..offset.unwrap_or(0));
                elements.truncate(len);
                Tensor::from_vec(elements, shape)
            }
        }
    )*};
}

conversions!(1 Ix1, 2 Ix2, 3 Ix3);

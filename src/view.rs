//! Borrowed strided tensors. All of their unsafety is here: a view that exists is in bounds.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::place::Place;
use crate::strides::{check_bounds, check_disjoint, elements, row_major, tame};
use crate::{Device, Error, Result};

/// A borrowed strided tensor of rank `D`: any stride, zero (broadcast) and negative ones included.
///
/// # Example
///
/// ```
/// use trilinear::View;
///
/// let data = [0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0];
/// let matrix = View::new(&data, [2, 3])?;
/// assert_eq!(matrix.get([1, 2]), Some(5.0));
/// assert_eq!(matrix.transpose().get([2, 1]), Some(5.0));
/// assert_eq!(matrix.slice(1, 1..3)?.get([0, 0]), Some(1.0));
/// let rows = View::row(&data).broadcast(0, 100)?; // one row seen as a hundred
/// assert_eq!(rows.shape(), [100, 6]);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub struct View<'a, T, const D: usize> {
    ptr: *const T,
    shape: [usize; D],
    strides: [isize; D],
    place: Place,
    memory: PhantomData<&'a T>,
}

/// A mutably borrowed strided tensor of rank `D`, no two of whose elements share memory.
///
/// # Example
///
/// ```
/// use trilinear::ViewMut;
///
/// let mut data = [0.0f32; 12];
/// // Every other column of a 3 × 4 matrix.
/// let y = ViewMut::strided(&mut data, 0, [3, 2], [4, 2])?;
/// assert_eq!(y.shape(), [3, 2]);
/// assert!(ViewMut::strided(&mut data, 0, [3, 2], [0, 1]).is_err()); // rows would overlap
/// # Ok::<(), trilinear::Error>(())
/// ```
pub struct ViewMut<'a, T, const D: usize> {
    ptr: *mut T,
    shape: [usize; D],
    strides: [isize; D],
    place: Place,
    memory: PhantomData<&'a mut T>,
}

impl<T, const D: usize> Clone for View<'_, T, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, const D: usize> Copy for View<'_, T, D> {}

// SAFETY: a view is a shared borrow of `[T]`; a mutable view an exclusive one.
unsafe impl<T: Sync, const D: usize> Send for View<'_, T, D> {}
// SAFETY: as above.
unsafe impl<T: Sync, const D: usize> Sync for View<'_, T, D> {}
// SAFETY: as above.
unsafe impl<T: Send, const D: usize> Send for ViewMut<'_, T, D> {}
// SAFETY: as above; a shared reference to a mutable view only reads.
unsafe impl<T: Sync, const D: usize> Sync for ViewMut<'_, T, D> {}

impl<T, const D: usize> fmt::Debug for View<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "View", &self.shape, &self.strides, self.place)
    }
}
impl<T, const D: usize> fmt::Debug for ViewMut<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "ViewMut", &self.shape, &self.strides, self.place)
    }
}

fn debug(f: &mut fmt::Formatter<'_>, name: &str, shape: &[usize], strides: &[isize], place: Place) -> fmt::Result {
    let mut debug = f.debug_struct(name);
    debug.field("shape", &shape).field("strides", &strides);
    if !place.is_host() {
        debug.field("device", &place.device());
    }
    debug.finish()
}

/// An operand in a device's memory got past the checks of the call, which is a bug of this crate. Its address must not be used.
#[cold]
fn not_the_hosts() -> ! {
    unreachable!("the host was to access an operand in a device's memory")
}

impl<'a, T, const D: usize> View<'a, T, D> {
    /// All of `data`, row-major. Errors: [`Error::Length`] unless `data` has exactly the shape's elements.
    #[inline]
    pub fn new(data: &'a [T], shape: [usize; D]) -> Result<Self> {
        let expected = elements(&shape)?;
        if data.len() != expected {
            return Err(Error::Length { expected, actual: data.len() });
        }
        Ok(View { ptr: data.as_ptr(), shape, strides: row_major(shape), place: Place::HOST, memory: PhantomData })
    }

    /// Element `[i₀, i₁, …]` at `data[offset + i₀·strides[0] + i₁·strides[1] + …]`.
    /// Errors: [`Error::OutOfBounds`].
    pub fn strided(data: &'a [T], offset: usize, shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        check_bounds(data.len(), offset, shape, strides)?;
        // SAFETY: `offset` ≤ `data.len()` by the check (for an empty shape too).
        let ptr = unsafe { data.as_ptr().add(offset) };
        Ok(View { ptr, shape, strides: tame(shape, strides), place: Place::HOST, memory: PhantomData })
    }

    /// A view of memory that Rust does not own, for bindings to other languages.
    ///
    /// # Safety
    ///
    /// For all of `'a`, every element that shape and strides reach from `ptr` must be readable, initialised,
    /// aligned, in one allocation and not written.
    pub unsafe fn from_raw_parts(ptr: *const T, shape: [usize; D], strides: [isize; D]) -> Self {
        View { ptr, shape, strides: tame(shape, strides), place: Place::HOST, memory: PhantomData }
    }

    /// A view of a device's memory, of this crate ([`crate::DeviceTensor`] makes its own views) or of anyone else:
    /// `ptr` is a `CUdeviceptr`, an address that a framework gives for its tensor. Nothing is copied. What is on the host
    /// cannot be read through it: [`get`](Self::get) and [`as_slice`](Self::as_slice) give `None`.
    /// Errors: [`Error::TooLarge`] for an ordinal that no device has.
    ///
    /// # Safety
    ///
    /// For all of `'a`, and until the calls that were given the view have run on their stream, every element that shape and
    /// strides reach from `ptr` must be readable memory of `device`, initialised, aligned, in one allocation and not written.
    pub unsafe fn from_device(ptr: u64, device: Device, shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        let (ptr, place) = (std::ptr::with_exposed_provenance(ptr as usize), Place::of(device)?);
        Ok(View { ptr, shape, strides: tame(shape, strides), place, memory: PhantomData })
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        self.place.device()
    }

    #[inline]
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Lengths of the axes.
    #[inline]
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// Distances in elements between neighbours along each axis.
    #[inline]
    pub fn strides(&self) -> [isize; D] {
        self.strides
    }

    /// Address of the first element, of the memory of [`device`](Self::device); dangling if the view is empty.
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The same for code that reads the memory. Callers have checked that it is the host's; this is the last line of defence.
    #[inline]
    pub(crate) fn host_ptr(&self) -> *const T {
        if self.place.is_host() { self.ptr } else { not_the_hosts() }
    }

    /// Whether there is no element.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The elements as a slice, if they are dense, row-major and in the host's memory.
    pub fn as_slice(&self) -> Option<&'a [T]> {
        if !self.place.is_host() {
            return None;
        }
        if self.is_empty() {
            return Some(&[]);
        }
        let dense = row_major(self.shape);
        let fits = (0..D).all(|axis| self.shape[axis] == 1 || self.strides[axis] == dense[axis]);
        // SAFETY: of the host; dense, row-major and in bounds by construction, so one contiguous initialised range.
        fits.then(|| unsafe { std::slice::from_raw_parts(self.host_ptr(), self.shape.iter().product()) })
    }

    /// One element, or `None` outside the shape or if it is in a device's memory.
    pub fn get(&self, index: [usize; D]) -> Option<T>
    where
        T: Copy,
    {
        let inside = self.place.is_host() && index.iter().zip(&self.shape).all(|(index, len)| index < len);
        // SAFETY: of the host, and within the shape, all of which is in bounds by construction.
        inside.then(|| unsafe {
            *self
                .host_ptr()
                .offset(index.iter().zip(&self.strides).map(|(&index, &stride)| index as isize * stride).sum())
        })
    }

    /// The axes in another order: axis `a` of the result is axis `order[a]` of this view.
    /// Errors: [`Error::Axes`] unless `order` is a permutation.
    pub fn permute(self, order: [usize; D]) -> Result<Self> {
        let mut seen = [false; D];
        for &axis in &order {
            if axis >= D || std::mem::replace(&mut seen[axis], true) {
                return Err(Error::Axes { given: format!("{order:?}") });
            }
        }
        Ok(View { shape: order.map(|axis| self.shape[axis]), strides: order.map(|axis| self.strides[axis]), ..self })
    }

    /// Part of one axis. Errors: [`Error::Range`].
    pub fn slice(mut self, axis: usize, range: Range<usize>) -> Result<Self> {
        let len = self.shape.get(axis).copied().unwrap_or(0);
        if axis >= D || range.start > range.end || range.end > len {
            return Err(Error::Range { axis, len, range: (range.start, range.end) });
        }
        self.shape[axis] = range.len();
        if !self.is_empty() {
            // `range.start` is inside the axis, so the element exists.
            self.ptr = self.ptr.wrapping_offset(range.start as isize * self.strides[axis]);
        }
        Ok(self)
    }

    /// An axis of length 1 seen as `len` copies of itself (stride zero; nothing is copied).
    /// Errors: [`Error::Range`] unless the axis has length 1.
    pub fn broadcast(mut self, axis: usize, len: usize) -> Result<Self> {
        if self.shape.get(axis) != Some(&1) {
            let actual = self.shape.get(axis).copied().unwrap_or(0);
            return Err(Error::Range { axis, len: actual, range: (0, len) });
        }
        self.shape[axis] = len;
        self.strides[axis] = 0;
        Ok(self)
    }
}

impl<'a, T> View<'a, T, 1> {
    /// A slice as a vector.
    #[inline]
    pub fn vector(data: &'a [T]) -> Self {
        View { ptr: data.as_ptr(), shape: [data.len()], strides: [1], place: Place::HOST, memory: PhantomData }
    }
}

impl<'a, T> View<'a, T, 2> {
    /// A slice as a batch of one row.
    #[inline]
    pub fn row(data: &'a [T]) -> Self {
        View {
            ptr: data.as_ptr(),
            shape: [1, data.len()],
            strides: [data.len() as isize, 1],
            place: Place::HOST,
            memory: PhantomData,
        }
    }

    /// Rows from `first` on, so many of them, which the caller knows to be there.
    pub(crate) fn slice_rows(mut self, (first, rows): (usize, usize)) -> Self {
        debug_assert!(first + rows <= self.shape[0]);
        self.ptr = self.ptr.wrapping_offset((first as isize).wrapping_mul(self.strides[0]));
        self.shape[0] = rows;
        self
    }

    /// Rows as groups of one row each.
    pub(crate) fn insert_axis(self) -> View<'a, T, 3> {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        View {
            ptr: self.ptr,
            shape: [rows, 1, columns],
            strides: [row, row, column],
            place: self.place,
            memory: PhantomData,
        }
    }

    /// All of it as one output of a 3-tensor.
    pub(crate) fn as_output(self) -> View<'a, T, 3> {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        View {
            ptr: self.ptr,
            shape: [1, rows, columns],
            strides: [0, row, column],
            place: self.place,
            memory: PhantomData,
        }
    }

    /// The axes exchanged.
    #[inline]
    pub fn transpose(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        View { shape: [columns, rows], strides: [column, row], ..self }
    }
}

impl<'a, T> View<'a, T, 4> {
    /// The tensors along the first axis, in order.
    pub fn unstack(self) -> impl ExactSizeIterator<Item = View<'a, T, 3>> {
        let ([len, a, b, c], [step, sa, sb, sc]) = (self.shape, self.strides);
        (0..len).map(move |index| View {
            ptr: self.ptr.wrapping_offset((index as isize).wrapping_mul(step)),
            shape: [a, b, c],
            strides: [sa, sb, sc],
            place: self.place,
            memory: PhantomData,
        })
    }
}

impl<'a, T> ViewMut<'a, T, 4> {
    /// The tensors along the first axis, in order: no two of them share an element.
    pub fn unstack(self) -> impl ExactSizeIterator<Item = ViewMut<'a, T, 3>> {
        let ([len, a, b, c], [step, sa, sb, sc]) = (self.shape, self.strides);
        (0..len).map(move |index| ViewMut {
            ptr: self.ptr.wrapping_offset((index as isize).wrapping_mul(step)),
            shape: [a, b, c],
            strides: [sa, sb, sc],
            place: self.place,
            memory: PhantomData,
        })
    }
}

impl<'a, T> View<'a, T, 3> {
    /// The matrix at this index of the first axis, which the caller knows to be there.
    pub(crate) fn matrix(self, index: usize) -> View<'a, T, 2> {
        let ([_, rows, columns], [outer, row, column]) = (self.shape, self.strides);
        debug_assert!(index < self.shape[0]);
        View {
            ptr: self.ptr.wrapping_offset((index as isize).wrapping_mul(outer)),
            shape: [rows, columns],
            strides: [row, column],
            place: self.place,
            memory: PhantomData,
        }
    }
}

impl<'a, T, const D: usize> ViewMut<'a, T, D> {
    /// All of `data`, row-major. Errors: [`Error::Length`] unless `data` has exactly the shape's elements.
    #[inline]
    pub fn new(data: &'a mut [T], shape: [usize; D]) -> Result<Self> {
        let expected = elements(&shape)?;
        if data.len() != expected {
            return Err(Error::Length { expected, actual: data.len() });
        }
        Ok(ViewMut {
            ptr: data.as_mut_ptr(),
            shape,
            strides: row_major(shape),
            place: Place::HOST,
            memory: PhantomData,
        })
    }

    /// Element `[i₀, i₁, …]` at `data[offset + i₀·strides[0] + i₁·strides[1] + …]`.
    /// Errors: [`Error::OutOfBounds`]; [`Error::Overlap`] if elements might share memory.
    pub fn strided(data: &'a mut [T], offset: usize, shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        check_bounds(data.len(), offset, shape, strides)?;
        check_disjoint(shape, strides)?;
        // SAFETY: `offset` ≤ `data.len()` by the check (for an empty shape too).
        let ptr = unsafe { data.as_mut_ptr().add(offset) };
        Ok(ViewMut { ptr, shape, strides: tame(shape, strides), place: Place::HOST, memory: PhantomData })
    }

    /// A view of memory that Rust does not own, for bindings to other languages.
    /// Errors: [`Error::Overlap`] if elements might share memory.
    ///
    /// # Safety
    ///
    /// For all of `'a`, every element that shape and strides reach from `ptr` must be writable, aligned, in one
    /// allocation and used by nobody else.
    pub unsafe fn from_raw_parts(ptr: *mut T, shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        check_disjoint(shape, strides)?;
        Ok(ViewMut { ptr, shape, strides: tame(shape, strides), place: Place::HOST, memory: PhantomData })
    }

    /// A mutable view of a device's memory, as [`View::from_device`].
    /// Errors: [`Error::Overlap`] if elements might share memory, [`Error::TooLarge`] for an ordinal that no device has.
    ///
    /// # Safety
    ///
    /// For all of `'a`, and until the calls that were given the view have run on their stream, every element that shape and
    /// strides reach from `ptr` must be writable memory of `device`, aligned, in one allocation and used by nobody else.
    pub unsafe fn from_device(ptr: u64, device: Device, shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        check_disjoint(shape, strides)?;
        let (ptr, place) = (std::ptr::with_exposed_provenance_mut(ptr as usize), Place::of(device)?);
        Ok(ViewMut { ptr, shape, strides: tame(shape, strides), place, memory: PhantomData })
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        self.place.device()
    }

    #[inline]
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Lengths of the axes.
    #[inline]
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// Distances in elements between neighbours along each axis.
    #[inline]
    pub fn strides(&self) -> [isize; D] {
        self.strides
    }

    /// Address of the first element, of the memory of [`device`](Self::device); dangling if the view is empty.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// The same for code that accesses the memory, as [`View::host_ptr`].
    #[inline]
    pub(crate) fn host_mut_ptr(&mut self) -> *mut T {
        if self.place.is_host() { self.ptr } else { not_the_hosts() }
    }

    /// The same elements, read-only.
    pub fn as_view(&self) -> View<'_, T, D> {
        View { ptr: self.ptr, shape: self.shape, strides: self.strides, place: self.place, memory: PhantomData }
    }

    /// The axes in another order: axis `a` of the result is axis `order[a]` of this view. So results go to memory whose axes are
    /// in any order. Errors: [`Error::Axes`] unless `order` is a permutation.
    pub fn permute(self, order: [usize; D]) -> Result<Self> {
        let View { shape, strides, .. } = self.as_view().permute(order)?;
        Ok(ViewMut { shape, strides, ..self })
    }

    /// A shorter borrow of the same elements.
    pub fn reborrow(&mut self) -> ViewMut<'_, T, D> {
        ViewMut { ptr: self.ptr, shape: self.shape, strides: self.strides, place: self.place, memory: PhantomData }
    }
}

impl<'a, T> ViewMut<'a, T, 2> {
    /// Rows from `first` on, so many of them, which the caller knows to be there.
    pub(crate) fn slice_rows(mut self, (first, rows): (usize, usize)) -> Self {
        debug_assert!(first + rows <= self.shape[0]);
        self.ptr = self.ptr.wrapping_offset((first as isize).wrapping_mul(self.strides[0]));
        self.shape[0] = rows;
        self
    }

    /// A slice as a batch of one row.
    #[inline]
    pub fn row(data: &'a mut [T]) -> Self {
        let shape = [1, data.len()];
        ViewMut {
            ptr: data.as_mut_ptr(),
            shape,
            strides: [shape[1] as isize, 1],
            place: Place::HOST,
            memory: PhantomData,
        }
    }

    /// Rows of one row each.
    pub(crate) fn insert_axis(self) -> ViewMut<'a, T, 3> {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        ViewMut {
            ptr: self.ptr,
            shape: [rows, 1, columns],
            strides: [row, 0, column],
            place: self.place,
            memory: PhantomData,
        }
    }

    /// The axes exchanged.
    #[inline]
    pub fn transpose(self) -> Self {
        let ([rows, columns], [row, column]) = (self.shape, self.strides);
        ViewMut { shape: [columns, rows], strides: [column, row], ..self }
    }
}

impl<'a, T> ViewMut<'a, T, 3> {
    /// Groups of one row each as rows.
    pub(crate) fn into_rows(self) -> ViewMut<'a, T, 2> {
        let ([groups, _, columns], [group, _, column]) = (self.shape, self.strides);
        ViewMut {
            ptr: self.ptr,
            shape: [groups, columns],
            strides: [group, column],
            place: self.place,
            memory: PhantomData,
        }
    }
}

impl<'a, T> ViewMut<'a, T, 1> {
    /// Rows of one element.
    pub(crate) fn insert_axis(self) -> ViewMut<'a, T, 2> {
        let ([rows], [row]) = (self.shape, self.strides);
        ViewMut { ptr: self.ptr, shape: [rows, 1], strides: [row, 0], place: self.place, memory: PhantomData }
    }
}

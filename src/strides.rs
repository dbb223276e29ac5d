//! Shapes and strides: how many elements there are, which they are, and whether they are apart.

use crate::{Error, Result};

/// The number of elements of `shape`, if it can be addressed.
pub(crate) fn elements(shape: &[usize]) -> Result<usize> {
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |product, &len| product.checked_mul(len))
        .filter(|&product| product <= isize::MAX as usize)
        .ok_or(Error::TooLarge { what: "a tensor" })
}

/// Row-major strides of `shape`, whose number of elements fits an `isize`.
#[inline]
pub(crate) fn row_major<const D: usize>(shape: [usize; D]) -> [isize; D] {
    let mut strides = [1isize; D];
    for axis in (1..D).rev() {
        strides[axis - 1] = strides[axis].wrapping_mul(shape[axis] as isize);
    }
    strides
}

/// The next index in row-major order; the last one's is the first.
#[inline]
pub(crate) fn advance<const D: usize>(index: &mut [usize; D], shape: [usize; D]) {
    for axis in (0..D).rev() {
        index[axis] += 1;
        if index[axis] < shape[axis] {
            return;
        }
        index[axis] = 0;
    }
}

/// That every element from `offset` on lies within `len` elements.
pub(crate) fn check_bounds<const D: usize>(
    len: usize,
    offset: usize,
    shape: [usize; D],
    strides: [isize; D],
) -> Result<()> {
    if shape.contains(&0) {
        return if offset <= len {
            Ok(())
        } else {
            Err(Error::OutOfBounds { len, reach: (offset as i128, offset as i128) })
        };
    }
    let (mut low, mut high) = (offset as i128, offset as i128);
    for (&len, &stride) in shape.iter().zip(&strides) {
        // Each reach is below 2¹²⁷, but not their sum.
        let reach = (len as i128 - 1) * stride as i128;
        if reach < 0 { low = low.saturating_add(reach) } else { high = high.saturating_add(reach) }
    }
    if low < 0 || high >= len as i128 { Err(Error::OutOfBounds { len, reach: (low, high) }) } else { Ok(()) }
}

/// That no two elements coincide. Sufficient, not necessary: with axes sorted by stride, each step must clear
/// all that the smaller axes span. Every slice, transpose or step of a dense tensor passes.
pub(crate) fn check_disjoint<const D: usize>(shape: [usize; D], strides: [isize; D]) -> Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut axes = [0; D];
    for (axis, slot) in axes.iter_mut().enumerate() {
        *slot = axis;
    }
    axes.sort_unstable_by_key(|&axis| strides[axis].unsigned_abs());
    let mut span = 0u128;
    for axis in axes.into_iter().filter(|&axis| shape[axis] > 1) {
        let stride = strides[axis].unsigned_abs() as u128;
        if stride <= span {
            return Err(Error::Overlap { shape: shape.to_vec(), strides: strides.to_vec() });
        }
        span = span.saturating_add(stride.saturating_mul(shape[axis] as u128 - 1));
    }
    Ok(())
}

/// The longest axis that a layer or a batch may have: no memory holds more, but a view with a zero stride might.
pub(crate) const LONGEST: usize = 1 << 40;

/// The strides, of which those that lead to no second element are kept small, so that arithmetic on them does not overflow.
pub(crate) fn tame<const D: usize>(shape: [usize; D], mut strides: [isize; D]) -> [isize; D] {
    let empty = shape.contains(&0);
    for (stride, len) in strides.iter_mut().zip(shape) {
        if empty || len == 1 {
            *stride = (*stride).clamp(-(LONGEST as isize), LONGEST as isize);
        }
    }
    strides
}

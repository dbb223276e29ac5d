//! Operands of the host for a call on a device: copied there before, and the results back after. Operands that are on the device
//! are taken as they are.

use std::any::Any;
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::CUstream;

use super::memory::Memory;
use super::operand::{Factors, Form, Layer, Operand, Output};
use super::problem::{Address, Type};
use super::recorder::Target;
use crate::gradients::Gradient;
use crate::interaction::Core;
use crate::strides::advance;
use crate::{Element, Error, Interaction, Result, View, ViewMut};

/// Memory of a device for operands of the host, used again from call to call.
#[derive(Debug, Default)]
pub(crate) struct Stagings {
    chunks: Vec<Memory>,
    used: usize,
}

/// Of an operand's first element.
const ALIGNMENT: usize = 256;
/// Of the first chunk.
const LEAST: usize = 1 << 20;

impl Stagings {
    fn take(&mut self, target: &Target, bytes: usize) -> Result<Address> {
        let bytes = bytes.checked_next_multiple_of(ALIGNMENT).ok_or(Error::TooLarge { what: "an operand" })?;
        let last = self.chunks.last().map_or(0, Memory::bytes);
        if last - self.used.min(last) < bytes || last == 0 {
            let most = bytes.max(2 * last).max(LEAST);
            self.chunks.push(Memory::on(target.gpu, most).or_else(|_| Memory::on(target.gpu, bytes))?);
            self.used = 0;
        }
        let address = self.chunks.last().map_or(0, Memory::address) + self.used as Address;
        self.used += bytes;
        Ok(address)
    }

    /// Everything may be used again. Of several chunks the largest is kept, for which a later call finds room at once.
    fn reset(&mut self) {
        self.used = 0;
        self.chunks.drain(..self.chunks.len().saturating_sub(1));
    }
}

/// Copies a result back.
type Back<'a> = Box<dyn FnOnce(&Target) -> Result<()> + 'a>;

/// What becomes of a call's operands.
enum Way {
    /// They are on the device.
    There,
    /// They are copied to memory that is held until results are copied back.
    Copied(MutexGuard<'static, Stagings>),
    /// They would be copied: for plans.
    Counted,
}

/// The operands of one call.
pub(super) struct Stage<'a> {
    target: &'a Target,
    way: Way,
    back: Vec<Back<'a>>,
    /// Copies of operands with gaps, which the driver may read until the wait in `drop`.
    held: Vec<Box<dyn Any>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let lock = || target.gpu.stagings.lock().unwrap_or_else(PoisonError::into_inner);
        let way = if target.staged { Way::Copied(lock()) } else { Way::There };
        Stage { target, way, back: Vec::new(), held: Vec::new() }
    }

    /// As [`new`](Self::new), but nothing is copied.
    pub(super) fn planned(target: &'a Target) -> Self {
        let way = if target.staged { Way::Counted } else { Way::There };
        Stage { target, way, back: Vec::new(), held: Vec::new() }
    }

    pub(super) fn input<T: Element, const D: usize>(&mut self, view: View<'_, T, D>) -> Result<Operand<D>> {
        if let Way::There = self.way {
            return Ok(view.into());
        }
        let compact = Compact::new(view.shape(), view.strides())?;
        let Way::Copied(stagings) = &mut self.way else { return Ok(Operand::somewhere::<T>(compact.strides)) };
        let to = stagings.take(self.target, compact.len * size_of::<T>())?;
        let first = view.host_ptr();
        if compact.in_place {
            // SAFETY: the view's elements are dense from the first on.
            copy_to(self.target, unsafe { std::slice::from_raw_parts(first, compact.len) }, to)?;
        } else {
            let mut values = allocate(compact.len)?;
            // SAFETY: offsets within the view.
            compact.each(|offset| values.push(unsafe { *first.offset(offset) }));
            let copied = copy_to(self.target, &values, to);
            self.held.push(Box::new(values));
            copied?;
        }
        Ok(Operand { address: to, strides: compact.strides, kind: Type::of::<T>() })
    }

    pub(super) fn some<T: Element, const D: usize>(
        &mut self,
        view: Option<View<'_, T, D>>,
    ) -> Result<Option<Operand<D>>> {
        view.map(|view| self.input(view)).transpose()
    }

    pub(super) fn output<A: Element, const D: usize>(&mut self, gradient: Gradient<'a, A, D>) -> Result<Output<D>> {
        let Way::Copied(stagings) = &mut self.way else { return Ok(gradient.into()) };
        let Gradient { mut to, add } = gradient;
        let compact = Compact::new(to.shape(), to.strides())?;
        let address = stagings.take(self.target, compact.len * size_of::<A>())?;
        if add {
            let first = to.host_mut_ptr();
            let mut values: Vec<A> = allocate(compact.len)?;
            // SAFETY: offsets within the view, which is added to and so has been written.
            compact.each(|offset| values.push(unsafe { *first.offset(offset) }));
            let copied = copy_to(self.target, &values, address);
            self.held.push(Box::new(values));
            copied?;
        }
        let strides = compact.strides;
        self.back.push(Box::new(move |target| fetch(target, address, &compact, to)));
        Ok(Output { to: Operand { address, strides, kind: Type::of::<A>() }, add })
    }

    pub(super) fn wanted<A: Element, const D: usize>(
        &mut self,
        gradient: Option<Gradient<'a, A, D>>,
    ) -> Result<Option<Output<D>>> {
        gradient.map(|gradient| self.output(gradient)).transpose()
    }

    /// Weights without elements are left out: they add nothing, whatever the lengths of their other axes.
    pub(super) fn layer<T: Element>(&mut self, layer: &Interaction<'_, T>) -> Result<Layer> {
        let layer = layer.along([true; 3]);
        let form = match layer.core {
            Core::Absent | Core::Blocks(_) => Form::Absent, // dispatch.rs leaves no blocks
            Core::Dense(w) => Form::Dense(self.input(w)?),
            Core::Cp { a, b, c, lambda } => Form::Cp(Factors {
                a: self.input(a)?,
                b: self.input(b)?,
                c: self.input(c)?,
                lambda: self.some(lambda)?,
                r: a.shape()[1],
            }),
        };
        let kinds = [Type::of::<T>(), Type::of::<T::Accumulator>()];
        let (u, v, b) = (self.some(layer.u)?, self.some(layer.v)?, self.some(layer.b)?);
        Ok(Layer { k: layer.k, i: layer.i, j: layer.j, form, u, v, b, kinds })
    }

    /// Copies the results back, if there is anything to be copied.
    pub(super) fn finish(mut self) -> Result<()> {
        self.back.drain(..).try_for_each(|back| back(self.target))
    }
}

impl Drop for Stage<'_> {
    /// The memory is given back when nothing uses it any more.
    fn drop(&mut self) {
        if let Way::Copied(stagings) = &mut self.way {
            // What went wrong, if anything, the call has reported, or the next one will.
            let _ = self.target.gpu.synchronize(self.target.stream);
            stagings.reset();
        }
    }
}

/// A tensor's elements without gaps, in the order of its memory; of an axis with stride 0 only one.
struct Compact<const D: usize> {
    /// Distances between the copies.
    strides: [i64; D],
    len: usize,
    /// Whether the tensor is so already.
    in_place: bool,
    /// Axes from the outermost to the innermost: their lengths, and the distances in the tensor.
    lengths: [usize; D],
    distances: [isize; D],
}

impl<const D: usize> Compact<D> {
    /// Errors: [`Error::TooLarge`] of windows that overlap more often than there is room.
    fn new(shape: [usize; D], strides: [isize; D]) -> Result<Self> {
        let too_large = Error::TooLarge { what: "a copy of an operand whose elements overlap" };
        let mut axes: [usize; D] = std::array::from_fn(|axis| axis);
        axes.sort_by_key(|&axis| std::cmp::Reverse((strides[axis].unsigned_abs(), D - axis)));
        let empty = shape.contains(&0);
        let length = |axis: usize| if strides[axis] == 0 { shape[axis].min(1) } else { shape[axis] };
        let (mut len, mut to, mut in_place) = (1usize, [0; D], !empty);
        for &axis in axes.iter().rev() {
            if strides[axis] != 0 && !empty {
                to[axis] = len as i64;
                in_place &= shape[axis] == 1 || strides[axis] == len as isize;
                len = len
                    .checked_mul(shape[axis])
                    .filter(|&len| len <= isize::MAX as usize / 16)
                    .ok_or(too_large.clone())?;
            }
        }
        Ok(Compact {
            strides: to,
            len: if empty { 0 } else { len },
            in_place,
            lengths: axes.map(length),
            distances: axes.map(|axis| strides[axis]),
        })
    }

    /// Offsets in the tensor of all elements, in the order of the copies.
    fn each(&self, mut with: impl FnMut(isize)) {
        let mut index = [0; D];
        for _ in 0..self.len {
            with(
                index
                    .iter()
                    .zip(self.distances)
                    .map(|(&index, distance): (&usize, isize)| index as isize * distance)
                    .sum(),
            );
            advance(&mut index, self.lengths);
        }
    }
}

fn allocate<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    Ok(values)
}

fn copy_to<T: Element>(target: &Target, from: &[T], to: Address) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    let _entered = target.gpu.enter()?;
    // SAFETY: staging memory for as many elements. The host's memory, which the driver may read later, is borrowed or held by
    // the stage, which waits before it lets go of it.
    unsafe { result::memcpy_htod_async(to, from, target.stream as CUstream) }
        .map_err(|error| target.gpu.error("copying to the device", error))
}

/// Waits for the results and takes them.
fn fetch<A: Element, const D: usize>(
    target: &Target,
    from: Address,
    compact: &Compact<D>,
    mut to: ViewMut<'_, A, D>,
) -> Result<()> {
    if compact.len == 0 {
        return Ok(());
    }
    let mut values: Vec<A> = allocate(compact.len)?;
    values.resize(compact.len, A::default());
    {
        let _entered = target.gpu.enter()?;
        // SAFETY: staging memory of as many elements, which lives on until the wait that follows.
        unsafe { result::memcpy_dtoh_async(&mut values, from, target.stream as CUstream) }
            .map_err(|error| target.gpu.error("copying to the host", error))?;
    }
    target.gpu.synchronize(target.stream)?;
    let (first, mut values) = (to.host_mut_ptr(), values.into_iter());
    compact.each(|offset| {
        if let Some(value) = values.next() {
            // SAFETY: offsets within the view.
            unsafe { *first.offset(offset) = value };
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_keep_their_order_and_lose_their_gaps() {
        let offsets = |shape, strides| {
            let compact = Compact::<3>::new(shape, strides).unwrap();
            let mut offsets = Vec::new();
            compact.each(|offset| offsets.push(offset));
            assert_eq!(offsets.len(), compact.len);
            (compact.strides, compact.in_place, offsets)
        };
        assert_eq!(offsets([1, 2, 3], [6, 3, 1]), ([6, 3, 1], true, (0..6).collect()));
        assert_eq!(offsets([1, 3, 2], [6, 1, 3]), ([6, 1, 3], true, (0..6).collect()));
        assert_eq!(offsets([2, 5, 2], [10, 0, -1]), ([2, 0, 1], false, vec![0, -1, 10, 9]));
        assert_eq!(offsets([2, 0, 2], [4, 2, 1]).2, []);
        assert_eq!(offsets([usize::MAX, 1, 2], [0, 0, 1]), ([0, 0, 1], true, vec![0, 1]));
    }
}

//! The operands and results of a row of `bench` in a device's memory.

use trilinear::{Context, Device, DeviceTensor, Element, Error, Result, Saved, View, ViewMut};

use crate::baselines::Results;
use crate::operands::{self, Data, Outputs, Source, Target};
use crate::work::{Shape, Work};

/// Elements one after the other.
pub(crate) type Flat<T> = DeviceTensor<T, 1>;

/// Distances between the elements of a row-major tensor of this shape. Errors: [`Error::Length`] unless it has `len` of them.
fn strides<const D: usize>(len: usize, shape: [usize; D]) -> Result<[isize; D]> {
    let (mut strides, mut expected) = ([1; D], 1usize);
    for axis in (0..D).rev() {
        strides[axis] = expected as isize;
        expected = expected.checked_mul(shape[axis]).ok_or(Error::TooLarge { what: "a tensor" })?;
    }
    if expected == len { Ok(strides) } else { Err(Error::Length { expected, actual: len }) }
}

impl<'a, T: Element> Source<'a, T> for &'a Flat<T> {
    fn shaped<const D: usize>(self, shape: [usize; D]) -> Result<View<'a, T, D>> {
        let strides = strides(self.shape()[0], shape)?;
        // SAFETY: as many elements as the tensor has, borrowed for as long; freeing it waits for the device.
        unsafe { View::from_device(self.address(), self.device(), shape, strides) }
    }
}

impl<'a, T: Element> Target<'a, T> for &'a mut Flat<T> {
    fn shaped<const D: usize>(self, shape: [usize; D]) -> Result<ViewMut<'a, T, D>> {
        let strides = strides(self.shape()[0], shape)?;
        // SAFETY: as above, and mutably.
        unsafe { ViewMut::from_device(self.address(), self.device(), shape, strides) }
    }
}

/// Those of one call.
pub(crate) struct Tensors<T: Element> {
    pub(crate) work: Work,
    pub(crate) shape: Shape,
    pub(crate) z: Flat<T>,
    /// Empty if tied.
    x: Flat<T>,
    pub(crate) g: Flat<T>,
    /// W, or A, B and C.
    pub(crate) weights: [Flat<T>; 3],
    pub(crate) y: Flat<T>,
    /// dz, dx, dW, dA, dB, dC; those that are not wanted are empty.
    pub(crate) gradients: [Flat<T::Accumulator>; 6],
}

impl<T: Element> Tensors<T> {
    /// Copies of the first set, and results of any values.
    pub(crate) fn new(device: Device, data: &Data<T>) -> Result<Self> {
        let operands = data.operands(0);
        let copy = |values: &[T]| Flat::from_view(device, View::vector(values));
        let zeros = |len| Flat::zeros(device, [len]);
        let [w0, w1, w2] = operands::parts(operands.weights);
        let x = if data.work.tied { &[] } else { operands.x };
        let [z_, x_, w_, a_, b_, c_] = data.lengths.gradients.map(zeros);
        Ok(Tensors {
            work: data.work,
            shape: data.shape,
            z: copy(operands.z)?,
            x: copy(x)?,
            g: copy(operands.g)?,
            weights: [copy(w0)?, copy(w1)?, copy(w2)?],
            y: Flat::zeros(device, [data.lengths.y])?,
            gradients: [z_?, x_?, w_?, a_?, b_?, c_?],
        })
    }

    /// x, which may be z.
    pub(crate) fn x(&self) -> &Flat<T> {
        if self.work.tied { &self.z } else { &self.x }
    }

    /// Enqueues ours.
    pub(crate) fn call(&mut self, context: Context, saved: &mut Saved<T>) -> Result<()> {
        let Tensors { work, shape, z, x, g, weights: [w0, w1, w2], y, gradients } = self;
        let layer = operands::layer([&*w0, &*w1, &*w2], *shape, context)?;
        let x = if work.tied { &*z } else { &*x };
        operands::call(&layer, *work, *shape, [&*z, x, &*g], (y, gradients.each_mut()), saved)
    }

    /// What a forward pass keeps for a backward pass that is called alone.
    pub(crate) fn save(&self, context: Context) -> Result<Saved<T>> {
        let Shape { n, i, j, k, .. } = self.shape;
        let mut saved = Saved::default();
        if self.work.saved {
            let layer = operands::layer(self.weights.each_ref(), self.shape, context)?;
            let mut y = Flat::<T>::zeros(self.z.device(), [n * k])?;
            let (z, x) = ((&self.z).shaped([n, i])?, self.x().shaped([n, j])?);
            layer.forward_saving_into(z, x, (&mut y).shaped([n, k])?, &mut saved)?;
        }
        Ok(saved)
    }

    /// The host's values as the results.
    pub(crate) fn set_results(&mut self, from: &Results<'_, T>) -> Result<()> {
        let Results { y, z, x, w, a, b, c } = from;
        self.y.copy_from(View::vector(y))?;
        for (to, from) in self.gradients.iter_mut().zip([z, x, w, a, b, c]) {
            to.copy_from(View::vector(from))?;
        }
        Ok(())
    }

    /// The results, on the host. Waits.
    pub(crate) fn results<'a>(&self, to: &'a mut Outputs<T>) -> Result<Results<'a, T>> {
        let results = to.set(0);
        results.y.copy_from_slice(self.y.to_tensor()?.as_slice());
        let Results { y, z, x, w, a, b, c } = results;
        let mut parts = [z, x, w, a, b, c];
        for (to, from) in parts.iter_mut().zip(&self.gradients) {
            to.copy_from_slice(from.to_tensor()?.as_slice());
        }
        let [z, x, w, a, b, c] = parts;
        Ok(Results { y, z, x, w, a, b, c })
    }
}

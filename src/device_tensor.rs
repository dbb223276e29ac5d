//! Owned tensors in a CUDA device's memory.

use crate::cuda::Memory;
use crate::strides::{elements, row_major};
use crate::{Device, Element, Error, Result, Tensor, View, ViewMut};

/// An owned row-major tensor of rank `D` in the memory of a CUDA device. Its views are operands like any others, of calls whose
/// context is on that device: nothing is copied then, and the `_into` forms return before the device has computed.
///
/// Copies to and from the host wait for the work on the device's default stream. On a stream of the caller's,
/// [`crate::Context::synchronize`] waits.
///
/// # Example
///
/// ```no_run
/// use trilinear::{Context, Device, DeviceTensor, Interaction, Tensor, View};
///
/// let device = Device::Cuda(0);
/// let host = vec![0.5f32; 256 * 64 * 64];
/// let w = DeviceTensor::from_view(device, View::new(&host, [256, 64, 64])?)?;
/// let z = DeviceTensor::<f32, 2>::zeros(device, [1024, 64])?;
/// let x = DeviceTensor::<f32, 2>::zeros(device, [1024, 64])?;
/// let mut y = DeviceTensor::<f32, 2>::zeros(device, [1024, 256])?;
///
/// let layer = Interaction::dense(w.view())?.with_context(Context::new(device)?);
/// layer.forward_into(z.view(), x.view(), y.view_mut())?; // enqueued; no copy, no wait
/// let y: Tensor<f32, 2> = y.to_tensor()?;
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Debug)]
pub struct DeviceTensor<T, const D: usize> {
    memory: Memory,
    device: Device,
    shape: [usize; D],
    elements: std::marker::PhantomData<T>,
}

impl<T: Element, const D: usize> DeviceTensor<T, D> {
    /// Memory for the shape, of any contents.
    fn new(device: Device, shape: [usize; D]) -> Result<Self> {
        let bytes = elements(&shape)?.checked_mul(size_of::<T>()).ok_or(Error::TooLarge { what: "a tensor" })?;
        Ok(DeviceTensor { memory: Memory::new(device, bytes)?, device, shape, elements: std::marker::PhantomData })
    }

    /// Zeros. Errors: [`Error::Device`], [`Error::DeviceMemory`]; [`Error::Unsupported`] for [`Device::Cpu`], whose tensors are
    /// [`Tensor`]s.
    pub fn zeros(device: Device, shape: [usize; D]) -> Result<Self> {
        let tensor = Self::new(device, shape)?;
        tensor.memory.clear()?;
        Ok(tensor)
    }

    /// A copy of the host's `view`. Errors: as [`zeros`](Self::zeros), and [`Error::Place`] unless it is the host's.
    pub fn from_view(device: Device, view: View<'_, T, D>) -> Result<Self> {
        let mut tensor = Self::new(device, view.shape())?;
        tensor.copy_from(view)?;
        Ok(tensor)
    }

    /// Takes over the values of the host's `view`. Errors: [`Error::Shape`], [`Error::Place`], [`Error::Driver`].
    pub fn copy_from(&mut self, view: View<'_, T, D>) -> Result<()> {
        crate::place::host([Some(("view", view.place()))])?;
        self.check("view", view.shape())?;
        match view.as_slice() {
            Some(slice) => self.memory.write(slice),
            None => self.memory.write(Tensor::from_view(view)?.as_slice()),
        }
    }

    /// A copy on the host. Errors: [`Error::OutOfMemory`], [`Error::Driver`], [`Error::Fault`].
    pub fn to_tensor(&self) -> Result<Tensor<T, D>> {
        let mut tensor = Tensor::zeros(self.shape)?;
        self.memory.read(tensor.as_mut_slice())?;
        Ok(tensor)
    }

    /// Copies the values into the host's `to`. Errors: [`Error::Shape`], [`Error::Place`], and as [`to_tensor`](Self::to_tensor).
    pub fn copy_to(&self, mut to: ViewMut<'_, T, D>) -> Result<()> {
        crate::place::host([Some(("to", to.place()))])?;
        self.check("to", to.shape())?;
        let values = self.to_tensor()?;
        let (strides, first) = (to.strides(), to.host_mut_ptr());
        let mut index = [0; D];
        for &value in values.as_slice() {
            let offset =
                index.iter().zip(strides).map(|(&index, stride): (&usize, isize)| index as isize * stride).sum();
            // SAFETY: the index is within the shape, which `to` has too.
            unsafe { *first.offset(offset) = value };
            crate::strides::advance(&mut index, self.shape);
        }
        Ok(())
    }

    fn check(&self, operand: &'static str, shape: [usize; D]) -> Result<()> {
        let pairs = self.shape.into_iter().zip(shape);
        pairs
            .into_iter()
            .try_for_each(|(expected, len)| crate::error::check(operand, "elements of an axis", expected, len))
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// Where the memory is.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Address of the first element, a `CUdeviceptr`.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// The elements, borrowed as a tensor.
    pub fn view(&self) -> View<'_, T, D> {
        // SAFETY: memory for exactly the shape's elements, written before anyone had the tensor. Freeing it waits for the
        // device.
        let view = unsafe { View::from_device(self.memory.address(), self.device, self.shape, row_major(self.shape)) };
        view.unwrap_or_else(|_| unreachable!("a device that has memory has a place"))
    }

    /// The elements, borrowed mutably as a tensor.
    pub fn view_mut(&mut self) -> ViewMut<'_, T, D> {
        // SAFETY: as in `view`.
        let view =
            unsafe { ViewMut::from_device(self.memory.address(), self.device, self.shape, row_major(self.shape)) };
        view.unwrap_or_else(|_| unreachable!("a device that has memory has a place, and rows do not overlap"))
    }
}

//! Memory of a device: allocated, copied, freed.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::driver::{Gpu, is_sticky};
use crate::{Device, Element, Error, Result, Tensor, View};

/// An allocation, freed when dropped (the driver waits for the device's work before that).
#[derive(Debug)]
pub(crate) struct Memory {
    gpu: &'static Gpu,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// `bytes` bytes of any contents. Errors: [`Error::Device`], [`Error::DeviceMemory`].
    pub(crate) fn new(device: Device, bytes: usize) -> Result<Memory> {
        match device {
            Device::Cuda(ordinal) => Memory::on(Gpu::get(ordinal)?, bytes),
            Device::Cpu => {
                Err(Error::Unsupported { what: "device tensors of the processor, whose tensors are `Tensor`s," })
            }
        }
    }

    pub(super) fn on(gpu: &'static Gpu, bytes: usize) -> Result<Memory> {
        if bytes == 0 {
            return Ok(Memory { gpu, address: 0, bytes });
        }
        let _entered = gpu.enter()?;
        // SAFETY: plain memory, freed once, in `drop`.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
            code if is_sticky(code) => gpu.error("allocating", error),
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::DeviceMemory { device: gpu.device(), bytes },
            _ => gpu.error("allocating", error),
        })?;
        Ok(Memory { gpu, address, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Zeros in all bytes, after the work on the default stream.
    pub(crate) fn clear(&self) -> Result<()> {
        self.on_default(|stream| {
            // SAFETY: within the allocation.
            unsafe { result::memset_d8_async(self.address, 0, self.bytes, stream) }
        })
    }

    /// The elements of `from`, of which there are as many as fit, after the work on the default stream.
    pub(crate) fn write<T: Copy>(&self, from: &[T]) -> Result<()> {
        assert_eq!(size_of_val(from), self.bytes);
        self.on_default(|stream| {
            // SAFETY: as long as the allocation.
            unsafe { result::memcpy_htod_async(self.address, from, stream) }
        })
    }

    /// All elements, after the work on the default stream.
    pub(crate) fn read<T: Copy>(&self, to: &mut [T]) -> Result<()> {
        assert_eq!(size_of_val(to), self.bytes);
        self.on_default(|stream| {
            // SAFETY: as long as the allocation; callers read types of which any bytes are a value.
            unsafe { result::memcpy_dtoh_async(to, self.address, stream) }
        })
    }

    /// Does it on the default stream and waits.
    fn on_default(&self, work: impl FnOnce(sys::CUstream) -> std::result::Result<(), DriverError>) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let _entered = self.gpu.enter()?;
        work(std::ptr::null_mut()).map_err(|error| self.gpu.error("copying", error))?;
        self.gpu.synchronize(0)
    }
}

/// A row-major copy on the host of a view of a device's memory, after the work on the default stream.
pub(crate) fn download<T: Element, const D: usize>(view: View<'_, T, D>) -> Result<Tensor<T, D>> {
    let mut tensor = Tensor::zeros(view.shape())?;
    let (Device::Cuda(ordinal), false) = (view.device(), view.is_empty()) else { return Ok(tensor) };
    let gpu = Gpu::get(ordinal)?;
    // All that lies between the view's first and last element, which is of one allocation.
    let reach = |axis: usize| (view.shape()[axis] as isize - 1).saturating_mul(view.strides()[axis]);
    let lowest: isize = (0..D).map(|axis| reach(axis).min(0)).sum();
    let highest: isize = (0..D).map(|axis| reach(axis).max(0)).sum();
    let len = highest.wrapping_sub(lowest) as usize + 1;
    let mut span = Vec::new();
    span.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    span.resize(len, T::default());
    {
        let _entered = gpu.enter()?;
        let from = view.as_ptr().wrapping_offset(lowest).addr() as u64;
        // SAFETY: see above; the wait follows.
        unsafe { result::memcpy_dtoh_async(&mut span, from, std::ptr::null_mut()) }
            .map_err(|error| gpu.error("copying to the host", error))?;
    }
    gpu.synchronize(0)?;
    let copy = View::strided(&span, lowest.unsigned_abs(), view.shape(), view.strides())?;
    tensor = Tensor::from_view(copy)?;
    Ok(tensor)
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0
            && let Ok(_entered) = self.gpu.enter()
        {
            // SAFETY: allocated in `new`, and nobody has it any more. Of a context that has failed nothing can be freed.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

impl PartialEq for Memory {
    /// The very same.
    fn eq(&self, other: &Memory) -> bool {
        std::ptr::eq(self.gpu, other.gpu) && self.address == other.address && self.bytes == other.bytes
    }
}

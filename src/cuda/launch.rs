//! Starting kernels: the one place where a device is told to run something.

use std::ffi::c_void;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::choose::Kernel;
use super::driver::{Gpu, is_sticky, reason};
use super::module;
use super::problem::{Contracts, Gate, GateBack, Grams, Hidden};
use crate::{Error, Result};

/// The one parameter of a kernel, by value.
pub(super) trait Parameter: Copy {}

impl Parameter for Contracts {}
impl Parameter for Grams {}
impl Parameter for Hidden {}
impl Parameter for Gate {}
impl Parameter for GateBack {}

/// Enqueues `blocks` blocks of a kernel. Errors: [`Error::Kernel`], [`Error::Launch`], [`Error::Fault`].
///
/// # Safety
///
/// `parameter` is what the kernel takes; every address in it is of the device's memory, as long as its lengths and strides say
/// and until the kernel has run; the stream exists.
pub(super) unsafe fn launch<P: Parameter>(
    gpu: &Gpu,
    stream: usize,
    kernel: &Kernel,
    blocks: u32,
    shared: u32,
    parameter: &P,
) -> Result<()> {
    let _entered = gpu.enter()?;
    let function = module::function(gpu, kernel)?;
    let mut parameters = [std::ptr::from_ref(parameter).cast_mut().cast::<c_void>()];
    let (grid, block, stream) = ((blocks, 1, 1), (kernel.threads, 1, 1), stream as sys::CUstream);
    // SAFETY: the function is loaded for good; the driver copies the parameter before it returns; the rest is the caller's.
    unsafe { result::launch_kernel(function, grid, block, shared, stream, &mut parameters) }.map_err(
        |error| match error.0 {
            code if is_sticky(code) => gpu.error("starting a kernel", error),
            _ => Error::Launch { device: gpu.device(), kernel: kernel.name, reason: reason(error) },
        },
    )
}

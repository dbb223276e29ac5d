//! Starting kernels: the one place where a device is told to run something, or to set an element to a number.

use std::ffi::c_void;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::choose::Kernel;
use super::driver::{Gpu, is_sticky, reason};
use super::module;
use super::problem::{Address, Contracts, Copies, Gate, GateBack, Grams, Hidden, Type};
use super::recorder::Target;
use crate::{Error, Result};

/// The one parameter of a kernel, by value.
pub(super) trait Parameter: Copy {}

impl Parameter for Contracts {}
impl Parameter for Grams {}
impl Parameter for Hidden {}
impl Parameter for Copies {}
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

/// Enqueues the setting of one element of scratch, rounded to its type.
pub(super) fn set(target: &Target, to: Address, value: f64, kind: Type) -> Result<()> {
    let _entered = target.gpu.enter()?;
    let stream = target.stream as sys::CUstream;
    // SAFETY: scratch for an element, aligned for any; the stream exists.
    let of_16_bits = |bits: u16| unsafe { sys::cuMemsetD16Async(to, bits, 1, stream) }.result();
    // SAFETY: as above, or the second half of an element of 64 bits.
    let of_32_bits = |bits: u32, offset: u64| unsafe { sys::cuMemsetD32Async(to + offset, bits, 1, stream) }.result();
    let bits = value.to_bits();
    match kind {
        Type::F16 => of_16_bits(half::f16::from_f64(value).to_bits()),
        Type::Bf16 => of_16_bits(half::bf16::from_f64(value).to_bits()),
        Type::F32 => of_32_bits((value as f32).to_bits(), 0),
        Type::F64 => of_32_bits(bits as u32, 0).and_then(|()| of_32_bits((bits >> 32) as u32, 4)),
    }
    .map_err(|error| target.gpu.error("setting memory", error))
}

/// Enqueues the copying of numbers to scratch, and waits for it: the host's memory is the caller's again.
pub(super) fn upload(target: &Target, from: &[u64], to: Address) -> Result<()> {
    {
        let _entered = target.gpu.enter()?;
        // SAFETY: scratch for as many; the wait follows.
        unsafe { result::memcpy_htod_async(to, from, target.stream as sys::CUstream) }
            .map_err(|error| target.gpu.error("copying to the device", error))?;
    }
    target.gpu.synchronize(target.stream)
}

//! A device as `bench` sees it, through the driver: attributes, events, bandwidth.

use anyhow::{Context as _, Result};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use trilinear::{DType, Device};

use super::peak::{Arithmetic, Chip};
use crate::host;
use crate::report::arithmetic;

/// The bandwidth is that of copies of at least so many bytes, and of four times L2, if there is the memory.
const COPIED: usize = 256 << 20;

/// A device, whose primary context is this thread's for as long as this lives.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    name: String,
    chip: Chip,
    /// Bytes of L2.
    l2: usize,
    /// Of the driver, as it counts.
    version: i32,
    /// Written between repeats, so that L2 holds nothing of the call before: at least twice its size.
    flushed: Buffer,
    events: [sys::CUevent; 2],
    /// Bytes per second, read and written together, of the driver's copies.
    pub(crate) bandwidth: f64,
}

/// Memory of the context that is current.
struct Buffer {
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Result<Buffer> {
        // SAFETY: plain memory, freed once, in `drop`.
        let address = unsafe { result::malloc_sync(bytes) };
        Ok(Buffer {
            address: address.with_context(|| format!("{} of device memory", host::bytes(bytes as f64)))?,
            bytes,
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; freeing waits for the device. Nothing can be done about a failure.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

impl Gpu {
    /// Errors: as [`Device::check`], and the driver's.
    pub(crate) fn open(ordinal: usize) -> Result<Gpu> {
        let device = Device::Cuda(ordinal);
        device.check()?;
        let number = result::device::get(i32::try_from(ordinal)?)?;
        // SAFETY: the driver has been started, and the device is one of its.
        let attribute = |which| unsafe { result::device::get_attribute(number, which) };
        let positive = |which| attribute(which).map(|value| u32::try_from(value).unwrap_or(0));
        // SAFETY: as above. The context is retained for the rest of the process.
        unsafe { result::ctx::set_current(result::primary_ctx::retain(number)?)? };
        let description = device.describe()?;
        let name = description.split(", compute capability").next().unwrap_or_default().to_owned();
        let major = positive(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let chip = Chip {
            capability: (major, positive(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?),
            multiprocessors: positive(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            clock: 1e3 * f64::from(positive(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?),
            geforce: name.contains("GeForce"),
        };
        let l2 = positive(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize;
        let mut version = 0;
        // SAFETY: a place for the version.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mut gpu = Gpu {
            device,
            name,
            chip,
            l2,
            version,
            flushed: Buffer::new((2 * l2).max(1 << 20))?,
            events: [event()?, event()?],
            bandwidth: f64::NAN,
        };
        gpu.bandwidth = gpu.measure_bandwidth()?;
        Ok(gpu)
    }

    /// Seconds between events before and after what `work` enqueues on the default stream, which finds nothing in L2.
    /// The device writes the flushed buffer while the host enqueues, so that it does not wait for the host.
    pub(crate) fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (stream, [start, end]) = (std::ptr::null_mut(), self.events);
        // SAFETY: the buffer's own bytes; events of this context, whose stream is the default one.
        unsafe {
            result::memset_d8_async(self.flushed.address, 0, self.flushed.bytes, stream)?;
            result::event::record(start, stream)?;
        }
        work()?;
        // SAFETY: as above; both events have been recorded.
        unsafe {
            result::event::record(end, stream)?;
            sys::cuEventSynchronize(end).result()?;
            Ok(f64::from(result::event::elapsed(start, end)?) / 1e3)
        }
    }

    fn measure_bandwidth(&self) -> Result<f64> {
        let bytes = COPIED.max(4 * self.l2).min(self.free_memory()? / 4);
        let (from, to) = (Buffer::new(bytes)?, Buffer::new(bytes)?);
        let mut best = f64::INFINITY;
        // SAFETY: two allocations of so many bytes.
        let copy = || unsafe { Ok(result::memcpy_dtod_async(to.address, from.address, bytes, std::ptr::null_mut())?) };
        // SAFETY: as above.
        unsafe { result::memset_d8_async(from.address, 0, bytes, std::ptr::null_mut())? };
        copy()?;
        for _ in 0..5 {
            best = best.min(self.time(copy)?);
        }
        Ok(2.0 * bytes as f64 / best)
    }

    /// Bytes that can be allocated.
    pub(crate) fn free_memory(&self) -> Result<usize> {
        Ok(result::mem_get_info()?.0)
    }

    /// FLOP/s at most of products of this type.
    pub(crate) fn peak(&self, dtype: DType, tf32: bool) -> Option<f64> {
        self.chip.peak(match dtype {
            DType::F64 => Arithmetic::F64,
            DType::F32 if tf32 => Arithmetic::Tf32,
            DType::F32 => Arithmetic::F32,
            _ => Arithmetic::Half,
        })
    }

    /// For people.
    pub(crate) fn describe(&self, dtypes: &[DType], tf32: bool) -> String {
        let Chip { capability: (major, minor), multiprocessors, clock, .. } = self.chip;
        let (gigahertz, l2) = (clock / 1e9, host::bytes(self.l2 as f64));
        let (cuda, update) = (self.version / 1000, self.version % 1000 / 10);
        let peaks: String = dtypes
            .iter()
            .map(|&dtype| match self.peak(dtype, tf32) {
                Some(peak) => format!("{:.1} TFLOP/s in {}, ", peak / 1e12, arithmetic(dtype, tf32)),
                None => format!("an unknown peak in {}, ", arithmetic(dtype, tf32)),
            })
            .collect();
        format!(
            "{}: {}, compute capability {major}.{minor}, {multiprocessors} multiprocessors at {gigahertz:.2} GHz, L2 {l2}, \
             driver of CUDA {cuda}.{update}\nby its attributes {peaks}copies (read + write) at {:.1} GB/s",
            self.device,
            self.name,
            self.bandwidth / 1e9
        )
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        for event in self.events {
            // SAFETY: created in `open`, and used by nobody else. Nothing can be done about a failure.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

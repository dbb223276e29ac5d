//! The NVIDIA driver and its devices: found, asked, and their errors told apart.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::module::Modules;
use super::recorder::Workspaces;
use super::stage::Stagings;
use crate::{Device, Error, Result, Unavailable};

/// The CUDA version that brought what the kernels' PTX needs, as the driver counts.
const CUDA: i32 = 11_000;
/// The lowest compute capability that there are kernels for.
const LOWEST: (u32, u32) = (7, 5);

/// A device that can be used, for the rest of the process.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(super) ordinal: usize,
    context: sys::CUcontext,
    pub(super) capability: (u32, u32),
    /// Streaming multiprocessors.
    pub(super) processors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub(super) shared: u32,
    name: String,
    memory: usize,
    pub(super) modules: Modules,
    pub(super) workspaces: Mutex<Workspaces>,
    pub(super) stagings: Mutex<Stagings>,
}

// SAFETY: the driver's primary context may be used by any thread; everything else is.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// Whether the driver can be called at all. cudarc panics on the first call of a driver that is absent.
fn start() -> std::result::Result<(), Unavailable> {
    /// Once it has started it is there for good; an absent one may come.
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if *started {
        return Ok(());
    }
    // SAFETY: only tries to load the library by its names.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the driver is there; this function may be called before any other.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(failed)?;
    if version < CUDA {
        return Err(Unavailable::DriverTooOld { version, needed: CUDA });
    }
    result::init().map_err(failed)?;
    *started = true;
    Ok(())
}

fn failed(error: DriverError) -> Unavailable {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => Unavailable::NoDevice,
        _ => Unavailable::DriverFailed { reason: reason(error) },
    }
}

fn count() -> std::result::Result<usize, Unavailable> {
    start()?;
    let devices = result::device::get_count().map_err(failed)?;
    usize::try_from(devices).ok().filter(|&devices| devices > 0).ok_or(Unavailable::NoDevice)
}

/// How many devices there are.
pub(crate) fn devices() -> Result<usize> {
    count().map_err(|reason| Error::Device { device: Device::Cuda(0), reason })
}

pub(crate) fn check(ordinal: usize) -> Result<()> {
    Gpu::get(ordinal).map(drop)
}

pub(crate) fn describe(ordinal: usize) -> Result<String> {
    let gpu = Gpu::get(ordinal)?;
    let (major, minor) = gpu.capability;
    let gibibytes = gpu.memory as f64 / f64::from(1 << 30);
    let what = format!("{}, compute capability {major}.{minor}, {} multiprocessors", gpu.name, gpu.processors);
    Ok(format!("{what}, {gibibytes:.1} GiB"))
}

impl Gpu {
    pub(crate) fn get(ordinal: usize) -> Result<&'static Gpu> {
        static GPUS: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal == ordinal) {
            return Ok(gpu);
        }
        let gpu = Gpu::open(ordinal).map_err(|reason| Error::Device { device: Device::Cuda(ordinal), reason })?;
        let gpu: &'static Gpu = Box::leak(Box::new(gpu));
        gpus.push(gpu);
        Ok(gpu)
    }

    fn open(ordinal: usize) -> std::result::Result<Gpu, Unavailable> {
        let devices = count()?;
        let of = i32::try_from(ordinal).ok().filter(|_| ordinal < devices).ok_or(Unavailable::Ordinal { devices })?;
        let device = result::device::get(of).map_err(failed)?;
        let attribute = |which| {
            // SAFETY: a device that the driver gave.
            let value = unsafe { result::device::get_attribute(device, which) }.map_err(failed)?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let capability = (major, attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?);
        if capability < LOWEST {
            return Err(Unavailable::TooOld { capability, needed: LOWEST });
        }
        Ok(Gpu {
            ordinal,
            // SAFETY: as above. It is never released: what is loaded into it lives as long as the process.
            context: unsafe { result::primary_ctx::retain(device) }.map_err(failed)?,
            capability,
            processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            name: name(device).map_err(failed)?,
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device) }.map_err(failed)?,
            modules: Modules::default(),
            workspaces: Mutex::default(),
            stagings: Mutex::default(),
        })
    }

    pub(super) fn device(&self) -> Device {
        Device::Cuda(self.ordinal)
    }

    /// Makes the device's context this thread's until the result is dropped, which restores what was there.
    pub(super) fn enter(&self) -> Result<Entered> {
        let current = result::ctx::get_current().map_err(|error| self.error("asking for the context", error))?;
        let before = current.unwrap_or(std::ptr::null_mut());
        if before == self.context {
            return Ok(Entered(None));
        }
        // SAFETY: the context is retained for the rest of the process.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| self.error("entering the context", error))?;
        Ok(Entered(Some(before)))
    }

    /// What a failed call of the driver means. It may report what earlier work on the device did wrong.
    pub(super) fn error(&self, what: &'static str, error: DriverError) -> Error {
        let (device, reason) = (self.device(), reason(error));
        if is_sticky(error.0) { Error::Fault { device, reason } } else { Error::Driver { device, what, reason } }
    }

    pub(super) fn synchronize(&self, stream: usize) -> Result<()> {
        let _entered = self.enter()?;
        // SAFETY: the default stream, or one that the caller of `Context::with_stream` keeps alive.
        unsafe { result::stream::synchronize(stream as sys::CUstream) }.map_err(|error| self.error("waiting", error))
    }
}

/// The context that was this thread's before, if it was another.
#[must_use]
pub(super) struct Entered(Option<sys::CUcontext>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // SAFETY: it was current on this thread, or is null. Nothing can be done about a failure.
            let _ = unsafe { result::ctx::set_current(before) };
        }
    }
}

/// Errors after which the driver answers every call in the context with the same.
pub(super) fn is_sticky(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
    )
}

/// The error's name and text.
pub(super) fn reason(error: DriverError) -> String {
    let text = |part: std::result::Result<&CStr, DriverError>| part.map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Ok(name), Ok(text)) => format!("{name}: {text}"),
        _ => format!("error {}", error.0 as u32),
    }
}

fn name(device: sys::CUdevice) -> std::result::Result<String, DriverError> {
    let mut bytes = [MaybeUninit::<u8>::zeroed(); 256];
    // SAFETY: as many bytes as are said; the driver ends them with a zero, and there is one after the last that it may write.
    unsafe {
        sys::cuDeviceGetName(bytes.as_mut_ptr().cast(), bytes.len() as i32 - 1, device).result()?;
        Ok(CStr::from_ptr(bytes.as_ptr().cast()).to_string_lossy().into_owned())
    }
}

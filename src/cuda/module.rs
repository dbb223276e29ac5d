//! The kernels' modules, loaded when first needed, once for each device.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute};

use super::choose::Kernel;
use super::driver::{Gpu, is_sticky, reason};
use super::kernels::PTX;
use crate::{Error, Result};

/// Modules and kernels of a device.
#[derive(Debug, Default)]
pub(crate) struct Modules(Mutex<Loaded>);

#[derive(Debug, Default)]
struct Loaded {
    modules: Vec<(&'static str, sys::CUmodule)>,
    functions: Vec<(&'static str, sys::CUfunction)>,
}

// SAFETY: handles of the driver, which any thread may use.
unsafe impl Send for Loaded {}

/// The text for a device: that of the highest compute capability which it has.
fn ptx(module: &str, capability: (u32, u32)) -> Option<&'static str> {
    let fits = PTX.iter().filter(|(name, floor, _)| *name == module && *floor <= capability);
    fits.max_by_key(|(_, floor, _)| *floor).map(|&(.., text)| text)
}

/// The kernel, loaded now if it has not been, with leave to use as much shared memory as it may ask for. The caller has entered
/// the context. Errors: [`Error::Kernel`].
pub(super) fn function(gpu: &Gpu, kernel: &Kernel) -> Result<sys::CUfunction> {
    let Modules(loaded) = &gpu.modules;
    let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&(_, function)) = loaded.functions.iter().find(|(name, _)| *name == kernel.name) {
        return Ok(function);
    }
    let fail = |reason: String| Error::Kernel { device: gpu.device(), kernel: kernel.name, reason };
    let refused = |error: result::DriverError| match error.0 {
        code if is_sticky(code) => gpu.error("loading kernels", error),
        _ => fail(reason(error)),
    };
    let module = match loaded.modules.iter().find(|(name, _)| *name == kernel.module) {
        Some(&(_, module)) => module,
        None => {
            let (major, minor) = gpu.capability;
            let text = ptx(kernel.module, gpu.capability)
                .ok_or_else(|| fail(format!("there is no such kernel for compute capability {major}.{minor}")))?;
            let text = CString::new(text).map_err(|_| fail("its PTX has a zero byte".into()))?;
            // SAFETY: a text that ends with a zero.
            let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(refused)?;
            loaded.modules.push((kernel.module, module));
            module
        }
    };
    let name = CString::new(kernel.name).map_err(|_| fail("its name has a zero byte".into()))?;
    // SAFETY: a module that is never unloaded.
    let function = unsafe { result::module::get_function(module, name) }.map_err(refused)?;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let most = kernel.most_shared(gpu.shared) as i32;
    // SAFETY: as above.
    unsafe { result::function::set_function_attribute(function, attribute, most) }.map_err(refused)?;
    loaded.functions.push((kernel.name, function));
    Ok(function)
}

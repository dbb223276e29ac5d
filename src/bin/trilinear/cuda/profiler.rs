//! Counts of the simulated device's launches: `simulatedCudaProfile` of tools/simulated-cuda/README.md.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys;
use serde_json::Value;
use trilinear::Device;

/// Given each launch's JSON object, as so many bytes of text.
type Receive = extern "C" fn(user: *mut c_void, json: *const c_char, length: usize);
type Profile = unsafe extern "C" fn(receive: Option<Receive>, user: *mut c_void) -> sys::CUresult;

/// Whether a device is the simulated one, which gives counts and no times. One that was given another name is taken for a GPU.
pub(crate) fn is_simulated(device: Device) -> bool {
    device.describe().is_ok_and(|text| text.starts_with("Simulated"))
}

/// The simulated driver's profiler.
pub(crate) struct Profiler(Profile);

extern "C" fn receive(user: *mut c_void, json: *const c_char, length: usize) {
    // SAFETY: `user` is the list of `launches`, which waits for the launches; the text is that of the call.
    let (list, json) =
        unsafe { (&*user.cast::<Mutex<Vec<Vec<u8>>>>(), std::slice::from_raw_parts(json.cast::<u8>(), length)) };
    list.lock().unwrap_or_else(PoisonError::into_inner).push(json.to_vec());
}

impl Profiler {
    /// Of the driver that has started, whose device is the simulated one. Errors: one that has no profiler.
    pub(crate) fn open() -> Result<Profiler> {
        let mut address = std::ptr::null_mut();
        let (name, version) = (c"simulatedCudaProfile".as_ptr(), 12_000);
        // SAFETY: a name, and a place for the address. The simulated driver has this function whatever version it plays.
        let found = unsafe { sys::cuGetProcAddress_v2(name, &raw mut address, version, 0, std::ptr::null_mut()) };
        if found.result().is_err() || address.is_null() {
            bail!("the driver of this simulated device has no profiler: it is older than this program");
        }
        // SAFETY: the function of this name has this type.
        Ok(Profiler(unsafe { std::mem::transmute::<*mut c_void, Profile>(address) }))
    }

    /// The launches of `work`, which waits for them, in their order.
    pub(crate) fn launches(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
        let list: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        // SAFETY: the list outlives the launches of `work`, and after it nothing is received.
        unsafe { (self.0)(Some(receive), (&raw const list).cast_mut().cast()) }.result()?;
        let done = work();
        // SAFETY: no function.
        unsafe { (self.0)(None, std::ptr::null_mut()) }.result()?;
        done?;
        let list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|json| serde_json::from_slice(json).context("the simulated device's counts")).collect()
    }
}

//! Pinned host memory: `cuMemHostAlloc`, `cuMemHostRegister`, …. Copies reach it by address; kernels do not.

use super::abi::{CUdeviceptr, Handle, Out, guard};
use super::capture;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_uint;

const PAGE: usize = 4096;

pub(super) struct HostMemory {
    pub(super) bytes: usize,
    pub(super) context: Handle,
    flags: c_uint,
    /// How the driver allocated it; none: the caller's, registered.
    layout: Option<Layout>,
}

impl State {
    pub(super) fn host_at(&self, address: usize) -> Option<(usize, &HostMemory)> {
        let (&base, memory) = self.host.range(..=address).next_back()?;
        (address < base + memory.bytes).then_some((base, memory))
    }

    /// Whether `bytes` at an address are within one piece of pinned memory.
    pub(super) fn host_range(&self, address: usize, bytes: usize) -> Result {
        let (base, memory) = self.host_at(address).ok_or(result::ERROR_INVALID_VALUE)?;
        if bytes <= base + memory.bytes - address { Ok(()) } else { Err(result::ERROR_INVALID_VALUE) }
    }
}

/// PORTABLE, DEVICEMAP, WRITECOMBINED: they change nothing here.
const ALLOC_FLAGS: c_uint = 7;

fn allocate(address: Out<usize>, bytes: usize, flags: c_uint) -> Result {
    let mut state = state::get()?;
    address.check()?;
    let context = state.current()?;
    if bytes == 0 || flags & !ALLOC_FLAGS != 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    capture::forbid_in_thread(&mut state)?;
    let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| result::ERROR_OUT_OF_MEMORY)?;
    // SAFETY: not empty.
    let memory = unsafe { alloc_zeroed(layout) } as usize;
    if memory == 0 {
        return Err(result::ERROR_OUT_OF_MEMORY);
    }
    state.host.insert(memory, HostMemory { bytes, context, flags, layout: Some(layout) });
    address.set(memory)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: c_uint) -> CUresult {
    guard(|| allocate(address, bytes, flags))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) -> CUresult {
    guard(|| allocate(address, bytes, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeHost(address: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.current()?;
        if address == 0 {
            return Ok(());
        }
        let layout = state.host.get(&address).and_then(|memory| memory.layout).ok_or(result::ERROR_INVALID_VALUE)?;
        capture::forbid_in_thread(&mut state)?;
        state.host.remove(&address);
        // SAFETY: allocated with this layout by `allocate`, and now out of the table.
        unsafe { dealloc(address as *mut u8, layout) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.current()?;
        if address == 0 || bytes == 0 || flags & !0xf != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let last = address.checked_add(bytes - 1).ok_or(result::ERROR_INVALID_VALUE)?;
        if state.host_at(last).is_some() || state.host.range(address..=last).next().is_some() {
            return Err(result::ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        }
        state.host.insert(address, HostMemory { bytes, context, flags, layout: None });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostUnregister(address: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.current()?;
        match state.host.get(&address) {
            Some(memory) if memory.layout.is_none() => {
                state.host.remove(&address);
                Ok(())
            }
            _ => Err(result::ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
    })
}

/// The host's address: addresses are unified.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostGetDevicePointer_v2(
    device: Out<CUdeviceptr>,
    address: usize,
    flags: c_uint,
) -> CUresult {
    guard(|| {
        let state = state::get()?;
        device.check()?;
        state.current()?;
        if flags != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        state.host_at(address).ok_or(result::ERROR_INVALID_VALUE)?;
        device.set(address as CUdeviceptr)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostGetFlags(flags: Out<c_uint>, address: usize) -> CUresult {
    guard(|| {
        let state = state::get()?;
        flags.check()?;
        state.current()?;
        flags.set(state.host_at(address).ok_or(result::ERROR_INVALID_VALUE)?.1.flags)
    })
}

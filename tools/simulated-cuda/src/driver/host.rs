//! Host memory that devices reach by the host's address: pinned (`cuMemHostAlloc`) and managed (`cuMemAllocManaged`).
//! What a caller registers (`cuMemHostRegister`) only copies reach.

use super::abi::{CUdeviceptr, Handle, Out, guard};
use super::capture;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use std::ffi::{c_int, c_uint};

pub(super) struct HostMemory {
    pub(super) bytes: usize,
    pub(super) context: Handle,
    flags: c_uint,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Pinned,
    Managed,
    /// The caller's own.
    Registered,
}

impl State {
    pub(super) fn host_at(&self, address: usize) -> Option<(usize, &HostMemory)> {
        let (&base, memory) = self.host.range(..=address).next_back()?;
        (address < base + memory.bytes).then_some((base, memory))
    }

    pub(super) fn is_managed(&self, address: u64) -> bool {
        self.host_at(address as usize).is_some_and(|(_, memory)| memory.kind == Kind::Managed)
    }

    /// Allocates on the host, for all devices.
    fn allocate_host(&mut self, bytes: usize, context: Handle, flags: c_uint, kind: Kind) -> u64 {
        let (first, others) = self.devices.split_first().expect("a context has a device");
        let address = first.memory.alloc_host(bytes as u64);
        for other in others {
            other.memory.share_host(&first.memory, address).expect("just allocated");
        }
        self.host.insert(address as usize, HostMemory { bytes, context, flags, kind });
        address
    }

    /// Frees memory of a kind, given its first address.
    pub(super) fn free_host(&mut self, address: usize, kind: Kind) -> Result {
        self.host.get(&address).filter(|memory| memory.kind == kind).ok_or(result::ERROR_INVALID_VALUE)?;
        self.host.remove(&address);
        for device in &self.devices {
            device.memory.free(address as u64).map_err(|_| result::ERROR_INVALID_VALUE)?;
        }
        Ok(())
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
    if bytes > isize::MAX as usize / 2 {
        return Err(result::ERROR_OUT_OF_MEMORY);
    }
    address.set(state.allocate_host(bytes, context, flags, Kind::Pinned) as usize)
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
        capture::forbid_in_thread(&mut state)?;
        state.free_host(address, Kind::Pinned)
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
        state.host.insert(address, HostMemory { bytes, context, flags, kind: Kind::Registered });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemHostUnregister(address: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.current()?;
        match state.host.get(&address) {
            Some(memory) if memory.kind == Kind::Registered => {
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

const ATTACH_GLOBAL: c_uint = 1;
const ATTACH_HOST: c_uint = 2;
const ATTACH_SINGLE: c_uint = 4;

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocManaged(address: Out<CUdeviceptr>, bytes: usize, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        address.check()?;
        let context = state.current()?;
        if bytes == 0 || ![ATTACH_GLOBAL, ATTACH_HOST].contains(&flags) {
            return Err(result::ERROR_INVALID_VALUE);
        }
        capture::forbid_in_thread(&mut state)?;
        if bytes > isize::MAX as usize / 2 {
            return Err(result::ERROR_OUT_OF_MEMORY);
        }
        address.set(state.allocate_host(bytes, context, flags, Kind::Managed))
    })
}

/// That a range is of managed memory: where it is, nothing moves.
fn check_managed(state: &State, address: CUdeviceptr, bytes: usize) -> Result {
    state.host_range(address as usize, bytes.max(1))?;
    if state.is_managed(address) { Ok(()) } else { Err(result::ERROR_INVALID_VALUE) }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamAttachMemAsync(
    stream: Handle,
    address: CUdeviceptr,
    bytes: usize,
    flags: c_uint,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if flags == ATTACH_SINGLE && stream <= 1 || ![ATTACH_GLOBAL, ATTACH_HOST, ATTACH_SINGLE].contains(&flags) {
            return Err(result::ERROR_INVALID_VALUE);
        }
        state.stream(stream)?;
        check_managed(&state, address, bytes)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAdvise(address: CUdeviceptr, bytes: usize, advice: c_uint, _device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.current()?;
        if !(1..=6).contains(&advice) {
            return Err(result::ERROR_INVALID_VALUE);
        }
        check_managed(&state, address, bytes)
    })
}

/// The location is a structure of two integers, passed in one register.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAdvise_v2(
    address: CUdeviceptr,
    bytes: usize,
    advice: c_uint,
    _location: u64,
) -> CUresult {
    cuMemAdvise(address, bytes, advice, 0)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync(
    address: CUdeviceptr,
    bytes: usize,
    _device: c_int,
    stream: Handle,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.stream(stream)?;
        check_managed(&state, address, bytes)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync_v2(
    address: CUdeviceptr,
    bytes: usize,
    _location: u64,
    _flags: c_uint,
    stream: Handle,
) -> CUresult {
    cuMemPrefetchAsync(address, bytes, 0, stream)
}

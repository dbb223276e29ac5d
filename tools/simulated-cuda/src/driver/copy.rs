//! `cuMemcpy*` and `cuMemset*`.
//!
//! What is not within one allocation is `INVALID_VALUE` at once. Copies without a stream are copies on the legacy
//! stream.

use super::abi::{CUdeviceptr, Handle, In, Out, guard};
use super::capture;
use super::config::FailureKind;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use super::stream::{Stream, submit};
use super::work::{Place, Work};
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

/// What a caller says that an address is.
#[derive(Clone, Copy)]
enum Given {
    Device(CUdeviceptr),
    Host(usize),
    /// Found out by the address.
    Unified(CUdeviceptr),
}

impl Given {
    fn place(self, state: &State, bytes: usize) -> Result<Place> {
        match self {
            Self::Host(0) => Err(result::ERROR_INVALID_VALUE),
            // An address of device memory where host memory is asked for: unified addresses allow it.
            Self::Host(address) if state.allocation_at(address as u64).is_some() => {
                state.device_place(address as u64, bytes)
            }
            Self::Host(address) => Ok(Place::Host(address)),
            Self::Device(address) => state.device_place(address, bytes),
            Self::Unified(address) => {
                state.device_place(address, bytes).or_else(|_| Self::Host(address as usize).place(state, bytes))
            }
        }
    }
}

const LEGACY: Handle = 1;

/// A copy on a stream; none: synchronous.
fn copy(to: Given, from: Given, bytes: usize, stream: Option<Handle>) -> Result {
    let mut state = state::get()?;
    let key = state.stream(stream.unwrap_or(LEGACY))?;
    if stream.is_none() {
        capture::check_legacy(&mut state, key)?;
        capture::forbid_in_thread(&mut state)?;
    }
    if bytes == 0 {
        return Ok(());
    }
    let (to, from) = (to.place(&state, bytes)?, from.place(&state, bytes)?);
    // A copy to pageable memory is synchronous on every stream.
    let waits = match to {
        Place::Host(address) => stream.is_none() || state.host_at(address).is_none(),
        Place::Device(..) => stream.is_none(),
    };
    let Stream { context, capture: None, .. } = state.streams[&key] else {
        return submit(state, key, Work::Copy { to, from, bytes });
    };
    if waits {
        state.settle(context)?;
    }
    state.inject(FailureKind::Copy)?;
    let work = Work::Copy { to, from, bytes };
    submit(state, key, work)
}

fn set(to: CUdeviceptr, pattern: &[u8], count: usize, stream: Option<Handle>) -> Result {
    let mut state = state::get()?;
    let key = state.stream(stream.unwrap_or(LEGACY))?;
    if stream.is_none() {
        capture::check_legacy(&mut state, key)?;
        capture::forbid_in_thread(&mut state)?;
    }
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(result::ERROR_INVALID_VALUE);
    }
    if count == 0 {
        return Ok(());
    }
    let bytes = pattern.len().checked_mul(count).ok_or(result::ERROR_INVALID_VALUE)?;
    let work = Work::Fill { to: state.device_place(to, bytes)?, pattern: pattern.to_vec(), count };
    state.inject(FailureKind::Copy)?;
    submit(state, key, work)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: In<c_void>, bytes: usize) -> CUresult {
    guard(|| copy(Given::Device(to), Given::Host(from.address()), bytes, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: In<c_void>,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    guard(|| copy(Given::Device(to), Given::Host(from.address()), bytes, Some(stream)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoH_v2(to: Out<u8>, from: CUdeviceptr, bytes: usize) -> CUresult {
    guard(|| copy(Given::Host(to.address()), Given::Device(from), bytes, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoHAsync_v2(
    to: Out<u8>,
    from: CUdeviceptr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    guard(|| copy(Given::Host(to.address()), Given::Device(from), bytes, Some(stream)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    guard(|| copy(Given::Device(to), Given::Device(from), bytes, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    guard(|| copy(Given::Device(to), Given::Device(from), bytes, Some(stream)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpy(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    guard(|| copy(Given::Unified(to), Given::Unified(from), bytes, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyAsync(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: Handle) -> CUresult {
    guard(|| copy(Given::Unified(to), Given::Unified(from), bytes, Some(stream)))
}

/// Both contexts must be; which device holds an address is known from the address.
fn check_contexts(to: Handle, from: Handle) -> Result {
    let state = state::get()?;
    state.context(to)?;
    state.context(from).map(|_| ())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyPeer(
    to: CUdeviceptr,
    to_context: Handle,
    from: CUdeviceptr,
    from_context: Handle,
    bytes: usize,
) -> CUresult {
    guard(|| {
        check_contexts(to_context, from_context)?;
        copy(Given::Device(to), Given::Device(from), bytes, None)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemcpyPeerAsync(
    to: CUdeviceptr,
    to_context: Handle,
    from: CUdeviceptr,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    guard(|| {
        check_contexts(to_context, from_context)?;
        copy(Given::Device(to), Given::Device(from), bytes, Some(stream))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8_v2(to: CUdeviceptr, value: c_uchar, count: usize) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16_v2(to: CUdeviceptr, value: c_ushort, count: usize) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32_v2(to: CUdeviceptr, value: c_uint, count: usize) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, None))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8Async(to: CUdeviceptr, value: c_uchar, count: usize, stream: Handle) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, Some(stream)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16Async(to: CUdeviceptr, value: c_ushort, count: usize, stream: Handle) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, Some(stream)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32Async(to: CUdeviceptr, value: c_uint, count: usize, stream: Handle) -> CUresult {
    guard(|| set(to, &value.to_ne_bytes(), count, Some(stream)))
}

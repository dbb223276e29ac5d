//! `cuMemPool*`: pools count what is allocated from them; memory that is freed goes back to the device at once.

use super::abi::{CUdeviceptr, Handle, In, Out, guard};
use super::memory;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use std::ffi::{c_int, c_uint, c_void};

pub(super) struct Pool {
    device: usize,
    /// The device's own; it cannot be destroyed.
    default: bool,
    /// What `cuDeviceSetMemPool` chose.
    current: bool,
    /// REUSE_FOLLOW_EVENT_DEPENDENCIES, _ALLOW_OPPORTUNISTIC, _ALLOW_INTERNAL_DEPENDENCIES: nothing is reused.
    reuse: [c_int; 3],
    release_threshold: u64,
    pub(super) used: u64,
    pub(super) used_high: u64,
}

impl Pool {
    fn new(device: usize) -> Self {
        Self { device, default: false, current: false, reuse: [1; 3], release_threshold: 0, used: 0, used_high: 0 }
    }

    pub(super) fn default_of(device: usize) -> Self {
        Self { default: true, current: true, ..Self::new(device) }
    }
}

impl State {
    fn find_pool(&self, device: usize, which: fn(&Pool) -> bool) -> Result<Handle> {
        if !self.config.pools {
            return Err(result::ERROR_NOT_SUPPORTED);
        }
        let found = self.pools.iter().find(|(_, pool)| pool.device == device && which(pool));
        found.map(|(&handle, _)| handle).ok_or(result::ERROR_INVALID_VALUE)
    }

    /// The pool that `cuMemAllocAsync` takes from.
    pub(super) fn pool_of(&self, device: usize) -> Result<Handle> {
        self.find_pool(device, |pool| pool.current)
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        pool.check()?;
        pool.set(state.find_pool(state.device(device)?, |pool| pool.default)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        pool.check()?;
        pool.set(state.pool_of(state.device(device)?)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceSetMemPool(device: c_int, pool: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let device = state.device(device)?;
        if state.pools.get(&pool).ok_or(result::ERROR_INVALID_VALUE)?.device != device {
            return Err(result::ERROR_INVALID_DEVICE);
        }
        for (&handle, other) in state.pools.iter_mut().filter(|(_, other)| other.device == device) {
            other.current = handle == pool;
        }
        Ok(())
    })
}

/// The head of `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PoolProps {
    allocation_type: c_uint,
    handle_types: c_uint,
    location_type: c_uint,
    location: c_int,
}

const PINNED: c_uint = 1;
const ON_DEVICE: c_uint = 1;

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolCreate(pool: Out<Handle>, props: In<PoolProps>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        pool.check()?;
        let props = props.get()?;
        if props.allocation_type != PINNED || props.location_type != ON_DEVICE {
            return Err(result::ERROR_INVALID_VALUE);
        }
        if props.handle_types != 0 || !state.config.pools {
            return Err(result::ERROR_NOT_SUPPORTED);
        }
        let device = state.device(props.location)?;
        let handle = state.new_handle();
        state.pools.insert(handle, Pool::new(device));
        pool.set(handle)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolDestroy(pool: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let Pool { device, default, current, .. } = *state.pools.get(&pool).ok_or(result::ERROR_INVALID_VALUE)?;
        if default {
            return Err(result::ERROR_INVALID_VALUE);
        }
        state.pools.remove(&pool);
        if current {
            let default = state.find_pool(device, |pool| pool.default)?;
            state.pools.get_mut(&default).expect("found").current = true;
        }
        Ok(())
    })
}

/// Nothing is held back that could be given up.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolTrimTo(pool: Handle, _keep: usize) -> CUresult {
    guard(|| state::get()?.pools.get(&pool).map(|_| ()).ok_or(result::ERROR_INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolGetAttribute(pool: Handle, number: c_uint, value: Out<u8>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        value.check()?;
        let pool = state.pools.get(&pool).ok_or(result::ERROR_INVALID_VALUE)?;
        match number {
            1..=3 => value.cast().set(pool.reuse[number as usize - 1]),
            4 => value.cast().set(pool.release_threshold),
            5 | 7 => value.cast().set(pool.used),
            6 | 8 => value.cast().set(pool.used_high),
            _ => Err(result::ERROR_INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPoolSetAttribute(pool: Handle, number: c_uint, value: In<c_void>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let pool = state.pools.get_mut(&pool).ok_or(result::ERROR_INVALID_VALUE)?;
        match number {
            1..=3 => pool.reuse[number as usize - 1] = value.cast().get()?,
            4 => pool.release_threshold = value.cast().get()?,
            // The high-water marks can be reset to 0 only.
            6 | 8 if value.cast::<u64>().get()? == 0 => pool.used_high = pool.used,
            _ => return Err(result::ERROR_INVALID_VALUE),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<CUdeviceptr>,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        address.check()?;
        state.pools.get(&pool).ok_or(result::ERROR_INVALID_VALUE)?;
        let stream = state.stream(stream)?;
        memory::allocate_async(state, address, bytes, pool, stream)
    })
}

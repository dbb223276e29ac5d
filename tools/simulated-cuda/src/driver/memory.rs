//! Device memory: `cuMemAlloc`, `cuMemFree`, `cuMemAllocAsync`, …, and the list of what was not freed.

use super::abi::{CUdeviceptr, Handle, Out, guard};
use super::capture;
use super::config::{FailureKind, LEAK_STATUS, Leaks};
use super::host::Kind;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use super::stream;
use super::work::{Place, Work};
use std::ffi::{c_int, c_uint};
use std::sync::MutexGuard;

/// One allocation in a device's memory.
pub(super) struct Allocation {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) context: Handle,
    pub(super) device: usize,
    /// The pool of a stream-ordered allocation.
    pub(super) pool: Option<Handle>,
    /// A module's variables.
    pub(super) of_module: bool,
    /// Made while a stream captured: the graph's, there until the context goes.
    pub(super) of_graph: bool,
    /// Which of the process's allocations it was.
    number: u64,
}

impl State {
    /// Allocates in the device of `context`.
    pub(super) fn allocate(&mut self, bytes: u64, context: Handle, pool: Option<Handle>) -> Result<u64> {
        self.inject(FailureKind::Alloc)?;
        let device = self.contexts[&context].device;
        let address = self.devices[device].memory.alloc(bytes).map_err(|_| result::ERROR_OUT_OF_MEMORY)?;
        self.adopt(address, bytes, context, pool);
        Ok(address)
    }

    /// Notes an allocation of the device's memory as one of `context`.
    fn adopt(&mut self, address: u64, bytes: u64, context: Handle, pool: Option<Handle>) {
        let device = self.contexts[&context].device;
        let number = self.new_id();
        let allocation =
            Allocation { address, bytes, context, device, pool, of_module: false, of_graph: false, number };
        self.allocations.insert(address, allocation);
    }

    /// Notes a module's variables, which unloading the module frees.
    pub(super) fn adopt_module(&mut self, address: u64, bytes: u64, context: Handle) {
        self.adopt(address, bytes, context, None);
        self.allocations.get_mut(&address).expect("just noted").of_module = true;
    }

    pub(super) fn free(&mut self, address: u64) -> Result {
        let allocation = self.allocations.remove(&address).ok_or(result::ERROR_INVALID_VALUE)?;
        if let Some(pool) = allocation.pool.and_then(|pool| self.pools.get_mut(&pool)) {
            pool.used -= allocation.bytes;
        }
        self.devices[allocation.device].memory.free(address).map_err(|_| result::ERROR_INVALID_VALUE)
    }

    /// The allocation that an address is in.
    pub(super) fn allocation_at(&self, address: u64) -> Option<&Allocation> {
        let (_, allocation) = self.allocations.range(..=address).next_back()?;
        (address < allocation.address + allocation.bytes).then_some(allocation)
    }

    /// `bytes` at an address of device memory, all within one allocation.
    pub(super) fn device_place(&self, address: u64, bytes: usize) -> Result<Place> {
        let Some(allocation) = self.allocation_at(address) else {
            // Addresses are unified: pinned host memory serves too.
            return self.host_range(address as usize, bytes).map(|()| Place::Host(address as usize));
        };
        if bytes as u64 > allocation.address + allocation.bytes - address {
            return Err(result::ERROR_INVALID_VALUE);
        }
        Ok(Place::Device(self.devices[allocation.device].clone(), address))
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAlloc_v2(address: Out<CUdeviceptr>, bytes: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        address.check()?;
        let context = state.current()?;
        if bytes == 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        capture::forbid_in_thread(&mut state)?;
        address.set(state.allocate(bytes as u64, context, None)?)
    })
}

/// Rows padded so that each begins at a multiple of 512 bytes.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocPitch_v2(
    address: Out<CUdeviceptr>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: c_uint,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        address.check()?;
        pitch.check()?;
        let context = state.current()?;
        let row = width.checked_next_multiple_of(512).ok_or(result::ERROR_INVALID_VALUE)?;
        let bytes = row.checked_mul(height).filter(|&bytes| bytes > 0).ok_or(result::ERROR_INVALID_VALUE)?;
        if ![4, 8, 16].contains(&element) {
            return Err(result::ERROR_INVALID_VALUE);
        }
        capture::forbid_in_thread(&mut state)?;
        address.set(state.allocate(bytes as u64, context, None)?)?;
        pitch.set(row)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.current()?;
        if address == 0 {
            return Ok(());
        }
        capture::forbid_in_thread(&mut state)?;
        state.settle(context)?;
        if state.host.contains_key(&(address as usize)) {
            return state.free_host(address as usize, Kind::Managed);
        }
        match state.allocations.get(&address) {
            Some(allocation) if !allocation.of_module && !allocation.of_graph => state.free(address),
            _ => Err(result::ERROR_INVALID_VALUE),
        }
    })
}

/// Stream-ordered: the address is there at once, as on a device.
pub(super) fn allocate_async(
    mut state: MutexGuard<State>,
    address: Out<CUdeviceptr>,
    bytes: usize,
    pool: Handle,
    stream: Handle,
) -> Result {
    if bytes == 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    capture::check_legacy(&mut state, stream)?;
    let captured = capture::record(&mut state, stream, &Work::Alloc)?;
    let context = state.streams[&stream].context;
    let new = state.allocate(bytes as u64, context, Some(pool))?;
    state.allocations.get_mut(&new).expect("just made").of_graph = captured;
    let pool = state.pools.get_mut(&pool).ok_or(result::ERROR_INVALID_VALUE)?;
    pool.used += bytes as u64;
    pool.used_high = pool.used_high.max(pool.used);
    address.set(new)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocAsync(address: Out<CUdeviceptr>, bytes: usize, stream: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        address.check()?;
        let stream = state.stream(stream)?;
        let device = state.contexts[&state.streams[&stream].context].device;
        let pool = state.pool_of(device)?;
        allocate_async(state, address, bytes, pool, stream)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let stream = state.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        let allocation = state.allocations.get(&address).filter(|allocation| allocation.pool.is_some());
        let of_graph = allocation.ok_or(result::ERROR_INVALID_VALUE)?.of_graph;
        // A graph's own memory stays for its next launch.
        let work = if of_graph { Work::Alloc } else { Work::Free { address } };
        stream::submit(state, stream, work)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        free.check()?;
        total.check()?;
        let context = state.current()?;
        let (left, all) = state.device_of(context).memory.info();
        free.set(left as usize)?;
        total.set(all as usize)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemGetAddressRange_v2(
    base: Out<CUdeviceptr>,
    bytes: Out<usize>,
    address: CUdeviceptr,
) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.current()?;
        let allocation = state.allocation_at(address).ok_or(result::ERROR_NOT_FOUND)?;
        base.set_if_asked(allocation.address);
        bytes.set_if_asked(allocation.bytes as usize);
        Ok(())
    })
}

/// By the numbers of `CUpointer_attribute`: those of addresses that the driver gave out.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuPointerGetAttribute(value: Out<u8>, number: c_uint, address: CUdeviceptr) -> CUresult {
    const HOST: c_uint = 1;
    const DEVICE: c_uint = 2;
    guard(|| {
        let state = state::get()?;
        value.check()?;
        let (context, device, base, bytes, kind) = if let Some(allocation) = state.allocation_at(address) {
            let Allocation { context, device, address, bytes, .. } = *allocation;
            (context, device, address, bytes, DEVICE)
        } else {
            let (base, memory) = state.host_at(address as usize).ok_or(result::ERROR_INVALID_VALUE)?;
            let device = state.context(memory.context).map_or(0, |context| context.device);
            (memory.context, device, base as u64, memory.bytes as u64, HOST)
        };
        match number {
            1 => value.cast().set(context),
            2 => value.cast().set(kind),
            3 => value.cast().set(address),
            4 if kind == HOST => value.cast().set(address),
            8 => value.cast().set(u8::from(state.is_managed(address))),
            9 => value.cast().set(device as c_int),
            11 => value.cast().set(base),
            12 => value.cast().set(bytes),
            13 => value.cast().set(1_u8),
            _ => Err(result::ERROR_INVALID_VALUE),
        }
    })
}

extern "C" fn at_exit() {
    let Ok(state) = state::get() else { return };
    let held = state.allocations.values().filter(|allocation| !allocation.of_module && !allocation.of_graph);
    let leaks: Vec<&Allocation> = state.lost.iter().chain(held).collect();
    if leaks.is_empty() {
        return;
    }
    let bytes: u64 = leaks.iter().map(|leak| leak.bytes).sum();
    eprintln!("simulated-cuda: {} allocations of {bytes} bytes were never freed", leaks.len());
    for leak in &leaks {
        eprintln!(
            "simulated-cuda: leak: {} bytes at {:#x} of device {}, allocation {} of the process",
            leak.bytes, leak.address, leak.device, leak.number
        );
    }
    if state.config.leaks == Some(Leaks::Fail) {
        // SAFETY: ends the process, in which other exit handlers no longer matter.
        unsafe { _exit(LEAK_STATUS) };
    }
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
    fn _exit(status: c_int) -> !;
}

pub(super) fn report_leaks_at_exit() {
    // SAFETY: the function stays loaded: cudarc and the loaders of other clients never unload the driver.
    unsafe { atexit(at_exit) };
}

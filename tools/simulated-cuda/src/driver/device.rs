//! `cuInit`, `cuDriverGetVersion` and `cuDevice*`: what the machine says it holds.

use super::abi::{Handle, Out, guard};
use super::config::POOLS_SINCE;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use std::ffi::{c_char, c_int, c_uint};

/// Limits that depend on the compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability". Sizes in bytes.
pub(super) struct Limits {
    pub(super) threads_per_multiprocessor: u32,
    pub(super) blocks_per_multiprocessor: u32,
    pub(super) shared_per_multiprocessor: u32,
    /// What a kernel can have when `MAX_DYNAMIC_SHARED_SIZE_BYTES` asks for it.
    pub(super) shared_per_block_optin: u32,
    /// What the system takes of each block's shared memory.
    pub(super) reserved_shared_per_block: u32,
}

/// What a kernel can have without asking.
pub(super) const SHARED_PER_BLOCK: u32 = 48 << 10;
pub(super) const MAX_THREADS_PER_BLOCK: u32 = 1024;
pub(super) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub(super) const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
pub(super) const REGISTERS_PER_BLOCK: u32 = 65536;

impl Limits {
    pub(super) fn of(capability: u32) -> Self {
        // KiB of shared memory per multiprocessor, threads and blocks per multiprocessor.
        let (shared, threads, blocks) = match capability {
            ..75 => (96, 2048, 32),
            75..80 => (64, 1024, 16),
            80 | 87 => (164, 2048, 32),
            86 => (100, 1536, 16),
            89 => (100, 1536, 24),
            120.. => (100, 1536, 24),
            _ => (228, 2048, 32),
        };
        let reserved = if capability >= 80 { 1 } else { 0 };
        Self {
            threads_per_multiprocessor: threads,
            blocks_per_multiprocessor: blocks,
            shared_per_multiprocessor: shared << 10,
            shared_per_block_optin: (shared - reserved) << 10,
            reserved_shared_per_block: reserved << 10,
        }
    }
}

/// By the numbers of `CUdevice_attribute`. Attributes of what is not simulated (textures, clocks, …) are 0, which the
/// real driver says too for what a device lacks.
fn attribute(state: &State, number: c_uint) -> Result<u32> {
    let config = &state.config;
    let limits = Limits::of(config.capability);
    if number >= 114 && config.driver_version < POOLS_SINCE {
        return Err(result::ERROR_INVALID_VALUE);
    }
    Ok(match number {
        1 => MAX_THREADS_PER_BLOCK,
        2..=4 => MAX_BLOCK[number as usize - 2],
        5..=7 => MAX_GRID[number as usize - 5],
        8 => SHARED_PER_BLOCK,
        // Constant memory.
        9 => 64 << 10,
        // Warp size.
        10 => 32,
        // Pitch of a 2D copy.
        11 => i32::MAX as u32,
        12 | 82 => REGISTERS_PER_BLOCK,
        // Clocks in kHz: a nominal 1 GHz, so that no client divides by 0. No time comes from it.
        13 | 36 => 1_000_000,
        14 => 512,
        16 => config.multiprocessors,
        // Mapped host memory, concurrent kernels, unified addresses, stream priorities, caches, managed memory, its use
        // by both sides at once, compute preemption.
        19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 => 1,
        // Copy engines.
        15 | 40 => 1,
        // The memory's width in bits, L2 bytes.
        37 => 256,
        38 => 4 << 20,
        39 => limits.threads_per_multiprocessor,
        75 => config.capability / 10,
        76 => config.capability % 10,
        81 => limits.shared_per_multiprocessor,
        97 => limits.shared_per_block_optin,
        106 => limits.blocks_per_multiprocessor,
        111 => limits.reserved_shared_per_block,
        115 => config.pools as u32,
        0 | 163.. => return Err(result::ERROR_INVALID_VALUE),
        _ => 0,
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuInit(flags: c_uint) -> CUresult {
    guard(|| if flags == 0 { state::initialise() } else { Err(result::ERROR_INVALID_VALUE) })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> CUresult {
    guard(|| {
        version.check()?;
        version.set(state::driver_version()? as c_int)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetCount(count: Out<c_int>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        count.set(state.devices.len() as c_int)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        device.check()?;
        state.device(ordinal)?;
        device.set(ordinal)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, number: c_uint, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        value.check()?;
        let answer = attribute(&state, number)?;
        state.device(device)?;
        value.set(answer as c_int)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetName(name: Out<c_char>, room: c_int, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        name.check()?;
        state.device(device)?;
        name.set_text(&state.config.name, usize::try_from(room).map_err(|_| result::ERROR_INVALID_VALUE)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        uuid.check()?;
        state.device(device)?;
        let mut bytes = *b"simulated-cuda-0";
        bytes[15] += device as u8;
        uuid.set(bytes)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) -> CUresult {
    cuDeviceGetUuid(uuid, device)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        bytes.check()?;
        state.device(device)?;
        bytes.set(state.config.memory)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        major.check()?;
        minor.check()?;
        state.device(device)?;
        major.set(state.config.capability as c_int / 10)?;
        minor.set(state.config.capability as c_int % 10)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceGetPCIBusId(id: Out<c_char>, room: c_int, device: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        id.check()?;
        state.device(device)?;
        let room = usize::try_from(room).map_err(|_| result::ERROR_INVALID_VALUE)?;
        id.set_text(&format!("0000:{device:02X}:00.0"), room)
    })
}

/// Each device sees its own memory only.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) -> CUresult {
    guard(|| {
        let state = state::get()?;
        can.check()?;
        state.device(device)?;
        state.device(peer)?;
        can.set(0)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxEnablePeerAccess(peer: Handle, flags: c_uint) -> CUresult {
    guard(|| {
        let state = state::get()?;
        if flags != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        state.context(peer)?;
        state.current()?;
        Err(result::ERROR_PEER_ACCESS_UNSUPPORTED)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxDisablePeerAccess(peer: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.context(peer)?;
        state.current()?;
        Err(result::ERROR_PEER_ACCESS_NOT_ENABLED)
    })
}

//! `cuOccupancy*`, from the limits of the compute capability. Registers count as the module's estimate of them.

use super::abi::{Handle, Out, guard};
use super::device::{Limits, MAX_THREADS_PER_BLOCK, REGISTERS_PER_BLOCK};
use super::module::FunctionEntry;
use super::result::{self, CUresult, Result};
use super::state;
use std::ffi::{c_int, c_uint};

const WARP: u32 = 32;
/// Registers are given to warps by so many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to blocks by so many bytes.
const SHARED_UNIT: u32 = 128;

/// `CUoccupancyB2DSize`: dynamic shared memory of a block of so many threads.
type BlockToShared = Option<extern "C" fn(c_int) -> usize>;

fn shared_of_block(limits: &Limits, function: &FunctionEntry, dynamic: usize) -> Option<u32> {
    let dynamic = u32::try_from(dynamic).ok().filter(|&dynamic| dynamic <= function.max_dynamic_shared)?;
    let all = function.function.static_shared + dynamic + limits.reserved_shared_per_block;
    Some(all.next_multiple_of(SHARED_UNIT))
}

/// Blocks that fit into a multiprocessor.
fn blocks(limits: &Limits, function: &FunctionEntry, threads: u32, dynamic: usize) -> u32 {
    let Some(shared) = shared_of_block(limits, function, dynamic) else { return 0 };
    if threads > function.function.max_threads.min(MAX_THREADS_PER_BLOCK) {
        return 0;
    }
    let warps = threads.div_ceil(WARP);
    let registers = (function.function.registers.max(16) * WARP).next_multiple_of(REGISTER_UNIT);
    let by_shared = limits.shared_per_multiprocessor.checked_div(shared).unwrap_or(u32::MAX);
    (limits.threads_per_multiprocessor / (warps * WARP))
        .min(REGISTERS_PER_BLOCK / registers / warps)
        .min(by_shared)
        .min(limits.blocks_per_multiprocessor)
}

fn active(count: Out<c_int>, function: Handle, threads: c_int, dynamic: usize, flags: c_uint) -> Result {
    let mut state = state::get()?;
    count.check()?;
    let function = state.function(function)?;
    let threads = u32::try_from(threads).ok().filter(|&threads| threads > 0).ok_or(result::ERROR_INVALID_VALUE)?;
    if flags > 1 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let limits = Limits::of(state.config.capability);
    count.set(blocks(&limits, &state.functions[&function], threads, dynamic) as c_int)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    count: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic: usize,
) -> CUresult {
    guard(|| active(count, function, threads, dynamic, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    count: Out<c_int>,
    function: Handle,
    threads: c_int,
    dynamic: usize,
    flags: c_uint,
) -> CUresult {
    guard(|| active(count, function, threads, dynamic, flags))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: Handle,
    count: c_int,
    threads: c_int,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        bytes.check()?;
        let function = state.function(function)?;
        let count = u32::try_from(count).ok().filter(|&n| n > 0).ok_or(result::ERROR_INVALID_VALUE)?;
        let threads = u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(result::ERROR_INVALID_VALUE)?;
        let limits = Limits::of(state.config.capability);
        let function = &state.functions[&function];
        if blocks(&limits, function, threads, 0) < count {
            return bytes.set(0);
        }
        let share = limits.shared_per_multiprocessor / count / SHARED_UNIT * SHARED_UNIT;
        let own = function.function.static_shared + limits.reserved_shared_per_block;
        let most = limits.shared_per_block_optin.saturating_sub(function.function.static_shared);
        bytes.set(share.saturating_sub(own).min(most) as usize)
    })
}

/// The block size that keeps most threads on a multiprocessor; of equals, the largest.
fn potential(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    to_shared: BlockToShared,
    dynamic: usize,
    limit: c_int,
    flags: c_uint,
) -> Result {
    if flags > 1 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let (limits, function, multiprocessors) = {
        let mut state = state::get()?;
        grid.check()?;
        block.check()?;
        let function = state.function(function)?;
        (Limits::of(state.config.capability), state.functions[&function].clone(), state.config.multiprocessors)
    };
    let most = function.function.max_threads.min(MAX_THREADS_PER_BLOCK);
    let most = if limit > 0 { most.min(limit as u32) } else { most };
    let mut best = (0, 0, 0);
    for threads in (WARP..=most.next_multiple_of(WARP)).step_by(WARP as usize) {
        let threads = threads.min(most);
        // The callback is the caller's: the state is not locked here.
        let dynamic = to_shared.map_or(dynamic, |shared| shared(threads as c_int));
        let count = blocks(&limits, &function, threads, dynamic);
        best = best.max((count * threads, threads, count));
    }
    let (_, threads, count) = best;
    block.set(threads as c_int)?;
    grid.set((count * multiprocessors) as c_int)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    to_shared: BlockToShared,
    dynamic: usize,
    limit: c_int,
) -> CUresult {
    guard(|| potential(grid, block, function, to_shared, dynamic, limit, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle,
    to_shared: BlockToShared,
    dynamic: usize,
    limit: c_int,
    flags: c_uint,
) -> CUresult {
    guard(|| potential(grid, block, function, to_shared, dynamic, limit, flags))
}

//! `cuDevicePrimaryCtx*` and `cuCtx*`.

use super::abi::{Handle, Out, guard};
use super::capture;
use super::pending;
use super::result::{self, CUresult, Result};
use super::state::{self, State, current_handle, with_stack};
use std::ffi::{c_int, c_uint};

pub(super) struct Context {
    pub(super) device: usize,
    pub(super) flags: u32,
    /// Of the first kernel that failed: nothing runs after it.
    pub(super) error: Option<CUresult>,
    /// Whether a call that waits has told it: then every call does, until the context is gone.
    pub(super) seen: bool,
    limits: [usize; LIMITS],
    cache_config: u32,
    shared_config: u32,
}

/// Stack, printf FIFO, heap, device-runtime depth and launches, L2 granularity, persisting L2.
const LIMITS: usize = 7;
const DEFAULT_LIMITS: [usize; LIMITS] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

/// All the bits of `CUctx_flags` that were ever named.
const FLAGS: u32 = 0x1ff;

impl Context {
    /// The error that calls get.
    pub(super) fn check(&self) -> Result {
        self.error.filter(|_| self.seen).map_or(Ok(()), Err)
    }
}

impl State {
    fn create_context(&mut self, handle: Handle, device: usize, flags: u32) {
        let context = Context {
            device,
            flags,
            error: None,
            seen: false,
            limits: DEFAULT_LIMITS,
            cache_config: 0,
            shared_config: 0,
        };
        self.contexts.insert(handle, context);
    }

    /// Takes a context away with everything in it. Memory that was not freed is a leak.
    fn destroy_context(&mut self, handle: Handle) {
        let Some(context) = self.contexts.remove(&handle) else { return };
        let memory = &self.devices[context.device].memory;
        let lost: Vec<u64> =
            self.allocations.iter().filter(|(_, a)| a.context == handle).map(|(&address, _)| address).collect();
        for address in lost {
            let allocation = self.allocations.remove(&address).expect("listed");
            if memory.free(address).is_ok() && !allocation.of_module {
                self.lost.push(allocation);
            }
        }
        self.streams.retain(|_, stream| stream.context != handle);
        self.events.retain(|_, event| event.context != handle);
        self.modules.retain(|_, module| module.context != handle);
        self.functions.retain(|_, function| function.context != handle);
        self.captures.retain(|_, capture| capture.context != handle);
        self.execs.retain(|_, exec| exec.context != handle);
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        context.check()?;
        let device = state.device(device)?;
        let primary = &mut state.primaries[device];
        primary.retained += 1;
        let (handle, flags, first) = (primary.handle, primary.flags, primary.retained == 1);
        if first && !state.contexts.contains_key(&handle) {
            state.create_context(handle, device, flags);
        }
        context.set(handle)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let device = state.device(device)?;
        let primary = &mut state.primaries[device];
        if primary.retained == 0 {
            return Err(result::ERROR_INVALID_CONTEXT);
        }
        primary.retained -= 1;
        if primary.retained == 0 {
            let handle = primary.handle;
            state.destroy_context(handle);
        }
        Ok(())
    })
}

/// Everything in the context goes; it stays retained and works again, as new.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let device = state.device(device)?;
        let (handle, flags) = (state.primaries[device].handle, state.primaries[device].flags);
        if state.contexts.contains_key(&handle) {
            state.destroy_context(handle);
            state.create_context(handle, device, flags);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        let device = state.device(device)?;
        flags.set(state.primaries[device].flags)?;
        active.set(state.contexts.contains_key(&state.primaries[device].handle) as c_int)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let device = state.device(device)?;
        if flags & !FLAGS != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let handle = state.primaries[device].handle;
        state.primaries[device].flags = flags;
        if let Some(context) = state.contexts.get_mut(&handle) {
            context.flags = flags;
        }
        Ok(())
    })
}

fn create(context: Out<Handle>, flags: c_uint, device: c_int) -> Result {
    let mut state = state::get()?;
    context.check()?;
    if flags & !FLAGS != 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let device = state.device(device)?;
    let handle = state.new_handle();
    state.create_context(handle, device, flags);
    with_stack(|stack| stack.push(handle));
    context.set(handle)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v2(context: Out<Handle>, flags: c_uint, device: c_int) -> CUresult {
    guard(|| create(context, flags, device))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v3(
    context: Out<Handle>,
    affinity: usize,
    count: c_int,
    flags: c_uint,
    device: c_int,
) -> CUresult {
    guard(|| {
        if affinity != 0 || count != 0 {
            return Err(result::ERROR_NOT_SUPPORTED);
        }
        create(context, flags, device)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxCreate_v4(
    context: Out<Handle>,
    parameters: usize,
    flags: c_uint,
    device: c_int,
) -> CUresult {
    guard(|| if parameters == 0 { create(context, flags, device) } else { Err(result::ERROR_NOT_SUPPORTED) })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxDestroy_v2(context: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if context == 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        state.context(context)?;
        if state.primaries.iter().any(|primary| primary.handle == context) {
            return Err(result::ERROR_INVALID_CONTEXT);
        }
        state.destroy_context(context);
        with_stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        if context != 0 {
            state.context(context)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> CUresult {
    guard(|| {
        let _state = state::get()?;
        context.set(current_handle().unwrap_or(0))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.context(context)?;
        with_stack(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxPopCurrent_v2(context: Out<Handle>) -> CUresult {
    guard(|| {
        let _state = state::get()?;
        let popped = with_stack(Vec::pop).ok_or(result::ERROR_INVALID_CONTEXT)?;
        context.set_if_asked(popped);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        device.check()?;
        let context = current_handle().ok_or(result::ERROR_INVALID_CONTEXT)?;
        device.set(state.context(context)?.device as c_int)
    })
}

/// Of the current context where `context` is null.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetDevice_v2(device: Out<c_int>, context: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        device.check()?;
        let context = if context == 0 { current_handle().ok_or(result::ERROR_INVALID_CONTEXT)? } else { context };
        device.set(state.context(context)?.device as c_int)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetApiVersion(context: Handle, version: Out<c_uint>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        let context = if context == 0 { current_handle().ok_or(result::ERROR_INVALID_CONTEXT)? } else { context };
        state.context(context)?;
        version.set(3020)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetId(context: Handle, id: Out<u64>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        let context = if context == 0 { current_handle().ok_or(result::ERROR_INVALID_CONTEXT)? } else { context };
        state.context(context)?;
        id.set(context as u64)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSynchronize() -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.current()?;
        capture::forbid_in_context(&mut state, context)?;
        state.settle(context)?;
        let pending = state.pending_in(context);
        drop(state);
        pending::wait(&pending);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetFlags(flags: Out<c_uint>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        flags.check()?;
        let context = state.current()?;
        flags.set(state.context(context)?.flags)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetFlags(flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if flags & !FLAGS != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let context = state.current()?;
        state.contexts.get_mut(&context).expect("current").flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) -> CUresult {
    guard(|| {
        let state = state::get()?;
        value.check()?;
        let context = state.current()?;
        let limits = &state.context(context)?.limits;
        value.set(*limits.get(limit as usize).ok_or(result::ERROR_UNSUPPORTED_LIMIT)?)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetLimit(limit: c_uint, value: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.current()?;
        let limits = &mut state.contexts.get_mut(&context).expect("current").limits;
        *limits.get_mut(limit as usize).ok_or(result::ERROR_UNSUPPORTED_LIMIT)? = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetCacheConfig(config: Out<c_uint>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        config.check()?;
        let context = state.current()?;
        config.set(state.context(context)?.cache_config)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCacheConfig(config: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if config > 3 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let context = state.current()?;
        state.contexts.get_mut(&context).expect("current").cache_config = config;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetSharedMemConfig(config: Out<c_uint>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        config.check()?;
        let context = state.current()?;
        config.set(state.context(context)?.shared_config)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetSharedMemConfig(config: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if config > 2 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let context = state.current()?;
        state.contexts.get_mut(&context).expect("current").shared_config = config;
        Ok(())
    })
}

/// Lower numbers come first. Nothing runs at the same time here, so priorities change nothing.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        state.current()?;
        least.set_if_asked(super::stream::LEAST_PRIORITY);
        greatest.set_if_asked(super::stream::GREATEST_PRIORITY);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuProfilerStart() -> CUresult {
    guard(|| state::get()?.current().map(|_| ()))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuProfilerStop() -> CUresult {
    guard(|| state::get()?.current().map(|_| ()))
}

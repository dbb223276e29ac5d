//! Functions: `cuFunc*`, and their launch.

use super::abi::{Handle, In, Out, guard};
use super::config::FailureKind;
use super::device::{MAX_BLOCK, MAX_GRID, MAX_THREADS_PER_BLOCK};
use super::module::FunctionEntry;
use super::result::{self, CUresult, Result};
use super::state;
use super::stream::submit;
use super::work::{KernelLaunch, Work};
use crate::Param;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};

const MAX_THREADS: c_uint = 0;
const MAX_DYNAMIC_SHARED: c_uint = 8;
const CARVEOUT: c_uint = 9;

/// By the numbers of `CUfunction_attribute`.
fn attribute(function: &FunctionEntry, number: c_uint) -> Result<u32> {
    let FunctionEntry { function, max_dynamic_shared, carveout, .. } = function;
    Ok(match number {
        MAX_THREADS => function.max_threads.min(MAX_THREADS_PER_BLOCK),
        1 => function.static_shared,
        2 => function.const_bytes,
        3 => function.local_bytes,
        4 => function.registers,
        5 => function.ptx_version,
        6 => function.target,
        MAX_DYNAMIC_SHARED => *max_dynamic_shared,
        CARVEOUT => *carveout as u32,
        // Cache mode and clusters.
        7 | 10..=15 => 0,
        _ => return Err(result::ERROR_INVALID_VALUE),
    })
}

fn get_attribute(value: Out<c_int>, number: c_uint, function: Handle) -> Result {
    let mut state = state::get()?;
    value.check()?;
    let function = state.function(function)?;
    value.set(attribute(&state.functions[&function], number)? as c_int)
}

fn set_attribute(function: Handle, number: c_uint, value: c_int) -> Result {
    let mut state = state::get()?;
    let function = state.function(function)?;
    match number {
        MAX_DYNAMIC_SHARED => state.set_max_dynamic_shared(function, value),
        CARVEOUT if (-1..=100).contains(&value) => {
            state.functions.get_mut(&function).expect("found").carveout = value;
            Ok(())
        }
        _ => Err(result::ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetAttribute(value: Out<c_int>, number: c_uint, function: Handle) -> CUresult {
    guard(|| get_attribute(value, number, function))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetAttribute(function: Handle, number: c_uint, value: c_int) -> CUresult {
    guard(|| set_attribute(function, number, value))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetAttribute(
    value: Out<c_int>,
    number: c_uint,
    kernel: Handle,
    _device: c_int,
) -> CUresult {
    guard(|| get_attribute(value, number, kernel))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelSetAttribute(
    number: c_uint,
    value: c_int,
    kernel: Handle,
    _device: c_int,
) -> CUresult {
    guard(|| set_attribute(kernel, number, value))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetCacheConfig(function: Handle, config: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.function(function)?;
        if config <= 3 { Ok(()) } else { Err(result::ERROR_INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncSetSharedMemConfig(function: Handle, config: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.function(function)?;
        if config <= 2 { Ok(()) } else { Err(result::ERROR_INVALID_VALUE) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetModule(module: Out<Handle>, function: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        module.check()?;
        let function = state.function(function)?;
        module.set(state.functions[&function].module)
    })
}

/// The name stays for the life of the process.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetName(name: Out<*const c_char>, function: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        name.check()?;
        let function = state.function(function)?;
        let text = state.functions[&function].function.name.clone();
        name.set(CString::new(text).map_err(|_| result::ERROR_UNKNOWN)?.into_raw())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) -> CUresult {
    cuFuncGetName(name, kernel)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        offset.check()?;
        let function = state.function(function)?;
        let params = &state.functions[&function].function.params;
        let param = params.get(index).ok_or(result::ERROR_INVALID_VALUE)?;
        bytes.set_if_asked(param.size as usize);
        offset.set(param.offset as usize)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuKernelGetParamInfo(
    kernel: Handle,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> CUresult {
    cuFuncGetParamInfo(kernel, index, offset, bytes)
}

/// Everything is loaded when its module is. 1: loaded.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncIsLoaded(answer: Out<c_uint>, function: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        answer.check()?;
        state.function(function)?;
        answer.set(1)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuFuncLoad(function: Handle) -> CUresult {
    guard(|| state::get()?.function(function).map(|_| ()))
}

/// Reads the values of the parameters into the layout that the kernel has them in.
fn params(params: &[Param], bytes: u32, values: In<In<c_void>>, extra: In<usize>) -> Result<Vec<u8>> {
    const END: usize = 0;
    const BUFFER: usize = 1;
    const SIZE: usize = 2;
    if !values.is_null() && !extra.is_null() {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let mut block = vec![0; bytes as usize];
    if !extra.is_null() {
        let (mut buffer, mut size, mut i) = (0, 0, 0);
        loop {
            match extra.at(i)? {
                END => break,
                BUFFER => buffer = extra.at(i + 1)?,
                SIZE => size = In::<usize>::from_address(extra.at(i + 1)?).get()?,
                _ => return Err(result::ERROR_INVALID_VALUE),
            }
            i += 2;
        }
        if size != block.len() {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let buffer = In::<u8>::from_address(buffer);
        for (i, byte) in block.iter_mut().enumerate() {
            *byte = buffer.at(i)?;
        }
        return Ok(block);
    }
    for (i, param) in params.iter().enumerate() {
        let value = values.at(i)?.cast::<u8>();
        for j in 0..param.size as usize {
            block[param.offset as usize + j] = value.at(j)?;
        }
    }
    Ok(block)
}

/// What a launch asks for; its fields are arguments of `cuLaunchKernel`.
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
}

impl Shape {
    fn check(&self, function: &FunctionEntry) -> Result {
        let fits = |dims: &[u32; 3], max: &[u32; 3]| dims.iter().zip(max).all(|(&dim, &max)| (1..=max).contains(&dim));
        let threads: u64 = self.block.iter().map(|&dim| u64::from(dim)).product();
        if fits(&self.grid, &MAX_GRID)
            && fits(&self.block, &MAX_BLOCK)
            && threads <= u64::from(attribute(function, MAX_THREADS)?)
            && self.dynamic_shared <= function.max_dynamic_shared
        {
            Ok(())
        } else {
            Err(result::ERROR_INVALID_VALUE)
        }
    }
}

fn launch(function: Handle, shape: Shape, stream: Handle, values: In<In<c_void>>, extra: In<usize>) -> Result {
    let mut state = state::get()?;
    state.current()?;
    let function = state.function(function)?;
    let entry = state.functions[&function].clone();
    let stream = state.stream(stream)?;
    if state.streams[&stream].context != entry.context {
        return Err(result::ERROR_INVALID_HANDLE);
    }
    shape.check(&entry)?;
    let params = params(&entry.function.params, entry.function.param_bytes, values, extra)?;
    state.inject(FailureKind::Launch)?;
    let work = KernelLaunch {
        device: state.device_of(entry.context),
        function: entry.function,
        grid: shape.grid,
        block: shape.block,
        dynamic_shared: shape.dynamic_shared,
        params,
        globals: entry.globals,
    };
    submit(state, stream, Work::Kernel(work))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: Handle,
    values: In<In<c_void>>,
    extra: In<usize>,
) -> CUresult {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
    guard(|| launch(function, shape, stream, values, extra))
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: Handle,
    attributes: In<LaunchAttribute>,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct LaunchAttribute {
    id: c_uint,
    padding: c_uint,
    value: [c_uint; 16],
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchKernelEx(
    config: In<LaunchConfig>,
    function: Handle,
    values: In<In<c_void>>,
    extra: In<usize>,
) -> CUresult {
    const COOPERATIVE: c_uint = 2;
    const CLUSTER: c_uint = 4;
    guard(|| {
        let config = config.get()?;
        for i in 0..config.count as usize {
            let LaunchAttribute { id, value, .. } = config.attributes.at(i)?;
            match id {
                COOPERATIVE if value[0] != 0 => return Err(result::ERROR_NOT_SUPPORTED),
                CLUSTER if value[..3] != [1; 3] => return Err(result::ERROR_NOT_SUPPORTED),
                // Priorities, policies and the like change nothing here.
                _ => {}
            }
        }
        let shape = Shape { grid: config.grid, block: config.block, dynamic_shared: config.dynamic_shared };
        launch(function, shape, config.stream, values, extra)
    })
}

/// Blocks do not run at the same time here, which the device's attribute says.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchCooperativeKernel(
    function: Handle,
    _grid_x: c_uint,
    _grid_y: c_uint,
    _grid_z: c_uint,
    _block_x: c_uint,
    _block_y: c_uint,
    _block_z: c_uint,
    _dynamic_shared: c_uint,
    _stream: Handle,
    _values: In<In<c_void>>,
) -> CUresult {
    guard(|| {
        state::get()?.function(function)?;
        Err(result::ERROR_NOT_SUPPORTED)
    })
}

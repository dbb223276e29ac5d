//! What the driver refuses, and with which code: arguments, handles, images, and kernels that fail.

mod driver_support;

use cudarc::driver::sys::{self, CUresult, *};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use driver_support::{code, context, kernel, open, stream};
use std::ptr::{null, null_mut};
use std::sync::Arc;

const KERNELS: &str = include_str!("driver_support/kernels.ptx");

fn config(grid: (u32, u32, u32), block: (u32, u32, u32)) -> LaunchConfig {
    LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: 0 }
}

fn launch(stream: &Arc<CudaStream>, kernel: &CudaFunction, address: u64, config: LaunchConfig) -> CUresult {
    let mut launch = stream.launch_builder(kernel);
    launch.arg(&address);
    // SAFETY: all that these kernels do with the address is what is tested.
    code(unsafe { launch.launch(config) })
}

#[test]
fn launch_dimensions() {
    let stream = stream();
    let kernel = kernel(stream.context(), KERNELS, "bounded");
    let out = stream.alloc_zeros::<u32>(64).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
    for (grid, block, expected) in [
        ((1, 1, 1), (64, 1, 1), CUresult::CUDA_SUCCESS),
        ((65536, 1, 1), (1, 1, 1), CUresult::CUDA_SUCCESS),
        ((0, 1, 1), (1, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 0, 1), (1, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 65536, 1), (1, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 65536), (1, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1 << 31, 1, 1), (1, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 1), (0, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 1), (1025, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 1), (1, 1, 65), CUresult::CUDA_ERROR_INVALID_VALUE),
        // Beyond the kernel's .maxntid.
        ((1, 1, 1), (65, 1, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
        ((1, 1, 1), (16, 5, 1), CUresult::CUDA_ERROR_INVALID_VALUE),
    ] {
        assert_eq!(launch(&stream, &kernel, address, config(grid, block)), expected, "{grid:?} {block:?}");
    }
    stream.synchronize().unwrap();
}

#[test]
fn launch_parameters() {
    let stream = stream();
    let kernel = kernel(stream.context(), KERNELS, "bounded");
    let out = stream.alloc_zeros::<u32>(64).unwrap();
    let mut address = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
    // cudarc does not give the function's handle; the module's gives another of the same kernel.
    let (mut module, mut function) = (null_mut(), null_mut());
    let text = std::ffi::CString::new(KERNELS).unwrap();
    let go = |function, values: *mut *mut _, extra: *mut *mut _| {
        // SAFETY: the values are the kernel's, or refused.
        unsafe { cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream.cu_stream(), values, extra) }
    };
    // SAFETY: valid arguments, or refused.
    unsafe {
        assert_eq!(cuModuleLoadData(&mut module, text.as_ptr().cast()), CUresult::CUDA_SUCCESS);
        assert_eq!(cuModuleGetFunction(&mut function, module, c"bounded".as_ptr()), CUresult::CUDA_SUCCESS);
        let (mut offset, mut size) = (9, 9);
        assert_eq!(proc::<ParamInfo>("cuFuncGetParamInfo", 12040)(function, 0, &mut offset, &mut size), 0);
        assert_eq!((offset, size), (0, 8));
        assert_eq!(proc::<ParamInfo>("cuFuncGetParamInfo", 12040)(function, 1, &mut offset, &mut size), 1);
    }
    let mut values = [(&raw mut address).cast()];
    assert_eq!(go(function, values.as_mut_ptr(), null_mut()), CUresult::CUDA_SUCCESS);
    assert_eq!(go(function, null_mut(), null_mut()), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(go(null_mut(), values.as_mut_ptr(), null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
    // As one buffer: CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END.
    let mut size = 8_usize;
    let key = |number| std::ptr::without_provenance_mut(number);
    let mut extra = [key(1), (&raw mut address).cast(), key(2), (&raw mut size).cast(), key(0)];
    assert_eq!(go(function, null_mut(), extra.as_mut_ptr()), CUresult::CUDA_SUCCESS);
    assert_eq!(go(function, values.as_mut_ptr(), extra.as_mut_ptr()), CUresult::CUDA_ERROR_INVALID_VALUE);
    size = 4;
    extra[3] = (&raw mut size).cast();
    assert_eq!(go(function, null_mut(), extra.as_mut_ptr()), CUresult::CUDA_ERROR_INVALID_VALUE);
    // A function of a module that is gone.
    // SAFETY: loaded above, and unloaded once.
    assert_eq!(unsafe { cuModuleUnload(module) }, CUresult::CUDA_SUCCESS);
    assert_eq!(go(function, values.as_mut_ptr(), null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
    drop(kernel);
}

type ParamInfo = extern "C" fn(CUfunction, usize, *mut usize, *mut usize) -> u32;

/// A function that cudarc's CUDA 12.0 does not know, as `cuda-bindings` finds it.
unsafe fn proc<F: Copy>(name: &str, version: i32) -> F {
    let name = std::ffi::CString::new(name).unwrap();
    let mut address = null_mut();
    let mut status = CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
    // SAFETY: places for the results; the caller names the function's type.
    unsafe {
        let found = cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status);
        assert_eq!((found, status as u32, address.is_null()), (CUresult::CUDA_SUCCESS, 0, false), "{name:?}");
        std::mem::transmute_copy(&address)
    }
}

#[test]
fn null_and_wrong_handles() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let device_pointer = stream.alloc_zeros::<u8>(16).unwrap();
    let address = cudarc::driver::DevicePtr::device_ptr(&device_pointer, &stream).0;
    let wrong = 0x1234_5678_usize;
    // SAFETY: every call is refused before it uses what it was given.
    unsafe {
        let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap();
        let (invalid_value, invalid_handle) = (CUresult::CUDA_ERROR_INVALID_VALUE, CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(cuDeviceGetCount(null_mut()), invalid_value);
        assert_eq!(cuDeviceGet(null_mut(), 0), invalid_value);
        let mut number = 0;
        assert_eq!(cuDeviceGet(&mut number, -1), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(cuMemAlloc_v2(null_mut(), 16), invalid_value);
        assert_eq!(cuMemcpyHtoD_v2(address, null(), 4), invalid_value);
        assert_eq!(cuMemcpyHtoD_v2(address + 8, wrong as *const _, 9), invalid_value, "beyond the allocation");
        assert_eq!(cuMemcpyDtoD_v2(0, address, 1), invalid_value);
        assert_eq!(cuMemFreeAsync(address + 1, stream.cu_stream()), invalid_value);
        assert_eq!(cuStreamSynchronize(wrong as CUstream), invalid_handle);
        assert_eq!(cuStreamSynchronize(event as CUstream), invalid_handle, "an event is no stream");
        assert_eq!(cuStreamDestroy_v2(null_mut()), invalid_handle);
        assert_eq!(cuEventRecord(wrong as CUevent, stream.cu_stream()), invalid_handle);
        assert_eq!(cuEventRecord(event, wrong as CUstream), invalid_handle);
        assert_eq!(cuEventSynchronize(null_mut()), invalid_handle);
        assert_eq!(cuModuleUnload(wrong as CUmodule), invalid_handle);
        assert_eq!(cuCtxSetCurrent(wrong as CUcontext), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        result::event::destroy(event).unwrap();
        assert_eq!(cuEventQuery(event), invalid_handle, "destroyed");
        let mut text = null();
        assert_eq!(cuGetErrorName(std::mem::transmute::<u32, CUresult>(1), null_mut()), invalid_value);
        assert_eq!(cuGetErrorName(CUresult::CUDA_ERROR_UNKNOWN, &mut text), CUresult::CUDA_SUCCESS);
    }
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_SUCCESS, "a refused call leaves no error behind");
}

#[test]
fn a_thread_without_context() {
    open();
    result::init().unwrap();
    std::thread::spawn(|| {
        assert_eq!(code(result::ctx::synchronize()), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        // SAFETY: refused.
        assert_eq!(code(unsafe { result::malloc_sync(16) }), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        assert!(result::ctx::get_current().unwrap().is_none());
    })
    .join()
    .unwrap();
}

#[test]
fn images() {
    let context = context();
    let load = |text: &str| code(context.load_module(Ptx::from_src(text)));
    let kernel = ".visible .entry k() { ret; }";
    let ptx = |version: &str, target: &str, body: &str| {
        format!(".version {version}\n.target {target}\n.address_size 64\n{body}")
    };
    assert_eq!(load(&ptx("7.0", "sm_80", kernel)), CUresult::CUDA_SUCCESS);
    assert_eq!(load(&ptx("9.5", "sm_75", kernel)), CUresult::CUDA_SUCCESS);
    assert_eq!(load(&ptx("9.9", "sm_80", kernel)), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert_eq!(load(&ptx("7.8", "sm_86", kernel)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(&ptx("8.0", "sm_90", kernel)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(
        load(&ptx("7.0", "sm_80", ".visible .entry k() { no.such.instruction; }")),
        CUresult::CUDA_ERROR_INVALID_PTX
    );
    assert_eq!(load("neither PTX nor anything else"), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(load(""), CUresult::CUDA_ERROR_INVALID_IMAGE);
    let shared = ".visible .entry k() { .shared .b8 own[49153]; ret; }";
    assert_eq!(load(&ptx("7.0", "sm_80", shared)), CUresult::CUDA_ERROR_INVALID_PTX, "static shared memory");
    let cubin = Ptx::from_binary(b"\x7fELF and so on".to_vec());
    assert_eq!(code(context.load_module(cubin)), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(code(context.load_module(Ptx::from_file("no/such/file.ptx"))), CUresult::CUDA_ERROR_FILE_NOT_FOUND);
}

#[test]
fn the_log_of_the_jit_compiler() {
    let _context = context();
    let text = c".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k() { no.such.instruction; }";
    let mut log = [0x55_u8; 200];
    let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast(), log.len() as *mut std::ffi::c_void];
    let mut module = null_mut();
    // SAFETY: options and values match, and the log has the size that they say.
    let loaded =
        unsafe { cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    assert_eq!(loaded, CUresult::CUDA_ERROR_INVALID_PTX);
    let written = std::ffi::CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
    assert!(written.contains("line 4"), "{written}");
    assert_eq!(values[1] as usize, written.len());
}

/// After a kernel that failed, every call in its context fails alike, and other contexts do not.
fn breaks(kernel_name: &str, address: u64, expected: CUresult) {
    let context = context();
    let stream = context.new_stream().unwrap();
    let out = stream.alloc_zeros::<u32>(4).unwrap();
    let base = cudarc::driver::DevicePtr::device_ptr(&out, &stream).0;
    let kernel = kernel(&context, KERNELS, kernel_name);
    let one = config((1, 1, 1), (1, 1, 1));
    let launched = if kernel_name == "stop" {
        // SAFETY: a kernel without arguments.
        code(unsafe { stream.launch_builder(&kernel).launch(one) })
    } else {
        launch(&stream, &kernel, base.wrapping_add(address), one)
    };
    assert_eq!(launched, CUresult::CUDA_SUCCESS, "the launch itself went well");
    // Nobody has waited for it yet; and what comes after it does not run.
    let event = stream.record_event(None).unwrap();
    // SAFETY: never read.
    drop(unsafe { stream.alloc::<u8>(16) }.unwrap());
    assert_eq!(code(event.synchronize()), expected);
    assert_eq!(code(stream.synchronize()), expected);
    assert_eq!(code(context.synchronize()), expected, "again");
    assert_eq!(code(stream.clone_dtoh(&out)), expected);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), expected);
    assert_eq!(code(context.load_module(Ptx::from_src(KERNELS))), expected);
    assert_eq!(launch(&stream, &kernel, base, config((1, 1, 1), (1, 1, 1))), expected);
    assert_eq!(code(self::context().synchronize()), CUresult::CUDA_SUCCESS);
}

#[test]
fn out_of_bounds_is_an_illegal_address() {
    breaks("poke", 16, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    breaks("poke", (-4_i64) as u64, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn misaligned() {
    breaks("poke", 2, CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
}

#[test]
fn a_trap_is_a_launch_failure() {
    breaks("stop", 0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

/// `cuDevicePrimaryCtxReset` mends the primary context. A process of its own: it is every test's.
#[test]
fn reset() {
    driver_support::passes("reset_alone", &[]);
}

#[test]
#[ignore = "run by `reset`"]
fn reset_alone() {
    open();
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let stop = kernel(&context, KERNELS, "stop");
    // SAFETY: a kernel without arguments.
    unsafe { stream.launch_builder(&stop).launch(config((1, 1, 1), (1, 1, 1))) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    // SAFETY: nothing of the context is used afterwards but itself.
    assert_eq!(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }, CUresult::CUDA_SUCCESS);
    stream.synchronize().unwrap();
    assert_eq!(stream.clone_dtoh(&stream.clone_htod(&[1, 2, 3]).unwrap()).unwrap(), [1, 2, 3]);
}

/// What was released is gone, and memory that was not freed with it.
#[test]
fn a_destroyed_context() {
    let stream = stream();
    let context = stream.context().clone();
    let raw = context.cu_ctx();
    let leaked = stream.alloc_zeros::<u8>(16).unwrap().leak();
    drop(stream);
    drop(context);
    assert_eq!(unsafe_set_current(raw), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    let _context = self::context();
    // SAFETY: refused.
    assert_eq!(code(unsafe { result::free_sync(leaked) }), CUresult::CUDA_ERROR_INVALID_VALUE);
}

fn unsafe_set_current(context: CUcontext) -> CUresult {
    // SAFETY: a handle that no longer exists is refused.
    unsafe { cuCtxSetCurrent(context) }
}

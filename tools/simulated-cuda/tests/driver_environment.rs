//! What the environment variables change. Each test runs another, ignored one in a process of its own.

mod driver_support;

use cudarc::driver::{
    CudaContext, DevicePtr, LaunchConfig, PushKernelArg, result,
    sys::{self, CUresult},
};
use cudarc::nvrtc::Ptx;
use driver_support::{code, isolated, kernel, open, passes};
use serde_json::Value;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

const KERNELS: &str = include_str!("driver_support/kernels.ptx");

fn ptx(version: &str, target: &str) -> Ptx {
    Ptx::from_src(format!(".version {version}\n.target {target}\n.address_size 64\n.visible .entry k() {{ ret; }}"))
}

fn context() -> Arc<CudaContext> {
    open();
    CudaContext::new(0).unwrap()
}

#[test]
fn no_device() {
    passes("no_device_alone", &[("DEVICES", "0")]);
}

#[test]
#[ignore = "run by `no_device`"]
fn no_device_alone() {
    open();
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_NO_DEVICE);
    assert_eq!(code(result::device::get_count()), CUresult::CUDA_ERROR_NOT_INITIALIZED);
}

#[test]
fn several_devices() {
    passes("several_devices_alone", &[("DEVICES", "2"), ("NAME", "Two of these")]);
}

#[test]
#[ignore = "run by `several_devices`"]
fn several_devices_alone() {
    open();
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let contexts = [CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap()];
    assert_eq!(contexts[1].name().unwrap(), "Two of these");
    assert_ne!(contexts[0].uuid().unwrap().bytes, contexts[1].uuid().unwrap().bytes);
    let streams = contexts.each_ref().map(|context| context.default_stream());
    let there = streams[0].clone_htod(&[1_u32, 2, 3]).unwrap();
    let here = streams[1].clone_dtod(&there).unwrap();
    assert_eq!(streams[1].clone_dtoh(&here).unwrap(), [1, 2, 3]);
    assert_ne!(there.device_ptr(&streams[0]).0, here.device_ptr(&streams[1]).0);
    // A device's memory is its own: another's kernel does not reach it.
    let poke = kernel(&contexts[1], KERNELS, "poke");
    let address = there.device_ptr(&streams[0]).0;
    contexts[1].bind_to_thread().unwrap();
    let mut launch = streams[1].launch_builder(&poke);
    launch.arg(&address);
    // SAFETY: faults, as the test wants.
    unsafe { launch.launch(LaunchConfig::for_num_elems(1)) }.unwrap();
    assert_eq!(code(streams[1].synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(streams[0].clone_dtoh(&there).unwrap(), [1, 2, 3]);
}

#[test]
fn an_old_driver() {
    passes("an_old_driver_alone", &[("DRIVER_VERSION", "12000")]);
}

#[test]
#[ignore = "run by `an_old_driver`"]
fn an_old_driver_alone() {
    let context = context();
    context.load_module(ptx("8.0", "sm_80")).unwrap();
    assert_eq!(code(context.load_module(ptx("8.1", "sm_80"))), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    let mut version = 0;
    // SAFETY: a place for the version.
    assert_eq!(unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }, CUresult::CUDA_SUCCESS);
    assert_eq!(version, 12000);
}

#[test]
fn an_older_driver() {
    passes("an_older_driver_alone", &[("DRIVER_VERSION", "11000")]);
}

#[test]
#[ignore = "run by `an_older_driver`"]
fn an_older_driver_alone() {
    open();
    result::init().unwrap();
    let device = result::device::get(0).unwrap();
    use cudarc::driver::sys::CUdevice_attribute::*;
    // SAFETY: a device.
    let attribute = |number| unsafe { result::device::get_attribute(device, number) };
    assert_eq!(attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE).unwrap(), 32);
    // Which came later; cudarc's safe layer therefore fails on such a driver.
    let pools = attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
    assert_eq!(code(pools), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(code(CudaContext::new(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn another_capability() {
    passes("another_capability_alone", &[("CAPABILITY", "7.5"), ("MULTIPROCESSORS", "3")]);
}

#[test]
#[ignore = "run by `another_capability`"]
fn another_capability_alone() {
    let context = context();
    assert_eq!(context.compute_capability().unwrap(), (7, 5));
    assert_eq!(context.name().unwrap(), "Simulated CUDA device (sm_75)");
    use cudarc::driver::sys::CUdevice_attribute::*;
    assert_eq!(context.attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).unwrap(), 64 << 10);
    assert_eq!(context.attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR).unwrap(), 1024);
    assert_eq!(context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).unwrap(), 3);
    context.load_module(ptx("7.0", "sm_75")).unwrap();
    assert_eq!(code(context.load_module(ptx("7.0", "sm_80"))), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
}

#[test]
fn little_memory() {
    passes("little_memory_alone", &[("MEMORY", "1M")]);
}

#[test]
#[ignore = "run by `little_memory`"]
fn little_memory_alone() {
    let context = context();
    let stream = context.default_stream();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let half = stream.alloc_zeros::<u8>(1 << 19).unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 19, 1 << 20));
    assert_eq!(code(stream.alloc_zeros::<u8>((1 << 19) + 1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let other = stream.alloc_zeros::<u8>(1 << 19).unwrap();
    drop((half, other));
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
}

#[test]
fn no_pools() {
    passes("no_pools_alone", &[("POOLS", "0"), ("LEAKS", "fail")]);
}

#[test]
#[ignore = "run by `no_pools`"]
fn no_pools_alone() {
    let context = context();
    assert!(!context.has_async_alloc());
    let stream = context.new_stream().unwrap();
    let device = stream.clone_htod(&[5_u8; 10]).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [5; 10]);
    // SAFETY: refused.
    let refused = unsafe { result::malloc_async(stream.cu_stream(), 16) };
    assert_eq!(code(refused), CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn injected_failures() {
    let failures =
        "alloc:2,launch:2=TIMEOUT,kernel:2=LAUNCH_TIMEOUT,copy:3=ERROR_UNKNOWN,module:2=CUDA_ERROR_OUT_OF_MEMORY";
    let output = isolated("injected_failures_alone", &[("FAIL", failures)]);
    assert!(!output.status.success(), "TIMEOUT is none of the driver's codes here");
    let failures = failures.replace("launch:2=TIMEOUT", "launch:2=LAUNCH_OUT_OF_RESOURCES");
    passes("injected_failures_alone", &[("FAIL", &failures)]);
}

#[test]
#[ignore = "run by `injected_failures`"]
fn injected_failures_alone() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let load = || context.load_module(ptx("7.0", "sm_75"));
    let module = load().unwrap();
    assert_eq!(code(load()), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    load().unwrap();

    // SAFETY: never read.
    let alloc = || unsafe { stream.alloc::<u8>(8) };
    let mut device = alloc().unwrap();
    assert_eq!(code(alloc()), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    alloc().unwrap();

    stream.memset_zeros(&mut device).unwrap();
    stream.memcpy_htod(&[1_u8; 8], &mut device).unwrap();
    assert_eq!(code(stream.memset_zeros(&mut device)), CUresult::CUDA_ERROR_UNKNOWN);
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [1; 8]);

    let kernel = module.load_function("k").unwrap();
    // SAFETY: a kernel that does nothing.
    let launch = || code(unsafe { stream.launch_builder(&kernel).launch(LaunchConfig::for_num_elems(1)) });
    assert_eq!(launch(), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(), CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    stream.synchronize().unwrap();
    // The second kernel: launched, and failed as it ran.
    assert_eq!(launch(), CUresult::CUDA_SUCCESS);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
    assert_eq!(launch(), CUresult::CUDA_ERROR_LAUNCH_TIMEOUT);
}

#[test]
fn leaks() {
    let report = passes("leaks_alone", &[("LEAKS", "report")]);
    assert!(report.contains("1 allocations of 12345 bytes were never freed"), "{report}");
    assert!(report.contains("leak: 12345 bytes at 0x"), "{report}");
    let failed = isolated("leaks_alone", &[("LEAKS", "fail")]);
    assert_eq!(failed.status.code(), Some(86));
    assert!(!passes("leaks_alone", &[]).contains("leak"));
    // What is freed is no leak, nor are module variables.
    passes("no_pools_alone", &[("POOLS", "0"), ("LEAKS", "fail")]);
}

#[test]
#[ignore = "run by `leaks`"]
fn leaks_alone() {
    let context = context();
    let stream = context.default_stream();
    let _kernel = kernel(&context, KERNELS, "count");
    let freed = stream.alloc_zeros::<u8>(777).unwrap();
    stream.alloc_zeros::<u8>(12345).unwrap().leak();
    drop(freed);
}

/// Only the sanitizer sees that memory was never written.
#[test]
fn the_sanitizer() {
    let report = passes("the_sanitizer_alone", &[]);
    assert!(report.contains("saxpy: read of uninitialised"), "{report}");
    assert!(report.contains("ld.global.f32"), "{report}");
    let off = isolated("the_sanitizer_alone", &[("SANITIZER", "off")]);
    assert!(!off.status.success());
    assert!(!String::from_utf8_lossy(&off.stderr).contains("uninitialised"));
}

#[test]
#[ignore = "run by `the_sanitizer`"]
fn the_sanitizer_alone() {
    let context = context();
    let stream = context.default_stream();
    let saxpy = kernel(&context, KERNELS, "saxpy");
    // SAFETY: read before anything wrote it, as the test wants.
    let (x, mut y) = unsafe { (stream.alloc::<f32>(10).unwrap(), stream.alloc::<f32>(10).unwrap()) };
    let mut launch = stream.launch_builder(&saxpy);
    launch.arg(&1.0_f32).arg(&x).arg(&mut y).arg(&10_u32);
    // SAFETY: the kernel's arguments.
    unsafe { launch.launch(LaunchConfig::for_num_elems(10)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn profiles() {
    let path = std::env::temp_dir().join(format!("simulated-cuda-profile-{}.jsonl", std::process::id()));
    let _ = std::fs::remove_file(&path);
    passes("profiles_alone", &[("PROFILE", path.to_str().unwrap())]);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "a line for each launch");
    let line = &lines[1];
    assert_eq!(line["kernel"], "saxpy");
    assert_eq!(line["grid"], serde_json::json!([2, 1, 1]));
    assert_eq!(line["block"], serde_json::json!([128, 1, 1]));
    // 256 floats of x and of y are read, and 256 written: 32 bytes in each sector.
    assert_eq!(line["global_loads"]["requests"], 16);
    assert_eq!(line["global_loads"]["sectors"], 64);
    assert_eq!(line["global_loads"]["bytes"], 2048);
    assert_eq!(line["global_stores"]["unique_bytes"], 1024);
    assert_eq!(line["opcodes"]["fma.rn.f32"]["warps"], 8);
    assert_eq!(line["opcodes"]["fma.rn.f32"]["threads"], 256);
    assert_eq!(line["classes"]["ffma"]["threads"], 256);
}

#[test]
#[ignore = "run by `profiles`"]
fn profiles_alone() {
    let context = context();
    let stream = context.default_stream();
    let saxpy = kernel(&context, KERNELS, "saxpy");
    let x = stream.alloc_zeros::<f32>(256).unwrap();
    let mut y = stream.alloc_zeros::<f32>(256).unwrap();
    for _ in 0..2 {
        let mut launch = stream.launch_builder(&saxpy);
        launch.arg(&1.0_f32).arg(&x).arg(&mut y).arg(&256_u32);
        let config = LaunchConfig { grid_dim: (2, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the kernel's arguments.
        unsafe { launch.launch(config) }.unwrap();
    }
    stream.synchronize().unwrap();
}

#[test]
fn a_variable_that_is_not_understood() {
    let output = isolated("profiles_alone", &[("MEMORY", "lots")]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("SIMULATED_CUDA_MEMORY=lots"), "{text}");
}

/// What a client is told that asks by itself, of some launches and not of others.
#[test]
fn profiles_to_a_function() {
    passes("profiles_to_a_function_alone", &[]);
}

#[test]
#[ignore = "run by `profiles_to_a_function`"]
fn profiles_to_a_function_alone() {
    type Receive = extern "C" fn(*mut c_void, *const c_char, usize);
    type Profile = unsafe extern "C" fn(Option<Receive>, *mut c_void) -> CUresult;
    extern "C" fn receive(user: *mut c_void, json: *const c_char, length: usize) {
        // SAFETY: `user` is the vector below, which nothing else uses meanwhile; the text has so many bytes.
        let (lines, json) =
            unsafe { (&mut *user.cast::<Vec<Value>>(), std::slice::from_raw_parts(json.cast::<u8>(), length)) };
        lines.push(serde_json::from_slice(json).unwrap());
    }
    let context = context();
    let stream = context.default_stream();
    let poke = kernel(&context, KERNELS, "saxpy");
    let x = stream.alloc_zeros::<f32>(32).unwrap();
    let mut y = stream.alloc_zeros::<f32>(32).unwrap();
    let mut launch = || {
        let mut launch = stream.launch_builder(&poke);
        launch.arg(&1.0_f32).arg(&x).arg(&mut y).arg(&32_u32);
        // SAFETY: the kernel's arguments.
        unsafe { launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 }) }
            .unwrap();
    };
    let mut address = std::ptr::null_mut();
    let mut lines: Vec<Value> = Vec::new();
    // SAFETY: the function that the README describes; `lines` outlives its use.
    unsafe {
        let found = std::ptr::null_mut();
        let name = c"simulatedCudaProfile".as_ptr();
        assert_eq!(sys::cuGetProcAddress_v2(name, &raw mut address, 12000, 0, found), CUresult::CUDA_SUCCESS);
        let profile: Profile = std::mem::transmute(address);
        launch();
        assert_eq!(profile(Some(receive), (&raw mut lines).cast()), CUresult::CUDA_SUCCESS);
        launch();
        assert_eq!(profile(None, std::ptr::null_mut()), CUresult::CUDA_SUCCESS);
        launch();
    }
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["kernel"], "saxpy");
    assert_eq!(lines[0]["global_stores"]["unique_bytes"], 128);
}

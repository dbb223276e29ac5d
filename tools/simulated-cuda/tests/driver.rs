//! A cudarc program that does all that a client of ours does.

mod driver_support;

use cudarc::driver::result;
use cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUfunction_attribute_enum as Attribute, CUresult, cuLaunchHostFunc,
    cuMemHostGetDevicePointer_v2, cuStreamQuery,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
};
use driver_support::{code, context, kernel, module, open, stream};
use half::{bf16, f16};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const KERNELS: &str = include_str!("driver_support/kernels.ptx");

fn saxpy(
    stream: &Arc<CudaStream>,
    kernel: &CudaFunction,
    a: f32,
    x: &CudaSlice<f32>,
    y: &mut CudaSlice<f32>,
) -> Result<(), DriverError> {
    let n = x.len() as u32;
    let mut launch = stream.launch_builder(kernel);
    launch.arg(&a).arg(x).arg(y).arg(&n);
    // SAFETY: the kernel's arguments, in its order.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.map(|_| ())
}

#[test]
fn names_and_limits() {
    open();
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    // The primary context, which other tests do not use.
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "Simulated CUDA device (sm_80)");
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 4 << 30);
    assert_eq!(context.uuid().unwrap().bytes.len(), 16);
    let attribute = |number| context.attribute(number).unwrap();
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y), 65535);
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 48 << 10);
    assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 163 << 10);
    assert!(context.has_async_alloc());
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free <= total && total == 4 << 30);
    let error = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap().to_str(), Ok("CUDA_ERROR_ILLEGAL_ADDRESS"));
    assert_eq!(error.error_string().unwrap().to_str(), Ok("an illegal memory access was encountered"));
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
}

#[test]
fn copies_come_back() {
    let stream = stream();
    let values: Vec<f16> = (0..1000).map(|i| f16::from_f32(i as f32)).collect();
    let mut device = stream.clone_htod(&values).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), values);
    let copy = stream.clone_dtod(&device).unwrap();
    stream.memset_zeros(&mut device).unwrap();
    assert!(stream.clone_dtoh(&device).unwrap().iter().all(|value| value.to_bits() == 0));
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), values);
    // Views: part of an allocation.
    let part = copy.slice(10..20);
    assert_eq!(stream.clone_dtoh(&part).unwrap(), values[10..20]);
    let mut into = device.slice_mut(5..15);
    stream.memcpy_dtod(&part, &mut into).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap()[5..15], values[10..20]);
    let empty: Vec<bf16> = Vec::new();
    let mut none = stream.alloc_zeros::<bf16>(1).unwrap();
    stream.memcpy_htod(&empty, &mut none.slice_mut(0..0)).unwrap();
}

#[test]
fn memset_of_every_width() {
    let stream = stream();
    let device = stream.alloc_zeros::<u8>(16).unwrap();
    let address = device.device_ptr(&stream).0;
    // SAFETY: within the allocation.
    unsafe {
        use cudarc::driver::sys::*;
        assert_eq!(cuMemsetD8Async(address, 1, 16, stream.cu_stream()), CUresult::CUDA_SUCCESS);
        assert_eq!(cuMemsetD16Async(address + 2, 0x0302, 1, stream.cu_stream()), CUresult::CUDA_SUCCESS);
        assert_eq!(cuMemsetD32_v2(address + 4, 0x0706_0504, 2), CUresult::CUDA_SUCCESS);
        assert_eq!(cuMemsetD16_v2(address + 1, 0, 1), CUresult::CUDA_ERROR_INVALID_VALUE, "misaligned");
        assert_eq!(cuMemsetD32_v2(address + 8, 0, 3), CUresult::CUDA_ERROR_INVALID_VALUE, "too long");
    }
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [1, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 1, 1, 1, 1]);
}

#[test]
fn a_kernel_runs() {
    let stream = stream();
    let kernel = kernel(stream.context(), KERNELS, "saxpy");
    // More than one block, and threads beyond the end.
    let n = 1500;
    let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (i as f32, 0.5 - i as f32)).unzip();
    let (device_x, mut device_y) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&y).unwrap());
    saxpy(&stream, &kernel, 3.0, &device_x, &mut device_y).unwrap();
    saxpy(&stream, &kernel, -1.0, &device_x, &mut device_y).unwrap();
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 2.0 * x + y).collect();
    assert_eq!(stream.clone_dtoh(&device_y).unwrap(), expected);
}

#[test]
fn streams_and_events_order_work() {
    let first = stream();
    let context = first.context();
    let kernel = kernel(context, KERNELS, "saxpy");
    let x = first.clone_htod(&[1.0_f32; 100]).unwrap();
    let mut y = first.alloc_zeros::<f32>(100).unwrap();
    let second = first.fork().unwrap();
    let start = first.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    for stream in [&first, &second, &first] {
        saxpy(stream, &kernel, 1.0, &x, &mut y).unwrap();
        let done = stream.record_event(None).unwrap();
        first.wait(&done).unwrap();
        second.wait(&done).unwrap();
    }
    let end = first.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() > 0.0);
    assert!(end.is_complete());
    assert_eq!(first.clone_dtoh(&y).unwrap(), [3.0; 100]);
    // Times need events that have them.
    let untimed = first.record_event(None).unwrap();
    assert_eq!(code(untimed.elapsed_ms(&end)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    let unrecorded = context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert_eq!(code(unrecorded.elapsed_ms(&end)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    assert!(unrecorded.is_complete());
}

#[test]
fn work_on_the_default_streams() {
    let context = context();
    for stream in [context.default_stream(), context.per_thread_stream()] {
        let kernel = kernel(&context, KERNELS, "saxpy");
        let x = stream.clone_htod(&[2.0_f32; 10]).unwrap();
        let mut y = stream.clone_htod(&[1.0_f32; 10]).unwrap();
        saxpy(&stream, &kernel, 4.0, &x, &mut y).unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [9.0; 10]);
    }
}

#[test]
fn dynamic_shared_memory_must_be_asked_for() {
    let stream = stream();
    let kernel = kernel(stream.context(), KERNELS, "reverse");
    let mut out = stream.alloc_zeros::<u32>(256).unwrap();
    let mut launch = |bytes| {
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: bytes };
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&mut out);
        // SAFETY: the kernel's argument; 256 words are enough of shared memory.
        code(unsafe { launch.launch(config) })
    };
    assert_eq!(launch(48 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(launch((48 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(kernel.set_attribute(attribute, (163 << 10) + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    kernel.set_attribute(attribute, 100 << 10).unwrap();
    assert_eq!(kernel.get_attribute(attribute).unwrap(), 100 << 10);
    assert_eq!(launch(100 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(launch((100 << 10) + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    let expected: Vec<u32> = (0..256).rev().collect();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), expected);
}

#[test]
fn attributes_of_functions() {
    let stream = stream();
    let module = module(stream.context(), KERNELS);
    let bounded = module.load_function("bounded").unwrap();
    assert_eq!(bounded.max_threads_per_block().unwrap(), 64);
    assert_eq!(bounded.shared_size_bytes().unwrap(), 1024);
    assert_eq!(bounded.ptx_version().unwrap(), 70);
    let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(bounded.get_attribute(dynamic).unwrap(), 47 << 10);
    assert_eq!(code(bounded.set_attribute(dynamic, 163 << 10)), CUresult::CUDA_ERROR_INVALID_VALUE, "1 KiB is taken");
    bounded.set_attribute(dynamic, 162 << 10).unwrap();
    let saxpy = module.load_function("saxpy").unwrap();
    assert_eq!(saxpy.max_threads_per_block().unwrap(), 1024);
    assert_eq!(saxpy.shared_size_bytes().unwrap(), 0);
    assert!((1..=255).contains(&saxpy.num_regs().unwrap()));
    assert_eq!(code(module.load_function("no_such_kernel")), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn occupancy_follows_the_limits() {
    let stream = stream();
    let kernel = kernel(stream.context(), KERNELS, "reverse");
    let active = |threads, bytes| kernel.occupancy_max_active_blocks_per_multiprocessor(threads, bytes, None).unwrap();
    // 2048 threads, 32 blocks, 164 KiB of which each block's system share is 1 KiB.
    assert_eq!(active(1024, 0), 2);
    assert_eq!(active(32, 0), 32);
    assert_eq!(active(128, 40 << 10), 4);
    assert_eq!(active(128, 49 << 10), 0);
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(attribute, 100 << 10).unwrap();
    assert_eq!(active(128, 100 << 10), 1);
    assert_eq!(kernel.occupancy_available_dynamic_smem_per_block(2, 128).unwrap(), 81 << 10);
    let (grid, block) = {
        extern "C" fn none(_: i32) -> usize {
            0
        }
        kernel.occupancy_max_potential_block_size(none, 0, 0, None).unwrap()
    };
    assert_eq!((grid, block), (16, 1024), "8 multiprocessors of 2 blocks");
}

#[test]
fn variables_of_modules() {
    let stream = stream();
    let (first, second) = (module(stream.context(), KERNELS), module(stream.context(), KERNELS));
    let count = first.load_function("count").unwrap();
    for _ in 0..2 {
        let config = LaunchConfig { grid_dim: (3, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: a kernel without arguments.
        unsafe { stream.launch_builder(&count).launch(config) }.unwrap();
    }
    let read = |module: &Arc<cudarc::driver::CudaModule>, name: &str| {
        let global = module.get_global(name, &stream).unwrap();
        stream.clone_dtoh(&global.as_view()).unwrap()
    };
    assert_eq!(read(&first, "counter"), 197_u32.to_le_bytes());
    assert_eq!(read(&second, "counter"), 5_u32.to_le_bytes());
    assert_eq!(read(&first, "factors"), [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    assert_eq!(code(first.get_global("no_such_variable", &stream)), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn pinned_host_memory() {
    let stream = stream();
    // SAFETY: written before it is read.
    let mut host = unsafe { stream.context().alloc_pinned::<u32>(64) }.unwrap();
    host.as_mut_slice().unwrap().iter_mut().zip(7..).for_each(|(value, i)| *value = i);
    let device = stream.clone_htod(&host).unwrap();
    host.as_mut_slice().unwrap().fill(0);
    stream.memcpy_dtoh(&device, &mut host).unwrap();
    assert!(host.as_slice().unwrap().iter().copied().eq(7..71));
}

/// Kernels reach pinned and managed memory by the host's address.
#[test]
fn host_memory_in_kernels() {
    let stream = stream();
    let context = stream.context();
    let kernel = kernel(context, KERNELS, "saxpy");
    // SAFETY: written before it is read.
    let mut x = unsafe { context.alloc_pinned::<f32>(64) }.unwrap();
    x.as_mut_slice().unwrap().fill(3.0);
    // SAFETY: any bits are an f32.
    let mut y = unsafe { context.alloc_unified::<f32>(64, true) }.unwrap();
    y.as_mut_slice().unwrap().fill(1.0);
    let mut x_address = 0;
    // SAFETY: a place for the address of live memory.
    unsafe {
        let host = x.as_mut_slice().unwrap().as_mut_ptr().cast();
        assert_eq!(cuMemHostGetDevicePointer_v2(&mut x_address, host, 0), CUresult::CUDA_SUCCESS);
    }
    let y_address = y.as_mut_slice().unwrap().as_mut_ptr() as u64;
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&2.0_f32).arg(&x_address).arg(&y_address).arg(&64_u32);
    // SAFETY: the kernel's arguments.
    unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(y.as_slice().unwrap(), [7.0; 64]);
}

#[test]
fn allocations_are_counted_and_checked() {
    let context = context();
    // Other tests allocate at the same time, in other contexts of the device: so much that it shows.
    let before = context.mem_get_info().unwrap().0;
    let stream = context.new_stream().unwrap();
    // SAFETY: never read.
    let device = unsafe { stream.alloc::<u8>(1 << 30) }.unwrap();
    assert!(context.mem_get_info().unwrap().0 < before - (1 << 29));
    drop(device);
    assert!(context.mem_get_info().unwrap().0 > before - (1 << 29));
    // SAFETY: never read.
    let too_much = unsafe { stream.alloc::<u8>(5 << 30) };
    assert_eq!(code(too_much), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    stream.synchronize().unwrap();
    // SAFETY: refused, or a live allocation's.
    unsafe {
        assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let address = result::malloc_sync(100).unwrap();
        assert_eq!(address % 256, 0);
        assert_eq!(code(result::free_sync(address + 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(address).unwrap();
        assert_eq!(code(result::free_sync(address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut host = [0_u8; 8];
        assert_eq!(code(result::memcpy_dtoh_sync(&mut host, address)), CUresult::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(0).unwrap();
    }
}

#[test]
fn threads_share_a_context() {
    let context = context();
    let module = module(&context, KERNELS);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (context, module) = (&context, &module);
            scope.spawn(move || {
                let stream = context.new_stream().unwrap();
                let kernel = module.load_function("saxpy").unwrap();
                for round in 0..5 {
                    let x = stream.clone_htod(&[i as f32; 200]).unwrap();
                    let mut y = stream.clone_htod(&[round as f32; 200]).unwrap();
                    saxpy(&stream, &kernel, 10.0, &x, &mut y).unwrap();
                    assert_eq!(stream.clone_dtoh(&y).unwrap(), [(10 * i + round) as f32; 200]);
                }
            });
        }
    });
}

/// A host function is the work that takes its time: what comes after it waits.
#[test]
fn a_host_function_that_waits() {
    unsafe extern "C" fn wait(data: *mut std::ffi::c_void) {
        // SAFETY: what the test passed, once.
        let receiver = unsafe { Box::from_raw(data.cast::<Receiver<()>>()) };
        receiver.recv().unwrap();
    }
    let first = stream();
    let second = first.context().new_stream().unwrap();
    let (sender, receiver) = channel();
    // SAFETY: the function makes no CUDA calls and takes the receiver.
    let launched = unsafe { cuLaunchHostFunc(first.cu_stream(), Some(wait), Box::into_raw(Box::new(receiver)).cast()) };
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    let done = first.record_event(None).unwrap();
    second.wait(&done).unwrap();
    // SAFETY: a stream.
    let query = |stream: &CudaStream| unsafe { cuStreamQuery(stream.cu_stream()) };
    assert_eq!(done.try_is_complete(), Ok(false));
    assert_eq!((query(&first), query(&second)), (CUresult::CUDA_ERROR_NOT_READY, CUresult::CUDA_ERROR_NOT_READY));
    sender.send(()).unwrap();
    assert_eq!(second.clone_dtoh(&second.clone_htod(&[4]).unwrap()).unwrap(), [4]);
    first.synchronize().unwrap();
    assert_eq!((query(&first), query(&second)), (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS));
    assert_eq!(done.try_is_complete(), Ok(true));
}

#[test]
fn host_functions_run_in_order() {
    let stream = stream();
    let (sender, receiver) = channel::<i32>();
    unsafe extern "C" fn send(data: *mut std::ffi::c_void) {
        // SAFETY: what the test passed, once.
        let message = unsafe { Box::from_raw(data.cast::<(Sender<i32>, i32)>()) };
        message.0.send(message.1).unwrap();
    }
    for i in 0..3 {
        let message = Box::into_raw(Box::new((sender.clone(), i)));
        // SAFETY: the function makes no CUDA calls and takes the message.
        let launched = unsafe { cuLaunchHostFunc(stream.cu_stream(), Some(send), message.cast()) };
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
    }
    stream.synchronize().unwrap();
    assert!(receiver.try_iter().eq(0..3));
}

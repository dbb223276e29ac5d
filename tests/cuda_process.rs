//! Environments of a CUDA device, each in a process of its own: what is missing, what fails, and what a stream that is being
//! captured forbids. On the simulated device only, which fails when it is told to.

mod common;

use std::process::{Command, Output};

use common::cuda::cuda;
use common::{Cp, Dense, Random, assert_same};
use cudarc::driver::{result, sys};
use trilinear::{
    Context, Device, DeviceTensor, Gradient, Grouped, Interaction, Result, Tensor, Unavailable, View, Wanted,
    WantedFactors,
};

/// Which case a child is to play; unset in the parent.
const CASE: &str = "TRILINEAR_TEST_CASE";

/// Runs `child` of this very test binary in a new process, on a simulated device with these properties. `None` where there is
/// none.
fn run(case: &str, variables: &[(&str, &str)]) -> Option<Output> {
    cuda().filter(|_| common::cuda::simulated())?;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .env_remove("TRILINEAR_DEVICE");
    Some(command.envs(variables.iter().copied()).output().unwrap())
}

/// What the child printed after `= `.
#[track_caller]
fn answer(case: &str, variables: &[(&str, &str)]) -> Option<String> {
    let output = run(case, variables)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.split_once("= "));
    let Some((_, answer)) = answer.filter(|_| output.status.success()) else {
        panic!("{case} {variables:?} {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr))
    };
    Some(answer.into())
}

/// Plays the case named by the environment; nothing in an ordinary run.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    if case == "driver-absent" {
        println!("= {:?}", Device::Cuda(0).check());
        return;
    }
    common::cuda::load_simulated().unwrap();
    match &*case {
        "check" => println!("= {:?} {:?}", Device::auto(), Device::Cuda(0).check()),
        "ordinal" => println!("= {:?}", Device::Cuda(3).check()),
        "calls" => println!("= {:?}", calls()),
        "twice" => println!("= {:?} {:?}", calls().map_err(|error| error.to_string()), calls()),
        "capture" => println!("= {:?}", capture()),
        "capture-pairs" => println!("= {:?}", capture_pairs()),
        "allocations" => println!("= {:?}", allocations()),
        other => panic!("no case {other}"),
    }
}

/// A forward and a backward pass with operands of the host.
fn calls() -> Result<()> {
    let data = Dense::<f32>::uniform([3, 5, 6, 4], 1);
    let layer = data.layer().with_context(Context::new(Device::Cuda(0))?);
    let y = layer.forward(data.z(), data.x())?;
    layer.backward(data.z(), data.x(), y.view()).map(drop)
}

/// The reasons why a device cannot be used, each its own.
#[test]
fn unavailable() {
    let error = |reason| Err::<(), _>(trilinear::Error::Device { device: Device::Cuda(0), reason });
    let Some(absent) = answer("driver-absent", &[]) else { return };
    assert_eq!(absent, format!("{:?}", error(Unavailable::NoDriver)));
    let check = |variables: &[(&str, &str)]| answer("check", variables).unwrap();
    let cpu = |reason| format!("Cpu {:?}", error(reason));
    assert_eq!(check(&[]), "Cuda(0) Ok(())");
    assert_eq!(check(&[("SIMULATED_CUDA_DEVICES", "0")]), cpu(Unavailable::NoDevice));
    let old = Unavailable::DriverTooOld { version: 10_020, needed: 11_000 };
    assert_eq!(check(&[("SIMULATED_CUDA_DRIVER_VERSION", "10020")]), cpu(old));
    let old = Unavailable::TooOld { capability: (7, 0), needed: (7, 5) };
    assert_eq!(check(&[("SIMULATED_CUDA_CAPABILITY", "7.0")]), cpu(old));
    let few = trilinear::Error::Device { device: Device::Cuda(3), reason: Unavailable::Ordinal { devices: 2 } };
    let found = answer("ordinal", &[("SIMULATED_CUDA_DEVICES", "2")]).unwrap();
    assert_eq!(found, format!("{:?}", Err::<(), _>(few)));
}

/// The oldest driver that is not too old takes the kernels' PTX.
#[test]
fn oldest_driver() {
    for (version, capability) in [("11000", "8.0"), ("11000", "7.5"), ("12000", "9.0"), ("13050", "12.0")] {
        let variables = [("SIMULATED_CUDA_DRIVER_VERSION", version), ("SIMULATED_CUDA_CAPABILITY", capability)];
        let Some(answer) = answer("calls", &variables) else { return };
        assert_eq!(answer, "Ok(())", "{variables:?}");
    }
}

/// What the driver refuses, and what goes wrong on the device: typed errors, and the next call is as good as the device.
#[test]
fn failures() {
    for (failure, first, second) in [
        // Room for more than is needed is tried first.
        ("alloc:1,alloc:2", "out of memory on `cuda:0`", "Ok(())"),
        ("launch:1", "kernel `contract_f32_16x128x32` could not be started on `cuda:0`", "Ok(())"),
        ("module:1", "kernel `contract_f32_16x128x32` cannot run on `cuda:0`", "Ok(())"),
        ("copy:2", "on `cuda:0` failed", "Ok(())"),
        ("kernel:1", "work on `cuda:0` went wrong", "Err(Fault { device: Cuda(0)"),
    ] {
        let Some(answer) = answer("twice", &[("SIMULATED_CUDA_FAIL", failure)]) else { return };
        let (text, after) = answer.split_once(") ").unwrap_or((&answer, ""));
        assert!(text.starts_with("Err(") && text.contains(first), "{failure}: {answer}");
        assert!(after.starts_with(second), "{failure}: {answer}");
    }
}

/// The stream of the driver's own making, and its context on this thread.
fn stream() -> sys::CUstream {
    // SAFETY: device 0 exists; the context and the stream live as long as the process.
    unsafe {
        let device = result::device::get(0).unwrap();
        result::ctx::set_current(result::primary_ctx::retain(device).unwrap()).unwrap();
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
    }
}

/// Dense and CP layers, forward and backward, captured in a graph and run again with other inputs.
fn capture() -> Result<()> {
    let device = Device::Cuda(0);
    let (context, stream) = (Context::new(device)?, stream());
    // SAFETY: the stream lives as long as the process.
    let context = unsafe { context.with_stream(stream.cast()) };
    let [n, i, j, k, r] = [20, 9, 17, 6, 5];
    let (dense, cp) = (Dense::<f32>::uniform([n, i, j, k], 1), Cp::<f32>::uniform([n, i, j, k, r], 2));
    let (w, a, b) = (DeviceTensor::from_view(device, dense.w())?, DeviceTensor::from_view(device, cp.a())?, cp.b());
    let (b, c) = (DeviceTensor::from_view(device, b)?, DeviceTensor::from_view(device, cp.c())?);
    let (mut z, x) = (DeviceTensor::from_view(device, dense.z())?, DeviceTensor::from_view(device, dense.x())?);
    let layers = [
        Interaction::dense(w.view())?.with_context(context),
        Interaction::cp(a.view(), b.view(), c.view())?.with_context(context),
    ];
    let zeros = |shape| DeviceTensor::<f32, 2>::zeros(device, shape);
    let mut y = [zeros([n, k])?, zeros([n, k])?];
    let mut dz = [zeros([n, i])?, zeros([n, i])?];
    let mut dw = DeviceTensor::<f32, 3>::zeros(device, [k, i, j])?;
    let mut da = zeros([k, r])?;
    let mut all = |z: View<'_, f32, 2>| -> Result<()> {
        for (index, layer) in layers.iter().enumerate() {
            layer.forward_into(z, x.view(), y[index].view_mut())?;
            let mut wanted = Wanted { z: Some(Gradient::write(dz[index].view_mut())), ..Wanted::<f32>::default() };
            match index {
                0 => wanted.w = Some(Gradient::write(dw.view_mut())),
                _ => wanted.cp = WantedFactors { a: Some(Gradient::write(da.view_mut())), ..WantedFactors::default() },
            }
            layer.backward_into(z, x.view(), y[index].view(), wanted)?;
        }
        Ok(())
    };
    all(z.view())?; // kernels are loaded and scratch is allocated by the first call with a shape
    context.synchronize()?;
    // SAFETY: the stream's work has run; the graph's operands outlive it.
    let graph = unsafe {
        result::stream::begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        all(z.view())?;
        let graph = result::stream::end_capture(stream).unwrap();
        let mut exec = std::ptr::null_mut();
        sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0).result().unwrap();
        exec
    };
    let other: Vec<f32> = Random(77).uniform(n * i);
    z.copy_from(View::new(&other, [n, i])?)?;
    // SAFETY: as above.
    unsafe { result::graph::launch(graph, stream).unwrap() };
    context.synchronize()?;
    let found: Vec<Tensor<f32, 2>> =
        [&y[0], &y[1], &dz[0], &dz[1], &da].into_iter().map(DeviceTensor::to_tensor).collect::<Result<_>>()?;
    for tensor in y.iter_mut().chain(&mut dz).chain([&mut da]) {
        let zeros = Tensor::zeros(tensor.shape())?;
        tensor.copy_from(zeros.view())?;
    }
    let mut all = |z: View<'_, f32, 2>| -> Result<()> {
        for (index, layer) in layers.iter().enumerate() {
            layer.forward_into(z, x.view(), y[index].view_mut())?;
            let mut wanted = Wanted { z: Some(Gradient::write(dz[index].view_mut())), ..Wanted::<f32>::default() };
            if index == 1 {
                wanted.cp = WantedFactors { a: Some(Gradient::write(da.view_mut())), ..WantedFactors::default() };
            }
            layer.backward_into(z, x.view(), y[index].view(), wanted)?;
        }
        Ok(())
    };
    all(z.view())?;
    context.synchronize()?;
    for (found, expected) in found.iter().zip([&y[0], &y[1], &dz[0], &dz[1], &da]) {
        assert!(found.as_slice().iter().any(|&value| value != 0.0));
        assert_same(found.as_slice(), expected.to_tensor()?.as_slice(), "replayed");
    }
    Ok(())
}

/// All pairs of CP with U and V, whose sum has a constant, captured and run again with another z; layers row by row, whose index
/// is sent when the call is made, are refused.
fn capture_pairs() -> Result<()> {
    let device = Device::Cuda(0);
    let (context, stream) = (Context::new(device)?, stream());
    // SAFETY: the stream lives as long as the process.
    let context = unsafe { context.with_stream(stream.cast()) };
    let [p, s, t, i, j, k, r] = [2, 3, 4, 5, 3, 2, 3];
    let cp = Cp::<f32>::integers([p * s, i, j, k, r], 2);
    let xs: Vec<f32> = Random(3).integers(p * t * j, 2);
    let (a, b) = (DeviceTensor::from_view(device, cp.a())?, DeviceTensor::from_view(device, cp.b())?);
    let (c, u) = (DeviceTensor::from_view(device, cp.c())?, DeviceTensor::from_view(device, cp.rest.u())?);
    let v = DeviceTensor::from_view(device, cp.rest.v())?;
    let mut z = DeviceTensor::from_view(device, View::new(&cp.rest.z, [p, s, i])?)?;
    let x = DeviceTensor::from_view(device, View::new(&xs, [p, t, j])?)?;
    let layer = Interaction::cp(a.view(), b.view(), c.view())?.with_u(u.view())?.with_v(v.view())?;
    let layer = layer.with_context(context);
    let mut y = DeviceTensor::<f32, 4>::zeros(device, [p, s, t, k])?;
    layer.forward_pairs_into(z.view(), x.view(), y.view_mut())?;
    context.synchronize()?;
    // SAFETY: the stream's work has run; the graph's operands outlive it.
    let graph = unsafe {
        result::stream::begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        layer.forward_pairs_into(z.view(), x.view(), y.view_mut())?;
        let graph = result::stream::end_capture(stream).unwrap();
        let mut exec = std::ptr::null_mut();
        sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0).result().unwrap();
        exec
    };
    let other: Vec<f32> = Random(77).integers(p * s * i, 2);
    z.copy_from(View::new(&other, [p, s, i])?)?;
    // SAFETY: as above.
    unsafe { result::graph::launch(graph, stream).unwrap() };
    context.synchronize()?;
    let found = y.to_tensor()?;
    layer.forward_pairs_into(z.view(), x.view(), y.view_mut())?;
    context.synchronize()?;
    assert!(found.as_slice().iter().any(|&value| value != 0.0));
    assert_same(found.as_slice(), y.to_tensor()?.as_slice(), "replayed");

    let layers = [layer; 2];
    let grouped = Grouped::new(&layers)?;
    let (z, x) = (DeviceTensor::from_view(device, cp.rest.z())?, DeviceTensor::from_view(device, cp.rest.x())?);
    let mut y = DeviceTensor::<f32, 2>::zeros(device, [p * s, k])?;
    let index = [0, 1, 0, 1, 1, 0];
    grouped.forward_into(&index, z.view(), x.view(), y.view_mut())?;
    context.synchronize()?;
    // SAFETY: as above.
    unsafe {
        result::stream::begin_capture(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        let refused = grouped.forward_into(&index, z.view(), x.view(), y.view_mut());
        assert!(matches!(refused, Err(trilinear::Error::Driver { .. })), "{refused:?}");
        assert!(result::stream::end_capture(stream).is_err());
    }
    grouped.forward_into(&index, z.view(), x.view(), y.view_mut())
}

/// Bytes of the device that are taken by the second and third call of a shape: none.
fn allocations() -> Result<usize> {
    let device = Device::Cuda(0);
    let context = Context::new(device)?;
    let cp = Cp::<f32>::uniform([20, 9, 17, 6, 5], 2);
    let (a, b) = (DeviceTensor::from_view(device, cp.a())?, DeviceTensor::from_view(device, cp.b())?);
    let c = DeviceTensor::from_view(device, cp.c())?;
    let (z, x) = (DeviceTensor::from_view(device, cp.rest.z())?, DeviceTensor::from_view(device, cp.rest.x())?);
    let mut y = DeviceTensor::<f32, 2>::zeros(device, [20, 6])?;
    let layer = Interaction::cp(a.view(), b.view(), c.view())?.with_context(context);
    let _stream = stream(); // a context for this thread
    let mut taken = 0;
    for call in 0..3 {
        let (before, _) = result::mem_get_info().unwrap();
        layer.forward_into(z.view(), x.view(), y.view_mut())?;
        context.synchronize()?;
        let (after, _) = result::mem_get_info().unwrap();
        match call {
            0 => assert!(before > after, "the first call allocates scratch"),
            _ => taken += before - after,
        }
    }
    Ok(taken)
}

#[test]
fn graphs() {
    for case in ["capture", "capture-pairs"] {
        let Some(answer) = answer(case, &[]) else { return };
        assert_eq!(answer, "Ok(())", "{case}");
    }
}

#[test]
fn later_calls_allocate_nothing() {
    if let Some(answer) = answer("allocations", &[]) {
        assert_eq!(answer, "Ok(0)");
    }
}

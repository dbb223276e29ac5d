//! Every mistake a caller can make is the error that names it.

use trilinear::{
    Algorithm, Axes, Axis, Context, Device, Error, Interaction, Result, SimdLevel, Tensor, Unavailable, View, ViewMut,
    machine, reference,
};

/// K, I, J and N.
const SIZES: [usize; 4] = [2, 3, 4, 5];

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<f32, D> {
    Tensor::zeros(shape).unwrap()
}

#[track_caller]
fn assert_shape<V>(result: Result<V>, operand: &'static str, axis: &'static str, expected: usize, actual: usize) {
    let error = result.err();
    assert_eq!(error, Some(Error::Shape { operand, axis, expected, actual }));
    let text = error.unwrap().to_string();
    for part in [operand.to_string(), axis.to_string(), expected.to_string(), actual.to_string()] {
        assert!(text.contains(&part), "{text}");
    }
}

#[test]
fn weights() {
    let [k, i, j, _] = SIZES;
    let w = zeros([k, i, j]);
    let layer = Interaction::dense(w.view()).unwrap();
    for layer in [layer, Interaction::linear(k, i, j).unwrap()] {
        assert_shape(layer.with_u(zeros([k + 1, i]).view()), "u", "outputs", k, k + 1);
        assert_shape(layer.with_u(zeros([k, i + 1]).view()), "u", "features", i, i + 1);
        assert_shape(layer.with_u(zeros([k, j]).view()), "u", "features", i, j);
        assert_shape(layer.with_v(zeros([k - 1, j]).view()), "v", "outputs", k, k - 1);
        assert_shape(layer.with_v(zeros([k, i]).view()), "v", "features", j, i);
        assert_shape(layer.with_b(zeros([k + 7]).view()), "b", "outputs", k, k + 7);
        assert_shape(layer.with_b(zeros([0]).view()), "b", "outputs", k, 0);
        // Only CP has components.
        assert_shape(layer.with_lambda(zeros([1]).view()), "lambda", "rank", 0, 1);
    }
    assert_shape(Interaction::torch_bilinear(w.view(), Some(zeros([k + 1]).view())), "b", "outputs", k, k + 1);
    assert!(Interaction::torch_bilinear(w.view(), None).is_ok());
}

#[test]
fn factors() {
    let [k, i, j, _] = SIZES;
    let (a, b, c) = (zeros([k, 6]), zeros([i, 6]), zeros([j, 6]));
    assert_shape(Interaction::cp(a.view(), zeros([i, 5]).view(), c.view()), "b", "rank", 6, 5);
    assert_shape(Interaction::cp(a.view(), b.view(), zeros([j, 7]).view()), "c", "rank", 6, 7);
    assert_shape(Interaction::cp(zeros([k, 9]).view(), b.view(), c.view()), "b", "rank", 9, 6);
    let layer = Interaction::cp(a.view(), b.view(), c.view()).unwrap();
    assert_eq!((layer.outputs(), layer.z_features(), layer.x_features(), layer.rank()), (k, i, j, Some(6)));
    assert_shape(layer.with_lambda(zeros([5]).view()), "lambda", "rank", 6, 5);
    assert_shape(layer.with_u(zeros([k, j]).view()), "u", "features", i, j);
    assert_shape(layer.with_v(zeros([k, i]).view()), "v", "features", j, i);
    assert_shape(layer.with_b(zeros([i]).view()), "b", "outputs", k, i);
}

/// The same checks stand before every form.
#[test]
fn inputs_and_output() {
    let [k, i, j, n] = SIZES;
    let (w, a, b, c) = (zeros([k, i, j]), zeros([k, 6]), zeros([i, 6]), zeros([j, 6]));
    let dense = Interaction::dense(w.view()).unwrap();
    let cp = Interaction::cp(a.view(), b.view(), c.view()).unwrap();
    let prepared = dense.prepare().unwrap();
    for layer in [dense, cp, Interaction::linear(k, i, j).unwrap(), prepared.layer()] {
        let (z, x) = (zeros([n, i]), zeros([n, j]));
        let (z, x) = (z.view(), x.view());
        assert_shape(layer.forward(zeros([n, i + 1]).view(), x), "z", "features", i, i + 1);
        assert_shape(layer.forward(z, zeros([n, j - 1]).view()), "x", "features", j, j - 1);
        assert_shape(layer.forward(x, z), "z", "features", i, j);
        assert_shape(layer.forward(zeros([n + 1, i]).view(), x), "z", "rows", n, n + 1);
        assert_shape(layer.forward(z, zeros([0, j]).view()), "z", "rows", 0, n);
        assert_shape(layer.forward_into(z, x, zeros([n + 1, k]).view_mut()), "y", "rows", n, n + 1);
        assert_shape(layer.forward_into(z, x, zeros([n, k + 1]).view_mut()), "y", "outputs", k, k + 1);
        assert_shape(layer.forward_into(z, x, zeros([k, n]).view_mut()), "y", "rows", n, k);
        assert_shape(layer.forward_into(z.transpose(), x, zeros([n, k]).view_mut()), "z", "features", i, n);
        assert_shape(reference::forward(&layer, zeros([n, i + 1]).view(), x), "z", "features", i, i + 1);
        assert_shape(reference::forward(&layer, z, zeros([n, j + 1]).view()), "x", "features", j, j + 1);
        assert_shape(reference::forward(&layer, zeros([n + 1, i]).view(), x), "z", "rows", n, n + 1);
    }
}

#[test]
fn shared_context() {
    let [k, i, j, n] = SIZES;
    let (w, a, b, c) = (zeros([k, i, j]), zeros([k, 6]), zeros([i, 6]), zeros([j, 6]));
    let dense = Interaction::dense(w.view()).unwrap();
    let cp = Interaction::cp(a.view(), b.view(), c.view()).unwrap();
    for layer in [dense, cp, Interaction::linear(k, i, j).unwrap()] {
        let (z, x) = (zeros([n, i]), zeros([n, 6, j]));
        let (z, x) = (z.view(), x.view());
        assert_shape(layer.forward_shared(zeros([n, i + 1]).view(), x), "z", "features", i, i + 1);
        assert_shape(layer.forward_shared(z, zeros([n, 6, j + 1]).view()), "x", "features", j, j + 1);
        assert_shape(layer.forward_shared(zeros([n + 1, i]).view(), x), "z", "groups", n, n + 1);
        let into = |shape| layer.forward_shared_into(z, x, zeros(shape).view_mut());
        assert_shape(into([n + 1, 6, k]), "y", "groups", n, n + 1);
        assert_shape(into([n, 7, k]), "y", "rows", 6, 7);
        assert_shape(into([n, 6, k + 1]), "y", "outputs", k, k + 1);
        assert_shape(layer.generate(zeros([n, j]).view()), "z", "features", i, j);
        let into = |weights, bias| layer.generate_into(z, zeros(weights).view_mut(), zeros(bias).view_mut());
        assert_shape(into([n + 1, k, j], [n, k]), "weights", "groups", n, n + 1);
        assert_shape(into([n, k + 1, j], [n, k]), "weights", "outputs", k, k + 1);
        assert_shape(into([n, k, j + 1], [n, k]), "weights", "features", j, j + 1);
        assert_shape(into([n, k, j], [n + 1, k]), "bias", "groups", n, n + 1);
        assert_shape(into([n, k, j], [n, k + 1]), "bias", "outputs", k, k + 1);
        assert_eq!(into([n, k, j], [n, k]), Ok(()));
    }
}

#[test]
fn lengths() {
    let mut data = [0.0f32; 7];
    let error = Error::Length { expected: 6, actual: 7 };
    assert_eq!(View::new(&data, [2, 3]).err(), Some(error.clone()));
    assert_eq!(View::new(&data, [6]).err(), Some(error.clone()));
    assert_eq!(ViewMut::new(&mut data, [3, 1, 2]).err(), Some(error.clone()));
    assert_eq!(Tensor::from_vec(data.to_vec(), [2, 3]).err(), Some(error));
    assert_eq!(View::new(&data, [0, 3]).err(), Some(Error::Length { expected: 0, actual: 7 }));
    assert_eq!(View::new(&data, []).err(), Some(Error::Length { expected: 1, actual: 7 }));
}

#[test]
fn bounds() {
    let mut data = [0.0f32; 10];
    let mut check = |offset, shape: [usize; 2], strides: [isize; 2], reach| {
        let expected = Some(Error::OutOfBounds { len: 10, reach });
        assert_eq!(View::strided(&data, offset, shape, strides).err(), expected);
        assert_eq!(ViewMut::strided(&mut data, offset, shape, strides).err(), expected);
    };
    check(0, [2, 3], [8, 1], (0, 10));
    check(1, [2, 3], [7, 1], (1, 10));
    check(10, [1, 1], [1, 1], (10, 10));
    check(0, [2, 3], [5, -1], (-2, 5));
    check(1, [2, 2], [-3, 1], (-2, 2));
    check(11, [0, 4], [1, 1], (11, 11));
    // Offsets beyond isize do not wrap round to a place inside.
    let (most, least) = (isize::MAX, isize::MIN);
    check(0, [3, 1], [most, 1], (0, 2 * most as i128));
    check(5, [3, 1], [least, 1], (5 + 2 * least as i128, 5));
    check(usize::MAX, [1, 1], [1, 1], (usize::MAX as i128, usize::MAX as i128));
    let huge = usize::MAX as i128 - 1;
    check(9, [usize::MAX, 2], [least, most], (9 + huge * least as i128, 9 + most as i128));
    // At the very edge, and nothing at all one past the end.
    assert!(View::strided(&data, 9, [2, 2], [-5, -4]).is_ok());
    assert!(View::strided(&data, 10, [0, 4], [1, 1]).is_ok());
    assert!(View::strided(&data, 0, [usize::MAX, usize::MAX], [0, 0]).is_ok());
}

#[test]
fn overlaps() {
    let mut data = [0.0f32; 64];
    let mut check = |shape: [usize; 2], strides: [isize; 2], sound| {
        let result = ViewMut::strided(&mut data, 20, shape, strides).map(|_| ());
        let overlap = Error::Overlap { shape: shape.to_vec(), strides: strides.to_vec() };
        assert_eq!(result, if sound { Ok(()) } else { Err(overlap.clone()) });
        let mut data = [0.0f32; 64];
        // SAFETY: the same elements, which are in bounds.
        let raw = unsafe { ViewMut::from_raw_parts(data.as_mut_ptr().wrapping_add(20), shape, strides) };
        assert_eq!(raw.map(|_| ()), if sound { Ok(()) } else { Err(overlap) });
    };
    check([3, 2], [0, 1], false);
    check([3, 2], [1, 0], false);
    check([3, 2], [1, 1], false);
    check([3, 4], [3, 1], false);
    check([3, 4], [-3, 1], false);
    check([3, 4], [4, 1], true);
    check([3, 4], [-4, -1], true);
    check([3, 4], [1, 3], true);
    check([4, 3], [1, -4], true);
    check([1, 4], [0, 1], true);
    check([3, 1], [2, 0], true);
    check([0, 4], [0, 0], true);
}

#[test]
fn ranges() {
    let data = [0.0f32; 12];
    let view = View::new(&data, [3, 4]).unwrap();
    let slice = |axis, range: (usize, usize)| view.slice(axis, range.0..range.1).err();
    let broken = |axis, len, range| Some(Error::Range { axis, len, range });
    assert_eq!(slice(0, (1, 4)), broken(0, 3, (1, 4)));
    assert_eq!(slice(1, (5, 5)), broken(1, 4, (5, 5)));
    assert_eq!(slice(1, (2, 1)), broken(1, 4, (2, 1)));
    assert_eq!(slice(2, (0, 0)), broken(2, 0, (0, 0)));
    assert_eq!(slice(0, (0, usize::MAX)), broken(0, 3, (0, usize::MAX)));
    assert_eq!(slice(0, (3, 3)), None);
    assert_eq!(view.broadcast(0, 5).err(), broken(0, 3, (0, 5)));
    assert_eq!(view.broadcast(9, 5).err(), broken(9, 0, (0, 5)));
    assert_eq!(view.slice(0, 1..2).unwrap().broadcast(0, 5).unwrap().get([4, 3]), Some(0.0));
    assert_eq!(view.get([3, 0]), None);
    assert_eq!(view.get([0, usize::MAX]), None);
}

#[test]
fn axes() {
    let given = |order| Axes::new(order).err();
    let named = |text: &str| Some(Error::Axes { given: text.into() });
    assert_eq!(given([Axis::Out, Axis::Out, Axis::X]), named("[out, out, x]"));
    assert_eq!(given([Axis::Z, Axis::X, Axis::Z]), named("[z, x, z]"));
    assert_eq!(given([Axis::Out, Axis::X, Axis::X]), named("[out, x, x]"));
    let data = [0.0f32; 6];
    let view = View::new(&data, [1, 2, 3]).unwrap();
    assert_eq!(view.permute([0, 1, 1]).err(), named("[0, 1, 1]"));
    assert_eq!(view.permute([0, 1, 3]).err(), named("[0, 1, 3]"));
    assert_eq!(view.permute([2, 0, 1]).unwrap().shape(), [3, 1, 2]);
}

#[test]
fn too_large() {
    let too_large = Some(Error::TooLarge { what: "a tensor" });
    let one = [0.0f32];
    assert_eq!(View::new(&one, [usize::MAX, 2]).err(), too_large);
    assert_eq!(View::new(&one, [1 << 40, 1 << 40, 1 << 40]).err(), too_large);
    // Fits a usize, but not the isize of offsets.
    assert_eq!(View::new(&one, [usize::MAX]).err(), too_large);
    assert_eq!(View::new(&one, [1 << 32, 1 << 31]).err(), too_large);
    assert_eq!(ViewMut::new(&mut [0.0f32], [usize::MAX, 2]).err(), too_large);
    assert_eq!(Tensor::<f32, 2>::zeros([usize::MAX, 2]).err(), too_large);
    // A zero elsewhere makes it empty.
    assert!(View::<f32, 3>::new(&[], [usize::MAX, 0, usize::MAX]).is_ok());
    let vast = View::strided(&one, 0, [1 << 30, 1 << 30, 1 << 30], [0, 0, 0]).unwrap();
    assert_eq!(Interaction::dense(vast).err(), too_large);
    // An output for so many rows that it cannot be addressed, or not be allocated.
    let layer = Interaction::<f32>::linear(1 << 40, 1, 1).unwrap();
    let rows = |n| View::strided(&one, 0, [n, 1], [0, 0]).unwrap();
    assert_eq!(layer.forward(rows(1 << 40), rows(1 << 40)).err(), too_large);
    assert_eq!(layer.forward(rows(1 << 22), rows(1 << 22)).err(), Some(Error::OutOfMemory { bytes: usize::MAX }));
    assert_eq!(layer.forward(rows(1 << 20), rows(1 << 20)).err(), Some(Error::OutOfMemory { bytes: 1 << 62 }));
    // More rows than any memory has.
    let rows = rows(usize::MAX);
    assert_eq!(layer.forward(rows, rows).err(), Some(Error::TooLarge { what: "an axis" }));
}

#[test]
fn devices() {
    assert_eq!(Device::Cpu.check(), Ok(()));
    for ordinal in [0, 7] {
        for error in [Device::Cuda(ordinal).check().err(), Context::new(Device::Cuda(ordinal)).err()] {
            // A machine may have a device; those that it does not have say why.
            let Some(error) = error else { continue };
            let Error::Device { device, reason } = error else { panic!("{error:?}") };
            assert_eq!(device, Device::Cuda(ordinal));
            assert!(!reason.to_string().is_empty());
        }
    }
    let parsed = |text: &str| text.parse::<Device>();
    assert_eq!(parsed("cpu"), Ok(Device::Cpu));
    assert_eq!(parsed("cuda"), Ok(Device::Cuda(0)));
    assert_eq!(parsed("cuda:3"), Ok(Device::Cuda(3)));
    assert_eq!(parsed("auto"), Ok(Device::auto()));
    for text in
        ["", "CPU", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:0:0", "cpu:0", " cpu", "cuda:99999999999999999999"]
    {
        let expected =
            Error::Parse { what: "device".into(), given: text.into(), expected: "auto, cpu, cuda or cuda:N" };
        assert_eq!(parsed(text), Err(expected));
    }
    for device in [Device::Cpu, Device::Cuda(12)] {
        assert_eq!(device.to_string().parse(), Ok(device));
    }
}

#[test]
fn simd_levels() {
    let best = SimdLevel::best();
    assert!(best.is_available() && SimdLevel::Portable.is_available());
    for level in SimdLevel::ALL {
        assert_eq!(level.to_string().parse(), Ok(level));
        let context = Context::new(Device::Cpu).unwrap().with_simd(level);
        match level.is_available() {
            true => assert_eq!(context.unwrap().simd(), level),
            false => assert_eq!(context, Err(Error::Simd { level, available: best })),
        }
    }
    for text in ["", "AVX2", "avx", "sse2", "avx512f"] {
        let expected = "portable, neon, avx2 or avx512";
        let error = Error::Parse { what: "SIMD level".into(), given: text.into(), expected };
        assert_eq!(text.parse::<SimdLevel>(), Err(error));
    }
}

#[test]
fn threads() {
    assert_eq!(Context::new(Device::Cpu).unwrap().with_threads(0).err(), Some(Error::Threads));
    assert_eq!(machine::peak_flops::<f32>(&Context::new(Device::Cpu).unwrap(), 0).err(), Some(Error::Threads));
    let error = machine::read_bandwidth(&Context::new(Device::Cpu).unwrap(), 0, 1 << 20).err();
    assert_eq!(error, Some(Error::Threads));
}

/// Every variant says what was wrong in words.
#[test]
fn texts() {
    let level = SimdLevel::Neon;
    let device = Device::Cuda(1);
    let unavailable = |reason| Error::Device { device, reason };
    let cases = [
        (Error::Length { expected: 6, actual: 7 }, vec!["6", "7"]),
        (Error::OutOfBounds { len: 10, reach: (-2, 11) }, vec!["10", "-2", "11"]),
        (Error::Overlap { shape: vec![3, 2], strides: vec![0, 1] }, vec!["[3, 2]", "[0, 1]"]),
        (Error::Range { axis: 1, len: 4, range: (2, 9) }, vec!["axis 1", "4", "2..9"]),
        (Error::Axes { given: "[z, z, x]".into() }, vec!["[z, z, x]", "once"]),
        (Error::Layout { reason: "because" }, vec!["because"]),
        (Error::TooLarge { what: "a tensor" }, vec!["a tensor"]),
        (Error::OutOfMemory { bytes: 123 }, vec!["123 bytes"]),
        (unavailable(Unavailable::NotBuilt), vec!["cuda:1", "feature `cuda`"]),
        (unavailable(Unavailable::NoDriver), vec!["cuda:1", "libcuda", "not installed"]),
        (unavailable(Unavailable::DriverTooOld { version: 10_020, needed: 11_000 }), vec!["10.2", "11.0"]),
        (unavailable(Unavailable::DriverFailed { reason: "mismatch".into() }), vec!["cuda:1", "mismatch"]),
        (unavailable(Unavailable::NoDevice), vec!["cuda:1", "no device"]),
        (unavailable(Unavailable::Ordinal { devices: 1 }), vec!["cuda:1", "only 1"]),
        (unavailable(Unavailable::TooOld { capability: (6, 1), needed: (7, 5) }), vec!["cuda:1", "6.1", "7.5"]),
        (Error::Place { operand: "z", expected: device, actual: Device::Cpu }, vec!["`z`", "cuda:1", "cpu"]),
        (Error::DeviceMemory { device, bytes: 77 }, vec!["cuda:1", "77 bytes"]),
        (Error::Kernel { device, kernel: "gram", reason: "old".into() }, vec!["cuda:1", "gram", "old"]),
        (Error::Launch { device, kernel: "gram", reason: "no room".into() }, vec!["cuda:1", "gram", "no room"]),
        (Error::Fault { device, reason: "address".into() }, vec!["cuda:1", "address", "process"]),
        (Error::Driver { device, what: "copying", reason: "broken".into() }, vec!["cuda:1", "copying", "broken"]),
        (Error::Simd { level, available: SimdLevel::Avx2 }, vec!["neon", "avx2"]),
        (Error::Algorithm { algorithm: Algorithm::Stream, reason: "too many" }, vec!["stream", "too many"]),
        (Error::Parse { what: "X".into(), given: "y".into(), expected: "z" }, vec!["X", "`y`", "z"]),
        (Error::Threads, vec!["at least 1"]),
    ];
    for (error, parts) in cases {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        assert_eq!(boxed.to_string(), text);
    }
}

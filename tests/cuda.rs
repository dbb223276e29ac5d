//! What only a CUDA device has: its tensors, views of its memory, streams, graphs, plans. The operations are compared with the
//! reference by the tests of the processor, which run on the device too (see common/cuda.rs).

mod common;

use common::cuda::cuda;
use common::layout::{Embedded, Layout};
use common::{Cp, Dense, Random, assert_close, assert_exact, assert_same};
use trilinear::{
    Context, Device, DeviceTensor, Element, Error, Gradient, Grouped, GroupedWanted, Interaction, Reduction, Saved,
    Tensor, View, ViewMut, Wanted, WantedFactors, reference,
};

/// A copy on the device.
fn upload<T: Element, const D: usize>(context: &Context, view: View<'_, T, D>) -> DeviceTensor<T, D> {
    DeviceTensor::from_view(context.device(), view).unwrap()
}

/// Any shape there and back, from and to any strides.
#[test]
fn tensors_keep_their_values() {
    let Some(context) = cuda() else { return };
    let device = context.device();
    let values: Vec<f32> = Random(1).uniform(3 * 4 * 5);
    for (name, layout) in Layout::all() {
        let from = Embedded::input(&values, [3, 4, 5], layout);
        let tensor = DeviceTensor::from_view(device, from.view()).unwrap();
        assert_eq!((tensor.shape(), tensor.device(), tensor.view().device()), ([3, 4, 5], device, device));
        assert_same(tensor.to_tensor().unwrap().as_slice(), &values, name);
        let mut to = Embedded::output([3, 4, 5], layout);
        tensor.copy_to(to.view_mut()).unwrap();
        assert_same(&to.finish(name), &values, name);
    }
    let mut zeros = DeviceTensor::<f64, 2>::zeros(device, [7, 9]).unwrap();
    assert_eq!(zeros.to_tensor().unwrap().as_slice(), [0.0; 63]);
    let more: Vec<f64> = Random(2).uniform(63);
    zeros.copy_from(View::new(&more, [7, 9]).unwrap()).unwrap();
    assert_eq!(zeros.to_tensor().unwrap().as_slice(), more);
    let shape = |expected, actual| Error::Shape { operand: "view", axis: "elements of an axis", expected, actual };
    assert_eq!(zeros.copy_from(View::new(&more, [9, 7]).unwrap()), Err(shape(7, 9)));
    let empty = DeviceTensor::<f32, 2>::zeros(device, [0, 5]).unwrap();
    assert_eq!(empty.to_tensor().unwrap().shape(), [0, 5]);
    let huge = DeviceTensor::<f32, 2>::zeros(device, [1 << 20, 1 << 30]).unwrap_err();
    assert_eq!(huge, Error::DeviceMemory { device, bytes: 1 << 52 });
    let vast = DeviceTensor::<f32, 2>::zeros(device, [usize::MAX, 3]).unwrap_err();
    assert_eq!(vast, Error::TooLarge { what: "a tensor" });
}

/// Operands on the device give the bits that operands of the host give, and nothing waits for them in between.
fn on_the_device<T: Element>() {
    let Some(context) = cuda() else { return };
    for sizes @ [n, i, j, k] in [[1, 5, 7, 3], [20, 9, 17, 6]] {
        let data = Dense::<T>::integers(sizes, 3);
        let layer = data.layer().with_context(context);
        let expected = layer.forward(data.z(), data.x()).unwrap();
        assert_exact(expected.as_slice(), &data.exact(&layer), "host");
        let (w, u, v) = (upload(&context, data.w()), upload(&context, data.u()), upload(&context, data.v()));
        let (b, z, x) = (upload(&context, data.b()), upload(&context, data.z()), upload(&context, data.x()));
        let on_device = Interaction::dense(w.view()).unwrap().with_u(u.view()).unwrap().with_v(v.view()).unwrap();
        let on_device = on_device.with_b(b.view()).unwrap().with_context(context);
        let mut y = DeviceTensor::<T, 2>::zeros(context.device(), [n, k]).unwrap();
        on_device.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
        assert_same(y.to_tensor().unwrap().as_slice(), expected.as_slice(), "device");
        // Prepared weights are on the device too.
        let prepared = on_device.prepare().unwrap();
        let mut again = DeviceTensor::<T, 2>::zeros(context.device(), [n, k]).unwrap();
        prepared.layer().forward_into(z.view(), x.view(), again.view_mut()).unwrap();
        assert_same(again.to_tensor().unwrap().as_slice(), expected.as_slice(), "prepared");

        let g: Vec<T> = Random(5).integers(n * k, 2);
        let g = View::new(&g, [n, k]).unwrap();
        let expected = layer.backward(data.z(), data.x(), g).unwrap();
        let g = upload(&context, g);
        let device = context.device();
        let mut dz = DeviceTensor::<T::Accumulator, 2>::zeros(device, [n, i]).unwrap();
        let mut dx = DeviceTensor::<T::Accumulator, 2>::zeros(device, [n, j]).unwrap();
        let mut dw = DeviceTensor::<T::Accumulator, 3>::zeros(device, [k, i, j]).unwrap();
        let wanted = Wanted {
            z: Some(Gradient::write(dz.view_mut())),
            x: Some(Gradient::add(dx.view_mut())),
            w: Some(Gradient::write(dw.view_mut())),
            ..Wanted::default()
        };
        on_device.backward_into(z.view(), x.view(), g.view(), wanted).unwrap();
        assert_same(dz.to_tensor().unwrap().as_slice(), expected.z.as_slice(), "dz");
        assert_same(dx.to_tensor().unwrap().as_slice(), expected.x.as_slice(), "dx");
        assert_same(dw.to_tensor().unwrap().as_slice(), expected.w.unwrap().as_slice(), "dw");
    }
}

/// All layouts of operands on the device, with guard bands around the results.
fn strided<T: Element>() {
    let Some(context) = cuda() else { return };
    let sizes @ [n, i, j, k] = [9, 7, 6, 5];
    let data = Dense::<T>::integers(sizes, 5);
    let exact = data.exact(&data.layer());
    for ((name, flat), (_, cube)) in Layout::all().into_iter().zip(Layout::all()) {
        let [z, x, u, v] = [(&data.z, [n, i]), (&data.x, [n, j]), (&data.u, [k, i]), (&data.v, [k, j])]
            .map(|(values, shape)| OnDevice::new(&context, Embedded::input(values, shape, flat)));
        let w = OnDevice::new(&context, Embedded::input(&data.w, [k, i, j], cube));
        let mut y = OnDevice::new(&context, Embedded::output([n, k], flat));
        let layer = Interaction::dense(w.view()).unwrap().with_u(u.view()).unwrap().with_v(v.view()).unwrap();
        let b = upload(&context, data.b());
        let layer = layer.with_b(b.view()).unwrap().with_context(context);
        layer.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
        assert_exact(&y.finish(name), &exact, name);
    }
}

/// A laid-out tensor in a larger buffer, all of it on the device.
struct OnDevice<T, const D: usize> {
    host: Embedded<T, D>,
    buffer: DeviceTensor<T, 1>,
}

impl<T: Element, const D: usize> OnDevice<T, D> {
    fn new(context: &Context, host: Embedded<T, D>) -> Self {
        let buffer = upload(context, View::vector(host.buffer()));
        OnDevice { host, buffer }
    }

    fn address(&self) -> u64 {
        self.buffer.address() + (self.host.offset() * size_of::<T>()) as u64
    }

    fn view(&self) -> View<'_, T, D> {
        let like = self.host.view();
        // SAFETY: the buffer is like the host's, within which the view is.
        unsafe { View::from_device(self.address(), self.buffer.device(), like.shape(), like.strides()) }.unwrap()
    }

    fn view_mut(&mut self) -> ViewMut<'_, T, D> {
        let like = self.host.view();
        // SAFETY: as in `view`, and the buffer is borrowed mutably.
        unsafe { ViewMut::from_device(self.address(), self.buffer.device(), like.shape(), like.strides()) }.unwrap()
    }

    #[track_caller]
    fn finish(mut self, what: &str) -> Vec<T> {
        self.host.set_buffer(self.buffer.to_tensor().unwrap().into_vec());
        self.host.finish(what)
    }
}

/// All pairs with all operands on the device.
fn pairs_on_the_device<T: Element>() {
    let Some(context) = cuda() else { return };
    let (device, [p, s, t, i, j, k]) = (context.device(), [2, 3, 4, 5, 3, 2]);
    let data = Dense::<T>::integers([p * s, i, j, k], 3);
    let (xs, gs): (Vec<T>, Vec<T>) = (Random(5).integers(p * t * j, 2), Random(6).integers(p * s * t * k, 1));
    let z = View::new(&data.z, [p, s, i]).unwrap();
    let (x, g) = (View::new(&xs, [p, t, j]).unwrap(), View::new(&gs, [p, s, t, k]).unwrap());
    let layer = data.layer().with_context(context);
    let (w, u, v) = (upload(&context, data.w()), upload(&context, data.u()), upload(&context, data.v()));
    let b = upload(&context, data.b());
    let there = Interaction::dense(w.view()).unwrap().with_b(b.view()).unwrap().with_context(context);
    let (core, there) = (there, there.with_u(u.view()).unwrap().with_v(v.view()).unwrap());
    let expected = layer.forward_pairs(z, x).unwrap();
    let of_core = data.core().with_b(data.b()).unwrap().with_context(context);
    let reduced = of_core.forward_pairs_reduced(z, x, Reduction::Sum).unwrap();
    let gradients = layer.backward_pairs(z, x, g).unwrap();
    let (z, x, g) = (upload(&context, z), upload(&context, x), upload(&context, g));
    let mut y = DeviceTensor::<T, 4>::zeros(device, [p, s, t, k]).unwrap();
    there.forward_pairs_into(z.view(), x.view(), y.view_mut()).unwrap();
    assert_same(y.to_tensor().unwrap().as_slice(), expected.as_slice(), "y");
    let mut y = DeviceTensor::<T, 3>::zeros(device, [s, t, k]).unwrap();
    core.forward_pairs_reduced_into(z.view(), x.view(), Reduction::Sum, y.view_mut()).unwrap();
    assert_same(y.to_tensor().unwrap().as_slice(), reduced.as_slice(), "reduced");
    let mut dz = DeviceTensor::<T::Accumulator, 3>::zeros(device, [p, s, i]).unwrap();
    let mut dx = DeviceTensor::<T::Accumulator, 3>::zeros(device, [p, t, j]).unwrap();
    let mut dv = DeviceTensor::<T::Accumulator, 2>::zeros(device, [k, j]).unwrap();
    let wanted = Wanted {
        z: Some(Gradient::write(dz.view_mut())),
        x: Some(Gradient::add(dx.view_mut())),
        v: Some(Gradient::write(dv.view_mut())),
        ..Wanted::default()
    };
    there.backward_pairs_into(z.view(), x.view(), g.view(), wanted).unwrap();
    assert_same(dz.to_tensor().unwrap().as_slice(), gradients.z.as_slice(), "dz");
    assert_same(dx.to_tensor().unwrap().as_slice(), gradients.x.as_slice(), "dx");
    assert_same(dv.to_tensor().unwrap().as_slice(), gradients.v.unwrap().as_slice(), "dv");
}

/// Layers for each row with all operands on the device; in their order, and in any.
fn layers_on_the_device<T: Element>() {
    let Some(context) = cuda() else { return };
    let (device, [n, i, j, k]) = (context.device(), [11, 9, 8, 3]);
    let data = Dense::<T>::integers([n, i, j, 2 * k], 3);
    let (w, z, x) = (View::new(&data.w, [2, k, i, j]).unwrap(), data.z(), data.x());
    let gs: Vec<T> = Random(6).integers(n * k, 1);
    let g = View::new(&gs, [n, k]).unwrap();
    for index in [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1], [1; 11]] {
        let all = |w| {
            let layers = Grouped::layers(w).unwrap().into_iter();
            layers.map(|layer| layer.with_context(context)).collect::<Vec<_>>()
        };
        let layers = all(w);
        let expected = Grouped::new(&layers).unwrap().forward(&index, z, x).unwrap();
        let gradients = Grouped::new(&layers).unwrap().backward(&index, z, x, g).unwrap();
        let w = upload(&context, w);
        let layers = all(w.view());
        let grouped = Grouped::new(&layers).unwrap();
        let (z, x, g) = (upload(&context, z), upload(&context, x), upload(&context, g));
        let mut y = DeviceTensor::<T, 2>::zeros(device, [n, k]).unwrap();
        grouped.forward_into(&index, z.view(), x.view(), y.view_mut()).unwrap();
        assert_same(y.to_tensor().unwrap().as_slice(), expected.as_slice(), "y");
        let mut dz = DeviceTensor::<T::Accumulator, 2>::zeros(device, [n, i]).unwrap();
        let mut dx = DeviceTensor::<T::Accumulator, 2>::zeros(device, [n, j]).unwrap();
        let mut dw = DeviceTensor::<T::Accumulator, 4>::zeros(device, [2, k, i, j]).unwrap();
        let of_layers = dw.view_mut().unstack().map(|to| Wanted { w: Some(Gradient::write(to)), ..Wanted::default() });
        let mut of_layers: Vec<_> = of_layers.collect();
        let mut z_and_x = |of_layers: &mut [Wanted<'_, T>]| {
            let wanted = GroupedWanted {
                z: Some(Gradient::write(dz.view_mut())),
                x: Some(Gradient::add(dx.view_mut())),
                layers: of_layers,
            };
            grouped.backward_into(&index, z.view(), x.view(), g.view(), wanted).unwrap();
        };
        z_and_x(&mut of_layers);
        // What was wanted still is: again, of dx twice.
        z_and_x(&mut of_layers);
        drop(of_layers);
        assert_same(dz.to_tensor().unwrap().as_slice(), gradients.z.as_slice(), "dz");
        let twice: Vec<_> =
            gradients.x.as_slice().iter().map(|dx| T::Accumulator::from_f64(2.0 * dx.to_f64())).collect();
        assert_same(dx.to_tensor().unwrap().as_slice(), &twice, "dx");
        let of_layers = gradients.layers.iter().flat_map(|layer| layer.w.as_ref().unwrap().as_slice());
        let of_layers: Vec<_> = of_layers.copied().collect();
        assert_same(dw.to_tensor().unwrap().as_slice(), &of_layers, "dw");
    }
}

for_each_dtype!(on_the_device, strided, pairs_on_the_device, layers_on_the_device);

/// An operand in the wrong place is named, whatever the call, and nothing is read there.
#[test]
fn places() {
    let Some(context) = cuda() else { return };
    let device = context.device();
    let host = Context::new(Device::Cpu).unwrap();
    let [n, i, j, k] = [3, 4, 5, 2];
    let data = Dense::<f32>::uniform([n, i, j, k], 1);
    let (w, z, x) = (upload(&context, data.w()), upload(&context, data.z()), upload(&context, data.x()));
    let mut y = DeviceTensor::<f32, 2>::zeros(device, [n, k]).unwrap();
    let mut y_host = Tensor::<f32, 2>::zeros([n, k]).unwrap();
    let wrong = |operand, expected, actual| Err(Error::Place { operand, expected, actual });
    let on_host = |operand| wrong(operand, device, Device::Cpu);
    let on_device = |operand| wrong(operand, Device::Cpu, device);

    // What reads on the host.
    assert_eq!((w.view().get([0, 0, 0]), w.view().as_slice()), (None, None));
    assert_eq!(Tensor::from_view(w.view()).map(drop), on_device("view"));
    let layer = Interaction::dense(w.view()).unwrap();
    assert_eq!(layer.with_context(host).to_dense().map(drop), on_device("w"));
    assert_eq!(reference::forward(&layer, data.z(), data.x()).map(drop), on_device("w"));
    assert_eq!(reference::forward(&data.core(), z.view(), data.x()).map(drop), on_device("z"));
    assert_eq!(reference::backward(&data.core(), data.z(), data.x(), y.view()).map(drop), on_device("view"));
    let of_device = DeviceTensor::from_view(device, z.view()).map(drop);
    assert_eq!(of_device, on_device("view"));
    // A context of the processor.
    let layer = layer.with_context(host);
    assert_eq!(layer.forward(data.z(), data.x()).map(drop), on_device("w"));
    assert_eq!(layer.plan(3).map(drop), on_device("w"));
    assert_eq!(layer.prepare().map(drop), on_device("w"));
    let plain = data.core().with_context(host);
    assert_eq!(plain.forward(z.view(), data.x()).map(drop), on_device("z"));
    assert_eq!(plain.forward_into(data.z(), data.x(), y.view_mut()), on_device("y"));
    assert_eq!(plain.generate(z.view()).map(drop), on_device("z"));
    assert_eq!(plain.backward(data.z(), data.x(), y.view()).map(drop), on_device("g"));
    // One of the device: all here, or all there.
    let layer = layer.with_context(context);
    assert_eq!(layer.forward_into(data.z(), x.view(), y.view_mut()), on_host("z"));
    assert_eq!(layer.forward_into(z.view(), x.view(), y_host.view_mut()), on_host("y"));
    assert_eq!(layer.forward(z.view(), x.view()).map(drop), on_host("y"));
    assert_eq!(data.core().with_context(context).forward_into(z.view(), x.view(), y.view_mut()), on_host("w"));
    // SAFETY: nothing reads it, because there is no such device.
    let elsewhere =
        unsafe { View::<f32, 2>::from_device(z.address(), Device::Cuda(5), [n, i], [i as isize, 1]) }.unwrap();
    let error = layer.forward_into(elsewhere, x.view(), y.view_mut());
    assert_eq!(error, wrong("z", device, Device::Cuda(5)));
    // All of several layers.
    let layers = [data.core(), layer].map(|layer| layer.with_context(context));
    let forward =
        |layers: &[Interaction<'_, f32>], z, x| Grouped::new(layers).unwrap().forward(&[0, 1, 1], z, x).map(drop);
    assert_eq!(forward(&layers, data.z(), data.x()), on_device("w"));
    assert_eq!(forward(&layers, z.view(), x.view()), on_host("y"));
    // What was saved on a device is of use there only.
    let cp = Cp::<f32>::uniform([n, i, j, k, 3], 1);
    let mut saved = Saved::default();
    cp.layer().with_context(context).forward_saving(cp.rest.z(), cp.rest.x(), &mut saved).unwrap();
    let mut dz = Tensor::<f32, 2>::zeros([n, i]).unwrap();
    let wanted = Wanted { z: Some(Gradient::write(dz.view_mut())), saved: Some(&saved), ..Wanted::default() };
    let error = cp.layer().with_context(host).backward_into(cp.rest.z(), cp.rest.x(), y_host.view(), wanted);
    assert_eq!(error, on_device("saved"));
}

/// Compute capability 8.0 brought it.
fn has_tf32(context: &Context) -> bool {
    !context.device().describe().unwrap().contains("compute capability 7.")
}

/// At most two launches forward, three backward; the plan tells them.
#[test]
fn plans() {
    let Some(context) = cuda() else { return };
    let data = Dense::<f32>::uniform([100, 20, 30, 40], 1);
    let plan = data.layer().with_context(context).plan(100).unwrap();
    assert_eq!((plan.device, plan.launches.len()), (context.device(), 1));
    assert_eq!(plan.flops, 2 * 100 * (20 * 30 * 40 + 20 * 40 + 30 * 40));
    assert!(plan.kernel.starts_with("contract_f32_") && plan.to_string().contains(plan.kernel), "{plan}");
    let tf32 = data.layer().with_context(context.allow_tf32(true)).plan(100).unwrap();
    assert_eq!(tf32.kernel.starts_with("contract_tf32_"), has_tf32(&context), "{tf32}");
    let cp = Cp::<f32>::uniform([100, 20, 30, 40, 5], 1);
    let plan = cp.layer().with_context(context).plan(100).unwrap();
    assert_eq!(plan.launches.len(), 2, "{plan}");
    assert!(plan.scratch >= 100 * 5 * 4);
}

/// As many launches for many problems as for few.
#[test]
fn plans_of_pairs() {
    let Some(context) = cuda() else { return };
    let [i, j, k] = [20, 30, 4];
    let data = Dense::<f32>::uniform([1, i, j, k], 1);
    let cp = Cp::<f32>::uniform([1, i, j, k, 5], 1);
    for (layer, launches) in [(data.core(), 2), (data.layer(), 3), (data.linear(), 3), (cp.core(), 4), (cp.layer(), 6)]
    {
        let plan = |problems| layer.with_context(context).plan_pairs(problems, 6, 7).unwrap();
        let (few, many) = (plan(2), plan(500));
        assert_eq!((few.launches.len(), many.launches.len()), (launches, launches), "{many}");
        assert_eq!(few.device, context.device());
        let host = layer.with_context(Context::new(Device::Cpu).unwrap()).plan_pairs(500, 6, 7).unwrap();
        assert_eq!((many.flops, many.bytes, many.algorithm), (host.flops, host.bytes, host.algorithm));
    }
}

/// tf32 only where it is allowed: the result is then that of operands rounded to 10 bits of mantissa.
#[test]
fn tf32() {
    let Some(context) = cuda().filter(has_tf32) else { return };
    let data = Dense::<f32>::uniform([17, 9, 20, 6], 4);
    let exact = data.exact(&data.layer());
    let y = |context: Context| data.layer().with_context(context).forward(data.z(), data.x()).unwrap();
    let (plain, allowed) = (y(context), y(context.allow_tf32(true)));
    assert_close(plain.as_slice(), &exact, "f32");
    let largest = |y: &[f32]| {
        let values = y.iter().zip(exact.value.as_slice()).zip(exact.magnitude.as_slice());
        values.map(|((y, exact), size)| (f64::from(*y) - exact).abs() / size).fold(0.0, f64::max)
    };
    let (f32_error, tf32_error) = (largest(plain.as_slice()), largest(allowed.as_slice()));
    // Two operands rounded, each by at most half a unit of 2⁻¹⁰, beside the roundings of f32.
    assert!(tf32_error > 4.0 * f32_error && tf32_error < 2f64.powi(-10) * 1.1, "{f32_error:e} {tf32_error:e}");
}

/// Scratch is at most a block of hidden layers, or of W′, and what splits of a sum leave, however many rows there are.
#[test]
fn scratch_is_bounded() {
    const MOST: usize = 160 << 20;
    let Some(context) = cuda() else { return };
    let element = [0.0f32];
    let zeros = |rows| View::strided(&element, 0, [rows, 500], [0, 0]).unwrap();
    let cp = Interaction::cp(zeros(50), zeros(60), zeros(70)).unwrap().with_context(context);
    let w = View::strided(&element, 0, [500, 60, 700], [0, 0, 0]).unwrap();
    let dense = Interaction::dense(w).unwrap().with_context(context);
    let plans = [
        cp.plan(1 << 20),
        cp.plan_shared(1 << 10, 1 << 10),
        cp.plan_shared(4, 1 << 18),
        dense.plan_shared(1 << 10, 50),
        dense.plan_pairs(100, 50, 60),
        dense.plan_pairs(1, 1 << 12, 1 << 12),
        cp.plan_pairs(1 << 10, 100, 100),
        cp.plan_pairs(1, 1 << 12, 1 << 20),
    ];
    for plan in plans.map(Result::unwrap) {
        assert!(plan.scratch <= MOST && plan.launches.len() > 3, "{plan}");
    }
}

/// Whether f32 times f16 or bf16 is multiplied on tensor cores, in two parts: on devices for data centres.
fn multiplies_in_two_parts(context: &Context) -> bool {
    let name = context.device().describe().unwrap();
    ["8.0", "9.0", "10.0", "10.3"].iter().any(|capability| name.contains(&format!("compute capability {capability},")))
}

/// f16 and bf16 CP is multiplied on tensor cores, but not a few rows.
#[test]
fn cp_on_tensor_cores() {
    fn kernels<T: Element>(context: Context, rows: usize) -> [&'static str; 2] {
        let cp = Cp::<T>::uniform([rows, 20, 30, 40, 5], 1);
        let plan = cp.layer().with_context(context).plan(rows).unwrap();
        <[_; 2]>::try_from(plan.launches.iter().map(|launch| launch.kernel).collect::<Vec<_>>()).unwrap()
    }
    let Some(context) = cuda() else { return };
    let projection = if multiplies_in_two_parts(&context) { "contract_tf32x2_" } else { "contract_f32_128" };
    let [hidden, last] = kernels::<trilinear::f16>(context, 17);
    assert!(hidden.starts_with("hidden_f16_") && last.starts_with(projection), "{hidden} {last}");
    let [hidden, last] = kernels::<trilinear::bf16>(context, 17);
    let expected = if has_tf32(&context) { "hidden_bf16_" } else { "hidden_f32_" };
    assert!(hidden.starts_with(expected) && last.starts_with(projection), "{hidden} {last}");
    for [hidden, last] in [kernels::<trilinear::f16>(context, 16), kernels::<f32>(context, 17)] {
        assert!(hidden.starts_with("hidden_f32_") && last.starts_with("contract_f32_"), "{hidden} {last}");
    }
    let [hidden, last] = kernels::<f32>(context.allow_tf32(true), 17);
    let kind = if has_tf32(&context) { "tf32" } else { "f32" };
    assert!(hidden.starts_with(&format!("hidden_{kind}_")) && last.starts_with(&format!("contract_{kind}_")));
}

/// H of CP has the 24 bits of f32, at any size: of its two components nothing but the last of them is left.
#[test]
fn cp_keeps_its_hidden_layer() {
    /// y of (1, δ)·B and (1, δ)·C, where P = 1 + δ, 1 + 2δ and Q = 1 + δ, 1: H = 1 + 2δ + δ², 1 + 2δ.
    fn check<T: Element>(context: Context, size: i32) {
        let [one, zero] = [1.0, 0.0].map(T::from_f64);
        let (delta, c) = (T::from_f64(2f64.powi(-11)), T::from_f64(2f64.powi(-size)));
        let n = 20;
        let inputs: Vec<T> = [one, delta].repeat(n);
        let (b, c) = ([one, one, one, T::from_f64(2.0)], [c, c, c, zero]);
        let a = [2f64.powi(size), -2f64.powi(size)].map(T::from_f64);
        let factor = |values, rows| View::new(values, [rows, 2]).unwrap();
        let layer = Interaction::cp(factor(&a, 1), factor(&b, 2), factor(&c, 2)).unwrap().with_context(context);
        let y = layer.forward(factor(&inputs, n), factor(&inputs, n)).unwrap();
        assert_eq!(y.as_slice(), vec![T::from_f64(2f64.powi(-22)); n], "{} 2^-{size}", T::DTYPE);
    }
    let Some(context) = cuda() else { return };
    for size in [0, 10] {
        check::<trilinear::f16>(context, size);
    }
    for size in [0, 60, 115] {
        check::<trilinear::bf16>(context, size);
    }
}

/// And so have the gradients of its factors: dA = gᵀH of rows whose H differ in the last of these bits, with either sign.
#[test]
fn cp_gradients_keep_the_hidden_layer() {
    /// (1, δ)·B and (1, δ)·C are P = Q = 1 + δ, (1, 2δ)·B and (1, 0)·C are 1 + 2δ and 1: H = 1 + 2δ + δ², 1 + 2δ.
    fn check<T: Element>(context: Context, size: i32) {
        let [one, zero, delta, twice] = [1.0, 0.0, 2f64.powi(-11), 2f64.powi(-10)].map(T::from_f64);
        let [c, g] = [2f64.powi(-size), 2f64.powi(size)].map(T::from_f64);
        let n = 20;
        let (z, x) = ([one, delta, one, twice].repeat(n / 2), [one, delta, one, zero].repeat(n / 2));
        let g = [g, T::from_f64(-g.to_f64())].repeat(n / 2);
        let (a, b, c) = ([one], [one; 2], [c; 2]);
        let matrix = |values, rows, columns| View::new(values, [rows, columns]).unwrap();
        let layer = Interaction::cp(matrix(&a, 1, 1), matrix(&b, 2, 1), matrix(&c, 2, 1)).unwrap();
        let found = layer.with_context(context).backward(matrix(&z, n, 2), matrix(&x, n, 2), matrix(&g, n, 1)).unwrap();
        let da = found.cp.unwrap().a.as_slice()[0].to_f64();
        assert_eq!(da, 10.0 * 2f64.powi(-22), "{} 2^-{size}", T::DTYPE);
    }
    let Some(context) = cuda() else { return };
    for size in [0, 10] {
        check::<trilinear::f16>(context, size);
    }
    for size in [0, 60, 115] {
        check::<trilinear::bf16>(context, size);
    }
}

/// The ends of f32, and what is beyond.
#[test]
fn cp_of_extremes() {
    /// y of P and Q that are z·B, with z = (1, −2⁻¹³), and C.
    fn y<T: Element>(context: Context, [a, b, c]: [f64; 3]) -> Vec<f64> {
        let n = 20;
        let z: Vec<T> = [1.0, -(2f64.powi(-13))].map(T::from_f64).repeat(n);
        let (a, b, c) = ([T::from_f64(a)], [T::from_f64(b); 2], [T::from_f64(c)]);
        let factor = |values, rows| View::new(values, [rows, 1]).unwrap();
        let layer = Interaction::cp(factor(&a, 1), factor(&b, 2), factor(&c, 1)).unwrap().with_context(context);
        let ones = vec![T::from_f64(1.0); n];
        let y = layer.forward(View::new(&z, [n, 2]).unwrap(), factor(&ones, n)).unwrap();
        y.as_slice().iter().map(|y| y.to_f64()).collect()
    }
    let Some(context) = cuda() else { return };
    let (infinity, large) = (f64::INFINITY, 2f64.powi(64));
    // H = 2¹²⁸ − 2¹¹⁵, which tf32 would round to infinity; −∞ and ∞ of either factor.
    assert_eq!(y::<trilinear::bf16>(context, [2f64.powi(-100), large, large]), [2f64.powi(28); 20]);
    assert_eq!(y::<trilinear::bf16>(context, [1.0, large, -2.0 * large]), [-infinity; 20]);
    assert_eq!(y::<trilinear::bf16>(context, [infinity, 1.0, 1.0]), [infinity; 20]);
    assert_eq!(y::<trilinear::f16>(context, [-infinity, 1.0, 1.0]), [-infinity; 20]);
    assert!(y::<trilinear::f16>(context, [infinity, 0.0, 1.0]).iter().all(|y| y.is_nan()));
    assert!(y::<trilinear::f16>(context, [f64::NAN, 1.0, 1.0]).iter().all(|y| y.is_nan()));
}

/// Weights of the host are copied without their gaps, and so the plan is that of weights without.
#[test]
fn plans_of_copied_weights() {
    let Some(context) = cuda() else { return };
    let [k, i, j] = [3, 200, 64];
    let w = vec![0.0f32; 2 * k * i * j];
    let plan = |w: View<'_, f32, 3>| Interaction::dense(w).unwrap().with_context(context).plan(100).unwrap();
    let gaps = |w| {
        let (rows, cubes) = (2 * j as isize, (2 * i * j) as isize);
        View::strided(w, 0, [k, i, j], [cubes, rows, 2]).unwrap()
    };
    assert_eq!(plan(gaps(&w)), plan(View::new(&w[..k * i * j], [k, i, j]).unwrap()));
    // On the device they keep them.
    let there = upload(&context, View::vector(&w));
    // SAFETY: within the tensor.
    let there = unsafe { View::from_device(there.address(), there.device(), [k, i, j], gaps(&w).strides()).unwrap() };
    assert_ne!(plan(there), plan(gaps(&w)));
}

/// Gradients that are sums of nothing are written, and nothing beside them: with no rows those of weights, without
/// components those of everything that W is in.
#[test]
fn gradients_of_nothing() {
    let Some(context) = cuda() else { return };
    let [i, j, k] = [4, 5, 2];
    let tensor = |len: usize, value: f32| upload(&context, View::vector(&vec![value; len]));
    for (n, rank) in [(3, 0), (0, 3)] {
        let values = tensor(40, 1.0);
        let ones = |shape: [usize; 2]| {
            // SAFETY: within the tensor.
            unsafe { View::<f32, 2>::from_device(values.address(), values.device(), shape, [shape[1] as isize, 1]) }
                .unwrap()
        };
        let layer =
            Interaction::<f32>::cp(ones([k, rank]), ones([i, rank]), ones([j, rank])).unwrap().with_context(context);
        let [dz, dw, db, da, dlambda] =
            [n * i, k * i * j, k, k * rank, rank].map(|len| (tensor(2 * len, f32::NAN), len));
        fn to<'a, const D: usize>(
            tensor: &'a (DeviceTensor<f32, 1>, usize),
            shape: [usize; D],
        ) -> Gradient<'a, f32, D> {
            let mut strides = [2; D];
            for axis in (0..D - 1).rev() {
                strides[axis] = strides[axis + 1] * shape[axis + 1] as isize;
            }
            // SAFETY: every other element of the tensor, which nothing else uses.
            Gradient::write(
                unsafe { ViewMut::from_device(tensor.0.address(), tensor.0.device(), shape, strides) }.unwrap(),
            )
        }
        let cp = WantedFactors {
            a: Some(to(&da, [k, rank])),
            lambda: Some(to(&dlambda, [rank])),
            ..WantedFactors::default()
        };
        let none = n == 0;
        let wanted = Wanted {
            z: Some(to(&dz, [n, i])),
            w: none.then(|| to(&dw, [k, i, j])),
            b: none.then(|| to(&db, [k])),
            cp,
            ..Wanted::default()
        };
        layer.backward_into(ones([n, i]), ones([n, j]), ones([n, k]), wanted).unwrap();
        for (tensor, written) in [(dz, true), (dw, none), (db, none), (da, true), (dlambda, true)] {
            for (index, value) in tensor.0.to_tensor().unwrap().as_slice().iter().enumerate() {
                assert_eq!(*value == 0.0, written && index % 2 == 0, "{n} {rank} {index} {value}");
            }
        }
    }
}

//! What only a CUDA device has: its tensors, views of its memory, streams, graphs, plans. The operations are compared with the
//! reference by the tests of the processor, which run on the device too (see common/cuda.rs).

mod common;

use common::cuda::cuda;
use common::layout::{Embedded, Layout};
use common::{Cp, Dense, Random, assert_close, assert_exact, assert_same};
use trilinear::{
    Context, Device, DeviceTensor, Element, Error, Gradient, Interaction, Saved, Tensor, View, ViewMut, Wanted,
    reference,
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

for_each_dtype!(on_the_device, strided);

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

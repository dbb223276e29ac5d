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

for_each_dtype!(on_the_device);

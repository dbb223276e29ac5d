//! Strided operands: whatever the strides, the values are what counts.

mod common;

use common::layout::{Embedded, Layout};
use common::{Cp, Dense, assert_close, assert_exact, assert_same, contexts, for_each_way};
use trilinear::{Algorithm, Axes, Axis, Element, Interaction, Tensor, View, reference};

/// N, I, J, K: for Stream with and without whole products, and for the batch algorithms at and off their tiles.
const SIZES: [[usize; 4]; 6] =
    [[1, 7, 9, 5], [3, 40, 37, 3], [4, 6, 18, 20], [5, 17, 16, 4], [35, 13, 33, 7], [64, 8, 8, 8]];

/// With W as it is, the layout of z, x and y changes nothing, not even the rounding.
fn inputs_and_output<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::uniform(sizes, seed as u64);
        for (name, layout) in Layout::all() {
            let z = Embedded::input(&data.z, [n, i], layout);
            let x = Embedded::input(&data.x, [n, j], layout);
            for_each_way(&data.layer(), n, |layer, what| {
                let plain = layer.forward(data.z(), data.x()).unwrap();
                let what = format!("{sizes:?} {name} {what}");
                assert_same(layer.forward(z.view(), data.x()).unwrap().as_slice(), plain.as_slice(), &what);
                assert_same(layer.forward(data.z(), x.view()).unwrap().as_slice(), plain.as_slice(), &what);
                let mut y = Embedded::output([n, k], layout);
                layer.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
                assert_same(&y.finish(&what), plain.as_slice(), &what);
            });
        }
    }
}

/// Weights in every layout: exact where sums are exact, within the bound where they are not.
fn weights<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        for exact_data in [true, false] {
            let data =
                if exact_data { Dense::<T>::integers(sizes, 9) } else { Dense::<T>::uniform(sizes, seed as u64) };
            let exact = data.exact(&data.layer());
            let check = |y: &Tensor<T, 2>, what: &str| match exact_data {
                true => assert_exact(y.as_slice(), &exact, what),
                false => assert_close(y.as_slice(), &exact, what),
            };
            for (((name, w), (_, uv)), (_, b)) in Layout::all().into_iter().zip(Layout::all()).zip(Layout::all()) {
                let w = Embedded::input(&data.w, [k, i, j], w);
                let (u, v) = (Embedded::input(&data.u, [k, i], uv), Embedded::input(&data.v, [k, j], uv));
                let b = Embedded::input(&data.b, [k], b);
                let only_w = Interaction::dense(w.view()).unwrap();
                let layer = only_w.with_u(u.view()).unwrap().with_v(v.view()).unwrap().with_b(b.view()).unwrap();
                for_each_way(&layer, n, |layer, what| {
                    check(&layer.forward(data.z(), data.x()).unwrap(), &format!("{sizes:?} {name} {what}"));
                });
            }
        }
    }
}

fn cp_operands<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        let rank = [5, 16, 33][seed % 3];
        let data = Cp::<T>::uniform([n, i, j, k, rank], seed as u64);
        let rest = &data.rest;
        let exact = reference::forward(&data.layer(), rest.z(), rest.x()).unwrap();
        for (name, layout) in Layout::all() {
            let a = Embedded::input(&data.a, [k, rank], layout);
            let (b, c) = (Embedded::input(&data.b, [i, rank], layout), Embedded::input(&data.c, [j, rank], layout));
            let (z, x) = (Embedded::input(&rest.z, [n, i], layout), Embedded::input(&rest.x, [n, j], layout));
            let (u, v) = (Embedded::input(&rest.u, [k, i], layout), Embedded::input(&rest.v, [k, j], layout));
            let lambda = Embedded::input(&data.lambda, [rank], Layout::columns_reversed());
            let bias = Embedded::input(&rest.b, [k], Layout::stepped());
            let layer = Interaction::cp(a.view(), b.view(), c.view()).unwrap().with_lambda(lambda.view()).unwrap();
            let layer = layer.with_u(u.view()).unwrap().with_v(v.view()).unwrap().with_b(bias.view()).unwrap();
            for_each_way(&layer, n, |layer, what| {
                let mut y = Embedded::output([n, k], layout);
                layer.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
                let what = format!("{sizes:?} {name} {what}");
                assert_close(&y.finish(&what), &exact, &what);
            });
            // Contiguous factors with strided inputs are the same computation.
            for_each_way(&data.layer(), n, |layer, what| {
                let plain = layer.forward(rest.z(), rest.x()).unwrap();
                let strided = layer.forward(z.view(), x.view()).unwrap();
                assert_same(strided.as_slice(), plain.as_slice(), &format!("{sizes:?} {name} {what}"));
            });
        }
    }
}

/// One row, or one column, or one element seen as many: the same bits as copies of it.
fn broadcast<T: Element>() {
    for [n, i, j, k] in [[3, 6, 17, 4], [33, 12, 9, 5]] {
        let data = Dense::<T>::uniform([n, i, j, k], 8);
        let expand = |view: View<'_, T, 2>| Tensor::from_view(view).unwrap();
        let z_views = [
            View::row(&data.z[..i]).broadcast(0, n).unwrap(),
            View::new(&data.z[..n], [n, 1]).unwrap().broadcast(1, i).unwrap(),
            View::new(&data.z[..1], [1, 1]).unwrap().broadcast(0, n).unwrap().broadcast(1, i).unwrap(),
        ];
        let x_views = [
            View::row(&data.x[..j]).broadcast(0, n).unwrap(),
            View::new(&data.x[..n], [n, 1]).unwrap().broadcast(1, j).unwrap(),
            View::new(&data.x[..1], [1, 1]).unwrap().broadcast(0, n).unwrap().broadcast(1, j).unwrap(),
        ];
        for (z, x) in z_views.into_iter().zip(x_views) {
            let (z_copy, x_copy) = (expand(z), expand(x));
            for_each_way(&data.layer(), n, |layer, what| {
                let copied = layer.forward(z_copy.view(), x_copy.view()).unwrap();
                assert_same(layer.forward(z, x).unwrap().as_slice(), copied.as_slice(), what);
            });
        }
        // Weights: one element of each as all of them, one matrix for all outputs, one bias.
        let one = View::new(&data.w[..1], [1, 1, 1]).unwrap();
        let constant = one.broadcast(0, k).unwrap().broadcast(1, i).unwrap().broadcast(2, j).unwrap();
        let matrix = View::new(&data.w[..i * j], [1, i, j]).unwrap().broadcast(0, k).unwrap();
        let column = View::new(&data.w[..k * i], [k, i, 1]).unwrap().broadcast(2, j).unwrap();
        let row = View::new(&data.w[..k * j], [k, 1, j]).unwrap().broadcast(1, i).unwrap();
        let u = View::row(&data.u[..i]).broadcast(0, k).unwrap();
        let v = View::new(&data.v[..k], [k, 1]).unwrap().broadcast(1, j).unwrap();
        let b = View::vector(&data.b[..1]).broadcast(0, k).unwrap();
        for w in [constant, matrix, column, row] {
            let only_w = Interaction::dense(w).unwrap();
            let layer = only_w.with_u(u).unwrap().with_v(v).unwrap().with_b(b).unwrap();
            let exact = data.exact(&layer);
            for_each_way(&layer, n, |layer, what| {
                let what = format!("{:?} {what}", w.strides());
                assert_close(layer.forward(data.z(), data.x()).unwrap().as_slice(), &exact, &what);
            });
        }
    }
}

/// W stored in each of the six orders of its axes is the same W.
fn axis_orders<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::integers(sizes, seed as u64);
        let exact = data.exact(&data.layer());
        let named = [
            (Axes::OUT_Z_X, [Axis::Out, Axis::Z, Axis::X]),
            (Axes::OUT_X_Z, [Axis::Out, Axis::X, Axis::Z]),
            (Axes::Z_OUT_X, [Axis::Z, Axis::Out, Axis::X]),
            (Axes::ZX_OUT, [Axis::Z, Axis::X, Axis::Out]),
            (Axes::XZ_OUT, [Axis::X, Axis::Z, Axis::Out]),
            (Axes::X_OUT_Z, [Axis::X, Axis::Out, Axis::Z]),
        ];
        for (axes, order) in named {
            assert_eq!(Axes::new(order).unwrap(), axes);
            let place = |axis: Axis| [Axis::Out, Axis::Z, Axis::X].iter().position(|&a| a == axis).unwrap();
            let stored = Tensor::from_view(data.w().permute(order.map(place)).unwrap()).unwrap();
            let w = axes.view(stored.view());
            assert_eq!(w.shape(), [k, i, j]);
            assert_eq!(Tensor::from_view(w).unwrap().as_slice(), data.w, "{axes}");
            let layer = Interaction::dense(w).unwrap().with_u(data.u()).unwrap();
            let layer = layer.with_v(data.v()).unwrap().with_b(data.b()).unwrap();
            for_each_way(&layer, n, |layer, what| {
                let y = layer.forward(data.z(), data.x()).unwrap();
                assert_exact(y.as_slice(), &exact, &format!("{sizes:?} {axes} {what}"));
            });
        }
    }
}

/// Parts of larger tensors: rows, columns, outputs.
fn slices<T: Element>() {
    let data = Dense::<T>::integers([40, 20, 36, 12], 3);
    let w = data.w().slice(0, 2..9).unwrap().slice(1, 3..14).unwrap().slice(2, 5..22).unwrap();
    let z = data.z().slice(1, 3..14).unwrap();
    let x = data.x().slice(1, 5..22).unwrap();
    for rows in [0..0, 39..40, 10..14, 1..38] {
        let (z, x) = (z.slice(0, rows.clone()).unwrap(), x.slice(0, rows.clone()).unwrap());
        let layer = Interaction::dense(w).unwrap().with_b(data.b().slice(0, 2..9).unwrap()).unwrap();
        let exact = reference::forward(&layer, z, x).unwrap();
        let (w, z_copy, x_copy) = (Tensor::from_view(w), Tensor::from_view(z), Tensor::from_view(x));
        let (w, z_copy, x_copy) = (w.unwrap(), z_copy.unwrap(), x_copy.unwrap());
        let copy = Interaction::dense(w.view()).unwrap().with_b(data.b().slice(0, 2..9).unwrap()).unwrap();
        assert_eq!(reference::forward(&copy, z_copy.view(), x_copy.view()).unwrap(), exact);
        for_each_way(&layer, rows.len(), |layer, what| {
            assert_exact(layer.forward(z, x).unwrap().as_slice(), &exact, what);
        });
    }
}

/// Stream reads W in place if either of its inner axes is contiguous, and refuses it otherwise.
#[test]
fn stream_takes_either_inner_axis() {
    let data = Dense::<f32>::uniform([2, 5, 6, 4], 1);
    for (axes, shape, taken) in [
        (Axes::OUT_Z_X, [4, 5, 6], true),
        (Axes::OUT_X_Z, [4, 6, 5], true),
        (Axes::Z_OUT_X, [5, 4, 6], true),
        (Axes::X_OUT_Z, [6, 4, 5], true),
        (Axes::ZX_OUT, [5, 6, 4], false),
        (Axes::XZ_OUT, [6, 5, 4], false),
    ] {
        let layer = Interaction::dense(axes.view(View::new(&data.w, shape).unwrap())).unwrap();
        for context in contexts() {
            let plan = layer.with_context(context.with_algorithm(Algorithm::Stream)).plan(2);
            assert_eq!(plan.is_ok(), taken, "{axes}");
        }
    }
}

for_each_dtype!(inputs_and_output, weights, cp_operands, broadcast, axis_orders, slices);

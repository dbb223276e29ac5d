//! Gradients of dense and linear layers: against the definition, by adjoint identities, into memory of any layout.

mod common;

use common::cuda::Pairs;
use common::layout::{Embedded, Layout};
use common::{Dense, Random, assert_close, assert_exact, assert_same, levels, ways};
use proptest::prelude::*;
use trilinear::{Context, Device, Element, Error, Gradient, Gradients, Interaction, Tensor, View, Wanted, reference};

/// [N, I, J, K]: around tiles of rows, strips of lanes, KC in (k, i) and in n, and blocks of features and outputs.
fn shapes() -> Vec<[usize; 4]> {
    let mut shapes = vec![[0, 3, 4, 2], [3, 0, 4, 2], [3, 4, 0, 2], [3, 4, 5, 0], [1, 1, 1, 1], [2, 17, 33, 1]];
    for n in [1, 2, 5, 12, 13, 25, 63, 64, 65, 97] {
        shapes.extend([[n, 5, 7, 3], [n, 3, 33, 1], [n, 13, 16, 6]]);
    }
    for features in [4, 11, 12, 15, 16, 17, 31, 32, 33, 48, 65, 97] {
        shapes.extend([[4, features, 3, 2], [3, 2, features, 3], [70, features, features, 2], [6, 2, 3, features]]);
    }
    // KC from 64 to 512 in n, in i, and in (k, i); rows and columns of a task.
    shapes.extend([[257, 3, 5, 2], [385, 9, 4, 1], [513, 2, 3, 3], [800, 13, 17, 2], [5, 513, 3, 2], [4, 3, 600, 2]]);
    shapes.extend([
        [7, 40, 30, 20],
        [70, 130, 20, 4],
        [3, 2, 5, 700],
        [2, 700, 2, 3],
        [66, 2, 700, 2],
        [9, 33, 32, 31],
    ]);
    // Parts of the batch, and products of several rows of one input with all of another.
    shapes.extend([[4300, 3, 5, 2], [2050, 12, 13, 9]]);
    shapes
}

fn g<T: Element>(data: &Dense<T>, seed: u64) -> Vec<T> {
    Random(seed).integers(data.sizes[0] * data.sizes[3], 1)
}

/// The gradients, computed into memory full of NaN.
fn all<T: Element>(layer: &Interaction<'_, T>, data: &Dense<T>, g: &[T]) -> Gradients<T> {
    let [n, i, j, k] = data.sizes;
    let nan = |len: usize| vec![T::Accumulator::from_f64(f64::NAN); len];
    let mut gradients = Gradients {
        z: Tensor::from_vec(nan(n * i), [n, i]).unwrap(),
        x: Tensor::from_vec(nan(n * j), [n, j]).unwrap(),
        w: Some(Tensor::from_vec(nan(k * i * j), [k, i, j]).unwrap()),
        u: Some(Tensor::from_vec(nan(k * i), [k, i]).unwrap()),
        v: Some(Tensor::from_vec(nan(k * j), [k, j]).unwrap()),
        b: Some(Tensor::from_vec(nan(k), [k]).unwrap()),
        cp: None,
        blocks: Vec::new(),
    };
    layer.backward_into(data.z(), data.x(), View::new(g, [n, k]).unwrap(), into(&mut gradients, How::Write)).unwrap();
    gradients
}

#[derive(Clone, Copy)]
enum How {
    Write,
    Add,
}

impl How {
    fn of<A, const D: usize>(self, to: trilinear::ViewMut<'_, A, D>) -> Gradient<'_, A, D> {
        match self {
            How::Write => Gradient::write(to),
            How::Add => Gradient::add(to),
        }
    }
}

/// A destination for each gradient.
fn into<T: Element>(gradients: &mut Gradients<T>, how: How) -> Wanted<'_, T> {
    Wanted {
        z: Some(how.of(gradients.z.view_mut())),
        x: Some(how.of(gradients.x.view_mut())),
        w: gradients.w.as_mut().map(|to| how.of(to.view_mut())),
        u: gradients.u.as_mut().map(|to| how.of(to.view_mut())),
        v: gradients.v.as_mut().map(|to| how.of(to.view_mut())),
        b: gradients.b.as_mut().map(|to| how.of(to.view_mut())),
        ..Wanted::default()
    }
}

type Named<'a, A> = [(&'static str, &'a [A]); 6];

fn parts<T: Element>(gradients: &Gradients<T>) -> Named<'_, T::Accumulator> {
    let Gradients { z, x, w, u, v, b, .. } = gradients;
    [
        ("dz", z.as_slice()),
        ("dx", x.as_slice()),
        ("dw", w.as_ref().map_or(&[], Tensor::as_slice)),
        ("du", u.as_ref().map_or(&[], Tensor::as_slice)),
        ("dv", v.as_ref().map_or(&[], Tensor::as_slice)),
        ("db", b.as_ref().map_or(&[], Tensor::as_slice)),
    ]
}

fn exact_parts(exact: &reference::Gradients) -> [&reference::Reference; 6] {
    [&exact.z, &exact.x, &exact.w, &exact.u, &exact.v, &exact.b]
}

/// Small integers, to the last bit, at every level.
fn integers<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, sizes) in shapes().into_iter().enumerate() {
        let data = Dense::<T>::integers(sizes, seed as u64);
        let ways = ways(pairs.flops(&sizes, 8 * sizes.iter().product::<usize>()));
        if ways.is_empty() {
            continue;
        }
        let g = g(&data, 7);
        for layer in [data.layer(), data.linear()] {
            let exact =
                reference::backward(&layer, data.z(), data.x(), View::new(&g, [sizes[0], sizes[3]]).unwrap()).unwrap();
            for &context in &ways {
                let gradients = all(&layer.with_context(context), &data, &g);
                for ((name, values), exact) in parts(&gradients).into_iter().zip(exact_parts(&exact)) {
                    assert_exact(values, exact, &format!("{name} {sizes:?} {} {}", T::DTYPE, context.simd()));
                }
            }
        }
    }
}

/// Any numbers, within the published bound.
fn bounds<T: Element>() {
    for sizes in [[1, 20, 30, 4], [40, 17, 19, 5], [130, 9, 40, 3], [500, 6, 7, 2], [3, 70, 35, 30]] {
        let data = Dense::<T>::uniform(sizes, 3);
        let g: Vec<T> = Random(4).uniform(sizes[0] * sizes[3]);
        let gv = View::new(&g, [sizes[0], sizes[3]]).unwrap();
        let exact = reference::backward(&data.layer(), data.z(), data.x(), gv).unwrap();
        for context in ways(8 * sizes.iter().product::<usize>()) {
            let gradients = data.layer().with_context(context).backward(data.z(), data.x(), gv).unwrap();
            for ((name, values), exact) in parts(&gradients).into_iter().zip(exact_parts(&exact)) {
                assert_close(values, exact, &format!("{name} {sizes:?} {} {}", T::DTYPE, context.simd()));
            }
        }
    }
}

/// Inputs, weights and gradients of any layout, with guard bands around the gradients.
fn strided<T: Element>() {
    for sizes in [[5, 7, 9, 4], [70, 17, 33, 3], [9, 16, 32, 13], [2100, 5, 7, 3]] {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::integers(sizes, 5);
        let g = g(&data, 9);
        for context in ways(8 * sizes.iter().product::<usize>()) {
            let plain = all(&data.layer().with_context(context), &data, &g);
            for ((name, flat), (_, cube)) in Layout::all().into_iter().zip(Layout::all()) {
                let [z, x, g] = [(&data.z, [n, i]), (&data.x, [n, j]), (&g, [n, k])]
                    .map(|(values, shape)| Embedded::input(values, shape, flat));
                let [u, v] = [(&data.u, [k, i]), (&data.v, [k, j])].map(|(m, shape)| Embedded::input(m, shape, flat));
                let w = Embedded::input(&data.w, [k, i, j], cube);
                let layer = Interaction::dense(w.view()).unwrap().with_context(context);
                let layer = layer.with_u(u.view()).unwrap().with_v(v.view()).unwrap();
                let [mut dz, mut dx] = [[n, i], [n, j]].map(|shape| Embedded::output(shape, flat));
                let [mut du, mut dv] = [[k, i], [k, j]].map(|shape| Embedded::output(shape, flat));
                let mut dw = Embedded::output([k, i, j], cube);
                let wanted = Wanted {
                    z: Some(Gradient::write(dz.view_mut())),
                    x: Some(Gradient::write(dx.view_mut())),
                    w: Some(Gradient::write(dw.view_mut())),
                    u: Some(Gradient::write(du.view_mut())),
                    v: Some(Gradient::write(dv.view_mut())),
                    ..Wanted::default()
                };
                layer.backward_into(z.view(), x.view(), g.view(), wanted).unwrap();
                let what = format!("{name} {sizes:?} {} {}", T::DTYPE, context.simd());
                let found = [dz.finish(&what), dx.finish(&what), dw.finish(&what), du.finish(&what), dv.finish(&what)];
                for (found, (name, plain)) in found.iter().zip(parts(&plain)) {
                    assert_same(found, plain, &format!("{name} {what}"));
                }
            }
        }
    }
}

/// β = 1 adds to what is there; a subset gives the bits of the whole.
fn added<T: Element>() {
    for sizes in [[6, 5, 7, 3], [400, 9, 33, 2], [70, 33, 17, 4], [2100, 5, 7, 3]] {
        let data = Dense::<T>::integers(sizes, 6);
        let g = g(&data, 2);
        let layer = data.layer();
        let once = all(&layer, &data, &g);
        let mut twice = once.clone();
        let gv = View::new(&g, [sizes[0], sizes[3]]).unwrap();
        layer.backward_into(data.z(), data.x(), gv, into(&mut twice, How::Add)).unwrap();
        for ((name, once), (_, twice)) in parts(&once).into_iter().zip(parts(&twice)) {
            let doubled: Vec<_> = once.iter().map(|&v| T::Accumulator::from_f64(2.0 * v.to_f64())).collect();
            assert_same(twice, &doubled, name);
        }
        let mut alone = vec![T::Accumulator::from_f64(f64::NAN); once.x.as_slice().len()];
        let to = trilinear::ViewMut::new(&mut alone, once.x.shape()).unwrap();
        let wanted = Wanted { x: Some(Gradient::write(to)), ..Wanted::default() };
        layer.backward_into(data.z(), data.x(), gv, wanted).unwrap();
        assert_same(&alone, once.x.as_slice(), "dx alone");
    }
}

/// The same bits for any number of threads.
fn threads<T: Element>() {
    for sizes in [[100, 40, 50, 60], [700, 33, 130, 7], [40, 300, 200, 1], [3, 120, 110, 50], [4300, 9, 17, 16]] {
        let data = Dense::<T>::uniform(sizes, 8);
        let g: Vec<T> = Random(1).uniform(sizes[0] * sizes[3]);
        for &level in levels() {
            let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
            let of = |threads| all(&data.layer().with_context(context.with_threads(threads).unwrap()), &data, &g);
            let one = of(1);
            for threads in [2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let many = pool.install(|| of(threads));
                for ((name, one), (_, many)) in parts(&one).into_iter().zip(parts(&many)) {
                    assert_same(many, one, &format!("{name} {sizes:?} {level} {threads} threads"));
                }
            }
        }
    }
}

for_each_dtype!(integers, bounds, strided, added, threads);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// ⟨g, y⟩ = ⟨dW, W⟩ = ⟨dz, z⟩ = ⟨dx, x⟩ for the contraction alone: all four are T, exactly for integers.
    #[test]
    fn adjoint(n in 0usize..40, i in 0usize..40, j in 0usize..40, k in 0usize..12, seed: u64) {
        let data = Dense::<f64>::integers([n, i, j, k], seed);
        let g = g(&data, seed ^ 1);
        let layer = data.core();
        let y = layer.forward(data.z(), data.x()).unwrap();
        let gradients = layer.backward(data.z(), data.x(), View::new(&g, [n, k]).unwrap()).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let t = dot(&g, y.as_slice());
        prop_assert_eq!(t, dot(gradients.w.as_ref().unwrap().as_slice(), &data.w));
        prop_assert_eq!(t, dot(gradients.z.as_slice(), &data.z));
        prop_assert_eq!(t, dot(gradients.x.as_slice(), &data.x));
    }

    /// The result is linear in each operand, so a central difference is its derivative at any step: at 1, exactly.
    #[test]
    fn differences(n in 1usize..6, i in 1usize..9, j in 1usize..9, k in 1usize..5, seed: u64) {
        let data = Dense::<f64>::integers([n, i, j, k], seed);
        let g = g(&data, seed ^ 2);
        let loss = |data: &Dense<f64>| {
            let y = data.layer().forward(data.z(), data.x()).unwrap();
            y.as_slice().iter().zip(&g).map(|(y, g)| y * g).sum::<f64>()
        };
        let gradients = data.layer().backward(data.z(), data.x(), View::new(&g, [n, k]).unwrap()).unwrap();
        type Field = fn(&mut Dense<f64>) -> &mut Vec<f64>;
        let fields: [Field; 6] =
            [|d| &mut d.z, |d| &mut d.x, |d| &mut d.w, |d| &mut d.u, |d| &mut d.v, |d| &mut d.b];
        for (field, (name, gradient)) in fields.into_iter().zip(parts(&gradients)) {
            for (index, &expected) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut data = data.clone();
                    field(&mut data)[index] += by;
                    loss(&data)
                };
                prop_assert_eq!((shifted(1.0) - shifted(-1.0)) / 2.0, expected, "{} {}", name, index);
            }
        }
    }
}

/// x and z the same tensor: its gradient is dz + dx.
#[test]
fn tied() {
    let data = Dense::<f32>::integers([20, 9, 9, 5], 1);
    let g = g(&data, 3);
    let g = View::new(&g, [20, 5]).unwrap();
    let layer = data.layer();
    let mut sum = Tensor::zeros([20, 9]).unwrap();
    let z = Wanted { z: Some(Gradient::write(sum.view_mut())), ..Wanted::default() };
    layer.backward_into(data.z(), data.z(), g, z).unwrap();
    let x = Wanted { x: Some(Gradient::add(sum.view_mut())), ..Wanted::default() };
    layer.backward_into(data.z(), data.z(), g, x).unwrap();
    let both = layer.backward(data.z(), data.z(), g).unwrap();
    let expected: Vec<f32> = both.z.as_slice().iter().zip(both.x.as_slice()).map(|(z, x)| z + x).collect();
    assert_eq!(sum.as_slice(), expected);
}

#[test]
fn errors() {
    let data = Dense::<f32>::uniform([4, 3, 5, 2], 1);
    let layer = data.layer();
    let long = [0.0f32; 10];
    let g = View::new(&long, [5, 2]).unwrap();
    let error = layer.backward(data.z(), data.x(), g).unwrap_err();
    assert_eq!(error, Error::Shape { operand: "g", axis: "rows", expected: 4, actual: 5 });
    let g = View::new(&long[..4], [4, 1]).unwrap();
    let error = layer.backward(data.z(), data.x(), g).unwrap_err();
    assert_eq!(error, Error::Shape { operand: "g", axis: "outputs", expected: 2, actual: 1 });
    let g = View::new(&long[..8], [4, 2]).unwrap();
    let mut dw = Tensor::zeros([2, 5, 3]).unwrap();
    let wanted = Wanted { w: Some(Gradient::write(dw.view_mut())), ..Wanted::default() };
    let error = layer.backward_into(data.z(), data.x(), g, wanted).unwrap_err();
    assert_eq!(error, Error::Shape { operand: "dw", axis: "z features", expected: 3, actual: 5 });
}

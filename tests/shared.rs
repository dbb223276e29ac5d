//! Shared context: one z for many rows of x is the batch in which z is repeated, and generated layers are what it applies.

mod common;

use common::layout::{Embedded, Layout};
use common::{Cp, Dense, Random, assert_close, assert_exact, assert_same, contexts, ways};
use trilinear::{Algorithm, Element, Interaction, Tensor, View, ViewMut, reference};

/// [G, M, I, J, K]: around the tiles of rows (4, 6, 12), of lanes (8, 16, 32), of depth (64 … 512), and 0 and 1.
fn shapes() -> Vec<[usize; 5]> {
    let mut shapes = vec![
        [0, 3, 2, 2, 2],
        [3, 0, 2, 2, 2],
        [2, 3, 0, 4, 2],
        [2, 3, 4, 0, 2],
        [2, 3, 4, 5, 0],
        [1, 1, 1, 1, 1],
        [1, 50, 12, 16, 8],
        [3, 7, 65, 17, 5],
        [5, 33, 9, 129, 13],
        [2, 9, 513, 31, 3],
        [13, 4, 5, 7, 33],
        [30, 3, 8, 9, 2],
        [2, 70, 3, 257, 40],
        [1, 520, 4, 12, 3],
        [50, 2, 20, 600, 6],
    ];
    if cfg!(miri) {
        shapes.truncate(6);
        shapes.push([3, 7, 5, 17, 5]);
        return shapes;
    }
    for edge in [2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49] {
        shapes.extend([
            [edge, 3, 5, 6, 2],
            [2, edge, 5, 6, 3],
            [2, 3, edge, 6, 2],
            [2, 3, 5, edge, 2],
            [2, 5, 3, 4, edge],
        ]);
    }
    for depth in [63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513] {
        shapes.extend([[2, 5, depth, 6, 3], [2, 5, 3, depth, 2]]);
    }
    shapes
}

/// The batch that a shared context stands for: z of each group repeated M times.
fn expanded<T: Element>(
    data: &Dense<T>,
    groups: usize,
    rows: usize,
    layer: &Interaction<'_, T>,
) -> reference::Reference {
    let features = data.sizes[1];
    let z: Vec<T> = data.z.chunks(features.max(1)).take(groups).flat_map(|z| z.repeat(rows)).collect();
    let n = groups * rows;
    reference::forward(layer, View::new(&z, [n, features]).unwrap(), data.x()).unwrap()
}

/// Operands of G·M rows, of whose z the first G rows are used.
fn operands<T: Element>([g, m, i, j, k]: [usize; 5], seed: u64, integers: bool) -> Dense<T> {
    let mut random = Random(seed ^ 0x55);
    let sizes = [g * m, i, j, k];
    let mut data = if integers { Dense::integers(sizes, seed) } else { Dense::uniform(sizes, seed) };
    data.z = if integers { random.integers(g * i, 2) } else { random.uniform(g * i) };
    data
}

fn is_the_expanded_batch<T: Element>() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let [g, m, i, j, k] = shape;
        for integers in [true, false] {
            let data = operands::<T>(shape, seed as u64, integers);
            let z = View::new(&data.z, [g, i]).unwrap();
            let x = View::new(&data.x, [g, m, j]).unwrap();
            for layer in [data.layer(), data.core(), data.linear()] {
                let exact = expanded(&data, g, m, &layer);
                for context in ways(2 * shape.iter().product::<usize>()) {
                    let mut y = vec![T::from_f64(f64::NAN); g * m * k];
                    let out = ViewMut::new(&mut y, [g, m, k]).unwrap();
                    layer.with_context(context).forward_shared_into(z, x, out).unwrap();
                    let what = format!("{shape:?} {}", context.simd());
                    if integers { assert_exact(&y, &exact, &what) } else { assert_close(&y, &exact, &what) }
                }
            }
        }
    }
}

fn cp_is_the_expanded_batch<T: Element>() {
    for (seed, shape) in
        [[1, 5, 3, 4, 2], [4, 1, 5, 17, 3], [3, 40, 9, 8, 7], [5, 4, 6, 6, 0], [2, 0, 1, 2, 3]].into_iter().enumerate()
    {
        let [g, m, i, j, k] = shape;
        let mut data = Cp::<T>::integers([g * m, i, j, k, 9], seed as u64);
        data.rest.z = Random(1).integers(g * i, 2);
        let exact = expanded(&data.rest, g, m, &data.layer());
        let (z, x) = (View::new(&data.rest.z, [g, i]).unwrap(), View::new(&data.rest.x, [g, m, j]).unwrap());
        for context in ways(2 * shape.iter().product::<usize>()) {
            let y = data.layer().with_context(context).forward_shared(z, x).unwrap();
            assert_eq!(y.shape(), [g, m, k]);
            assert_exact(y.as_slice(), &exact, &format!("{shape:?} {}", context.simd()));
        }
    }
}

/// The rows of a group may be anywhere, and y too; with W contiguous the bits are the same.
fn strided<T: Element>() {
    for shape in [[3, 5, 7, 9, 4], [2, 40, 17, 33, 13], [4, 16, 8, 16, 8]] {
        let [g, m, i, j, k] = shape;
        let data = operands::<T>(shape, 4, false);
        let (z, x) = (View::new(&data.z, [g, i]).unwrap(), View::new(&data.x, [g, m, j]).unwrap());
        for context in ways(2 * shape.iter().product::<usize>()) {
            let layer = data.layer().with_context(context);
            let plain = layer.forward_shared(z, x).unwrap();
            for ((name, flat), (_, cube)) in Layout::all().into_iter().zip(Layout::all()) {
                let (z, x) = (Embedded::input(&data.z, [g, i], flat), Embedded::input(&data.x, [g, m, j], cube));
                let mut y = Embedded::output([g, m, k], cube);
                layer.forward_shared_into(z.view(), x.view(), y.view_mut()).unwrap();
                let what = format!("{shape:?} {name} {}", context.simd());
                assert_same(&y.finish(&what), plain.as_slice(), &what);
                // Weights of other layouts, to the bound.
                let w = Embedded::input(&data.w, [k, i, j], cube);
                let (u, v) = (Embedded::input(&data.u, [k, i], flat), Embedded::input(&data.v, [k, j], flat));
                let only_w = Interaction::dense(w.view()).unwrap().with_context(context);
                let other = only_w.with_u(u.view()).unwrap().with_v(v.view()).unwrap().with_b(data.b()).unwrap();
                let exact = expanded(&data, g, m, &data.layer());
                assert_close(other.forward_shared(z.view(), x.view()).unwrap().as_slice(), &exact, &what);
            }
        }
    }
}

/// W′[g][k][j] = Σᵢ W[k,i,j] z[g,i] + V[k,j] as a layer that the reference can compute: its x is the identity.
fn generates_the_dense_contraction<T: Element>() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let [g, _, i, j, k] = shape;
        for integers in [true, false] {
            let data = operands::<T>(shape, seed as u64, integers);
            let z = View::new(&data.z, [g, i]).unwrap();
            for (layer, has_terms) in [(data.layer(), true), (data.core(), false)] {
                for context in ways(2 * shape.iter().product::<usize>()) {
                    let generated = layer.with_context(context).generate(z).unwrap();
                    assert_eq!((generated.weights.shape(), generated.bias.shape()), ([g, k, j], [g, k]));
                    let what = format!("{shape:?} {}", context.simd());
                    for group in 0..g {
                        let z = z.slice(0, group..group + 1).unwrap();
                        check_group(&data, z, has_terms, integers, &generated, group, &what);
                    }
                }
            }
        }
    }
}

fn check_group<T: Element>(
    data: &Dense<T>,
    z: View<'_, T, 2>,
    has_terms: bool,
    integers: bool,
    generated: &trilinear::Generated<T>,
    group: usize,
    what: &str,
) {
    let [_, i, j, k] = data.sizes;
    // Column j of W′ is the output for x = 1 of the layer with W[·, ·, j], whose bias is column j of V.
    for column in 0..j {
        let w = data.w().slice(2, column..column + 1).unwrap();
        let bias: Vec<T> = (0..k).map(|out| data.v[out * j + column]).collect();
        let one = [T::from_f64(1.0)];
        let mut layer = Interaction::dense(w).unwrap();
        if has_terms {
            layer = layer.with_b(View::vector(&bias)).unwrap();
        }
        let exact = reference::forward(&layer, z, View::row(&one)).unwrap();
        let weights: Vec<T> = (0..k).map(|out| generated.weights.view().get([group, out, column]).unwrap()).collect();
        if integers { assert_exact(&weights, &exact, what) } else { assert_close(&weights, &exact, what) }
    }
    let mut layer = Interaction::linear(k, i, 0).unwrap();
    if has_terms {
        layer = layer.with_u(data.u()).unwrap().with_b(data.b()).unwrap();
    }
    let exact = reference::forward(&layer, z, View::new(&[], [1, 0]).unwrap()).unwrap();
    let bias = &generated.bias.as_slice()[group * k..][..k];
    if integers { assert_exact(bias, &exact, what) } else { assert_close(bias, &exact, what) }
}

/// Into strided buffers full of NaN.
fn generates_into<T: Element>() {
    let shape = [3, 1, 9, 21, 5];
    let [g, _, i, j, k] = shape;
    let data = operands::<T>(shape, 4, false);
    let cp = Cp::<T>::uniform([g, i, j, k, 6], 2);
    let z = View::new(&data.z, [g, i]).unwrap();
    for context in ways(2 * shape.iter().product::<usize>()) {
        for layer in [data.layer().with_context(context), cp.layer().with_context(context)] {
            let expected = layer.generate(z).unwrap();
            for ((name, flat), (_, cube)) in Layout::all().into_iter().zip(Layout::all()) {
                let (mut weights, mut bias) = (Embedded::output([g, k, j], cube), Embedded::output([g, k], flat));
                let z = Embedded::input(&data.z, [g, i], flat);
                layer.generate_into(z.view(), weights.view_mut(), bias.view_mut()).unwrap();
                let what = format!("{name} {}", context.simd());
                assert_same(&weights.finish(&what), expected.weights.as_slice(), &what);
                assert_same(&bias.finish(&what), expected.bias.as_slice(), &what);
            }
        }
    }
}

/// Applying the generated layer is the layer: y = x W′ᵀ + b′, in integers, for dense and for CP weights.
fn generated_layers_apply<T: Element>() {
    for (seed, [g, i, j, k]) in [[1, 5, 6, 3], [4, 9, 17, 5], [7, 13, 8, 20]].into_iter().enumerate() {
        let data = Dense::<T>::integers([g, i, j, k], seed as u64);
        let cp = Cp::<T>::integers([g, i, j, k, 3], seed as u64);
        for layer in [data.layer(), cp.layer(), data.linear()] {
            for context in ways(2 * g * i * j * k) {
                let layer = layer.with_context(context);
                let generated = layer.generate(data.z()).unwrap();
                for group in 0..g {
                    let weights: &[T] = &generated.weights.as_slice()[group * k * j..][..k * j];
                    let bias = View::vector(&generated.bias.as_slice()[group * k..][..k]);
                    let x = data.x().slice(0, group..group + 1).unwrap();
                    let applied = Interaction::linear(k, 0, j).unwrap().with_v(View::new(weights, [k, j]).unwrap());
                    let applied = applied.unwrap().with_b(bias).unwrap();
                    let none = Tensor::zeros([1, 0]).unwrap();
                    let exact = reference::forward(&applied, none.view(), x).unwrap();
                    // Both are exact only if W′ is in T.
                    let largest = weights.iter().fold(0.0, |m: f64, w| m.max(w.to_f64().abs()));
                    if largest <= 128.0 {
                        let y = layer.forward(data.z().slice(0, group..group + 1).unwrap(), x).unwrap();
                        assert_exact(y.as_slice(), &exact, &format!("[{g}, {i}, {j}, {k}] {}", context.simd()));
                    }
                }
            }
        }
    }
}

/// A NaN or an infinity in one x-feature's weights reaches that feature of W′ only.
fn special_values_stay_in_their_column<T: Element>() {
    let [g, i, j, k, rank] = [2, 4, 9, 3, 5];
    for special in [f64::NAN, f64::INFINITY] {
        let mut dense = Dense::<T>::uniform([g, i, j, k], 3);
        let mut cp = Cp::<T>::uniform([g, i, j, k, rank], 3);
        let column = 6;
        dense.w[(i + 1) * j + column] = T::from_f64(special); // output 1
        cp.c[column * rank + 2] = T::from_f64(special); // every output
        for context in ways(2 * g * i * j * k) {
            for (layer, outs) in [(dense.core(), 1..2), (cp.core(), 0..k)] {
                let generated = layer.with_context(context).generate(dense.z()).unwrap();
                for (index, value) in generated.weights.as_slice().iter().enumerate() {
                    let reached = index % j == column && outs.contains(&(index / j % k));
                    let what = format!("{special} {} rank {:?} {index}: {value}", context.simd(), layer.rank());
                    assert_eq!(!value.to_f64().is_finite(), reached, "{what}");
                }
            }
        }
    }
}

#[test]
fn plan() {
    let data = Dense::<f32>::uniform([1, 20, 30, 40], 1);
    for context in contexts() {
        let layer = data.layer().with_context(context);
        let plan = layer.plan_shared(6, 50).unwrap();
        assert_eq!(plan.algorithm, Algorithm::ContractContext);
        // Contract, then apply; U once for each group; V is added to the result without a multiplication.
        let contract = 2 * 6 * (20 * 30 * 40 + 40 * 20);
        assert_eq!(plan.flops, contract + 2 * 6 * 50 * 30 * 40);
        let weights = 40 * 20 * 30 + 40 * 20 + 40 * 30 + 40;
        assert_eq!(plan.bytes, 4 * (weights + 6 * (20 + 50 * (30 + 40))));
        assert_eq!(plan.simd, context.simd());
    }
    let cp = Cp::<f32>::uniform([1, 20, 30, 40, 5], 1);
    let plan = cp.layer().plan_shared(6, 50).unwrap();
    assert_eq!((plan.algorithm, plan.flops), (Algorithm::CpBlocked, 2 * (6 * 5 * 20 + 300 * (5 * 70 + 40 * 50))));
}

for_each_dtype!(
    is_the_expanded_batch,
    cp_is_the_expanded_batch,
    strided,
    generates_the_dense_contraction,
    generates_into,
    generated_layers_apply,
    special_values_stay_in_their_column,
);

//! Low-rank weights: the dense layer of the reconstructed W is the same layer.

mod common;

use common::{Cp, Dense, Random, assert_close, assert_exact, for_each_way};
use trilinear::{DType, Element, Interaction, Tensor, View, reference};

const SIZES: [[usize; 5]; 6] =
    [[1, 5, 6, 4, 3], [4, 17, 9, 5, 8], [6, 3, 33, 2, 17], [35, 8, 7, 13, 1], [50, 12, 10, 9, 32], [3, 6, 5, 4, 0]];

/// W of small integers is exact in every storage type, so both forms must agree to the last bit.
fn dense_of_cp<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k, _] = sizes;
        let data = Cp::<T>::integers(sizes, seed as u64);
        let w = data.core().to_dense().unwrap();
        assert_eq!(w.shape(), [k, i, j]);
        assert!(w.as_slice().iter().all(|value| value.to_f64().abs() <= 128.0));
        for out in 0..k {
            for (row, column) in [(0, 0), (i - 1, j - 1), (i / 2, j / 3)] {
                let term = |r: usize| {
                    let at = |view: View<'_, T, 2>, index| view.get([index, r]).unwrap().to_f64();
                    data.lambda[r].to_f64() * at(data.a(), out) * at(data.b(), row) * at(data.c(), column)
                };
                let expected: f64 = (0..data.rank).map(term).sum();
                assert_eq!(w.view().get([out, row, column]).unwrap().to_f64(), expected);
            }
        }
        let rest = &data.rest;
        let dense = Interaction::dense(w.view()).unwrap().with_u(rest.u()).unwrap();
        let dense = dense.with_v(rest.v()).unwrap().with_b(rest.b()).unwrap();
        let exact = reference::forward(&dense, rest.z(), rest.x()).unwrap();
        assert_eq!(exact.value, reference::forward(&data.layer(), rest.z(), rest.x()).unwrap().value);
        for layer in [dense, data.layer()] {
            for_each_way(&layer, n, |layer, what| {
                let y = layer.forward(rest.z(), rest.x()).unwrap();
                assert_exact(y.as_slice(), &exact, &format!("{sizes:?} rank {:?} {what}", layer.rank()));
            });
        }
    }
}

/// to_dense of the other forms.
fn dense_of_the_others<T: Element>() {
    let data = Dense::<T>::uniform([1, 3, 4, 5], 1);
    assert_eq!(data.layer().to_dense().unwrap().as_slice(), data.w);
    let transposed = data.w().permute([0, 2, 1]).unwrap();
    let dense = Interaction::dense(transposed).unwrap().to_dense().unwrap();
    assert_eq!(dense, Tensor::from_view(transposed).unwrap());
    assert_eq!(data.linear().to_dense().unwrap(), Tensor::zeros([5, 3, 4]).unwrap());
}

/// λ = 1 is no λ; λ scales components; a component with λ = 0 is as if it were not there.
fn lambda<T: Element>() {
    for n in [2, 20] {
        let [i, j, k, rank] = [5, 18, 4, 9];
        let data = Cp::<T>::integers([n, i, j, k, rank], 5);
        let (z, x) = (data.rest.z(), data.rest.x());
        let plain = Interaction::cp(data.a(), data.b(), data.c()).unwrap();
        let exact = reference::forward(&plain, z, x).unwrap();
        let ones = vec![T::from_f64(1.0); rank];
        for_each_way(&plain.with_lambda(View::vector(&ones)).unwrap(), n, |layer, what| {
            assert_exact(layer.forward(z, x).unwrap().as_slice(), &exact, what);
        });
        let first = |view: View<'_, T, 2>| Tensor::from_view(view.slice(1, 0..1).unwrap()).unwrap();
        let (a, b, c) = (first(data.a()), first(data.b()), first(data.c()));
        let one = Interaction::cp(a.view(), b.view(), c.view()).unwrap();
        let exact = reference::forward(&one, z, x).unwrap();
        let mut weights = vec![T::from_f64(0.0); rank];
        weights[0] = T::from_f64(1.0);
        for_each_way(&plain.with_lambda(View::vector(&weights)).unwrap(), n, |layer, what| {
            assert_exact(layer.forward(z, x).unwrap().as_slice(), &exact, what);
        });
    }
}

/// Factors used for two modes: symmetric W, in which z and x may be exchanged, and tied inputs.
fn shared_factors<T: Element>() {
    for n in [1, 30] {
        let data = Cp::<T>::integers([n, 12, 12, 6, 7], 8);
        let layer = Interaction::cp(data.a(), data.b(), data.b()).unwrap();
        let (z, x) = (data.rest.z(), data.rest.x());
        let exact = reference::forward(&layer, z, x).unwrap();
        let tied = reference::forward(&layer, z, z).unwrap();
        for_each_way(&layer, n, |layer, what| {
            assert_exact(layer.forward(z, x).unwrap().as_slice(), &exact, what);
            assert_exact(layer.forward(x, z).unwrap().as_slice(), &exact, what);
            assert_exact(layer.forward(z, z).unwrap().as_slice(), &tied, what);
        });
    }
}

/// Components that cancel: the result is far below its terms.
fn cancellation<T: Element>() {
    for n in [3, 40] {
        let [i, j, k, half] = [20, 30, 4, 16];
        let mut data = Cp::<T>::uniform([n, i, j, k, 2 * half], 13);
        let mut random = Random(1);
        for factor in [&mut data.b, &mut data.c] {
            for row in factor.chunks_exact_mut(2 * half) {
                row.copy_within(0..half, half);
            }
        }
        for row in data.a.chunks_exact_mut(2 * half) {
            for r in 0..half {
                row[half + r] = T::from_f64(-row[r].to_f64() * if random.below(20) == 0 { 0.5 } else { 1.0 });
            }
        }
        let layer = Interaction::cp(data.a(), data.b(), data.c()).unwrap();
        let exact = reference::forward(&layer, data.rest.z(), data.rest.x()).unwrap();
        for_each_way(&layer, n, |layer, what| {
            assert_close(layer.forward(data.rest.z(), data.rest.x()).unwrap().as_slice(), &exact, what);
        });
    }
}

/// Long inner products: I + J + R is about 10⁵.
fn deep<T: Element>() {
    for n in [1, 5] {
        let data = Cp::<T>::uniform([n, 60_000, 30_000, 2, 3], 3);
        let exact = reference::forward(&data.layer(), data.rest.z(), data.rest.x()).unwrap();
        for_each_way(&data.layer(), n, |layer, what| {
            assert_close(layer.forward(data.rest.z(), data.rest.x()).unwrap().as_slice(), &exact, what);
        });
        let wide = Cp::<T>::uniform([n, 3, 2, 2, 100_000], 4);
        let exact = reference::forward(&wide.layer(), wide.rest.z(), wide.rest.x()).unwrap();
        for_each_way(&wide.layer(), n, |layer, what| {
            assert_close(layer.forward(wide.rest.z(), wide.rest.x()).unwrap().as_slice(), &exact, what);
        });
    }
}

/// Factors of very different sizes whose product is not extreme.
fn magnitudes<T: Element>() {
    let scales: [i32; 4] = match T::DTYPE {
        DType::F16 => [6, -8, 9, -6],
        DType::F64 => [300, -300, 250, -240],
        _ => [40, -45, 50, -42],
    };
    for n in [3, 20] {
        let mut data = Cp::<T>::uniform([n, 9, 20, 6, 11], 2);
        for (values, power) in [&mut data.a, &mut data.b, &mut data.c, &mut data.lambda].into_iter().zip(scales) {
            values.iter_mut().for_each(|value| *value = T::from_f64(value.to_f64() * 2f64.powi(power)));
        }
        let exact = reference::forward(&data.core(), data.rest.z(), data.rest.x()).unwrap();
        for_each_way(&data.core(), n, |layer, what| {
            assert_close(layer.forward(data.rest.z(), data.rest.x()).unwrap().as_slice(), &exact, what);
        });
    }
}

for_each_dtype!(dense_of_cp, dense_of_the_others, lambda, shared_factors, cancellation, deep, magnitudes);

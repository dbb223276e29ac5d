//! The forward pass: terms present and absent, tied inputs, hard numbers, and IEEE's special values.

mod common;

use common::{Cp, Dense, Random, assert_close, assert_exact, assert_same, for_each_way};
use trilinear::{Context, DType, Element, Interaction, Tensor, View, ViewMut, presets, reference};

const SIZES: [[usize; 4]; 5] = [[1, 6, 9, 5], [3, 17, 33, 4], [4, 5, 3, 20], [35, 13, 21, 7], [9, 70, 11, 1]];

/// Every subset of U, V and b on every form of W.
fn any_terms<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::integers(sizes, seed as u64);
        let cp = Cp::<T>::integers([n, i, j, k, 6], seed as u64);
        for core in [data.core(), cp.core(), Interaction::linear(k, i, j).unwrap()] {
            for terms in 0..8 {
                let mut layer = core;
                if terms & 1 != 0 {
                    layer = layer.with_u(data.u()).unwrap();
                }
                if terms & 2 != 0 {
                    layer = layer.with_v(data.v()).unwrap();
                }
                if terms & 4 != 0 {
                    layer = layer.with_b(data.b()).unwrap();
                }
                let exact = data.exact(&layer);
                for_each_way(&layer, n, |layer, what| {
                    let y = layer.forward(data.z(), data.x()).unwrap();
                    assert_exact(y.as_slice(), &exact, &format!("{sizes:?} terms {terms:03b} {what}"));
                });
            }
        }
    }
}

/// z and x the same memory.
fn tied<T: Element>() {
    for [n, features, k] in [[1, 16, 3], [4, 33, 5], [40, 19, 13]] {
        let mut data = Dense::<T>::integers([n, features, features, k], 5);
        data.x = data.z.clone();
        let exact = data.exact(&data.layer());
        for_each_way(&data.layer(), n, |layer, what| {
            assert_exact(layer.forward(data.z(), data.z()).unwrap().as_slice(), &exact, what);
        });
    }
}

/// By value and into a buffer are one computation, and the same call gives the same bits again.
fn by_value_and_again<T: Element>() {
    for (seed, sizes) in SIZES.into_iter().enumerate() {
        let data = Dense::<T>::uniform(sizes, seed as u64);
        for_each_way(&data.layer(), sizes[0], |layer, what| {
            let first = layer.forward(data.z(), data.x()).unwrap();
            let mut again = Tensor::from_vec(vec![T::from_f64(f64::NAN); sizes[0] * sizes[3]], first.shape()).unwrap();
            for _ in 0..2 {
                layer.forward_into(data.z(), data.x(), again.view_mut()).unwrap();
                assert_same(again.as_slice(), first.as_slice(), what);
            }
        });
    }
}

/// The named shapes that the reference can do in a moment.
fn named_shapes<T: Element>() {
    for name in ["expressivity", "mimic"] {
        let preset = presets::find(name).unwrap();
        let sizes = [preset.n.min(40), preset.i, preset.j, preset.k.min(30)];
        let data = Dense::<T>::uniform(sizes, 3);
        let exact = data.exact(&data.layer());
        for_each_way(&data.layer(), sizes[0], |layer, what| {
            assert_close(layer.forward(data.z(), data.x()).unwrap().as_slice(), &exact, &format!("{name} {what}"));
        });
    }
}

/// Terms that nearly cancel: y is far below the magnitude of its terms, to which its error is still relative.
fn cancellation<T: Element>() {
    for n in [2, 6] {
        let [i, j, k] = [9, 64, 5];
        let mut data = Dense::<T>::uniform([n, i, 2 * j, k], 21);
        let mut random = Random(22);
        // The second half of x is the first, of W its negative but for one part in a hundred of the elements.
        for row in 0..n {
            data.x.copy_within(row * 2 * j..row * 2 * j + j, row * 2 * j + j);
        }
        for row in data.w.chunks_exact_mut(2 * j) {
            for column in 0..j {
                let scale = if random.below(100) == 0 { -0.75 } else { -1.0 };
                row[j + column] = T::from_f64(row[column].to_f64() * scale);
            }
        }
        let exact = data.exact(&data.core());
        for_each_way(&data.core(), n, |layer, what| {
            assert_close(layer.forward(data.z(), data.x()).unwrap().as_slice(), &exact, what);
        });
    }
}

/// A sum of about 10⁵ terms for each output.
fn deep<T: Element>() {
    for n in [1, 5] {
        let sizes = [n, 330, 310, 2];
        let data = Dense::<T>::uniform(sizes, 31);
        let exact = data.exact(&data.layer());
        for_each_way(&data.layer(), n, |layer, what| {
            assert_close(layer.forward(data.z(), data.x()).unwrap().as_slice(), &exact, what);
        });
    }
}

/// Operands whose magnitudes differ by many orders, and terms near the ends of the accumulator's range.
fn magnitudes<T: Element>() {
    // Powers of two that no product or sum leaves the range of the accumulator with, and that T can hold.
    let scales: &[[i32; 3]] = match T::DTYPE {
        DType::F16 => &[[10, -10, 0], [-14, 10, 3], [0, 3, -9]],
        DType::F64 => &[[500, -400, -100], [-500, 500, 500], [-1000, 900, 40]],
        _ => &[[60, -100, 40], [-60, 30, 90], [100, -40, 20], [-100, -10, 60]],
    };
    for n in [3, 20] {
        for (seed, &powers) in scales.iter().enumerate() {
            let mut data = Dense::<T>::uniform([n, 12, 37, 6], seed as u64);
            let mut random = Random(seed as u64);
            for (values, power) in [&mut data.w, &mut data.z, &mut data.x].into_iter().zip(powers) {
                for value in values {
                    *value = T::from_f64(value.to_f64() * 2f64.powi(power - random.below(4) as i32));
                }
            }
            let exact = data.exact(&data.core());
            for_each_way(&data.core(), n, |layer, what| {
                let y = layer.forward(data.z(), data.x()).unwrap();
                assert_close(y.as_slice(), &exact, &format!("{powers:?} {what}"));
            });
        }
    }
}

/// All zero operands give zero, not NaN or what the buffer held.
fn zeros<T: Element>() {
    for (n, k) in [(1, 3), (4, 17), (33, 5)] {
        let mut data = Dense::<T>::integers([n, 7, 19, k], 1);
        for values in [&mut data.w, &mut data.u, &mut data.v, &mut data.b, &mut data.z, &mut data.x] {
            values.fill(T::from_f64(0.0));
        }
        for_each_way(&data.layer(), n, |layer, what| {
            let y = layer.forward(data.z(), data.x()).unwrap();
            assert!(y.as_slice().iter().all(|value| value.to_f64() == 0.0), "{what}: {:?}", y.as_slice());
        });
    }
}

/// An axis of length zero: an empty sum is 0 (so that y = b), an empty batch an empty result.
fn empty<T: Element>() {
    for n in [0, 1, 5, 40] {
        for sizes in [[n, 0, 5, 3], [n, 5, 0, 3], [n, 0, 0, 3], [n, 5, 4, 0], [n, 0, 0, 0]] {
            let data = Dense::<T>::integers(sizes, 2);
            let cp = Cp::<T>::integers([n, sizes[1], sizes[2], sizes[3], 4], 2);
            let rankless = Cp::<T>::integers([n, sizes[1], sizes[2], sizes[3], 0], 2);
            for layer in [data.layer(), cp.layer(), rankless.layer(), data.linear()] {
                let exact = data.exact(&layer);
                for_each_way(&layer, n, |layer, what| {
                    let mut y = vec![T::from_f64(f64::NAN); n * sizes[3]];
                    layer.forward_into(data.z(), data.x(), ViewMut::new(&mut y, [n, sizes[3]]).unwrap()).unwrap();
                    assert_exact(&y, &exact, &format!("{sizes:?} {what}"));
                });
            }
        }
    }
}

/// A NaN reaches exactly the outputs that depend on it: all of them, and no other.
fn nan_reaches_its_outputs<T: Element>() {
    let nan = T::from_f64(f64::NAN);
    for [n, i, j, k] in [[1, 5, 6, 4], [4, 9, 33, 5], [37, 7, 18, 15], [130, 3, 5, 2]] {
        let clean = Dense::<T>::uniform([n, i, j, k], 4);
        let (row, out) = (n / 2, k / 2);
        let mut random = Random(n as u64);
        for operand in ["w", "u", "v", "b", "z", "x"] {
            let mut data = clean.clone();
            match operand {
                "w" => data.w[(out * i + random.below(i)) * j + random.below(j)] = nan,
                "u" => data.u[out * i + random.below(i)] = nan,
                "v" => data.v[out * j + random.below(j)] = nan,
                "b" => data.b[out] = nan,
                "z" => data.z[row * i + random.below(i)] = nan,
                _ => data.x[row * j + random.below(j)] = nan,
            }
            for_each_way(&data.layer(), n, |layer, what| {
                let y = layer.forward(data.z(), data.x()).unwrap();
                for (index, value) in y.as_slice().iter().enumerate() {
                    let reached = if "zx".contains(operand) { index / k == row } else { index % k == out };
                    assert_eq!(value.to_f64().is_nan(), reached, "{operand} {what} [{n}, {i}, {j}, {k}] {index}");
                }
            });
        }
    }
}

/// The same for CP, where every factor has a row or a component of its own.
fn nan_in_factors<T: Element>() {
    let nan = T::from_f64(f64::NAN);
    for [n, i, j, k, rank] in [[1, 5, 6, 4, 3], [4, 9, 33, 5, 17], [37, 7, 18, 15, 33]] {
        let clean = Cp::<T>::uniform([n, i, j, k, rank], 4);
        for operand in ["a", "b", "c", "lambda", "z", "x"] {
            let mut data = clean.clone();
            match operand {
                "a" => data.a[(k / 2) * rank + 1] = nan,
                "b" => data.b[2] = nan,
                "c" => data.c[rank] = nan,
                "lambda" => data.lambda[rank - 1] = nan,
                "z" => data.rest.z[(n / 2) * i] = nan,
                _ => data.rest.x[(n / 2) * j + j - 1] = nan,
            }
            for_each_way(&data.layer(), n, |layer, what| {
                let y = layer.forward(data.rest.z(), data.rest.x()).unwrap();
                for (index, value) in y.as_slice().iter().enumerate() {
                    let reached = match operand {
                        "a" => index % k == k / 2,
                        "z" | "x" => index / k == n / 2,
                        _ => true,
                    };
                    assert_eq!(value.to_f64().is_nan(), reached, "{operand} {what} {index}");
                }
            });
        }
    }
}

/// Infinity times what is positive is infinity; times zero, or less another infinity, NaN; all as the definition says.
fn infinity<T: Element>() {
    let infinity = T::from_f64(f64::INFINITY);
    for [n, i, j, k] in [[1, 5, 6, 4], [4, 9, 17, 5], [21, 7, 18, 15]] {
        // Positive data: infinities can only add up.
        let mut positive = Dense::<T>::integers([n, i, j, k], 6);
        let operands = |data: &mut Dense<T>, map: fn(f64) -> f64| {
            for values in [&mut data.w, &mut data.u, &mut data.v, &mut data.b, &mut data.z, &mut data.x] {
                values.iter_mut().for_each(|value| *value = T::from_f64(map(value.to_f64())));
            }
        };
        operands(&mut positive, |value| value.abs() + 1.0);
        let mut cases = vec![];
        for operand in 0..3 {
            let mut data = positive.clone();
            *[&mut data.w, &mut data.z, &mut data.x][operand].last_mut().unwrap() = infinity;
            cases.push(data.clone());
            // ∞ · 0
            data.z[(n - 1) * i..].fill(T::from_f64(0.0));
            if operand == 1 {
                *data.z.last_mut().unwrap() = infinity;
                data.x[(n - 1) * j..].fill(T::from_f64(0.0));
            }
            cases.push(data);
        }
        // ∞ − ∞
        let mut data = positive.clone();
        data.w[0] = infinity;
        data.w[i * j - 1] = T::from_f64(f64::NEG_INFINITY);
        cases.push(data);
        for (case, data) in cases.iter().enumerate() {
            let exact = data.exact(&data.layer());
            let expected: Vec<T> = exact.value.as_slice().iter().map(|&value| T::from_f64(value)).collect();
            assert!(expected.iter().any(|value| !value.to_f64().is_finite()));
            for_each_way(&data.layer(), n, |layer, what| {
                let y = layer.forward(data.z(), data.x()).unwrap();
                assert_same(y.as_slice(), &expected, &format!("[{n}, {i}, {j}, {k}] case {case} {what}"));
            });
        }
    }
}

/// Results too large for the storage type become infinite, not garbage.
#[test]
fn overflow_of_storage() {
    let (w, z, x) = ([60000.0, 1.0], [2.0], [1.0]);
    let [w, z, x] = [&w[..], &z, &x].map(|values| values.iter().map(|&v| trilinear::f16::from_f64(v)).collect());
    let (w, z, x): (Vec<_>, Vec<_>, Vec<_>) = (w, z, x);
    let layer = Interaction::dense(View::new(&w, [2, 1, 1]).unwrap()).unwrap();
    for_each_way(&layer, 1, |layer, what| {
        let y = layer.forward(View::row(&z), View::row(&x)).unwrap();
        assert_eq!(y.as_slice(), [trilinear::f16::INFINITY, trilinear::f16::from_f64(2.0)], "{what}");
    });
}

/// The bound grows with depth and magnitude, and a dropped term is outside of it: the oracle can fail.
#[test]
fn the_bound_is_tight_enough_to_find_a_dropped_term() {
    let data = Dense::<f32>::uniform([4, 20, 30, 3], 9);
    let exact = data.exact(&data.layer());
    let mut without = data.clone();
    without.x[7] = 0.0;
    let context = Context::from_env().unwrap();
    let y = without.layer().with_context(context).forward(without.z(), without.x()).unwrap();
    let wrong = |index: usize| (f64::from(y.as_slice()[index]) - exact.value.as_slice()[index]).abs();
    assert!((0..3).all(|index| wrong(index) > exact.error_bound(DType::F32, index)));
    assert!((3..12).all(|index| wrong(index) <= exact.error_bound(DType::F32, index)));
    let deeper = |depth| reference::error_bound(DType::F32, depth, 1.0, 10.0);
    assert!(deeper(100) > 9.0 * deeper(10) && deeper(100) < 11.0 * deeper(10));
}

for_each_dtype!(
    any_terms,
    tied,
    by_value_and_again,
    named_shapes,
    cancellation,
    deep,
    magnitudes,
    zeros,
    empty,
    nan_reaches_its_outputs,
    nan_in_factors,
    infinity,
);

//! The same numbers as PyTorch, whose results are in fixtures/pytorch.txt with the version that made them.

mod common;

use std::collections::HashMap;

use common::{for_each_way, ways};
use trilinear::reference::{self, Reference};
use trilinear::{Element, Gradient, Interaction, Tensor, View, Wanted};

const FIXTURE: &str = include_str!("fixtures/pytorch.txt");

/// An array: its shape and its elements.
type Array<T> = (Vec<usize>, Vec<T>);

/// C's hexadecimal floats, as Python writes them: `-0x1.8p+3`.
fn parse(text: &str) -> f64 {
    let (sign, rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let (mantissa, power) = rest.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
    sign * digits as f64 * 2f64.powi(power.parse::<i32>().unwrap() - 4 * fraction.len() as i32)
}

/// Arrays by name.
type Arrays<T> = HashMap<String, Array<T>>;

/// The cases of one dtype, those with gradients or those without.
fn cases<T: Element>(dtype: &str, gradients: bool) -> Vec<(String, Arrays<T>)> {
    let mut cases: Vec<(String, Arrays<T>)> = Vec::new();
    let mut wanted = false;
    for line in FIXTURE.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (name, shape) = (words.next().unwrap(), words.next().unwrap());
        if name == "case" {
            wanted = words.next() == Some(dtype) && shape.ends_with("-gradients") == gradients;
            if wanted {
                cases.push((shape.into(), HashMap::new()));
            }
        } else if wanted {
            let shape: Vec<usize> = shape.split('x').map(|length| length.parse().unwrap()).collect();
            let values: Vec<T> = words.map(|word| T::from_f64(parse(word))).collect();
            assert_eq!(values.len(), shape.iter().product());
            cases.last_mut().unwrap().1.insert(name.into(), (shape, values));
        }
    }
    cases
}

fn view<T, const D: usize>((shape, values): &Array<T>) -> View<'_, T, D> {
    View::new(values, shape.clone().try_into().unwrap()).unwrap()
}

fn layer<T: Element>(arrays: &Arrays<T>) -> Interaction<'_, T> {
    let layer = match arrays.get("w") {
        Some(w) => Interaction::dense(view(w)).unwrap(),
        None => Interaction::cp(view(&arrays["A"]), view(&arrays["B"]), view(&arrays["C"])).unwrap(),
    };
    let layer = arrays.get("u").map_or(Ok(layer), |u| layer.with_u(view(u))).unwrap();
    let layer = arrays.get("v").map_or(Ok(layer), |v| layer.with_v(view(v))).unwrap();
    let layer = arrays.get("b").map_or(Ok(layer), |b| layer.with_b(view(b))).unwrap();
    arrays.get("lambda").map_or(Ok(layer), |lambda| layer.with_lambda(view(lambda))).unwrap()
}

/// Two results that each keep the bound differ by at most twice the bound.
fn check<T: Element>(dtype: &str) {
    let cases = cases::<T>(dtype, false);
    assert_eq!(cases.len(), 4);
    for (name, arrays) in &cases {
        let layer = match (arrays.get("w"), arrays.get("u")) {
            (Some(w), None) => Interaction::torch_bilinear(view(w), arrays.get("b").map(view)).unwrap(),
            _ => layer(arrays),
        };
        let (z, x) = (view(&arrays["z"]), view(&arrays["x"]));
        let exact = reference::forward(&layer, z, x).unwrap();
        let expected: View<'_, T, 2> = view(&arrays["y"]);
        for_each_way(&layer, x.shape()[0], |layer, what| {
            let y = layer.forward(z, x).unwrap();
            assert_eq!(y.shape(), expected.shape());
            for (index, (y, torch)) in y.as_slice().iter().zip(expected.as_slice().unwrap()).enumerate() {
                let error = (y.to_f64() - torch.to_f64()).abs();
                assert!(error <= 2.0 * exact.error_bound(T::DTYPE, index), "{name} {what} {index}: {y} and {torch}");
            }
        });
    }
}

/// The gradients of autograd, all of them, with their own bounds.
fn check_gradients<T: Element<Accumulator = T>>(dtype: &str) {
    let cases = cases::<T>(dtype, true);
    assert_eq!(cases.len(), 5);
    for (name, arrays) in &cases {
        let layer = layer(arrays);
        for context in ways(0) {
            for (part, found, exact) in gradients(&layer.with_context(context), arrays) {
                let (_, torch) = &arrays[part];
                assert_eq!(found.len(), torch.len(), "{name} {part}");
                for (index, (found, torch)) in found.iter().zip(torch).enumerate() {
                    let (error, bound) = ((found.to_f64() - torch.to_f64()).abs(), exact.error_bound(T::DTYPE, index));
                    assert!(error <= 2.0 * bound, "{name} {part} {} {index}: {found} and {torch}", context.simd());
                }
            }
        }
    }
}

/// A gradient, its name, and what it should be.
type Found<T> = (&'static str, Vec<T>, Reference);

/// All gradients of a case: of a shared context if x has three axes, of tied inputs if there is no z.
fn gradients<T: Element<Accumulator = T>>(layer: &Interaction<'_, T>, arrays: &Arrays<T>) -> Vec<Found<T>> {
    let mut parts: Vec<Found<T>> = Vec::new();
    let (w, u, v, b, cp, exact);
    if arrays["x"].0.len() == 3 {
        let (z, x, g) = (view(&arrays["z"]), view(&arrays["x"]), view(&arrays["g"]));
        let found = layer.backward_shared(z, x, g).unwrap();
        (w, u, v, b, cp) = (found.w, found.u, found.v, found.b, found.cp);
        exact = reference::backward_shared(layer, z, x, g).unwrap();
        parts.push(("dz", found.z.into_vec(), exact.z));
        parts.push(("dx", found.x.into_vec(), exact.x));
    } else {
        let (x, g) = (view(&arrays["x"]), view(&arrays["g"]));
        let z = arrays.get("z").map_or(x, view);
        let found = layer.backward(z, x, g).unwrap();
        (w, u, v, b, cp) = (found.w, found.u, found.v, found.b, found.cp);
        exact = reference::backward(layer, z, x, g).unwrap();
        if arrays.contains_key("z") {
            parts.push(("dz", found.z.into_vec(), exact.z));
            parts.push(("dx", found.x.into_vec(), exact.x));
        } else {
            let mut to = Tensor::zeros(x.shape()).unwrap();
            let tied = Wanted { tied: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
            layer.backward_into(z, x, g, tied).unwrap();
            parts.push(("dx", to.into_vec(), exact.z.plus(&exact.x).unwrap()));
        }
    }
    let weights = [
        ("dw", w.map(Tensor::into_vec), exact.w),
        ("du", u.map(Tensor::into_vec), exact.u),
        ("dv", v.map(Tensor::into_vec), exact.v),
        ("db", b.map(Tensor::into_vec), exact.b),
    ];
    parts.extend(weights.into_iter().filter_map(|(name, found, exact)| Some((name, found?, exact))));
    if let (Some(cp), Some(exact)) = (cp, exact.cp) {
        let factors = [("dA", cp.a, exact.a), ("dB", cp.b, exact.b), ("dC", cp.c, exact.c)];
        parts.extend(factors.map(|(name, found, exact)| (name, found.into_vec(), exact)));
        parts.extend(cp.lambda.map(|found| ("dlambda", found.into_vec(), exact.lambda)));
    }
    assert_eq!(parts.len(), arrays.len() / 2); // each operand and its gradient, and g
    parts
}

#[test]
fn f32() {
    check::<f32>("float32");
    check_gradients::<f32>("float32");
}

#[test]
fn f64() {
    check::<f64>("float64");
    check_gradients::<f64>("float64");
}

#[test]
fn the_version_is_recorded() {
    assert!(FIXTURE.starts_with("# torch 2."), "{}", &FIXTURE[..40]);
}

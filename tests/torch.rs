//! The same numbers as PyTorch, whose results are in fixtures/pytorch.txt with the version that made them.

mod common;

use std::collections::HashMap;

use common::for_each_way;
use trilinear::{Element, Interaction, View, reference};

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

/// The cases of one dtype.
fn cases<T: Element>(dtype: &str) -> Vec<(String, HashMap<String, Array<T>>)> {
    let mut cases: Vec<(String, HashMap<String, Array<T>>)> = Vec::new();
    let mut wanted = false;
    for line in FIXTURE.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (name, shape) = (words.next().unwrap(), words.next().unwrap());
        if name == "case" {
            wanted = words.next() == Some(dtype);
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

/// Two results that each keep the bound differ by at most twice the bound.
fn check<T: Element>(dtype: &str) {
    let cases = cases::<T>(dtype);
    assert_eq!(cases.len(), 4);
    for (name, arrays) in &cases {
        let layer = match arrays.get("w") {
            Some(w) => Interaction::torch_bilinear(view(w), arrays.get("b").map(view)).unwrap(),
            None => Interaction::cp(view(&arrays["A"]), view(&arrays["B"]), view(&arrays["C"])).unwrap(),
        };
        let layer = arrays.get("u").map_or(Ok(layer), |u| layer.with_u(view(u))).unwrap();
        let layer = arrays.get("v").map_or(Ok(layer), |v| layer.with_v(view(v))).unwrap();
        let layer = arrays.get("lambda").map_or(Ok(layer), |lambda| layer.with_lambda(view(lambda))).unwrap();
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

#[test]
fn f32() {
    check::<f32>("float32");
}

#[test]
fn f64() {
    check::<f64>("float64");
}

#[test]
fn the_version_is_recorded() {
    assert!(FIXTURE.starts_with("# torch 2."), "{}", &FIXTURE[..40]);
}

//! What holds of gradients for every shape, form, layout, subset and level. The cases are the same in every run.

mod common;

use common::case::{Case, Exact, Form, Operation, Options, Part, Set, check};
use common::{levels, way, ways};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use trilinear::{Context, Device, Element, View, bf16, f16};

fn config(cases: u32) -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { cases };
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(30), failure_persistence: None, ..ProptestConfig::default() }
}

/// G, M, I, J, K, R: small ones, and every now and then one that crosses tiles and strips.
fn sizes() -> impl Strategy<Value = [usize; 6]> {
    let most: usize = if cfg!(miri) { 6 } else { 40 };
    let axis = move || prop_oneof![4 => 0..5usize, 2 => 5..most];
    let rows = prop_oneof![3 => 1..4usize, 1 => 4..most, 1 => Just(0)];
    (axis(), rows, axis(), axis(), axis(), axis()).prop_map(|(g, m, i, j, k, r)| [g, m, i, j, k, r])
}

fn operations() -> impl Strategy<Value = Operation> {
    select(vec![Operation::Plain, Operation::Shared, Operation::Generate])
}

/// Sizes as the operation has them.
fn of(operation: Operation, [g, m, i, j, k, r]: [usize; 6]) -> [usize; 6] {
    [g, if operation == Operation::Shared { m } else { 1 }, i, j, k, r]
}

/// How to call, but for the operation and the form.
#[derive(Clone, Copy, Debug)]
struct How {
    layout: usize,
    wanted: Set,
    add: Set,
    saved: bool,
    level: usize,
    threads: usize,
    linear: bool,
    tied: bool,
    integers: bool,
}

fn hows() -> impl Strategy<Value = How> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let sets = (prop_oneof![Just(u16::MAX), any::<u16>()], prop_oneof![Just(0), any::<u16>()]);
    (0..8usize, sets, 0..levels().len(), 1..4usize, flags).prop_map(
        |(layout, (wanted, add), level, threads, (saved, linear, tied, integers))| {
            let (wanted, add) = (Set(wanted), Set(add));
            How { layout, wanted, add, saved, level, threads, linear, tied, integers }
        },
    )
}

fn call<T: Element>(form: Form, operation: Operation, sizes: [usize; 6], how: How, seed: u64) {
    let tied = how.tied && operation == Operation::Plain;
    let [g, m, i, j, k, r] = sizes;
    let sizes = if tied { [g, m, i, i, k, r] } else { [g, m, i, j, k, r] };
    let make = if how.integers { Case::<T>::integers } else { Case::<T>::uniform };
    let case = Case { linear: how.linear, ..make(form, sizes, seed) };
    let case = if tied { case.tied() } else { case };
    let context = Context::new(Device::Cpu).unwrap().with_simd(levels()[how.level]).unwrap();
    let How { layout, wanted, add, saved, .. } = how;
    let options = Options { layout, wanted, add, saved, context: context.with_threads(how.threads).unwrap() };
    check(&case, operation, &Exact::new(&case, operation), &options, how.integers);
}

/// A layer without linear terms, for which T = ⟨g, y⟩ has the same value contracted with any operand.
fn core(form: Form, sizes: [usize; 6], seed: u64) -> Case<f64> {
    Case { linear: false, ..Case::integers(form, sizes, seed) }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What an operation computes, and the gradient that it is contracted with.
fn total(case: &Case<f64>, operation: Operation, context: Context) -> f64 {
    let laid = case.laid(0);
    let layer = laid.layer().with_context(context);
    let z = laid.z.view();
    match operation {
        Operation::Plain => dot(layer.forward(z, laid.x.view()).unwrap().as_slice(), &case.g),
        Operation::Shared => dot(layer.forward_shared(z, laid.x_shared.view()).unwrap().as_slice(), &case.g),
        Operation::Generate => {
            let generated = layer.generate(z).unwrap();
            dot(generated.weights.as_slice(), &case.weights) + dot(generated.bias.as_slice(), &case.bias)
        }
    }
}

/// The operand that a gradient belongs to.
fn operand(case: &mut Case<f64>, part: Part) -> &mut Vec<f64> {
    match part {
        Part::Z | Part::Tied => &mut case.z,
        Part::X => &mut case.x,
        Part::W => &mut case.w,
        Part::U => &mut case.u,
        Part::V => &mut case.v,
        Part::B => &mut case.b,
        Part::FactorA => &mut case.factors[0],
        Part::FactorB => &mut case.factors[1],
        Part::FactorC => &mut case.factors[2],
        Part::Lambda => &mut case.lambda,
    }
}

/// Gradients of operands that the layer has.
fn owned(case: &Case<f64>, operation: Operation) -> Set {
    let mut parts = vec![Part::Z];
    if operation != Operation::Generate {
        parts.push(Part::X);
    }
    match case.form {
        Form::Linear => {}
        Form::Dense => parts.push(Part::W),
        Form::Cp => parts.extend([Part::FactorA, Part::FactorB, Part::FactorC]),
        Form::CpLambda => parts.extend([Part::FactorA, Part::FactorB, Part::FactorC, Part::Lambda]),
    }
    if case.linear {
        parts.extend([Part::U, Part::V, Part::B]);
    }
    Set::of(&parts)
}

proptest! {
    #![proptest_config(config(2000))]

    /// Any operation of any layer, in any memory, of any type: the definition.
    #[test]
    fn any_call(form in select(Form::ALL.to_vec()), operation in operations(), sizes in sizes(), how in hows(), dtype in 0..4usize, seed: u64) {
        let sizes = of(operation, sizes);
        match dtype {
            0 => call::<f32>(form, operation, sizes, how, seed),
            1 => call::<f64>(form, operation, sizes, how, seed),
            2 => call::<f16>(form, operation, sizes, how, seed),
            _ => call::<bf16>(form, operation, sizes, how, seed),
        }
    }
}

proptest! {
    #![proptest_config(config(500))]

    /// ⟨g, y⟩ = ⟨dz, z⟩ = ⟨dx, x⟩ = ⟨dW, W⟩ = ⟨dA, A⟩ = ⟨dB, B⟩ = ⟨dC, C⟩ = ⟨dλ, λ⟩ without linear terms: exactly, in integers.
    #[test]
    fn adjoint(form in select(vec![Form::Dense, Form::Cp, Form::CpLambda]), operation in operations(), sizes in sizes(), seed: u64) {
        let mut case = core(form, of(operation, sizes), seed);
        if operation == Operation::Generate {
            case.bias.fill(0.0);
        }
        for context in ways(case.flops()) {
            let t = total(&case, operation, context);
            let options = Options { wanted: owned(&case, operation), ..Options::new(context) };
            for (part, gradient) in case.call(operation, &options, "adjoint").unwrap() {
                prop_assert_eq!(t, dot(&gradient, operand(&mut case.clone(), part)), "{:?}", part);
            }
        }
    }

    /// The result is linear in each operand, so a central difference is its derivative at any step: at 1, exactly.
    #[test]
    fn differences(form in select(Form::ALL.to_vec()), operation in operations(), linear: bool,
                   g in 1usize..4, m in 1usize..4, i in 1usize..6, j in 1usize..6, k in 1usize..5, r in 1usize..5, seed: u64) {
        let case = Case { linear, ..Case::integers(form, of(operation, [g, m, i, j, k, r]), seed) };
        let context = way(case.flops(), seed);
        let options = Options { wanted: owned(&case, operation), ..Options::new(context) };
        for (part, gradient) in case.call(operation, &options, "differences").unwrap() {
            for (index, &expected) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut case = case.clone();
                    operand(&mut case, part)[index] += by;
                    total(&case, operation, context)
                };
                prop_assert_eq!((shifted(1.0) - shifted(-1.0)) / 2.0, expected, "{:?} {}", part, index);
            }
        }
    }

    /// CP is the dense layer of its W, of which dA, dB and dC are contractions: dA = Σᵢⱼ dW B C, and so on.
    #[test]
    fn factors_of_the_dense_gradient(sizes in sizes(), seed: u64) {
        let [n, _, i, j, k, r] = sizes;
        let case = Case { linear: false, ..Case::<f64>::integers(Form::CpLambda, [n, 1, i, j, k, r], seed) };
        let laid = case.laid(0);
        let w = laid.layer().to_dense().unwrap().into_vec();
        let (factors, lambda) = Default::default();
        let dense = Case { form: Form::Dense, w, factors, lambda, ..case.clone() };
        let options = Options::new(way(case.flops(), seed));
        let of_cp = case.call(Operation::Plain, &options, "cp").unwrap();
        let of_dense = dense.call(Operation::Plain, &options, "dense").unwrap();
        for ((part, cp), (_, dense)) in of_cp.iter().zip(&of_dense) {
            prop_assert_eq!(cp, dense, "{:?}", part);
        }
        let find = |part| &of_cp.iter().find(|(other, _)| *other == part).unwrap().1;
        let [a, b, c] = [0, 1, 2].map(|mode| View::new(&case.factors[mode], [[k, i, j][mode], r]).unwrap());
        let at = |view: View<'_, f64, 2>, row: usize, column: usize| view.get([row, column]).unwrap();
        let mut expected = [vec![0.0; k * r], vec![0.0; i * r], vec![0.0; j * r], vec![0.0; r]];
        for (place, dw) in find(Part::W).iter().enumerate() {
            let (out, row, column) = (place / j / i, place / j % i, place % j);
            for component in 0..r {
                let [a, b, c] = [at(a, out, component), at(b, row, component), at(c, column, component)];
                let lambda = case.lambda[component];
                expected[0][out * r + component] += dw * lambda * b * c;
                expected[1][row * r + component] += dw * lambda * a * c;
                expected[2][column * r + component] += dw * lambda * a * b;
                expected[3][component] += dw * a * b * c;
            }
        }
        for (part, expected) in [Part::FactorA, Part::FactorB, Part::FactorC, Part::Lambda].into_iter().zip(&expected) {
            prop_assert_eq!(find(part), expected, "{:?}", part);
        }
    }

    /// Gradients in weights of a batch are the sums over its parts, and those in the inputs the parts'.
    #[test]
    fn batches_split(form in select(Form::ALL.to_vec()), sizes in sizes(), at in 0..40usize, seed: u64) {
        let [n, _, i, j, k, r] = sizes;
        let case = Case::<f64>::integers(form, [n, 1, i, j, k, r], seed);
        let at = at.min(n);
        let part = |from: usize, to: usize| {
            let rows = |values: &[f64], width: usize| values[from * width..to * width].to_vec();
            let (z, x, g) = (rows(&case.z, i), rows(&case.x, j), rows(&case.g, k));
            let (weights, bias) = (rows(&case.weights, k * j), rows(&case.bias, k));
            Case { sizes: [to - from, 1, i, j, k, r], z, x, g, weights, bias, ..case.clone() }
        };
        for context in ways(case.flops()) {
            let options = Options::new(context);
            let whole = case.call(Operation::Plain, &options, "whole").unwrap();
            let halves = [part(0, at), part(at, n)].map(|case| case.call(Operation::Plain, &options, "part").unwrap());
            for (((part, whole), (_, first)), (_, second)) in whole.iter().zip(&halves[0]).zip(&halves[1]) {
                let expected = match part {
                    Part::Z | Part::X => [first.as_slice(), second].concat(),
                    _ => first.iter().zip(second).map(|(a, b)| a + b).collect(),
                };
                prop_assert_eq!(whole, &expected, "{:?}", part);
            }
        }
    }
}

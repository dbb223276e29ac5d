//! NaN and infinities of operands reach what the definition says, and nothing beside: whatever a kernel pads its tiles with, or
//! splits its operands into, no zero of its own meets them. Every form, forward and backward, in every type, and in tf32.
//!
//! All numbers are small positive integers, whose sums are exact in any order, and large enough for tensor cores' tiles.

mod common;

use common::case::{Case, Exact, Form, Operation, Options};
use common::{assert_same, place, ways};
use trilinear::{Context, DType, Device, Element, reference};

/// Rows enough for tensor cores.
const SIZES: [usize; 6] = [18, 1, 3, 5, 4, 3];

/// An operand with one of each special value, all in rows and columns of their own where it has as many.
fn spoil<T: Element>(values: &mut [T], columns: usize) {
    let rows = values.len() / columns;
    for (index, special) in [f64::INFINITY, f64::NAN, f64::NEG_INFINITY].into_iter().enumerate() {
        if index < rows.min(columns) {
            values[(rows * (index + 1) / 4).max(index) * columns + index] = T::from_f64(special);
        }
    }
}

/// The cases: in each another operand has special values.
fn cases<T: Element>(form: Form) -> Vec<(&'static str, Case<T>)> {
    let mut seed = 0;
    let clean = Case::<T>::new(form, SIZES, |len, _| {
        seed += 1;
        (0..len).map(|index| T::from_f64(1.0 + ((index + seed) % 3 / 2) as f64)).collect()
    });
    let [_, _, i, j, k, r] = SIZES;
    type Operand<T> = fn(&mut Case<T>) -> &mut Vec<T>;
    let mut operands: Vec<(&str, usize, Operand<T>)> = vec![
        ("z", i, |case| &mut case.z),
        ("x", j, |case| &mut case.x),
        ("g", k, |case| &mut case.g),
        ("v", j, |case| &mut case.v),
    ];
    match form {
        Form::Dense => operands.push(("w", j, |case| &mut case.w)),
        Form::Cp => operands.push(("b", r, |case| &mut case.factors[1])),
        Form::CpLambda => operands.push(("lambda", r, |case| &mut case.lambda)),
        Form::Linear => {}
    }
    let spoiled = operands.into_iter().map(|(name, columns, operand)| {
        let mut case = clean.clone();
        spoil(operand(&mut case), columns);
        (name, case)
    });
    spoiled.collect()
}

fn special_values_reach_what_they_enter<T: Element>() {
    for form in [Form::Dense, Form::Cp, Form::CpLambda] {
        for (operand, case) in cases::<T>(form) {
            let laid = case.laid(0);
            let y = reference::forward(&laid.layer(), laid.z.view(), laid.x.view()).unwrap();
            let exact = Exact::new(&case, Operation::Plain);
            let plain = ways(case.flops());
            let has_tf32 = |context: &&Context| T::DTYPE == DType::F32 && context.device() != Device::Cpu;
            let tf32: Vec<Context> = plain.iter().filter(has_tf32).map(|context| context.allow_tf32(true)).collect();
            for context in plain.iter().chain(&tf32) {
                let what = format!("{operand} {form:?} {} {} {}", T::DTYPE, place(context), context.tf32());
                let found = laid.layer().with_context(*context).forward(laid.z.view(), laid.x.view()).unwrap();
                let expected: Vec<T> = y.value.as_slice().iter().map(|&y| T::from_f64(y)).collect();
                assert_same(found.as_slice(), &expected, &format!("y: {what}"));
                for (part, values) in case.call(Operation::Plain, &Options::new(*context), &what).unwrap() {
                    let exact = exact.of(part).value.as_slice();
                    let expected: Vec<_> = exact.iter().map(|&value| T::Accumulator::from_f64(value)).collect();
                    assert_same(&values, &expected, &format!("{part:?}: {what}"));
                }
            }
        }
    }
}

for_each_dtype!(special_values_reach_what_they_enter);

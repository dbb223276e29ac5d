//! Gradients of one to four rows, which have drivers of their own, and of five, which have not: to the last bit, within the
//! bound, over NaN and amid a filler.

mod common;

use common::case::{Case, Exact, Form, Operation, Options, Part, Set, check};
use common::{assert_same, contexts, levels};
use trilinear::{Context, Device, Element};

/// I, J, K, R: around vectors (4 to 16 lanes), rows that are taken together (2, 4) and parts of factors; and 1.
const SIZES: [[usize; 4]; 12] = [
    [1, 1, 1, 1],
    [3, 1, 2, 17],
    [1, 4, 3, 16],
    [7, 5, 1, 15],
    [16, 17, 15, 33],
    [33, 64, 31, 8],
    [5, 6, 7, 4],
    [40, 9, 12, 64],
    [12, 48, 65, 31],
    [2, 3, 5, 130],
    [450, 3, 2, 300],
    [3, 2, 1000, 140],
];

fn wanted(index: usize) -> Set {
    let inputs = Set::of(&[Part::Z, Part::X]);
    [Set::ALL, inputs, Set(!inputs.0), Set::of(&[Part::X, Part::FactorB, Part::W]), Set::of(&[Part::Lambda, Part::V])]
        [index % 5]
}

/// Written and added, saved and computed again, of all layouts in turn.
fn exact<T: Element>() {
    for n in 1..=5 {
        for (seed, [i, j, k, r]) in SIZES.into_iter().enumerate() {
            for form in Form::ALL {
                let case = Case::<T>::integers(form, [n, 1, i, j, k, r], seed as u64);
                let case = Case { linear: !(seed + n).is_multiple_of(3), ..case };
                let exact = Exact::new(&case, Operation::Plain);
                for (index, context) in contexts().into_iter().enumerate() {
                    let turn = seed + n + index;
                    let options = Options::new(context);
                    check(&case, Operation::Plain, &exact, &options, true);
                    let (layout, add) = (turn % 8, if turn.is_multiple_of(2) { Set::ALL } else { Set::NONE });
                    let saved = form.is_cp() && turn.is_multiple_of(3);
                    let options = Options { layout, add, saved, wanted: wanted(turn), ..options };
                    check(&case, Operation::Plain, &exact, &options, true);
                }
            }
        }
    }
}

/// Any numbers, within the published bound.
fn bounds<T: Element>() {
    for n in 1..=5 {
        for [i, j, k, r] in [[70, 35, 30, 90], [450, 33, 20, 300], [3, 900, 5, 150], [9, 8, 7, 1]] {
            for form in Form::ALL {
                let case = Case::<T>::uniform(form, [n, 1, i, j, if form.is_cp() { k } else { 3 }, r], 3);
                let exact = Exact::new(&case, Operation::Plain);
                for context in contexts() {
                    let options = Options::new(context);
                    check(&case, Operation::Plain, &exact, &options, false);
                    check(&case, Operation::Plain, &exact, &Options { add: Set::ALL, saved: true, ..options }, false);
                }
            }
        }
    }
}

/// No gradient depends on which others are wanted, nor on the number of threads: to the last bit.
fn alone<T: Element>() {
    for n in [1, 2, 4] {
        for (form, sizes) in [
            (Form::Dense, [n, 1, 70, 90, 60, 1]),
            (Form::Dense, [n, 1, 33, 7, 300, 1]),
            (Form::CpLambda, [n, 1, 900, 1000, 700, 300]),
            (Form::Cp, [n, 1, 30, 20, 10, 64]),
        ] {
            let case = Case::<T>::uniform(form, sizes, 5);
            // dW is no gradient of a CP layer.
            let all = if form == Form::Dense { Set::ALL } else { Set(!Set::of(&[Part::W]).0) };
            for &level in levels() {
                let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
                let of = |wanted, threads| {
                    let options = Options { wanted, ..Options::new(context.with_threads(threads).unwrap()) };
                    case.call(Operation::Plain, &options, "alone").unwrap()
                };
                let what = |part| format!("{part:?} of {form:?} {sizes:?} {} {level}", T::DTYPE);
                let together = of(all, 1);
                for (part, expected) in &together {
                    let found = of(Set::of(&[*part]), 1);
                    assert_same(&found[0].1, expected, &what(*part));
                }
                for threads in [2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for ((part, expected), (_, found)) in together.iter().zip(pool.install(|| of(all, threads))) {
                        assert_same(&found, expected, &what(*part));
                    }
                }
            }
        }
    }
}

/// Gradients of more than half of a last cache of 32 MiB are written past the caches, dW of one row while W is read: of rows
/// that are not whole vectors, from any address on, some of them wanted, and within the bands around it.
fn past<T: Element>() {
    let f32 = T::DTYPE == trilinear::DType::F32;
    for (n, layouts) in if f32 { vec![(1, 0..4), (2, 1..2), (4, 0..1)] } else { vec![(1, 1..2)] } {
        let case = Case::<T>::integers(Form::Dense, [n, 1, 131, 259, 130, 1], 1);
        let exact = Exact::new(&case, Operation::Plain);
        for layout in layouts {
            for (index, context) in contexts().into_iter().enumerate() {
                let wanted = [Set::ALL, Set::of(&[Part::Z, Part::W]), Set::of(&[Part::X, Part::W])];
                let options = Options { layout, wanted: wanted[(layout + index) % 3], ..Options::new(context) };
                check(&case, Operation::Plain, &exact, &options, true);
            }
        }
    }
}

/// The same bits whether what is written goes past the caches, because it is much, or not.
#[test]
fn past_together_or_alone() {
    let dense = Case::<f32>::uniform(Form::Dense, [1, 1, 131, 259, 130, 1], 2);
    let cp = [1, 3].map(|n| Case::<f32>::uniform(Form::Cp, [n, 1, 5001, 3003, 1999, 449], 2));
    for case in cp.iter().chain([&dense]) {
        let weights =
            if case.form == Form::Dense { vec![Part::W] } else { vec![Part::FactorA, Part::FactorB, Part::FactorC] };
        let inputs = [Part::Z, Part::X];
        for context in contexts() {
            let of = |parts: &[Part], layout| {
                let options = Options { wanted: Set::of(parts), layout, ..Options::new(context) };
                case.call(Operation::Plain, &options, "past").unwrap()
            };
            for layout in [case.sizes[0] % 2] {
                for (part, together) in of(&[&inputs[..], &weights].concat(), layout) {
                    let what = format!("{part:?} of {:?} {layout} {}", case.sizes, context.simd());
                    assert_same(&together, &of(&[part], 0)[0].1, &what);
                }
            }
        }
    }
}

/// x and z one tensor, whose gradient is dz + dx, alone, added and with the others.
fn tied<T: Element>() {
    for n in 1..=5 {
        for [i, k, r] in [[1, 1, 1], [5, 3, 4], [33, 17, 20], [16, 40, 16]] {
            for case in Case::<T>::forms([n, 1, i, i, k, r], 4) {
                let case = case.tied();
                let exact = Exact::new(&case, Operation::Plain);
                for context in contexts() {
                    let (only, weights) = (Set::of(&[Part::Tied]), Set::of(&[Part::Tied, Part::W, Part::FactorC]));
                    for (wanted, add) in [(Set::ALL, Set::NONE), (only, only), (weights, Set::NONE)] {
                        let options = Options { wanted, add, ..Options::new(context) };
                        check(&case, Operation::Plain, &exact, &options, true);
                    }
                }
            }
        }
    }
}

for_each_dtype!(exact, bounds, alone, past, tied);

//! Gradients and tangents of large and awkward shapes: axes that cross the blocks of every driver, amid a filler; more
//! threads than tasks; calls inside of tasks of calls.

mod common;

use common::case::{Case, Exact, Form, Operation, Options, Part, Set, check};
use common::{Random, assert_same, contexts};
use rayon::prelude::*;
use trilinear::{Context, Device, Element, SimdLevel, Tangents, View, reference};

/// G (or N), M, I, J, K, R: each axis past the blocks of rows (384), of features (4096), of outputs and of components.
const DENSE: [[usize; 6]; 12] = [
    [1, 1, 4999, 3, 3, 1],
    [4, 1, 3, 4999, 2, 1],
    [5, 1, 4097, 3, 2, 1],
    [33, 1, 2, 4999, 1, 1],
    [6, 1, 2, 4113, 13, 1],
    [3, 1, 2, 3, 20_000, 1],
    [35, 1, 1, 5, 4001, 1],
    [200, 1, 67, 65, 3, 1],
    [800, 1, 70, 66, 2, 1],
    [9000, 1, 3, 4, 2, 1],
    [20_011, 1, 1, 2, 1, 1],
    [5, 1, 110, 97, 60, 1],
];

const CP: [[usize; 6]; 10] = [
    [193, 1, 5, 7, 3, 511],
    [257, 1, 3, 5, 1, 513],
    [65, 1, 3, 520, 2, 40],
    [400, 1, 530, 5, 1, 65],
    [65, 1, 3, 4, 33, 1100],
    [5, 1, 4500, 40, 2, 17],
    [6, 1, 2, 3, 20_000, 3],
    [4, 1, 2, 3, 5001, 300],
    [9000, 1, 3, 2, 4, 9],
    [1, 1, 300, 200, 100, 600],
];

const SHARED: [[usize; 6]; 9] = [
    [100, 2, 3, 701, 4, 9],
    [97, 1, 2, 1400, 3, 5],
    [3, 530, 5, 6, 9, 70],
    [2, 5, 3, 4999, 12, 6],
    [1, 3, 520, 70, 33, 20],
    [50, 3, 2, 700, 20, 3],
    [4000, 1, 2, 3, 2, 4],
    [1, 9000, 3, 4, 2, 5],
    [3, 2, 2, 3, 9000, 2],
];

/// In integers, all gradients, to the last bit; and other numbers, in padded rows that run backwards, within the bound.
fn large<T: Element>(shapes: &[[usize; 6]], forms: &[Form], operations: &[Operation]) {
    for (seed, &sizes) in shapes.iter().enumerate() {
        for (&form, &operation) in forms.iter().flat_map(|form| operations.iter().map(move |of| (form, of))) {
            // Integers always, for they see a single lost term; other numbers every second time, for the time it takes.
            for integers in [true, false].into_iter().take(1 + seed % 2) {
                let make = if integers { Case::<T>::integers } else { Case::<T>::uniform };
                let case = make(form, sizes, seed as u64);
                let exact = Exact::new(&case, operation);
                for (index, context) in contexts().into_iter().enumerate() {
                    let layout = if integers { [1, 0, 3, 1][(seed + index) % 4] } else { 5 };
                    check(&case, operation, &exact, &Options { layout, ..Options::new(context) }, integers);
                }
                // The inputs' alone, and added: another way, maybe.
                let wanted = Set::of(&[if seed % 2 == 0 { Part::Z } else { Part::X }, Part::FactorB]);
                let options = Options { wanted, add: wanted, ..Options::new(*Random(seed as u64).pick(&contexts())) };
                check(&case, operation, &exact, &options, integers);
            }
        }
    }
}

fn dense<T: Element>() {
    large::<T>(&DENSE, &[Form::Dense], &[Operation::Plain]);
}

fn cp<T: Element>() {
    large::<T>(&CP, &[Form::CpLambda], &[Operation::Plain]);
}

fn shared<T: Element>() {
    large::<T>(&SHARED, &[Form::Dense, Form::Cp], &[Operation::Shared, Operation::Generate]);
}

/// Tangents of large layers, everything moving.
fn tangents<T: Element>() {
    for (seed, &sizes) in DENSE.iter().chain(&CP).enumerate() {
        let form = if seed < DENSE.len() { Form::Dense } else { Form::CpLambda };
        let (case, directions) = (Case::<T>::uniform(form, sizes, 1), Case::<T>::uniform(form, sizes, 2));
        let (laid, moved) = (case.laid(1), directions.laid(5));
        let all = all(form, &moved);
        let exact = reference::tangent(&laid.layer(), laid.z.view(), laid.x.view(), &all).unwrap();
        for context in contexts() {
            let found = laid.layer().with_context(context).tangent(laid.z.view(), laid.x.view(), &all).unwrap();
            common::assert_close(found.as_slice(), &exact, &format!("{form:?} {sizes:?} {}", context.simd()));
        }
    }
}

fn all<'a, T: Element>(form: Form, moved: &'a common::case::Laid<'_, T>) -> Tangents<'a, T> {
    let [a, b, c] = moved.factors.each_ref().map(|factor| form.is_cp().then(|| factor.view()));
    Tangents {
        z: Some(moved.z.view()),
        x: Some(moved.x.view()),
        w: (form == Form::Dense).then(|| moved.w.view()),
        u: Some(moved.u.view()),
        v: Some(moved.v.view()),
        b: Some(moved.b.view()),
        cp_a: a,
        cp_b: b,
        cp_c: c,
        lambda: (form == Form::CpLambda).then(|| moved.lambda.view()),
    }
}

/// Sizes for which the definition takes too long: ⟨dz, z⟩ = ⟨dx, x⟩ = ⟨dW, W⟩ = ⟨dA, A⟩ = …, all exact in integers, and so equal.
fn adjoint<T: Element>() {
    let shapes = [
        (Operation::Plain, [500, 1, 128, 128, 64, 96]),
        (Operation::Plain, [70, 1, 200, 257, 40, 130]),
        (Operation::Plain, [1000, 1, 33, 130, 17, 300]),
        (Operation::Shared, [30, 40, 100, 90, 64, 70]),
        (Operation::Shared, [3, 500, 130, 70, 33, 20]),
        (Operation::Generate, [70, 1, 130, 140, 33, 70]),
    ];
    for (seed, (operation, sizes)) in shapes.into_iter().enumerate() {
        for form in [Form::Dense, Form::CpLambda] {
            // Few ones amid zeros, so that the sums stay exact in f32.
            let mut random = Random(seed as u64);
            let case = Case::<T>::new(form, sizes, |len, _| {
                (0..len).map(|_| T::from_f64(f64::from([0, 0, 0, 0, 0, 1, -1, 1][random.below(8)]))).collect()
            });
            let bias = vec![T::default(); case.bias.len()];
            let case = Case { linear: false, bias, ..case };
            let dense = [Part::Z, Part::X, Part::W];
            let cp = [Part::Z, Part::X, Part::FactorA, Part::FactorB, Part::FactorC, Part::Lambda];
            let wanted = if form == Form::Dense { Set::of(&dense) } else { Set::of(&cp) };
            for context in contexts() {
                let context = context.with_threads(2).unwrap();
                let found = case.call(operation, &Options { wanted, ..Options::new(context) }, "adjoint").unwrap();
                let of = |(part, gradient): &(Part, Vec<T::Accumulator>)| -> f64 {
                    let operand = match part {
                        Part::Z => &case.z,
                        Part::X => &case.x,
                        Part::W => &case.w,
                        Part::FactorA => &case.factors[0],
                        Part::FactorB => &case.factors[1],
                        Part::FactorC => &case.factors[2],
                        _ => &case.lambda,
                    };
                    assert_eq!(gradient.len(), operand.len());
                    gradient.iter().zip(operand).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
                };
                let t = of(&found[0]);
                for gradient in &found {
                    let what = format!("{form:?} {operation:?} {sizes:?} {} {}", T::DTYPE, context.simd());
                    assert_eq!(of(gradient), t, "{:?} {what}", gradient.0);
                }
            }
        }
    }
}

for_each_dtype!(dense, cp, shared, tangents, adjoint);

/// Calls of all kinds and types, each on more threads than it has tasks, inside of the tasks of another parallel loop: a
/// thread that waits for a call's tasks takes up other calls meanwhile, and must not lend them its scratch.
#[test]
fn calls_within_calls() {
    fn same<T: Element>(round: usize) {
        let context = Context::new(Device::Cpu).unwrap().with_simd(SimdLevel::best()).unwrap();
        let (serial, many) = (context.with_threads(1).unwrap(), context.with_threads(1000).unwrap());
        for form in [Form::Dense, Form::CpLambda] {
            let plain = Case::<T>::uniform(form, [150, 1, 33, 40, 12, 65], 1);
            let shared = Case::<T>::uniform(form, [5, 30, 33, 40, 12, 65], 1);
            for (case, operation) in
                [(&plain, Operation::Plain), (&shared, Operation::Shared), (&shared, Operation::Generate)]
            {
                let of = |context| case.call(operation, &Options::new(context), "within").unwrap();
                for ((part, found), (_, expected)) in of(many).into_iter().zip(of(serial)) {
                    assert_same(&found, &expected, &format!("{} {round} {form:?} {operation:?} {part:?}", T::DTYPE));
                }
            }
            let laid = plain.laid(0);
            let of = |context| {
                laid.layer().with_context(context).tangent(laid.z.view(), laid.x.view(), &all(form, &laid)).unwrap()
            };
            assert_same(of(many).as_slice(), of(serial).as_slice(), &format!("{} {round} {form:?} tangent", T::DTYPE));
        }
    }
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            (0..12).into_par_iter().for_each(|round| match round % 4 {
                0 => same::<f32>(round),
                1 => same::<f64>(round),
                2 => same::<trilinear::f16>(round),
                _ => same::<trilinear::bf16>(round),
            });
        });
    }
}

/// Weights whose views overlap themselves: the windows of a sequence (Toeplitz and Hankel), one stride for two axes, and
/// rows of z, x and g that are one row.
#[test]
fn overlapping_operands() {
    let [n, i, j, k] = [40, 30, 70, 7];
    let values: Vec<f32> = Random(4).integers(20_000, 1);
    let rows = |width: usize, stride: isize| View::strided(&values, 3, [n, width], [stride, 1]).unwrap();
    for strides in [[1, 1, 1], [2, 304, 1], [530, 0, 1], [0, 17, -1], [-3, 530, 1], [1, 7, 0], [5, 1, 7]] {
        let w = View::strided(&values, 2000, [k, i, j], strides).unwrap();
        let layer =
            trilinear::Interaction::dense(w).unwrap().with_u(View::strided(&values, 9, [k, i], [1, 1]).unwrap());
        let layer = layer.unwrap();
        for [z, x, g] in [[1, 1, 1], [0, 70, 7], [30, 0, 7], [30, 70, 0], [0, 0, 0]] {
            let (z, x, g) = (rows(i, z), rows(j, x), rows(k, g));
            let exact = reference::backward(&layer, z, x, g).unwrap();
            for context in contexts() {
                let found = layer.with_context(context).backward(z, x, g).unwrap();
                let what = format!("{strides:?} {}", context.simd());
                common::assert_exact(found.z.as_slice(), &exact.z, &what);
                common::assert_exact(found.x.as_slice(), &exact.x, &what);
                common::assert_exact(found.w.unwrap().as_slice(), &exact.w, &what);
                common::assert_exact(found.u.unwrap().as_slice(), &exact.u, &what);
            }
        }
    }
}

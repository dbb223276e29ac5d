//! Gradients of CP layers, and of any layer those that all forms share: against the definition, into memory of any layout.

mod common;

use common::case::{Case, Exact, Form, Operation, Options, Part, Set, check};
use common::cuda::Pairs;
use common::{Random, assert_same, contexts, levels, way, ways};
use trilinear::{Context, Device, Element, Error, Gradient, Saved, Tensor, View, Wanted, WantedFactors};

const CP: [Form; 2] = [Form::Cp, Form::CpLambda];

/// [N, I, J, K, R]: around tiles of rows (4, 6, 12), vectors and strips of lanes (4 to 48), KC (64 to 512) and blocks of rows
/// and components in each of the sums, which are over N, I, J, K and R alike; and 0 and 1.
fn shapes() -> Vec<[usize; 5]> {
    let mut shapes = vec![
        [0, 3, 4, 2, 5],
        [3, 0, 4, 2, 5],
        [3, 4, 0, 2, 5],
        [3, 4, 5, 0, 2],
        [3, 4, 5, 2, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 40, 30, 20, 10],
        [2, 17, 33, 1, 3],
        [3, 33, 5, 16, 17],
        [4, 16, 16, 16, 16],
        [5, 12, 24, 48, 32],
        [65, 17, 15, 9, 33],
        [130, 20, 12, 5, 7],
    ];
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97] {
        shapes.extend([
            [edge, 5, 3, 2, 4],
            [3, edge, 4, 2, 5],
            [2, 4, edge, 3, 5],
            [6, 2, 3, edge, 4],
            [5, 3, 2, 4, edge],
        ]);
        shapes.push([edge, 3, 2, 3, edge]);
    }
    for depth in [127, 128, 129, 191, 192, 193, 255, 256, 257, 383, 384, 385, 511, 512, 513, 1030] {
        shapes.extend([
            [depth, 3, 2, 2, 3],
            [5, depth, 2, 2, 3],
            [3, 2, depth, 3, 2],
            [6, 2, 3, depth, 3],
            [7, 2, 3, 2, depth],
        ]);
    }
    shapes
}

fn sizes([n, i, j, k, r]: [usize; 5]) -> [usize; 6] {
    [n, 1, i, j, k, r]
}

/// Small integers, to the last bit, at every level, with and without λ and linear terms, written over NaN.
fn integers<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, shape) in shapes().into_iter().enumerate() {
        for form in CP {
            let case = Case::<T>::integers(form, sizes(shape), seed as u64);
            let case = Case { linear: (seed + form as usize).is_multiple_of(2), ..case };
            let [n, i, j, k, r] = shape;
            let ways = ways(pairs.flops(&[n, i, j, k, r, form as usize], case.flops()));
            if ways.is_empty() {
                continue;
            }
            let exact = Exact::new(&case, Operation::Plain);
            for &context in &ways {
                check(&case, Operation::Plain, &exact, &Options::new(context), true);
            }
        }
    }
}

/// Any numbers, within the published bound.
fn bounds<T: Element>() {
    for shape in [
        [1, 20, 30, 4, 9],
        [40, 17, 19, 5, 33],
        [130, 9, 40, 3, 20],
        [500, 6, 7, 2, 5],
        [3, 70, 35, 30, 90],
        [6, 3, 2, 4, 1100],
    ] {
        for form in CP {
            let case = Case::<T>::uniform(form, sizes(shape), 3);
            let exact = Exact::new(&case, Operation::Plain);
            for context in ways(case.flops()) {
                let options = Options::new(context);
                check(&case, Operation::Plain, &exact, &options, false);
                check(&case, Operation::Plain, &exact, &Options { add: Set::ALL, ..options }, false);
                check(&case, Operation::Plain, &exact, &Options { saved: true, ..options }, false);
            }
        }
    }
}

/// Inputs, factors and gradients of any layout, with guard bands around the gradients, written and added.
fn strided<T: Element>() {
    for shape in [[5, 7, 9, 4, 6], [70, 17, 33, 3, 20], [9, 16, 32, 13, 35], [1, 6, 5, 9, 3]] {
        let case = Case::<T>::integers(Form::CpLambda, sizes(shape), 5);
        let exact = Exact::new(&case, Operation::Plain);
        for context in ways(case.flops()) {
            for layout in 0..8 {
                for add in [Set::NONE, Set::ALL] {
                    check(&case, Operation::Plain, &exact, &Options { layout, add, ..Options::new(context) }, true);
                }
            }
        }
    }
}

/// Each gradient alone, all but each, and random subsets, some of them added.
fn subsets<T: Element>() {
    let mut random = Random(8);
    for shape in [[6, 5, 7, 3, 9], [130, 9, 33, 2, 17], [2, 33, 17, 40, 8]] {
        for form in CP {
            let case = Case::<T>::integers(form, sizes(shape), 6);
            let exact = Exact::new(&case, Operation::Plain);
            let alone = Part::ALL.map(|part| Set::of(&[part]));
            let but_one = alone.map(|set| Set(!set.0));
            let others = (0..12).map(|_| Set(random.next() as u16));
            for wanted in alone.into_iter().chain(but_one).chain(others).chain([Set::NONE]).collect::<Vec<_>>() {
                let context = way(case.flops(), random.next());
                let (add, saved) = (Set(random.next() as u16), random.below(2) == 0);
                let options = Options { wanted, add, saved, ..Options::new(context) };
                check(&case, Operation::Plain, &exact, &options, true);
            }
        }
    }
}

/// x and z the same tensor, whose one gradient is dz + dx, of every form, alone and with the others.
fn tied<T: Element>() {
    for [n, i, k, r] in [
        [0, 3, 2, 4],
        [1, 5, 3, 4],
        [20, 9, 5, 7],
        [65, 16, 17, 33],
        [3, 65, 4, 3],
        [200, 17, 3, 5],
        [5, 1, 1, 1],
        [4, 0, 2, 3],
    ] {
        for case in Case::<T>::forms([n, 1, i, i, k, r], 4) {
            let case = case.tied();
            let exact = Exact::new(&case, Operation::Plain);
            for context in ways(case.flops()) {
                let only = Set::of(&[Part::Tied]);
                for (wanted, add) in [(Set::ALL, Set::NONE), (only, Set::NONE), (only, only)] {
                    for layout in [0, 7] {
                        let options = Options { wanted, add, layout, ..Options::new(context) };
                        check(&case, Operation::Plain, &exact, &options, true);
                    }
                }
            }
            let case = Case { x: vec![], ..Case::<T>::uniform(case.form, case.sizes, 5) };
            let case = case.tied();
            let exact = Exact::new(&case, Operation::Plain);
            for context in ways(case.flops()) {
                check(
                    &case,
                    Operation::Plain,
                    &exact,
                    &Options { wanted: Set::of(&[Part::Tied]), ..Options::new(context) },
                    false,
                );
            }
        }
    }
}

/// The same bits from run to run and for any number of threads, with saved activations or without.
fn threads<T: Element>() {
    for shape in [[300, 40, 50, 60, 70], [1500, 33, 13, 7, 20], [40, 300, 200, 1, 90], [3, 220, 210, 250, 300]] {
        let case = Case::<T>::uniform(Form::CpLambda, sizes(shape), 8);
        for &level in levels() {
            let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
            for saved in [false, true] {
                let of = |threads| {
                    // Without dW, which is no gradient of this form, and large.
                    let wanted = Set(!Set::of(&[Part::W]).0);
                    let context = context.with_threads(threads).unwrap();
                    let options = Options { saved, wanted, ..Options::new(context) };
                    case.call(Operation::Plain, &options, "threads").unwrap()
                };
                let one = of(1);
                for threads in [1, 2, 3, 7] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for ((part, one), (_, many)) in one.iter().zip(pool.install(|| of(threads))) {
                        let what = format!("{part:?} {shape:?} {} {level} {threads} threads, saved {saved}", T::DTYPE);
                        assert_same(&many, one, &what);
                    }
                }
            }
        }
    }
}

/// What a forward pass saves: y as of `forward`, N·R of each activation, memory used again.
fn saving<T: Element>() {
    let mut saved = Saved::default();
    for (seed, shape) in
        [[65, 17, 15, 9, 33], [3, 40, 30, 2, 5], [0, 4, 3, 2, 7], [400, 3, 4, 1, 600]].into_iter().enumerate()
    {
        for form in Form::ALL {
            let case = Case::<T>::integers(form, sizes(shape), seed as u64);
            let laid = case.laid(seed);
            for context in ways(case.flops()) {
                let layer = laid.layer().with_context(context);
                let (z, x) = (laid.z.view(), laid.x.view());
                let y = layer.forward_saving(z, x, &mut saved).unwrap();
                assert_same(y.as_slice(), layer.forward(z, x).unwrap().as_slice(), "y");
                // Rows may be padded to whole vectors.
                let kept = |rank: usize| 2 * shape[0] * rank * size_of::<T::Accumulator>();
                let rank = if form.is_cp() { shape[4] } else { 0 };
                let bytes = saved.bytes();
                assert!((kept(rank)..=kept(rank.next_multiple_of(16))).contains(&bytes), "{shape:?} {bytes}");
            }
        }
    }
}

for_each_dtype!(integers, bounds, strided, subsets, tied, threads, saving);

/// What an operand does not enter, its NaN does not reach; and of a batch it reaches its own row only.
#[test]
fn special_values_stay_where_they_belong() {
    let sizes = [7, 1, 5, 9, 3, 6];
    for special in [f32::NAN, f32::INFINITY] {
        for form in Form::ALL {
            let clean = Case::<f32>::uniform(form, sizes, 3);
            for context in ways(clean.flops()) {
                let reached = |case: &Case<f32>| {
                    let found = case.call(Operation::Plain, &Options::new(context), "special").unwrap();
                    let bad = |values: Vec<f32>| values.iter().map(|v| !v.is_finite()).collect::<Vec<_>>();
                    found.into_iter().map(|(part, values)| (part, bad(values))).collect::<Vec<_>>()
                };
                let row = |bad: &[bool], width: usize| -> Vec<usize> {
                    let rows = bad.chunks(width).enumerate();
                    rows.filter(|(_, row)| row.iter().any(|&bad| bad)).map(|(index, _)| index).collect()
                };
                // NaN in row 4 of x: all of that row of dz, no other; and nothing of dx, dU and db.
                let mut case = clean.clone();
                case.x[4 * 9 + 2] = special;
                for (part, bad) in reached(&case) {
                    match part {
                        Part::Z => assert!(form == Form::Linear || row(&bad, 5) == [4], "{form:?} {part:?} {bad:?}"),
                        Part::X | Part::U | Part::B | Part::FactorC => {
                            let entered =
                                part == Part::FactorC && bad.iter().enumerate().any(|(at, &bad)| bad != (at / 6 == 2));
                            assert!(
                                part == Part::FactorC && !entered || !bad.contains(&true),
                                "{form:?} {part:?} {bad:?}"
                            );
                        }
                        Part::V => assert_eq!(bad, (0..27).map(|at| at % 9 == 2).collect::<Vec<_>>(), "{form:?}"),
                        Part::W => assert_eq!(bad, (0..135).map(|at| at % 9 == 2).collect::<Vec<_>>(), "{form:?}"),
                        Part::FactorA | Part::FactorB | Part::Lambda => {
                            assert!(!bad.contains(&false), "{form:?} {part:?}")
                        }
                        Part::Tied => unreachable!(),
                    }
                }
                // NaN in row 3 of g: all of that row of dz and dx, no other.
                let mut case = clean.clone();
                case.g[3 * 3 + 1] = special;
                for (part, bad) in reached(&case) {
                    match part {
                        Part::Z => assert_eq!(row(&bad, 5), [3], "{form:?}"),
                        Part::X => assert_eq!(row(&bad, 9), [3], "{form:?}"),
                        Part::B => assert_eq!(bad, [false, true, false], "{form:?}"),
                        Part::FactorA => assert_eq!(row(&bad, 6), [1], "{form:?}"),
                        _ => {}
                    }
                }
                // NaN in one component: that component only; dA does not depend on A.
                if form.is_cp() {
                    let mut case = clean.clone();
                    case.factors[0][6 + 2] = special;
                    for (part, bad) in reached(&case) {
                        match part {
                            Part::FactorA | Part::W | Part::U | Part::V | Part::B => {
                                assert!(!bad.contains(&true), "{part:?}")
                            }
                            Part::FactorB | Part::FactorC | Part::Lambda => {
                                assert!(
                                    bad.iter().enumerate().all(|(at, &bad)| bad == (at % 6 == 2)),
                                    "{part:?} {bad:?}"
                                );
                            }
                            _ => assert!(!bad.contains(&false), "{part:?}"),
                        }
                    }
                }
            }
        }
    }
}

/// Layers made for other weights and batches refuse what was saved.
#[test]
fn saved_of_others() {
    let case = Case::<f32>::uniform(Form::Cp, [6, 1, 5, 4, 3, 7], 1);
    let other = Case::<f32>::uniform(Form::Cp, [6, 1, 5, 4, 3, 8], 1);
    let fewer = Case::<f32>::uniform(Form::Cp, [5, 1, 5, 4, 3, 7], 1);
    let dense = Case::<f32>::uniform(Form::Dense, [6, 1, 5, 4, 3, 7], 1);
    let [case, other, fewer, dense] = [&case, &other, &fewer, &dense].map(|case| case.laid(0));
    let mut saved = Saved::default();
    case.layer().forward_saving(case.z.view(), case.x.view(), &mut saved).unwrap();
    let error = |of: &common::case::Laid<'_, f32>, saved: &Saved<f32>| {
        let wanted = Wanted { saved: Some(saved), ..Wanted::default() };
        of.layer().backward_into(of.z.view(), of.x.view(), of.g.view(), wanted).err()
    };
    let shape = |axis, expected, actual| Some(Error::Shape { operand: "saved", axis, expected, actual });
    assert_eq!(error(&case, &saved), None);
    assert_eq!(error(&fewer, &saved), shape("rows", 5, 6));
    assert_eq!(error(&other, &saved), shape("rank", 8, 7));
    assert_eq!(error(&dense, &saved), shape("rank", 0, 7));
    assert_eq!(error(&case, &Saved::default()), shape("rows", 6, 0));
}

/// Saved at one level, used at every other.
#[test]
fn saved_at_another_level() {
    let case = Case::<trilinear::f16>::integers(Form::CpLambda, [30, 1, 15, 24, 13, 37], 1);
    let (laid, exact) = (case.laid(0), Exact::new(&case, Operation::Plain).gradients);
    for context in contexts() {
        let mut saved = Saved::default();
        laid.layer().with_context(context).forward_saving(laid.z.view(), laid.x.view(), &mut saved).unwrap();
        for other in contexts() {
            let mut dz = Tensor::<f32, 2>::zeros([30, 15]).unwrap();
            let z = Some(Gradient::write(dz.view_mut()));
            let wanted = Wanted { z, saved: Some(&saved), ..Wanted::default() };
            let layer = laid.layer().with_context(other);
            layer.backward_into(laid.z.view(), laid.x.view(), laid.g.view(), wanted).unwrap();
            common::assert_exact(dz.as_slice(), &exact.z, &format!("{} then {}", context.simd(), other.simd()));
        }
    }
}

/// The owned results: of the weights that the layer has.
#[test]
fn owned() {
    for form in Form::ALL {
        let case = Case::<f32>::integers(form, [6, 1, 5, 4, 3, 7], 1);
        let laid = case.laid(3);
        let exact = Exact::new(&case, Operation::Plain).gradients;
        let found = laid.layer().backward(laid.z.view(), laid.x.view(), laid.g.view()).unwrap();
        let same = |found: &[f32], exact: &trilinear::reference::Reference| {
            assert!(found.iter().map(|&v| f64::from(v)).eq(exact.value.as_slice().iter().copied()));
        };
        same(found.z.as_slice(), &exact.z);
        same(found.x.as_slice(), &exact.x);
        same(found.u.unwrap().as_slice(), &exact.u);
        same(found.v.unwrap().as_slice(), &exact.v);
        same(found.b.unwrap().as_slice(), &exact.b);
        assert_eq!(found.w.is_some(), form == Form::Dense);
        if let Some(w) = found.w {
            same(w.as_slice(), &exact.w);
        }
        assert_eq!(found.cp.is_some(), form.is_cp());
        if let Some(cp) = found.cp {
            let exact = exact.cp.unwrap();
            same(cp.a.as_slice(), &exact.a);
            same(cp.b.as_slice(), &exact.b);
            same(cp.c.as_slice(), &exact.c);
            assert_eq!(cp.lambda.is_some(), form == Form::CpLambda);
            if let Some(lambda) = cp.lambda {
                same(lambda.as_slice(), &exact.lambda);
            }
        }
    }
}

/// Of a prepared layer, the same.
#[test]
fn prepared() {
    for form in Form::ALL {
        let case = Case::<trilinear::bf16>::uniform(form, [20, 1, 15, 14, 3, 7], 1);
        let laid = case.laid(0);
        let of = |layer: trilinear::Interaction<'_, trilinear::bf16>| {
            layer.backward(laid.z.view(), laid.x.view(), laid.g.view()).unwrap()
        };
        assert_eq!(of(laid.layer().prepare().unwrap().layer()), of(laid.layer()));
    }
}

/// Factors that one tensor gives for two modes: each mode's gradient, into memory of its own.
#[test]
fn shared_factors() {
    let case = Case::<f64>::integers(Form::Cp, [9, 1, 5, 5, 3, 4], 2);
    let laid = case.laid(0);
    let layer =
        trilinear::Interaction::cp(laid.factors[0].view(), laid.factors[1].view(), laid.factors[1].view()).unwrap();
    let (z, x, g) = (laid.z.view(), laid.x.view(), laid.g.view());
    let exact = trilinear::reference::backward(&layer, z, x, g).unwrap().cp.unwrap();
    let mut sum = Tensor::<f64, 2>::zeros([5, 4]).unwrap();
    for mode in 0..2 {
        let gradient = Some(Gradient::add(sum.view_mut()));
        let mut cp = WantedFactors::default();
        *(if mode == 0 { &mut cp.b } else { &mut cp.c }) = gradient;
        layer.backward_into(z, x, g, Wanted { cp, ..Wanted::default() }).unwrap();
    }
    let expected = exact.b.plus(&exact.c).unwrap();
    assert_eq!(View::new(sum.as_slice(), [20]).unwrap().as_slice(), Some(expected.value.as_slice()));
}

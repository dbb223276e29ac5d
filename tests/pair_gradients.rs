//! Gradients of all pairs: against the definition, and by identities that they satisfy.

mod common;

use common::case::{Form, Part, Set};
use common::pairs::{Pairs, SMALLEST, Sizes};
use common::{Random, assert_same, contexts, levels};
use trilinear::{Context, Device, Element, Error, Gradient, Saved, Tensor, Wanted};

/// [P, S, T, I, J, K, R].
fn shapes() -> Vec<Sizes> {
    let mut shapes = SMALLEST.to_vec();
    shapes.extend([
        [3, 4, 5, 6, 7, 3, 5],
        [2, 30, 25, 11, 10, 1, 9],
        [1, 3, 50, 20, 6, 2, 3],
        [1, 50, 3, 6, 20, 2, 3],
        [40, 1, 3, 5, 4, 2, 2],
    ]);
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 3, 5, 6, 7, 12, 13, 15, 16, 17, 31, 33, 49] {
        shapes.extend([
            [edge, 2, 3, 4, 5, 2, 3],
            [2, edge, 3, 4, 5, 2, 3],
            [2, 3, edge, 4, 5, 2, 3],
            [2, 3, 4, edge, 5, 2, 3],
            [2, 3, 4, 5, edge, 2, 3],
            [2, 3, 4, 2, 3, edge, 2],
            [2, 3, 4, 2, 3, 2, edge],
        ]);
    }
    for depth in [255, 257, 513] {
        shapes.extend([
            [2, 3, 2, depth, 3, 2, 2],
            [2, 3, 2, 3, depth, 2, 2],
            [1, 3, 2, 2, 3, 2, depth],
            [1, depth, 2, 3, 2, 2, 2],
            [1, 2, depth, 3, 2, 2, 2],
            [1, 2, 3, 2, 3, depth, 2],
        ]);
    }
    // More rows of P and Q, and of W′, than a block has.
    shapes.extend([
        [1, 1030, 5, 2, 3, 1, 2],
        [1, 5, 1030, 2, 3, 1, 2],
        [1, 7, 5, 2, 300, 70, 2],
        [1, 7, 5, 2, 3, 70, 300],
        [100, 3, 2, 5, 4, 2, 3],
    ]);
    shapes
}

const WRITTEN: [Set; 2] = [Set::ALL, Set::NONE];

/// Small integers, to the last bit, at every level, every form, written over NaN.
fn integers<T: Element>() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        for form in Form::ALL {
            let case = Pairs::<T>::integers(form, shape, seed as u64);
            let case = if (seed + form as usize).is_multiple_of(3) { case.core() } else { case };
            let exact = case.exact_gradients();
            for context in contexts() {
                case.check_gradients(&exact, context, 0, WRITTEN, true);
            }
        }
    }
}

/// Any numbers, within the published bound, written and added.
fn bounds<T: Element>() {
    for shape in [[1, 30, 20, 10, 30, 4, 9], [7, 9, 3, 17, 19, 5, 33], [2, 5, 70, 5, 4, 2, 3], [2, 70, 5, 4, 9, 6, 3]] {
        for form in Form::ALL {
            let case = Pairs::<T>::uniform(form, shape, 3);
            let exact = case.exact_gradients();
            for context in contexts() {
                for add in [Set::NONE, Set::ALL] {
                    case.check_gradients(&exact, context, 0, [Set::ALL, add], false);
                }
            }
        }
    }
}

/// Inputs, weights and gradients of any layout, with guard bands around the gradients.
fn strided<T: Element>() {
    for shape in [[3, 5, 7, 9, 4, 3, 6], [2, 17, 20, 33, 8, 1, 5], [9, 1, 4, 16, 17, 5, 3]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Pairs::<T>::integers(form, shape, 5);
            let exact = case.exact_gradients();
            for context in contexts() {
                for layout in 0..8 {
                    let add = if layout % 2 == 0 { Set::NONE } else { Set::ALL };
                    case.check_gradients(&exact, context, layout, [Set::ALL, add], true);
                }
            }
        }
    }
}

/// Each gradient alone, all but each, and random subsets, some of them added.
fn subsets<T: Element>() {
    let mut random = Random(8);
    for shape in [[3, 4, 6, 5, 7, 3, 9], [2, 30, 3, 9, 33, 2, 7], [1, 3, 30, 33, 17, 1, 8]] {
        for form in Form::ALL {
            let case = Pairs::<T>::integers(form, shape, 6);
            let exact = case.exact_gradients();
            let alone = Part::ALL.map(|part| Set::of(&[part]));
            let but_one = alone.map(|set| Set(!set.0));
            let others: Vec<_> = (0..6).map(|_| Set(random.next() as u16)).collect();
            for wanted in alone.into_iter().chain(but_one).chain(others).chain([Set::NONE]) {
                let add = Set(random.next() as u16);
                let context = *random.pick(&contexts());
                case.check_gradients(&exact, context, 0, [wanted, add], true);
            }
        }
    }
}

/// The same bits from run to run and for any number of threads.
fn threads<T: Element>() {
    for shape in [[20, 12, 10, 30, 20, 3, 9], [1, 100, 90, 40, 33, 1, 20], [1, 5, 200, 30, 60, 7, 8]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Pairs::<T>::uniform(form, shape, 8);
            for &level in levels() {
                let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
                let of =
                    |threads| case.backward(context.with_threads(threads).unwrap(), 0, WRITTEN, "threads").unwrap();
                let one = of(1);
                for threads in [1, 2, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for ((part, one), (_, many)) in one.iter().zip(pool.install(|| of(threads))) {
                        let what = format!("{part:?} {form:?} {shape:?} {level} {threads} threads");
                        assert_same(&many, one, &what);
                    }
                }
            }
        }
    }
}

for_each_dtype!(integers, bounds, strided, subsets, threads);

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// T = Σ g·y is linear in each operand of the core: the same number from y and from each gradient, exact in integers.
#[test]
fn adjoint() {
    for shape in [[3, 5, 4, 6, 7, 3, 5], [1, 40, 9, 20, 33, 2, 6], [2, 3, 60, 9, 5, 1, 4]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Pairs::<f64>::integers(form, shape, 2).core();
            for context in contexts() {
                let total = dot(&case.g, &case.forward(context, 0, "y"));
                for (part, gradient) in case.backward(context, 0, WRITTEN, "adjoint").unwrap() {
                    let operand = match part {
                        Part::Z => &case.case.z,
                        Part::X => &case.x,
                        Part::W if form == Form::Dense => &case.case.w,
                        Part::FactorA => &case.case.factors[0],
                        Part::FactorB => &case.case.factors[1],
                        Part::FactorC => &case.case.factors[2],
                        Part::Lambda => &case.case.lambda,
                        _ => continue,
                    };
                    assert_eq!(dot(&gradient, operand), total, "{part:?} {form:?} {shape:?} {}", context.simd());
                }
            }
        }
    }
}

/// y is linear in each operand, so that differences are exact: moving one operand moves Σ g·y by its gradient.
#[test]
fn differences() {
    let shape = [2, 5, 9, 6, 7, 3, 4];
    for form in Form::ALL {
        let case = Pairs::<f64>::integers(form, shape, 9);
        for context in contexts() {
            let before = dot(&case.g, &case.forward(context, 0, "y"));
            for (part, gradient) in case.backward(context, 0, WRITTEN, "differences").unwrap() {
                let mut moved = case.clone();
                let operand = match part {
                    Part::Z => &mut moved.case.z,
                    Part::X => &mut moved.x,
                    Part::W if form == Form::Dense => &mut moved.case.w,
                    Part::U => &mut moved.case.u,
                    Part::V => &mut moved.case.v,
                    Part::B => &mut moved.case.b,
                    Part::FactorA => &mut moved.case.factors[0],
                    Part::FactorB => &mut moved.case.factors[1],
                    Part::FactorC => &mut moved.case.factors[2],
                    Part::Lambda if form == Form::CpLambda => &mut moved.case.lambda,
                    _ => continue,
                };
                let direction: Vec<f64> = Random(part as u64).integers(operand.len(), 2);
                operand.iter_mut().zip(&direction).for_each(|(value, step)| *value += step);
                let after = dot(&case.g, &moved.forward(context, 0, "y"));
                assert_eq!(after - before, dot(&gradient, &direction), "{part:?} {form:?} {}", context.simd());
            }
        }
    }
}

/// All gradients at once into memory of their own.
#[test]
fn owned() {
    let case = Pairs::<f32>::integers(Form::CpLambda, [2, 3, 4, 5, 6, 2, 3], 1);
    let laid = case.laid(0);
    let exact = case.exact_gradients();
    let found = laid.layer().backward_pairs(laid.z.view(), laid.x.view(), laid.g.view()).unwrap();
    assert_eq!((found.z.shape(), found.x.shape()), ([2, 3, 5], [2, 4, 6]));
    common::assert_exact(found.z.as_slice(), &exact.z, "dz");
    common::assert_exact(found.cp.unwrap().c.as_slice(), &exact.cp.unwrap().c, "dc");
    assert!(found.w.is_none());
}

#[test]
fn errors() {
    let case = Pairs::<f32>::uniform(Form::Dense, [2, 3, 3, 5, 5, 2, 1], 1);
    let laid = case.laid(0);
    let (layer, z, x, g) = (laid.layer(), laid.z.view(), laid.x.view(), laid.g.view());
    let shape = |operand, axis, expected, actual| Err(Error::Shape { operand, axis, expected, actual });
    let short = g.slice(2, 0..2).unwrap();
    assert_eq!(layer.backward_pairs(z, x, short).map(drop), shape("g", "rows of x", 3, 2));
    assert_eq!(layer.backward_pairs(z, x, g.slice(3, 0..1).unwrap()).map(drop), shape("g", "outputs", 2, 1));
    let mut to = Tensor::zeros([2, 4, 5]).unwrap();
    let wanted = Wanted { z: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
    assert_eq!(layer.backward_pairs_into(z, x, g, wanted), shape("dz", "rows", 3, 4));
    let mut to = Tensor::zeros([1, 3, 5]).unwrap();
    let wanted = Wanted { x: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
    assert_eq!(layer.backward_pairs_into(z, x, g, wanted), shape("dx", "problems", 2, 1));
    let mut to = Tensor::zeros([2, 5]).unwrap();
    let wanted = Wanted { tied: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
    let error = layer.backward_pairs_into(z, x, g, wanted);
    assert_eq!(error, Err(Error::Unsupported { what: "tied inputs of all pairs" }));
    let saved = Saved::default();
    let wanted = Wanted { saved: Some(&saved), ..Wanted::default() };
    let error = layer.backward_pairs_into(z, x, g, wanted);
    assert_eq!(error, Err(Error::Unsupported { what: "saved activations of all pairs" }));
}

/// More outputs than the scratch of a tile has columns.
#[test]
fn bias_of_many_outputs() {
    let k = 1 << 17;
    let (w, b, g) = (vec![1f32; k], vec![0f32; k], (0..k).map(|k| (k % 7) as f32).collect::<Vec<_>>());
    let layer = trilinear::Interaction::dense(trilinear::View::new(&w, [k, 1, 1]).unwrap()).unwrap();
    let layer = layer.with_b(trilinear::View::vector(&b)).unwrap();
    let one = [1f32];
    let input = trilinear::View::new(&one, [1, 1, 1]).unwrap();
    for context in contexts() {
        let gradients =
            layer.with_context(context).backward_pairs(input, input, trilinear::View::new(&g, [1, 1, 1, k]).unwrap());
        assert!(gradients.unwrap().b.unwrap().as_slice() == g);
    }
}

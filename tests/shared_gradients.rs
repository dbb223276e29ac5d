//! Gradients of shared contexts and of generated layers: against the definition and the batch in which z is repeated, into
//! memory of any layout.

mod common;

use common::case::{Case, Exact, Form, Operation, Options, Part, Set, check};
use common::cuda::Pairs;
use common::{Random, assert_same, levels, way, ways};
use trilinear::{Context, Device, Element, Error, Gradient, Tensor, View, Wanted};

const OPERATIONS: [Operation; 2] = [Operation::Shared, Operation::Generate];

/// [G, M, I, J, K, R]: around tiles of rows (4, 6, 12), vectors and strips of lanes (4 to 48) and depth (64 to 512) in each
/// of the axes; and 0 and 1.
fn shapes() -> Vec<[usize; 6]> {
    let mut shapes = vec![
        [0, 3, 2, 2, 2, 2],
        [3, 0, 2, 2, 2, 2],
        [2, 3, 0, 4, 2, 3],
        [2, 3, 4, 0, 2, 3],
        [2, 3, 4, 5, 0, 3],
        [2, 3, 4, 5, 3, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 50, 12, 16, 8, 5],
        [3, 7, 65, 17, 5, 9],
        [5, 33, 9, 33, 13, 4],
        [2, 9, 130, 31, 3, 6],
        [13, 4, 5, 7, 33, 17],
        [30, 3, 8, 9, 2, 3],
        [50, 2, 5, 20, 6, 2],
    ];
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 65] {
        shapes.extend([
            [edge, 3, 5, 6, 2, 3],
            [2, edge, 5, 6, 3, 2],
            [2, 3, edge, 6, 2, 3],
            [2, 3, 5, edge, 2, 3],
            [2, 5, 3, 4, edge, 2],
            [2, 4, 3, 2, 3, edge],
        ]);
    }
    for depth in [127, 128, 129, 255, 256, 257, 385, 513] {
        shapes.extend([
            [depth, 2, 3, 2, 2, 2],
            [2, depth, 3, 4, 2, 2],
            [2, 5, depth, 3, 2, 2],
            [2, 5, 3, depth, 2, 2],
            [2, 3, 2, 3, depth, 2],
            [2, 3, 2, 3, 2, depth],
        ]);
    }
    shapes
}

/// Small integers, to the last bit, at every level, every form, written over NaN.
fn integers<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, shape) in shapes().into_iter().enumerate() {
        for form in Form::ALL {
            let case = Case::<T>::integers(form, shape, seed as u64);
            let case = Case { linear: !(seed + form as usize).is_multiple_of(3), ..case };
            let [g, m, i, j, k, r] = shape;
            let ways = ways(pairs.flops(&[g, m, i, j, k, r, form as usize], case.flops()));
            if ways.is_empty() {
                continue;
            }
            for operation in OPERATIONS {
                let exact = Exact::new(&case, operation);
                for &context in &ways {
                    check(&case, operation, &exact, &Options::new(context), true);
                }
            }
        }
    }
}

/// Any numbers, within the published bound, written and added.
fn bounds<T: Element>() {
    for shape in [
        [1, 60, 20, 30, 4, 9],
        [7, 9, 17, 19, 5, 33],
        [40, 3, 9, 40, 3, 20],
        [2, 1, 70, 35, 30, 6],
        [3, 200, 5, 4, 2, 3],
    ] {
        for form in Form::ALL {
            let case = Case::<T>::uniform(form, shape, 3);
            for operation in OPERATIONS {
                let exact = Exact::new(&case, operation);
                for context in ways(case.flops()) {
                    for add in [Set::NONE, Set::ALL] {
                        check(&case, operation, &exact, &Options { add, ..Options::new(context) }, false);
                    }
                }
            }
        }
    }
}

/// Inputs, weights and gradients of any layout, with guard bands around the gradients.
fn strided<T: Element>() {
    for shape in [[3, 5, 7, 9, 4, 6], [2, 40, 17, 33, 3, 5], [9, 1, 16, 32, 13, 3]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Case::<T>::integers(form, shape, 5);
            for operation in OPERATIONS {
                let exact = Exact::new(&case, operation);
                for context in ways(case.flops()) {
                    for layout in 0..8 {
                        let add = if layout % 2 == 0 { Set::NONE } else { Set::ALL };
                        check(&case, operation, &exact, &Options { layout, add, ..Options::new(context) }, true);
                    }
                }
            }
        }
    }
}

/// Each gradient alone, all but each, and random subsets, some of them added.
fn subsets<T: Element>() {
    let mut random = Random(8);
    for shape in [[3, 4, 5, 7, 3, 9], [2, 70, 9, 33, 2, 7], [20, 1, 33, 17, 12, 8]] {
        for form in Form::ALL {
            let case = Case::<T>::integers(form, shape, 6);
            for operation in OPERATIONS {
                let exact = Exact::new(&case, operation);
                let alone = Part::ALL.map(|part| Set::of(&[part]));
                let but_one = alone.map(|set| Set(!set.0));
                let others = (0..8).map(|_| Set(random.next() as u16));
                for wanted in alone.into_iter().chain(but_one).chain(others).chain([Set::NONE]).collect::<Vec<_>>() {
                    let add = Set(random.next() as u16);
                    let options = Options { wanted, add, ..Options::new(way(case.flops(), random.next())) };
                    check(&case, operation, &exact, &options, true);
                }
            }
        }
    }
}

/// The same bits from run to run and for any number of threads.
fn threads<T: Element>() {
    for shape in [[40, 7, 40, 50, 30, 20], [2, 500, 33, 40, 7, 20], [3, 30, 120, 110, 50, 60], [300, 2, 20, 9, 5, 8]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Case::<T>::uniform(form, shape, 8);
            for (operation, &level) in OPERATIONS.into_iter().flat_map(|o| levels().iter().map(move |level| (o, level)))
            {
                let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
                let of = |threads| {
                    let options = Options::new(context.with_threads(threads).unwrap());
                    case.call(operation, &options, "threads").unwrap()
                };
                let one = of(1);
                for threads in [1, 2, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for ((part, one), (_, many)) in one.iter().zip(pool.install(|| of(threads))) {
                        let what = format!("{part:?} {operation:?} {form:?} {shape:?} {level} {threads} threads");
                        assert_same(&many, one, &what);
                    }
                }
            }
        }
    }
}

for_each_dtype!(integers, bounds, strided, subsets, threads);

/// The batch in which each z is repeated has the same gradients, dz summed; generating and applying is the same layer.
#[test]
fn are_those_of_the_expanded_batch() {
    let [g, m, i, j, k, r] = [4, 6, 5, 7, 3, 6];
    for form in Form::ALL {
        let case = Case::<f64>::integers(form, [g, m, i, j, k, r], 2);
        let mut plain = Case { sizes: [g * m, 1, i, j, k, r], ..case.clone() };
        plain.z = case.z.chunks(i).flat_map(|z| z.repeat(m)).collect();
        (plain.weights, plain.bias) = (vec![0.0; g * m * k * j], vec![0.0; g * m * k]);
        for context in ways(case.flops()) {
            let options = Options::new(context);
            let shared = case.call(Operation::Shared, &options, "shared").unwrap();
            let plain = plain.call(Operation::Plain, &options, "plain").unwrap();
            for ((part, shared), (_, mut plain)) in shared.into_iter().zip(plain) {
                if part == Part::Z {
                    let group = |rows: &[f64]| {
                        (0..i).map(|feature| rows.iter().skip(feature).step_by(i).sum()).collect::<Vec<f64>>()
                    };
                    plain = plain.chunks(m * i).flat_map(group).collect();
                }
                assert!(shared == plain, "{form:?} {part:?}");
            }
            // dW′ = Σ g⊗x and db′ = Σ g by hand, and from them all but dx.
            let mut generated = case.clone();
            let row = |n: usize| (&case.g[n * k..][..k], &case.x[n * j..][..j]);
            generated.weights.fill(0.0);
            generated.bias.fill(0.0);
            for n in 0..g * m {
                let (g, x) = row(n);
                for (out, g) in g.iter().enumerate() {
                    let place = n / m * k + out;
                    generated.bias[place] += g;
                    x.iter().enumerate().for_each(|(column, x)| generated.weights[place * j + column] += g * x);
                }
            }
            let shared = case.call(Operation::Shared, &options, "shared").unwrap();
            for (part, values) in generated.call(Operation::Generate, &options, "generated").unwrap() {
                let (_, expected) = shared.iter().find(|(other, _)| *other == part).unwrap();
                assert!(&values == expected, "{form:?} {part:?}");
            }
        }
    }
}

/// NaN in one group stays in that group's dz and dx.
#[test]
fn special_values_stay_in_their_group() {
    let sizes @ [groups, rows, i, j, k, _] = [5, 4, 6, 9, 3, 5];
    for special in [f32::NAN, f32::INFINITY] {
        for form in Form::ALL {
            let mut case = Case::<f32>::uniform(form, sizes, 3);
            case.g[(2 * rows + 1) * k + 2] = special;
            case.weights[(2 * k + 1) * j + 3] = special;
            case.bias[2 * k + 1] = special;
            for (context, operation) in
                ways(case.flops()).into_iter().flat_map(|c| OPERATIONS.map(|operation| (c, operation)))
            {
                for (part, values) in case.call(operation, &Options::new(context), "special").unwrap() {
                    let per_group = match part {
                        Part::Z => i,
                        Part::X => rows * j,
                        _ => continue,
                    };
                    for group in 0..groups {
                        let bad = values[group * per_group..][..per_group].iter().any(|value| !value.is_finite());
                        assert_eq!(bad, group == 2, "{form:?} {operation:?} {part:?} of group {group}");
                    }
                }
            }
        }
    }
}

/// One z for all groups, and one row of x or of g for all rows: strides of 0.
#[test]
fn broadcast() {
    let [g, m, i, j, k, r] = [3, 5, 6, 9, 4, 5];
    for form in Form::ALL {
        let case = Case::<f32>::integers(form, [g, m, i, j, k, r], 1);
        let laid = case.laid(0);
        let z = View::row(&case.z[..i]).broadcast(0, g).unwrap();
        let x = View::strided(&case.x, 0, [g, m, j], [(m * j) as isize, 0, 1]).unwrap();
        let gradient = View::strided(&case.g, 0, [g, m, k], [0, k as isize, 1]).unwrap();
        let exact = trilinear::reference::backward_shared(&laid.layer(), z, x, gradient).unwrap();
        for context in ways(case.flops()) {
            let found = laid.layer().with_context(context).backward_shared(z, x, gradient).unwrap();
            let exactly = |found: &[f32], exact: &trilinear::reference::Reference| {
                common::assert_exact(found, exact, &format!("{form:?} {}", context.simd()));
            };
            exactly(found.z.as_slice(), &exact.z);
            exactly(found.x.as_slice(), &exact.x);
            exactly(found.u.unwrap().as_slice(), &exact.u);
            exactly(found.v.unwrap().as_slice(), &exact.v);
            if let Some(w) = found.w {
                exactly(w.as_slice(), &exact.w);
            }
        }
    }
}

/// What a shared context and a generated layer do not have.
#[test]
fn unsupported() {
    let case = Case::<f32>::uniform(Form::Dense, [3, 4, 5, 5, 2, 1], 1);
    let laid = case.laid(0);
    let (layer, z) = (laid.layer(), laid.z.view());
    let mut to = Tensor::<f32, 2>::zeros([3, 5]).unwrap();
    let wanted = Wanted { tied: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
    let error = layer.backward_shared_into(z, laid.x_shared.view(), laid.g_shared.view(), wanted);
    assert_eq!(error, Err(Error::Unsupported { what: "tied inputs of a shared context" }));
    let error = Err(Error::Unsupported { what: "the gradient in x of generated weights" });
    let mut none = Tensor::<f32, 2>::zeros([3, 0]).unwrap();
    let wanted = Wanted { x: Some(Gradient::write(none.view_mut())), ..Wanted::default() };
    assert_eq!(layer.backward_generate_into(z, laid.weights.view(), laid.bias.view(), wanted), error);
    let wanted = Wanted { tied: Some(Gradient::write(to.view_mut())), ..Wanted::default() };
    assert_eq!(layer.backward_generate_into(z, laid.weights.view(), laid.bias.view(), wanted), error);
    let gradients = layer.backward_generate(z, laid.weights.view(), laid.bias.view()).unwrap();
    assert_eq!((gradients.x.shape(), gradients.z.shape(), gradients.cp), ([3, 0], [3, 5], None));
}

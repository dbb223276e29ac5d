//! All pairs: against the definition, and as the batch of all pairs written out.

mod common;

use common::case::Form;
use common::pairs::{Pairs, SMALLEST, Sizes};
use common::{assert_close, assert_exact, assert_same, contexts, levels};
use trilinear::{Algorithm, Context, Device, Element, Error, Interaction, View, ViewMut, reference};

/// [P, S, T, I, J, K, R]: around tiles of rows (4, 6, 12), of lanes (8, 16, 32), depth (64 … 512) and the blocks; 0 and 1.
fn shapes() -> Vec<Sizes> {
    let mut shapes = SMALLEST.to_vec();
    shapes.extend([
        [1, 5, 7, 3, 4, 1, 2],
        [3, 4, 5, 6, 7, 3, 5],
        [2, 50, 50, 11, 10, 1, 9],
        [1, 3, 50, 40, 6, 2, 3],
        [1, 50, 3, 6, 40, 2, 3],
        [9, 2, 1, 5, 4, 3, 2],
        [40, 1, 3, 5, 4, 2, 2],
    ]);
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49] {
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
    for depth in [63, 64, 65, 255, 256, 257, 511, 512, 513] {
        shapes.extend([[2, 3, 2, depth, 3, 2, 2], [2, 3, 2, 3, depth, 2, 2], [1, 3, 2, 2, 3, 2, depth]]);
    }
    // More rows of z, of x, and of W′ than a block has.
    shapes.extend([
        [1, 385, 3, 2, 3, 2, 2],
        [1, 3, 385, 2, 3, 2, 2],
        [1, 7, 5, 2, 600, 70, 2],
        [1, 7, 5, 2, 3, 130, 300],
        [100, 3, 2, 5, 4, 2, 3],
    ]);
    shapes
}

fn is_the_definition<T: Element>() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        for form in Form::ALL {
            for integers in [true, false] {
                let make = if integers { Pairs::<T>::integers } else { Pairs::uniform };
                let case = make(form, shape, seed as u64);
                let case = if (seed + form as usize).is_multiple_of(3) { case.core() } else { case };
                let exact = case.exact();
                for context in contexts() {
                    let what = format!("{form:?} {shape:?} {} {}", T::DTYPE, context.simd());
                    let y = case.forward(context, 0, &what);
                    if integers { assert_exact(&y, &exact, &what) } else { assert_close(&y, &exact, &what) }
                }
            }
        }
    }
}

/// Inputs, weights and y of any layout. Where only y and the inputs are, the bits are the same.
fn strided<T: Element>() {
    for shape in [[3, 5, 7, 9, 4, 6, 3], [2, 17, 40, 8, 33, 1, 9], [4, 8, 16, 16, 8, 13, 5]] {
        for form in Form::ALL {
            let case = Pairs::<T>::uniform(form, shape, 4);
            let exact = case.exact();
            for context in contexts() {
                for layout in 0..8 {
                    let what = format!("{form:?} {shape:?} layout {layout} {}", context.simd());
                    assert_close(&case.forward(context, layout, &what), &exact, &what);
                }
                let plain = case.forward(context, 0, "plain");
                let (laid, [p, s, t, k]) = (case.laid(0), case.shape());
                // As supar has it, [P, K, S, T].
                let mut y = vec![T::from_f64(f64::NAN); plain.len()];
                let to = ViewMut::new(&mut y, [p, k, s, t]).unwrap().permute([0, 2, 3, 1]).unwrap();
                laid.layer().with_context(context).forward_pairs_into(laid.z.view(), laid.x.view(), to).unwrap();
                let permuted = View::new(&y, [p, k, s, t]).unwrap().permute([0, 2, 3, 1]).unwrap();
                let permuted = trilinear::Tensor::from_view(permuted).unwrap();
                assert_same(permuted.as_slice(), &plain, &format!("permuted {form:?} {shape:?} {}", context.simd()));
            }
        }
    }
}

/// The batch of all pairs written out, in integers.
fn is_the_expanded_batch<T: Element>() {
    let shape @ [p, s, t, i, j, k, _] = [3, 6, 9, 7, 10, 4, 5];
    for form in Form::ALL {
        let case = Pairs::<T>::integers(form, shape, 3);
        let laid = case.laid(0);
        let (mut z, mut x) = (Vec::new(), Vec::new());
        for pair in 0..p * s * t {
            z.extend_from_slice(&case.case.z[pair / t * i..][..i]);
            x.extend_from_slice(&case.x[(pair / (s * t) * t + pair % t) * j..][..j]);
        }
        for context in contexts() {
            let layer = laid.layer().with_context(context);
            let (z, x) = (View::new(&z, [p * s * t, i]).unwrap(), View::new(&x, [p * s * t, j]).unwrap());
            let batch = layer.forward(z, x).unwrap();
            let pairs = layer.forward_pairs(laid.z.view(), laid.x.view()).unwrap();
            assert_eq!(pairs.shape(), [p, s, t, k]);
            assert_same(pairs.as_slice(), batch.as_slice(), &format!("{form:?} {}", context.simd()));
        }
    }
}

/// One problem for all, one row for all: strides of 0.
fn broadcast<T: Element>() {
    let [p, s, t, i, j] = [3, 7, 5, 6, 9];
    for form in Form::ALL {
        let case = Pairs::<T>::integers(form, [p, s, t, i, j, 2, 4], 3);
        let laid = case.laid(0);
        let z = View::strided(&case.case.z, 0, [p, s, i], [0, i as isize, 1]).unwrap();
        let x = View::strided(&case.x, 0, [p, t, j], [(t * j) as isize, 0, 1]).unwrap();
        let exact = reference::forward_pairs(&laid.layer(), z, x).unwrap();
        for context in contexts() {
            let y = laid.layer().with_context(context).forward_pairs(z, x).unwrap();
            assert_exact(y.as_slice(), &exact, &format!("{form:?} {}", context.simd()));
        }
    }
}

/// The same bits from run to run and for any number of threads.
fn threads<T: Element>() {
    for shape in [[20, 12, 10, 30, 20, 3, 9], [1, 200, 90, 40, 33, 1, 20], [1, 5, 300, 30, 60, 7, 8]] {
        for form in [Form::Dense, Form::CpLambda] {
            let case = Pairs::<T>::uniform(form, shape, 8);
            for &level in levels() {
                let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
                let one = case.forward(context.with_threads(1).unwrap(), 0, "one thread");
                for threads in [1, 2, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let context = context.with_threads(threads).unwrap();
                    let many = pool.install(|| case.forward(context, 0, "threads"));
                    assert_same(&many, &one, &format!("{form:?} {shape:?} {level} {threads} threads"));
                }
            }
        }
    }
}

for_each_dtype!(is_the_definition, strided, is_the_expanded_batch, broadcast, threads);

/// NaN in a row of z or x of a problem stays in the pairs of that row.
#[test]
fn special_values_stay_in_their_rows() {
    let [p, s, t, i, j, k] = [3, 5, 20, 6, 9, 2];
    for special in [f32::NAN, f32::INFINITY] {
        for form in Form::ALL {
            let mut case = Pairs::<f32>::uniform(form, [p, s, t, i, j, k, 4], 3);
            case.case.z[(s + 2) * i + 3] = special;
            case.x[(2 * t + 7) * j + 1] = special;
            for context in contexts() {
                for (index, value) in case.forward(context, 0, "special").into_iter().enumerate() {
                    let pair = index / k;
                    let (problem, row, column) = (pair / (s * t), pair / t % s, pair % t);
                    let reached = (problem == 1 && row == 2) || (problem == 2 && column == 7);
                    assert_eq!(!value.is_finite(), reached, "{form:?} {special} {problem} {row} {column}");
                }
            }
        }
    }
}

#[test]
fn errors() {
    let case = Pairs::<f32>::uniform(Form::Dense, [2, 3, 4, 5, 6, 2, 1], 1);
    let laid = case.laid(0);
    let (layer, z, x) = (laid.layer(), laid.z.view(), laid.x.view());
    let shape = |operand, axis, expected, actual| Err(Error::Shape { operand, axis, expected, actual });
    let call = |z, x, y: [usize; 4]| {
        let mut to = vec![0.0; y.iter().product()];
        layer.forward_pairs_into(z, x, ViewMut::new(&mut to, y).unwrap())
    };
    assert_eq!(call(z, x, [2, 3, 4, 2]), Ok(()));
    assert_eq!(call(x, z, [2, 4, 3, 2]), shape("z", "features", 5, 6));
    assert_eq!(call(z, z, [2, 3, 3, 2]), shape("x", "features", 6, 5));
    assert_eq!(call(z.slice(0, 0..1).unwrap(), x, [2, 3, 4, 2]), shape("x", "problems", 1, 2));
    assert_eq!(call(z, x, [1, 3, 4, 2]), shape("y", "problems", 2, 1));
    assert_eq!(call(z, x, [2, 4, 4, 2]), shape("y", "rows of z", 3, 4));
    assert_eq!(call(z, x, [2, 3, 3, 2]), shape("y", "rows of x", 4, 3));
    assert_eq!(call(z, x, [2, 3, 4, 3]), shape("y", "outputs", 2, 3));
    let huge = View::strided(&case.x, 0, [1 << 41, 4, 6], [0; 3]).unwrap();
    let many = View::strided(&case.x, 0, [1 << 41, 3, 5], [0; 3]).unwrap();
    assert_eq!(layer.forward_pairs(many, huge).map(drop), Err(Error::TooLarge { what: "an axis" }));
}

#[test]
fn plan() {
    let context = contexts()[0];
    let w = vec![0.0f32; 501 * 500];
    let layer = Interaction::dense(View::new(&w, [1, 501, 500]).unwrap()).unwrap().with_context(context);
    let plan = layer.plan_pairs(100, 50, 50).unwrap();
    assert_eq!(plan.algorithm, Algorithm::ContractContext);
    assert_eq!(plan.flops, 2 * 100 * 50 * 500 * (501 + 50));
    assert_eq!(plan.bytes, 4 * (501 * 500 + 100 * 50 * (501 + 500 + 50)));
    assert!(plan.scratch < 8 << 20, "{plan}");
    // Few rows of x: these are contracted.
    assert_eq!(layer.plan_pairs(100, 50, 2).unwrap().flops, 2 * 100 * 2 * 501 * (500 + 50));
    let cp = Pairs::<f32>::uniform(Form::Cp, [1, 1, 1, 20, 30, 4, 5], 1).core();
    let laid = cp.laid(0);
    let plan = laid.layer().with_context(context).plan_pairs(6, 7, 8).unwrap();
    assert_eq!((plan.algorithm, plan.flops), (Algorithm::CpBlocked, 2 * 6 * 5 * (7 * 20 + 8 * 30 + 7 * 8 * 4)));
}

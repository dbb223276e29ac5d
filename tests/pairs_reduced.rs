//! All pairs summed over the problems: against the definition and the sum of all pairs, by either way to compute it.

mod common;

use common::case::Form;
use common::layout::{Embedded, Layout};
use common::pairs::{Pairs, SMALLEST, Sizes};
use common::{Random, assert_close, assert_exact, assert_same, contexts, levels};
use trilinear::reference::{self, Reference};
use trilinear::{Context, Device, Element, Error, Gradient, Reduction, Tensor, View, Wanted};

/// [M, S, T, I, J, K, R]: with many outputs and problems outer products are cheaper, with few the contraction of either side.
fn shapes() -> Vec<Sizes> {
    let mut shapes = SMALLEST.to_vec();
    shapes.extend([
        [9, 4, 5, 3, 2, 7, 2],
        [40, 3, 20, 6, 7, 33, 3],
        [7, 20, 3, 9, 17, 1, 2],
        [3, 2, 70, 5, 4, 1, 3],
        [3, 70, 2, 4, 5, 1, 3],
        [30, 10, 60, 8, 8, 20, 1],
        [600, 2, 3, 4, 5, 6, 2],
    ]);
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33] {
        shapes.extend([
            [edge, 2, 3, 3, 4, 5, 2],
            [20, edge, 3, 3, 4, 5, 2],
            [20, 2, edge, 3, 4, 5, 2],
            [20, 2, 3, edge, 4, 5, 2],
            [20, 2, 3, 3, edge, 5, 2],
            [20, 2, 3, 3, 4, edge, 2],
        ]);
    }
    shapes
}

const REDUCTIONS: [Reduction; 2] = [Reduction::Sum, Reduction::Mean];

fn case<T: Element>(form: Form, shape: Sizes, seed: usize, integers: bool) -> Pairs<T> {
    let make = if integers { Pairs::<T>::integers } else { Pairs::uniform };
    make(form, shape, seed as u64).core()
}

fn check<T: Element>(y: &[T], exact: &Reference, integers: bool, what: &str) {
    if integers { assert_exact(y, exact, what) } else { assert_close(y, exact, what) }
}

fn is_the_definition<T: Element>() {
    for (seed, shape @ [_, s, t, _, _, k, _]) in shapes().into_iter().enumerate() {
        for (form, integers) in Form::ALL.into_iter().flat_map(|form| [(form, true), (form, false)]) {
            let case = case::<T>(form, shape, seed, integers);
            let (laid, b) = (case.laid(0), View::vector(&case.case.b));
            let layer = if seed % 2 == 0 { laid.layer() } else { laid.layer().with_b(b).unwrap() };
            // The mean of integers is not exact.
            let reduction = if integers { Reduction::Sum } else { REDUCTIONS[seed % 2] };
            let exact = reference::forward_pairs_reduced(&layer, laid.z.view(), laid.x.view(), reduction).unwrap();
            for context in contexts() {
                let mut y = Embedded::output([s, t, k], Layout::all()[seed % 8].1);
                let layer = layer.with_context(context);
                layer.forward_pairs_reduced_into(laid.z.view(), laid.x.view(), reduction, y.view_mut()).unwrap();
                let what = format!("{form:?} {shape:?} {} {}", T::DTYPE, context.simd());
                check(&y.finish(&what), &exact, integers, &what);
            }
        }
    }
}

/// The sum of all pairs; weights, inputs and y of any layout.
fn is_the_sum_of_all_pairs<T: Element>() {
    for shape @ [m, s, t, _, _, k, _] in [[6, 5, 4, 3, 7, 20, 3], [5, 20, 3, 9, 6, 1, 2], [3, 2, 9, 17, 5, 2, 2]] {
        for form in [Form::Dense, Form::Cp] {
            let case = case::<T>(form, shape, 3, true);
            for context in contexts() {
                let all = case.forward(context, 0, "all");
                let sums: Vec<f64> =
                    (0..s * t * k).map(|at| (0..m).map(|m| all[m * s * t * k + at].to_f64()).sum()).collect();
                let expected: Vec<T> = sums.iter().map(|&sum| T::from_f64(sum)).collect();
                for layout in 0..8 {
                    let laid = case.laid(layout);
                    let mut y = Embedded::output([s, t, k], Layout::all()[layout].1);
                    let layer = laid.layer().with_context(context);
                    let (z, x) = (laid.z.view(), laid.x.view());
                    layer.forward_pairs_reduced_into(z, x, Reduction::Sum, y.view_mut()).unwrap();
                    let what = format!("{form:?} {shape:?} layout {layout} {}", context.simd());
                    // In half precision each problem's y is rounded.
                    let exact = all.iter().all(|y| y.to_f64().abs() <= 256.0);
                    let y = y.finish(&what);
                    if exact {
                        assert_same(&y, &expected, &what)
                    }
                }
            }
        }
    }
}

fn gradients<T: Element>() {
    // The reference is slow.
    let short = |shape: &Sizes| shape.iter().map(|len| len.max(&1)).product::<usize>() < 30_000;
    for (seed, shape @ [m, s, t, _, _, k, _]) in shapes().into_iter().filter(short).enumerate() {
        for form in [Form::Dense, Form::CpLambda, Form::Linear] {
            let case = case::<T>(form, shape, seed, false);
            let laid = case.laid(0);
            let g: Vec<T> = Random(seed as u64).uniform(s * t * k);
            let g = View::new(&g, [s, t, k]).unwrap();
            let (z, x) = (laid.z.view(), laid.x.view());
            for reduction in REDUCTIONS {
                let exact = reference::backward_pairs_reduced(&laid.layer(), z, x, reduction, g).unwrap();
                for context in contexts() {
                    let what = format!("{form:?} {shape:?} {reduction:?} {} {}", T::DTYPE, context.simd());
                    let b = View::vector(&case.case.b);
                    let layer = laid.layer().with_context(context).with_b(b).unwrap();
                    let found = layer.backward_pairs_reduced(z, x, reduction, g).unwrap();
                    assert_eq!(found.z.shape()[0], m);
                    assert_close(found.z.as_slice(), &exact.z, &what);
                    assert_close(found.x.as_slice(), &exact.x, &what);
                    assert_close(found.b.unwrap().as_slice(), &exact.b, &what);
                    if let Some(w) = found.w {
                        assert_close(w.as_slice(), &exact.w, &what);
                    }
                    if let (Some(found), Some(exact)) = (found.cp, &exact.cp) {
                        assert_close(found.a.as_slice(), &exact.a, &what);
                        assert_close(found.b.as_slice(), &exact.b, &what);
                        assert_close(found.c.as_slice(), &exact.c, &what);
                        assert_close(found.lambda.unwrap().as_slice(), &exact.lambda, &what);
                    }
                }
            }
        }
    }
}

/// The same bits for any number of threads.
fn threads<T: Element>() {
    for shape in [[50, 20, 30, 8, 9, 30, 1], [9, 60, 40, 20, 10, 1, 1], [5, 3, 200, 10, 9, 2, 1]] {
        let case = case::<T>(Form::Dense, shape, 8, false);
        let laid = case.laid(0);
        for &level in levels() {
            let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
            let of = |threads| {
                let layer = laid.layer().with_context(context.with_threads(threads).unwrap());
                layer.forward_pairs_reduced(laid.z.view(), laid.x.view(), Reduction::Mean).unwrap()
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let one = of(1);
            for threads in [2, 3] {
                let many = pool.install(|| of(threads));
                assert_same(many.as_slice(), one.as_slice(), &format!("{shape:?} {level} {threads} threads"));
            }
        }
    }
}

for_each_dtype!(is_the_definition, is_the_sum_of_all_pairs, gradients, threads);

#[test]
fn errors() {
    let case = Pairs::<f32>::uniform(Form::Dense, [2, 3, 4, 5, 6, 2, 1], 1);
    let laid = case.laid(0);
    let (z, x) = (laid.z.view(), laid.x.view());
    let error = laid.layer().forward_pairs_reduced(z, x, Reduction::Sum).map(drop);
    assert_eq!(error, Err(Error::Unsupported { what: "linear terms of pairs that are summed over problems" }));
    let core = case.clone().core();
    let laid = core.laid(0);
    let shape = |operand, axis, expected, actual| Err(Error::Shape { operand, axis, expected, actual });
    let mut y = Tensor::zeros([3, 3, 2]).unwrap();
    let error = laid.layer().forward_pairs_reduced_into(z, x, Reduction::Sum, y.view_mut());
    assert_eq!(error, shape("y", "rows of x", 4, 3));
    let error = laid.layer().backward_pairs_reduced(z, x, Reduction::Sum, y.view()).map(drop);
    assert_eq!(error, shape("g", "rows of x", 4, 3));
    let mut du = Tensor::zeros([2, 5]).unwrap();
    let wanted = Wanted { u: Some(Gradient::write(du.view_mut())), ..Wanted::default() };
    let g = Tensor::zeros([3, 4, 2]).unwrap();
    let error = laid.layer().backward_pairs_reduced_into(z, x, Reduction::Sum, g.view(), wanted);
    assert_eq!(error, Err(Error::Unsupported { what: "linear terms of pairs that are summed over problems" }));
}

//! Fits of W: what they find, what they report, and what they do with tensors and options that make no sense.
#![cfg(feature = "decompose")]

mod common;

use std::cell::Cell;
use std::ops::ControlFlow;

use common::{Random, assert_same};
use trilinear::decompose::{Cp, Init, Options, Progress, Real, Stopped, block_terms, cp, search, sweep};
use trilinear::{Axes, Context, Device, Error, Interaction, Tensor, View};

/// Noise of the entries of a reconstruction in T, in units of W's norm: every test of an error allows for it.
fn noise<T: Real>() -> f64 {
    1e3 * T::DTYPE.accumulator_roundoff()
}

fn uniform<T: Real>(lengths: [usize; 3], seed: u64) -> Tensor<T, 3> {
    Tensor::from_vec(Random(seed).uniform(lengths.iter().product()), lengths).unwrap()
}

/// Σᵣ of random components of length about 1, `map` applied to each number.
fn planted<T: Real>(lengths: [usize; 3], rank: usize, seed: u64, map: fn(f64) -> f64) -> Tensor<T, 3> {
    let mut random = Random(seed);
    let factors = lengths.map(|len| random.uniform::<f64>(len * rank).into_iter().map(map).collect::<Vec<_>>());
    let [a, b, c] = [0, 1, 2].map(|axis| View::new(&factors[axis], [lengths[axis], rank]).unwrap());
    let w = Interaction::cp(a, b, c).unwrap().to_dense().unwrap();
    Tensor::from_vec(w.as_slice().iter().map(|&value| T::from_f64(value)).collect(), lengths).unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// ‖W − Ŵ‖/‖W‖ by the definition.
fn error_of<T: Real>(w: &Tensor<T, 3>, fit: &Cp<T>) -> f64 {
    let wide = |values: &[T]| values.iter().map(|value| value.to_f64()).collect::<Vec<_>>();
    let factors = [&fit.a, &fit.b, &fit.c].map(|factor| (wide(factor.as_slice()), factor.shape()));
    let [a, b, c] = factors.each_ref().map(|(values, shape)| View::new(values, *shape).unwrap());
    let lambda = wide(fit.lambda.as_slice());
    let layer = Interaction::cp(a, b, c).unwrap().with_lambda(View::vector(&lambda)).unwrap();
    let fitted = layer.to_dense().unwrap();
    let differences = w.as_slice().iter().zip(fitted.as_slice()).map(|(w, fitted)| w.to_f64() - fitted);
    norm(differences) / norm(w.as_slice().iter().map(|w| w.to_f64()))
}

/// Columns of length 1 or 0, λ falling, the error that of the reconstruction, the last of the errors, and the parameters.
#[track_caller]
fn check<T: Real>(w: &Tensor<T, 3>, fit: &Cp<T>) {
    let ([k, i, j], r, report) = (w.shape(), fit.rank(), &fit.report);
    assert_eq!([fit.a.shape(), fit.b.shape(), fit.c.shape()], [[k, r], [i, r], [j, r]]);
    assert_eq!(report.parameters, [k * i * j, r * (k + i + j)]);
    assert!(report.mttkrp_seconds <= report.seconds);
    let error = error_of(w, fit);
    assert!((error - report.error).abs() <= noise::<T>() * (1.0 + 1.0 / report.error.max(0.1)), "{error} {report:?}");
    assert_eq!(report.errors.last().copied().unwrap_or(report.error), report.error);
    for factor in [&fit.a, &fit.b, &fit.c] {
        for column in 0..r {
            let rows = factor.as_slice().chunks_exact(r);
            let length = norm(rows.map(|row| row[column].to_f64()));
            assert!((length - 1.0).abs() < noise::<T>() || length == 0.0, "{length}");
        }
    }
    assert!(fit.lambda.as_slice().windows(2).all(|pair| pair[0].to_f64() >= pair[1].to_f64()));
}

/// No iteration made the error grow, but for rounding.
#[track_caller]
fn check_monotone<T: Real>(fit: &Cp<T>) {
    for pair in fit.report.errors.windows(2) {
        assert!(pair[1] <= pair[0] + noise::<T>() / pair[0].max(1e-3), "{pair:?}");
    }
}

fn recovers<T: Real>() {
    for (seed, (lengths, rank)) in [([6, 7, 8], 1), ([9, 20, 5], 3), ([30, 25, 20], 6)].into_iter().enumerate() {
        let w = planted::<T>(lengths, rank, seed as u64, |value| value);
        for init in [Init::Hosvd, Init::Random] {
            let options = Options { iterations: 2000, tolerance: 0.0, restarts: 1, init, ..Options::new(rank) };
            let fit = cp(w.view(), &options).unwrap();
            assert!(fit.report.error < noise::<T>(), "{lengths:?} rank {rank} {init:?}: {:?}", fit.report.error);
            check(&w, &fit);
            check_monotone(&fit);
        }
    }
}

/// Errors that are not small are those of the reconstruction too, though it is never formed.
fn reports<T: Real>() {
    for (seed, (lengths, rank)) in [([7, 8, 9], 2), ([12, 5, 30], 7), ([3, 40, 4], 9)].into_iter().enumerate() {
        let w = uniform::<T>(lengths, seed as u64);
        for ridge in [0.0, 0.5] {
            let fit = cp(w.view(), &Options { iterations: 30, tolerance: 0.0, ridge, ..Options::new(rank) }).unwrap();
            assert_eq!((fit.report.errors.len(), fit.report.stopped), (30, Stopped::Iterations));
            check(&w, &fit);
            if ridge == 0.0 {
                check_monotone(&fit);
            }
        }
    }
}

fn nonnegative<T: Real>() {
    let w = planted::<T>([8, 12, 10], 3, 5, f64::abs);
    for init in [Init::Hosvd, Init::Random] {
        let options =
            Options { iterations: 2000, tolerance: 1e-9, nonnegative: true, restarts: 2, init, ..Options::new(3) };
        let fit = cp(w.view(), &options).unwrap();
        let factors = [&fit.a, &fit.b, &fit.c].map(Tensor::as_slice);
        assert!(factors.into_iter().flatten().all(|value| value.to_f64() >= 0.0));
        assert!(fit.report.error < 1e-2, "{}", fit.report.error);
        check(&w, &fit);
        check_monotone(&fit);
    }
    // Of a tensor that has no such decomposition.
    let w = uniform::<T>([6, 5, 7], 1);
    let fit = cp(w.view(), &Options { nonnegative: true, ..Options::new(4) }).unwrap();
    let factors = [&fit.a, &fit.b, &fit.c].map(Tensor::as_slice);
    assert!(factors.into_iter().flatten().all(|value| value.to_f64() >= 0.0));
    check(&w, &fit);
    check_monotone(&fit);
}

/// Singular Grams: higher ranks than W has, more columns than rows, equal columns to start from.
fn singular<T: Real>() {
    let w = planted::<T>([5, 6, 7], 2, 3, |value| value);
    for rank in [5, 10, 30] {
        let fit = cp(w.view(), &Options { iterations: 300, ..Options::new(rank) }).unwrap();
        assert!(fit.report.error < 1e-3, "rank {rank}: {}", fit.report.error);
        check(&w, &fit);
        check_monotone(&fit);
    }
    let ones = [5, 6, 7].map(|len| Tensor::from_vec(vec![T::from_f64(1.0); len * 3], [len, 3]).unwrap());
    let init = Init::Given { factors: ones.each_ref().map(Tensor::view), lambda: None };
    let fit = cp(w.view(), &Options { init, ..Options::new(3) }).unwrap();
    check(&w, &fit);
    check_monotone(&fit);
}

fn nothing_to_fit<T: Real>() {
    let zero = Tensor::<T, 3>::zeros([3, 4, 5]).unwrap();
    let fit = cp(zero.view(), &Options::new(2)).unwrap();
    assert_eq!((fit.report.error, fit.report.stopped), (0.0, Stopped::Converged));
    assert!(fit.lambda.as_slice().iter().all(|value| value.to_f64() == 0.0));
    let w = uniform::<T>([3, 4, 5], 1);
    let fit = cp(w.view(), &Options::new(0)).unwrap();
    assert_eq!((fit.report.error, fit.rank(), fit.a.shape()), (1.0, 0, [3, 0]));
    for lengths in [[0, 4, 5], [3, 0, 5], [3, 4, 0]] {
        let fit = cp(Tensor::<T, 3>::zeros(lengths).unwrap().view(), &Options::new(1)).unwrap();
        assert_eq!((fit.report.error, fit.c.shape()), (0.0, [lengths[2], 1]));
    }
    // Axes that no memory has, of a tensor without elements.
    let w = View::<T, 3>::new(&[], [1 << 40, 1 << 40, 0]).unwrap();
    assert_eq!(cp(w, &Options::new(0)).unwrap().report.parameters, [0, 0]);
}

/// Numbers whose squares over- or underflow.
fn extreme<T: Real>() {
    let scales = if T::DTYPE.bytes() == 4 { [1e-30, 1e30] } else { [1e-200, 1e200] };
    let w = planted::<T>([5, 6, 7], 2, 3, |value| value);
    let options = Options { iterations: 100, tolerance: 0.0, ..Options::new(2) };
    let fit = cp(w.view(), &Options { init: Init::Random, ..options }).unwrap();
    for scale in scales {
        let scaled = w.as_slice().iter().map(|value| T::from_f64(value.to_f64() * scale)).collect();
        let scaled = Tensor::from_vec(scaled, w.shape()).unwrap();
        let other = cp(scaled.view(), &Options { init: Init::Random, ..options }).unwrap();
        assert!((other.report.error - fit.report.error).abs() < noise::<T>());
        let lambda = other.lambda.as_slice()[0].to_f64() / fit.lambda.as_slice()[0].to_f64() / scale;
        assert!((lambda - 1.0).abs() < 1e-2, "{lambda}");
    }
}

macro_rules! for_each_real {
    ($($test:ident),+ $(,)?) => {
        mod f32 { $(#[test] fn $test() { super::$test::<f32>() })+ }
        mod f64 { $(#[test] fn $test() { super::$test::<f64>() })+ }
    };
}
for_each_real!(recovers, reports, nonnegative, singular, nothing_to_fit, extreme, mixed_blocks, slices);

#[test]
fn one_row_is_the_singular_value_decomposition() {
    // CP of a matrix: the best approximation of rank R is known.
    let w = uniform::<f64>([1, 12, 9], 2);
    let exact = {
        let (mut w, mut squares) = (w.as_slice().to_vec(), Vec::new());
        // Singular values by power iteration and deflation.
        for _ in 0..9 {
            let mut v = [1.0; 9];
            let mut sigma = 0.0;
            for _ in 0..20000 {
                let u: Vec<f64> = w.chunks_exact(9).map(|row| row.iter().zip(&v).map(|(w, v)| w * v).sum()).collect();
                let mut next = [0.0; 9];
                w.chunks_exact(9).zip(&u).for_each(|(row, u)| next.iter_mut().zip(row).for_each(|(n, w)| *n += u * w));
                let length = norm(next.iter().copied());
                sigma = length.sqrt();
                v = next.map(|value| value / length);
            }
            let u: Vec<f64> = w.chunks_exact(9).map(|row| row.iter().zip(&v).map(|(w, v)| w * v).sum()).collect();
            w.chunks_exact_mut(9).zip(&u).for_each(|(row, u)| row.iter_mut().zip(&v).for_each(|(w, v)| *w -= u * v));
            squares.push(sigma * sigma);
        }
        squares
    };
    let all: f64 = exact.iter().sum();
    for rank in [1, 3, 6] {
        let fit = cp(w.view(), &Options { iterations: 5000, tolerance: 1e-13, ..Options::new(rank) }).unwrap();
        let best = (exact[rank..].iter().sum::<f64>() / all).sqrt();
        assert!((fit.report.error - best).abs() < 1e-6, "rank {rank}: {} instead of {best}", fit.report.error);
    }
}

#[test]
fn ridge_shrinks() {
    let w = uniform::<f64>([6, 7, 8], 1);
    let fits = [0.0, 1.0, 10.0, 1e6]
        .map(|ridge| cp(w.view(), &Options { ridge, iterations: 500, ..Options::new(3) }).unwrap());
    for pair in fits.windows(2) {
        let lengths = [&pair[0], &pair[1]].map(|fit| norm(fit.lambda.as_slice().iter().copied()));
        assert!(lengths[1] < lengths[0] && pair[1].report.error > pair[0].report.error);
    }
    assert!(fits[3].report.error > 0.99);
}

#[test]
fn warm_start_goes_on() {
    let w = uniform::<f64>([9, 10, 11], 4);
    let options = Options { iterations: 20, tolerance: 0.0, ..Options::new(4) };
    let whole = cp(w.view(), &Options { iterations: 40, ..options }).unwrap();
    let first = cp(w.view(), &options).unwrap();
    let second = cp(w.view(), &Options { init: first.init(), ..options }).unwrap();
    assert_eq!(first.report.errors, whole.report.errors[..20]);
    for (one, other) in second.report.errors.iter().zip(&whole.report.errors[20..]) {
        assert!((one - other).abs() < 1e-9, "{one} {other}");
    }
    // Without an iteration it is what was given.
    let same = cp(w.view(), &Options { iterations: 0, init: first.init(), ..options }).unwrap();
    assert!((same.report.error - first.report.error).abs() < 1e-12);
    check(&w, &same);
}

#[test]
fn deterministic() {
    let w = uniform::<f32>([33, 40, 37], 6);
    let of = |threads: usize, seed| {
        let context = Context::new(Device::Cpu).unwrap().with_threads(threads).unwrap();
        let options = Options { context: Some(context), seed, init: Init::Random, iterations: 8, ..Options::new(20) };
        cp(w.view(), &Options { restarts: 1, ..options }).unwrap()
    };
    let expected = of(1, 7);
    for threads in [1, 2, 3] {
        let fit = of(threads, 7);
        assert_same(fit.a.as_slice(), expected.a.as_slice(), "a");
        assert_same(fit.b.as_slice(), expected.b.as_slice(), "b");
        assert_same(fit.c.as_slice(), expected.c.as_slice(), "c");
        assert_same(fit.lambda.as_slice(), expected.lambda.as_slice(), "lambda");
        assert_eq!(fit.report.errors, expected.report.errors);
    }
    assert_ne!(of(1, 8).report.errors, expected.report.errors);
}

#[test]
fn strides() {
    let w = planted::<f64>([5, 6, 7], 2, 1, |value| value);
    let options = Options { iterations: 50, tolerance: 0.0, ..Options::new(2) };
    let expected = cp(w.view(), &options).unwrap();
    let turned = Tensor::from_view(w.view().permute([2, 1, 0]).unwrap()).unwrap(); // [x, z, out]
    let fit = cp(Axes::XZ_OUT.view(turned.view()), &options).unwrap();
    assert_same(fit.a.as_slice(), expected.a.as_slice(), "the order of the axes in memory");
}

#[test]
fn cancelled() {
    let w = uniform::<f32>([6, 7, 8], 1);
    let calls = Cell::new(0);
    let progress = |progress: &Progress| {
        calls.set(calls.get() + 1);
        assert_eq!((progress.rank, progress.starts, progress.iterations), (3, 3, 100));
        assert!(progress.error > 0.0 && progress.seconds >= 0.0);
        if progress.start == 1 && progress.iteration == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = Options { iterations: 100, tolerance: 0.0, restarts: 2, ..Options::new(3) };
    let fit = cp(w.view(), &Options { progress: Some(&progress), ..options }).unwrap();
    assert_eq!((calls.get(), fit.report.stopped), (105, Stopped::Cancelled));
    check(&w, &fit);
    let at_once = |_: &Progress| ControlFlow::Break(());
    let fit = cp(w.view(), &Options { progress: Some(&at_once), ..options }).unwrap();
    assert_eq!((fit.report.errors.len(), fit.report.stopped), (1, Stopped::Cancelled));
    check(&w, &fit);
}

#[test]
fn sweeps() {
    let w = planted::<f64>([8, 9, 10], 5, 1, |value| value);
    let options = Options { iterations: 500, tolerance: 1e-10, ..Options::new(12) };
    let by_rank = sweep(w.view(), &[8, 1, 2, 5, 5, 3], &options).unwrap();
    let ranks: Vec<usize> = by_rank.fits.iter().map(Cp::rank).collect();
    assert!(ranks.starts_with(&[1, 2, 3, 5]), "{ranks:?}");
    assert!(by_rank.fits.windows(2).all(|pair| pair[1].report.error < pair[0].report.error));
    assert!(by_rank.fits[2].report.error > 1e-3 && by_rank.fits[3].report.error < 1e-6);
    by_rank.fits.iter().for_each(|fit| check(&w, fit));
    assert_eq!(by_rank.for_error(1e-4).unwrap().rank(), 5);
    assert_eq!(by_rank.for_error(-1.0), None);
    assert_eq!(by_rank.for_parameters(3 * 27).unwrap().rank(), 3);
    assert_eq!(by_rank.for_parameters(26), None);

    let found = search(w.view(), 1e-4, &options).unwrap();
    assert_eq!(found.for_error(1e-4).unwrap().rank(), 5);
    assert_eq!(search(w.view(), 1.0, &options).unwrap().for_error(1.0).unwrap().rank(), 1);
    assert_eq!(search(w.view(), 1e-4, &Options { rank: 3, ..options }).unwrap().for_error(1e-4), None);
    assert_eq!(search(w.view(), 0.5, &Options::new(0)).unwrap().fits[0].rank(), 0);

    let stop = |progress: &Progress| {
        if progress.rank == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let cut = sweep(w.view(), &[1, 3, 5], &Options { progress: Some(&stop), ..options }).unwrap();
    assert!(cut.fits.iter().all(|fit| fit.rank() <= 3));
}

/// Inputs that hardly use most directions: a fit for them has the smaller error where they are.
#[test]
fn for_data() {
    let [k, i, j, n] = [6, 14, 12, 500];
    let w = uniform::<f64>([k, i, j], 3);
    let mut random = Random(4);
    let mut samples = |len: usize| {
        // A mixing of independent numbers with falling deviations, so that the axes are not the principal ones.
        let mix: Vec<f64> = random.uniform(len * len);
        let source: Vec<f64> = random.uniform(n * len);
        let rows = source.chunks_exact(len).flat_map(|row| {
            let scaled: Vec<f64> = row.iter().enumerate().map(|(at, value)| value * 0.6f64.powi(at as i32)).collect();
            mix.chunks_exact(len).map(|mix| mix.iter().zip(&scaled).map(|(m, s)| m * s).sum()).collect::<Vec<f64>>()
        });
        Tensor::from_vec(rows.collect(), [n, len]).unwrap()
    };
    let (z, x) = (samples(i), samples(j));
    let options = Options { iterations: 300, ..Options::new(5) };
    let plain = cp(w.view(), &options).unwrap();
    let aware = cp(w.view(), &Options { data: Some([z.view(), x.view()]), ..options }).unwrap();
    let output_error = |fit: &Cp<f64>| {
        let (z, x) = (z.view(), x.view());
        let y = Interaction::dense(w.view()).unwrap().forward(z, x).unwrap();
        let fitted = fit.interaction().unwrap().forward(z, x).unwrap();
        let difference = norm(y.as_slice().iter().zip(fitted.as_slice()).map(|(y, fitted)| y - fitted));
        difference / norm(y.as_slice().iter().copied())
    };
    let [by_plain, by_aware] = [output_error(&plain), output_error(&aware)];
    assert!(by_aware < by_plain / 2.0, "{by_aware} instead of {by_plain}");
    assert!((aware.report.output_error.unwrap() - by_aware).abs() < 1e-9);
    assert_eq!(plain.report.output_error, None);
    // What is minimised is the expected error for independent inputs.
    assert!((aware.report.error / by_aware - 1.0).abs() < 0.2, "{} {by_aware}", aware.report.error);
    // Factors that are given are those of W, and so are those that a sweep goes on from.
    let warm = Options { init: aware.init(), iterations: 0, data: Some([z.view(), x.view()]), ..options };
    let same = cp(w.view(), &warm).unwrap();
    assert!((same.report.error - aware.report.error).abs() < 1e-9 && (output_error(&same) - by_aware).abs() < 1e-9);
    let init = Init::Random;
    let by_rank = sweep(w.view(), &[4, 5], &Options { data: warm.data, init, iterations: 1, ..options }).unwrap();
    assert!(by_rank.fits.windows(2).all(|pair| pair[1].report.error < pair[0].report.error));
    for fit in &by_rank.fits {
        assert!((fit.report.output_error.unwrap() - output_error(fit)).abs() < 1e-9);
    }
    // W itself it approximates worse.
    assert!(error_of(&w, &aware) > error_of(&w, &plain));

    // Of white inputs the two are the same: rows ±eᵢ have unit second moments up to a factor.
    let white = |len: usize| {
        let rows = i * j;
        let values = (0..rows * len).map(|at| f64::from(u8::from(at / len % len == at % len))).collect();
        Tensor::from_vec(values, [rows, len]).unwrap()
    };
    let (z, x) = (white(i), white(j));
    let same = cp(w.view(), &Options { data: Some([z.view(), x.view()]), ..options }).unwrap();
    assert!((same.report.error - plain.report.error).abs() < 1e-4, "{} {}", same.report.error, plain.report.error);
}

#[test]
fn errors() {
    let w = uniform::<f64>([3, 4, 5], 1);
    fn error_for(w: View<'_, f64, 3>, options: &Options<'_, f64>) -> Error {
        cp(w, options).unwrap_err()
    }
    let error = |options: Options<'_, f64>| error_for(w.view(), &options);
    let is_value = |error: &Error, option: &str, number: &str| matches!(error, Error::Value { what, given, .. } if *what == option && given == number);
    assert!(is_value(&error(Options::new(13)), "rank", "13"));
    assert!(is_value(&error(Options::new(usize::MAX)), "rank", &usize::MAX.to_string()));
    assert!(is_value(&error(Options { tolerance: f64::NAN, ..Options::new(2) }), "tolerance", "NaN"));
    assert!(is_value(&error(Options { ridge: -1.0, ..Options::new(2) }), "ridge", "-1"));
    assert!(is_value(&search(w.view(), f64::NAN, &Options::new(2)).unwrap_err(), "error", "NaN"));
    for bad in [f64::NAN, f64::INFINITY] {
        let mut values = w.as_slice().to_vec();
        values[7] = bad;
        let w = View::new(&values, [3, 4, 5]).unwrap();
        assert_eq!(cp(w, &Options::new(2)).unwrap_err(), Error::NotFinite { operand: "w" });
    }
    // Finite, but not its length, which λ would be.
    let huge = View::new(&[3e38f32; 60], [3, 4, 5]).unwrap();
    let ended = cp(huge, &Options::new(1)).unwrap_err();
    assert!(matches!(ended, Error::NotFinite { .. }), "{ended}");
    let shape = |operand, axis, expected, actual| Error::Shape { operand, axis, expected, actual };
    let (a, b, c) = ([1.0; 6], [1.0; 8], [1.0; 10]);
    let (a, b, c) = (View::new(&a, [3, 2]).unwrap(), View::new(&b, [4, 2]).unwrap(), View::new(&c, [5, 2]).unwrap());
    fn given<'a>(factors: [View<'a, f64, 2>; 3], lambda: Option<View<'a, f64, 1>>) -> Options<'a, f64> {
        Options { init: Init::Given { factors, lambda }, ..Options::new(2) }
    }
    assert_eq!(error(given([b, a, c], None)), shape("a", "rows", 3, 4));
    assert_eq!(error(Options { rank: 3, ..given([a, b, c], None) }), shape("a", "rank", 3, 2));
    assert_eq!(error(given([a, b, c], Some(View::vector(&[1.0])))), shape("lambda", "rank", 2, 1));
    fn data<'a>(z: View<'a, f64, 2>, x: View<'a, f64, 2>) -> Options<'a, f64> {
        Options { data: Some([z, x]), ..Options::new(2) }
    }
    let (z, x) = ([1.0; 8], [1.0; 10]);
    let (z, x) = (View::new(&z, [2, 4]).unwrap(), View::new(&x, [2, 5]).unwrap());
    assert_eq!(error(data(x, x)), shape("z", "features", 4, 5));
    assert_eq!(error(data(z, z)), shape("x", "features", 5, 4));
    assert_eq!(error(data(z.slice(0, 0..1).unwrap(), x)), shape("z", "rows", 2, 1));
    assert!(is_value(&error(data(z.slice(0, 0..0).unwrap(), x.slice(0, 0..0).unwrap())), "data", "no rows"));
    let nan = [f64::NAN; 10];
    assert_eq!(error(data(z, View::new(&nan, [2, 5]).unwrap())), Error::NotFinite { operand: "x" });
    assert!(matches!(error(Options { nonnegative: true, ..data(z, x) }), Error::Unsupported { .. }));
    // Factors that are not finite.
    let bad = [f64::INFINITY; 6];
    assert_eq!(error(given([View::new(&bad, [3, 2]).unwrap(), b, c], None)), Error::NotFinite { operand: "factors" });
}

/// Slices that mix two matrices of rank 3.
fn mixed_blocks<T: Real>() {
    let ([k, i, j], block) = ([7, 9, 8], 3);
    let mut random = Random(12);
    let [a, b, c] = [k * 2, i * 2 * block, j * 2 * block].map(|len| random.uniform::<f64>(len));
    let element = |at: usize| -> f64 {
        let [k, i, j] = [at / (i * j), at / j % i, at % j];
        let terms = (0..2 * block).map(|r| a[k * 2 + r / block] * b[i * 2 * block + r] * c[j * 2 * block + r]);
        terms.sum()
    };
    let w = Tensor::from_vec((0..k * i * j).map(|at| T::from_f64(element(at))).collect(), [k, i, j]).unwrap();
    for init in [Init::Hosvd, Init::Random] {
        let options = Options { iterations: 2000, tolerance: 0.0, restarts: 1, init, ..Options::new(2) };
        let terms = block_terms(w.view(), block, &options).unwrap();
        assert!(terms.report.error < noise::<T>(), "{init:?}: {}", terms.report.error);
        assert_eq!(terms.report.parameters, [k * i * j, 2 * k + 2 * block * (i + j)]);
        assert_eq!((terms.a.shape(), terms.b.shape()), ([k, 2], [i, 2 * block]));
        let fit = terms.to_cp().unwrap();
        assert!((error_of(&w, &fit) - terms.report.error).abs() < noise::<T>());
        check_monotone(&fit);
    }
    // One column each: CP.
    let w = uniform::<T>([5, 6, 7], 1);
    let options = Options { iterations: 10, ..Options::new(3) };
    let (terms, fit) = (block_terms(w.view(), 1, &options).unwrap(), cp(w.view(), &options).unwrap());
    assert_eq!(terms.report.errors, fit.report.errors);
}

/// A block for each slice, as in attention: the singular value decompositions of the slices.
fn slices<T: Real>() {
    let [k, i, j] = [4, 20, 16];
    let w = uniform::<T>([k, i, j], 3);
    let fits = [2, 5, 16].map(|block| {
        let options = Options { iterations: 20, ..Options::new(k) };
        let terms = block_terms(w.view(), block, &options).unwrap();
        let fit = terms.to_cp().unwrap();
        assert!((error_of(&w, &fit) - terms.report.error).abs() < noise::<T>());
        check_monotone(&fit);
        terms.report.error
    });
    assert!(fits[0] > fits[1] && fits[1] > 0.1 && fits[2] < noise::<T>(), "{fits:?}");
}

/// The textbook's iteration: MTTKRP by its definition, and Gauss-Jordan elimination.
fn textbook(w: &Tensor<f64, 3>, mut factors: [Vec<f64>; 3], rank: usize) -> ([Vec<f64>; 3], f64) {
    let ([_, i, j], r) = (w.shape(), rank);
    for mode in 0..3 {
        let others = [[1, 2], [0, 2], [0, 1]][mode];
        let len = w.shape()[mode];
        let mut m = vec![0.0; len * r];
        for (at, w) in w.as_slice().iter().enumerate() {
            let index = [at / (i * j), at / j % i, at % j];
            let [p, q] = others.map(|axis| &factors[axis][index[axis] * r..][..r]);
            let m = &mut m[index[mode] * r..][..r];
            m.iter_mut().zip(p.iter().zip(q)).for_each(|(m, (p, q))| *m += w * p * q);
        }
        let gram = |f: &[f64], p: usize, q: usize| f.chunks_exact(r).map(|row| row[p] * row[q]).sum::<f64>();
        let mut g: Vec<f64> =
            (0..r * r).map(|at| others.iter().map(|&axis| gram(&factors[axis], at / r, at % r)).product()).collect();
        for pivot in 0..r {
            let inverse = 1.0 / g[pivot * r + pivot]; // positive definite
            for column in (0..r).filter(|&column| column != pivot) {
                let by = g[pivot * r + column] * inverse;
                (0..r).for_each(|row| g[row * r + column] -= by * g[row * r + pivot]);
                m.chunks_exact_mut(r).for_each(|m| m[column] -= by * m[pivot]);
            }
        }
        m.chunks_exact_mut(r).for_each(|m| (0..r).for_each(|at| m[at] /= g[at * r + at]));
        factors[mode] = m;
    }
    let squares = w.as_slice().iter().enumerate().map(|(at, w)| {
        let index = [at / (i * j), at / j % i, at % j];
        let product = |r: usize| (0..3).map(|axis| factors[axis][index[axis] * rank + r]).product::<f64>();
        (w - (0..r).map(product).sum::<f64>()).powi(2)
    });
    let error = (squares.sum::<f64>() / w.as_slice().iter().map(|w| w * w).sum::<f64>()).sqrt();
    (factors, error)
}

/// Sizes at which updates share contractions of W, over each axis or over some of them, and at which none do.
#[test]
fn iterations_are_the_textbooks() {
    for (lengths, rank) in [
        ([17, 66, 64], 16),
        ([9, 66, 64], 16),
        ([66, 9, 64], 16),
        ([66, 64, 9], 16),
        ([20, 30, 40], 25),
        ([20, 30, 40], 35),
        ([6, 7, 8], 3),
    ] {
        let w = uniform::<f64>(lengths, 2);
        let mut random = Random(5);
        let mut factors = lengths.map(|len| random.uniform::<f64>(len * rank));
        let given = [0, 1, 2].map(|axis| Tensor::from_vec(factors[axis].clone(), [lengths[axis], rank]).unwrap());
        let init = Init::Given { factors: given.each_ref().map(Tensor::view), lambda: None };
        let fit = cp(w.view(), &Options { iterations: 3, tolerance: 0.0, init, ..Options::new(rank) }).unwrap();
        for (iteration, error) in fit.report.errors.iter().enumerate() {
            let expected;
            (factors, expected) = textbook(&w, factors, rank);
            assert!((error - expected).abs() < 1e-9, "{lengths:?} rank {rank}, {iteration}: {error}, not {expected}");
        }
        check(&w, &fit);
    }
}

//! Shapes and strides that no memory has, but a view with a zero stride or without elements may: errors or right results,
//! never an overflow. (`.ci/run` runs the tests in a debug build too, where arithmetic that overflows panics.)

mod common;

use common::{Random, assert_close, ways};
use trilinear::{
    Algorithm, Context, Device, Element, Error, Gradient, Interaction, Saved, Tensor, View, ViewMut, Wanted,
    WantedFactors, reference,
};

const BIG: isize = isize::MAX - 5;

/// Offsets whose sum wraps around.
#[test]
fn bounds() {
    let data = [1.0f32; 4];
    for strides in [[isize::MAX, isize::MAX, 1000], [isize::MIN, isize::MIN, -1], [isize::MAX, isize::MIN, 0]] {
        let view = View::strided(&data, 0, [usize::MAX, usize::MAX, 2], strides);
        assert!(matches!(view, Err(Error::OutOfBounds { len: 4, .. })), "{strides:?}");
    }
}

/// A matrix of ones, or one without elements and with strides that must not be used.
fn ones<T: Element>(data: &[T], shape: [usize; 2]) -> View<'_, T, 2> {
    match shape.contains(&0) {
        true => View::strided(&[], 0, shape, [BIG, -BIG]).unwrap(),
        false => View::strided(data, 0, shape, [0, 0]).unwrap(),
    }
}

fn empty_axes<T: Element>(context: Context, n: usize, [k, i, j]: [usize; 3]) {
    let one = [T::from_f64(1.0)];
    let w = View::strided(&[], 0, [k, i, j], [BIG, -BIG, 1]).unwrap();
    let (z, x, g) = (ones(&one, [n, i]), ones(&one, [n, j]), ones(&one, [n, k]));
    for algorithm in [None, Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao), Some(Algorithm::Stream)] {
        let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
        let layer = Interaction::dense(w).unwrap().with_context(context);
        let layer = layer.with_u(ones(&one, [k, i])).unwrap().with_v(ones(&one, [k, j])).unwrap();
        let what = format!("{n} {k} {i} {j} {} {algorithm:?}", context.simd());
        match layer.forward(z, x) {
            Ok(y) => assert!(y.as_slice().iter().all(|y| y.to_f64() == (i + j) as f64), "{what}"),
            Err(Error::Algorithm { .. }) => continue,
            Err(error) => panic!("{what}: {error}"),
        }
        let gradients = layer.backward(z, x, g).unwrap();
        assert!(gradients.z.as_slice().iter().chain(gradients.x.as_slice()).all(|d| d.to_f64() == k as f64), "{what}");
    }
}

#[test]
fn empty_axes_of_any_stride() {
    for context in ways(0) {
        for n in [1, 3, 5, 40] {
            for sizes in [[3, 0, 5], [3, 5, 0], [40, 0, 0], [7, 500, 0], [7, 0, 500], [0, 3, 4]] {
                empty_axes::<f32>(context, n, sizes);
                empty_axes::<trilinear::bf16>(context, n, sizes);
            }
        }
    }
}

/// The stride of an axis of length 1 is never used.
#[test]
fn single_axes_of_any_stride() {
    let mut random = Random(1);
    let (w, x): (Vec<f32>, Vec<f32>) = (random.uniform(6 * 70), random.uniform(9 * 70));
    let z: Vec<f32> = random.uniform(9);
    let plain = Interaction::dense(View::new(&w, [6, 1, 70]).unwrap()).unwrap();
    let exact = reference::forward(&plain, View::new(&z, [9, 1]).unwrap(), View::new(&x, [9, 70]).unwrap()).unwrap();
    let one = reference::forward(&plain, View::row(&z[..1]), View::row(&x[..70])).unwrap();
    for context in ways(0) {
        for big in [isize::MAX, isize::MIN] {
            let w = View::strided(&w, 0, [6, 1, 70], [70, big, 1]).unwrap();
            let layer = Interaction::dense(w).unwrap().with_context(context);
            let all = View::strided(&z, 0, [9, 1], [1, big]).unwrap();
            assert_close(layer.forward(all, View::new(&x, [9, 70]).unwrap()).unwrap().as_slice(), &exact, "nine rows");
            let z = View::strided(&z, 0, [1, 1], [big, big]).unwrap();
            let x = View::strided(&x, 0, [1, 70], [big, 1]).unwrap();
            let algorithms = [Algorithm::FusedDot, Algorithm::KhatriRao, Algorithm::Stream];
            // The only one of a CUDA device is the first.
            for algorithm in algorithms.into_iter().take(if context.device() == Device::Cpu { 3 } else { 1 }) {
                let layer = layer.with_context(context.with_algorithm(algorithm));
                assert_close(layer.forward(z, x).unwrap().as_slice(), &one, "one row");
            }
            let g = View::row(&[1.0; 6]);
            let mut dw = Tensor::zeros([6, 1, 70]).unwrap();
            let wanted = Wanted { w: Some(Gradient::write(dw.view_mut())), ..Wanted::default() };
            layer.backward_into(z, x, g, wanted).unwrap();
        }
    }
}

/// Axes longer than any memory are refused; plans of the longest are made.
#[test]
fn axes_too_long() {
    let one = [1.0f32];
    let column = |len| View::strided(&one, 0, [len, 1], [0, 0]).unwrap();
    let too_large = Error::TooLarge { what: "an axis" };
    for [k, i, j] in [[usize::MAX, 1, 1], [1, usize::MAX, 1], [1, 1, usize::MAX], [1 << 41, 1, 1]] {
        assert_eq!(Interaction::cp(column(k), column(i), column(j)).unwrap_err(), too_large);
        assert_eq!(Interaction::<f32>::linear(k, i, j).unwrap_err(), too_large);
    }
    let row = |len| View::strided(&one, 0, [1, len], [0, 0]).unwrap();
    assert_eq!(Interaction::cp(row(usize::MAX), row(usize::MAX), row(usize::MAX)).unwrap_err(), too_large);
    const LONGEST: usize = 1 << 40;
    let layers = [
        Interaction::linear(LONGEST, LONGEST, LONGEST).unwrap(),
        Interaction::cp(column(LONGEST), column(LONGEST), column(LONGEST)).unwrap(),
        Interaction::cp(row(LONGEST), row(LONGEST), row(LONGEST)).unwrap(),
    ];
    for layer in layers {
        for n in [1, 5, 1000, LONGEST] {
            layer.plan(n).unwrap();
            layer.plan_shared(n, n).unwrap();
        }
        assert_eq!(layer.plan(LONGEST + 1).unwrap_err(), too_large);
        assert_eq!(layer.plan_shared(1, usize::MAX).unwrap_err(), too_large);
    }
    let x = View::strided(&one, 0, [1, 1, LONGEST], [0, 0, 0]).unwrap();
    let v = View::strided(&one, 0, [1, LONGEST], [0, 0]).unwrap();
    let layer = Interaction::linear(1, 1, LONGEST).unwrap().with_v(v).unwrap();
    let error = layer.forward_shared(View::row(&one), x).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. } | Error::OutOfMemory { .. }), "{error}");
}

/// Shared context whose few outputs do not fit one block.
#[test]
fn few_outputs_of_many_blocks() {
    for (groups, rows, j, k) in [(96, 3, 1400, 4), (96, 2, 2700, 3), (1, 3, 140_000, 4), (48, 2, 5000, 4)] {
        let mut random = Random(3);
        let (w, z): (Vec<f32>, Vec<f32>) = (random.uniform(k * 2 * j), random.uniform(groups * 2));
        let x: Vec<f32> = random.uniform(groups * rows * j);
        let layer = Interaction::dense(View::new(&w, [k, 2, j]).unwrap()).unwrap();
        let each: Vec<f32> = z.chunks(2).flat_map(|z| std::iter::repeat_n(z, rows)).flatten().copied().collect();
        let (batch, rows_of_x) = (View::new(&each, [groups * rows, 2]), View::new(&x, [groups * rows, j]));
        let exact = reference::forward(&layer, batch.unwrap(), rows_of_x.unwrap()).unwrap();
        for context in ways(groups * rows * j * k) {
            let (z, x) = (View::new(&z, [groups, 2]).unwrap(), View::new(&x, [groups, rows, j]).unwrap());
            let y = layer.with_context(context).forward_shared(z, x).unwrap();
            assert_close(y.as_slice(), &exact, &format!("{groups} {rows} {j} {k} {}", context.simd()));
        }
    }
}

/// What a call could not keep is not there: not what was kept before either.
#[test]
fn saved_of_a_failed_call() {
    let ones = [1.0f32; 20];
    let factor = |rows| View::new(&ones[..2 * rows], [rows, 2]).unwrap();
    let input = |rows| View::strided(&ones, 0, [rows, 3], [0, 1]).unwrap();
    let layer = Interaction::cp(factor(4), factor(3), factor(3)).unwrap();
    let wide = |rows| View::strided(&ones, 0, [rows, 1 << 20], [0, 0]).unwrap();
    let none = Interaction::cp(wide(0), wide(3), wide(3)).unwrap();
    let mut saved = Saved::default();
    layer.forward_saving(input(10), input(10), &mut saved).unwrap();
    let huge = 1 << 40;
    let nowhere = ViewMut::new(&mut [], [huge, 0]).unwrap();
    let error = none.forward_saving_into(input(huge), input(huge), nowhere, &mut saved).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let g = View::strided(&ones, 0, [10, 4], [0, 1]).unwrap();
    let mut dz = Tensor::zeros([10, 3]).unwrap();
    let to = Some(Gradient::write(dz.view_mut()));
    let wanted = Wanted { z: to, saved: Some(&saved), ..Wanted::default() };
    let error = layer.backward_into(input(10), input(10), g, wanted).unwrap_err();
    assert_eq!(error, Error::Shape { operand: "saved", axis: "rows", expected: 10, actual: 0 });

    // 2⁶⁴ rows are not none.
    let mut saved = Saved::default();
    layer.forward_saving(input(0), input(0), &mut saved).unwrap();
    let each = 1 << 32;
    let x = View::strided(&ones, 0, [each, each, 3], [0, 0, 1]).unwrap();
    let g = View::strided(&ones, 0, [each, each, 4], [0, 0, 1]).unwrap();
    let mut da = Tensor::zeros([4, 2]).unwrap();
    let cp = WantedFactors { a: Some(Gradient::write(da.view_mut())), ..WantedFactors::default() };
    let wanted = Wanted { cp, saved: Some(&saved), ..Wanted::default() };
    let error = layer.backward_shared_into(input(each), x, g, wanted).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

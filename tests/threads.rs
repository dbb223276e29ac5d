//! Any number of threads gives the same bits, and threads are really used.

mod common;

use common::case::{Case, Form, Operation, Options};
use common::{Cp, Dense, Random, assert_close, assert_same, levels};
use trilinear::{Algorithm, Context, Device, Element, Error, Gradient, Interaction, Tensor, View, Wanted, reference};

/// Runs `work` inside pools of 1, 2 and 3 threads.
fn in_pools(mut work: impl FnMut(usize) + Send) {
    for threads in 1..=3 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| work(threads));
    }
}

fn parallel() -> Context {
    Context::new(Device::Cpu).unwrap()
}

/// Compares all pools, limits on threads and the serial path for one layer, and asserts that as many threads as there
/// are were planned for.
fn check<T: Element>(layer: Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>, what: &str) {
    let rows = x.shape()[0];
    let serial = layer.with_context(layer.context().unwrap().with_threads(1).unwrap());
    let expected = serial.forward(z, x).unwrap();
    in_pools(|pool| {
        for limit in [None, Some(1), Some(2), Some(3), Some(100)] {
            let context =
                limit.map_or(layer.context().unwrap(), |limit| layer.context().unwrap().with_threads(limit).unwrap());
            let layer = layer.with_context(context);
            let planned = layer.plan(rows).unwrap().threads;
            assert_eq!(planned, pool.min(limit.unwrap_or(pool)), "{what}: the shape is too small for this test");
            for _ in 0..2 {
                let y = layer.forward(z, x).unwrap();
                assert_same(y.as_slice(), expected.as_slice(), &format!("{what}, pool of {pool}, at most {limit:?}"));
            }
        }
    });
}

/// Every algorithm at every level, on shapes above 1 MFLOP for each of three threads.
fn dense<T: Element>() {
    for sizes in [
        [3, 96, 80, 90],
        [4, 500, 260, 4],
        [1, 128, 128, 110],
        [1, 1600, 1300, 1],
        [33, 40, 45, 33],
        [500, 9, 31, 16],
        [200, 60, 150, 1],
    ] {
        let data = Dense::<T>::uniform(sizes, 7);
        for &level in levels() {
            let context = parallel().with_simd(level).unwrap();
            let algorithms = [None, Some(Algorithm::Stream), Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)];
            for algorithm in algorithms {
                if algorithm == Some(Algorithm::Stream) && sizes[0] > 4 {
                    continue;
                }
                let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
                let what = format!("{} {sizes:?} {level} {algorithm:?}", T::DTYPE);
                check(data.layer().with_context(context), data.z(), data.x(), &what);
                // W transposed too: other algorithms, other roles of z and x.
                let w = View::new(&data.w, [sizes[3], sizes[2], sizes[1]]).unwrap().permute([0, 2, 1]).unwrap();
                let transposed = Interaction::dense(w).unwrap().with_context(context);
                check(transposed, data.z(), data.x(), &format!("{what} transposed"));
            }
        }
    }
}

fn cp<T: Element>() {
    for [n, i, j, k, rank] in
        [[3, 400, 500, 600, 400], [50, 90, 80, 120, 120], [300, 20, 33, 17, 100], [7, 11, 13, 3000, 80]]
    {
        let data = Cp::<T>::uniform([n, i, j, k, rank], 3);
        for &level in levels() {
            for algorithm in [None, Some(Algorithm::CpBlocked)] {
                let context = parallel().with_simd(level).unwrap();
                let context = algorithm.map_or(context, |algorithm| context.with_algorithm(algorithm));
                let what = format!("{} {:?} {level} {algorithm:?}", T::DTYPE, [n, i, j, k, rank]);
                check(data.layer().with_context(context), data.rest.z(), data.rest.x(), &what);
            }
        }
    }
}

fn linear<T: Element>() {
    for sizes in [[2, 800, 900, 500], [100, 60, 90, 110]] {
        let mut data = Dense::<T>::uniform([sizes[0], 1, 1, 1], 3);
        let mut random = common::Random(5);
        let [n, i, j, k] = sizes;
        (data.u, data.v, data.b) = (random.uniform(k * i), random.uniform(k * j), random.uniform(k));
        (data.z, data.x, data.sizes) = (random.uniform(n * i), random.uniform(n * j), sizes);
        for &level in levels() {
            let layer = data.linear().with_context(parallel().with_simd(level).unwrap());
            check(layer, data.z(), data.x(), &format!("{} {sizes:?} {level}", T::DTYPE));
        }
    }
}

fn shared_and_generated<T: Element>() {
    for [g, m, i, j, k] in [[1, 300, 60, 70, 90], [40, 13, 30, 40, 25], [3, 50, 128, 100, 40]] {
        let data = Dense::<T>::uniform([g * m, i, j, k], 2);
        let z = data.z().slice(0, 0..g).unwrap();
        let x = View::new(&data.x, [g, m, j]).unwrap();
        for &level in levels() {
            let layer = data.layer().with_context(parallel().with_simd(level).unwrap());
            let serial = layer.with_context(layer.context().unwrap().with_threads(1).unwrap());
            let expected = (serial.forward_shared(z, x).unwrap(), serial.generate(z).unwrap());
            in_pools(|pool| {
                let what = format!("{} {:?} {level}, pool of {pool}", T::DTYPE, [g, m, i, j, k]);
                assert_eq!(layer.plan_shared(g, m).unwrap().threads, pool, "{what}");
                let y = layer.forward_shared(z, x).unwrap();
                assert_same(y.as_slice(), expected.0.as_slice(), &what);
                let generated = layer.generate(z).unwrap();
                assert_same(generated.weights.as_slice(), expected.1.weights.as_slice(), &what);
                assert_same(generated.bias.as_slice(), expected.1.bias.as_slice(), &what);
            });
        }
    }
}

/// The gradients of every form of a layer: of few rows and of many, of tied inputs, shared contexts and generated layers.
fn gradients<T: Element>() {
    for [n, features, k, r] in [[3, 90, 200, 300], [60, 24, 400, 60]] {
        for (form, &level) in Form::ALL.into_iter().flat_map(|form| levels().iter().map(move |level| (form, level))) {
            let case = Case::<T>::uniform(form, [n, 1, features, features, k, r], 4).tied();
            for operation in [Operation::Plain, Operation::Shared, Operation::Generate] {
                let of = |context| case.call(operation, &Options::new(context), "threads").unwrap();
                let context = parallel().with_simd(level).unwrap();
                let expected = of(context.with_threads(1).unwrap());
                in_pools(|pool| {
                    for ((part, one), (_, many)) in expected.iter().zip(of(context)) {
                        let what = format!("{part:?} {operation:?} {form:?} {n} rows {level}, pool of {pool}");
                        assert_same(&many, one, &what);
                    }
                });
            }
        }
    }
}

#[test]
fn gradients_of_every_form() {
    gradients::<f32>();
    gradients::<trilinear::bf16>();
}

/// The bits that all thread counts agree on are right, too.
/// An input's gradient alone, of W in every order of its axes and deeper than KC, so that sums run over blocks of two axes, of
/// which the threads cut one.
#[test]
fn alone() {
    let [n, i, j, k] = [9, 30, 40, 300];
    let data = Dense::<f32>::uniform([n, i, j, k], 1);
    let g: Vec<f32> = Random(2).uniform(n * k);
    let g = View::new(&g, [n, k]).unwrap();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let lengths = order.map(|axis| [k, i, j][axis]);
        let mut places = [0; 3];
        (0..3).for_each(|place| places[order[place]] = place);
        let layer = Interaction::dense(View::new(&data.w, lengths).unwrap().permute(places).unwrap()).unwrap();
        for &level in levels() {
            let of = |z: bool, threads| {
                let context = parallel().with_simd(level).unwrap().with_threads(threads).unwrap();
                let mut to = Tensor::zeros([n, if z { i } else { j }]).unwrap();
                let gradient = Some(Gradient::write(to.view_mut()));
                let wanted = if z {
                    Wanted { z: gradient, ..Wanted::default() }
                } else {
                    Wanted { x: gradient, ..Wanted::default() }
                };
                layer.with_context(context).backward_into(data.z(), data.x(), g, wanted).unwrap();
                to
            };
            for z in [true, false] {
                let expected = of(z, 1);
                in_pools(|pool| {
                    let what = format!("order {order:?}, {level}, dz {z}, {pool} threads");
                    assert_same(of(z, pool).as_slice(), expected.as_slice(), &what);
                });
            }
        }
    }
}

#[test]
fn right() {
    let data = Dense::<f32>::uniform([120, 40, 45, 33], 1);
    let exact = data.exact(&data.layer());
    let cp = Cp::<f32>::uniform([120, 40, 45, 33, 60], 1);
    let exact_cp = reference::forward(&cp.layer(), cp.rest.z(), cp.rest.x()).unwrap();
    in_pools(|pool| {
        let what = format!("pool of {pool}");
        let y = data.layer().with_context(parallel()).forward(data.z(), data.x()).unwrap();
        assert_close(y.as_slice(), &exact, &what);
        let y = cp.layer().with_context(parallel()).forward(cp.rest.z(), cp.rest.x()).unwrap();
        assert_close(y.as_slice(), &exact_cp, &what);
    });
}

/// Calls from many threads at once, of different shapes, do not disturb each other.
#[test]
fn concurrent_calls() {
    let layers: Vec<Dense<f32>> = [[1, 16, 16, 16], [40, 30, 20, 10], [3, 100, 90, 80], [300, 5, 6, 7]]
        .map(|sizes| Dense::uniform(sizes, 1))
        .into();
    let expected: Vec<_> = layers.iter().map(|data| data.layer().forward(data.z(), data.x()).unwrap()).collect();
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let (layers, expected) = (&layers, &expected);
            scope.spawn(move || {
                for call in 0..40 {
                    let index = (call + offset) % layers.len();
                    let data = &layers[index];
                    let y = data.layer().forward(data.z(), data.x()).unwrap();
                    assert_same(y.as_slice(), expected[index].as_slice(), "concurrent");
                }
            });
        }
    });
}

/// A call made inside a parallel iterator of the caller's, each of which may itself be parallel.
#[test]
fn nested_calls() {
    use rayon::prelude::*;
    let data = Dense::<f32>::uniform([64, 40, 45, 33], 1);
    let layer = data.layer().with_context(parallel());
    let expected = layer.forward(data.z(), data.x()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let all: Vec<_> = pool.install(|| (0..12).into_par_iter().map(|_| layer.forward(data.z(), data.x())).collect());
    for y in all {
        assert_same(y.unwrap().as_slice(), expected.as_slice(), "nested");
    }
}

#[test]
fn limits() {
    assert_eq!(parallel().threads(), None);
    assert_eq!(parallel().with_threads(2).unwrap().threads(), Some(2));
    assert_eq!(parallel().with_threads(0), Err(Error::Threads));
    // Too small to be worth a second thread.
    let data = Dense::<f32>::uniform([1, 16, 16, 16], 1);
    in_pools(|_| assert_eq!(data.layer().with_context(parallel()).plan(1).unwrap().threads, 1));
}

for_each_dtype!(dense, cp, linear, shared_and_generated);

//! Large and awkward shapes: axes that cross the blocks of every driver, z that is one row for all, rows of W that run
//! backwards, outputs amid a filler, more threads than tasks, calls inside of tasks of calls.

mod common;

use common::layout::{Embedded, Layout};
use common::{Cp, Dense, Random, assert_close, assert_same, contexts, for_each_way};
use rayon::prelude::*;
use trilinear::{Context, Device, Element, Interaction, SimdLevel, View, reference};

/// Rows kept apart by filler: results go to y directly, but their last strips must not stick out.
fn rows_apart<const D: usize>() -> Layout<D> {
    Layout { pad: 37, ..Layout::dense() }
}

/// [N, I, J, K]: I and J past a block of 4096 features and not a multiple of anything, K past the blocks of outputs.
const DENSE: [[usize; 4]; 12] = [
    [1, 4999, 3, 3],
    [4, 3, 4999, 2],
    [5, 4097, 3, 2],
    [33, 2, 4999, 1],
    [9, 4500, 2, 3],
    [6, 2, 4113, 13],
    [3, 2, 3, 20_000],
    [5, 3, 2, 20_000],
    [35, 1, 5, 4001],
    [5, 1, 5000, 7],
    [6, 5000, 1, 7],
    [200, 67, 65, 3],
];

/// With operands that end where their allocation does, and with NaN around them.
fn dense<T: Element>() {
    for (seed, sizes) in DENSE.into_iter().enumerate() {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::uniform(sizes, seed as u64);
        let exact = data.exact(&data.layer());
        let w = Embedded::input(&data.w, [k, i, j], Layout::padded());
        let (z, x) =
            (Embedded::input(&data.z, [n, i], Layout::padded()), Embedded::input(&data.x, [n, j], Layout::padded()));
        let around = Interaction::dense(w.view()).unwrap().with_u(data.u()).unwrap();
        let around = around.with_v(data.v()).unwrap().with_b(data.b()).unwrap();
        for (layer, z, x) in [(data.layer(), data.z(), data.x()), (around, z.view(), x.view())] {
            for_each_way(&layer, n, |layer, what| {
                let what = format!("{sizes:?} {what}");
                let mut y = Embedded::output([n, k], rows_apart());
                layer.forward_into(z, x, y.view_mut()).unwrap();
                assert_close(&y.finish(&what), &exact, &what);
            });
        }
    }
}

/// [N, I, J, K, R]: R and N past a block, I and J on both sides of KC, K past a block of outputs.
const CP: [[usize; 5]; 8] = [
    [193, 5, 7, 3, 511],
    [257, 3, 520, 1, 513],
    [400, 530, 5, 1, 65],
    [65, 3, 4, 33, 1100],
    [64, 3, 5, 65, 1025],
    [5, 4500, 4097, 2, 17],
    [6, 2, 3, 20_000, 3],
    [4, 2, 3, 5001, 1030],
];

/// Into y directly, by way of scratch because it runs backwards, and column by column.
fn cp<T: Element>() {
    for (seed, sizes) in CP.into_iter().enumerate() {
        let [n, _, _, k, _] = sizes;
        let data = Cp::<T>::uniform(sizes, seed as u64);
        let (layer, z, x) = (data.layer(), data.rest.z(), data.rest.x());
        let exact = reference::forward(&layer, z, x).unwrap();
        for (name, layout) in [
            ("apart", rows_apart()),
            ("reversed", Layout::rows_reversed()),
            ("transposed", Layout::transposed_padded()),
        ] {
            for_each_way(&layer, n, |layer, what| {
                let what = format!("{sizes:?} {name} {what}");
                let mut y = Embedded::output([n, k], layout);
                layer.forward_into(z, x, y.view_mut()).unwrap();
                assert_close(&y.finish(&what), &exact, &what);
            });
        }
    }
}

/// One row of z for all, whose zB is computed once: the bits of a batch with copies of the row, whatever the block's last
/// rows and the threads are.
fn cp_of_one_z<T: Element>() {
    for (seed, [n, i, j, k, r]) in
        [[385, 5, 6, 5, 70], [193, 4100, 9, 1, 33], [70, 3, 520, 4, 130], [13, 7, 600, 3, 65]].into_iter().enumerate()
    {
        let data = Cp::<T>::uniform([n, i, j, k, r], seed as u64);
        let row = &data.rest.z[..i];
        let copies = row.repeat(n);
        let (one, many) = (View::row(row).broadcast(0, n).unwrap(), View::new(&copies, [n, i]).unwrap());
        let x = data.rest.x();
        let exact = reference::forward(&data.layer(), many, x).unwrap();
        for context in contexts() {
            let what = format!("{:?} {} {}", [n, i, j, k, r], T::DTYPE, context.simd());
            let layer = data.layer().with_context(context);
            let y = layer.forward(one, x).unwrap();
            assert_close(y.as_slice(), &exact, &what);
            assert_same(layer.forward(many, x).unwrap().as_slice(), y.as_slice(), &what);
            let cubes = View::new(&data.rest.x, [1, n, j]).unwrap();
            assert_same(layer.forward_shared(View::row(row), cubes).unwrap().as_slice(), y.as_slice(), &what);
        }
    }
}

/// [G, M, I, J, K]: groups past a block; outputs cut though they are few, and though they are many; rows past a block.
const SHARED: [[usize; 5]; 6] = [
    [100, 2, 3, 2701, 4],
    [97, 1, 2, 1400, 3],
    [3, 530, 5, 6, 9],
    [2, 5, 3, 4999, 120],
    [1, 3, 520, 70, 33],
    [50, 3, 2, 700, 20],
];

/// Shared contexts and generated layers, with W as it is, and with rows i or outputs k that run backwards.
fn shared<T: Element>() {
    for (seed, [g, m, i, j, k]) in SHARED.into_iter().enumerate() {
        let data = Dense::<T>::uniform([g * m, i, j, k], seed as u64);
        let z = &data.z[..g * i];
        let each: Vec<T> = z.chunks(i).flat_map(|z| z.repeat(m)).collect();
        let exact = reference::forward(&data.layer(), View::new(&each, [g * m, i]).unwrap(), data.x()).unwrap();
        let (z, x) = (View::new(z, [g, i]).unwrap(), View::new(&data.x, [g, m, j]).unwrap());
        for reversed in [[false; 3], [false, true, false], [true, true, false]] {
            let w = Embedded::input(&data.w, [k, i, j], Layout { reversed, ..rows_apart() });
            let layer = Interaction::dense(w.view()).unwrap().with_u(data.u()).unwrap();
            let layer = layer.with_v(data.v()).unwrap().with_b(data.b()).unwrap();
            for context in contexts() {
                let what = format!("{:?} {reversed:?} {} {}", [g, m, i, j, k], T::DTYPE, context.simd());
                let mut y = Embedded::output([g, m, k], rows_apart());
                layer.with_context(context).forward_shared_into(z, x, y.view_mut()).unwrap();
                assert_close(&y.finish(&what), &exact, &what);
            }
        }
        for context in contexts() {
            let what = format!("generated {:?} {} {}", [g, m, i, j, k], T::DTYPE, context.simd());
            let layer = data.layer().with_context(context);
            let generated = layer.generate(z).unwrap();
            let (mut weights, mut bias) =
                (Embedded::output([g, k, j], rows_apart()), Embedded::output([g, k], rows_apart()));
            layer.generate_into(z, weights.view_mut(), bias.view_mut()).unwrap();
            assert_same(&weights.finish(&what), generated.weights.as_slice(), &what);
            assert_same(&bias.finish(&what), generated.bias.as_slice(), &what);
        }
    }
}

for_each_dtype!(dense, cp, cp_of_one_z, shared);

/// Prepared at one level, used at every other, in f16 too, whose widened copy is of no level.
#[test]
fn prepared_for_another_level() {
    fn check<T: Element>() {
        let data = Dense::<T>::uniform([37, 19, 45, 11], 5);
        let exact = data.exact(&data.layer());
        for context in contexts() {
            let prepared = data.layer().with_context(context).prepare().unwrap();
            for other in contexts() {
                let y = prepared.layer().with_context(other).forward(data.z(), data.x()).unwrap();
                assert_close(y.as_slice(), &exact, &format!("{} then {}", context.simd(), other.simd()));
            }
        }
    }
    check::<f32>();
    check::<trilinear::f16>();
    check::<trilinear::bf16>();
}

/// Calls of all drivers and types, each on more threads than it has tasks, inside of the tasks of another parallel loop:
/// a thread that waits for a call's tasks takes up other calls meanwhile, and must not lend them its scratch.
#[test]
fn calls_within_calls() {
    fn same<T: Element>(round: usize) {
        let dense = Dense::<T>::uniform([70, 33, 40, 12], 1);
        let cp = Cp::<T>::uniform([257, 9, 21, 30, 65], 2);
        let context = Context::new(Device::Cpu).unwrap().with_simd(SimdLevel::best()).unwrap();
        let (serial, all) = (context.with_threads(1).unwrap(), context.with_threads(1000).unwrap());
        let cubes = View::new(&cp.rest.x, [257, 1, 21]).unwrap();
        let results = |context: Context| {
            let (dense_layer, cp_layer) = (dense.layer().with_context(context), cp.layer().with_context(context));
            vec![
                dense_layer.forward(dense.z(), dense.x()).unwrap().into_vec(),
                dense_layer.generate(dense.z()).unwrap().weights.into_vec(),
                cp_layer.forward(cp.rest.z(), cp.rest.x()).unwrap().into_vec(),
                cp_layer.forward_shared(cp.rest.z(), cubes).unwrap().into_vec(),
                cp_layer.generate(cp.rest.z().slice(0, 0..5).unwrap()).unwrap().weights.into_vec(),
            ]
        };
        for (call, (y, expected)) in results(all).into_iter().zip(results(serial)).enumerate() {
            assert_same(&y, &expected, &format!("{} {round} {call}", T::DTYPE));
        }
    }
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            (0..24).into_par_iter().for_each(|round| match round % 4 {
                0 => same::<f32>(round),
                1 => same::<f64>(round),
                2 => same::<trilinear::f16>(round),
                _ => same::<trilinear::bf16>(round),
            });
        });
    }
}

/// Weights whose views overlap themselves: the windows of a sequence (Toeplitz and Hankel), and one stride for two axes.
#[test]
fn overlapping_weights() {
    let data = Dense::<f32>::uniform([40, 30, 530, 7], 3);
    let [_, i, j, k] = data.sizes;
    let mut random = Random(4);
    let values: Vec<f32> = random.uniform(20_000);
    for strides in [[1, 1, 1], [2, 304, 1], [530, 0, 1], [0, 17, -1], [-3, 530, 1], [1, 7, 0], [5, 1, 7]] {
        let w = View::strided(&values, 2000, [k, i, j], strides).unwrap();
        let layer = Interaction::dense(w).unwrap().with_b(data.b()).unwrap();
        for n in [1, 4, 40] {
            let (z, x) = (data.z().slice(0, 0..n).unwrap(), data.x().slice(0, 0..n).unwrap());
            let exact = reference::forward(&layer, z, x).unwrap();
            for_each_way(&layer, n, |layer, what| {
                let what = format!("{n} {strides:?} {what}");
                assert_close(layer.forward(z, x).unwrap().as_slice(), &exact, &what);
                let prepared = layer.prepare().unwrap();
                assert_close(prepared.layer().forward(z, x).unwrap().as_slice(), &exact, &format!("{what} prepared"));
            });
        }
    }
}

//! Algebra that holds for every shape, in integers and powers of two, where it holds exactly. The cases are the same in
//! every run.

mod common;

use common::{Cp, Dense, Random, assert_same, for_each_way};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use trilinear::{Interaction, Tensor, View};

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { 64 };
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(20), failure_persistence: None, ..ProptestConfig::default() }
}

/// N, I, J, K.
fn sizes() -> impl Strategy<Value = [usize; 4]> {
    let most: usize = if cfg!(miri) { 6 } else { 40 };
    (prop_oneof![1..5usize, 5..most], 1..most, 1..most, prop_oneof![1..4usize, 4..most])
        .prop_map(|(n, i, j, k)| [n, i, j, k])
}

/// a + scale·b.
fn combine(a: &[f32], scale: f32, b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + scale * b).collect()
}

fn matrix(data: &[f32], shape: [usize; 2]) -> View<'_, f32, 2> {
    View::new(data, shape).unwrap()
}

proptest! {
    #![proptest_config(config())]

    /// M(x, z₁ + s z₂) = M(x, z₁) + s M(x, z₂) for W and U, and the same in x for W and V.
    #[test]
    fn linear_in_each_input(sizes in sizes(), seed in 0..1000u64, scale in -3i8..4) {
        let [n, i, j, k] = sizes;
        let (data, other) = (Dense::<f32>::integers(sizes, seed), Dense::<f32>::integers(sizes, seed + 1000));
        let scale = f32::from(scale);
        let cp = Cp::<f32>::integers([n, i, j, k, 5], seed);
        let in_z = [data.core().with_u(data.u()).unwrap(), cp.core().with_u(data.u()).unwrap()];
        let in_x = [data.core().with_v(data.v()).unwrap(), cp.core().with_v(data.v()).unwrap()];
        for layer in in_z {
            for_each_way(&layer, n, |layer, what| {
                let y = |z: &[f32]| layer.forward(matrix(z, [n, i]), data.x()).unwrap().into_vec();
                let sum = y(&combine(&data.z, scale, &other.z));
                assert_same(&sum, &combine(&y(&data.z), scale, &y(&other.z)), what);
            });
        }
        for layer in in_x {
            for_each_way(&layer, n, |layer, what| {
                let y = |x: &[f32]| layer.forward(data.z(), matrix(x, [n, j])).unwrap().into_vec();
                let sum = y(&combine(&data.x, scale, &other.x));
                assert_same(&sum, &combine(&y(&data.x), scale, &y(&other.x)), what);
            });
        }
    }

    /// Linear in all the weights at once.
    #[test]
    fn linear_in_the_weights(sizes in sizes(), seed in 0..1000u64, scale in -3i8..4) {
        let (data, other) = (Dense::<f32>::integers(sizes, seed), Dense::<f32>::integers(sizes, seed + 1000));
        let scale = f32::from(scale);
        let mut sum = data.clone();
        sum.w = combine(&data.w, scale, &other.w);
        sum.u = combine(&data.u, scale, &other.u);
        sum.v = combine(&data.v, scale, &other.v);
        sum.b = combine(&data.b, scale, &other.b);
        for_each_way(&data.layer(), sizes[0], |way, what| {
            let y = |weights: &Dense<f32>| {
                weights.layer().with_context(way.context().unwrap()).forward(data.z(), data.x()).unwrap().into_vec()
            };
            assert_same(&y(&sum), &combine(&y(&data), scale, &y(&other)), what);
        });
    }

    /// Exchanging z and x with W transposed, and U with V, changes nothing.
    #[test]
    fn symmetric_in_the_modes(sizes in sizes(), seed in 0..1000u64) {
        let [n, i, j, k] = sizes;
        let data = Dense::<f32>::integers(sizes, seed);
        let transposed = Tensor::from_view(data.w().permute([0, 2, 1]).unwrap()).unwrap();
        let cp = Cp::<f32>::integers([n, i, j, k, 9], seed);
        let pairs = [
            (data.core(), Interaction::dense(data.w().permute([0, 2, 1]).unwrap()).unwrap()),
            (data.core(), Interaction::dense(transposed.view()).unwrap()),
            (cp.core(), Interaction::cp(cp.a(), cp.c(), cp.b()).unwrap().with_lambda(View::vector(&cp.lambda)).unwrap()),
        ];
        for (layer, swapped) in pairs {
            let layer = layer.with_u(data.u()).unwrap().with_v(data.v()).unwrap().with_b(data.b()).unwrap();
            let swapped = swapped.with_u(data.v()).unwrap().with_v(data.u()).unwrap().with_b(data.b()).unwrap();
            for_each_way(&layer, n, |way, what| {
                let y = way.forward(data.z(), data.x()).unwrap();
                let swapped = swapped.with_context(way.context().unwrap()).forward(data.x(), data.z()).unwrap();
                assert_same(swapped.as_slice(), y.as_slice(), what);
            });
        }
    }

    /// Reordering the outputs of the weights reorders y, and rows of z and x those of y.
    #[test]
    fn equivariant(sizes in sizes(), seed in 0..1000u64) {
        let [n, i, j, k] = sizes;
        let data = Dense::<f32>::integers(sizes, seed);
        let mut random = Random(seed);
        let mut shuffle = |len: usize| {
            let mut order: Vec<usize> = (0..len).collect();
            (1..len).for_each(|last| order.swap(last, random.below(last + 1)));
            order
        };
        let (outs, rows) = (shuffle(k), shuffle(n));
        let gather = |from: &[f32], order: &[usize], width: usize| -> Vec<f32> {
            order.iter().flat_map(|&index| from[index * width..][..width].to_vec()).collect()
        };
        let permuted = Dense {
            sizes,
            w: gather(&data.w, &outs, i * j),
            u: gather(&data.u, &outs, i),
            v: gather(&data.v, &outs, j),
            b: gather(&data.b, &outs, 1),
            z: gather(&data.z, &rows, i),
            x: gather(&data.x, &rows, j),
        };
        for_each_way(&data.layer(), n, |way, what| {
            let y = way.forward(data.z(), data.x()).unwrap();
            let other = permuted.layer().with_context(way.context().unwrap());
            let other = other.forward(permuted.z(), permuted.x()).unwrap();
            let expected: Vec<f32> =
                rows.iter().flat_map(|&row| outs.iter().map(move |&out| [row, out])).map(|at| y.view().get(at).unwrap()).collect();
            assert_same(other.as_slice(), &expected, what);
        });
    }

    /// Scaling an operand by a power of two scales y exactly: rounding does not see it.
    #[test]
    fn scales_by_powers_of_two(sizes in sizes(), seed in 0..1000u64, powers in prop::array::uniform3(-20i32..20)) {
        let [n, i, j, k] = sizes;
        let data = Dense::<f64>::uniform(sizes, seed);
        let mut cp = Cp::<f64>::uniform([n, i, j, k, 9], seed);
        (cp.rest.z, cp.rest.x) = (data.z.clone(), data.x.clone());
        let by = |values: &[f64], power: i32| -> Vec<f64> { values.iter().map(|v| v * 2f64.powi(power)).collect() };
        let mut scaled = data.clone();
        (scaled.w, scaled.z, scaled.x) = (by(&data.w, powers[0]), by(&data.z, powers[1]), by(&data.x, powers[2]));
        let mut scaled_cp = cp.clone();
        scaled_cp.c = by(&cp.c, powers[0]);
        for (layer, other) in [(data.core(), scaled.core()), (cp.core(), scaled_cp.core())] {
            for_each_way(&layer, n, |way, what| {
                let y = way.forward(data.z(), data.x()).unwrap();
                let other = other.with_context(way.context().unwrap()).forward(scaled.z(), scaled.x()).unwrap();
                assert_same(other.as_slice(), &by(y.as_slice(), powers.iter().sum()), what);
            });
        }
    }

    /// The batch is its rows: any split gives the same integers.
    #[test]
    fn batches_split(sizes in sizes(), seed in 0..1000u64, at in 0..40usize) {
        let [n, _, _, k] = sizes;
        let data = Dense::<f32>::integers(sizes, seed);
        let at = at.min(n);
        for_each_way(&data.layer(), n, |layer, what| {
            let whole = layer.forward(data.z(), data.x()).unwrap();
            let part = |rows: std::ops::Range<usize>| {
                layer.forward(data.z().slice(0, rows.clone()).unwrap(), data.x().slice(0, rows).unwrap()).unwrap()
            };
            let parts = [part(0..at).into_vec(), part(at..n).into_vec()].concat();
            assert_eq!(parts.len(), n * k);
            assert_same(&parts, whole.as_slice(), what);
        });
    }
}

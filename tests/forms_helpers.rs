//! Mahalanobis distances, attention and initialisation; and what blocks refuse.

mod common;

use common::layout::{Embedded, Layout};
use common::{Random, assert_close, contexts, place, ways};
use proptest::prelude::*;
use trilinear::reference::{self, Reference};
use trilinear::{
    Algorithm, Block, Context, Device, Element, Error, Gradient, Interaction, Mahalanobis, Precision, Tensor, View,
    Wanted, WantedBlock, WantedMetric, init,
};

/// Distances and their gradients under every kind of metric, in some layout.
fn check_metric<T: Element>([n, i, r]: [usize; 3], layout: usize, seed: u64) {
    let mut random = Random(seed);
    fn lay<T: Element, const D: usize>(random: &mut Random, shape: [usize; D], layout: usize) -> Embedded<T, D> {
        let values = random.uniform::<T>(shape.iter().product());
        Embedded::input(&values, shape, Layout::all()[layout].1)
    }
    let (z, x) = (lay::<T, 2>(&mut random, [n, i], layout), lay::<T, 2>(&mut random, [n, i], layout));
    let (full, factor) = (lay::<T, 2>(&mut random, [i, i], layout), lay::<T, 2>(&mut random, [i, r], layout));
    let (diagonal, g) = (lay::<T, 1>(&mut random, [i], layout), lay::<T, 1>(&mut random, [n], layout));
    let metrics =
        [Precision::Full(full.view()), Precision::Factor(factor.view()), Precision::Diagonal(diagonal.view())];
    for precision in metrics {
        let metric = Mahalanobis::new(precision).unwrap();
        let exact = reference::distances(&metric, z.view(), x.view()).unwrap();
        let back = reference::distances_backward(&metric, z.view(), x.view(), g.view()).unwrap();
        for context in contexts() {
            let what = format!("{precision:?} {n} {} {}", T::DTYPE, place(&context));
            let metric = metric.with_context(context);
            let mut y = Embedded::<T, 1>::output([n], Layout::all()[layout].1);
            metric.squared_into(z.view(), x.view(), y.view_mut()).unwrap();
            assert_close(&y.finish(&what), &exact, &what);
            for add in [false, true] {
                let shape = if let Precision::Factor(_) = precision { [i, r] } else { [i, i] };
                let start = if add { 3.0 } else { f64::NAN };
                let filled = |len: usize| vec![T::Accumulator::from_f64(start); len];
                fn to<A: Element, const D: usize>(values: &[A], shape: [usize; D], layout: usize) -> Embedded<A, D> {
                    Embedded::new(values, shape, Layout::all()[layout].1, A::from_f64(77.0))
                }
                let [mut dz, mut dx] = [(); 2].map(|()| to(&filled(n * i), [n, i], layout));
                let mut matrix = to(&filled(shape[0] * shape[1]), shape, layout);
                let mut of_diagonal = to(&filled(i), [i], layout);
                let is_diagonal = matches!(precision, Precision::Diagonal(_));
                fn gradient<A: Element, const D: usize>(to: &mut Embedded<A, D>, add: bool) -> Gradient<'_, A, D> {
                    if add { Gradient::add(to.view_mut()) } else { Gradient::write(to.view_mut()) }
                }
                let wanted = WantedMetric {
                    z: Some(gradient(&mut dz, add)),
                    x: Some(gradient(&mut dx, add)),
                    matrix: (!is_diagonal).then(|| gradient(&mut matrix, add)),
                    diagonal: is_diagonal.then(|| gradient(&mut of_diagonal, add)),
                };
                metric.backward_into(z.view(), x.view(), g.view(), wanted).unwrap();
                let plus = |exact: &Reference| match add {
                    true => {
                        let there = filled(exact.value.as_slice().len());
                        exact.plus(&Reference::given(&there, exact.value.shape()).unwrap()).unwrap()
                    }
                    false => exact.clone(),
                };
                assert_close(&dz.finish(&what), &plus(&back.z), &format!("dz {what}"));
                assert_close(&dx.finish(&what), &plus(&back.x), &format!("dx {what}"));
                let own = if is_diagonal { of_diagonal.finish(&what) } else { matrix.finish(&what) };
                assert_close(&own, &plus(&back.precision), &format!("dprecision {what}"));
            }
        }
    }
}

fn metrics<T: Element>() {
    for (index, sizes) in [[1, 1, 1], [5, 7, 3], [70, 17, 20], [3, 40, 2]].into_iter().enumerate() {
        check_metric::<T>(sizes, (3 * index) % 8, index as u64);
        check_metric::<T>(sizes, 0, index as u64);
    }
}

/// m⊙x and its gradients, of dense layers and of blocks.
fn attention<T: Element>() {
    let [n, i, j] = [9, 5, 18];
    let mut random = Random(3);
    let (w, b, z) = (random.uniform::<T>(j * i * j), random.uniform::<T>(i * j), random.uniform::<T>(n * i));
    let (v, x, g) = (random.uniform::<T>(j * j), random.uniform::<T>(n * j), random.uniform::<T>(n * j));
    let blocks = [Block::identity(j).with_b(View::new(&b, [i, j]).unwrap()).unwrap()];
    let v = View::new(&v, [j, j]).unwrap();
    let dense = Interaction::dense(View::new(&w, [j, i, j]).unwrap()).unwrap().with_v(v).unwrap();
    for layer in [dense, Interaction::blocks(&blocks).unwrap().with_v(v).unwrap()] {
        let (z, x) = (View::new(&z, [n, i]).unwrap(), View::new(&x, [n, j]).unwrap());
        let g = View::new(&g, [n, j]).unwrap();
        let m = reference::forward(&layer, z, x).unwrap();
        let times = |m: &Tensor<f64, 2>, by: View<'_, T, 2>, size: bool| {
            let values = m.as_slice().iter().enumerate().map(|(at, m)| {
                let by = by.get([at / j, at % j]).unwrap().to_f64();
                m * if size { by.abs() } else { by }
            });
            Tensor::from_vec(values.collect(), [n, j]).unwrap()
        };
        let product = |by: View<'_, T, 2>| Reference {
            value: times(&m.value, by, false),
            magnitude: times(&m.magnitude, by, true),
            depth: m.depth + 1,
        };
        for context in ways(0) {
            let layer = layer.with_context(context);
            let y = layer.attend(z, x).unwrap();
            assert_close(y.as_slice(), &product(x), &format!("attention {} {}", T::DTYPE, place(&context)));
            let found = layer.attend_backward(z, x, g).unwrap();
            // dm as it is stored.
            let dm: Vec<T> = (0..n * j)
                .map(|at| {
                    let [g, x] = [g, x].map(|view| view.get([at / j, at % j]).unwrap().to_f64());
                    T::from_f64((T::Accumulator::from_f64(g * x)).to_f64())
                })
                .collect();
            let exact = reference::backward(&layer, z, x, View::new(&dm, [n, j]).unwrap()).unwrap();
            assert_close(found.z.as_slice(), &exact.z, "dz of attention");
            assert_close(found.x.as_slice(), &exact.x.plus(&product(g)).unwrap(), "dx of attention");
            assert_close(found.v.unwrap().as_slice(), &exact.v, "dv of attention");
            let mut dx = Tensor::<T::Accumulator, 2>::zeros([n, j]).unwrap();
            let wanted = Wanted { x: Some(Gradient::write(dx.view_mut())), ..Wanted::default() };
            layer.attend_backward_into(z, x, g, wanted).unwrap();
            assert_close(dx.as_slice(), &exact.x.plus(&product(g)).unwrap(), "dx of attention alone");
        }
    }
}

for_each_dtype!(metrics, attention);

/// Outputs of layers as `deviations` says have variance 1: of 2000 rows and K outputs, within five standard errors of the estimate,
/// whose kurtosis is generously taken as that of a product of four normal numbers.
#[test]
fn outputs_have_variance_one() {
    let [n, i, j, k, r] = [2000, 24, 60, 50, 30];
    let fill = |seed: u64, deviation: Option<f64>, len: usize| {
        let mut values = vec![0.0f64; len];
        init::normal(seed, deviation.unwrap_or(f64::NAN), &mut values);
        values
    };
    for swap in [false, true] {
        let [i, j] = if swap { [j, i] } else { [i, j] };
        let zeros = vec![0.0f64; k * i * j];
        let view = |shape: [usize; 2]| View::new(&zeros[..shape[0] * shape[1]], shape).unwrap();
        let cube = |shape: [usize; 3]| View::new(&zeros[..shape.iter().product()], shape).unwrap();
        let check = |name: &str, layer: &dyn Fn(u64) -> f64| {
            let draws = 8;
            let variance = (0..draws).map(layer).sum::<f64>() / f64::from(draws as u32);
            assert!((variance - 1.0).abs() < 0.12, "{name}, I = {i}, J = {j}: {variance}");
        };
        let variance = |layer: Interaction<'_, f64>, seed: u64| {
            let (z, x) = (fill(seed + 1000, Some(1.0), n * i), fill(seed + 2000, Some(1.0), n * j));
            let y = layer.forward(View::new(&z, [n, i]).unwrap(), View::new(&x, [n, j]).unwrap()).unwrap();
            y.as_slice().iter().map(|y| y * y).sum::<f64>() / y.as_slice().len() as f64
        };
        check("dense", &|seed| {
            let layer = Interaction::dense(cube([k, i, j])).unwrap();
            let w = fill(seed, layer.deviations().w, k * i * j);
            variance(Interaction::dense(View::new(&w, [k, i, j]).unwrap()).unwrap(), seed)
        });
        check("dense with U and V", &|seed| {
            let shape = Interaction::dense(cube([k, i, j])).unwrap().with_u(view([k, i])).unwrap();
            let of = shape.with_v(view([k, j])).unwrap().deviations();
            let (w, u, v) = (fill(seed, of.w, k * i * j), fill(seed + 50, of.u, k * i), fill(seed + 60, of.v, k * j));
            let layer = Interaction::dense(View::new(&w, [k, i, j]).unwrap()).unwrap();
            let layer = layer.with_u(View::new(&u, [k, i]).unwrap()).unwrap();
            variance(layer.with_v(View::new(&v, [k, j]).unwrap()).unwrap(), seed)
        });
        check("CP", &|seed| {
            let of = Interaction::cp(view([k, r]), view([i, r]), view([j, r])).unwrap().deviations().cp.unwrap();
            let [a, b, c] =
                [(0, k), (1, i), (2, j)].map(|(at, len)| fill(seed + 70 * at, Some(of[at as usize]), len * r));
            let [a, b, c] = [(&a, k), (&b, i), (&c, j)].map(|(values, len)| View::new(values, [len, r]).unwrap());
            variance(Interaction::cp(a, b, c).unwrap(), seed)
        });
        check("two Tucker blocks", &|seed| {
            let [ra, rb, rc] = [20, 12, 16];
            let block = |g, a, b, c| Block::tucker(g).with_a(a).unwrap().with_b(b).unwrap().with_c(c).unwrap();
            let shape = block(cube([ra, rb, rc]), view([k, ra]), view([i, rb]), view([j, rc]));
            let shapes = [shape; 2];
            let of = Interaction::blocks(&shapes).unwrap().deviations().blocks;
            let operands = [0, 1].map(|at: u64| {
                let (of, seed) = (of[at as usize], 10 * seed + 500 * at);
                let (a, b, c) = (fill(seed, of.a, k * ra), fill(seed + 1, of.b, i * rb), fill(seed + 2, of.c, j * rc));
                [fill(seed + 3, of.core, ra * rb * rc), a, b, c]
            });
            let blocks = operands.each_ref().map(|[g, a, b, c]| {
                let (a, b) = (View::new(a, [k, ra]).unwrap(), View::new(b, [i, rb]).unwrap());
                block(View::new(g, [ra, rb, rc]).unwrap(), a, b, View::new(c, [j, rc]).unwrap())
            });
            variance(Interaction::blocks(&blocks).unwrap(), seed)
        });
        check("generated gate", &|seed| {
            let shapes = [Block::identity(j).with_b(view([i, j])).unwrap()];
            let of = Interaction::blocks(&shapes).unwrap().deviations().blocks[0];
            let b = fill(seed, of.b, i * j);
            let blocks = [Block::identity(j).with_b(View::new(&b, [i, j]).unwrap()).unwrap()];
            variance(Interaction::blocks(&blocks).unwrap(), seed)
        });
        check("metric", &|seed| {
            let one = |a, b, c| Block::identity(r).with_a(a).unwrap().with_b(b).unwrap().with_c(c).unwrap();
            let shapes = [one(view([k, 1]), view([i, r]), view([j, r]))];
            let of = Interaction::blocks(&shapes).unwrap().deviations().blocks[0];
            let (a, b, c) = (fill(seed, of.a, k), fill(seed + 1, of.b, i * r), fill(seed + 2, of.c, j * r));
            let (a, b) = (View::new(&a, [k, 1]).unwrap(), View::new(&b, [i, r]).unwrap());
            let blocks = [one(a, b, View::new(&c, [j, r]).unwrap())];
            variance(Interaction::blocks(&blocks).unwrap(), 31 * seed)
        });
    }
}

#[test]
fn normal_numbers_are_normal() {
    let mut values = vec![0.0f64; 100_001];
    init::normal(9, 2.0, &mut values);
    let moment = |power: i32| values.iter().map(|value| (value / 2.0).powi(power)).sum::<f64>() / values.len() as f64;
    // Five standard errors: √(2k moment / n).
    for (power, expected, error) in
        [(1, 0.0, 1.0), (2, 1.0, 2.0f64.sqrt()), (3, 0.0, 15.0f64.sqrt()), (4, 3.0, 96.0f64.sqrt())]
    {
        let bound = 5.0 * error / (values.len() as f64).sqrt();
        assert!((moment(power) - expected).abs() < bound, "moment {power}: {}", moment(power));
    }
    let mut other = vec![0.0f64; 10];
    init::normal(10, 2.0, &mut other);
    assert_ne!(values[..10], other[..]);
}

#[test]
fn wrong_blocks_are_refused() {
    let data = [0.5f32; 64];
    let matrix = |shape: [usize; 2]| View::new(&data[..shape[0] * shape[1]], shape).unwrap();
    let core = View::new(&data[..24], [2, 3, 4]).unwrap();
    let shape = |operand, axis, expected, actual| Error::Shape { operand, axis, expected, actual };
    assert_eq!(Block::tucker(core).with_a(matrix([5, 3])).unwrap_err(), shape("a", "rank", 2, 3));
    assert_eq!(Block::tucker(core).with_b(matrix([5, 1])).unwrap_err(), shape("b of block", "rank", 3, 1));
    assert_eq!(Block::<f32>::identity(4).with_c(matrix([5, 3])).unwrap_err(), shape("c", "rank", 4, 3));
    assert_eq!(Interaction::<f32>::blocks(&[]).unwrap_err(), shape("blocks", "blocks", 1, 0));
    let different = [Block::tucker(core), Block::identity(2)];
    assert_eq!(Interaction::blocks(&different).unwrap_err(), shape("blocks", "z features", 3, 2));
    let gate = [Block::<f32>::identity(4)];
    let layer = Interaction::blocks(&gate).unwrap();
    assert!(matches!(layer.prepare(), Err(Error::Unsupported { .. })));
    let forced = layer.with_context(Context::new(Device::Cpu).unwrap().with_algorithm(Algorithm::FusedDot));
    assert!(matches!(forced.forward(matrix([2, 4]), matrix([2, 4])), Err(Error::Algorithm { .. })));
    assert_eq!(layer.plan(10).unwrap().algorithm, Algorithm::Blocks);
    let mut to = [0.0f32; 3];
    let mut blocks = [WantedBlock {
        diagonal: Some(Gradient::write(trilinear::ViewMut::strided(&mut to, 0, [3], [1]).unwrap())),
        ..WantedBlock::default()
    }];
    let wanted = Wanted { blocks: &mut blocks, ..Wanted::default() };
    let error = layer.backward_into(matrix([2, 4]), matrix([2, 4]), matrix([2, 4]), wanted).unwrap_err();
    assert_eq!(error, shape("ddiagonal", "rank", 4, 3));
    assert_eq!(Mahalanobis::new(Precision::Full(matrix([2, 3]))).unwrap_err(), shape("precision", "features", 2, 3));
    let dense = Interaction::dense(core).unwrap();
    assert!(dense.attend(matrix([1, 3]), matrix([1, 4])).is_err());
}

/// Sums of nothing are zeros, written whatever was there.
#[test]
fn empty_axes_give_zeros() {
    let nothing: [f32; 0] = [];
    let (z, x) = ([1.0f32; 6], [1.0f32; 6]);
    let empty = View::new(&nothing, [3, 0]).unwrap();
    let blocks = [Block::identity(3), Block::tucker(View::new(&nothing, [0, 3, 3]).unwrap()).with_a(empty).unwrap()];
    for blocks in [&blocks[..], &blocks[1..]] {
        let layer = Interaction::blocks(blocks).unwrap();
        let expected = if blocks.len() == 2 { 1.0 } else { 0.0 };
        let (z, x) = (View::new(&z, [2, 3]).unwrap(), View::new(&x, [2, 3]).unwrap());
        let y = layer.forward(z, x).unwrap();
        assert!(y.as_slice().iter().all(|&y| y == expected), "{y:?}");
        let gradients = layer.backward(z, x, x).unwrap();
        assert!(gradients.z.as_slice().iter().all(|&dz| dz == expected), "{gradients:?}");
        assert_eq!(gradients.blocks.len(), blocks.len());
        assert!(layer.to_dense().unwrap().shape() == [3; 3]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// The adjoint identities ⟨g, ẏ⟩ = ⟨dz, ż⟩ and so on, each exact in the operand: y is linear in every one of them.
    #[test]
    fn gradients_are_adjoint(
        sizes in (1usize..9, 1usize..7, 1usize..7, 1usize..7),
        ranks in (1usize..5, 1usize..5, 1usize..5),
        seed in any::<u64>(),
    ) {
        let ((n, i, j, k), (ra, rb, rc)) = (sizes, ranks);
        let mut random = Random(seed);
        let mut draw = |len: usize| random.uniform::<f64>(len);
        let operands = [draw(ra * rb * rc), draw(k * ra), draw(i * rb), draw(j * rc)];
        let moved = [draw(ra * rb * rc), draw(k * ra), draw(i * rb), draw(j * rc)];
        let (z, x, g, dz, dx) = (draw(n * i), draw(n * j), draw(n * k), draw(n * i), draw(n * j));
        let y = |[core, a, b, c]: [&Vec<f64>; 4], z: &Vec<f64>, x: &Vec<f64>| {
            let block = Block::tucker(View::new(core, [ra, rb, rc]).unwrap());
            let block = block.with_a(View::new(a, [k, ra]).unwrap()).unwrap();
            let block = block.with_b(View::new(b, [i, rb]).unwrap()).unwrap();
            let blocks = [block.with_c(View::new(c, [j, rc]).unwrap()).unwrap()];
            let (z, x) = (View::new(z, [n, i]).unwrap(), View::new(x, [n, j]).unwrap());
            let layer = Interaction::blocks(&blocks).unwrap();
            let gradients = layer.backward(z, x, View::new(&g, [n, k]).unwrap()).unwrap();
            (layer.forward(z, x).unwrap().into_vec(), gradients)
        };
        let all = operands.each_ref();
        let (_, mut gradients) = y(all, &z, &x);
        let of_block = gradients.blocks.remove(0);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let found = [
            of_block.core.unwrap().into_vec(),
            of_block.a.unwrap().into_vec(),
            of_block.b.unwrap().into_vec(),
            of_block.c.unwrap().into_vec(),
        ];
        for at in 0..4 {
            let mut with = all;
            with[at] = &moved[at];
            let (left, right) = (dot(&g, &y(with, &z, &x).0), dot(&found[at], &moved[at]));
            prop_assert!((left - right).abs() < 1e-11 * (1.0 + left.abs()), "{at}: {left} {right}");
        }
        let (left, right) = (dot(&g, &y(all, &dz, &x).0), dot(gradients.z.as_slice(), &dz));
        prop_assert!((left - right).abs() < 1e-11 * (1.0 + left.abs()), "dz: {left} {right}");
        let (left, right) = (dot(&g, &y(all, &z, &dx).0), dot(gradients.x.as_slice(), &dx));
        prop_assert!((left - right).abs() < 1e-11 * (1.0 + left.abs()), "dx: {left} {right}");
    }
}

#[test]
fn blocks_without_elements_are_written_as_zeros() {
    let context = Context::new(Device::Cpu).unwrap();
    let (core, a) = ([0f32; 0], [0f32; 0]);
    let empty = Block::tucker(View::new(&core, [0, 3, 3]).unwrap()).with_a(View::new(&a, [3, 0]).unwrap()).unwrap();
    let blocks = [empty];
    let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
    let ones = [1f32; 6];
    let inputs = View::new(&ones, [2, 3]).unwrap();
    let mut y = [f32::NAN; 6];
    layer.forward_into(inputs, inputs, trilinear::ViewMut::new(&mut y, [2, 3]).unwrap()).unwrap();
    assert_eq!(y, [0.0; 6]);
    let mut y = [f32::NAN; 6];
    layer.attend_into(inputs, inputs, trilinear::ViewMut::new(&mut y, [2, 3]).unwrap()).unwrap();
    assert_eq!(y, [0.0; 6]);
    let layers = [layer, layer];
    let grouped = trilinear::Grouped::new(&layers).unwrap();
    let mut y = [f32::NAN; 6];
    grouped.forward_into(&[1, 0], inputs, inputs, trilinear::ViewMut::new(&mut y, [2, 3]).unwrap()).unwrap();
    assert_eq!(y, [0.0; 6]);
}

/// Sums across vectors meet nothing that an earlier call left in scratch.
#[test]
fn weighted_inner_products_after_nan() {
    let one = [1f32];
    let a = View::new(&one, [1, 1]).unwrap();
    for context in ways(0) {
        let nan = [f32::NAN; 64];
        let large = [Block::diagonal(View::vector(&nan)).with_a(a).unwrap()];
        let row = View::row(&nan);
        Interaction::blocks(&large).unwrap().with_context(context).forward(row, row).unwrap();
        let d = [1f32, 2.0, 3.0, 4.0, 5.0];
        let small = [Block::diagonal(View::vector(&d)).with_a(a).unwrap()];
        let (z, x) = ([1f32; 5], [2f32; 5]);
        let y =
            Interaction::blocks(&small).unwrap().with_context(context).forward(View::row(&z), View::row(&x)).unwrap();
        assert_eq!(y.as_slice(), [30.0], "{}", place(&context));
    }
}

#[test]
fn plans_of_nothing_and_forced_blocks() {
    let core = [1f32; 8];
    let blocks = [Block::tucker(View::new(&core, [2, 2, 2]).unwrap())];
    let context = Context::new(Device::Cpu).unwrap();
    let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
    layer.plan_shared(4, 0).unwrap();
    layer.plan_shared(0, 4).unwrap();
    let layer = layer.with_context(context.with_algorithm(Algorithm::Blocks));
    let row = View::row(&[1f32, 1.0]);
    assert_eq!(layer.forward(row, row).unwrap().as_slice(), [4.0, 4.0]);
}

#[test]
fn metrics_of_too_many_columns_are_refused() {
    let one = [1f32];
    let factor = View::strided(&one, 0, [1, 1 << 63], [0, 0]).unwrap();
    assert!(matches!(Mahalanobis::new(Precision::Factor(factor)), Err(Error::TooLarge { .. })));
}

//! Calls of many blocks (blocks.rs, whose blocks are small in these tests) give what the processor gives.

use crate::{
    Block, Context, Device, Gradient, Grouped, Interaction, Reduction, Saved, Tangents, Tensor, View, Wanted,
    WantedFactors,
};

#[path = "../../tests/common/cuda.rs"]
#[allow(dead_code, unreachable_pub, reason = "of what the integration tests share")]
mod device;

/// Small integers, whose sums are exact in any order.
fn integers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 7 + seed * 5 + index / 11) % 5) as f32 - 2.0).collect()
}

/// Groups, rows of each, I, J, K, R: with 4 KiB a block, and 16 components 64 bytes a row (backward four times that).
const SIZES: [[usize; 6]; 3] = [[30, 1, 3, 4, 5, 9], [7, 20, 3, 4, 5, 9], [2, 150, 3, 4, 5, 17]];

/// All results of all operations.
fn results(context: Context, sizes: [usize; 6], cp: bool) -> Vec<Vec<f32>> {
    let [groups, each, i, j, k, r] = sizes;
    let n = groups * each;
    let data: Vec<Vec<f32>> = [k * r, i * r, j * r, r, k * i, k * j, k, n * i, n * j, n * k, k * i * j, groups * k * j]
        .into_iter()
        .enumerate()
        .map(|(seed, len)| integers(seed, len))
        .collect();
    let view = |of: usize, shape: [usize; 2]| View::new(&data[of][..shape[0] * shape[1]], shape).unwrap();
    let cube = |of: usize, shape: [usize; 3]| View::new(&data[of], shape).unwrap();
    let core = if cp {
        let factors = Interaction::cp(view(0, [k, r]), view(1, [i, r]), view(2, [j, r])).unwrap();
        factors.with_lambda(View::vector(&data[3])).unwrap()
    } else {
        Interaction::dense(cube(10, [k, i, j])).unwrap()
    };
    let layer = core.with_u(view(4, [k, i])).unwrap().with_v(view(5, [k, j])).unwrap();
    let layer = layer.with_b(View::vector(&data[6])).unwrap().with_context(context);
    let (z, x, g) = (view(7, [n, i]), view(8, [n, j]), view(9, [n, k]));
    let (shared_z, shared_x, shared_g) = (view(7, [groups, i]), cube(8, [groups, each, j]), cube(9, [groups, each, k]));
    let mut results = Vec::new();
    let mut saved = Saved::default();
    results.push(layer.forward_saving(z, x, &mut saved).unwrap().into_vec());
    results.push(layer.forward_shared(shared_z, shared_x).unwrap().into_vec());
    let generated = layer.generate(shared_z).unwrap();
    results.extend([generated.weights.into_vec(), generated.bias.into_vec()]);
    let tangents = Tangents { z: Some(z), x: Some(x), ..Tangents::default() };
    results.push(layer.tangent(z, x, &tangents).unwrap().into_vec());
    let mut keep = |gradients: crate::Gradients<f32, 2>| {
        let crate::Gradients { z, x, w, u, v, b, cp, .. } = gradients;
        results.extend([z.into_vec(), x.into_vec()]);
        results.extend([u, v].into_iter().flatten().map(Tensor::into_vec));
        results.extend(w.map(Tensor::into_vec).into_iter().chain(b.map(Tensor::into_vec)));
        if let Some(cp) = cp {
            results.extend([cp.a, cp.b, cp.c].map(Tensor::into_vec));
            results.extend(cp.lambda.map(Tensor::into_vec));
        }
    };
    keep(layer.backward(z, x, g).unwrap());
    keep(layer.backward_generate(shared_z, cube(11, [groups, k, j]), view(9, [groups, k])).unwrap());
    let shared = layer.backward_shared(shared_z, shared_x, shared_g).unwrap();
    keep(crate::Gradients { x: Tensor::zeros([0, 0]).unwrap(), ..flat(&shared) });
    results.push(shared.x.into_vec());
    // Some of them, of what was saved, added to what is there.
    let mut sums = [integers(20, n * i), integers(21, k * i * j), integers(22, j * r)];
    let [dz, dw, dc] = &mut sums;
    let add = |to, shape| Some(Gradient::add(crate::ViewMut::new(to, shape).unwrap()));
    let factors = WantedFactors { c: if cp { add(dc, [j, r]) } else { None }, ..WantedFactors::default() };
    let w = Some(Gradient::add(crate::ViewMut::new(dw, [k, i, j]).unwrap()));
    let wanted = Wanted { z: add(dz, [n, i]), w, cp: factors, saved: Some(&saved), ..Wanted::default() };
    layer.backward_into(z, x, g, wanted).unwrap();
    results.extend(sums);
    results
}

/// Problems, rows of z and of x of each, I, J, K, R: with 4 KiB a block, blocks of problems, and of rows of one, on either side.
const PAIRS: [[usize; 7]; 4] =
    [[9, 3, 4, 3, 4, 5, 9], [2, 40, 7, 3, 4, 5, 17], [2, 7, 40, 4, 3, 5, 17], [1, 30, 50, 2, 3, 4, 20]];

fn results_of_pairs(context: Context, [p, s, t, i, j, k, r]: [usize; 7], cp: bool) -> Vec<Vec<f32>> {
    let data: Vec<Vec<f32>> = [k * r, i * r, j * r, r, k * i, k * j, k, p * s * i, p * t * j, p * s * t * k, k * i * j]
        .into_iter()
        .enumerate()
        .map(|(seed, len)| integers(seed, len))
        .collect();
    let view = |of: usize, shape: [usize; 2]| View::new(&data[of], shape).unwrap();
    let cube = |of: usize, shape: [usize; 3]| View::new(&data[of][..shape.iter().product()], shape).unwrap();
    let core = if cp {
        let factors = Interaction::cp(view(0, [k, r]), view(1, [i, r]), view(2, [j, r])).unwrap();
        factors.with_lambda(View::vector(&data[3])).unwrap()
    } else {
        Interaction::dense(cube(10, [k, i, j])).unwrap()
    };
    let core = core.with_b(View::vector(&data[6])).unwrap().with_context(context);
    let layer = core.with_u(view(4, [k, i])).unwrap().with_v(view(5, [k, j])).unwrap();
    let (z, x, g) = (cube(7, [p, s, i]), cube(8, [p, t, j]), View::new(&data[9], [p, s, t, k]).unwrap());
    let linear = Interaction::linear(k, i, j).unwrap().with_u(view(4, [k, i])).unwrap();
    let linear = linear.with_v(view(5, [k, j])).unwrap().with_b(View::vector(&data[6])).unwrap().with_context(context);
    let mut results =
        vec![layer.forward_pairs(z, x).unwrap().into_vec(), linear.forward_pairs(z, x).unwrap().into_vec()];
    let mut keep = |gradients: crate::Gradients<f32, 3, 3>| {
        let crate::Gradients { z, x, w, u, v, b, cp, .. } = gradients;
        results.extend([z.into_vec(), x.into_vec()]);
        results.extend([u, v].into_iter().flatten().map(Tensor::into_vec));
        results.extend(w.map(Tensor::into_vec).into_iter().chain(b.map(Tensor::into_vec)));
        if let Some(cp) = cp {
            results.extend([cp.a, cp.b, cp.c].map(Tensor::into_vec));
            results.extend(cp.lambda.map(Tensor::into_vec));
        }
    };
    keep(layer.backward_pairs(z, x, g).unwrap());
    keep(linear.backward_pairs(z, x, g).unwrap());
    keep(core.backward_pairs_reduced(z, x, Reduction::Sum, cube(9, [s, t, k])).unwrap());
    results.push(core.forward_pairs_reduced(z, x, Reduction::Sum).unwrap().into_vec());
    results
}

/// The device's results are the processor's, bit for bit.
fn agrees_with_the_host<S: Copy + std::fmt::Debug, const N: usize>(
    all: [S; N],
    results: impl Fn(Context, S, bool) -> Vec<Vec<f32>>,
) {
    let Some(context) = device::cuda() else { return };
    let host = Context::new(Device::Cpu).unwrap();
    for sizes in all {
        for cp in [true, false] {
            let (ours, expected) = (results(context, sizes, cp), results(host, sizes, cp));
            assert_eq!(ours.len(), expected.len());
            for (index, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                assert_eq!(ours, expected, "{sizes:?} cp {cp}: result {index}");
            }
        }
    }
}

#[test]
fn many_blocks_of_pairs() {
    agrees_with_the_host(PAIRS, results_of_pairs);
}

/// Sums over so many problems that these are cut, of either type of result.
#[test]
fn problems_in_blocks() {
    fn check<T: crate::Element>(context: Context) {
        let [m, s, t, i, j, k] = [150, 2, 3, 2, 9, 1];
        let values = |seed, len| integers(seed, len).into_iter().map(|v| T::from_f64(v.into())).collect::<Vec<T>>();
        let (w, b, z, x) = (values(1, k * i * j), values(2, k), values(3, m * s * i), values(4, m * t * j));
        let (z, x) = (View::new(&z, [m, s, i]).unwrap(), View::new(&x, [m, t, j]).unwrap());
        let layer = Interaction::dense(View::new(&w, [k, i, j]).unwrap()).unwrap().with_b(View::vector(&b)).unwrap();
        let (a, of_b, c) = (values(5, k * 8), values(6, i * 8), values(7, j * 8));
        let factor = |values, rows| View::new(values, [rows, 8]).unwrap();
        let cp = Interaction::cp(factor(&a, k), factor(&of_b, i), factor(&c, j)).unwrap();
        for layer in [layer, cp] {
            let of = |context| layer.with_context(context).forward_pairs_reduced(z, x, Reduction::Sum).unwrap();
            assert_eq!(of(context).as_slice(), of(Context::new(Device::Cpu).unwrap()).as_slice());
        }
    }
    let Some(context) = device::cuda() else { return };
    check::<f32>(context);
    check::<crate::bf16>(context);
}

/// Layers whose rows are in several blocks.
#[test]
fn many_blocks_of_layers() {
    let Some(context) = device::cuda() else { return };
    let ([i, j, k], n) = ([3, 4, 2], 200);
    let data: Vec<Vec<f32>> =
        [3 * k * i * j, n * i, n * j, n * k].into_iter().enumerate().map(|(seed, len)| integers(seed, len)).collect();
    let index: Vec<usize> = (0..n).map(|row| row * 7 % 11 % 4 % 3).collect();
    let view = |of: usize, columns: usize| View::new(&data[of], [n, columns]).unwrap();
    let (z, x, g) = (view(1, i), view(2, j), view(3, k));
    let of = |context| {
        let layers = Grouped::layers(View::new(&data[0], [3, k, i, j]).unwrap()).unwrap();
        let layers: Vec<_> = layers.into_iter().map(|layer| layer.with_context(context)).collect();
        let grouped = Grouped::new(&layers).unwrap();
        (grouped.forward(&index, z, x).unwrap(), grouped.backward(&index, z, x, g).unwrap())
    };
    let (ours, expected) = (of(context), of(Context::new(Device::Cpu).unwrap()));
    assert_eq!(ours.0, expected.0);
    assert_eq!((ours.1.z, ours.1.x), (expected.1.z, expected.1.x));
    for (ours, expected) in ours.1.layers.into_iter().zip(expected.1.layers) {
        assert_eq!(ours.w, expected.w);
    }
}

fn flat(of: &crate::Gradients<f32, 3>) -> crate::Gradients<f32, 2> {
    let crate::Gradients { z, w, u, v, b, cp, .. } = of.clone();
    crate::Gradients { z, x: Tensor::zeros([0, 0]).unwrap(), w, u, v, b, cp, blocks: Vec::new() }
}

#[test]
fn many_blocks() {
    agrees_with_the_host(SIZES, results);
}

/// Scratch is at most a block and the parts of sums, however many rows there are.
#[test]
fn scratch_is_bounded() {
    let Some(context) = device::cuda() else { return };
    let ones = [1.0f32];
    let factor = |rows| View::strided(&ones, 0, [rows, 9], [0, 0]).unwrap();
    let layer = Interaction::cp(factor(5), factor(3), factor(4)).unwrap().with_context(context);
    for rows in [64, 65, 1000, 10_000] {
        let plan = layer.plan(rows).unwrap();
        assert_eq!(plan.launches.len(), 2 * rows.div_ceil(64));
        assert!(plan.scratch <= super::blocks::BLOCK_BYTES, "{plan}");
    }
    // P, Q and H of 16 components, and H's room once more: 256 bytes a row; two launches for them, and one for y.
    let core = View::strided(&ones, 0, [9; 3], [0; 3]).unwrap();
    let tucker = Block::tucker(core).with_a(factor(5)).unwrap().with_b(factor(3)).unwrap().with_c(factor(4)).unwrap();
    let blocks = [tucker];
    let layer = Interaction::blocks(&blocks).unwrap().with_context(context);
    for rows in [16, 17, 10_000] {
        let plan = layer.plan(rows).unwrap();
        assert_eq!(plan.launches.len(), 3 * rows.div_ceil(16));
        assert!(plan.scratch <= super::blocks::BLOCK_BYTES, "{plan}");
    }
}

/// All results of a sum of blocks of every kind, of R features on all sides.
fn results_of_blocks(context: Context, [groups, each]: [usize; 2]) -> Vec<Vec<f32>> {
    let (n, r, ranks @ [ra, rb, rc]) = (groups * each, 6, [4, 3, 5]);
    let data: Vec<Vec<f32>> = [n * r, n * r, n * r, ra * rb * rc, r * ra, r * rb, r * rc, r * r, r, r]
        .into_iter()
        .enumerate()
        .map(|(seed, len)| integers(seed, len))
        .collect();
    let view = |of: usize, shape: [usize; 2]| View::new(&data[of][..shape[0] * shape[1]], shape).unwrap();
    let cube = |of: usize, shape: [usize; 3]| View::new(&data[of], shape).unwrap();
    let tucker = Block::tucker(cube(3, ranks)).with_a(view(4, [r, ra])).unwrap();
    let tucker = tucker.with_b(view(5, [r, rb])).unwrap().with_c(view(6, [r, rc])).unwrap();
    let square = view(7, [r, r]);
    let blocks = [
        Block::diagonal(View::vector(&data[8])),
        tucker,
        Block::identity(r).with_b(square).unwrap(),
        Block::identity(r).with_a(square).unwrap().with_c(view(9, [r, 1])).unwrap(),
        Block::diagonal(View::vector(&data[8])).with_a(square).unwrap().with_b(square).unwrap().with_c(square).unwrap(),
    ];
    let layer = Interaction::blocks(&blocks).unwrap().with_u(square).unwrap().with_v(square).unwrap();
    let layer = layer.with_b(View::vector(&data[9])).unwrap().with_context(context);
    let [z, x, g] = [0, 1, 2].map(|of| view(of, [n, r]));
    let (shared_z, [shared_x, shared_g]) = (view(0, [groups, r]), [1, 2].map(|of| cube(of, [groups, each, r])));
    let mut results = vec![layer.forward(z, x).unwrap().into_vec(), layer.attend(z, x).unwrap().into_vec()];
    results.push(layer.forward_shared(shared_z, shared_x).unwrap().into_vec());
    let tangents = Tangents { z: Some(x), x: Some(z), b: Some(View::vector(&data[8])), ..Tangents::default() };
    results.push(layer.tangent(z, x, &tangents).unwrap().into_vec());
    let mut keep = |[z, x]: [Vec<f32>; 2], b: Option<Tensor<f32, 1>>, blocks: Vec<crate::BlockGradients<f32>>| {
        results.extend([z, x]);
        results.extend(b.map(Tensor::into_vec));
        for crate::BlockGradients { core, diagonal, a, b, c } in blocks {
            results.extend(core.map(Tensor::into_vec));
            results.extend(diagonal.map(Tensor::into_vec));
            results.extend([a, b, c].into_iter().flatten().map(Tensor::into_vec));
        }
    };
    for gradients in [layer.backward(z, x, g).unwrap(), layer.attend_backward(z, x, g).unwrap()] {
        keep([gradients.z.into_vec(), gradients.x.into_vec()], gradients.b, gradients.blocks);
    }
    let shared = layer.backward_shared(shared_z, shared_x, shared_g).unwrap();
    keep([shared.z.into_vec(), shared.x.into_vec()], shared.b, shared.blocks);
    results
}

#[test]
fn sums_of_blocks_in_many_blocks() {
    let Some(context) = device::cuda() else { return };
    let host = Context::new(Device::Cpu).unwrap();
    for rows in [[30, 1], [7, 20], [2, 50]] {
        let (ours, expected) = (results_of_blocks(context, rows), results_of_blocks(host, rows));
        assert_eq!(ours.len(), expected.len());
        for (index, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
            assert_eq!(ours, expected, "{rows:?}: result {index}");
        }
    }
}

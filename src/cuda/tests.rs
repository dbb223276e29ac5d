//! Calls of many blocks (blocks.rs, whose blocks are small in these tests) give what the processor gives.

use crate::{Block, Context, Device, Gradient, Interaction, Saved, Tangents, Tensor, View, Wanted, WantedFactors};

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

fn flat(of: &crate::Gradients<f32, 3>) -> crate::Gradients<f32, 2> {
    let crate::Gradients { z, w, u, v, b, cp, .. } = of.clone();
    crate::Gradients { z, x: Tensor::zeros([0, 0]).unwrap(), w, u, v, b, cp, blocks: Vec::new() }
}

#[test]
fn many_blocks() {
    let Some(context) = device::cuda() else { return };
    let host = Context::new(Device::Cpu).unwrap();
    for sizes in SIZES {
        for cp in [true, false] {
            let (ours, expected) = (results(context, sizes, cp), results(host, sizes, cp));
            assert_eq!(ours.len(), expected.len());
            for (index, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
                assert_eq!(ours, expected, "{sizes:?} cp {cp}: result {index}");
            }
        }
    }
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

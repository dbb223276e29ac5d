//! All pairs of every form of W, the layers that z generates, and layers chosen row by row: against their definitions.

mod common;

use common::blocks::{Case, Form, compare, forms};
use common::{Random, assert_same, contexts};
use trilinear::reference::{self, Reference};
use trilinear::{BlockGradients, Context, Device, Element, Gradient, Grouped, GroupedWanted, Interaction, Tensor};
use trilinear::{View, ViewMut, Wanted, WantedBlock};

const SIZES: [[usize; 4]; 2] = [[3, 4, 5, 2], [7, 19, 6, 17]];
/// P, S, T.
const PAIRS: [[usize; 3]; 6] = [[1, 1, 1], [2, 3, 4], [1, 5, 1], [3, 1, 6], [1, 21, 2], [2, 2, 19]];

/// Numbers of some shape: small integers, or uniform.
struct Numbers {
    random: Random,
    integers: bool,
}

impl Numbers {
    fn of<T: Element, const D: usize>(&mut self, shape: [usize; D], most: usize) -> Tensor<T, D> {
        let len = shape.iter().product();
        let values = if self.integers { self.random.integers(len, most) } else { self.random.uniform(len) };
        Tensor::from_vec(values, shape).unwrap()
    }
}

fn case<T: Element>(form: &Form, integers: bool, layout: usize, seed: u64) -> (Case<T>, Numbers) {
    let case = match integers {
        true => Case::integers(form, [1, 1], layout, false, seed),
        false => Case::uniform(form, [1, 1], layout, false, seed),
    };
    (case, Numbers { random: Random(seed + 1), integers })
}

/// What blocks' gradients are, and must be.
fn compare_blocks<T: Element>(
    found: &[BlockGradients<T>],
    exact: &[reference::BlockGradients],
    integers: bool,
    what: &str,
) {
    assert_eq!(found.len(), exact.len(), "{what}");
    for (index, (found, exact)) in found.iter().zip(exact).enumerate() {
        let what = |name: &str| format!("{name} of block {index}, {what}");
        if let Some(core) = &found.core {
            compare(core.as_slice(), &exact.core, integers, &what("dcore"));
        }
        if let Some(diagonal) = &found.diagonal {
            compare(diagonal.as_slice(), &exact.core, integers, &what("ddiagonal"));
        }
        for (name, found, exact) in [("da", &found.a, &exact.a), ("db", &found.b, &exact.b), ("dc", &found.c, &exact.c)]
        {
            assert_eq!(found.is_some(), exact.is_some(), "{}", what(name));
            if let (Some(found), Some(exact)) = (found, exact) {
                compare(found.as_slice(), exact, integers, &what(name));
            }
        }
    }
}

/// Those of the weights that the layer has.
fn compare_linear<A: Element, const D: usize>(
    found: &Option<Tensor<A, D>>,
    exact: &Reference,
    integers: bool,
    what: &str,
) {
    if let Some(found) = found {
        compare(found.as_slice(), exact, integers, what);
    }
}

fn check_pairs<T: Element>(form: &Form, [p, s, t]: [usize; 3], contexts: &[Context], integers: bool, seed: u64) {
    let (case, mut numbers) = case::<T>(form, integers, seed as usize % 3, seed);
    let ([k, i, j], blocks) = (form.sizes, case.blocks());
    let (z, x): (Tensor<T, 3>, Tensor<T, 3>) = (numbers.of([p, s, i], 2), numbers.of([p, t, j], 2));
    let g: Tensor<T, 4> = numbers.of([p, s, t, k], 1);
    let exact = reference::forward_pairs(&case.layer(&blocks, contexts[0]), z.view(), x.view()).unwrap();
    let gradients = reference::backward_pairs(&case.layer(&blocks, contexts[0]), z.view(), x.view(), g.view()).unwrap();
    for &context in contexts {
        let layer = case.layer(&blocks, context);
        let what = format!("pairs {p} {s} {t} of {} in {} by {}", form.name, T::DTYPE, context.simd());
        let y = layer.forward_pairs(z.view(), x.view()).unwrap();
        compare(y.as_slice(), &exact, integers, &what);
        // Into memory whose axes are in another order, where there is NaN.
        let mut turned = vec![T::from_f64(f64::NAN); p * s * t * k];
        let to = ViewMut::new(&mut turned, [k, t, p, s]).unwrap().permute([2, 3, 1, 0]).unwrap();
        layer.forward_pairs_into(z.view(), x.view(), to).unwrap();
        let turned = View::new(&turned, [k, t, p, s]).unwrap().permute([2, 3, 1, 0]).unwrap();
        compare(Tensor::from_view(turned).unwrap().as_slice(), &exact, integers, &format!("turned {what}"));
        let found = layer.backward_pairs(z.view(), x.view(), g.view()).unwrap();
        compare(found.z.as_slice(), &gradients.z, integers, &format!("dz, {what}"));
        compare(found.x.as_slice(), &gradients.x, integers, &format!("dx, {what}"));
        compare_linear(&found.u, &gradients.u, integers, &format!("du, {what}"));
        compare_linear(&found.v, &gradients.v, integers, &format!("dv, {what}"));
        compare_linear(&found.b, &gradients.b, integers, &format!("db, {what}"));
        compare_blocks(&found.blocks, &gradients.blocks, integers, &what);
        assert_eq!(layer.plan_pairs(p, s, t).unwrap().algorithm, layer.plan(1).unwrap().algorithm);
    }
}

fn check_generate<T: Element>(form: &Form, groups: usize, contexts: &[Context], integers: bool, seed: u64) {
    let (case, mut numbers) = case::<T>(form, integers, seed as usize % 3, seed);
    let ([k, i, j], blocks) = (form.sizes, case.blocks());
    let z: Tensor<T, 2> = numbers.of([groups, i], 2);
    let (dw, db): (Tensor<T, 3>, Tensor<T, 2>) = (numbers.of([groups, k, j], 1), numbers.of([groups, k], 1));
    let layer = case.layer(&blocks, contexts[0]);
    let exact = reference::generate(&layer, z.view()).unwrap();
    let zeros = vec![T::default(); groups * j];
    let linear = case.linear(Interaction::linear(k, i, j).unwrap());
    let of_bias = reference::forward(&linear, z.view(), View::new(&zeros, [groups, j]).unwrap()).unwrap();
    let gradients = reference::backward_generate(&layer, z.view(), dw.view(), db.view()).unwrap();
    for &context in contexts {
        let layer = case.layer(&blocks, context);
        let what = format!("{groups} layers generated by {} in {} by {}", form.name, T::DTYPE, context.simd());
        let found = layer.generate(z.view()).unwrap();
        compare(found.weights.as_slice(), &exact, integers, &what);
        compare(found.bias.as_slice(), &of_bias, integers, &format!("b′, {what}"));
        let mut turned = vec![T::from_f64(f64::NAN); groups * k * j];
        let to = ViewMut::new(&mut turned, [j, groups, k]).unwrap().permute([1, 2, 0]).unwrap();
        layer.generate_into(z.view(), to, Tensor::zeros([groups, k]).unwrap().view_mut()).unwrap();
        let turned = View::new(&turned, [j, groups, k]).unwrap().permute([1, 2, 0]).unwrap();
        compare(Tensor::from_view(turned).unwrap().as_slice(), &exact, integers, &format!("turned {what}"));
        let found = layer.backward_generate(z.view(), dw.view(), db.view()).unwrap();
        compare(found.z.as_slice(), &gradients.z, integers, &format!("dz, {what}"));
        compare_linear(&found.u, &gradients.u, integers, &format!("du, {what}"));
        compare_linear(&found.v, &gradients.v, integers, &format!("dv, {what}"));
        compare_linear(&found.b, &gradients.b, integers, &format!("db, {what}"));
        compare_blocks(&found.blocks, &gradients.blocks, integers, &what);
    }
}

fn integers<T: Element>() {
    let contexts = contexts();
    for (index, sizes) in SIZES.into_iter().enumerate() {
        for (number, form) in forms(sizes).iter().enumerate() {
            for (at, pairs) in PAIRS.into_iter().enumerate() {
                let context = contexts[(index + number + at) % contexts.len()];
                check_pairs::<T>(form, pairs, &[context], true, (7 * number + at) as u64);
            }
            check_generate::<T>(form, 1, &contexts, true, number as u64);
            check_generate::<T>(form, 5, &contexts, true, number as u64 + 1);
        }
    }
}

fn bounds<T: Element>() {
    let contexts = contexts();
    for (number, form) in forms(SIZES[1]).iter().enumerate() {
        check_pairs::<T>(form, [2, 6, 9], &contexts, false, number as u64);
        check_generate::<T>(form, 9, &contexts, false, number as u64);
    }
}

for_each_dtype!(integers, bounds);

/// More rows than a block has, on either side.
fn many_rows<T: Element>() {
    let context = Context::new(Device::Cpu).unwrap();
    for (number, form) in forms([2, 3, 4, 6]).iter().enumerate() {
        for pairs in [[1, 3, 1100], [1, 1100, 3], [1, 40, 40]] {
            check_pairs::<T>(form, pairs, &[context], false, number as u64);
        }
        check_generate::<T>(form, 1100, &[context], false, number as u64);
    }
}

#[test]
fn many_rows_of_f32() {
    many_rows::<f32>();
}

#[test]
fn many_rows_of_f16() {
    many_rows::<trilinear::f16>();
}

/// The same bits on any number of threads.
#[test]
fn threads_do_not_change_bits() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let base = Context::new(Device::Cpu).unwrap();
    for form in &forms([10, 12, 14, 20]) {
        let (case, mut numbers) = case::<f32>(form, false, 0, 3);
        let ([k, i, j], blocks) = (form.sizes, case.blocks());
        let (z, x): (Tensor<f32, 3>, Tensor<f32, 3>) = (numbers.of([2, 60, i], 0), numbers.of([2, 70, j], 0));
        let g: Tensor<f32, 4> = numbers.of([2, 60, 70, k], 0);
        let rows: Tensor<f32, 2> = numbers.of([90, i], 0);
        let of = |context| {
            let layer = case.layer(&blocks, context);
            let gradients = layer.backward_pairs(z.view(), x.view(), g.view()).unwrap();
            let weights: Vec<_> = gradients.blocks.iter().filter_map(|block| block.b.clone()).collect();
            (
                layer.forward_pairs(z.view(), x.view()).unwrap(),
                [gradients.z, gradients.x],
                weights,
                layer.generate(rows.view()).unwrap().weights,
            )
        };
        let (one, three) = (of(base.with_threads(1).unwrap()), pool.install(|| of(base)));
        assert_same(one.0.as_slice(), three.0.as_slice(), &form.name);
        assert_same(one.3.as_slice(), three.3.as_slice(), &form.name);
        for (one, three) in one.1.iter().zip(&three.1) {
            assert_same(one.as_slice(), three.as_slice(), &form.name);
        }
        for (one, three) in one.2.iter().zip(&three.2) {
            assert_same(one.as_slice(), three.as_slice(), &form.name);
        }
    }
}

/// Gradients of blocks that are added to what is there.
fn adding<T: Element>(found: &mut [BlockGradients<T>]) -> Vec<WantedBlock<'_, T>> {
    let wanted = found.iter_mut().map(|block| WantedBlock {
        core: block.core.as_mut().map(|to| Gradient::add(to.view_mut())),
        diagonal: block.diagonal.as_mut().map(|to| Gradient::add(to.view_mut())),
        a: block.a.as_mut().map(|to| Gradient::add(to.view_mut())),
        b: block.b.as_mut().map(|to| Gradient::add(to.view_mut())),
        c: block.c.as_mut().map(|to| Gradient::add(to.view_mut())),
    });
    wanted.collect()
}

/// That each is twice what it was.
fn assert_doubled<T: Element>(before: &[BlockGradients<T>], after: &[BlockGradients<T>], what: &str) {
    fn doubled<A: Element, const D: usize>(before: &Option<Tensor<A, D>>, after: &Option<Tensor<A, D>>, what: &str) {
        let values = |of: &Option<Tensor<A, D>>, times: f64| {
            of.as_ref().map(|of| of.as_slice().iter().map(|value| times * value.to_f64()).collect::<Vec<_>>())
        };
        assert_eq!(values(before, 2.0), values(after, 1.0), "{what}");
    }
    for (before, after) in before.iter().zip(after) {
        doubled(&before.core, &after.core, what);
        doubled(&before.diagonal, &after.diagonal, what);
        doubled(&before.a, &after.a, what);
        doubled(&before.b, &after.b, what);
        doubled(&before.c, &after.c, what);
    }
}

#[test]
fn gradients_are_added() {
    for form in &forms(SIZES[1]) {
        let (case, mut numbers) = case::<f32>(form, true, 0, 4);
        let ([k, i, j], blocks) = (form.sizes, case.blocks());
        let layer = case.layer(&blocks, Context::new(Device::Cpu).unwrap());
        let (z, x): (Tensor<f32, 3>, Tensor<f32, 3>) = (numbers.of([3, 4, i], 2), numbers.of([3, 5, j], 2));
        let g: Tensor<f32, 4> = numbers.of([3, 4, 5, k], 1);
        let mut found = layer.backward_pairs(z.view(), x.view(), g.view()).unwrap();
        let (before_z, before_x, before) = (found.z.clone(), found.x.clone(), found.blocks.clone());
        let wanted = Wanted {
            z: Some(Gradient::add(found.z.view_mut())),
            x: Some(Gradient::add(found.x.view_mut())),
            blocks: &mut adding(&mut found.blocks),
            ..Wanted::default()
        };
        layer.backward_pairs_into(z.view(), x.view(), g.view(), wanted).unwrap();
        assert_doubled(&before, &found.blocks, &form.name);
        for (before, after) in [(&before_z, &found.z), (&before_x, &found.x)] {
            assert!(before.as_slice().iter().zip(after.as_slice()).all(|(a, b)| 2.0 * a == *b), "{}", form.name);
        }
        let z: Tensor<f32, 2> = numbers.of([6, i], 2);
        let (dw, db): (Tensor<f32, 3>, Tensor<f32, 2>) = (numbers.of([6, k, j], 1), numbers.of([6, k], 1));
        let mut found = layer.backward_generate(z.view(), dw.view(), db.view()).unwrap();
        let (before_z, before) = (found.z.clone(), found.blocks.clone());
        let wanted = Wanted {
            z: Some(Gradient::add(found.z.view_mut())),
            blocks: &mut adding(&mut found.blocks),
            ..Wanted::default()
        };
        layer.backward_generate_into(z.view(), dw.view(), db.view(), wanted).unwrap();
        assert_doubled(&before, &found.blocks, &format!("generated, {}", form.name));
        assert!(before_z.as_slice().iter().zip(found.z.as_slice()).all(|(a, b)| 2.0 * a == *b), "{}", form.name);
    }
}

/// Layers of blocks chosen row by row: the gradients of each are those of its rows alone.
fn grouped<T: Element>() {
    let context = Context::new(Device::Cpu).unwrap();
    for (number, form) in forms(SIZES[0]).iter().enumerate() {
        let cases: Vec<(Case<T>, Numbers)> =
            (0..3).map(|at| case::<T>(form, true, 0, 10 * number as u64 + at)).collect();
        let blocks: Vec<_> = cases.iter().map(|(case, _)| case.blocks()).collect();
        let layers: Vec<_> = cases.iter().zip(&blocks).map(|((case, _), blocks)| case.layer(blocks, context)).collect();
        let ([k, i, j], n) = (form.sizes, 23);
        let mut numbers = Numbers { random: Random(5), integers: true };
        let (z, x): (Tensor<T, 2>, Tensor<T, 2>) = (numbers.of([n, i], 2), numbers.of([n, j], 2));
        let g: Tensor<T, 2> = numbers.of([n, k], 1);
        // No row has the last layer; some rows of one lie together.
        let index: Vec<usize> = (0..n).map(|row| if row < 8 { row % 2 } else { usize::from(row < 15) }).collect();
        let found = Grouped::new(&layers).unwrap().backward(&index, z.view(), x.view(), g.view()).unwrap();
        for (layer, gradients) in found.layers.iter().enumerate() {
            let rows: Vec<usize> = (0..n).filter(|&row| index[row] == layer).collect();
            let of = |view: View<'_, T, 2>| {
                let columns = view.shape()[1];
                let values = rows.iter().flat_map(|&row| (0..columns).map(move |at| view.get([row, at]).unwrap()));
                Tensor::from_vec(values.collect(), [rows.len(), columns]).unwrap()
            };
            let (z, x, g) = (of(z.view()), of(x.view()), of(g.view()));
            let exact = reference::backward(&layers[layer], z.view(), x.view(), g.view()).unwrap();
            let what = format!("layer {layer} of {} in {}", form.name, T::DTYPE);
            compare_blocks(&gradients.blocks, &exact.blocks, true, &what);
            compare_linear(&gradients.b, &exact.b, true, &what);
            for (at, &row) in rows.iter().enumerate() {
                let exact: Vec<f64> = exact.z.value.as_slice()[at * i..][..i].to_vec();
                let dz = (0..i).map(|at| found.z.view().get([row, at]).unwrap().to_f64() + 0.0);
                assert_eq!(dz.collect::<Vec<_>>(), exact.iter().map(|value| value + 0.0).collect::<Vec<_>>(), "{what}");
            }
        }
        // Those of one layer alone, added.
        let mut blocks = found.layers[1].blocks.clone();
        let before = blocks.clone();
        let mut of_one = adding(&mut blocks);
        let mut wanted = [Wanted::default(), Wanted { blocks: &mut of_one, ..Wanted::default() }, Wanted::default()];
        let wanted = GroupedWanted { layers: &mut wanted, ..GroupedWanted::default() };
        Grouped::new(&layers).unwrap().backward_into(&index, z.view(), x.view(), g.view(), wanted).unwrap();
        assert_doubled(&before, &blocks, &form.name);
    }
}

#[test]
fn layers_of_blocks_are_chosen_by_row() {
    grouped::<f32>();
    grouped::<trilinear::bf16>();
}

//! A layer for each row: as each row computed by its own layer, whatever the order of the rows.

mod common;

use common::case::{Case, Form};
use common::layout::{Embedded, Layout};
use common::{Random, assert_same, contexts, levels, place, ways};
use trilinear::{
    Block, Context, Device, Element, Error, Gradient, Grouped, GroupedWanted, Interaction, Tensor, View, Wanted,
};

/// Rows, layers.
const SIZES: [[usize; 2]; 8] = [[0, 1], [1, 1], [7, 3], [40, 5], [9, 40], [700, 2], [1100, 1], [530, 3]];

/// Layers of one form, small integers.
fn layers<T: Element>(form: Form, count: usize, [i, j, k, r]: [usize; 4]) -> Vec<Case<T>> {
    (0..count).map(|layer| Case::integers(form, [1, 1, i, j, k, r], layer as u64)).collect()
}

/// Mixed, sorted, all of one layer, in runs.
fn indices(rows: usize, layers: usize) -> [Vec<usize>; 4] {
    let mut random = Random(5);
    let mixed: Vec<usize> = (0..rows).map(|_| random.below(layers)).collect();
    let mut sorted = mixed.clone();
    sorted.sort_unstable();
    [mixed, sorted, vec![layers - 1; rows], (0..rows).map(|row| row / 9 % layers).collect()]
}

struct Rows<T> {
    z: Vec<T>,
    x: Vec<T>,
    g: Vec<T>,
}

fn rows<T: Element>(n: usize, [i, j, k, _]: [usize; 4]) -> Rows<T> {
    let mut random = Random(2);
    Rows { z: random.integers(n * i, 2), x: random.integers(n * j, 2), g: random.integers(n * k, 1) }
}

fn is_each_rows_own_layer<T: Element>() {
    let sizes @ [i, j, k, _] = [5, 9, 3, 4];
    for [n, count] in SIZES {
        for form in Form::ALL {
            let cases = layers::<T>(form, count, sizes);
            let laid: Vec<_> = cases.iter().map(|case| case.laid(0)).collect();
            // A device has no blocks of so few rows.
            let flops = if n > 100 { usize::MAX } else { n * 2 * (i * j * k + (i + j) * k) };
            let ways = ways(flops);
            if ways.is_empty() {
                continue;
            }
            let Rows { z, x, g } = rows::<T>(n, sizes);
            let host: Vec<_> = laid.iter().map(|laid| laid.layer().with_context(contexts()[0])).collect();
            for context in ways {
                let layers: Vec<_> = laid.iter().map(|laid| laid.layer().with_context(context)).collect();
                let grouped = Grouped::new(&layers).unwrap();
                for (which, index) in indices(n, count).into_iter().enumerate() {
                    let what = format!("{n} rows of {count} {form:?} {} index {which}", place(&context));
                    let row = |values: &[T], row: usize, len: usize| values[row * len..][..len].to_vec();
                    let (mut y, mut dz, mut dx) = (Vec::new(), Vec::new(), Vec::new());
                    for (n, &e) in index.iter().enumerate() {
                        let (z, x, g) = (row(&z, n, i), row(&x, n, j), row(&g, n, k));
                        let (z, x, g) = (View::row(&z), View::row(&x), View::row(&g));
                        y.extend(host[e].forward(z, x).unwrap().into_vec());
                        let gradients = host[e].backward(z, x, g).unwrap();
                        dz.extend(gradients.z.into_vec());
                        dx.extend(gradients.x.into_vec());
                    }
                    let layout = if form == Form::Dense { which * 2 } else { 0 };
                    let layout = Layout::all()[layout].1;
                    let (z, x) = (Embedded::input(&z, [n, i], layout), Embedded::input(&x, [n, j], layout));
                    let g = Embedded::input(&g, [n, k], layout);
                    let mut to = Embedded::output([n, k], layout);
                    grouped.forward_into(&index, z.view(), x.view(), to.view_mut()).unwrap();
                    assert_same(&to.finish(&what), &y, &what);
                    let found = grouped.backward(&index, z.view(), x.view(), g.view()).unwrap();
                    plus_zero(found.z.as_slice(), &dz, &what);
                    plus_zero(found.x.as_slice(), &dx, &what);
                    weights(&host, &index, [z.view(), x.view(), g.view()], &found.layers, &what);
                }
            }
        }
    }
}

/// A zero may have either sign.
fn plus_zero<A: Element>(found: &[A], expected: &[A], what: &str) {
    let of = |values: &[A]| values.iter().map(|v| A::from_f64(v.to_f64() + 0.0)).collect::<Vec<_>>();
    assert_same(&of(found), &of(expected), what);
}

/// Those of each layer are those of the rows that chose it, masked out of the others.
fn weights<T: Element>(
    layers: &[Interaction<'_, T>],
    index: &[usize],
    [z, x, g]: [View<'_, T, 2>; 3],
    found: &[trilinear::Gradients<T>],
    what: &str,
) {
    for (e, found) in found.iter().enumerate() {
        let masked: Vec<T> = (0..index.len() * g.shape()[1])
            .map(|at| {
                let (n, k) = (at / g.shape()[1], at % g.shape()[1]);
                if index[n] == e { g.get([n, k]).unwrap() } else { T::from_f64(0.0) }
            })
            .collect();
        let g = View::new(&masked, g.shape()).unwrap();
        let expected = layers[e].backward(z, x, g).unwrap();
        let what = format!("layer {e}, {what}");
        if let (Some(found), Some(expected)) = (&found.w, &expected.w) {
            plus_zero(found.as_slice(), expected.as_slice(), &what);
        }
        assert_eq!(found.w.is_some(), expected.w.is_some());
        plus_zero(found.u.as_ref().unwrap().as_slice(), expected.u.unwrap().as_slice(), &what);
        plus_zero(found.v.as_ref().unwrap().as_slice(), expected.v.unwrap().as_slice(), &what);
        plus_zero(found.b.as_ref().unwrap().as_slice(), expected.b.unwrap().as_slice(), &what);
        if let (Some(found), Some(expected)) = (&found.cp, &expected.cp) {
            plus_zero(found.a.as_slice(), expected.a.as_slice(), &what);
            plus_zero(found.b.as_slice(), expected.b.as_slice(), &what);
            plus_zero(found.c.as_slice(), expected.c.as_slice(), &what);
        }
    }
}

for_each_dtype!(is_each_rows_own_layer);

/// More rows than are put in order at once, and the same bits for any number of threads.
#[test]
fn many_rows_and_threads() {
    let ([i, j, k], n) = ([3, 2, 2], 70_000);
    let w: Vec<f32> = Random(1).integers(5 * k * i * j, 2);
    let (z, x): (Vec<f32>, Vec<f32>) = (Random(2).uniform(n * i), Random(3).uniform(n * j));
    let mut random = Random(4);
    let index: Vec<usize> = (0..n).map(|_| random.below(5)).collect();
    let (z, x) = (View::new(&z, [n, i]).unwrap(), View::new(&x, [n, j]).unwrap());
    for &level in levels() {
        let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
        let of = |threads: usize| {
            let layers = Grouped::layers(View::new(&w, [5, k, i, j]).unwrap()).unwrap();
            let context = context.with_threads(threads).unwrap();
            let layers: Vec<_> = layers.into_iter().map(|layer| layer.with_context(context)).collect();
            Grouped::new(&layers).unwrap().forward(&index, z, x).unwrap()
        };
        let one = of(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_same(pool.install(|| of(3)).as_slice(), one.as_slice(), "threads");
        for row in (0..n).step_by(997) {
            let layer = &w[index[row] * k * i * j..][..k * i * j];
            let layer = Interaction::dense(View::new(layer, [k, i, j]).unwrap()).unwrap();
            let (z, x) = (z.slice(0, row..row + 1).unwrap(), x.slice(0, row..row + 1).unwrap());
            let exact = trilinear::reference::forward(&layer, z, x).unwrap();
            common::assert_close(&one.as_slice()[row * k..][..k], &exact, "a row");
        }
    }
}

/// Gradients of all layers in one tensor [E, K, I, J], added to what is there; dz alone.
#[test]
fn stacked_gradients() {
    let ([i, j, k, e], n) = ([4, 3, 2, 3], 20);
    let w: Vec<f64> = Random(1).integers(e * k * i * j, 2);
    for context in ways(n * i * j * k) {
        stacked(context, ([i, j, k, e], n), &w);
    }
}

fn stacked(context: Context, ([i, j, k, e], n): ([usize; 4], usize), w: &[f64]) {
    let layers = Grouped::layers(View::new(w, [e, k, i, j]).unwrap()).unwrap();
    let layers: Vec<_> = layers.into_iter().map(|layer| layer.with_context(context)).collect();
    let grouped = Grouped::new(&layers).unwrap();
    let Rows { z, x, g } = rows::<f64>(n, [i, j, k, 1]);
    let (z, x) = (View::new(&z, [n, i]).unwrap(), View::new(&x, [n, j]).unwrap());
    let g = View::new(&g, [n, k]).unwrap();
    let index: Vec<usize> = (0..n).map(|row| row * 7 % 2).collect(); // nobody chooses the last
    let all = grouped.backward(&index, z, x, g).unwrap();
    let mut dw = vec![5.0; w.len()];
    let to = trilinear::ViewMut::new(&mut dw, [e, k, i, j]).unwrap();
    let mut wanted: Vec<Wanted<'_, f64>> =
        to.unstack().map(|to| Wanted { w: Some(Gradient::add(to)), ..Wanted::default() }).collect();
    let to = GroupedWanted { layers: &mut wanted, ..GroupedWanted::default() };
    grouped.backward_into(&index, z, x, g, to).unwrap();
    let expected: Vec<f64> =
        all.layers.iter().flat_map(|layer| layer.w.as_ref().unwrap().as_slice()).map(|dw| dw + 5.0).collect();
    assert_eq!(dw, expected);
    assert!(dw[2 * k * i * j..].iter().all(|&dw| dw == 5.0));
    let mut dz = Tensor::from_vec(vec![1.0; n * i], [n, i]).unwrap();
    let to = GroupedWanted { z: Some(Gradient::add(dz.view_mut())), ..GroupedWanted::default() };
    grouped.backward_into(&index, z, x, g, to).unwrap();
    let expected: Vec<f64> = all.z.as_slice().iter().map(|dz| dz + 1.0).collect();
    assert_eq!(dz.as_slice(), expected);
}

/// Layers of any form beside each other, one of them a sum of blocks, wherever that is computed.
#[test]
fn forms_beside_each_other() {
    let w = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let blocks = [Block::diagonal(View::vector(&w[..2]))];
    let layers = [
        Interaction::dense(View::new(&w, [2, 2, 2]).unwrap()).unwrap(),
        Interaction::blocks(&blocks).unwrap(),
        Interaction::linear(2, 2, 2).unwrap().with_u(View::new(&w[..4], [2, 2]).unwrap()).unwrap(),
    ];
    let (z, x) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 1.0, 2.0, 1.0, 3.0, 1.0]);
    let (z, x) = (View::new(&z, [3, 2]).unwrap(), View::new(&x, [3, 2]).unwrap());
    for context in ways(0) {
        let layers = layers.map(|layer| layer.with_context(context));
        let y = Grouped::new(&layers).unwrap().forward(&[1, 2, 0], z, x).unwrap();
        assert_eq!(
            y.as_slice(),
            [1.0, 4.0, 11.0, 25.0, 5.0 * 5.0 + 6.0 * 13.0, 5.0 * 21.0 + 6.0 * 29.0],
            "{}",
            place(&context)
        );
    }
}

#[test]
fn errors() {
    let w = [1.0f32; 12];
    let layers = Grouped::layers(View::new(&w, [2, 1, 2, 3]).unwrap()).unwrap();
    let grouped = Grouped::new(&layers).unwrap();
    let (z, x) = (View::new(&w[..6], [3, 2]).unwrap(), View::new(&w[..9], [3, 3]).unwrap());
    let error = grouped.forward(&[0, 2, 1], z, x).unwrap_err();
    assert_eq!(error, Error::Index { row: 1, index: 2, limit: 2 });
    assert_eq!(error.to_string(), "row 1 has index 2, but there are 2 layers, of indices below that");
    let shape = |operand, axis, expected, actual| Error::Shape { operand, axis, expected, actual };
    assert_eq!(grouped.forward(&[0, 1], z, x).unwrap_err(), shape("z", "rows", 2, 3));
    assert_eq!(grouped.forward(&[0, 1, 1], x, x).unwrap_err(), shape("z", "features", 2, 3));
    assert_eq!(Grouped::<f32>::new(&[]).unwrap_err(), shape("layers", "layers", 1, 0));
    let other = Interaction::dense(View::new(&w[..4], [1, 2, 2]).unwrap()).unwrap();
    assert_eq!(Grouped::new(&[layers[0], other]).unwrap_err(), shape("layers", "x features", 3, 2));
    let g = View::new(&w[..3], [3, 1]).unwrap();
    let mut wanted = [Wanted::default()];
    let to = GroupedWanted { layers: &mut wanted, ..GroupedWanted::default() };
    assert_eq!(grouped.backward_into(&[0, 1, 1], z, x, g, to).unwrap_err(), shape("wanted", "layers", 2, 1));
}

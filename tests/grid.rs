//! Shapes around every edge of a tile and of a block, in integers that every algorithm must get right to the last bit.

mod common;

use common::cuda::Pairs;
use common::layout::{Embedded, Layout};
use common::{Cp, Dense, Random, assert_close, assert_exact, flops, for_each_of, ways};
use trilinear::{Context, Element, Interaction, View, ViewMut, reference};

/// Rows of the batch: 0, 1, the four rows of Stream, tiles of 4, 8, 16 and 32 lanes and several of them.
const ROWS: [usize; 24] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 95, 96, 97, 191, 192, 193];
/// Rows of weights: tiles of 4, 6 and 12 rows and several of them.
const TILES: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 23, 24, 25, 37];
/// Depth of the microkernel: vectors, and KC from 64 to 512.
const DEPTHS: [usize; 27] =
    [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513];
/// I and J whose product is around KC.
const PRODUCTS: [[usize; 2]; 14] = [
    [7, 9],
    [8, 8],
    [5, 13],
    [15, 17],
    [16, 16],
    [257, 1],
    [7, 73],
    [16, 32],
    [512, 1],
    [9, 57],
    [171, 3],
    [27, 19],
    [33, 32],
    [31, 33],
];

/// [N, I, J, K].
fn shapes() -> Vec<[usize; 4]> {
    if cfg!(miri) {
        return vec![[0, 2, 3, 2], [1, 3, 5, 2], [3, 4, 17, 3], [5, 7, 9, 5], [9, 5, 65, 2], [17, 3, 3, 1]];
    }
    let mut shapes = Vec::new();
    for n in ROWS {
        shapes.extend([[n, 5, 7, 3], [n, 3, 33, 1], [n, 13, 9, 6]]);
    }
    for rows in TILES {
        for n in [1, 4, 5, 37] {
            shapes.extend([[n, rows, 6, 2], [n, 4, 5, rows]]);
        }
    }
    for depth in DEPTHS {
        for n in [1, 3, 6, 33] {
            shapes.extend([[n, 1, depth, 3], [n, 3, depth, 2], [n, depth, 2, 2]]);
        }
    }
    for [i, j] in PRODUCTS {
        for n in [1, 4, 18] {
            shapes.extend([[n, i, j, 1], [n, j, i, 5]]);
        }
    }
    // A block of W fills half of L2; blocks of 4096 features; rows and outputs of a task; parts of I in Stream.
    shapes.extend([[5, 64, 64, 40], [9, 130, 260, 20], [4, 70, 256, 2], [1, 300, 300, 3], [3, 33, 4100, 2]]);
    shapes.extend([[2, 4100, 9, 17], [6, 4097, 5, 2], [6, 5, 4097, 2], [70, 2100, 900, 1]]);
    shapes.extend([[1025, 2, 3, 2], [513, 3, 2, 5], [1025, 2, 1, 513], [257, 1, 2, 1030]]);
    let mut random = Random(7);
    while shapes.len() < 480 {
        let shape = [*random.pick(&ROWS), *random.pick(&TILES), *random.pick(&DEPTHS), *random.pick(&TILES)];
        if shape.iter().product::<usize>() < 300_000 {
            shapes.push(shape);
        }
    }
    shapes
}

/// y in a buffer of exactly its size that is full of NaN.
fn forward<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>) -> Vec<T> {
    let shape = [x.shape()[0], layer.outputs()];
    let mut y = vec![T::from_f64(f64::NAN); shape[0] * shape[1]];
    layer.forward_into(z, x, ViewMut::new(&mut y, shape).unwrap()).unwrap();
    y
}

/// Where a layer runs on a batch of these sizes, which `more` tells apart further.
fn places<T: Element>(pairs: &mut Pairs, layer: &Interaction<'_, T>, sizes: &[usize], more: usize) -> Vec<Context> {
    ways(pairs.flops(&[sizes, &[more]].concat(), flops(layer, sizes[0])))
}

/// Operands of exactly their size.
fn dense<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in shapes().into_iter().enumerate() {
        let data = Dense::<T>::integers(sizes, index as u64);
        // Terms of all kinds, and each kind absent now and then.
        let mut layer = data.core();
        if index % 4 != 1 {
            layer = layer.with_u(data.u()).unwrap();
        }
        if index % 4 != 2 {
            layer = layer.with_v(data.v()).unwrap();
        }
        if index % 4 != 3 {
            layer = layer.with_b(data.b()).unwrap();
        }
        let places = places(&mut pairs, &layer, &sizes, index % 4);
        if places.is_empty() {
            continue;
        }
        let exact = data.exact(&layer);
        for_each_of(places, &layer, sizes[0], |layer, what| {
            assert_exact(&forward(&layer, data.z(), data.x()), &exact, &format!("{sizes:?} {what}"));
        });
        let prepared = layer.prepare().unwrap();
        assert_exact(&forward(&prepared.layer(), data.z(), data.x()), &exact, &format!("{sizes:?} prepared"));
    }
}

/// Operands amid NaN, with NaN between their rows; y amid a filler.
fn dense_amid_nan<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in shapes().into_iter().enumerate().step_by(2) {
        let [n, i, j, k] = sizes;
        let data = Dense::<T>::integers(sizes, 1000 + index as u64);
        let places = places(&mut pairs, &data.layer(), &sizes, index % 4);
        if places.is_empty() {
            continue;
        }
        let exact = data.exact(&data.layer());
        let w = Embedded::input(&data.w, [k, i, j], if index % 4 == 0 { Layout::padded() } else { Layout::dense() });
        let u = Embedded::input(&data.u, [k, i], Layout::padded());
        let v = Embedded::input(&data.v, [k, j], Layout::padded());
        let b = Embedded::input(&data.b, [k], Layout::stepped());
        let z = Embedded::input(&data.z, [n, i], Layout::padded());
        let x = Embedded::input(&data.x, [n, j], Layout::padded());
        let layer = Interaction::dense(w.view()).unwrap().with_u(u.view()).unwrap();
        let layer = layer.with_v(v.view()).unwrap().with_b(b.view()).unwrap();
        for_each_of(places, &layer, n, |layer, what| {
            let mut y = Embedded::output([n, k], Layout::padded());
            layer.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
            let what = format!("{sizes:?} {what}");
            assert_exact(&y.finish(&what), &exact, &what);
        });
    }
}

/// The published bound on rounding errors.
fn dense_rounding<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in shapes().into_iter().enumerate().skip(1).step_by(2) {
        let data = Dense::<T>::uniform(sizes, 2000 + index as u64);
        let places = places(&mut pairs, &data.layer(), &sizes, 0);
        if places.is_empty() {
            continue;
        }
        let exact = data.exact(&data.layer());
        for_each_of(places, &data.layer(), sizes[0], |layer, what| {
            assert_close(&forward(&layer, data.z(), data.x()), &exact, &format!("{sizes:?} {what}"));
        });
    }
}

/// [N, I, J, K, R].
fn cp_shapes() -> Vec<[usize; 5]> {
    if cfg!(miri) {
        return vec![[0, 2, 3, 2, 2], [1, 3, 5, 2, 7], [3, 4, 17, 3, 17], [5, 7, 9, 5, 9], [9, 5, 65, 2, 1]];
    }
    let mut shapes = Vec::new();
    for rank in [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1025] {
        for n in [1, 4, 5, 33] {
            shapes.extend([[n, 5, 7, 3, rank], [n, 13, 33, 6, rank]]);
        }
    }
    for n in ROWS {
        shapes.extend([[n, 5, 7, 3, 17], [n, 3, 33, 13, 8], [n, 7, 4, 1, 33]]);
    }
    for tile in TILES {
        for n in [1, 4, 37] {
            shapes.extend([[n, tile, 6, 2, 5], [n, 6, tile, 3, 16], [n, 4, 5, tile, 7]]);
        }
    }
    for depth in DEPTHS {
        for n in [1, 6, 33] {
            shapes.extend([[n, depth, 3, 2, 9], [n, 3, depth, 5, 17]]);
        }
    }
    shapes.extend([[193, 3, 2, 2740, 5], [1, 4100, 3, 2, 9], [6, 4100, 3, 2, 9], [400, 20, 30, 40, 50]]);
    let mut random = Random(11);
    while shapes.len() < 420 {
        let [n, i, k] = [*random.pick(&ROWS), *random.pick(&TILES), *random.pick(&TILES)];
        let shape = [n, i, *random.pick(&DEPTHS), k, *random.pick(&DEPTHS)];
        if shape[1] * shape[2] * shape[4] < 1 << 20 && n * (i + shape[2] + k) * shape[4] < 100_000 {
            shapes.push(shape);
        }
    }
    shapes
}

fn cp<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in cp_shapes().into_iter().enumerate() {
        let [n, ..] = sizes;
        let data = Cp::<T>::integers(sizes, index as u64);
        let layer = if index % 2 == 0 { data.layer() } else { Interaction::cp(data.a(), data.b(), data.c()).unwrap() };
        let (z, x) = (data.rest.z(), data.rest.x());
        let places = places(&mut pairs, &layer, &sizes, index % 2);
        if places.is_empty() {
            continue;
        }
        let exact = reference::forward(&layer, z, x).unwrap();
        for_each_of(places, &layer, n, |layer, what| {
            assert_exact(&forward(&layer, z, x), &exact, &format!("{sizes:?} {what}"));
        });
    }
}

fn cp_amid_nan<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in cp_shapes().into_iter().enumerate().step_by(2) {
        let [n, i, j, k, rank] = sizes;
        let data = Cp::<T>::integers(sizes, 1000 + index as u64);
        let rest = &data.rest;
        let places = places(&mut pairs, &data.layer(), &sizes, 0);
        if places.is_empty() {
            continue;
        }
        let exact = reference::forward(&data.layer(), rest.z(), rest.x()).unwrap();
        let embed = |values: &[T], shape| Embedded::input(values, shape, Layout::padded());
        let (a, b) = (embed(&data.a, [k, rank]), embed(&data.b, [i, rank]));
        let (c, u, v) = (embed(&data.c, [j, rank]), embed(&rest.u, [k, i]), embed(&rest.v, [k, j]));
        let (z, x) = (embed(&rest.z, [n, i]), embed(&rest.x, [n, j]));
        let lambda = Embedded::input(&data.lambda, [rank], Layout::stepped());
        let bias = Embedded::input(&rest.b, [k], Layout::stepped());
        let layer = Interaction::cp(a.view(), b.view(), c.view()).unwrap().with_lambda(lambda.view()).unwrap();
        let layer = layer.with_u(u.view()).unwrap().with_v(v.view()).unwrap().with_b(bias.view()).unwrap();
        for_each_of(places, &layer, n, |layer, what| {
            let mut y = Embedded::output([n, k], Layout::padded());
            layer.forward_into(z.view(), x.view(), y.view_mut()).unwrap();
            let what = format!("{sizes:?} {what}");
            assert_exact(&y.finish(&what), &exact, &what);
        });
    }
}

fn cp_rounding<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in cp_shapes().into_iter().enumerate().skip(1).step_by(2) {
        let data = Cp::<T>::uniform(sizes, 2000 + index as u64);
        let (z, x) = (data.rest.z(), data.rest.x());
        let places = places(&mut pairs, &data.layer(), &sizes, 0);
        if places.is_empty() {
            continue;
        }
        let exact = reference::forward(&data.layer(), z, x).unwrap();
        for_each_of(places, &data.layer(), sizes[0], |layer, what| {
            assert_close(&forward(&layer, z, x), &exact, &format!("{sizes:?} {what}"));
        });
    }
}

fn linear<T: Element>() {
    let mut pairs = Pairs::default();
    for (index, sizes) in shapes().into_iter().enumerate().step_by(3) {
        let data = Dense::<T>::integers(sizes, 3000 + index as u64);
        let places = places(&mut pairs, &data.linear(), &sizes, 0);
        if places.is_empty() {
            continue;
        }
        let exact = data.exact(&data.linear());
        for_each_of(places, &data.linear(), sizes[0], |layer, what| {
            assert_exact(&forward(&layer, data.z(), data.x()), &exact, &format!("{sizes:?} {what}"));
        });
    }
}

for_each_dtype!(dense, dense_amid_nan, dense_rounding, cp, cp_amid_nan, cp_rounding, linear);

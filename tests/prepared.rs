//! Prepared weights give the bits of the weights they were made from.

mod common;

use common::layout::{Embedded, Layout};
use common::{Cp, Dense, assert_same, cuda::Pairs, flops, for_each_of, ways};
use trilinear::{Element, Interaction};

/// [N, I, J, K]: one weight, several batches, so that every algorithm is met.
const WEIGHTS: [[usize; 3]; 4] = [[7, 9, 5], [40, 37, 3], [13, 70, 13], [64, 16, 1]];
const ROWS: [usize; 6] = [1, 3, 4, 5, 33, 70];

/// Every way to compute `layer`, the `kind`th of its test, and the shared context and the generated layer, prepared and not.
fn check<T: Element>(layer: &Interaction<'_, T>, data: &Dense<T>, what: &str, pairs: &mut Pairs, kind: usize) {
    let [n, i, j, k] = data.sizes;
    let ways = ways(pairs.flops(&[n, i, j, k, kind], flops(layer, n)));
    let prepared = layer.prepare().unwrap();
    let sizes = |layer: &Interaction<'_, T>| (layer.outputs(), layer.z_features(), layer.x_features(), layer.rank());
    assert_eq!(sizes(&prepared.layer()), sizes(layer));
    assert_eq!(prepared.layer().context(), layer.context());
    assert_same(prepared.layer().to_dense().unwrap().as_slice(), layer.to_dense().unwrap().as_slice(), what);
    for_each_of(ways.clone(), layer, n, |layer, way| {
        let expected = layer.forward(data.z(), data.x()).unwrap();
        // Prepared for another context, and in its own.
        let own = layer.prepare().unwrap();
        for prepared in [prepared.layer().with_context(layer.context().unwrap()), own.layer()] {
            let y = prepared.forward(data.z(), data.x()).unwrap();
            assert_same(y.as_slice(), expected.as_slice(), &format!("{what}: {n} rows, {way}"));
            let algorithm = |layer: Interaction<'_, T>| layer.plan(n).unwrap().algorithm;
            assert_eq!(algorithm(prepared), algorithm(layer), "{what}: {n} rows, {way}");
        }
    });
    for context in ways {
        let (layer, prepared) = (layer.with_context(context), prepared.layer().with_context(context));
        let groups = n / 3;
        let z = data.z().slice(0, 0..groups).unwrap();
        let x = trilinear::View::new(&data.x[..groups * 3 * j], [groups, 3, j]).unwrap();
        let expected = layer.forward_shared(z, x).unwrap();
        let y = prepared.forward_shared(z, x).unwrap();
        assert_same(y.as_slice(), expected.as_slice(), &format!("{what}: shared, {groups} groups"));
        let (expected, generated) = (layer.generate(z).unwrap(), prepared.generate(z).unwrap());
        let what = format!("{what}: generated, {groups} groups of {i} features");
        assert_same(generated.weights.as_slice(), expected.weights.as_slice(), &what);
        assert_same(generated.bias.as_slice(), expected.bias.as_slice(), &what);
    }
}

fn contiguous<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, [i, j, k]) in WEIGHTS.into_iter().enumerate() {
        for n in ROWS {
            let data = Dense::<T>::uniform([n, i, j, k], seed as u64);
            check(&data.core(), &data, "W", &mut pairs, 0);
            check(&data.layer(), &data, "W, U, V, b", &mut pairs, 1);
            check(&data.linear(), &data, "U, V, b", &mut pairs, 2);
        }
    }
}

fn cp<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, [i, j, k]) in WEIGHTS.into_iter().enumerate() {
        for n in ROWS {
            let data = Cp::<T>::uniform([n, i, j, k, 19], seed as u64);
            check(&data.layer(), &data.rest, "CP", &mut pairs, 0);
        }
    }
}

fn strided_w<T: Element>() {
    let mut pairs = Pairs::default();
    for (seed, [i, j, k]) in WEIGHTS.into_iter().enumerate() {
        for n in ROWS {
            let data = Dense::<T>::uniform([n, i, j, k], seed as u64);
            for (kind, (name, layout)) in Layout::all().into_iter().enumerate() {
                let w = Embedded::input(&data.w, [k, i, j], layout);
                check(&Interaction::dense(w.view()).unwrap(), &data, &format!("W {name}"), &mut pairs, kind);
            }
        }
    }
}

fn strided_linear_terms<T: Element>() {
    let mut pairs = Pairs::default();
    let [i, j, k] = [13, 22, 7];
    for n in ROWS {
        let data = Dense::<T>::uniform([n, i, j, k], 5);
        for (kind, (name, layout)) in Layout::all().into_iter().enumerate() {
            let (u, v) = (Embedded::input(&data.u, [k, i], layout), Embedded::input(&data.v, [k, j], layout));
            let layer = data.core().with_u(u.view()).unwrap().with_v(v.view()).unwrap();
            check(&layer, &data, &format!("U and V {name}"), &mut pairs, kind);
        }
    }
}

fn strided_factors<T: Element>() {
    let mut pairs = Pairs::default();
    let [i, j, k, rank] = [13, 22, 7, 18];
    for n in ROWS {
        let data = Cp::<T>::uniform([n, i, j, k, rank], 5);
        for (kind, (name, layout)) in Layout::all().into_iter().enumerate() {
            let a = Embedded::input(&data.a, [k, rank], layout);
            let (b, c) = (Embedded::input(&data.b, [i, rank], layout), Embedded::input(&data.c, [j, rank], layout));
            let layer = Interaction::cp(a.view(), b.view(), c.view()).unwrap();
            check(&layer, &data.rest, &format!("factors {name}"), &mut pairs, kind);
        }
    }
}

/// A prepared layer owns its weights: the originals may go.
#[test]
fn owned() {
    let prepared = {
        let data = Dense::<f32>::integers([1, 3, 4, 2], 1);
        data.layer().prepare().unwrap()
    };
    let data = Dense::<f32>::integers([1, 3, 4, 2], 1);
    let expected = data.layer().forward(data.z(), data.x()).unwrap();
    let copy = prepared.clone();
    assert_eq!(copy.layer().forward(data.z(), data.x()).unwrap(), expected);
    // It can be sent to another thread.
    let moved = std::thread::scope(|scope| scope.spawn(move || prepared.layer().forward(data.z(), data.x())).join());
    assert_eq!(moved.unwrap().unwrap(), expected);
}

for_each_dtype!(contiguous, cp, strided_w, strided_linear_terms, strided_factors);

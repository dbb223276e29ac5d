//! Every mistake with gradients and tangents is the error that names it, and is found before anything is written.

mod common;

use common::case::{Case, Form, Laid};
use trilinear::{Error, Gradient, Interaction, Result, Saved, Tangents, Tensor, View, Wanted, WantedFactors};

/// G (or N), M, I, J, K, R: all different.
const SIZES: [usize; 6] = [5, 6, 3, 4, 2, 7];

#[track_caller]
fn assert_shape<V>(result: Result<V>, operand: &'static str, axis: &'static str, expected: usize, actual: usize) {
    assert_eq!(result.err(), Some(Error::Shape { operand, axis, expected, actual }));
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<f32, D> {
    Tensor::zeros(shape).unwrap()
}

fn cases([g, m, i, j, k, r]: [usize; 6]) -> Vec<Case<f32>> {
    Form::ALL.into_iter().map(|form| Case::uniform(form, [g, m, i, j, k, r], 1)).collect()
}

/// A batch of N = G.
fn plain() -> Vec<Case<f32>> {
    cases([SIZES[0], 1, SIZES[2], SIZES[3], SIZES[4], SIZES[5]])
}

#[test]
fn operands() {
    let [n, _, i, j, k, _] = SIZES;
    for case in plain() {
        let laid = case.laid(0);
        let (layer, z, x, g) = (laid.layer(), laid.z.view(), laid.x.view(), laid.g.view());
        let of = |z: [usize; 2], x: [usize; 2], g: [usize; 2]| {
            layer.backward(zeros(z).view(), zeros(x).view(), zeros(g).view())
        };
        assert_shape(of([n, i + 1], [n, j], [n, k]), "z", "features", i, i + 1);
        assert_shape(of([n, i], [n, i], [n, k]), "x", "features", j, i);
        assert_shape(of([n + 1, i], [n, j], [n, k]), "z", "rows", n, n + 1);
        assert_shape(of([n, i], [n, j], [n + 1, k]), "g", "rows", n, n + 1);
        assert_shape(of([n, i], [n, j], [n, k + 1]), "g", "outputs", k, k + 1);
        assert_shape(of([n, i], [n, j], [k, n]), "g", "rows", n, k);
        assert_shape(of([0, i], [0, j], [1, k]), "g", "rows", 0, 1);
        // The reference refuses the same.
        let wrong = zeros([n, k + 1]);
        assert_shape(trilinear::reference::backward(&layer, z, x, wrong.view()), "g", "outputs", k, k + 1);
        assert_shape(layer.backward_into(z, g, g, Wanted::default()), "x", "features", j, k);
        assert_eq!(layer.backward_into(z, x, g, Wanted::default()), Ok(()));
    }
}

#[test]
fn operands_of_shared_contexts() {
    let [g, m, i, j, k, _] = SIZES;
    for case in cases(SIZES) {
        let laid = case.laid(0);
        let layer = laid.layer();
        let of = |z: [usize; 2], x: [usize; 3], g: [usize; 3]| {
            layer.backward_shared(zeros(z).view(), zeros(x).view(), zeros(g).view())
        };
        assert_shape(of([g, i + 1], [g, m, j], [g, m, k]), "z", "features", i, i + 1);
        assert_shape(of([g, i], [g, m, j + 1], [g, m, k]), "x", "features", j, j + 1);
        assert_shape(of([g + 1, i], [g, m, j], [g, m, k]), "z", "groups", g, g + 1);
        assert_shape(of([g, i], [g, m, j], [g + 1, m, k]), "g", "groups", g, g + 1);
        assert_shape(of([g, i], [g, m, j], [g, m + 1, k]), "g", "rows", m, m + 1);
        assert_shape(of([g, i], [g, m, j], [g, m, k + 1]), "g", "outputs", k, k + 1);
        let of = |z: [usize; 2], weights: [usize; 3], bias: [usize; 2]| {
            layer.backward_generate(zeros(z).view(), zeros(weights).view(), zeros(bias).view())
        };
        assert_shape(of([g, i + 1], [g, k, j], [g, k]), "z", "features", i, i + 1);
        assert_shape(of([g, i], [g + 1, k, j], [g, k]), "weights", "groups", g, g + 1);
        assert_shape(of([g, i], [g, k + 1, j], [g, k]), "weights", "outputs", k, k + 1);
        assert_shape(of([g, i], [g, k, j + 1], [g, k]), "weights", "features", j, j + 1);
        assert_shape(of([g, i], [g, k, j], [g + 1, k]), "bias", "groups", g, g + 1);
        assert_shape(of([g, i], [g, k, j], [g, k + 1]), "bias", "outputs", k, k + 1);
    }
}

/// One destination of the wrong shape, of which nothing may be written, nor of the others.
macro_rules! refused {
    ($call:expr, $right:expr, $shape:expr, $field:ident, $($error:expr),+) => {
        refused!($call, $right, $shape, |wanted, to| wanted.$field = to, $($error),+)
    };
    ($call:expr, $right:expr, $shape:expr, |$wanted:ident, $to:ident| $set:expr, $($error:expr),+) => {{
        let mut right = zeros($right);
        let mut wrong = zeros($shape);
        let mut $wanted = Wanted { z: Some(Gradient::write(right.view_mut())), ..Wanted::default() };
        let $to = Some(Gradient::write(wrong.view_mut()));
        $set;
        assert_shape($call($wanted), $($error),+);
        assert!(right.as_slice().iter().chain(wrong.as_slice()).all(|&value| value == 0.0));
    }};
}

#[test]
fn destinations() {
    let [n, _, i, j, k, r] = SIZES;
    for case in plain() {
        let laid = case.laid(0);
        let rank = if case.form.is_cp() { r } else { 0 };
        let call =
            |wanted: Wanted<'_, f32>| laid.layer().backward_into(laid.z.view(), laid.x.view(), laid.g.view(), wanted);
        let z = [n, i];
        refused!(call, z, [n + 1, i], z, "dz", "rows", n, n + 1);
        refused!(call, z, [n, j], z, "dz", "features", i, j);
        refused!(call, z, [n - 1, j], x, "dx", "rows", n, n - 1);
        refused!(call, z, [n, i], x, "dx", "features", j, i);
        refused!(call, z, [n + 1, i], tied, "dz + dx", "rows", n, n + 1);
        refused!(call, z, [n, j], tied, "dz + dx", "features", i, j);
        // Of the right shape, but x is not z's.
        refused!(call, z, [n, i], tied, "x", "features", i, j);
        refused!(call, z, [k + 1, i, j], w, "dw", "outputs", k, k + 1);
        refused!(call, z, [k, j, i], w, "dw", "z features", i, j);
        refused!(call, z, [k, i, j - 1], w, "dw", "x features", j, j - 1);
        refused!(call, z, [i, k], u, "du", "outputs", k, i);
        refused!(call, z, [k, j], u, "du", "features", i, j);
        refused!(call, z, [k + 1, j], v, "dv", "outputs", k, k + 1);
        refused!(call, z, [k, i], v, "dv", "features", j, i);
        refused!(call, z, [k + 3], b, "db", "outputs", k, k + 3);
        // The rank of what is not CP counts as 0.
        refused!(call, z, [k + 1, r], |wanted, to| wanted.cp.a = to, "da", "outputs", k, k + 1);
        refused!(call, z, [k, r + 1], |wanted, to| wanted.cp.a = to, "da", "rank", rank, r + 1);
        refused!(call, z, [j, r], |wanted, to| wanted.cp.b = to, "db of cp", "features", i, j);
        refused!(call, z, [i, r + 1], |wanted, to| wanted.cp.b = to, "db of cp", "rank", rank, r + 1);
        refused!(call, z, [i, r], |wanted, to| wanted.cp.c = to, "dc", "features", j, i);
        refused!(call, z, [j, 1], |wanted, to| wanted.cp.c = to, "dc", "rank", rank, 1);
        refused!(call, z, [r + 2], |wanted, to| wanted.cp.lambda = to, "dlambda", "rank", rank, r + 2);
        let none = WantedFactors { lambda: None, ..WantedFactors::default() };
        assert_eq!(call(Wanted { cp: none, ..Wanted::default() }), Ok(()));
    }
}

#[test]
fn destinations_of_shared_contexts() {
    let [g, m, i, j, k, r] = SIZES;
    for case in cases(SIZES) {
        let laid = case.laid(0);
        let rank = if case.form.is_cp() { r } else { 0 };
        let z = [g, i];
        let call = |wanted: Wanted<'_, f32, 3>| {
            laid.layer().backward_shared_into(laid.z.view(), laid.x_shared.view(), laid.g_shared.view(), wanted)
        };
        refused!(call, z, [g * m, i], z, "dz", "rows", g, g * m);
        refused!(call, z, [g + 1, m, j], x, "dx", "groups", g, g + 1);
        refused!(call, z, [g, m + 1, j], x, "dx", "rows", m, m + 1);
        refused!(call, z, [g, m, j + 1], x, "dx", "features", j, j + 1);
        refused!(call, z, [k, i, j + 1], w, "dw", "x features", j, j + 1);
        refused!(call, z, [k, i + 1], u, "du", "features", i, i + 1);
        refused!(call, z, [k, j + 1], v, "dv", "features", j, j + 1);
        refused!(call, z, [k + 1], b, "db", "outputs", k, k + 1);
        refused!(call, z, [j, r + 1], |wanted, to| wanted.cp.c = to, "dc", "rank", rank, r + 1);
        let call = |wanted: Wanted<'_, f32>| {
            laid.layer().backward_generate_into(laid.z.view(), laid.weights.view(), laid.bias.view(), wanted)
        };
        refused!(call, z, [g + 1, i], z, "dz", "rows", g, g + 1);
        refused!(call, z, [k, i + 1, j], w, "dw", "z features", i, i + 1);
        refused!(call, z, [k + 1, i], u, "du", "outputs", k, k + 1);
        refused!(call, z, [k, j + 1], v, "dv", "features", j, j + 1);
        refused!(call, z, [k + 1], b, "db", "outputs", k, k + 1);
        refused!(call, z, [i, r + 1], |wanted, to| wanted.cp.b = to, "db of cp", "rank", rank, r + 1);
    }
}

/// What was saved of another batch or rank, whatever the layer's form.
#[test]
fn saved() {
    let [n, _, i, j, k, r] = SIZES;
    let call = |laid: &Laid<'_, f32>, saved: &Saved<f32>| {
        let wanted = Wanted { saved: Some(saved), ..Wanted::default() };
        laid.layer().backward_into(laid.z.view(), laid.x.view(), laid.g.view(), wanted)
    };
    for case in plain() {
        assert_shape(call(&case.laid(0), &Saved::default()), "saved", "rows", n, 0);
        let mut saved = Saved::default();
        let laid = case.laid(0);
        laid.layer().forward_saving(laid.z.view(), laid.x.view(), &mut saved).unwrap();
        assert_eq!(call(&laid, &saved), Ok(()));
        let longer = Case::<f32>::uniform(case.form, [n + 1, 1, i, j, k, r], 1);
        assert_shape(call(&longer.laid(0), &saved), "saved", "rows", n + 1, n);
        let other = if case.form.is_cp() { Form::Linear } else { Form::Cp };
        let (expected, actual) = if case.form.is_cp() { (0, r) } else { (r, 0) };
        let other = Case::<f32>::uniform(other, [n, 1, i, j, k, r], 1);
        assert_shape(call(&other.laid(0), &saved), "saved", "rank", expected, actual);
        // A failed call leaves what was saved.
        let before = saved.clone();
        assert_shape(laid.layer().forward_saving(laid.x.view(), laid.z.view(), &mut saved), "z", "features", i, j);
        let mut y = zeros([n, k + 1]);
        let error = laid.layer().forward_saving_into(laid.z.view(), laid.x.view(), y.view_mut(), &mut saved);
        assert_shape(error, "y", "outputs", k, k + 1);
        assert!(saved == before);
    }
}

#[test]
fn tangents() {
    let [n, _, i, j, k, r] = SIZES;
    for case in plain() {
        let laid = case.laid(0);
        let (dense, cp, lambda) = (case.form == Form::Dense, case.form.is_cp(), case.form == Form::CpLambda);
        let none = Tangents::default();
        let of = |tangents: Tangents<'_, f32>| laid.layer().tangent(laid.z.view(), laid.x.view(), &tangents);
        let [matrix, cube, vector] = [[n, j + 1, 1], [k, i, j + 1], [k + 1, 1, 1]].map(zeros);
        let two = View::new(matrix.as_slice(), [n, j + 1]).unwrap();
        let one = View::new(vector.as_slice(), [k + 1]).unwrap();
        assert_shape(of(Tangents { z: Some(two), ..none }), "tangent of z", "features", i, j + 1);
        assert_shape(of(Tangents { x: Some(two), ..none }), "tangent of x", "features", j, j + 1);
        assert_shape(of(Tangents { u: Some(two), ..none }), "tangent of u", "outputs", k, n);
        assert_shape(of(Tangents { v: Some(two), ..none }), "tangent of v", "outputs", k, n);
        assert_shape(of(Tangents { b: Some(one), ..none }), "tangent of b", "outputs", k, k + 1);
        // Weights that the layer does not have count as of length 0.
        let w = Tangents { w: Some(cube.view()), ..none };
        match dense {
            true => assert_shape(of(w), "tangent of w", "x features", j, j + 1),
            false => assert_shape(of(w), "tangent of w", "outputs", 0, k),
        }
        let length = |present: bool, length: usize| if present { length } else { 0 };
        assert_shape(of(Tangents { cp_a: Some(two), ..none }), "tangent of a", "outputs", length(cp, k), n);
        assert_shape(of(Tangents { cp_b: Some(two), ..none }), "tangent of b of cp", "features", length(cp, i), n);
        assert_shape(of(Tangents { cp_c: Some(two), ..none }), "tangent of c", "features", length(cp, j), n);
        assert_shape(of(Tangents { lambda: Some(one), ..none }), "tangent of lambda", "rank", length(lambda, r), k + 1);
        let core = Case { linear: false, ..case.clone() };
        let core = core.laid(0);
        let of = |tangents| core.layer().tangent(core.z.view(), core.x.view(), &tangents);
        assert_shape(of(Tangents { u: Some(laid.u.view()), ..none }), "tangent of u", "outputs", 0, k);
        assert_shape(of(Tangents { b: Some(laid.b.view()), ..none }), "tangent of b", "outputs", 0, k);
        let into = |shape: [usize; 2]| {
            let mut to = zeros(shape);
            laid.layer().tangent_into(laid.z.view(), laid.x.view(), &none, Gradient::write(to.view_mut()))
        };
        assert_shape(into([n + 1, k]), "tangent", "rows", n, n + 1);
        assert_shape(into([n, k + 1]), "tangent", "outputs", k, k + 1);
        assert_eq!(into([n, k]), Ok(()));
        let error = laid.layer().tangent(laid.x.view(), laid.x.view(), &none);
        assert_shape(error, "z", "features", i, j);
    }
}

/// Sizes that no memory has: refused, not computed, and no panic.
#[test]
fn too_large() {
    let one = [0.0f32];
    let layer = Interaction::<f32>::linear(1, 1, 1).unwrap();
    let rows = |n| View::strided(&one, 0, [n, 1], [0, 0]).unwrap();
    let vast = usize::MAX;
    assert_eq!(layer.backward(rows(vast), rows(vast), rows(vast)).err(), Some(Error::TooLarge { what: "an axis" }));
    let error = layer.tangent(rows(vast), rows(vast), &Tangents::default()).err();
    assert_eq!(error, Some(Error::TooLarge { what: "an axis" }));
    let cubes = |n| View::strided(&one, 0, [1, n, 1], [0, 0, 0]).unwrap();
    let error = layer.backward_shared(rows(1), cubes(vast), cubes(vast)).err();
    assert_eq!(error, Some(Error::TooLarge { what: "an axis" }));
    let groups = View::strided(&one, 0, [vast, 1, 1], [0, 0, 0]).unwrap();
    let error = layer.backward_generate(rows(vast), groups, rows(vast)).err();
    assert_eq!(error, Some(Error::TooLarge { what: "an axis" }));
}

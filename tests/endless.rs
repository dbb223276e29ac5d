//! Axes of 2^40 beside empty ones: where results and sums are small or empty, a call ends at once.

mod common;

use std::cell::Cell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use trilinear::{
    Context, Device, Error, Gradient, Interaction, Plan, Reduction, SimdLevel, Tangents, View, ViewMut, Wanted,
    WantedFactors, reference,
};

const HUGE: usize = 1 << 40;
static ONE: [f32; 1] = [1.0];

/// Ones, all of which are the same element if there are any.
fn ones<const D: usize>(shape: [usize; D]) -> View<'static, f32, D> {
    View::strided(&ONE, 0, shape, [0; D]).unwrap()
}

fn product(lengths: &[usize]) -> usize {
    lengths.iter().fold(1, |product: usize, &len| product.saturating_mul(len)) * usize::from(!lengths.contains(&0))
}

/// Whether so many elements, each of them a sum of so many terms, take no time.
fn short(elements: usize, terms: usize) -> bool {
    elements <= 10_000 && elements.saturating_mul(terms) <= 1_000_000
}

/// The rank if W is in CP form, which of U and V there are.
#[derive(Clone, Copy, Debug)]
struct Form {
    core: Core,
    u: bool,
    v: bool,
}

#[derive(Clone, Copy, Debug)]
enum Core {
    Absent,
    Dense,
    Cp(usize),
}

impl Form {
    fn all() -> impl Iterator<Item = Form> {
        let cores = [Core::Absent, Core::Dense, Core::Cp(0), Core::Cp(2), Core::Cp(HUGE)];
        let both = [false, true];
        cores.into_iter().flat_map(move |core| both.into_iter().flat_map(move |u| both.map(|v| Form { core, u, v })))
    }

    /// The layer of ones, unless W has more elements than there are addresses.
    fn layer(self, context: Context, [k, i, j]: [usize; 3]) -> Option<Interaction<'static, f32>> {
        let layer = match self.core {
            Core::Absent => Interaction::linear(k, i, j),
            Core::Dense => Interaction::dense(ones([k, i, j])),
            Core::Cp(r) => Interaction::cp(ones([k, r]), ones([i, r]), ones([j, r])),
        };
        let layer = match layer {
            Err(Error::TooLarge { .. }) => return None,
            layer => layer.unwrap().with_context(context),
        };
        let layer = if self.u { layer.with_u(ones([k, i])).unwrap() } else { layer };
        Some(if self.v { layer.with_v(ones([k, j])).unwrap() } else { layer })
    }

    /// Elements of W, and terms of each.
    fn rank(self) -> usize {
        match self.core {
            Core::Absent => 0,
            Core::Dense => 1,
            Core::Cp(r) => r,
        }
    }

    /// Terms of y: of W, U and V.
    fn terms(self, i: usize, j: usize) -> usize {
        let linear = i * usize::from(self.u) + j * usize::from(self.v);
        product(&[self.rank(), i, j]).saturating_add(linear)
    }
}

/// Runs `calls`, which names each of them before it begins, and fails if one does not end.
fn watched(calls: impl FnOnce(&dyn Fn(String)) + Send + 'static) {
    let (say, said) = mpsc::channel();
    let calls = thread::spawn(move || calls(&|what| say.send(what).unwrap()));
    let mut last = String::new();
    loop {
        match said.recv_timeout(Duration::from_secs(20)) {
            Ok(what) => last = what,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {last}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(calls.join().is_ok(), "{last}");
}

fn sizes<const D: usize>(lengths: [&[usize]; D]) -> Vec<[usize; D]> {
    let mut all = vec![[0; D]];
    for (axis, lengths) in lengths.into_iter().enumerate() {
        all = all
            .into_iter()
            .flat_map(|sizes| lengths.iter().map(move |&len| (sizes, len)))
            .map(|(mut sizes, len)| {
                sizes[axis] = len;
                sizes
            })
            .collect();
    }
    all
}

const AXIS: [usize; 3] = [0, 3, HUGE];

/// A destination of this shape, NaN all over; what is written must be `value`.
fn written<const D: usize>(
    what: &str,
    shape: [usize; D],
    value: usize,
    call: impl FnOnce(ViewMut<'_, f32, D>) -> Result<(), Error>,
) {
    let mut to = vec![f32::NAN; product(&shape)];
    call(ViewMut::new(&mut to, shape).unwrap()).unwrap();
    assert!(to.iter().all(|&to| to == value as f32), "{what}: {:?} for {value}", to.first());
}

fn none<'a, const D: usize>() -> Wanted<'a, f32, D> {
    Wanted::default()
}

fn factors<'a>() -> WantedFactors<'a, f32> {
    WantedFactors::default()
}

fn of_cp<const D: usize>(cp: WantedFactors<'_, f32>) -> Wanted<'_, f32, D> {
    Wanted { cp, ..none() }
}

/// A device's plan may be that the result does not fit in its grid or its memory.
fn planned(context: Context, plan: Result<Plan, Error>) {
    match plan {
        Err(Error::TooLarge { .. }) if context.device() != Device::Cpu => {}
        plan => drop(plan.unwrap()),
    }
}

/// Every case, on a device that takes a while for each call one of many.
fn some(context: Context) -> bool {
    thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });
    let step = if context.device() == Device::Cpu || common::cuda::takes(1 << 20) { 1 } else { 17 };
    COUNT.replace(COUNT.get() + 1).is_multiple_of(step)
}

fn batch(context: Context, say: &dyn Fn(String)) {
    for [n, k, i, j] in sizes([&[0, 3, 40, HUGE], &AXIS, &AXIS, &AXIS]) {
        for form in Form::all().filter(|_| some(context)) {
            let what = |call: &str| {
                let what = format!("{call}: n {n} k {k} i {i} j {j} {form:?} {}", context.simd());
                say(what.clone());
                what
            };
            let Some(layer) = form.layer(context, [k, i, j]) else { continue };
            let (z, x, g) = (ones([n, i]), ones([n, j]), ones([n, k]));
            what("plan");
            planned(context, layer.plan(n));
            let terms = form.terms(i, j);
            if short(product(&[n, k]), terms) {
                written(&what("forward"), [n, k], terms, |y| layer.forward_into(z, x, y));
                let exact = (what("reference"), reference::forward(&layer, z, x).unwrap()).1;
                assert!(exact.value.as_slice().iter().all(|&y| y == terms as f64));
                let tangents = Tangents { z: Some(z), x: Some(x), ..Tangents::default() };
                let moved = terms.saturating_add(product(&[form.rank(), i, j]));
                written(&what("tangent"), [n, k], moved, |to| layer.tangent_into(z, x, &tangents, Gradient::write(to)));
                written(&what("no tangent"), [n, k], 0, |to| {
                    layer.tangent_into(z, x, &Tangents::default(), Gradient::write(to))
                });
                what("reference::tangent");
                match reference::tangent(&layer, z, x, &tangents) {
                    Ok(exact) => assert!(exact.value.as_slice().iter().all(|&y| y == moved as f64)),
                    // It copies the operands.
                    Err(error) => {
                        assert!(matches!(error, Error::OutOfMemory { .. } | Error::TooLarge { .. }), "{error}")
                    }
                }
            }
            let rank = form.rank();
            let of_z = product(&[k, j, rank]).saturating_add(if form.u { k } else { 0 });
            let of_x = product(&[k, i, rank]).saturating_add(if form.v { k } else { 0 });
            macro_rules! gradient {
                ($name:expr, $shape:expr, $terms:expr, |$to:ident| $wanted:expr) => {
                    if short(product(&$shape), $terms) {
                        written(&what($name), $shape, $terms, |$to| {
                            let $to = Some(Gradient::write($to));
                            layer.backward_into(z, x, g, $wanted)
                        });
                    }
                };
            }
            gradient!("dz", [n, i], of_z, |z| Wanted { z, ..none() });
            gradient!("dx", [n, j], of_x, |x| Wanted { x, ..none() });
            if i == j {
                gradient!("dz + dx", [n, i], of_z.saturating_add(of_x), |tied| Wanted { tied, ..none() });
            }
            gradient!("dw", [k, i, j], n, |w| Wanted { w, ..none() });
            gradient!("du", [k, i], n, |u| Wanted { u, ..none() });
            gradient!("dv", [k, j], n, |v| Wanted { v, ..none() });
            gradient!("db", [k], n, |b| Wanted { b, ..none() });
            let Some(r) = layer.rank() else { continue };
            gradient!("da", [k, r], product(&[n, i, j]), |a| of_cp(WantedFactors { a, ..factors() }));
            gradient!("db of cp", [i, r], product(&[n, k, j]), |b| of_cp(WantedFactors { b, ..factors() }));
            gradient!("dc", [j, r], product(&[n, k, i]), |c| of_cp(WantedFactors { c, ..factors() }));
            gradient!("dlambda", [r], product(&[n, k, i, j]), |lambda| of_cp(WantedFactors { lambda, ..factors() }));
        }
    }
}

fn contexts_and_layers(context: Context, say: &dyn Fn(String)) {
    for [groups, rows, k, i, j] in sizes([&[0, 2, HUGE], &AXIS, &AXIS, &AXIS, &AXIS]) {
        for form in Form::all().filter(|_| some(context)) {
            let what = |call: &str| {
                let what = format!("{call}: g {groups} m {rows} k {k} i {i} j {j} {form:?} {}", context.simd());
                say(what.clone());
                what
            };
            let Some(layer) = form.layer(context, [k, i, j]) else { continue };
            let (z, x, g) = (ones([groups, i]), ones([groups, rows, j]), ones([groups, rows, k]));
            what("plan_shared");
            planned(context, layer.plan_shared(groups, rows));
            let terms = form.terms(i, j);
            if short(product(&[groups, rows, k]), terms) {
                written(&what("forward_shared"), [groups, rows, k], terms, |y| layer.forward_shared_into(z, x, y));
            }
            let rank = form.rank();
            let n = product(&[groups, rows]);
            let of_z = product(&[rows, product(&[k, j, rank]).saturating_add(if form.u { k } else { 0 })]);
            let of_x = product(&[k, i, rank]).saturating_add(if form.v { k } else { 0 });
            macro_rules! gradient {
                ($name:expr, $shape:expr, $terms:expr, |$to:ident| $wanted:expr) => {
                    if short(product(&$shape), $terms) {
                        written(&what($name), $shape, $terms, |$to| {
                            let $to = Some(Gradient::write($to));
                            layer.backward_shared_into(z, x, g, $wanted)
                        });
                    }
                };
            }
            gradient!("shared dz", [groups, i], of_z, |z| Wanted { z, ..none() });
            gradient!("shared dx", [groups, rows, j], of_x, |x| Wanted { x, ..none() });
            gradient!("shared dw", [k, i, j], n, |w| Wanted { w, ..none() });
            gradient!("shared du", [k, i], n, |u| Wanted { u, ..none() });
            gradient!("shared dv", [k, j], n, |v| Wanted { v, ..none() });
            gradient!("shared db", [k], n, |b| Wanted { b, ..none() });
            if let Some(r) = layer.rank() {
                gradient!("shared da", [k, r], product(&[n, i, j]), |a| of_cp(WantedFactors { a, ..factors() }));
                gradient!("shared db of cp", [i, r], product(&[n, k, j]), |b| of_cp(WantedFactors { b, ..factors() }));
                gradient!("shared dc", [j, r], product(&[n, k, i]), |c| of_cp(WantedFactors { c, ..factors() }));
                gradient!("shared dlambda", [r], product(&[n, k, i, j]), |lambda| {
                    of_cp(WantedFactors { lambda, ..factors() })
                });
            }
            if rows == 0 {
                generated(&layer, form, groups, &what);
            }
        }
    }
}

fn pairs(context: Context, say: &dyn Fn(String)) {
    for [p, s, t, k, i, j] in sizes([&[0, 2, HUGE], &[0, 3, HUGE], &AXIS, &[0, 2, HUGE], &AXIS, &AXIS]) {
        for form in Form::all().filter(|_| some(context)) {
            let what = |call: &str| {
                let what = format!("{call}: p {p} s {s} t {t} k {k} i {i} j {j} {form:?} {}", context.simd());
                say(what.clone());
                what
            };
            let Some(layer) = form.layer(context, [k, i, j]) else { continue };
            let (z, x, g) = (ones([p, s, i]), ones([p, t, j]), ones([p, s, t, k]));
            what("plan_pairs");
            planned(context, layer.plan_pairs(p, s, t));
            let terms = form.terms(i, j);
            if short(product(&[p, s, t, k]), terms) {
                written(&what("forward_pairs"), [p, s, t, k], terms, |y| layer.forward_pairs_into(z, x, y));
            }
            let all = product(&[p, terms]);
            if !form.u && !form.v && short(product(&[s, t, k]), all) && short(p, 1) {
                written(&what("forward_pairs_reduced"), [s, t, k], all, |y| {
                    layer.forward_pairs_reduced_into(z, x, Reduction::Sum, y)
                });
            }
            let rank = form.rank();
            let n = product(&[p, s, t]);
            let of_z = product(&[t, product(&[k, j, rank]).saturating_add(if form.u { k } else { 0 })]);
            let of_x = product(&[s, product(&[k, i, rank]).saturating_add(if form.v { k } else { 0 })]);
            macro_rules! gradient {
                ($name:expr, $shape:expr, $terms:expr, |$to:ident| $wanted:expr) => {
                    if short(product(&$shape), $terms) {
                        written(&what($name), $shape, $terms, |$to| {
                            let $to = Some(Gradient::write($to));
                            layer.backward_pairs_into(z, x, g, $wanted)
                        });
                    }
                };
            }
            gradient!("pairs dz", [p, s, i], of_z, |z| Wanted { z, ..Wanted::default() });
            gradient!("pairs dx", [p, t, j], of_x, |x| Wanted { x, ..Wanted::default() });
            gradient!("pairs dw", [k, i, j], n, |w| Wanted { w, ..Wanted::default() });
            gradient!("pairs du", [k, i], n, |u| Wanted { u, ..Wanted::default() });
            gradient!("pairs dv", [k, j], n, |v| Wanted { v, ..Wanted::default() });
            gradient!("pairs db", [k], n, |b| Wanted { b, ..Wanted::default() });
            if let Some(r) = layer.rank() {
                fn cp(cp: WantedFactors<'_, f32>) -> Wanted<'_, f32, 3, 3> {
                    Wanted { cp, ..Wanted::default() }
                }
                gradient!("pairs da", [k, r], product(&[n, i, j]), |a| cp(WantedFactors { a, ..factors() }));
                gradient!("pairs db of cp", [i, r], product(&[n, k, j]), |b| cp(WantedFactors { b, ..factors() }));
                gradient!("pairs dc", [j, r], product(&[n, k, i]), |c| cp(WantedFactors { c, ..factors() }));
                gradient!("pairs dlambda", [r], product(&[n, k, i, j]), |lambda| cp(WantedFactors {
                    lambda,
                    ..factors()
                }));
            }
        }
    }
}

/// `generate` and its gradients.
fn generated(layer: &Interaction<'_, f32>, form: Form, groups: usize, what: &dyn Fn(&str) -> String) {
    let ([k, i, j], rank) = ([layer.outputs(), layer.z_features(), layer.x_features()], form.rank());
    let (z, dweights, dbias) = (ones([groups, i]), ones([groups, k, j]), ones([groups, k]));
    let terms = [product(&[rank, i]).saturating_add(usize::from(form.v)), if form.u { i } else { 0 }];
    if short(product(&[groups, k, j]), terms[0]) && short(product(&[groups, k]), terms[1]) {
        written(&what("generate"), [groups, k, j], terms[0], |weights| {
            written("b'", [groups, k], terms[1], |bias| layer.generate_into(z, weights, bias));
            Ok(())
        });
    }
    macro_rules! gradient {
        ($name:expr, $shape:expr, $terms:expr, |$to:ident| $wanted:expr) => {
            if short(product(&$shape), $terms) {
                written(&what($name), $shape, $terms, |$to| {
                    let $to = Some(Gradient::write($to));
                    layer.backward_generate_into(z, dweights, dbias, $wanted)
                });
            }
        };
    }
    let of_z = product(&[k, j, rank]).saturating_add(if form.u { k } else { 0 });
    gradient!("generated dz", [groups, i], of_z, |z| Wanted { z, ..none() });
    gradient!("generated dw", [k, i, j], groups, |w| Wanted { w, ..none() });
    gradient!("generated du", [k, i], groups, |u| Wanted { u, ..none() });
    gradient!("generated dv", [k, j], groups, |v| Wanted { v, ..none() });
    gradient!("generated db", [k], groups, |b| Wanted { b, ..none() });
    let Some(r) = layer.rank() else { return };
    gradient!("generated da", [k, r], product(&[groups, i, j]), |a| of_cp(WantedFactors { a, ..factors() }));
    gradient!("generated db of cp", [i, r], product(&[groups, k, j]), |b| of_cp(WantedFactors { b, ..factors() }));
    gradient!("generated dc", [j, r], product(&[groups, k, i]), |c| of_cp(WantedFactors { c, ..factors() }));
    gradient!("generated dlambda", [r], product(&[groups, k, i, j]), |lambda| of_cp(WantedFactors {
        lambda,
        ..factors()
    }));
}

fn whole(context: Context, say: &dyn Fn(String)) {
    for [k, i, j] in sizes([&AXIS, &AXIS, &AXIS]) {
        for form in Form::all() {
            let Some(layer) = form.layer(context, [k, i, j]) else { continue };
            if short(product(&[k, i, j]), form.rank()) {
                say(format!("to_dense: {k} {i} {j} {form:?}"));
                let w = layer.to_dense().unwrap();
                assert!(w.as_slice().iter().all(|&w| w == form.rank() as f32));
            }
            let factors =
                layer.rank().map_or(0, |r| [k, i, j].map(|len| product(&[len, r])).into_iter().max().unwrap());
            let linear =
                [(form.u, [k, i]), (form.v, [k, j])].map(|(there, shape)| if there { product(&shape) } else { 0 });
            let dense = if layer.rank().is_none() { product(&[k, i, j, form.rank()]) } else { 0 };
            if [factors, linear[0], linear[1], dense].iter().all(|&len| short(len, 1)) {
                say(format!("prepare: {k} {i} {j} {form:?}"));
                layer.prepare().unwrap();
            }
        }
    }
}

fn two_contexts() -> [Context; 2] {
    let one = Context::new(Device::Cpu).unwrap();
    [one.with_threads(1).unwrap(), one.with_simd(SimdLevel::Portable).unwrap().with_threads(2).unwrap()]
}

#[test]
fn huge_axes_beside_empty_ones_on_a_device() {
    let Some(context) = common::cuda::cuda() else { return };
    watched(move |say| batch(context, say));
    watched(move |say| pairs(context, say));
}

#[test]
fn huge_axes_beside_empty_ones() {
    for calls in [whole, batch, contexts_and_layers, pairs] {
        for context in two_contexts() {
            watched(move |say| calls(context, say));
        }
    }
}

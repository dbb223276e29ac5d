//! The derivative of y in a direction: against the definition, as the adjoint of the gradients, and with them as all that a
//! second backward pass needs.

mod common;

use common::case::{Case, Form, Operation, Options};
use common::layout::{Embedded, Layout};
use common::{Random, assert_close, assert_exact, assert_same, levels, ways};
use trilinear::reference::{self, Reference};
use trilinear::{Context, Device, Element, Gradient, Interaction, Tangents, Tensor, View, Wanted};

/// Directions: which operands change. Bits of a mask, in the order of the fields of [`Tangents`].
const ALL: u16 = (1 << 10) - 1;

/// Those of `mask` that the layer of `case` has, from the operands of `directions`.
fn tangents<'a, T: Element>(mask: u16, case: &Case<T>, directions: &'a common::case::Laid<'_, T>) -> Tangents<'a, T> {
    let d = directions;
    let on = |bit: u16, present: bool| mask >> bit & 1 == 1 && present;
    let (linear, cp) = (case.linear, case.form.is_cp());
    Tangents {
        z: on(0, true).then(|| d.z.view()),
        x: on(1, true).then(|| d.x.view()),
        w: on(2, case.form == Form::Dense).then(|| d.w.view()),
        u: on(3, linear).then(|| d.u.view()),
        v: on(4, linear).then(|| d.v.view()),
        b: on(5, linear).then(|| d.b.view()),
        cp_a: on(6, cp).then(|| d.factors[0].view()),
        cp_b: on(7, cp).then(|| d.factors[1].view()),
        cp_c: on(8, cp).then(|| d.factors[2].view()),
        lambda: on(9, case.form == Form::CpLambda).then(|| d.lambda.view()),
    }
}

/// [N, I, J, K, R]: around tiles, strips and blocks; and 0 and 1.
fn shapes() -> Vec<[usize; 5]> {
    let mut shapes = vec![
        [0, 3, 4, 2, 5],
        [3, 0, 4, 2, 5],
        [3, 4, 0, 2, 5],
        [3, 4, 5, 0, 2],
        [3, 4, 5, 2, 0],
        [1, 1, 1, 1, 1],
        [1, 40, 30, 20, 10],
        [2, 17, 33, 1, 3],
        [4, 16, 16, 16, 16],
        [5, 12, 24, 48, 32],
        [65, 17, 15, 9, 33],
        [200, 20, 12, 5, 7],
    ];
    if cfg!(miri) {
        return shapes;
    }
    for edge in [2, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 32, 33, 49, 65, 129, 257, 513] {
        shapes.extend([
            [edge, 5, 3, 2, 4],
            [3, edge, 4, 2, 5],
            [2, 4, edge, 3, 5],
            [6, 2, 3, edge, 4],
            [5, 3, 2, 4, edge],
        ]);
    }
    shapes
}

/// Calls and compares, written over NaN, or added to integers, amid a filler.
fn check<T: Element>(
    case: &Case<T>,
    directions: &Case<T>,
    (mask, layout, add): (u16, usize, bool),
    context: Context,
    integers: bool,
) {
    let [n, _, _, _, k, _] = case.sizes;
    let (laid, moved) = (case.laid(layout), directions.laid((layout + 1) % 8));
    let tangents = tangents(mask, case, &moved);
    let what = format!("{:?} {:?} {} {mask:b} {layout} {add} {}", case.form, case.sizes, T::DTYPE, context.simd());
    let x = if case.tied { laid.z.view() } else { laid.x.view() };
    let mut exact = reference::tangent(&laid.layer(), laid.z.view(), x, &tangents).unwrap();
    let there: Vec<T::Accumulator> = Random(3).integers(n * k, 4);
    let fill = T::Accumulator::from_f64(f64::NAN);
    let values = if add { there.clone() } else { vec![fill; n * k] };
    let mut to = Embedded::new(&values, [n, k], Layout::all()[layout].1, T::Accumulator::from_f64(77.0));
    let gradient = if add { Gradient::add(to.view_mut()) } else { Gradient::write(to.view_mut()) };
    laid.layer().with_context(context).tangent_into(laid.z.view(), x, &tangents, gradient).unwrap();
    if add {
        exact = exact.plus(&Reference::given(&there, [n, k]).unwrap()).unwrap();
    }
    let found = to.finish(&what);
    if integers {
        assert!(exact.magnitude.as_slice().iter().all(|&size| size < f64::from(1 << 24)), "{what}: too large");
        let unsigned: Vec<_> = found.iter().map(|v| T::Accumulator::from_f64(v.to_f64() + 0.0)).collect();
        assert_exact(&unsigned, &exact, &what);
    } else {
        assert_close(&found, &exact, &what);
    }
}

fn cases<T: Element>(form: Form, [n, i, j, k, r]: [usize; 5], seed: u64, integers: bool) -> [Case<T>; 2] {
    let make = if integers { Case::integers } else { Case::uniform };
    [make(form, [n, 1, i, j, k, r], seed), make(form, [n, 1, i, j, k, r], seed + 1000)]
}

/// Small integers, to the last bit: everything changes, and some of it.
fn integers<T: Element>() {
    let mut random = Random(2);
    for (seed, shape) in shapes().into_iter().enumerate() {
        for form in Form::ALL {
            let [case, directions] = cases::<T>(form, shape, seed as u64, true);
            let case = Case { linear: !(seed + form as usize).is_multiple_of(3), ..case };
            for context in ways(case.flops()) {
                check(&case, &directions, (ALL, 0, false), context, true);
                let mask = random.next() as u16 & ALL;
                check(&case, &directions, (mask, random.below(8), random.below(2) == 0), context, true);
            }
        }
    }
}

/// Each operand alone, each pair, and none (ẏ = 0), of every layout.
fn subsets<T: Element>() {
    for shape in [[6, 5, 7, 3, 9], [70, 9, 33, 2, 17], [2, 33, 17, 20, 8]] {
        for form in Form::ALL {
            let [case, directions] = cases::<T>(form, shape, 7, true);
            for context in ways(case.flops()) {
                let pairs = (0..10).flat_map(|a| (0..=a).map(move |b| 1u16 << a | 1 << b));
                for (index, mask) in pairs.chain([0]).enumerate() {
                    check(&case, &directions, (mask, index % 8, index % 3 == 0), context, true);
                }
            }
        }
    }
}

/// Any numbers, within the published bound.
fn bounds<T: Element>() {
    let mut random = Random(5);
    for shape in [[1, 20, 30, 4, 9], [40, 17, 19, 5, 33], [130, 9, 40, 3, 20], [3, 70, 35, 30, 90]] {
        for form in Form::ALL {
            let [case, directions] = cases::<T>(form, shape, 3, false);
            for context in ways(case.flops()) {
                check(&case, &directions, (ALL, 0, false), context, false);
                for _ in 0..4 {
                    check(&case, &directions, (random.next() as u16 & ALL, 0, true), context, false);
                }
            }
        }
    }
}

/// The same bits for any number of threads.
fn threads<T: Element>() {
    for shape in [[300, 40, 50, 60, 70], [40, 130, 100, 1, 90], [3, 120, 110, 50, 30]] {
        for form in Form::ALL {
            let [case, directions] = cases::<T>(form, shape, 3, false);
            let (laid, moved) = (case.laid(0), directions.laid(0));
            for &level in levels() {
                let context = Context::new(Device::Cpu).unwrap().with_simd(level).unwrap();
                let of = |threads| {
                    let layer = laid.layer().with_context(context.with_threads(threads).unwrap());
                    layer.tangent(laid.z.view(), laid.x.view(), &tangents(ALL, &case, &moved)).unwrap()
                };
                let one = of(1);
                for threads in [1, 2, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let many = pool.install(|| of(threads));
                    assert_same(
                        many.as_slice(),
                        one.as_slice(),
                        &format!("{form:?} {shape:?} {level} {threads} threads"),
                    );
                }
            }
        }
    }
}

for_each_dtype!(integers, subsets, bounds, threads);

/// ⟨g, ẏ⟩ = Σ ⟨gradient, direction⟩ of the engine's own results, exactly in integers: each is the other's transpose.
#[test]
fn is_the_adjoint_of_the_gradients() {
    for (seed, shape) in [[9, 5, 7, 3, 9], [70, 9, 13, 2, 17], [2, 33, 17, 20, 8]].into_iter().enumerate() {
        for form in Form::ALL {
            let [case, directions] = cases::<f64>(form, shape, seed as u64, true);
            let (laid, moved) = (case.laid(0), directions.laid(0));
            for context in ways(case.flops()) {
                let layer = laid.layer().with_context(context);
                let found = layer.tangent(laid.z.view(), laid.x.view(), &tangents(ALL, &case, &moved)).unwrap();
                let along: f64 = found.as_slice().iter().zip(&case.g).map(|(y, g)| y * g).sum();
                let gradients = layer.backward(laid.z.view(), laid.x.view(), laid.g.view()).unwrap();
                let d = &directions;
                let mut parts = vec![(gradients.z.as_slice(), &d.z), (gradients.x.as_slice(), &d.x)];
                parts.push((gradients.u.as_ref().unwrap().as_slice(), &d.u));
                parts.push((gradients.v.as_ref().unwrap().as_slice(), &d.v));
                parts.push((gradients.b.as_ref().unwrap().as_slice(), &d.b));
                parts.extend(gradients.w.as_ref().map(|w| (w.as_slice(), &d.w)));
                if let Some(cp) = &gradients.cp {
                    let [a, b, c] = &d.factors;
                    parts.extend([(cp.a.as_slice(), a), (cp.b.as_slice(), b), (cp.c.as_slice(), c)]);
                    parts.extend(cp.lambda.as_ref().map(|lambda| (lambda.as_slice(), &d.lambda)));
                }
                let dot = |(gradient, direction): (&[f64], &Vec<f64>)| -> f64 {
                    assert_eq!(gradient.len(), direction.len());
                    gradient.iter().zip(direction).map(|(a, b)| a * b).sum()
                };
                assert_eq!(along, parts.into_iter().map(dot).sum::<f64>(), "{form:?} {shape:?} {}", context.simd());
            }
        }
    }
}

/// What each of the second backward pass's results is compared with.
type Field = fn(&mut Case<f64>) -> &mut Vec<f64>;

/// φ(z, x, g, weights) = Σ ⟨cotangent, gradient⟩ over the gradients that a first backward pass gives.
fn phi(case: &Case<f64>, cotangents: &Case<f64>) -> f64 {
    let options = Options::new(Context::new(Device::Cpu).unwrap());
    let found = case.call(Operation::Plain, &options, "phi").unwrap();
    let of = |part| -> &[f64] {
        use common::case::Part;
        match part {
            Part::Z => &cotangents.z,
            Part::X => &cotangents.x,
            Part::W if case.form == Form::Dense => &cotangents.w,
            Part::U if case.linear => &cotangents.u,
            Part::V if case.linear => &cotangents.v,
            Part::B if case.linear => &cotangents.b,
            Part::FactorA => &cotangents.factors[0],
            Part::FactorB => &cotangents.factors[1],
            Part::FactorC => &cotangents.factors[2],
            Part::Lambda if case.form == Form::CpLambda => &cotangents.lambda,
            _ => &[],
        }
    };
    found.iter().map(|(part, values)| values.iter().zip(of(*part)).map(|(a, b)| a * b).sum::<f64>()).sum()
}

fn plus(to: &mut [f64], from: &[f64]) {
    assert_eq!(to.len(), from.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Double backward by public calls alone. φ = Σ ⟨p̄, ∂T/∂p⟩ with T = ⟨g, y⟩ is the derivative of T in the direction of the
/// cotangents p̄, which is ⟨g, ẏ⟩. So its gradient in g is a tangent. In any other operand q it is the derivative of
/// ∂T/∂q in the same direction: the sum of its gradients over layers in which one other operand is replaced by its
/// cotangent. It is checked against central differences of φ, which are exact, for y has degree one in each operand.
#[test]
fn double_backward() {
    for form in Form::ALL {
        for shape in [[4, 3, 5, 2, 6], [7, 5, 2, 4, 1]] {
            let [case, cotangents] = cases::<f64>(form, shape, 5, true);
            let (laid, moved) = (case.laid(0), cotangents.laid(0));
            let (z, x, g) = (laid.z.view(), laid.x.view(), laid.g.view());
            let layer = laid.layer();
            let mut result = case.clone();
            for (_, field) in all_fields(form) {
                field(&mut result).fill(0.0);
            }
            let tangent = layer.tangent(z, x, &tangents(ALL, &case, &moved)).unwrap();
            result.g.copy_from_slice(tangent.as_slice());

            let [_, _, i, j, k, _] = case.sizes;
            let core = |replaced: Option<usize>| -> Interaction<'_, f64> {
                let of = |index: usize| if replaced == Some(index) { &moved } else { &laid };
                let cp = || {
                    Interaction::cp(of(0).factors[0].view(), of(1).factors[1].view(), of(2).factors[2].view()).unwrap()
                };
                match form {
                    Form::Linear => Interaction::linear(k, i, j).unwrap(),
                    Form::Dense => Interaction::dense(of(0).w.view()).unwrap(),
                    Form::Cp => cp(),
                    Form::CpLambda => cp().with_lambda(of(3).lambda.view()).unwrap(),
                }
            };
            let mut add = |layer: Interaction<'_, f64>, z: View<'_, f64, 2>, x: View<'_, f64, 2>, skip: &[&str]| {
                let found = layer.backward(z, x, g).unwrap();
                let mut collect = |name: &str, to: Field, from: Option<&[f64]>| {
                    if let (false, Some(from)) = (skip.contains(&name), from) {
                        plus(to(&mut result), from);
                    }
                };
                collect("z", |c| &mut c.z, Some(found.z.as_slice()));
                collect("x", |c| &mut c.x, Some(found.x.as_slice()));
                collect("w", |c| &mut c.w, found.w.as_ref().map(Tensor::as_slice));
                collect("u", |c| &mut c.u, found.u.as_ref().map(Tensor::as_slice));
                collect("v", |c| &mut c.v, found.v.as_ref().map(Tensor::as_slice));
                if let Some(cp) = &found.cp {
                    collect("a", |c| &mut c.factors[0], Some(cp.a.as_slice()));
                    collect("b", |c| &mut c.factors[1], Some(cp.b.as_slice()));
                    collect("c", |c| &mut c.factors[2], Some(cp.c.as_slice()));
                    collect("lambda", |c| &mut c.lambda, cp.lambda.as_ref().map(Tensor::as_slice));
                }
            };
            // With z replaced, W and U are the terms that have z; their gradients in all but z. With x, W and V.
            add(core(None).with_u(laid.u.view()).unwrap(), moved.z.view(), x, &["z"]);
            add(core(None).with_v(laid.v.view()).unwrap(), z, moved.x.view(), &["x"]);
            // With U or V replaced, that term alone; with W or one of its factors, W's alone, in all but the one replaced.
            let linear = Interaction::linear(k, i, j).unwrap();
            add(linear.with_u(moved.u.view()).unwrap().with_v(moved.v.view()).unwrap(), z, x, &["u", "v"]);
            let names: &[&str] = match form {
                Form::Linear => &[],
                Form::Dense => &["w"],
                Form::Cp => &["a", "b", "c"],
                Form::CpLambda => &["a", "b", "c", "lambda"],
            };
            for (index, name) in names.iter().enumerate() {
                add(core(Some(index)), z, x, &[name]);
            }

            for (name, field) in all_fields(form) {
                let found = field(&mut result).clone();
                for (index, &found) in found.iter().enumerate() {
                    let shifted = |by: f64| {
                        let mut case = case.clone();
                        field(&mut case)[index] += by;
                        phi(&case, &cotangents)
                    };
                    assert_eq!((shifted(1.0) - shifted(-1.0)) / 2.0, found, "{form:?} {name} {index}");
                }
            }
        }
    }
}

/// All operands that φ depends on. (b is none of them: no gradient depends on it.)
fn all_fields(form: Form) -> Vec<(&'static str, Field)> {
    let mut fields: Vec<(&'static str, Field)> =
        vec![("g", |c| &mut c.g), ("z", |c| &mut c.z), ("x", |c| &mut c.x), ("u", |c| &mut c.u), ("v", |c| &mut c.v)];
    if form == Form::Dense {
        fields.push(("w", |c| &mut c.w));
    }
    if form.is_cp() {
        let factors: [(&'static str, Field); 3] =
            [("a", |c| &mut c.factors[0]), ("b", |c| &mut c.factors[1]), ("c", |c| &mut c.factors[2])];
        fields.extend(factors);
    }
    if form == Form::CpLambda {
        fields.push(("lambda", |c| &mut c.lambda));
    }
    fields
}

/// A tangent added twice, and gradients of a scalar of gradients: β = 1 collects them in the caller's memory.
#[test]
fn collected_in_place() {
    let [case, directions] = cases::<f32>(Form::Dense, [12, 5, 9, 4, 1], 3, true);
    let (laid, moved) = (case.laid(0), directions.laid(0));
    let layer = laid.layer();
    let (z, x) = (laid.z.view(), laid.x.view());
    let mut sum = Tensor::zeros([12, 4]).unwrap();
    for mask in [1, 2, 4, ALL - 7] {
        layer.tangent_into(z, x, &tangents(mask, &case, &moved), Gradient::add(sum.view_mut())).unwrap();
    }
    assert_eq!(sum, layer.tangent(z, x, &tangents(ALL, &case, &moved)).unwrap());
    let mut dw = Tensor::zeros([4, 5, 9]).unwrap();
    for (z, x) in [(moved.z.view(), x), (z, moved.x.view())] {
        let wanted = Wanted { w: Some(Gradient::add(dw.view_mut())), ..Wanted::default() };
        layer.backward_into(z, x, laid.g.view(), wanted).unwrap();
    }
    let one = layer.backward(moved.z.view(), x, laid.g.view()).unwrap().w.unwrap();
    let other = layer.backward(z, moved.x.view(), laid.g.view()).unwrap().w.unwrap();
    let expected: Vec<f32> = one.as_slice().iter().zip(other.as_slice()).map(|(a, b)| a + b).collect();
    assert_eq!(dw.as_slice(), expected);
}

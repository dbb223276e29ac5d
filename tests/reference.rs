//! The reference against itself: y is linear in each operand, so central differences of [`reference::forward`] are its
//! derivatives at any step, in integers exactly.

mod common;

use common::{Cp, Dense, Random};
use trilinear::{Generated, Interaction, Tangents, View, reference};

/// A layer of any form with its inputs, whose operands can be moved: `parts` lists them by name.
#[derive(Clone)]
struct Case {
    form: Form,
    cp: Cp<f64>,
    w: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dense,
    Linear,
    Cp,
}

impl Case {
    fn new(form: Form, [n, i, j, k, r]: [usize; 5]) -> Case {
        let dense = Dense::<f64>::integers([n, i, j, k], 3);
        let mut cp = Cp::<f64>::integers([n, i, j, k, r], 4);
        cp.rest = Dense { w: vec![], ..dense.clone() };
        Case { form, cp, w: dense.w }
    }

    fn parts(&mut self) -> Vec<(&'static str, &mut Vec<f64>)> {
        let Cp { a, b, c, lambda, rest, .. } = &mut self.cp;
        let mut parts =
            vec![("z", &mut rest.z), ("x", &mut rest.x), ("u", &mut rest.u), ("v", &mut rest.v), ("bias", &mut rest.b)];
        match self.form {
            Form::Linear => {}
            Form::Dense => parts.push(("w", &mut self.w)),
            Form::Cp => parts.extend([("a", a), ("b", b), ("c", c), ("lambda", lambda)]),
        }
        parts
    }

    fn layer(&self) -> Interaction<'_, f64> {
        let rest = &self.cp.rest;
        let [_, i, j, k] = rest.sizes;
        let layer = match self.form {
            Form::Linear => Interaction::linear(k, i, j).unwrap(),
            Form::Dense => Interaction::dense(View::new(&self.w, [k, i, j]).unwrap()).unwrap(),
            Form::Cp => self.cp.core(),
        };
        layer.with_u(rest.u()).unwrap().with_v(rest.v()).unwrap().with_b(rest.b()).unwrap()
    }

    /// T = Σ g·y, of y as `of` computes it.
    fn total(&self, g: &[f64], of: impl Fn(&Case) -> Vec<f64>) -> f64 {
        of(self).iter().zip(g).map(|(y, g)| y * g).sum()
    }

    /// (T(p + 1) − T(p − 1)) / 2 for each element of each part.
    fn differences(&self, g: &[f64], of: impl Fn(&Case) -> Vec<f64>) -> Vec<(&'static str, Vec<f64>)> {
        let names: Vec<_> = self.clone().parts().into_iter().map(|(name, values)| (name, values.len())).collect();
        let difference = |part: usize, index: usize| {
            let [above, below] = [1.0, -1.0].map(|by| {
                let mut case = self.clone();
                case.parts()[part].1[index] += by;
                case.total(g, &of)
            });
            (above - below) / 2.0
        };
        let of_part = |(part, (name, length))| (name, (0..length).map(|index| difference(part, index)).collect());
        names.into_iter().enumerate().map(of_part).collect()
    }
}

fn parts(exact: &reference::Gradients) -> Vec<(&'static str, &[f64])> {
    let mut parts =
        vec![("z", &exact.z), ("x", &exact.x), ("w", &exact.w), ("u", &exact.u), ("v", &exact.v), ("bias", &exact.b)];
    if let Some(cp) = &exact.cp {
        parts.extend([("a", &cp.a), ("b", &cp.b), ("c", &cp.c), ("lambda", &cp.lambda)]);
    }
    parts.into_iter().map(|(name, part)| (name, part.value.as_slice())).collect()
}

fn assert_equal(differences: Vec<(&'static str, Vec<f64>)>, exact: &reference::Gradients) {
    let exact = parts(exact);
    for (name, differences) in differences {
        let (_, exact) = exact.iter().find(|(other, _)| *other == name).unwrap();
        assert_eq!(&differences, exact, "{name}");
    }
}

const FORMS: [Form; 3] = [Form::Dense, Form::Linear, Form::Cp];

#[test]
fn gradients() {
    for form in FORMS {
        let case = Case::new(form, [5, 3, 4, 2, 6]);
        let g: Vec<f64> = Random(1).integers(5 * 2, 2);
        let y = |case: &Case| {
            let rest = &case.cp.rest;
            reference::forward(&case.layer(), rest.z(), rest.x()).unwrap().value.into_vec()
        };
        let rest = &case.cp.rest;
        let exact = reference::backward(&case.layer(), rest.z(), rest.x(), View::new(&g, [5, 2]).unwrap()).unwrap();
        assert_equal(case.differences(&g, y), &exact);
        // The gradient in W is the same whatever W is.
        let dense = Case::new(Form::Dense, [5, 3, 4, 2, 6]);
        let of_dense = reference::backward(&dense.layer(), rest.z(), rest.x(), View::new(&g, [5, 2]).unwrap()).unwrap();
        assert_eq!(exact.w, of_dense.w);
    }
}

/// Each z repeated for its rows.
#[test]
fn shared() {
    let [groups, rows, i, j, k] = [3, 4, 2, 5, 2];
    for form in FORMS {
        let mut case = Case::new(form, [groups * rows, i, j, k, 3]);
        case.cp.rest.z.truncate(groups * i);
        let g: Vec<f64> = Random(1).integers(groups * rows * k, 2);
        let y = |case: &Case| {
            let each: Vec<f64> = case.cp.rest.z.chunks(i).flat_map(|z| z.repeat(rows)).collect();
            let z = View::new(&each, [groups * rows, i]).unwrap();
            reference::forward(&case.layer(), z, case.cp.rest.x()).unwrap().value.into_vec()
        };
        let z = View::new(&case.cp.rest.z, [groups, i]).unwrap();
        let x = View::new(&case.cp.rest.x, [groups, rows, j]).unwrap();
        let exact = reference::backward_shared(&case.layer(), z, x, View::new(&g, [groups, rows, k]).unwrap()).unwrap();
        assert_equal(case.differences(&g, y), &exact);
    }
}

#[test]
fn generated() {
    let [groups, i, j, k] = [3, 4, 5, 2];
    for form in FORMS {
        let mut case = Case::new(form, [groups, i, j, k, 6]);
        case.cp.rest.x.clear();
        let g: Vec<f64> = Random(1).integers(groups * k * (j + 1), 2);
        let (weights, bias) = g.split_at(groups * k * j);
        // In integers the engine's own result is exact.
        let y = |case: &Case| {
            let Generated { weights, bias } = case.layer().generate(case.cp.rest.z()).unwrap();
            [weights.into_vec(), bias.into_vec()].concat()
        };
        let exact = reference::backward_generate(
            &case.layer(),
            case.cp.rest.z(),
            View::new(weights, [groups, k, j]).unwrap(),
            View::new(bias, [groups, k]).unwrap(),
        );
        assert_equal(case.differences(&g, y), &exact.unwrap());
    }
}

/// ⟨g, ẏ⟩ is ⟨gradient, direction⟩, for each operand alone and for all at once.
#[test]
fn tangents() {
    let [n, i, j, k, r] = [5, 3, 4, 2, 6];
    for form in FORMS {
        let case = Case::new(form, [n, i, j, k, r]);
        let rest = &case.cp.rest;
        let g: Vec<f64> = Random(1).integers(n * k, 2);
        let exact = reference::backward(&case.layer(), rest.z(), rest.x(), View::new(&g, [n, k]).unwrap()).unwrap();
        let mut directions = case.clone();
        let mut random = Random(9);
        for (_, values) in directions.parts() {
            *values = random.integers(values.len(), 2);
        }
        let names: Vec<&str> = directions.clone().parts().into_iter().map(|(name, _)| name).collect();
        let d = &directions;
        for only in names.iter().map(Some).chain([None]) {
            let wants = |name: &str| names.contains(&name) && only.is_none_or(|only| *only == name);
            let tangents = Tangents {
                z: wants("z").then(|| d.cp.rest.z()),
                x: wants("x").then(|| d.cp.rest.x()),
                w: wants("w").then(|| View::new(&d.w, [k, i, j]).unwrap()),
                u: wants("u").then(|| d.cp.rest.u()),
                v: wants("v").then(|| d.cp.rest.v()),
                b: wants("bias").then(|| d.cp.rest.b()),
                cp_a: wants("a").then(|| d.cp.a()),
                cp_b: wants("b").then(|| d.cp.b()),
                cp_c: wants("c").then(|| d.cp.c()),
                lambda: wants("lambda").then(|| View::vector(&d.cp.lambda)),
            };
            let tangent = reference::tangent(&case.layer(), rest.z(), rest.x(), &tangents).unwrap();
            let along: f64 = tangent.value.as_slice().iter().zip(&g).map(|(y, g)| y * g).sum();
            let expected: f64 = parts(&exact)
                .into_iter()
                .filter(|(name, _)| wants(name))
                .map(|(name, gradient)| {
                    let mut directions = directions.clone();
                    let parts = directions.parts();
                    let (_, direction) = parts.into_iter().find(|(other, _)| *other == name).unwrap();
                    gradient.iter().zip(direction.iter()).map(|(a, b)| a * b).sum::<f64>()
                })
                .sum();
            assert_eq!(along, expected, "{only:?}");
        }
    }
}

/// Sums of magnitudes are those of the terms, and of CP those of products of sums.
#[test]
fn magnitudes() {
    let mut case = Case::new(Form::Cp, [5, 3, 4, 2, 6]);
    for (_, values) in case.parts() {
        values.iter_mut().for_each(|value| *value = value.abs());
    }
    let rest = &case.cp.rest;
    let g: Vec<f64> = Random(1).integers::<f64>(5 * 2, 2).iter().map(|g| g.abs()).collect();
    let exact = reference::backward(&case.layer(), rest.z(), rest.x(), View::new(&g, [5, 2]).unwrap()).unwrap();
    let cp = exact.cp.as_ref().unwrap();
    for part in [&exact.z, &exact.x, &exact.w, &exact.u, &exact.v, &exact.b, &cp.a, &cp.b, &cp.c, &cp.lambda] {
        assert_eq!(part.value, part.magnitude);
    }
    assert_eq!((exact.z.depth, exact.x.depth), (2 + 4 + 6 + 4 + 2, 2 + 3 + 6 + 4 + 2));
    assert_eq!(
        (cp.a.depth, cp.b.depth, cp.c.depth, cp.lambda.depth),
        (5 + 3 + 4 + 4, 5 + 2 + 4 + 4, 5 + 2 + 3 + 4, 18)
    );
    let tied = exact.z.plus(&exact.z).unwrap();
    assert_eq!((tied.depth, tied.value.as_slice()[0]), (2 * exact.z.depth, 2.0 * exact.z.value.as_slice()[0]));
    assert!(exact.tied().is_err());
    let given = reference::Reference::given(&[-2.0f32, 3.0], [1, 2]).unwrap();
    assert_eq!((given.value.as_slice(), given.magnitude.as_slice()), (&[-2.0, 3.0][..], &[2.0, 3.0][..]));
}

//! Which calls `bench` measures: the named shapes, the shapes of the goals, or those that the user gives.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use trilinear::presets::{self, PRESETS, Preset};
use trilinear::{DType, Element, Interaction, Plan, View};

use crate::work::{Pass, Shape, Work};

/// How W is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A free K×I×J tensor.
    Dense,
    /// CP factors of rank R.
    Cp,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Dense => "dense",
            Form::Cp => "cp",
        })
    }
}

/// One call to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) preset: Option<&'static str>,
    pub(crate) form: Form,
    /// Its rank is that of the form: none for the dense one.
    pub(crate) shape: Shape,
    /// z and x are the same tensor.
    pub(crate) tied: bool,
    /// The fraction of the floor to reach.
    pub(crate) goal: Option<f64>,
}

/// `N,I,J,K` or `N,I,J,K,R`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    n: usize,
    i: usize,
    j: usize,
    k: usize,
    r: Option<usize>,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let sizes = text
            .split(',')
            .map(|part| part.trim().parse::<usize>().ok().filter(|&size| size > 0))
            .collect::<Option<Vec<_>>>();
        match sizes.as_deref() {
            Some(&[n, i, j, k]) => Ok(Sizes { n, i, j, k, r: None }),
            Some(&[n, i, j, k, r]) => Ok(Sizes { n, i, j, k, r: Some(r) }),
            _ => Err("expected N,I,J,K or N,I,J,K,R, all whole numbers from 1".into()),
        }
    }
}

/// The forward tables of the design: sizes, and the goal as a fraction of the floor.
const DENSE_GOALS: [([usize; 4], f64); 11] = [
    ([1, 256, 256, 256], 0.95),
    ([4, 256, 256, 256], 0.95),
    ([32, 64, 64, 64], 0.85),
    ([32, 256, 256, 256], 0.85),
    ([256, 128, 128, 128], 0.90),
    ([512, 256, 256, 256], 0.92),
    ([4096, 32, 32, 32], 0.80),
    ([8192, 16, 16, 16], 0.70),
    ([1024, 64, 512, 128], 0.90),
    ([2048, 400, 400, 1], 0.90),
    ([1024, 200, 200, 50], 0.88),
];
const CP_GOALS: [([usize; 5], f64); 6] = [
    ([1, 512, 512, 512, 64], 0.95),
    ([32, 512, 512, 512, 64], 0.85),
    ([1024, 256, 256, 256, 32], 0.85),
    ([1024, 512, 512, 512, 128], 0.85),
    ([4096, 1024, 1024, 1024, 256], 0.85),
    ([16384, 64, 64, 64, 16], 0.85),
];

/// Of forward and backward together: presets that are not in the tables above.
const BOTH_GOALS: [&str; 2] = ["chainer5205", "torch6110"];

/// The calls that the design sets goals for.
pub(crate) fn goals(form: Option<Form>, pass: Pass) -> Vec<Case> {
    let dense = DENSE_GOALS.iter().map(|&([n, i, j, k], goal)| (Sizes { n, i, j, k, r: None }, goal));
    let cp = CP_GOALS.iter().map(|&([n, i, j, k, r], goal)| (Sizes { n, i, j, k, r: Some(r) }, goal));
    dense
        .chain(cp)
        .map(|(sizes, goal)| {
            let form = if sizes.r.is_some() { Form::Cp } else { Form::Dense };
            Case { goal: Some(goal), ..Case::of(sizes, form) }
        })
        .chain(BOTH_GOALS.iter().filter(|_| pass == Pass::Both).filter_map(|name| {
            let case = Case::of_preset(presets::find(name)?, Some(Form::Dense)).pop()?;
            Some(Case { goal: Some(0.75), ..case })
        }))
        .filter(|case| form.is_none_or(|form| form == case.form))
        .collect()
}

fn preset(name: &str) -> Result<&'static Preset> {
    presets::find(name).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        anyhow!("there is no preset `{name}`; there are: {}", names.join(", "))
    })
}

/// These presets and sizes, one case each: in CP form if they have a rank.
/// Errors: an unknown preset.
pub(crate) fn shapes(names: &[String], sizes: &[Sizes]) -> Result<Vec<Case>> {
    let form = |r: Option<usize>| if r.is_some() { Form::Cp } else { Form::Dense };
    let presets = names.iter().map(|name| {
        let preset = preset(name)?;
        Ok(Case::of_preset(preset, Some(form(preset.r))))
    });
    let presets: Vec<Vec<Case>> = presets.collect::<Result<_>>()?;
    Ok(presets.into_iter().flatten().chain(sizes.iter().map(|&sizes| Case::of(sizes, form(sizes.r)))).collect())
}

/// The calls of these presets and sizes (of every preset if both are empty) in this form, or in all that they have.
/// Errors: an unknown preset, or a form that a shape does not have.
pub(crate) fn chosen(names: &[String], sizes: &[Sizes], form: Option<Form>) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for name in names {
        let of_preset = Case::of_preset(preset(name)?, form);
        match form {
            Some(form) if of_preset.is_empty() => bail!("preset `{name}` has no {form} form"),
            _ => cases.extend(of_preset),
        }
    }
    for &sizes in sizes {
        match (form, sizes.r) {
            (Some(Form::Cp), None) => {
                let Sizes { n, i, j, k, .. } = sizes;
                bail!("--shape {n},{i},{j},{k}: the CP form needs a rank: --shape {n},{i},{j},{k},R");
            }
            (Some(form), _) => cases.push(Case::of(sizes, form)),
            (None, None) => cases.push(Case::of(sizes, Form::Dense)),
            (None, Some(_)) => cases.extend([Form::Dense, Form::Cp].map(|form| Case::of(sizes, form))),
        }
    }
    if names.is_empty() && sizes.is_empty() {
        cases = PRESETS.iter().flat_map(|preset| Case::of_preset(preset, form)).collect();
    }
    Ok(cases)
}

impl Case {
    fn of(Sizes { n, i, j, k, r }: Sizes, form: Form) -> Case {
        let r = r.filter(|_| form == Form::Cp);
        Case { preset: None, form, shape: Shape { n, rows: 1, sharing: 1, i, j, k, r }, tied: false, goal: None }
    }

    fn of_preset(preset: &'static Preset, form: Option<Form>) -> Vec<Case> {
        let &Preset { name, n, rows, sharing, i, j, k, r, dense, tied, .. } = preset;
        let has = |form| match form {
            Form::Dense => dense,
            Form::Cp => r.is_some(),
        };
        [Form::Dense, Form::Cp]
            .into_iter()
            .filter(|&candidate| has(candidate) && form.is_none_or(|form| form == candidate))
            .map(|form| {
                let shape = Shape { n, rows, sharing, i, j, k, r: r.filter(|_| form == Form::Cp) };
                Case { preset: Some(name), form, shape, tied, goal: None }
            })
            .collect()
    }

    /// The fraction of the floor to reach with this work, of a case that has a goal for the forward pass.
    pub(crate) fn goal_of(&self, work: Work) -> Option<f64> {
        let forward = self.goal?;
        Some(match work.pass {
            Pass::Forward => forward,
            // Bound by bandwidth.
            _ if self.shape.n == 1 => 0.90,
            _ if self.form == Form::Cp => 0.80,
            Pass::Both if self.preset.is_some() => forward,
            _ => 0.85,
        })
    }

    /// For people: the preset's name and the sizes.
    pub(crate) fn label(&self) -> String {
        let Shape { n, rows, sharing, i, j, k, r } = self.shape;
        let n = match (sharing, rows) {
            (1, 1) => n.to_string(),
            (1, _) => format!("{n}×{rows}"),
            _ => format!("{}×{sharing}×{rows}", n / sharing),
        };
        let rank = r.map_or(String::new(), |r| format!(",{r}"));
        let name = self.preset.map_or(String::new(), |name| format!("{name} "));
        format!("{name}{n},{i},{j},{k}{rank}")
    }

    /// Elements of the operands and results of one call. `None` if one is too large to address.
    pub(crate) fn elements(&self, work: Work) -> Option<Lengths> {
        let Shape { n, rows, i, j, k, r, .. } = self.shape;
        let total = n.checked_mul(rows)?;
        let (z, x, y) = (n.checked_mul(i)?, self.shape.x_rows()?.checked_mul(j)?, total.checked_mul(k)?);
        let weights = match r {
            None => [k.checked_mul(i)?.checked_mul(j)?, 0, 0],
            Some(r) => [k.checked_mul(r)?, i.checked_mul(r)?, j.checked_mul(r)?],
        };
        let of = |wanted, len| if wanted { len } else { 0 };
        let parts = work.parts(self.shape);
        let [w0, w1, w2] = weights;
        Some(Lengths {
            z,
            x: of(!self.tied, x),
            weights,
            g: of(work.backward(), y),
            y: of(work.forward(), y),
            gradients: [
                of(parts.z, z),
                of(parts.x && !work.sums_inputs(self.shape), x),
                of(parts.w, w0),
                of(parts.a, w0),
                of(parts.b, w1),
                of(parts.c, w2),
            ],
            saved: of(work.saved, n.checked_add(total)?.checked_mul(r.unwrap_or(0))?),
        })
    }

    /// What a forward call will do, before any operand is there.
    pub(crate) fn plan<T: Element>(&self, context: trilinear::Context) -> trilinear::Result<Plan> {
        let Shape { n, rows, sharing, i, j, k, r } = self.shape;
        // One element seen as the whole of W.
        let one = [T::default()];
        let matrix = |rows, columns| View::strided(&one, 0, [rows, columns], [0, 0]);
        let layer = match r {
            None => Interaction::dense(View::strided(&one, 0, [k, i, j], [0, 0, 0])?)?,
            Some(r) => Interaction::cp(matrix(k, r)?, matrix(i, r)?, matrix(j, r)?)?,
        }
        .with_context(context);
        match (sharing, rows) {
            (1, 1) => layer.plan(n),
            (1, _) => layer.plan_shared(n, rows),
            _ => layer.plan_pairs(n / sharing, sharing, rows),
        }
    }
}

/// Elements of the operands of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) z: usize,
    /// 0 if tied.
    pub(crate) x: usize,
    pub(crate) weights: [usize; 3],
    /// 0 without gradients.
    pub(crate) g: usize,
    /// 0 of a backward pass.
    pub(crate) y: usize,
    /// dz, dx, dW, dA, dB and dC; 0 for those that are not wanted.
    pub(crate) gradients: [usize; 6],
    /// P and Q, if they are kept.
    pub(crate) saved: usize,
}

impl Lengths {
    /// Bytes of all of them, where sums are kept in elements of so many bytes.
    pub(crate) fn bytes(&self, dtype: DType, accumulator: DType) -> u128 {
        let inputs = [self.z, self.x, self.g].into_iter().map(|elements| elements as u128).sum::<u128>();
        self.weight_bytes(dtype) + inputs * dtype.bytes() as u128 + self.result_bytes(dtype, accumulator)
    }

    /// Bytes of the results.
    pub(crate) fn result_bytes(&self, dtype: DType, accumulator: DType) -> u128 {
        let gradients = self.gradients.into_iter().chain([self.saved]).map(|elements| elements as u128).sum::<u128>();
        self.y as u128 * dtype.bytes() as u128 + gradients * accumulator.bytes() as u128
    }

    /// Bytes of the weights.
    pub(crate) fn weight_bytes(&self, dtype: DType) -> u128 {
        self.weights.into_iter().map(|elements| elements as u128).sum::<u128>() * dtype.bytes() as u128
    }
}

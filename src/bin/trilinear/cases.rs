//! Which calls `bench` measures: the named shapes, the shapes of the goals, or those that the user gives.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use trilinear::presets::{self, PRESETS, Preset};
use trilinear::{DType, Element, Interaction, Plan, View};

use crate::forms::{self, Form, Structure};
use crate::work::{Cost, Pass, Shape, Work};

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One call to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) preset: Option<&'static str>,
    pub(crate) form: Form,
    /// Of a form beside dense and CP.
    pub(crate) structure: Option<Structure>,
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
pub(crate) fn goals(forms: &[Form], pass: Pass) -> Vec<Case> {
    let dense = DENSE_GOALS.iter().map(|&([n, i, j, k], goal)| (Sizes { n, i, j, k, r: None }, goal));
    let cp = CP_GOALS.iter().map(|&([n, i, j, k, r], goal)| (Sizes { n, i, j, k, r: Some(r) }, goal));
    dense
        .chain(cp)
        .map(|(sizes, goal)| {
            let form = if sizes.r.is_some() { Form::Cp } else { Form::Dense };
            Case { goal: Some(goal), structure: None, form, ..Case::plain(sizes) }
        })
        .chain(
            BOTH_GOALS.iter().filter(|_| pass == Pass::Both).filter_map(|name| {
                Some(Case { goal: Some(0.75), ..Case::of_preset(presets::find(name)?, Form::Dense)? })
            }),
        )
        .filter(|case| forms.is_empty() || forms.contains(&case.form))
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
        let shape = Shape { r: preset.r, ..Case::shape_of(preset) };
        Ok(Case {
            preset: Some(preset.name),
            form: form(preset.r),
            structure: None,
            shape,
            tied: preset.tied,
            goal: None,
        })
    });
    let presets: Vec<Case> = presets.collect::<Result<_>>()?;
    let own = sizes.iter().map(|&sizes| Case { form: form(sizes.r), ..Case::plain(sizes) });
    Ok(presets.into_iter().chain(own).collect())
}

/// The calls of these presets and sizes (of every preset if both are empty, and of [`forms::SIZES`]) in these forms, or if none is
/// given in dense and CP form where they have it. Errors: an unknown preset, or a form that a shape does not have.
pub(crate) fn chosen(names: &[String], sizes: &[Sizes], asked: &[Form]) -> Result<Vec<Case>> {
    let forms = if asked.is_empty() { &[Form::Dense, Form::Cp] } else { asked };
    let mut cases = Vec::new();
    for name in names {
        let preset = preset(name)?;
        for &form in forms {
            match Case::of_preset(preset, form) {
                None if !asked.is_empty() => bail!("preset `{name}` has no {form} form"),
                case => cases.extend(case),
            }
        }
    }
    for &sizes in sizes {
        for &form in forms {
            match Case::of(sizes, form) {
                Err(why) if !asked.is_empty() => {
                    let Sizes { n, i, j, k, .. } = sizes;
                    bail!("--shape {n},{i},{j},{k}: the {form} form {why}");
                }
                case => cases.extend(case.ok()),
            }
        }
    }
    if names.is_empty() && sizes.is_empty() {
        cases.extend(PRESETS.iter().flat_map(|preset| forms.iter().filter_map(|&form| Case::of_preset(preset, form))));
        let own = forms::SIZES.iter().filter(|(form, _)| forms.contains(form));
        cases.extend(own.filter_map(|&(form, [n, i, j, k, r])| {
            Case::of(Sizes { n, i, j, k, r: Some(r).filter(|&r| r > 0) }, form).ok()
        }));
    }
    Ok(cases)
}

impl Case {
    /// Dense W.
    fn plain(Sizes { n, i, j, k, r }: Sizes) -> Case {
        let shape = Shape { n, rows: 1, sharing: 1, i, j, k, r };
        Case { preset: None, form: Form::Dense, structure: None, shape, tied: false, goal: None }
    }

    /// Errors: what the form needs.
    fn of(sizes: Sizes, form: Form) -> std::result::Result<Case, &'static str> {
        Case { form, ..Case::plain(sizes) }.structured()
    }

    /// What the form is made of.
    fn structured(self) -> std::result::Result<Case, &'static str> {
        let Case { form, shape, .. } = self;
        let structure = form.structure(shape)?;
        Ok(Case { structure, shape: Shape { r: shape.r.filter(|_| form.has_rank()), ..shape }, ..self })
    }

    fn shape_of(&Preset { n, rows, sharing, i, j, k, r, .. }: &Preset) -> Shape {
        Shape { n, rows, sharing, i, j, k, r }
    }

    /// In this form, if it has it.
    fn of_preset(preset: &'static Preset, form: Form) -> Option<Case> {
        if form == Form::Dense && !preset.dense {
            return None;
        }
        let shape = Case::shape_of(preset);
        let case = Case { preset: Some(preset.name), form, structure: None, shape, tied: preset.tied, goal: None };
        case.structured().ok()
    }

    /// Its core and blocks, if it has any.
    pub(crate) fn ranks(&self) -> Option<String> {
        self.structure.and_then(Structure::ranks)
    }

    /// Why there is nothing to compute, if so.
    pub(crate) fn obstacle(&self, work: Work) -> Option<&'static str> {
        match self.structure {
            Some(structure) => structure.obstacle(work, self.shape),
            None => work.obstacle(self.shape),
        }
    }

    /// The least that a call must do.
    pub(crate) fn cost(&self, work: Work, bytes: [usize; 2]) -> Cost {
        match self.structure {
            Some(structure) => structure.cost(work, self.shape, bytes),
            None => work.cost(self.shape, bytes),
        }
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
        if let Some(structure) = self.structure {
            let [core, a, b, c] = structure.lengths(self.shape)?;
            let when = |wanted, len| if wanted { len } else { 0 };
            return Some(Lengths {
                z,
                x: when(!self.tied, x),
                core,
                weights: [a, b, c],
                g: when(work.backward(), y),
                y: when(work.forward(), y),
                gradients: structure.gradients(work, self.shape)?,
                saved: 0,
            });
        }
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
            core: 0,
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

    /// What a forward call will do, before any operand is there. Of another form than dense and CP, what the dense one would: its
    /// own takes no more scratch.
    pub(crate) fn plan<T: Element>(&self, context: trilinear::Context) -> trilinear::Result<Plan> {
        let Shape { n, rows, sharing, i, j, k, r } = self.shape;
        let r = r.filter(|_| self.structure.is_none());
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
    /// Cores of blocks, and what other forms than dense and CP have in their place.
    pub(crate) core: usize,
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
        let weights = self.weights.into_iter().chain([self.core]).map(|elements| elements as u128);
        weights.sum::<u128>() * dtype.bytes() as u128
    }
}

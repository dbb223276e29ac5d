//! Layers whose W is a sum of blocks, of every form that there is, and what must come out of them.

use trilinear::reference::{self, Reference};
use trilinear::{Block, Context, Element, Gradient, Interaction, Result, ViewMut, Wanted, WantedBlock};

use super::layout::{Embedded, Layout};
use super::{Random, assert_close, assert_exact};

/// A factor of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    Absent,
    Full,
    /// One column for all components.
    Column,
}
use Side::{Absent, Column, Full};

#[derive(Clone, Copy, Debug)]
pub enum Core {
    /// With weights or without.
    Diagonal(usize, bool),
    Dense([usize; 3]),
}

/// The form of a block.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub core: Core,
    pub sides: [Side; 3],
}

/// A form: sizes K, I, J, blocks, and which of U, V and b there are.
#[derive(Clone, Debug)]
pub struct Form {
    pub name: String,
    pub sizes: [usize; 3],
    pub blocks: Vec<Spec>,
    pub linear: [bool; 3],
}

fn form(name: &str, sizes: [usize; 3], blocks: &[(Core, [Side; 3])]) -> Form {
    let blocks = blocks.iter().map(|&(core, sides)| Spec { core, sides }).collect();
    Form { name: name.into(), sizes, blocks, linear: [false; 3] }
}

impl Form {
    fn with(self, linear: [bool; 3]) -> Form {
        Form { name: format!("{} with {linear:?}", self.name), linear, ..self }
    }
}

/// One of each form, with axes of about these lengths.
pub fn forms([k, i, j, r]: [usize; 4]) -> Vec<Form> {
    let diagonal = |weights| Core::Diagonal(r, weights);
    let mut forms = vec![
        form("gating", [r, r, r], &[(diagonal(true), [Absent; 3])]),
        form("products", [r, r, r], &[(diagonal(false), [Absent; 3])]),
        form("generated gate", [r, i, r], &[(diagonal(false), [Absent, Full, Absent])]),
        form("scalar", [r, i, r], &[(diagonal(false), [Absent, Column, Absent])]),
        form("scalar of x", [r, r, j], &[(diagonal(true), [Absent, Absent, Column])]),
        form("inner product", [k, r, r], &[(diagonal(true), [Column, Absent, Absent])]),
        form("metric", [1, i, j], &[(diagonal(false), [Column, Full, Full])]),
        form("diagonal relations", [k, r, r], &[(diagonal(true), [Full, Absent, Absent])]),
        form("CP", [k, i, j], &[(diagonal(true), [Full; 3])]),
        form("columns", [k, i, j], &[(diagonal(true), [Column; 3])]),
    ];
    let core = Core::Dense([r + 1, r, r + 2]);
    for present in 0..8 {
        let sides = [0, 1, 2].map(|side| if present >> side & 1 == 1 { Full } else { Absent });
        let size = |side: usize, own, rank| if sides[side] == Full { own } else { rank };
        let sizes = [size(0, k, r + 1), size(1, i, r), size(2, j, r + 2)];
        forms.push(form(&format!("Tucker {present:03b}"), sizes, &[(core, sides)]));
    }
    let small = Core::Dense([2, 1, 3]);
    let square = [
        (diagonal(true), [Absent; 3]),
        (small, [Full; 3]),
        (diagonal(false), [Full; 3]),
        (diagonal(true), [Absent, Full, Absent]),
        (Core::Dense([r, r, r]), [Absent; 3]),
    ];
    forms.push(form("block-term", [k, i, j], &[(small, [Full; 3]), (core, [Full; 3]), (diagonal(true), [Full; 3])]));
    forms.push(form("all kinds", [r; 3], &square));
    let linear: Vec<Form> = [0, 2, 5, 8, 10, 17, 18]
        .into_iter()
        .zip([[true; 3], [true, false, false], [false, true, true], [false, false, true]].into_iter().cycle())
        .map(|(index, linear)| forms[index].clone().with(linear))
        .collect();
    forms.extend(linear);
    forms.push(forms[0].clone().with([false, false, true]));
    forms.push(forms[19].clone().with([true; 3]));
    forms
}

/// The ways to compute a case of so many FLOPs; on the device only if it is its turn.
pub fn ways(turn: bool, flops: usize) -> Vec<Context> {
    super::ways(if turn { flops } else { usize::MAX })
}

/// A layer's operands and inputs of a batch G × M, in memory of some layout amid NaN.
pub struct Case<T> {
    pub form: Form,
    /// G, M.
    pub rows: [usize; 2],
    layout: usize,
    z: Embedded<T, 2>,
    x: Embedded<T, 3>,
    g: Embedded<T, 3>,
    x_plain: Embedded<T, 2>,
    g_plain: Embedded<T, 2>,
    tied: bool,
    operands: Vec<Operands<T>>,
    u: Embedded<T, 2>,
    v: Embedded<T, 2>,
    b: Embedded<T, 1>,
}

struct Operands<T> {
    core: Embedded<T, 3>,
    weights: Embedded<T, 1>,
    factors: [Embedded<T, 2>; 3],
}

fn ranks(core: Core) -> [usize; 3] {
    match core {
        Core::Diagonal(r, _) => [r; 3],
        Core::Dense(ranks) => ranks,
    }
}

fn shape_of(spec: &Spec, sizes: [usize; 3], side: usize) -> [usize; 2] {
    match spec.sides[side] {
        Absent => [0; 2],
        Full => [sizes[side], ranks(spec.core)[side]],
        Column => [sizes[side], 1],
    }
}

fn core_shape(spec: &Spec) -> ([usize; 3], [usize; 1]) {
    match spec.core {
        Core::Dense(shape) => (shape, [0]),
        Core::Diagonal(r, weights) => ([0; 3], [if weights { r } else { 0 }]),
    }
}

impl<T: Element> Case<T> {
    pub fn new(
        form: &Form,
        [groups, each]: [usize; 2],
        layout: usize,
        tied: bool,
        mut fill: impl FnMut(usize, usize) -> Vec<T>,
    ) -> Self {
        let [k, i, j] = form.sizes;
        let n = groups * each;
        let z = fill(groups * i, 2);
        let x = if tied { z.clone() } else { fill(n * j, 2) };
        let g = fill(n * k, 1);
        fn lay<T: Element, const D: usize>(values: &[T], shape: [usize; D], layout: usize) -> Embedded<T, D> {
            Embedded::input(values, shape, Layout::all()[layout].1)
        }
        let mut operands = Vec::new();
        for spec in &form.blocks {
            let (core, weights) = core_shape(spec);
            let factors = [0, 1, 2].map(|side| {
                let shape = shape_of(spec, form.sizes, side);
                lay(&fill(shape[0] * shape[1], 1), shape, layout)
            });
            operands.push(Operands {
                core: lay(&fill(core.iter().product(), 1), core, layout),
                weights: lay(&fill(weights[0], 2), weights, layout),
                factors,
            });
        }
        Case {
            form: form.clone(),
            rows: [groups, each],
            layout,
            z: lay(&z, [groups, i], layout),
            x: lay(&x, [groups, each, j], layout),
            g: lay(&g, [groups, each, k], layout),
            x_plain: lay(&x, [n, j], layout),
            g_plain: lay(&g, [n, k], layout),
            tied,
            operands,
            u: lay(&fill(k * i, 2), [k, i], layout),
            v: lay(&fill(k * j, 2), [k, j], layout),
            b: lay(&fill(k, 2), [k], layout),
        }
    }

    pub fn integers(form: &Form, rows: [usize; 2], layout: usize, tied: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        Case::new(form, rows, layout, tied, |len, most| random.integers(len, most))
    }

    pub fn uniform(form: &Form, rows: [usize; 2], layout: usize, tied: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        Case::new(form, rows, layout, tied, |len, _| random.uniform(len))
    }

    pub fn blocks(&self) -> Vec<Block<'_, T>> {
        fn of<'a, T: Element>(spec: &Spec, operands: &'a Operands<T>) -> Block<'a, T> {
            let mut block = match spec.core {
                Core::Dense(_) => Block::tucker(operands.core.view()),
                Core::Diagonal(_, true) => Block::diagonal(operands.weights.view()),
                Core::Diagonal(r, false) => Block::identity(r),
            };
            let [a, b, c] = &operands.factors;
            if spec.sides[0] != Absent {
                block = block.with_a(a.view()).unwrap();
            }
            if spec.sides[1] != Absent {
                block = block.with_b(b.view()).unwrap();
            }
            if spec.sides[2] != Absent {
                block = block.with_c(c.view()).unwrap();
            }
            block
        }
        self.form.blocks.iter().zip(&self.operands).map(|(spec, operands)| of(spec, operands)).collect()
    }

    pub fn layer<'a>(&'a self, blocks: &'a [Block<'a, T>], context: Context) -> Interaction<'a, T> {
        self.linear(Interaction::blocks(blocks).unwrap().with_context(context))
    }

    /// The same layer with other weights.
    pub fn linear<'a>(&'a self, layer: Interaction<'a, T>) -> Interaction<'a, T> {
        let [u, v, b] = self.form.linear;
        let layer = if u { layer.with_u(self.u.view()).unwrap() } else { layer };
        let layer = if v { layer.with_v(self.v.view()).unwrap() } else { layer };
        if b { layer.with_b(self.b.view()).unwrap() } else { layer }
    }

    /// Of a forward pass.
    pub fn flops(&self) -> usize {
        let blocks = self.blocks();
        let [groups, each] = self.rows;
        super::flops(&self.layer(&blocks, super::contexts()[0]), groups * each)
    }

    fn what(&self, context: &Context) -> String {
        let (name, rows, layout) = (&self.form.name, self.rows, Layout::<2>::all()[self.layout].0);
        let (dtype, place, threads) = (T::DTYPE, super::place(context), context.threads());
        format!(
            "{name} {:?} {rows:?} {dtype} {place} {threads:?} threads, {layout}, tied {}",
            self.form.sizes, self.tied
        )
    }

    /// y, in memory where nothing else is written.
    pub fn forward(&self, context: Context) -> Vec<T> {
        let ([groups, each], [k, ..]) = (self.rows, self.form.sizes);
        let blocks = self.blocks();
        let (layer, layout) = (self.layer(&blocks, context), Layout::all()[self.layout].1);
        if each == 1 {
            let mut y = Embedded::output([groups, k], Layout::all()[self.layout].1);
            let x = if self.tied { self.z.view() } else { self.x_plain.view() };
            layer.forward_into(self.z.view(), x, y.view_mut()).unwrap();
            return y.finish(&self.what(&context));
        }
        let mut y = Embedded::output([groups, each, k], layout);
        layer.forward_shared_into(self.z.view(), self.x.view(), y.view_mut()).unwrap();
        y.finish(&self.what(&context))
    }

    /// Each row of z repeated for the rows that it meets, row-major.
    pub fn z_repeated(&self) -> Vec<T> {
        let [groups, each] = self.rows;
        let i = self.form.sizes[1];
        (0..groups * each * i).map(|at| self.z.view().get([at / i / each, at % i]).unwrap()).collect()
    }

    /// What `layer` gives for these inputs.
    pub fn exact_of(&self, layer: &Interaction<'_, T>) -> Reference {
        let z = self.z_repeated();
        let n = self.rows[0] * self.rows[1];
        let z = trilinear::View::new(&z, [n, self.form.sizes[1]]).unwrap();
        reference::forward(layer, z, self.x_plain.view()).unwrap()
    }

    #[track_caller]
    pub fn check_forward(&self, contexts: &[Context], integers: bool) {
        let blocks = self.blocks();
        let exact = self.exact_of(&self.linear(Interaction::blocks(&blocks).unwrap()));
        for &context in contexts {
            compare(&self.forward(context), &exact, integers, &self.what(&context));
        }
    }

    /// What the gradients must be.
    pub fn exact_gradients(&self) -> reference::Gradients {
        let blocks = self.blocks();
        let layer = self.linear(Interaction::blocks(&blocks).unwrap());
        match self.rows[1] {
            1 => reference::backward(&layer, self.z.view(), self.x_plain.view(), self.g_plain.view()),
            _ => reference::backward_shared(&layer, self.z.view(), self.x.view(), self.g.view()),
        }
        .unwrap()
    }

    /// All gradients, or those of the inputs, or of the weights; each written or added.
    #[track_caller]
    pub fn check_backward(&self, contexts: &[(Context, Which, bool)], integers: bool) {
        let exact = self.exact_gradients();
        for &(context, which, add) in contexts {
            for (name, values, exact) in self.gradients(context, which, add, &exact).unwrap() {
                let what = format!("{name} {which:?} add {add} {}", self.what(&context));
                compare(&values, &exact, integers, &what);
            }
        }
    }

    /// The gradients that are found, and what they must be.
    pub fn gradients(
        &self,
        context: Context,
        which: Which,
        add: bool,
        exact: &reference::Gradients,
    ) -> Result<Vec<Found<T::Accumulator>>> {
        let ([groups, each], [k, i, j]) = (self.rows, self.form.sizes);
        let (n, blocks) = (groups * each, self.blocks());
        let layer = self.layer(&blocks, context);
        let (inputs, weights) = (which != Which::Weights, which != Which::Inputs);
        let memory = Memory { layout: self.layout, add };
        let mut z = memory.of::<T::Accumulator, 2>([groups, i], inputs);
        let mut tied = memory.of([groups, i], inputs && self.tied);
        let mut x = memory.of([n, j], inputs && each == 1);
        let mut x_shared = memory.of([groups, each, j], inputs && each != 1);
        let (mut u, mut v, mut b) = (memory.of([k, i], weights), memory.of([k, j], weights), memory.of([k], weights));
        let mut w = memory.of([k, i, j], weights);
        let mut of_blocks: Vec<_> = self
            .form
            .blocks
            .iter()
            .map(|spec| {
                let (core, diagonal) = match spec.core {
                    Core::Dense(shape) => (memory.of(shape, weights), memory.of([0], false)),
                    Core::Diagonal(r, _) => (memory.of([0; 3], false), memory.of([r], weights)),
                };
                let of = |side: usize| {
                    let present = spec.sides[side] != Absent && weights;
                    memory.of::<T::Accumulator, 2>(shape_of(spec, self.form.sizes, side), present)
                };
                (core, diagonal, [of(0), of(1), of(2)])
            })
            .collect();
        {
            let mut wanted_blocks: Vec<WantedBlock<'_, T>> = of_blocks
                .iter_mut()
                .map(|(core, diagonal, [a, b, c])| WantedBlock {
                    core: memory.gradient(core),
                    diagonal: memory.gradient(diagonal),
                    a: memory.gradient(a),
                    b: memory.gradient(b),
                    c: memory.gradient(c),
                })
                .collect();
            let (u, v, b, w) =
                (memory.gradient(&mut u), memory.gradient(&mut v), memory.gradient(&mut b), memory.gradient(&mut w));
            if each == 1 {
                let x_view = if self.tied { self.z.view() } else { self.x_plain.view() };
                let wanted = Wanted {
                    z: memory.gradient(&mut z),
                    x: memory.gradient(&mut x),
                    tied: memory.gradient(&mut tied),
                    w,
                    u,
                    v,
                    b,
                    blocks: &mut wanted_blocks,
                    ..Wanted::default()
                };
                layer.backward_into(self.z.view(), x_view, self.g_plain.view(), wanted)?;
            } else {
                let wanted = Wanted {
                    z: memory.gradient(&mut z),
                    x: memory.gradient(&mut x_shared),
                    w,
                    u,
                    v,
                    b,
                    blocks: &mut wanted_blocks,
                    ..Wanted::default()
                };
                layer.backward_shared_into(self.z.view(), self.x.view(), self.g.view(), wanted)?;
            }
        }
        let mut found = Vec::new();
        let what = self.what(&context);
        memory.found(&mut found, "dz", z, exact.z.clone(), &what);
        if self.tied {
            memory.found(&mut found, "dz + dx", tied, exact.tied()?, &what);
        }
        memory.found(&mut found, "dx", x, exact.x.clone(), &what);
        memory.found(&mut found, "dx shared", x_shared, exact.x.clone(), &what);
        memory.found(&mut found, "dw", w, exact.w.clone(), &what);
        memory.found(&mut found, "du", u, exact.u.clone(), &what);
        memory.found(&mut found, "dv", v, exact.v.clone(), &what);
        memory.found(&mut found, "db", b, exact.b.clone(), &what);
        for ((core, diagonal, [a, b, c]), exact) in of_blocks.into_iter().zip(&exact.blocks) {
            memory.found(&mut found, "dcore", core, exact.core.clone(), &what);
            memory.found(&mut found, "ddiagonal", diagonal, exact.core.clone(), &what);
            for (name, to, exact) in [("da", a, &exact.a), ("db of block", b, &exact.b), ("dc", c, &exact.c)] {
                if let Some(exact) = exact {
                    memory.found(&mut found, name, to, exact.clone(), &what);
                }
            }
        }
        Ok(found)
    }
}

/// A gradient's name, its elements and what they must be.
pub type Found<A> = (&'static str, Vec<A>, Reference);

/// Which gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    All,
    Inputs,
    Weights,
}

/// Destinations of some layout amid a filler: NaN if they are to be written, small integers if added to.
struct Memory {
    layout: usize,
    add: bool,
}

impl Memory {
    fn initial<A: Element>(&self, len: usize) -> Vec<A> {
        if self.add { Random(len as u64).integers(len, 3) } else { vec![A::from_f64(f64::NAN); len] }
    }

    fn of<A: Element, const D: usize>(&self, shape: [usize; D], wanted: bool) -> Option<Embedded<A, D>> {
        let values = self.initial(shape.iter().product());
        wanted.then(|| Embedded::new(&values, shape, Layout::all()[self.layout].1, A::from_f64(77.0)))
    }

    fn gradient<'a, A: Element, const D: usize>(
        &self,
        memory: &'a mut Option<Embedded<A, D>>,
    ) -> Option<Gradient<'a, A, D>> {
        let of = |to: ViewMut<'a, A, D>| if self.add { Gradient::add(to) } else { Gradient::write(to) };
        memory.as_mut().map(|memory| of(memory.view_mut()))
    }

    #[track_caller]
    fn found<A: Element, const D: usize>(
        &self,
        found: &mut Vec<Found<A>>,
        name: &'static str,
        memory: Option<Embedded<A, D>>,
        exact: Reference,
        what: &str,
    ) {
        let Some(memory) = memory else { return };
        let values = memory.finish(&format!("{name} {what}"));
        let exact = match self.add {
            true => {
                let there = self.initial::<A>(values.len());
                exact.plus(&Reference::given(&there, exact.value.shape()).unwrap()).unwrap()
            }
            false => exact,
        };
        found.push((name, values, exact));
    }
}

/// Integers to the last bit, others within their bound.
#[track_caller]
pub fn compare<A: Element>(values: &[A], exact: &Reference, integers: bool, what: &str) {
    if !integers {
        return assert_close(values, exact, what);
    }
    check_magnitudes(exact, what);
    assert_exact(&positive(values), exact, what);
}

/// Zeros of either sign as one.
fn positive<A: Element>(values: &[A]) -> Vec<A> {
    values.iter().map(|value| A::from_f64(value.to_f64() + 0.0)).collect()
}

/// That all sums of integers are exact in f32.
#[track_caller]
fn check_magnitudes(exact: &Reference, what: &str) {
    let largest = exact.magnitude.as_slice().iter().fold(0.0f64, |a, &b| a.max(b));
    assert!(largest < f64::from(1 << 24), "{what}: too large to be exact");
}

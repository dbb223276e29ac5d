//! A layer of any form with inputs and gradients, every way to call its backward pass, and what must come out.

use trilinear::reference::{self, Reference};
use trilinear::{Context, Element, Gradient, Interaction, Result, Saved, View, ViewMut, Wanted, WantedFactors};

use super::layout::{Embedded, Layout};
use super::{Random, assert_close, assert_same};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Dense,
    Linear,
    Cp,
    CpLambda,
}

impl Form {
    pub const ALL: [Form; 4] = [Form::Dense, Form::Linear, Form::Cp, Form::CpLambda];

    pub fn is_cp(self) -> bool {
        matches!(self, Form::Cp | Form::CpLambda)
    }
}

/// Whose gradients. Of a plain batch M is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Plain,
    Shared,
    Generate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    Z,
    X,
    Tied,
    W,
    U,
    V,
    B,
    FactorA,
    FactorB,
    FactorC,
    Lambda,
}

impl Part {
    pub const ALL: [Part; 11] = [
        Part::Z,
        Part::X,
        Part::Tied,
        Part::W,
        Part::U,
        Part::V,
        Part::B,
        Part::FactorA,
        Part::FactorB,
        Part::FactorC,
        Part::Lambda,
    ];
}

/// Some of the parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Set(pub u16);

impl Set {
    pub const NONE: Set = Set(0);
    pub const ALL: Set = Set(u16::MAX);

    pub fn of(parts: &[Part]) -> Set {
        Set(parts.iter().fold(0, |set, &part| set | 1 << part as u16))
    }
    pub fn has(self, part: Part) -> bool {
        self.0 >> part as u16 & 1 == 1
    }
    pub fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }
    pub fn parts(self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(move |&part| self.has(part))
    }
}

/// All operands, row-major.
#[derive(Clone, Debug)]
pub struct Case<T> {
    pub form: Form,
    /// With U, V and b.
    pub linear: bool,
    /// x is z.
    pub tied: bool,
    /// G, M, I, J, K, R.
    pub sizes: [usize; 6],
    /// [G, I], [G·M, J] and [G·M, K].
    pub z: Vec<T>,
    pub x: Vec<T>,
    pub g: Vec<T>,
    /// Gradients of W′ [G, K, J] and b′ [G, K].
    pub weights: Vec<T>,
    pub bias: Vec<T>,
    /// [K, I, J] of a dense layer, [K, R], [I, R], [J, R] and \[R\] of a CP layer.
    pub w: Vec<T>,
    pub factors: [Vec<T>; 3],
    pub lambda: Vec<T>,
    pub u: Vec<T>,
    pub v: Vec<T>,
    pub b: Vec<T>,
}

/// How to call.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub context: Context,
    /// Of inputs, weights and gradients: an index of [`Layout::all`].
    pub layout: usize,
    pub wanted: Set,
    /// Which are added to what is there.
    pub add: Set,
    /// With what a forward pass has saved.
    pub saved: bool,
}

impl Options {
    /// All gradients, written row-major.
    pub fn new(context: Context) -> Self {
        Options { context, layout: 0, wanted: Set::ALL, add: Set::NONE, saved: false }
    }
}

pub type Found<T> = Vec<(Part, Vec<<T as Element>::Accumulator>)>;

impl<T: Element> Case<T> {
    pub fn new(form: Form, sizes: [usize; 6], mut fill: impl FnMut(usize, usize) -> Vec<T>) -> Self {
        let [g, m, i, j, k, r] = sizes;
        let n = g * m;
        let (dense, r) = (if form == Form::Dense { k * i * j } else { 0 }, if form.is_cp() { r } else { 0 });
        Case {
            form,
            linear: true,
            tied: false,
            sizes,
            z: fill(g * i, 2),
            x: fill(n * j, 2),
            g: fill(n * k, 1),
            weights: fill(g * k * j, 2),
            bias: fill(g * k, 2),
            w: fill(dense, 2),
            factors: [k, i, j].map(|rows| fill(rows * r, 1)),
            lambda: fill(r, 2),
            u: fill(k * i, 2),
            v: fill(k * j, 2),
            b: fill(k, 2),
        }
    }

    pub fn uniform(form: Form, sizes: [usize; 6], seed: u64) -> Self {
        let mut random = Random(seed);
        Case::new(form, sizes, |len, _| random.uniform(len))
    }

    /// Of a forward pass, roughly.
    pub fn flops(&self) -> usize {
        let [g, m, i, j, k, r] = self.sizes;
        let core = match self.form {
            Form::Dense => i * j * k,
            Form::Linear => 0,
            Form::Cp | Form::CpLambda => r * (i + j + k),
        };
        2 * g * m * (core + (i + j) * k)
    }

    /// Small integers. [`Exact::new`] checks that all sums of them are exact.
    pub fn integers(form: Form, sizes: [usize; 6], seed: u64) -> Self {
        let mut random = Random(seed);
        Case::new(form, sizes, |len, most| random.integers(len, most))
    }

    /// One of each form, and one without linear terms.
    pub fn forms(sizes: [usize; 6], seed: u64) -> Vec<Self> {
        let mut cases: Vec<Self> = Form::ALL.into_iter().map(|form| Case::integers(form, sizes, seed)).collect();
        cases.push(Case { linear: false, ..Case::integers(*Random(seed).pick(&Form::ALL), sizes, seed) });
        cases
    }

    /// x is z; I must be J.
    pub fn tied(self) -> Self {
        assert_eq!((self.sizes[1], self.sizes[2]), (1, self.sizes[3]));
        Case { tied: true, x: self.z.clone(), ..self }
    }

    /// The gradients that there are.
    pub fn parts(&self, operation: Operation) -> Set {
        let has = |part: &Part| match part {
            Part::X => operation != Operation::Generate,
            Part::Tied => self.tied && operation == Operation::Plain,
            Part::FactorA | Part::FactorB | Part::FactorC | Part::Lambda => self.form.is_cp(),
            _ => true,
        };
        Set::of(&Part::ALL.into_iter().filter(has).collect::<Vec<_>>())
    }

    pub fn laid(&self, layout: usize) -> Laid<'_, T> {
        let [g, m, i, j, k, r] = self.sizes;
        let r = if self.form.is_cp() { r } else { 0 };
        let [a, b, c] = &self.factors;
        let cube = if self.form == Form::Dense { [k, i, j] } else { [0; 3] };
        Laid {
            case: self,
            z: embed(&self.z, [g, i], layout),
            x: embed(&self.x, [g * m, j], layout),
            g: embed(&self.g, [g * m, k], layout),
            x_shared: embed(&self.x, [g, m, j], layout),
            g_shared: embed(&self.g, [g, m, k], layout),
            weights: embed(&self.weights, [g, k, j], layout),
            bias: embed(&self.bias, [g, k], layout),
            w: embed(&self.w, cube, layout),
            factors: [embed(a, [k, r], layout), embed(b, [i, r], layout), embed(c, [j, r], layout)],
            lambda: embed(&self.lambda, [r], layout),
            u: embed(&self.u, [k, i], layout),
            v: embed(&self.v, [k, j], layout),
            b: embed(&self.b, [k], layout),
        }
    }

    /// The shape of a gradient, its first axis 1 if it has fewer than three axes.
    fn shape(&self, part: Part, operation: Operation) -> [usize; 3] {
        let [g, m, i, j, k, r] = self.sizes;
        match part {
            Part::Z | Part::Tied => [1, g, i],
            Part::X if operation == Operation::Shared => [g, m, j],
            Part::X => [1, g * m, j],
            Part::W => [k, i, j],
            Part::U => [1, k, i],
            Part::V => [1, k, j],
            Part::B => [1, 1, k],
            Part::FactorA => [1, k, r],
            Part::FactorB => [1, i, r],
            Part::FactorC => [1, j, r],
            Part::Lambda => [1, 1, r],
        }
    }

    /// What is there before a gradient is added to it.
    pub fn initial(&self, part: Part, operation: Operation) -> Vec<T::Accumulator> {
        Random(part as u64).integers(self.shape(part, operation).iter().product(), 3)
    }

    /// Those of the gradients wanted that there are.
    pub fn call(&self, operation: Operation, options: &Options, what: &str) -> Result<Found<T>> {
        let laid = self.laid(options.layout);
        let mut to = Destinations::new(self, operation, options);
        let mut saved = Saved::default();
        if options.saved && operation == Operation::Plain {
            laid.layer().with_context(options.context).forward_saving(laid.z.view(), laid.plain_x(), &mut saved)?;
            laid.run(operation, options.context, &mut to, Some(&saved))?;
        } else {
            laid.run(operation, options.context, &mut to, None)?;
        }
        Ok(to.finish(&format!("{:?} {operation:?} {:?} {what}", self.form, self.sizes)))
    }
}

fn embed<T: Element, const D: usize>(values: &[T], shape: [usize; D], layout: usize) -> Embedded<T, D> {
    Embedded::input(values, shape, Layout::all()[layout].1)
}

/// A case in memory of some layout, amid NaN.
pub struct Laid<'c, T> {
    pub case: &'c Case<T>,
    pub z: Embedded<T, 2>,
    pub x: Embedded<T, 2>,
    pub g: Embedded<T, 2>,
    pub x_shared: Embedded<T, 3>,
    pub g_shared: Embedded<T, 3>,
    pub weights: Embedded<T, 3>,
    pub bias: Embedded<T, 2>,
    pub w: Embedded<T, 3>,
    pub factors: [Embedded<T, 2>; 3],
    pub lambda: Embedded<T, 1>,
    pub u: Embedded<T, 2>,
    pub v: Embedded<T, 2>,
    pub b: Embedded<T, 1>,
}

impl<T: Element> Laid<'_, T> {
    /// x of a plain batch: z itself if they are tied.
    pub fn plain_x(&self) -> View<'_, T, 2> {
        if self.case.tied { self.z.view() } else { self.x.view() }
    }

    /// The call alone.
    pub fn run(
        &self,
        operation: Operation,
        context: Context,
        to: &mut Destinations<T>,
        saved: Option<&Saved<T>>,
    ) -> Result<()> {
        let layer = self.layer().with_context(context);
        let z = self.z.view();
        match operation {
            Operation::Plain => {
                let wanted = Wanted { saved, ..destinations::<T, 2>(&mut to.0, Destination::two) };
                layer.backward_into(z, self.plain_x(), self.g.view(), wanted)
            }
            Operation::Shared => {
                let wanted = destinations::<T, 3>(&mut to.0, Destination::three);
                layer.backward_shared_into(z, self.x_shared.view(), self.g_shared.view(), wanted)
            }
            Operation::Generate => {
                let wanted = destinations::<T, 2>(&mut to.0, Destination::two);
                layer.backward_generate_into(z, self.weights.view(), self.bias.view(), wanted)
            }
        }
    }

    pub fn layer(&self) -> Interaction<'_, T> {
        let [_, _, i, j, k, _] = self.case.sizes;
        let [a, b, c] = &self.factors;
        let cp = || Interaction::cp(a.view(), b.view(), c.view()).unwrap();
        let layer = match self.case.form {
            Form::Dense => Interaction::dense(self.w.view()).unwrap(),
            Form::Linear => Interaction::linear(k, i, j).unwrap(),
            Form::Cp => cp(),
            Form::CpLambda => cp().with_lambda(self.lambda.view()).unwrap(),
        };
        if self.case.linear {
            layer.with_u(self.u.view()).unwrap().with_v(self.v.view()).unwrap().with_b(self.b.view()).unwrap()
        } else {
            layer
        }
    }
}

/// Memory for the gradients that are wanted and that there are.
pub struct Destinations<T: Element>(Vec<Destination<T::Accumulator>>);

impl<T: Element> Destinations<T> {
    pub fn new(case: &Case<T>, operation: Operation, options: &Options) -> Self {
        let parts = options.wanted.and(case.parts(operation)).parts();
        Destinations(parts.map(|part| Destination::new(case, part, operation, options)).collect())
    }

    #[track_caller]
    pub fn finish(self, what: &str) -> Found<T> {
        self.0.into_iter().map(|to| (to.part, to.finish(what))).collect()
    }
}

/// Memory for one gradient amid a filler.
struct Destination<A> {
    part: Part,
    add: bool,
    memory: Memory<A>,
}

enum Memory<A> {
    One(Embedded<A, 1>),
    Two(Embedded<A, 2>),
    Three(Embedded<A, 3>),
}

impl<A: Element> Destination<A> {
    fn new<T: Element<Accumulator = A>>(
        case: &Case<T>,
        part: Part,
        operation: Operation,
        options: &Options,
    ) -> Destination<A> {
        fn memory<A: Element, const D: usize>(values: &[A], shape: [usize; D], layout: usize) -> Embedded<A, D> {
            Embedded::new(values, shape, Layout::all()[layout].1, A::from_f64(77.0))
        }
        let shape @ [_, rows, columns] = case.shape(part, operation);
        let mut values = case.initial(part, operation);
        let add = options.add.has(part);
        if !add {
            values.fill(A::from_f64(f64::NAN));
        }
        let memory = match part {
            Part::B | Part::Lambda => Memory::One(memory(&values, [columns], options.layout)),
            Part::W => Memory::Three(memory(&values, shape, options.layout)),
            Part::X if operation == Operation::Shared => Memory::Three(memory(&values, shape, options.layout)),
            _ => Memory::Two(memory(&values, [rows, columns], options.layout)),
        };
        Destination { part, add, memory }
    }

    fn gradient<'a, const D: usize>(add: bool, to: ViewMut<'a, A, D>) -> Option<Gradient<'a, A, D>> {
        Some(if add { Gradient::add(to) } else { Gradient::write(to) })
    }

    fn one(&mut self) -> Option<Gradient<'_, A, 1>> {
        if let Memory::One(memory) = &mut self.memory { Self::gradient(self.add, memory.view_mut()) } else { None }
    }
    fn two(&mut self) -> Option<Gradient<'_, A, 2>> {
        if let Memory::Two(memory) = &mut self.memory { Self::gradient(self.add, memory.view_mut()) } else { None }
    }
    fn three(&mut self) -> Option<Gradient<'_, A, 3>> {
        if let Memory::Three(memory) = &mut self.memory { Self::gradient(self.add, memory.view_mut()) } else { None }
    }

    #[track_caller]
    fn finish(self, what: &str) -> Vec<A> {
        let what = format!("{:?} {what}", self.part);
        match self.memory {
            Memory::One(memory) => memory.finish(&what),
            Memory::Two(memory) => memory.finish(&what),
            Memory::Three(memory) => memory.finish(&what),
        }
    }
}

type Of<T, const D: usize> = for<'a> fn(
    &'a mut Destination<<T as Element>::Accumulator>,
) -> Option<Gradient<'a, <T as Element>::Accumulator, D>>;

fn destinations<T: Element, const D: usize>(to: &mut [Destination<T::Accumulator>], x: Of<T, D>) -> Wanted<'_, T, D> {
    let mut wanted = Wanted::default();
    let mut cp = WantedFactors::default();
    for to in to {
        match to.part {
            Part::Z => wanted.z = to.two(),
            Part::X => wanted.x = x(to),
            Part::Tied => wanted.tied = to.two(),
            Part::W => wanted.w = to.three(),
            Part::U => wanted.u = to.two(),
            Part::V => wanted.v = to.two(),
            Part::B => wanted.b = to.one(),
            Part::FactorA => cp.a = to.two(),
            Part::FactorB => cp.b = to.two(),
            Part::FactorC => cp.c = to.two(),
            Part::Lambda => cp.lambda = to.one(),
        }
    }
    wanted.cp = cp;
    wanted
}

/// What must come out of an operation.
pub struct Exact {
    pub gradients: reference::Gradients,
    tied: Option<Reference>,
}

impl Exact {
    pub fn new<T: Element>(case: &Case<T>, operation: Operation) -> Exact {
        let laid = case.laid(0);
        let (layer, z) = (laid.layer(), laid.z.view());
        let gradients = match operation {
            Operation::Plain => reference::backward(&layer, z, laid.x.view(), laid.g.view()),
            Operation::Shared => reference::backward_shared(&layer, z, laid.x_shared.view(), laid.g_shared.view()),
            Operation::Generate => reference::backward_generate(&layer, z, laid.weights.view(), laid.bias.view()),
        }
        .unwrap();
        let tied = case.tied.then(|| gradients.tied().unwrap());
        Exact { gradients, tied }
    }

    pub fn of(&self, part: Part) -> &Reference {
        let cp = || self.gradients.cp.as_ref().unwrap();
        match part {
            Part::Z => &self.gradients.z,
            Part::X => &self.gradients.x,
            Part::Tied => self.tied.as_ref().unwrap(),
            Part::W => &self.gradients.w,
            Part::U => &self.gradients.u,
            Part::V => &self.gradients.v,
            Part::B => &self.gradients.b,
            Part::FactorA => &cp().a,
            Part::FactorB => &cp().b,
            Part::FactorC => &cp().c,
            Part::Lambda => &cp().lambda,
        }
    }
}

/// Calls and compares: small integers to the last bit, anything else within the published bound.
#[track_caller]
pub fn check<T: Element>(case: &Case<T>, operation: Operation, exact: &Exact, options: &Options, integers: bool) {
    let what = format!(
        "{:?} {operation:?} {:?} {} {} linear {} tied {} {options:?}",
        case.form,
        case.sizes,
        T::DTYPE,
        super::place(&options.context),
        case.linear,
        case.tied
    );
    let found = case.call(operation, options, &what).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(found.len(), options.wanted.and(case.parts(operation)).parts().count(), "{what}");
    for (part, values) in found {
        let mut exact = exact.of(part).clone();
        if options.add.has(part) {
            let there = Reference::given(&case.initial(part, operation), exact.value.shape()).unwrap();
            exact = exact.plus(&there).unwrap();
        }
        let what = format!("{part:?} {what}");
        if integers {
            // All sums are exact where even those of the magnitudes are. A zero may have either sign.
            let largest = exact.magnitude.as_slice().iter().fold(0.0, |a: f64, &b| a.max(b));
            assert!(largest < f64::from(1 << 24), "{what}: too large to be exact");
            let expected: Vec<_> = exact.value.as_slice().iter().map(|&v| T::Accumulator::from_f64(v + 0.0)).collect();
            let values: Vec<_> = values.iter().map(|v| T::Accumulator::from_f64(v.to_f64() + 0.0)).collect();
            assert_same(&values, &expected, &what);
        } else {
            assert_close(&values, &exact, &what);
        }
    }
}

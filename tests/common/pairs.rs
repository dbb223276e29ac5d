//! A layer of any form with problems of all pairs.

use trilinear::reference::{self, Reference};
use trilinear::{Context, Element, Gradient, Interaction, Result, Wanted, WantedFactors};

use super::case::{Case, Form, Laid, Part, Set};
use super::layout::{Embedded, Layout};
use super::{Random, assert_close, assert_same};

/// Operands, row-major.
#[derive(Clone, Debug)]
pub struct Pairs<T> {
    /// The weights, and z as rows.
    pub case: Case<T>,
    /// P, S, T.
    pub rows: [usize; 3],
    /// [P, T, J] and [P, S, T, K].
    pub x: Vec<T>,
    pub g: Vec<T>,
}

/// P, S, T, I, J, K, R.
pub type Sizes = [usize; 7];

/// Each axis empty in turn, and all of one element.
pub const SMALLEST: [Sizes; 8] = [
    [0, 3, 2, 2, 2, 2, 2],
    [3, 0, 2, 2, 2, 2, 2],
    [2, 3, 0, 4, 2, 2, 2],
    [2, 3, 4, 0, 2, 2, 2],
    [2, 3, 4, 2, 0, 2, 2],
    [2, 3, 4, 5, 2, 0, 2],
    [2, 3, 4, 5, 2, 3, 0],
    [1, 1, 1, 1, 1, 1, 1],
];

impl<T: Element> Pairs<T> {
    pub fn uniform(form: Form, sizes: Sizes, seed: u64) -> Self {
        let mut random = Random(seed);
        Pairs::new(form, sizes, |len, _| random.uniform(len))
    }

    /// Small integers.
    pub fn integers(form: Form, sizes: Sizes, seed: u64) -> Self {
        let mut random = Random(seed);
        Pairs::new(form, sizes, |len, most| random.integers(len, most))
    }

    fn new(form: Form, [p, s, t, i, j, k, r]: Sizes, mut fill: impl FnMut(usize, usize) -> Vec<T>) -> Self {
        let (x, g) = (fill(p * t * j, 2), fill(p * s * t * k, 1));
        Pairs { case: Case::new(form, [p * s, 1, i, j, k, r], fill), rows: [p, s, t], x, g }
    }

    /// Without U, V and b.
    pub fn core(mut self) -> Self {
        self.case.linear = false;
        self
    }

    pub fn laid(&self, layout: usize) -> LaidPairs<'_, T> {
        let ([p, s, t], [_, _, i, j, k, _]) = (self.rows, self.case.sizes);
        LaidPairs {
            case: self.case.laid(layout),
            z: embed(&self.case.z, [p, s, i], layout),
            x: embed(&self.x, [p, t, j], layout),
            g: embed(&self.g, [p, s, t, k], layout),
        }
    }

    pub fn exact(&self) -> Reference {
        let laid = self.laid(0);
        reference::forward_pairs(&laid.case.layer(), laid.z.view(), laid.x.view()).unwrap()
    }

    pub fn exact_gradients(&self) -> reference::Gradients {
        let laid = self.laid(0);
        reference::backward_pairs(&laid.case.layer(), laid.z.view(), laid.x.view(), laid.g.view()).unwrap()
    }

    /// The shape of y.
    pub fn shape(&self) -> [usize; 4] {
        let ([p, s, t], [.., k, _]) = (self.rows, self.case.sizes);
        [p, s, t, k]
    }

    /// y in a layout, written over NaN.
    pub fn forward(&self, context: Context, layout: usize, what: &str) -> Vec<T> {
        let laid = self.laid(layout);
        let mut y = Embedded::output(self.shape(), Layout::all()[layout].1);
        let layer = laid.case.layer().with_context(context);
        layer.forward_pairs_into(laid.z.view(), laid.x.view(), y.view_mut()).unwrap();
        y.finish(what)
    }

    /// The gradients that the form has.
    pub fn parts(&self) -> Set {
        let parts = Part::ALL.into_iter().filter(|part| match part {
            Part::Tied => false,
            Part::FactorA | Part::FactorB | Part::FactorC | Part::Lambda => self.case.form.is_cp(),
            _ => true,
        });
        Set::of(&parts.collect::<Vec<_>>())
    }

    /// Shape of a gradient, with axes of length 1 before it.
    fn shape_of(&self, part: Part) -> [usize; 3] {
        let ([p, s, t], [_, _, i, j, k, r]) = (self.rows, self.case.sizes);
        match part {
            Part::Z => [p, s, i],
            Part::X => [p, t, j],
            Part::Tied => [0; 3],
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
    fn initial(&self, part: Part) -> Vec<T::Accumulator> {
        Random(part as u64).integers(self.shape_of(part).iter().product(), 3)
    }

    /// Gradients in a layout: written over NaN, or added to what is there.
    pub fn backward(
        &self,
        context: Context,
        layout: usize,
        [wanted, add]: [Set; 2],
        what: &str,
    ) -> Result<Vec<(Part, Vec<T::Accumulator>)>> {
        let laid = self.laid(layout);
        let parts: Vec<Part> = wanted.and(self.parts()).parts().collect();
        let mut memory: Vec<To<T::Accumulator>> =
            parts.iter().map(|&part| To::new(self, part, layout, add.has(part))).collect();
        let mut to: Wanted<'_, T, 3, 3> = Wanted::default();
        let mut cp = WantedFactors::default();
        for (&part, memory) in parts.iter().zip(&mut memory) {
            let add = add.has(part);
            match (part, memory) {
                (Part::Z, To::Three(memory)) => to.z = Some(gradient(add, memory.view_mut())),
                (Part::X, To::Three(memory)) => to.x = Some(gradient(add, memory.view_mut())),
                (Part::W, To::Three(memory)) => to.w = Some(gradient(add, memory.view_mut())),
                (Part::U, To::Two(memory)) => to.u = Some(gradient(add, memory.view_mut())),
                (Part::V, To::Two(memory)) => to.v = Some(gradient(add, memory.view_mut())),
                (Part::B, To::One(memory)) => to.b = Some(gradient(add, memory.view_mut())),
                (Part::FactorA, To::Two(memory)) => cp.a = Some(gradient(add, memory.view_mut())),
                (Part::FactorB, To::Two(memory)) => cp.b = Some(gradient(add, memory.view_mut())),
                (Part::FactorC, To::Two(memory)) => cp.c = Some(gradient(add, memory.view_mut())),
                (Part::Lambda, To::One(memory)) => cp.lambda = Some(gradient(add, memory.view_mut())),
                _ => unreachable!(),
            }
        }
        to.cp = cp;
        let layer = laid.case.layer().with_context(context);
        layer.backward_pairs_into(laid.z.view(), laid.x.view(), laid.g.view(), to)?;
        Ok(parts.into_iter().zip(memory).map(|(part, to)| (part, to.finish(&format!("{part:?} {what}")))).collect())
    }

    /// Calls and compares: small integers to the last bit, anything else within the published bound.
    #[track_caller]
    pub fn check_gradients(
        &self,
        exact: &reference::Gradients,
        context: Context,
        layout: usize,
        sets @ [wanted, add]: [Set; 2],
        integers: bool,
    ) {
        let what = format!(
            "{:?} {:?} {:?} {} {} layout {layout} linear {} {wanted:?} added {add:?}",
            self.case.form,
            self.rows,
            self.case.sizes,
            T::DTYPE,
            context.simd(),
            self.case.linear
        );
        let found = self.backward(context, layout, sets, &what).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(found.len(), wanted.and(self.parts()).parts().count());
        for (part, values) in found {
            let mut exact = of(exact, part).clone();
            if add.has(part) {
                let there = Reference::given(&self.initial(part), exact.value.shape()).unwrap();
                exact = exact.plus(&there).unwrap();
            }
            let what = format!("{part:?} {what}");
            if integers {
                let largest = exact.magnitude.as_slice().iter().fold(0.0, |a: f64, &b| a.max(b));
                assert!(largest < f64::from(1 << 24), "{what}: too large to be exact");
                let plus_zero = |v: f64| T::Accumulator::from_f64(v + 0.0); // a zero may have either sign
                let expected: Vec<_> = exact.value.as_slice().iter().map(|&v| plus_zero(v)).collect();
                let values: Vec<_> = values.iter().map(|v| plus_zero(v.to_f64())).collect();
                assert_same(&values, &expected, &what);
            } else {
                assert_close(&values, &exact, &what);
            }
        }
    }
}

fn of(exact: &reference::Gradients, part: Part) -> &Reference {
    let cp = || exact.cp.as_ref().unwrap();
    match part {
        Part::Z => &exact.z,
        Part::X => &exact.x,
        Part::W => &exact.w,
        Part::U => &exact.u,
        Part::V => &exact.v,
        Part::B => &exact.b,
        Part::FactorA => &cp().a,
        Part::FactorB => &cp().b,
        Part::FactorC => &cp().c,
        Part::Lambda => &cp().lambda,
        Part::Tied => unreachable!(),
    }
}

/// Operands in memory of some layout, amid NaN.
pub struct LaidPairs<'c, T> {
    pub case: Laid<'c, T>,
    pub z: Embedded<T, 3>,
    pub x: Embedded<T, 3>,
    pub g: Embedded<T, 4>,
}

impl<T: Element> LaidPairs<'_, T> {
    pub fn layer(&self) -> Interaction<'_, T> {
        self.case.layer()
    }
}

enum To<A> {
    One(Embedded<A, 1>),
    Two(Embedded<A, 2>),
    Three(Embedded<A, 3>),
}

impl<A: Element> To<A> {
    fn new<T: Element<Accumulator = A>>(pairs: &Pairs<T>, part: Part, layout: usize, add: bool) -> Self {
        fn memory<A: Element, const D: usize>(values: &[A], shape: [usize; D], layout: usize) -> Embedded<A, D> {
            Embedded::new(values, shape, Layout::all()[layout].1, A::from_f64(77.0))
        }
        let shape @ [_, rows, columns] = pairs.shape_of(part);
        let mut values = pairs.initial(part);
        if !add {
            values.fill(A::from_f64(f64::NAN));
        }
        match part {
            Part::B | Part::Lambda => To::One(memory(&values, [columns], layout)),
            Part::Z | Part::X | Part::W => To::Three(memory(&values, shape, layout)),
            _ => To::Two(memory(&values, [rows, columns], layout)),
        }
    }

    #[track_caller]
    fn finish(self, what: &str) -> Vec<A> {
        match self {
            To::One(memory) => memory.finish(what),
            To::Two(memory) => memory.finish(what),
            To::Three(memory) => memory.finish(what),
        }
    }
}

fn gradient<A, const D: usize>(add: bool, to: trilinear::ViewMut<'_, A, D>) -> Gradient<'_, A, D> {
    if add { Gradient::add(to) } else { Gradient::write(to) }
}

fn embed<T: Element, const D: usize>(values: &[T], shape: [usize; D], layout: usize) -> Embedded<T, D> {
    Embedded::input(values, shape, Layout::all()[layout].1)
}

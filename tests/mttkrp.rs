//! MTTKRP along each axis against its definition.

mod common;

use common::layout::{Embedded, Layout};
use common::{Random, assert_close, assert_same, contexts, place, ways};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use trilinear::reference::Reference;
use trilinear::{Axis, Context, DType, Element, Error, Tensor, View, ViewMut, mttkrp, mttkrp_into};

const AXES: [Axis; 3] = [Axis::Out, Axis::Z, Axis::X];

/// W [K, I, J] and a factor of each axis, row-major.
struct Case<T> {
    lengths: [usize; 3],
    rank: usize,
    w: Vec<T>,
    factors: [Vec<T>; 3],
}

impl<T: Element> Case<T> {
    fn new(lengths: [usize; 3], rank: usize, mut numbers: impl FnMut(usize) -> Vec<T>) -> Self {
        Case { lengths, rank, w: numbers(lengths.iter().product()), factors: lengths.map(|len| numbers(len * rank)) }
    }

    fn uniform(lengths: [usize; 3], rank: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        Case::new(lengths, rank, |len| random.uniform(len))
    }

    fn w(&self) -> View<'_, T, 3> {
        View::new(&self.w, self.lengths).unwrap()
    }

    /// Those of the other axes.
    fn factors(&self, along: usize) -> [View<'_, T, 2>; 2] {
        let others = [[1, 2], [0, 2], [0, 1]][along];
        others.map(|axis| View::new(&self.factors[axis], [self.lengths[axis], self.rank]).unwrap())
    }

    /// The definition.
    fn exact(&self, along: usize) -> Reference {
        let ([k, i, j], r) = (self.lengths, self.rank);
        let len = self.lengths[along];
        let (mut value, mut magnitude) = (vec![0.0; len * r], vec![0.0; len * r]);
        for (at, w) in self.w.iter().enumerate() {
            let index = [at / (i * j), at / j % i, at % j];
            for r in 0..r {
                let others = (0..3).filter(|&axis| axis != along);
                let factors = others.map(|axis| self.factors[axis][index[axis] * self.rank + r].to_f64());
                let term = factors.fold(w.to_f64(), |product, factor| product * factor);
                value[index[along] * self.rank + r] += term;
                magnitude[index[along] * self.rank + r] += term.abs();
            }
        }
        let depth = (k * i * j).checked_div(len).unwrap_or(0) + 3;
        let matrix = |values| Tensor::from_vec(values, [len, r]).unwrap();
        Reference { value: matrix(value), magnitude: matrix(magnitude), depth }
    }
}

/// Sizes on both sides of tiles and of what few rows take.
const SIZES: [([usize; 3], usize); 12] = [
    ([1, 1, 1], 1),
    ([3, 4, 5], 2),
    ([5, 1, 7], 3),
    ([2, 40, 3], 5),
    ([17, 9, 33], 4),
    ([9, 33, 17], 16),
    ([33, 17, 9], 31),
    ([20, 21, 22], 50),
    ([64, 8, 100], 33),
    ([0, 4, 5], 3),
    ([4, 0, 5], 3),
    ([4, 5, 6], 0),
];

fn definition<T: Element>() {
    for (seed, (lengths, rank)) in SIZES.into_iter().enumerate() {
        let case = Case::<T>::uniform(lengths, rank, seed as u64);
        // A simulated device is slow: the same kernels as the forward pass, so one case will do.
        let device = if lengths == [3, 4, 5] && T::DTYPE == DType::F32 { ways(1) } else { contexts() };
        for context in device {
            for (along, axis) in AXES.into_iter().enumerate() {
                let m = mttkrp(case.w(), axis, case.factors(along), &context).unwrap();
                assert_eq!(m.shape(), [lengths[along], rank]);
                let what = format!("{lengths:?} rank {rank} along {axis:?} on {}", place(&context));
                assert_close(m.as_slice(), &case.exact(along), &what);
            }
        }
    }
}

/// Strided operands, and results over NaN amid memory that must stay as it is.
fn strides<T: Element>() {
    let case = Case::<T>::uniform([7, 19, 12], 9, 1);
    for context in contexts() {
        for (along, axis) in AXES.into_iter().enumerate() {
            for ((name, core), (_, matrix)) in Layout::all().into_iter().zip(Layout::all()) {
                let w = Embedded::input(&case.w, case.lengths, core);
                let [p, q] = case.factors(along);
                let [p, q] = [p, q].map(|f| Embedded::input(f.as_slice().unwrap(), f.shape(), matrix));
                let mut to = Embedded::output([case.lengths[along], case.rank], matrix);
                mttkrp_into(w.view(), axis, [p.view(), q.view()], to.view_mut(), &context).unwrap();
                let what = format!("{name} along {axis:?} on {}", place(&context));
                assert_close(&to.finish(&what), &case.exact(along), &what);
            }
        }
    }
}

for_each_dtype!(definition, strides);

#[test]
fn threads() {
    let case = Case::<f32>::uniform([70, 60, 50], 40, 1);
    for context in contexts() {
        for (along, axis) in AXES.into_iter().enumerate() {
            let of = |threads: usize| {
                let context = context.with_threads(threads).unwrap();
                mttkrp(case.w(), axis, case.factors(along), &context).unwrap().into_vec()
            };
            assert_same(&of(1), &of(2), "two threads");
            assert_same(&of(1), &of(3), "three threads");
        }
    }
}

#[test]
fn errors() {
    let case = Case::<f32>::uniform([3, 4, 5], 2, 1);
    let context = Context::from_env().unwrap();
    let [b, c] = case.factors(0);
    let shape = |operand, axis, expected, actual| Error::Shape { operand, axis, expected, actual };
    let error = |along, factors| mttkrp(case.w(), along, factors, &context).unwrap_err();
    assert_eq!(error(Axis::Out, [c, b]), shape("factor", "rows", 4, 5));
    assert_eq!(error(Axis::Z, [b, c]), shape("factor", "rows", 3, 4));
    assert_eq!(error(Axis::Out, [b, c.slice(1, 0..1).unwrap()]), shape("factor", "rank", 2, 1));
    let mut to = [0.0f32; 8];
    let to = ViewMut::new(&mut to, [4, 2]).unwrap();
    assert_eq!(mttkrp_into(case.w(), Axis::Out, [b, c], to, &context).unwrap_err(), shape("to", "rows", 3, 4));
    let mut to = [0.0f32; 9];
    let to = ViewMut::new(&mut to, [3, 3]).unwrap();
    assert_eq!(mttkrp_into(case.w(), Axis::Out, [b, c], to, &context).unwrap_err(), shape("to", "rank", 2, 3));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 64 }, rng_seed: RngSeed::Fixed(21), failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Small integers, whose sums are exact: the bits of the definition, and Σ M⊙F the same along all axes.
    #[test]
    fn integers(lengths in [1..24usize, 1..24usize, 1..24usize], rank in 1..20usize, seed in 0..1000u64) {
        let mut random = Random(seed);
        let case = Case::<f32>::new(lengths, rank, |len| random.integers(len, 2));
        for context in contexts() {
            let mut inner = [0.0; 3];
            for (along, axis) in AXES.into_iter().enumerate() {
                let m = mttkrp(case.w(), axis, case.factors(along), &context).unwrap();
                let exact: Vec<f32> = case.exact(along).value.as_slice().iter().map(|&value| value as f32).collect();
                assert_same(m.as_slice(), &exact, &format!("{lengths:?} rank {rank} along {axis:?}"));
                let products = m.as_slice().iter().zip(&case.factors[along]);
                inner[along] = products.map(|(m, f)| f64::from(*m) * f64::from(*f)).sum();
            }
            prop_assert!(inner[0] == inner[1] && inner[1] == inner[2], "{inner:?}");
        }
    }
}

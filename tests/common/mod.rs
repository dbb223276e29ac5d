//! What the test binaries share: data, oracles, and the list of ways to compute.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

pub mod blocks;
pub mod case;
pub mod cuda;
pub mod layout;
pub mod pairs;

use std::sync::OnceLock;

use trilinear::reference::{self, Reference};
use trilinear::{Algorithm, Context, Device, Element, Error, Interaction, SimdLevel, View};

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same numbers on every platform.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, V>(&mut self, from: &'a [V]) -> &'a V {
        &from[self.below(from.len())]
    }

    /// Numbers in [−1, 1), rounded to T.
    pub fn uniform<T: Element>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f64((self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0)).collect()
    }

    /// Integers in [−most, most].
    pub fn integers<T: Element>(&mut self, len: usize, most: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f64(self.below(2 * most + 1) as f64 - most as f64)).collect()
    }
}

/// All operands of a dense layer, row-major.
#[derive(Clone, Debug)]
pub struct Dense<T> {
    /// N, I, J, K.
    pub sizes: [usize; 4],
    pub w: Vec<T>,
    pub u: Vec<T>,
    pub v: Vec<T>,
    pub b: Vec<T>,
    pub z: Vec<T>,
    pub x: Vec<T>,
}

impl<T: Element> Dense<T> {
    fn new(sizes: [usize; 4], mut fill: impl FnMut(usize) -> Vec<T>) -> Self {
        let [_, i, j, k] = sizes;
        Dense { w: fill(k * i * j), ..Dense::without_w(sizes, fill) }
    }

    fn without_w(sizes: [usize; 4], mut fill: impl FnMut(usize) -> Vec<T>) -> Self {
        let [n, i, j, k] = sizes;
        let (u, v, b) = (fill(k * i), fill(k * j), fill(k));
        Dense { sizes, w: vec![], u, v, b, z: fill(n * i), x: fill(n * j) }
    }

    pub fn uniform(sizes: [usize; 4], seed: u64) -> Self {
        let mut random = Random(seed);
        Dense::new(sizes, |len| random.uniform(len))
    }

    /// Integers so small that every sum is exact in f32, in any order: the sum of the magnitudes of the terms is at most
    /// 8·I·J + 4·(I + J) + 2, which must stay below 2²⁴.
    pub fn integers(sizes: [usize; 4], seed: u64) -> Self {
        let [_, i, j, _] = sizes;
        assert!(8 * i * j + 4 * (i + j) + 2 < 1 << 24, "{sizes:?} are too large to be exact");
        let mut random = Random(seed);
        Dense::new(sizes, |len| random.integers(len, 2))
    }

    pub fn w(&self) -> View<'_, T, 3> {
        let [_, i, j, k] = self.sizes;
        View::new(&self.w, [k, i, j]).unwrap()
    }
    pub fn u(&self) -> View<'_, T, 2> {
        View::new(&self.u, [self.sizes[3], self.sizes[1]]).unwrap()
    }
    pub fn v(&self) -> View<'_, T, 2> {
        View::new(&self.v, [self.sizes[3], self.sizes[2]]).unwrap()
    }
    pub fn b(&self) -> View<'_, T, 1> {
        View::vector(&self.b)
    }
    pub fn z(&self) -> View<'_, T, 2> {
        View::new(&self.z, [self.sizes[0], self.sizes[1]]).unwrap()
    }
    pub fn x(&self) -> View<'_, T, 2> {
        View::new(&self.x, [self.sizes[0], self.sizes[2]]).unwrap()
    }

    /// W alone.
    pub fn core(&self) -> Interaction<'_, T> {
        Interaction::dense(self.w()).unwrap()
    }

    /// All four terms.
    pub fn layer(&self) -> Interaction<'_, T> {
        self.with_terms(self.core())
    }

    /// U, V and b without W.
    pub fn linear(&self) -> Interaction<'_, T> {
        let [_, i, j, k] = self.sizes;
        self.with_terms(Interaction::linear(k, i, j).unwrap())
    }

    fn with_terms<'a>(&'a self, layer: Interaction<'a, T>) -> Interaction<'a, T> {
        layer.with_u(self.u()).unwrap().with_v(self.v()).unwrap().with_b(self.b()).unwrap()
    }

    pub fn exact(&self, layer: &Interaction<'_, T>) -> Reference {
        reference::forward(layer, self.z(), self.x()).unwrap()
    }
}

/// All operands of a CP layer, row-major.
#[derive(Clone, Debug)]
pub struct Cp<T> {
    pub rank: usize,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub c: Vec<T>,
    pub lambda: Vec<T>,
    /// U, V, the bias, z and x; without W.
    pub rest: Dense<T>,
}

impl<T: Element> Cp<T> {
    pub fn uniform([n, i, j, k, rank]: [usize; 5], seed: u64) -> Self {
        let mut random = Random(seed);
        let (a, b) = (random.uniform(k * rank), random.uniform(i * rank));
        let (c, lambda) = (random.uniform(j * rank), random.uniform(rank));
        let rest = Dense::without_w([n, i, j, k], |len| random.uniform(len));
        Cp { rank, a, b, c, lambda, rest }
    }

    /// Integers so small that every sum is exact in f32, in any order: at most 2·1·(2I)·(2J)·R in magnitude.
    pub fn integers([n, i, j, k, rank]: [usize; 5], seed: u64) -> Self {
        assert!(8 * i * j * rank + 4 * (i + j) + 2 < 1 << 24, "[{i}, {j}, {rank}] are too large to be exact");
        let mut random = Random(seed);
        let (a, b) = (random.integers(k * rank, 1), random.integers(i * rank, 1));
        let (c, lambda) = (random.integers(j * rank, 1), random.integers(rank, 2));
        let rest = Dense::without_w([n, i, j, k], |len| random.integers(len, 2));
        Cp { rank, a, b, c, lambda, rest }
    }

    pub fn a(&self) -> View<'_, T, 2> {
        View::new(&self.a, [self.rest.sizes[3], self.rank]).unwrap()
    }
    pub fn b(&self) -> View<'_, T, 2> {
        View::new(&self.b, [self.rest.sizes[1], self.rank]).unwrap()
    }
    pub fn c(&self) -> View<'_, T, 2> {
        View::new(&self.c, [self.rest.sizes[2], self.rank]).unwrap()
    }

    /// The factors and λ alone.
    pub fn core(&self) -> Interaction<'_, T> {
        Interaction::cp(self.a(), self.b(), self.c()).unwrap().with_lambda(View::vector(&self.lambda)).unwrap()
    }

    /// All terms.
    pub fn layer(&self) -> Interaction<'_, T> {
        self.rest.with_terms(self.core())
    }
}

/// The SIMD levels of this processor; the others are named once on standard output. `TRILINEAR_TEST_REQUIRE=avx512` (say)
/// turns the lack of that level into a failure, for machines that are known to have it.
pub fn levels() -> &'static [SimdLevel] {
    static LEVELS: OnceLock<Vec<SimdLevel>> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let required = std::env::var("TRILINEAR_TEST_REQUIRE").unwrap_or_default();
        let (found, missing): (Vec<_>, Vec<_>) = SimdLevel::ALL.into_iter().partition(|level| level.is_available());
        for level in missing {
            assert_ne!(level.to_string(), required, "this processor lacks the level that must be tested");
            println!("skipped: this processor does not have {level}");
        }
        found
    })
}

/// One serial context for each level of this processor.
pub fn contexts() -> Vec<Context> {
    let serial = Context::new(Device::Cpu).unwrap().with_threads(1).unwrap();
    levels().iter().map(|&level| serial.with_simd(level).unwrap()).collect()
}

/// The same, and one for the CUDA device, if there is one and it is to run cases of so many FLOPs; [`cuda`] says which, and
/// when only that.
pub fn ways(flops: usize) -> Vec<Context> {
    let device = if cuda::takes(flops) { cuda::cuda() } else { None };
    let processor = if cuda::alone() { Vec::new() } else { contexts() };
    processor.into_iter().chain(device).collect()
}

/// One of all these, by a number.
pub fn way(flops: usize, number: u64) -> Context {
    let device = if cuda::takes(flops) { cuda::cuda() } else { None };
    let all: Vec<Context> = contexts().into_iter().chain(device).collect();
    all[(number % all.len() as u64) as usize]
}

/// Where and how a context computes.
pub fn place(context: &Context) -> String {
    match context.device() {
        Device::Cpu => context.simd().to_string(),
        device => device.to_string(),
    }
}

/// Calls `test` with the layer at every level of this processor, with the algorithm left to the cost model and with every
/// algorithm forced that can compute the layer; a refusal must be the typed one.
pub fn for_each_way<'a, T: Element>(
    layer: &Interaction<'a, T>,
    rows: usize,
    test: impl FnMut(Interaction<'a, T>, &str),
) {
    for_each_of(ways(flops(layer, rows)), layer, rows, test);
}

/// What the plan says of a layer; the most there is if it has none.
pub fn flops<T: Element>(layer: &Interaction<'_, T>, rows: usize) -> usize {
    let flops = layer.with_context(contexts()[0]).plan(rows.max(1)).map_or(u128::MAX, |plan| plan.flops);
    usize::try_from(flops).unwrap_or(usize::MAX)
}

/// [`for_each_way`], of these contexts.
pub fn for_each_of<'a, T: Element>(
    ways: Vec<Context>,
    layer: &Interaction<'a, T>,
    rows: usize,
    mut test: impl FnMut(Interaction<'a, T>, &str),
) {
    for context in ways {
        let place = place(&context);
        test(layer.with_context(context), &format!("{} {place} auto", T::DTYPE));
        for algorithm in Algorithm::ALL {
            let forced = layer.with_context(context.with_algorithm(algorithm));
            // A plan for no rows is a matter of its own, in plan.rs.
            match forced.plan(rows.max(1)) {
                Ok(plan) => {
                    assert_eq!(plan.algorithm, algorithm);
                    // A device has one algorithm for each form, which has just run.
                    if context.device() == Device::Cpu {
                        test(forced, &format!("{} {place} {algorithm}", T::DTYPE));
                    }
                }
                Err(Error::Algorithm { algorithm: refused, .. }) => assert_eq!(refused, algorithm),
                Err(other) => panic!("{algorithm}: {other}"),
            }
        }
    }
}

/// Every element within the published bound of [`reference`].
#[track_caller]
pub fn assert_close<T: Element>(y: &[T], exact: &Reference, what: &str) {
    let expected = exact.value.as_slice();
    assert_eq!(y.len(), expected.len(), "{what}");
    let wrong = (0..y.len()).filter(|&index| {
        let error = (y[index].to_f64() - expected[index]).abs();
        error.is_nan() || error > exact.error_bound(T::DTYPE, index)
    });
    if let Some(index) = wrong.clone().next() {
        panic!(
            "{what}: {} of {} elements are wrong; the first is {index}: {} instead of {} ± {:e}",
            wrong.count(),
            y.len(),
            y[index],
            expected[index],
            exact.error_bound(T::DTYPE, index)
        );
    }
}

/// Every element the exact value, rounded once into T: for data whose sums are exact in any order.
#[track_caller]
pub fn assert_exact<T: Element>(y: &[T], exact: &Reference, what: &str) {
    let expected: Vec<T> = exact.value.as_slice().iter().map(|&value| T::from_f64(value)).collect();
    assert_same(y, &expected, what);
}

/// The same bits. (Of NaNs only that they are NaN.)
#[track_caller]
pub fn assert_same<T: Element>(y: &[T], expected: &[T], what: &str) {
    assert_eq!(y.len(), expected.len(), "{what}");
    let differs = |index: usize| {
        let (a, b) = (y[index].to_f64(), expected[index].to_f64());
        a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())
    };
    let wrong = (0..y.len()).filter(|&index| differs(index));
    if let Some(index) = wrong.clone().next() {
        panic!(
            "{what}: {} of {} elements differ; the first is {index}: {} instead of {}",
            wrong.count(),
            y.len(),
            y[index],
            expected[index]
        );
    }
}

/// A test for each storage type: `for_each_dtype!(name, function)` runs `function::<T>()`.
#[macro_export]
macro_rules! for_each_dtype {
    ($($test:ident),+ $(,)?) => {
        mod f32 {
            $(#[test] fn $test() { super::$test::<f32>() })+
        }
        mod f64 {
            $(#[test] fn $test() { super::$test::<f64>() })+
        }
        mod f16 {
            $(#[test] fn $test() { super::$test::<trilinear::f16>() })+
        }
        mod bf16 {
            $(#[test] fn $test() { super::$test::<trilinear::bf16>() })+
        }
    };
}

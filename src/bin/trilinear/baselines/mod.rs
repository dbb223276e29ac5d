//! What ours is measured against: the ways in which a program computes the same from a matrix product and loops.
//!
//! Each takes contiguous row-major operands, and is written as someone who cares about speed would write it: the
//! intermediate tensors are allocated once and reused, elementwise loops run on the same threads as the products.

use trilinear::{Element, Result, bf16, f16};

use crate::forms::Structure;
use crate::work::{Shape, Work};
use product::Real;

mod backward;
mod cp;
mod forward;
mod product;
mod structured;

/// Intermediate tensors larger than this are not formed: such baselines are left out.
const LARGEST_INTERMEDIATE: usize = 2 << 30;

/// The inputs of a call: `z` [n, i], `x` [n·rows, j], and for gradients that of y, `g` [n·rows, k].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands<'a, T> {
    pub(crate) z: &'a [T],
    pub(crate) x: &'a [T],
    pub(crate) g: &'a [T],
    pub(crate) weights: Weights<'a, T>,
}

/// W.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a, T> {
    /// [k, i, j].
    Dense(&'a [T]),
    /// `a` [k, r], `b` [i, r], `c` [j, r].
    Cp { a: &'a [T], b: &'a [T], c: &'a [T] },
    /// Of a [`Structure`]: the cores of all blocks (or W, or P), then all of their A, of their B, of their C.
    Structured { core: &'a [T], a: &'a [T], b: &'a [T], c: &'a [T] },
}

/// Where the results of a call go: `y` [n·rows, k], and the gradients, each as large as what it is for. Those that are not
/// computed have no elements.
#[derive(Debug)]
pub(crate) struct Results<'a, T: Element> {
    pub(crate) y: &'a mut [T],
    /// dz; of tied inputs, if dx is wanted too, dz + dx.
    pub(crate) z: &'a mut [T::Accumulator],
    pub(crate) x: &'a mut [T::Accumulator],
    pub(crate) w: &'a mut [T::Accumulator],
    pub(crate) a: &'a mut [T::Accumulator],
    pub(crate) b: &'a mut [T::Accumulator],
    pub(crate) c: &'a mut [T::Accumulator],
}

type Run<T> = Box<dyn FnMut(Operands<'_, T>, Results<'_, T>) -> Result<()> + Send>;

/// One way to compute a call of one shape.
pub(crate) struct Baseline<T: Element> {
    /// The way, and the library whose matrix product it uses.
    pub(crate) name: &'static str,
    run: Run<T>,
}

impl<T: Element> Baseline<T> {
    /// Computes the results, in the rayon pool that it is called in. Errors: operands of another shape.
    pub(crate) fn run(&mut self, operands: Operands<'_, T>, results: Results<'_, T>) -> Result<()> {
        (self.run)(operands, results)
    }
}

/// Storage types that there are baselines for.
pub(crate) trait Baselines: Element {
    /// Every baseline for this work and shape on `threads` threads whose intermediates fit in `memory` bytes.
    fn baselines(work: Work, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>>;
    /// The same of a form of W.
    fn of_form(form: Structure, work: Work, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>>;
}

macro_rules! with_products {
    ($($real:ty, $product:path);+) => {$(
        impl Real for $real {
            unsafe fn matrixmultiply(
                [m, depth, n]: [usize; 3],
                (a, [ars, acs]): (*const Self, [isize; 2]),
                (b, [brs, bcs]): (*const Self, [isize; 2]),
                (c, [crs, ccs]): (*mut Self, [isize; 2]),
            ) {
                // SAFETY: the caller's contract is the same.
                unsafe { $product(m, depth, n, 1.0, a, ars, acs, b, brs, bcs, 0.0, c, crs, ccs) }
            }
        }
        impl Baselines for $real {
            fn baselines(work: Work, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>> {
                if work.backward() {
                    // Of all pairs nobody has written them down.
                    return if shape.sharing > 1 { Vec::new() } else { backward::products(work, shape, threads, memory) };
                }
                let mut all = forward::naive(shape, threads, |value| value, |sum| sum);
                all.extend(forward::products(shape, threads, memory));
                all
            }
            fn of_form(form: Structure, work: Work, shape: Shape, threads: usize, memory: usize) -> Vec<Baseline<Self>> {
                // Of gradients nobody has written them down.
                if work.backward() { Vec::new() } else { structured::products(form, shape, threads, memory) }
            }
        }
    )+};
}
with_products!(f32, matrixmultiply::sgemm; f64, matrixmultiply::dgemm);

macro_rules! loops_only {
    ($($half:ty),+) => {$(
        impl Baselines for $half {
            fn baselines(work: Work, shape: Shape, threads: usize, _memory: usize) -> Vec<Baseline<Self>> {
                // Of gradients there are no loops: nobody would compute them so.
                if work.backward() {
                    return Vec::new();
                }
                forward::naive(shape, threads, <$half>::to_f32, <$half>::from_f32)
            }
            fn of_form(_: Structure, _: Work, _: Shape, _threads: usize, _memory: usize) -> Vec<Baseline<Self>> {
                Vec::new()
            }
        }
    )+};
}
loops_only!(f16, bf16);

fn dense<'a, T>(operands: &Operands<'a, T>) -> &'a [T] {
    match operands.weights {
        Weights::Dense(w) => w,
        Weights::Cp { .. } | Weights::Structured { .. } => &[],
    }
}

//! Every form of W, forward, against its definition and against the dense W that it stands for.

mod common;

use common::blocks::{Case, forms};
use common::layout::Layout;
use common::{assert_same, contexts};
use trilinear::reference::error_bound;
use trilinear::{Context, DType, Device, Element, Interaction};

/// Small, with tails of every vector length; and longer than vectors of every level.
const SIZES: [[usize; 4]; 2] = [[3, 4, 5, 2], [7, 19, 6, 17]];
const ROWS: [[usize; 2]; 7] = [[0, 1], [2, 0], [1, 1], [3, 1], [21, 1], [2, 3], [1, 20]];

/// To the last bit, in every layout.
fn integers<T: Element>() {
    let contexts = contexts();
    for (index, sizes) in SIZES.into_iter().enumerate() {
        for (number, form) in forms(sizes).iter().enumerate() {
            for (at, rows) in ROWS.into_iter().enumerate() {
                let layout = (index + number + at) % Layout::<2>::all().len();
                Case::<T>::integers(form, rows, layout, false, number as u64).check_forward(&contexts, true);
            }
            Case::<T>::integers(form, [5, 1], 0, false, 1).check_forward(&contexts, true);
        }
    }
}

fn bounds<T: Element>() {
    let contexts = contexts();
    for (number, form) in forms(SIZES[1]).iter().enumerate() {
        for (rows, layout) in [([21, 1], 0), ([5, 4], 0), ([6, 1], 1 + number % 7)] {
            Case::<T>::uniform(form, rows, layout, false, number as u64).check_forward(&contexts, false);
        }
    }
}

/// Batches of several blocks of rows, and groups of more rows than one has.
fn many_rows<T: Element>() {
    let context = Context::new(Device::Cpu).unwrap();
    for form in &forms([2, 3, 4, 6]) {
        for rows in [[1100, 1], [1, 1100], [240, 5]] {
            Case::<T>::uniform(form, rows, 0, false, 7).check_forward(&[context], false);
        }
    }
}

/// The dense W gives the same, within both bounds.
fn dense<T: Element>() {
    for (number, form) in forms(SIZES[1]).iter().enumerate() {
        let case = Case::<T>::uniform(form, [9, 1], 0, false, number as u64);
        for context in contexts() {
            let blocks = case.blocks();
            let layer = case.layer(&blocks, context);
            let w = layer.to_dense().unwrap();
            assert_eq!(w.shape(), form.sizes);
            let dense = case.linear(Interaction::dense(w.view()).unwrap());
            let (of_blocks, of_dense) = (case.exact_of(&layer), case.exact_of(&dense));
            let y = case.forward(context);
            for (at, y) in y.iter().enumerate() {
                // W itself is rounded once to the storage type.
                let magnitude = of_blocks.magnitude.as_slice()[at];
                let rounded = T::DTYPE.storage_roundoff() * magnitude * 1.01 + 1e-30;
                let bound = of_blocks.error_bound(T::DTYPE, at)
                    + error_bound(DType::F64, of_dense.depth, of_dense.value.as_slice()[at], magnitude);
                let error = (y.to_f64() - of_dense.value.as_slice()[at]).abs();
                assert!(error <= bound + rounded, "{} {at}: {error:e} > {bound:e} + {rounded:e}", form.name);
            }
        }
    }
}

/// The same bits on any number of threads.
fn threads<T: Element>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let base = Context::new(Device::Cpu).unwrap();
    for form in &forms([40, 30, 50, 48]) {
        for rows in [[500, 1], [9, 40]] {
            let case = Case::<T>::uniform(form, rows, 0, false, 3);
            let one = case.forward(base.with_threads(1).unwrap());
            let three = pool.install(|| case.forward(base));
            assert_same(&one, &three, &form.name);
        }
    }
}

for_each_dtype!(integers, bounds, dense);

#[test]
fn many_rows_of_f32() {
    many_rows::<f32>();
}

#[test]
fn many_rows_of_bf16() {
    many_rows::<trilinear::bf16>();
}

#[test]
fn threads_do_not_change_bits() {
    threads::<f32>();
    threads::<trilinear::f16>();
}

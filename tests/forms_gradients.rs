//! Every form of W, backward, against its definition.

mod common;

use common::blocks::{Case, Which, forms};
use common::layout::Layout;
use common::{assert_same, contexts};
use trilinear::{Context, Device, Element};

const SIZES: [[usize; 4]; 3] = [[3, 4, 5, 2], [7, 19, 6, 17], [12, 5, 21, 33]];
const ROWS: [[usize; 2]; 5] = [[1, 1], [3, 1], [37, 1], [2, 3], [1, 20]];
const WHICH: [Which; 3] = [Which::All, Which::Inputs, Which::Weights];

/// To the last bit, in every layout, written and added.
fn integers<T: Element>() {
    let contexts = contexts();
    for (index, sizes) in SIZES.into_iter().enumerate() {
        for (number, form) in forms(sizes).iter().enumerate() {
            for (at, rows) in ROWS.into_iter().enumerate() {
                let mix = index + number + at;
                let case = Case::<T>::integers(form, rows, mix % Layout::<2>::all().len(), false, number as u64);
                for (level, &context) in contexts.iter().enumerate() {
                    case.check_backward(context, true, WHICH[(mix + level) % 3], (mix + level) % 2 == 0);
                }
                let case = Case::<T>::integers(form, rows, 0, false, at as u64);
                case.check_backward(contexts[contexts.len() - 1], true, Which::All, mix % 2 == 1);
            }
        }
    }
}

fn bounds<T: Element>() {
    let contexts = contexts();
    for (number, form) in forms(SIZES[1]).iter().enumerate() {
        for (rows, layout) in [([37, 1], 0), ([5, 4], 0), ([6, 1], 1 + number % 7)] {
            let case = Case::<T>::uniform(form, rows, layout, false, number as u64);
            for &context in &contexts {
                case.check_backward(context, false, Which::All, number % 2 == 0);
            }
        }
    }
}

/// z and x are the same tensor.
fn tied<T: Element>() {
    for form in forms([6, 9, 9, 9]).iter().filter(|form| form.sizes[1] == form.sizes[2]) {
        for context in contexts() {
            for add in [false, true] {
                let case = Case::<T>::integers(form, [11, 1], usize::from(add), true, 5);
                case.check_forward(context, true);
                case.check_backward(context, true, Which::All, add);
            }
        }
    }
}

/// Batches of several blocks of rows, and groups of more rows than one has.
fn many_rows<T: Element>() {
    let context = Context::new(Device::Cpu).unwrap();
    for form in &forms([3, 5, 4, 34]) {
        for rows in [[2500, 1], [3, 1300], [400, 5]] {
            let case = Case::<T>::uniform(form, rows, 0, false, 7);
            case.check_backward(context, false, Which::All, false);
        }
    }
}

/// The same bits on any number of threads.
fn threads<T: Element>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let base = Context::new(Device::Cpu).unwrap();
    for form in &forms([10, 12, 14, 64]) {
        for rows in [[700, 1], [9, 80]] {
            let case = Case::<T>::uniform(form, rows, 0, false, 3);
            let one = case.gradients(base.with_threads(1).unwrap(), Which::All, false).unwrap();
            let three = pool.install(|| case.gradients(base, Which::All, false)).unwrap();
            for ((name, one, _), (_, three, _)) in one.iter().zip(&three) {
                assert_same(one, three, &format!("{name} {}", form.name));
            }
        }
    }
}

for_each_dtype!(integers, bounds, tied, many_rows, threads);

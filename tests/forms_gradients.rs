//! Every form of W, backward, against its definition.

mod common;

use common::blocks::{Case, Which, forms};
use common::layout::Layout;
use common::{assert_same, contexts};
use trilinear::{Context, Device, Element};

const SIZES: [[usize; 4]; 2] = [[3, 4, 5, 2], [7, 19, 6, 17]];
const ROWS: [[usize; 2]; 7] = [[0, 1], [2, 0], [1, 1], [3, 1], [21, 1], [2, 3], [1, 20]];
const WHICH: [Which; 3] = [Which::All, Which::Inputs, Which::Weights];

/// Each of them, of some gradients, written or added.
fn mixed(contexts: &[Context], mix: usize) -> Vec<(Context, Which, bool)> {
    let of =
        |(level, &context): (usize, &Context)| (context, WHICH[(mix + level) % 3], (mix + level).is_multiple_of(2));
    contexts.iter().enumerate().map(of).collect()
}

/// To the last bit, in every layout, written and added.
fn integers<T: Element>() {
    let contexts = contexts();
    for (index, sizes) in SIZES.into_iter().enumerate() {
        for (number, form) in forms(sizes).iter().enumerate() {
            for (at, rows) in ROWS.into_iter().enumerate() {
                let mix = index + number + at;
                let case = Case::<T>::integers(form, rows, mix % Layout::<2>::all().len(), false, number as u64);
                case.check_backward(&mixed(&contexts, mix), true);
            }
            let case = Case::<T>::integers(form, [5, 1], 0, false, 1);
            case.check_backward(&mixed(&contexts, number), true);
        }
    }
}

fn bounds<T: Element>() {
    let contexts = contexts();
    for (number, form) in forms(SIZES[1]).iter().enumerate() {
        for (rows, layout) in [([21, 1], 0), ([5, 4], 0), ([6, 1], 1 + number % 7)] {
            let case = Case::<T>::uniform(form, rows, layout, false, number as u64);
            case.check_backward(&mixed(&contexts, 3 * number), false);
        }
    }
}

/// z and x are the same tensor.
fn tied<T: Element>() {
    for form in forms([6, 9, 9, 9]).iter().filter(|form| form.sizes[1] == form.sizes[2]) {
        for add in [false, true] {
            let case = Case::<T>::integers(form, [11, 1], usize::from(add), true, 5);
            case.check_forward(&contexts(), true);
            let ways: Vec<_> = contexts().into_iter().map(|context| (context, Which::All, add)).collect();
            case.check_backward(&ways, true);
        }
    }
}

/// Batches of several blocks of rows, and groups of more rows than one has.
fn many_rows<T: Element>() {
    let context = Context::new(Device::Cpu).unwrap();
    for form in &forms([2, 3, 4, 6]) {
        for rows in [[1100, 1], [1, 1100], [240, 5]] {
            let case = Case::<T>::uniform(form, rows, 0, false, 7);
            case.check_backward(&[(context, Which::All, false)], false);
        }
    }
}

/// The same bits on any number of threads.
fn threads<T: Element>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let base = Context::new(Device::Cpu).unwrap();
    for form in &forms([10, 12, 14, 20]) {
        for rows in [[500, 1], [9, 40]] {
            let case = Case::<T>::uniform(form, rows, 0, false, 3);
            let exact = case.exact_gradients();
            let one = case.gradients(base.with_threads(1).unwrap(), Which::All, false, &exact).unwrap();
            let three = pool.install(|| case.gradients(base, Which::All, false, &exact)).unwrap();
            for ((name, one, _), (_, three, _)) in one.iter().zip(&three) {
                assert_same(one, three, &format!("{name} {}", form.name));
            }
        }
    }
}

for_each_dtype!(integers, bounds, tied);

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

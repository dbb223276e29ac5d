//! Views of and to ndarray's arrays.
#![cfg(feature = "ndarray")]

use ndarray::{
    Array, Array1, Array2, Array3, ArrayView, ArrayView1, ArrayView2, ArrayView3, Axis, Ix3, ShapeBuilder, s,
};
use trilinear::{Error, Interaction, Tensor, View, ViewMut};

fn numbered(shape: [usize; 3]) -> Array3<f32> {
    Array::from_iter((0..shape.iter().product()).map(|n: usize| n as f32)).into_shape_with_order(shape).unwrap()
}

/// Every element of the view is that of the array, and so is every element of the array view made from it.
fn check(array: ArrayView<'_, f32, Ix3>, what: &str) {
    let view = View::from(array);
    assert_eq!(view.shape(), array.shape(), "{what}");
    for ((i, j, k), &value) in array.indexed_iter() {
        assert_eq!(view.get([i, j, k]), Some(value), "{what} at {i}, {j}, {k}");
    }
    let back = ArrayView3::try_from(view).unwrap();
    assert_eq!(back, array, "{what}");
    if !array.is_empty() {
        assert_eq!(back.as_ptr(), array.as_ptr(), "{what}: copied");
    }
}

#[test]
fn strides_of_every_kind_go_both_ways() {
    let array = numbered([3, 4, 5]);
    check(array.view(), "row-major");
    check(array.t(), "transposed");
    check(array.slice(s![1.., ..;2, 1..4]), "slice");
    check(array.slice(s![..;-1, .., ..]), "first axis reversed");
    check(array.slice(s![..;-2, 1..;-1, ..;-3]), "all axes reversed with steps");
    check(array.slice(s![..1;-1, .., ..;-1]), "reversed axis of length 1");
    check(array.slice(s![.., ..0, ..]), "empty");
    check(array.slice(s![1..2, .., ..]).broadcast((7, 4, 5)).unwrap(), "broadcast");
    check(array.slice(s![1..2, .., ..;-1]).broadcast((7, 4, 5)).unwrap(), "broadcast and reversed");
    check(Array3::from_shape_fn((2, 3, 4).f(), |(i, j, k)| (i * 100 + j * 10 + k) as f32).view(), "Fortran order");
    check(Array3::zeros((0, 0, 3)).view(), "two empty axes");
}

#[test]
fn vectors_matrices_and_array_references() {
    let vector = Array1::from_vec(vec![1.0f64, 2.0, 3.0]);
    assert_eq!(View::from(&vector).as_slice(), Some(&[1.0, 2.0, 3.0][..]));
    assert_eq!(View::from(vector.slice(s![..;-1])).strides(), [-1]);
    let back = ArrayView1::try_from(View::from(vector.slice(s![..;-2]))).unwrap();
    assert_eq!(back.to_vec(), [3.0, 1.0]);
    let matrix = Array2::from_shape_vec((2, 3), vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let reference: &ndarray::ArrayRef2<f32> = &matrix;
    assert_eq!(View::from(reference).strides(), [3, 1]);
    let shared = matrix.clone().into_shared();
    assert_eq!(View::from(&shared).get([1, 2]), Some(6.0));
    let back = ArrayView2::try_from(View::from(&matrix).transpose()).unwrap();
    assert_eq!(back, matrix.t());
}

#[test]
fn overlapping_views_are_read() {
    // A Hankel matrix: three windows of a vector, which ndarray has no safe constructor with broadcasting for.
    let data = [1.0f32, 2.0, 3.0, 4.0, 5.0];
    let windows = View::strided(&data, 0, [3, 3], [1, 1]).unwrap();
    assert_eq!(ArrayView2::try_from(windows).unwrap(), ndarray::array![[1., 2., 3.], [2., 3., 4.], [3., 4., 5.]]);
    let turned = View::strided(&data, 4, [3, 3], [-1, -1]).unwrap();
    assert_eq!(ArrayView2::try_from(turned).unwrap(), ndarray::array![[5., 4., 3.], [4., 3., 2.], [3., 2., 1.]]);
    let crossed = View::strided(&data, 2, [3, 3], [-1, 1]).unwrap();
    assert_eq!(ArrayView2::try_from(crossed).unwrap(), ndarray::array![[3., 4., 5.], [2., 3., 4.], [1., 2., 3.]]);
}

#[test]
fn shapes_that_ndarray_cannot_count_are_errors() {
    let one = [1.0f32];
    let layout = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Layout { .. })), "{result:?}");
    let endless = View::strided(&one, 0, [usize::MAX], [0]).unwrap();
    layout(ArrayView1::try_from(endless).map(drop));
    let endless = View::strided(&one, 0, [1 << 40, 1 << 40], [0, 0]).unwrap();
    layout(ArrayView2::try_from(endless).map(drop));
    let empty = View::new(&one[..0], [0, 1 << 40, 1 << 40]).unwrap();
    layout(ArrayView3::try_from(empty).map(drop));
    layout(Array3::try_from(Tensor::<f32, 3>::zeros([1 << 40, 0, 1 << 40]).unwrap()).map(drop));
}

#[test]
fn outputs_are_written_in_place() {
    let w = numbered([2, 3, 4]);
    let layer = Interaction::dense(View::from(&w)).unwrap();
    let z = Array2::from_shape_fn((5, 3), |(n, i)| (n + i) as f32);
    let x = Array2::from_shape_fn((5, 4), |(n, j)| (n * j) as f32 - 3.0);
    let expected = layer.forward(View::from(&z), View::from(&x)).unwrap();
    let expected = Array2::try_from(expected).unwrap();

    let mut y = Array2::from_elem((5, 2).f(), f32::NAN);
    layer.forward_into(View::from(&z), View::from(&x), ViewMut::try_from(&mut y).unwrap()).unwrap();
    assert_eq!(y, expected);

    // Rows reversed, and every other column of a wider array, whose other columns stay.
    let mut wide = Array2::from_elem((5, 4), -1.0f32);
    let part = ViewMut::try_from(wide.slice_mut(s![..;-1, ..;2])).unwrap();
    layer.forward_into(View::from(&z), View::from(&x), part).unwrap();
    assert_eq!(wide.slice(s![..;-1, ..;2]), expected);
    assert!(wide.slice(s![.., 1..;2]).iter().all(|&value| value == -1.0));

    // A shared array is made unique first: the other owner's stays.
    let original = Array2::from_elem((5, 2), 7.0f32).into_shared();
    let mut copy = original.clone();
    layer.forward_into(View::from(&z), View::from(&x), ViewMut::try_from(&mut copy).unwrap()).unwrap();
    assert_eq!(copy, expected);
    assert!(original.iter().all(|&value| value == 7.0));
}

#[test]
fn tensors_become_arrays_and_arrays_tensors() {
    let tensor = Tensor::from_vec((0..24).map(|n| n as f32).collect(), [2, 3, 4]).unwrap();
    let address = tensor.as_slice().as_ptr();
    let array = Array3::try_from(tensor.clone()).unwrap();
    assert_eq!(array, numbered([2, 3, 4]));
    let moved = Tensor::try_from(Array3::try_from(tensor).unwrap()).unwrap();
    assert_eq!(moved.as_slice().as_ptr(), address, "row-major arrays are not copied");

    let mut turned = array.clone();
    turned.invert_axis(Axis(2));
    for (array, what) in [
        (array.clone().reversed_axes(), "transposed"),
        (turned, "reversed"),
        (array.clone().slice_move(s![1.., .., ..]), "the rows after the first"),
        (array.clone().slice_move(s![..1, .., ..]), "the rows before the last"),
        (array.clone().slice_move(s![.., 1..2, 1..3]), "the middle"),
        (array.clone().slice_move(s![.., 3.., ..]), "nothing"),
    ] {
        let tensor = Tensor::try_from(array.clone()).unwrap();
        assert_eq!(tensor.shape(), array.shape(), "{what}");
        assert!(tensor.as_slice().iter().eq(array.iter()), "{what}");
    }
}

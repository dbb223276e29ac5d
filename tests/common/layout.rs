//! Tensors laid out in every way that strides allow, inside a larger buffer of a filler.

use trilinear::{Element, View, ViewMut};

/// How a tensor of rank `D` lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout<const D: usize> {
    /// Axes from the outermost to the innermost.
    pub order: [usize; D],
    /// Distance between neighbours on the innermost axis.
    pub step: usize,
    /// Elements of filler after each run of an axis.
    pub pad: usize,
    /// Axes that run backwards in memory.
    pub reversed: [bool; D],
}

impl<const D: usize> Layout<D> {
    pub fn dense() -> Self {
        Layout { order: std::array::from_fn(|axis| axis), step: 1, pad: 0, reversed: [false; D] }
    }
    /// Rows with filler between them: a sub-slice of a larger tensor.
    pub fn padded() -> Self {
        Layout { pad: 3, ..Layout::dense() }
    }
    /// Every other column.
    pub fn stepped() -> Self {
        Layout { step: 2, pad: 1, ..Layout::dense() }
    }
    /// Column-major.
    pub fn transposed() -> Self {
        Layout { order: std::array::from_fn(|axis| D - 1 - axis), ..Layout::dense() }
    }
    /// Column-major with filler between the columns.
    pub fn transposed_padded() -> Self {
        Layout { pad: 5, ..Layout::transposed() }
    }
    /// The first axis backwards.
    pub fn rows_reversed() -> Self {
        Layout { reversed: std::array::from_fn(|axis| axis == 0), pad: 2, ..Layout::dense() }
    }
    /// The last axis backwards.
    pub fn columns_reversed() -> Self {
        Layout { reversed: std::array::from_fn(|axis| axis == D - 1), ..Layout::dense() }
    }
    /// Everything at once.
    pub fn tangled() -> Self {
        Layout { step: 3, pad: 1, reversed: [true; D], ..Layout::transposed() }
    }

    pub fn all() -> [(&'static str, Self); 8] {
        [
            ("dense", Layout::dense()),
            ("padded", Layout::padded()),
            ("stepped", Layout::stepped()),
            ("transposed", Layout::transposed()),
            ("transposed and padded", Layout::transposed_padded()),
            ("rows reversed", Layout::rows_reversed()),
            ("columns reversed", Layout::columns_reversed()),
            ("tangled", Layout::tangled()),
        ]
    }
}

/// Elements of filler before and after the tensor.
const MARGIN: usize = 67;

/// A tensor in a larger buffer.
#[derive(Clone, Debug)]
pub struct Embedded<T, const D: usize> {
    buffer: Vec<T>,
    filler: T,
    offset: usize,
    shape: [usize; D],
    strides: [isize; D],
}

impl<T: Element, const D: usize> Embedded<T, D> {
    /// `values`, row-major, laid out so.
    pub fn new(values: &[T], shape: [usize; D], layout: Layout<D>, filler: T) -> Self {
        let mut strides = [0isize; D];
        let (mut stride, mut offset) = (layout.step, MARGIN);
        for axis in layout.order.into_iter().rev() {
            strides[axis] = stride as isize;
            if layout.reversed[axis] {
                offset += shape[axis].saturating_sub(1) * stride;
                strides[axis] = -strides[axis];
            }
            stride = stride * shape[axis].max(1) + layout.pad;
        }
        let mut embedded = Embedded { buffer: vec![filler; stride + 2 * MARGIN], filler, offset, shape, strides };
        let places: Vec<usize> = embedded.places().collect();
        assert_eq!(places.len(), values.len());
        for (place, &value) in places.into_iter().zip(values) {
            embedded.buffer[place] = value;
        }
        embedded
    }

    /// An output: NaN where it must be written, a filler that is not NaN where it must not.
    pub fn output(shape: [usize; D], layout: Layout<D>) -> Self {
        let poison = vec![T::from_f64(f64::NAN); shape.iter().product()];
        Embedded::new(&poison, shape, layout, T::from_f64(77.0))
    }

    /// An input amid NaN.
    pub fn input(values: &[T], shape: [usize; D], layout: Layout<D>) -> Self {
        Embedded::new(values, shape, layout, T::from_f64(f64::NAN))
    }

    fn places(&self) -> impl Iterator<Item = usize> + use<T, D> {
        let (shape, strides, offset) = (self.shape, self.strides, self.offset as isize);
        (0..shape.iter().product()).map(move |mut flat: usize| {
            let mut place = offset;
            for axis in (0..D).rev() {
                place += (flat % shape[axis]) as isize * strides[axis];
                flat /= shape[axis];
            }
            place as usize
        })
    }

    /// All of it, and where in it the tensor's first element is.
    pub fn buffer(&self) -> &[T] {
        &self.buffer
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn set_buffer(&mut self, buffer: Vec<T>) {
        assert_eq!(buffer.len(), self.buffer.len());
        self.buffer = buffer;
    }

    pub fn view(&self) -> View<'_, T, D> {
        View::strided(&self.buffer, self.offset, self.shape, self.strides).unwrap()
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T, D> {
        ViewMut::strided(&mut self.buffer, self.offset, self.shape, self.strides).unwrap()
    }

    /// The tensor, row-major, after a check that nothing around it was written.
    #[track_caller]
    pub fn finish(self, what: &str) -> Vec<T> {
        let places: Vec<usize> = self.places().collect();
        let mut rest = self.buffer.clone();
        for &place in &places {
            rest[place] = self.filler;
        }
        let written = rest.iter().position(|&value| value != self.filler);
        assert_eq!(written, None, "{what}: written outside of the view of shape {:?}", self.shape);
        places.into_iter().map(|place| self.buffer[place]).collect()
    }
}

//! Weights packed once, for many calls.

use crate::interaction::Core;
use std::sync::Arc;

use crate::{Context, DeviceTensor, Element, Interaction, Result, Tensor, View, cuda};

/// A layer that owns its weights, arranged for this processor: contiguous and, for f16 and bf16, also converted to f32.
/// Valid for any thread count, SIMD level and batch; results have the same bits as those of
/// the layer it was made from.
///
/// It takes the weights' own size, and for f16 and bf16 two times that again. Weights of a CUDA device are arranged in that
/// device's memory, and nothing is converted.
///
/// # Example
///
/// ```
/// use trilinear::{Interaction, View};
///
/// let w = [1.0f32, 2.0, 3.0, 4.0];
/// let prepared = Interaction::dense(View::new(&w, [1, 2, 2])?)?.prepare()?;
/// let y = prepared.layer().forward(View::row(&[1.0, 1.0]), View::row(&[1.0, 1.0]))?;
/// assert_eq!(y.as_slice(), [10.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prepared<T: Element> {
    sizes: [usize; 3],
    core: Owned<T>,
    u: Option<Kept<T, 2>>,
    v: Option<Kept<T, 2>>,
    b: Option<Kept<T, 1>>,
    widened: Option<Tensor3<T::Acc>>,
    context: Option<Context>,
    layout: [isize; 3],
    /// Place of each of W's axes k, i, j in the copy.
    places: [usize; 3],
}

/// Elements and shape, of a type that is no storage type of its own.
type Tensor3<A> = (Vec<A>, [usize; 3]);

#[derive(Clone, Debug)]
enum Owned<T: Element> {
    Absent,
    Dense(Kept<T, 3>),
    Cp { a: Kept<T, 2>, b: Kept<T, 2>, c: Kept<T, 2>, lambda: Option<Kept<T, 1>> },
}

/// A row-major copy where the original is.
#[derive(Clone, Debug)]
enum Kept<T: Element, const D: usize> {
    Host(Tensor<T, D>),
    Device(Arc<DeviceTensor<T, D>>),
}

impl<T: Element, const D: usize> Kept<T, D> {
    fn new(view: View<'_, T, D>) -> Result<Self> {
        if view.place().is_host() {
            return Tensor::from_view(view).map(Kept::Host);
        }
        let copy = DeviceTensor::from_view(view.device(), cuda::download(view)?.view())?;
        Ok(Kept::Device(Arc::new(copy)))
    }

    fn view(&self) -> View<'_, T, D> {
        match self {
            Kept::Host(tensor) => tensor.view(),
            Kept::Device(tensor) => tensor.view(),
        }
    }
}

impl<T: Element> Prepared<T> {
    pub(crate) fn new(layer: &Interaction<'_, T>) -> Result<Self> {
        fn own<T: Element, const D: usize>(view: Option<View<'_, T, D>>) -> Result<Option<Kept<T, D>>> {
            view.map(Kept::new).transpose()
        }
        crate::dispatch::check(layer)?;
        if !layer.located().into_iter().flatten().all(|(_, place)| place.is_host()) {
            layer.context()?.synchronize()?; // the weights may have been written on its stream
        }
        let mut widened = None;
        let mut places = [0, 1, 2];
        let core = match layer.core {
            Core::Absent => Owned::Absent,
            Core::Blocks(_) => return Err(crate::Error::Unsupported { what: "prepared sums of blocks" }),
            Core::Dense(w) => {
                // The axes keep their order in memory, so that the algorithm that suits it still does.
                let mut order = [0, 1, 2];
                order.sort_by_key(|&axis| match w.strides()[axis].unsigned_abs() {
                    0 => (0, 0), // a broadcast axis outermost
                    1 => (2, 0),
                    stride => (1, usize::MAX - stride),
                });
                for (place, axis) in order.into_iter().enumerate() {
                    places[axis] = place;
                }
                let w = Kept::new(w.permute(order)?)?;
                if let (false, Kept::Host(w)) = (T::IN_PLACE, &w) {
                    let mut values = Vec::new();
                    let bytes = size_of_val(w.as_slice()) / size_of::<T>() * size_of::<T::Acc>();
                    values.try_reserve_exact(w.as_slice().len()).map_err(|_| crate::Error::OutOfMemory { bytes })?;
                    values.extend(w.as_slice().iter().map(|&value| value.to_acc()));
                    widened = Some((values, w.shape()));
                }
                Owned::Dense(w)
            }
            Core::Cp { a, b, c, lambda } => {
                Owned::Cp { a: Kept::new(a)?, b: Kept::new(b)?, c: Kept::new(c)?, lambda: own(lambda)? }
            }
        };
        Ok(Prepared {
            sizes: [layer.k, layer.i, layer.j],
            core,
            u: own(layer.u)?,
            v: own(layer.v)?,
            b: own(layer.b)?,
            widened,
            context: layer.context,
            layout: layer.layout,
            places,
        })
    }

    /// The layer over these weights. Costs nothing.
    pub fn layer(&self) -> Interaction<'_, T> {
        let [k, i, j] = self.sizes;
        let core = match &self.core {
            Owned::Absent => Core::Absent,
            Owned::Dense(w) => Core::Dense(in_order(w.view(), self.places)),
            Owned::Cp { a, b, c, lambda } => {
                Core::Cp { a: a.view(), b: b.view(), c: c.view(), lambda: lambda.as_ref().map(Kept::view) }
            }
        };
        Interaction {
            k,
            i,
            j,
            core,
            u: self.u.as_ref().map(Kept::view),
            v: self.v.as_ref().map(Kept::view),
            b: self.b.as_ref().map(Kept::view),
            // The vector has as many elements as its shape, so this does not fail.
            panels: self
                .widened
                .as_ref()
                .and_then(|(values, shape)| View::new(values, *shape).ok().map(|view| in_order(view, self.places))),
            context: self.context,
            layout: self.layout,
        }
    }
}

/// The axes k, i, j of a copy that has them in these places, which are a permutation.
fn in_order<A>(view: View<'_, A, 3>, places: [usize; 3]) -> View<'_, A, 3> {
    view.permute(places).unwrap_or(view)
}

//! Weights packed once, for many calls.

use crate::interaction::Core;
use crate::{Context, Element, Interaction, Result, Tensor, View};

/// A layer that owns its weights, arranged for this processor: contiguous, in this crate's axis order and, for f16 and
/// bf16, also converted to f32. Valid for any thread count, SIMD level and batch; results have the same bits as those of
/// the layer it was made from.
///
/// It takes the weights' own size, and for f16 and bf16 two times that again.
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
    u: Option<Tensor<T, 2>>,
    v: Option<Tensor<T, 2>>,
    b: Option<Tensor<T, 1>>,
    widened: Option<Vec<T::Acc>>,
    context: Context,
}

#[derive(Clone, Debug)]
enum Owned<T: Element> {
    Absent,
    Dense(Tensor<T, 3>),
    Cp { a: Tensor<T, 2>, b: Tensor<T, 2>, c: Tensor<T, 2>, lambda: Option<Tensor<T, 1>> },
}

impl<T: Element> Prepared<T> {
    pub(crate) fn new(layer: &Interaction<'_, T>) -> Result<Self> {
        fn own<T: Element, const D: usize>(view: Option<View<'_, T, D>>) -> Result<Option<Tensor<T, D>>> {
            view.map(Tensor::from_view).transpose()
        }
        let mut widened = None;
        let core = match layer.core {
            Core::Absent => Owned::Absent,
            Core::Dense(w) => {
                let w = Tensor::from_view(w)?;
                if !T::IN_PLACE {
                    let mut values = Vec::new();
                    let bytes = size_of_val(w.as_slice()) / size_of::<T>() * size_of::<T::Acc>();
                    values.try_reserve_exact(w.as_slice().len()).map_err(|_| crate::Error::OutOfMemory { bytes })?;
                    values.extend(w.as_slice().iter().map(|&value| value.to_acc()));
                    widened = Some(values);
                }
                Owned::Dense(w)
            }
            Core::Cp { a, b, c, lambda } => Owned::Cp {
                a: Tensor::from_view(a)?,
                b: Tensor::from_view(b)?,
                c: Tensor::from_view(c)?,
                lambda: own(lambda)?,
            },
        };
        Ok(Prepared {
            sizes: [layer.k, layer.i, layer.j],
            core,
            u: own(layer.u)?,
            v: own(layer.v)?,
            b: own(layer.b)?,
            widened,
            context: layer.context(),
        })
    }

    /// The layer over these weights. Costs nothing.
    pub fn layer(&self) -> Interaction<'_, T> {
        let [k, i, j] = self.sizes;
        let core = match &self.core {
            Owned::Absent => Core::Absent,
            Owned::Dense(w) => Core::Dense(w.view()),
            Owned::Cp { a, b, c, lambda } => {
                Core::Cp { a: a.view(), b: b.view(), c: c.view(), lambda: lambda.as_ref().map(Tensor::view) }
            }
        };
        Interaction {
            k,
            i,
            j,
            core,
            u: self.u.as_ref().map(Tensor::view),
            v: self.v.as_ref().map(Tensor::view),
            b: self.b.as_ref().map(Tensor::view),
            // The vector has as many elements as W, so this does not fail.
            panels: self.widened.as_ref().and_then(|values| View::new(values, [k, i, j]).ok()),
            context: self.context,
        }
    }
}

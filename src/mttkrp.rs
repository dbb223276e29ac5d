//! The matricised tensor times Khatri-Rao product: the contraction that decompositions are made of.

use crate::error::check;
use crate::{Axis, Context, Element, Interaction, Result, Tensor, View, ViewMut};

/// The matricised tensor times Khatri-Rao product of `w` [K, I, J] along one of its axes (Bader and Kolda, *Efficient MATLAB
/// Computations with Sparse and Factored Tensors*, SIAM J. Sci. Comput. 2007):
///
/// | `along` | `factors` | result |
/// |---|---|---|
/// | `Out` | b [I, R], c [J, R] | \[k,r\] = Σᵢⱼ W\[k,i,j\] b\[i,r\] c\[j,r\] |
/// | `Z` | a [K, R], c [J, R] | \[i,r\] = Σₖⱼ W\[k,i,j\] a\[k,r\] c\[j,r\] |
/// | `X` | a [K, R], b [I, R] | \[j,r\] = Σₖᵢ W\[k,i,j\] a\[k,r\] b\[i,r\] |
///
/// It is the forward pass with the columns of the factors as the batch, and W's axes in other roles: nothing is unfolded, and the
/// Khatri-Rao product is never formed. An element keeps the bound of [`crate::reference`] for that layer.
/// Errors: [`crate::Error::Shape`] and those of allocation.
///
/// # Example
///
/// ```
/// use trilinear::{Axis, Context, View, mttkrp};
///
/// let w = [1.0f32, 2.0, 3.0, 4.0]; // K = 1
/// let (a, c) = ([10.0], [1.0, 1.0]); // R = 1
/// let factors = [View::new(&a, [1, 1])?, View::new(&c, [2, 1])?];
/// let m = mttkrp(View::new(&w, [1, 2, 2])?, Axis::Z, factors, &Context::from_env()?)?;
/// assert_eq!(m.as_slice(), [30.0, 70.0]);
/// # Ok::<(), trilinear::Error>(())
/// ```
pub fn mttkrp<T: Element>(
    w: View<'_, T, 3>,
    along: Axis,
    factors: [View<'_, T, 2>; 2],
    context: &Context,
) -> Result<Tensor<T, 2>> {
    check("factor", "rank", factors[0].shape()[1], factors[1].shape()[1])?;
    let mut to = Tensor::zeros([w.shape()[along as usize], factors[0].shape()[1]])?;
    mttkrp_into(w, along, factors, to.view_mut(), context)?;
    Ok(to)
}

/// [`mttkrp`] into `to`, whose previous contents are never read. After the first call with a shape it allocates nothing.
/// Errors: [`crate::Error::Shape`].
pub fn mttkrp_into<T: Element>(
    w: View<'_, T, 3>,
    along: Axis,
    [p, q]: [View<'_, T, 2>; 2],
    to: ViewMut<'_, T, 2>,
    context: &Context,
) -> Result<()> {
    let order = match along {
        Axis::Out => [0, 1, 2],
        Axis::Z => [1, 0, 2],
        Axis::X => [2, 0, 1],
    };
    let layer = Interaction::dense(w.permute(order)?)?.with_context(*context);
    check("factor", "rank", p.shape()[1], q.shape()[1])?;
    check("factor", "rows", layer.z_features(), p.shape()[0])?;
    check("factor", "rows", layer.x_features(), q.shape()[0])?;
    check("to", "rows", layer.outputs(), to.shape()[0])?;
    check("to", "rank", p.shape()[1], to.shape()[1])?;
    layer.forward_into(p.transpose(), q.transpose(), to.transpose())
}

//! Attention: y = m⊙x with m = M(x, z), by blocks of rows whose m stays in cache, in the accumulator's type.
//!
//! ```text
//!   dm = g⊙x     dx = g⊙m + what M's backward pass gives for dm     the rest is M's backward pass
//! ```

use super::stage::{Rows, ld, times};
use crate::cpu::cache::parts;
use crate::cpu::operand::Part;
use crate::cpu::output::{Place, Sink};
use crate::cpu::scratch;
use crate::wanted::Gradient;
use crate::{Element, Interaction, Result, View, ViewMut};

/// Bytes of m of a block of rows.
const BLOCK_BYTES: usize = 512 << 10;

/// Calls `with` with each block of rows and their m, rows of scratch.
fn each<T: Element>(
    layer: &Interaction<'_, T>,
    [z, x]: [View<'_, T, 2>; 2],
    mut with: impl FnMut(Part, Rows<T::Acc>) -> Result<()>,
) -> Result<()> {
    let ([n, k], pitch) = (x.shape(), ld(x.shape()[1]));
    if n == 0 || k == 0 {
        return Ok(());
    }
    let rows = (BLOCK_BYTES / size_of::<T::Acc>() / pitch).clamp(16, 1024).min(n);
    scratch::with([rows * pitch], |[m]| {
        let m = Rows::<T::Acc>::new(m, pitch);
        for part in parts(n, rows, 1) {
            let sink = Sink { place: Place::Sums(m.row(0)), strides: [pitch as isize, 1] };
            crate::cpu::forward_to(layer, z.slice_rows(part), x.slice_rows(part), sink)?;
            with(part, m)?;
        }
        Ok(())
    })
}

/// y [N, J], stored. J = K.
pub(crate) fn attend<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: ViewMut<'_, T, 2>,
) -> Result<()> {
    let (columns, y) = (x.shape()[1], Sink::stored(y));
    each(layer, [z, x], |rows, m| {
        for n in 0..rows.1 {
            // SAFETY: rows of scratch and of y.
            unsafe {
                let m = std::slice::from_raw_parts_mut(m.row(n), columns);
                multiply(m, x, rows.0 + n);
                y.write_row(rows.0 + n, m);
            }
        }
        Ok(())
    })
}

/// row ⊙= a row of x.
fn multiply<T: Element>(row: &mut [T::Acc], x: View<'_, T, 2>, n: usize) {
    for (column, value) in row.iter_mut().enumerate() {
        *value = times::<T>(*value, x.get([n, column]).unwrap_or_default().to_acc());
    }
}

/// The part of its gradients that M's backward pass does not give: `dm` [N, K], as it would be stored, and g⊙m, written or added to
/// dx and to dz + dx.
pub(crate) fn attend_back<T: Element>(
    layer: &Interaction<'_, T>,
    [z, x, g]: [View<'_, T, 2>; 3],
    mut dm: ViewMut<'_, T, 2>,
    inputs: [Option<Gradient<'_, T::Accumulator, 2>>; 2],
) -> Result<()> {
    let columns = x.shape()[1];
    if columns == 0 {
        return Ok(());
    }
    let ([row, column], first) = (dm.strides(), dm.host_mut_ptr());
    for n in 0..x.shape()[0] {
        for at in 0..columns {
            let [g, x] = [g, x].map(|view| view.get([n, at]).unwrap_or_default().to_acc());
            // SAFETY: an element of dm.
            unsafe {
                *first.wrapping_offset(n as isize * row).wrapping_offset(at as isize * column) =
                    T::from_acc(times::<T>(g, x));
            }
        }
    }
    let inputs = inputs.map(|to| to.map(|Gradient { to, add }| Sink::<T>::sums(to, add)));
    if inputs.iter().all(Option::is_none) {
        return Ok(());
    }
    each(layer, [z, x], |rows, m| {
        for n in 0..rows.1 {
            // SAFETY: rows of scratch and of the gradients.
            unsafe {
                let m = std::slice::from_raw_parts_mut(m.row(n), columns);
                multiply(m, g, rows.0 + n);
                inputs.iter().flatten().for_each(|to| to.write_row(rows.0 + n, m));
            }
        }
        Ok(())
    })
}

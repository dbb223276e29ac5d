//! Every gradient of every form, in one call for all, and each input's on its own.

use anyhow::Result;
use trilinear::reference::{self, Reference};
use trilinear::{Axes, Context, Element, Gradient, Interaction, Tangents, View, ViewMut, Wanted, WantedFactors};

use super::{Checker, Expected, Sizes, values};

impl Expected {
    /// Results one after the other in one buffer, in the type that gradients have.
    pub(super) fn all<A: Element>(parts: &[(&'static str, &Reference)]) -> Self {
        let mut all = Expected::default();
        for &(name, part) in parts {
            all.names.push((name, all.value.len()));
            all.value.extend_from_slice(part.value.as_slice());
            all.bound.extend((0..part.value.as_slice().len()).map(|index| part.error_bound(A::DTYPE, index)));
        }
        all
    }

    /// In the order of [`wanted`].
    pub(super) fn gradients<A: Element>(exact: &reference::Gradients, has_x: bool) -> Self {
        let mut parts = vec![("dz", &exact.z)];
        if has_x {
            parts.push(("dx", &exact.x));
        }
        parts.extend([("dU", &exact.u), ("dV", &exact.v), ("db", &exact.b)]);
        match &exact.cp {
            Some(cp) => parts.extend([("dA", &cp.a), ("dB", &cp.b), ("dC", &cp.c), ("dlambda", &cp.lambda)]),
            None => parts.push(("dW", &exact.w)),
        }
        Expected::all::<A>(&parts)
    }
}

/// All gradients but that of an `x` that is not there, one after the other in `to`: those of weights that the layer does
/// not have too.
pub(super) fn wanted<'a, T: Element, const D: usize, const Z: usize>(
    layer: &Interaction<'_, T>,
    z: [usize; Z],
    x: Option<[usize; D]>,
    to: &'a mut [T::Accumulator],
) -> trilinear::Result<Wanted<'a, T, D, Z>> {
    /// The next elements.
    fn next<'a, A: Element, const D: usize>(
        rest: &mut &'a mut [A],
        shape: [usize; D],
    ) -> trilinear::Result<Option<Gradient<'a, A, D>>> {
        let all = std::mem::take(rest);
        let len = shape.iter().product::<usize>().min(all.len());
        let (part, after) = all.split_at_mut(len);
        *rest = after;
        Ok(Some(Gradient::write(ViewMut::new(part, shape)?)))
    }
    let (k, i, j) = (layer.outputs(), layer.z_features(), layer.x_features());
    let rest = &mut { to };
    let mut wanted = Wanted { z: next(rest, z)?, ..Wanted::default() };
    if let Some(x) = x {
        wanted.x = next(rest, x)?;
    }
    (wanted.u, wanted.v, wanted.b) = (next(rest, [k, i])?, next(rest, [k, j])?, next(rest, [k])?);
    match layer.rank() {
        Some(r) => {
            let (a, b, c) = (next(rest, [k, r])?, next(rest, [i, r])?, next(rest, [j, r])?);
            wanted.cp = WantedFactors { a, b, c, lambda: next(rest, [r])? };
        }
        None => wanted.w = next(rest, [k, i, j])?,
    }
    Ok(wanted)
}

impl Checker {
    /// The gradients of dense layers in three orders of axes, of linear and of CP ones, of tied inputs too, and their tangents;
    /// the gradients of their shared contexts, and of what they generate.
    pub(super) fn gradients<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, r] = sizes;
        let (w, u, v, b) =
            (values::<T>(k * i * j, seed), values::<T>(k * i, seed), values::<T>(k * j, seed), values::<T>(k, seed));
        let (cp_a, cp_b, cp_c) = (values::<T>(k * r, seed), values::<T>(i * r, seed), values::<T>(j * r, seed));
        let (lambda, z, x, g) =
            (values::<T>(r, seed), values::<T>(n * i, seed), values::<T>(n * j, seed), values::<T>(n * k, seed));
        let (u, v, b) = (View::new(&u, [k, i])?, View::new(&v, [k, j])?, View::vector(&b));
        let (z, x, g) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?, View::new(&g, [n, k])?);
        let linear = Interaction::linear(k, i, j)?.with_u(u)?.with_v(v)?.with_b(b)?;
        let dense = Interaction::dense(View::new(&w, [k, i, j])?)?.with_u(u)?.with_v(v)?.with_b(b)?;
        let (a, b_cp, c) = (View::new(&cp_a, [k, r])?, View::new(&cp_b, [i, r])?, View::new(&cp_c, [j, r])?);
        let cp = Interaction::cp(a, b_cp, c)?;
        let cp = cp.with_lambda(View::vector(&lambda))?.with_u(u)?.with_v(v)?.with_b(b)?;
        let (x_before_z, last) =
            (Axes::OUT_X_Z.view(View::new(&w, [k, j, i])?), Axes::ZX_OUT.view(View::new(&w, [i, j, k])?));
        // Directions: every operand along itself.
        let inputs = Tangents { z: Some(z), x: Some(x), ..Tangents::default() };
        let all = Tangents { u: Some(u), v: Some(v), b: Some(b), ..inputs };
        let factors = Tangents { cp_a: Some(a), cp_b: Some(b_cp), cp_c: Some(c), ..all };
        for (form, layer, directions) in [
            ("dense", dense, Tangents { w: Some(View::new(&w, [k, i, j])?), ..all }),
            ("dense, x before z", Interaction::dense(x_before_z)?, Tangents { w: Some(x_before_z), ..inputs }),
            ("dense, outputs last", Interaction::dense(last)?, Tangents { w: Some(last), ..inputs }),
            ("linear", linear, all),
            ("cp", cp, Tangents { lambda: Some(View::vector(&lambda)), ..factors }),
        ] {
            let exact =
                Expected::all::<T::Accumulator>(&[("tangent", &reference::tangent(&layer, z, x, &directions)?)]);
            self.case((levels, T::DTYPE), &format!("tangent, {form}"), None, sizes, &exact, &|context, to| {
                let to = Gradient::write(ViewMut::new(to, [n, k])?);
                layer.with_context(context).tangent_into(z, x, &directions, to)
            })?;
            let form = &format!("backward, {form}");
            if i == j {
                let exact = reference::backward(&layer, x, x, g)?.tied()?;
                let exact = Expected::all::<T::Accumulator>(&[("dz + dx", &exact)]);
                self.case((levels, T::DTYPE), &format!("{form}, tied"), None, sizes, &exact, &|context, to| {
                    let tied = Some(Gradient::write(ViewMut::new(to, [n, j])?));
                    layer.with_context(context).backward_into(x, x, g, Wanted { tied, ..Wanted::default() })
                })?;
            }
            let exact = reference::backward(&layer, z, x, g)?;
            let all = Expected::gradients::<T::Accumulator>(&exact, true);
            self.case((levels, T::DTYPE), form, None, sizes, &all, &|context, to| {
                let wanted = wanted(&layer, [n, i], Some([n, j]), to)?;
                layer.with_context(context).backward_into(z, x, g, wanted)
            })?;
            // Alone an input's gradient may be computed in another way than beside the other's.
            let only = Expected::all::<T::Accumulator>(&[("dz", &exact.z)]);
            self.case((levels, T::DTYPE), form, None, sizes, &only, &|context, to| {
                let wanted = Wanted { z: Some(Gradient::write(ViewMut::new(to, [n, i])?)), ..Wanted::default() };
                layer.with_context(context).backward_into(z, x, g, wanted)
            })?;
            let only = Expected::all::<T::Accumulator>(&[("dx", &exact.x)]);
            self.case((levels, T::DTYPE), form, None, sizes, &only, &|context, to| {
                let wanted = Wanted { x: Some(Gradient::write(ViewMut::new(to, [n, j])?)), ..Wanted::default() };
                layer.with_context(context).backward_into(z, x, g, wanted)
            })?;
        }
        for (form, layer) in [("dense", dense), ("cp", cp)] {
            self.context_gradients(levels, form, &layer, sizes, seed)?;
        }
        Ok(())
    }

    /// Few groups: the reference is slow.
    fn context_gradients<T: Element>(
        &mut self,
        levels: &[Context],
        form: &str,
        layer: &Interaction<'_, T>,
        sizes: Sizes,
        seed: &mut u64,
    ) -> Result<()> {
        let [n, i, j, k, _] = sizes;
        let (groups, rows) = (n.min(3), n.min(40));
        let (z, x) = (values::<T>(groups * i, seed), values::<T>(groups * rows * j, seed));
        let g = values::<T>(groups * rows * k, seed);
        let (weights, bias) = (values::<T>(groups * k * j, seed), values::<T>(groups * k, seed));
        let (z, x) = (View::new(&z, [groups, i])?, View::new(&x, [groups, rows, j])?);
        let g = View::new(&g, [groups, rows, k])?;
        let exact = Expected::gradients::<T::Accumulator>(&reference::backward_shared(layer, z, x, g)?, true);
        let shared = format!("backward, shared context, {form}");
        self.case((levels, T::DTYPE), &shared, None, sizes, &exact, &|context, to| {
            let wanted = wanted(layer, [groups, i], Some([groups, rows, j]), to)?;
            layer.with_context(context).backward_shared_into(z, x, g, wanted)
        })?;
        let (weights, bias) = (View::new(&weights, [groups, k, j])?, View::new(&bias, [groups, k])?);
        let exact = reference::backward_generate(layer, z, weights, bias)?;
        let exact = Expected::gradients::<T::Accumulator>(&exact, false);
        let generate = format!("backward, generate, {form}");
        self.case((levels, T::DTYPE), &generate, None, sizes, &exact, &|context, to| {
            let wanted = wanted::<T, 2, 2>(layer, [groups, i], None, to)?;
            layer.with_context(context).backward_generate_into(z, weights, bias, wanted)
        })
    }
}

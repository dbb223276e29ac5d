//! All pairs and their sum over the problems, a layer for each row, and sums of blocks: forward and backward.

use anyhow::Result;
use trilinear::reference::{self, Reference};
use trilinear::{
    Block, Context, Element, Gradient, Grouped, GroupedWanted, Interaction, Reduction, View, ViewMut, Wanted,
};

use super::gradients::wanted;
use super::{Checker, Expected, Sizes, values};

/// Multiply-adds of what the reference, which is slow, shall compute.
const MOST: usize = 1 << 16;

impl Checker {
    /// Dense and CP layers of pairs of rows, and dense layers chosen by row.
    pub(super) fn pairs<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, r] = sizes;
        let (p, s, t) = (n.min(2), n.min(3), n.min(40));
        if (p * s * t).saturating_mul(i.max(1) * j.max(1) * k.max(1).max(r)) > MOST {
            return Ok(());
        }
        let (w, u, v, b) =
            (values::<T>(k * i * j, seed), values::<T>(k * i, seed), values::<T>(k * j, seed), values::<T>(k, seed));
        let (cp_a, cp_b, cp_c) = (values::<T>(k * r, seed), values::<T>(i * r, seed), values::<T>(j * r, seed));
        let (z, x, g) = (values::<T>(p * s * i, seed), values::<T>(p * t * j, seed), values::<T>(p * s * t * k, seed));
        let (of_z, of_x) = ([p, s, i], [p, t, j]);
        let (z, x, g) = (View::new(&z, of_z)?, View::new(&x, of_x)?, View::new(&g, [p, s, t, k])?);
        let dense = Interaction::dense(View::new(&w, [k, i, j])?)?;
        let cp = Interaction::cp(View::new(&cp_a, [k, r])?, View::new(&cp_b, [i, r])?, View::new(&cp_c, [j, r])?)?;
        for (form, weights) in [("dense", dense), ("cp", cp)] {
            let biased = weights.with_b(View::vector(&b))?;
            let layer = biased.with_u(View::new(&u, [k, i])?)?.with_v(View::new(&v, [k, j])?)?;
            let at = (levels, T::DTYPE);
            let exact = Expected::of::<T>(reference::forward_pairs(&layer, z, x)?);
            self.case(at, &format!("all pairs, {form}"), None, sizes, &exact, &|context, y| {
                layer.with_context(context).forward_pairs_into(z, x, ViewMut::new(y, [p, s, t, k])?)
            })?;
            let exact = Expected::gradients::<T::Accumulator>(&reference::backward_pairs(&layer, z, x, g)?, true);
            self.case(at, &format!("backward, all pairs, {form}"), None, sizes, &exact, &|context, to| {
                let wanted = wanted(&layer, of_z, Some(of_x), to)?;
                layer.with_context(context).backward_pairs_into(z, x, g, wanted)
            })?;
            let exact = Expected::of::<T>(reference::forward_pairs_reduced(&biased, z, x, Reduction::Mean)?);
            self.case(at, &format!("sums of pairs, {form}"), None, sizes, &exact, &|context, y| {
                let y = ViewMut::new(y, [s, t, k])?;
                biased.with_context(context).forward_pairs_reduced_into(z, x, Reduction::Mean, y)
            })?;
        }
        self.grouped::<T>(levels, sizes, seed)
    }

    /// Two layers, which rows choose by turns.
    fn grouped<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, _] = sizes;
        let n = n.min(60);
        let (w, b) = (values::<T>(2 * k * i * j, seed), values::<T>(k, seed));
        let (z, x, g) = (values::<T>(n * i, seed), values::<T>(n * j, seed), values::<T>(n * k, seed));
        let (z, x, g) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?, View::new(&g, [n, k])?);
        let layers = Grouped::layers(View::new(&w, [2, k, i, j])?)?;
        let layers = [layers[0].with_b(View::vector(&b))?, layers[1]];
        let index: Vec<usize> = (0..n).map(|row| usize::from(row % 3 == 1)).collect();
        // Of each row by its own layer.
        let (mut y, mut dz, mut dx) = (Expected::default(), Expected::default(), Expected::default());
        for (row, &chosen) in index.iter().enumerate() {
            let [z, x, g] = [z.slice(0, row..row + 1)?, x.slice(0, row..row + 1)?, g.slice(0, row..row + 1)?];
            y.append(Expected::of::<T>(reference::forward(&layers[chosen], z, x)?));
            let exact = reference::backward(&layers[chosen], z, x, g)?;
            dz.append(Expected::of::<T::Accumulator>(exact.z));
            dx.append(Expected::of::<T::Accumulator>(exact.x));
        }
        let at = (levels, T::DTYPE);
        self.case(at, "a layer for each row", None, sizes, &y, &|context, y| {
            let layers = layers.map(|layer| layer.with_context(context));
            Grouped::new(&layers)?.forward_into(&index, z, x, ViewMut::new(y, [n, k])?)
        })?;
        dz.append(dx);
        self.case(at, "backward, a layer for each row", None, sizes, &dz, &|context, to| {
            let layers = layers.map(|layer| layer.with_context(context));
            let (dz, dx) = to.split_at_mut(n * i);
            let wanted = GroupedWanted {
                z: Some(Gradient::write(ViewMut::new(dz, [n, i])?)),
                x: Some(Gradient::write(ViewMut::new(dx, [n, j])?)),
                layers: &mut [],
            };
            Grouped::new(&layers)?.backward_into(&index, z, x, g, wanted)
        })
    }

    /// Diagonal W, gates, and a Tucker beside a CP block.
    pub(super) fn blocks<T: Element>(&mut self, levels: &[Context], sizes: Sizes, seed: &mut u64) -> Result<()> {
        let [n, i, j, k, r] = sizes;
        // The reference takes the cube of it, for dW.
        let width = j.min(66);
        let (d, square, bias) = (values::<T>(width, seed), values::<T>(width * width, seed), values::<T>(width, seed));
        let gates = [
            ("diagonal", vec![Block::diagonal(View::vector(&d))]),
            ("gate", vec![Block::diagonal(View::vector(&d)).with_b(View::new(&square, [width, width])?)?]),
        ];
        for (form, blocks) in &gates {
            let layer = Interaction::blocks(blocks)?.with_b(View::vector(&bias))?;
            self.block(levels, form, &layer, [n, width, width, width, r], seed)?;
        }
        let core = [k.min(r), i.min(r.div_ceil(2)), j.min(r)];
        let (a, b, c) = (values::<T>(k * r, seed), values::<T>(i * r, seed), values::<T>(j * r, seed));
        let (middle, lambda) = (values::<T>(core.iter().product(), seed), values::<T>(r, seed));
        let matrix = |values, rows, columns| View::strided(values, 0, [rows, columns], [r as isize, 1]);
        let tucker = Block::tucker(View::new(&middle, core)?);
        let tucker = tucker.with_a(matrix(&a, k, core[0])?)?.with_b(matrix(&b, i, core[1])?)?;
        let cp =
            Block::diagonal(View::vector(&lambda)).with_a(View::new(&a, [k, r])?)?.with_b(View::new(&b, [i, r])?)?;
        let blocks = [tucker.with_c(matrix(&c, j, core[2])?)?, cp.with_c(View::new(&c, [j, r])?)?];
        self.block(levels, "Tucker and cp", &Interaction::blocks(&blocks)?, sizes, seed)
    }

    fn block<T: Element>(
        &mut self,
        levels: &[Context],
        form: &str,
        layer: &Interaction<'_, T>,
        sizes: Sizes,
        seed: &mut u64,
    ) -> Result<()> {
        let [n, i, j, k, _] = sizes;
        let (z, x, g) = (values::<T>(n * i, seed), values::<T>(n * j, seed), values::<T>(n * k, seed));
        let (z, x, g) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?, View::new(&g, [n, k])?);
        let at = (levels, T::DTYPE);
        let exact = Expected::forward(layer, z, x)?;
        self.case(at, &format!("blocks, {form}"), None, sizes, &exact, &|context, y| {
            layer.with_context(context).forward_into(z, x, ViewMut::new(y, [n, k])?)
        })?;
        let exact = reference::backward(layer, z, x, g)?;
        let mut parts: Vec<(&'static str, &Reference)> = vec![("dz", &exact.z), ("dx", &exact.x)];
        for block in &exact.blocks {
            parts.push(("dcore", &block.core));
            let factors = [("da", &block.a), ("db", &block.b), ("dc", &block.c)];
            parts.extend(factors.into_iter().filter_map(|(name, part)| Some((name, part.as_ref()?))));
        }
        let exact = Expected::all::<T::Accumulator>(&parts);
        self.case(at, &format!("backward, blocks, {form}"), None, sizes, &exact, &|context, to| {
            let layer = layer.with_context(context);
            let (of_z, rest) = to.split_at_mut(n * i);
            let (of_x, mut rest) = rest.split_at_mut(n * j);
            let (dz, dx) = (ViewMut::new(of_z, [n, i])?, ViewMut::new(of_x, [n, j])?);
            let wanted = Wanted { z: Some(Gradient::write(dz)), x: Some(Gradient::write(dx)), ..Wanted::default() };
            layer.backward_into(z, x, g, wanted)?;
            for block in &layer.backward(z, x, g)?.blocks {
                let core = block.core.as_ref().map(|core| core.as_slice());
                let diagonal = block.diagonal.as_ref().map(|diagonal| diagonal.as_slice());
                let factors = [&block.a, &block.b, &block.c].map(|part| part.as_ref().map(|part| part.as_slice()));
                for part in [core, diagonal].into_iter().chain(factors).flatten() {
                    let (to, after) = std::mem::take(&mut rest).split_at_mut(part.len());
                    to.copy_from_slice(part);
                    rest = after;
                }
            }
            Ok(())
        })
    }
}

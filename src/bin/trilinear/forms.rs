//! The forms of W beside dense and CP, and the operations made of one: what each is made of, what it costs, and ours.

use trilinear::{Block, Context, Element, Gradient, Interaction, Mahalanobis, Plan, Precision, Result, View, ViewMut};
use trilinear::{Wanted, WantedBlock, WantedMetric};

use crate::baselines::{Operands, Results, Weights};
use crate::work::{Cost, Shape, Which, Work};

/// How W is given, or what is computed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub(crate) enum Form {
    /// A free K×I×J tensor
    Dense,
    /// CP factors of rank R
    Cp,
    /// d⊙z⊙x, where I = J = K
    Diagonal,
    /// zᵀx, where I = J and K = 1
    Identity,
    /// (zB)ᵀ(xC) of rank R, where K = 1
    Metric,
    /// (zB)⊙x, a gate that z generates, where J = K
    Gate,
    /// A core of at most R along each axis, and three factors
    Tucker,
    /// A sum of four blocks of a quarter of that core
    BlockTerm,
    /// m⊙x with m = M(x, z) of a free W, where J = K
    Attend,
    /// (z − x)ᵀP(z − x) with a free P, where I = J and K = 1
    Mahalanobis,
}

/// Blocks of [`Form::BlockTerm`], as `count` has them unless told otherwise.
const BLOCKS: usize = 4;

/// Sizes N, I, J, K and R (0 without) that forms are measured with where none are asked for.
pub(crate) const SIZES: [(Form, [usize; 5]); 10] = [
    (Form::Diagonal, [65536, 256, 256, 256, 0]),
    (Form::Diagonal, [512, 256, 256, 256, 0]),
    (Form::Identity, [65536, 256, 256, 1, 0]),
    (Form::Metric, [8192, 256, 256, 1, 64]),
    (Form::Gate, [4096, 256, 256, 256, 0]),
    (Form::Tucker, [128, 512, 512, 512, 80]),
    (Form::BlockTerm, [1024, 256, 256, 128, 128]),
    (Form::Attend, [1024, 128, 128, 128, 0]),
    (Form::Mahalanobis, [8192, 256, 256, 1, 0]),
    (Form::Mahalanobis, [1024, 1024, 1024, 1, 0]),
];

impl Form {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Form::Dense => "dense",
            Form::Cp => "cp",
            Form::Diagonal => "diagonal",
            Form::Identity => "identity",
            Form::Metric => "metric",
            Form::Gate => "gate",
            Form::Tucker => "tucker",
            Form::BlockTerm => "block-term",
            Form::Attend => "attend",
            Form::Mahalanobis => "mahalanobis",
        }
    }

    /// Whether its sizes include a rank.
    pub(crate) fn has_rank(self) -> bool {
        matches!(self, Form::Cp | Form::Metric | Form::Tucker | Form::BlockTerm)
    }

    /// What W is made of for these sizes; nothing of dense W and CP. Errors: what the sizes must be.
    pub(crate) fn structure(self, shape: Shape) -> std::result::Result<Option<Structure>, &'static str> {
        let Shape { i, j, k, r, .. } = shape;
        let require = |right: bool, what| if right { Ok(()) } else { Err(what) };
        let rank = r.ok_or("needs a rank: N,I,J,K,R");
        let blocks = |core, columns| Structure::Blocks { count: 1, core, columns };
        let dense = |count: usize, r: usize| {
            let core = [k, i, j].map(|size| r.min(size).div_ceil(count));
            Structure::Blocks { count, core: Core::Dense(core), columns: core }
        };
        Ok(Some(match self {
            Form::Dense => return Ok(None),
            Form::Cp => return rank.map(|_| None),
            Form::Diagonal => {
                require(i == j && j == k, "needs I = J = K")?;
                blocks(Core::Diagonal(k), [0; 3])
            }
            Form::Identity => {
                require(i == j && k == 1, "needs I = J and K = 1")?;
                blocks(Core::Identity(i), [1, 0, 0])
            }
            Form::Metric => {
                require(k == 1, "needs K = 1")?;
                let r = rank?;
                blocks(Core::Identity(r), [1, r, r])
            }
            Form::Gate => {
                require(j == k, "needs J = K")?;
                blocks(Core::Identity(j), [0, j, 0])
            }
            Form::Tucker => dense(1, rank?),
            Form::BlockTerm => dense(BLOCKS, rank?),
            Form::Attend => {
                require(j == k, "needs J = K")?;
                Structure::Attend
            }
            Form::Mahalanobis => {
                require(i == j && k == 1, "needs I = J and K = 1")?;
                Structure::Mahalanobis
            }
        }))
    }
}

/// What W is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    /// So many blocks of one kind, each with factors A, B and C of so many columns; 0 where it has none.
    Blocks { count: usize, core: Core, columns: [usize; 3] },
    /// Dense W of `attend`.
    Attend,
    /// P of a distance.
    Mahalanobis,
}

/// The core of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// So many components.
    Identity(usize),
    /// The same with weights.
    Diagonal(usize),
    Dense([usize; 3]),
}

impl Core {
    pub(crate) fn ranks(self) -> [usize; 3] {
        match self {
            Core::Identity(r) | Core::Diagonal(r) => [r; 3],
            Core::Dense(ranks) => ranks,
        }
    }
}

impl Structure {
    /// For people, where the sizes do not say it.
    pub(crate) fn ranks(self) -> Option<String> {
        match self {
            Structure::Blocks { count, core: Core::Dense([a, b, c]), .. } if count > 1 => {
                Some(format!("{count} of {a}×{b}×{c}"))
            }
            Structure::Blocks { core: Core::Dense([a, b, c]), .. } => Some(format!("{a}×{b}×{c}")),
            _ => None,
        }
    }

    /// Elements of the cores (or of W, or P), and of A, B and C of all blocks. `None` if they are too many to address.
    pub(crate) fn lengths(self, Shape { i, j, k, .. }: Shape) -> Option<[usize; 4]> {
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let (count, core, columns) = match self {
            Structure::Attend => return Some([product(&[k, i, j])?, 0, 0, 0]),
            Structure::Mahalanobis => return Some([product(&[i, i])?, 0, 0, 0]),
            Structure::Blocks { count, core, columns } => (count, core, columns),
        };
        let core = match core {
            Core::Identity(_) => 0,
            Core::Diagonal(r) => r,
            Core::Dense([a, b, c]) => product(&[a, b, c])?,
        };
        let [a, b, c] = columns;
        Some([product(&[count, core])?, product(&[count, k, a])?, product(&[count, i, b])?, product(&[count, j, c])?])
    }

    /// Why it is not measured, if so.
    pub(crate) fn obstacle(self, work: Work, shape: Shape) -> Option<&'static str> {
        if shape.sharing > 1 {
            return Some("of this form all pairs are not measured");
        }
        if work.saved {
            return Some("this form keeps nothing for its backward pass");
        }
        if shape.rows > 1 && !matches!(self, Structure::Blocks { .. }) {
            return Some("this form has no shared contexts");
        }
        if !work.backward() {
            return None;
        }
        match self {
            Structure::Attend => Some("of this form only the forward pass is measured"),
            _ if work.tied => Some("of this form gradients of tied inputs are not measured"),
            _ if work.which != Which::All => Some("of this form all gradients are measured in one call only"),
            _ => None,
        }
    }

    /// The least that a call must do: [`Work::cost`] of this form. Of a diagonal core, the products with z are counted, one
    /// multiply-add for each component.
    pub(crate) fn cost(self, work: Work, shape: Shape, [storage, accumulator]: [usize; 2]) -> Cost {
        let [n, rows, i, j, k] = [shape.n, shape.rows, shape.i, shape.j, shape.k].map(|size| size as u128);
        let total = n.saturating_mul(rows);
        let product = |sizes: &[u128]| sizes.iter().fold(2u128, |product, &size| product.saturating_mul(size));
        let sum = |terms: &[u128]| terms.iter().fold(0u128, |sum, &term| sum.saturating_add(term));
        let (forward, backward) = (u128::from(work.forward()), u128::from(work.backward()));
        let (flops, recomputed) = match self {
            Structure::Attend => (product(&[n, i, j, k]), 0),
            // PD, and its product with D; (P + Pᵀ)D and Σ g D⊗D.
            Structure::Mahalanobis => {
                let y = sum(&[product(&[n, i, i]), product(&[n, i])]);
                (sum(&[forward * y, backward * 3 * product(&[n, i, i])]), 0)
            }
            Structure::Blocks { count, core, columns } => {
                let blocks = count as u128;
                let [ca, cb, cc] = columns.map(|columns| columns as u128);
                let [ra, rb, rc] = core.ranks().map(|rank| rank as u128);
                let (p, q) = (product(&[blocks, n, i, cb]), product(&[blocks, total, j, cc]));
                let a = product(&[blocks, total, k, ca]);
                // z is contracted first where rows share it.
                let h = match core {
                    Core::Dense(_) if rows > 1 => {
                        sum(&[product(&[blocks, n, ra, rb, rc]), product(&[blocks, total, ra, rc])])
                    }
                    Core::Dense(_) => product(&[blocks, n, ra, rb, rc]),
                    _ => product(&[blocks, total, ra]),
                };
                // dP, dQ and the core's own; of factors, the product of each with what it is given, and its own gradient.
                let weighted = u128::from(!matches!(core, Core::Identity(_)));
                let back = sum(&[2 * sum(&[p, q, a]), (2 + weighted) * h]);
                // P and Q once more, and H for dA.
                let again = sum(&[p, q, if ca > 0 { h } else { 0 }]);
                (sum(&[forward * sum(&[p, q, a, h]), backward * sum(&[back, again])]), backward * again)
            }
        };
        let weights = self.lengths(shape).unwrap_or([usize::MAX; 4]);
        let weights = weights.iter().fold(0u128, |sum, &len| sum.saturating_add(len as u128));
        let elements = |sizes: [u128; 2]| sizes[0].saturating_mul(sizes[1]);
        let (of_z, of_x, of_y) = (elements([n, i]), elements([total, j]), elements([total, k]));
        let inputs = if work.tied { of_z.max(of_x) } else { sum(&[of_z, of_x]) };
        let stored = sum(&[inputs, weights, forward * of_y, backward * of_y]);
        let written = backward * sum(&[of_z, of_x, weights]);
        let bytes = [stored.saturating_mul(storage as u128), written.saturating_mul(accumulator as u128)];
        Cost { flops, recomputed, bytes: sum(&bytes) }
    }

    /// Elements of dz, dx, and the gradients of the cores, A, B and C; none of a forward pass.
    pub(crate) fn gradients(self, work: Work, shape: Shape) -> Option<[usize; 6]> {
        if !work.backward() {
            return Some([0; 6]);
        }
        let Shape { n, rows, i, j, .. } = shape;
        let [core, a, b, c] = self.lengths(shape)?;
        Some([n.checked_mul(i)?, n.checked_mul(rows)?.checked_mul(j)?, core, a, b, c])
    }

    /// The blocks of these weights.
    pub(crate) fn blocks<'a, T: Element>(self, shape: Shape, weights: Weights<'a, T>) -> Result<Vec<Block<'a, T>>> {
        let (Structure::Blocks { count, core, columns }, Weights::Structured { core: cores, a, b, c }) =
            (self, weights)
        else {
            return Ok(Vec::new());
        };
        let Shape { i, j, k, .. } = shape;
        fn part<T>(all: &[T], count: usize, index: usize) -> &[T] {
            let len = all.len() / count;
            &all[index * len..][..len]
        }
        let block = |index: usize| {
            let of_core = part(cores, count, index);
            let mut block = match core {
                Core::Identity(r) => Block::identity(r),
                Core::Diagonal(_) => Block::diagonal(View::vector(of_core)),
                Core::Dense(ranks) => Block::tucker(View::new(of_core, ranks)?),
            };
            let factor = |all, rows, side: usize| View::new(part(all, count, index), [rows, columns[side]]);
            if columns[0] > 0 {
                block = block.with_a(factor(a, k, 0)?)?;
            }
            if columns[1] > 0 {
                block = block.with_b(factor(b, i, 1)?)?;
            }
            if columns[2] > 0 {
                block = block.with_c(factor(c, j, 2)?)?;
            }
            Ok(block)
        };
        (0..count).map(block).collect()
    }

    /// What a forward call does. Distances have no plan: the kernels are those of the product with P.
    pub(crate) fn plan<T: Element>(self, shape: Shape, weights: Weights<'_, T>, context: Context) -> Result<Plan> {
        let Shape { n, rows, i, j, k, .. } = shape;
        let blocks = self.blocks(shape, weights)?;
        let layer = match (self, weights) {
            (Structure::Attend | Structure::Mahalanobis, Weights::Structured { core, .. }) => {
                Interaction::dense(View::new(core, [k, i, j])?)?
            }
            _ => Interaction::blocks(&blocks)?,
        };
        let layer = layer.with_context(context);
        if rows > 1 { layer.plan_shared(n, rows) } else { layer.plan(n) }
    }

    /// Ours.
    pub(crate) fn call<T: Element>(
        self,
        (work, shape, context): (Work, Shape, Context),
        operands: Operands<'_, T>,
        results: Results<'_, T>,
    ) -> Result<()> {
        let Shape { n, rows, i, j, k, .. } = shape;
        let Weights::Structured { core, .. } = operands.weights else { return Ok(()) };
        let z = View::new(operands.z, [n, i])?;
        let Results { y, z: dz, x: dx, w, a, b, c } = results;
        match self {
            Structure::Attend => {
                let layer = Interaction::dense(View::new(core, [k, i, j])?)?.with_context(context);
                layer.attend_into(z, View::new(operands.x, [n, j])?, ViewMut::new(y, [n, j])?)
            }
            Structure::Mahalanobis => {
                let metric = Mahalanobis::new(Precision::Full(View::new(core, [i, i])?))?.with_context(context);
                let x = View::new(operands.x, [n, i])?;
                if work.forward() {
                    metric.squared_into(z, x, ViewMut::new(y, [n])?)?;
                }
                if work.backward() {
                    let wanted = WantedMetric {
                        z: Some(Gradient::write(ViewMut::new(dz, [n, i])?)),
                        x: Some(Gradient::write(ViewMut::new(dx, [n, i])?)),
                        matrix: Some(Gradient::write(ViewMut::new(w, [i, i])?)),
                        diagonal: None,
                    };
                    metric.backward_into(z, x, View::vector(operands.g), wanted)?;
                }
                Ok(())
            }
            Structure::Blocks { .. } => {
                let blocks = self.blocks(shape, operands.weights)?;
                let layer = Interaction::blocks(&blocks)?.with_context(context);
                let mut wanted = if work.backward() { self.wanted(shape, [w, a, b, c])? } else { Vec::new() };
                if rows > 1 {
                    let x = View::new(operands.x, [n, rows, j])?;
                    if work.forward() {
                        layer.forward_shared_into(z, x, ViewMut::new(y, [n, rows, k])?)?;
                    }
                    if work.backward() {
                        let wanted = Wanted {
                            z: Some(Gradient::write(ViewMut::new(dz, [n, i])?)),
                            x: Some(Gradient::write(ViewMut::new(dx, [n, rows, j])?)),
                            blocks: &mut wanted,
                            ..Wanted::default()
                        };
                        layer.backward_shared_into(z, x, View::new(operands.g, [n, rows, k])?, wanted)?;
                    }
                    return Ok(());
                }
                let x = View::new(operands.x, [n, j])?;
                if work.forward() {
                    layer.forward_into(z, x, ViewMut::new(y, [n, k])?)?;
                }
                if work.backward() {
                    let wanted = Wanted {
                        z: Some(Gradient::write(ViewMut::new(dz, [n, i])?)),
                        x: Some(Gradient::write(ViewMut::new(dx, [n, j])?)),
                        blocks: &mut wanted,
                        ..Wanted::default()
                    };
                    layer.backward_into(z, x, View::new(operands.g, [n, k])?, wanted)?;
                }
                Ok(())
            }
        }
    }

    /// Where the gradients of the blocks go.
    fn wanted<'a, T: Element>(
        self,
        Shape { i, j, k, .. }: Shape,
        gradients: [&'a mut [T::Accumulator]; 4],
    ) -> Result<Vec<WantedBlock<'a, T>>> {
        let Structure::Blocks { count, core, columns } = self else { return Ok(Vec::new()) };
        let lengths = gradients.each_ref().map(|all| all.len() / count);
        let mut rest = gradients;
        let block = |_| {
            let mut next = 0;
            let [of_core, a, b, c] = rest.each_mut().map(|rest| {
                let (part, after) = std::mem::take(rest).split_at_mut(lengths[next]);
                (*rest, next) = (after, next + 1);
                part
            });
            let factor = |to, rows, columns: usize| -> Result<_> {
                Ok(if columns == 0 { None } else { Some(Gradient::write(ViewMut::new(to, [rows, columns])?)) })
            };
            let mut wanted = WantedBlock {
                a: factor(a, k, columns[0])?,
                b: factor(b, i, columns[1])?,
                c: factor(c, j, columns[2])?,
                ..WantedBlock::default()
            };
            match core {
                Core::Identity(_) => {}
                Core::Diagonal(r) => wanted.diagonal = Some(Gradient::write(ViewMut::new(of_core, [r])?)),
                Core::Dense(ranks) => wanted.core = Some(Gradient::write(ViewMut::new(of_core, ranks)?)),
            }
            Ok(wanted)
        };
        (0..count).map(block).collect()
    }
}

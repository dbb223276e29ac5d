//! What a call computes, and what that costs at least: FLOPs and bytes.
//!
//! Bytes are those of compulsory traffic: every operand read once and every result written once, whatever is done with it in
//! between; nothing is read that is only written. Inputs, weights, y and its gradient are in the storage type, other gradients
//! and what is kept from launch to launch in the accumulator's. [`Work::cost`] counts a call, as if it were one step; its
//! [`Work::launches`] count what a CUDA device's launches, each on its own, cannot spare.

/// Sizes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows of z.
    pub(crate) n: usize,
    /// Rows of x for each row of z: more than 1 is a shared context.
    pub(crate) rows: usize,
    /// Rows of z that meet the same rows of x: more than 1 are all pairs.
    pub(crate) sharing: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    pub(crate) k: usize,
    /// The rank, for the CP form.
    pub(crate) r: Option<usize>,
}

impl Shape {
    /// Rows of x. `None` if they are too many to count.
    pub(crate) fn x_rows(&self) -> Option<usize> {
        (self.n / self.sharing).checked_mul(self.rows)
    }

    /// The row of x of a row of y.
    pub(crate) fn x_row(&self, row: usize) -> usize {
        row / (self.rows * self.sharing) * self.rows + row % self.rows
    }
}

/// Forward or backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub(crate) enum Pass {
    /// y of z and x
    Forward,
    /// Gradients of z, x and y's gradient, in one call
    Backward,
    /// Forward, then backward
    Both,
}

/// Which gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub(crate) enum Which {
    /// dz, dx and those of the weights
    All,
    /// dz
    Z,
    /// dx
    X,
    /// Those of the weights: dW, or dA, dB and dC
    W,
    /// dA, of CP
    A,
    /// dB, of CP
    B,
    /// dC, of CP
    C,
}

/// What a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) pass: Pass,
    /// Of a forward pass without a meaning.
    pub(crate) which: Which,
    /// P and Q of CP are kept by the forward pass, and not computed again.
    pub(crate) saved: bool,
    /// z and x are the same tensor.
    pub(crate) tied: bool,
}

/// The gradients of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) z: bool,
    pub(crate) x: bool,
    pub(crate) w: bool,
    pub(crate) a: bool,
    pub(crate) b: bool,
    pub(crate) c: bool,
}

/// What a call must do at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// With those that follow.
    pub(crate) flops: u128,
    /// For what the forward pass has computed before, and did not keep.
    pub(crate) recomputed: u128,
    /// Operands read once, and results written once.
    pub(crate) bytes: u128,
}

/// A launch of a CUDA device's engine, and the bytes that it must move at least.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// As kernels' names begin: contract, gram or hidden.
    pub(crate) operation: &'static str,
    pub(crate) read: u128,
    pub(crate) written: u128,
}

impl Work {
    /// y of z and x.
    pub(crate) const FORWARD: Work = Work { pass: Pass::Forward, which: Which::All, saved: false, tied: false };

    /// Whether y is computed.
    pub(crate) fn forward(self) -> bool {
        self.pass != Pass::Backward
    }

    /// Whether any gradient is.
    pub(crate) fn backward(self) -> bool {
        self.pass != Pass::Forward
    }

    /// The gradients that a layer of this shape is asked for. dz + dx of tied inputs counts as both.
    pub(crate) fn parts(self, shape: Shape) -> Parts {
        if !self.backward() {
            return Parts::default();
        }
        let has = |which| self.which == which || self.which == Which::All;
        let (dense, cp) = (shape.r.is_none(), shape.r.is_some());
        let factor = |which| cp && (has(which) || has(Which::W));
        Parts {
            z: has(Which::Z),
            x: has(Which::X),
            w: dense && has(Which::W),
            a: factor(Which::A),
            b: factor(Which::B),
            c: factor(Which::C),
        }
    }

    /// Whether dz and dx of tied inputs go into one result.
    pub(crate) fn sums_inputs(self, shape: Shape) -> bool {
        let parts = self.parts(shape);
        self.tied && parts.z && parts.x
    }

    /// Why there is nothing to compute for this shape, if so.
    pub(crate) fn obstacle(self, shape: Shape) -> Option<&'static str> {
        match shape.r {
            None if self.saved => Some("a dense layer keeps nothing for its backward pass"),
            Some(_) if self.saved && shape.rows > 1 => Some("the forward pass of a shared context keeps nothing"),
            None if self.backward() && self.parts(shape) == Parts::default() => Some("a dense layer has no factors"),
            _ => None,
        }
    }

    /// The least that a call must do, for a layer without linear terms; `[storage, accumulator]` are the bytes of an
    /// element.
    pub(crate) fn cost(self, shape: Shape, [storage, accumulator]: [usize; 2]) -> Cost {
        let [n, rows, i, j, k, r] =
            [shape.n, shape.rows, shape.i, shape.j, shape.k, shape.r.unwrap_or(0)].map(|size| size as u128);
        let product = |sizes: &[u128]| sizes.iter().fold(1u128, |product, &size| product.saturating_mul(size));
        let flops = |count: bool, sizes: &[u128]| if count { product(sizes).saturating_mul(2) } else { 0 };
        let (y, parts, total) = (self.forward(), self.parts(shape), n.saturating_mul(rows));
        let x_rows = (n / shape.sharing as u128).saturating_mul(rows);
        let Parts { z, x, w, a, b, c } = parts;
        // dH = gA is in every gradient of CP but dA. P = zB is a factor of what dA, dC and dx are made of; Q = xC of what
        // dA, dB and dz are.
        let (p, q, dh) = (a || c || x, a || b || z, z || x || b || c);
        let backward = self.backward();
        let (counted, recomputed) = match (shape.r, shape.rows) {
            // y, dz, dx and dW are the four contractions of T = Σ g·W·z·x with three of its operands: 2·N·I·J·K each.
            (None, 1) => (product(&[u128::from(y) + u128::from(z) + u128::from(x) + u128::from(w), 2, n, i, j, k]), 0),
            // y: W′ = zᵀW, then x·W′ᵀ. dW′ = gᵀx, from which dz = dW′·W and dW = z⊗dW′. dx = g·W′, with W′ once more.
            (None, _) => {
                let (context, apply) = ([n, i, j, k], [total, j, k]);
                let counted = [
                    flops(y, &context),
                    flops(y, &apply),
                    flops(z || w, &apply),
                    flops(z, &context),
                    flops(w, &context),
                    flops(x, &apply),
                ];
                (counted.into_iter().fold(0, u128::saturating_add), flops(x, &context))
            }
            // y = (P⊙Q)Aᵀ. dA = gᵀ(P⊙Q), dB = zᵀ(dH⊙Q), dC = xᵀ(dH⊙P), dz = (dH⊙Q)Bᵀ, dx = (dH⊙P)Cᵀ: with dH twice the
            // FLOPs of y, and P and Q once more unless they were saved.
            (Some(_), _) => {
                let (of_z, of_x, of_y) = ([n, r, i], [x_rows, r, j], [total, r, k]);
                let counted = [
                    flops(y, &of_z),
                    flops(y, &of_x),
                    flops(y, &of_y),
                    flops(backward && dh, &of_y),
                    flops(a, &of_y),
                    flops(b, &of_z),
                    flops(z, &of_z),
                    flops(c, &of_x),
                    flops(x, &of_x),
                ];
                let again = if self.saved { 0 } else { flops(p, &of_z).saturating_add(flops(q, &of_x)) };
                (counted.into_iter().fold(0, u128::saturating_add), again)
            }
        };
        // P and Q from memory rather than from z and x.
        let loaded = self.saved && !y;
        let (form_p, form_q) = (y || (p && !loaded), y || (q && !loaded));
        let when = |needed: bool, sizes: &[u128]| if needed { product(sizes) } else { 0 };
        let (read, kept) = if shape.r.is_none() {
            let z_read = when(y || x || w, &[n, i]);
            let x_read = when(y || z || w, &[x_rows, j]);
            ([z_read, x_read, when(y || z || x, &[k, i, j]), 0, 0], [0; 2])
        } else {
            let kept = |needed, rows: u128| when(self.saved && (y || needed), &[rows, r]);
            let weights = [when(y || dh, &[k, r]), when(form_p || z, &[i, r]), when(form_q || x, &[j, r])];
            let inputs = [when(form_p || b, &[n, i]), when(form_q || c, &[x_rows, j])];
            ([inputs[0], inputs[1], weights[0], weights[1], weights[2]], [kept(p, n), kept(q, total)])
        };
        // The same tensor is read once.
        let read = if self.tied { [read[0].max(read[1]), 0, read[2], read[3], read[4]] } else { read };
        let dx = x && !self.sums_inputs(shape);
        let stored = [when(backward, &[total, k]), when(y, &[total, k])];
        let written = [
            when(z, &[n, i]),
            when(dx, &[x_rows, j]),
            when(w, &[k, i, j]),
            when(a, &[k, r]),
            when(b, &[i, r]),
            when(c, &[j, r]),
        ];
        let bytes = |elements: &[u128], size: usize| {
            elements.iter().copied().fold(0, u128::saturating_add).saturating_mul(size as u128)
        };
        let bytes =
            [bytes(&read, storage), bytes(&stored, storage), bytes(&written, accumulator), bytes(&kept, accumulator)];
        Cost {
            flops: counted.saturating_add(recomputed),
            recomputed,
            bytes: bytes.into_iter().fold(0, u128::saturating_add),
        }
    }

    /// The launches of a CUDA device, as ARCHITECTURE.md has them, for a layer without linear terms. Of CP, H = P⊙Q, dP, dQ are
    /// written by one launch and read by the next. None for shared contexts and all pairs, whose launches work on blocks.
    #[cfg(feature = "cuda")]
    pub(crate) fn launches(self, shape: Shape, [storage, accumulator]: [usize; 2]) -> Vec<Launch> {
        let mut launches = Vec::new();
        if shape.rows > 1 || shape.sharing > 1 {
            return launches;
        }
        let [n, i, j, k, r] = [shape.n, shape.i, shape.j, shape.k, shape.r.unwrap_or(0)].map(|size| size as u128);
        let when = |needed: bool, sizes: &[u128]| match needed {
            true => sizes.iter().fold(1u128, |product, &size| product.saturating_mul(size)),
            false => 0,
        };
        let bytes = |elements: &[u128], size: usize| {
            elements.iter().copied().fold(0, u128::saturating_add).saturating_mul(size as u128)
        };
        // Elements read of the storage and of the accumulator's type, and bytes written.
        let mut launch = |operation, stored: &[u128], kept: &[u128], written: u128| {
            let read = bytes(stored, storage).saturating_add(bytes(kept, accumulator));
            if written > 0 {
                launches.push(Launch { operation, read, written });
            }
        };
        let (y, parts, saved) = (self.forward(), self.parts(shape), self.saved);
        let Parts { z, x, w, a, b, c } = parts;
        // Of tied inputs the one tensor.
        let inputs = |z: bool, x: bool| match self.tied {
            true => [when(z || x, &[n, i]), 0],
            false => [when(z, &[n, i]), when(x, &[n, j])],
        };
        let of_inputs = [when(z, &[n, i]), when(x && !self.sums_inputs(shape), &[n, j])];
        let (g, output) = (when(true, &[n, k]), bytes(&[when(true, &[n, k])], storage));
        if shape.r.is_none() {
            let weights = when(true, &[k, i, j]);
            let all = inputs(true, true);
            if y {
                launch("contract", &[all[0], all[1], weights], &[], output);
            }
            // dz is a sum with x, dx one with z.
            let others = inputs(x, z);
            launch("contract", &[g, weights, others[0], others[1]], &[], bytes(&of_inputs, accumulator));
            launch("gram", &[g, all[0], all[1]], &[], bytes(&[when(w, &[k, i, j])], accumulator));
            return launches;
        }
        let hidden = when(true, &[n, r]);
        let factors = |a: bool, b: bool, c: bool| [when(a, &[k, r]), when(b, &[i, r]), when(c, &[j, r])];
        if y {
            let ([z, x], [_, b, c]) = (inputs(true, true), factors(false, true, true));
            let copies = if saved { 3 } else { 1 };
            launch("hidden", &[z, x, b, c], &[], bytes(&[hidden.saturating_mul(copies)], accumulator));
            launch("contract", &factors(true, false, false), &[hidden], output);
        }
        // dP = D⊙Q for dz and dB, dQ = D⊙P for dx and dC, H = P⊙Q for dA.
        let (dp, dq) = (z || b, x || c);
        let (d, p, q) = (dp || dq, dq || a, dp || a);
        let written = [when(dp, &[n, r]), when(dq, &[n, r]), when(a, &[n, r])];
        let (form_p, form_q) = (p && !saved, q && !saved);
        let ([from_z, from_x], [of_a, of_b, of_c]) = (inputs(form_p, form_q), factors(d, form_p, form_q));
        let loaded = [when(p && saved, &[n, r]), when(q && saved, &[n, r])];
        let stored = [when(d, &[n, k]), from_z, from_x, of_a, of_b, of_c];
        launch("hidden", &stored, &loaded, bytes(&written, accumulator));
        launch(
            "contract",
            &factors(false, z, x),
            &[when(z, &[n, r]), when(x, &[n, r])],
            bytes(&of_inputs, accumulator),
        );
        let [of_b, of_c] = inputs(b, c);
        let kept = [a, b, c].map(|wanted| when(wanted, &[n, r]));
        launch("gram", &[when(a, &[n, k]), of_b, of_c], &kept, bytes(&factors(a, b, c), accumulator));
        launches
    }

    /// For the table.
    pub(crate) fn label(self) -> String {
        let pass = match self.pass {
            Pass::Forward => return "forward".into(),
            Pass::Backward => "backward",
            Pass::Both => "both",
        };
        let which = match self.which {
            Which::All => String::new(),
            which => format!(", {}", which.name()),
        };
        format!("{pass}{which}{}", if self.saved { ", saved" } else { "" })
    }
}

impl Pass {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Both => "both",
        }
    }
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::All => "all",
            Which::Z => "z",
            Which::X => "x",
            Which::W => "w",
            Which::A => "a",
            Which::B => "b",
            Which::C => "c",
        }
    }
}

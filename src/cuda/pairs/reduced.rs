//! All pairs summed over the problems: y\[s,t,k\] = c Σ_m z\[m,s\]ᵀ W_k x\[m,t\] + b, by the cheaper of
//!
//! ```text
//!   contraction first   Σ_m Σ_d W′[m,s,k][d] X[m,t][d]            rows (s, k), lanes t, depth (m, d)
//!   outer products      O[s,i,t,j] = c Σ_m z[m,s][i] x[m,t][j]    rows (s, i), lanes (t, j), depth m
//!                       Σ_ij O[s,i,t,j] W[k][i][j]                rows (s, t), lanes k, depth (i, j)
//! ```
//!
//! in blocks of rows of z and of x. Only where all problems of a row exceed a block, these are cut too; the sums of the parts are
//! then kept as accumulators.

use super::{Pairs, Span, product};
use crate::Result;
use crate::cuda::blocks::Blocks;
use crate::cuda::contract::{Batch, Cube, linear, segment};
use crate::cuda::operand::{Form, Matrix, Operand};
use crate::cuda::problem::{Contract, Rows, Segment, bytes};
use crate::cuda::recorder::Recorder;

/// y, whose strides over the problems are 0. The layer has no U and V.
pub(super) fn forward(recorder: &mut Recorder<'_>, pairs: Pairs, scale: f64) -> Result<()> {
    let ([m, s, t], kind) = (pairs.sizes, pairs.layer.kinds[1]);
    if s == 0 || t == 0 || pairs.layer.k == 0 {
        return Ok(());
    }
    let scale = match scale {
        1.0 => None,
        scale => Some(Matrix { address: recorder.scalar(scale, kind)?, kind, ..Matrix::default() }),
    };
    match pairs.layer.form {
        Form::Dense(w) if m > 0 && pairs.prefers_outer() => pairs.outer(recorder, w, scale),
        Form::Absent => pairs.sums(recorder, None, (pairs.y, false)),
        _ if m == 0 => pairs.sums(recorder, None, (pairs.y, false)),
        _ => pairs.oriented().0.reduce(recorder, scale),
    }
}

impl Pairs {
    /// Whether it is cheaper to form the outer products.
    fn prefers_outer(&self) -> bool {
        let [m, s, t] = self.sizes.map(|len| len as f64);
        let [k, i, j] = [self.layer.k, self.layer.i, self.layer.j].map(|len| len as f64);
        s * t * i * j * (m + k) < m * self.cost().min(self.swap().cost())
    }

    /// Rows (s, k) and lanes t of sums, and b unless they are added to what is there.
    fn sums(&self, recorder: &mut Recorder<'_>, sum: Option<Segment>, (to, add): (Operand<4>, bool)) -> Result<()> {
        let bias = self.layer.b.filter(|_| !add).map(|b| {
            let strides = [0, 0, b.strides[0], 0];
            Operand { address: b.address, strides, kind: b.kind }.problems()
        });
        let sums = Contract::new(self.outputs(), self.sizes[2], 1).plus(sum).bias(bias);
        recorder.contract(&[sums.to(to.permute([0, 1, 3, 2]).problems(), add)])
    }

    /// By contracting z first.
    fn reduce(&self, recorder: &mut Recorder<'_>, scale: Option<Matrix>) -> Result<()> {
        let ([m, s, t], k, kind) = (self.sizes, self.layer.k, self.layer.kinds[1]);
        let [of_z, of_x] = self.bytes();
        let problems = Blocks::new(m, of_z.max(of_x).saturating_mul(2))?;
        let cut = problems.most() < m;
        // What is rounded is the whole sum.
        let kept = cut && self.y.kind != kind;
        let half = |row: usize| row.saturating_mul(problems.most()).saturating_mul(2);
        for s in Blocks::new(s, half(of_z))?.iter() {
            let row = if kept { s.1.saturating_mul(k).saturating_mul(bytes(kind)) } else { 0 };
            for t in Blocks::new(t, half(of_x).saturating_add(row))?.iter() {
                let whole = self.part(Span { p: (0, m), s, t });
                let mark = recorder.mark();
                let to = if kept {
                    Pairs { sizes: [1, s.1, t.1], ..whole }.scratch(recorder, [s.1, t.1, k])?
                } else {
                    whole.y
                };
                for p in problems.iter() {
                    let (part, mark) = (self.part(Span { p, s, t }), recorder.mark());
                    let sum = part.of_problems(recorder, scale)?;
                    part.sums(recorder, Some(sum), (to, p.0 > 0))?;
                    recorder.release(mark);
                }
                if kept {
                    let [_, s, t, k] = to.strides;
                    let sums = Operand { strides: [0, s, k, t], ..to }.problems();
                    let y = Contract::new(whole.outputs(), whole.sizes[2], 1).bias(Some(sums));
                    recorder.contract(&[y.to(whole.y.permute([0, 1, 3, 2]).problems(), false)])?;
                }
                recorder.release(mark);
            }
        }
        Ok(())
    }

    /// The sum of all problems of a block.
    fn of_problems(&self, recorder: &mut Recorder<'_>, scale: Option<Matrix>) -> Result<Segment> {
        let (weights, x, d, scale) = match self.layer.form {
            Form::Cp(factors) => {
                let weights = self.components(recorder, &factors)?;
                (weights, self.projected_x(recorder, &factors)?, factors.r, scale)
            }
            // Where W′ is scaled, tensor cores may multiply it as it is.
            _ => (self.weights(recorder, scale)?, self.x, self.layer.j, None),
        };
        // Each problem is a slice.
        let sum = product(weights, x, d);
        let sum = Segment { slices: self.sizes[0] as i64, w_b: sum.w_batch, q_b: sum.q_batch, ..sum };
        Ok(Segment { w_batch: 0, q_batch: 0, ..sum }.scaled(scale))
    }

    /// By outer products.
    fn outer(&self, recorder: &mut Recorder<'_>, w: Operand<3>, scale: Option<Matrix>) -> Result<()> {
        let ([m, s, t], [k, i, j], kind) =
            (self.sizes, [self.layer.k, self.layer.i, self.layer.j], self.layer.kinds[1]);
        let pair = i.saturating_mul(j).saturating_mul(bytes(kind));
        let of_x = Blocks::new(t, pair)?;
        for s in Blocks::new(s, pair.saturating_mul(of_x.most()))?.iter() {
            for t in of_x.iter() {
                let (part, mark) = (self.part(Span { p: (0, m), s, t }), recorder.mark());
                let [s, t] = [s.1, t.1];
                let address = recorder.scratch(&[s, i, t, j], kind)?;
                // Lanes are (t, j) if they are evenly spaced; else each t is a problem of its own.
                let [x_m, x_t, x_j] = part.x.strides;
                let flat = t == 1 || j == 1 || x_t == x_j.wrapping_mul(j as i64);
                let step = if j == 1 { x_t } else { x_j };
                let (lanes, batches, batch) = if flat { (t * j, 1, 0) } else { (j, t, x_t) };
                let x = Cube { address: part.x.address, a: step, b: 0, c: x_m, batch, kind: part.x.kind };
                let [z_m, z_s, z_i] = part.z.strides;
                let z = Matrix { rows: Rows { outer: z_s, inner: z_i }, column: z_m, batch: 0, ..part.z.grouped() };
                let row = (t * j) as i64;
                let to = Matrix {
                    address,
                    rows: Rows { outer: row.wrapping_mul(i as i64), inner: row },
                    column: 1,
                    batch: j as i64,
                    kind,
                };
                let products = Contract::new(Batch::groups(s, i), lanes, batches).plus(Some(linear(x, m, z)));
                recorder.contract(&[products.scaled(scale).to(to, false)])?;

                let [w_k, w_i, w_j] = w.strides;
                let w = Cube { address: w.address, a: w_k, b: w_i, c: w_j, batch: 0, kind: w.kind };
                let products = Matrix { rows: Rows { outer: to.rows.outer, inner: j as i64 }, batch: 0, ..to };
                let [_, y_s, y_t, y_k] = part.y.strides;
                let y = Operand { address: part.y.address, strides: [y_s, y_t, y_k], kind: part.y.kind };
                let sum = Contract::new(Batch::groups(s, t), k, 1)
                    .plus(Some(segment(w, [i, j], None, (products, row))))
                    .bias(part.layer.b.map(Operand::<1>::row));
                recorder.contract(&[sum.to(y.grouped(), false)])?;
                recorder.release(mark);
            }
        }
        Ok(())
    }
}

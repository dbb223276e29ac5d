//! A multiplicative interaction with all of its terms, applied to a batch.
//!
//! cargo run --release --example quickstart

use trilinear::{DType, Interaction, Result, View, reference};

fn main() -> Result<()> {
    // 32 rows; z with 16 features, x with 24, and 8 outputs.
    let (n, i, j, k) = (32, 16, 24, 8);
    let mut numbers = Numbers(1);
    let (z, x) = (numbers.take(n * i), numbers.take(n * j));
    let (w, u, v, b) = (numbers.take(k * i * j), numbers.take(k * i), numbers.take(k * j), numbers.take(k));

    // y = zᵀWx + zᵀU + Vx + b. Weights are borrowed, so nothing is copied; leave out the terms that you do not have.
    let layer = Interaction::dense(View::new(&w, [k, i, j])?)?
        .with_u(View::new(&u, [k, i])?)?
        .with_v(View::new(&v, [k, j])?)?
        .with_b(View::vector(&b))?;
    let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?);
    let y = layer.forward(z, x)?;
    println!("y has shape {:?}; its first row is {:?}", y.shape(), &y.as_slice()[..k]);

    // What was done: the algorithm and the kernel depend on the shape and on this machine.
    println!("{}", layer.plan(n)?);

    // Every element is as near to the definition, computed in f64, as the published bound says.
    let exact = reference::forward(&layer, z, x)?;
    for (index, &value) in y.as_slice().iter().enumerate() {
        let error = (f64::from(value) - exact.value.as_slice()[index]).abs();
        assert!(error <= exact.error_bound(DType::F32, index));
    }

    // Into a buffer of your own, call after call without an allocation; weights that stay the same can be packed once.
    let prepared = layer.prepare()?;
    let mut buffer = vec![0.0f32; n * k];
    prepared.layer().forward_into(z, x, trilinear::ViewMut::new(&mut buffer, [n, k])?)?;
    assert_eq!(buffer, y.as_slice());
    Ok(())
}

/// Numbers in -1..1 that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn take(&mut self, len: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }
}

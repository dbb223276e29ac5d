//! The same W as CP factors and dense: the same result, for a fraction of the memory and of the time.
//!
//! cargo run --release --example low_rank

use std::time::{Duration, Instant};

use trilinear::{DType, Interaction, Result, Tensor, View, reference};

fn main() -> Result<()> {
    let (n, i, j, k, r) = (64, 128, 128, 128, 16);
    let mut numbers = Numbers(4);
    let (z, x) = (numbers.take(n * i), numbers.take(n * j));
    let (a, b, c) = (numbers.take(k * r), numbers.take(i * r), numbers.take(j * r));
    let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?);

    // W[k,i,j] = Σᵣ A[k,r] B[i,r] C[j,r]: a sum of r outer products, written out only for the comparison.
    let cp = Interaction::cp(View::new(&a, [k, r])?, View::new(&b, [i, r])?, View::new(&c, [j, r])?)?;
    let w = cp.to_dense()?;
    let dense = Interaction::dense(w.view())?;

    let (by_cp, cp_time) = timed(|| cp.forward(z, x))?;
    let (by_dense, dense_time) = timed(|| dense.forward(z, x))?;

    // Each keeps the bound around its own W; the two W differ by one rounding to f32 of each element.
    let exact = reference::forward(&cp, z, x)?;
    let rounded = reference::forward(&dense, z, x)?;
    for index in 0..n * k {
        let (by_cp, by_dense) = (f64::from(by_cp.as_slice()[index]), f64::from(by_dense.as_slice()[index]));
        let rounding = DType::F32.storage_roundoff() * exact.magnitude.as_slice()[index];
        assert!((by_cp - exact.value.as_slice()[index]).abs() <= exact.error_bound(DType::F32, index));
        assert!((by_dense - rounded.value.as_slice()[index]).abs() <= rounded.error_bound(DType::F32, index));
        assert!((exact.value.as_slice()[index] - rounded.value.as_slice()[index]).abs() <= rounding);
    }

    let (cp_weights, dense_weights) = (r * (k + i + j), k * i * j);
    println!("CP:    {cp_weights:>8} weights, {cp_time:>10.1?}   {}", cp.plan(n)?);
    println!("dense: {dense_weights:>8} weights, {dense_time:>10.1?}   {}", dense.plan(n)?);
    assert!(cp_weights < dense_weights && cp.plan(n)?.flops < dense.plan(n)?.flops);
    Ok(())
}

/// The result, and the best time of a few calls.
fn timed(call: impl Fn() -> Result<Tensor<f32, 2>>) -> Result<(Tensor<f32, 2>, Duration)> {
    let result = call()?;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        call()?;
        best = best.min(start.elapsed());
    }
    Ok((result, best))
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

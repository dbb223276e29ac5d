//! A context that writes the weights of a linear layer (Ha et al., *HyperNetworks*, ICLR 2017), and the same thing
//! without ever holding those weights.
//!
//! cargo run --release --example hypernetwork

use trilinear::{DType, Interaction, Result, Tensor, View, reference};

fn main() -> Result<()> {
    // 5 tasks with an embedding z of 16 features each, and 40 inputs x of 24 features for each task.
    let (tasks, inputs, i, j, k) = (5, 40, 16, 24, 8);
    let mut numbers = Numbers(2);
    let (z, x) = (numbers.take(tasks * i), numbers.take(tasks * inputs * j));
    let (w, u, v, b) = (numbers.take(k * i * j), numbers.take(k * i), numbers.take(k * j), numbers.take(k));
    let layer = Interaction::dense(View::new(&w, [k, i, j])?)?
        .with_u(View::new(&u, [k, i])?)?
        .with_v(View::new(&v, [k, j])?)?
        .with_b(View::vector(&b))?;
    let z = View::new(&z, [tasks, i])?;

    // With z fixed, y = zᵀWx + zᵀU + Vx + b is linear in x: its weights are zᵀW + V and its bias is zᵀU + b.
    let generated = layer.generate(z)?;
    assert_eq!((generated.weights.shape(), generated.bias.shape()), ([tasks, k, j], [tasks, k]));
    println!("generated {tasks} linear layers of {k} × {j}");

    // The generated layers can be used as layers: here one with x only.
    let task = 3;
    let own_weights = Tensor::from_vec(generated.weights.as_slice()[task * k * j..][..k * j].to_vec(), [k, j])?;
    let own_bias = &generated.bias.as_slice()[task * k..][..k];
    let own = Interaction::linear(k, 0, j)?.with_v(own_weights.view())?.with_b(View::vector(own_bias))?;
    let own_x = View::new(&x[task * inputs * j..][..inputs * j], [inputs, j])?;
    let own_y = own.forward(View::new(&[], [inputs, 0])?, own_x)?;

    // All tasks in one call, z contracted first and the generated weights never all in memory.
    let y = layer.forward_shared(z, View::new(&x, [tasks, inputs, j])?)?;
    let once = layer.plan_shared(tasks, inputs)?;
    let each = layer.plan(tasks * inputs)?;
    println!("shared context: {once}");
    println!("z repeated:     {each}");
    assert!(once.flops < each.flops);

    // Both are M(x, z) within the published bound.
    let own_z = z.slice(0, task..task + 1)?.broadcast(0, inputs)?; // one row seen as many; nothing is copied
    let exact = reference::forward(&layer, own_z, own_x)?;
    for (index, &exactly) in exact.value.as_slice().iter().enumerate() {
        let bound = exact.error_bound(DType::F32, index);
        assert!((f64::from(y.as_slice()[task * inputs * k + index]) - exactly).abs() <= bound);
        assert!((f64::from(own_y.as_slice()[index]) - exactly).abs() <= bound);
    }
    println!("the generated layer and the shared context agree with the definition");
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

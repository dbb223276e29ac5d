//! Forms of W that are small: a gate (FiLM), a Tucker block with its gradients, a sum of blocks, and a Mahalanobis distance.
//!
//! `cargo run --release --example forms`

use trilinear::{Block, Interaction, Mahalanobis, Precision, Result, View, init};

fn numbers(seed: u64, deviation: f64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    init::normal(seed, deviation, &mut values);
    values
}

fn main() -> Result<()> {
    // FiLM: each of two contexts z scales the 8 channels of a map of 5 × 5 pixels x.
    let (maps, pixels, channels) = (2, 25, 8);
    let (z, x) = (numbers(1, 1.0, maps * channels), numbers(2, 1.0, maps * pixels * channels));
    let gate = [Block::identity(channels)];
    let film = Interaction::blocks(&gate)?;
    let y = film.forward_shared(View::new(&z, [maps, channels])?, View::new(&x, [maps, pixels, channels])?)?;
    println!("FiLM: y {:?}, no weights; {}", y.shape(), film.plan_shared(maps, pixels)?);

    // Tucker, as in MUTAN: 1000 outputs of 300 and 400 features through a core of 10 × 12 × 14.
    let ([n, k, i, j], [ra, rb, rc]) = ([64, 1000, 300, 400], [10, 12, 14]);
    let shape = |g, a, b, c| -> Result<Block<'_, f32>> {
        let block = Block::tucker(View::new(g, [ra, rb, rc])?).with_a(View::new(a, [k, ra])?)?;
        block.with_b(View::new(b, [i, rb])?)?.with_c(View::new(c, [j, rc])?)
    };
    let zeros = vec![0.0f32; 1 << 16];
    let of = [shape(&zeros[..ra * rb * rc], &zeros[..k * ra], &zeros[..i * rb], &zeros[..j * rc])?];
    let of = Interaction::blocks(&of)?.deviations().blocks[0]; // with which y has variance 1
    let deviation = |of: Option<f64>| of.unwrap_or(0.0);
    let (g, a) = (numbers(3, deviation(of.core), ra * rb * rc), numbers(4, deviation(of.a), k * ra));
    let (b, c) = (numbers(5, deviation(of.b), i * rb), numbers(6, deviation(of.c), j * rc));
    let d = numbers(7, 1.0, n * k);
    let (z, x) = (numbers(8, 1.0, n * i), numbers(9, 1.0, n * j));
    let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?);
    let tucker = [shape(&g, &a, &b, &c)?];
    let layer = Interaction::blocks(&tucker)?;
    let y = layer.forward(z, x)?;
    let variance = y.as_slice().iter().map(|y| y * y).sum::<f32>() / y.as_slice().len() as f32;
    let gradients = layer.backward(z, x, View::new(&d, [n, k])?)?;
    let parameters = g.len() + a.len() + b.len() + c.len();
    println!(
        "Tucker: {parameters} parameters in place of {}; variance of y {variance:.2}; dG {:?}",
        k * i * j,
        gradients.blocks[0].core.as_ref().map(|core| core.shape())
    );

    // A sum of such blocks, of different sizes, is a layer as well.
    let one = numbers(10, 0.05, k * 32);
    let (cp_b, cp_c) = (numbers(11, 0.05, i * 32), numbers(12, 0.05, j * 32));
    let cp = Block::identity(32).with_a(View::new(&one, [k, 32])?)?;
    let sum = [tucker[0], cp.with_b(View::new(&cp_b, [i, 32])?)?.with_c(View::new(&cp_c, [j, 32])?)?];
    println!("Tucker and CP: y {:?}", Interaction::blocks(&sum)?.forward(z, x)?.shape());

    // Distances under a metric of rank 12.
    let metric = Mahalanobis::new(Precision::Factor(View::new(&b, [i, rb])?))?;
    let other = numbers(13, 1.0, n * i);
    let squared = metric.squared(z, View::new(&other, [n, i])?)?;
    println!("Mahalanobis: the first of {} squared distances is {:.2}", squared.shape()[0], squared.as_slice()[0]);
    Ok(())
}

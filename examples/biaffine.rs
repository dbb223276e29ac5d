//! The arc scorer of a dependency parser (Dozat and Manning, *Deep Biaffine Attention for Neural Dependency Parsing*,
//! ICLR 2017): how well would word h be the head of word d, for every two words of a sentence?
//!
//!     score[d, h] = zᵀ[d] W x[h] + vᵀ x[h]
//!
//! z is a word seen as a dependent, x a word seen as a head, and v how likely each word is a head at all. It is a
//! multiplicative interaction with one output (K = 1).
//!
//! cargo run --release --example biaffine

use trilinear::{DType, Interaction, Result, View, reference};

fn main() -> Result<()> {
    let (words, features) = (30, 100);
    let mut numbers = Numbers(3);
    let (dependents, heads) = (numbers.take(words * features), numbers.take(words * features));
    let (w, v) = (numbers.take(features * features), numbers.take(features));
    let z = View::new(&dependents, [words, features])?;
    let layer = Interaction::dense(View::new(&w, [1, features, features])?)?.with_v(View::new(&v, [1, features])?)?;

    // All pairs: each dependent is the context that all heads share. The heads are the same for every dependent, so the
    // first axis of x is a broadcast one: [words, words, features] in the memory of [words, features].
    let x = View::new(&heads, [1, words, features])?.broadcast(0, words)?;
    let scores = layer.forward_shared(z, x)?;
    assert_eq!(scores.shape(), [words, words, 1]);
    println!("{} scores: {}", words * words, layer.plan_shared(words, words)?);

    // Parsers often fold v into W instead: a feature that is always 1 is appended to z, and v becomes the last row of W
    // (I = features + 1; with a 1 on x too, U comes in the same way). A checkpoint of that form is used as it is.
    let mut with_one = Vec::with_capacity(words * (features + 1));
    for dependent in dependents.chunks(features) {
        with_one.extend_from_slice(dependent);
        with_one.push(1.0);
    }
    let mut folded = w.clone();
    folded.extend_from_slice(&v);
    let folded = Interaction::dense(View::new(&folded, [1, features + 1, features])?)?;
    let same = folded.forward_shared(View::new(&with_one, [words, features + 1])?, x)?;

    // Both are the definition, dependent by dependent. Folding makes the sum a little longer and so its bound wider.
    let x = View::new(&heads, [words, features])?;
    for d in 0..words {
        let z = z.slice(0, d..d + 1)?.broadcast(0, words)?;
        let exact = reference::forward(&layer, z, x)?;
        let long = folded.z_features() * folded.x_features() + 3;
        for h in 0..words {
            let (value, magnitude) = (exact.value.as_slice()[h], exact.magnitude.as_slice()[h]);
            let score = f64::from(scores.as_slice()[d * words + h]);
            assert!((score - value).abs() <= exact.error_bound(DType::F32, h));
            let score = f64::from(same.as_slice()[d * words + h]);
            assert!((score - value).abs() <= reference::error_bound(DType::F32, long, value, magnitude));
        }
    }

    // The head that each of the first words would get.
    for (d, scores) in scores.as_slice().chunks(words).enumerate().take(5) {
        let best = (0..words).filter(|&h| h != d).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        println!("word {d}: head {}", best.unwrap_or(0));
    }
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

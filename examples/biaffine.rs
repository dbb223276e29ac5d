//! The arc scorer of a dependency parser (Dozat and Manning, *Deep Biaffine Attention for Neural Dependency Parsing*,
//! ICLR 2017): how well would word h be the head of word d, for every two words of a sentence?
//!
//!     score[d, h] = zᵀ[d] W x[h] + vᵀ x[h]
//!
//! z is a word seen as a dependent, x a word seen as a head, and v how likely each word is a head at all. It is a
//! multiplicative interaction with one output (K = 1).
//!
//! cargo run --release --example biaffine

use trilinear::{DType, Interaction, Result, View, ViewMut, reference};

fn main() -> Result<()> {
    let (words, features) = (30, 100);
    let mut numbers = Numbers(3);
    let (dependents, heads) = (numbers.take(words * features), numbers.take(words * features));
    let (w, v) = (numbers.take(features * features), numbers.take(features));
    // One sentence. A batch of P sentences of one length would be [P, words, features].
    let z = View::new(&dependents, [1, words, features])?;
    let x = View::new(&heads, [1, words, features])?;
    let layer = Interaction::dense(View::new(&w, [1, features, features])?)?.with_v(View::new(&v, [1, features])?)?;
    let scores = layer.forward_pairs(z, x)?;
    assert_eq!(scores.shape(), [1, words, words, 1]);
    println!("{} scores: {}", words * words, layer.plan_pairs(1, words, words)?);

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
    let same = folded.forward_pairs(View::new(&with_one, [1, words, features + 1])?, x)?;

    // Both are the definition. Folding makes the sum a little longer and so its bound wider.
    let exact = reference::forward_pairs(&layer, z, x)?;
    let long = folded.z_features() * folded.x_features() + 3;
    for pair in 0..words * words {
        let (value, magnitude) = (exact.value.as_slice()[pair], exact.magnitude.as_slice()[pair]);
        let score = f64::from(scores.as_slice()[pair]);
        assert!((score - value).abs() <= exact.error_bound(DType::F32, pair));
        let score = f64::from(same.as_slice()[pair]);
        assert!((score - value).abs() <= reference::error_bound(DType::F32, long, value, magnitude));
    }

    // Labels: K outputs, with memory in the order [labels, dependents, heads], as parsers have it.
    let labels = 5;
    let w = numbers.take(labels * features * features);
    let labeller = Interaction::dense(View::new(&w, [labels, features, features])?)?;
    let mut by_label = vec![0.0; labels * words * words];
    let y = ViewMut::new(&mut by_label, [1, labels, words, words])?.permute([0, 2, 3, 1])?;
    labeller.forward_pairs_into(z, x, y)?;
    let score = |label: usize, d: usize, h: usize| by_label[(label * words + d) * words + h];

    // The gradient of a loss, here of the sum of all scores, with all weights' gradients.
    let ones = vec![1.0; words * words];
    let gradients = layer.backward_pairs(z, x, View::new(&ones, [1, words, words, 1])?)?;
    assert_eq!((gradients.z.shape(), gradients.x.shape()), ([1, words, features], [1, words, features]));

    // The head that each of the first words would get.
    for (d, scores) in scores.as_slice().chunks(words).enumerate().take(5) {
        let best = (0..words).filter(|&h| h != d).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let head = best.unwrap_or(0);
        let label = (0..labels).max_by(|&a, &b| score(a, d, head).total_cmp(&score(b, d, head)));
        println!("word {d}: head {head}, label {}", label.unwrap_or(0));
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

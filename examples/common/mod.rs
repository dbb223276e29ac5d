//! What the training examples share: random numbers, Adam, softmax cross-entropy, and (in `data`) their data sets.
#![allow(dead_code, unreachable_pub, missing_docs)] // each example, and the test of them, uses a part

pub mod data;
pub mod links;

use trilinear::{Gradient, View, ViewMut};

/// Random numbers that are the same in every run (Steele et al., *Fast Splittable Pseudorandom Number Generators*, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From the standard normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let [a, b] = [(); 2].map(|()| ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64);
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    /// 0..len in a random order.
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for last in (1..len).rev() {
            order.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
        order
    }
}

/// Weights of `D` axes, their gradient, and Adam's means of the gradient and of its square.
pub struct Parameter<const D: usize> {
    pub value: Vec<f32>,
    pub gradient: Vec<f32>,
    means: [Vec<f32>; 2],
    pub shape: [usize; D],
}

impl<const D: usize> Parameter<D> {
    /// Normally distributed with this standard deviation.
    pub fn new(shape: [usize; D], deviation: f32, random: &mut Random) -> Self {
        let len = shape.iter().product();
        let value = (0..len).map(|_| deviation * random.normal()).collect();
        Parameter { value, gradient: vec![0.0; len], means: [vec![0.0; len], vec![0.0; len]], shape }
    }

    pub fn view(&self) -> trilinear::Result<View<'_, f32, D>> {
        View::new(&self.value, self.shape)
    }

    /// The weights, and where their gradient goes: what it was before is replaced.
    pub fn split(&mut self) -> trilinear::Result<(View<'_, f32, D>, Gradient<'_, f32, D>)> {
        let gradient = Gradient::write(ViewMut::new(&mut self.gradient, self.shape)?);
        Ok((View::new(&self.value, self.shape)?, gradient))
    }

    /// A step against the gradient.
    pub fn step(&mut self, adam: &Adam) {
        let [first, second] = &mut self.means;
        let weights = self.value.iter_mut().zip(&self.gradient).zip(first.iter_mut().zip(second));
        for ((weight, &gradient), (first, second)) in weights {
            *first += (1.0 - Adam::BETA_1) * (gradient - *first);
            *second += (1.0 - Adam::BETA_2) * (gradient * gradient - *second);
            *weight -= adam.step * *first / (adam.scale * second.sqrt() + Adam::EPSILON) + adam.shrink * *weight;
        }
    }
}

/// Adam with decoupled decay of the weights (Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019).
pub struct Adam {
    pub rate: f32,
    pub decay: f32,
    steps: i32,
    // Of the step that is taken: the rate with the first mean's bias corrected, the correction of the second, the decay.
    step: f32,
    scale: f32,
    shrink: f32,
}

impl Adam {
    const BETA_1: f32 = 0.9;
    const BETA_2: f32 = 0.999;
    const EPSILON: f32 = 1e-8;

    pub fn new(rate: f32, decay: f32) -> Self {
        Adam { rate, decay, steps: 0, step: 0.0, scale: 1.0, shrink: 0.0 }
    }

    /// Begins a step; each parameter's [`Parameter::step`] takes it.
    pub fn next(&mut self) {
        self.steps += 1;
        self.step = self.rate / (1.0 - Self::BETA_1.powi(self.steps));
        self.scale = (1.0 - Self::BETA_2.powi(self.steps)).sqrt().recip();
        self.shrink = self.rate * self.decay;
    }
}

/// Replaces the scores of a row by the gradient of `scale` · Σ -log softmax(scores)\[target\] over the row's targets, and
/// returns Σ -log softmax.
pub fn cross_entropy(row: &mut [f32], targets: &[usize], scale: f32) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let own: f32 = targets.iter().map(|&target| row[target] - most).sum();
    let mut sum = 0.0;
    for score in row.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    let count = targets.len() as f32;
    row.iter_mut().for_each(|score| *score *= scale * count / sum);
    targets.iter().for_each(|&target| row[target] -= scale);
    f64::from(count * sum.ln() - own)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

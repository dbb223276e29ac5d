//! Handwritten digits, classified by a multiplicative interaction of the upper half of the image, z, with its lower half, x:
//!
//!     logits = zᵀWx + zᵀU + Vx + b
//!
//! Beside it the linear layer on [z, x] that it generalises (W absent), and the same with W in CP form. All are trained with
//! this crate's gradients, on the same splits of the UCI digits into images to train on and images to test on.
//!
//! cargo run --release --features cli --example train_digits -- [--help]
//!
//! Measured results are in docs/training.md.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, builder::RangedU64ValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use trilinear::{Context, Interaction, Tensor, View, Wanted, WantedFactors};

use common::data::{Digits, FOLDER};
use common::{Adam, Parameter, Random, cross_entropy, median};

const CLASSES: usize = 10;
/// Pixels of a half of an image.
const HALF: usize = 32;

/// Classification of the UCI digits by a linear layer and by multiplicative interactions.
#[derive(Parser)]
struct Args {
    /// Passes over the images to train on
    #[arg(long, default_value_t = 60)]
    epochs: usize,
    /// Images in a batch
    #[arg(long, default_value_t = 32, value_parser = from_1_to(4096))]
    batch: usize,
    /// Components of W in CP form
    #[arg(long, default_value_t = 64, value_parser = from_1_to(4096))]
    rank: usize,
    /// Adam's rate
    #[arg(long, default_value_t = 0.01)]
    rate: f32,
    /// Decay of the weights, in units of the rate
    #[arg(long, default_value_t = 0.0)]
    decay: f32,
    /// Seed of the first split into images to train on and to test on, of the weights and of the batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Splits, each with a seed of its own
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    splits: u64,
    /// Threads that the interactions are computed with
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The folder with the data
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
}

fn from_1_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

#[derive(Clone, Copy)]
enum Form {
    Linear,
    Cp,
    Dense,
}

enum Core {
    Absent,
    Cp(Box<[Parameter<2>; 3]>),
    Dense(Parameter<3>),
}

struct Classifier {
    core: Core,
    u: Parameter<2>,
    v: Parameter<2>,
    b: Parameter<1>,
    context: Context,
}

impl Classifier {
    fn new(form: Form, rank: usize, context: Context, random: &mut Random) -> Self {
        let core = match form {
            Form::Linear => Core::Absent,
            Form::Cp => Core::Cp(Box::new([CLASSES, HALF, HALF].map(|len| Parameter::new([len, rank], 0.2, random)))),
            Form::Dense => Core::Dense(Parameter::new([CLASSES, HALF, HALF], 0.01, random)),
        };
        let [u, v] = [(); 2].map(|()| Parameter::new([CLASSES, HALF], 0.01, random));
        Classifier { core, u, v, b: Parameter::new([CLASSES], 0.0, random), context }
    }

    fn forward(&self, z: View<'_, f32, 2>, x: View<'_, f32, 2>) -> trilinear::Result<Tensor<f32, 2>> {
        let layer = match &self.core {
            Core::Absent => Interaction::linear(CLASSES, HALF, HALF)?,
            Core::Cp(factors) => {
                let [a, b, c] = &**factors;
                Interaction::cp(a.view()?, b.view()?, c.view()?)?
            }
            Core::Dense(w) => Interaction::dense(w.view()?)?,
        };
        let layer = layer.with_u(self.u.view()?)?.with_v(self.v.view()?)?.with_b(self.b.view()?)?;
        layer.with_context(self.context).forward(z, x)
    }

    /// The gradients of all weights from `g`, that in the logits.
    fn backward(&mut self, z: View<'_, f32, 2>, x: View<'_, f32, 2>, g: View<'_, f32, 2>) -> trilinear::Result<()> {
        let mut wanted = Wanted::default();
        let layer = match &mut self.core {
            Core::Absent => Interaction::linear(CLASSES, HALF, HALF)?,
            Core::Cp(factors) => {
                let [a, b, c] = &mut **factors;
                let [(a, to_a), (b, to_b), (c, to_c)] = [a.split()?, b.split()?, c.split()?];
                wanted.cp = WantedFactors { a: Some(to_a), b: Some(to_b), c: Some(to_c), lambda: None };
                Interaction::cp(a, b, c)?
            }
            Core::Dense(w) => {
                let (w, to_w) = w.split()?;
                wanted.w = Some(to_w);
                Interaction::dense(w)?
            }
        };
        let ((u, to_u), (v, to_v), (b, to_b)) = (self.u.split()?, self.v.split()?, self.b.split()?);
        (wanted.u, wanted.v, wanted.b) = (Some(to_u), Some(to_v), Some(to_b));
        layer.with_u(u)?.with_v(v)?.with_b(b)?.with_context(self.context).backward_into(z, x, g, wanted)
    }

    fn step(&mut self, adam: &mut Adam) {
        adam.next();
        match &mut self.core {
            Core::Absent => {}
            Core::Cp(factors) => factors.iter_mut().for_each(|factor| factor.step(adam)),
            Core::Dense(w) => w.step(adam),
        }
        self.u.step(adam);
        self.v.step(adam);
        self.b.step(adam);
    }

    fn weights(&self) -> usize {
        let core = match &self.core {
            Core::Absent => 0,
            Core::Cp(factors) => factors.iter().map(|factor| factor.value.len()).sum(),
            Core::Dense(w) => w.value.len(),
        };
        core + self.u.value.len() + self.v.value.len() + self.b.value.len()
    }
}

/// The halves of some images, side by side in one buffer, and their classes.
fn gather(digits: &Digits, images: &[usize]) -> (Vec<f32>, Vec<usize>) {
    let pixels = images.iter().flat_map(|&image| &digits.pixels[image * 2 * HALF..][..2 * HALF]).copied().collect();
    (pixels, images.iter().map(|&image| digits.classes[image]).collect())
}

/// z and x: views of the upper and the lower halves.
fn halves(pixels: &[f32]) -> trilinear::Result<[View<'_, f32, 2>; 2]> {
    let images = View::new(pixels, [pixels.len() / (2 * HALF), 2 * HALF])?;
    Ok([images.slice(1, 0..HALF)?, images.slice(1, HALF..2 * HALF)?])
}

struct Outcome {
    accuracy: f64,
    weights: usize,
    seconds: Vec<f64>,
}

fn train(args: &Args, digits: &Digits, form: Form, seed: u64, bar: &ProgressBar) -> Result<Outcome> {
    let mut random = Random(seed);
    let order = random.permutation(digits.classes.len());
    let (test, train) = order.split_at(order.len() / 4);
    let context = Context::from_env()?.with_threads(args.threads)?;
    let mut model = Classifier::new(form, args.rank, context, &mut random);
    let mut adam = Adam::new(args.rate, args.decay);
    let mut seconds = Vec::new();
    for _ in 0..args.epochs {
        let start = Instant::now();
        let (order, mut loss) = (random.permutation(train.len()), 0.0);
        for batch in order.chunks(args.batch) {
            let images: Vec<usize> = batch.iter().map(|&position| train[position]).collect();
            let (pixels, classes) = gather(digits, &images);
            let [z, x] = halves(&pixels)?;
            let mut g = model.forward(z, x)?.into_vec();
            for (row, class) in g.chunks_mut(CLASSES).zip(classes) {
                loss += cross_entropy(row, &[class], 1.0 / batch.len() as f32);
            }
            model.backward(z, x, View::new(&g, [batch.len(), CLASSES])?)?;
            model.step(&mut adam);
        }
        seconds.push(start.elapsed().as_secs_f64());
        bar.set_message(format!("split {seed}, loss {:.3}", loss / train.len() as f64));
        bar.inc(1);
    }

    let (pixels, classes) = gather(digits, test);
    let [z, x] = halves(&pixels)?;
    let logits = model.forward(z, x)?;
    let best = |row: &[f32]| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let right =
        logits.as_slice().chunks(CLASSES).zip(&classes).filter(|(row, class)| best(row) == Some(**class)).count();
    Ok(Outcome { accuracy: right as f64 / test.len() as f64, weights: model.weights(), seconds })
}

fn main() -> Result<()> {
    let args = Args::parse();
    let digits = Digits::load(&args.folder)?;
    println!(
        "{:34} {:>7}  test accuracy, mean (smallest–largest) of {} splits  ms per epoch",
        "", "weights", args.splits
    );
    let forms = [
        ("linear layer on [z, x]".to_owned(), Form::Linear),
        (format!("interaction, CP of rank {}", args.rank), Form::Cp),
        ("interaction, dense".to_owned(), Form::Dense),
    ];
    for (name, form) in forms {
        let bar = ProgressBar::new(args.splits * args.epochs as u64).with_prefix(name.clone());
        bar.set_style(ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} ({elapsed})")?);
        let seeds = args.seed..args.seed.saturating_add(args.splits);
        let outcomes = seeds.map(|seed| train(&args, &digits, form, seed, &bar)).collect::<Result<Vec<_>>>()?;
        bar.finish_and_clear();
        let (mut least, mut most, mut sum) = (f64::INFINITY, 0.0f64, 0.0);
        for outcome in &outcomes {
            (least, most, sum) = (least.min(outcome.accuracy), most.max(outcome.accuracy), sum + outcome.accuracy);
        }
        let weights = outcomes.first().map_or(0, |outcome| outcome.weights);
        let mean = 100.0 * sum / outcomes.len() as f64;
        let seconds = median(outcomes.into_iter().flat_map(|outcome| outcome.seconds).collect());
        let range = format!("{mean:.1}% ({:.1}–{:.1}%)", 100.0 * least, 100.0 * most);
        println!("{name:34} {weights:7}  {range:54}  {:.2}", seconds * 1e3);
    }
    Ok(())
}

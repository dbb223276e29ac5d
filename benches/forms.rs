//! Every form of W by its own path, by way of a dense W, and by the baselines of `trilinear bench --form`, on one thread:
//! `cargo bench --bench forms`, or with a part of a form's name, `cargo bench --bench forms -- tucker`. Ways take turns, and the least
//! time of each counts.
//!
//! `bandwidth` is the bytes of all operands and results, each moved once, over the time, as a share of the read bandwidth of the same
//! run; `peak` the same of FLOPs.

#[path = "../src/bin/trilinear/baselines/mod.rs"]
#[allow(dead_code, reason = "of the benchmark `forward`, and of the command")]
mod baselines;
#[path = "../src/bin/trilinear/forms.rs"]
#[allow(dead_code, reason = "what the command prints")]
mod forms;
#[path = "../src/bin/trilinear/work.rs"]
#[allow(dead_code, reason = "what the command prints")]
mod work;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use baselines::{Baselines, Operands, Results, Weights};
use forms::{Form, SIZES, Structure};
use trilinear::{Context, Device, Interaction, Result, View, ViewMut, init, machine};
use work::{Pass, Shape, Work};

/// Bytes that the intermediates of a baseline, or a dense W, may take.
const MOST_BYTES: usize = 1 << 30;

/// A way's name, and what it does.
type Way<'a> = (&'static str, Box<dyn FnMut() -> Result<()> + 'a>);

struct Machine {
    context: Context,
    /// FLOP/s and bytes per second.
    peak: f64,
    bandwidth: f64,
    once: bool,
}

fn main() -> Result<()> {
    let context = Context::new(Device::Cpu)?.with_threads(1)?;
    let (peak, bandwidth) =
        (machine::peak_flops::<f32>(&context, 1)?, machine::read_bandwidth(&context, 1, 256 << 20)?);
    println!("{}, {:.1} GFLOP/s, reads {:.1} GB/s", context.simd(), peak / 1e9, bandwidth / 1e9);
    let machine = Machine { context, peak, bandwidth, once: std::env::args().any(|arg| arg == "--test") };
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    // The preset `film`, and eight times as many maps.
    let shared =
        [64, 512].map(|n| (Form::Diagonal, Shape { n, rows: 196, sharing: 1, i: 128, j: 128, k: 128, r: None }));
    let own = SIZES.iter().map(|&(form, [n, i, j, k, r])| {
        (form, Shape { n, rows: 1, sharing: 1, i, j, k, r: Some(r).filter(|&r| r > 0) })
    });
    for (form, shape) in own.chain(shared) {
        let wanted = names.is_empty() || names.iter().any(|name| form.name().contains(name.as_str()));
        if let (Ok(Some(structure)), true) = (form.structure(shape), wanted) {
            for pass in [Pass::Forward, Pass::Backward] {
                let work = Work { pass, ..Work::FORWARD };
                if structure.obstacle(work, shape).is_none() {
                    machine.measure(form, structure, shape, work)?;
                }
            }
        }
    }
    Ok(())
}

impl Machine {
    fn measure(&self, form: Form, structure: Structure, shape: Shape, work: Work) -> Result<()> {
        let Shape { n, rows, i, j, k, .. } = shape;
        let total = n * rows;
        let lengths = structure.lengths(shape).unwrap_or_default();
        let [core, a, b, c] = [1, 2, 3, 4].map(|part: usize| numbers(part as u64, lengths[part - 1]));
        let (z, x, g) = (numbers(5, n * i), numbers(6, total * j), numbers(7, total * k));
        let weights = Weights::Structured { core: &core, a: &a, b: &b, c: &c };
        let operands = Operands { z: &z, x: &x, g: &g, weights };
        // A dense W of the same cost: the exact one would take minutes.
        let small = k.saturating_mul(i).saturating_mul(j).saturating_mul(4) <= MOST_BYTES;
        let w = numbers(8, if small && work.forward() { k * i * j } else { 0 });
        let [mut ours, theirs] = [(); 2].map(|()| Outputs::new(structure, work, shape));
        let theirs = RefCell::new(theirs);
        let mut of_dense = vec![0.0f32; if w.is_empty() { 0 } else { total * k }];
        let call = (work, shape, self.context);
        let mut ways: Vec<Way<'_>> = vec![("ours", Box::new(|| structure.call(call, operands, ours.results())))];
        if !w.is_empty() && !matches!(structure, Structure::Attend | Structure::Mahalanobis) {
            let dense = Interaction::dense(View::new(&w, [k, i, j])?)?.with_context(self.context);
            let (z, x) = (View::new(&z, [n, i])?, View::new(&x, [n, rows, j])?);
            let to = &mut of_dense;
            ways.push(("dense", Box::new(move || dense.forward_shared_into(z, x, ViewMut::new(to, [n, rows, k])?))));
        }
        for mut baseline in f32::of_form(structure, work, shape, 1, MOST_BYTES) {
            let theirs = &theirs;
            let name = baseline.name;
            ways.push((name, Box::new(move || baseline.run(operands, theirs.borrow_mut().results()))));
        }
        let times = self.least(&mut ways)?;
        let cost = structure.cost(work, shape, [4, 4]);
        let of = |amount: u128, limit: f64| 100.0 * amount as f64 / times[0] / limit;
        let rows = if rows > 1 { format!("×{rows}") } else { String::new() };
        let ranks = structure.ranks().map_or(String::new(), |ranks| format!(" ({ranks})"));
        let label = format!("{} {n}{rows},{i},{j},{k}{ranks}, {}", form.name(), work.pass.name());
        print!("{label:58} {:>10.1} µs", 1e6 * times[0]);
        print!(", bandwidth {:5.1}%, peak {:5.1}%", of(cost.bytes, self.bandwidth), of(cost.flops, self.peak));
        for ((way, _), time) in ways.iter().zip(&times).skip(1) {
            print!(", {way} {:.2}×", time / times[0]);
        }
        println!();
        Ok(())
    }

    /// The least seconds of each way, in turns. A way that takes many times longer than the first is measured twice.
    fn least(&self, ways: &mut [Way<'_>]) -> Result<Vec<f64>> {
        let mut best = vec![f64::INFINITY; ways.len()];
        let (mut start, mut rounds) = (Instant::now(), 0);
        while rounds < 2 || (!self.once && start.elapsed() < Duration::from_secs(2)) {
            for way in 0..ways.len() {
                if rounds < 2 || best[way] < 10.0 * best[0] {
                    let begin = Instant::now();
                    (ways[way].1)()?;
                    best[way] = best[way].min(begin.elapsed().as_secs_f64());
                }
            }
            rounds += 1;
            if rounds == 2 {
                start = Instant::now();
            }
        }
        Ok(best)
    }
}

/// Results, and room for what is not asked for.
struct Outputs {
    y: Vec<f32>,
    gradients: [Vec<f32>; 6],
}

impl Outputs {
    fn new(structure: Structure, work: Work, shape: Shape) -> Self {
        let y = if work.forward() { shape.n * shape.rows * shape.k } else { 0 };
        let lengths = structure.gradients(work, shape).unwrap_or_default();
        Outputs { y: vec![0.0; y], gradients: lengths.map(|len| vec![0.0; len]) }
    }

    fn results(&mut self) -> Results<'_, f32> {
        let [z, x, w, a, b, c] = self.gradients.each_mut().map(Vec::as_mut_slice);
        Results { y: black_box(&mut self.y), z, x, w, a, b, c }
    }
}

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    init::normal(seed, 0.1, &mut values);
    values
}

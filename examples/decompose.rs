//! CP decomposition of a knowledge graph's tensor of relations × heads × tails, or of one in a .npy file: the error of each rank.
//!
//! cargo run --release --features cli --example decompose -- [--data kinships] [--rank 8,16,32] [--nonnegative] [--help]
//!
//! With `--factors` it is the half of scripts/fit_tensorly.py that is this crate's: one fit from given factors, timed, as JSON.

mod common;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use npyz::NpyFile;
use trilinear::decompose::{Init, Options, Real, cp, sweep};
use trilinear::{Axis, Context, Tensor, View, machine, mttkrp, mttkrp_into};

use common::data::{FOLDER, Graph};

/// CP decompositions of a knowledge graph, or of a .npy file.
#[derive(Parser)]
struct Args {
    /// A knowledge graph: nations, kinships or umls
    #[arg(long, default_value = "nations", value_parser = ["nations", "kinships", "umls"])]
    data: String,
    /// The folder with the knowledge graphs
    #[arg(long, default_value = FOLDER)]
    folder: PathBuf,
    /// A tensor of three axes in a .npy file instead
    #[arg(long)]
    tensor: Option<PathBuf>,
    /// Ranks
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32])]
    rank: Vec<usize>,
    /// Iterations, at most
    #[arg(long, default_value_t = 200)]
    iterations: usize,
    /// The change of the error at which a fit ends
    #[arg(long, default_value_t = 1e-6)]
    tolerance: f64,
    /// Further starts, from random factors
    #[arg(long, default_value_t = 0)]
    restarts: usize,
    /// No factor has negative elements
    #[arg(long)]
    nonnegative: bool,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Compute in f64
    #[arg(long)]
    double: bool,
    /// One fit from the factors in these three .npy files, after which its figures are written as JSON
    #[arg(long, num_args = 3)]
    factors: Option<Vec<PathBuf>>,
    /// Of how many of these fits the fastest is written
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// The time of the products with W alone, for random factors of these ranks, as JSON
    #[arg(long)]
    mttkrp: bool,
}

/// A .npy file, whose elements are f64.
fn read<T: Real, const D: usize>(path: &Path) -> Result<Tensor<T, D>> {
    let file = NpyFile::new(BufReader::new(File::open(path).with_context(|| format!("{}", path.display()))?))?;
    let shape: Vec<usize> = file.shape().iter().map(|&len| len as usize).collect();
    let shape = <[usize; D]>::try_from(shape).ok().with_context(|| format!("{}: not of {D} axes", path.display()))?;
    let values: Vec<f64> = file.into_vec()?;
    Ok(Tensor::from_vec(values.into_iter().map(T::from_f64).collect(), shape)?)
}

/// 1 where a triple of any split is.
fn adjacency<T: Real>(folder: &Path, name: &str) -> Result<Tensor<T, 3>> {
    let graph = Graph::load(folder, name)?;
    let shape = [graph.relations / 2, graph.entities, graph.entities];
    let mut w = vec![T::default(); shape.iter().product()];
    for triple in [&graph.train, &graph.valid, &graph.test].into_iter().flatten() {
        if triple.relation < shape[0] {
            w[(triple.relation * shape[1] + triple.head) * shape[2] + triple.tail] = T::from_f64(1.0);
        }
    }
    Ok(Tensor::from_vec(w, shape)?)
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.double { run::<f64>(&args) } else { run::<f32>(&args) }
}

fn run<T: Real>(args: &Args) -> Result<()> {
    let w: Tensor<T, 3> = match &args.tensor {
        Some(path) => read(path)?,
        None => adjacency(&args.folder, &args.data)?,
    };
    let context = Context::from_env()?.with_device(trilinear::Device::Cpu)?.with_threads(args.threads)?;
    let options = Options {
        iterations: args.iterations,
        tolerance: args.tolerance,
        restarts: args.restarts,
        nonnegative: args.nonnegative,
        context: Some(context),
        ..Options::<T>::new(0)
    };
    if args.mttkrp {
        return products(&w, &args.rank, &context);
    }
    if let Some(paths) = &args.factors {
        let factors: Vec<Tensor<T, 2>> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
        ensure!(factors.len() == 3, "three factors");
        let init = Init::Given { factors: [0, 1, 2].map(|mode| factors[mode].view()), lambda: None };
        let options = Options { rank: factors[0].shape()[1], init, ..options };
        let mut best = cp(w.view(), &options)?.report;
        let began = processor_seconds();
        for _ in 0..args.repeat {
            let report = cp(w.view(), &options)?.report;
            best = if report.seconds < best.seconds { report } else { best };
        }
        let processor = (processor_seconds() - began) / args.repeat.max(1) as f64;
        let report = &best;
        let figures = serde_json::json!({
            "error": report.error,
            "iterations": report.errors.len(),
            "seconds": report.seconds,
            "processor_seconds": processor,
            "mttkrp_seconds": report.mttkrp_seconds,
        });
        println!("{figures}");
        return Ok(());
    }
    println!("{:?}, {} numbers", w.shape(), w.as_slice().len());
    println!("rank  parameters  error   iterations  seconds  of them products with W");
    for fit in &sweep(w.view(), &args.rank, &options)?.fits {
        let report = &fit.report;
        println!(
            "{:4}  {:10}  {:.4}  {:10}  {:7.4}  {:.0}%",
            fit.rank(),
            report.parameters[1],
            report.error,
            report.errors.len(),
            report.seconds,
            100.0 * report.mttkrp_seconds / report.seconds
        );
    }
    Ok(())
}

/// What this thread has computed, so that a busy machine does not count; where the system does not tell, the time since the start.
fn processor_seconds() -> f64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let elapsed = BEGAN.get_or_init(Instant::now).elapsed().as_secs_f64();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split(' ').next().and_then(|number| number.parse::<f64>().ok()));
    nanoseconds.map_or(elapsed, |nanoseconds| nanoseconds / 1e9)
}

/// Seconds of each product with W, the least of several rounds, and the peak measured between them.
fn products<T: Real>(w: &Tensor<T, 3>, ranks: &[usize], context: &Context) -> Result<()> {
    let lengths = w.shape();
    for &rank in ranks {
        let factors = lengths.map(|len| {
            let values = (0..len * rank).map(|at| T::from_f64(((at * 37) % 101) as f64 / 50.0 - 1.0)).collect();
            Tensor::from_vec(values, [len, rank])
        });
        let [a, b, c] = factors;
        let [a, b, c] = [a?, b?, c?];
        let modes = [(Axis::Out, [&b, &c]), (Axis::Z, [&a, &c]), (Axis::X, [&a, &b])];
        let flops = 2.0 * w.as_slice().len() as f64 * rank as f64;
        let (mut least, mut peak) = ([f64::INFINITY; 3], 0.0);
        for _ in 0..5 {
            peak = f64::max(peak, machine::peak_flops::<T>(context, context.threads().unwrap_or(1))?);
            // The system counts in ticks of some milliseconds.
            let calls = (0.15 * peak / flops).ceil().max(1.0) as usize;
            for ((axis, factors), least) in modes.into_iter().zip(&mut least) {
                let factors: [View<'_, T, 2>; 2] = factors.map(Tensor::view);
                let mut to = mttkrp(w.view(), axis, factors, context)?;
                let began = processor_seconds();
                for _ in 0..calls {
                    mttkrp_into(w.view(), axis, factors, to.view_mut(), context)?;
                }
                *least = f64::min(*least, (processor_seconds() - began) / calls as f64);
            }
        }
        let of_peak = least.map(|seconds| flops / seconds / peak);
        println!("{}", serde_json::json!({ "rank": rank, "seconds": least, "of_peak": of_peak, "peak": peak }));
    }
    Ok(())
}

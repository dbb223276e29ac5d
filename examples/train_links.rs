//! Link prediction on three small knowledge graphs, by RESCAL (an interaction with a dense W, whose outputs are the
//! relations) and by CP (an interaction in CP form, whose outputs are the tails), trained with this crate's gradients.
//!
//! cargo run --release --features cli --example train_links -- [--data kinships] [--model cp] [--help]
//!
//! The models are in examples/common/links.rs, measured results in docs/training.md.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use trilinear::Context;

use common::data::{FOLDER, Graph};
use common::links::{self, Cp, Model, Rescal};
use common::{Adam, Random, median};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Rescal,
    Cp,
}

/// Link prediction by RESCAL and CP on the Nations, Kinships and UMLS knowledge graphs.
#[derive(Parser)]
struct Args {
    /// A knowledge graph: nations, kinships or umls [default: all]
    #[arg(long, value_parser = ["nations", "kinships", "umls"])]
    data: Vec<String>,
    /// A model [default: both]
    #[arg(long, value_enum)]
    model: Vec<Kind>,
    /// Components of CP, or features of an entity for RESCAL
    #[arg(long, value_parser = from_1_to(4096))]
    rank: Option<usize>,
    /// Passes over the training triples
    #[arg(long)]
    epochs: Option<usize>,
    /// Adam's rate
    #[arg(long)]
    rate: Option<f32>,
    /// Decay of the weights, in units of the rate
    #[arg(long)]
    decay: Option<f32>,
    /// Heads whose triples are a batch
    #[arg(long, value_parser = from_1_to(4096))]
    heads: Option<usize>,
    /// Seed of the initial weights and of the order of batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
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

struct Settings {
    rank: usize,
    epochs: usize,
    rate: f32,
    decay: f32,
    heads: usize,
}

/// What the validation triples liked best of a few tries.
fn settings(data: &str, kind: Kind) -> Settings {
    let (rank, epochs, rate, decay, heads) = match (data, kind) {
        ("nations", Kind::Rescal) => (16, 60, 0.003, 4.0, 2),
        ("nations", Kind::Cp) => (32, 150, 0.005, 0.5, 2),
        ("kinships", Kind::Rescal) => (64, 40, 0.01, 2.0, 8),
        ("kinships", Kind::Cp) => (128, 80, 0.01, 0.7, 8),
        (_, Kind::Rescal) => (64, 40, 0.003, 0.5, 8),
        (_, Kind::Cp) => (128, 80, 0.006, 0.5, 8),
    };
    Settings { rank, epochs, rate, decay, heads }
}

/// Filtered MRR and hits@10 of the test triples, as published; the sources are in docs/training.md.
fn published(data: &str) -> &'static [[&'static str; 3]] {
    match data {
        "nations" => &[["ConvE (Dettmers et al. 2018)", "0.82", "1.00"]],
        "kinships" => &[
            ["ConvE (Dettmers et al. 2018)", "0.83", "0.98"],
            ["RESCAL (Ali et al. 2020)", "–", "0.976"],
            ["ComplEx (Ali et al. 2020)", "–", "0.983"],
            ["ComplEx (DICE Embeddings)", "0.762", "0.973"],
        ],
        _ => &[["ConvE (Dettmers et al. 2018)", "0.94", "0.99"], ["ComplEx (DICE Embeddings)", "0.749", "0.958"]],
    }
}

fn train(args: &Args, data: &str, graph: &Graph, kind: Kind) -> Result<()> {
    let default = settings(data, kind);
    let rank = args.rank.unwrap_or(default.rank);
    let epochs = args.epochs.unwrap_or(default.epochs);
    let heads = args.heads.unwrap_or(default.heads);
    let mut adam = Adam::new(args.rate.unwrap_or(default.rate), args.decay.unwrap_or(default.decay));
    let (mut random, context) = (Random(args.seed), Context::from_env()?.with_threads(args.threads)?);
    let (name, mut model): (_, Box<dyn Model>) = match kind {
        Kind::Rescal => ("RESCAL", Box::new(Rescal::new(graph, rank, context, &mut random))),
        Kind::Cp => ("CP", Box::new(Cp::new(graph, rank, context, &mut random))),
    };

    let bar = ProgressBar::new(epochs as u64).with_prefix(format!("{data} {name}"));
    bar.set_style(ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} ({elapsed})")?);
    let triples = graph.queries(&graph.train);
    let mut seconds = Vec::new();
    for _ in 0..epochs {
        let start = Instant::now();
        let loss = links::epoch(model.as_mut(), graph, &triples, heads, &mut adam, &mut random)?;
        seconds.push(start.elapsed().as_secs_f64());
        bar.set_message(format!("loss {loss:.3}"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (test, valid) =
        (links::evaluate(model.as_ref(), graph, &graph.test)?, links::evaluate(model.as_ref(), graph, &graph.valid)?);
    println!(
        "{data:9} {:32} {:7.3} {:7.3}   {:9.3} {:7.3}   {:.2}",
        format!("{name}, rank {rank}, {epochs} epochs"),
        test.mrr,
        test.hits,
        valid.mrr,
        valid.hits,
        median(seconds) * 1e3
    );
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let data = if args.data.is_empty() { &["nations", "kinships", "umls"].map(String::from)[..] } else { &args.data };
    let kinds = if args.model.is_empty() { &[Kind::Rescal, Kind::Cp][..] } else { &args.model };
    println!("{:42} {:>7} {:>7}   {:>9} {:>7}   ms per epoch", "", "MRR", "hits@10", "valid MRR", "hits@10");
    for data in data {
        let graph = Graph::load(&args.folder, data)?;
        for &kind in kinds {
            train(&args, data, &graph, kind)?;
        }
        for [what, mrr, hits] in published(data) {
            println!("{data:9} {what:32} {mrr:>7} {hits:>7}");
        }
    }
    Ok(())
}

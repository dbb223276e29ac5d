//! `trilinear count`: what each form of W costs for given sizes, without computing anything.

use std::io::Write;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};
use trilinear::{Context, DType};

use crate::bench::{parse_dtype, parse_threads, peak};
use crate::cases::{self, Case, Sizes};
use crate::host;
use crate::measure;
use crate::report::duration;
use crate::work::{Shape, Work};

const HELP: &str = "\
Examples:
  trilinear count --preset mimic
  trilinear count --shape 256,384,384,12 --rank 32
  trilinear count --shape 1,200,200,200 --core 200,30,30 --blocks 10 --json
  trilinear count --shape 256,128,128,128,32 --peak 94 --bandwidth 15.4      of another machine

Counted is the forward pass of a call: FLOPs of the contractions that the form is defined by, and bytes of its operands
read once and of y written once. The predicted time is the larger of FLOPs over the peak and bytes over the read
bandwidth, which are measured unless given: nothing on this machine is faster, unless its operands are in a cache.

Parameters and multiply-adds of a row, with R components and a core of P×Q×S:
  linear       no W: U, V and b on [z, x]                           K·(I+J)+K            K·(I+J)
  dense        free                                                 K·I·J                I·J·K
  cp           Σᵣ A[k,r] B[i,r] C[j,r]                              R·(K+I+J)            R·(K+I+J)
  tucker       Σ G[p,q,s] A[k,p] B[i,q] C[j,s]                      PQS+KP+IQ+JS         PQS+KP+IQ+JS
  block-term   the same, but G is zero outside of blocks on         PQS/blocks² +KP+IQ+JS  the same
               its diagonal
  diagonal     d[k] where k = i = j, if I = J = K                   K                    K
  identity     zᵀx, if K = 1 and I = J                              0                    I
With a shared context (N×M rows), and of all pairs, z is contracted first.";

/// Count parameters, FLOPs, bytes and predicted time of each form of W.
#[derive(clap::Args)]
#[command(after_help = HELP)]
#[command(group = clap::ArgGroup::new("sizes").args(["preset", "shape"]).multiple(true).required(true))]
pub(crate) struct Args {
    /// A named shape (repeatable)
    #[arg(long, value_name = "NAME")]
    preset: Vec<String>,
    /// Sizes (repeatable); R is the rank of the low-rank forms
    #[arg(long, value_name = "N,I,J,K[,R]")]
    shape: Vec<Sizes>,
    /// Rank R of the low-rank forms, in place of that of the shape
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    rank: Option<u64>,
    /// Sizes of the Tucker core along the outputs, z and x [default: R each, but no more than there are]
    #[arg(long, value_name = "P,Q,S", value_parser = parse_core)]
    core: Option<[usize; 3]>,
    /// Blocks on the diagonal of the block-term form's core [default: 4, but no more than the core's longest axis]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    blocks: Option<u64>,
    /// Storage type: f32, f64, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = parse_dtype)]
    dtype: DType,
    /// Threads that the limits are measured with: a number, or `all`
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,
    /// Peak in GFLOP/s, in place of measuring it
    #[arg(long, value_name = "GFLOP/S", value_parser = parse_positive)]
    peak: Option<f64>,
    /// Read bandwidth in GB/s, in place of measuring it
    #[arg(long, value_name = "GB/S", value_parser = parse_positive)]
    bandwidth: Option<f64>,
    /// Print one JSON object for each form in place of the table
    #[arg(long)]
    json: bool,
}

fn parse_core(text: &str) -> Result<[usize; 3]> {
    let sizes: Option<Vec<usize>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let sizes = sizes.filter(|sizes| !sizes.contains(&0)).and_then(|sizes| <[usize; 3]>::try_from(sizes).ok());
    sizes.context("expected P,Q,S, all whole numbers from 1")
}

fn parse_positive(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < f64::INFINITY => Ok(value),
        _ => bail!("expected a number above 0"),
    }
}

/// A form of W, and what a forward call with it takes at least.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Count {
    form: &'static str,
    /// Its ranks, if it has any.
    ranks: String,
    parameters: u128,
    flops: u128,
    bytes: u128,
}

/// Sizes of a Tucker core along k, i and j.
type Core = [usize; 3];

/// Blocks of a block-term form, if there is room for them.
const DEFAULT_BLOCKS: usize = 4;

/// The core that is asked for, or one of this rank.
fn core_for(case: &Case, rank: Option<usize>, core: Option<Core>) -> Option<Core> {
    let Shape { i, j, k, .. } = case.shape;
    core.or(rank.map(|r| [k, i, j].map(|size| r.min(size))))
}

/// The forms that this shape has; with a rank or a core also the low-rank ones.
fn forms(case: &Case, rank: Option<usize>, core: Option<Core>, blocks: Option<usize>, element: usize) -> Vec<Count> {
    let shape = Shape { r: None, ..case.shape };
    let work = Work { tied: case.tied, ..Work::FORWARD };
    let [n, rows, i, j, k] = [shape.n, shape.rows, shape.i, shape.j, shape.k].map(|size| size as u128);
    let total = n.saturating_mul(rows);
    let x_rows = (n / shape.sharing as u128).saturating_mul(rows);
    // Bytes of z, x and y: those of a call without weights.
    let inputs = work.cost(Shape { r: Some(0), ..shape }, [element; 2]).bytes;
    let bytes = |parameters: u128| parameters.saturating_mul(element as u128).saturating_add(inputs);
    let count = |form, ranks: String, parameters: u128, multiply_adds: u128| Count {
        form,
        ranks,
        parameters,
        flops: multiply_adds.saturating_mul(2),
        bytes: bytes(parameters),
    };
    let costed = |form, ranks: String, parameters, shape| {
        let cost = work.cost(shape, [element; 2]);
        Count { form, ranks, parameters, flops: cost.flops, bytes: cost.bytes }
    };

    let linear = sum([product([n, i, k]), product([x_rows, j, k])]);
    let mut counts = vec![count("linear", String::new(), sum([product([k, i]), product([k, j]), k]), linear)];
    counts.push(costed("dense", String::new(), product([k, i, j]), shape));
    if let Some(r) = rank {
        let parameters = product([r as u128, sum([k, i, j])]);
        counts.push(costed("cp", format!("R = {r}"), parameters, Shape { r: Some(r), ..shape }));
    }
    if let Some(core) = core_for(case, rank, core) {
        let blocks = blocks.unwrap_or_else(|| core.into_iter().fold(1, usize::max).min(DEFAULT_BLOCKS));
        for (form, blocks) in [("tucker", 1), ("block-term", blocks)] {
            let [p, q, s] = core.map(|size| size.div_ceil(blocks) as u128);
            let blocks = blocks as u128;
            // Of each block: its factors meet z, x and y, its core a row of z, and what comes of that the rows of x.
            let factors = [product([blocks, k, p]), product([blocks, i, q]), product([blocks, j, s])];
            let parameters = sum([product([blocks, p, q, s]), sum(factors)]);
            let of_z = product([n, sum([factors[1], product([blocks, p, q, s])])]);
            let apply = if rows > 1 { product([total, blocks, p, s]) } else { 0 };
            let multiply_adds = sum([of_z, product([total, factors[0]]), product([x_rows, factors[2]]), apply]);
            let ranks = if blocks == 1 { format!("{p}×{q}×{s}") } else { format!("{blocks} of {p}×{q}×{s}") };
            counts.push(count(form, ranks, parameters, multiply_adds));
        }
    }
    if i == j && j == k {
        counts.push(count("diagonal", String::new(), k, product([total, k])));
    }
    if k == 1 && i == j {
        counts.push(count("identity", String::new(), 0, product([total, i])));
    }
    counts
}

fn product<const N: usize>(sizes: [u128; N]) -> u128 {
    sizes.into_iter().fold(1, u128::saturating_mul)
}

fn sum<const N: usize>(sizes: [u128; N]) -> u128 {
    sizes.into_iter().fold(0, u128::saturating_add)
}

/// What a machine can do.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// FLOP/s.
    peak: f64,
    /// Bytes per second.
    bandwidth: f64,
}

impl Limits {
    fn of(args: &Args) -> Result<Limits> {
        // Unless both are given, which needs no machine at all.
        let context = match (args.peak, args.bandwidth) {
            (Some(_), Some(_)) => None,
            _ => Some(Context::from_env()?),
        };
        let measured = |given: Option<f64>, measure: &dyn Fn(&Context) -> Result<f64>| match (given, &context) {
            (Some(giga), _) => Ok(giga * 1e9),
            (None, Some(context)) => measure(context),
            (None, None) => bail!("there is no context"),
        };
        Ok(Limits {
            peak: measured(args.peak, &|context| peak(context, args.dtype, args.threads))?,
            bandwidth: measured(args.bandwidth, &|context| Ok(measure::bandwidth(context, args.threads)?))?,
        })
    }

    fn seconds(self, count: &Count) -> f64 {
        (count.flops as f64 / self.peak).max(count.bytes as f64 / self.bandwidth)
    }

    fn bound(self, count: &Count) -> &'static str {
        if count.flops as f64 / self.peak >= count.bytes as f64 / self.bandwidth { "compute" } else { "bandwidth" }
    }
}

/// Prints the counts.
pub(crate) fn run(args: Args) -> Result<()> {
    let cases = cases::shapes(&args.preset, &args.shape)?;
    let blocks = args.blocks.map(usize::try_from).transpose().context("--blocks")?;
    let rank = args.rank.map(usize::try_from).transpose().context("--rank")?;
    if let Some(core) = args.core {
        for case in &cases {
            let Shape { i, j, k, .. } = case.shape;
            let fits = core.iter().zip([k, i, j]).all(|(&core, axis)| core <= axis);
            ensure!(fits, "--core {core:?} is larger than W, {:?} for {}", [k, i, j], case.label());
        }
    }
    for case in &cases {
        let (Some(blocks), Some(core)) = (blocks, core_for(case, rank.or(case.shape.r), args.core)) else { continue };
        let fits = core.iter().any(|&size| blocks <= size);
        ensure!(fits, "--blocks {blocks} is more than the core {core:?} of {} has room for", case.label());
    }
    let limits = Limits::of(&args)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        let (peak, bandwidth, threads) = (limits.peak / 1e9, limits.bandwidth / 1e9, args.threads);
        writeln!(out, "{peak:.1} GFLOP/s in {}, reads {bandwidth:.1} GB/s; {threads} thread(s)", args.dtype)?;
    }
    for case in &cases {
        let rank = rank.or(case.shape.r);
        let counts = forms(case, rank, args.core, blocks, args.dtype.bytes());
        if args.json {
            for count in &counts {
                writeln!(out, "{}", json(case, count, args.dtype, limits))?;
            }
            continue;
        }
        let case = Case { shape: Shape { r: None, ..case.shape }, ..*case };
        writeln!(out, "\n{}\n{}", case.label(), table(&counts, limits))?;
        let Shape { i, j, k, .. } = case.shape;
        let even = product([i as u128, j as u128, k as u128]) / sum([i as u128, j as u128, k as u128]);
        writeln!(out, "cp has fewer parameters than dense up to R = {even}")?;
    }
    Ok(())
}

fn json(case: &Case, count: &Count, dtype: DType, limits: Limits) -> Value {
    let Shape { n, rows, sharing, i, j, k, .. } = case.shape;
    json!({
        "preset": case.preset,
        "n": n,
        "rows": rows,
        "sharing": sharing,
        "i": i,
        "j": j,
        "k": k,
        "form": count.form,
        "ranks": (!count.ranks.is_empty()).then_some(&count.ranks),
        "dtype": dtype.to_string(),
        "parameters": number(count.parameters),
        "flops": number(count.flops),
        "bytes": number(count.bytes),
        "peak_gflops": limits.peak / 1e9,
        "read_gbps": limits.bandwidth / 1e9,
        "bound": limits.bound(count),
        "seconds": limits.seconds(count),
    })
}

/// Exact as far as JSON's readers go.
fn number(value: u128) -> Value {
    u64::try_from(value).map_or_else(|_| json!(value as f64), |value| json!(value))
}

fn table(counts: &[Count], limits: Limits) -> String {
    let dense = counts.iter().find(|count| count.form == "dense").map_or(1, |dense| dense.parameters);
    let mut builder = Builder::default();
    builder.push_record(["form", "ranks", "parameters", "of dense", "GFLOP", "bytes moved", "bound by", "time"]);
    for count in counts {
        builder.push_record([
            count.form.to_owned(),
            count.ranks.clone(),
            count.parameters.to_string(),
            format!("{:.2}%", 100.0 * count.parameters as f64 / dense as f64),
            format!("{:.6}", count.flops as f64 / 1e9),
            host::bytes(count.bytes as f64),
            limits.bound(count).to_owned(),
            duration(limits.seconds(count)),
        ]);
    }
    let mut table = builder.build();
    table.with(Style::sharp()).modify(Columns::new(2..6), Alignment::right());
    table.modify(Columns::new(7..8), Alignment::right());
    table.to_string()
}

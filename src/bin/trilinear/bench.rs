//! `trilinear bench`: every shape as a fraction of what this machine can do, and against other ways to compute it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::{ThreadPool, ThreadPoolBuilder};
use trilinear::{Algorithm, Context, DType, Device, SimdLevel, machine};

use crate::cases::{self, Form, Sizes};
use crate::measure::{self, Job, Measured, Settings};
use crate::report::{self, Row};
use crate::work::{Pass, Which, Work};
use crate::{host, plots};

const EXAMPLES: &str = "\
Examples:
  trilinear bench --quick                            every named shape but the largest, on one thread
  trilinear bench --goals                            the shapes that the project sets itself goals for
  trilinear bench --preset mimic --threads 1,all     one named shape, on one thread and on all
  trilinear bench --shape 256,128,128,128,32         sizes of your own, dense and CP of rank 32
  trilinear bench --dtype f32,bf16 --prepared        two storage types; weights packed once as well
  trilinear bench --goals --pass both                forward and backward in one call, with the goals for it
  trilinear bench --pass backward --gradient z,x,w   each gradient on its own
  trilinear bench --form cp --pass both --saved      zB and xC kept by the forward pass
  trilinear bench --json > rows.jsonl                an object for each row
  trilinear bench --quick --save report.html         tables and plots in one file

Of each row, the floor is the larger of its FLOPs over the peak, and the bytes that it must move over the read
bandwidth, both measured in the same run on as many threads; the fraction is the floor over the time. Times are medians
of repetitions that take turns with the baselines'. Every result is checked before it is timed.

FLOPs are counted nominally, by the contractions that each result is defined by, however it is computed. Where several
gradients come of one product, as dz and dx can, fewer are done, and the fraction may pass 100%.
  dense  2·N·I·J·K forward and for each of dz, dx and dW: 6·N·I·J·K backward, 8·N·I·J·K both
  CP     2·N·R·(I+J+K) forward, 4·N·R·(I+J+K) backward, and in a backward pass without --saved 2·N·R·(I+J) more for zB
         and xC, which it computes again; in the JSON these are `recomputed_flops`, a part of `flops`, and
         `nominal_fraction` is the fraction without them
A gradient on its own counts the contractions that it needs. Of a shared context, z is contracted first.
Bytes are those of the operands read once and of the results written once.";

/// Options of `bench`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A named shape (repeatable; all of them if no shape is given)
    #[arg(long, value_name = "NAME")]
    preset: Vec<String>,
    /// Sizes of your own (repeatable); with R the CP form is measured too
    #[arg(long, value_name = "N,I,J,K[,R]")]
    shape: Vec<Sizes>,
    /// Only this form of W [default: all that a shape has]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// What to compute
    #[arg(long, value_enum, default_value_t = Pass::Forward)]
    pass: Pass,
    /// Gradients of --pass backward or both, comma-separated or repeated: a row for each. `all` is one call for all of
    /// them, `w` those of the weights (dW, or dA, dB and dC) [default: all]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    gradient: Vec<Which>,
    /// CP keeps zB and xC of the forward pass for the backward pass, in place of computing them again
    #[arg(long)]
    saved: bool,
    /// Storage types, comma-separated or repeated: f32, f64, f16, bf16
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "f32", value_parser = parse_dtype)]
    dtype: Vec<DType>,
    /// Numbers of threads, comma-separated or repeated; `all` is every processor
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = parse_threads)]
    threads: Vec<usize>,
    /// Where to compute: auto, cpu or cuda:N [default: TRILINEAR_DEVICE, else auto]
    #[arg(long)]
    device: Option<Device>,
    /// Adds a row for weights prepared (packed) once
    #[arg(long)]
    prepared: bool,
    /// Force an algorithm; shapes that it cannot compute are skipped
    #[arg(long, value_name = "NAME", value_parser = parse_algorithm)]
    algorithm: Option<Algorithm>,
    /// The shapes that the project sets itself goals for, with the goals
    #[arg(long, conflicts_with_all = ["preset", "shape"])]
    goals: bool,
    /// Skip shapes of more than 5 GFLOP
    #[arg(long)]
    quick: bool,
    /// Time to spend on each row; a call that takes longer is made twice
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    seconds: f64,
    /// Measure ours only
    #[arg(long)]
    no_baselines: bool,
    /// Print one JSON object for each row in place of the table
    #[arg(long)]
    json: bool,
    /// Also write tables and plots into an HTML file
    #[arg(long, value_name = "FILE.html")]
    save: Option<PathBuf>,
}

/// `--quick` skips what has more FLOPs.
const QUICK_FLOPS: u128 = 5_000_000_000;

pub(crate) fn parse_dtype(text: &str) -> Result<DType> {
    [DType::F32, DType::F64, DType::F16, DType::Bf16]
        .into_iter()
        .find(|dtype| dtype.to_string() == text)
        .ok_or_else(|| anyhow!("expected f32, f64, f16 or bf16"))
}

pub(crate) fn parse_threads(text: &str) -> Result<usize> {
    match text {
        "all" => Ok(host::threads()),
        _ => match text.parse() {
            Ok(threads @ 1..=1024) => Ok(threads),
            _ => bail!("expected a number from 1 to 1024, or `all`"),
        },
    }
}

fn parse_algorithm(text: &str) -> Result<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm.to_string() == text).ok_or_else(|| {
        let names: Vec<_> = Algorithm::ALL.iter().map(Algorithm::to_string).collect();
        anyhow!("expected one of {}", names.join(", "))
    })
}

fn parse_seconds(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => bail!("expected a number of seconds above 0, up to 3600"),
    }
}

/// The context of `--device`, else of the environment.
fn context(device: Option<Device>) -> Result<Context> {
    let Some(device) = device else { return Ok(Context::from_env()?) };
    let context = Context::new(device)?;
    match std::env::var("TRILINEAR_SIMD") {
        Ok(level) if !level.is_empty() => Ok(context.with_simd(level.parse::<SimdLevel>().context("TRILINEAR_SIMD")?)?),
        _ => Ok(context),
    }
}

/// Measures and reports.
pub(crate) fn run(args: Args) -> Result<()> {
    let works = works(&args)?;
    let cases = match args.goals {
        true => cases::goals(args.form, args.pass),
        false => cases::chosen(&args.preset, &args.shape, args.form)?,
    };
    let context = context(args.device)?;
    if context.device() != Device::Cpu {
        // Operands of the host are copied there and back in each call, which is not what there is to be measured.
        bail!("{} is not measured yet: --device cpu measures the processor", context.device());
    }
    // Found out now rather than after minutes of measuring.
    let mut save = match &args.save {
        Some(path) => Some(std::fs::File::create(path).with_context(|| format!("--save {}", path.display()))?),
        None => None,
    };
    let mut jobs = Vec::new();
    for &threads in &dedup(&args.threads) {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().context("threads could not be started")?;
        jobs.push((threads, pool));
    }
    let dtypes = dedup(&args.dtype);
    let settings = Settings { seconds: args.seconds, prepared: args.prepared, baselines: !args.no_baselines };

    let machine = describe_machine(&context, &dtypes, &jobs)?;
    if !args.json {
        writeln!(std::io::stdout(), "{machine}")?;
    }
    let bar = ProgressBar::new((cases.len() * works.len() * dtypes.len() * jobs.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})")?);
    let mut rows = Vec::new();
    let mut skipped = Vec::new();
    for (case, work) in cases.iter().flat_map(|case| works.iter().map(move |work| (case, work))) {
        let work = Work { tied: case.tied, ..*work };
        for &dtype in &dtypes {
            for (threads, pool) in &jobs {
                let (name, form, pass) = (case.label(), case.form, work.label());
                let label = format!("{name} {form} {pass} {dtype} on {threads} thread(s)");
                bar.set_message(label.clone());
                let plain = context.with_threads(*threads)?;
                let forced = args.algorithm.map_or(plain, |algorithm| plain.with_algorithm(algorithm));
                let job = Job { case: *case, work, threads: *threads, context: forced, plain };
                let measured = match args.quick && is_long(&job)? {
                    true => Measured::Skipped("it is over 5 GFLOP, and --quick was given".into()),
                    false => pool.install(|| measure::row_in(dtype, &job, settings))?,
                };
                match measured {
                    Measured::Row(outcome) => {
                        for row in Row::of(&job, dtype, &outcome) {
                            if args.json {
                                bar.suspend(|| writeln!(std::io::stdout(), "{}", row.json()))?;
                            }
                            rows.push(row);
                        }
                    }
                    Measured::Skipped(reason) => {
                        let line = format!("skipped {label}: {reason}");
                        bar.suspend(|| eprintln!("{line}"));
                        skipped.push(line);
                    }
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    if let (Some(file), Some(path)) = (&mut save, &args.save) {
        let html = plots::html(&machine, &rows, &skipped)?;
        file.write_all(html.as_bytes()).with_context(|| format!("--save {}", path.display()))?;
    }
    if rows.is_empty() {
        bail!("nothing was measured: every shape was skipped");
    }
    if !args.json {
        writeln!(std::io::stdout(), "{}", report::table(&rows))?;
    }
    Ok(())
}

/// What each case is measured with.
fn works(args: &Args) -> Result<Vec<Work>> {
    match args.pass {
        Pass::Forward if !args.gradient.is_empty() => bail!("--gradient needs --pass backward or --pass both"),
        Pass::Forward if args.saved => bail!("--saved needs --pass backward or --pass both"),
        Pass::Backward if args.algorithm.is_some() => {
            bail!("--algorithm is one of the forward pass: use it with --pass forward or --pass both")
        }
        _ => {}
    }
    let which = if args.gradient.is_empty() { vec![Which::All] } else { dedup(&args.gradient) };
    let work = |which| Work { pass: args.pass, which, saved: args.saved, ..Work::FORWARD };
    Ok(which.into_iter().map(work).collect())
}

/// Each value once, in the order given.
fn dedup<V: Copy + PartialEq>(values: &[V]) -> Vec<V> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(value) {
            unique.push(*value);
        }
    }
    unique
}

/// Whether `--quick` skips it; what does not fit in the address space has a better reason to be skipped.
fn is_long(job: &Job) -> Result<bool> {
    match job.case.plan::<f32>(job.plain) {
        Ok(_) => Ok(job.work.cost(job.case.shape, [4, 4]).flops > QUICK_FLOPS),
        Err(trilinear::Error::TooLarge { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The processor, and what it can do at most.
fn describe_machine(context: &Context, dtypes: &[DType], pools: &[(usize, ThreadPool)]) -> Result<String> {
    let mut text = format!("{}, {}, {}", host::cpu_name(), context.device(), context.simd());
    for &(threads, _) in pools {
        let plural = if threads == 1 { "" } else { "s" };
        text += &format!("\n{threads} thread{plural}: ");
        for &dtype in dtypes {
            text += &format!("{:.1} GFLOP/s in {dtype}, ", peak(context, dtype, threads)? / 1e9);
        }
        text += &format!("reads {:.1} GB/s", measure::bandwidth(context, threads)? / 1e9);
    }
    Ok(text)
}

/// FLOP/s of `threads` threads.
pub(crate) fn peak(context: &Context, dtype: DType, threads: usize) -> Result<f64> {
    Ok(match dtype {
        DType::F64 => machine::peak_flops::<f64>(context, threads)?,
        // The others are accumulated in f32.
        _ => machine::peak_flops::<f32>(context, threads)?,
    })
}

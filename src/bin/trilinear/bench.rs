//! `trilinear bench`: every shape as a fraction of what this machine can do, and against other ways to compute it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::{ThreadPool, ThreadPoolBuilder};
use trilinear::{Algorithm, Context, DType, Device, SimdLevel, machine};

use crate::cases::{self, Case, Sizes};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::forms::Form;
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
  trilinear bench --form diagonal,gate,tucker        other forms of W: the presets that have them, and sizes of their own
  trilinear bench --form dense,cp,block-term --shape 1024,256,256,128,128
  trilinear bench --json > rows.jsonl                an object for each row
  trilinear bench --quick --save report.html         tables and plots in one file
  trilinear bench --device cuda:0 --dtype f32,f16    a GPU, by events; the simulated device in counts

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
  blocks 2·N·(I·Rb + J·Rc + K·Ra + Ra·Rb·Rc) forward for each, without those of absent factors, 2·N·R for a diagonal core;
         backward twice that of the factors and three times that of the core, and zB, xC and H once more
Bytes are those of the operands read once and of the results written once.

On a GPU the operands are in its memory, times are between events on its stream, and a buffer of twice L2 is written before each
call. The peak is multiprocessors × clock × FLOPs a clock, f16 and bf16 on tensor cores; the bandwidth is that of the driver's
copies, read and written. Baselines are cuBLAS's products, if that library is there. The simulated device (tools/simulated-cuda)
has no times: of each launch it counts instructions, bytes against the least, bank conflicts and barriers, and skips what is large.";

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
    /// Forms of W, comma-separated or repeated [default: dense and cp, as far as a shape has them]
    #[arg(long, value_enum, value_name = "FORM", value_delimiter = ',')]
    form: Vec<Form>,
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
    /// Numbers of threads of the processor, comma-separated or repeated; `all` is every one that it has
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = parse_threads)]
    threads: Vec<usize>,
    /// Where to compute: auto, cpu or cuda:N [default: TRILINEAR_DEVICE, else auto]
    #[arg(long)]
    device: Option<Device>,
    /// Lets a CUDA device's tensor cores round operands of f32 to tf32
    #[arg(long)]
    tf32: bool,
    /// Adds a row for weights prepared (packed) once, of the processor
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

/// What computes the rows.
enum Engine {
    /// A pool for each number of threads.
    Cpu(Vec<(usize, ThreadPool)>),
    #[cfg(feature = "cuda")]
    Gpu(cuda::Timer),
    /// The simulated device, which has no times.
    #[cfg(feature = "cuda")]
    Simulated(cuda::Profiler),
}

impl Engine {
    fn of(device: Device, args: &Args) -> Result<Engine> {
        match device {
            Device::Cpu if args.tf32 => bail!("--tf32 needs a CUDA device: processors have no tf32"),
            Device::Cpu => {
                let start = |threads: usize| {
                    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                    Ok((threads, pool.context("threads could not be started")?))
                };
                Ok(Engine::Cpu(dedup(&args.threads).into_iter().map(start).collect::<Result<_>>()?))
            }
            // Weights are read where they are.
            _ if args.prepared => bail!("--prepared is of the processor: {device} prepares no weights"),
            #[cfg(feature = "cuda")]
            _ if cuda::is_simulated(device) => Ok(Engine::Simulated(cuda::Profiler::open()?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Ok(Engine::Gpu(cuda::Timer::open(ordinal, !args.no_baselines, args.tf32)?)),
            #[allow(unreachable_patterns, reason = "those that this build cannot use, and those to come")]
            _ => bail!("{device} is not measured"),
        }
    }
}

/// Measures and reports.
pub(crate) fn run(args: Args) -> Result<()> {
    let works = works(&args)?;
    let forms = dedup(&args.form);
    let cases = match args.goals {
        true => cases::goals(&forms, args.pass),
        false => cases::chosen(&args.preset, &args.shape, &forms)?,
    };
    let context = context(args.device)?.allow_tf32(args.tf32);
    if let Some(case) = cases.iter().find(|case| case.structure.is_some() && context.device() != Device::Cpu) {
        bail!("--form {} is measured on the processor: --device cpu", case.form);
    }
    let engine = Engine::of(context.device(), &args)?;
    // Found out now rather than after minutes of measuring.
    let save = match &args.save {
        Some(path) => Some(std::fs::File::create(path).with_context(|| format!("--save {}", path.display()))?),
        None => None,
    };
    let dtypes = dedup(&args.dtype);
    let machine = describe_machine(&context, &dtypes, &engine)?;
    if !args.json {
        writeln!(std::io::stdout(), "{machine}")?;
    }
    let of_case = |case: &Case| {
        let case = *case;
        works.iter().map(move |work| (case, Work { tied: case.tied, ..*work })).collect::<Vec<_>>()
    };
    let calls =
        cases.iter().flat_map(of_case).flat_map(|(case, work)| dtypes.iter().map(move |&dtype| (case, work, dtype)));
    let calls: Vec<Call> = calls.collect();
    let (table, html) = match &engine {
        #[cfg(feature = "cuda")]
        Engine::Simulated(profiler) => {
            let listing = counted(&args, context, profiler, &calls)?;
            let lines = || listing.items.iter().flat_map(cuda::counts::Counts::cells);
            let (headings, legend) = (&cuda::counts::HEADINGS, cuda::counts::LEGEND);
            let html = || {
                let body = format!("<p>{legend}</p>\n{}", plots::table(headings, lines())?);
                plots::document(&machine, body, &listing.skipped)
            };
            (format!("{}\n{legend}", report::lines(headings, lines(), 8..10)), save.is_some().then(html))
        }
        timer => {
            let listing = timed(&args, context, timer, &calls)?;
            let html = || plots::html(&machine, &listing.items, &listing.skipped);
            (report::table(&listing.items), save.is_some().then(html))
        }
    };
    if let (Some(mut file), Some(path), Some(html)) = (save, &args.save, html) {
        file.write_all(html?.as_bytes()).with_context(|| format!("--save {}", path.display()))?;
    }
    if !args.json {
        writeln!(std::io::stdout(), "{table}")?;
    }
    Ok(())
}

/// What is computed, and in which type.
type Call = (Case, Work, DType);

/// What has been measured.
struct Listing<L> {
    bar: ProgressBar,
    items: Vec<L>,
    skipped: Vec<String>,
}

impl<L> Listing<L> {
    fn new(len: usize) -> Result<Self> {
        let bar = ProgressBar::new(len as u64);
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})")?);
        Ok(Listing { bar, items: Vec::new(), skipped: Vec::new() })
    }

    fn print(&self, json: &serde_json::Value) -> std::io::Result<()> {
        self.bar.suspend(|| writeln!(std::io::stdout(), "{json}"))
    }

    fn skip(&mut self, label: &str, reason: &str) {
        let line = format!("skipped {label}: {reason}");
        self.bar.suspend(|| eprintln!("{line}"));
        self.skipped.push(line);
    }

    fn finish(self) -> Result<Self> {
        self.bar.finish_and_clear();
        if self.items.is_empty() {
            bail!("nothing was measured: every shape was skipped");
        }
        Ok(self)
    }
}

fn job(args: &Args, plain: Context, case: Case, work: Work, threads: usize) -> Job {
    let context = args.algorithm.map_or(plain, |algorithm| plain.with_algorithm(algorithm));
    Job { case, work, threads, context, plain }
}

/// Times of a processor or a GPU.
fn timed(args: &Args, context: Context, engine: &Engine, calls: &[Call]) -> Result<Listing<Row>> {
    let settings = Settings { seconds: args.seconds, prepared: args.prepared, baselines: !args.no_baselines };
    let threads: Vec<usize> = match engine {
        Engine::Cpu(pools) => pools.iter().map(|&(threads, _)| threads).collect(),
        #[cfg(feature = "cuda")]
        _ => vec![1],
    };
    let mut listing = Listing::new(calls.len() * threads.len())?;
    for &(case, work, dtype) in calls {
        for (index, &threads) in threads.iter().enumerate() {
            let place = match engine {
                Engine::Cpu(_) => format!("{threads} thread(s)"),
                #[cfg(feature = "cuda")]
                _ => context.device().to_string(),
            };
            let label = format!("{} {} {} {dtype} on {place}", case.label(), case.form, work.label());
            listing.bar.set_message(label.clone());
            let job = job(args, context.with_threads(threads)?, case, work, threads);
            let measured = match engine {
                _ if args.quick && is_long(&job)? => {
                    Measured::Skipped("it is over 5 GFLOP, and --quick was given".into())
                }
                Engine::Cpu(pools) => pools[index].1.install(|| measure::row_in(dtype, &job, settings))?,
                #[cfg(feature = "cuda")]
                Engine::Gpu(timer) => timer.row_in(dtype, &job, settings)?,
                #[cfg(feature = "cuda")]
                Engine::Simulated(_) => Measured::Skipped("the simulated device has no times".into()),
            };
            match measured {
                Measured::Row(outcome) => {
                    for row in Row::of(&job, dtype, &outcome) {
                        if args.json {
                            listing.print(&row.json())?;
                        }
                        listing.items.push(row);
                    }
                }
                Measured::Skipped(reason) => listing.skip(&label, &reason),
            }
            listing.bar.inc(1);
        }
    }
    listing.finish()
}

/// Counts of the simulated device.
#[cfg(feature = "cuda")]
fn counted(
    args: &Args,
    context: Context,
    profiler: &cuda::Profiler,
    calls: &[Call],
) -> Result<Listing<cuda::counts::Counts>> {
    let mut listing = Listing::new(calls.len())?;
    for &(case, work, dtype) in calls {
        let label = format!("{} {} {} {dtype}", case.label(), case.form, work.label());
        listing.bar.set_message(label.clone());
        match cuda::counts::row_in(profiler, dtype, &job(args, context, case, work, 1))? {
            Ok(counts) => {
                if args.json {
                    listing.print(&counts.json())?;
                }
                listing.items.push(counts);
            }
            Err(skip) => listing.skip(&label, &skip.0),
        }
        listing.bar.inc(1);
    }
    listing.finish()
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
        Ok(_) => Ok(job.case.cost(job.work, [4, 4]).flops > QUICK_FLOPS),
        Err(trilinear::Error::TooLarge { .. } | trilinear::Error::Unsupported { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The processor or device, and what it can do at most.
fn describe_machine(context: &Context, dtypes: &[DType], engine: &Engine) -> Result<String> {
    let pools = match engine {
        Engine::Cpu(pools) => pools,
        #[cfg(feature = "cuda")]
        Engine::Gpu(timer) => return Ok(timer.gpu.describe(dtypes, context.tf32())),
        #[cfg(feature = "cuda")]
        Engine::Simulated(_) => return Ok(format!("{}: {}", context.device(), context.device().describe()?)),
    };
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

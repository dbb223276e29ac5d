//! `trilinear fit`: a W of few parameters for the tensor in a file.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use trilinear::decompose::{self, Cp, Init, Options, Progress, Real, Stopped};
use trilinear::{Axes, Context, DType, Error, View};

use crate::bench::parse_threads;
use crate::formats::{Array, Model, Output, parse_axes};
use crate::plots;

mod report;
mod source;

pub(crate) use report::{Fit, HEADINGS};

const HELP: &str = "\
Fits W[k,i,j] ≈ Σᵣ λ[r] a[k,r] b[i,r] c[j,r] by alternating least squares. The error is ‖W − Ŵ‖ / ‖W‖, with --samples
that of y. FILE is FILE.npy (float16, float32 or float64), or FILE.safetensors, as a PyTorch model is saved: its only
tensor of three axes is taken, or the one that is named, FILE.safetensors:decoder.scorer.weight, or without the .weight.

Examples:
  trilinear fit w.npy --rank 16 --out model.safetensors       factors that `trilinear run --cp model.safetensors` takes
  trilinear fit w.npy --error 0.05 --out model.safetensors    the lowest rank found whose error is at most 5%
  trilinear fit w.npy --params 20000 --restarts 4             the highest rank within a budget, the best of five fits
  trilinear fit w.npy --sweep --save report.html              the error of each of several ranks, as table and plots
  trilinear fit w.npy --sweep 8,16,32 --error 0.1 --out model.safetensors
  trilinear fit w.npy --rank 16 --samples z.npy x.npy         for inputs like these
  trilinear fit w.npy --rank 12 --block 16                    12 block terms of rank 16
  trilinear fit w.npy --rank 16 --warm model.safetensors --iterations 0 --samples z.npy x.npy   errors of a model

MODEL.safetensors has the tensors a [K, R], b [I, R], c [J, R] and lambda [R]; its metadata say `axes`: which axes of W
they are for. Ctrl-C ends a fit after its iteration, and what there is by then is printed and written.

Exit codes: 0 success; 1 no fit is as good as --error asks, and nothing was written; 2 wrong options, files or shapes.";

/// Fit a low-rank W to the tensor in a file.
#[derive(clap::Args)]
#[command(after_help = HELP)]
#[command(group = clap::ArgGroup::new("goal").args(["rank", "error", "params", "sweep"]).multiple(true).required(true))]
pub(crate) struct Args {
    /// W: [K, I, J] unless --w-axes says otherwise
    #[arg(value_name = "FILE[:NAME]")]
    file: String,
    /// Order of W's axes in the file, such as x,z,out
    #[arg(long, value_name = "ORDER", default_value = "out,z,x", value_parser = parse_axes)]
    w_axes: Axes,
    /// The number of components
    #[arg(long, value_name = "R", conflicts_with_all = ["error", "params", "sweep"])]
    rank: Option<NonZeroUsize>,
    /// Fit R block terms, each with so many columns of b and c for one of a: W[k] = Σ a[k,r] B_r diag(λ_r) C_rᵀ. They are
    /// written as the CP factors that they are
    #[arg(long, value_name = "L", conflicts_with_all = ["error", "sweep"])]
    block: Option<NonZeroUsize>,
    /// The lowest rank with at most this relative error: ranks are doubled, then bisected
    #[arg(long, value_name = "E", conflicts_with = "params", value_parser = parse_error)]
    error: Option<f64>,
    /// The highest rank with at most so many parameters
    #[arg(long, value_name = "N")]
    params: Option<NonZeroUsize>,
    /// The errors of these ranks [default: 1, 2, 4, … up to --max-rank], of which --error or --params choose one
    #[arg(long, value_name = "R,R,…", num_args = 0..=1, value_delimiter = ',')]
    sweep: Option<Vec<NonZeroUsize>>,
    /// The highest rank that --error and --sweep try [default: the highest with fewer parameters than W; for --sweep at most 64]
    #[arg(long, value_name = "R", conflicts_with_all = ["rank"])]
    max_rank: Option<NonZeroUsize>,
    /// Write the factors here: the fit that was asked for
    #[arg(long, value_name = "MODEL.safetensors")]
    out: Option<String>,
    /// Write table and plots here
    #[arg(long, value_name = "REPORT.html")]
    save: Option<PathBuf>,
    /// Further starts from random factors, of which the best is taken
    #[arg(long, value_name = "N", default_value_t = 0)]
    restarts: usize,
    /// The first start: leading singular vectors of W's unfoldings, or random factors
    #[arg(long, value_enum, default_value_t = First::Hosvd)]
    init: First,
    /// Start from the factors in this file, which `fit` wrote
    #[arg(long, value_name = "MODEL.safetensors", conflicts_with_all = ["init", "sweep", "error"])]
    warm: Option<String>,
    /// Of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Iterations of each start, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    iterations: usize,
    /// A start ends when an iteration changes the relative error by less
    #[arg(long, value_name = "E", default_value_t = 1e-7)]
    tolerance: f64,
    /// Penalty on the squares of the components' weights λ, as a part of ‖W‖²'s units
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    ridge: f64,
    /// No factor gets negative elements
    #[arg(long, conflicts_with = "samples")]
    nonnegative: bool,
    /// Make the error of y small for inputs like these, z [N, I] and x [N, J], rather than that of W
    #[arg(long, num_args = 2, value_names = ["Z", "X"])]
    samples: Option<Vec<String>>,
    /// f32 or f64: what is computed in and written [default: f64 for a W of f64, else f32]
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<DType>,
    /// Threads: a number, or `all`
    #[arg(long, value_name = "N", default_value = "all", value_parser = parse_threads)]
    threads: usize,
    /// Print one JSON object for each fit in place of the table
    #[arg(long)]
    json: bool,
}

/// `--init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum First {
    Hosvd,
    Random,
}

fn parse_error(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(error) if (0.0..1.0).contains(&error) => Ok(error),
        _ => bail!("expected a relative error from 0 to below 1"),
    }
}

fn parse_dtype(text: &str) -> Result<DType> {
    match text {
        "f32" => Ok(DType::F32),
        "f64" => Ok(DType::F64),
        _ => bail!("expected f32 or f64"),
    }
}

/// Fits. `false`: no fit is as good as was asked for.
pub(crate) fn run(args: Args) -> Result<bool> {
    if args.out.is_some() && args.sweep.is_some() && args.error.is_none() && args.params.is_none() {
        bail!("--sweep with --out needs --error or --params, which choose the fit that is written");
    }
    let listed = args.sweep.as_ref().is_some_and(|ranks| !ranks.is_empty());
    if args.max_rank.is_some() && (listed || args.sweep.is_none() && args.error.is_none()) {
        bail!("--max-rank is for --error, and for a --sweep without a list of ranks");
    }
    let w = source::open(&args.file)?;
    if let Some(out) = &args.out {
        let same = Path::new(out).canonicalize().is_ok_and(|out| w.place.path.canonicalize().is_ok_and(|w| w == out));
        ensure!(!same, "--out: {out} is the file that W is read from");
    }
    let default = if w.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    match args.dtype.unwrap_or(default) {
        DType::F64 => fit::<f64>(&args, &w),
        _ => fit::<f32>(&args, &w),
    }
}

/// Whether the user has pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The output that is not yet complete, which a second Ctrl-C removes.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on Ctrl-C ends the fit, and a second one the program.
fn catch_interrupts() -> Result<()> {
    let caught = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            // `exit` drops nothing.
            if let Some(file) = lock(&UNFINISHED).take() {
                let _ = std::fs::remove_file(file);
            }
            std::process::exit(130);
        }
    });
    caught.context("Ctrl-C cannot be caught")
}

/// The other tensors of a fit.
struct Operands {
    warm: Option<Model>,
    samples: Option<[Array; 2]>,
}

impl Operands {
    fn open(args: &Args) -> Result<Operands> {
        let samples = match args.samples.as_deref() {
            Some([z, x]) => Some([Array::open("samples z", z)?, Array::open("samples x", x)?]),
            _ => None,
        };
        Ok(Operands { warm: args.warm.as_deref().map(|file| Model::open("--warm", file)).transpose()?, samples })
    }

    /// `error`, with the file of the operand that it names.
    fn locate(&self, w: &Array, error: Error) -> anyhow::Error {
        let operand = match &error {
            Error::Shape { operand, .. } | Error::NotFinite { operand } => *operand,
            _ => return error.into(),
        };
        if let ("factors", Some(model)) = (operand, &self.warm) {
            return anyhow!("{error} ({})", model.factors[0].place.path.display());
        }
        let factor = |at: usize| self.warm.as_ref().map(|model| &model.factors[at]);
        let array = match operand {
            "w" => Some(w),
            "z" => self.samples.as_ref().map(|[z, _]| z),
            "x" => self.samples.as_ref().map(|[_, x]| x),
            "a" => factor(0),
            "b" => factor(1),
            "c" => factor(2),
            "lambda" => self.warm.as_ref().and_then(|model| model.lambda.as_ref()),
            _ => None,
        };
        match array {
            Some(array) => anyhow!("{error} ({}, shape {:?})", array.place, array.shape),
            None => error.into(),
        }
    }
}

fn fit<T: Real>(args: &Args, w: &Array) -> Result<bool> {
    let operands = Operands::open(args)?;
    catch_interrupts()?;
    // Before the work: that the results cannot be written is better known now.
    let output = args.out.as_deref().map(|file| Output::create_whole("--out", file)).transpose()?;
    if let Some(temporary) = output.as_ref().and_then(Output::temporary) {
        *lock(&UNFINISHED) = Some(temporary.to_owned());
    }
    let mut save = match &args.save {
        Some(path) => Some(std::fs::File::create(path).with_context(|| format!("--save {}", path.display()))?),
        None => None,
    };
    let values = w.values::<T>()?;
    let tensor = args.w_axes.view(values.view(&format!("3 axes: {}", args.w_axes))?);
    let samples = match &operands.samples {
        Some([z, x]) => Some((z.values::<T>()?, x.values::<T>()?)),
        None => None,
    };
    let data = match &samples {
        Some((z, x)) => Some([z.view("2 axes: [N, I]")?, x.view("2 axes: [N, J]")?]),
        None => None,
    };
    let warm = match &operands.warm {
        Some(Model { factors: [a, b, c], lambda }) => {
            Some(([a.values::<T>()?, b.values()?, c.values()?], lambda.as_ref().map(Array::values::<T>).transpose()?))
        }
        None => None,
    };
    let init = match (&warm, args.init) {
        (Some(([a, b, c], lambda)), _) => Init::Given {
            factors: [a.view("2 axes: [K, R]")?, b.view("2 axes: [I, R]")?, c.view("2 axes: [J, R]")?],
            lambda: lambda.as_ref().map(|lambda| lambda.view("1 axis: [R]")).transpose()?,
        },
        (None, First::Hosvd) => Init::Hosvd,
        (None, First::Random) => Init::Random,
    };

    let bar = ProgressBar::new(args.iterations as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})")?);
    let progress = |progress: &Progress| {
        let Progress { rank, start, starts, iteration, error, .. } = *progress;
        bar.set_position(iteration as u64);
        let start = if starts > 1 { format!(", start {} of {starts}", start + 1) } else { String::new() };
        bar.set_message(format!("rank {rank}{start}: error {error:.6}"));
        if INTERRUPTED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = Options {
        iterations: args.iterations,
        tolerance: args.tolerance,
        restarts: args.restarts,
        seed: args.seed,
        init,
        ridge: args.ridge,
        nonnegative: args.nonnegative,
        data,
        context: Some(Context::new(trilinear::Device::Cpu)?.with_threads(args.threads)?),
        progress: Some(&progress),
        ..Options::new(0)
    };
    let fits = fits(args, tensor, &options).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => operands.locate(w, error),
        Err(error) => error,
    });
    bar.finish_and_clear();
    let fits = fits?;

    let chosen = chosen(args, &fits);
    let rows: Vec<Fit> = fits.iter().enumerate().map(|(at, cp)| Fit::of(cp, chosen == Some(at))).collect();
    let title = format!("{}, {:?} as {}, {}", w.place, w.shape, args.w_axes, T::DTYPE);
    let mut out = std::io::stdout().lock();
    if args.json {
        for row in &rows {
            writeln!(out, "{}", row.json(&w.place.to_string()))?;
        }
    } else {
        writeln!(out, "{title}\n{}", report::table(&rows))?;
    }
    if let (Some(file), Some(path)) = (&mut save, &args.save) {
        let html = plots::fit_html(&title, &rows)?;
        file.write_all(html.as_bytes()).with_context(|| format!("--save {}", path.display()))?;
    }
    if fits.iter().any(|cp| cp.report.stopped == Stopped::Cancelled) {
        eprintln!("note: interrupted; these are the best fits until then");
    }
    let Some(cp) = chosen.and_then(|at| fits.get(at)) else {
        if let Some(error) = args.error {
            eprintln!("no fit has an error of at most {error}; a higher --max-rank, --restarts or --iterations may");
        }
        if let Some(budget) = args.params {
            eprintln!("no fit has at most {budget} parameters, and nothing was written");
        }
        return Ok(args.error.is_none() && args.params.is_none());
    };
    if let Some(mut output) = output {
        let mut about = vec![
            ("format", "trilinear cp".to_owned()),
            ("source", w.place.to_string()),
            ("relative_error", cp.report.error.to_string()),
        ];
        about.extend(args.block.map(|block| ("columns_of_a_block", block.to_string())));
        Model::write(&mut output, [&cp.a, &cp.b, &cp.c], &cp.lambda, about)?;
    }
    Ok(true)
}

/// The fits that are asked for, by rank.
fn fits<T: Real>(args: &Args, w: View<'_, T, 3>, options: &Options<'_, T>) -> Result<Vec<Cp<T>>> {
    let [k, i, j] = w.shape();
    let columns = args.block.map_or(1, NonZeroUsize::get);
    let component = k.saturating_add(columns.saturating_mul(i.saturating_add(j)));
    let of_rank = |rank| {
        let options = Options { rank, ..*options };
        match args.block {
            Some(block) => Ok(vec![decompose::block_terms(w, block.get(), &options)?.to_cp()?]),
            None => Ok(vec![decompose::cp(w, &options)?]),
        }
    };
    if let Some(rank) = args.rank {
        return of_rank(rank.get());
    }
    // A CP with as many parameters as W has nothing for it; nor can a rank be higher than these products.
    let products = [(i, j), (k, j), (k, i)].map(|(p, q)| p.saturating_mul(q));
    let most = products.into_iter().min().unwrap_or(1).max(1);
    let even = k.saturating_mul(i).saturating_mul(j).checked_div(component).unwrap_or(1).clamp(1, most);
    if let Some(ranks) = &args.sweep {
        let highest = args.max_rank.map_or(even.min(64), NonZeroUsize::get);
        let ranks: Vec<usize> = match ranks.as_slice() {
            [] => std::iter::successors(Some(1), |rank: &usize| rank.checked_mul(2))
                .take_while(|&r| r <= highest)
                .collect(),
            ranks => ranks.iter().copied().map(NonZeroUsize::get).collect(),
        };
        return Ok(decompose::sweep(w, &ranks, options)?.fits);
    }
    if let Some(error) = args.error {
        let rank = args.max_rank.map_or(even, NonZeroUsize::get);
        return Ok(decompose::search(w, error, &Options { rank, ..*options })?.fits);
    }
    let budget = args.params.map_or(0, NonZeroUsize::get);
    let rank = budget.checked_div(component).unwrap_or(1).min(most / columns);
    ensure!(rank > 0, "--params {budget}: one component has {component} parameters already, for W {:?}", w.shape());
    of_rank(rank)
}

/// Which of the fits is the one that is asked for; none of a plain sweep, or if none is good enough.
fn chosen<T: Real>(args: &Args, fits: &[Cp<T>]) -> Option<usize> {
    match (args.error, args.params) {
        (Some(error), _) => fits.iter().position(|cp| cp.report.error <= error),
        (None, Some(most)) => fits.iter().rposition(|cp| cp.report.parameters[1] <= most.get()),
        (None, None) => {
            if args.sweep.is_none() {
                fits.len().checked_sub(1)
            } else {
                None
            }
        }
    }
}

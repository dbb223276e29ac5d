//! The `trilinear` command: benchmarks, costs, fits, a self-test, this machine's devices, and interactions of files.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod baselines;
mod bench;
mod cases;
mod check;
mod count;
#[cfg(feature = "cuda")]
mod cuda;
mod devices;
mod exact;
mod fit;
mod formats;
mod forms;
mod host;
mod measure;
mod operands;
mod plots;
mod report;
mod run;
mod work;

/// Multiplicative interactions y = zᵀWx + zᵀU + Vx + b on this machine.
#[derive(Parser)]
#[command(version, about, long_about = LONG_ABOUT, after_help = ENVIRONMENT, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Multiplicative interactions y = zᵀWx + zᵀU + Vx + b on this machine: how fast they are here, whether every kernel is \
right here, and the operation itself on files.

Exit codes: 0 success; 1 a self-test failed, or no fit is as good as asked for; 2 wrong options, files or shapes.";

const ENVIRONMENT: &str = "\
Environment:
  TRILINEAR_DEVICE  the default device: auto, cpu or cuda:N
  TRILINEAR_SIMD    a SIMD level to use in place of the best: portable, neon, avx2 or avx512";

#[derive(Subcommand)]
enum Command {
    /// Measure the named shapes against this machine's limits and against other ways to compute them.
    Bench(bench::Args),
    /// Fit a low-rank W to the tensor in a file.
    Fit(fit::Args),
    /// Apply an interaction to files.
    Run(run::Args),
    /// Count parameters, FLOPs, bytes and predicted time of each form of W.
    Count(count::Args),
    /// Show what this machine offers, and which kernels are chosen.
    Devices(devices::Args),
    /// Test every kernel that this machine can run against the reference.
    Check(check::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(args).map(|()| true),
        Command::Fit(args) => fit::run(args),
        Command::Run(args) => run::run(args).map(|()| true),
        Command::Count(args) => count::run(args).map(|()| true),
        Command::Devices(args) => devices::run(args).map(|()| true),
        Command::Check(args) => check::run(args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // The reader of our output (`| head`) has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

//! `trilinear devices`: what this machine offers, and which kernels are chosen.

use std::io::Write;

use anyhow::Result;
use tabled::builder::Builder;
use tabled::settings::Style;
use trilinear::{Context, DType, Device, Element, Interaction, SimdLevel, View, bf16, f16};

use crate::{bench, host, measure};

const EXAMPLES: &str = "\
Examples:
  trilinear devices                            this machine, and its best kernels
  TRILINEAR_SIMD=portable trilinear devices    the kernels of another SIMD level";

/// Options of `devices`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

/// Prints it.
pub(crate) fn run(_: Args) -> Result<()> {
    let context = Context::from_env()?;
    let mut out = std::io::stdout();
    writeln!(out, "processor  {}, {} thread(s)", host::cpu_name(), host::threads())?;
    let caches: Vec<String> =
        host::caches().iter().map(|cache| format!("L{} {}", cache.level, host::bytes(cache.bytes as f64))).collect();
    writeln!(out, "caches     {}", if caches.is_empty() { "unknown".into() } else { caches.join(", ") })?;
    let memory = host::available_memory().map_or("unknown".into(), |bytes| host::bytes(bytes as f64));
    writeln!(out, "memory     {memory} available")?;

    let mut devices = Builder::default();
    devices.push_record(["device", "state"]);
    let cuda = Device::cuda_devices().unwrap_or(0).max(1);
    for device in std::iter::once(Device::Cpu).chain((0..cuda).map(Device::Cuda)) {
        let state = match device.describe() {
            Ok(what) if device == context.device() => format!("{what}; chosen"),
            Ok(what) => what,
            Err(trilinear::Error::Device { reason, .. }) => format!("unavailable: {reason}"),
            Err(error) => format!("unavailable: {error}"),
        };
        devices.push_record([device.to_string(), state]);
    }
    writeln!(out, "\n{}", devices.build().with(Style::sharp()))?;

    let mut kernels = Builder::default();
    kernels.push_record(["SIMD level", "state", "f32 kernel", "f64 kernel", "f16 kernel", "bf16 kernel"]);
    for level in SimdLevel::ALL {
        let mut cells = vec![level.to_string()];
        match context.with_device(Device::Cpu)?.with_simd(level) {
            Ok(at_level) => {
                cells.push(if level == context.simd() { "available, chosen" } else { "available" }.into());
                cells.push(kernel::<f32>(at_level)?);
                cells.push(kernel::<f64>(at_level)?);
                cells.push(kernel::<f16>(at_level)?);
                cells.push(kernel::<bf16>(at_level)?);
            }
            Err(_) => {
                cells.push("not on this processor".into());
                cells.resize(6, String::new());
            }
        }
        kernels.push_record(cells);
    }
    writeln!(out, "{}", kernels.build().with(Style::sharp()))?;

    let mut limits = Builder::default();
    limits.push_record(["threads", "f32 peak", "f64 peak", "reads memory at"]);
    let all = host::threads();
    for threads in if all > 1 { vec![1, all] } else { vec![1] } {
        limits.push_record([
            threads.to_string(),
            format!("{:.1} GFLOP/s", bench::peak(&context, DType::F32, threads)? / 1e9),
            format!("{:.1} GFLOP/s", bench::peak(&context, DType::F64, threads)? / 1e9),
            format!("{:.1} GB/s", measure::bandwidth(&context, threads)? / 1e9),
        ]);
    }
    writeln!(out, "{}", limits.build().with(Style::sharp()))?;
    Ok(())
}

/// The name of the kernel that a layer of this type would run.
fn kernel<T: Element>(context: Context) -> Result<String> {
    let weights = [T::default(); 8];
    let layer = Interaction::dense(View::new(&weights, [2, 2, 2])?)?.with_context(context);
    Ok(layer.plan(1)?.kernel.to_owned())
}

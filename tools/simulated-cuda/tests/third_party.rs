//! Kernels that nobody here wrote as PTX (Triton's, and nvcc's from NVIDIA's own headers), against NumPy, through cudarc
//! and the driver. `third_party/generate.py` made the fixtures; `third_party/run` makes and runs them anew.

mod driver_support;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys::CUfunction_attribute_enum};
use driver_support::{context, module};
use half::{bf16, f16};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

struct Case {
    about: Value,
    data: Vec<u8>,
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn triple(value: &Value) -> (u32, u32, u32) {
    let at = |i: usize| number(&value[i]) as u32;
    (at(0), at(1), at(2))
}

/// Little-endian elements, widened; 64-bit integers lose nothing that the comparison does not see in `raw`.
fn widen(dtype: &str, raw: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        raw.chunks_exact(N).map(|chunk| read(chunk.try_into().unwrap())).collect()
    }
    match dtype {
        "i32" => each(raw, |b| i32::from_le_bytes(b).into()),
        "u32" => each(raw, |b| u32::from_le_bytes(b).into()),
        "i64" => each(raw, |b| i64::from_le_bytes(b) as f64),
        "f16" => each(raw, |b| f16::from_le_bytes(b).into()),
        "bf16" => each(raw, |b| bf16::from_le_bytes(b).into()),
        "f32" => each(raw, |b| f32::from_le_bytes(b).into()),
        "f64" => each(raw, f64::from_le_bytes),
        _ => panic!("{dtype}"),
    }
}

impl Case {
    fn read(folder: &Path, name: &str) -> Self {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        Self {
            about: serde_json::from_str(&text).unwrap(),
            data: std::fs::read(folder.join(format!("{name}.bin"))).unwrap(),
        }
    }

    fn bytes(&self, at: &Value, bytes: usize) -> &[u8] {
        &self.data[number(at)..][..bytes]
    }

    /// Launches the kernel and compares; the first element that is off, if any.
    fn run(&self, context: &Arc<CudaContext>, ptx: &str) -> Result<(), String> {
        let about = &self.about;
        let stream = context.new_stream().unwrap();
        let kernel = module(context, ptx).load_function(about["kernel"].as_str().unwrap()).unwrap();
        let shared = number(&about["shared"]) as u32;
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernel.set_attribute(attribute, shared as i32).unwrap();

        let args = about["args"].as_array().unwrap();
        let mut buffers = Vec::new();
        for arg in args.iter().filter(|arg| arg.get("bytes").is_some()) {
            let bytes = number(&arg["bytes"]);
            // SAFETY: never read before the copy or the kernel has written it: the sanitizer watches.
            let mut buffer = unsafe { stream.alloc::<u8>(bytes) }.unwrap();
            if let Some(at) = arg.get("input") {
                stream.memcpy_htod(self.bytes(at, bytes), &mut buffer).unwrap();
            }
            buffers.push(buffer);
        }
        let scalars: Vec<Vec<u8>> = args.iter().map(scalar).collect();
        let mut launch = stream.launch_builder(&kernel);
        let mut next = buffers.iter_mut();
        for (arg, scalar) in args.iter().zip(&scalars) {
            match scalar.len() {
                _ if arg.get("bytes").is_some() => {
                    launch.arg(next.next().unwrap());
                }
                4 => {
                    launch.arg(<&[u8; 4]>::try_from(scalar.as_slice()).unwrap());
                }
                8 => {
                    launch.arg(<&[u8; 8]>::try_from(scalar.as_slice()).unwrap());
                }
                size => panic!("a scalar of {size} bytes"),
            }
        }
        let config = LaunchConfig {
            grid_dim: triple(&about["grid"]),
            block_dim: triple(&about["block"]),
            shared_mem_bytes: shared,
        };
        // SAFETY: the arguments are those that the fixture names.
        unsafe { launch.launch(config) }.map_err(|error| error.to_string())?;
        stream.synchronize().map_err(|error| format!("{error}: see the report above"))?;

        for (arg, buffer) in args.iter().filter(|arg| arg.get("bytes").is_some()).zip(&buffers) {
            if arg.get("expected").is_some() {
                self.compare(arg, &stream.clone_dtoh(buffer).unwrap())?;
            }
        }
        Ok(())
    }

    fn compare(&self, arg: &Value, got: &[u8]) -> Result<(), String> {
        let dtype = arg["dtype"].as_str().unwrap();
        let count = number(&arg["count"]);
        let integer = dtype.starts_with(['i', 'u']);
        let expected = self.bytes(&arg["expected"], if integer { got.len() } else { 8 * count });
        if integer && arg["unordered"] == false {
            // Exactly, also beyond 53 bits.
            let size = got.len() / count;
            let wrong = (0..count).find(|i| got[i * size..][..size] != expected[i * size..][..size]);
            return wrong.map_or(Ok(()), |i| {
                Err(format!("element {i}: {} instead of {}", widen(dtype, got)[i], widen(dtype, expected)[i]))
            });
        }
        let mut got = widen(dtype, got);
        let mut expected = widen(if integer { dtype } else { "f64" }, expected);
        let bound = match &arg["bound"] {
            Value::Null => vec![0.0; count],
            at => widen("f32", self.bytes(at, 4 * count)),
        };
        if arg["unordered"] == true {
            got.sort_by(f64::total_cmp);
            expected.sort_by(f64::total_cmp);
        }
        for (i, ((got, expected), bound)) in got.iter().zip(&expected).zip(&bound).enumerate() {
            let same = got == expected || got.is_nan() && expected.is_nan();
            if !same && !((got - expected).abs() <= *bound) {
                return Err(format!("element {i}: {got:e} instead of {expected:e} ± {bound:e}"));
            }
        }
        Ok(())
    }
}

/// A scalar's bytes; a null pointer is one of eight zeros.
fn scalar(arg: &Value) -> Vec<u8> {
    match arg.get("scalar").and_then(Value::as_str) {
        None => vec![0; 8],
        Some(hex) => (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect(),
    }
}

/// Runs every fixture whose name begins with `prefix`: each is told, all are run.
fn run_all(prefix: &str, at_least: usize) {
    let sanitizer = std::env::var_os("SIMULATED_CUDA_SANITIZER").is_none_or(|value| value != "off");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/third_party/fixtures");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    assert!(names.len() >= at_least, "{} fixtures in {}", names.len(), folder.display());
    let mut failures = Vec::new();
    for name in &names {
        let case = Case::read(&folder, name);
        if sanitizer && case.about["sanitizer"] == false {
            continue;
        }
        let ptx = std::fs::read_to_string(folder.join(case.about["ptx"].as_str().unwrap())).unwrap();
        // A context each: one that fails takes no other along.
        if let Err(error) = case.run(&context(), &ptx) {
            failures.push(format!("{name} ({}): {error}", case.about["about"].as_str().unwrap()));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), names.len(), failures.join("\n"));
}

/// One changed bit of the input: what is not computed as NumPy did is seen.
#[test]
fn a_wrong_result_is_seen() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/third_party/fixtures");
    for name in ["triton_add", "triton_matmul_bf16", "nvcc_groups_coalesced"] {
        let mut case = Case::read(&folder, name);
        let ptx = std::fs::read_to_string(folder.join(case.about["ptx"].as_str().unwrap())).unwrap();
        case.run(&context(), &ptx).unwrap();
        let first = number(&case.about["args"][0]["input"]);
        case.data[first + 1] ^= 0x40;
        let error = case.run(&context(), &ptx).unwrap_err();
        assert!(error.starts_with("element "), "{name}: {error}");
    }
}

#[test]
fn triton() {
    run_all("triton_", 14);
}

#[test]
fn nvcc_wmma() {
    run_all("nvcc_wmma", 7);
}

#[test]
fn nvcc_cooperative_groups() {
    run_all("nvcc_groups", 5);
}

#[test]
fn nvcc_cub() {
    run_all("nvcc_cub", 3);
}

#[test]
fn nvcc_half() {
    run_all("nvcc_half", 4);
}

#[test]
fn nvcc_scalar() {
    run_all("nvcc_scalar", 6);
}

#[test]
fn nvcc_cutlass() {
    run_all("nvcc_cutlass", 5);
}

/// All of them, and those that the sanitizer objects to: it must change no result.
#[test]
fn without_the_sanitizer() {
    driver_support::passes("without_the_sanitizer_alone", &[("SANITIZER", "off")]);
}

#[test]
#[ignore = "run by `without_the_sanitizer`"]
fn without_the_sanitizer_alone() {
    run_all("", 46);
}

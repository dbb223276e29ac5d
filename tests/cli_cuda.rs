//! `bench` and `check` on a CUDA device, as a user runs them: on the simulated one, which counts; and on the same under the name
//! of a GPU, where times are taken by events (which mean nothing there).
#![cfg(all(feature = "cli", feature = "cuda", target_os = "linux"))]

mod common;
#[path = "../src/bin/trilinear/cuda/peak.rs"]
mod peak;
#[path = "../src/bin/trilinear/work.rs"]
#[allow(dead_code, reason = "what the command prints")]
mod work;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use peak::{Arithmetic, Chip};
use serde_json::Value;
use work::{Pass, Shape, Which, Work};

/// A folder of this test's with the simulated driver under libcuda's name, and a plain cuBLAS if it is asked for. `None` where
/// there is no simulated driver.
fn libraries(test: &str, cublas: bool) -> Option<PathBuf> {
    // A real device, if there is one, is not what these tests are about.
    if std::env::var("TRILINEAR_TEST_CUDA").is_ok_and(|what| matches!(&*what, "none" | "device")) {
        println!("skipped: the simulated device was not asked for");
        return None;
    }
    let driver = match common::cuda::build() {
        Ok(driver) => driver,
        Err(why) => {
            assert_ne!(std::env::var("TRILINEAR_TEST_REQUIRE").as_deref(), Ok("cuda"), "{why}");
            println!("skipped: no simulated device ({why})");
            return None;
        }
    };
    let folder = driver.with_file_name(format!("cli-cuda-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    symlink(&driver, folder.join("libcuda.so")).unwrap();
    if cublas {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cublas.rs");
        let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
        let mut rustc = Command::new(if rustc.exists() { rustc } else { "rustc".into() });
        rustc.args(["--edition", "2024", "-O", "--crate-type", "cdylib", "-o"]).arg(folder.join("libcublas.so"));
        let compiled = rustc.arg(source).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    }
    Some(folder)
}

/// The command with these libraries and properties of the simulated device.
fn trilinear(libraries: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trilinear"));
    command
        .args(arguments)
        .env("LD_LIBRARY_PATH", libraries)
        .env_remove("TRILINEAR_DEVICE")
        .env_remove("TRILINEAR_SIMD");
    command.envs(variables.iter().copied()).output().unwrap()
}

/// What it prints.
#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn rows(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} is a number: {row}"))
}

/// One multiprocessor, so that no depth is split, and tiles that one block makes: what a launch touches is what the model says
/// that it must, byte for byte, and it is read once.
#[test]
fn launches_touch_what_the_model_says() {
    let Some(libraries) = libraries("model", false) else { return };
    let one = [("SIMULATED_CUDA_MULTIPROCESSORS", "1")];
    let bench = |options: &[&str]| {
        rows(&trilinear(&libraries, &one, &[&["bench", "--device", "cuda:0", "--json"], options].concat()))
    };
    let dense = ["--shape", "48,8,16,12", "--pass", "both", "--dtype", "f32,f64,bf16", "--gradient", "all,z,x,w"];
    let cp = ["--shape", "24,12,20,28,16", "--form", "cp", "--pass", "both", "--dtype", "f32,f16"];
    let saved = ["--shape", "24,12,20,28,16", "--form", "cp", "--pass", "both", "--saved"];
    let rows: Vec<Value> = [&dense[..], &cp, &saved].into_iter().flat_map(bench).collect();
    assert_eq!(rows.len(), 3 * 4 + 2 + 1);
    for row in &rows {
        assert!(row["simulated"] == true && row.get("seconds").is_none() && row.get("gflops").is_none(), "{row}");
        let launches = row["launches"].as_array().unwrap();
        for launch in launches {
            let (read, written) = (number(launch, "minimum_read_bytes"), number(launch, "minimum_written_bytes"));
            assert_eq!(number(&launch["global_loads"], "unique_bytes"), read, "{row}");
            assert_eq!(number(&launch["global_stores"], "unique_bytes"), written, "{row}");
            assert_eq!(number(launch, "distinct_bytes"), read + written);
            assert!(number(launch, "moved_bytes") >= read + written && number(launch, "ratio") >= 1.0, "{launch}");
            assert_eq!(number(launch, "inner_conflicts"), 0.0, "{launch}");
            assert!(number(launch, "barriers") > 0.0);
        }
        // A call as one step moves no more than its launches.
        let least: f64 = launches
            .iter()
            .map(|launch| number(launch, "minimum_read_bytes") + number(launch, "minimum_written_bytes"))
            .sum();
        assert!(number(row, "minimum_bytes") <= least && number(row, "moved_bytes") >= least, "{row}");
    }
    // Dense in f32, all gradients: y; dz and dx; dW.
    let kernels: Vec<&str> =
        rows[0]["launches"].as_array().unwrap().iter().map(|launch| launch["kernel"].as_str().unwrap()).collect();
    assert!(kernels[0].starts_with("contract_f32") && kernels[1].starts_with("contract_f32"), "{kernels:?}");
    assert!(kernels.len() == 3 && kernels[2].starts_with("gram_f32"), "{kernels:?}");
}

/// Tensor cores, and tf32 only where it is allowed.
#[test]
fn tensor_cores_are_counted() {
    let Some(libraries) = libraries("tensor", false) else { return };
    // All gradients of CP in 16 bits.
    let cp =
        ["bench", "--device", "cuda:0", "--json", "--shape", "24,12,20,28,16", "--form", "cp", "--pass", "backward"];
    for row in rows(&trilinear(&libraries, &[], &[&cp[..], &["--dtype", "f16,bf16"]].concat())) {
        let launches = row["launches"].as_array().unwrap();
        assert!(launches.len() == 3 && launches.iter().all(|launch| number(launch, "tensor_share") > 0.0), "{row}");
    }
    for (options, uses) in
        [(&["--dtype", "f32"][..], false), (&["--dtype", "f32", "--tf32"], true), (&["--dtype", "f16"], true)]
    {
        let call = ["bench", "--device", "cuda:0", "--json", "--shape", "32,8,32,32"];
        let rows = rows(&trilinear(&libraries, &[], &[&call, options].concat()));
        let launch = &rows[0]["launches"][0];
        assert_eq!(number(launch, "tensor_share") > 0.0, uses, "{rows:?}");
        assert_eq!(launch["classes"].get("matrix").is_some(), uses);
        assert_eq!(rows[0]["tf32"], options.contains(&"--tf32"));
    }
}

/// The table has no times; a call that is too large is skipped, and a file is saved.
#[test]
fn counts_are_printed_and_large_shapes_skipped() {
    let Some(libraries) = libraries("table", false) else { return };
    let path = libraries.join("report.html");
    let shapes = ["bench", "--device", "cuda:0", "--shape", "16,8,8,8,4", "--shape", "512,256,256,256"];
    let output = trilinear(&libraries, &[], &[&shapes[..], &["--save", path.to_str().unwrap()]].concat());
    let (table, skipped) = (stdout(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    for text in ["Simulated CUDA device", "1 × contract_f32_16x128x32", "× hidden_f32_", "ffma", "2 launches"] {
        assert!(table.contains(text), "{text} in {table}");
    }
    for text in ["GFLOP/s", " ms", " µs", "peak"] {
        assert!(!table.contains(text), "{text} in {table}");
    }
    assert!(skipped.contains("skipped 512,256,256,256") && skipped.contains("MFLOP"), "{skipped}");
    let html = std::fs::read_to_string(&path).unwrap();
    assert!(html.contains("hidden_f32_") && html.contains("skipped 512,256,256,256"), "{html}");
    let output = trilinear(&libraries, &[], &["bench", "--device", "cuda:0", "--shape", "512,256,256,256"]);
    assert_eq!(output.status.code(), Some(2));
}

/// A device that is not named as the simulated one is: the path of a GPU.
const GPU: [(&str, &str); 2] = [("SIMULATED_CUDA_NAME", "NVIDIA Test"), ("SIMULATED_CUDA_MEMORY", "32M")];

/// Times by events, the peak by attributes, and no cuBLAS.
#[test]
fn a_gpu_is_timed() {
    let Some(libraries) = libraries("timed", false) else { return };
    let call = ["bench", "--device", "cuda:0", "--shape", "16,8,8,8,4", "--seconds", "0.01", "--dtype", "f32,f16"];
    let output = trilinear(&libraries, &GPU, &[&call[..], &["--json", "--pass", "both"]].concat());
    let rows = rows(&output);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("no baselines: cuBLAS (libcublas) is not installed"), "{why}");
    assert_eq!(rows.len(), 4);
    for row in &rows {
        // 8 multiprocessors at the 1 GHz that the driver tells, of capability 8.0.
        let per_clock = if row["dtype"] == "f32" { 128.0 } else { 2048.0 };
        assert_eq!(number(row, "peak_gflops"), 8.0 * per_clock, "{row}");
        assert!(row["threads"].is_null() && row["device"] == "cuda:0" && row["best_baseline"].is_null(), "{row}");
        let (seconds, fastest) = (number(row, "seconds"), number(row, "fastest_seconds"));
        assert!(fastest > 0.0 && seconds >= fastest && number(row, "read_gbps") > 0.0, "{row}");
        let compute = number(row, "flops") / (number(row, "peak_gflops") * 1e9);
        let memory = number(row, "bytes") / (number(row, "read_gbps") * 1e9);
        assert!((number(row, "fraction") / (compute.max(memory) / seconds) - 1.0).abs() < 1e-9, "{row}");
    }
    let path = libraries.join("report.html");
    let table = stdout(&trilinear(&libraries, &GPU, &[&call[..], &["--save", path.to_str().unwrap()]].concat()));
    for text in ["NVIDIA Test, compute capability 8.0, 8 multiprocessors at 1.00 GHz", "in f16", "copies", "cuda:0"] {
        assert!(table.contains(text), "{text} in {table}");
    }
    assert!(std::fs::read_to_string(&path).unwrap().contains("<svg"));
    // The flushed buffer and the tensors must both fit.
    let large = ["bench", "--device", "cuda:0", "--shape", "64,256,512,512", "--seconds", "0.01"];
    let output = trilinear(&libraries, &GPU, &large);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the device's memory"), "{output:?}");
}

/// Each way by cuBLAS gives what ours gives: the command compares them before it times them.
#[test]
fn baselines_by_cublas_are_right() {
    let Some(libraries) = libraries("cublas", true) else { return };
    let quick = ["bench", "--device", "cuda:0", "--seconds", "0.001", "--json"];
    let bench = |options: &[&str]| rows(&trilinear(&libraries, &GPU, &[&quick[..], options].concat()));
    let names = |row: &Value| -> Vec<String> {
        let baselines = row["baselines"].as_array().unwrap();
        baselines.iter().map(|baseline| baseline["name"].as_str().unwrap().to_owned()).collect()
    };
    for pass in ["forward", "backward"] {
        for row in bench(&["--shape", "7,5,9,6,3", "--pass", pass, "--dtype", "f32,f64,bf16"]) {
            let expected: &[&str] = match (row["form"].as_str(), row["dtype"].as_str()) {
                (Some("dense"), _) => &["two GEMMs (cuBLAS)", "outer product + GEMM (cuBLAS)"],
                (_, Some("bf16")) => &[],
                _ => &["GEMMs (cuBLAS)"],
            };
            assert_eq!(names(&row), expected, "{row}");
            if row["form"] == "dense" && pass == "forward" {
                // N·K·I and N·I·J elements.
                let bytes = if row["dtype"] == "bf16" {
                    2.0
                } else if row["dtype"] == "f32" {
                    4.0
                } else {
                    8.0
                };
                for (index, elements) in [(0, 7.0 * 6.0 * 5.0), (1, 7.0 * 5.0 * 9.0)] {
                    assert_eq!(number(&row["baselines"][index], "intermediate_bytes"), bytes * elements, "{row}");
                }
            }
            assert_eq!(row["best_baseline"].is_null(), expected.is_empty());
        }
    }
    for gradient in ["z", "x", "w"] {
        assert_eq!(bench(&["--shape", "7,5,9,6", "--pass", "backward", "--gradient", gradient]).len(), 1);
    }
    for gradient in ["a", "b", "c"] {
        assert_eq!(bench(&["--shape", "7,5,9,6,3", "--form", "cp", "--pass", "both", "--gradient", gradient]).len(), 1);
    }
}

#[test]
fn errors_of_devices() {
    let Some(libraries) = libraries("errors", false) else { return };
    let shape = ["--shape", "8,4,4,4"];
    for (variables, arguments, why) in [
        (&[][..], &["bench", "--device", "cuda:0", "--prepared"][..], "--prepared is of the processor"),
        (&[], &["bench", "--device", "cpu", "--tf32"], "--tf32 needs a CUDA device"),
        (&[], &["bench", "--device", "cuda:3"], "cuda:3"),
        (&[("SIMULATED_CUDA_DEVICES", "0")], &["bench", "--device", "cuda:0"], "cuda:0"),
        (&[("SIMULATED_CUDA_FAIL", "kernel:1")], &["bench", "--device", "cuda:0"], "went wrong"),
        (&[], &["check", "--device", "cuda:3"], "cuda:3"),
    ] {
        let more: &[&str] = if arguments[0] == "bench" { &shape } else { &[] };
        let output = trilinear(&libraries, variables, &[arguments, more].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(why) && !message.contains("panicked"), "{arguments:?}: {message}");
    }
}

/// The peaks of data sheets: NVIDIA A100 (SXM), H100 (SXM), GeForce RTX 4090, GeForce RTX 3090, L40S, T4, B200.
#[test]
fn peaks_of_known_devices() {
    let chip = |capability, multiprocessors, megahertz: f64| Chip {
        capability,
        multiprocessors,
        clock: megahertz * 1e6,
        geforce: false,
    };
    let geforce =
        |capability, multiprocessors, megahertz| Chip { geforce: true, ..chip(capability, multiprocessors, megahertz) };
    let (f64_, f32_, tf32, half) = (Arithmetic::F64, Arithmetic::F32, Arithmetic::Tf32, Arithmetic::Half);
    for (chip, arithmetic, tera) in [
        (chip((8, 0), 108, 1410.0), f64_, 9.7),
        (chip((8, 0), 108, 1410.0), f32_, 19.5),
        (chip((8, 0), 108, 1410.0), tf32, 156.0),
        (chip((8, 0), 108, 1410.0), half, 312.0),
        (chip((9, 0), 132, 1980.0), f32_, 66.9),
        (chip((9, 0), 132, 1980.0), f64_, 33.5),
        // NVIDIA states 989 and 494 TFLOP/s for the clock of 1830 MHz.
        (chip((9, 0), 132, 1830.0), half, 989.4),
        (chip((9, 0), 132, 1830.0), tf32, 494.7),
        (geforce((8, 9), 128, 2520.0), f32_, 82.6),
        (geforce((8, 9), 128, 2520.0), half, 165.2),
        (geforce((8, 9), 128, 2520.0), tf32, 82.6),
        (geforce((8, 6), 82, 1695.0), half, 71.0),
        (chip((8, 9), 142, 2520.0), half, 362.0),
        (chip((7, 5), 40, 1590.0), f32_, 8.1),
        (chip((7, 5), 40, 1590.0), half, 65.0),
    ] {
        let peak = chip.peak(arithmetic).unwrap() / 1e12;
        assert!((peak / tera - 1.0).abs() < 0.015, "{chip:?} {arithmetic:?}: {peak}");
    }
    assert_eq!(chip((7, 5), 40, 1590.0).peak(tf32), None);
    assert_eq!(chip((99, 0), 1, 1.0).peak(f32_), None);
}

/// The least that launches must move, counted by hand: 2 bytes of storage, 4 of accumulators.
#[test]
fn least_bytes_of_launches() {
    let shape = Shape { n: 2, rows: 1, sharing: 1, i: 3, j: 5, k: 7, r: None };
    let (z, x, w, y) = (2 * 3, 2 * 5, 7 * 3 * 5, 2 * 7);
    let launches = |work: Work, shape| -> Vec<(&'static str, u128, u128)> {
        let launches = work.launches(shape, [2, 4]);
        launches.iter().map(|launch| (launch.operation, launch.read, launch.written)).collect()
    };
    let both = Work { pass: Pass::Both, ..Work::FORWARD };
    assert_eq!(
        launches(both, shape),
        [
            ("contract", 2 * (z + x + w), 2 * y),
            ("contract", 2 * (y + w + x + z), 4 * (z + x)),
            ("gram", 2 * (y + z + x), 4 * w),
        ]
    );
    let dz = Work { pass: Pass::Backward, which: Which::Z, ..Work::FORWARD };
    assert_eq!(launches(dz, shape), [("contract", 2 * (y + w + x), 4 * z)]);
    let square = Shape { j: 3, ..shape };
    let tied = Work { tied: true, ..both };
    let w = 7 * 3 * 3;
    assert_eq!(launches(tied, square)[..2], [("contract", 2 * (z + w), 2 * y), ("contract", 2 * (y + w + z), 4 * z)]);
    let cp = Shape { r: Some(11), ..shape };
    let (a, b, c, h) = (7 * 11, 3 * 11, 5 * 11, 2 * 11);
    assert_eq!(
        launches(both, cp),
        [
            ("hidden", 2 * (z + b + x + c), 4 * h),
            ("contract", 2 * a + 4 * h, 2 * y),
            ("hidden", 2 * (y + a + z + b + x + c), 4 * 3 * h),
            ("contract", 2 * (b + c) + 4 * 2 * h, 4 * (z + x)),
            ("gram", 2 * (y + z + x) + 4 * 3 * h, 4 * (a + b + c)),
        ]
    );
    let saved = Work { saved: true, ..both };
    assert_eq!(launches(saved, cp)[0], ("hidden", 2 * (z + b + x + c), 4 * 3 * h));
    assert_eq!(launches(saved, cp)[2], ("hidden", 2 * (y + a) + 4 * 2 * h, 4 * 3 * h));
    let da = Work { pass: Pass::Backward, which: Which::A, ..Work::FORWARD };
    assert_eq!(launches(da, cp), [("hidden", 2 * (z + b + x + c), 4 * h), ("gram", 2 * y + 4 * h, 4 * a)]);
    // Of one step, a call moves no more than its launches.
    for (work, shape) in [(both, shape), (dz, shape), (tied, square), (both, cp), (saved, cp), (da, cp)] {
        let all: u128 = launches(work, shape).iter().map(|launch| launch.1 + launch.2).sum();
        assert!(work.cost(shape, [2, 4]).bytes <= all, "{work:?} {shape:?}");
    }
    assert_eq!(launches(both, Shape { rows: 4, ..shape }), []);
}

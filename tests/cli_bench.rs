//! The commands `bench`, `devices` and `check`, as a user runs them.
#![cfg(feature = "cli")]

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// One command at a time: what measures time slows down what runs beside it.
static MACHINE: Mutex<()> = Mutex::new(());

fn trilinear(arguments: &[&str]) -> Output {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(env!("CARGO_BIN_EXE_trilinear"))
        .args(arguments)
        // Also where there is another device.
        .env("TRILINEAR_DEVICE", "cpu")
        .env_remove("TRILINEAR_SIMD")
        .output()
        .expect("the command starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn rows(arguments: &[&str]) -> Vec<Value> {
    let output = stdout(&trilinear(arguments));
    output.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[test]
fn bench_prints_json_with_all_fields() {
    let rows = rows(&["bench", "--shape", "8,16,16,16", "--seconds", "0.05", "--json"]);
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    for (field, expected) in [
        ("preset", Value::Null),
        ("pass", "forward".into()),
        ("form", "dense".into()),
        ("dtype", "f32".into()),
        ("threads", 1.into()),
        ("device", "cpu".into()),
        ("n", 8.into()),
        ("rows", 1.into()),
        ("i", 16.into()),
        ("j", 16.into()),
        ("k", 16.into()),
        ("r", Value::Null),
        ("prepared", false.into()),
    ] {
        assert_eq!(row.get(field), Some(&expected), "{field}");
    }
    let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field} is a number: {row}"));
    for field in
        ["seconds", "fastest_seconds", "gflops", "peak_gflops", "read_gbps", "fraction", "best_baseline_seconds"]
    {
        assert!(number(field) > 0.0, "{field}");
    }
    for field in ["kernel", "algorithm", "best_baseline"] {
        assert!(row[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    // The figures are those of one measurement.
    let flops = 2.0 * 8.0 * 16f64.powi(3);
    let bytes = 4.0 * (16f64.powi(3) + 8.0 * 48.0);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    assert!(close(number("gflops"), flops / number("seconds") / 1e9));
    let compute = flops / (number("peak_gflops") * 1e9);
    let memory = bytes / (number("read_gbps") * 1e9);
    assert!(close(number("fraction"), compute.max(memory) / number("seconds")));
    assert_eq!(row["bound"], if compute >= memory { "compute" } else { "bandwidth" });
}

#[test]
fn bench_rows_follow_the_options() {
    let quick = ["--seconds", "0.02", "--json", "--prepared", "--dtype", "f64,bf16", "--threads", "1,2"];
    let rows = rows(&[&["bench", "--shape", "6,9,10,11,5", "--preset", "mimic", "--form", "cp"], &quick[..]].concat());
    assert_eq!(rows.len(), 2 * 2 * 2 * 2); // shapes, types, thread counts, prepared or not
    assert!(rows.iter().all(|row| row["form"] == "cp"));
    let of = |preset: Value, dtype: &str, threads: u64, prepared: bool| {
        rows.iter()
            .filter(|row| row["preset"] == preset && row["dtype"] == dtype)
            .filter(|row| row["threads"] == threads && row["prepared"] == prepared)
            .count()
    };
    for dtype in ["f64", "bf16"] {
        for (threads, prepared) in [(1, false), (1, true), (2, false), (2, true)] {
            assert_eq!(of("mimic".into(), dtype, threads, prepared), 1);
            assert_eq!(of(Value::Null, dtype, threads, prepared), 1);
        }
    }
}

#[test]
fn bench_forces_an_algorithm() {
    let options = ["--seconds", "0.02", "--json", "--no-baselines", "--algorithm", "khatri-rao"];
    let rows = rows(&[&["bench", "--shape", "8,16,16,16", "--shape", "8,16,16,16,4"], &options[..]].concat());
    // The CP form is skipped: that algorithm cannot compute it.
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["algorithm"] == "khatri-rao" && row["best_baseline"].is_null()));
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} is a number: {row}"))
}

#[test]
fn bench_measures_gradients_of_dense_weights() {
    let options = ["--seconds", "0.02", "--json", "--gradient", "all,z,x,w"];
    let (n, i, j, k) = (8.0, 16.0, 12.0, 20.0);
    let nominal = 2.0 * n * i * j * k;
    for (pass, dtype, forward) in [("backward", "f32", 0.0), ("both", "bf16", 1.0)] {
        let call = ["bench", "--shape", "8,16,12,20", "--pass", pass, "--dtype", dtype];
        let rows = rows(&[&call[..], &options].concat());
        assert_eq!(rows.len(), 4);
        for row in &rows {
            let storage = if dtype == "f32" { 4.0 } else { 2.0 };
            // Operands read and results written; gradients are in f32.
            let (z, x, y, w) = (n * i, n * j, n * k, i * j * k);
            let (read, written, gradients) = match row["gradient"].as_str() {
                Some("all") => (z + x + y + w, z + x + w, 3.0),
                Some("z") => (y + w + x + forward * z, z, 1.0),
                Some("x") => (y + w + z + forward * x, x, 1.0),
                Some("w") => (y + z + x + forward * w, w, 1.0),
                other => panic!("gradient {other:?}"),
            };
            assert_eq!(row["pass"], pass);
            assert_eq!(number(row, "flops"), (gradients + forward) * nominal, "{row}");
            assert_eq!(number(row, "recomputed_flops"), 0.0);
            assert_eq!(number(row, "bytes"), storage * (read + forward * y) + 4.0 * written, "{row}");
            assert!(number(row, "seconds") > 0.0 && number(row, "fraction") > 0.0);
            assert_eq!(row["algorithm"].is_null(), pass == "backward");
            // Of the ways to compute it, all are checked, and there are some in f32.
            assert_eq!(row["best_baseline"].is_null(), dtype == "bf16");
        }
    }
}

#[test]
fn bench_measures_gradients_of_factors() {
    let options = ["--form", "cp", "--seconds", "0.02", "--json"];
    let bench = |more: &[&str]| rows(&[&["bench", "--shape", "8,16,12,20,5"], &options[..], more].concat());
    let (n, i, j, k, r) = (8.0, 16.0, 12.0, 20.0, 5.0);
    let forward = 2.0 * n * r * (i + j + k);
    let recomputed = 2.0 * n * r * (i + j);
    for (options, flops, again) in [
        (&["--pass", "backward"][..], 2.0 * forward, recomputed),
        (&["--pass", "both"], 3.0 * forward, recomputed),
        (&["--pass", "backward", "--saved"], 2.0 * forward, 0.0),
        (&["--pass", "both", "--saved"], 3.0 * forward, 0.0),
        // dA = gᵀ(P⊙Q); dz = (gA⊙Q)Bᵀ; dC = xᵀ(gA⊙P).
        (&["--pass", "backward", "--gradient", "a"], 2.0 * n * r * k, recomputed),
        (&["--pass", "backward", "--gradient", "z"], 2.0 * n * r * (k + i), 2.0 * n * r * j),
        (&["--pass", "backward", "--gradient", "c"], 2.0 * n * r * (k + j), 2.0 * n * r * i),
        (&["--pass", "backward", "--gradient", "w"], 2.0 * n * r * (2.0 * k + i + j), recomputed),
    ] {
        let rows = bench(options);
        assert_eq!(rows.len(), 1, "{options:?}");
        let row = &rows[0];
        assert_eq!(number(row, "flops"), flops + again, "{options:?}");
        assert_eq!(number(row, "recomputed_flops"), again, "{options:?}");
        assert_eq!(row["saved"], options.contains(&"--saved"));
        let floor = |flops: f64| {
            let memory = number(row, "bytes") / (number(row, "read_gbps") * 1e9);
            (flops / (number(row, "peak_gflops") * 1e9)).max(memory)
        };
        let close =
            |field: &str, flops: f64| (number(row, field) / (floor(flops) / number(row, "seconds")) - 1.0).abs() < 1e-9;
        assert!(close("fraction", flops + again) && close("nominal_fraction", flops), "{row}");
    }
}

#[test]
fn bench_measures_gradients_with_prepared_weights() {
    let options = ["--pass", "both", "--prepared", "--seconds", "0.01", "--json", "--threads", "2"];
    let rows = rows(&[&["bench", "--preset", "expressivity"], &options[..]].concat());
    assert_eq!(rows.len(), 4); // dense and CP, prepared or not
    assert!(rows.iter().all(|row| row["tied"] == false && row["gradient"] == "all"));
}

/// FLOPs by hand: forward, and of the backward pass those counted and those computed again.
#[test]
fn bench_measures_other_forms_of_w() {
    let options = ["--seconds", "0.01", "--json", "--pass", "both"];
    for (form, shape, flops, again, weights) in [
        ("diagonal", "9,20,20,20", [9 * 20, 3 * 9 * 20], 0, 20),
        ("identity", "9,20,20,1", [9 * 20 + 9, 2 * (9 * 20 + 9)], 9 * 20, 1),
        ("metric", "9,20,30,1,5", [9 * 256, 2 * 9 * 256], 9 * 255, 251),
        ("gate", "9,20,30,30", [9 * (600 + 30), 2 * 9 * (600 + 30)], 9 * 600, 600),
        ("tucker", "9,20,30,4,6", [9 * 460, 9 * (2 * 316 + 3 * 144)], 9 * (300 + 144), 460),
        ("block-term", "9,20,30,4,8", [4 * 9 * 108, 4 * 9 * (2 * 104 + 3 * 4)], 4 * 9 * 104, 4 * 108),
        ("mahalanobis", "9,20,20,1", [9 * 420, 9 * 1200], 0, 400),
    ] {
        for dtype in ["f32", "bf16"] {
            let rows = rows(&[&["bench", "--form", form, "--shape", shape, "--dtype", dtype], &options[..]].concat());
            assert_eq!(rows.len(), 1, "{form}");
            let row = &rows[0];
            assert_eq!((row["form"].as_str(), row["gradient"].as_str()), (Some(form), Some("all")));
            assert_eq!(number(row, "flops"), 2.0 * f64::from(flops[0] + flops[1] + again), "{row}");
            assert_eq!(number(row, "recomputed_flops"), 2.0 * f64::from(again), "{row}");
            let storage = if dtype == "f32" { 4.0 } else { 2.0 };
            let [n, i, j, k] = ["n", "i", "j", "k"].map(|size| number(row, size));
            let (inputs, y, weights) = (n * (i + j), n * k, f64::from(weights));
            assert_eq!(
                number(row, "bytes"),
                storage * (inputs + 2.0 * y + weights) + 4.0 * (inputs + weights),
                "{row}"
            );
            assert!(number(row, "seconds") > 0.0 && number(row, "fraction") > 0.0);
        }
    }
    // Each has a baseline, whose results are compared with ours.
    let measured = |arguments: &[&str]| rows(&[&["bench", "--seconds", "0.01", "--json"], arguments].concat());
    let unlike = ["--shape", "9,20,20,20,7", "--form", "diagonal,gate,tucker,block-term,attend"];
    let single = ["--shape", "9,20,20,1,7", "--form", "identity,metric,mahalanobis", "--dtype", "f64"];
    let shared = ["--preset", "film", "--form", "diagonal,gate"];
    for row in [measured(&unlike), measured(&single), measured(&shared)].concat() {
        assert!(row["best_baseline"].is_string(), "{row}");
    }
}

#[test]
fn bench_skips_what_cannot_be_asked_for() {
    let output = trilinear(&["bench", "--shape", "8,16,16,16,4", "--pass", "both", "--saved", "--seconds", "0.01"]);
    let table = stdout(&output);
    assert!(table.contains("both, saved") && !table.contains("dense"), "{table}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("keeps nothing"));
}

#[test]
fn bench_shares_contexts_and_prints_a_table() {
    let output = trilinear(&["bench", "--preset", "film", "--seconds", "0.02", "--threads", "2"]);
    let table = stdout(&output);
    assert!(table.contains("film 64×196,128,128,128") && table.contains("contract-context"), "{table}");
}

#[test]
fn bench_saves_a_report_with_plots() {
    let path = std::env::temp_dir().join(format!("trilinear-report-{}.html", std::process::id()));
    let file = path.to_str().expect("the temporary folder's name is UTF-8");
    stdout(&trilinear(&["bench", "--shape", "8,16,16,16,4", "--seconds", "0.02", "--prepared", "--save", file]));
    let html = std::fs::read_to_string(&path).expect("the report is there");
    std::fs::remove_file(&path).expect("the report can be removed");
    assert_eq!(html.matches("<svg").count(), 2);
    assert_eq!(html.matches("</svg>").count(), 2);
    assert!(html.contains("8,16,16,16") && html.contains("three GEMMs (gemm)"));
    assert!(!html.contains("http://") || !html.contains("src="), "everything is in the file");
}

#[test]
fn devices_names_the_kernels() {
    let output = stdout(&trilinear(&["devices"]));
    for text in ["cpu", "cuda:0", "portable", "GFLOP/s", "GB/s", &format!("{}-f32-", std::env::consts::ARCH)] {
        assert!(output.contains(text), "{text} in {output}");
    }
}

#[test]
fn check_passes() {
    let output = stdout(&trilinear(&["check", "--dtype", "f32"]));
    assert!(output.contains("cases are right"), "{output}");
    for operation in
        ["dense by khatri-rao", "dense by fused-dot", "dense by stream", "cp by cp-stream", "linear", "generate, cp"]
            .into_iter()
            .chain(["backward, dense", "backward, dense, outputs last", "backward, linear", "backward, cp"])
            .chain(["backward, shared context, dense", "backward, generate, cp"])
    {
        assert!(output.contains(operation), "{operation} in {output}");
    }
}

#[test]
fn user_errors_exit_with_2_and_say_why() {
    for (arguments, why) in [
        (&["bench", "--shape", "8,16"][..], "N,I,J,K"),
        (&["bench", "--shape", "8,0,16,16"], "N,I,J,K"),
        (&["bench", "--shape", "8,16,16,16", "--form", "cp"], "rank"),
        (&["bench", "--shape", "8,16,16,16", "--form", "tucker"], "rank"),
        (&["bench", "--shape", "8,16,15,16,4", "--form", "diagonal"], "I = J = K"),
        (&["bench", "--preset", "mimic", "--form", "gate"], "mimic"),
        (&["bench", "--shape", "8,16,16,16", "--form", "attend", "--pass", "backward"], "forward"),
        (&["bench", "--preset", "nothing"], "mimic"),
        (&["bench", "--preset", "film", "--form", "cp"], "film"),
        (&["bench", "--pass", "sideways"], "backward"),
        (&["bench", "--pass", "backward", "--gradient", "y"], "possible values"),
        (&["bench", "--gradient", "z"], "--pass backward"),
        (&["bench", "--saved"], "--pass backward"),
        (&["bench", "--pass", "backward", "--algorithm", "stream"], "--pass forward"),
        (&["bench", "--shape", "8,16,16,16", "--pass", "backward", "--gradient", "a"], "no factors"),
        (&["bench", "--shape", "8,16,16,16", "--pass", "both", "--saved"], "keeps nothing"),
        (&["bench", "--dtype", "f8"], "bf16"),
        (&["bench", "--threads", "0"], "all"),
        (&["bench", "--seconds", "0"], "seconds"),
        (&["bench", "--device", "tpu"], "cuda:N"),
        (&["bench", "--algorithm", "magic"], "khatri-rao"),
        (&["bench", "--goals", "--preset", "mimic"], "--preset"),
        (&["bench", "--shape", "8,16,16,16", "--save", "/no/such/folder/report.html"], "/no/such/folder"),
        (&["bench", "--shape", "1,1000000,1000000,1000000", "--seconds", "0.01"], "memory"),
        (&["bench", "--shape", "1,18446744073709551615,2,2", "--seconds", "0.01"], "address space"),
        (&["devices", "--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&[], "Usage"),
    ] {
        let output = trilinear(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(why), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    }
}

//! The command `count`, as a user runs it.
#![cfg(feature = "cli")]

use std::process::{Command, Output};

use serde_json::Value;
use trilinear::{Interaction, Plan, View};

fn count(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trilinear"));
    command.env_remove("TRILINEAR_DEVICE").env_remove("TRILINEAR_SIMD");
    command.arg("count").args(arguments.split_whitespace()).output().expect("the command starts")
}

/// The lines of `--json`, of a machine of 100 GFLOP/s and 10 GB/s.
fn rows(arguments: &str) -> Vec<Value> {
    let output = count(&format!("{arguments} --json --peak 100 --bandwidth 10"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("output is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn row<'a>(rows: &'a [Value], form: &str) -> &'a Value {
    rows.iter().find(|row| row["form"] == form).unwrap_or_else(|| panic!("no {form} in {rows:?}"))
}

fn forms(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["form"].as_str()).collect()
}

/// What the library says of a layer of these sizes (K, I, J), each weight one number seen as all of them.
fn plan(
    form: &str,
    [k, i, j]: [usize; 3],
    r: usize,
    call: impl Fn(Interaction<'_, f32>) -> trilinear::Result<Plan>,
) -> Plan {
    let one = [1.0f32];
    let matrix = |rows, columns| View::strided(&one, 0, [rows, columns], [0, 0]).unwrap();
    let layer = match form {
        "dense" => Interaction::dense(View::strided(&one, 0, [k, i, j], [0; 3]).unwrap()).unwrap(),
        "cp" => Interaction::cp(matrix(k, r), matrix(i, r), matrix(j, r)).unwrap(),
        _ => Interaction::linear(k, i, j).unwrap().with_u(matrix(k, i)).unwrap().with_v(matrix(k, j)).unwrap(),
    };
    call(layer).unwrap()
}

#[test]
fn every_form_of_one_shape() {
    let rows = rows("--shape 64,30,20,10,8 --core 5,6,8 --blocks 2");
    assert_eq!(forms(&rows), ["linear", "dense", "cp", "tucker", "block-term"]);
    let inputs = 64 * (30 + 20 + 10);
    for (form, parameters, multiply_adds) in [
        ("linear", 10 * (30 + 20) + 10, 10 * (30 + 20)),
        ("dense", 10 * 30 * 20, 10 * 30 * 20),
        ("cp", 8 * (10 + 30 + 20), 8 * (10 + 30 + 20)),
        ("tucker", 240 + 10 * 5 + 30 * 6 + 20 * 8, 240 + 10 * 5 + 30 * 6 + 20 * 8),
        // Two blocks of 3×3×4: the outputs' five do not divide.
        ("block-term", 2 * (36 + 10 * 3 + 30 * 3 + 20 * 4), 2 * (36 + 10 * 3 + 30 * 3 + 20 * 4)),
    ] {
        let row = row(&rows, form);
        let (flops, bytes) = (2 * 64 * multiply_adds, 4 * (inputs + parameters));
        assert_eq!(row["parameters"], parameters, "{form}");
        assert_eq!(row["flops"], flops, "{form}");
        assert_eq!(row["bytes"], bytes, "{form}");
        let (compute, memory) = (f64::from(flops) / 100e9, f64::from(bytes) / 10e9);
        assert_eq!(row["seconds"].as_f64(), Some(compute.max(memory)), "{form}");
        assert_eq!(row["bound"], if compute >= memory { "compute" } else { "bandwidth" }, "{form}");
    }
    assert_eq!(row(&rows, "block-term")["ranks"], "2 of 3×3×4");
}

#[test]
fn counts_are_those_of_plans() {
    let kij = [10, 30, 20];
    let rows_of_64 = rows("--shape 64,30,20,10,8");
    for form in ["linear", "dense", "cp"] {
        let plan = plan(form, kij, 8, |layer| layer.plan(64));
        assert_eq!(row(&rows_of_64, form)["flops"].as_u64().map(u128::from), Some(plan.flops), "{form}");
    }
    // Of a shared context.
    let shared = rows("--preset neural_process");
    for form in ["dense", "cp"] {
        let plan = plan(form, [32, 128, 128], 32, |layer| layer.plan_shared(800, 50));
        assert_eq!(row(&shared, form)["flops"].as_u64().map(u128::from), Some(plan.flops), "{form}");
    }
    // The core's slices met with z are what the rows of x meet: 800·(128·32 + 32³) + 800·50·(128·32 + 32² + 32·32).
    let multiply_adds = 800 * (4096 + 32768) + 40_000 * (4096 + 1024 + 1024);
    assert_eq!(row(&shared, "tucker")["flops"], 2 * multiply_adds);
}

#[test]
fn forms_that_only_some_shapes_have() {
    let cube = rows("--shape 7,16,16,16");
    assert_eq!(forms(&cube), ["linear", "dense", "diagonal"]);
    assert_eq!(
        (&row(&cube, "diagonal")["parameters"], &row(&cube, "diagonal")["flops"]),
        (&16.into(), &(2 * 7 * 16).into())
    );
    let metric = rows("--shape 7,16,16,1");
    assert_eq!(forms(&metric), ["linear", "dense", "identity"]);
    assert_eq!(
        (&row(&metric, "identity")["parameters"], &row(&metric, "identity")["flops"]),
        (&0.into(), &(2 * 7 * 16).into())
    );
    let huge = rows("--preset dcnv2_cross");
    assert_eq!(row(&huge, "dense")["parameters"], 3456u64.pow(3));
    // x is z: read once.
    let tied = rows("--preset bilinear_mlp --dtype bf16 --rank 3");
    assert_eq!(row(&tied, "cp")["bytes"], 2 * (2 * 16384 * 256 + 3 * 3 * 256));
    let ranks: Vec<Value> = rows("--shape 1,8,8,2 --rank 4").iter().map(|row| row["ranks"].clone()).collect();
    assert_eq!(ranks, [Value::Null, Value::Null, "R = 4".into(), "2×4×4".into(), "4 of 1×1×1".into()]);
}

#[test]
fn a_table_for_people() {
    let output = count("--preset mimic --shape 8,16,16,16");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["GFLOP/s in f32", "mimic 40,720,10,100", "8,16,16,16", "block-term", "720000", "up to R = 867"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn wrong_options() {
    for (arguments, why) in [
        ("", "--preset"),
        ("--preset nothing", "mimic"),
        ("--shape 8,16", "N,I,J,K"),
        ("--shape 8,16,16,16 --rank 0", "--rank"),
        ("--shape 8,16,16,16 --core 1,2", "P,Q,S"),
        ("--shape 8,16,16,4 --core 5,2,2", "larger than W, [4, 16, 16]"),
        ("--shape 8,16,16,16 --blocks 0", "--blocks"),
        ("--shape 8,16,16,16 --core 2,3,4 --blocks 5", "--blocks 5"),
        ("--shape 8,16,16,16,3 --blocks 4", "--blocks 4"),
        ("--shape 8,16,16,16 --peak 0", "--peak"),
        ("--shape 8,16,16,16 --dtype f8", "bf16"),
    ] {
        let output = count(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {message}");
        assert!(message.contains(why) && !message.contains("panicked"), "{arguments}: {message}");
    }
    // More than memory or an integer can have is counted all the same.
    let most = rows("--shape 1000000000,1000000000,1000000000,1000000000,1000000000");
    assert_eq!(row(&most, "dense")["parameters"].as_f64(), Some(1e27));
}

//! The command `fit`, as a user runs it, and `run` with what it writes.
#![cfg(feature = "cli")]

use std::fs;
use std::process::Output;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use trilinear::{Element, Interaction, View};

#[path = "cli_run/helpers.rs"]
mod helpers;

use helpers::{Folder, check, numbers};

const K: usize = 4;
const I: usize = 6;
const J: usize = 5;
const RANK: usize = 2;

/// W of rank 2, its parts far from parallel.
fn low_rank() -> Vec<f64> {
    let factor = |seed, len| numbers::<f64>(seed, len * RANK);
    let (a, b, c) = (factor(1, K), factor(2, I), factor(3, J));
    let element = |at: usize| {
        let (k, i, j) = (at / (I * J), at / J % I, at % J);
        (0..RANK).map(|r| a[k * RANK + r] * b[i * RANK + r] * c[j * RANK + r]).sum()
    };
    (0..K * I * J).map(element).collect()
}

/// W without any structure.
fn full() -> Vec<f64> {
    numbers(5, K * I * J)
}

fn fit(folder: &Folder, arguments: &str) -> Output {
    folder.command(&format!("fit {arguments}")).output().unwrap()
}

/// The rows of `--json`, of a fit that ends with this exit code.
fn rows(folder: &Folder, code: i32, arguments: &str) -> Vec<Value> {
    let output = fit(folder, &format!("{arguments} --json"));
    assert_eq!(output.status.code(), Some(code), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn error(row: &Value) -> f64 {
    row["error"].as_f64().unwrap()
}

/// A model's factors and weights, in the type that it is stored in.
struct Factors<T> {
    tensors: Vec<(Vec<usize>, Vec<T>)>,
}

impl<T: Element> Factors<T> {
    fn read(folder: &Folder, name: &str) -> Self {
        let bytes = fs::read(folder.0.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |name| {
            let tensor = file.tensor(name).unwrap();
            let number = |bytes: &[u8]| match *bytes {
                [a, b, c, d] => T::from_f64(f32::from_le_bytes([a, b, c, d]).into()),
                _ => T::from_f64(f64::from_le_bytes(bytes.try_into().unwrap())),
            };
            (tensor.shape().to_vec(), tensor.data().chunks(size_of::<T>()).map(number).collect())
        };
        Factors { tensors: ["a", "b", "c", "lambda"].map(tensor).into() }
    }

    fn layer(&self) -> Interaction<'_, T> {
        let [a, b, c] = [0, 1, 2].map(|at| {
            let (shape, values) = &self.tensors[at];
            View::new(values, [shape[0], shape[1]]).unwrap()
        });
        Interaction::cp(a, b, c).unwrap().with_lambda(View::vector(&self.tensors[3].1)).unwrap()
    }
}

/// ‖W − Ŵ‖ / ‖W‖, by its definition.
fn distance<T: Element>(layer: &Interaction<'_, T>, w: &[f64]) -> f64 {
    let dense = layer.to_dense().unwrap();
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut dense.as_slice().iter().zip(w).map(|(ours, w)| ours.to_f64() - w));
    (difference / square(&mut w.iter().copied())).sqrt()
}

fn round_trip<T>(name: &str, rounding: f64)
where
    T: Element + Into<f64> + npyz::AutoSerialize + npyz::Deserialize,
{
    let folder = Folder::new(name);
    let narrow = |values: &[f64]| values.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>();
    let (w, z, x) = (full(), numbers::<T>(8, 3 * I), numbers::<T>(9, 3 * J));
    folder.npy("w.npy", &[K, I, J], &narrow(&w));
    folder.npy("z.npy", &[3, I], &z);
    folder.npy("x.npy", &[3, J], &x);
    let fits = rows(&folder, 0, "w.npy --rank 3 --out model.safetensors");
    assert_eq!(fits.len(), 1);
    assert_eq!((&fits[0]["rank"], &fits[0]["parameters"]), (&3.into(), &(3 * (K + I + J)).into()));
    assert_eq!((&fits[0]["dense_parameters"], &fits[0]["chosen"]), (&(K * I * J).into(), &true.into()));
    let factors = Factors::<T>::read(&folder, "model.safetensors");
    let shapes: Vec<&[usize]> = factors.tensors.iter().map(|(shape, _)| shape.as_slice()).collect();
    assert_eq!(shapes, [&[K, 3][..], &[I, 3], &[J, 3], &[3]]);
    // The reported error is that of the factors in the file. It is the root of a difference of sums of squares: rounding by ε
    // of an error² of some size moves the root by ε over the root.
    let (reported, measured) = (error(&fits[0]), distance(&factors.layer(), &w));
    assert!(measured > 0.1 && (reported - measured).abs() < rounding / measured, "{reported} is not {measured}");
    folder.succeeds("--cp model.safetensors --z z.npy --x x.npy --out y.npy");
    let (shape, y) = folder.read::<T>("y.npy");
    assert_eq!(shape, [3, K as u64]);
    check(&factors.layer(), View::new(&z, [3, I]).unwrap(), View::new(&x, [3, J]).unwrap(), &y);
}

#[test]
fn what_fit_writes_is_what_run_computes_f32() {
    // Of sums in f32 over all elements of W.
    round_trip::<f32>("fit-f32", (K * I * J) as f64 * f64::from(f32::EPSILON));
}

#[test]
fn what_fit_writes_is_what_run_computes_f64() {
    round_trip::<f64>("fit-f64", (K * I * J) as f64 * f64::EPSILON);
}

#[test]
fn ranks_for_errors_and_budgets() {
    let folder = Folder::new("fit-goals");
    folder.npy("w.npy", &[K, I, J], &low_rank());
    folder.npy("full.npy", &[K, I, J], &full());
    let fits = rows(&folder, 0, "w.npy --error 1e-4 --iterations 2000 --tolerance 0 --out model.safetensors");
    let chosen: Vec<&Value> = fits.iter().filter(|row| row["chosen"] == true).collect();
    assert!(chosen.len() == 1 && chosen[0]["rank"] == RANK && error(chosen[0]) <= 1e-4, "{fits:?}");
    assert!(fits.iter().all(|row| row["chosen"] == true || error(row) > 1e-4), "{fits:?}");
    let factors = Factors::<f64>::read(&folder, "model.safetensors");
    assert!(distance(&factors.layer(), &low_rank()) <= 1.001e-4);

    // Out of reach: exit code 1, and nothing is written.
    let before = folder.files();
    let fits = rows(&folder, 1, "full.npy --error 0.01 --max-rank 2 --out other.safetensors");
    assert!(!fits.is_empty() && fits.iter().all(|row| row["chosen"] == false && error(row) > 0.01));
    assert_eq!(folder.files(), before);

    let fits = rows(&folder, 0, &format!("full.npy --params {}", 3 * (K + I + J) + 1));
    assert!(fits.len() == 1 && fits[0]["rank"] == 3 && fits[0]["parameters"] == 3 * (K + I + J), "{fits:?}");
}

#[test]
fn sweeps() {
    let folder = Folder::new("fit-sweep");
    folder.npy("w.npy", &[K, I, J], &full());
    let fits = rows(&folder, 0, "w.npy --sweep --max-rank 8 --save report.html");
    let ranks: Vec<u64> = fits.iter().map(|row| row["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [1, 2, 4, 8]);
    assert!(fits.windows(2).all(|pair| error(&pair[1]) < error(&pair[0])), "{fits:?}");
    assert!(fits.iter().all(|row| row["chosen"] == false && !row["errors"].as_array().unwrap().is_empty()));
    let html = fs::read_to_string(folder.0.join("report.html")).unwrap();
    assert_eq!(html.matches("<svg").count(), 3);
    for part in ["Error of each rank", "Error after each iteration", "w.npy, [4, 6, 5]", "<td>8</td>", "rank 8"] {
        assert!(html.contains(part), "{part}");
    }

    let fits = rows(&folder, 0, &format!("w.npy --sweep 2,5 --params {} --out model.safetensors", 4 * (K + I + J)));
    assert_eq!(fits.iter().map(|row| &row["chosen"]).collect::<Vec<_>>(), [&Value::Bool(true), &Value::Bool(false)]);
    assert_eq!(Factors::<f64>::read(&folder, "model.safetensors").layer().rank(), Some(2));

    let output = fit(&folder, "w.npy --sweep 1,3");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["w.npy, [4, 6, 5] as [out, z, x], f64", "parameters", "converged"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn tensors_of_checkpoints() {
    let folder = Folder::new("fit-checkpoint");
    let bytes = |values: &[f64]| values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect::<Vec<u8>>();
    let w = |name| (name, Dtype::F32, &[K, I, J][..], bytes(&low_rank()));
    let b = ("decoder.scorer.bias", Dtype::F32, &[K][..], bytes(&[0.5; K]));
    folder.safetensors("model.safetensors", &[w("decoder.scorer.weight"), b.clone()]);
    folder.safetensors("several.safetensors", &[w("decoder.scorer.weight"), w("other"), b.clone()]);
    folder.safetensors("none.safetensors", &[b]);
    for file in [
        "model.safetensors",
        "several.safetensors:other",
        "several.safetensors:decoder.scorer",
        "several.safetensors:decoder.scorer.weight",
    ] {
        let fits = rows(&folder, 0, &format!("{file} --rank 2 --iterations 500"));
        assert!(error(&fits[0]) < 0.01, "{fits:?}");
    }
    for (file, parts) in [
        (
            "several.safetensors",
            &["2 tensors have 3 axes", "several.safetensors:other [4, 6, 5]", "decoder.scorer.weight"][..],
        ),
        ("none.safetensors", &["none.safetensors", "no tensor has 3 axes", "decoder.scorer.bias [4] F32"]),
        ("none.safetensors:decoder.scorer.bias", &["decoder.scorer.bias", "[4]", "3 axes"]),
        ("model.safetensors:nothing", &["no tensor `nothing`", "decoder.scorer.weight [4, 6, 5]"]),
        ("nowhere.npy", &["nowhere.npy", "cannot be opened"]),
    ] {
        folder.refuses(&format!("fit {file} --rank 2"), parts);
    }
}

#[test]
fn orders_of_axes() {
    let folder = Folder::new("fit-axes");
    let w = low_rank();
    // [x, z, out], of which the model is as of [out, z, x].
    let stored: Vec<f64> = (0..J * I * K).map(|at| w[(at % K * I + at / K % I) * J + at / (K * I)]).collect();
    folder.npy("xzo.npy", &[J, I, K], &stored);
    rows(&folder, 0, "xzo.npy --w-axes x,z,out --rank 2 --iterations 2000 --tolerance 0 --out model.safetensors");
    let factors = Factors::<f64>::read(&folder, "model.safetensors");
    assert!(distance(&factors.layer(), &w) < 1e-4);

    // The same model with its factors in another order, which its metadata say.
    let (z, x) = (numbers::<f64>(8, 3 * I), numbers::<f64>(9, 3 * J));
    folder.npy("z.npy", &[3, I], &z);
    folder.npy("x.npy", &[3, J], &x);
    let tensors = [("c", 0), ("b", 1), ("a", 2), ("lambda", 3)].map(|(name, at)| {
        let (shape, values) = &factors.tensors[at];
        (name, shape.clone(), values.iter().flat_map(|value: &f64| value.to_le_bytes()).collect::<Vec<u8>>())
    });
    let save = |name: &str, axes: &str| {
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F64, shape.clone(), bytes).unwrap()));
        let about = [("axes".to_owned(), axes.to_owned())].into();
        folder.write(name, &safetensors::serialize(views, Some(about)).unwrap());
    };
    save("turned.safetensors", "x,z,out");
    folder.succeeds("--cp model.safetensors --z z.npy --x x.npy --out y.npy");
    folder.succeeds("--cp turned.safetensors --z z.npy --x x.npy --out turned.npy");
    let (y, turned) = (folder.read::<f64>("y.npy"), folder.read::<f64>("turned.npy"));
    assert_eq!(y, turned);
    check(&factors.layer(), View::new(&z, [3, I]).unwrap(), View::new(&x, [3, J]).unwrap(), &y.1);
    save("wrong.safetensors", "x,z,y");
    folder.fails("--cp wrong.safetensors --z z.npy --x x.npy --out q.npy", &["wrong.safetensors", "`axes`", "x,z,y"]);
}

#[test]
fn warm_starts_and_samples() {
    let folder = Folder::new("fit-warm");
    folder.npy("w.npy", &[K, I, J], &full());
    let first = rows(&folder, 0, "w.npy --rank 3 --iterations 5 --tolerance 0 --out model.safetensors");
    let cold = rows(&folder, 0, "w.npy --rank 3 --iterations 6 --tolerance 0");
    let warm = rows(&folder, 0, "w.npy --rank 3 --iterations 1 --tolerance 0 --warm model.safetensors");
    // One iteration goes on from five: the sixth, but for the rounding of normalised factors.
    assert!(
        (error(&warm[0]) - error(&cold[0])).abs() < 1e-9 && error(&warm[0]) < error(&first[0]),
        "{warm:?} {cold:?}"
    );

    // Inputs without some features: those parts of W do not matter.
    let few = |seed, features: usize| {
        let mut rows = numbers::<f64>(seed, 40 * features);
        rows.chunks_mut(features).for_each(|row| row[2..].fill(0.0));
        rows
    };
    folder.npy("z.npy", &[40, I], &few(8, I));
    folder.npy("x.npy", &[40, J], &few(9, J));
    let plain = rows(&folder, 0, "w.npy --rank 3");
    let aware = rows(&folder, 0, "w.npy --rank 3 --samples z.npy x.npy --out aware.safetensors");
    assert_eq!(plain[0]["output_error"], Value::Null);
    let output_error = aware[0]["output_error"].as_f64().unwrap();
    // A model's error on samples, without an iteration, is that of its fit, but for rounding: of 10⁻¹⁶, times S^−½.
    let again = rows(&folder, 0, "w.npy --rank 3 --iterations 0 --warm aware.safetensors --samples z.npy x.npy");
    assert!((again[0]["output_error"].as_f64().unwrap() - output_error).abs() < 1e-9, "{again:?}, {output_error}");
    // K×2×2 of W matter, which rank 3 nearly is enough for.
    assert!(output_error < 0.5 * error(&plain[0]), "{output_error}, {plain:?}");
    for (options, parts) in [
        ("--rank 2 --warm model.safetensors", &["`a`", "rank", "model.safetensors:a, shape [4, 3]"][..]),
        ("--rank 3 --warm w.npy", &["--warm: w.npy", "FILE.safetensors"]),
        ("--rank 3 --samples x.npy z.npy", &["`z`", "features", "x.npy, shape [40, 5]"]),
        ("--rank 3 --samples z.npy nowhere.npy", &["nowhere.npy"]),
    ] {
        folder.refuses(&format!("fit w.npy {options}"), parts);
    }
}

#[test]
fn non_negative_factors() {
    let folder = Folder::new("fit-nonnegative");
    let w: Vec<f64> = low_rank().into_iter().map(f64::abs).collect();
    folder.npy("w.npy", &[K, I, J], &w);
    rows(
        &folder,
        0,
        "w.npy --rank 3 --nonnegative --restarts 1 --seed 7 --init random --threads 1 --out model.safetensors",
    );
    let factors = Factors::<f64>::read(&folder, "model.safetensors");
    assert!(factors.tensors.iter().all(|(_, values)| values.iter().all(|&value| value >= 0.0)));
    assert!(distance(&factors.layer(), &w) < 0.5);
}

#[test]
fn block_terms() {
    let folder = Folder::new("fit-block");
    folder.npy("w.npy", &[K, I, J], &full());
    // A block for each output: slices of 6×5 have rank 5.
    let fits = rows(&folder, 0, &format!("w.npy --rank {K} --block 5 --out model.safetensors"));
    assert_eq!((&fits[0]["rank"], &fits[0]["parameters"]), (&(5 * K).into(), &(K * (K + 5 * (I + J))).into()));
    let factors = Factors::<f64>::read(&folder, "model.safetensors");
    assert!(distance(&factors.layer(), &full()) < 1e-7);
    let fits = rows(&folder, 0, &format!("w.npy --params {} --block 2", 2 * (K + 2 * (I + J))));
    assert_eq!((&fits[0]["rank"], &fits[0]["parameters"]), (&4.into(), &(2 * (K + 2 * (I + J))).into()));
}

#[test]
fn wrong_input() {
    let folder = Folder::new("fit-wrong");
    folder.npy("w.npy", &[K, I, J], &full());
    folder.npy("matrix.npy", &[K, I], &full()[..K * I]);
    let mut holed = full();
    holed[7] = f64::NAN;
    folder.npy("holed.npy", &[K, I, J], &holed);
    folder.npy("ints.npy", &[K, I, J], &vec![1i32; K * I * J]);
    let bytes = full().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    folder.safetensors("checkpoint.safetensors", &[("scorer.weight", Dtype::F64, &[K, I, J][..], bytes)]);
    for (arguments, parts) in [
        ("w.npy", &["--rank"][..]),
        ("w.npy --rank 0", &["--rank"]),
        ("w.npy --rank 2 --error 0.1", &["--error"]),
        ("w.npy --error 1.5", &["--error", "below 1"]),
        ("w.npy --error 0.1 --params 50", &["--params"]),
        ("w.npy --params 3", &["--params 3", "one component has 15 parameters", "[4, 6, 5]"]),
        ("w.npy --sweep --out model.safetensors", &["--error or --params"]),
        ("w.npy --sweep 1,2 --max-rank 2", &["--max-rank"]),
        ("w.npy --params 50 --max-rank 2", &["--max-rank"]),
        ("checkpoint.safetensors --rank 2 --out ./checkpoint.safetensors", &["--out", "W is read from"]),
        ("w.npy --rank 2 --out model.npy", &["--out: model.npy", "FILE.safetensors"]),
        ("w.npy --rank 2 --out nowhere/model.safetensors", &["nowhere/model.safetensors"]),
        ("w.npy --rank 2 --tolerance NaN", &["tolerance", "NaN"]),
        ("w.npy --rank 2 --block 0", &["--block"]),
        ("w.npy --rank 9 --block 3", &["rank", "27"]),
        ("w.npy --rank 99", &["rank", "99"]),
        ("w.npy --rank 2 --w-axes out,z,z", &["--w-axes"]),
        ("matrix.npy --rank 2", &["matrix.npy", "[4, 6]", "3 axes"]),
        ("holed.npy --rank 2", &["`w`", "holed.npy"]),
        ("ints.npy --rank 2", &["ints.npy", "float32"]),
    ] {
        folder.refuses(&format!("fit {arguments}"), parts);
    }
    folder.npy("z.npy", &[I], &[1.0; I]);
    for (cp, parts) in [
        ("w.npy w.npy", &["2 files", "A, B and C"][..]),
        ("w.npy", &["--cp: w.npy", "FILE.safetensors"]),
        ("nowhere.safetensors", &["nowhere.safetensors", "cannot be opened"]),
    ] {
        folder.fails(&format!("--z z.npy --x z.npy --out q.npy --cp {cp}"), parts);
    }
}

#[cfg(unix)]
#[test]
fn interrupts_end_a_fit_with_what_there_is() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let folder = Folder::new("fit-interrupt");
    folder.npy("w.npy", &[K, I, J], &full());
    let arguments = "fit w.npy --rank 2 --iterations 1000000000 --tolerance 0 --json --out model.safetensors";
    let mut command = folder.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // From when its output is there, the fit may be interrupted.
    let (start, files) = (Instant::now(), folder.files().len());
    while folder.files().len() == files {
        assert!(start.elapsed() < Duration::from_secs(60), "the fit does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(row["ended"], "interrupted");
    assert!(
        (error(&row) - distance(&Factors::<f64>::read(&folder, "model.safetensors").layer(), &full())).abs() < 1e-9
    );
}

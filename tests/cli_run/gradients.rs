//! `--grad`: a file for each gradient, against the reference; and what is refused.

use std::fs;

use npyz::{AutoSerialize, Deserialize};
use safetensors::tensor::Dtype;
use trilinear::reference::{self, Gradients, Reference};
use trilinear::{DType, Element, Interaction, View, f16};

use crate::helpers::*;

/// That a file has this shape, and numbers within the bounds.
fn within<A: Element + Deserialize>(folder: &Folder, file: &str, shape: &[usize], exact: &Reference) {
    let (found, values) = folder.read::<A>(file);
    assert_eq!(found, shape.iter().map(|&len| len as u64).collect::<Vec<_>>(), "{file}");
    assert_eq!(values.len(), exact.value.as_slice().len(), "{file}");
    for (index, (value, expected)) in values.iter().zip(exact.value.as_slice()).enumerate() {
        let bound = exact.error_bound(A::DTYPE, index);
        assert!((value.to_f64() - expected).abs() <= bound, "{file} {index}: {value} is not {expected} within {bound}");
    }
}

fn names(folder: &Folder, within: &str) -> Vec<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.0.join(within)).unwrap().map(entry).collect();
    names.sort();
    names
}

fn g<T: Element>() -> Vec<T> {
    numbers(11, N * K)
}

fn exact<T: Element>(layer: &Interaction<'_, T>, case: &Case<T>) -> Gradients {
    reference::backward(layer, case.z(), case.x(), View::new(&g::<T>(), [N, K]).unwrap()).unwrap()
}

fn forms<T: Element + AutoSerialize + Deserialize + Into<f64>>(name: &str)
where
    T::Accumulator: Deserialize,
{
    let folder = Folder::new(name);
    let case = Case::<T>::new();
    case.save(&folder);
    folder.npy("g.npy", &[N, K], &g::<T>());
    let inputs = "--z z.npy --x x.npy --grad g.npy --out-dir d";
    let linear = "--u u.npy --v v.npy --b b.npy";

    // Dense, with y as well; the folder is made.
    let said = folder.succeeds(&format!("{inputs} --w w.npy {linear} --out y.npy"));
    assert!(said.contains("gradients dz, dx, dw, du, dv, db; "), "{said}");
    assert_eq!(names(&folder, "d"), ["db.npy", "du.npy", "dv.npy", "dw.npy", "dx.npy", "dz.npy"]);
    let layer = case.with_all(case.w());
    check(&layer, case.z(), case.x(), &folder.read::<T>("y.npy").1);
    let all = exact(&layer, &case);
    within::<T::Accumulator>(&folder, "d/dz.npy", &[N, I], &all.z);
    within::<T::Accumulator>(&folder, "d/dx.npy", &[N, J], &all.x);
    within::<T::Accumulator>(&folder, "d/dw.npy", &[K, I, J], &all.w);
    within::<T::Accumulator>(&folder, "d/du.npy", &[K, I], &all.u);
    within::<T::Accumulator>(&folder, "d/dv.npy", &[K, J], &all.v);
    within::<T::Accumulator>(&folder, "d/db.npy", &[K], &all.b);

    // CP, into a folder that is there; its other files stay.
    fs::create_dir(folder.0.join("cp")).unwrap();
    folder.write("cp/notes.txt", b"mine");
    let inputs = inputs.replace("--out-dir d", "--out-dir cp");
    folder.succeeds(&format!("{inputs} --cp A.npy B.npy C.npy --lambda lambda.npy --b b.npy"));
    let files = ["da.npy", "db.npy", "db_cp.npy", "dc.npy", "dlambda.npy", "dx.npy", "dz.npy", "notes.txt"];
    assert_eq!(names(&folder, "cp"), files);
    let layer = case.cp().with_lambda(View::vector(&case.lambda)).unwrap().with_b(View::vector(&case.b)).unwrap();
    let all = exact(&layer, &case);
    let factors = all.cp.unwrap();
    within::<T::Accumulator>(&folder, "cp/dz.npy", &[N, I], &all.z);
    within::<T::Accumulator>(&folder, "cp/dx.npy", &[N, J], &all.x);
    within::<T::Accumulator>(&folder, "cp/da.npy", &[K, R], &factors.a);
    within::<T::Accumulator>(&folder, "cp/db_cp.npy", &[I, R], &factors.b);
    within::<T::Accumulator>(&folder, "cp/dc.npy", &[J, R], &factors.c);
    within::<T::Accumulator>(&folder, "cp/dlambda.npy", &[R], &factors.lambda);
    within::<T::Accumulator>(&folder, "cp/db.npy", &[K], &all.b);

    // Without a W: a linear layer.
    folder.succeeds(&format!("{} {linear}", inputs.replace("--out-dir cp", "--out-dir linear")));
    let all = exact(&case.with_all(Interaction::linear(K, I, J).unwrap()), &case);
    within::<T::Accumulator>(&folder, "linear/dz.npy", &[N, I], &all.z);
    within::<T::Accumulator>(&folder, "linear/du.npy", &[K, I], &all.u);
}

#[test]
fn f16_files() {
    forms::<f16>("grad-f16");
}

#[test]
fn f32_files() {
    forms::<f32>("grad-f32");
}

#[test]
fn f64_files() {
    forms::<f64>("grad-f64");
}

/// dW has the order of axes of W's file, and of a state dict the shapes of its weight and bias.
#[test]
fn orders_of_axes() {
    let folder = Folder::new("grad-axes");
    let case = Case::<f32>::new();
    case.save(&folder);
    folder.npy("g.npy", &[N, K], &g::<f32>());
    let call = "--z z.npy --x x.npy --grad g.npy";
    folder.succeeds(&format!("{call} --w w.npy --out-dir plain"));
    // [x, z, out] of the same numbers.
    let at = |j: usize, i: usize, k: usize| (k * I + i) * J + j;
    let order: Vec<usize> = (0..J * I * K).map(|index| at(index / (I * K), index / K % I, index % K)).collect();
    let reordered = |values: &[f32]| order.iter().map(|&index| values[index]).collect::<Vec<_>>();
    folder.npy("xzo.npy", &[J, I, K], &reordered(&case.w));
    folder.succeeds(&format!("{call} --w xzo.npy --w-axes x,z,out --out-dir xzo"));
    let (shape, found) = folder.read::<f32>("xzo/dw.npy");
    assert_eq!((shape, found), (vec![7, 5, 3], reordered(&folder.read::<f32>("plain/dw.npy").1)));

    let tensors = [("s.weight", &[K, I, J][..], &case.w), ("s.bias", &[K], &case.b)];
    let tensors = tensors.map(|(name, shape, values)| (name, Dtype::F32, shape, bytes(values)));
    folder.safetensors("m.safetensors", &tensors);
    folder.succeeds(&format!("{call} --bilinear m.safetensors:s --out-dir module"));
    assert_eq!(names(&folder, "module"), ["db.npy", "dw.npy", "dx.npy", "dz.npy"]);
    assert_eq!(folder.read::<f32>("module/dw.npy"), folder.read::<f32>("plain/dw.npy"));
}

/// Vectors, one row for many, and z that is x: each gradient has the shape of what it is for.
#[test]
fn shapes_of_inputs() {
    let folder = Folder::new("grad-shapes");
    let case = Case::<f32>::new();
    case.save(&folder);
    let (g, w) = (g::<f32>(), case.w());
    folder.npy("g.npy", &[N, K], &g);
    folder.npy("g1.npy", &[K], &g[..K]);
    folder.npy("z1.npy", &[I], &case.z[..I]);
    folder.npy("x1.npy", &[J], &case.x[..J]);
    let (z1, x1) = (View::row(&case.z[..I]), View::row(&case.x[..J]));
    let all = |z, x, rows| reference::backward(&w, z, x, View::new(&g[..rows * K], [rows, K]).unwrap()).unwrap();

    folder.succeeds("--z z1.npy --x x1.npy --w w.npy --grad g1.npy --out-dir one");
    let exact = all(z1, x1, 1);
    within::<f32>(&folder, "one/dz.npy", &[I], &exact.z);
    within::<f32>(&folder, "one/dx.npy", &[J], &exact.x);

    // One row of x for all of z: its gradients are summed.
    folder.succeeds("--z z.npy --x x1.npy --broadcast --w w.npy --grad g.npy --out-dir many");
    let exact = all(case.z(), x1.broadcast(0, N).unwrap(), N);
    within::<f32>(&folder, "many/dz.npy", &[N, I], &exact.z);
    within::<f32>(&folder, "many/dw.npy", &[K, I, J], &exact.w);
    let (shape, dx) = folder.read::<f32>("many/dx.npy");
    assert_eq!(shape, [J as u64]);
    for (j, dx) in dx.into_iter().enumerate() {
        let rows = (0..N).map(|n| n * J + j);
        let [value, magnitude] =
            [&exact.x.value, &exact.x.magnitude].map(|of| rows.clone().map(|at| of.as_slice()[at]).sum::<f64>());
        let bound = reference::error_bound(DType::F32, exact.x.depth + N, value, magnitude);
        assert!((f64::from(dx) - value).abs() <= bound, "{dx} is not {value} within {bound}");
    }

    // The same tensor twice.
    folder.npy("square.npy", &[K, I, I], &numbers::<f32>(12, K * I * I));
    folder.succeeds("--z z.npy --tied --w square.npy --grad g.npy --out-dir tied");
    assert_eq!(names(&folder, "tied"), ["dw.npy", "dz.npy"]);
    let square = numbers::<f32>(12, K * I * I);
    let layer = Interaction::dense(View::new(&square, [K, I, I]).unwrap()).unwrap();
    let exact = reference::backward(&layer, case.z(), case.z(), View::new(&g, [N, K]).unwrap()).unwrap();
    within::<f32>(&folder, "tied/dz.npy", &[N, I], &exact.tied().unwrap());
}

#[test]
fn shared_context() {
    let folder = Folder::new("grad-shared");
    let case = Case::<f32>::new();
    case.save(&folder);
    let (g, w) = (g::<f32>(), case.w());
    let probe = w.backward_shared(case.z(), View::new(&case.x, [N, 1, J]).unwrap(), View::new(&g, [N, 1, K]).unwrap());
    if let Err(error @ trilinear::Error::Unsupported { .. }) = probe {
        let call = "--z z1.npy --x x.npy --broadcast --w w.npy --grad g.npy --out-dir broadcast";
        folder.npy("z1.npy", &[1, I], &case.z[..I]);
        folder.npy("g.npy", &[N, K], &g);
        return folder.fails(call, &[&error.to_string()]);
    }
    folder.npy("z2.npy", &[2, I], &case.z[..2 * I]);
    folder.npy("x23.npy", &[2, 3, J], &case.x);
    folder.npy("g23.npy", &[2, 3, K], &g);
    folder.npy("g.npy", &[N, K], &g);
    folder.npy("z1.npy", &[1, I], &case.z[..I]);
    let all = |groups, rows| {
        let z = View::new(&case.z[..groups * I], [groups, I]).unwrap();
        let x = View::new(&case.x, [groups, rows, J]).unwrap();
        reference::backward_shared(&w, z, x, View::new(&g, [groups, rows, K]).unwrap()).unwrap()
    };
    folder.succeeds("--z z2.npy --x x23.npy --w w.npy --grad g23.npy --out-dir groups");
    let exact = all(2, 3);
    within::<f32>(&folder, "groups/dz.npy", &[2, I], &exact.z);
    within::<f32>(&folder, "groups/dx.npy", &[2, 3, J], &exact.x);
    within::<f32>(&folder, "groups/dw.npy", &[K, I, J], &exact.w);
    folder.succeeds("--z z1.npy --x x.npy --broadcast --w w.npy --grad g.npy --out-dir broadcast");
    let exact = all(1, N);
    within::<f32>(&folder, "broadcast/dz.npy", &[1, I], &exact.z);
    within::<f32>(&folder, "broadcast/dx.npy", &[N, J], &exact.x);
}

#[test]
fn what_is_refused() {
    let folder = Folder::new("grad-errors");
    Case::<f32>::new().save(&folder);
    folder.npy("g.npy", &[N, K], &g::<f32>());
    folder.npy("rows.npy", &[N + 1, K], &numbers::<f32>(1, (N + 1) * K));
    folder.npy("outputs.npy", &[N, K + 1], &numbers::<f32>(1, N * (K + 1)));
    folder.npy("cube.npy", &[1, N, K], &g::<f32>());
    folder.npy("integers.npy", &[N, K], &[1i32; N * K]);
    folder.write("file", b"not a folder");
    let call = "--z z.npy --x x.npy --w w.npy";
    for (options, parts) in [
        (
            "--grad rows.npy --out-dir d",
            ["operand `g`: its rows should number 6, but there are 7", "(rows.npy, shape [7, 3])"],
        ),
        (
            "--grad outputs.npy --out-dir d",
            ["operand `g`: its outputs should number 3, but there are 4", "outputs.npy"],
        ),
        ("--grad cube.npy --out-dir d", ["operand `grad`: cube.npy has shape [1, 6, 3]", "[N, K]"]),
        ("--grad integers.npy --out-dir d", ["operand `grad`: integers.npy", "'<i4'"]),
        ("--grad nothing.npy --out-dir d", ["operand `grad`: nothing.npy", "cannot be opened"]),
        ("--grad g.npy", ["--out-dir", "required"]),
        ("--out y.npy --out-dir d", ["--grad", "required"]),
        ("--grad g.npy --out-dir d --explain", ["--explain", "cannot be used with"]),
        ("--grad g.npy --out-dir file", ["--out-dir: file", "is not a folder"]),
        ("--grad g.npy --out-dir no/such", ["--out-dir: no/such", "cannot be created"]),
        ("--grad g.npy --out-dir d --out no/y.npy", ["--out: no/y.npy", "cannot be created"]),
    ] {
        folder.fails(&format!("{call} {options}"), &parts);
    }
    // What fails before the end leaves neither y nor an old gradient touched.
    fs::create_dir(folder.0.join("old")).unwrap();
    folder.write("old/dz.npy", b"old");
    folder.fails(&format!("{call} --grad rows.npy --out-dir old --out y.npy"), &["operand `g`"]);
    assert_eq!(names(&folder, "old"), ["dz.npy"]);
    fs::create_dir(folder.0.join("old/dx.npy")).unwrap();
    folder.fails(&format!("{call} --grad g.npy --out-dir old"), &["--out-dir: old/dx.npy", "is a directory"]);
    assert_eq!(fs::read(folder.0.join("old/dz.npy")).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("grad-readonly");
    Case::<f32>::new().save(&folder);
    folder.npy("g.npy", &[N, K], &g::<f32>());
    let path = folder.0.join("closed");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    // To the superuser nothing is closed.
    if fs::write(path.join("probe"), b"").is_ok() {
        eprintln!("skipped: permissions do not bind this user");
        return;
    }
    folder.fails(
        "--z z.npy --x x.npy --w w.npy --grad g.npy --out-dir closed",
        &["--out-dir: closed/dz.npy", "cannot be created"],
    );
}

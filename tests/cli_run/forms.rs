//! The forms that W and the inputs can have.

use std::fs;

use safetensors::tensor::Dtype;
use trilinear::{DType, Interaction, View, reference};

use crate::helpers::*;

#[test]
fn a_bilinear_state_dict() {
    let folder = Folder::new("bilinear");
    let case = Case::<f32>::new();
    case.save(&folder);
    let weight = |name| (name, Dtype::F32, &[K, I, J][..], bytes(&case.w));
    let bias = |name| (name, Dtype::F32, &[K][..], bytes(&case.b));
    folder.safetensors("plain.safetensors", &[weight("weight"), bias("bias")]);
    folder.safetensors("unbiased.safetensors", &[weight("weight")]);
    let other = ("other", Dtype::I64, &[2][..], vec![0; 16]);
    folder.safetensors("model.safetensors", &[weight("net.layer.weight"), bias("net.layer.bias"), other]);
    let (unbiased, biased) = (case.w(), case.w().with_b(View::vector(&case.b)).unwrap());
    for (file, layer) in [
        ("plain.safetensors", biased),
        ("unbiased.safetensors", unbiased),
        ("model.safetensors:net.layer", biased),
        ("model.safetensors:net.layer.", biased),
        ("model.safetensors:net.layer.weight", biased),
    ] {
        folder.succeeds(&format!("--bilinear {file} --z z.npy --x x.npy --out y.npy"));
        check(&layer, case.z(), case.x(), &folder.read::<f32>("y.npy").1);
    }
    folder.succeeds("--bilinear plain.safetensors --u u.npy --v v.npy --z z.npy --x x.npy --out y.npy");
    check(&case.with_all(unbiased), case.z(), case.x(), &folder.read::<f32>("y.npy").1);

    let inputs = "--z z.npy --x x.npy --out q.npy --bilinear";
    folder.fails(
        &format!("{inputs} model.safetensors"),
        &["--bilinear: model.safetensors", "no tensor `weight`", "net.layer.weight [3, 5, 7] F32", "other [2] I64"],
    );
    folder.fails(&format!("{inputs} model.safetensors:net"), &["no tensor `net.weight`", "net.layer.bias [3] F32"]);
    folder.fails(&format!("{inputs} w.npy"), &["--bilinear: w.npy", "FILE.safetensors:PREFIX"]);
    folder.fails(&format!("{inputs} nowhere.safetensors"), &["nowhere.safetensors", "cannot be opened"]);
    folder.safetensors("linear.safetensors", &[("weight", Dtype::F32, &[K, I * J], bytes(&case.w))]);
    folder.fails(&format!("{inputs} linear.safetensors"), &["[3, 35]", "not [out, in1, in2]"]);
    folder.safetensors("wrong.safetensors", &[weight("weight"), ("bias", Dtype::F32, &[1], vec![0; 4])]);
    folder.fails(&format!("{inputs} wrong.safetensors"), &["operand `b`", "number 3", "wrong.safetensors:bias"]);
    folder.safetensors("ints.safetensors", &[("weight", Dtype::I8, &[1, 2, 2], vec![0; 4])]);
    folder.fails(&format!("{inputs} ints.safetensors"), &["tensor `weight` holds dtype I8"]);
}

#[test]
fn every_order_of_the_axes_of_w() {
    let folder = Folder::new("axes");
    let case = Case::<f64>::new();
    case.save(&folder);
    let (lens, names) = ([K, I, J], ["out", "z", "x"]);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shape = order.map(|axis: usize| lens[axis]);
        let mut stored = Vec::new();
        for a in 0..shape[0] {
            for b in 0..shape[1] {
                for c in 0..shape[2] {
                    let mut index = [0; 3];
                    (index[order[0]], index[order[1]], index[order[2]]) = (a, b, c);
                    stored.push(case.w[(index[0] * I + index[1]) * J + index[2]]);
                }
            }
        }
        folder.npy("w.npy", &shape, &stored);
        let order = order.map(|axis| names[axis]).join(",");
        folder.succeeds(&format!("--z z.npy --x x.npy --w w.npy --w-axes {order} --out y.npy"));
        check(&case.w(), case.z(), case.x(), &folder.read::<f64>("y.npy").1);
    }
    for wrong in ["out,z,z", "out,z", "out,z,x,x", "k,i,j"] {
        folder.fails(&format!("--z z.npy --x x.npy --w w.npy --out q.npy --w-axes {wrong}"), &["--w-axes", wrong]);
    }
}

#[test]
fn single_rows_and_broadcast_ones() {
    let folder = Folder::new("rows");
    let case = Case::<f32>::new();
    case.save(&folder);
    let (z1, x1) = (case.z().slice(0, 0..1).unwrap(), case.x().slice(0, 0..1).unwrap());
    folder.npy("z1.npy", &[I], &case.z[..I]);
    folder.npy("x1.npy", &[J], &case.x[..J]);
    folder.npy("z11.npy", &[1, I], &case.z[..I]);
    let (n, k) = (N as u64, K as u64);
    let zn = z1.broadcast(0, N).unwrap();
    let xn = x1.broadcast(0, N).unwrap();
    for (options, shape, z, x) in [
        ("--z z1.npy --x x1.npy", vec![k], z1, x1),
        ("--z z11.npy --x x1.npy", vec![1, k], z1, x1),
        ("--z z1.npy --x x.npy --broadcast", vec![n, k], zn, case.x()),
        ("--z z11.npy --x x.npy --broadcast", vec![n, k], zn, case.x()),
        ("--z z.npy --x x1.npy --broadcast", vec![n, k], case.z(), xn),
        ("--z z.npy --x x.npy --broadcast", vec![n, k], case.z(), case.x()),
    ] {
        folder.succeeds(&format!("{options} --w w.npy --u u.npy --v v.npy --b b.npy --out y.npy"));
        let (given, y) = folder.read::<f32>("y.npy");
        assert_eq!(given, shape, "{options}");
        check(&case.with_all(case.w()), z, x, &y);
    }
    for options in ["--z z1.npy --x x.npy", "--z z.npy --x x1.npy"] {
        folder.fails(&format!("{options} --w w.npy --out q.npy"), &["operand `z`", "rows", "--broadcast lets"]);
    }
    folder.npy("two.npy", &[2, I], &case.z[..2 * I]);
    folder.fails(
        "--z two.npy --x x.npy --w w.npy --out q.npy --broadcast",
        &["`z`", "number 6", "two.npy, shape [2, 5]"],
    );
}

#[test]
fn a_shared_context() {
    let folder = Folder::new("shared");
    let case = Case::<f32>::new();
    case.save(&folder);
    let layer = case.with_all(case.w());
    let (groups, rows) = (N, 4);
    let many: Vec<f32> = numbers(11, groups * rows * J);
    folder.npy("many.npy", &[groups, rows, J], &many);
    folder.npy("z1.npy", &[1, I], &case.z[..I]);
    for (z, broadcast) in [("z.npy", ""), ("z1.npy", "--broadcast")] {
        let said = folder
            .succeeds(&format!("--z {z} {broadcast} --x many.npy --w w.npy --u u.npy --v v.npy --b b.npy --out y.npy"));
        assert!(said.starts_with("contract-context"), "{said}");
        let (shape, y) = folder.read::<f32>("y.npy");
        assert_eq!(shape, [groups as u64, rows as u64, K as u64]);
        for group in 0..groups {
            let row = if broadcast.is_empty() { group } else { 0 };
            let z = case.z().slice(0, row..row + 1).unwrap().broadcast(0, rows).unwrap();
            let x = View::new(&many[group * rows * J..][..rows * J], [rows, J]).unwrap();
            check(&layer, z, x, &y[group * rows * K..][..rows * K]);
        }
    }
    folder.npy("z2.npy", &[2, I], &case.z[..2 * I]);
    folder.fails("--z z2.npy --x many.npy --w w.npy --out q.npy", &["operand `z`", "groups", "number 6", "z2.npy"]);
    folder.fails("--z z1.npy --x many.npy --w w.npy --out q.npy", &["operand `z`", "--broadcast lets"]);
    folder.fails("--z many.npy --x many.npy --w w.npy --out q.npy", &["operand `z`: many.npy", "[6, 4, 7]", "[N, I]"]);
}

#[test]
fn tied_inputs() {
    let folder = Folder::new("tied");
    let case = Case::<f32>::new();
    case.save(&folder);
    let square: Vec<f32> = numbers(12, K * I * I);
    folder.npy("square.npy", &[K, I, I], &square);
    folder.succeeds("--z z.npy --tied --w square.npy --out y.npy");
    let layer = Interaction::dense(View::new(&square, [K, I, I]).unwrap()).unwrap();
    check(&layer, case.z(), case.z(), &folder.read::<f32>("y.npy").1);
    folder.fails("--z z.npy --tied --w w.npy --out q.npy", &["operand `x`", "number 7", "z.npy, shape [6, 5]"]);
    folder.fails("--z z.npy --tied --x x.npy --w w.npy --out q.npy", &["--tied", "--x"]);
    folder.fails("--z z.npy --w w.npy --out q.npy", &["--x"]);
}

#[test]
fn only_the_plan() {
    let folder = Folder::new("explain");
    let case = Case::<f32>::new();
    case.save(&folder);
    let before = folder.files();
    let output = folder.run("--explain --z z.npy --x x.npy --w w.npy");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", case.w().plan(N).unwrap()));
    assert!(output.stderr.is_empty());
    assert_eq!(folder.files(), before);
    // It refuses what the call would refuse.
    folder.fails("--explain --z z.npy --x z.npy --w w.npy", &["operand `x`", "number 7", "z.npy"]);
    folder.fails("--explain --z z.npy --x x.npy --w w.npy --out q.npy", &["--explain", "--out"]);
    folder.fails("--z z.npy --x x.npy --w w.npy", &["--out"]);
}

#[test]
fn axes_of_length_zero() {
    let folder = Folder::new("zero");
    Case::<f32>::new().save(&folder);
    folder.npy::<f32>("z0.npy", &[0, I], &[]);
    folder.npy::<f32>("x0.npy", &[0, J], &[]);
    folder.succeeds("--z z0.npy --x x0.npy --w w.npy --out y.npy");
    assert_eq!(folder.read::<f32>("y.npy"), (vec![0, K as u64], vec![]));
    folder.npy::<f32>("none.npy", &[N, 0], &[]);
    folder.npy::<f32>("w0.npy", &[K, 0, J], &[]);
    folder.succeeds("--z none.npy --x x.npy --w w0.npy --out y.npy");
    assert_eq!(folder.read::<f32>("y.npy"), (vec![N as u64, K as u64], vec![0.0; N * K]));
}

#[test]
fn threads_do_not_change_the_bits() {
    let folder = Folder::new("threads");
    let (i, j, k, n) = (48, 40, 36, 64);
    let (w, z, x): (Vec<f32>, Vec<f32>, Vec<f32>) = (numbers(1, k * i * j), numbers(2, n * i), numbers(3, n * j));
    folder.npy("w.npy", &[k, i, j], &w);
    folder.npy("z.npy", &[n, i], &z);
    folder.npy("x.npy", &[n, j], &x);
    let said = folder.succeeds("--z z.npy --x x.npy --w w.npy --threads 1 --out one.npy");
    assert!(said.contains("with 1 thread:"), "{said}");
    folder.succeeds("--z z.npy --x x.npy --w w.npy --out all.npy");
    let (one, all) = (folder.read::<f32>("one.npy"), folder.read::<f32>("all.npy"));
    assert!(one.1.iter().zip(&all.1).all(|(a, b)| a.to_bits() == b.to_bits()));
    let layer = Interaction::dense(View::new(&w, [k, i, j]).unwrap()).unwrap();
    check(&layer, View::new(&z, [n, i]).unwrap(), View::new(&x, [n, j]).unwrap(), &one.1);
}

/// Offsets past 4 GiB. The file is a hole but for its last row, and so takes no room on most disks.
#[test]
#[ignore = "reads 5 GiB"]
fn a_file_larger_than_32_bits_count() {
    use std::io::{Seek, SeekFrom, Write};
    let folder = Folder::new("big");
    let (k, i, j) = (5usize, 1 << 14, 1 << 14);
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({k}, {i}, {j}), }}\n");
    folder.raw_npy("w.npy", &header, &[]);
    let mut file = fs::File::options().append(true).open(folder.0.join("w.npy")).unwrap();
    let start = file.seek(SeekFrom::End(0)).unwrap();
    let last: Vec<f32> = numbers(1, j);
    file.set_len(start + (4 * k * i * j) as u64 - (4 * j) as u64).unwrap();
    file.write_all(&bytes(&last)).unwrap();
    let (z, x): (Vec<f32>, Vec<f32>) = (numbers(2, i), numbers(3, j));
    folder.npy("z.npy", &[i], &z);
    folder.npy("x.npy", &[j], &x);
    folder.succeeds("--z z.npy --x x.npy --w w.npy --out y.npy");
    let (shape, y) = folder.read::<f32>("y.npy");
    assert_eq!((shape, &y[..k - 1]), (vec![k as u64], &[0.0; 4][..]));
    let terms = || last.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(z[i - 1]) * f64::from(*x));
    let (value, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum());
    // The zeros add nothing: the sum is as deep as the last row is long.
    let bound = reference::error_bound(DType::F32, j + 3, value, magnitude);
    assert!((f64::from(y[k - 1]) - value).abs() <= bound, "{} is not {value} within {bound}", y[k - 1]);
}

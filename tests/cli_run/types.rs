//! Storage types, byte orders, axis orders of files, and the type to compute in.

use std::fs;

use npyz::{AutoSerialize, Deserialize, Order};
use safetensors::tensor::Dtype;
use trilinear::{Element, Interaction, View, bf16, f16};

use crate::helpers::*;

fn dtype<T: Element + AutoSerialize + Deserialize + Into<f64>>(name: &str) {
    let folder = Folder::new(name);
    let case = Case::<T>::new();
    case.save(&folder);
    let (layer, cp) = (case.w(), case.cp());
    let said = folder.succeeds("--z z.npy --x x.npy --w w.npy --u u.npy --v v.npy --b b.npy --out y.npy");
    let plan = case.with_all(layer).plan(N).unwrap();
    assert!(said.starts_with(&plan.to_string()) && said.trim_end().ends_with(" ms"), "{said}");
    let (shape, y) = folder.read::<T>("y.npy");
    assert_eq!(shape, [N as u64, K as u64]);
    check(&case.with_all(layer), case.z(), case.x(), &y);

    // Each term alone and absent; the file is replaced.
    let linear = Interaction::linear(K, I, J).unwrap();
    let lambda = cp.with_lambda(View::vector(&case.lambda)).unwrap();
    for (options, layer) in [
        ("--w w.npy", layer),
        ("--w w.npy --b b.npy", layer.with_b(View::vector(&case.b)).unwrap()),
        ("--u u.npy", linear.with_u(View::new(&case.u, [K, I]).unwrap()).unwrap()),
        ("--v v.npy", linear.with_v(View::new(&case.v, [K, J]).unwrap()).unwrap()),
        ("--b b.npy", linear.with_b(View::vector(&case.b)).unwrap()),
        ("--cp A.npy B.npy C.npy", cp),
        ("--cp A.npy B.npy C.npy --lambda lambda.npy", lambda),
        ("--cp A.npy B.npy C.npy --lambda lambda.npy --u u.npy --v v.npy --b b.npy", case.with_all(lambda)),
        ("--threads 1 --device cpu --u u.npy --v v.npy --b b.npy", case.with_all(linear)),
    ] {
        folder.succeeds(&format!("{options} --x x.npy --out y.npy --z z.npy"));
        check(&layer, case.z(), case.x(), &folder.read::<T>("y.npy").1);
    }
}

#[test]
fn f16_files() {
    dtype::<f16>("f16");
}

#[test]
fn f32_files() {
    dtype::<f32>("f32");
}

#[test]
fn f64_files() {
    dtype::<f64>("f64");
}

/// Column-major and big-endian files of the same tensors give the same result, each operand in turn.
#[test]
fn fortran_order_and_endianness() {
    let folder = Folder::new("order");
    let case = Case::<f32>::new();
    case.save(&folder);
    let fortran = |values: &[f32], shape: [usize; 3]| {
        let [a, b, c] = shape;
        let at = |index: usize| values[(index % a * b + index / a % b) * c + index / a / b];
        (0..values.len()).map(at).collect::<Vec<f32>>()
    };
    let operands = [
        ("z", &[N, I][..], [N, I, 1], &case.z),
        ("x", &[N, J][..], [N, J, 1], &case.x),
        ("w", &[K, I, J][..], [K, I, J], &case.w),
        ("u", &[K, I][..], [K, I, 1], &case.u),
        ("b", &[K][..], [K, 1, 1], &case.b),
    ];
    let layer = case.w().with_u(View::new(&case.u, [K, I]).unwrap()).unwrap().with_b(View::vector(&case.b)).unwrap();
    for (changed, shape, axes, values) in operands {
        folder.npy_in("fortran.npy", shape, Order::Fortran, &fortran(values, axes));
        let big: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
        let shape = format!("{shape:?}").replace('[', "(").replace(']', ",)");
        folder.raw_npy("big.npy", &format!("{{'descr': '>f4', 'fortran_order': False, 'shape': {shape}}}\n"), &big);
        for file in ["fortran", "big"] {
            let options: Vec<String> = ["z", "x", "w", "u", "b"]
                .map(|name| format!("--{name} {}.npy", if name == changed { file } else { name }))
                .to_vec();
            folder.succeeds(&format!("{} --out y.npy", options.join(" ")));
            check(&layer, case.z(), case.x(), &folder.read::<f32>("y.npy").1);
        }
    }
}

#[test]
fn the_type_to_compute_in() {
    let folder = Folder::new("types");
    let case = Case::<f32>::new();
    case.save(&folder);
    let inputs = "--z z.npy --x x.npy --w w.npy";
    let half = Case::<f16>::new();
    folder.succeeds(&format!("{inputs} --dtype f16 --out y.npy"));
    check(&half.w(), half.z(), half.x(), &folder.read::<f16>("y.npy").1);
    let double = Case::<f64>::new();
    folder.succeeds(&format!("{inputs} --dtype f64 --out y.npy"));
    check(&double.w(), double.z(), double.x(), &folder.read::<f64>("y.npy").1);

    // The weights decide, and of several the widest; f16 with bf16 makes f32.
    folder.npy("w64.npy", &[K, I, J], &double.w);
    folder.npy("b16.npy", &[K], &half.b);
    folder.succeeds("--z z.npy --x x.npy --w w64.npy --b b16.npy --out y.npy");
    check(&double.w().with_b(View::vector(&double.b)).unwrap(), double.z(), double.x(), &folder.read::<f64>("y.npy").1);
    let brain = Case::<bf16>::new();
    folder.safetensors("w.safetensors", &[("w", Dtype::BF16, &[K, I, J], bytes(&brain.w))]);
    folder.succeeds("--z z.npy --x x.npy --w w.safetensors:w --b b16.npy --out y.npy");
    check(&case.w().with_b(View::vector(&case.b)).unwrap(), case.z(), case.x(), &folder.read::<f32>("y.npy").1);

    // bf16: to .npy as float32, with a note; to safetensors as it is.
    let said = folder.succeeds("--z z.npy --x x.npy --w w.safetensors:w --out y.npy");
    assert!(said.contains("note: .npy has no bf16, so y.npy holds float32"), "{said}");
    let (_, wide) = folder.read::<f32>("y.npy");
    check(&brain.w(), brain.z(), brain.x(), &wide);
    let said = folder.succeeds("--z z.npy --x x.npy --w w.safetensors:w --out w.safetensors:y");
    assert!(!said.contains("note"), "{said}");
    let file = fs::read(folder.0.join("w.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let y = tensors.tensor("y").unwrap();
    assert_eq!((y.dtype(), y.shape()), (Dtype::BF16, &[N, K][..]));
    assert_eq!(y.data(), bytes(&wide.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>()));
    assert_eq!(tensors.tensor("w").unwrap().data(), bytes(&brain.w), "the file's other tensors are kept");
    for (option, dtype, size) in [("f16", Dtype::F16, 2), ("f32", Dtype::F32, 4), ("f64", Dtype::F64, 8)] {
        folder.succeeds(&format!("{inputs} --dtype {option} --out new.safetensors:y"));
        let file = fs::read(folder.0.join("new.safetensors")).unwrap();
        let y = safetensors::SafeTensors::deserialize(&file).unwrap().tensor("y").unwrap();
        assert_eq!((y.dtype(), y.data().len()), (dtype, N * K * size));
    }

    // A number that does not fit is an error, infinity is not.
    folder.npy("large.npy", &[N, I], &[1e5f32; N * I]);
    folder.fails(
        "--z large.npy --x x.npy --w w.npy --dtype f16 --out q.npy",
        &["`z`: large.npy", "1e5 is too large for f16"],
    );
    folder.npy("infinite.npy", &[I], &[f32::INFINITY; I]);
    folder.npy("ones.npy", &[J], &[1.0f32; J]);
    folder.npy("all.npy", &[K, I, J], &[1.0f32; K * I * J]);
    folder.succeeds("--z infinite.npy --x ones.npy --w all.npy --dtype f16 --out y.npy");
    assert_eq!(folder.read::<f16>("y.npy"), (vec![K as u64], vec![f16::INFINITY; K]));
    folder.fails(&format!("{inputs} --dtype int8 --out q.npy"), &["int8", "expected f16, bf16, f32 or f64"]);
}

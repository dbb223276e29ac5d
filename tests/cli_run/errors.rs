//! Files and options that are wrong: exit code 2, and a message that names the operand and the file.

use std::fs;

use safetensors::tensor::Dtype;

use crate::helpers::*;

#[test]
fn wrong_shapes_name_the_operand_and_the_file() {
    let folder = Folder::new("shapes");
    Case::<f32>::new().save(&folder);
    let all = "--z z.npy --x x.npy --w w.npy --u u.npy --v v.npy --b b.npy --out q.npy";
    folder.npy("wrong.npy", &[N + 1, 9], &vec![0.0f32; (N + 1) * 9]);
    folder.npy("wrong1.npy", &[2], &[0.0f32; 2]);
    for (operand, file, parts) in [
        ("z", "wrong", ["features should number 5, but there are 9", "(wrong.npy, shape [7, 9])"]),
        ("x", "wrong", ["features should number 7, but there are 9", "(wrong.npy, shape [7, 9])"]),
        ("u", "wrong", ["outputs should number 3, but there are 7", "(wrong.npy, shape [7, 9])"]),
        ("v", "wrong", ["outputs should number 3, but there are 7", "(wrong.npy, shape [7, 9])"]),
        ("b", "wrong1", ["outputs should number 3, but there are 2", "(wrong1.npy, shape [2])"]),
        ("w", "wrong", ["wrong.npy has shape [7, 9]", "should have 3 axes: [out, z, x]"]),
        ("u", "w", ["w.npy has shape [3, 5, 7]", "should have 2 axes: [K, I]"]),
        ("v", "b", ["b.npy has shape [3]", "should have 2 axes: [K, J]"]),
        ("b", "u", ["u.npy has shape [3, 5]", "should have 1 axis: [K]"]),
        ("z", "w", ["w.npy has shape [3, 5, 7]", "[N, I]"]),
    ] {
        let options = all.replace(&format!("--{operand} {operand}.npy"), &format!("--{operand} {file}.npy"));
        folder.fails(&options, &[&format!("operand `{operand}`"), parts[0], parts[1]]);
    }
    folder.npy("x4.npy", &[1, 1, N, J], &[0.0f32; N * J]);
    folder.fails("--z z.npy --x x4.npy --w w.npy --out q.npy", &["operand `x`: x4.npy", "[1, 1, 6, 7]", "[G, M, J]"]);
    folder.npy("x5.npy", &[5, J], &[0.0f32; 5 * J]);
    folder.fails(
        "--z z.npy --x x5.npy --w w.npy --out q.npy",
        &["`z`", "rows should number 5, but there are 6", "z.npy"],
    );
    folder.npy("scalar.npy", &[], &[1.0f32]);
    folder.fails("--z scalar.npy --x x.npy --w w.npy --out q.npy", &["operand `z`: scalar.npy has shape []"]);

    let cp = "--z z.npy --x x.npy --out q.npy --cp A.npy B.npy C.npy --lambda lambda.npy";
    folder.npy("B3.npy", &[I, 3], &[0.0f32; 3 * I]);
    let rank = "rank should number 4, but there are 3";
    folder.fails(&cp.replace("B.npy", "B3.npy"), &["operand `b`", rank, "(B3.npy, shape [5, 3])"]);
    folder.npy("C3.npy", &[J, 3], &[0.0f32; 3 * J]);
    folder.fails(&cp.replace("C.npy", "C3.npy"), &["operand `c`", rank, "(C3.npy, shape [7, 3])"]);
    folder.fails(&cp.replace("lambda.npy", "b.npy"), &["operand `lambda`", rank, "(b.npy, shape [3])"]);
    folder.fails(&cp.replace("A.npy", "b.npy"), &["operand `cp A`", "b.npy has shape [3]", "2 axes: [K, R]"]);
    folder.fails(&format!("{cp} --b lambda.npy"), &["operand `b`", "number 3", "(lambda.npy, shape [4])"]);
}

#[test]
fn files_that_are_not_tensors() {
    let folder = Folder::new("junk");
    Case::<f32>::new().save(&folder);
    let good = fs::read(folder.0.join("w.npy")).unwrap();
    fs::create_dir(folder.0.join("folder")).unwrap();
    folder.write("empty", b"");
    folder.write("text.npy", b"1.0, 2.0, 3.0\n");
    folder.write("archive.npz", b"PK\x03\x04rest");
    folder.write("magic.npy", &good[..6]);
    folder.write("header.npy", &good[..40]);
    folder.write("truncated.npy", &good[..good.len() - 1]);
    folder.write("no_data.npy", &good[..128]);
    folder.write("longer.npy", &[&good[..], &[0]].concat());
    folder.write("version.npy", b"\x93NUMPY\x09\x00\x10\x00{}");
    let header = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}");
    for (name, descr, shape, data) in [
        ("int64", "'<i8'", "(2,)", 16),
        ("uint8", "'|u1'", "(2,)", 2),
        ("bool", "'|b1'", "(2,)", 2),
        ("complex", "'<c8'", "(2,)", 16),
        ("long_double", "'<f16'", "(2,)", 32),
        ("object", "'|O'", "(2,)", 10),
        ("bfloat16", "'|V2'", "(2,)", 4),
        ("record", "[('a', '<f4'), ('b', '<f4')]", "(2,)", 16),
        ("unknown", "'float'", "(2,)", 8),
        ("negative", "'<f4'", "(-2,)", 8),
        ("overflow", "'<f4'", "(9223372036854775807, 9223372036854775807)", 8),
        ("overflow_bytes", "'<f4'", "(4611686018427387904,)", 8),
        ("no_number", "'<f4'", "(18446744073709551616,)", 8),
        ("nested", "'<f4'", &format!("{}{}", "(".repeat(4000), ")".repeat(4000)), 8),
        ("shapeless", "'<f4'", "None", 8),
        ("huge", "'<f4'", "(1000000, 1000000)", 8),
    ] {
        folder.raw_npy(&format!("{name}.npy"), &header(descr, shape), &vec![0; data]);
    }
    folder.raw_npy("long.npy", &" ".repeat(20_000), &[]);
    folder.raw_npy("not_python.npy", "\u{1}\u{2}{{", &[]);
    folder.raw_npy("no_keys.npy", "{}", &[]);
    for (file, part) in [
        ("nowhere.npy", "cannot be opened: No such file"),
        ("folder", "is a directory"),
        ("empty", "is not a .npy file"),
        ("text.npy", "is not a .npy file"),
        ("archive.npz", "is a .npz archive"),
        ("magic.npy", "is truncated within its header"),
        ("header.npy", "is truncated within its header"),
        ("truncated.npy", "is truncated: shape [3, 5, 7] of f32 needs 420 bytes of data, but 419 are there"),
        ("no_data.npy", "needs 420 bytes of data, but 0 are there"),
        ("longer.npy", "has 421 bytes of data, but shape [3, 5, 7] of f32 takes only 420"),
        ("version.npy", "unknown .npy version 9.0"),
        ("int64.npy", "holds dtype '<i8'; float16, float32 or float64 is needed"),
        ("uint8.npy", "holds dtype '|u1'"),
        ("bool.npy", "holds dtype '|b1'"),
        ("complex.npy", "holds dtype '<c8'"),
        ("long_double.npy", "holds dtype '<f16'"),
        ("object.npy", "holds dtype '|O'"),
        ("bfloat16.npy", "has no bf16"),
        ("record.npy", "not floating-point numbers"),
        ("unknown.npy", "header that cannot be understood"),
        ("negative.npy", "dimension cannot be negative"),
        ("overflow.npy", "does not fit in the address space"),
        ("overflow_bytes.npy", "does not fit in the address space"),
        ("no_number.npy", "does not fit in the address space"),
        ("nested.npy", "nested too deeply"),
        ("shapeless.npy", "shape must be list or tuple"),
        ("huge.npy", "is truncated: shape [1000000, 1000000] of f32 needs 4000000000000 bytes"),
        ("long.npy", "header of 20000 bytes"),
        ("not_python.npy", "header that cannot be understood"),
        ("no_keys.npy", "missing key"),
    ] {
        for operand in ["w", "z"] {
            let options = "--z z.npy --x x.npy --w w.npy --out q.npy";
            let options = options.replace(&format!("--{operand} {operand}.npy"), &format!("--{operand} {file}"));
            folder.fails(&options, &[&format!("operand `{operand}`: {file}: "), part]);
        }
    }
}

#[test]
fn safetensors_that_are_wrong() {
    let folder = Folder::new("safetensors");
    let case = Case::<f32>::new();
    case.save(&folder);
    folder.safetensors(
        "good.safetensors",
        &[("w", Dtype::F32, &[K, I, J], bytes(&case.w)), ("n", Dtype::I64, &[1], vec![0; 8])],
    );
    let good = fs::read(folder.0.join("good.safetensors")).unwrap();
    folder.succeeds("--z z.npy --x x.npy --w good.safetensors:w --out y.npy");
    check(&case.w(), case.z(), case.x(), &folder.read::<f32>("y.npy").1);
    let raw =
        |header: &str, data: usize| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
    folder.write("empty.safetensors", b"");
    folder.write("text.safetensors", b"hello, hello, hello");
    folder.write("header.safetensors", &good[..60]);
    folder.write("truncated.safetensors", &good[..good.len() - 1]);
    folder.write("longer.safetensors", &[&good[..], &[0]].concat());
    folder.write("json.safetensors", &raw("{\"w\":", 0));
    folder.write("nested.safetensors", &raw(&"[".repeat(100_000), 0));
    folder.write("none.safetensors", &raw("{}", 0));
    // Offsets that would wrap around to just the right length.
    let tensor = |name: usize, start: u64, end: u64| {
        format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}", end - start)
    };
    let step = (1u64 << 61) - 1;
    let wrapping: Vec<String> = (0..8).map(|at| tensor(at, at as u64 * step, (at as u64 + 1) * step)).collect();
    folder.write("wrapping.safetensors", &raw(&format!("{{{}}}", wrapping.join(",")), 8));
    let overflow = "{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}";
    folder.write("overflow.safetensors", &raw(overflow, 0));
    for (file, part) in [
        ("good.safetensors", "give it as good.safetensors:NAME; the file has n [1] I64, w [3, 5, 7] F32"),
        ("good.safetensors:v", "no tensor `v`; the file has n [1] I64, w [3, 5, 7] F32"),
        ("good.safetensors:", "no tensor ``"),
        ("good.safetensors:n", "tensor `n` holds dtype I64; F16, BF16, F32 or F64 is needed"),
        ("nowhere.safetensors:w", "cannot be opened: No such file"),
        ("empty.safetensors:w", "is not a safetensors file"),
        ("text.safetensors:w", "is truncated, or not a safetensors file"),
        ("header.safetensors:w", "is truncated, or not a safetensors file"),
        ("truncated.safetensors:w", "is truncated: its tensors take 428 bytes, but 427 are there"),
        ("longer.safetensors:w", "is longer than its header says"),
        ("json.safetensors:w", "its header cannot be understood"),
        ("nested.safetensors:w", "its header cannot be understood"),
        ("none.safetensors:w", "no tensor `w`; the file has no tensors"),
        ("wrapping.safetensors:0", "is truncated"),
        ("overflow.safetensors:w", "overflow"),
    ] {
        folder.fails(&format!("--z z.npy --x x.npy --out q.npy --w {file}"), &[&format!("operand `w`: {file}"), part]);
    }
}

#[test]
fn options_that_are_wrong() {
    let folder = Folder::new("options");
    Case::<f32>::new().save(&folder);
    for (options, parts) in [
        ("", ["nothing to apply", "--bilinear"]),
        ("--w w.npy --cp A.npy B.npy C.npy", ["--w", "--cp"]),
        ("--w w.npy --bilinear m.safetensors", ["--w", "--bilinear"]),
        ("--b b.npy --bilinear m.safetensors", ["--b", "--bilinear"]),
        ("--w w.npy --lambda lambda.npy", ["--lambda", "--w"]),
        ("--u u.npy --lambda lambda.npy", ["--cp", "not provided"]),
        ("--cp A.npy B.npy C.npy --w-axes x,z,out", ["--w-axes", "--cp"]),
        ("--u u.npy --w-axes x,z,out", ["--w <FILE>", "not provided"]),
        ("--cp A.npy B.npy", ["--cp", "2 files"]),
        ("--w w.npy --threads 0", ["--threads", "at least 1"]),
        ("--w w.npy --threads many", ["--threads", "many"]),
        ("--w w.npy --device cuda:99", ["--device", "cuda:99"]),
        ("--w w.npy --device gpu", ["--device", "expected auto, cpu"]),
        ("--w w.npy --nonsense", ["--nonsense", "unexpected"]),
    ] {
        folder.fails(&format!("{options} --z z.npy --x x.npy --out q.npy"), &parts);
    }
}

#[test]
fn results_that_cannot_be_written() {
    let folder = Folder::new("out");
    let case = Case::<f32>::new();
    case.save(&folder);
    let run = "--z z.npy --x x.npy --w w.npy";
    fs::create_dir(folder.0.join("folder")).unwrap();
    folder.write("not.safetensors", b"something else");
    folder.fails(&format!("{run} --out folder"), &["--out: folder", "is a directory"]);
    folder.fails(&format!("{run} --out nowhere/y.npy"), &["--out: nowhere/y.npy", "cannot be created"]);
    folder.fails(&format!("{run} --out y.safetensors"), &["--out", "give it as y.safetensors:NAME"]);
    folder.fails(&format!("{run} --out not.safetensors:y"), &["--out: not.safetensors:y", "not a safetensors file"]);
    // A failure leaves the old result as it was; success replaces it, even if it is an input.
    folder.write("y.npy", b"old");
    folder.fails("--z z.npy --x z.npy --w w.npy --out y.npy", &["operand `x`"]);
    assert_eq!(fs::read(folder.0.join("y.npy")).unwrap(), b"old");
    folder.succeeds(&format!("{run} --out z.npy"));
    check(&case.w(), case.z(), case.x(), &folder.read::<f32>("z.npy").1);
}

#[cfg(unix)]
#[test]
fn links_and_devices_are_written_through() {
    let folder = Folder::new("links");
    let case = Case::<f32>::new();
    case.save(&folder);
    folder.write("target.npy", b"old");
    std::os::unix::fs::symlink("target.npy", folder.0.join("link.npy")).unwrap();
    folder.succeeds("--z z.npy --x x.npy --w w.npy --out link.npy");
    assert!(folder.0.join("link.npy").symlink_metadata().unwrap().is_symlink());
    check(&case.w(), case.z(), case.x(), &folder.read::<f32>("target.npy").1);
    let output = folder.run("--z z.npy --x x.npy --w w.npy --out /dev/stdout");
    assert_eq!(output.stdout, fs::read(folder.0.join("target.npy")).unwrap());
}

/// Damaged in any one place, a file gives a result or an error, and never a crash.
#[test]
fn damaged_files() {
    let folder = Folder::new("damage");
    let case = Case::<f32>::new();
    case.save(&folder);
    folder.safetensors("w.safetensors", &[("w", Dtype::F32, &[K, I, J], bytes(&case.w))]);
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for (file, operand) in [("w.npy", "bad.npy"), ("w.safetensors", "bad.safetensors:w")] {
        let good = fs::read(folder.0.join(file)).unwrap();
        for _ in 0..150 {
            let mut bytes = good.clone();
            let at = random(good.len().min(140));
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] = b"0129(){}[]',:<>"[random(15)],
                _ => bytes.truncate(at),
            }
            folder.write(operand.trim_end_matches(":w"), &bytes);
            let output = folder.run(&format!("--z z.npy --x x.npy --w {operand} --out y.npy"));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 2)), "{:?}: {stderr}", output.status);
            assert!(!stderr.contains("panicked") && !stderr.is_empty(), "{stderr}");
        }
    }
}

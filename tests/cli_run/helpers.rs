//! Folders of files, a call's operands, and their check against the reference.
#![allow(dead_code)] // the tests of each command use a part

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use npyz::{AutoSerialize, Deserialize, Order, WriterBuilder};
use safetensors::tensor::{Dtype, TensorView};
use trilinear::{DType, Element, Interaction, View, bf16, f16, reference};

/// A folder of its own for each test, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("trilinear-run-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// `trilinear` with these arguments, separated by blanks, in the folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trilinear"));
        command.env_remove("TRILINEAR_DEVICE").env_remove("TRILINEAR_SIMD").current_dir(&self.0);
        command.args(arguments.split_whitespace());
        command
    }

    /// `trilinear run` with these options.
    pub(crate) fn run(&self, options: &str) -> Output {
        self.command(&format!("run {options}")).output().unwrap()
    }

    /// Runs, and returns what was said on stderr.
    pub(crate) fn succeeds(&self, options: &str) -> String {
        let output = self.run(options);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{options}: {stderr}");
        stderr
    }

    /// Runs; exit code 2, and a message on stderr that has every one of `parts`. Nothing is left behind.
    pub(crate) fn fails(&self, options: &str, parts: &[&str]) {
        self.refuses(&format!("run {options}"), parts);
    }

    /// The same of any command.
    pub(crate) fn refuses(&self, arguments: &str, parts: &[&str]) {
        let before = self.files();
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.starts_with("error: "), "{arguments}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{arguments}: `{part}` is missing in: {stderr}");
        }
        assert_eq!(self.files(), before, "{arguments}");
    }

    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let entry = |entry: std::io::Result<fs::DirEntry>| entry.map(|e| (e.path(), e.metadata().unwrap().len()));
        let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|e| entry(e).unwrap()).collect();
        files.sort();
        files
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    pub(crate) fn npy_in<T: AutoSerialize + Copy>(&self, name: &str, shape: &[usize], order: Order, values: &[T]) {
        let shape: Vec<u64> = shape.iter().map(|&len| len as u64).collect();
        let file = fs::File::create(self.0.join(name)).unwrap();
        let options = npyz::WriteOptions::new().default_dtype().shape(&shape).order(order);
        let mut writer = options.writer(std::io::BufWriter::new(file)).begin_nd().unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
    }

    pub(crate) fn npy<T: AutoSerialize + Copy>(&self, name: &str, shape: &[usize], values: &[T]) {
        self.npy_in(name, shape, Order::C, values);
    }

    /// A file with this dictionary as its header and these bytes as its data.
    pub(crate) fn raw_npy(&self, name: &str, header: &str, data: &[u8]) {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        self.write(name, &bytes);
    }

    pub(crate) fn safetensors(&self, name: &str, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
        self.write(name, &safetensors::serialize(views, None).unwrap());
    }

    /// A `.npy` file's shape and numbers; its dtype must be that of `T`.
    pub(crate) fn read<T: Deserialize>(&self, name: &str) -> (Vec<u64>, Vec<T>) {
        let bytes = fs::read(self.0.join(name)).unwrap();
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        (file.shape().to_vec(), file.into_vec().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Numbers in -1..1 that `T` holds exactly.
pub(crate) fn numbers<T: Element>(seed: u64, len: usize) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        T::from_f64(((state >> 57) as f64 - 64.0) / 64.0)
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn bytes<T: Element>(values: &[T]) -> Vec<u8> {
    let value = |value: f64| match T::DTYPE {
        DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    values.iter().flat_map(|&v| value(v.to_f64())).collect()
}

pub(crate) const N: usize = 6;
pub(crate) const I: usize = 5;
pub(crate) const J: usize = 7;
pub(crate) const K: usize = 3;
pub(crate) const R: usize = 4;

/// The operands of one call in `T`.
pub(crate) struct Case<T> {
    pub(crate) z: Vec<T>,
    pub(crate) x: Vec<T>,
    pub(crate) w: Vec<T>,
    pub(crate) u: Vec<T>,
    pub(crate) v: Vec<T>,
    pub(crate) b: Vec<T>,
    pub(crate) cp: [Vec<T>; 3],
    pub(crate) lambda: Vec<T>,
}

impl<T: Element> Case<T> {
    pub(crate) fn new() -> Case<T> {
        Case {
            z: numbers(1, N * I),
            x: numbers(2, N * J),
            w: numbers(3, K * I * J),
            u: numbers(4, K * I),
            v: numbers(5, K * J),
            b: numbers(6, K),
            cp: [numbers(7, K * R), numbers(8, I * R), numbers(9, J * R)],
            lambda: numbers(10, R),
        }
    }

    pub(crate) fn save(&self, folder: &Folder)
    where
        T: AutoSerialize,
    {
        folder.npy("z.npy", &[N, I], &self.z);
        folder.npy("x.npy", &[N, J], &self.x);
        folder.npy("w.npy", &[K, I, J], &self.w);
        folder.npy("u.npy", &[K, I], &self.u);
        folder.npy("v.npy", &[K, J], &self.v);
        folder.npy("b.npy", &[K], &self.b);
        for (name, len, factor) in [("A.npy", K, &self.cp[0]), ("B.npy", I, &self.cp[1]), ("C.npy", J, &self.cp[2])] {
            folder.npy(name, &[len, R], factor);
        }
        folder.npy("lambda.npy", &[R], &self.lambda);
    }

    pub(crate) fn z(&self) -> View<'_, T, 2> {
        View::new(&self.z, [N, I]).unwrap()
    }

    pub(crate) fn x(&self) -> View<'_, T, 2> {
        View::new(&self.x, [N, J]).unwrap()
    }

    pub(crate) fn w(&self) -> Interaction<'_, T> {
        Interaction::dense(View::new(&self.w, [K, I, J]).unwrap()).unwrap()
    }

    pub(crate) fn cp(&self) -> Interaction<'_, T> {
        let [a, b, c] = &self.cp;
        let view = |factor| View::new(factor, [K, R]).unwrap();
        Interaction::cp(view(a), View::new(b, [I, R]).unwrap(), View::new(c, [J, R]).unwrap()).unwrap()
    }

    pub(crate) fn with_all<'a>(&'a self, layer: Interaction<'a, T>) -> Interaction<'a, T> {
        let layer = layer.with_u(View::new(&self.u, [K, I]).unwrap()).unwrap();
        layer.with_v(View::new(&self.v, [K, J]).unwrap()).unwrap().with_b(View::vector(&self.b)).unwrap()
    }
}

/// That `y` keeps the bounds.
pub(crate) fn check<T: Element>(
    layer: &Interaction<'_, T>,
    z: View<'_, T, 2>,
    x: View<'_, T, 2>,
    y: &[impl Into<f64> + Copy],
) {
    let exact = reference::forward(layer, z, x).unwrap();
    assert_eq!(exact.value.as_slice().len(), y.len());
    for (index, (&value, &exactly)) in y.iter().zip(exact.value.as_slice()).enumerate() {
        let (value, bound) = (value.into(), exact.error_bound(T::DTYPE, index));
        assert!((value - exactly).abs() <= bound, "{index}: {value} is not {exactly} within {bound}");
    }
}

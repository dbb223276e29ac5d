//! Tensors in files: NumPy's `.npy` and safetensors.
//!
//! Regular files are mapped, so a tensor that is already of the right type costs no copy, however big it is. Every size
//! that a header claims is checked against the file before it is believed.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use npyz::{Endianness, NpyHeader, Order, TypeChar};
use safetensors::tensor::{Dtype, Metadata, TensorView};
use trilinear::{DType, Element, View, bf16, f16};

mod model;
mod output;

pub(crate) use model::{Model, parse_axes};
pub(crate) use output::Output;

/// Where a tensor is: `FILE.npy`, or `FILE.safetensors:NAME`.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) name: Option<String>,
}

impl Place {
    pub(crate) fn parse(text: &str) -> Place {
        const SUFFIX: &str = ".safetensors";
        match text.find(".safetensors:") {
            Some(at) => {
                let (path, name) = text.split_at(at + SUFFIX.len());
                Place { path: path.into(), name: Some(name[1..].into()) }
            }
            None => Place { path: text.into(), name: None },
        }
    }

    pub(crate) fn is_safetensors(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "safetensors")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.name {
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
    }
}

/// The contents of a file.
enum Bytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

impl Bytes {
    fn open(path: &Path) -> Result<Bytes> {
        let mut file = File::open(path).context("cannot be opened")?;
        let metadata = file.metadata().context("cannot be opened")?;
        ensure!(!metadata.is_dir(), "is a directory");
        // Pipes cannot be mapped, and nothing is gained by mapping an empty file.
        if metadata.is_file() && metadata.len() > 0 {
            // SAFETY: the map is only read, and as bytes or as numbers, of which every bit pattern is valid. A program
            // that shortens the file meanwhile ends this one; nothing but copying every file would prevent that.
            return Ok(Bytes::Mapped(unsafe { memmap2::Mmap::map(&file) }.context("cannot be mapped")?));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("cannot be read")?;
        Ok(Bytes::Read(bytes))
    }
}

/// A tensor in a file, not yet read.
pub(crate) struct Array {
    /// Which option gave it, for messages.
    pub(crate) operand: &'static str,
    pub(crate) place: Place,
    bytes: Rc<Bytes>,
    range: Range<usize>,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    big_endian: bool,
    order: Order,
}

impl Array {
    /// The tensor at `text`. Errors name `operand` and the file.
    pub(crate) fn open(operand: &'static str, text: &str) -> Result<Array> {
        let place = Place::parse(text);
        Array::find(operand, &place).with_context(|| format!("operand `{operand}`: {place}"))
    }

    fn find(operand: &'static str, place: &Place) -> Result<Array> {
        let bytes = Rc::new(Bytes::open(&place.path)?);
        if !place.is_safetensors() {
            return Array::npy(operand, place, bytes);
        }
        let tensors = SafeTensors::read(bytes)?;
        match &place.name {
            Some(name) => tensors.array(operand, place, name),
            None => bail!("give it as {place}:NAME; {}", tensors.contents()),
        }
    }

    fn npy(operand: &'static str, place: &Place, bytes: Rc<Bytes>) -> Result<Array> {
        let header = npy_header(&bytes)?;
        let scalar = match header.dtype() {
            npyz::DType::Plain(scalar) => scalar,
            other => bail!("holds {}, not floating-point numbers", other.descr()),
        };
        let dtype = match (scalar.type_char(), scalar.size_field()) {
            (TypeChar::Float, 2) => DType::F16,
            (TypeChar::Float, 4) => DType::F32,
            (TypeChar::Float, 8) => DType::F64,
            (TypeChar::RawData, 2) => {
                bail!("holds raw data '{scalar}'; NumPy's format has no bf16: save it as safetensors, or as float32")
            }
            _ => bail!("holds dtype '{scalar}'; float16, float32 or float64 is needed (numpy: a.astype('float32'))"),
        };
        let shape: Vec<usize> = header
            .shape()
            .iter()
            .map(|&len| usize::try_from(len))
            .collect::<Result<_, _>>()
            .context("its shape does not fit in the address space")?;
        let start = npy_text(&bytes)?.end;
        let (needed, present) = (size(&shape, dtype)?, bytes.len() - start);
        ensure!(
            needed <= present,
            "is truncated: shape {shape:?} of {dtype} needs {needed} bytes of data, but {present} are there"
        );
        ensure!(needed == present, "has {present} bytes of data, but shape {shape:?} of {dtype} takes only {needed}");
        Ok(Array {
            operand,
            place: place.clone(),
            bytes,
            range: start..start + needed,
            dtype,
            shape,
            big_endian: scalar.endianness() == Endianness::Big,
            order: header.order(),
        })
    }

    /// Its numbers as `T`: borrowed from the file if that is how they are stored, else converted.
    /// A finite number that `T` can only hold as infinity is an error.
    pub(crate) fn values<T: Element>(&self) -> Result<Values<'_, T>> {
        let data = match self.borrow() {
            Some(slice) => Cow::Borrowed(slice),
            None => {
                Cow::Owned(self.converted().with_context(|| format!("operand `{}`: {}", self.operand, self.place))?)
            }
        };
        let axes = self.shape.len();
        let mut strides = vec![1isize; axes];
        // Strides of an empty tensor may wrap; they are never followed.
        for axis in 1..axes {
            let (slow, fast) = match self.order {
                Order::C => (axes - 1 - axis, axes - axis),
                Order::Fortran => (axis, axis - 1),
            };
            strides[slow] = strides[fast].wrapping_mul(self.shape[fast] as isize);
        }
        Ok(Values { array: self, data, strides })
    }

    fn borrow<T: Element>(&self) -> Option<&[T]> {
        if self.dtype != T::DTYPE || self.big_endian != cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: `T` is a floating-point number, of which every bit pattern is valid.
        match unsafe { self.bytes[self.range.clone()].align_to::<T>() } {
            ([], values, []) => Some(values),
            _ => None,
        }
    }

    fn converted<T: Element>(&self) -> Result<Vec<T>> {
        match self.dtype {
            DType::F16 => self.convert(|bytes| f16::from_le_bytes(bytes).to_f64()),
            DType::Bf16 => self.convert(|bytes| bf16::from_le_bytes(bytes).to_f64()),
            DType::F32 => self.convert(|bytes| f64::from(f32::from_le_bytes(bytes))),
            DType::F64 => self.convert(f64::from_le_bytes),
            other => bail!("{other} cannot be read"),
        }
    }

    fn convert<T: Element, const N: usize>(&self, value: impl Fn([u8; N]) -> f64) -> Result<Vec<T>> {
        let (numbers, _) = self.bytes[self.range.clone()].as_chunks::<N>();
        let mut values = Vec::new();
        values
            .try_reserve_exact(numbers.len())
            .map_err(|_| anyhow!("out of memory: {} numbers of {} cannot be held", numbers.len(), T::DTYPE))?;
        for &(mut bytes) in numbers {
            if self.big_endian {
                bytes.reverse();
            }
            let value = value(bytes);
            let converted = T::from_f64(value);
            if value.is_finite() && !converted.to_f64().is_finite() {
                bail!("{value:e} is too large for {}; choose another --dtype", T::DTYPE);
            }
            values.push(converted);
        }
        Ok(values)
    }
}

/// Bytes that a tensor takes.
fn size(shape: &[usize], dtype: DType) -> Result<usize> {
    let bytes = if shape.contains(&0) {
        Some(0)
    } else {
        shape.iter().try_fold(dtype.bytes(), |bytes, &len| bytes.checked_mul(len))
    };
    bytes.ok_or_else(|| anyhow!("shape {shape:?} does not fit in the address space"))
}

/// Where in a `.npy` file the header's text is.
fn npy_text(bytes: &[u8]) -> Result<Range<usize>> {
    if bytes.starts_with(b"PK\x03\x04") {
        bail!("is a .npz archive; save the one array with numpy.save");
    }
    ensure!(
        bytes.starts_with(b"\x93NUMPY"),
        "is not a .npy file (it does not begin with NumPy's magic string), nor is it named FILE.safetensors:NAME"
    );
    let (start, len) = match bytes[6..] {
        [1, _, low, high, ..] => (10, u16::from_le_bytes([low, high]) as usize),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        [version, minor, ..] if version == 0 || version > 3 => {
            bail!("is of the unknown .npy version {version}.{minor}")
        }
        _ => bail!("is truncated within its header"),
    };
    ensure!(start + len <= bytes.len(), "is truncated within its header");
    Ok(start..start + len)
}

/// The header, after the checks without which parsing a hostile one could overflow an integer or the stack.
fn npy_header(bytes: &[u8]) -> Result<NpyHeader> {
    let range = npy_text(bytes)?;
    // NumPy too refuses to parse more than this.
    ensure!(range.len() <= 10_000, "has a header of {} bytes; at most 10000 are read", range.len());
    let text = String::from_utf8_lossy(&bytes[range.clone()]);
    let mut depth = 0usize;
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        ensure!(depth <= 16, "has a header nested too deeply");
    }
    let shape = text.rfind("'shape'").or_else(|| text.rfind("\"shape\"")).unwrap_or(0);
    text[shape..]
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| word.starts_with(|character: char| character.is_ascii_digit()))
        .try_fold(1u64, |product, word| product.checked_mul(word.parse::<u64>().ok()?.max(1)))
        .context("has a shape that does not fit in the address space")?;
    NpyHeader::from_reader(&bytes[..range.end]).context("has a header that cannot be understood")
}

/// A safetensors file, whose claims hold.
pub(crate) struct SafeTensors {
    bytes: Rc<Bytes>,
    start: usize,
    metadata: Metadata,
}

impl SafeTensors {
    pub(crate) fn open(path: &Path) -> Result<SafeTensors> {
        SafeTensors::read(Rc::new(Bytes::open(path)?))
    }

    fn read(bytes: Rc<Bytes>) -> Result<SafeTensors> {
        let len = bytes.first_chunk().map(|&len| u64::from_le_bytes(len));
        let len = len.context("is not a safetensors file: it is shorter than a header's length field")?;
        let end = usize::try_from(len).ok().and_then(|len| len.checked_add(8)).filter(|&end| end <= bytes.len());
        let start = end.with_context(|| {
            format!(
                "is truncated, or not a safetensors file: its header should have {len} bytes, the file has {}",
                bytes.len()
            )
        })?;
        let metadata: Metadata = serde_json::from_slice(&bytes[8..start])
            .context("is not a safetensors file: its header cannot be understood")?;
        let (needed, present) = (metadata.data_len(), bytes.len() - start);
        ensure!(
            needed == present,
            "is {}: its tensors take {needed} bytes, but {present} are there",
            if needed > present { "truncated" } else { "longer than its header says" }
        );
        Ok(SafeTensors { bytes, start, metadata })
    }

    /// Names of the tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// Shape of each tensor, by name.
    pub(crate) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |name: &String| self.metadata.info(name).map(|info| info.shape.clone());
        self.names().into_iter().filter_map(|name| shape(&name).map(|shape| (name, shape))).collect()
    }

    /// What the file says about itself under this key.
    pub(crate) fn about(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// What is there, as a message.
    pub(crate) fn contents(&self) -> String {
        let names: Vec<String> = self
            .names()
            .into_iter()
            .map(|name| match self.metadata.info(&name) {
                Some(info) => format!("{name} {:?} {}", info.shape, info.dtype),
                None => name,
            })
            .collect();
        if names.is_empty() { "the file has no tensors".into() } else { format!("the file has {}", names.join(", ")) }
    }

    pub(crate) fn array(&self, operand: &'static str, place: &Place, name: &str) -> Result<Array> {
        let info = self.metadata.info(name).with_context(|| format!("no tensor `{name}`; {}", self.contents()))?;
        let dtype = match info.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => bail!("tensor `{name}` holds dtype {other}; F16, BF16, F32 or F64 is needed"),
        };
        let (start, end) = info.data_offsets;
        Ok(Array {
            operand,
            place: Place { name: Some(name.into()), ..place.clone() },
            bytes: self.bytes.clone(),
            range: self.start + start..self.start + end,
            dtype,
            shape: info.shape.clone(),
            big_endian: false,
            order: Order::C,
        })
    }

    /// The tensors, by name.
    fn tensors(&self) -> Result<Vec<(String, TensorView<'_>)>> {
        self.names()
            .into_iter()
            .filter_map(|name| self.metadata.info(&name).map(|info| (name, info)))
            .map(|(name, info)| {
                let data = &self.bytes[self.start + info.data_offsets.0..self.start + info.data_offsets.1];
                Ok((name, TensorView::new(info.dtype, info.shape.clone(), data)?))
            })
            .collect()
    }
}

/// The numbers of an [`Array`] in the type to compute in.
pub(crate) struct Values<'a, T: Element> {
    array: &'a Array,
    data: Cow<'a, [T]>,
    strides: Vec<isize>,
}

impl<T: Element> Values<'_, T> {
    pub(crate) fn axes(&self) -> usize {
        self.array.shape.len()
    }

    /// As a tensor with `D` axes, which `meaning` explains if there are more or fewer.
    pub(crate) fn view<const D: usize>(&self, meaning: &str) -> Result<View<'_, T, D>> {
        let shape: Option<[usize; D]> = self.array.shape.as_slice().try_into().ok();
        let strides: Option<[isize; D]> = self.strides.as_slice().try_into().ok();
        let Some((shape, strides)) = shape.zip(strides) else {
            let Array { operand, place, shape, .. } = self.array;
            bail!("operand `{operand}`: {place} has shape {shape:?}, but should have {meaning}");
        };
        View::strided(&self.data, 0, shape, strides)
            .with_context(|| format!("operand `{}`: {}", self.array.operand, self.array.place))
    }

    /// As a matrix; a vector is one row.
    pub(crate) fn rows(&self, meaning: &str) -> Result<View<'_, T, 2>> {
        match (self.array.shape.as_slice(), self.strides.as_slice()) {
            (&[len], &[stride]) => Ok(View::strided(&self.data, 0, [1, len], [0, stride])?),
            _ => self.view(meaning),
        }
    }

    /// A matrix (or vector) as one group of rows.
    pub(crate) fn one_group(&self, meaning: &str) -> Result<View<'_, T, 3>> {
        let view = self.rows(meaning)?;
        let ([rows, features], [row, feature]) = (view.shape(), view.strides());
        Ok(View::strided(&self.data, 0, [1, rows, features], [0, row, feature])?)
    }
}

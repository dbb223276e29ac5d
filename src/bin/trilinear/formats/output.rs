//! Results, written to files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::tensor::{Dtype, TensorView};
use trilinear::{DType, Element, bf16, f16};

use super::{Place, SafeTensors};

/// A tensor of a file.
pub(crate) struct Named<'a, T> {
    pub(crate) name: &'a str,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: &'a [T],
}

/// A file to be written: made before the work, beside its final place, to which it is moved when it is complete.
pub(crate) struct Output {
    /// Which option gave it, for messages.
    option: &'static str,
    place: Place,
    path: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
}

impl Output {
    /// `FILE.npy`, or `FILE.safetensors:NAME`, whose other tensors are kept. Errors name the file.
    pub(crate) fn create(option: &'static str, text: &str) -> Result<Output> {
        let place = Place::parse(text);
        Output::new(option, &place).with_context(|| format!("{option}: {place}"))
    }

    /// `FILE.safetensors`, which [`fill_all`](Self::fill_all) replaces. Errors name the file.
    pub(crate) fn create_whole(option: &'static str, text: &str) -> Result<Output> {
        let place = Place::parse(text);
        let whole = place.is_safetensors() && place.name.is_none();
        ensure!(whole, "{option}: {place} is not named FILE.safetensors");
        Output::open(option, &place).with_context(|| format!("{option}: {place}"))
    }

    fn new(option: &'static str, place: &Place) -> Result<Output> {
        ensure!(!place.is_safetensors() || place.name.is_some(), "give it as {place}:NAME");
        Output::open(option, place)
    }

    fn open(option: &'static str, place: &Place) -> Result<Output> {
        // Through a link, so that it is the file which is replaced and not the link.
        let path = place.path.canonicalize().unwrap_or_else(|_| place.path.clone());
        if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            let file = File::options().write(true).open(&path).context("cannot be opened")?;
            return Ok(Output { option, place: place.clone(), path, temporary: None, file });
        }
        ensure!(!path.is_dir(), "is a directory");
        let name = path.file_name().context("is not the name of a file")?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = File::create_new(&temporary).context("cannot be created")?;
        Ok(Output { option, place: place.clone(), path, temporary: Some(temporary), file })
    }

    /// The file that is written until it is complete, if it is another.
    pub(crate) fn temporary(&self) -> Option<&Path> {
        self.temporary.as_deref()
    }

    /// The whole file, in the type of the tensor; bf16 becomes f32 in a `.npy` file, which is worth a note.
    /// It is not yet in its place.
    pub(crate) fn fill<T: Element>(&mut self, shape: &[usize], values: &[T]) -> Result<()> {
        let written = if self.place.is_safetensors() {
            self.write_safetensors(shape, values)
        } else {
            let wide = |value: &T| value.to_f64();
            match T::DTYPE {
                DType::F16 => self.write_npy(shape, values.iter().map(|value| f16::from_f64(wide(value)))),
                DType::F64 => self.write_npy(shape, values.iter().map(wide)),
                _ => self.write_npy(shape, values.iter().map(|value| wide(value) as f32)),
            }
        };
        written.with_context(|| format!("{}: {}", self.option, self.place))?;
        if T::DTYPE == DType::Bf16 && !self.place.is_safetensors() {
            eprintln!("note: .npy has no bf16, so {} holds float32; FILE.safetensors:NAME keeps bf16", self.place);
        }
        Ok(())
    }

    fn write_npy<E: npyz::AutoSerialize>(&mut self, shape: &[usize], values: impl Iterator<Item = E>) -> Result<()> {
        use npyz::WriterBuilder;
        let shape: Vec<u64> = shape.iter().map(|&len| len as u64).collect();
        let mut buffer = BufWriter::new(&self.file);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut buffer).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        Ok(buffer.flush()?)
    }

    fn write_safetensors<T: Element>(&mut self, shape: &[usize], values: &[T]) -> Result<()> {
        let name = self.place.name.clone().unwrap_or_default();
        let (dtype, bytes) = encode(values)?;
        let present = self.path.is_file().then(|| SafeTensors::open(&self.path)).transpose()?;
        let (mut tensors, metadata) = match &present {
            Some(present) => (present.tensors()?, present.metadata.metadata().clone()),
            None => (Vec::new(), None),
        };
        tensors.retain(|(other, _)| *other != name);
        tensors.push((name, TensorView::new(dtype, shape.to_vec(), &bytes)?));
        Ok(self.file.write_all(&safetensors::serialize(tensors, metadata)?)?)
    }

    /// The whole file: these tensors, and what there is to say about them. It is not yet in its place.
    pub(crate) fn fill_all<T: Element>(&mut self, tensors: &[Named<'_, T>], about: &[(&str, String)]) -> Result<()> {
        let encoded: Vec<_> = tensors.iter().map(|tensor| encode(tensor.values)).collect::<Result<_>>()?;
        let views = tensors.iter().zip(&encoded).map(|(tensor, (dtype, bytes))| {
            Ok((tensor.name.to_owned(), TensorView::new(*dtype, tensor.shape.clone(), bytes)?))
        });
        let about = about.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let bytes = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(about))?;
        self.file.write_all(&bytes).with_context(|| format!("{}: {}", self.option, self.place))
    }

    /// Moves the complete file to its place.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if let Some(temporary) = &self.temporary {
            let replaced = std::fs::rename(temporary, &self.path).context("cannot be replaced");
            replaced.with_context(|| format!("{}: {}", self.option, self.place))?;
            self.temporary = None;
        }
        Ok(())
    }
}

/// How safetensors stores these numbers.
fn encode<T: Element>(values: &[T]) -> Result<(Dtype, Vec<u8>)> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size_of_val(values)).map_err(|_| anyhow!("out of memory"))?;
    for value in values.iter().map(|value| value.to_f64()) {
        match T::DTYPE {
            DType::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
            DType::Bf16 => bytes.extend(bf16::from_f64(value).to_le_bytes()),
            DType::F64 => bytes.extend(value.to_le_bytes()),
            _ => bytes.extend((value as f32).to_le_bytes()),
        }
    }
    let dtype = match T::DTYPE {
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::F64 => Dtype::F64,
        _ => Dtype::F32,
    };
    Ok((dtype, bytes))
}

impl Drop for Output {
    fn drop(&mut self) {
        // Incomplete: the file that may have been there before stays as it was.
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

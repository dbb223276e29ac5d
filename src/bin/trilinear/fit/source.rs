//! Which tensor of a file is W.

use anyhow::{Context, Result, bail};

use crate::formats::{Array, Place, SafeTensors};

/// W in `text`: a `.npy` file, or the tensor of a safetensors file that is named, whose module is named, or that is the
/// only one with three axes. Errors name the file, the tensor and its shape.
pub(super) fn open(text: &str) -> Result<Array> {
    let place = Place::parse(text);
    let w = match place.is_safetensors() {
        true => find(&place).with_context(|| place.to_string())?,
        false => Array::open("w", text)?,
    };
    match w.shape.len() {
        3 => Ok(w),
        _ => bail!("{} has shape {:?}; a tensor of 3 axes is needed", w.place, w.shape),
    }
}

fn find(place: &Place) -> Result<Array> {
    let tensors = SafeTensors::open(&place.path)?;
    let shapes = tensors.shapes();
    if let Some(name) = &place.name {
        let module = format!("{name}.weight");
        let is_module =
            !shapes.iter().any(|(other, _)| other == name) && shapes.iter().any(|(other, _)| *other == module);
        return tensors.array("w", place, if is_module { &module } else { name });
    }
    let found: Vec<_> = shapes.iter().filter(|(_, shape)| shape.len() == 3).collect();
    match found.as_slice() {
        [(name, _)] => tensors.array("w", place, name),
        [] => bail!("no tensor has 3 axes; {}", tensors.contents()),
        several => {
            let names: Vec<String> = several.iter().map(|(name, shape)| format!("{place}:{name} {shape:?}")).collect();
            bail!("{} tensors have 3 axes; name one: {}", several.len(), names.join(", "))
        }
    }
}

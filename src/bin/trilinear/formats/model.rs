//! CP decompositions in safetensors files: what `fit` writes, and what `run --cp` and `fit --warm` read.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use trilinear::{Axes, Axis, Element, Tensor};

use super::output::Named;
use super::{Array, Output, Place, SafeTensors};

/// Under this key the metadata have the axes of W that `a`, `b` and `c` are for.
const AXES: &str = "axes";
const ORDER: &str = "out,z,x";

/// `a`, `b` and `c`, each [axis, R], and `lambda` \[R\], which may be absent: W\[k,i,j\] = Σᵣ λ\[r\] a\[k,r\] b\[i,r\] c\[j,r\] if
/// the metadata's `axes` are `out,z,x` or absent; in another order the factors change places.
pub(crate) struct Model {
    /// Of the outputs, z and x.
    pub(crate) factors: [Array; 3],
    pub(crate) lambda: Option<Array>,
}

impl Model {
    /// The model in `FILE.safetensors`. Errors name `option` and the file.
    pub(crate) fn open(option: &str, text: &str) -> Result<Model> {
        Model::read(text).with_context(|| format!("{option}: {text}"))
    }

    fn read(text: &str) -> Result<Model> {
        let place = Place::parse(text);
        ensure!(place.is_safetensors() && place.name.is_none(), "is not named FILE.safetensors");
        let tensors = SafeTensors::open(Path::new(text))?;
        let order = tensors.about(AXES).unwrap_or(ORDER);
        let order = parse_order(order).map_err(|error| anyhow!("metadata `{AXES}` is `{order}`: {error}"))?;
        let factor = |axis: Axis, operand| {
            let at = order.iter().position(|&other| other == axis).unwrap_or_default();
            let name = ["a", "b", "c"][at];
            let factor = tensors.array(operand, &place, name)?;
            ensure!(factor.shape.len() == 2, "tensor `{name}` has shape {:?}, not 2 axes", factor.shape);
            Ok(factor)
        };
        let factors = [factor(Axis::Out, "cp A")?, factor(Axis::Z, "cp B")?, factor(Axis::X, "cp C")?];
        let lambda = tensors.names().iter().any(|name| name == "lambda");
        let lambda = lambda.then(|| tensors.array("lambda", &place, "lambda")).transpose()?;
        Ok(Model { factors, lambda })
    }

    /// Writes `a` [K, R], `b` [I, R], `c` [J, R] and `lambda` \[R\], and what there is to say about them, into `output`.
    pub(crate) fn write<T: Element>(
        output: &mut Output,
        factors: [&Tensor<T, 2>; 3],
        lambda: &Tensor<T, 1>,
        about: Vec<(&str, String)>,
    ) -> Result<()> {
        fn named<'a, T: Element, const D: usize>(name: &'a str, tensor: &'a Tensor<T, D>) -> Named<'a, T> {
            Named { name, shape: tensor.shape().to_vec(), values: tensor.as_slice() }
        }
        let [a, b, c] = factors;
        let tensors = [named("a", a), named("b", b), named("c", c), named("lambda", lambda)];
        output.fill_all(&tensors, &[vec![(AXES, ORDER.to_owned())], about].concat())?;
        output.finish()
    }
}

/// An order of `out`, `z` and `x`.
fn parse_order(text: &str) -> Result<[Axis; 3], String> {
    let order: Option<Vec<Axis>> = text
        .split(',')
        .map(|name| match name.trim() {
            "out" => Some(Axis::Out),
            "z" => Some(Axis::Z),
            "x" => Some(Axis::X),
            _ => None,
        })
        .collect();
    let order = order.and_then(|order| <[Axis; 3]>::try_from(order).ok());
    let order = order.ok_or("expected out, z and x in some order, with commas between")?;
    Axes::new(order).map(|_| order).map_err(|error| error.to_string())
}

/// The same, as an option gives it.
pub(crate) fn parse_axes(text: &str) -> Result<Axes, String> {
    Axes::new(parse_order(text)?).map_err(|error| error.to_string())
}

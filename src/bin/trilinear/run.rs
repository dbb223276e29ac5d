//! `trilinear run`: an interaction applied to files.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use trilinear::{Axes, Context, DType, Device, Element, Error, Interaction, Plan, Tensor, View, bf16, f16};

use crate::formats::{Array, Model, Output, Place, SafeTensors, Values, parse_axes};

mod gradients;

const HELP: &str = "\
Computes y = zᵀWx + zᵀU + Vx + b; any of W, U, V and b may be absent, but not all.
A FILE is FILE.npy (float16, float32 or float64; C or Fortran order) or FILE.safetensors:NAME (those and bfloat16).

With --grad G, which has y's shape, the gradients of Σ G·y are written into --out-dir, each of the shape of what it is for:
  dz.npy, dx.npy                          of the inputs; with --tied dz.npy is that of both, and there is no dx.npy
  dw.npy                                  of W, in the order of axes that W has; of --bilinear's weight
  da.npy, db_cp.npy, dc.npy, dlambda.npy  of the CP factors A, B and C, and of lambda
  du.npy, dv.npy, db.npy                  of U, V and b; of --bilinear's bias
They are float32, or float64 if that is computed in. All are complete before the first takes its place.";

/// Apply an interaction, y = zᵀWx + zᵀU + Vx + b, to files.
#[derive(clap::Args)]
#[command(after_help = HELP)]
#[command(group = clap::ArgGroup::new("core").args(["w", "cp", "bilinear"]))]
pub(crate) struct Args {
    /// z: [N, I], or [I] for one row; with a shared context [G, I]
    #[arg(long, value_name = "FILE")]
    z: String,
    /// x: [N, J], or [J] for one row; [G, M, J] for a shared context: M rows for each row of z
    #[arg(long, value_name = "FILE", required_unless_present = "tied")]
    x: Option<String>,
    /// x is z
    #[arg(long, conflicts_with = "x")]
    tied: bool,
    /// Let a z or an x of one row meet every row of the other
    #[arg(long)]
    broadcast: bool,
    /// W, dense: [K, I, J] unless --w-axes says otherwise
    #[arg(long, value_name = "FILE")]
    w: Option<String>,
    /// Order of W's axes in the file, such as x,z,out
    #[arg(long, value_name = "ORDER", default_value = "out,z,x", value_parser = parse_axes,
        requires = "w", conflicts_with_all = ["cp", "bilinear"])]
    w_axes: Axes,
    /// W as CP factors: a file that `trilinear fit` wrote, or three with A [K, R], B [I, R] and C [J, R]
    #[arg(long, num_args = 1..=3, value_name = "FILE")]
    cp: Option<Vec<String>>,
    /// Weights [R] of the CP components
    #[arg(long, value_name = "FILE", requires = "cp", conflicts_with_all = ["w", "bilinear"])]
    lambda: Option<String>,
    /// W and b from the state dict of a torch.nn.Bilinear (in1 = z, in2 = x), saved as safetensors: `weight` and, if
    /// there, `bias`; after a colon the module's name, as in FILE.safetensors:decoder.scorer
    #[arg(long, value_name = "FILE[:PREFIX]", conflicts_with = "b")]
    bilinear: Option<String>,
    /// U: [K, I]
    #[arg(long, value_name = "FILE")]
    u: Option<String>,
    /// V: [K, J]
    #[arg(long, value_name = "FILE")]
    v: Option<String>,
    /// b: [K]
    #[arg(long, value_name = "FILE")]
    b: Option<String>,
    /// y: FILE.npy, or FILE.safetensors:NAME (whose other tensors are kept). [N, K]; [K] if z and x have one axis;
    /// [G, M, K] for a shared context
    #[arg(long, value_name = "FILE", required_unless_present_any = ["explain", "grad"])]
    out: Option<String>,
    /// The gradient of y, of y's shape: gradients are written into --out-dir, and y only if --out is given
    #[arg(long, value_name = "FILE", requires = "out_dir")]
    grad: Option<String>,
    /// Folder for the gradients; it is made if it is not there, but not its parent
    #[arg(long, value_name = "FOLDER", requires = "grad")]
    out_dir: Option<PathBuf>,
    /// Print what would be done, and do nothing
    #[arg(long, conflicts_with_all = ["out", "grad"])]
    explain: bool,
    /// auto, cpu or cuda:N. Default: $TRILINEAR_DEVICE, else auto
    #[arg(long, value_parser = str::parse::<Device>)]
    device: Option<Device>,
    /// f16, bf16, f32 or f64: what everything is converted to, computed from (f16 and bf16 with sums in f32) and written
    /// as. Default: the weights' type (of several the widest; f32 for f16 with bf16), to which z and x are converted
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<DType>,
    /// Use at most this many threads. Default: all
    #[arg(long)]
    threads: Option<usize>,
}

fn parse_dtype(text: &str) -> Result<DType, &'static str> {
    match text {
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::Bf16),
        "f32" => Ok(DType::F32),
        "f64" => Ok(DType::F64),
        _ => Err("expected f16, bf16, f32 or f64"),
    }
}

/// The tensors of a call, as they are in their files.
struct Operands {
    z: Array,
    /// `None` if tied.
    x: Option<Array>,
    w: Option<Array>,
    cp: Option<[Array; 3]>,
    lambda: Option<Array>,
    u: Option<Array>,
    v: Option<Array>,
    b: Option<Array>,
    grad: Option<Array>,
}

impl Operands {
    fn open(args: &Args) -> Result<Operands> {
        let open = |operand, text: &Option<String>| text.as_ref().map(|text| Array::open(operand, text)).transpose();
        let mut lambda = open("lambda", &args.lambda)?;
        let cp = match args.cp.as_deref() {
            Some([a, b, c]) => Some([Array::open("cp A", a)?, Array::open("cp B", b)?, Array::open("cp C", c)?]),
            Some([model]) => {
                let model = Model::open("--cp", model)?;
                ensure!(model.lambda.is_none() || lambda.is_none(), "--lambda: the file of --cp has a lambda already");
                lambda = lambda.or(model.lambda);
                Some(model.factors)
            }
            Some(files) => bail!("--cp: {} files are given; it takes one that `fit` wrote, or A, B and C", files.len()),
            None => None,
        };
        let (mut w, mut b) = (open("w", &args.w)?, open("b", &args.b)?);
        if let Some(text) = &args.bilinear {
            let (weight, bias) = open_bilinear(text).with_context(|| format!("--bilinear: {text}"))?;
            (w, b) = (Some(weight), bias);
        }
        Ok(Operands {
            z: Array::open("z", &args.z)?,
            x: open("x", &args.x)?,
            w,
            cp,
            lambda,
            u: open("u", &args.u)?,
            v: open("v", &args.v)?,
            b,
            grad: open("grad", &args.grad)?,
        })
    }

    fn x(&self) -> &Array {
        self.x.as_ref().unwrap_or(&self.z)
    }

    fn weights(&self) -> impl Iterator<Item = &Array> {
        let others = [&self.w, &self.lambda, &self.u, &self.v, &self.b].into_iter().flatten();
        self.cp.iter().flatten().chain(others)
    }

    /// The type to compute in if none is asked for.
    fn dtype(&self) -> Result<DType> {
        let widest = self.weights().map(|array| array.dtype).reduce(|a, b| match (a, b) {
            (DType::F16, DType::Bf16) | (DType::Bf16, DType::F16) => DType::F32,
            _ if a.bytes() >= b.bytes() => a,
            _ => b,
        });
        widest.context("there is nothing to apply: give at least one of --w, --cp, --bilinear, --u, --v and --b")
    }

    /// `error`, with the file of the operand that it names. In errors of `cp`, `b` is a factor and not the bias.
    fn locate(&self, error: Error, cp: bool) -> anyhow::Error {
        let Error::Shape { operand, .. } = error else { return error.into() };
        let array = match (operand, &self.cp) {
            ("z", _) => Some(&self.z),
            ("x", _) => Some(self.x()),
            ("a", Some([a, _, _])) => Some(a),
            ("b", Some([_, b, _])) if cp => Some(b),
            ("c", Some([_, _, c])) => Some(c),
            ("lambda", _) => self.lambda.as_ref(),
            ("u", _) => self.u.as_ref(),
            ("v", _) => self.v.as_ref(),
            ("b", _) => self.b.as_ref(),
            ("g", _) => self.grad.as_ref(),
            _ => None,
        };
        match array {
            Some(array) => anyhow!("{error} ({}, shape {:?})", array.place, array.shape),
            None => error.into(),
        }
    }
}

/// `weight` and `bias` of a state dict. The prefix may be the module's name or that of its weight.
fn open_bilinear(text: &str) -> Result<(Array, Option<Array>)> {
    let mut place = Place::parse(text);
    ensure!(place.is_safetensors(), "is not named FILE.safetensors or FILE.safetensors:PREFIX");
    let tensors = SafeTensors::open(&place.path)?;
    let prefix = place.name.take().unwrap_or_default();
    let module = prefix.strip_suffix("weight").unwrap_or(&prefix);
    let module = module.strip_suffix('.').unwrap_or(module);
    let key = |name: &str| if module.is_empty() { name.to_string() } else { format!("{module}.{name}") };
    let weight = tensors.array("w", &place, &key("weight"))?;
    ensure!(weight.shape.len() == 3, "`{}` has shape {:?}, not [out, in1, in2]", key("weight"), weight.shape);
    let bias = tensors.names().contains(&key("bias"));
    let bias = bias.then(|| tensors.array("b", &place, &key("bias"))).transpose()?;
    Ok((weight, bias))
}

/// Apply the interaction that `args` describe.
pub(crate) fn run(args: Args) -> Result<()> {
    let operands = Operands::open(&args)?;
    let default = operands.dtype()?;
    match args.dtype.unwrap_or(default) {
        DType::F16 => apply::<f16>(&args, &operands),
        DType::Bf16 => apply::<bf16>(&args, &operands),
        DType::F32 => apply::<f32>(&args, &operands),
        DType::F64 => apply::<f64>(&args, &operands),
        other => bail!("{other} cannot be computed in"),
    }
}

fn context(args: &Args) -> Result<Context> {
    let mut context = Context::from_env()?;
    if let Some(device) = args.device {
        context = Context::new(device).context("--device")?.with_simd(context.simd())?;
    }
    match args.threads {
        Some(threads) => context.with_threads(threads).context("--threads"),
        None => Ok(context),
    }
}

/// The numbers of the weights, in the type to compute in.
struct Weights<'a, T: Element> {
    w: Option<Values<'a, T>>,
    cp: Option<[Values<'a, T>; 3]>,
    lambda: Option<Values<'a, T>>,
    u: Option<Values<'a, T>>,
    v: Option<Values<'a, T>>,
    b: Option<Values<'a, T>>,
}

impl<'a, T: Element> Weights<'a, T> {
    fn load(operands: &'a Operands) -> Result<Self> {
        let values = |array: &'a Option<Array>| array.as_ref().map(Array::values).transpose();
        let cp = match &operands.cp {
            Some([a, b, c]) => Some([a.values()?, b.values()?, c.values()?]),
            None => None,
        };
        Ok(Weights {
            w: values(&operands.w)?,
            cp,
            lambda: values(&operands.lambda)?,
            u: values(&operands.u)?,
            v: values(&operands.v)?,
            b: values(&operands.b)?,
        })
    }

    /// The layer; without a W, z and x say how many features there are.
    fn layer(&self, operands: &Operands, axes: Axes, [i, j]: [usize; 2]) -> Result<Interaction<'_, T>> {
        let u = self.u.as_ref().map(|u| u.view("2 axes: [K, I]")).transpose()?;
        let v = self.v.as_ref().map(|v| v.view("2 axes: [K, J]")).transpose()?;
        let b = self.b.as_ref().map(|b| b.view("1 axis: [K]")).transpose()?;
        let mut layer = match (&self.w, &self.cp) {
            (Some(w), _) => Interaction::dense(axes.view(w.view(&format!("3 axes: {axes}"))?))?,
            (None, Some([a, b, c])) => {
                let (a, b, c) = (a.view("2 axes: [K, R]")?, b.view("2 axes: [I, R]")?, c.view("2 axes: [J, R]")?);
                Interaction::cp(a, b, c).map_err(|error| operands.locate(error, true))?
            }
            (None, None) => {
                let rows = |view: View<'_, T, 2>| view.shape()[0];
                let outputs = u.map(rows).or(v.map(rows)).or(b.map(|b| b.shape()[0])).unwrap_or(0);
                Interaction::linear(outputs, i, j)?
            }
        };
        let locate = |error| operands.locate(error, false);
        if let Some(lambda) = &self.lambda {
            layer = layer.with_lambda(lambda.view("1 axis: [R]")?).map_err(locate)?;
        }
        if let Some(u) = u {
            layer = layer.with_u(u).map_err(locate)?;
        }
        if let Some(v) = v {
            layer = layer.with_v(v).map_err(locate)?;
        }
        if let Some(b) = b {
            layer = layer.with_b(b).map_err(locate)?;
        }
        Ok(layer)
    }
}

/// What is asked of the layer.
enum Call<'a, T> {
    Rows(View<'a, T, 2>, View<'a, T, 2>),
    Shared(View<'a, T, 2>, View<'a, T, 3>),
}

impl<'a, T: Element> Call<'a, T> {
    /// The call, and the shape of its result without the outputs.
    fn new(args: &Args, z: &'a Values<'_, T>, x: &'a Values<'_, T>) -> Result<(Self, Vec<usize>)> {
        const Z: &str = "1 axis, [I], or 2: [N, I]";
        const X: &str = "1 axis, [J], 2, [N, J], or 3: [G, M, J]";
        let context = z.rows(Z)?;
        if x.axes() == 3 {
            let x = x.view(X)?;
            let [groups, rows, _] = x.shape();
            let broadcast = args.broadcast && context.shape()[0] == 1;
            let z = if broadcast { context.broadcast(0, groups)? } else { context };
            return Ok((Call::Shared(z, x), vec![groups, rows]));
        }
        let inputs = x.rows(X)?;
        let shape = if z.axes() == 1 && x.axes() == 1 { vec![] } else { vec![inputs.shape()[0]] };
        Ok(match (context.shape()[0], inputs.shape()[0]) {
            // One z for many rows is a shared context, for which there is a cheaper way.
            (1, rows) if args.broadcast && rows != 1 => (Call::Shared(context, x.one_group(X)?), shape),
            (rows, 1) if args.broadcast && rows != 1 => (Call::Rows(context, inputs.broadcast(0, rows)?), vec![rows]),
            _ => (Call::Rows(context, inputs), shape),
        })
    }

    /// That the shapes fit, and what the layer does with them.
    fn plan(&self, layer: &Interaction<'_, T>) -> trilinear::Result<Plan> {
        let check = |operand, axis, expected, actual| {
            if expected == actual { Ok(()) } else { Err(Error::Shape { operand, axis, expected, actual }) }
        };
        let (z, axis, [count, features]) = match self {
            Call::Rows(z, x) => (z, "rows", x.shape()),
            Call::Shared(z, x) => (z, "groups", [x.shape()[0], x.shape()[2]]),
        };
        check("z", "features", layer.z_features(), z.shape()[1])?;
        check("x", "features", layer.x_features(), features)?;
        check("z", axis, count, z.shape()[0])?;
        match self {
            Call::Rows(_, x) => layer.plan(x.shape()[0]),
            Call::Shared(_, x) => layer.plan_shared(x.shape()[0], x.shape()[1]),
        }
    }

    fn compute(&self, layer: &Interaction<'_, T>) -> trilinear::Result<Vec<T>> {
        match *self {
            Call::Rows(z, x) => layer.forward(z, x).map(Tensor::into_vec),
            Call::Shared(z, x) => layer.forward_shared(z, x).map(Tensor::into_vec),
        }
    }
}

fn apply<T: Element>(args: &Args, operands: &Operands) -> Result<()> {
    let context = context(args)?;
    // Before the work: that the result cannot be written is better known now.
    let output = args.out.as_deref().map(|path| Output::create("--out", path)).transpose()?;
    let files = args.out_dir.as_deref().map(|folder| gradients::Files::create(folder, operands)).transpose()?;
    let z = operands.z.values::<T>()?;
    let x = operands.x.as_ref().map(Array::values).transpose()?;
    let weights = Weights::load(operands)?;

    let (call, mut shape) = Call::new(args, &z, x.as_ref().unwrap_or(&z))?;
    let features = |array: &Array| array.shape.last().copied().unwrap_or(0);
    let layer = weights.layer(operands, args.w_axes, [features(&operands.z), features(operands.x())])?;
    let layer = layer.with_context(context);
    let plan = call.plan(&layer).map_err(|error| {
        let one_row = matches!(error, Error::Shape { axis: "rows" | "groups", expected, actual, .. }
            if expected == 1 || actual == 1);
        let error = operands.locate(error, false);
        if one_row { anyhow!("{error}; --broadcast lets one row meet all of the other's") } else { error }
    })?;
    if args.explain {
        println!("{plan}");
        return Ok(());
    }
    let mut done = Vec::new();
    // Everything is computed before anything is written.
    let timed = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let mut y = match output {
        Some(output) => {
            let start = Instant::now();
            let y = call.compute(&layer).map_err(|error| operands.locate(error, false))?;
            done.push(format!("{plan}; {:.3} ms", timed(start)));
            Some((output, y))
        }
        None => None,
    };
    let gradients = match (files, &operands.grad) {
        (Some(files), Some(grad)) => {
            let grad = grad.values::<T>()?;
            let start = Instant::now();
            let parts = gradients::compute(&call, &layer, operands, args.w_axes, &grad)?;
            done.push(format!("gradients {}; {:.3} ms", files.names(), timed(start)));
            Some((files, parts))
        }
        _ => None,
    };
    if let Some((output, y)) = &mut y {
        shape.push(layer.outputs());
        output.fill(&shape, y)?;
    }
    if let Some((files, parts)) = gradients {
        files.write(&parts)?;
    }
    if let Some((mut output, _)) = y {
        output.finish()?;
    }
    done.iter().for_each(|line| eprintln!("{line}"));
    Ok(())
}

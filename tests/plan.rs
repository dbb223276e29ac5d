//! What a plan says: the intended algorithm, kernel, costs and limits, and what cannot be forced.

mod common;

use common::{contexts, levels};
use trilinear::{Algorithm, Context, DType, Device, Element, Error, Interaction, Plan, SimdLevel, View, presets};

fn serial() -> Context {
    Context::new(Device::Cpu).unwrap().with_threads(1).unwrap()
}

/// A W of any size that takes no memory: one element seen as all. Its strides are those of a broadcast, so it is for
/// questions that do not depend on them.
fn constant<T: Element>(element: &[T; 1], shape: [usize; 3]) -> View<'_, T, 3> {
    View::strided(element, 0, shape, [0; 3]).unwrap()
}

fn plan<T: Element>([n, i, j, k]: [usize; 4], context: Context) -> Plan {
    let w = vec![T::default(); i * j * k];
    Interaction::dense(View::new(&w, [k, i, j]).unwrap()).unwrap().with_context(context).plan(n).unwrap()
}

#[test]
fn dense_situations() {
    for context in contexts() {
        let algorithm = |sizes| plan::<f32>(sizes, context).algorithm;
        // At most four rows: bandwidth is what counts.
        for n in 1..=4 {
            assert_eq!(algorithm([n, 256, 256, 256]), Algorithm::Stream);
            assert_eq!(algorithm([n, 16, 16, 16]), Algorithm::Stream);
            assert_eq!(algorithm([n, 300, 200, 1]), Algorithm::Stream);
        }
        for n in [5, 32, 1024] {
            assert_ne!(algorithm([n, 256, 256, 256]), Algorithm::Stream);
        }
        // One output, or few, and many rows: the rows of the GEMM must be those of z.
        assert_eq!(algorithm([2048, 400, 400, 1]), Algorithm::FusedDot);
        assert_eq!(algorithm([2000, 100, 100, 3]), Algorithm::FusedDot);
        // Narrow features, many outputs: the depth of the GEMM must be that of z⊗x.
        assert_eq!(algorithm([4096, 8, 8, 96]), Algorithm::KhatriRao);
        assert_eq!(algorithm([4096, 16, 4, 240]), Algorithm::KhatriRao);
    }
}

#[test]
fn other_forms() {
    let data = common::Cp::<f32>::uniform([1, 20, 30, 40, 50], 1);
    for context in contexts() {
        let cp = data.layer().with_context(context);
        for n in 1..=4 {
            assert_eq!(cp.plan(n).unwrap().algorithm, Algorithm::CpStream);
        }
        assert_eq!(cp.plan(5).unwrap().algorithm, Algorithm::CpBlocked);
        let linear = Interaction::<f32>::linear(3, 4, 5).unwrap().with_context(context);
        assert_eq!(linear.plan(9).unwrap().algorithm, Algorithm::Linear);
        assert_eq!(linear.plan(9).unwrap().flops, 0);
        assert_eq!(cp.plan_shared(3, 9).unwrap().algorithm, Algorithm::CpBlocked);
        assert_eq!(linear.plan_shared(3, 9).unwrap().algorithm, Algorithm::ContractContext);
    }
}

fn names_the_kernel<T: Element>() {
    for context in contexts() {
        let plan = plan::<T>([9, 4, 5, 6], context);
        assert_eq!((plan.simd, plan.dtype, plan.device), (context.simd(), T::DTYPE, Device::Cpu));
        let parts: Vec<&str> = plan.kernel.split('-').collect();
        let level = match context.simd() {
            SimdLevel::Portable => ["portable".into(), "wide".into()],
            other => [std::env::consts::ARCH.into(), other.to_string()],
        };
        assert_eq!(parts.len(), 4, "{}", plan.kernel);
        assert_eq!([parts[0], parts[2]], level);
        assert_eq!(parts[1], T::DTYPE.to_string());
        let (rows, lanes) = parts[3].split_once('x').unwrap();
        assert!(rows.parse::<usize>().unwrap() >= 4 && lanes.parse::<usize>().unwrap() >= 4, "{}", plan.kernel);
        // The line for people names what matters.
        let line = plan.to_string();
        assert!(line.contains(plan.kernel) && line.contains("cpu") && line.contains("1 thread:"), "{line}");
        assert!(line.contains(&plan.algorithm.to_string()) && line.contains(&plan.flops.to_string()), "{line}");
    }
}

/// One kernel for each pair of level and type.
#[test]
fn kernels_differ() {
    let mut kernels = Vec::new();
    for context in contexts() {
        kernels.extend([plan::<f32>([1; 4], context), plan::<f64>([1; 4], context)].map(|plan| plan.kernel));
        kernels.extend(
            [plan::<trilinear::f16>([1; 4], context), plan::<trilinear::bf16>([1; 4], context)].map(|plan| plan.kernel),
        );
    }
    kernels.sort_unstable();
    kernels.dedup();
    assert_eq!(kernels.len(), 4 * levels().len());
}

#[test]
fn costs() {
    let data = common::Cp::<f32>::uniform([1, 20, 30, 40, 50], 1);
    let rest = &data.rest;
    let [n, i, j, k, r] = [7u128, 20, 30, 40, 50];
    let w = vec![0.0f32; (i * j * k) as usize];
    let only_w = Interaction::dense(View::new(&w, [40, 20, 30]).unwrap()).unwrap().with_context(serial());
    let inputs = 4 * n * (i + j + k);
    let flops_and_bytes = |layer: Interaction<'_, f32>| {
        let plan = layer.with_context(serial()).plan(7).unwrap();
        (plan.flops, plan.bytes)
    };
    assert_eq!(flops_and_bytes(only_w), (2 * n * i * j * k, inputs + 4 * i * j * k));
    let with_u = only_w.with_u(rest.u()).unwrap();
    assert_eq!(flops_and_bytes(with_u), (2 * n * (i * j * k + k * i), inputs + 4 * (i * j * k + k * i)));
    let all = with_u.with_v(rest.v()).unwrap().with_b(rest.b()).unwrap();
    let weights = i * j * k + k * i + k * j + k;
    assert_eq!(flops_and_bytes(all), (2 * n * (i * j * k + k * i + k * j), inputs + 4 * weights));
    let cp = Interaction::cp(data.a(), data.b(), data.c()).unwrap();
    assert_eq!(flops_and_bytes(cp), (2 * n * r * (i + j + k), inputs + 4 * r * (i + j + k)));
    assert_eq!(flops_and_bytes(data.core()), (2 * n * r * (i + j + k), inputs + 4 * r * (i + j + k + 1)));
    // Half the width, half the bytes.
    let w = vec![trilinear::f16::ZERO; (i * j * k) as usize];
    let half = Interaction::dense(View::new(&w, [40, 20, 30]).unwrap()).unwrap();
    assert_eq!(half.plan(7).unwrap().bytes, 2 * (n * (i + j + k) + i * j * k));
}

/// Scratch is bounded by a constant for each thread, whatever the shape.
#[test]
fn scratch_is_bounded() {
    const MOST: usize = 8 << 20;
    let element = [0.0f32];
    for context in contexts() {
        for preset in presets::PRESETS {
            let w = Interaction::dense(constant(&element, [preset.k, preset.i, preset.j])).unwrap();
            let plans = [
                w.with_context(context).plan(preset.n * preset.rows),
                w.with_context(context).plan_shared(preset.n, preset.rows),
            ];
            for plan in plans {
                assert!(plan.unwrap().scratch <= MOST, "{}", preset.name);
            }
            let factor = |rows| View::strided(&element, 0, [rows, preset.r.unwrap_or(1)], [0, 0]).unwrap();
            let cp = Interaction::cp(factor(preset.k), factor(preset.i), factor(preset.j)).unwrap();
            let plan = cp.with_context(context).plan(preset.n).unwrap();
            assert!(plan.scratch <= MOST, "{} {plan}", preset.name);
        }
        let sizes = [1, 5, 64, 1000, 30_000];
        for index in 0..sizes.len().pow(4) {
            let [n, i, j, k] = [1, 5, 25, 125].map(|place| sizes[index / place % sizes.len()]);
            let layer = Interaction::dense(constant(&element, [k, i, j])).unwrap();
            for algorithm in [Algorithm::FusedDot, Algorithm::KhatriRao] {
                let plan = layer.with_context(context.with_algorithm(algorithm)).plan(n).unwrap();
                assert!(plan.scratch <= MOST, "[{n}, {i}, {j}, {k}] {plan}");
            }
            let plan = layer.with_context(context).plan_shared(n, k).unwrap();
            assert!(plan.scratch <= MOST, "[{n}, {i}, {j}, {k}] {plan}");
        }
    }
}

/// A forced algorithm is used, or refused with the reason.
#[test]
fn forced() {
    let w = vec![0.0f32; 60];
    let dense = Interaction::dense(View::new(&w, [3, 4, 5]).unwrap()).unwrap();
    let cp_data = common::Cp::<f32>::uniform([1, 4, 5, 3, 2], 1);
    let cp = cp_data.layer();
    let linear = Interaction::<f32>::linear(3, 4, 5).unwrap();
    let takes = |layer: Interaction<'_, f32>, algorithm, rows| {
        let layer = layer.with_context(serial().with_algorithm(algorithm));
        assert_eq!(layer.context().unwrap().algorithm(), Some(algorithm));
        let (z, x) = (vec![1.0; rows * 4], vec![1.0; rows * 5]);
        let y = layer.forward(View::new(&z, [rows, 4]).unwrap(), View::new(&x, [rows, 5]).unwrap());
        match layer.plan(rows) {
            Ok(plan) => {
                assert_eq!((plan.algorithm, y.is_ok()), (algorithm, true));
                true
            }
            Err(error) => {
                assert!(
                    matches!(&error, Error::Algorithm { algorithm: a, reason } if *a == algorithm && !reason.is_empty())
                );
                assert_eq!(y, Err(error), "plan and forward must agree");
                false
            }
        }
    };
    for algorithm in Algorithm::ALL {
        let few = |rows| rows <= 4;
        for rows in [1, 4, 5, 40] {
            let expected = match algorithm {
                Algorithm::Stream => [few(rows), false, false],
                Algorithm::FusedDot | Algorithm::KhatriRao => [true, false, false],
                Algorithm::CpStream => [false, few(rows), false],
                Algorithm::CpBlocked => [false, true, false],
                Algorithm::Linear => [false, false, true],
                _ => [false, false, false],
            };
            let taken = [dense, cp, linear].map(|layer| takes(layer, algorithm, rows));
            assert_eq!(taken, expected, "{algorithm} with {rows} rows");
        }
    }
}

/// No rows: nothing to do, but a plan all the same.
#[test]
fn no_rows() {
    let data = common::Cp::<f32>::uniform([1, 4, 5, 3, 2], 1);
    let w = vec![0.0f32; 60];
    let dense = Interaction::dense(View::new(&w, [3, 4, 5]).unwrap()).unwrap();
    for context in contexts() {
        for layer in [dense, data.layer(), Interaction::linear(3, 4, 5).unwrap()] {
            let layer = layer.with_context(context);
            assert_eq!(layer.plan(0).unwrap().flops, 0);
            assert_eq!(layer.plan_shared(0, 3).unwrap().flops, 0);
            assert!(layer.plan_shared(3, 0).is_ok());
        }
        for algorithm in [Algorithm::FusedDot, Algorithm::KhatriRao, Algorithm::Stream] {
            let layer = dense.with_context(context.with_algorithm(algorithm));
            assert_eq!(layer.plan(0).unwrap().algorithm, algorithm);
        }
    }
}

/// No sizes that a layer can have overflow the arithmetic of a plan. (Larger ones are refused: see absurd.rs.)
#[test]
fn enormous_sizes() {
    let element = [0.0f32];
    const MANY: usize = 1 << 40;
    let vast = |shape| View::strided(&element, 0, shape, [0, 0]).unwrap();
    let factors = Interaction::cp(vast([MANY, MANY]), vast([MANY, MANY]), vast([MANY, MANY])).unwrap();
    let linear = Interaction::<f32>::linear(MANY, MANY, MANY).unwrap();
    let full = linear.with_u(vast([MANY, MANY])).unwrap().with_v(vast([MANY, MANY])).unwrap();
    let thin = Interaction::dense(constant(&element, [1, MANY / 2, 1])).unwrap();
    for layer in [factors, linear, full, thin] {
        for rows in [1, 4, 5, MANY] {
            // Any answer but a panic.
            let _ = layer.with_context(serial()).plan(rows);
            let _ = layer.with_context(serial()).plan_shared(rows, MANY);
        }
    }
    assert!(thin.with_context(serial()).plan(MANY).unwrap().flops >= (MANY as u128) * (MANY as u128 / 2));
}

#[test]
fn names() {
    let names: Vec<String> = Algorithm::ALL.iter().map(Algorithm::to_string).collect();
    let expected =
        ["stream", "fused-dot", "khatri-rao", "cp-blocked", "cp-stream", "contract-context", "linear", "blocks"];
    assert_eq!(names, expected);
    let dtypes = [DType::F16, DType::Bf16, DType::F32, DType::F64];
    assert_eq!(dtypes.map(|dtype| dtype.to_string()), ["f16", "bf16", "f32", "f64"]);
    assert_eq!(dtypes.map(DType::bytes), [2, 2, 4, 8]);
}

for_each_dtype!(names_the_kernel);

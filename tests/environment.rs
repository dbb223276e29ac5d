//! Environment variables, and inputs that would bring a process down if a check were missing: each case in a child of its own.

use std::process::{Command, Output};

use trilinear::{Context, Device, Interaction, SimdLevel, View, ViewMut};

/// Which case a child is to play; unset in the parent.
const CASE: &str = "TRILINEAR_TEST_CASE";

/// Runs `child` of this very test binary in a new process.
fn run(case: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CASE, case);
    command.env_remove("TRILINEAR_DEVICE").env_remove("TRILINEAR_SIMD").envs(variables.iter().copied());
    command.output().unwrap()
}

/// What the child printed after `= `.
#[track_caller]
fn answer(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.split_once("= "));
    let Some((_, answer)) = answer.filter(|_| output.status.success()) else {
        panic!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr))
    };
    answer.into()
}

/// Plays the case named by the environment; nothing in an ordinary run.
#[test]
fn child() {
    match std::env::var(CASE).as_deref() {
        Ok("context") => {
            let context = Context::from_env().map(|context| (context.device(), context.simd()));
            println!("= {context:?}");
        }
        Ok("layer") => {
            let layer = Interaction::dense(View::new(&[0.0f32; 8], [2, 2, 2]).unwrap());
            println!("= {:?}", layer.and_then(|layer| layer.plan(3)).map(|plan| plan.kernel));
        }
        Ok("changed") => {
            let first = Context::from_env();
            // SAFETY: the only thread of this process that uses the environment.
            unsafe { std::env::set_var("TRILINEAR_SIMD", "nonsense") };
            println!("= {}", first == Context::from_env());
        }
        Ok(case) => println!("= {:?}", enormous(case).map_err(|error| error.to_string())),
        Err(_) => {}
    }
}

/// One row of more features than any scratch can hold, from a view that takes no memory.
fn enormous(case: &str) -> trilinear::Result<()> {
    let (case, len) = case.split_once(' ').unwrap();
    let len: usize = len.parse().unwrap();
    let (element, mut y) = ([1.0f32], [0.0f32; 4]);
    let vast = |rows| View::strided(&element, 0, [rows, len], [0, 0]).unwrap();
    let none = |rows| View::<f32, 2>::new(&[], [rows, 0]).unwrap();
    match case {
        "linear" => Interaction::linear(1, len, 0)?.with_u(vast(1))?.forward_into(
            vast(4),
            none(4),
            ViewMut::new(&mut y, [4, 1])?,
        ),
        "no-z" => {
            let w = View::new(&[], [1, 0, len])?;
            Interaction::dense(w)?.forward_into(none(4), vast(4), ViewMut::new(&mut y, [4, 1])?)
        }
        "cp" => {
            let (one, column) = (View::row(&element), View::strided(&element, 0, [len, 1], [0, 1])?);
            Interaction::cp(one, column, one)?.forward_into(
                vast(4),
                View::new(&[1.0; 4], [4, 1])?,
                ViewMut::new(&mut y, [4, 1])?,
            )
        }
        other => panic!("no case {other}"),
    }
}

#[test]
fn nothing_set() {
    let expected = format!("Ok((Cpu, {:?}))", SimdLevel::best());
    assert_eq!(answer(&run("context", &[])), expected);
    // Empty is as good as unset.
    assert_eq!(answer(&run("context", &[("TRILINEAR_DEVICE", ""), ("TRILINEAR_SIMD", "")])), expected);
}

#[test]
fn simd() {
    for level in SimdLevel::ALL {
        let variables = [("TRILINEAR_SIMD", &*level.to_string())];
        let (context, kernel) = (answer(&run("context", &variables)), answer(&run("layer", &variables)));
        if level.is_available() {
            assert_eq!(context, format!("Ok((Cpu, {level:?}))"));
            assert!(kernel.contains(&format!("{level}-")), "{kernel}");
        } else {
            let error = format!("Err(Simd {{ level: {level:?}, available: {:?} }})", SimdLevel::best());
            assert_eq!([context, kernel], [error.clone(), error]);
        }
    }
}

#[test]
fn device() {
    for name in ["cpu", "auto"] {
        let context = answer(&run("context", &[("TRILINEAR_DEVICE", name)]));
        assert_eq!(context, format!("Ok(({:?}, {:?}))", Device::auto(), SimdLevel::best()));
    }
    for case in ["context", "layer"] {
        let error = answer(&run(case, &[("TRILINEAR_DEVICE", "cuda:1")]));
        assert!(error.starts_with("Err(Device { device: Cuda(1), reason: "), "{error}");
    }
}

#[test]
fn nonsense() {
    for case in ["context", "layer"] {
        for (variable, given, expected) in [
            ("TRILINEAR_SIMD", "avx9000", "portable, neon, avx2 or avx512"),
            ("TRILINEAR_SIMD", "AVX2", "portable, neon, avx2 or avx512"),
            ("TRILINEAR_DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
            ("TRILINEAR_DEVICE", "cuda:one", "auto, cpu, cuda or cuda:N"),
        ] {
            let error = format!("Err(Parse {{ what: {variable:?}, given: {given:?}, expected: {expected:?} }})");
            assert_eq!(answer(&run(case, &[(variable, given)])), error);
        }
    }
}

#[test]
fn read_once() {
    assert_eq!(answer(&run("changed", &[("TRILINEAR_SIMD", "portable")])), "true");
}

/// Sizes whose product wraps around to nothing, or near it: an error, never a write outside of the scratch.
#[test]
fn enormous_features() {
    let lens = [usize::MAX, usize::MAX - 14, 1 << 62, (1 << 62) + 4, 1 << 61];
    let mut wrong = Vec::new();
    for case in ["linear", "cp", "no-z"] {
        for len in lens {
            let output = run(&format!("{case} {len}"), &[]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // Without z features the sum is empty, so that no feature of x needs to be read.
            let right = text.contains("= Err(\"") || (case == "no-z" && text.contains("= Ok(()"));
            if !(output.status.success() && right) {
                wrong.push(format!("{case}, {len} features: {}", output.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

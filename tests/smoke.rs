//! Quick check of every path.
use trilinear::*;

fn rng(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 33) as f64 / (1u64 << 31) as f64) * 2.0 - 1.0
}
fn data<T: Element>(len: usize, seed: &mut u64) -> Vec<T> {
    (0..len).map(|_| T::from_f64(rng(seed))).collect()
}
fn check<T: Element>(layer: &Interaction<'_, T>, z: View<'_, T, 2>, x: View<'_, T, 2>, what: &str) {
    let y = layer.forward(z, x).unwrap();
    let exact = reference::forward(layer, z, x).unwrap();
    for (index, &value) in y.as_slice().iter().enumerate() {
        let error = (value.to_f64() - exact.value.as_slice()[index]).abs();
        let bound = exact.error_bound(T::DTYPE, index);
        assert!(error <= bound, "{what}: {index}: {value} vs {} bound {bound}", exact.value.as_slice()[index]);
    }
}
fn all<T: Element>() {
    let mut seed = 1;
    for level in SimdLevel::ALL.into_iter().filter(|l| l.is_available()) {
        for (n, i, j, k) in [
            (1, 3, 5, 2),
            (2, 16, 16, 16),
            (3, 17, 40, 3),
            (4, 33, 9, 20),
            (7, 12, 300, 5),
            (33, 13, 31, 17),
            (100, 5, 9, 40),
            (40, 72, 10, 30),
            (1, 0, 3, 2),
            (6, 3, 0, 2),
        ] {
            let (w, u, v, b): (Vec<T>, Vec<T>, Vec<T>, Vec<T>) =
                (data(k * i * j, &mut seed), data(k * i, &mut seed), data(k * j, &mut seed), data(k, &mut seed));
            let (z, x): (Vec<T>, Vec<T>) = (data(n * i, &mut seed), data(n * j, &mut seed));
            let zv = View::new(&z, [n, i]).unwrap();
            let xv = View::new(&x, [n, j]).unwrap();
            let cx = Context::from_env().unwrap().with_simd(level).unwrap();
            let layer = Interaction::dense(View::new(&w, [k, i, j]).unwrap())
                .unwrap()
                .with_u(View::new(&u, [k, i]).unwrap())
                .unwrap()
                .with_v(View::new(&v, [k, j]).unwrap())
                .unwrap()
                .with_b(View::vector(&b))
                .unwrap();
            for algorithm in [None, Some(Algorithm::Stream), Some(Algorithm::FusedDot), Some(Algorithm::KhatriRao)] {
                if algorithm == Some(Algorithm::Stream) && n > 4 {
                    continue;
                }
                let cx = algorithm.map_or(cx, |a| cx.with_algorithm(a));
                check(&layer.with_context(cx), zv, xv, &format!("{level} {n} {i} {j} {k} {algorithm:?}"));
                let t =
                    Interaction::dense(Axes::OUT_X_Z.view(View::new(&w, [k, j, i]).unwrap())).unwrap().with_context(cx);
                check(&t, zv, xv, &format!("oxz {level} {n} {i} {j} {k} {algorithm:?}"));
                if algorithm != Some(Algorithm::Stream) {
                    let t = Interaction::dense(Axes::ZX_OUT.view(View::new(&w, [i, j, k]).unwrap()))
                        .unwrap()
                        .with_context(cx);
                    check(&t, zv, xv, &format!("zxo {level} {n} {i} {j} {k} {algorithm:?}"));
                }
            }
            check(
                &Interaction::linear(k, i, j).unwrap().with_context(cx).with_u(View::new(&u, [k, i]).unwrap()).unwrap(),
                zv,
                xv,
                "linear",
            );
            for r in [1, 7, 16, 40] {
                let (a, bb, c, l): (Vec<T>, Vec<T>, Vec<T>, Vec<T>) =
                    (data(k * r, &mut seed), data(i * r, &mut seed), data(j * r, &mut seed), data(r, &mut seed));
                let cp = Interaction::cp(
                    View::new(&a, [k, r]).unwrap(),
                    View::new(&bb, [i, r]).unwrap(),
                    View::new(&c, [j, r]).unwrap(),
                )
                .unwrap()
                .with_lambda(View::vector(&l))
                .unwrap()
                .with_u(View::new(&u, [k, i]).unwrap())
                .unwrap()
                .with_context(cx);
                check(&cp, zv, xv, &format!("cp {level} {n} {i} {j} {k} {r}"));
                check(
                    &cp.with_context(cx.with_algorithm(Algorithm::CpBlocked)),
                    zv,
                    xv,
                    &format!("cpb {level} {n} {i} {j} {k} {r}"),
                );
                let g = cp.generate(zv).unwrap();
                let d = cp.to_dense().unwrap();
                let _ = (g, d);
            }
            // shared
            let m = 3;
            let xs: Vec<T> = data(n * m * j, &mut seed);
            let layer = layer.with_context(cx);
            let y = layer.forward_shared(zv, View::new(&xs, [n, m, j]).unwrap()).unwrap();
            for g in 0..n {
                let ze = zv.slice(0, g..g + 1).unwrap().broadcast(0, m).unwrap();
                let xe = View::new(&xs[g * m * j..(g + 1) * m * j], [m, j]).unwrap();
                let exact = reference::forward(&layer, ze, xe).unwrap();
                for index in 0..m * k {
                    let error = (y.as_slice()[g * m * k + index].to_f64() - exact.value.as_slice()[index]).abs();
                    assert!(error <= exact.error_bound(T::DTYPE, index), "shared {level} {n} {i} {j} {k} g{g} {index}");
                }
            }
        }
    }
}
#[test]
fn f32s() {
    all::<f32>()
}
#[test]
fn f64s() {
    all::<f64>()
}
#[test]
fn f16s() {
    all::<f16>()
}
#[test]
fn bf16s() {
    all::<bf16>()
}

//! Every form of W by its own path, by way of the dense W, and as a composition of matrix products of the crate `gemm` and loops, on
//! one thread: `cargo bench --bench forms`. Ways take turns, and the least time of each counts.
//!
//! `bandwidth` is the bytes of all operands and results, each moved once, over the time, as a share of the read bandwidth of the same run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use trilinear::{Block, Context, Device, Interaction, Mahalanobis, Precision, Result, View, ViewMut, init, machine};

/// A way's name, and what it does.
type Way<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// The least seconds of each way, in turns. A way that takes many times longer than the first is measured twice.
fn least(ways: &mut [Way<'_>]) -> Vec<f64> {
    let once = std::env::args().any(|arg| arg == "--test");
    let mut best = vec![f64::INFINITY; ways.len()];
    let (mut start, mut rounds) = (Instant::now(), 0);
    while rounds < 2 || (!once && start.elapsed() < Duration::from_secs(2)) {
        for way in 0..ways.len() {
            if rounds < 2 || best[way] < 10.0 * best[0] {
                let begin = Instant::now();
                (ways[way].1)();
                best[way] = best[way].min(begin.elapsed().as_secs_f64());
            }
        }
        rounds += 1;
        if rounds == 2 {
            start = Instant::now();
        }
    }
    best
}

fn report(name: &str, bytes: usize, bandwidth: f64, mut ways: Vec<Way<'_>>) {
    let times = least(&mut ways);
    let share = 100.0 * bytes as f64 / times[0] / bandwidth;
    print!("{name:46} {:>9.1} µs, bandwidth {share:5.1}%", 1e6 * times[0]);
    for ((way, _), time) in ways.iter().zip(&times).skip(1) {
        print!(", {way} {:.2}×", time / times[0]);
    }
    println!();
}

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    init::normal(seed, 0.1, &mut values);
    values
}

/// C [m, n] ← A [m, k] · B [k, n], row-major or (`turned`) B [n, k].
fn gemm(a: &[f32], b: &[f32], c: &mut [f32], [m, k, n]: [usize; 3], turned: bool) {
    assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
    let (row, column) = if turned { (1, k as isize) } else { (n as isize, 1) };
    // SAFETY: the lengths have been checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            column,
            row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

struct Machine {
    context: Context,
    bandwidth: f64,
}

fn main() -> Result<()> {
    let context = Context::new(Device::Cpu)?.with_threads(1)?;
    let bandwidth = machine::read_bandwidth(&context, 1, 256 << 20)?;
    println!("{}, reads {:.1} GB/s", context.simd(), bandwidth / 1e9);
    let machine = Machine { context, bandwidth };
    gating(&machine)?;
    film(&machine)?;
    inner(&machine)?;
    generated(&machine)?;
    tucker(&machine, [128, 512, 512, 512], [80, 80, 80], 1)?;
    tucker(&machine, [1024, 256, 256, 64], [32, 32, 32], 4)?;
    mahalanobis(&machine)
}

/// y = d⊙z⊙x + b.
fn gating(machine: &Machine) -> Result<()> {
    for [n, k] in [[65536, 256], [512, 256]] {
        let (d, b, z, x) = (numbers(1, k), numbers(2, k), numbers(3, n * k), numbers(4, n * k));
        let blocks = [Block::diagonal(View::vector(&d))];
        let layer = Interaction::blocks(&blocks)?.with_b(View::vector(&b))?.with_context(machine.context);
        let w = layer.to_dense()?;
        let dense = Interaction::dense(w.view())?.with_b(View::vector(&b))?.with_context(machine.context);
        let (z_view, x_view) = (View::new(&z, [n, k])?, View::new(&x, [n, k])?);
        let [mut y, mut y_dense, mut y_loop] = [(); 3].map(|()| vec![0.0f32; n * k]);
        let mut ways: Vec<Way<'_>> = vec![(
            "ours",
            Box::new(|| layer.forward_into(z_view, x_view, ViewMut::new(&mut y, [n, k]).unwrap()).unwrap()),
        )];
        if n < 1024 {
            ways.push((
                "dense",
                Box::new(|| {
                    dense.forward_into(z_view, x_view, ViewMut::new(&mut y_dense, [n, k]).unwrap()).unwrap();
                }),
            ));
        }
        ways.push((
            "loop",
            Box::new(|| {
                for ((y, z), x) in y_loop.chunks_mut(k).zip(z.chunks(k)).zip(x.chunks(k)) {
                    for ((((y, z), x), d), b) in y.iter_mut().zip(z).zip(x).zip(&d).zip(&b) {
                        *y = d * z * x + b;
                    }
                }
                black_box(&mut y_loop);
            }),
        ));
        report(&format!("gating, forward, {n} × {k}"), 12 * n * k, machine.bandwidth, ways);
        let g = numbers(5, n * k);
        let ways: Vec<Way<'_>> = vec![(
            "ours",
            Box::new(|| {
                black_box(layer.backward(z_view, x_view, View::new(&g, [n, k]).unwrap()).unwrap());
            }),
        )];
        report(&format!("gating, backward (with allocation), {n} × {k}"), 20 * n * k, machine.bandwidth, ways);
    }
    Ok(())
}

/// The preset `film`, and eight times as many maps.
fn film(machine: &Machine) -> Result<()> {
    for groups in [64, 512] {
        let [m, k] = [196, 128];
        let (z, x) = (numbers(1, groups * k), numbers(2, groups * m * k));
        let blocks = [Block::identity(k)];
        let layer = Interaction::blocks(&blocks)?.with_context(machine.context);
        let w = layer.to_dense()?;
        let dense = Interaction::dense(w.view())?.with_context(machine.context);
        let (z_view, x_view) = (View::new(&z, [groups, k])?, View::new(&x, [groups, m, k])?);
        let [mut y, mut y_dense, mut y_loop] = [(); 3].map(|()| vec![0.0f32; groups * m * k]);
        let shape = [groups, m, k];
        let ways: Vec<Way<'_>> = vec![
            (
                "ours",
                Box::new(|| layer.forward_shared_into(z_view, x_view, ViewMut::new(&mut y, shape).unwrap()).unwrap()),
            ),
            (
                "dense",
                Box::new(|| {
                    dense.forward_shared_into(z_view, x_view, ViewMut::new(&mut y_dense, shape).unwrap()).unwrap();
                }),
            ),
            (
                "loop",
                Box::new(|| {
                    for ((y, x), z) in y_loop.chunks_mut(m * k).zip(x.chunks(m * k)).zip(z.chunks(k)) {
                        for (y, x) in y.chunks_mut(k).zip(x.chunks(k)) {
                            for ((y, x), z) in y.iter_mut().zip(x).zip(z) {
                                *y = z * x;
                            }
                        }
                    }
                    black_box(&mut y_loop);
                }),
            ),
        ];
        report(&format!("film, forward, {groups} × {m} × {k}"), 8 * groups * m * k, machine.bandwidth, ways);
    }
    Ok(())
}

/// y = zᵀx.
fn inner(machine: &Machine) -> Result<()> {
    let [n, k] = [65536, 256];
    let (z, x, one) = (numbers(1, n * k), numbers(2, n * k), [1.0f32]);
    let blocks = [Block::identity(k).with_a(View::new(&one, [1, 1])?)?];
    let layer = Interaction::blocks(&blocks)?.with_context(machine.context);
    let w = layer.to_dense()?;
    let dense = Interaction::dense(w.view())?.with_context(machine.context);
    let (z_view, x_view) = (View::new(&z, [n, k])?, View::new(&x, [n, k])?);
    let [mut y, mut y_dense, mut y_loop] = [(); 3].map(|()| vec![0.0f32; n]);
    let ways: Vec<Way<'_>> = vec![
        ("ours", Box::new(|| layer.forward_into(z_view, x_view, ViewMut::new(&mut y, [n, 1]).unwrap()).unwrap())),
        (
            "dense",
            Box::new(|| dense.forward_into(z_view, x_view, ViewMut::new(&mut y_dense, [n, 1]).unwrap()).unwrap()),
        ),
        (
            "loop",
            Box::new(|| {
                for ((y, z), x) in y_loop.iter_mut().zip(z.chunks(k)).zip(x.chunks(k)) {
                    let mut sums = [0.0; 16];
                    for (z, x) in z.chunks(16).zip(x.chunks(16)) {
                        sums.iter_mut().zip(z).zip(x).for_each(|((sum, z), x)| *sum += z * x);
                    }
                    *y = sums.iter().sum();
                }
                black_box(&mut y_loop);
            }),
        ),
    ];
    report(&format!("inner product, forward, {n} × {k}"), 8 * n * k, machine.bandwidth, ways);
    Ok(())
}

/// y = (zB)⊙x.
fn generated(machine: &Machine) -> Result<()> {
    let [n, i, k] = [4096, 256, 256];
    let (b, z, x) = (numbers(1, i * k), numbers(2, n * i), numbers(3, n * k));
    let blocks = [Block::identity(k).with_b(View::new(&b, [i, k])?)?];
    let layer = Interaction::blocks(&blocks)?.with_context(machine.context);
    let w = layer.to_dense()?;
    let dense = Interaction::dense(w.view())?.with_context(machine.context);
    let (z_view, x_view) = (View::new(&z, [n, i])?, View::new(&x, [n, k])?);
    let [mut y, mut y_dense, mut y_gemm] = [(); 3].map(|()| vec![0.0f32; n * k]);
    let ways: Vec<Way<'_>> = vec![
        ("ours", Box::new(|| layer.forward_into(z_view, x_view, ViewMut::new(&mut y, [n, k]).unwrap()).unwrap())),
        (
            "dense",
            Box::new(|| dense.forward_into(z_view, x_view, ViewMut::new(&mut y_dense, [n, k]).unwrap()).unwrap()),
        ),
        (
            "gemm and loop",
            Box::new(|| {
                gemm(&z, &b, &mut y_gemm, [n, i, k], false);
                y_gemm.iter_mut().zip(&x).for_each(|(y, x)| *y *= x);
            }),
        ),
    ];
    report(&format!("generated gate, forward, {n}, {i}, {k}"), 4 * (n * (i + 2 * k) + i * k), machine.bandwidth, ways);
    Ok(())
}

/// A sum of so many Tucker blocks, forward and backward. The composition forms P⊗Q of all rows.
fn tucker(machine: &Machine, [n, i, j, k]: [usize; 4], [ra, rb, rc]: [usize; 3], count: usize) -> Result<()> {
    let operands: Vec<[Vec<f32>; 4]> = (0..count as u64)
        .map(|seed| {
            let of = |at: u64, len| numbers(4 * seed + at, len);
            [of(0, ra * rb * rc), of(1, k * ra), of(2, i * rb), of(3, j * rc)]
        })
        .collect();
    let mut blocks = Vec::new();
    for [g, a, b, c] in &operands {
        let block = Block::tucker(View::new(g, [ra, rb, rc])?).with_a(View::new(a, [k, ra])?)?;
        blocks.push(block.with_b(View::new(b, [i, rb])?)?.with_c(View::new(c, [j, rc])?)?);
    }
    let layer = Interaction::blocks(&blocks)?.with_context(machine.context);
    let w: Vec<f32> = numbers(9, k * i * j); // of the same cost, without the minutes that its exact values take
    let dense = Interaction::dense(View::new(&w, [k, i, j])?)?.with_context(machine.context);
    let (z, x, g) = (numbers(10, n * i), numbers(11, n * j), numbers(12, n * k));
    let (z_view, x_view, g_view) = (View::new(&z, [n, i])?, View::new(&x, [n, j])?, View::new(&g, [n, k])?);
    let [mut y, mut y_dense, mut y_gemm, mut sum] = [(); 4].map(|()| vec![0.0f32; n * k]);
    let (mut p, mut q, mut h) = (vec![0.0f32; n * rb], vec![0.0f32; n * rc], vec![0.0f32; n * ra]);
    let mut outer = vec![0.0f32; n * rb * rc];
    let bytes = 4 * (n * (i + j + k) + count * (ra * rb * rc + k * ra + i * rb + j * rc));
    let ways: Vec<Way<'_>> = vec![
        ("ours", Box::new(|| layer.forward_into(z_view, x_view, ViewMut::new(&mut y, [n, k]).unwrap()).unwrap())),
        (
            "dense",
            Box::new(|| dense.forward_into(z_view, x_view, ViewMut::new(&mut y_dense, [n, k]).unwrap()).unwrap()),
        ),
        (
            "gemms",
            Box::new(|| {
                sum.fill(0.0);
                for [g, a, b, c] in &operands {
                    gemm(&z, b, &mut p, [n, i, rb], false);
                    gemm(&x, c, &mut q, [n, j, rc], false);
                    for ((outer, p), q) in outer.chunks_mut(rb * rc).zip(p.chunks(rb)).zip(q.chunks(rc)) {
                        for (outer, p) in outer.chunks_mut(rc).zip(p) {
                            outer.iter_mut().zip(q).for_each(|(outer, q)| *outer = p * q);
                        }
                    }
                    gemm(&outer, g, &mut h, [n, rb * rc, ra], true);
                    gemm(&h, a, &mut y_gemm, [n, ra, k], true);
                    sum.iter_mut().zip(&y_gemm).for_each(|(sum, y)| *sum += y);
                }
                black_box(&mut sum);
            }),
        ),
    ];
    let name = format!("{count} Tucker, {n}, {i}, {j}, {k}; {ra}, {rb}, {rc}");
    report(&format!("{name}, forward"), bytes, machine.bandwidth, ways);
    let ways: Vec<Way<'_>> = vec![
        (
            "ours",
            Box::new(|| {
                black_box(layer.backward(z_view, x_view, g_view).unwrap());
            }),
        ),
        (
            "dense",
            Box::new(|| {
                black_box(dense.backward(z_view, x_view, g_view).unwrap());
            }),
        ),
    ];
    report(&format!("{name}, backward"), bytes, machine.bandwidth, ways);
    Ok(())
}

/// (z − x)ᵀ P (z − x).
fn mahalanobis(machine: &Machine) -> Result<()> {
    let [n, i] = [8192, 256];
    let (p, z, x) = (numbers(1, i * i), numbers(2, n * i), numbers(3, n * i));
    let metric = Mahalanobis::new(Precision::Full(View::new(&p, [i, i])?))?.with_context(machine.context);
    let (z_view, x_view) = (View::new(&z, [n, i])?, View::new(&x, [n, i])?);
    let [mut y, mut y_gemm] = [(); 2].map(|()| vec![0.0f32; n]);
    let [mut d, mut f] = [(); 2].map(|()| vec![0.0f32; n * i]);
    let ways: Vec<Way<'_>> = vec![
        ("ours", {
            let y = &mut y;
            Box::new(move || {
                let to = ViewMut::strided(y, 0, [n], [1]).unwrap();
                metric.squared_into(z_view, x_view, to).unwrap();
            })
        }),
        (
            "gemm and loops",
            Box::new(|| {
                d.iter_mut().zip(&z).zip(&x).for_each(|((d, z), x)| *d = z - x);
                gemm(&d, &p, &mut f, [n, i, i], true);
                for ((y, d), f) in y_gemm.iter_mut().zip(d.chunks(i)).zip(f.chunks(i)) {
                    let mut sums = [0.0; 16];
                    for (d, f) in d.chunks(16).zip(f.chunks(16)) {
                        sums.iter_mut().zip(d).zip(f).for_each(|((sum, d), f)| *sum += d * f);
                    }
                    *y = sums.iter().sum();
                }
                black_box(&mut y_gemm);
            }),
        ),
    ];
    report(&format!("Mahalanobis, {n} × {i}"), 4 * (2 * n * i + i * i), machine.bandwidth, ways);
    Ok(())
}

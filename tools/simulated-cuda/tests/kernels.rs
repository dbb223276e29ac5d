//! Kernels that the CUDA compiler made, against the same in Rust.

mod common;
use common::Rig;

const BASIC: &str = include_str!("fixtures/basic.ptx");

#[test]
fn saxpy() {
    let rig = Rig::new();
    let module = rig.module(BASIC);
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 11.0).collect();
    let y: Vec<f32> = (0..n).map(|i| 5.0 / (i as f32 + 1.0)).collect();
    let (dx, dy) = (rig.upload(&x), rig.upload(&y));
    let profile = rig.launch(&module, "saxpy", ([8, 1, 1], [128, 1, 1], 0), &[&n, &1.5f32, &dx, &dy]).unwrap();
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.5f32.mul_add(*x, *y)).collect();
    assert_eq!(rig.download::<f32>(dy, n as usize), expected);
    // 1000 of 1024 threads: x and y loaded, y stored, once each.
    assert_eq!(profile.global_loads.bytes, 8000);
    assert_eq!(profile.global_stores.unique_bytes, 4000);
    assert_eq!(profile.global_loads.sectors, 250);
}

#[test]
fn loops_of_different_lengths() {
    let rig = Rig::new();
    let module = rig.module(BASIC);
    let start: Vec<u32> = (1..=777).collect();
    let (from, to) = (rig.upload(&start), rig.alloc::<u32>(777));
    let profile = rig.launch(&module, "collatz", ([7, 1, 1], [128, 1, 1], 0), &[&777i32, &from, &to]).unwrap();
    let expected: Vec<u32> = start
        .iter()
        .map(|&start| {
            let (mut x, mut count) = (start, 0);
            while x != 1 {
                if x % 2 == 0 {
                    x /= 2;
                } else {
                    x = 3 * x + 1;
                    count += if x % 5 == 0 { 1000 } else { 0 };
                }
                count += 1;
            }
            count
        })
        .collect();
    assert_eq!(rig.download::<u32>(to, 777), expected);
    assert!(profile.divergent_branches > 0);
}

#[test]
fn tiled_matrix_product() {
    let rig = Rig::new();
    let module = rig.module(BASIC);
    let (m, n, k) = (128usize, 192usize, 48usize);
    let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 31) as f32 - 15.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i * 5 % 23) as f32 - 11.0).collect();
    let (da, db, dc) = (rig.upload(&a), rig.upload(&b), rig.alloc::<f32>(m * n));
    let arguments: [&dyn common::Argument; 6] = [&(m as i32), &(n as i32), &(k as i32), &da, &db, &dc];
    let grid = [(n / 64) as u32, (m / 64) as u32, 1];
    let profile = rig.launch(&module, "gemm64", (grid, [256, 1, 1], 0), &arguments).unwrap();
    let c = rig.download::<f32>(dc, m * n);
    for i in 0..m {
        for j in 0..n {
            let exact: f32 = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
            assert_eq!(c[i * n + j], exact, "{i} {j}");
        }
    }
    // Six blocks of eight warps, two barriers in each of three steps.
    assert_eq!(profile.barriers, 6 * 8 * 2 * 3);
    assert_eq!(profile.classes[&simulated_cuda::profile::Class::Ffma].threads, (m * n * k) as u64);
}

#[test]
fn tensor_core_product() {
    let rig = Rig::new();
    let module = rig.module(include_str!("fixtures/tensor.ptx"));
    let n = 128usize;
    let halves =
        |g: fn(usize) -> f32| -> Vec<u16> { (0..n * n).map(|i| half::f16::from_f32(g(i)).to_bits()).collect() };
    let (a, b): (fn(usize) -> f32, fn(usize) -> f32) = (|i| (i * 7 % 31) as f32 - 15.0, |i| (i * 5 % 23) as f32 - 11.0);
    let (da, db, dc) = (rig.upload(&halves(a)), rig.upload(&halves(b)), rig.alloc::<f32>(n * n));
    let profile = rig.launch(&module, "hgemm", ([2, 2, 1], [128, 1, 1], 0), &[&(n as i32), &da, &db, &dc]).unwrap();
    let c = rig.download::<f32>(dc, n * n);
    for i in 0..n {
        for j in 0..n {
            let exact: f32 = (0..n).map(|l| a(i * n + l) * b(l * n + j)).sum();
            assert_eq!(c[i * n + j], exact, "{i} {j}");
        }
    }
    // Rows of 80 and 144 bytes: no conflicts.
    assert_eq!(profile.shared_loads.conflicts(), 0);
    assert_eq!(profile.classes[&simulated_cuda::profile::Class::Matrix].warps, (n * n * n / (16 * 8 * 16)) as u64);
}

#[test]
fn sums_by_shuffles() {
    let rig = Rig::new();
    let module = rig.module(BASIC);
    let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
    let (dx, out) = (rig.upload(&x), rig.alloc::<f32>(2));
    rig.launch(&module, "block_sum", ([2, 1, 1], [256, 1, 1], 32), &[&dx, &out]).unwrap();
    assert_eq!(rig.download::<f32>(out, 2), [32640.0, 98176.0]);
}

#[test]
fn calls_switches_and_variables() {
    let rig = Rig::new();
    let module = rig.module(BASIC);
    let kind: Vec<i32> = (0..100).map(|i| i % 9).collect();
    let (from, to) = (rig.upload(&kind), rig.alloc::<f64>(100));
    rig.launch(&module, "mixed", ([1, 1, 1], [128, 1, 1], 0), &[&100i32, &from, &to]).unwrap();
    let table = [3, 1, 4, 1, 5, 9, 2, 6];
    let expected: Vec<f64> = (0..100usize)
        .map(|i| {
            let at = kind[i] as usize & 7;
            let v = (at * table[(i + at) % 8]) as f64;
            let v = match kind[i] {
                0 => v + 8.0,
                1 => v * v,
                2 => v.sqrt(),
                3 => -v,
                4 => v.mul_add(v, v),
                5 => v / 3.0,
                n => (0..n - 4).fold(1.0, |y, _| y * v),
            };
            v + 0.5
        })
        .collect();
    assert_eq!(rig.download::<f64>(to, 100), expected);
}

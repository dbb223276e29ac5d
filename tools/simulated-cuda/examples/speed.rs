//! How fast kernels run: `cargo run --release --example speed [off] [profile]`, `off` without the sanitizer, `profile` with
//! the counts. On Linux `RAYON_NUM_THREADS=1` also tells warp instructions per second of processor time, which other
//! processes disturb less.

use simulated_cuda::{Device, Launch, Memory, Module, launch, profile::Class};
use std::time::Instant;

fn main() {
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let device = Device { sanitize: !asked("off"), profile: asked("profile"), ..Device::default() };
    run(&device, include_str!("../tests/fixtures/basic.ptx"), "gemm64", 3, 256);
    run(&device, include_str!("../tests/fixtures/tensor.ptx"), "hgemm", 1, 128);
}

/// Seconds that this thread has run, where it does all the work.
fn busy() -> Option<f64> {
    let alone = std::env::var("RAYON_NUM_THREADS").is_ok_and(|threads| threads == "1");
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok().filter(|_| alone)?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// A product of two 512 x 512 matrices, whose size the kernel takes so many times.
fn run(device: &Device, ptx: &str, kernel: &str, sizes: usize, threads: u32) {
    let memory = Memory::new(1 << 30);
    let module = Module::parse(ptx, (8, 0)).expect("PTX");
    let function = module.function(kernel).expect("kernel");
    let n = 512u32;
    let bytes = u64::from(n * n * 4);
    let mut params: Vec<u8> = (0..sizes).flat_map(|_| n.to_le_bytes()).collect();
    params.resize(params.len().next_multiple_of(8), 0);
    for _ in 0..3 {
        let address = memory.alloc(bytes).expect("memory");
        memory.set(address, 0, bytes).expect("memory");
        params.extend_from_slice(&address.to_le_bytes());
    }
    let grid = [n / 64, n / 64, 1];
    let launched = Launch { grid, block: [threads, 1, 1], dynamic_shared: 0, params: &params, globals: 0 };
    for _ in 0..5 {
        let (start, before) = (Instant::now(), busy());
        let profile = launch(device, &memory, &function, &launched).expect("launch");
        let seconds = start.elapsed().as_secs_f64();
        let busy = before.zip(busy()).map(|(before, after)| after - before);
        let count = profile.instructions();
        let products = f64::from(n).powi(3);
        println!(
            "{kernel}: {seconds:.3} s, {:.1} M warp instructions/s ({}), {:.0} M multiply-adds/s, inner loop {:.0}% FFMA, {:.0}% mma",
            count.warps as f64 / seconds / 1e6,
            busy.map_or("-".into(), |busy| format!("{:.1} of processor time", count.warps as f64 / busy / 1e6)),
            products / seconds / 1e6,
            100.0 * profile.inner_share(Class::Ffma),
            100.0 * profile.inner_share(Class::Matrix),
        );
    }
}

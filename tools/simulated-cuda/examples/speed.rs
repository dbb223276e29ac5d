//! How fast kernels run: `cargo run --release --example speed [off]`, `off` without the sanitizer.

use simulated_cuda::{Device, Launch, Memory, Module, launch};
use std::time::Instant;

fn main() {
    let sanitize = !std::env::args().any(|argument| argument == "off");
    let device = Device { sanitize, ..Device::default() };
    let memory = Memory::new(1 << 30);
    let module = Module::parse(include_str!("../tests/fixtures/basic.ptx"), (8, 0)).expect("PTX");
    let function = module.function("gemm64").expect("kernel");
    let n = 512u32;
    let bytes = u64::from(n * n * 4);
    let buffers: Vec<u64> = (0..3)
        .map(|_| {
            let address = memory.alloc(bytes).expect("memory");
            memory.set(address, 0, bytes).expect("memory");
            address
        })
        .collect();
    let mut params = Vec::new();
    (0..3).for_each(|_| params.extend_from_slice(&n.to_le_bytes()));
    params.resize(16, 0);
    buffers.iter().for_each(|address| params.extend_from_slice(&address.to_le_bytes()));
    let grid = [n / 64, n / 64, 1];
    let launched = Launch { grid, block: [256, 1, 1], dynamic_shared: 0, params: &params, globals: 0 };
    for _ in 0..5 {
        let start = Instant::now();
        let profile = launch(&device, &memory, &function, &launched).expect("launch");
        let seconds = start.elapsed().as_secs_f64();
        let count = profile.instructions();
        println!(
            "{:.3} s, {:.0} M thread instructions/s, {:.1} M warp instructions/s",
            seconds,
            count.threads as f64 / seconds / 1e6,
            count.warps as f64 / seconds / 1e6
        );
    }
}

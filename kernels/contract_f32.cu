// Contractions with f32 accumulators on the general cores; operands of f32, f16 and bf16. See contract.cuh.
#include "contract.cuh"

// Batches. 64 + 64 accumulators, 16 fragments, 16 staged and addresses: up to 255 registers, one block of 8 warps an
// SM, each with 64 independent FMAs to cover latency.
using Batch = ContractTile<float, 128, 128, 16, 8, 8>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) contract_f32_128x128x16(const Contracts all) {
    run<Batch>(all);
}

// At most 16 rows: bound by reading w. Each thread has 8 loads of 16 bytes of w in flight, an SM of 3 blocks 48 KB.
using Few = ContractTile<float, 16, 128, 32, 4, 4>;
extern "C" __global__ void __launch_bounds__(Few::COUNT, 3) contract_f32_16x128x32(const Contracts all) {
    run<Few>(all);
}

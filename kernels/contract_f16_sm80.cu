// Contractions of f16 on tensor cores (m16n8k16, cp.async). See contract_mma.cuh.
#include "contract_mma.cuh"

// 4 stages of 16 KB: some 48 KB on their way while one is multiplied, in the 99 KB of compute capability 8.6 with 16
// KB to spare.
using Batch = ContractMmaTile<Kind::F16, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) contract_f16_128x128x32_sm80(const Contracts all) {
    run<Batch>(all);
}

// Contractions of f32 with f16 or bf16 on tensor cores: tf32 (m16n8k8), f32 in two parts. See contract_split.cuh.
#include "contract_split.cuh"

using Batch = ContractSplitTile;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) contract_tf32x2_128x128x16_sm80(const Contracts all) {
    run<Batch>(all);
}

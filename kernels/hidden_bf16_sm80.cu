// The hidden layer of CP of bf16 on tensor cores (m16n8k16, cp.async). See hidden_mma.cuh.
#include "hidden_mma.cuh"

// 4 stages of 12 KB: some 36 KB on their way while one is multiplied.
using Batch = HiddenMmaTile<Kind::BF16, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 2) hidden_bf16_128x64x32_sm80(const Hidden h) {
    run<Batch, 2>(h);
}
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) dhidden_bf16_128x64x32_sm80(const Hidden h) {
    run<Batch, 3>(h);
}

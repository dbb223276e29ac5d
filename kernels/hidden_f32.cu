// The hidden layer of CP with f32 accumulators on the general cores; operands of f32, f16 and bf16. See hidden_simt.cuh.
#include "hidden_simt.cuh"

// Two or three blocks of 4 warps an SM, each thread with 32 independent FMAs.
using Batch = HiddenTile<float, 64, 64, 16, 8, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 3) hidden_f32_64x64x16(const Hidden h) {
    run<Batch, 2>(h);
}
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 2) dhidden_f32_64x64x16(const Hidden h) {
    run<Batch, 3>(h);
}

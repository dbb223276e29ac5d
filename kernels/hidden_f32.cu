// The hidden layer of CP with f32 accumulators on the general cores; operands of f32, f16 and bf16. See hidden.cuh.
#include "hidden.cuh"

using Batch = HiddenTile<float, 64, 64, 32, 4, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 2) hidden_f32_64x64x32(const Hidden h) { Batch().run(h); }

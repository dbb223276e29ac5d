// Sums over the batch with f32 accumulators on the general cores; operands of f32, f16 and bf16. See gram.cuh.
#include "gram.cuh"

// 64 accumulators, 16 fragments, 24 staged: one block of 8 warps an SM.
using Batch = GramTile<float, 128, 128, 16, 8, 8>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_f32_128x128x16(const Grams all) { run<Batch>(all); }

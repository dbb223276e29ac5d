// Sums over the batch of bf16 on tensor cores (m16n8k16, products in two parts). See gram_mma.cuh.
#include "gram_mma.cuh"

using Batch = GramMmaTile<Kind::BF16, 2, BF16>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) gram_bf16_128x128x32_sm80(const Grams all) {
    run<Batch>(all);
}

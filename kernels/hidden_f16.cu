// The hidden layer of CP of f16 on the tensor cores of compute capability 7.5 (m16n8k8). See hidden_mma.cuh.
#include "hidden_mma.cuh"

// 2 stages of 12 KB.
using Batch = HiddenMmaTile<Kind::F16, 2>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) hidden_f16_128x64x32(const Hidden h) {
    run<Batch, 2>(h);
}
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) dhidden_f16_128x64x32(const Hidden h) {
    run<Batch, 3>(h);
}

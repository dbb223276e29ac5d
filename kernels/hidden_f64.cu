// The hidden layer of CP in f64 (DFMA). See hidden_simt.cuh.
#include "hidden_simt.cuh"

using Batch = HiddenTile<double, 32, 64, 16, 4, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 2) hidden_f64_32x64x16(const Hidden h) {
    run<Batch, 2>(h);
}
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 2) dhidden_f64_32x64x16(const Hidden h) {
    run<Batch, 3>(h);
}

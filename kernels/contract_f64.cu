// Contractions of f64 (DFMA). See contract.cuh.
#include "contract.cuh"

using Batch = ContractTile<double, 64, 64, 16, 4, 4>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) contract_f64_64x64x16(const Contracts all) {
    run<Batch>(all);
}

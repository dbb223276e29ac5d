// Contractions of f16 on the tensor cores of compute capability 7.5 (m16n8k8). See contract_mma.cuh.
#include "contract_mma.cuh"

// 2 stages of 16 KB, of the 64 KB that there are.
using Batch = ContractMmaTile<Kind::F16, 2>;
extern "C" __global__ void __launch_bounds__(Batch::COUNT, 1) contract_f16_128x128x32(const Contracts all) {
    run<Batch>(all);
}

// NVIDIA CUTLASS: matrix products C (row-major) = A (row-major) B (column-major), staged through shared memory.

#include <cutlass/cutlass.h>
#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/gemm/kernel/default_gemm.h>

using cutlass::gemm::GemmShape;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;

template <typename T, typename Out, typename Sum, int Aligned, int OutAligned, typename Class, typename Block, typename Warp,
          typename Instruction, int Stages>
using Gemm = typename cutlass::gemm::kernel::DefaultGemm<
    T, Row, Aligned, T, Column, Aligned, Out, Row, Sum, Class, cutlass::arch::Sm80, Block, Warp, Instruction,
    cutlass::epilogue::thread::LinearCombination<Out, OutAligned, Sum, Sum>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, Stages, false,
    cutlass::arch::OpMultiplyAdd>::GemmKernel;

extern __shared__ __align__(16) unsigned char shared[];

template <typename Kernel, typename T, typename Out>
__device__ void run(T* a, T* b, Out* c, int m, int n, int k) {
    const cutlass::gemm::GemmCoord size(m, n, k);
    const cutlass::gemm::GemmCoord grid(gridDim.x, gridDim.y, 1);
    typename Kernel::Params params(size, grid, {a, Row(k)}, {b, Column(k)}, {c, Row(n)}, {c, Row(n)});
    Kernel kernel;
    kernel(params, *reinterpret_cast<typename Kernel::SharedStorage*>(shared));
}

using Tensor = cutlass::arch::OpClassTensorOp;
using Simt = cutlass::arch::OpClassSimt;

using F16 = Gemm<cutlass::half_t, float, float, 8, 4, Tensor, GemmShape<64, 64, 32>, GemmShape<32, 32, 32>,
                 GemmShape<16, 8, 16>, 3>;
using Bf16 = Gemm<cutlass::bfloat16_t, cutlass::bfloat16_t, float, 8, 8, Tensor, GemmShape<128, 64, 32>,
                  GemmShape<64, 32, 32>, GemmShape<16, 8, 16>, 4>;
using Tf32 = Gemm<cutlass::tfloat32_t, float, float, 4, 4, Tensor, GemmShape<64, 64, 16>, GemmShape<32, 32, 16>,
                  GemmShape<16, 8, 8>, 3>;
using F64 = Gemm<double, double, double, 1, 1, Tensor, GemmShape<32, 32, 16>, GemmShape<16, 16, 16>, GemmShape<8, 8, 4>, 3>;
using F32 = Gemm<float, float, float, 1, 1, Simt, GemmShape<64, 64, 8>, GemmShape<32, 32, 8>, GemmShape<1, 1, 1>, 4>;

extern "C" __global__ void cutlass_f16(cutlass::half_t* a, cutlass::half_t* b, float* c, int m, int n, int k) {
    run<F16>(a, b, c, m, n, k);
}

extern "C" __global__ void cutlass_bf16(
    cutlass::bfloat16_t* a, cutlass::bfloat16_t* b, cutlass::bfloat16_t* c, int m, int n, int k) {
    run<Bf16>(a, b, c, m, n, k);
}

extern "C" __global__ void cutlass_tf32(cutlass::tfloat32_t* a, cutlass::tfloat32_t* b, float* c, int m, int n, int k) {
    run<Tf32>(a, b, c, m, n, k);
}

extern "C" __global__ void cutlass_f64(double* a, double* b, double* c, int m, int n, int k) {
    run<F64>(a, b, c, m, n, k);
}

extern "C" __global__ void cutlass_f32(float* a, float* b, float* c, int m, int n, int k) {
    run<F32>(a, b, c, m, n, k);
}

static_assert(F16::kThreadCount == 128 && Bf16::kThreadCount == 128 && Tf32::kThreadCount == 128);
static_assert(F64::kThreadCount == 128 && F32::kThreadCount == 128);
// What the launches give them.
static_assert(sizeof(F16::SharedStorage) == 24576 && sizeof(Bf16::SharedStorage) == 49152);
static_assert(sizeof(Tf32::SharedStorage) == 24576 && sizeof(F64::SharedStorage) == 24576);
static_assert(sizeof(F32::SharedStorage) == 16384);

// NVIDIA's cooperative groups.

#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cooperative_groups/memcpy_async.h>

namespace cg = cooperative_groups;

// Sums over tiles of 4, 16 and 32 threads, and over the block.
extern "C" __global__ void groups_reduce(const int* x, int* by_4, int* by_16, int* by_32, int* maximum) {
    auto block = cg::this_thread_block();
    const int i = blockIdx.x * blockDim.x + block.thread_rank();
    auto four = cg::tiled_partition<4>(block);
    auto sixteen = cg::tiled_partition<16>(block);
    auto warp = cg::tiled_partition<32>(block);
    const int sum_4 = cg::reduce(four, x[i], cg::plus<int>());
    const int sum_16 = cg::reduce(sixteen, x[i], cg::plus<int>());
    const int sum_32 = cg::reduce(warp, x[i], cg::plus<int>());
    const int most = cg::reduce(warp, x[i], cg::greater<int>());
    if (four.thread_rank() == 0) by_4[i / 4] = sum_4;
    if (sixteen.thread_rank() == 0) by_16[i / 16] = sum_16;
    if (warp.thread_rank() == 0) by_32[i / 32] = sum_32;
    if (warp.thread_rank() == 0) atomicMax(maximum, most);
}

// f32 sums in a fixed order, and scans.
extern "C" __global__ void groups_scan(const float* x, float* sums, int* before) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = cg::reduce(warp, x[i], cg::plus<float>());
    before[i] = cg::exclusive_scan(warp, x[i] > 0 ? 1 : 0, cg::plus<int>());
}

// One atomic for all threads of a warp that take a branch.
extern "C" __global__ void groups_coalesced(const int* x, int* kept, unsigned* count, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] % 3 == 0) {
        auto active = cg::coalesced_threads();
        unsigned base = 0;
        if (active.thread_rank() == 0) base = atomicAdd(count, active.size());
        kept[active.shfl(base, 0) + active.thread_rank()] = x[i];
    }
}

// Threads of a warp grouped by their value.
extern "C" __global__ void groups_labeled(const int* x, int* sizes, int* sums) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    auto equal = cg::labeled_partition(warp, x[i]);
    sizes[i] = equal.size();
    sums[i] = cg::reduce(equal, i, cg::plus<int>());
}

// Copies to shared memory that do not go through registers: cp.async.
extern "C" __global__ void groups_copy(const int4* x, int4* reversed) {
    __shared__ __align__(16) int4 tile[128];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, tile, x + blockIdx.x * 128, sizeof(tile));
    cg::wait(block);
    reversed[blockIdx.x * 128 + threadIdx.x] = tile[127 - threadIdx.x];
}

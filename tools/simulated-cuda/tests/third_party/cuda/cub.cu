// Blocks' algorithms of NVIDIA's CUB.

#include <cub/block/block_load.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_reduce.cuh>

constexpr int THREADS = 128, ITEMS = 4;

extern "C" __global__ void cub_scan(const int* x, int* sums, int* totals) {
    using Load = cub::BlockLoad<int, THREADS, ITEMS, cub::BLOCK_LOAD_TRANSPOSE>;
    using Scan = cub::BlockScan<int, THREADS>;
    using Store = cub::BlockStore<int, THREADS, ITEMS, cub::BLOCK_STORE_TRANSPOSE>;
    __shared__ union {
        typename Load::TempStorage load;
        typename Scan::TempStorage scan;
        typename Store::TempStorage store;
    } shared;
    int items[ITEMS], total;
    const int start = blockIdx.x * THREADS * ITEMS;
    Load(shared.load).Load(x + start, items);
    __syncthreads();
    Scan(shared.scan).InclusiveSum(items, items, total);
    __syncthreads();
    Store(shared.store).Store(sums + start, items);
    if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

extern "C" __global__ void cub_reduce(const float* x, float* sums, float* most, int n) {
    using Sum = cub::BlockReduce<float, THREADS>;
    using Raking = cub::BlockReduce<float, THREADS, cub::BLOCK_REDUCE_RAKING>;
    __shared__ typename Sum::TempStorage sum_storage;
    __shared__ typename Raking::TempStorage raking_storage;
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const float value = i < n ? x[i] : 0.0f;
    const float sum = Sum(sum_storage).Sum(value);
    const float maximum = Raking(raking_storage).Reduce(value, cuda::maximum<>{});
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
        most[blockIdx.x] = maximum;
    }
}

extern "C" __global__ void cub_sort(const unsigned* keys, const int* values, unsigned* sorted, int* moved) {
    using Sort = cub::BlockRadixSort<unsigned, THREADS, ITEMS, int>;
    __shared__ typename Sort::TempStorage storage;
    unsigned key[ITEMS];
    int value[ITEMS];
    const int start = blockIdx.x * THREADS * ITEMS;
    cub::LoadDirectBlocked(threadIdx.x, keys + start, key);
    cub::LoadDirectBlocked(threadIdx.x, values + start, value);
    Sort(storage).SortBlockedToStriped(key, value);
    cub::StoreDirectStriped<THREADS>(threadIdx.x, sorted + start, key);
    cub::StoreDirectStriped<THREADS>(threadIdx.x, moved + start, value);
}

"""NVIDIA's `cuda-bindings` as a plain client: it finds every function by `cuGetProcAddress`, and knows nothing of us."""

import numpy as np
from cuda.bindings import driver as cuda

CUDA_SUCCESS = cuda.CUresult.CUDA_SUCCESS


class Error(RuntimeError):
    def __init__(self, code):
        super().__init__(f"{code.name}: {cuda.cuGetErrorString(code)[1].decode()}")
        self.code = code


def check(result):
    """The values of a call, or its error raised."""
    code, *values = result
    if code != CUDA_SUCCESS:
        raise Error(code)
    return values[0] if len(values) == 1 else values or None


def code(result):
    return result[0].name


class Device:
    def __init__(self, ordinal=0):
        check(cuda.cuInit(0))
        self.device = check(cuda.cuDeviceGet(ordinal))
        self.context = check(cuda.cuCtxCreate(None, 0, self.device))
        self.stream = check(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def close(self):
        check(cuda.cuStreamDestroy(self.stream))
        check(cuda.cuCtxDestroy(self.context))

    def attribute(self, name):
        return check(cuda.cuDeviceGetAttribute(getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), self.device))

    def run(self, case):
        """Launches a case on fresh memory; what its buffers hold afterwards, those with expectations."""
        module = check(cuda.cuModuleLoadData(case.ptx.encode() + b"\0"))
        function = check(cuda.cuModuleGetFunction(module, case.kernel.encode()))
        shared = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(cuda.cuFuncSetAttribute(function, shared, case.shared))
        addresses, values, types = [], [], []
        for buffer in case.buffers:
            address = check(cuda.cuMemAllocAsync(buffer.bytes, self.stream))
            if buffer.array is not None:
                array = np.ascontiguousarray(buffer.array)
                check(cuda.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self.stream))
            addresses.append(address)
        remaining = iter(addresses)
        scalars = {"i32": np.int32, "f32": np.float32}
        for arg in case.args:
            kind = scalars[arg[0]] if isinstance(arg, tuple) else np.uint64
            value = arg[1] if isinstance(arg, tuple) else 0 if arg is None else int(next(remaining))
            values.append(np.array([value], kind))
        pointers = np.array([value.ctypes.data for value in values], np.uint64)
        check(cuda.cuLaunchKernel(function, *case.grid, *case.block, case.shared, self.stream, pointers.ctypes.data, 0))
        results = []
        for buffer, address in zip(case.buffers, addresses):
            if buffer.expected is None:
                results.append(None)
                continue
            got = np.empty(buffer.expected.shape, buffer.dtype)
            check(cuda.cuMemcpyDtoHAsync(got.ctypes.data, address, got.nbytes, self.stream))
            results.append(got)
        for address in addresses:
            check(cuda.cuMemFreeAsync(address, self.stream))
        check(cuda.cuStreamSynchronize(self.stream))
        check(cuda.cuModuleUnload(module))
        return results


def use(add):
    """Everything that such a client does; `add` is the case of a kernel that adds."""
    device = Device()
    assert check(cuda.cuDeviceGetCount()) >= 1
    assert check(cuda.cuDriverGetVersion()) >= 12000
    name = check(cuda.cuDeviceGetName(100, device.device)).rstrip(b" \0").decode()
    assert name.startswith("Simulated CUDA device"), name
    assert device.attribute("COMPUTE_CAPABILITY_MAJOR") == 8 and device.attribute("WARP_SIZE") == 32
    assert check(cuda.cuDeviceTotalMem(device.device)) == check(cuda.cuMemGetInfo())[1]
    assert len(bytes(check(cuda.cuDeviceGetUuid(device.device)).bytes)) == 16

    # Memory.
    values = np.arange(1000, dtype=np.float32)
    address = check(cuda.cuMemAlloc(values.nbytes))
    check(cuda.cuMemcpyHtoD(address, values.ctypes.data, values.nbytes))
    check(cuda.cuMemsetD32(int(address) + 40, 0x3F800000, 5))
    got = np.empty_like(values)
    check(cuda.cuMemcpyDtoH(got.ctypes.data, address, got.nbytes))
    values[10:15] = 1
    assert (got == values).all()
    assert code(cuda.cuMemcpyDtoH(got.ctypes.data, address, got.nbytes + 1)) == "CUDA_ERROR_INVALID_VALUE"
    base, size = check(cuda.cuMemGetAddressRange(int(address) + 99))
    assert (int(base), size) == (int(address), values.nbytes)
    kind = cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    assert check(cuda.cuPointerGetAttribute(kind, address)) == cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
    check(cuda.cuMemFree(address))
    assert code(cuda.cuMemFree(address)) == "CUDA_ERROR_INVALID_VALUE"
    pinned = check(cuda.cuMemHostAlloc(64, 0))
    check(cuda.cuMemFreeHost(pinned))

    # Module and function, and the same as a library.
    image = add.ptx.encode() + b"\0"
    module = check(cuda.cuModuleLoadData(image))
    function = check(cuda.cuModuleGetFunction(module, add.kernel.encode()))
    assert code(cuda.cuModuleGetFunction(module, b"no_such_kernel")) == "CUDA_ERROR_NOT_FOUND"
    attributes = cuda.CUfunction_attribute
    assert check(cuda.cuFuncGetAttribute(attributes.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function)) == 128
    assert check(cuda.cuFuncGetAttribute(attributes.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)) == 0
    assert check(cuda.cuFuncGetName(function)) == add.kernel.encode()
    assert [tuple(check(cuda.cuFuncGetParamInfo(function, i))) for i in range(4)] == [(0, 8), (8, 8), (16, 8), (24, 4)]
    assert check(cuda.cuModuleGetFunctionCount(module)) == 1
    assert check(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, 128, 0)) == 16
    library = check(cuda.cuLibraryLoadData(image, None, None, 0, None, None, 0))
    kernel = check(cuda.cuLibraryGetKernel(library, add.kernel.encode()))
    assert check(cuda.cuFuncGetName(check(cuda.cuKernelGetFunction(kernel)))) == add.kernel.encode()
    check(cuda.cuLibraryUnload(library))
    check(cuda.cuModuleUnload(module))
    bad = b".version 9.5\n.target sm_80\n.address_size 64\n.visible .entry k() { nonsense; }\0"
    assert code(cuda.cuModuleLoadData(bad)) == "CUDA_ERROR_INVALID_PTX"

    # Streams and events around a launch.
    stream = device.stream
    start, end = (check(cuda.cuEventCreate(0)) for _ in range(2))
    check(cuda.cuEventRecord(start, stream))
    assert add.compare(device.run(add)) == 0
    check(cuda.cuEventRecord(end, stream))
    check(cuda.cuEventSynchronize(end))
    assert check(cuda.cuEventElapsedTime(start, end)) > 0
    check(cuda.cuStreamWaitEvent(stream, end, 0))
    check(cuda.cuStreamQuery(stream))

    # A graph.
    check(cuda.cuStreamBeginCapture(stream, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    assert code(cuda.cuStreamSynchronize(stream)) == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    assert code(cuda.cuStreamEndCapture(stream)) == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    target = check(cuda.cuMemAlloc(4))
    check(cuda.cuStreamBeginCapture(stream, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    check(cuda.cuMemsetD32Async(target, 77, 1, stream))
    graph = check(cuda.cuStreamEndCapture(stream))
    executable = check(cuda.cuGraphInstantiate(graph, 0))
    check(cuda.cuGraphLaunch(executable, stream))
    got = np.zeros(1, np.uint32)
    check(cuda.cuMemcpyDtoH(got.ctypes.data, target, 4))
    assert got[0] == 77
    check(cuda.cuGraphExecDestroy(executable))
    check(cuda.cuGraphDestroy(graph))
    check(cuda.cuMemFree(target))
    for event in (start, end):
        check(cuda.cuEventDestroy(event))
    device.close()

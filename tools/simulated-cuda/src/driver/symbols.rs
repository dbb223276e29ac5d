//! `cuGetProcAddress`: every function by its name without suffix, and the CUDA version that gave it its present form.

use super::abi::{Out, Text, guard};
use super::result::{self, CUresult, Result};
use super::state;
use super::{
    capture, context, copy, device, event, function, graph, host, memory, module, occupancy, pool, profile,
    result as codes, stream,
};
use std::ffi::{c_int, c_uint};

/// A form that is not simulated: who asks for it gets none rather than one with other arguments.
const NONE: *const () = std::ptr::null();

/// Names, versions and addresses; forms of one name by version.
#[rustfmt::skip]
fn table() -> Vec<(&'static str, c_int, *const ())> {
    vec![
        ("cuDevicePrimaryCtxRetain", 7000, context::cuDevicePrimaryCtxRetain as *const ()),
        ("cuDevicePrimaryCtxRelease", 11000, context::cuDevicePrimaryCtxRelease_v2 as *const ()),
        ("cuDevicePrimaryCtxReset", 11000, context::cuDevicePrimaryCtxReset_v2 as *const ()),
        ("cuDevicePrimaryCtxGetState", 7000, context::cuDevicePrimaryCtxGetState as *const ()),
        ("cuDevicePrimaryCtxSetFlags", 11000, context::cuDevicePrimaryCtxSetFlags_v2 as *const ()),
        ("cuCtxCreate", 3020, context::cuCtxCreate_v2 as *const ()),
        ("cuCtxCreate", 11040, context::cuCtxCreate_v3 as *const ()),
        ("cuCtxCreate", 12050, context::cuCtxCreate_v4 as *const ()),
        ("cuCtxDestroy", 4000, context::cuCtxDestroy_v2 as *const ()),
        ("cuCtxSetCurrent", 4000, context::cuCtxSetCurrent as *const ()),
        ("cuCtxGetCurrent", 4000, context::cuCtxGetCurrent as *const ()),
        ("cuCtxPushCurrent", 4000, context::cuCtxPushCurrent_v2 as *const ()),
        ("cuCtxPopCurrent", 4000, context::cuCtxPopCurrent_v2 as *const ()),
        ("cuCtxGetDevice", 2000, context::cuCtxGetDevice as *const ()),
        ("cuCtxGetDevice", 13000, context::cuCtxGetDevice_v2 as *const ()),
        ("cuCtxGetApiVersion", 3020, context::cuCtxGetApiVersion as *const ()),
        ("cuCtxGetId", 12000, context::cuCtxGetId as *const ()),
        ("cuCtxSynchronize", 2000, context::cuCtxSynchronize as *const ()),
        ("cuCtxSynchronize", 13000, NONE),
        ("cuCtxGetFlags", 7000, context::cuCtxGetFlags as *const ()),
        ("cuCtxSetFlags", 12010, context::cuCtxSetFlags as *const ()),
        ("cuCtxGetLimit", 3010, context::cuCtxGetLimit as *const ()),
        ("cuCtxSetLimit", 3010, context::cuCtxSetLimit as *const ()),
        ("cuCtxGetCacheConfig", 3020, context::cuCtxGetCacheConfig as *const ()),
        ("cuCtxSetCacheConfig", 3020, context::cuCtxSetCacheConfig as *const ()),
        ("cuCtxGetSharedMemConfig", 4020, context::cuCtxGetSharedMemConfig as *const ()),
        ("cuCtxSetSharedMemConfig", 4020, context::cuCtxSetSharedMemConfig as *const ()),
        ("cuCtxGetStreamPriorityRange", 5050, context::cuCtxGetStreamPriorityRange as *const ()),
        ("cuProfilerStart", 4000, context::cuProfilerStart as *const ()),
        ("cuProfilerStop", 4000, context::cuProfilerStop as *const ()),
        ("cuMemcpyHtoD", 3020, copy::cuMemcpyHtoD_v2 as *const ()),
        ("cuMemcpyHtoDAsync", 3020, copy::cuMemcpyHtoDAsync_v2 as *const ()),
        ("cuMemcpyDtoH", 3020, copy::cuMemcpyDtoH_v2 as *const ()),
        ("cuMemcpyDtoHAsync", 3020, copy::cuMemcpyDtoHAsync_v2 as *const ()),
        ("cuMemcpyDtoD", 3020, copy::cuMemcpyDtoD_v2 as *const ()),
        ("cuMemcpyDtoDAsync", 3020, copy::cuMemcpyDtoDAsync_v2 as *const ()),
        ("cuMemcpy", 4000, copy::cuMemcpy as *const ()),
        ("cuMemcpyAsync", 4000, copy::cuMemcpyAsync as *const ()),
        ("cuMemcpyPeer", 4000, copy::cuMemcpyPeer as *const ()),
        ("cuMemcpyPeerAsync", 4000, copy::cuMemcpyPeerAsync as *const ()),
        ("cuMemsetD8", 3020, copy::cuMemsetD8_v2 as *const ()),
        ("cuMemsetD16", 3020, copy::cuMemsetD16_v2 as *const ()),
        ("cuMemsetD32", 3020, copy::cuMemsetD32_v2 as *const ()),
        ("cuMemsetD8Async", 3020, copy::cuMemsetD8Async as *const ()),
        ("cuMemsetD16Async", 3020, copy::cuMemsetD16Async as *const ()),
        ("cuMemsetD32Async", 3020, copy::cuMemsetD32Async as *const ()),
        ("cuInit", 2000, device::cuInit as *const ()),
        ("cuDriverGetVersion", 2020, device::cuDriverGetVersion as *const ()),
        ("cuDeviceGetCount", 2000, device::cuDeviceGetCount as *const ()),
        ("cuDeviceGet", 2000, device::cuDeviceGet as *const ()),
        ("cuDeviceGetAttribute", 2000, device::cuDeviceGetAttribute as *const ()),
        ("cuDeviceGetName", 2000, device::cuDeviceGetName as *const ()),
        ("cuDeviceGetUuid", 9020, device::cuDeviceGetUuid as *const ()),
        ("cuDeviceGetUuid", 11040, device::cuDeviceGetUuid_v2 as *const ()),
        ("cuDeviceTotalMem", 3020, device::cuDeviceTotalMem_v2 as *const ()),
        ("cuDeviceComputeCapability", 2000, device::cuDeviceComputeCapability as *const ()),
        ("cuDeviceGetPCIBusId", 4010, device::cuDeviceGetPCIBusId as *const ()),
        ("cuDeviceCanAccessPeer", 4000, device::cuDeviceCanAccessPeer as *const ()),
        ("cuCtxEnablePeerAccess", 4000, device::cuCtxEnablePeerAccess as *const ()),
        ("cuCtxDisablePeerAccess", 4000, device::cuCtxDisablePeerAccess as *const ()),
        ("cuEventCreate", 2000, event::cuEventCreate as *const ()),
        ("cuEventDestroy", 4000, event::cuEventDestroy_v2 as *const ()),
        ("cuEventRecord", 2000, event::cuEventRecord as *const ()),
        ("cuEventRecordWithFlags", 11010, event::cuEventRecordWithFlags as *const ()),
        ("cuEventQuery", 2000, event::cuEventQuery as *const ()),
        ("cuEventSynchronize", 2000, event::cuEventSynchronize as *const ()),
        ("cuEventElapsedTime", 2000, event::cuEventElapsedTime as *const ()),
        ("cuEventElapsedTime", 12080, event::cuEventElapsedTime_v2 as *const ()),
        ("cuFuncGetAttribute", 2020, function::cuFuncGetAttribute as *const ()),
        ("cuFuncSetAttribute", 9000, function::cuFuncSetAttribute as *const ()),
        ("cuFuncSetCacheConfig", 3000, function::cuFuncSetCacheConfig as *const ()),
        ("cuFuncSetSharedMemConfig", 4020, function::cuFuncSetSharedMemConfig as *const ()),
        ("cuFuncGetModule", 11000, function::cuFuncGetModule as *const ()),
        ("cuFuncGetName", 12030, function::cuFuncGetName as *const ()),
        ("cuFuncGetParamInfo", 12040, function::cuFuncGetParamInfo as *const ()),
        ("cuFuncIsLoaded", 12040, function::cuFuncIsLoaded as *const ()),
        ("cuFuncLoad", 12040, function::cuFuncLoad as *const ()),
        ("cuKernelGetAttribute", 12000, function::cuKernelGetAttribute as *const ()),
        ("cuKernelSetAttribute", 12000, function::cuKernelSetAttribute as *const ()),
        ("cuKernelGetName", 12030, function::cuKernelGetName as *const ()),
        ("cuKernelGetParamInfo", 12040, function::cuKernelGetParamInfo as *const ()),
        ("cuLaunchKernel", 4000, function::cuLaunchKernel as *const ()),
        ("cuLaunchKernelEx", 11060, function::cuLaunchKernelEx as *const ()),
        ("cuLaunchCooperativeKernel", 9000, function::cuLaunchCooperativeKernel as *const ()),
        ("cuGraphCreate", 10000, graph::cuGraphCreate as *const ()),
        ("cuGraphClone", 10000, graph::cuGraphClone as *const ()),
        ("cuGraphDestroy", 10000, graph::cuGraphDestroy as *const ()),
        ("cuGraphInstantiate", 11000, graph::cuGraphInstantiate_v2 as *const ()),
        ("cuGraphInstantiate", 12000, graph::cuGraphInstantiateWithFlags as *const ()),
        ("cuGraphInstantiateWithFlags", 11040, graph::cuGraphInstantiateWithFlags as *const ()),
        ("cuGraphInstantiateWithParams", 12000, graph::cuGraphInstantiateWithParams as *const ()),
        ("cuGraphLaunch", 10000, graph::cuGraphLaunch as *const ()),
        ("cuGraphUpload", 11010, graph::cuGraphUpload as *const ()),
        ("cuGraphExecDestroy", 10000, graph::cuGraphExecDestroy as *const ()),
        ("cuGraphGetNodes", 10000, graph::cuGraphGetNodes as *const ()),
        ("cuGraphNodeGetDependencies", 10000, graph::cuGraphNodeGetDependencies as *const ()),
        ("cuGraphNodeGetDependencies", 12030, NONE),
        ("cuGraphNodeGetType", 10000, graph::cuGraphNodeGetType as *const ()),
        ("cuStreamBeginCapture", 10010, capture::cuStreamBeginCapture_v2 as *const ()),
        ("cuStreamEndCapture", 10000, capture::cuStreamEndCapture as *const ()),
        ("cuStreamIsCapturing", 10000, capture::cuStreamIsCapturing as *const ()),
        ("cuStreamGetCaptureInfo", 11030, capture::cuStreamGetCaptureInfo_v2 as *const ()),
        ("cuStreamGetCaptureInfo", 12030, NONE),
        ("cuThreadExchangeStreamCaptureMode", 10010, capture::cuThreadExchangeStreamCaptureMode as *const ()),
        ("cuMemAllocManaged", 6000, host::cuMemAllocManaged as *const ()),
        ("cuMemAdvise", 8000, host::cuMemAdvise as *const ()),
        ("cuMemAdvise", 12020, host::cuMemAdvise_v2 as *const ()),
        ("cuMemPrefetchAsync", 8000, host::cuMemPrefetchAsync as *const ()),
        ("cuMemPrefetchAsync", 12020, host::cuMemPrefetchAsync_v2 as *const ()),
        ("cuStreamAttachMemAsync", 6000, host::cuStreamAttachMemAsync as *const ()),
        ("cuMemHostAlloc", 2020, host::cuMemHostAlloc as *const ()),
        ("cuMemAllocHost", 3020, host::cuMemAllocHost_v2 as *const ()),
        ("cuMemFreeHost", 2000, host::cuMemFreeHost as *const ()),
        ("cuMemHostRegister", 6050, host::cuMemHostRegister_v2 as *const ()),
        ("cuMemHostUnregister", 4000, host::cuMemHostUnregister as *const ()),
        ("cuMemHostGetDevicePointer", 3020, host::cuMemHostGetDevicePointer_v2 as *const ()),
        ("cuMemHostGetFlags", 2030, host::cuMemHostGetFlags as *const ()),
        ("cuMemAlloc", 3020, memory::cuMemAlloc_v2 as *const ()),
        ("cuMemAllocPitch", 3020, memory::cuMemAllocPitch_v2 as *const ()),
        ("cuMemFree", 3020, memory::cuMemFree_v2 as *const ()),
        ("cuMemAllocAsync", 11020, memory::cuMemAllocAsync as *const ()),
        ("cuMemFreeAsync", 11020, memory::cuMemFreeAsync as *const ()),
        ("cuMemGetInfo", 3020, memory::cuMemGetInfo_v2 as *const ()),
        ("cuMemGetAddressRange", 3020, memory::cuMemGetAddressRange_v2 as *const ()),
        ("cuPointerGetAttribute", 4000, memory::cuPointerGetAttribute as *const ()),
        ("cuModuleLoad", 2000, module::cuModuleLoad as *const ()),
        ("cuModuleLoadData", 2000, module::cuModuleLoadData as *const ()),
        ("cuModuleLoadDataEx", 2010, module::cuModuleLoadDataEx as *const ()),
        ("cuModuleLoadFatBinary", 2000, module::cuModuleLoadFatBinary as *const ()),
        ("cuModuleUnload", 2000, module::cuModuleUnload as *const ()),
        ("cuModuleGetFunction", 2000, module::cuModuleGetFunction as *const ()),
        ("cuModuleGetFunctionCount", 12040, module::cuModuleGetFunctionCount as *const ()),
        ("cuModuleEnumerateFunctions", 12040, module::cuModuleEnumerateFunctions as *const ()),
        ("cuModuleGetGlobal", 3020, module::cuModuleGetGlobal_v2 as *const ()),
        ("cuModuleGetLoadingMode", 11070, module::cuModuleGetLoadingMode as *const ()),
        ("cuLibraryLoadData", 12000, module::cuLibraryLoadData as *const ()),
        ("cuLibraryUnload", 12000, module::cuLibraryUnload as *const ()),
        ("cuLibraryGetModule", 12000, module::cuLibraryGetModule as *const ()),
        ("cuLibraryGetKernel", 12000, module::cuLibraryGetKernel as *const ()),
        ("cuLibraryGetGlobal", 12000, module::cuLibraryGetGlobal as *const ()),
        ("cuKernelGetFunction", 12000, module::cuKernelGetFunction as *const ()),
        ("cuOccupancyMaxActiveBlocksPerMultiprocessor", 6050, occupancy::cuOccupancyMaxActiveBlocksPerMultiprocessor as *const ()),
        ("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", 7000, occupancy::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags as *const ()),
        ("cuOccupancyAvailableDynamicSMemPerBlock", 10020, occupancy::cuOccupancyAvailableDynamicSMemPerBlock as *const ()),
        ("cuOccupancyMaxPotentialBlockSize", 6050, occupancy::cuOccupancyMaxPotentialBlockSize as *const ()),
        ("cuOccupancyMaxPotentialBlockSizeWithFlags", 7000, occupancy::cuOccupancyMaxPotentialBlockSizeWithFlags as *const ()),
        ("cuDeviceGetDefaultMemPool", 11020, pool::cuDeviceGetDefaultMemPool as *const ()),
        ("cuDeviceGetMemPool", 11020, pool::cuDeviceGetMemPool as *const ()),
        ("cuDeviceSetMemPool", 11020, pool::cuDeviceSetMemPool as *const ()),
        ("cuMemPoolCreate", 11020, pool::cuMemPoolCreate as *const ()),
        ("cuMemPoolDestroy", 11020, pool::cuMemPoolDestroy as *const ()),
        ("cuMemPoolTrimTo", 11020, pool::cuMemPoolTrimTo as *const ()),
        ("cuMemPoolGetAttribute", 11020, pool::cuMemPoolGetAttribute as *const ()),
        ("cuMemPoolSetAttribute", 11020, pool::cuMemPoolSetAttribute as *const ()),
        ("cuMemAllocFromPoolAsync", 11020, pool::cuMemAllocFromPoolAsync as *const ()),
        ("cuGetErrorName", 6000, codes::cuGetErrorName as *const ()),
        ("cuGetErrorString", 6000, codes::cuGetErrorString as *const ()),
        ("cuStreamCreate", 2000, stream::cuStreamCreate as *const ()),
        ("cuStreamCreateWithPriority", 5050, stream::cuStreamCreateWithPriority as *const ()),
        ("cuStreamDestroy", 4000, stream::cuStreamDestroy_v2 as *const ()),
        ("cuStreamSynchronize", 2000, stream::cuStreamSynchronize as *const ()),
        ("cuStreamQuery", 2000, stream::cuStreamQuery as *const ()),
        ("cuStreamWaitEvent", 3020, stream::cuStreamWaitEvent as *const ()),
        ("cuStreamGetFlags", 5050, stream::cuStreamGetFlags as *const ()),
        ("cuStreamGetPriority", 5050, stream::cuStreamGetPriority as *const ()),
        ("cuStreamGetId", 12000, stream::cuStreamGetId as *const ()),
        ("cuStreamGetCtx", 9020, stream::cuStreamGetCtx as *const ()),
        ("cuLaunchHostFunc", 10000, stream::cuLaunchHostFunc as *const ()),
        ("simulatedCudaProfile", 2000, profile::simulatedCudaProfile as *const ()),
        ("cuGetExportTable", 3000, cuGetExportTable as *const ()),
        ("cuGetProcAddress", 11030, cuGetProcAddress as *const ()),
        ("cuGetProcAddress", 12000, cuGetProcAddress_v2 as *const ()),
    ]
}

/// `CUdriverProcAddressQueryResult`.
#[derive(Clone, Copy, PartialEq)]
enum Found {
    Symbol = 0,
    Nothing = 1,
    TooNew = 2,
}

/// The newest form that `version` of the client and `driver` know.
fn find(name: &str, version: c_int, driver: c_int) -> (Found, *const ()) {
    let forms = table().into_iter().filter(|&(known, since, _)| known == name && since <= driver);
    let mut known = false;
    let newest = forms.inspect(|_| known = true).filter(|(_, since, _)| *since <= version).max_by_key(|form| form.1);
    match newest {
        Some((_, _, address)) if !address.is_null() => (Found::Symbol, address),
        None if known => (Found::TooNew, NONE),
        _ => (Found::Nothing, NONE),
    }
}

fn look_up(name: Text, address: Out<*const ()>, version: c_int, flags: u64) -> Result<Found> {
    // Legacy and per-thread default stream: all streams do their work at once, so that one form serves both.
    const KNOWN_FLAGS: u64 = 3;
    address.check()?;
    let name = name.get()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let (found, symbol) = find(name, version, state::driver_version()? as c_int);
    address.set(symbol)?;
    Ok(found)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetProcAddress(name: Text, address: Out<*const ()>, version: c_int, flags: u64) -> CUresult {
    guard(|| match look_up(name, address, version, flags)? {
        Found::Symbol => Ok(()),
        _ => Err(result::ERROR_NOT_FOUND),
    })
}

/// Without a place for the status, what is not found is an error.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetProcAddress_v2(
    name: Text,
    address: Out<*const ()>,
    version: c_int,
    flags: u64,
    status: Out<c_uint>,
) -> CUresult {
    guard(|| {
        let found = look_up(name, address, version, flags)?;
        if status.is_null() && found != Found::Symbol {
            return Err(result::ERROR_NOT_FOUND);
        }
        status.set_if_asked(found as c_uint);
        Ok(())
    })
}

/// NVIDIA's own libraries ask for tables of inner functions: there are none.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGetExportTable(table: Out<usize>, _id: usize) -> CUresult {
    guard(|| {
        table.set(0)?;
        Err(result::ERROR_NOT_FOUND)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_form_that_the_client_knows() {
        assert!(find("cuCtxCreate", 3010, 13050) == (Found::TooNew, NONE));
        assert!(find("cuCtxCreate", 11030, 13050) == (Found::Symbol, context::cuCtxCreate_v2 as *const ()));
        assert!(find("cuCtxCreate", 12040, 13050) == (Found::Symbol, context::cuCtxCreate_v3 as *const ()));
        assert!(find("cuCtxCreate", 99999, 13050) == (Found::Symbol, context::cuCtxCreate_v4 as *const ()));
        assert!(find("cuCtxSynchronize", 12000, 13050) == (Found::Symbol, context::cuCtxSynchronize as *const ()));
        assert!(find("cuCtxSynchronize", 13000, 13050) == (Found::Nothing, NONE));
        assert!(find("cuMemAllocAsync", 13000, 11010) == (Found::Nothing, NONE));
        assert!(find("cuNoSuchThing", 13000, 13050) == (Found::Nothing, NONE));
    }
}

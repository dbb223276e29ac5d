//! Stream capture and graphs: what is recorded, and what a capturing stream forbids.

mod driver_support;

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode::*, CUstreamCaptureStatus};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, result};
use driver_support::{code, context, kernel};
use std::ptr::null_mut;
use std::sync::Arc;

const KERNELS: &str = include_str!("driver_support/kernels.ptx");
const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

struct Setup {
    stream: Arc<CudaStream>,
    kernel: CudaFunction,
    x: CudaSlice<f32>,
    y: CudaSlice<f32>,
}

impl Setup {
    /// Without cudarc's own events, which it would record and wait for around each call.
    fn new() -> Self {
        let context = context();
        // SAFETY: each test orders its streams itself.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let kernel = kernel(&context, KERNELS, "saxpy");
        let x = stream.clone_htod(&[1.0_f32; 100]).unwrap();
        let y = stream.clone_htod(&[0.0_f32; 100]).unwrap();
        Self { stream, kernel, x, y }
    }

    /// y += a
    fn saxpy(&mut self, a: f32) -> CUresult {
        let stream = self.stream.clone();
        self.saxpy_on(&stream, a)
    }

    fn saxpy_on(&mut self, stream: &Arc<CudaStream>, a: f32) -> CUresult {
        let mut launch = stream.launch_builder(&self.kernel);
        launch.arg(&a).arg(&self.x).arg(&mut self.y).arg(&100_u32);
        // SAFETY: the kernel's arguments.
        code(unsafe { launch.launch(LaunchConfig::for_num_elems(100)) })
    }

    fn begin(&self) {
        self.stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    }

    fn end(&self) -> Result<CudaGraph, CUresult> {
        self.stream.end_capture(NO_FLAGS).map(|graph| graph.expect("a graph")).map_err(|error| error.0)
    }

    fn y(&self) -> f32 {
        let y = self.stream.clone_dtoh(&self.y).unwrap();
        assert!(y.iter().all(|value| *value == y[0]));
        y[0]
    }
}

#[test]
fn a_graph_is_launched_again_and_again() {
    let mut setup = Setup::new();
    setup.begin();
    assert_eq!(setup.stream.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    assert_eq!(setup.saxpy(1.0), CUresult::CUDA_SUCCESS);
    assert_eq!(setup.saxpy(2.0), CUresult::CUDA_SUCCESS);
    let graph = setup.end().unwrap();
    assert_eq!(setup.y(), 0.0, "recorded, not run");
    for i in 1..4 {
        graph.launch().unwrap();
        assert_eq!(setup.y(), 3.0 * i as f32);
    }
    // SAFETY: a graph; places for the count and its nodes.
    unsafe {
        let mut count = 0;
        assert_eq!(sys::cuGraphGetNodes(graph.cu_graph(), null_mut(), &mut count), CUresult::CUDA_SUCCESS);
        assert_eq!(count, 2);
        let mut nodes = [null_mut(); 2];
        assert_eq!(sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &mut count), CUresult::CUDA_SUCCESS);
        for node in nodes {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            assert_eq!(sys::cuGraphNodeGetType(node, &mut kind), CUresult::CUDA_SUCCESS);
            assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL);
        }
    }
}

/// A graph takes the arguments as they were, and the memory as it is.
#[test]
fn copies_and_memsets_are_recorded() {
    let mut setup = Setup::new();
    let stream = setup.stream.clone();
    let mut copy = stream.alloc_zeros::<f32>(100).unwrap();
    setup.begin();
    stream.memset_zeros(&mut setup.y).unwrap();
    assert_eq!(setup.saxpy(5.0), CUresult::CUDA_SUCCESS);
    stream.memcpy_dtod(&setup.y, &mut copy).unwrap();
    let graph = setup.end().unwrap();
    setup.saxpy(9.0);
    stream.memcpy_htod(&[2.0_f32; 100], &mut setup.x).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), [10.0; 100]);
}

#[test]
fn waiting_calls_end_the_capture() {
    type Call = fn(&Setup) -> CUresult;
    // SAFETY: a stream.
    let query: Call = |s| unsafe { sys::cuStreamQuery(s.stream.cu_stream()) };
    // SAFETY: refused.
    let allocate: Call = |_| code(unsafe { result::malloc_sync(16) });
    // SAFETY: refused.
    let pin: Call = |_| code(unsafe { result::malloc_host(16, 0) });
    let calls: [(&str, Call, CUresult); 6] = [
        ("synchronise the stream", |s| code(s.stream.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        (
            "synchronise the context",
            |s| code(s.stream.context().synchronize()),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        ("query", query, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        ("allocate", allocate, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        ("pin", pin, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        (
            "query an event",
            |s| {
                let event = s.stream.record_event(None).unwrap();
                code(event.try_is_complete())
            },
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
        ),
    ];
    for (what, call, expected) in calls {
        let mut setup = Setup::new();
        setup.begin();
        setup.saxpy(1.0);
        assert_eq!(call(&setup), expected, "{what}");
        assert_eq!(setup.saxpy(1.0), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{what}");
        assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{what}");
        // And then the stream works again.
        assert_eq!(setup.saxpy(1.0), CUresult::CUDA_SUCCESS);
        assert_eq!(setup.y(), 1.0);
    }
}

/// A relaxed capture forbids only what conflicts with it.
#[test]
fn a_relaxed_capture_allows_allocation() {
    let mut setup = Setup::new();
    setup.stream.begin_capture(CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    setup.saxpy(1.0);
    // SAFETY: freed once, not used.
    unsafe { result::free_sync(result::malloc_sync(16).unwrap()).unwrap() };
    let graph = setup.end().unwrap();
    graph.launch().unwrap();
    assert_eq!(setup.y(), 1.0);
}

/// Another thread's thread-local capture is its own affair; a global one is everybody's. In a process of its own: it
/// would disturb the other tests.
#[test]
fn modes() {
    driver_support::passes("modes_alone", &[]);
}

#[test]
#[ignore = "run by `modes`"]
fn modes_alone() {
    for (mode, expected) in [
        (CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CUresult::CUDA_SUCCESS),
        (CU_STREAM_CAPTURE_MODE_GLOBAL, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
    ] {
        let setup = Setup::new();
        setup.stream.begin_capture(mode).unwrap();
        let context = setup.stream.context().clone();
        let there = std::thread::spawn(move || {
            context.bind_to_thread().unwrap();
            // SAFETY: leaked, which the context takes along.
            code(unsafe { result::malloc_sync(16) })
        });
        assert_eq!(there.join().unwrap(), expected);
        let ended = setup.end();
        assert_eq!(ended.is_ok(), expected == CUresult::CUDA_SUCCESS);
        // SAFETY: a thread other than the one that began it may not end it.
        let setup = Setup::new();
        setup.begin();
        let stream = setup.stream.clone();
        let elsewhere = std::thread::spawn(move || code(stream.end_capture(NO_FLAGS)));
        assert_eq!(elsewhere.join().unwrap(), CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        setup.end().unwrap();
    }
}

#[test]
fn other_streams_join_by_events() {
    let mut setup = Setup::new();
    let other = setup.stream.context().new_stream().unwrap();
    let first = setup.stream.clone();
    setup.begin();
    setup.saxpy(1.0);
    other.join(&first).unwrap();
    assert_eq!(other.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    setup.saxpy_on(&other, 10.0);
    first.join(&other).unwrap();
    setup.saxpy(100.0);
    let graph = setup.end().unwrap();
    assert_eq!(other.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
    graph.launch().unwrap();
    assert_eq!(setup.y(), 111.0);

    // Work that never comes back.
    setup.begin();
    setup.saxpy(1.0);
    other.join(&first).unwrap();
    setup.saxpy_on(&other, 10.0);
    assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));

    // Ended by the wrong stream.
    setup.begin();
    other.join(&first).unwrap();
    assert_eq!(code(other.end_capture(NO_FLAGS)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));

    // Work from outside of the capture.
    let before = other.record_event(None).unwrap();
    setup.begin();
    assert_eq!(code(first.wait(&before)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));

    // Two captures.
    setup.begin();
    other.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(code(other.join(&first)), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
    assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    assert_eq!(code(other.end_capture(NO_FLAGS)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

#[test]
fn the_legacy_stream() {
    let setup = Setup::new();
    let legacy = setup.stream.context().default_stream();
    assert_eq!(
        code(legacy.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    // It does not wait for non-blocking streams, such as cudarc's.
    setup.begin();
    legacy.alloc_zeros::<u8>(1).unwrap();
    setup.end().unwrap();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    // SAFETY: the stream is destroyed last.
    unsafe {
        result::stream::begin_capture(blocking, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert_eq!(code(legacy.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        let ended = result::stream::end_capture(blocking);
        assert_eq!(code(ended), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        result::stream::destroy(blocking).unwrap();
    }
}

#[test]
fn states() {
    let setup = Setup::new();
    assert_eq!(setup.end().err(), Some(CUresult::CUDA_ERROR_ILLEGAL_STATE), "not capturing");
    setup.begin();
    let again = setup.stream.begin_capture(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    assert_eq!(code(again), CUresult::CUDA_ERROR_ILLEGAL_STATE);
    setup.end().unwrap().launch().unwrap();
}

/// Memory of a stream-ordered allocation in a capture is the graph's.
#[test]
fn allocation_within_a_capture() {
    let setup = Setup::new();
    let stream = setup.stream.clone();
    let mut out = stream.alloc_zeros::<f32>(100).unwrap();
    setup.begin();
    let mut inner = stream.alloc_zeros::<f32>(100).unwrap();
    stream.memcpy_dtod(&setup.x, &mut inner).unwrap();
    stream.memcpy_dtod(&inner, &mut out).unwrap();
    drop(inner);
    let graph = setup.end().unwrap();
    for _ in 0..2 {
        stream.memset_zeros(&mut out).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [1.0; 100]);
    }
}

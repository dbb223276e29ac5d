//! `cuGraph*`: graphs that stream capture made, and their launch.

use super::abi::{Handle, Out, guard};
use super::capture;
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use super::stream;
use super::work::Work;
use std::ffi::{c_char, c_uint};

/// Nodes in an order that respects `after`: the order of capture.
#[derive(Clone)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) work: Work,
    /// Indices of the nodes that it waits for.
    pub(super) after: Vec<usize>,
}

/// A graph ready to launch.
pub(super) struct Exec {
    pub(super) context: Handle,
    work: Vec<Work>,
}

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const USE_NODE_PRIORITY: u64 = 8;

fn instantiate(exec: Out<Handle>, graph: Handle, flags: u64) -> Result {
    let mut state = state::get()?;
    exec.check()?;
    let found = state.graphs.get(&graph).ok_or(result::ERROR_INVALID_VALUE)?;
    if flags & !(AUTO_FREE_ON_LAUNCH | UPLOAD | DEVICE_LAUNCH | USE_NODE_PRIORITY) != 0
        || flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE_ON_LAUNCH != 0
    {
        return Err(result::ERROR_INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(result::ERROR_NOT_SUPPORTED);
    }
    let work = found.nodes.iter().map(|node| node.work.clone()).collect();
    let context = state.current()?;
    let handle = state.new_handle();
    state.execs.insert(handle, Exec { context, work });
    exec.set(handle)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) -> CUresult {
    guard(|| instantiate(exec, graph, flags))
}

/// Before CUDA 12 `cuGraphInstantiate`, with a log instead of flags.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphInstantiate_v2(
    exec: Out<Handle>,
    graph: Handle,
    error_node: Out<Handle>,
    log: Out<c_char>,
    room: usize,
) -> CUresult {
    guard(|| {
        instantiate(exec, graph, 0)?;
        error_node.set_if_asked(0);
        if !log.is_null() && room > 0 { log.set_text("", room) } else { Ok(()) }
    })
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct InstantiateParams {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: c_uint,
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphInstantiateWithParams(
    exec: Out<Handle>,
    graph: Handle,
    params: Out<InstantiateParams>,
) -> CUresult {
    guard(|| {
        let mut given = params.read()?;
        let done = instantiate(exec, graph, given.flags);
        // CUDA_GRAPH_INSTANTIATE_SUCCESS, _ERROR.
        given.result = done.is_err() as c_uint;
        given.error_node = 0;
        params.set(given)?;
        done
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphLaunch(exec: Handle, stream: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let stream = state.stream(stream)?;
        let work = state.execs.get(&exec).ok_or(result::ERROR_INVALID_VALUE)?.work.clone();
        capture::check_legacy(&mut state, stream)?;
        let mut captured = false;
        for work in &work {
            captured |= capture::record(&mut state, stream, work)?;
        }
        drop(state);
        if captured {
            return Ok(());
        }
        work.into_iter().try_for_each(|work| stream::start(state::get()?, stream, work))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphUpload(exec: Handle, stream: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.stream(stream)?;
        state.execs.get(&exec).ok_or(result::ERROR_INVALID_VALUE)?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphExecDestroy(exec: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.execs.remove(&exec).map(|_| ()).ok_or(result::ERROR_INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphCreate(graph: Out<Handle>, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        graph.check()?;
        if flags != 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let handle = state.new_handle();
        state.graphs.insert(handle, Graph { nodes: Vec::new() });
        graph.set(handle)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphClone(clone: Out<Handle>, graph: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        clone.check()?;
        let copy = state.graphs.get(&graph).ok_or(result::ERROR_INVALID_VALUE)?.clone();
        let handle = state.new_handle();
        state.graphs.insert(handle, copy);
        clone.set(handle)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphDestroy(graph: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        state.graphs.remove(&graph).map(|_| ()).ok_or(result::ERROR_INVALID_VALUE)
    })
}

/// A node's handle: its graph's, and its place there.
fn node_handle(graph: Handle, node: usize) -> Handle {
    (graph << 16) | (node + 1)
}

fn find_node(state: &State, handle: Handle) -> Result<&Node> {
    let graph = state.graphs.get(&(handle >> 16)).ok_or(result::ERROR_INVALID_VALUE)?;
    graph.nodes.get((handle & 0xffff).wrapping_sub(1)).ok_or(result::ERROR_INVALID_VALUE)
}

/// Fills `nodes` with as many as `count` has room for; tells how many there are when `nodes` is null.
fn list(nodes: Out<Handle>, count: Out<usize>, all: &[Handle]) -> Result {
    let room = count.read()?;
    if nodes.is_null() {
        return count.set(all.len());
    }
    for i in 0..room {
        nodes.at(i).set(all.get(i).copied().unwrap_or(0))?;
    }
    count.set(room.min(all.len()))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        let found = state.graphs.get(&graph).ok_or(result::ERROR_INVALID_VALUE)?;
        let all: Vec<Handle> = (0..found.nodes.len()).map(|node| node_handle(graph, node)).collect();
        list(nodes, count, &all)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphNodeGetDependencies(
    node: Handle,
    dependencies: Out<Handle>,
    count: Out<usize>,
) -> CUresult {
    guard(|| {
        let state = state::get()?;
        let all: Vec<Handle> =
            find_node(&state, node)?.after.iter().map(|&before| node_handle(node >> 16, before)).collect();
        list(dependencies, count, &all)
    })
}

/// By the numbers of `CUgraphNodeType`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphNodeGetType(node: Handle, kind: Out<c_uint>) -> CUresult {
    guard(|| {
        let state = state::get()?;
        kind.check()?;
        kind.set(match find_node(&state, node)?.work {
            Work::Kernel(_) => 0,
            Work::Copy { .. } => 1,
            Work::Fill { .. } => 2,
            Work::Host { .. } => 3,
            Work::Record { .. } => 7,
            Work::Alloc => 10,
            Work::Free { .. } => 11,
        })
    })
}

//! Stream capture: while a stream captures, work is recorded as a node of a graph, and calls that would have to wait
//! for it fail and invalidate the capture (CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture").

use super::abi::{Handle, Out, guard};
use super::graph::{Graph, Node};
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use super::stream::Stream;
use super::work::Work;
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::c_uint;
use std::thread::ThreadId;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    fn from_number(mode: c_uint) -> Result<Self> {
        Ok(match mode {
            0 => Self::Global,
            1 => Self::ThreadLocal,
            2 => Self::Relaxed,
            _ => return Err(result::ERROR_INVALID_VALUE),
        })
    }
}

pub(super) struct Capture {
    pub(super) context: Handle,
    mode: Mode,
    thread: ThreadId,
    origin: Handle,
    pub(super) nodes: Vec<Node>,
    /// Each capturing stream's last nodes: what its next node comes after.
    members: HashMap<Handle, Vec<usize>>,
    invalid: bool,
}

/// How `cuStreamWaitEvent` waits.
pub(super) enum Wait {
    /// For the work that the event stands for.
    Recorded,
    /// For the event itself, from outside of the graph.
    External,
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

pub(super) fn invalidate(state: &mut State, capture: u64) {
    if let Some(capture) = state.captures.get_mut(&capture) {
        capture.invalid = true;
    }
}

/// The capture of a stream, which is to be used: none where it does not capture.
fn active(state: &mut State, stream: Handle) -> Result<Option<&mut Capture>> {
    let Some(id) = state.streams[&stream].capture else { return Ok(None) };
    let capture = state.captures.get_mut(&id).expect("a stream's capture exists until it ends");
    if capture.invalid { Err(result::ERROR_STREAM_CAPTURE_INVALIDATED) } else { Ok(Some(capture)) }
}

/// Records work when the stream captures, and says whether it did.
pub(super) fn record(state: &mut State, stream: Handle, work: &Work) -> Result<bool> {
    let Some(capture) = active(state, stream)? else { return Ok(false) };
    let after = capture.members[&stream].clone();
    capture.nodes.push(Node { work: work.clone(), after });
    capture.members.insert(stream, vec![capture.nodes.len() - 1]);
    Ok(true)
}

/// The capture of a stream and its last nodes, for an event that is recorded.
pub(super) fn frontier(state: &mut State, stream: Handle) -> Result<Option<(u64, Vec<usize>)>> {
    let nodes = active(state, stream)?.map(|capture| capture.members[&stream].clone());
    Ok(nodes.map(|nodes| (state.streams[&stream].capture.expect("active"), nodes)))
}

/// `cuStreamWaitEvent`: a stream that waits for captured work joins the capture.
pub(super) fn wait(state: &mut State, stream: Handle, event: Handle, wait: Wait) -> Result {
    let own = state.streams[&stream].capture;
    active(state, stream)?;
    if let Wait::External = wait {
        return if own.is_some() { Ok(()) } else { Err(result::ERROR_INVALID_VALUE) };
    }
    let event = &state.events[&event];
    let recorded = event.at.is_some();
    match (own, event.captured.clone()) {
        (None, None) => Ok(()),
        // Never recorded: nothing to wait for.
        (Some(_), None) if !recorded => Ok(()),
        (Some(own), None) => {
            invalidate(state, own);
            Err(result::ERROR_STREAM_CAPTURE_ISOLATION)
        }
        (own, Some((theirs, nodes))) => {
            let Some(capture) = state.captures.get(&theirs).filter(|capture| !capture.invalid) else {
                // That capture is over.
                return Err(result::ERROR_INVALID_VALUE);
            };
            if own.is_some_and(|own| own != theirs) {
                invalidate(state, theirs);
                invalidate(state, own.expect("checked"));
                return Err(result::ERROR_STREAM_CAPTURE_MERGE);
            }
            if state.streams[&stream].legacy || capture.context != state.streams[&stream].context {
                invalidate(state, theirs);
                return Err(result::ERROR_STREAM_CAPTURE_IMPLICIT);
            }
            state.streams.get_mut(&stream).expect("a key").capture = Some(theirs);
            let capture = state.captures.get_mut(&theirs).expect("found above");
            let last = capture.members.entry(stream).or_default();
            last.extend(nodes);
            last.sort_unstable();
            last.dedup();
            Ok(())
        }
    }
}

/// The legacy stream waits for every blocking stream of its context, which it cannot while one of them captures.
pub(super) fn check_legacy(state: &mut State, stream: Handle) -> Result {
    let Stream { context, legacy: true, .. } = state.streams[&stream] else { return Ok(()) };
    let capturing: Vec<u64> = (state.streams.values())
        .filter(|other| other.context == context && other.blocking())
        .filter_map(|other| other.capture)
        .collect();
    capturing.iter().for_each(|&capture| invalidate(state, capture));
    if capturing.is_empty() { Ok(()) } else { Err(result::ERROR_STREAM_CAPTURE_IMPLICIT) }
}

/// For calls that wait for a stream.
pub(super) fn forbid_in_stream(state: &mut State, stream: Handle) -> Result {
    match active(state, stream)? {
        None => Ok(()),
        Some(capture) => {
            capture.invalid = true;
            Err(result::ERROR_STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

/// For calls that wait for a whole context.
pub(super) fn forbid_in_context(state: &mut State, context: Handle) -> Result {
    forbid(state, |capture| capture.context == context)
}

/// For calls that may wait for the device behind the scenes, such as allocating: "potentially unsafe" in the manual.
pub(super) fn forbid_in_thread(state: &mut State) -> Result {
    let (mode, thread) = (MODE.get(), std::thread::current().id());
    forbid(state, |capture| match mode {
        Mode::Relaxed => false,
        _ if capture.thread == thread => capture.mode != Mode::Relaxed,
        Mode::Global => capture.mode == Mode::Global,
        Mode::ThreadLocal => false,
    })
}

fn forbid(state: &mut State, concerned: impl Fn(&Capture) -> bool) -> Result {
    let mut any = false;
    for capture in state.captures.values_mut().filter(|capture| concerned(capture)) {
        capture.invalid = true;
        any = true;
    }
    if any { Err(result::ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

/// A stream that is destroyed: its capture can no longer be joined, and ends when the stream began it.
pub(super) fn abandon(state: &mut State, stream: Handle) {
    let Some(id) = state.streams[&stream].capture else { return };
    invalidate(state, id);
    if state.captures[&id].origin == stream {
        end(state, id);
    }
}

/// Takes a capture's streams out of it.
fn end(state: &mut State, id: u64) -> Capture {
    for stream in state.streams.values_mut().filter(|stream| stream.capture == Some(id)) {
        stream.capture = None;
    }
    state.captures.remove(&id).expect("a capture ends once")
}

impl Capture {
    /// Whether every node comes before the origin's last ones.
    fn joined(&self) -> bool {
        let mut reached = BTreeSet::new();
        let mut open = self.members[&self.origin].clone();
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(&self.nodes[node].after);
            }
        }
        reached.len() == self.nodes.len()
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let mode = Mode::from_number(mode)?;
        let stream = state.stream(stream)?;
        if state.streams[&stream].legacy {
            return Err(result::ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if state.streams[&stream].capture.is_some() {
            return Err(result::ERROR_ILLEGAL_STATE);
        }
        let id = state.new_id();
        let context = state.streams[&stream].context;
        state.streams.get_mut(&stream).expect("a key").capture = Some(id);
        let capture = Capture {
            context,
            mode,
            thread: std::thread::current().id(),
            origin: stream,
            nodes: Vec::new(),
            members: HashMap::from([(stream, Vec::new())]),
            invalid: false,
        };
        state.captures.insert(id, capture);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        graph.check()?;
        graph.set(0)?;
        let stream = state.stream(stream)?;
        let id = state.streams[&stream].capture.ok_or(result::ERROR_ILLEGAL_STATE)?;
        let capture = state.captures.get_mut(&id).expect("a stream's capture exists until it ends");
        if capture.origin != stream {
            capture.invalid = true;
            return Err(result::ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            return Err(result::ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = end(&mut state, id);
        if capture.invalid {
            return Err(result::ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if !capture.joined() {
            return Err(result::ERROR_STREAM_CAPTURE_UNJOINED);
        }
        let handle = state.new_handle();
        state.graphs.insert(handle, Graph { nodes: capture.nodes });
        graph.set(handle)
    })
}

/// 0: no capture; 1: capturing; 2: invalidated.
fn status(state: &mut State, stream: Handle) -> Result<(c_uint, u64)> {
    let stream = state.stream(stream)?;
    check_legacy(state, stream)?;
    let capture = state.streams[&stream].capture;
    Ok(capture.map_or((0, 0), |id| (if state.captures[&id].invalid { 2 } else { 1 }, id)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamIsCapturing(stream: Handle, answer: Out<c_uint>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        answer.check()?;
        answer.set(status(&mut state, stream)?.0)
    })
}

/// Tells status and identity; graph and dependencies are not given.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    answer: Out<c_uint>,
    id: Out<u64>,
    graph: Out<Handle>,
    dependencies: Out<usize>,
    count: Out<usize>,
) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        answer.check()?;
        if !graph.is_null() || !dependencies.is_null() {
            return Err(result::ERROR_NOT_SUPPORTED);
        }
        let (status, number) = status(&mut state, stream)?;
        id.set_if_asked(number);
        count.set_if_asked(0);
        answer.set(status)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) -> CUresult {
    guard(|| {
        let _state = state::get()?;
        let new = Mode::from_number(mode.read()?)?;
        mode.set(MODE.replace(new) as c_uint)
    })
}

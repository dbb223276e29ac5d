//! `cuStream*`, and what it means to submit work.
//!
//! Work runs when it is submitted, on the caller's thread, before the call returns: but for host functions, which have
//! a thread each, streams are idle between calls. What a program may rely on holds: order within a stream, events, the
//! legacy stream. What a program must not rely on (that work of two streams runs in either order, or that a host buffer
//! is read later) does not show here. As on a device, a kernel's error does not come from its launch, but from the next
//! call that waits for it.

use super::abi::{Handle, Out, guard};
use super::capture::{self, Wait};
use super::pending::{self, Pending};
use super::result::{self, CUresult, Result};
use super::state::{self, State};
use super::work::{self, Work};
use std::ffi::{c_int, c_uint};
use std::sync::MutexGuard;
use std::thread::ThreadId;

pub(super) const LEAST_PRIORITY: c_int = 0;
pub(super) const GREATEST_PRIORITY: c_int = -5;

const NON_BLOCKING: c_uint = 1;

pub(super) struct Stream {
    pub(super) context: Handle,
    pub(super) flags: c_uint,
    priority: c_int,
    id: u64,
    /// Null and `CU_STREAM_LEGACY`.
    pub(super) legacy: bool,
    /// Of the thread whose `CU_STREAM_PER_THREAD` it is.
    thread: Option<ThreadId>,
    pub(super) capture: Option<u64>,
    /// What its next work comes after.
    pub(super) pending: Vec<Pending>,
}

impl Stream {
    pub(super) fn blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }
}

impl State {
    /// The key in `streams` of a handle that a caller passed: its own for a created stream, a hidden one for the
    /// context's default streams. Fails with the error of the stream's context.
    pub(super) fn stream(&mut self, handle: Handle) -> Result<Handle> {
        if handle > 2 {
            let stream = self.streams.get(&handle).filter(|stream| !stream.legacy && stream.thread.is_none());
            let context = stream.ok_or(result::ERROR_INVALID_HANDLE)?.context;
            return self.context(context)?.check().map(|()| handle);
        }
        let context = self.current()?;
        let thread = (handle == 2).then(|| std::thread::current().id());
        let is_it = |s: &Stream| s.context == context && s.thread == thread && s.legacy == thread.is_none();
        if let Some((&key, _)) = self.streams.iter().find(|(_, stream)| is_it(stream)) {
            return Ok(key);
        }
        let key = self.new_handle();
        let id = if thread.is_none() { 1 } else { 2 };
        let legacy = thread.is_none();
        self.streams.insert(
            key,
            Stream { context, flags: 0, priority: 0, id, legacy, thread, capture: None, pending: Vec::new() },
        );
        Ok(key)
    }
}

/// Puts work on a stream (a key from [`State::stream`]): recorded while the stream captures, else run now.
pub(super) fn submit(mut state: MutexGuard<State>, stream: Handle, work: Work) -> Result {
    capture::check_legacy(&mut state, stream)?;
    if capture::record(&mut state, stream, &work)? { Ok(()) } else { start(state, stream, work) }
}

/// Runs work now, after what the stream waits for.
pub(super) fn start(mut state: MutexGuard<State>, stream: Handle, work: Work) -> Result {
    let before = state.pending_before(stream);
    let entry = state.streams.get_mut(&stream).expect("a key");
    if let Work::Host { function, data } = work {
        entry.pending = vec![Pending::start(before, function, data)];
        return Ok(());
    }
    let context = entry.context;
    if state.contexts[&context].error.is_some() && !matches!(work, Work::Free { .. }) {
        // After a kernel that failed nothing runs; who waits will be told.
        return Ok(());
    }
    drop(state);
    pending::wait(&before);
    work::run(work, context)
}

fn create(stream: Out<Handle>, flags: c_uint, priority: c_int) -> Result {
    let mut state = state::get()?;
    stream.check()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let context = state.current()?;
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    // 0 to 2 are the default streams'.
    let id = state.new_id() + 2;
    let handle = state.new_handle();
    state.streams.insert(
        handle,
        Stream { context, flags, priority, id, legacy: false, thread: None, capture: None, pending: Vec::new() },
    );
    stream.set(handle)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> CUresult {
    guard(|| create(stream, flags, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) -> CUresult {
    guard(|| create(stream, flags, priority))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if stream <= 2 {
            return Err(result::ERROR_INVALID_HANDLE);
        }
        state.stream(stream)?;
        capture::abandon(&mut state, stream);
        state.streams.remove(&stream);
        Ok(())
    })
}

/// What a stream has yet to do.
fn unsettled(stream: Handle) -> Result<Vec<Pending>> {
    let mut state = state::get()?;
    let stream = state.stream(stream)?;
    capture::check_legacy(&mut state, stream)?;
    capture::forbid_in_stream(&mut state, stream)?;
    let context = state.streams[&stream].context;
    state.settle(context)?;
    Ok(state.pending_before(stream))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    guard(|| {
        pending::wait(&unsettled(stream)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    guard(|| if pending::done(&unsettled(stream)?) { Ok(()) } else { Err(result::ERROR_NOT_READY) })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let stream = state.stream(stream)?;
        let wait = match flags {
            0 => Wait::Recorded,
            1 => Wait::External,
            _ => return Err(result::ERROR_INVALID_VALUE),
        };
        let pending = state.events.get(&event).ok_or(result::ERROR_INVALID_HANDLE)?.pending.clone();
        capture::check_legacy(&mut state, stream)?;
        capture::wait(&mut state, stream, event, wait)?;
        let waiting = &mut state.streams.get_mut(&stream).expect("a key").pending;
        waiting.extend(pending);
        waiting.retain(|pending| !pending::done(std::slice::from_ref(pending)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        flags.check()?;
        let stream = state.stream(stream)?;
        flags.set(state.streams[&stream].flags)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        priority.check()?;
        let stream = state.stream(stream)?;
        priority.set(state.streams[&stream].priority)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetId(stream: Handle, id: Out<u64>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        id.check()?;
        let stream = state.stream(stream)?;
        id.set(state.streams[&stream].id)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        context.check()?;
        let stream = state.stream(stream)?;
        context.set(state.streams[&stream].context)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchHostFunc(stream: Handle, function: usize, data: usize) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        if function == 0 {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let stream = state.stream(stream)?;
        submit(state, stream, Work::Host { function, data })
    })
}

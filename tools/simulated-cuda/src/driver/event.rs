//! `cuEvent*`.

use super::abi::{Handle, Out, guard};
use super::capture;
use super::pending::{self, Pending};
use super::result::{self, CUresult, Result};
use super::state;
use super::work::Work;
use std::ffi::c_uint;
use std::time::Instant;

const BLOCKING_SYNC: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;

pub(super) struct Event {
    pub(super) context: Handle,
    flags: c_uint,
    /// When it was last recorded on a stream that did not capture.
    pub(super) at: Option<Instant>,
    /// The capture that it was last recorded in instead, and the nodes that it stands for.
    pub(super) captured: Option<(u64, Vec<usize>)>,
    /// What the work before it has yet to do.
    pub(super) pending: Vec<Pending>,
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        event.check()?;
        let context = state.current()?;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0
            || flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS
        {
            return Err(result::ERROR_INVALID_VALUE);
        }
        let handle = state.new_handle();
        state.events.insert(handle, Event { context, flags, at: None, captured: None, pending: Vec::new() });
        event.set(handle)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    guard(|| {
        let mut state = state::get()?;
        let context = state.events.get(&event).ok_or(result::ERROR_INVALID_HANDLE)?.context;
        state.context(context)?.check()?;
        state.events.remove(&event);
        Ok(())
    })
}

fn record(event: Handle, stream: Handle, flags: c_uint) -> Result {
    const EXTERNAL: c_uint = 1;
    let mut state = state::get()?;
    let stream = state.stream(stream)?;
    if flags & !EXTERNAL != 0 {
        return Err(result::ERROR_INVALID_VALUE);
    }
    let context = state.streams[&stream].context;
    let found = state.events.get(&event).ok_or(result::ERROR_INVALID_HANDLE)?;
    if found.context != context {
        return Err(result::ERROR_INVALID_HANDLE);
    }
    if flags == EXTERNAL {
        return super::stream::submit(state, stream, Work::Record { event });
    }
    capture::check_legacy(&mut state, stream)?;
    let captured = capture::frontier(&mut state, stream)?;
    let pending = if captured.is_some() { Vec::new() } else { state.pending_before(stream) };
    let event = state.events.get_mut(&event).expect("found above");
    if captured.is_none() {
        event.at = Some(Instant::now());
    }
    event.captured = captured;
    event.pending = pending;
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    guard(|| record(event, stream, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> CUresult {
    guard(|| record(event, stream, flags))
}

/// What an event, recorded or not, has yet to wait for.
fn incomplete(event: Handle) -> Result<Vec<Pending>> {
    let mut state = state::get()?;
    let found = state.events.get(&event).ok_or(result::ERROR_INVALID_HANDLE)?;
    let (context, captured) = (found.context, found.captured.as_ref().map(|(capture, _)| *capture));
    state.settle(context)?;
    match captured {
        None => Ok(state.events[&event].pending.clone()),
        Some(capture) => {
            capture::invalidate(&mut state, capture);
            Err(result::ERROR_CAPTURED_EVENT)
        }
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    guard(|| if pending::done(&incomplete(event)?) { Ok(()) } else { Err(result::ERROR_NOT_READY) })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    guard(|| {
        pending::wait(&incomplete(event)?);
        Ok(())
    })
}

/// Time of this machine between the two records: real, and meaningless as a device's.
#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) -> CUresult {
    guard(|| {
        let state = state::get()?;
        milliseconds.check()?;
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([start, end]) {
            let event = state.events.get(&handle).ok_or(result::ERROR_INVALID_HANDLE)?;
            state.context(event.context)?.check()?;
            if event.flags & DISABLE_TIMING != 0 || event.captured.is_some() {
                return Err(result::ERROR_INVALID_HANDLE);
            }
            if !pending::done(&event.pending) {
                return Err(result::ERROR_NOT_READY);
            }
            *time = event.at;
        }
        let [Some(start), Some(end)] = times else { return Err(result::ERROR_INVALID_HANDLE) };
        let seconds = if end >= start { (end - start).as_secs_f64() } else { -(start - end).as_secs_f64() };
        milliseconds.set((seconds * 1e3) as f32)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) -> CUresult {
    cuEventElapsedTime(milliseconds, start, end)
}

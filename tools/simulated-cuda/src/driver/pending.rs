//! Host functions that have not returned yet: the only work that does not run at once.

use super::abi::Handle;
use super::state::State;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// One call of a host function.
#[derive(Clone, Default)]
pub(super) struct Pending(Arc<(Mutex<bool>, Condvar)>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait(&self) {
        let mut done = self.lock();
        while !*done {
            done = self.0.1.wait(done).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Calls the function on a thread of its own, once what comes before has returned.
    pub(super) fn start(before: Vec<Pending>, function: usize, data: usize) -> Self {
        let pending = Self::default();
        let done = pending.clone();
        std::thread::spawn(move || {
            wait(&before);
            // SAFETY: `function` came as a CUhostFn, which is such a pointer and not null.
            let function: extern "C" fn(usize) = unsafe { std::mem::transmute(function) };
            function(data);
            *done.lock() = true;
            done.0.1.notify_all();
        });
        pending
    }
}

/// Waits for all of them. The state must not be locked: they may take long.
pub(super) fn wait(pending: &[Pending]) {
    pending.iter().for_each(Pending::wait);
}

/// Whether all of them have returned.
pub(super) fn done(pending: &[Pending]) -> bool {
    pending.iter().all(|pending| *pending.lock())
}

impl State {
    /// What new work on a stream comes after: its own calls, and between the legacy stream and the blocking ones
    /// each other's.
    pub(super) fn pending_before(&self, stream: Handle) -> Vec<Pending> {
        let this = &self.streams[&stream];
        let related = self.streams.iter().filter(|(key, other)| {
            let ordered = this.legacy && other.blocking() || other.legacy && this.blocking();
            **key == stream || ordered && other.context == this.context
        });
        related.flat_map(|(_, other)| other.pending.iter().cloned()).collect()
    }

    pub(super) fn pending_in(&self, context: Handle) -> Vec<Pending> {
        let streams = self.streams.values().filter(|stream| stream.context == context);
        streams.flat_map(|stream| stream.pending.iter().cloned()).collect()
    }
}

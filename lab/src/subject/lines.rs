//! The lines a process wrote and nobody has read yet: bounded, the newest kept.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many lines may wait.
const MAX_LINES: usize = 64;
/// How many bytes may wait, unless a single line is longer.
const MAX_BYTES: usize = 128 << 20;

/// A queue between the thread that reads a pipe and whoever looks for a line. When it is full the oldest go, so that
/// the last line a process writes is always there.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    bytes: usize,
    closed: bool,
}

impl State {
    fn take(&mut self) -> Option<String> {
        let line = self.waiting.pop_front()?;
        self.bytes -= line.len();
        Some(line)
    }
}

impl Lines {
    /// Adds the newest line.
    pub(super) fn push(&self, line: String) {
        let mut state = self.lock();
        state.bytes += line.len();
        state.waiting.push_back(line);
        while state.waiting.len() > MAX_LINES || (state.waiting.len() > 1 && state.bytes > MAX_BYTES) {
            state.take();
        }
        self.changed.notify_all();
    }

    /// There will be no more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The oldest line, waited for until `deadline` or the end of them.
    pub(super) fn next(&self, deadline: Instant) -> Option<String> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.take() {
                return Some(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything that waits.
    pub(super) fn take_all(&self) -> Vec<String> {
        let mut state = self.lock();
        state.bytes = 0;
        std::mem::take(&mut state.waiting).into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_lines_survive() {
        let lines = Lines::default();
        (0..3 * MAX_LINES).for_each(|number| lines.push(number.to_string()));
        let kept = lines.take_all();
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (MAX_LINES, "191"));
        assert!(lines.take_all().is_empty());
    }

    #[test]
    fn a_line_longer_than_all_room_is_kept_alone() {
        let lines = Lines::default();
        lines.push("short".into());
        lines.push("x".repeat(MAX_BYTES + 1));
        assert_eq!(lines.take_all().iter().map(String::len).collect::<Vec<_>>(), [MAX_BYTES + 1]);
        lines.push("y".into());
        lines.push("z".into());
        assert_eq!(lines.take_all(), ["y", "z"]);
    }

    #[test]
    fn waiting_ends_with_a_line_or_with_the_end_of_them() {
        let lines = Lines::default();
        assert_eq!(lines.next(Instant::now()), None);
        let far = Instant::now() + Duration::from_mins(10);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lines.push("first".into());
                lines.close();
            });
            assert_eq!(lines.next(far).as_deref(), Some("first"));
            assert_eq!(lines.next(far), None);
        });
    }
}

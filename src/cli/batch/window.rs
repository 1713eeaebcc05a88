//! How many lines are under way at once: as many as keep the dispatcher busy, and no more than memory is for.

use crate::config::Config;

/// Lines under way at first.
const START: usize = 32;

/// Bodies of lines under way, in bytes; a line that is larger goes alone.
const BODIES_MAX_BYTES: usize = 128 << 20;

/// Grows by one with each answer, which doubles it within each round of them, up to twice as many as all accounts together
/// may have in flight: the others stand in line, so that no account waits for the next.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    max: usize,
    bytes_max: usize,
    lines: usize,
    bytes: usize,
}

impl Window {
    pub(super) fn new(config: &Config) -> Self {
        let slots = config.pool.slots_per_account;
        let in_flight = config
            .upstreams
            .values()
            .map(|up| up.accounts.len().saturating_mul(up.limits.max_concurrent.unwrap_or(slots)));
        let in_flight = in_flight.fold(0, usize::saturating_add).max(1);
        // What is not in flight waits: no more than may.
        let max = in_flight.saturating_add(in_flight.min(config.queue.capacity));
        let bytes_max = BODIES_MAX_BYTES.min(config.queue.max_bytes);
        Self { size: START.min(max), max, bytes_max, lines: 0, bytes: 0 }
    }

    /// Whether another line may begin.
    pub(super) fn has_room(&self) -> bool {
        self.lines == 0 || (self.lines < self.size && self.bytes < self.bytes_max)
    }

    /// A line with a body of `bytes` begins.
    pub(super) fn begin(&mut self, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes;
    }

    /// It has ended.
    pub(super) fn end(&mut self, bytes: usize, is_answered: bool) {
        self.lines -= 1;
        self.bytes -= bytes;
        if is_answered && self.size < self.max {
            self.size += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(more: &str) -> Window {
        let text = format!("[upstreams.up]\nbase_url = \"http://127.0.0.1:1\"\nmodels = [\"m\"]\n{more}");
        Window::new(&Config::from_toml(&text).unwrap())
    }

    fn fill(window: &mut Window, bytes: usize) -> usize {
        let mut begun = 0;
        while window.has_room() {
            window.begin(bytes);
            begun += 1;
        }
        begun
    }

    #[test]
    fn it_doubles_with_each_round_of_answers_up_to_twice_what_may_be_in_flight() {
        let mut window = window("limits = { max_concurrent = 50 }");
        let mut round = || {
            let begun = fill(&mut window, 10);
            (0..begun).for_each(|_| window.end(10, true));
            begun
        };
        assert_eq!([round(), round(), round(), round()], [32, 64, 100, 100]);
    }

    #[test]
    fn failures_do_not_widen_it_and_a_small_account_narrows_it() {
        let mut window = window("limits = { max_concurrent = 3 }");
        assert_eq!(fill(&mut window, 1), 6);
        (0..6).for_each(|_| window.end(1, false));
        assert_eq!(fill(&mut window, 1), 6);
    }

    #[test]
    fn bodies_are_bounded_and_one_that_is_too_large_goes_alone() {
        let mut window = window("[queue]\nmax_bytes = \"1MiB\"");
        assert_eq!(fill(&mut window, 400 << 10), 3);
        (0..3).for_each(|_| window.end(400 << 10, true));
        assert_eq!(fill(&mut window, 2 << 20), 1);
    }
}

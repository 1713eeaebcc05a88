//! The log as it is kept over a restart: ages in place of moments, and no more entries than are worth keeping.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cost, Sends, Sent, Ticket};
use crate::clock::Instant;
use crate::dispatcher::budget::memory::ago;

/// A log longer than this is kept in so many parts, each as if it were sent with its last.
const KEPT: usize = 256;

/// Sends, and how long ago.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Past {
    s_ago: f64,
    requests: u64,
    input: u64,
    output: u64,
    #[serde(default)]
    reserved: u64,
}

#[cfg(test)]
impl Past {
    pub(crate) fn new(s_ago: f64, requests: u64, input: u64) -> Self {
        Self { s_ago, requests, input, output: 0, reserved: 0 }
    }
}

impl Sends {
    /// The log, oldest first.
    pub(crate) fn remember(&self, now: Instant) -> Vec<Past> {
        let grain = match (self.log.front(), self.log.back()) {
            (Some(first), Some(last)) if self.log.len() > KEPT => (last.at - first.at) / KEPT as u32,
            _ => Duration::ZERO,
        };
        let mut kept: Vec<Past> = Vec::new();
        // When the part that is being filled is full.
        let mut until = None;
        for Sent { at, cost } in &self.log {
            let s_ago = now.saturating_duration_since(*at).as_secs_f64();
            match kept.last_mut().filter(|_| until.is_some_and(|until| *at < until)) {
                Some(part) => {
                    part.s_ago = s_ago;
                    part.requests = part.requests.saturating_add(cost.requests);
                    part.input = part.input.saturating_add(cost.input);
                    part.output = part.output.saturating_add(cost.output);
                    part.reserved = part.reserved.saturating_add(cost.reserved);
                }
                None => {
                    until = Some(*at + grain);
                    let Cost { requests, input, output, reserved } = *cost;
                    kept.push(Past { s_ago, requests, input, output, reserved });
                }
            }
        }
        kept
    }

    /// A log of what was remembered. Tickets of before are behind none of it.
    pub(crate) fn recall(kept: &[Past], now: Instant) -> Self {
        // The first ticket is no send's: what was heard before stands for all that was sent by then.
        let mut sends = Self { first: 1, ..Self::default() };
        let mut kept: Vec<Past> = kept.iter().take(2 * KEPT).copied().collect();
        kept.sort_by(|one, other| other.s_ago.total_cmp(&one.s_ago));
        for Past { s_ago, requests, input, output, reserved } in kept {
            sends.push(ago(now, s_ago), Cost { requests, input, output, reserved });
        }
        sends
    }

    /// The last ticket that was given out.
    pub(crate) fn newest(&self) -> Ticket {
        Ticket((self.first + self.log.len() as u64).saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dispatcher::budget::sends::Counted;

    #[test]
    fn a_long_log_is_kept_in_few_parts_that_count_a_little_longer() {
        let start = clock::now();
        let mut sends = Sends::default();
        for n in 0..6_000 {
            sends.push(start + Duration::from_millis(10 * n), Cost { requests: 1, input: 3, ..Cost::default() });
        }
        let now = start + Duration::from_secs(60);
        let kept = sends.remember(now);
        assert!(kept.len() <= KEPT + 1, "{} parts", kept.len());
        let recalled = Sends::recall(&kept, now);
        for second in 0..60 {
            let after = start + Duration::from_secs(second);
            let (was, is) = (sends.since(after, Counted::Input), recalled.since(after, Counted::Input));
            assert!(was <= is && is <= was + 3 * 30, "{was}, then {is}");
        }
    }

    #[test]
    fn what_is_sent_next_is_behind_the_newest_ticket_of_an_empty_log_as_well() {
        let now = clock::now();
        let mut sends = Sends::recall(&[], now);
        let newest = sends.newest();
        sends.push(now, Cost { requests: 1, ..Cost::default() });
        assert_eq!(sends.behind(newest, now, Counted::Requests), 1);
    }
}

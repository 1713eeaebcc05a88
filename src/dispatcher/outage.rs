//! What an upstream's breaker does to its calls: those that wait there leave when it opens, and none waits there while it
//! is open, in line, in backoff or set aside for the retry budget. Each goes to its next target, or ends and says why.

use std::time::Duration;

use super::breaker::Sign;
use super::desks::Way;
use super::lane::{Lane, seconds};
use super::ledger::State;
#[cfg(test)]
use super::planted::{self, Bug};
use super::switchboard::Switchboard;
use super::timers::Due;
use crate::clock::Instant;
use crate::messages::{CallId, Error, ErrorKind};
use crate::telemetry::events;

/// A caller who is told to come again need not hurry more than that.
const COME_AGAIN: Duration = Duration::from_secs(1);

impl Switchboard {
    /// The end of an attempt that had started at `asked` says this of its upstream.
    pub(super) fn hear(&mut self, lane: usize, sign: Sign, asked: Instant, now: Instant) {
        match sign {
            Sign::Life => {
                let way_out = &mut self.lanes[lane];
                if let Some(open) = way_out.breaker.answered(now) {
                    events::breaker_closed(&way_out.upstream.name, open, "it has answered");
                }
            }
            Sign::Failure(why) => {
                self.lanes[lane].breaker.failed(asked, why);
                self.breaker_may_open(lane, now);
            }
            Sign::Nothing => {}
        }
    }

    /// It was silent for long enough, unless it has answered meanwhile.
    pub(super) fn breaker_due(&mut self, lane: usize, now: Instant) {
        self.lanes[lane].breaker_due = None;
        self.breaker_may_open(lane, now);
    }

    fn breaker_may_open(&mut self, lane: usize, now: Instant) {
        let way_out = &mut self.lanes[lane];
        if way_out.breaker.opens(now) {
            let (failed, silent, last) = way_out.breaker.why(now);
            events::breaker_opened(&way_out.upstream.name, failed, silent, way_out.waiting, last);
            #[cfg(test)]
            if planted::is(Bug::LeftBehind) {
                return;
            }
            return self.leave_broken(lane, now);
        }
        if let Some(at) = way_out.breaker.opens_at()
            && way_out.breaker_due.is_none()
        {
            way_out.breaker_due = Some(self.timers.add(at, Due::BreakerDue(lane)));
        }
    }

    /// Whoever waits for this upstream waits there no longer.
    pub(super) fn leave_broken(&mut self, lane: usize, now: Instant) {
        let waits = |call: &CallId| {
            let entry = self.ledger.get(*call);
            entry.is_some_and(|entry| entry.lane() == lane && !matches!(entry.state, State::Running(_)))
        };
        let calls: Vec<CallId> = self.ledger.calls().into_iter().filter(waits).collect();
        for call in calls {
            let error = self.lanes[lane].broken_error(now);
            self.next_target_or(call, error, now);
        }
    }

    /// A call has come to stand in a line: where the breaker is open it is a probe.
    pub(super) fn note_probe(&mut self, lane: usize, call: CallId, now: Instant) {
        let way_out = &mut self.lanes[lane];
        if way_out.breaker.is_open() {
            way_out.breaker.probe(now);
            events::breaker_probed(&way_out.upstream.name, call);
        }
    }
}

impl Lane {
    /// Whether the breaker keeps out a call whose way is this. One that could not go at once is no probe.
    pub(super) fn is_broken(&self, way: Way, now: Instant) -> bool {
        self.breaker.is_open() && !(self.breaker.probe_in(now).is_none() && matches!(way, Way::Open(_)))
    }

    /// What a call is told that cannot be served because the breaker is open.
    pub(super) fn broken_error(&mut self, now: Instant) -> Error {
        let held = self.desks.held_until(now).map(|until| until.saturating_duration_since(now));
        let again = self.breaker.probe_in(now).max(held).unwrap_or_default().max(COME_AGAIN);
        let (failed, silent, last) = self.breaker.why(now);
        let (name, silent) = (&self.upstream.name, seconds(silent));
        let message = format!(
            "{name} is taken for broken: {failed} attempts in a row have failed and nothing was answered for {silent}; one \
             call a second is let through to see whether it is back; the last failure: {last}"
        );
        Error::new(ErrorKind::UpstreamUnavailable, message).with_retry_after(again).asking_for_time()
    }
}

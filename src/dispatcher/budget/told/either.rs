//! A budget whose short reset says that it is a window of a second or ten, or a bucket, and that has not been watched for long
//! enough to tell: it is held to both. A bucket fills all the time and never comes back as a whole; a window gives nothing
//! back before its end, and all at once then.

use super::{GUARD, Told, after};
use crate::clock::Instant;
use crate::dispatcher::budget::sends::{ENOUGH, Sends};

impl Told {
    /// What is left by either.
    pub(super) fn level_of_either(&self, now: Instant, sends: &Sends) -> f64 {
        self.level_as_bucket(now, sends).min(self.level_as_window(now, sends))
    }

    /// When so much is there by both, as far as is known now.
    pub(super) fn reached_by_either(&self, now: Instant, needed: f64, sends: &Sends) -> Instant {
        self.filled_at_as_bucket(now, needed, sends).max(self.back_at_as_window(now, needed, sends))
    }

    /// What would come in over the time by which calls may arrive closer together than they left: that is not counted on.
    fn guard(&self) -> f64 {
        self.rate_as_bucket() * GUARD.as_secs_f64()
    }

    fn rate_as_bucket(&self) -> f64 {
        self.newest.limit / self.kind.shortest_period().as_secs_f64()
    }

    fn level_as_bucket(&self, now: Instant, sends: &Sends) -> f64 {
        self.rolled(&self.newest, self.rate_as_bucket(), now, None, sends) - self.unseen - self.guard()
    }

    fn filled_at_as_bucket(&self, now: Instant, needed: f64, sends: &Sends) -> Instant {
        // A full one is enough for anything.
        let missing = needed.min(self.newest.limit - self.unseen - self.guard()) - self.level_as_bucket(now, sends);
        if missing <= ENOUGH { now } else { after(now, missing / self.rate_as_bucket()) }
    }

    fn level_as_window(&self, now: Instant, sends: &Sends) -> f64 {
        if now < self.whole_at() {
            self.newest.remaining - self.behind(now, sends)
        } else {
            self.left_of_window(now, sends)
        }
    }

    /// What our own sends leave of a window that ends at `now` and has been whole since the newest snapshot.
    fn left_of_window(&self, now: Instant, sends: &Sends) -> f64 {
        self.newest.limit - sends.since(now - self.kind.shortest_period() - GUARD, self.counted) as f64
    }

    fn back_at_as_window(&self, now: Instant, needed: f64, sends: &Sends) -> Instant {
        if needed - self.level_as_window(now, sends) <= ENOUGH {
            return now;
        }
        let (whole, span) = (self.whole_at().max(now), self.kind.shortest_period() + GUARD);
        let missing = needed - self.left_of_window(whole, sends);
        if missing <= ENOUGH {
            return whole;
        }
        sends.reached_about(whole - span, missing, self.counted).map_or(whole + span, |at| at + span)
    }
}

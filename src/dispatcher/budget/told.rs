//! A budget that the provider tells of: how much is left of it now.
//!
//! *Known* is the newest snapshot: what a response said was left when its request arrived. *Believed* is the level now:
//! the snapshot rolled forward over what has come back since, what we have sent since, and what others of the account
//! seem to use. The margin says how far the belief is to be trusted. A call may go when the level covers it and the margin.
//!
//! - bucket: `level = remaining + refill - own sends behind the snapshot - others' rate * time`
//! - window: `level = limit - others' part - own sends within the period`
//! - a window too long to wait through bit by bit (a day's quota): `level = remaining - own sends behind the snapshot`,
//!   until its reset
//!
//! - what may be a bucket or a short window yet is held to both ([`either`])
//!
//! Responses come late and out of order: the snapshot of a request that was sent earlier says nothing new, but that the newest
//! does not know of it where less is left by it. Of those sent within a tenth of a second, which may have overtaken each other on
//! the wire, the lowest is taken for the newest. A bucket's snapshot that shows more than was believed is believed bit by bit.

mod charge;
mod either;
mod memory;

use std::collections::BTreeMap;
use std::time::Duration;

use self::charge::{Charge, Sums};
use super::kind::{Kind, VOLLEY};
use super::margin::Margin;
use super::sends::{Cost, Counted, ENOUGH, Sends, Ticket};
use super::wait::Wait;
use crate::clock::Instant;
use crate::messages::{Priority, Reset};

/// Sends may arrive a little closer together than they left, or further apart: what is counted in windows is counted so
/// much longer.
pub(super) const GUARD: Duration = Duration::from_millis(120);

/// A bucket's level is spent by calls of low priority over this part of its period. The rest stays for others.
const HORIZON: f64 = 1.0 / 3.0;

/// Low priority goes at most so much faster than a bucket fills, than a short window comes back, and than one of a minute
/// does: what that has not used is lost for longer, and less of it is under way when it comes to its end.
const BUCKET_HASTE: f64 = 1.25;
const WINDOW_HASTE: f64 = 1.1;
const MINUTE_HASTE: f64 = 1.5;

/// What is left over of a window is spent over this part of its period; over more of it where others use it, too.
const SPREAD: f64 = 1.0 / 20.0;
const SPREAD_OF_OTHERS: f64 = 1.0 / 6.0;

/// So many seconds a call keeps the next one waiting at most, where it took its room from a window. A large one has been
/// waited for while that gathered; it is not waited for again behind it.
const LONGEST_TURN: f64 = 3.0;

/// Windows keep this share free for calls that do not wait, for as long after the last of them.
const CUSHION: f64 = 0.1;
const CUSHION_FOR: Duration = Duration::from_secs(60);

/// What calls of higher priority leave of a bucket: one late response's worth at its full rate, in seconds, and of one that
/// holds little no more than this share.
const RESERVE_SECONDS: f64 = 0.5;
const RESERVE: f64 = 0.05;

/// By so much of itself a call may turn out to cost more than was estimated, even when the mean is right.
const NOISE: f64 = 0.1;

/// The margin is kept for so long behind a snapshot.
const MARGIN_FOR: Duration = Duration::from_secs(10);

/// A request that was long on its way is answered with what has come in meanwhile, which its snapshot is then rolled forward
/// over once more. So a snapshot that shows more than was believed raises the belief bit by bit, over some such time.
const RISE: Duration = Duration::from_millis(300);

/// Timers are late: so much of a turn that was missed is made up for.
pub(super) const LATE: Duration = Duration::from_millis(20);

/// Others' rate is believed for this part of a bucket's period behind a snapshot, from one to six seconds; then it fades, and
/// after so many times as long it is forgotten.
const OTHERS_FOR: f64 = 0.1;
const OTHERS_FADE: f64 = 0.8;
const OTHERS_GONE: f64 = 6.0;

/// What one response said of the budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// The attempt it answers.
    pub(super) ticket: Ticket,
    pub(super) sent: Instant,
    pub(super) limit: f64,
    pub(super) remaining: f64,
    pub(super) reset: Option<Reset>,
    /// When the response came.
    pub(super) heard: Instant,
    pub(super) promise: Option<Promise>,
}

/// A refusal's own word: a call of that `cost` may come again then. It is about that call and says more than when all of a
/// window is back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub(super) at: Instant,
    pub(super) cost: f64,
}

/// Sends that no response has come to yet.
pub(super) type Unanswered = BTreeMap<Ticket, (Instant, Cost)>;

#[derive(Debug)]
pub(super) struct Told {
    pub(super) counted: Counted,
    pub(super) kind: Kind,
    newest: Snapshot,
    /// The bucket's level `at` that instant, own sends until then taken. Not of windows.
    level: f64,
    at: Instant,
    /// Own sends shortly before the snapshot's that are unanswered: it may not know of them.
    unseen: f64,
    /// Level that was believed at each unanswered send, that send taken.
    believed: BTreeMap<Ticket, f64>,
    margin: Margin,
    /// What others of the account use: of a bucket a rate per second, of a window an amount.
    others: f64,
    charge: Charge,
    /// When the next call of low priority has its turn.
    pub(super) turn: Instant,
    /// The last send that was not of low priority.
    high_at: Option<Instant>,
    /// Answers since the provider last told of it.
    pub(super) silent: u32,
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

impl Told {
    /// A budget of which this is the first that was heard.
    pub(super) fn new(
        counted: Counted,
        named: Option<Duration>,
        first: Snapshot,
        sends: &Sends,
        unanswered: &Unanswered,
    ) -> Self {
        let mut told = Self {
            counted,
            kind: Kind::new(named, first.sent),
            newest: first,
            level: first.remaining,
            at: first.sent,
            unseen: 0.0,
            believed: BTreeMap::new(),
            margin: Margin::default(),
            others: 0.0,
            charge: Charge::default(),
            turn: first.sent,
            high_at: None,
            silent: 0,
        };
        told.kind.hear(first.sent, first.limit, first.limit - first.remaining, first.reset);
        told.see_others(&first, sends);
        told.take(first, told.unseen_by(&first, unanswered), sends);
        told
    }

    pub(super) fn limit(&self) -> f64 {
        self.newest.limit
    }

    /// Per second, as the provider allows it.
    pub(super) fn rate(&self) -> f64 {
        self.newest.limit / self.kind.likely_period().as_secs_f64()
    }

    /// Per minute; as it seems, where that is not sure.
    pub(super) fn most_per_minute(&self) -> f64 {
        let period = self.kind.seeming_period().unwrap_or(self.kind.period);
        self.newest.limit / period.as_secs_f64() * 60.0
    }

    fn is_of_others(&self) -> bool {
        self.kind.is_bucket && self.others > 0.05 * self.rate()
    }

    /// A response has come. `sends` holds its request and what was sent since.
    pub(super) fn hear(&mut self, new: Snapshot, sends: &Sends, unanswered: &Unanswered) {
        let (old, limit) = (self.newest, new.limit);
        self.silent = 0;
        if let Some(believed) = self.believed.remove(&new.ticket) {
            // Later sends may have overtaken this one.
            let overtaking = sends.behind(new.ticket, new.sent + VOLLEY, self.counted) as f64;
            self.margin.hear(believed - overtaking - new.remaining, limit);
        }
        if new.sent + VOLLEY < old.sent {
            self.see_overtaken(&new, unanswered);
            return;
        }
        if new.sent < old.sent + VOLLEY && limit == old.limit {
            let left = |of: &Snapshot| of.remaining - sends.behind(of.ticket, new.heard, self.counted) as f64;
            if left(&new) >= left(&old) {
                return;
            }
        }
        let unseen = self.unseen_by(&new, unanswered);
        let is_other = self.kind.hear(new.sent, limit, limit - new.remaining, new.reset);
        if is_other {
            // What was believed of another kind of limiter is void.
            self.margin = Margin::default();
            self.believed.clear();
            self.others = 0.0;
        }
        self.see_charge(&old, &new, sends);
        if !self.kind.is_bucket {
            self.see_others(&new, sends);
        } else if limit == old.limit {
            let dt = seconds(old.sent, new.sent);
            if dt > 0.02 {
                let expected = self.rolled(&old, self.filling(old.limit), new.sent, Some(new.ticket), sends)
                    - self.unseen
                    + unseen;
                let rate = (expected - new.remaining) / dt;
                self.others += (1.0 - (-dt / 5.0).exp()) * (rate - self.others);
            }
        }
        let believed = (self.kind.is_bucket && !is_other && limit == old.limit).then(|| {
            let level = self.level + self.rate() * seconds(self.at, new.heard) - self.unseen;
            level.min(limit)
        });
        self.take(new, unseen, sends);
        if let Some(believed) = believed {
            self.rise_from(believed, old.sent);
        }
    }

    /// What the newest snapshot shows more than was `believed`, of one that was sent `before`, counts bit by bit.
    fn rise_from(&mut self, believed: f64, before: Instant) {
        let still = (-seconds(before, self.newest.sent) / RISE.as_secs_f64()).exp();
        self.level -= still * (self.level - self.unseen - believed).max(0.0);
    }

    fn take(&mut self, new: Snapshot, unseen: f64, sends: &Sends) {
        self.at = self.at.max(new.heard);
        self.level = self.rolled(&new, self.filling(new.limit), self.at, None, sends);
        self.newest = new;
        self.unseen = unseen;
    }

    /// By the answer to an earlier send less is left than by the newest snapshot: it came behind that one on the wire, which does
    /// not know of it.
    fn see_overtaken(&mut self, late: &Snapshot, unanswered: &Unanswered) {
        let is_behind = late.ticket < self.newest.ticket && late.remaining < self.newest.remaining;
        if let Some((_, cost)) = unanswered.get(&late.ticket).filter(|_| is_behind && late.limit == self.newest.limit) {
            self.unseen += cost.of(self.counted) as f64;
        }
    }

    /// What of our own sends a snapshot may not know of: those from shortly before its request, still unanswered.
    fn unseen_by(&self, snapshot: &Snapshot, unanswered: &Unanswered) -> f64 {
        let near = unanswered.range(..snapshot.ticket).rev().take_while(|(_, (at, _))| *at + VOLLEY >= snapshot.sent);
        near.map(|(_, (_, cost))| cost.of(self.counted) as f64).sum()
    }

    /// What of a window's use our log does not explain is of others.
    fn see_others(&mut self, snapshot: &Snapshot, sends: &Sends) {
        let own = sends.up_to(snapshot.sent - self.kind.period, snapshot.ticket, self.counted) as f64;
        self.others = (snapshot.limit - snapshot.remaining - own).max(0.0);
    }

    /// How answers are charged: by what went between two snapshots, and by all that is gone of a window, which what comes
    /// back meanwhile does not hide. What is charged as it turned out never shows so much gone.
    fn see_charge(&mut self, old: &Snapshot, new: &Snapshot, sends: &Sends) {
        let charged = |is_reserved| self.counted.charged(is_reserved);
        let sums = |sum: &dyn Fn(Counted) -> u64| Sums {
            used: sum(charged(false)) as f64,
            reserved: sum(charged(true)) as f64,
        };
        let between =
            sums(&|counted| sends.each_behind(old.ticket, Some(new.ticket), counted).map(|sent| sent.1).sum());
        let (mut gone, mut all) = (old.remaining - new.remaining, None);
        if self.kind.is_bucket {
            gone += self.rate() * seconds(old.sent, new.sent);
        } else {
            let own = |counted| sends.up_to(new.sent - self.kind.period, new.ticket, counted);
            all = sums(&own).is_reserved(new.limit - new.remaining).filter(|is_reserved| *is_reserved);
        }
        let sign = all.or_else(|| between.is_reserved(gone).filter(|_| new.limit == old.limit));
        if let Some(is_reserved) = sign.and_then(|sign| self.charge.hear(sign))
            && charged(is_reserved) != self.counted
        {
            self.counted = charged(is_reserved);
            self.believed.clear();
        }
    }

    /// A bucket's level at `at`, from a snapshot on: what flows in at `rate`, less our sends, those behind `last` not counted.
    fn rolled(&self, from: &Snapshot, rate: f64, at: Instant, last: Option<Ticket>, sends: &Sends) -> f64 {
        let (mut level, mut time) = (from.remaining, from.sent);
        for (sent, cost) in sends.each_behind(from.ticket, last, self.counted) {
            level = (level + rate * seconds(time, sent)).min(from.limit) - cost as f64;
            time = time.max(sent);
        }
        (level + rate * seconds(time, at)).min(from.limit)
    }

    /// How fast a bucket of this limit fills, per second.
    fn filling(&self, limit: f64) -> f64 {
        limit / self.kind.period.as_secs_f64()
    }

    /// For how many seconds behind a snapshot the rate of others is believed.
    fn others_for(&self) -> f64 {
        (OTHERS_FOR * self.kind.period.as_secs_f64()).clamp(1.0, 6.0)
    }

    /// The rate of a bucket's others as far as it is still believed.
    fn fading(&self, now: Instant) -> f64 {
        match seconds(self.newest.sent, now) / self.others_for() {
            gone if gone > OTHERS_GONE => 0.0,
            times => self.others.max(0.0) * (-(times - 1.0).max(0.0) / OTHERS_FADE).exp(),
        }
    }

    /// What is believed to be left at `now`.
    pub(super) fn level(&self, now: Instant, sends: &Sends) -> f64 {
        let limit = self.newest.limit;
        if self.kind.is_bucket {
            let others = self.fading(now) * seconds(self.newest.sent, now).min(self.others_for());
            (self.level - self.unseen + self.rate() * seconds(self.at, now)).min(limit) - others
        } else if self.kind.is_open() {
            self.level_of_either(now, sends)
        } else if self.kind.is_long() {
            match self.whole_at() {
                // What goes at that very instant is of the new window.
                at if at <= now => limit - sends.since(at - Duration::from_nanos(1), self.counted) as f64,
                _ => self.newest.remaining - self.behind(now, sends),
            }
        } else {
            // What a snapshot has shown is there whatever the log says: a window may have come back as a whole.
            let drift = self.others / self.kind.period.as_secs_f64() * seconds(self.newest.sent, now);
            let shown = self.newest.remaining - self.behind(now, sends) - drift;
            self.logged(now, sends).max(shown)
        }
    }

    /// What the log of sends leaves of a window.
    fn logged(&self, now: Instant, sends: &Sends) -> f64 {
        let own = sends.since(now - self.kind.period - GUARD, self.counted) as f64;
        self.newest.limit - self.others_in_window(now) - own
    }

    /// What we have sent that the newest snapshot does not know of.
    fn behind(&self, now: Instant, sends: &Sends) -> f64 {
        sends.behind(self.newest.ticket, now, self.counted) as f64 + self.unseen
    }

    /// What keeps a call, in words.
    pub(super) fn wait(&self, now: Instant, priority: Priority, sends: &Sends) -> Wait {
        let level = self.level(now, sends);
        if priority == Priority::Low && self.turn > now && level > 0.1 * self.newest.limit {
            return Wait::Paced;
        }
        // The casts saturate.
        Wait::Told {
            counted: self.counted,
            limit: self.newest.limit as u64,
            left: level.max(0.0) as u64,
            period: self.kind.period,
        }
    }

    /// From when on sends are looked back to.
    pub(super) fn looks_back_to(&self, now: Instant) -> Instant {
        if self.kind.ends_whole() { self.newest.sent } else { now - self.kind.period - Duration::from_secs(4) }
    }

    fn others_in_window(&self, now: Instant) -> f64 {
        if now < self.newest.sent + self.kind.period + GUARD { self.others } else { 0.0 }
    }

    /// When a window comes back as a whole. The reset was true when the provider wrote it: of a long window the later of what
    /// that may have been, of a short one the likelier.
    fn whole_at(&self) -> Instant {
        let reset_after = self.newest.reset.map_or(self.kind.period, |reset| reset.after + reset.grain);
        if self.kind.is_long() { self.newest.heard + reset_after } else { self.newest.sent + reset_after + GUARD }
    }

    /// Behind a long silence it is not kept any more: others' use may have raised it, and without a send nothing lowers it.
    fn margin_at(&self, now: Instant) -> f64 {
        if now < self.newest.heard + MARGIN_FOR { self.margin.get() } else { 0.0 }
    }

    /// What must be left for a call of `cost` to go.
    fn needed(&self, cost: u64, priority: Priority, now: Instant, cap: f64, margin: f64) -> f64 {
        let limit = self.newest.limit;
        let is_low = priority == Priority::Low;
        let kept = if self.kind.is_bucket && !is_low {
            let times = if self.is_of_others() { 3.0 } else { 1.0 };
            let rate = self.rate().min(cap);
            ((rate * RESERVE_SECONDS).min(RESERVE * limit) * times).max(rate * GUARD.as_secs_f64())
        } else if !self.kind.is_bucket && is_low && self.high_at.is_some_and(|at| now < at + CUSHION_FOR) {
            CUSHION * limit
        } else {
            0.0
        };
        // What is larger than the whole goes when the whole is there: estimates err high.
        // And they are noisy: of a large call more than of a small one.
        let noise = if self.kind.is_bucket || self.counted == Counted::Requests { 0.0 } else { NOISE * cost as f64 };
        (cost as f64 + noise + margin + kept).min(limit)
    }

    /// When a call of `cost` may go, as far as this budget is concerned; `now` when at once. It may turn out later then,
    /// never sooner. `cap` is the user's, per second.
    pub(super) fn ready_at(&self, now: Instant, cost: u64, priority: Priority, cap: f64, sends: &Sends) -> Instant {
        let turn = if priority == Priority::Low { self.turn.max(now) } else { now };
        let level = self.level(now, sends);
        let reaches_at = |needed: f64| {
            if needed - level <= ENOUGH {
                now
            } else if self.kind.is_bucket {
                self.filled_at(now, needed, needed - level, sends)
            } else if self.kind.is_open() {
                self.reached_by_either(now, needed, sends)
            } else if self.kind.is_long() {
                let at = self.whole_at();
                // The next window is used up as well, and no answer has told of it yet.
                if at > now { at } else { (at + self.kind.period).max(now) }
            } else {
                self.back_at(now, needed - self.logged(now, sends), sends)
            }
        };
        let margin = self.margin_at(now);
        let at = reaches_at(self.needed(cost, priority, now, cap, margin));
        if at <= now {
            return turn;
        }
        // The cushion may be given up meanwhile, and the margin.
        let is_cushioned = !self.kind.is_bucket && priority == Priority::Low;
        let cushion = self.high_at.map(|at| at + CUSHION_FOR).filter(|at| is_cushioned && *at > now);
        let stale = (margin > 0.0).then(|| {
            let bare = reaches_at(self.needed(cost, priority, now + CUSHION_FOR, cap, 0.0));
            bare.max(self.newest.heard + MARGIN_FOR)
        });
        let at = at.min(cushion.unwrap_or(at)).min(stale.unwrap_or(at)).max(now + Duration::from_micros(1));
        at.min(self.promised_at(cost, sends).map_or(at, |promised| promised.max(now))).max(turn)
    }

    /// When a call of `cost` may go by the word of the last refusal, if nothing has gone since.
    fn promised_at(&self, cost: u64, sends: &Sends) -> Option<Instant> {
        let ends_whole = self.kind.ends_whole();
        let promise = self.newest.promise.filter(|promise| ends_whole && cost as f64 <= promise.cost)?;
        (self.behind(promise.at, sends) <= 0.0).then_some(promise.at)
    }

    /// When a bucket's level reaches what is `needed`, of which so much is `missing` now.
    fn filled_at(&self, now: Instant, needed: f64, missing: f64, sends: &Sends) -> Instant {
        let soonest = after(now, missing / self.rate());
        if self.fading(now) <= 0.0 {
            return soonest;
        }
        // Others' use grows in the belief and then fades: the level rises until the bucket is full, falls, and rises again.
        let fits = |at: Instant| self.level(at, sends) + ENOUGH >= needed;
        let full = after(self.at, (self.newest.limit - self.level + self.unseen) / self.rate()).max(now);
        let gone = after(self.newest.sent, OTHERS_GONE * self.others_for()) + Duration::from_micros(1);
        let (mut before, mut at) = (now, if fits(full) { full } else { soonest.max(gone) });
        while before + Duration::from_micros(1) < at {
            let middle = before + (at - before) / 2;
            if fits(middle) { at = middle } else { before = middle }
        }
        at
    }

    /// When so much of a window is back.
    fn back_at(&self, now: Instant, missing: f64, sends: &Sends) -> Instant {
        let span = self.kind.period + GUARD;
        let own = sends.reached_about(now - span, missing, self.counted).map(|at| at + span);
        let others = (self.others_in_window(now) > 0.0).then_some(self.newest.sent + span);
        own.into_iter().chain(others).min().unwrap_or(now + span)
    }

    /// How fast low priority goes, per second.
    fn pace(&self, now: Instant, cap: f64, sends: &Sends) -> f64 {
        let rate = self.rate().min(cap);
        let (level, period) = (self.level(now, sends).max(0.0), self.kind.likely_period().as_secs_f64());
        if self.kind.is_long() {
            // A day's quota is not spread over the day.
            f64::INFINITY
        } else if self.kind.is_bucket {
            (level / (HORIZON * period)).clamp(0.01 * rate, BUCKET_HASTE * rate)
        } else {
            // As fast as our own use comes back, and what is left over a part of the period.
            let start = now - self.kind.period;
            let back = sends.between(start - Duration::from_secs(2), start, self.counted) as f64 / 2.0;
            let part = if self.others > 0.05 * self.newest.limit { SPREAD_OF_OTHERS } else { SPREAD };
            let haste = if period < 60.0 { WINDOW_HASTE } else { MINUTE_HASTE };
            (back.min(rate) + level / (part * period)).clamp(0.01 * rate, haste * rate)
        }
    }

    /// A call of `cost` goes now; it is not entered in `sends` yet.
    pub(super) fn spend(&mut self, now: Instant, cost: u64, priority: Priority, cap: f64, sends: &Sends) {
        if priority == Priority::Low {
            let pace = self.pace(now, cap, sends);
            let turn =
                (cost as f64 / pace.max(1e-9)).min(if self.kind.is_bucket { f64::INFINITY } else { LONGEST_TURN });
            self.turn = after(self.turn.max(now - LATE), turn);
        } else {
            self.high_at = Some(now);
        }
        if self.kind.is_bucket {
            self.level = (self.level + self.rate() * seconds(self.at, now)).min(self.newest.limit) - cost as f64;
            self.at = self.at.max(now);
        }
    }

    /// The send of `ticket` has been entered.
    pub(super) fn sent(&mut self, now: Instant, ticket: Ticket, sends: &Sends) {
        let level = self.level(now, sends);
        self.believed.insert(ticket, level);
    }

    /// A send was refused: whoever is next need not wait for the turn that it had.
    pub(super) fn refused(&mut self, now: Instant) {
        self.turn = self.turn.min(now);
    }

    /// The send of `ticket` has been answered, or never will be.
    pub(super) fn answered(&mut self, ticket: Ticket, at: Instant, cost: Cost) {
        self.believed.remove(&ticket);
        if ticket < self.newest.ticket && at + VOLLEY >= self.newest.sent {
            self.unseen = (self.unseen - cost.of(self.counted) as f64).max(0.0);
        }
    }

    /// The send of `ticket` really cost that.
    pub(super) fn settled(&mut self, ticket: Ticket, before: u64, now: u64) {
        if self.kind.is_bucket && ticket > self.newest.ticket {
            self.level = (self.level + before as f64 - now as f64).min(self.newest.limit);
        }
    }

    /// No answer will come to anything that is under way.
    pub(super) fn forget_unanswered(&mut self) {
        self.believed.clear();
        self.unseen = 0.0;
    }
}

/// `now` and so many seconds, however many.
pub(super) fn after(now: Instant, seconds: f64) -> Instant {
    const MOST: f64 = 30.0 * 86_400.0;
    now + Duration::from_secs_f64(if seconds.is_finite() { seconds.clamp(0.0, MOST) } else { MOST })
}

#[cfg(test)]
mod tests;

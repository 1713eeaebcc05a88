//! A budget that nobody tells of: it is guessed from refusals.
//!
//! *Known* is what was sent, and when the provider refused. *Believed* is a limit per minute: what was delivered when it
//! refused, approached again along a curve that is flat where the refusal was and steep far from it, and kept over ten
//! seconds rather than a minute, since nobody says how the provider counts (`own sends within 10 s <= limit / 6`). A call
//! may go when the last ten seconds leave room for it.
//!
//! The same object serves a limit that the provider hides beside those it tells of (windows of a second or ten).

mod memory;

use std::time::Duration;

use super::learned::Why;
use super::sends::{Counted, ENOUGH, Sends, Ticket};
use super::told::{GUARD, LATE, after};
use super::wait::Wait;
use crate::clock::Instant;
use crate::messages::Priority;

/// The limit behind a refusal: this share of the one before, and back at it after [`Curve::flat_at`].
const CUT: f64 = 0.9;

/// Far below the level that was refused before.
const FAR: f64 = 0.98;

/// Refusals within this time are of one volley, and cut once.
const VOLLEY: Duration = Duration::from_secs(4);

/// Refusals within this time of the last that name no time are its echo.
const ECHO: Duration = Duration::from_secs(20);
const SLOWEST: Duration = Duration::from_secs(240);

/// The limit over time: a cubic with its plateau where the provider refused last (after S. Ha, I. Rhee, L. Xu, "CUBIC: a
/// new TCP-friendly high-speed TCP variant", 2008).
#[derive(Clone, Copy, Debug)]
struct Curve {
    /// Per minute, where the plateau lies.
    plateau: f64,
    from: Instant,
    /// How long the way to the plateau takes.
    flat_after: Duration,
    /// Never more.
    top: f64,
}

impl Curve {
    /// Limits grow to at most so many times the plateau.
    const MOST: f64 = 3.0;

    fn at(&self, now: Instant) -> f64 {
        let flat = self.flat_after.as_secs_f64();
        // Signed: `from` may lie ahead.
        let run = now.saturating_duration_since(self.from).as_secs_f64()
            - self.from.saturating_duration_since(now).as_secs_f64();
        let u = (run - flat) / flat;
        (self.plateau * (1.0 + (1.0 - CUT) * u.powi(3)).clamp(0.1, Self::MOST)).min(self.top)
    }
}

#[derive(Debug)]
pub(super) struct Guess {
    pub(super) counted: Counted,
    curve: Curve,
    /// The usual way back.
    flat_after: Duration,
    /// Over what it is kept.
    window: Duration,
    cut_at: Option<Instant>,
    /// When the next call of low priority has its turn.
    turn: Instant,
}

const MINUTE: f64 = 60.0;

/// So much time's worth of calls that are not of low priority may go at once all the same.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Sends may overtake each other by so much.
const WIRE: Duration = Duration::from_millis(100);

/// Low priority goes at most so much faster than the limit: what was missed is made up for.
const HASTE: f64 = 1.1;
/// The same where it is the user's cap that stands for the limit: it is sure.
const HASTE_OF_CAP: f64 = 1.5;

impl Guess {
    /// The usual way back to a refusal's limit.
    pub(super) const FLAT_AFTER: Duration = Duration::from_secs(60);
    pub(super) const WINDOW: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_secs(1);

    /// A limit that nobody has refused yet: it is at its plateau.
    pub(super) fn unrefused(counted: Counted, per_minute: f64, now: Instant) -> Self {
        let from = now - Self::FLAT_AFTER;
        let curve = Curve { plateau: per_minute, from, flat_after: Self::FLAT_AFTER, top: f64::INFINITY };
        Self { counted, curve, flat_after: curve.flat_after, window: Self::WINDOW, cut_at: None, turn: now }
    }

    /// A limit that was refused at `now`, where `per_minute` was delivered; `top` is known not to be exceeded.
    pub(super) fn refused(counted: Counted, per_minute: f64, top: f64, flat_after: Duration, now: Instant) -> Self {
        let curve = Curve { plateau: per_minute, from: now, flat_after, top };
        Self { counted, curve, flat_after: curve.flat_after, window: Self::WINDOW, cut_at: Some(now), turn: now }
    }

    /// Per minute, now.
    pub(super) fn limit(&self, now: Instant) -> f64 {
        self.curve.at(now)
    }

    pub(super) fn was_refused(&self) -> bool {
        self.cut_at.is_some()
    }

    /// Whether it keeps calls far below the level that was refused last, and kept one so that was sent then: a second that had
    /// more than its share may have been too much whatever the ten had.
    pub(super) fn keeps_far_below(&self, sent: Instant, now: Instant, sends: &Sends) -> bool {
        let limit = self.limit(now);
        let own = sends.between(sent - Self::SHORT, sent, self.counted) as f64;
        self.cut_at.is_some_and(|at| at < sent)
            && limit < FAR * self.curve.plateau
            && own <= limit * Self::SHORT.as_secs_f64() / MINUTE
    }

    /// Never more than this, per minute.
    pub(super) fn top(&self) -> f64 {
        self.curve.top
    }

    pub(super) fn set_top(&mut self, top: f64) {
        self.curve.top = top;
    }

    /// It is at least so much per minute.
    pub(super) fn raise(&mut self, per_minute: f64, now: Instant) {
        if self.limit(now) < per_minute {
            let from = now - self.flat_after;
            self.curve = Curve { plateau: per_minute, from, flat_after: self.flat_after, ..self.curve };
        }
    }

    /// What keeps a call, in words.
    pub(super) fn wait(&self, now: Instant, why: Why, priority: Priority) -> Wait {
        if priority == Priority::Low && self.turn > now && !self.was_refused() {
            return Wait::Paced;
        }
        Wait::Guessed { counted: self.counted, per_minute: self.limit(now) as u64, why }
    }

    /// The share of the limit that was sent within the last ten seconds.
    pub(super) fn use_at(&self, now: Instant, sends: &Sends) -> f64 {
        let own = sends.since(now - Self::WINDOW, self.counted) as f64;
        own * MINUTE / Self::WINDOW.as_secs_f64() / self.limit(now).max(1e-9)
    }

    /// Time in which nothing was asked for teaches nothing: the curve stands still.
    pub(super) fn idle(&mut self, for_so_long: Duration) {
        self.curve.from += for_so_long;
    }

    /// Over which windows it is kept for calls of this size, and what each may hold. Where ten seconds hold few of them, it
    /// is the whole calls that do not fit, not the limit: one more may go into ten seconds then, but the minute is kept,
    /// too. Sooner so where the limit was never refused. A larger call never fits where a smaller one does not.
    fn rooms(&self, limit: f64, cost: f64) -> [(Duration, f64); 2] {
        let share = limit * self.window.as_secs_f64() / MINUTE;
        let few = if self.was_refused() { 6.0 } else { 40.0 };
        if self.window == Self::SHORT || share >= few * cost {
            [(self.window, share); 2]
        } else {
            [(self.window, share * (1.0 - 1.0 / few) + cost), (Duration::from_secs(60), limit)]
        }
    }

    /// When a call of `cost` may go, as far as this budget is concerned; `now` when at once.
    pub(super) fn ready_at(&self, now: Instant, cost: u64, priority: Priority, sends: &Sends) -> Instant {
        // Who has refused without telling of a limit may count over a second, too: then nobody comes all at once.
        let turn = match priority {
            Priority::Low => self.turn.max(now),
            _ if self.was_refused() => (self.turn - AT_ONCE).max(now),
            _ => now,
        };
        let cost = cost as f64;
        let fits_at = |limit: f64| {
            let rooms = self.rooms(limit, cost).into_iter();
            rooms.map(|(window, room)| self.fits_at(now, cost, room, window, sends)).fold(now, Instant::max)
        };
        let mut at = fits_at(self.limit(now));
        if at <= now {
            return turn;
        }
        // The limit grows meanwhile: it fits as soon as that of a moment does by then. By halving, to the microsecond.
        let mut before = now;
        while before + Duration::from_micros(1) < at {
            let middle = before + (at - before) / 2;
            if fits_at(self.limit(middle)) <= middle { at = middle } else { before = middle }
        }
        at.max(turn)
    }

    /// When `cost` fits beside what was sent within `window`. What is larger than all goes when there is nothing beside it.
    fn fits_at(&self, now: Instant, cost: f64, room: f64, window: Duration, sends: &Sends) -> Instant {
        let span = window + GUARD;
        let own = sends.since(now - span, self.counted) as f64;
        let excess = if cost > room { own } else { own + cost - room };
        if excess <= ENOUGH {
            return now;
        }
        sends.reached_about(now - span, excess, self.counted).map_or(now, |at| at + span)
    }

    /// A call of `cost` goes now.
    pub(super) fn spend(&mut self, now: Instant, cost: u64, priority: Priority, cap: f64) {
        if priority == Priority::Low || self.was_refused() {
            let haste = if self.was_refused() { HASTE } else { HASTE_OF_CAP };
            let pace = (haste * self.limit(now) / MINUTE).min(haste * cap).max(1e-9);
            // No call is larger than a minute of the true limit: where it seems so, the guess is too low.
            self.turn = after(self.turn.max(now - LATE), (cost as f64 / pace).min(MINUTE));
        }
    }

    /// The attempt of `ticket`, `sent` then, was refused for its rate; `told` is how long the provider said to wait. The
    /// plateau goes to what was delivered where that is far below what was believed, else to what was believed.
    pub(super) fn cut(&mut self, now: Instant, sent: Instant, ticket: Ticket, told: Option<Duration>, sends: &Sends) {
        if let Some(at) = self.cut_at
            && now < at + VOLLEY
        {
            return;
        }
        if told.is_none()
            && let Some(at) = self.cut_at
            && now < at + ECHO
        {
            // What was too much before is still too much, and nobody says for how long: the way back takes longer.
            self.curve.flat_after = (self.curve.flat_after * 5 / 4).min(SLOWEST);
        } else {
            self.curve.flat_after = self.flat_after;
        }
        let limit = self.limit(now);
        let delivered = delivered(sent, ticket, told, self.counted, sends);
        self.curve.plateau = if 0.3 * limit < delivered && delivered < 0.8 * limit { delivered } else { limit };
        self.curve.from = now + told.unwrap_or_default();
        self.cut_at = Some(now);
    }

    /// A hidden limit was refused: perhaps it is kept over a second, not ten.
    pub(super) fn cut_or_shorten(
        &mut self,
        now: Instant,
        sent: Instant,
        ticket: Ticket,
        told: Option<Duration>,
        sends: &Sends,
    ) {
        let limit = self.limit(now);
        // What went within a moment of it may have arrived before it.
        let within = |span: Duration| {
            let own = sends.between(sent - span, sent + WIRE, self.counted) as f64;
            own / span.as_secs_f64() * MINUTE
        };
        let is_of_second = within(Self::WINDOW) < 0.8 * limit && within(Self::SHORT) > 0.9 * limit;
        if is_of_second && self.window > Self::SHORT {
            self.window = Self::SHORT;
            self.cut_at = Some(now);
        } else {
            self.cut(now, sent, ticket, told, sends);
        }
    }
}

/// What was sent per minute before an attempt was refused: within the last ten seconds or the last minute, whichever was
/// faster, since nobody says over what the provider counts. Where it wants a long wait it counts over long.
pub(super) fn delivered(sent: Instant, ticket: Ticket, told: Option<Duration>, counted: Counted, sends: &Sends) -> f64 {
    let within = |seconds: u64| {
        let own = sends.up_to(sent - Duration::from_secs(seconds), ticket, counted) as f64;
        own / seconds as f64 * MINUTE
    };
    let is_long = told.is_some_and(|told| told > Duration::from_secs(10));
    if is_long { within(60) } else { within(60).max(within(10)) }
}

#[cfg(test)]
mod tests;

//! What a refusal teaches of the limits that the provider does not tell.
//!
//! *Known* is only that it refused, and what was sent before. A refusal may be an accident (a fault among many calls), so one
//! alone teaches nothing of a provider of which nothing is guessed: two at a like rate do. Where something is guessed, the
//! guess that was nearest to being used up is to blame. A refusal although there was room by the provider's own word is of a
//! limit that it hides (it counts over a second or ten, too). What a silent provider refuses ever again, however slowly calls
//! go, is no limit's doing ([`super::inspection`]): then it is let pass, as long as it is no more than usual.

use std::time::Duration;

use super::accidents::{FEWEST, MANY};
use super::too_large::refused_whole;
use super::{Entered, Learned};
use crate::clock::Instant;
use crate::dispatcher::budget::growth::Growth;
use crate::dispatcher::budget::guess::{Guess, delivered};
use crate::dispatcher::budget::sends::Counted;
use crate::messages::{BudgetReading, Dimension, LimitReport};

/// A second refusal teaches a limit when it comes within this time of the first, at a like rate, but not in its volley.
pub(super) const LESSON_WITHIN: Duration = Duration::from_secs(600);
const LESSON_AFTER: Duration = Duration::from_secs(4);
const LIKE: f64 = 1.5;
/// Over what refusals despite room are counted.
const SECOND: Duration = Duration::from_secs(1);
/// What is not the likelier of two explanations is guessed so much higher.
const UNLIKELY: f64 = 1.25;

/// A refusal that has taught nothing yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lone {
    pub(super) at: Instant,
    pub(super) requests: f64,
    pub(super) tokens: f64,
}

impl Learned {
    /// Of the limit that is guessed and nearest, the share that was used of late; `None` where none is guessed.
    pub(in super::super) fn nearest_use(&self, now: Instant) -> Option<f64> {
        [&self.requests, &self.tokens]
            .into_iter()
            .flatten()
            .map(|guess| guess.use_at(now, &self.sends))
            .reduce(f64::max)
    }

    /// An attempt was refused for its rate; `told` is how long the provider said to wait. Behind
    /// [`Learned::not_admitted`]. Whether that was an accident, and says nothing of the rate.
    pub(in super::super) fn refused(
        &mut self,
        entered: &Entered,
        report: &LimitReport,
        told: Option<Duration>,
        now: Instant,
    ) -> bool {
        if refused_whole(report) {
            self.too_large(entered, report, now);
        }
        if self.shows_room(entered, report) {
            self.hidden_refused(entered, told, now);
        }
        if self.is_told() {
            return false;
        }
        if self.is_accident(entered, told, now) {
            return true;
        }
        self.compare(entered, told, now);
        let near = |guess: &Option<Guess>| guess.as_ref().map_or(-1.0, |guess| guess.use_at(now, &self.sends));
        let (requests, tokens) = (near(&self.requests), near(&self.tokens));
        let blamed = if requests >= tokens { &mut self.requests } else { &mut self.tokens };
        if let Some(guess) = blamed {
            guess.cut(now, entered.at, entered.ticket, told, &self.sends);
            self.inspection.begin(now);
        } else {
            self.lesson(entered, told, now);
        }
        false
    }

    /// Whether a silent provider has refused for no limit, as it usually does.
    fn is_accident(&mut self, entered: &Entered, told: Option<Duration>, now: Instant) -> bool {
        // Who wants a long wait counts over long.
        if told.is_some_and(|told| told > Guess::WINDOW) {
            return false;
        }
        let were_usual = self.accidents.usual(now).is_some();
        let is_in_a_row = self.inspection.is_in_a_row(entered.at, &self.sends);
        let is_usual = !self.exceeds_accidents(Guess::WINDOW, FEWEST, now) && !is_in_a_row && were_usual;
        let Some(share) = self.inspection.refused(entered.at, now, &self.sends) else { return is_usual };
        self.accidents.expect(share, now);
        if !were_usual {
            // Nothing that was guessed from them is worth anything.
            (self.requests, self.tokens, self.lone) = (None, None, None);
        }
        true
    }

    /// One more was refused: whether so many were of late that it is hardly by accident.
    fn exceeds_accidents(&mut self, window: Duration, fewest: f64, now: Instant) -> bool {
        let sent = self.sends.since(now - window, Counted::Requests);
        self.accidents.exceeded(window, fewest, sent, now)
    }

    /// Where two limits are guessed and one of them shows not to be the one that is refused for, it is given room.
    fn compare(&mut self, entered: &Entered, told: Option<Duration>, now: Instant) {
        let rate = |counted| delivered(entered.at, entered.ticket, told, counted, &self.sends);
        self.blame.refused(rate(Counted::Requests), rate(Counted::Tokens), now);
        let other = match self.blame.limited() {
            Some(Counted::Requests) => &mut self.tokens,
            Some(_) => &mut self.requests,
            None => return,
        };
        if let Some(other) = other.as_mut().filter(|other| other.was_refused()) {
            other.raise(UNLIKELY * self.blame.most(other.counted), now);
        }
    }

    /// Whether by the provider's own word there was room for the attempt it refused.
    fn shows_room(&self, entered: &Entered, report: &LimitReport) -> bool {
        let has_room = |reading: &BudgetReading| {
            let left = reading.remaining.unwrap_or(u64::MAX);
            match reading.dimension {
                Dimension::Requests => left >= 3,
                Dimension::Tokens => left >= entered.cost.of(Counted::Tokens),
                Dimension::InputTokens => left >= entered.cost.input,
                Dimension::OutputTokens => left >= entered.cost.output,
            }
        };
        let tells = report.budgets.iter().any(|reading| reading.remaining.is_some());
        tells && report.budgets.iter().all(has_room)
    }

    /// An attempt was refused although there was room. A volley of refusals shows a hidden limit, and so does a lone one where
    /// more went within ten seconds or one than is their share of a limit that counts over longer; else it is an accident.
    fn hidden_refused(&mut self, entered: &Entered, told: Option<Duration>, now: Instant) {
        let requests = self.told_requests().map(|told| (told.limit(), told.kind.seeming_period()));
        // Who tells of a second's calls hardly has a limit beside it that is tighter.
        let is_tight = requests.is_some_and(|(_, period)| period.is_some_and(|period| period <= SECOND));
        let fewest = if is_tight { MANY } else { FEWEST };
        let is_accident = !self.exceeds_accidents(SECOND, fewest, now);
        let is_contradicted =
            self.hidden.as_ref().is_some_and(|hidden| hidden.keeps_far_below(entered.at, now, &self.sends));
        if is_contradicted && self.accidents.contradict(now) {
            self.hidden = None;
            return;
        }
        // What is hidden is less than what is told: while nobody knows how much that is, a refusal teaches nothing.
        let Some((limit, Some(period))) = requests else { return };
        let top = limit / period.as_secs_f64() * 60.0;
        match &mut self.hidden {
            None => {
                let is_crowded = [1, 10].map(Duration::from_secs).into_iter().any(|window| {
                    let went = self.sends.since(now - window, Counted::Requests) as f64;
                    window < period && went > limit * window.as_secs_f64() / period.as_secs_f64()
                });
                if (is_crowded && self.accidents.usual(now).is_none()) || !is_accident {
                    self.accidents.believe();
                    self.hidden = Some(Guess::refused(Counted::Requests, top, top, Guess::FLAT_AFTER, now));
                }
            }
            Some(_) if is_accident => {}
            Some(hidden) => {
                hidden.set_top(top);
                hidden.cut_or_shorten(now, entered.at, entered.ticket, told, &self.sends);
            }
        }
    }

    /// The first refusal of a silent provider teaches nothing, a second at a like rate does.
    fn lesson(&mut self, entered: &Entered, told: Option<Duration>, now: Instant) {
        let rate = |counted| delivered(entered.at, entered.ticket, told, counted, &self.sends);
        let fresh = Lone { at: now, requests: rate(Counted::Requests), tokens: rate(Counted::Tokens) };
        let Some(lone) = self.lone.filter(|lone| now < lone.at + LESSON_WITHIN) else {
            self.lone = Some(fresh);
            return;
        };
        if now < lone.at + LESSON_AFTER {
            return;
        }
        self.lone = Some(fresh);
        // By how much the two differ, as a ratio.
        let apart =
            |one: f64, other: f64| if one.min(other) > 0.0 { one.max(other) / one.min(other) } else { f64::INFINITY };
        let (requests, tokens) = (apart(lone.requests, fresh.requests), apart(lone.tokens, fresh.tokens));
        if requests.min(tokens) <= LIKE {
            // Both may be what it counts. The one that differs less is the likelier; the other is given more room.
            let room = |is_likelier: bool| if is_likelier { 1.0 } else { UNLIKELY };
            let guess = |counted, rate: f64| Guess::refused(counted, rate, f64::INFINITY, Guess::FLAT_AFTER, now);
            let rate = lone.requests.max(fresh.requests) * room(requests <= tokens);
            self.requests = Some(guess(Counted::Requests, rate));
            self.tokens = Some(guess(Counted::Tokens, lone.tokens.max(fresh.tokens) * room(tokens <= requests)));
            self.lone = None;
        }
    }

    /// The provider says that traffic has grown too fast.
    pub(in super::super) fn slow_down(&mut self, entered: &Entered, now: Instant) {
        // As much as was sent within the last minute is what it has borne.
        let borne = self.sends.up_to(entered.at - Duration::from_secs(60), entered.ticket, Counted::Requests);
        let borne = (borne as f64).max(1.0);
        match &mut self.growth {
            Some(growth) => growth.refuse(borne, entered.at, now),
            None => self.growth = Some(Growth::refused(borne, now)),
        }
    }
}

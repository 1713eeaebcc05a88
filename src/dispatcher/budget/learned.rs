//! What is learned of the provider's limits for one group of models: budgets it tells of, budgets that are guessed.
//!
//! For each dimension the provider's own word counts where it gives one ([`Told`]). Where it is silent a limit is guessed
//! ([`Guess`]), from the user's cap on, or from the second refusal at a like rate: a single one may be an accident. Beside
//! what is told stand a *hidden* guess, when the provider refused although by its own word there was room (it counts over a
//! second or ten, too), [`Growth`], when it said that traffic rose too fast, a day's quota that is used up, and how large a
//! call was too large.

mod accidents;
mod blame;
mod inspection;
mod lesson;
mod memory;
mod too_large;

use std::time::Duration;

use self::accidents::Accidents;
use self::blame::Blame;
use self::inspection::Inspection;
use self::lesson::Lone;
use self::too_large::TooLarge;
use super::correction::Correction;
use super::day::UsedUp;
use super::doubt::Unsure;
use super::growth::Growth;
use super::guess::Guess;
use super::sends::{Cost, Counted, Sends, Ticket};
use super::told::{Promise, Snapshot, Told, Unanswered};
use super::wait::Wait;
use crate::clock::{self, Instant};
use crate::messages::{BudgetReading, Dimension, LimitReport, Priority, Scope, Tokens};

/// The most budgets believed of one group: providers have four or five, and what names more of them is hostile.
const KEPT: usize = 8;

/// How long a log of sends is kept at least: a minute, and what the pace looks back behind it.
const LOG: Duration = Duration::from_secs(64);

/// A budget that was told of is not believed any more behind so many answers that do not speak of it.
const SILENT: u32 = 50;

/// The user's caps, per second; infinite where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapRates {
    pub(super) requests: f64,
    pub(super) tokens: f64,
}

impl CapRates {
    fn of(self, counted: Counted) -> f64 {
        if counted == Counted::Requests { self.requests } else { self.tokens }
    }
}

/// What names a budget of the provider's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Name {
    dimension: Dimension,
    scope: Scope,
}

impl Name {
    fn of(reading: &BudgetReading) -> Self {
        Self { dimension: reading.dimension, scope: reading.scope }
    }
}

fn counted(dimension: Dimension) -> Counted {
    match dimension {
        Dimension::Requests => Counted::Requests,
        Dimension::Tokens => Counted::Tokens,
        Dimension::InputTokens => Counted::Input,
        Dimension::OutputTokens => Counted::Output,
    }
}

/// One attempt, as it is entered here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entered {
    pub(super) ticket: Ticket,
    pub(super) at: Instant,
    pub(super) cost: Cost,
    /// Tokens as they were estimated, uncorrected.
    pub(super) estimate: Tokens,
}

#[derive(Debug, Default)]
pub(super) struct Learned {
    sends: Sends,
    unanswered: Unanswered,
    told: Vec<(Name, Told)>,
    requests: Option<Guess>,
    tokens: Option<Guess>,
    hidden: Option<Guess>,
    /// Refusals that came although there was room.
    accidents: Accidents,
    growth: Option<Growth>,
    pub(super) day: Option<UsedUp>,
    too_large: Option<TooLarge>,
    lone: Option<Lone>,
    blame: Blame,
    inspection: Inspection,
    /// How estimates of what goes in and of what comes out are off: text is measured, an answer only has its limit.
    input: Correction,
    output: Correction,
    /// When a guess last kept a call back: only what is used to its limit teaches that there is more.
    limited_at: Option<Instant>,
    sent_at: Option<Instant>,
}

impl Learned {
    /// What a call is entered with: one request, and its tokens as they turn out on average.
    pub(super) fn cost(&self, tokens: Tokens) -> Cost {
        let (input, output) = (self.input.of(tokens.input), self.output.of(tokens.output));
        Cost { requests: 1, input, output, reserved: tokens.output }
    }

    /// What a cap of the user's counts a call with, and how far that may be off. Of what comes out the estimate is all that is
    /// sure: how long answers are depends on what is asked, and may change from one call to the next.
    pub(super) fn capped(&self, tokens: Tokens) -> (Cost, Unsure) {
        let cost = Cost { requests: 1, input: self.input.of(tokens.input), output: tokens.output, reserved: 0 };
        let most = tokens.input.saturating_sub(cost.input) as f64;
        (cost, Unsure::new(self.input.deviation(tokens.input), most))
    }

    fn tells(&self, counted: Counted) -> bool {
        self.told.iter().any(|(_, told)| (told.counted == Counted::Requests) == (counted == Counted::Requests))
    }

    fn told_requests(&self) -> Option<&Told> {
        self.told.iter().map(|(_, told)| told).find(|told| told.counted == Counted::Requests)
    }

    /// Whether the provider tells of any of its limits.
    pub(super) fn is_told(&self) -> bool {
        !self.told.is_empty()
    }

    #[cfg(test)]
    pub(super) fn told_limits(&self) -> Vec<f64> {
        self.told.iter().map(|(_, told)| told.limit()).collect()
    }

    #[cfg(test)]
    pub(super) fn guessed_limits(&self, now: Instant) -> Vec<f64> {
        self.guesses().map(|(guess, _)| guess.limit(now)).collect()
    }

    /// Whether any limit of a rate is known or guessed.
    pub(super) fn knows_a_rate(&self) -> bool {
        self.is_told() || self.requests.is_some() || self.tokens.is_some() || self.growth.is_some()
    }

    /// Where the provider is silent of what the user caps, the cap is the first guess.
    pub(super) fn guess_caps(&mut self, caps: CapRates, now: Instant) {
        for (counted, rate) in [(Counted::Requests, caps.requests), (Counted::Tokens, caps.tokens)] {
            let is_told = self.tells(counted);
            let guess = if counted == Counted::Requests { &mut self.requests } else { &mut self.tokens };
            if is_told {
                *guess = None;
            } else if guess.is_none() && rate.is_finite() {
                *guess = Some(Guess::unrefused(counted, rate * 60.0, now));
            }
        }
    }

    /// The caps have changed: guesses that stand for one that was never refused go with it.
    pub(super) fn forget_caps(&mut self) {
        for guess in [&mut self.requests, &mut self.tokens] {
            guess.take_if(|guess| !guess.was_refused());
        }
    }

    fn guesses(&self) -> impl Iterator<Item = (&Guess, Why)> {
        let why = |guess: &Guess| if guess.was_refused() { Why::Guessed } else { Why::Cap };
        let plain = [&self.requests, &self.tokens].into_iter().flatten().map(move |guess| (guess, why(guess)));
        let hidden = self.hidden.iter().map(|guess| (guess, Why::Hidden));
        plain.chain(hidden)
    }

    fn guesses_mut(&mut self) -> impl Iterator<Item = &mut Guess> {
        [&mut self.requests, &mut self.tokens, &mut self.hidden].into_iter().flatten()
    }

    /// When a call may go as far as the provider's limits are known or believed, and what keeps it until then.
    pub(super) fn ready_at(
        &mut self,
        now: Instant,
        tokens: Tokens,
        priority: Priority,
        caps: CapRates,
    ) -> (Instant, Option<Wait>) {
        let cost = self.cost(tokens);
        let (mut at, mut why) = (now, None);
        for (_, told) in &self.told {
            let when = told.ready_at(now, cost.of(told.counted), priority, caps.of(told.counted), &self.sends);
            if when > at {
                (at, why) = (when, Some(told.wait(now, priority, &self.sends)));
            }
        }
        let mut is_limited = false;
        for (guess, kind) in self.guesses() {
            let when = guess.ready_at(now, cost.of(guess.counted), priority, &self.sends);
            is_limited |= when > now;
            if when > at {
                (at, why) = (when, Some(guess.wait(now, kind, priority)));
            }
        }
        if is_limited {
            self.limited_at = Some(now);
        }
        if let Some(growth) = &self.growth {
            let when = growth.ready_at(now, &self.sends);
            if when > at {
                (at, why) = (when, Some(growth.wait(now)));
            }
        }
        (at, why)
    }

    /// A call goes now.
    pub(super) fn enter(&mut self, now: Instant, tokens: Tokens, priority: Priority, caps: CapRates) -> Entered {
        let cost = self.cost(tokens);
        // What was not asked for teaches nothing of a guess.
        if let Some(sent_at) = self.sent_at
            && self.limited_at.is_none_or(|limited| limited < sent_at)
        {
            self.guesses_mut().for_each(|guess| guess.idle(now - sent_at));
        }
        self.sent_at = Some(now);
        if self.hidden.as_ref().is_some_and(|hidden| hidden.keeps_far_below(now, now, &self.sends)) {
            self.accidents.goes();
        }
        if !self.is_told() {
            self.inspection.goes(now);
        }
        for (_, told) in &mut self.told {
            told.spend(now, cost.of(told.counted), priority, caps.of(told.counted), &self.sends);
        }
        for guess in self.guesses_mut() {
            guess.spend(now, cost.of(guess.counted), priority, caps.of(guess.counted));
        }
        self.forget(now);
        let ticket = self.sends.push(now, cost);
        for (_, told) in &mut self.told {
            told.sent(now, ticket, &self.sends);
        }
        if let Some(growth) = &mut self.growth {
            growth.sent(now, &self.sends);
        }
        if let Some(day) = &mut self.day {
            day.goes(now);
        }
        self.unanswered.insert(ticket, (now, cost));
        Entered { ticket, at: now, cost, estimate: tokens }
    }

    fn forget(&mut self, now: Instant) {
        let until = self.told.iter().map(|(_, told)| told.looks_back_to(now)).fold(now - LOG, Instant::min);
        self.sends.forget(until);
        let long_ago = now - Duration::from_secs(3_600);
        while self.unanswered.first_key_value().is_some_and(|(_, (at, _))| *at < long_ago) {
            self.unanswered.pop_first();
        }
    }

    /// A response to an attempt has come, and says this of the limits; a refusal may say when to come `again`.
    pub(super) fn hear(&mut self, entered: &Entered, report: &LimitReport, again: Option<Duration>, now: Instant) {
        self.told.iter_mut().for_each(|(_, told)| told.silent += 1);
        for reading in &report.budgets {
            self.hear_one(entered, reading, again, now);
        }
        // Only now: what was believed at its send is compared with what has just been told.
        self.answered(entered);
        self.told.retain(|(_, told)| told.silent < SILENT);
        // A hidden limit was guessed below what was told then: where the period has turned out shorter it is void.
        let told = self.told_requests().map(Told::most_per_minute);
        self.hidden.take_if(|hidden| told.is_some_and(|told| told > 1.5 * hidden.top()));
        // Of what the request is charged the provider tells the sum only: the text's part is taken for the rest.
        if let Some(charged) = report.cost {
            self.input.hear(entered.estimate.input, charged.saturating_sub(entered.cost.output));
        }
    }

    fn hear_one(&mut self, entered: &Entered, reading: &BudgetReading, again: Option<Duration>, now: Instant) {
        let (name, counted) = (Name::of(reading), counted(reading.dimension));
        self.too_large.take_if(|large| large.name == name && reading.limit.is_some_and(|limit| limit > large.limit));
        let (Some(limit), Some(remaining)) = (reading.limit, reading.remaining) else { return };
        let snapshot = Snapshot {
            ticket: entered.ticket,
            sent: entered.at,
            limit: limit as f64,
            remaining: remaining as f64,
            reset: reading.reset,
            heard: now,
            promise: again.map(|again| Promise { at: clock::after(now, again), cost: entered.cost.of(counted) as f64 }),
        };
        if let Some((_, told)) = self.told.iter_mut().find(|(known, _)| *known == name) {
            told.hear(snapshot, &self.sends, &self.unanswered);
        } else if self.told.len() < KEPT {
            let named = reading.period.map(|period| period.0);
            let told = Told::new(counted, named, snapshot, &self.sends, &self.unanswered);
            self.told.push((name, told));
            if counted == Counted::Requests { self.requests = None } else { self.tokens = None }
        }
    }

    /// An attempt has been answered, or never will be.
    fn answered(&mut self, entered: &Entered) {
        if let Some((at, cost)) = self.unanswered.remove(&entered.ticket) {
            self.told.iter_mut().for_each(|(_, told)| told.answered(entered.ticket, at, cost));
        }
    }

    /// An attempt has ended; `used` replaces what it was entered with.
    pub(super) fn settle(&mut self, entered: &Entered, used: Option<Tokens>) {
        self.answered(entered);
        let Some(used) = used else { return };
        self.input.hear(entered.estimate.input, used.input);
        self.output.hear(entered.estimate.output, used.output);
        // A count beyond reason must not close the account for days.
        let most = |count: u64, had: u64| count.min(had.saturating_mul(20).max(1 << 20));
        let cost = Cost {
            input: most(used.input, entered.cost.input),
            output: most(used.output, entered.cost.output),
            ..entered.cost
        };
        self.correct(entered, cost);
    }

    fn correct(&mut self, entered: &Entered, cost: Cost) {
        self.sends.settle(entered.ticket, entered.cost, cost);
        for (_, told) in &mut self.told {
            told.settled(entered.ticket, entered.cost.of(told.counted), cost.of(told.counted));
        }
    }

    /// An attempt was refused, or cut before the provider could count it: it used no tokens. A refused request counts where
    /// the provider's own word says what is left.
    pub(super) fn not_admitted(&mut self, entered: &Entered, was_refused: bool, now: Instant) {
        self.answered(entered);
        if was_refused {
            self.told.iter_mut().for_each(|(_, told)| told.refused(now));
        }
        let requests = u64::from(was_refused && self.tells(Counted::Requests));
        self.correct(entered, Cost { requests, ..Cost::default() });
    }

    /// No answer will come to anything that is under way.
    pub(super) fn forget_unanswered(&mut self) {
        self.unanswered.clear();
        self.told.iter_mut().for_each(|(_, told)| told.forget_unanswered());
    }
}

/// Why a limit is guessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The provider does not tell of its limits. The user's cap stands for them: it was never refused.
    Cap,
    /// The provider does not tell of its limits, and has refused.
    Guessed,
    /// It refuses although by its own word there is room.
    Hidden,
}

#[cfg(test)]
mod tests;

//! What is learned of a group's limits, as it is shown and kept.

use super::{Accidents, CapRates, Inspection, KEPT, Learned, Lone, Name, Told, Wait, Why};
use crate::clock::Instant;
use crate::dispatcher::budget::correction::Correction;
use crate::dispatcher::budget::day::UsedUp;
use crate::dispatcher::budget::growth::Growth;
use crate::dispatcher::budget::guess::Guess;
use crate::dispatcher::budget::memory::{ago, ahead, away, sane};
use crate::dispatcher::budget::news::{Fact, Whose};
use crate::dispatcher::budget::sends::{Counted, Past, Sends};
use crate::messages::{GuessedBudget, LearnedBudget, LearnedModel, LimiterKind, LoneRefusal, Priority};

impl Learned {
    /// The group's share of what is kept, but for its log: that is as long as it was busy.
    pub(in super::super) fn remember(&self, model: Option<String>, now: Instant) -> LearnedModel {
        let told =
            self.told.iter().map(|(name, told)| LearnedBudget::Told(told.remember(name.scope, now, &self.sends)));
        let guessed = |guess: &Option<Guess>, whose: fn(GuessedBudget) -> LearnedBudget| {
            guess.as_ref().map(|guess| whose(guess.remember(now, &self.sends)))
        };
        let guesses = [
            guessed(&self.requests, LearnedBudget::Guessed),
            guessed(&self.tokens, LearnedBudget::Guessed),
            guessed(&self.hidden, LearnedBudget::Hidden),
            self.growth.as_ref().map(|growth| LearnedBudget::Growth(growth.remember(now))),
        ];
        LearnedModel {
            model,
            idle_s: self.sent_at.map(|at| away(at, now)),
            is_kept_back: self.limited_at.is_some_and(|at| self.sent_at.is_none_or(|sent_at| at >= sent_at)),
            input_times: self.input.ratio(),
            output_times: self.output.ratio(),
            budgets: told.chain(guesses.into_iter().flatten()).collect(),
            lone_refusal: self.lone.map(|lone| LoneRefusal {
                s_ago: away(lone.at, now),
                requests_per_minute: lone.requests,
                tokens_per_minute: lone.tokens,
            }),
            faults: self.accidents.remember(now),
            inspected: self.inspection.remember(now),
            day_used_up_for_s: self.used_up_until(now).map(|until| away(now, until)),
        }
    }

    pub(in super::super) fn log(&self, now: Instant) -> Vec<Past> {
        self.sends.remember(now)
    }

    /// Takes up what was remembered. Nonsense is bounded or left out, not believed.
    pub(in super::super) fn recall(kept: &LearnedModel, log: &[Past], now: Instant) -> Self {
        let mut learned = Self {
            sends: Sends::recall(log, now),
            input: Correction::known(sane(kept.input_times, 0.0..=f64::MAX, 1.0)),
            output: Correction::known(sane(kept.output_times, 0.0..=f64::MAX, 1.0)),
            limited_at: Some(now).filter(|_| kept.is_kept_back),
            sent_at: kept.idle_s.map(|idle| ago(now, idle)),
            lone: kept.lone_refusal.map(|lone| Lone {
                at: ago(now, lone.s_ago),
                requests: sane(lone.requests_per_minute, 0.0..=f64::MAX, 0.0),
                tokens: sane(lone.tokens_per_minute, 0.0..=f64::MAX, 0.0),
            }),
            accidents: kept.faults.map(|faults| Accidents::recall(faults, now)).unwrap_or_default(),
            inspection: kept.inspected.map(|kept| Inspection::recall(kept, now)).unwrap_or_default(),
            day: kept.day_used_up_for_s.map(|s| UsedUp::new(ahead(now, s))),
            ..Self::default()
        };
        for budget in &kept.budgets {
            match budget {
                LearnedBudget::Told(told) => {
                    let name = Name { dimension: told.counts, scope: told.scope };
                    let is_new = learned.told.iter().all(|(known, _)| *known != name) && learned.told.len() < KEPT;
                    let recalled = Told::recall(told, now, &learned.sends).filter(|_| is_new);
                    learned.told.extend(recalled.map(|told| (name, told)));
                }
                LearnedBudget::Guessed(guess) if Counted::from(guess.counts) == Counted::Requests => {
                    learned.requests = Guess::recall(guess, now);
                }
                LearnedBudget::Guessed(guess) => learned.tokens = Guess::recall(guess, now),
                LearnedBudget::Hidden(guess) => learned.hidden = Guess::recall(guess, now),
                LearnedBudget::Growth(growth) => learned.growth = Some(Growth::recall(growth, now)),
            }
        }
        learned
    }

    /// Until when the quota of the day is used up.
    pub(in super::super) fn used_up_until(&self, now: Instant) -> Option<Instant> {
        self.day.as_ref().map(|day| day.until).filter(|until| *until > now)
    }

    /// When a call was last sent.
    pub(in super::super) fn sent_at(&self) -> Option<Instant> {
        self.sent_at
    }

    /// When a guess last kept a call back: what is asked for a call that nobody makes must leave that as it was.
    pub(in super::super) fn limited_at(&self) -> Option<Instant> {
        self.limited_at
    }

    pub(in super::super) fn set_limited_at(&mut self, at: Option<Instant>) {
        self.limited_at = at;
    }

    /// Of the budgets that the provider tells of the one with the smallest share left.
    pub(in super::super) fn scarcest(&self, now: Instant) -> Option<Wait> {
        let share = |told: &Told| told.level(now, &self.sends) / told.limit();
        let each = self.told.iter().map(|(_, told)| told);
        let told = each.min_by(|one, other| share(one).total_cmp(&share(other)))?;
        // What keeps a call of high priority is the budget itself, not its pace.
        Some(told.wait(now, Priority::High, &self.sends))
    }

    /// The share that is refused for no limit, where that is known.
    pub(in super::super) fn faults(&self, now: Instant) -> Option<f64> {
        self.accidents.usual(now)
    }

    /// The limits as they are known by now; not what stands for a cap.
    pub(in super::super) fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        let told = self.told.iter().map(|(name, told)| Fact {
            whose: Whose::Told(name.scope),
            counts: name.dimension,
            limit: told.limit(),
            kind: told.kind.name(),
            period: told.kind.period,
        });
        let guessed = self.guesses().filter(|(guess, _)| guess.was_refused()).map(|(guess, why)| Fact {
            whose: match why {
                Why::Cap | Why::Guessed => Whose::Guessed,
                Why::Hidden => Whose::Hidden,
            },
            counts: guess.counted.dimension(),
            limit: guess.plateau(),
            kind: LimiterKind::Window,
            period: guess.window(),
        });
        told.chain(guessed)
    }

    /// Guesses that stand for a cap that is no more.
    pub(in super::super) fn forget_other_caps(&mut self, caps: CapRates) {
        for guess in [&mut self.requests, &mut self.tokens] {
            guess.take_if(|guess| !guess.stands_for(caps.of(guess.counted) * 60.0));
        }
    }
}

//! What a response says of the account's limits, whoever's it is, as one [`LimitReport`].
//!
//! No control decision is taken from it yet: so far it is logged, and kept to explain why a call waits.
//!
//! Which provider it is does not matter and is not asked: `names` understands the words of a header's name, `ietf` the two
//! headers of the standard to be, `sentence` the text of a 429. What a name leaves open stays open. Groq's
//! `x-ratelimit-limit-requests` is per day and its `-tokens` per minute, yet both are written as OpenAI writes its limits
//! per minute: only the host, or the arithmetic of limit, remaining and reset over several reports, could tell.

mod google;
mod ietf;
mod names;
mod sentence;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub(crate) use self::google::quota;
use self::names::Role;
pub(crate) use self::sentence::Sentence;
use super::moments;
use crate::messages::{BudgetReading, Dimension, Headers, LimitReport, Period};

/// The most budgets one response may speak of; who has more has none.
const MAX_BUDGETS: usize = 16;

/// What the headers of a response say. `now` stands in for the response's own `Date` where it has none. Allocates nothing
/// when they say nothing.
pub(crate) fn from_headers(headers: &Headers, now: SystemTime) -> LimitReport {
    let mut report = LimitReport::default();
    let (mut limits, mut policies, mut by_the_second) = (None, None, false);
    for (name, value) in headers.iter() {
        match name.as_str() {
            "ratelimit" => limits = limits.or(value.to_str().ok()),
            "ratelimit-policy" => policies = policies.or(value.to_str().ok()),
            name => {
                let Some(said) = names::read(name) else { continue };
                let Ok(value) = value.to_str() else { continue };
                by_the_second |= names::counts_by_the_second(name);
                let mut reading = BudgetReading::new(said.dimension, said.scope, said.period);
                match said.role {
                    // Below nothing is nothing, and means that it is not known.
                    Role::Limit => reading.limit = count(value).map(|count| u64::try_from(count.max(0)).unwrap_or(0)),
                    Role::Remaining => reading.remaining = count(value).and_then(|count| u64::try_from(count).ok()),
                    Role::Reset => reading.reset = moments::reset(value, headers, now),
                    Role::Cost => {
                        report.cost = report.cost.or_else(|| u64::try_from(count(value)?).ok());
                        continue;
                    }
                }
                gather(&mut report, reading);
            }
        }
    }
    if by_the_second {
        // Together writes its requests as others write theirs per hour.
        for reading in report.budgets.iter_mut().filter(|reading| reading.dimension == Dimension::Requests) {
            reading.period = reading.period.or(Some(Period::SECOND));
        }
    }
    report.budgets.retain_mut(mend);
    if limits.is_some() || policies.is_some() {
        ietf::read(limits, policies, &mut report);
    }
    report
}

/// What an error answer says: its headers, and the quotas and the sentence that its body names.
pub(crate) fn from_error(
    headers: &Headers,
    quotas: &[BudgetReading],
    sentence: Option<Sentence>,
    now: SystemTime,
) -> LimitReport {
    let mut report = from_headers(headers, now);
    for quota in quotas {
        add(&mut report, Some(*quota));
    }
    if let Some(Sentence { reading, requested }) = sentence {
        add(&mut report, Some(reading));
        let of_tokens = requested.filter(|_| reading.dimension == Dimension::Tokens);
        report.cost = report.cost.or(of_tokens);
    }
    report
}

/// Puts a single value to the others of its budget; the first of a kind counts.
fn gather(report: &mut LimitReport, reading: BudgetReading) {
    let of_same = |known: &BudgetReading| {
        (known.dimension, known.scope, known.period) == (reading.dimension, reading.scope, reading.period)
    };
    match report.budgets.iter().position(of_same) {
        Some(place) => fill(&mut report.budgets[place], &reading),
        None if report.budgets.len() < MAX_BUDGETS => report.budgets.push(reading),
        None => {}
    }
}

/// Adds a whole reading. Where the budget is known already, only what is not known of it yet.
fn add(report: &mut LimitReport, reading: Option<BudgetReading>) {
    let Some(mut reading) = reading else { return };
    if !mend(&mut reading) {
        return;
    }
    match report.budgets.iter().position(|known| known.is_of_same_budget(&reading)) {
        Some(place) => {
            fill(&mut report.budgets[place], &reading);
            mend(&mut report.budgets[place]);
        }
        None if report.budgets.len() < MAX_BUDGETS => report.budgets.push(reading),
        None => {}
    }
}

fn fill(known: &mut BudgetReading, more: &BudgetReading) {
    known.period = known.period.or(more.period);
    known.limit = known.limit.or(more.limit);
    known.remaining = known.remaining.or(more.remaining);
    known.reset = known.reset.or(more.reset);
}

/// Makes a reading one to rely on; false when there is nothing left of it. A limit of nothing is not a limit, and what goes
/// with it (Azure: -1, -1, 0) is worth as little.
fn mend(reading: &mut BudgetReading) -> bool {
    if let (Some(limit), Some(remaining)) = (reading.limit, &mut reading.remaining) {
        *remaining = limit.min(*remaining);
    }
    reading.limit != Some(0) && (reading.limit.is_some() || reading.remaining.is_some())
}

/// The number that `text` begins with: whole, or a fraction cut off; of a list the first.
fn count(text: &str) -> Option<i128> {
    let text = text.split([',', ';']).next()?.trim_ascii();
    let number = || text.parse::<f64>().ok().filter(|number| number.is_finite());
    // The cast cannot lose what matters: it saturates, and more than 64 bits is cut off anyway.
    let count = text.parse().ok().or_else(|| Some(number()? as i128))?;
    Some(count.min(i128::from(u64::MAX)))
}

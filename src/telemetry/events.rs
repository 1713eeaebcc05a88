//! Every event of a call's life, by name. Ids, names, counts and durations only: never a key, a prompt or an answer.

use std::time::Duration;

use crate::messages::{
    AccountId, AttemptId, CallId, Dimension, Failure, LimitReport, LimiterKind, Outcome, Part, SeatId, SlotId, Usage,
};

pub(crate) fn attempt_started(id: AttemptId, account: &AccountId) {
    tracing::debug!(call = %id.call, attempt = id.number, %account, "attempt started");
}

pub(crate) fn attempt_failed(id: AttemptId, account: &AccountId, failure: &Failure) {
    tracing::info!(
        call = %id.call,
        attempt = id.number,
        %account,
        kind = ?failure.kind,
        status = failure.status(),
        sent = ?failure.sent,
        pushback = failure.pushback.map(tracing::field::debug),
        detail = %failure.detail,
        "attempt failed"
    );
}

/// What a response said of the account's limits, a line each budget; a number that was not said is left out.
pub(crate) fn limits_reported(account: &AccountId, report: &LimitReport) {
    if let Some(tokens) = report.cost {
        tracing::debug!(%account, tokens, "charge reported");
    }
    for reading in &report.budgets {
        tracing::debug!(
            %account,
            dimension = %reading.dimension,
            scope = ?reading.scope,
            period = reading.period.map(tracing::field::display),
            limit = reading.limit,
            remaining = reading.remaining,
            reset_s = reading.reset.map(|reset| reset.after.as_secs_f64()),
            reset_grain_s = reading.reset.map(|reset| reset.grain.as_secs_f64()),
            "limits reported"
        );
    }
}

pub(crate) fn stream_broken(id: AttemptId, account: &AccountId, failure: &Failure) {
    tracing::warn!(call = %id.call, attempt = id.number, %account, kind = ?failure.kind, detail = %failure.detail, "stream broken");
}

/// An end that nobody waits for: of a dead generation, or told twice. Never handed to anyone.
pub(crate) fn stale_end(id: AttemptId, slot: SlotId) {
    tracing::warn!(call = %id.call, attempt = id.number, slot = slot.index, generation = slot.generation, "stale end dropped");
}

pub(crate) fn call_ended(call: CallId, outcome: &Outcome) {
    match outcome {
        Ok(answer) => tracing::debug!(%call, status = answer.status, attempts = answer.meta.attempts, "call answered"),
        Err(error) => tracing::debug!(
            %call,
            status = error.status(),
            code = error.code(),
            attempts = error.meta().attempts,
            message = error.message(),
            "call ended with an error"
        ),
    }
}

/// A stream has ended; what it used was not known before.
pub(crate) fn stream_ended(attempt: AttemptId, usage: Option<Usage>, cost_usd: Option<f64>) {
    let (input, output) = usage.map_or((None, None), |usage| (Some(usage.input_tokens), Some(usage.output_tokens)));
    tracing::debug!(call = %attempt.call, attempt = attempt.number, input_tokens = input, output_tokens = output, cost_usd, "stream ended");
}

pub(crate) fn call_cancelled(call: CallId, attempts: u32) {
    tracing::debug!(%call, attempts, "caller gone");
}

pub(crate) fn account_held(account: &AccountId, after: Duration) {
    tracing::info!(%account, seconds = after.as_secs_f64(), "account held by the upstream's word");
}

/// What an earlier process kept of an account is not as this one would have written it: it is learned anew.
pub(crate) fn memory_unreadable(account: &AccountId, error: &serde_json::Error) {
    tracing::warn!(%account, %error, "what was kept of the account's limits cannot be read; it is learned anew");
}

/// A limit that was not known before, or is another by now. `whose` says by whose word, or from what it was learned.
pub(crate) fn limit_learned(account: &AccountId, model: Option<&str>, limit: &LimitLearned) {
    let LimitLearned { whose, counts, kind, limit, was, period, is_worse } = limit;
    let (period_s, limit, was) = (period.as_secs_f64(), limit.round(), was.map(f64::round));
    if *is_worse {
        tracing::warn!(%account, model, whose, %counts, ?kind, limit, was, period_s, "limit learned");
    } else {
        tracing::info!(%account, model, whose, %counts, ?kind, limit, was, period_s, "limit learned");
    }
}

/// What [`limit_learned`] says.
pub(crate) struct LimitLearned {
    pub(crate) whose: &'static str,
    pub(crate) counts: Dimension,
    pub(crate) kind: LimiterKind,
    pub(crate) limit: f64,
    pub(crate) was: Option<f64>,
    /// Over what `limit` counts; of one that nobody tells of it is per minute, and this is over what it is kept.
    pub(crate) period: Duration,
    /// The operator may want to do something about it.
    pub(crate) is_worse: bool,
}

/// An account was found to take so many at once.
pub(crate) fn at_once_found(account: &AccountId, at_once: usize) {
    tracing::info!(%account, at_once, "found how many at once it takes");
}

/// An account is refused such a share of its calls whatever their rate.
pub(crate) fn refuses_for_no_limit(account: &AccountId, model: Option<&str>, share: f64) {
    let percent = (100.0 * share).round();
    tracing::warn!(%account, model, percent, "it refuses as many calls however slowly they go: taken for its faults, not for a limit");
}

/// An upstream answers nothing: its calls go elsewhere or end at once, one a second is let through.
pub(crate) fn breaker_opened(upstream: &str, failed: u32, silent: Duration, waiting: usize, last: &str) {
    tracing::warn!(
        upstream,
        failed_in_a_row = failed,
        silent_s = silent.as_secs_f64(),
        waiting,
        last,
        "breaker opened: calls go to their next target or end at once, one a second goes there as a probe"
    );
}

/// A call goes to an upstream whose breaker is open, to see whether it is back.
pub(crate) fn breaker_probed(upstream: &str, call: CallId) {
    tracing::info!(upstream, %call, "breaker probes");
}

/// An upstream takes calls again.
pub(crate) fn breaker_closed(upstream: &str, open: Duration, why: &'static str) {
    tracing::warn!(upstream, open_s = open.as_secs_f64(), why, "breaker closed");
}

/// Whether anybody listens to [`waits`].
pub(crate) fn waits_are_heard() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// The first call in an upstream's line waits for something else than the one before it.
pub(crate) fn waits(upstream: &str, why: &dyn std::fmt::Display) {
    tracing::debug!(upstream, %why, "the first in line waits");
}

/// Once for each rest of a key.
pub(crate) fn key_rests(account: &AccountId, rests: Duration) {
    tracing::warn!(%account, rests_s = rests.as_secs(), "key refused (401): it rests; check the key and reload");
}

/// Once for each rest of a key.
pub(crate) fn out_of_money(account: &AccountId, status: Option<u16>, rests: Duration) {
    tracing::warn!(
        %account,
        status,
        rests_s = rests.as_secs(),
        "the upstream says that the account is out of credit or has reached its spending limit: its key rests, other keys \
         go on; pay or raise the limit there, then reload (SIGHUP)"
    );
}

/// Once for each time that a quota is used up.
pub(crate) fn day_used_up(account: &AccountId, model: Option<&str>, after: Duration) {
    tracing::warn!(
        %account,
        model,
        seconds = after.as_secs(),
        "the upstream says that the model's quota of the day is used up: its calls wait for the end of that, other models and \
         keys go on"
    );
}

/// What was learned of accounts could not be kept: a restart learns it anew.
pub(crate) fn not_remembered(error: &dyn std::fmt::Display) {
    tracing::warn!(%error, "what was learned of accounts was not kept");
}

pub(crate) fn slot_died(slot: SlotId, crashed: bool, restart_in: Duration) {
    tracing::warn!(
        slot = slot.index,
        generation = slot.generation,
        crashed,
        restart_ms = restart_in.as_millis() as u64,
        "request actor died"
    );
}

pub(crate) fn seat_died(seat: SeatId, restart_in: Duration) {
    tracing::error!(
        thread = seat.0,
        restart_ms = restart_in.as_millis() as u64,
        "a thread's part of the pool died: what it worked on is tried again"
    );
}

pub(crate) fn thread_blocked(seat: SeatId, limit: Duration) {
    tracing::error!(
        thread = seat.0,
        limit_s = limit.as_secs_f64(),
        "a thread does not answer ([pool] thread_timeout): another takes its place, what it worked on is tried again"
    );
}

pub(crate) fn no_thread(error: &std::io::Error) {
    tracing::error!(%error, "no thread can be started in the place of one that is gone; it is tried again");
}

pub(crate) fn part_died(part: Part) {
    tracing::error!(?part, "a part of the system crashed: its calls end as `restarting`, a fresh one starts");
}

pub(crate) fn system_failed(deaths: usize, window: Duration) {
    tracing::error!(deaths, window_s = window.as_secs(), "the system keeps crashing: it gives up");
}

pub(crate) fn pool_unready(deaths: usize, window: Duration) {
    tracing::error!(
        deaths,
        window_s = window.as_secs(),
        "request actors keep crashing: the pool reports itself unready"
    );
}

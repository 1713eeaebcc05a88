//! What the table says in words, and whether the callers' story is the ledger's. Pure.

use super::stage::Run;
use super::tally::{Fate, Loss};
use crate::simulator::prompt_hash;

/// What is to be said, and what must not have been.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// The table, read honestly.
    pub(super) sentences: Vec<String>,
    /// Why the demo has failed; empty when it has not.
    pub(super) problems: Vec<String>,
}

/// Judges naive threads, semaphore + token bucket, and forebay, in this order.
pub(super) fn judge(runs: &[Run; 3]) -> Verdict {
    let [naive, guarded, forebay] = runs;
    let mut problems: Vec<String> = runs.iter().flat_map(disagreements).collect();
    let unanswered = Unanswered::of(naive);
    if unanswered.total() != naive.tally.lost() {
        let (lost, counted) = (naive.tally.lost(), unanswered.total());
        problems.push(format!("the naive threads lost {lost} calls, but their provider's ledger counts {counted}"));
    }
    let (lost, mixed_up) = (forebay.tally.lost(), forebay.tally.mixed_up());
    if lost + mixed_up > 0 {
        problems
            .push(format!("forebay lost {lost} calls and mixed up {mixed_up}: it must neither lose nor mix up any"));
    }
    let sentences = vec![
        format!(
            "The naive threads lost {} of {} calls;\ntheir provider's ledger counts {} unanswered: {}.",
            naive.tally.lost(),
            naive.tally.calls(),
            unanswered.total(),
            unanswered.parts()
        ),
        format!(
            "Semaphore and token bucket, with 2 retries a call, lost {}: they drew {} (429) from the limit\n\
             and sent {} too early, that is while a Retry-After was running. forebay lost {}, drew {}\n\
             and sent {}; {}",
            guarded.tally.lost(),
            some(guarded.ledger.limit_429s, "refusal"),
            some(guarded.ledger.too_early, "request"),
            forebay.tally.lost(),
            some(forebay.ledger.limit_429s, "refusal"),
            some(forebay.ledger.too_early, "request"),
            compare(guarded, forebay)
        ),
    ];
    Verdict { sentences, problems }
}

/// What a strategy that makes each call once should have lost, by the ledger.
struct Unanswered {
    faulted: u64,
    limited: u64,
    abandoned: u64,
    refused: u64,
    /// The provider did answer, but its caller had just stopped waiting. The ledger cannot know, and calls it answered.
    too_late: u64,
}

impl Unanswered {
    fn of(run: &Run) -> Self {
        let ledger = &run.ledger;
        let in_vain = |(prompt, fate): &(&str, Fate)| *fate == Fate::Lost(Loss::Timeout) && is_answered(run, prompt);
        Self {
            faulted: ledger.faulted,
            limited: ledger.limited,
            abandoned: ledger.abandoned,
            refused: ledger.refused,
            too_late: run.tally.ends().filter(in_vain).count() as u64,
        }
    }

    fn total(&self) -> u64 {
        self.faulted + self.limited + self.abandoned + self.refused + self.too_late
    }

    /// Where they come from; what is not there is not named.
    fn parts(&self) -> String {
        let all = [
            (self.limited, "over its limit"),
            (self.faulted, "by faults"),
            (self.abandoned, "given up by their callers"),
            (self.refused, "malformed"),
            (self.too_late, "answered after their callers had given up"),
        ];
        let parts: Vec<String> =
            all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    }
}

fn is_answered(run: &Run, prompt: &str) -> bool {
    run.ledger.prompts.contains_key(&prompt_hash(prompt))
}

/// Where the ledger contradicts the callers, call by call.
fn disagreements(run: &Run) -> Vec<String> {
    let unknown =
        run.tally.ends().filter(|(prompt, fate)| *fate == Fate::Answered && !is_answered(run, prompt)).count();
    let ledger = &run.ledger;
    let ended = ledger.answered + ledger.faulted + ledger.limited + ledger.refused + ledger.abandoned;
    let mut problems = Vec::new();
    if unknown > 0 {
        problems.push(format!("{}: {unknown} answers that the provider's ledger does not know", run.name));
    }
    if ended != ledger.requests {
        let requests = ledger.requests;
        problems.push(format!("{}: the ledger counts {requests} requests, but {ended} ends of requests", run.name));
    }
    problems
}

fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Who was faster; and why, where the table shows it.
fn compare(guarded: &Run, forebay: &Run) -> String {
    let (theirs, ours) = (guarded.took.as_secs_f64(), forebay.took.as_secs_f64());
    let heeded = guarded.ledger.too_early > forebay.ledger.too_early;
    match ours - theirs {
        more if more >= 0.1 && heeded => {
            format!("it took {more:.1} s longer: what the provider tells one caller, all of them heed.")
        }
        more if more >= 0.1 => format!("it took {more:.1} s longer."),
        more if more <= -0.1 => format!("it took {:.1} s less.", -more),
        _ => "it took as long.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tally::Tally;
    use super::*;
    use crate::simulator::Snapshot;

    /// A run of these calls against a provider that answered `answered`.
    fn run(ends: &[(&str, Fate)], answered: &[&str], faulted: u64, limited: u64) -> Run {
        let mut tally = Tally::default();
        for (prompt, fate) in ends {
            tally.enter((*prompt).to_owned(), *fate);
        }
        let ledger = Snapshot {
            requests: answered.len() as u64 + faulted + limited,
            answered: answered.len() as u64,
            faulted,
            limited,
            limit_429s: limited,
            prompts: answered.iter().map(|prompt| (prompt_hash(prompt), 1)).collect(),
            ..Snapshot::default()
        };
        Run { name: "a strategy", tally, ledger, took: Duration::from_secs(1) }
    }

    const A: (&str, Fate) = ("a", Fate::Answered);
    const B_LIMITED: (&str, Fate) = ("b", Fate::Lost(Loss::Refused));
    const B_LATE: (&str, Fate) = ("b", Fate::Lost(Loss::Timeout));

    fn good() -> Run {
        run(&[A], &["a"], 2, 1)
    }

    #[test]
    fn naive_losses_that_the_ledger_counts_too_are_well() {
        let verdict = judge(&[run(&[A, B_LIMITED], &["a"], 0, 1), good(), good()]);
        assert_eq!(verdict.problems, Vec::<String>::new());
        assert!(
            verdict.sentences[0]
                .contains("lost 1 of 2 calls;\ntheir provider's ledger counts 1 unanswered: 1 over its"),
            "{:?}",
            verdict.sentences
        );
    }

    #[test]
    fn an_answer_that_came_too_late_is_a_loss_that_both_sides_know() {
        let verdict = judge(&[run(&[A, B_LATE], &["a", "b"], 0, 0), good(), good()]);
        assert_eq!(verdict.problems, Vec::<String>::new());
        assert!(verdict.sentences[0].contains("1 unanswered: 1 answered after"), "{:?}", verdict.sentences);
    }

    #[test]
    fn a_loss_that_only_one_side_knows_is_a_problem() {
        for naive in
            [run(&[A, B_LIMITED], &["a"], 0, 0), run(&[A], &["a"], 1, 0), run(&[A, B_LIMITED], &["a", "b"], 0, 0)]
        {
            let verdict = judge(&[naive, good(), good()]);
            assert!(verdict.problems[0].contains("but their provider's ledger counts"), "{:?}", verdict.problems);
        }
    }

    #[test]
    fn an_answer_that_the_provider_never_gave_is_a_problem_of_any_strategy() {
        let verdict = judge(&[run(&[A], &["a"], 0, 0), run(&[A], &["b"], 0, 0), good()]);
        assert_eq!(verdict.problems, ["a strategy: 1 answers that the provider's ledger does not know"]);
    }

    #[test]
    fn the_slower_of_the_two_is_named_honestly() {
        let took = |seconds, too_early| {
            let mut run = good();
            run.took = Duration::from_secs_f64(seconds);
            run.ledger.too_early = too_early;
            run
        };
        for (theirs, ours, says) in [
            (took(5.0, 9), took(7.0, 0), "2.0 s longer: what the provider tells one caller"),
            (took(5.0, 0), took(7.0, 0), "2.0 s longer."),
            (took(5.0, 9), took(4.0, 0), "1.0 s less."),
            (took(5.0, 9), took(5.04, 0), "as long."),
        ] {
            let sentence = compare(&theirs, &ours);
            assert!(sentence.contains(says), "{sentence}");
        }
    }

    #[test]
    fn forebay_must_neither_lose_nor_mix_up_any() {
        for fate in [Fate::Lost(Loss::Broken), Fate::MixedUp] {
            let verdict = judge(&[run(&[A], &["a"], 0, 0), good(), run(&[A, ("b", fate)], &["a"], 5, 0)]);
            assert!(verdict.problems[0].starts_with("forebay lost"), "{:?}", verdict.problems);
        }
    }
}

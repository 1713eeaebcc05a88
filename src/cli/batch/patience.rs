//! What a call that brought no answer means for its line: it has failed, or it goes again later, or nobody can answer lines
//! like it for now and they are left to another run.
//!
//! A batch is to get done. So a line fails when its call has really failed, and not because forebay had no room, the
//! upstream was not there, or the key has no money: those are nobody's line's fault. But a line that is the reason itself why
//! nobody answers must not go round for ever, and what no wait will mend must not be waited for.

use std::collections::HashMap;
use std::time::Duration;

use super::progress::time;
use crate::clock::Instant;
use crate::messages::{Error, ErrorKind, Outcome};
use crate::providers::error_body::ErrorBody;

/// The first wait of a line that goes again, and the longest; in between each is twice the one before.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// So many calls of a line may find nobody while others are answered: that may have been the beginning of an outage.
const ALONE_MAX: u32 = 2;

/// A line that was tried so often has failed; but in an outage, which is nobody's fault, only when that has lasted so long:
/// the line may be the reason for it.
const ATTEMPTS_MAX: u32 = 15;
const OUTAGE_BORNE: Duration = Duration::from_secs(15 * 60);

/// Nobody has ever answered for the model, and now this long nobody was to be reached: it is set up wrongly.
const NEVER_ANSWERED: Duration = Duration::from_secs(120);

/// So long an outage is waited out.
const OUTAGE_MAX: Duration = Duration::from_secs(30 * 60);

/// A key that has answered in this run may be refused for so long before it is believed; it rests a minute at first.
const REFUSED_MAX: Duration = Duration::from_secs(180);
const REFUSED_WAIT: Duration = Duration::from_secs(61);

/// A call that was sent away so soon was sent away for those before it.
const SOON: Duration = Duration::from_secs(60);

/// What a line has been through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tries {
    /// How often it was told to come again.
    again: u32,
    /// Attempts that all its calls have made.
    attempts: u32,
    /// Calls of it that found nobody, while others were answered.
    alone: u32,
}

/// What becomes of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// This is its end, good or bad.
    Ended,
    /// It goes again after so long.
    Again(Duration),
    /// It has not had its turn, and will have none in this run.
    Left,
}

/// What the ends of calls have told so far, by model: some may be out of reach while others are answered.
#[derive(Default, Debug)]
pub(super) struct Patience(HashMap<Option<String>, Door>);

/// Who answers the lines of one model.
#[derive(Default, Debug)]
struct Door {
    /// When somebody last answered, if only to refuse.
    alive: Option<Instant>,
    /// Since when nobody is to be reached.
    outage: Option<Instant>,
    /// A line has had its answer.
    has_answered: bool,
    /// Since when the key is refused.
    refused: Option<Instant>,
    /// In whose words it is closed for this run.
    closed: Option<String>,
}

impl Patience {
    /// Whether lines of this model may be asked.
    pub(super) fn is_open(&self, model: Option<&str>) -> bool {
        self.0.get(&model.map(str::to_owned)).is_none_or(|door| door.closed.is_none())
    }

    /// Models that nobody answers any more, and why.
    pub(super) fn closed(&self) -> Vec<(&str, &str)> {
        let closed = self.0.iter().filter_map(|(model, door)| Some((model.as_deref(), door.closed.as_deref()?)));
        let mut closed: Vec<_> = closed.map(|(model, why)| (model.unwrap_or("(none)"), why)).collect();
        closed.sort_unstable();
        closed
    }

    /// Judges the end of a call to `model` that began at `begun`, while `others` were under way, and adds it to its line's
    /// `tries`.
    pub(super) fn judge(
        &mut self,
        outcome: &Outcome,
        model: Option<&str>,
        tries: &mut Tries,
        begun: Instant,
        others: usize,
        now: Instant,
    ) -> Verdict {
        let door = self.door(model);
        let error = match outcome {
            Ok(_) => {
                door.alive(now);
                (door.has_answered, door.refused) = (true, None);
                return Verdict::Ended;
            }
            Err(error) => error,
        };
        tries.attempts += error.meta().attempts;
        let verdict = door.judge(error, tries, begun, others, now);
        if matches!(verdict, Verdict::Again(_)) {
            tries.again += 1;
        }
        verdict
    }

    fn door(&mut self, model: Option<&str>) -> &mut Door {
        self.0.entry(model.map(str::to_owned)).or_default()
    }
}

impl Door {
    fn judge(&mut self, error: &Error, tries: &mut Tries, begun: Instant, others: usize, now: Instant) -> Verdict {
        let again = Verdict::Again(wait(tries.again, error.retry_after()));
        match error.kind() {
            ErrorKind::Draining => Verdict::Left,
            ErrorKind::Overloaded | ErrorKind::Restarting => again,
            // Sent away without an attempt for those that stand before it. Alone it is told the truth about itself.
            ErrorKind::DeadlineExceeded if error.meta().attempts == 0 => {
                let is_late = now.saturating_duration_since(begun) >= SOON;
                if others > 0 || is_late { again } else { Verdict::Ended }
            }
            ErrorKind::Upstream if is_refusal(error) => self.refused(error, now),
            _ if is_outage(error) => self.unreached(error, tries, begun, now).unwrap_or(again),
            // Its limits are the account's.
            ErrorKind::Upstream if error.status() == 429 && tries.attempts < ATTEMPTS_MAX => {
                self.alive(now);
                again
            }
            ErrorKind::Upstream => {
                self.alive(now);
                Verdict::Ended
            }
            _ => Verdict::Ended,
        }
    }

    fn alive(&mut self, now: Instant) {
        (self.alive, self.outage) = (Some(now), None);
    }

    /// Nobody was there to answer. `None` for a line that goes again.
    fn unreached(&mut self, error: &Error, tries: &mut Tries, begun: Instant, now: Instant) -> Option<Verdict> {
        if self.alive.is_some_and(|alive| alive >= begun) {
            tries.alone += u32::from(error.meta().attempts > 0);
            return (tries.alone >= ALONE_MAX).then_some(Verdict::Ended);
        }
        let lasts = now.saturating_duration_since(*self.outage.get_or_insert(now));
        let is_enough = lasts >= if self.alive.is_some() { OUTAGE_MAX } else { NEVER_ANSWERED };
        if is_enough || self.closed.is_some() {
            self.close(|| format!("nothing was answered for {}: {}", time(lasts), in_words(error)));
            return Some(Verdict::Left);
        }
        (tries.attempts >= ATTEMPTS_MAX && lasts >= OUTAGE_BORNE).then_some(Verdict::Ended)
    }

    /// Every key that could serve the call was refused, or has no money.
    fn refused(&mut self, error: &Error, now: Instant) -> Verdict {
        self.alive(now);
        let since = *self.refused.get_or_insert(now);
        if self.has_answered && now.saturating_duration_since(since) < REFUSED_MAX {
            return Verdict::Again(REFUSED_WAIT);
        }
        self.close(|| in_words(error));
        Verdict::Left
    }

    fn close(&mut self, why: impl FnOnce() -> String) {
        self.closed.get_or_insert_with(why);
    }
}

/// The wait of a line that was told to come again `again` times before, not below what was asked for.
fn wait(again: u32, asked: Option<Duration>) -> Duration {
    let growing = WAIT_MIN.saturating_mul(2_u32.saturating_pow(again)).min(WAIT_MAX);
    growing.max(asked.unwrap_or_default().min(2 * WAIT_MAX))
}

/// Whether the upstream refuses the key, whatever is asked.
fn is_refusal(error: &Error) -> bool {
    let says = |test: fn(&ErrorBody) -> bool| error.answer().is_some_and(|(_, body)| test(&ErrorBody::read(body)));
    match error.status() {
        401 | 402 => true,
        400..=499 => says(ErrorBody::is_out_of_money) || says(ErrorBody::is_key_refused),
        _ => false,
    }
}

/// Whether nobody was there to answer.
fn is_outage(error: &Error) -> bool {
    use ErrorKind::{Upstream, UpstreamRedirected, UpstreamUnavailable};
    match error.kind() {
        UpstreamUnavailable | UpstreamRedirected => true,
        Upstream => error.status() >= 500,
        _ => false,
    }
}

/// An error as a person is told of it.
pub(super) fn in_words(error: &Error) -> String {
    let theirs = error.answer().map(|(_, body)| ErrorBody::read(body));
    let theirs = theirs.as_ref().map(ErrorBody::message).filter(|message| !message.is_empty());
    let upstream = error.meta().upstream.as_deref().unwrap_or("the upstream");
    let words = match (error.answer(), theirs) {
        (Some(_), Some(theirs)) => format!("{upstream} answered {}: {theirs}", error.status()),
        (Some(_), None) => format!("{upstream} answered {}", error.status()),
        (None, _) => error.message().to_owned(),
    };
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock;
    use crate::messages::{Answer, AnswerBody, Headers, Meta};

    fn good() -> Outcome {
        let (headers, body) = (Headers::new(), AnswerBody::Whole(Bytes::from_static(b"{}")));
        Ok(Answer { status: 200, headers, body, meta: Meta::default() })
    }

    fn of(kind: ErrorKind) -> Outcome {
        Err(Error::new(kind, "why").with_meta(Meta { attempts: 5, ..Meta::default() }))
    }

    fn status(status: u16, body: &'static str) -> Outcome {
        let meta = Meta { attempts: 1, ..Meta::default() };
        Err(Error::upstream(status, Headers::new(), Bytes::from_static(body.as_bytes())).with_meta(meta))
    }

    fn broken() -> Outcome {
        Err(Error::new(ErrorKind::UpstreamUnavailable, "broken").with_retry_after(Duration::from_secs(1)))
    }

    /// A run whose calls all began when it did; time goes by as it is told.
    struct Run {
        patience: Patience,
        start: Instant,
    }

    impl Run {
        fn new() -> Self {
            let start = clock::now();
            Self { patience: Patience::default(), start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// The verdict on a line that has been through `tries`, which are told.
        fn told(&mut self, outcome: Outcome, tries: &mut Tries, begun: u64, now: u64) -> Verdict {
            let (begun, now) = (self.at(begun), self.at(now));
            self.patience.judge(&outcome, Some("m"), tries, begun, 1, now)
        }

        /// The verdict on a line of its own.
        fn judge(&mut self, outcome: Outcome, begun: u64, now: u64) -> Verdict {
            self.told(outcome, &mut Tries::default(), begun, now)
        }
    }

    #[test]
    fn what_is_no_fault_of_a_line_lets_it_wait_and_go_again() {
        let mut run = Run::new();
        for kind in [ErrorKind::Overloaded, ErrorKind::Restarting] {
            assert_eq!(run.judge(of(kind), 0, 1), Verdict::Again(WAIT_MIN), "{kind:?}");
        }
        for outcome in [broken(), status(429, "{}")] {
            assert_eq!(run.judge(outcome, 0, 1), Verdict::Again(WAIT_MIN));
        }
        let waits = [0, 1, 4, 5, 100].map(|again| wait(again, None).as_secs());
        assert_eq!(waits, [1, 2, 16, 30, 30]);
        assert_eq!(wait(0, Some(Duration::from_secs(20))).as_secs(), 20);
        assert_eq!(wait(0, Some(Duration::from_secs(9_999))).as_secs(), 60);
    }

    #[test]
    fn a_call_that_has_really_failed_is_its_line_s_end() {
        let mut run = Run::new();
        for outcome in [good(), status(400, "{}"), status(404, "{}"), status(422, "{}")] {
            assert_eq!(run.judge(outcome, 0, 1), Verdict::Ended);
        }
        for kind in [ErrorKind::WorkerCrashed, ErrorKind::DeadlineExceeded, ErrorKind::ModelNotFound] {
            assert_eq!(run.judge(of(kind), 0, 1), Verdict::Ended, "{kind:?}");
        }
    }

    #[test]
    fn an_outage_is_no_fault_of_a_line() {
        let down = || of(ErrorKind::UpstreamUnavailable);
        let mut run = Run::new();
        run.judge(good(), 0, 1);
        assert_eq!(run.judge(down(), 2, 10), Verdict::Again(WAIT_MIN));
        assert_eq!(run.judge(status(503, "{}"), 2, 10), Verdict::Again(WAIT_MIN));
        let mut tries = Tries { again: 9, attempts: 10, alone: 1 };
        assert_eq!(run.told(down(), &mut tries, 2, 909), Verdict::Again(WAIT_MAX), "attempts do not count in it");
        assert_eq!(run.told(down(), &mut tries, 2, 910), Verdict::Ended, "that long the line may be the reason");
        assert_eq!(run.judge(broken(), 2, 910), Verdict::Again(WAIT_MIN), "this one has hardly been tried");
    }

    #[test]
    fn a_line_that_finds_nobody_while_others_are_answered_has_failed_the_second_time() {
        for failure in
            [|| of(ErrorKind::UpstreamUnavailable), || of(ErrorKind::UpstreamRedirected), || status(500, "{}")]
        {
            let (mut run, mut tries) = (Run::new(), Tries::default());
            run.judge(good(), 0, 1);
            assert_eq!(
                run.told(failure(), &mut tries, 0, 2),
                Verdict::Again(WAIT_MIN),
                "an outage may have begun at 1"
            );
            assert_eq!(run.told(broken(), &mut tries, 0, 3), Verdict::Again(2 * WAIT_MIN), "it was not even tried");
            assert_eq!(run.told(failure(), &mut tries, 4, 9), Verdict::Again(4 * WAIT_MIN), "nobody was there since 1");
            run.judge(good(), 4, 10);
            assert_eq!(run.told(failure(), &mut tries, 10, 12), Verdict::Ended);
        }
    }

    #[test]
    fn a_line_sent_away_for_those_before_it_comes_again_and_alone_it_hears_the_truth() {
        let mut run = Run::new();
        let sent_away = || Err(Error::new(ErrorKind::DeadlineExceeded, "no time"));
        assert_eq!(run.judge(sent_away(), 0, 0), Verdict::Again(WAIT_MIN));
        let (start, late) = (run.start, run.at(90_000));
        let mut alone = |now| run.patience.judge(&sent_away(), None, &mut Tries::default(), start, 0, now);
        assert_eq!(alone(start), Verdict::Ended);
        assert_eq!(alone(late), Verdict::Again(WAIT_MIN), "a day is over and it has not had its turn");
    }

    #[test]
    fn a_refused_key_leaves_the_lines_of_its_models_to_another_run() {
        for refusal in [
            status(401, r#"{"error":{"message":"Incorrect API key"}}"#),
            status(402, ""),
            status(429, r#"{"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}"#),
            status(400, r#"{"error":{"details":[{"@type":"x/ErrorInfo","reason":"API_KEY_INVALID"}]}}"#),
        ] {
            let mut run = Run::new();
            assert_eq!(run.judge(refusal, 0, 1), Verdict::Left);
            assert!(!run.patience.is_open(Some("m")) && run.patience.is_open(Some("n")));
            assert_eq!(run.patience.closed().len(), 1);
        }
    }

    #[test]
    fn a_key_that_has_answered_is_given_time_before_its_refusal_is_believed() {
        let mut run = Run::new();
        run.judge(good(), 0, 1);
        let refused = || status(401, "{}");
        assert_eq!(run.judge(refused(), 1, 2), Verdict::Again(REFUSED_WAIT));
        assert_eq!(run.judge(good(), 2, 70), Verdict::Ended);
        assert_eq!(run.judge(refused(), 2, 100), Verdict::Again(REFUSED_WAIT), "counted anew");
        assert_eq!(run.judge(refused(), 2, 279), Verdict::Again(REFUSED_WAIT));
        assert_eq!(run.judge(refused(), 2, 280), Verdict::Left);
        assert_eq!(run.patience.closed(), [("m", "the upstream answered 401")]);
    }

    #[test]
    fn lines_that_nobody_ever_answers_are_soon_left_and_those_in_an_outage_late() {
        let mut run = Run::new();
        assert_eq!(run.judge(broken(), 0, 10), Verdict::Again(WAIT_MIN));
        assert_eq!(run.judge(broken(), 10, 129), Verdict::Again(WAIT_MIN));
        assert_eq!(run.judge(broken(), 10, 130), Verdict::Left);
        assert_eq!(run.patience.closed(), [("m", "nothing was answered for 2m 0s: broken")]);

        let mut run = Run::new();
        run.judge(good(), 0, 1);
        assert_eq!(run.judge(broken(), 50_000, 50_010), Verdict::Again(WAIT_MIN), "silence alone is no outage");
        assert_eq!(run.judge(broken(), 50_000, 50_010 + 1_799), Verdict::Again(WAIT_MIN));
        assert_eq!(run.judge(broken(), 50_000, 50_010 + 1_800), Verdict::Left);
    }

    #[test]
    fn who_answers_for_one_model_says_nothing_of_another() {
        let mut run = Run::new();
        let of_other = |run: &mut Run, outcome: Outcome, now| {
            let (begun, now) = (run.start, run.at(now));
            run.patience.judge(&outcome, Some("n"), &mut Tries::default(), begun, 1, now)
        };
        assert_eq!(run.judge(broken(), 0, 10), Verdict::Again(WAIT_MIN));
        assert_eq!(of_other(&mut run, good(), 100), Verdict::Ended);
        assert_eq!(run.judge(of(ErrorKind::UpstreamUnavailable), 0, 101), Verdict::Again(WAIT_MIN));
        assert_eq!(run.judge(broken(), 0, 130), Verdict::Left);
        assert!(!run.patience.is_open(Some("m")) && run.patience.is_open(Some("n")));
    }
}

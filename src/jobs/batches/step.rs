//! What is next for a batch.

use std::time::Duration;

use crate::store::Ms;
use crate::store::batches::{BatchRecord, BatchStatus};

/// The least and the most time between two looks at a batch whose lines are being called.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A bite to be taken, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Look through its file.
    Check,
    /// Make jobs of more lines.
    Load,
    /// Call off lines that are not being called, and look again in a while.
    Cancel(Duration),
    /// All its jobs have their ends: on to its files.
    Finalize,
    /// Write what came of its lines.
    Write,
    /// Nothing but to look again in a while.
    Wait(Duration),
}

/// The next bite of a batch that has not ended.
pub(super) fn step(batch: &BatchRecord, now: Ms) -> Step {
    let have_ends = batch.counts.ended() >= batch.taken;
    match batch.status {
        BatchStatus::Validating => Step::Check,
        // Lines that have not become jobs by then will have no chance.
        BatchStatus::InProgress if batch.taken < batch.total && now < batch.expires_at => Step::Load,
        BatchStatus::InProgress if have_ends => Step::Finalize,
        BatchStatus::InProgress => Step::Wait(pause(batch.times.in_progress, now)),
        BatchStatus::Cancelling if have_ends => Step::Write,
        BatchStatus::Cancelling => Step::Cancel(pause(batch.times.cancelling, now)),
        BatchStatus::Finalizing => Step::Write,
        BatchStatus::Failed | BatchStatus::Completed | BatchStatus::Expired | BatchStatus::Cancelled => {
            Step::Wait(LOOKS.1)
        }
    }
}

/// How long until the next look at what has gone on for a while: a tenth of that.
fn pause(since: Option<Ms>, now: Ms) -> Duration {
    let age = now.saturating_sub(since.unwrap_or(now));
    Duration::from_millis(u64::try_from(age / 10).unwrap_or_default()).clamp(LOOKS.0, LOOKS.1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;
    use crate::store::batches::Counts;

    #[test]
    fn a_batch_is_looked_through_loaded_awaited_and_written() {
        let mut batch = record();
        let mut next = |change: &dyn Fn(&mut BatchRecord)| {
            change(&mut batch);
            step(&batch, 1_000)
        };
        assert_eq!(next(&|_| {}), Step::Check);
        assert_eq!(next(&|batch| (batch.status, batch.total) = (BatchStatus::InProgress, 3)), Step::Load);
        assert_eq!(next(&|batch| batch.taken = 3), Step::Wait(LOOKS.0));
        assert_eq!(
            next(&|batch| batch.counts = Counts { completed: 2, failed: 1, ..Counts::default() }),
            Step::Finalize
        );
        assert_eq!(next(&|batch| batch.status = BatchStatus::Finalizing), Step::Write);
    }

    #[test]
    fn once_its_time_is_up_no_more_lines_become_jobs_and_those_that_are_have_their_ends_first() {
        let batch = BatchRecord { status: BatchStatus::InProgress, total: 3, taken: 1, ..record() };
        assert_eq!(step(&batch, batch.expires_at - 1), Step::Load);
        assert!(matches!(step(&batch, batch.expires_at), Step::Wait(_)));
        let counts = Counts { failed: 1, ..Counts::default() };
        assert_eq!(step(&BatchRecord { counts, ..batch.clone() }, batch.expires_at), Step::Finalize);
    }

    #[test]
    fn a_batch_that_is_called_off_waits_for_the_calls_under_way_alone() {
        let batch = BatchRecord { status: BatchStatus::Cancelling, total: 3, taken: 1, ..record() };
        assert!(matches!(step(&batch, 0), Step::Cancel(_)));
        let counts = Counts { completed: 1, ..Counts::default() };
        assert_eq!(step(&BatchRecord { counts, ..batch }, 0), Step::Write);
    }

    #[test]
    fn a_batch_that_takes_long_is_looked_at_less_often() {
        assert_eq!([0, 3_000, 60_000].map(|age| pause(Some(0), age)), [LOOKS.0, Duration::from_millis(300), LOOKS.1]);
        assert_eq!(pause(Some(60_000), 0), LOOKS.0, "a clock that was set back");
    }
}

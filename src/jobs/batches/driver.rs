//! Takes open batches forward: a bite of each in turn, and then again. All of the work is done where the store does its own,
//! beside the threads that carry calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::check::{BatchError, Check, Checked};
use super::step::{Step, step};
use super::{load, write};
use crate::clock::{self, Instant};
use crate::config::Config;
use crate::jobs::submission::is_served;
use crate::messages::{BatchId, FileId, JobId};
use crate::store::batches::{BatchRecord, BatchStatus};
use crate::store::{Changes, Ms, Records, Store, StoreError};
use crate::telemetry;

/// What is looked through in one bite.
const CHECK_PIECES: usize = 4;

/// Lines called off in one bite.
const CANCEL_LINES: usize = 500;

/// Between two rounds of throwing away what is kept no longer.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Rows thrown away in one bite: some megabytes of a file, or batches.
const PRUNE_ROWS: usize = 16;

/// After the store has refused something.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// Whoever runs jobs.
pub(crate) trait Runner {
    /// More jobs wait in these queues; they are out of time then.
    fn queued(&self, queues: &BTreeSet<Arc<str>>, expires_at: Ms);

    /// These jobs were claimed, and have been called off.
    fn let_go(&self, jobs: &[JobId]);
}

/// Everything that takes batches forward.
pub(crate) struct Driver<R> {
    store: Store,
    runner: R,
    /// The configuration in force.
    config: Box<dyn Fn() -> Arc<Config>>,
    /// Wall time.
    now: Box<dyn Fn() -> Ms>,
    /// Woken when a batch is accepted or called off.
    wake: Arc<Notify>,
    /// The batch that is being looked through. One at a time, since that takes memory.
    checking: Option<(BatchId, Check)>,
    pruned: Option<Instant>,
}

impl<R: Runner> Driver<R> {
    pub(crate) fn new(
        store: Store,
        runner: R,
        config: impl Fn() -> Arc<Config> + 'static,
        now: impl Fn() -> Ms + 'static,
        wake: Arc<Notify>,
    ) -> Self {
        let (config, now) = (Box::new(config), Box::new(now));
        Self { store, runner, config, now, wake, checking: None, pruned: None }
    }

    /// Takes batches forward until the store closes.
    pub(crate) async fn run(mut self) {
        loop {
            let rest = match self.round().await {
                Err(StoreError::Closed) => return,
                round => rest_of(round, None),
            };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = clock::until(clock::now() + rest) => {}
            }
        }
    }

    /// One bite of each open batch. Gives how long there is nothing to do behind it.
    pub(super) async fn round(&mut self) -> Result<Duration, StoreError> {
        let mut rest = self.prune().await?;
        for batch in self.store.read(|records| records.open_batches()).await? {
            // What is wrong with one batch keeps no other waiting.
            let of_batch = match self.bite(&batch).await {
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                bite => rest_of(bite, Some(batch.id)),
            };
            rest = rest.min(of_batch);
        }
        Ok(rest)
    }

    /// One bite of a batch.
    async fn bite(&mut self, batch: &BatchRecord) -> Result<Duration, StoreError> {
        let (id, now, config) = (batch.id, (self.now)(), (self.config)());
        let max_line_bytes = config.server.max_body;
        match step(batch, now) {
            Step::Wait(rest) => return Ok(rest),
            Step::Check => self.check(batch, config).await?,
            Step::Load => {
                let loaded = self.store.write(move |store| load::load(store, id, now, max_line_bytes));
                self.runner.queued(&loaded.await?, batch.expires_at);
            }
            Step::Cancel(rest) => {
                let cancelled = self.store.write(move |store| store.cancel_lines(id, now, CANCEL_LINES)).await?;
                let claimed: Vec<_> =
                    cancelled.iter().filter(|(_, is_claimed)| *is_claimed).map(|(id, _)| *id).collect();
                self.runner.let_go(&claimed);
                if cancelled.len() < CANCEL_LINES {
                    return Ok(rest);
                }
            }
            Step::Finalize => self.store.write(move |store| change(store, id, |batch| finalize(batch, now))).await?,
            Step::Write => {
                let keep_for = Ms::try_from(config.store.keep_results_for.as_millis()).unwrap_or(Ms::MAX);
                let write = move |store: &mut dyn Changes| {
                    write::write(store, id, now, keep_for, max_line_bytes)?;
                    store.batch(id)
                };
                if let Some(ended) = self.store.write(write).await?.filter(|batch| batch.status.is_end()) {
                    telemetry::batches::ended(id, ended.status.name(), ended.counts.completed, ended.counts.failed);
                }
            }
        }
        Ok(Duration::ZERO)
    }

    /// Looks through some more of a batch's file; behind its end the batch goes on, or fails.
    async fn check(&mut self, batch: &BatchRecord, config: Arc<Config>) -> Result<(), StoreError> {
        let (id, input) = (batch.id, batch.input);
        let (being, check) =
            self.checking.take().unwrap_or_else(|| (id, Check::new(batch.endpoint, config.server.max_body)));
        if being != id {
            // Its turn comes, unless the one before it was called off.
            let is_open = self.store.read(move |records| records.batch(being)).await?;
            if is_open.is_some_and(|batch| batch.status == BatchStatus::Validating) {
                self.checking = Some((being, check));
            }
            return Ok(());
        }
        match self.store.read(move |records| look_through(records, input, check, &config)).await? {
            Looked::Some(check) => self.checking = Some((id, *check)),
            Looked::All(checked) => {
                let now = (self.now)();
                if let Err(errors) = &checked {
                    telemetry::batches::refused(id, errors.len());
                }
                self.store.write(move |store| change(store, id, |batch| settle(batch, checked, now))).await?;
            }
        }
        Ok(())
    }

    /// Throws away a bite of what is kept no longer. Gives how long there is nothing more.
    async fn prune(&mut self) -> Result<Duration, StoreError> {
        let due = self.pruned.map_or_else(clock::now, |pruned| pruned + PRUNE_EVERY);
        if clock::now() < due {
            return Ok(due - clock::now());
        }
        let (owner, now) = (self.store.owner(), (self.now)());
        let keep_for = Ms::try_from((self.config)().store.keep_results_for.as_millis()).unwrap_or(Ms::MAX);
        let before = now.saturating_sub(keep_for);
        let prune = move |store: &mut dyn Changes| {
            Ok(store.prune_files(owner, now, PRUNE_ROWS)? + store.prune_batches(before, PRUNE_ROWS)?)
        };
        if self.store.write(prune).await? > 0 {
            return Ok(Duration::ZERO);
        }
        self.pruned = Some(clock::now());
        Ok(PRUNE_EVERY)
    }
}

/// How long there is nothing to do behind what came to that.
fn rest_of(came: Result<Duration, StoreError>, batch: Option<BatchId>) -> Duration {
    came.unwrap_or_else(|error| {
        telemetry::batches::held_up(batch, &error);
        AFTER_ERROR
    })
}

/// How far a file has been looked through.
enum Looked {
    Some(Box<Check>),
    All(Result<Checked, Vec<BatchError>>),
}

fn look_through(records: &dyn Records, input: FileId, mut check: Check, config: &Config) -> Result<Looked, StoreError> {
    let endpoint = check.endpoint();
    let is_served = |model: &str| is_served(config, endpoint, Some(model));
    for _ in 0..CHECK_PIECES {
        let piece = match check.wants() {
            Some(at) => match records.piece(input, at) {
                Err(StoreError::Corrupt(_)) => return Ok(Looked::All(Err(vec![BatchError::damaged()]))),
                piece => piece?,
            },
            None => None,
        };
        let Some(piece) = piece else { return Ok(Looked::All(check.finish(is_served))) };
        check.push(piece, is_served);
    }
    Ok(Looked::Some(Box::new(check)))
}

/// Changes the batch `id` as it is by now.
fn change(store: &mut dyn Changes, id: BatchId, change: impl FnOnce(&mut BatchRecord)) -> Result<(), StoreError> {
    if let Some(mut batch) = store.batch(id)? {
        change(&mut batch);
        store.keep_batch(&batch)?;
    }
    Ok(())
}

/// Its file has been looked through.
fn settle(batch: &mut BatchRecord, checked: Result<Checked, Vec<BatchError>>, now: Ms) {
    if batch.status != BatchStatus::Validating {
        return;
    }
    match checked {
        Ok(Checked { total, model }) => {
            (batch.status, batch.total, batch.model) = (BatchStatus::InProgress, total, model);
            batch.times.in_progress = Some(now);
        }
        Err(errors) => {
            // Texts and numbers: nothing that could not be written.
            let errors = serde_json::to_vec(&errors).unwrap_or_default();
            (batch.status, batch.errors) = (BatchStatus::Failed, Some(Bytes::from(errors)));
            batch.times.ended = Some(now);
        }
    }
}

/// All its jobs have their ends.
fn finalize(batch: &mut BatchRecord, now: Ms) {
    if batch.status == BatchStatus::InProgress {
        batch.status = BatchStatus::Finalizing;
        batch.times.finalizing = Some(now);
    }
}

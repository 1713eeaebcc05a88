//! Webhooks to be delivered.

use std::sync::Arc;

use super::Memory;
use super::table::{Table, Undo};
use crate::messages::JobId;
use crate::store::outbox::{OutboxChanges, OutboxRecords, Outgoing};
use crate::store::{Ms, StoreError};

#[derive(Default)]
pub(super) struct Outbox {
    rows: Table<i64, Outgoing>,
    due: Table<(Ms, i64), ()>,
    of_job: Table<JobId, i64>,
    /// The number given last.
    last: i64,
}

impl Outbox {
    pub(super) fn tables(&mut self) -> [&mut dyn Undo; 3] {
        [&mut self.rows, &mut self.due, &mut self.of_job]
    }

    /// The end of `job` is to be told at `url`.
    pub(super) fn post(&mut self, job: JobId, url: Arc<str>, due: Ms) {
        self.last += 1;
        let number = self.last;
        self.rows.put(number, Outgoing { number, job, url, attempts: 0, due });
        self.due.put((due, number), ());
        self.of_job.put(job, number);
    }

    fn remove(&mut self, number: i64) -> Option<Outgoing> {
        let row = self.rows.get(&number)?.clone();
        self.rows.remove(&number);
        self.due.remove(&(row.due, number));
        self.of_job.remove(&row.job);
        Some(row)
    }

    /// There is no such job any more.
    pub(super) fn forget(&mut self, job: JobId) {
        if let Some(&number) = self.of_job.get(&job) {
            self.remove(number);
        }
    }
}

impl OutboxRecords for Memory {
    fn outgoing(&self, now: Ms, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        let due = self.outbox.due.range(..=(now, i64::MAX)).take(limit);
        Ok(due.filter_map(|((_, number), ())| self.outbox.rows.get(number).cloned()).collect())
    }

    fn next_outgoing(&self) -> Result<Option<Ms>, StoreError> {
        Ok(self.outbox.due.iter().next().map(|((due, _), ())| *due))
    }
}

impl OutboxChanges for Memory {
    fn outgoing_done(&mut self, number: i64) -> Result<(), StoreError> {
        self.outbox.remove(number);
        Ok(())
    }

    fn outgoing_again(&mut self, number: i64, due: Ms) -> Result<(), StoreError> {
        if let Some(row) = self.outbox.remove(number) {
            let row = Outgoing { attempts: row.attempts + 1, due, ..row };
            self.outbox.due.put((due, number), ());
            self.outbox.of_job.put(row.job, number);
            self.outbox.rows.put(number, row);
        }
        Ok(())
    }
}

//! Batches, and their lines among the jobs.

use std::sync::Arc;

use super::Memory;
use super::table::{Table, Undo};
use crate::messages::{BatchId, FileId, JobId, JobStatus};
use crate::store::batches::{
    BatchChanges, BatchFilter, BatchRecord, BatchRecords, BatchStatus, BatchTimes, Counts, Created, EndedLine, NewBatch,
};
use crate::store::{Ms, StoreError};

type Name = Option<Arc<str>>;

#[derive(Clone)]
struct Row {
    key: Name,
    digest: [u8; 32],
    record: BatchRecord,
}

pub(super) struct Batches {
    rows: Table<BatchId, Row>,
    listed: Table<(Name, BatchId), ()>,
    keys: Table<(Name, Arc<str>), BatchId>,
    open: Table<BatchId, ()>,
    ended: Table<(Ms, BatchId), ()>,
    /// The number of the next batch.
    next: i64,
}

impl Batches {
    pub(super) fn new(first: i64) -> Self {
        Self {
            rows: Table::default(),
            listed: Table::default(),
            keys: Table::default(),
            open: Table::default(),
            ended: Table::default(),
            next: first,
        }
    }

    pub(super) fn tables(&mut self) -> [&mut dyn Undo; 5] {
        [&mut self.rows, &mut self.listed, &mut self.keys, &mut self.open, &mut self.ended]
    }

    /// Whether an open batch reads this file.
    pub(super) fn is_read(&self, file: FileId) -> bool {
        self.open.iter().any(|(id, ())| self.rows.get(id).is_some_and(|row| row.record.input == file))
    }

    /// Puts `row` in the place of what is there, in every index.
    fn put(&mut self, row: Row) {
        let BatchRecord { id, ref tenant, .. } = row.record;
        self.listed.put((tenant.clone(), id), ());
        if let Some(key) = &row.key {
            self.keys.put((tenant.clone(), Arc::clone(key)), id);
        }
        match row.record.times.ended {
            None => self.open.put(id, ()),
            Some(at) => {
                self.open.remove(&id);
                self.ended.put((at, id), ());
            }
        }
        self.rows.put(id, row);
    }

    pub(super) fn count(&mut self, id: BatchId, more: &Counts) {
        if let Some(mut row) = self.rows.get(&id).cloned() {
            row.record.counts.add(more);
            self.put(row);
        }
    }

    fn remove(&mut self, id: BatchId) {
        let Some(Row { key, record, .. }) = self.rows.get(&id).cloned() else { return };
        self.listed.remove(&(record.tenant.clone(), id));
        key.map(|key| self.keys.remove(&(record.tenant.clone(), key)));
        self.open.remove(&id);
        record.times.ended.map(|at| self.ended.remove(&(at, id)));
        self.rows.remove(&id);
    }
}

impl BatchRecords for Memory {
    fn batch(&self, id: BatchId) -> Result<Option<BatchRecord>, StoreError> {
        Ok(self.batches.rows.get(&id).map(|row| row.record.clone()))
    }

    fn batches(&self, filter: &BatchFilter) -> Result<Vec<BatchRecord>, StoreError> {
        let BatchFilter { tenant, after, limit } = filter;
        let end = after.unwrap_or(BatchId::of(i64::MAX));
        let listed = self.batches.listed.range((tenant.clone(), BatchId::of(0))..(tenant.clone(), end)).rev();
        let found = listed.take(*limit).filter_map(|((_, id), ())| self.batches.rows.get(id));
        Ok(found.map(|row| row.record.clone()).collect())
    }

    fn open_batches(&self) -> Result<Vec<BatchRecord>, StoreError> {
        let open = self.batches.open.iter().filter_map(|(id, ())| self.batches.rows.get(id));
        Ok(open.map(|row| row.record.clone()).collect())
    }
}

impl BatchChanges for Memory {
    fn create_batch(&mut self, batch: &NewBatch) -> Result<Created, StoreError> {
        let batches = &mut self.batches;
        let known = batch.key.as_ref().and_then(|key| batches.keys.get(&(batch.tenant.clone(), key.clone())));
        if let Some((&id, row)) = known.and_then(|id| Some((id, batches.rows.get(id)?))) {
            return Ok(if row.digest == batch.digest { Created::Same(id) } else { Created::Conflict(id) });
        }
        let id = BatchId::of(batches.next);
        batches.next += 1;
        let record = BatchRecord {
            id,
            tenant: batch.tenant.clone(),
            input: batch.input,
            endpoint: batch.endpoint,
            metadata: batch.metadata.clone(),
            created_at: batch.created_at,
            expires_at: batch.expires_at,
            keep_files_for: batch.keep_files_for,
            status: BatchStatus::Validating,
            times: BatchTimes::default(),
            model: None,
            errors: None,
            total: 0,
            taken: 0,
            taken_bytes: 0,
            written: 0,
            has_expired: false,
            output: None,
            output_bytes: 0,
            error: None,
            error_bytes: 0,
            counts: Counts::default(),
        };
        batches.put(Row { key: batch.key.clone(), digest: batch.digest, record });
        Ok(Created::New(id))
    }

    fn keep_batch(&mut self, batch: &BatchRecord) -> Result<(), StoreError> {
        if let Some(row) = self.batches.rows.get(&batch.id).cloned() {
            let record = BatchRecord { counts: row.record.counts, ..batch.clone() };
            self.batches.put(Row { record, ..row });
        }
        Ok(())
    }

    fn count_lines(&mut self, id: BatchId, more: &Counts) -> Result<(), StoreError> {
        self.batches.count(id, more);
        Ok(())
    }

    fn take_lines(&mut self, id: BatchId, limit: usize, max_bytes: usize) -> Result<Vec<EndedLine>, StoreError> {
        let mut bytes = 0;
        let lines = self.jobs.lines(id).map_while(|job| self.jobs.ended_line(job)).take(limit);
        let lines: Vec<EndedLine> = lines
            .enumerate()
            .take_while(|(at, line)| {
                bytes += if *at == 0 { 0 } else { line.end.as_ref().map_or(0, |end| end.len()) };
                bytes <= max_bytes
            })
            .map(|(_, line)| line)
            .collect();
        lines.iter().for_each(|line| self.jobs.remove(line.job));
        Ok(lines)
    }

    fn cancel_lines(&mut self, id: BatchId, at: Ms, limit: usize) -> Result<Vec<(JobId, bool)>, StoreError> {
        let waiting: Vec<_> = self.jobs.waiting_lines(id).take(limit).collect();
        for (job, _) in &waiting {
            self.end_as(*job, JobStatus::Cancelled, at);
        }
        Ok(waiting)
    }

    fn prune_batches(&mut self, ended_before: Ms, limit: usize) -> Result<usize, StoreError> {
        let ended = self.batches.ended.range(..(ended_before, BatchId::of(0))).filter_map(|((_, id), ())| {
            let record = &self.batches.rows.get(id)?.record;
            let has_files = [record.output, record.error].into_iter().flatten().any(|file| self.files.is_there(file));
            (!has_files).then_some(*id)
        });
        let gone: Vec<BatchId> = ended.take(limit).collect();
        gone.iter().for_each(|id| self.batches.remove(*id));
        Ok(gone.len())
    }
}

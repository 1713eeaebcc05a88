//! The kind that keeps nothing beyond the process: sorted maps, and the works of one transaction taken back from an undo log.

mod batches;
mod files;
mod jobs;
mod memories;
mod outbox;
mod table;

use super::StoreError;
use super::engine::Engine;
use crate::clock::Dice;

/// A store in memory.
pub(super) struct Memory {
    jobs: jobs::Jobs,
    batches: batches::Batches,
    files: files::Files,
    outbox: outbox::Outbox,
    memories: memories::Memories,
}

impl Memory {
    pub(super) fn new() -> Self {
        let first = super::first_id(&mut Dice::new());
        Self {
            jobs: jobs::Jobs::new(first),
            batches: batches::Batches::new(first),
            files: files::Files::new(first),
            outbox: outbox::Outbox::default(),
            memories: memories::Memories::default(),
        }
    }

    /// Every table, to be kept or taken back as one.
    fn tables(&mut self) -> impl Iterator<Item = &mut dyn table::Undo> {
        let jobs = self.jobs.tables().into_iter().chain(self.batches.tables()).chain(self.files.tables());
        jobs.chain(self.outbox.tables()).chain(self.memories.tables())
    }
}

impl Engine for Memory {
    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn mark(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        self.tables().for_each(table::Undo::keep);
        Ok(())
    }

    fn undo(&mut self) -> Result<(), StoreError> {
        self.tables().for_each(table::Undo::undo);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

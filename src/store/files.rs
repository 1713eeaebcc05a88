//! Files: what batches are read from and written to.
//!
//! A file is begun, grows piece by piece, and is seen by its tenant from the moment it is sealed; its bytes are rows like all
//! else, so that it is there whole or not at all. One that is removed or has expired is hidden at once. Its bytes go in bites,
//! and not before every batch that reads them has ended. What was begun by an opening of the store that is gone, and never
//! sealed, goes the same way.

use std::sync::Arc;

use bytes::Bytes;

use super::{Ms, Owner, StoreError};
use crate::messages::FileId;

/// The most bytes of a file in one row. Whoever reads or writes a file holds about as much.
pub(crate) const PIECE_MAX_BYTES: usize = 512 * 1024;

/// What a file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// The lines of a batch, uploaded.
    Batch,
    /// What came of a batch's lines.
    BatchOutput,
}

impl Purpose {
    /// Every purpose.
    pub(crate) const ALL: [Purpose; 2] = [Purpose::Batch, Purpose::BatchOutput];

    /// Its name in OpenAI's API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Purpose::Batch => "batch",
            Purpose::BatchOutput => "batch_output",
        }
    }

    /// The purpose of this name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }
}

/// A file that is begun.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) purpose: Purpose,
    /// In whose hands it grows: without them it is lost. Nobody's are those that a batch grows, for as long as it takes.
    pub(crate) owner: Option<Owner>,
}

/// A file that is whole.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    pub(crate) file: FileId,
    pub(crate) name: Arc<str>,
    pub(crate) created_at: Ms,
    pub(crate) expires_at: Option<Ms>,
}

/// A sealed file, without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileRecord {
    pub(crate) id: FileId,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) purpose: Purpose,
    pub(crate) name: Arc<str>,
    pub(crate) bytes: u64,
    pub(crate) created_at: Ms,
    pub(crate) expires_at: Option<Ms>,
}

/// Which files are listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileFilter {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) purpose: Option<Purpose>,
    /// Only those behind this one in the list.
    pub(crate) after: Option<FileId>,
    /// Newest first otherwise.
    pub(crate) oldest_first: bool,
    pub(crate) limit: usize,
}

/// Reading files.
pub(crate) trait FileRecords {
    /// A sealed file; `None` where `tenant` has none of that id.
    fn file(&self, id: FileId, tenant: Option<&str>) -> Result<Option<FileRecord>, StoreError>;

    fn files(&self, filter: &FileFilter) -> Result<Vec<FileRecord>, StoreError>;

    /// What stands in the file from `at` on, as far as one row goes; `None` at its end, and when its bytes are gone. Whether it
    /// is sealed, or removed already, does not matter.
    fn piece(&self, id: FileId, at: u64) -> Result<Option<Bytes>, StoreError>;
}

/// Changing files.
pub(crate) trait FileChanges {
    fn begin_file(&mut self, file: &NewFile) -> Result<FileId, StoreError>;

    /// Adds `piece`, of any size, at `at`, which must be the end of what is there. `false`: it is not, or the file is sealed or
    /// gone.
    fn grow_file(&mut self, id: FileId, at: u64, piece: &Bytes) -> Result<bool, StoreError>;

    /// `false`: it is sealed or gone already.
    fn seal_file(&mut self, seal: &Seal) -> Result<bool, StoreError>;

    /// Hides a file, sealed or not; `false` where `tenant` has none of that id.
    fn remove_file(&mut self, id: FileId, tenant: Option<&str>) -> Result<bool, StoreError>;

    /// Hides what has expired by `now` and what openings before `owner` have left unsealed, and removes what is hidden and read by
    /// no open batch: at most `limit` rows in all; gives how many.
    fn prune_files(&mut self, owner: Owner, now: Ms, limit: usize) -> Result<usize, StoreError>;
}

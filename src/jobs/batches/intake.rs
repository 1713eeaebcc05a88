//! Files and batches as callers ask for them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::upload::Upload;
use crate::jobs::refusal;
use crate::messages::{BatchId, Endpoint, Error, ErrorKind, FileId};
use crate::store::batches::{BatchFilter, BatchRecord, BatchStatus, Created, NewBatch};
use crate::store::files::{FileFilter, FileRecord, NewFile, Purpose};
use crate::store::{Changes, Ms, Store, StoreError};

/// How long a batch may take.
const WINDOW: Ms = 24 * 60 * 60 * 1_000;

/// Files and batches of all tenants. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batches {
    store: Store,
    /// Wakes whoever takes batches forward.
    wake: Arc<Notify>,
}

/// What is asked for when a batch is.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) key: Option<Arc<str>>,
    /// SHA-256 of the request's body.
    pub(crate) digest: [u8; 32],
    pub(crate) input: FileId,
    pub(crate) endpoint: Endpoint,
    pub(crate) metadata: Option<Bytes>,
    pub(crate) keep_files_for: Option<Ms>,
}

impl Batches {
    /// `wake` is notified when there is something to take forward.
    pub(crate) fn new(store: Store, wake: Arc<Notify>) -> Self {
        Self { store, wake }
    }

    /// A file of `tenant` that is about to come.
    pub(crate) async fn upload(&self, tenant: Option<Arc<str>>) -> Result<Upload, Error> {
        let owner = Some(self.store.owner());
        Upload::begin(&self.store, NewFile { tenant, purpose: Purpose::Batch, owner }).await
    }

    /// A file, without its bytes.
    pub(crate) async fn file(&self, id: FileId, tenant: Option<Arc<str>>) -> Result<FileRecord, Error> {
        let found = self.store.read(move |records| records.file(id, tenant.as_deref()));
        found.await.map_err(refusal)?.ok_or_else(|| no_such("file", &id))
    }

    pub(crate) async fn files(&self, filter: FileFilter) -> Result<Vec<FileRecord>, Error> {
        self.store.read(move |records| records.files(&filter)).await.map_err(refusal)
    }

    /// What stands in a file from `at` on, as far as one row goes; `None` at its end.
    pub(crate) async fn piece(&self, id: FileId, at: u64) -> Result<Option<Bytes>, Error> {
        self.store.read(move |records| records.piece(id, at)).await.map_err(refusal)
    }

    pub(crate) async fn remove_file(&self, id: FileId, tenant: Option<Arc<str>>) -> Result<(), Error> {
        let removed = self.store.write(move |changes| changes.remove_file(id, tenant.as_deref()));
        if removed.await.map_err(refusal)? { Ok(()) } else { Err(no_such("file", &id)) }
    }

    /// Accepts a batch.
    ///
    /// # Errors
    /// `not_found` without such a file, `invalid_request` for one that is no input, `idempotency_conflict` when its key has been
    /// used for something else.
    pub(crate) async fn create(&self, ask: Ask, now: Ms) -> Result<BatchRecord, Error> {
        let input = ask.input;
        let made = self.store.accept(0, move |changes| create(changes, ask, now)).await.map_err(refusal)?;
        self.wake.notify_one();
        match made {
            Made::Batch(batch) => Ok(*batch),
            Made::NoFile => Err(no_such("file", &input).with_param("input_file_id")),
            Made::NotForBatches => {
                let message = format!("{input} is not for batches: upload one with the purpose `batch`");
                Err(Error::new(ErrorKind::InvalidRequest, message).with_param("input_file_id"))
            }
            Made::Conflict(id) => {
                let message = format!("this Idempotency-Key was used for another request, which made {id}");
                Err(Error::new(ErrorKind::IdempotencyConflict, message))
            }
        }
    }

    pub(crate) async fn batch(&self, id: BatchId, tenant: Option<Arc<str>>) -> Result<BatchRecord, Error> {
        let found = self.store.read(move |records| records.batch(id)).await.map_err(refusal)?;
        found.filter(|batch| batch.tenant == tenant).ok_or_else(|| no_such("batch", &id))
    }

    pub(crate) async fn batches(&self, filter: BatchFilter) -> Result<Vec<BatchRecord>, Error> {
        self.store.read(move |records| records.batches(&filter)).await.map_err(refusal)
    }

    /// Calls a batch off; one that is called off already stays so.
    ///
    /// # Errors
    /// `not_found`, and `invalid_request` when it is too late.
    pub(crate) async fn cancel(&self, id: BatchId, tenant: Option<Arc<str>>, now: Ms) -> Result<BatchRecord, Error> {
        let cancelled = self.store.write(move |changes| {
            let Some(mut batch) = changes.batch(id)?.filter(|batch| batch.tenant == tenant) else { return Ok(None) };
            if matches!(batch.status, BatchStatus::Validating | BatchStatus::InProgress) {
                batch.status = BatchStatus::Cancelling;
                batch.times.cancelling = Some(now);
                changes.keep_batch(&batch)?;
            }
            Ok(Some(batch))
        });
        let batch = cancelled.await.map_err(refusal)?.ok_or_else(|| no_such("batch", &id))?;
        self.wake.notify_one();
        match batch.status {
            BatchStatus::Cancelling | BatchStatus::Cancelled => Ok(batch),
            status => {
                let message = format!("a batch with the status {:?} cannot be cancelled", status.name());
                Err(Error::new(ErrorKind::InvalidRequest, message))
            }
        }
    }
}

/// What became of an [`Ask`].
enum Made {
    Batch(Box<BatchRecord>),
    NoFile,
    NotForBatches,
    Conflict(BatchId),
}

fn create(changes: &mut dyn Changes, ask: Ask, now: Ms) -> Result<Made, StoreError> {
    let new = NewBatch {
        tenant: ask.tenant,
        key: ask.key,
        digest: ask.digest,
        input: ask.input,
        endpoint: ask.endpoint,
        metadata: ask.metadata,
        created_at: now,
        expires_at: now.saturating_add(WINDOW),
        keep_files_for: ask.keep_files_for,
    };
    match changes.file(new.input, new.tenant.as_deref())? {
        None => return Ok(Made::NoFile),
        Some(file) if file.purpose != Purpose::Batch => return Ok(Made::NotForBatches),
        Some(_) => {}
    }
    let id = match changes.create_batch(&new)? {
        Created::New(id) | Created::Same(id) => id,
        Created::Conflict(id) => return Ok(Made::Conflict(id)),
    };
    Ok(changes.batch(id)?.map_or(Made::NoFile, |batch| Made::Batch(Box::new(batch))))
}

fn no_such(what: &str, id: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such {what}: {id}"))
}

//! A file on its way into the store: two pieces of it are in memory at most.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::clock;
use crate::jobs::refusal;
use crate::messages::{Error, ErrorKind, FileId};
use crate::store::files::{FileRecord, NewFile, PIECE_MAX_BYTES, Seal};
use crate::store::{Store, StoreError};

/// What one upload holds in memory.
pub(crate) const UPLOAD_BYTES: usize = 2 * PIECE_MAX_BYTES;

/// Between two tries to hand a piece to a store that is behind.
const AGAIN: Duration = Duration::from_millis(100);

/// And how many there are: an upload waits some ten seconds.
const TRIES: u32 = 100;

type Growing = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A file that grows. Dropped before it is sealed, nothing of it stays.
pub(crate) struct Upload {
    store: Store,
    tenant: Option<Arc<str>>,
    /// Taken when the file is sealed.
    file: Option<FileId>,
    /// What has come and has not been handed over.
    gathered: BytesMut,
    handed_over: u64,
    /// The piece that the store is writing.
    growing: Option<Growing>,
}

impl Upload {
    /// Begins `file`.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn begin(store: &Store, file: NewFile) -> Result<Self, Error> {
        let tenant = file.tenant.clone();
        let begun = store.accept(0, move |changes| changes.begin_file(&file)).await.map_err(refusal)?;
        Ok(Self {
            store: store.clone(),
            tenant,
            file: Some(begun),
            gathered: BytesMut::new(),
            handed_over: 0,
            growing: None,
        })
    }

    /// How long it is by now.
    pub(crate) fn len(&self) -> u64 {
        self.handed_over + self.gathered.len() as u64
    }

    /// Adds what has come. Waits for the disk while that is slower than the caller.
    ///
    /// # Errors
    /// What the store says of an earlier piece; then it cannot be sealed any more.
    pub(crate) async fn add(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.gathered.capacity() == 0 {
                self.gathered.reserve(PIECE_MAX_BYTES);
            }
            let fits = bytes.split_to(bytes.len().min(PIECE_MAX_BYTES - self.gathered.len()));
            self.gathered.extend_from_slice(&fits);
            if self.gathered.len() == PIECE_MAX_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Makes it a file that its tenant sees.
    ///
    /// # Errors
    /// What the store says; nothing of it stays then.
    pub(crate) async fn seal(mut self, seal: impl FnOnce(FileId) -> Seal) -> Result<FileRecord, Error> {
        self.hand_over().await?;
        self.settle().await?;
        let file = self.file.ok_or_else(gone)?;
        let (seal, tenant) = (seal(file), self.tenant.clone());
        let sealed = self.store.accept(0, move |changes| match changes.seal_file(&seal)? {
            true => changes.file(file, tenant.as_deref()),
            false => Ok(None),
        });
        let record = sealed.await.map_err(refusal)?.ok_or_else(gone)?;
        self.file = None;
        Ok(record)
    }

    /// Hands over what has gathered, when the piece before it is written.
    async fn hand_over(&mut self) -> Result<(), Error> {
        self.settle().await?;
        let piece = std::mem::take(&mut self.gathered).freeze();
        let Some(file) = self.file.filter(|_| !piece.is_empty()) else { return Ok(()) };
        let (store, at) = (self.store.clone(), self.handed_over);
        self.handed_over += piece.len() as u64;
        self.growing = Some(Box::pin(grow(store, file, at, piece)));
        // Under way from here on, without being waited for.
        if let Some(growing) = &mut self.growing
            && let Some(done) = futures_util::FutureExt::now_or_never(growing)
        {
            self.growing = None;
            return done;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Error> {
        match &mut self.growing {
            Some(growing) => {
                let done = growing.await;
                self.growing = None;
                done
            }
            None => Ok(()),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(file) = self.file {
            // Should this come to nothing, the next opening of the store finds it unsealed.
            let tenant = self.tenant.take();
            drop(self.store.write(move |changes| changes.remove_file(file, tenant.as_deref())));
        }
    }
}

async fn grow(store: Store, file: FileId, at: u64, piece: Bytes) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        let bytes = piece.clone();
        match store.accept(piece.len(), move |changes| changes.grow_file(file, at, &bytes)).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(gone()),
            Err(StoreError::Behind) if tries < TRIES => {
                tries += 1;
                clock::until(clock::now() + AGAIN).await;
            }
            Err(error) => return Err(refusal(error)),
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Overloaded, "the store has lost hold of the file; upload it again")
        .with_retry_after(Duration::from_secs(1))
}

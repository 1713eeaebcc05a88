//! What is remembered beside jobs: what was learned of accounts' limits, and answers kept for callers' idempotency keys.

use std::fmt;

use bytes::Bytes;

use super::{Ms, StoreError};

/// An answer kept for whoever asks again with the same key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeptAnswer {
    pub(crate) tenant: Option<Box<str>>,
    pub(crate) key: Box<str>,
    /// SHA-256 of the request.
    pub(crate) digest: [u8; 32],
    pub(crate) status: u16,
    /// Headers as the gateway wrote them down.
    pub(crate) headers: Bytes,
    pub(crate) body: Bytes,
    pub(crate) expires_at: Ms,
}

impl fmt::Debug for KeptAnswer {
    /// Sizes only: answers are private, and so are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptAnswer({} of {} bytes, until {})", self.status, self.body.len(), self.expires_at)
    }
}

/// Reading memories.
pub(crate) trait MemoryRecords {
    /// What was remembered last under each name.
    fn remembered(&self) -> Result<Vec<(String, Bytes)>, StoreError>;

    /// The answer kept for this key, if it has not expired by `now`.
    fn kept_answer(&self, tenant: Option<&str>, key: &str, now: Ms) -> Result<Option<KeptAnswer>, StoreError>;
}

/// Changing memories.
pub(crate) trait MemoryChanges {
    /// Remembers `what` under `name`, in place of what was there.
    fn remember(&mut self, name: &str, what: &Bytes) -> Result<(), StoreError>;

    /// Keeps an answer, in place of one of the same tenant and key.
    fn keep_answer(&mut self, answer: &KeptAnswer) -> Result<(), StoreError>;

    /// Removes at most `limit` answers that have expired; gives how many.
    fn forget_answers(&mut self, now: Ms, limit: usize) -> Result<usize, StoreError>;
}

//! What is remembered beside jobs.

use bytes::Bytes;

use super::Memory;
use super::table::{Table, Undo};
use crate::store::memories::{KeptAnswer, MemoryChanges, MemoryRecords};
use crate::store::{Ms, StoreError};

/// A tenant, or nobody, and its caller's key.
type Key = (Option<Box<str>>, Box<str>);

#[derive(Default)]
pub(super) struct Memories {
    remembered: Table<String, Bytes>,
    answers: Table<Key, KeptAnswer>,
    expiring: Table<(Ms, Key), ()>,
}

impl Memories {
    pub(super) fn tables(&mut self) -> [&mut dyn Undo; 3] {
        [&mut self.remembered, &mut self.answers, &mut self.expiring]
    }

    fn remove(&mut self, key: &Key) {
        if let Some(expires_at) = self.answers.get(key).map(|answer| answer.expires_at) {
            self.answers.remove(key);
            self.expiring.remove(&(expires_at, key.clone()));
        }
    }
}

impl MemoryRecords for Memory {
    fn remembered(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        Ok(self.memories.remembered.iter().map(|(name, what)| (name.clone(), what.clone())).collect())
    }

    fn kept_answer(&self, tenant: Option<&str>, key: &str, now: Ms) -> Result<Option<KeptAnswer>, StoreError> {
        let answer = self.memories.answers.get(&(tenant.map(Into::into), key.into()));
        Ok(answer.filter(|answer| answer.expires_at > now).cloned())
    }
}

impl MemoryChanges for Memory {
    fn remember(&mut self, name: &str, what: &Bytes) -> Result<(), StoreError> {
        self.memories.remembered.put(name.into(), what.clone());
        Ok(())
    }

    fn keep_answer(&mut self, answer: &KeptAnswer) -> Result<(), StoreError> {
        let key: Key = (answer.tenant.clone(), answer.key.clone());
        self.memories.remove(&key);
        self.memories.expiring.put((answer.expires_at, key.clone()), ());
        self.memories.answers.put(key, answer.clone());
        Ok(())
    }

    fn forget_answers(&mut self, now: Ms, limit: usize) -> Result<usize, StoreError> {
        let expired = self.memories.expiring.iter().map(|(key, ())| key);
        let expired: Vec<Key> =
            expired.take_while(|(at, _)| *at <= now).take(limit).map(|(_, key)| key.clone()).collect();
        expired.iter().for_each(|key| self.memories.remove(key));
        Ok(expired.len())
    }
}

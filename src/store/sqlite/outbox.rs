//! Webhooks to be delivered.

use rusqlite::params;

use super::codes::id_of;
use super::{Sqlite, limit};
use crate::store::outbox::{OutboxChanges, OutboxRecords, Outgoing};
use crate::store::{Ms, StoreError};

impl OutboxRecords for Sqlite {
    fn outgoing(&self, now: Ms, at_most: usize) -> Result<Vec<Outgoing>, StoreError> {
        self.all(
            "SELECT number, job, url, attempts, due FROM outbox WHERE due <= ?1 ORDER BY due, number LIMIT ?2",
            params![now, limit(at_most)],
            |row| {
                Ok(Outgoing {
                    number: row.get("number")?,
                    job: id_of(row, "job")?,
                    url: row.get("url")?,
                    attempts: row.get("attempts")?,
                    due: row.get("due")?,
                })
            },
        )
    }

    fn next_outgoing(&self) -> Result<Option<Ms>, StoreError> {
        self.one("SELECT due FROM outbox ORDER BY due LIMIT 1", (), |row| row.get(0))
    }
}

impl OutboxChanges for Sqlite {
    fn outgoing_done(&mut self, number: i64) -> Result<(), StoreError> {
        self.change("DELETE FROM outbox WHERE number = ?1", [number]).map(drop)
    }

    fn outgoing_again(&mut self, number: i64, due: Ms) -> Result<(), StoreError> {
        self.change("UPDATE outbox SET attempts = attempts + 1, due = ?2 WHERE number = ?1", [number, due]).map(drop)
    }
}

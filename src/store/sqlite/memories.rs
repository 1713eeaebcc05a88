//! What is remembered beside jobs.

use bytes::Bytes;
use rusqlite::params;

use super::codes::tenant;
use super::{Sealed, Sqlite, limit};
use crate::store::memories::{KeptAnswer, MemoryChanges, MemoryRecords};
use crate::store::{Ms, StoreError};

/// What an answer's checksum is of. Its row has no number that outlives a replacement: the key is summed instead.
fn crc_of(answer: &KeptAnswer) -> Sealed<'_, 5> {
    let KeptAnswer { tenant: of, key, digest, headers, body, status, .. } = answer;
    let id = i64::from(*status);
    Sealed { id, parts: [tenant(of.as_deref()).as_bytes(), key.as_bytes(), digest, headers, body] }
}

impl MemoryRecords for Sqlite {
    fn remembered(&self) -> Result<Vec<(String, Bytes)>, StoreError> {
        let kept = self.all("SELECT name, crc, what FROM memory ORDER BY name", (), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?))
        })?;
        let whole = kept.into_iter().map(|(name, crc, what)| {
            Sealed { id: 0, parts: [name.as_bytes(), &what] }.check(crc, "memory")?;
            Ok((name, Bytes::from(what)))
        });
        whole.collect()
    }

    fn kept_answer(&self, of: Option<&str>, key: &str, now: Ms) -> Result<Option<KeptAnswer>, StoreError> {
        let found = self.one(
            "SELECT digest, status, headers, body, expires_at, crc FROM answer
             WHERE tenant = ?1 AND key = ?2 AND expires_at > ?3",
            params![tenant(of), key, now],
            |row| {
                let answer = KeptAnswer {
                    tenant: of.map(Into::into),
                    key: key.into(),
                    digest: row.get("digest")?,
                    status: row.get("status")?,
                    headers: row.get::<_, Vec<u8>>("headers")?.into(),
                    body: row.get::<_, Vec<u8>>("body")?.into(),
                    expires_at: row.get("expires_at")?,
                };
                Ok((answer, row.get("crc")?))
            },
        )?;
        let Some((answer, crc)) = found else { return Ok(None) };
        crc_of(&answer).check(crc, "answer")?;
        Ok(Some(answer))
    }
}

impl MemoryChanges for Sqlite {
    fn remember(&mut self, name: &str, what: &Bytes) -> Result<(), StoreError> {
        let crc = self.seal(&Sealed { id: 0, parts: [name.as_bytes(), what] });
        self.change(
            "INSERT INTO memory (name, crc, what) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET crc = excluded.crc, what = excluded.what",
            params![name, crc, &what[..]],
        )
        .map(drop)
    }

    fn keep_answer(&mut self, answer: &KeptAnswer) -> Result<(), StoreError> {
        let crc = self.seal(&crc_of(answer));
        let of = tenant(answer.tenant.as_deref());
        self.change("DELETE FROM answer WHERE tenant = ?1 AND key = ?2", params![of, answer.key])?;
        self.change(
            "INSERT INTO answer (tenant, key, digest, status, expires_at, crc, headers, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                of,
                answer.key,
                answer.digest,
                answer.status,
                answer.expires_at,
                crc,
                &answer.headers[..],
                &answer.body[..]
            ],
        )
        .map(drop)
    }

    fn forget_answers(&mut self, now: Ms, at_most: usize) -> Result<usize, StoreError> {
        self.change(
            "DELETE FROM answer WHERE id IN (
                 SELECT id FROM answer WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            params![now, limit(at_most)],
        )
    }
}

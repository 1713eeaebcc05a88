//! Files.

use bytes::Bytes;
use rusqlite::{Row, params};

use super::codes::{file_id_of, purpose_of, tenant, tenant_of};
use super::{Sealed, Sqlite, limit};
use crate::messages::FileId;
use crate::store::files::{FileChanges, FileFilter, FileRecord, FileRecords, NewFile, PIECE_MAX_BYTES, Purpose, Seal};
use crate::store::{Ms, Owner, StoreError};

fn record(row: &Row<'_>) -> rusqlite::Result<FileRecord> {
    Ok(FileRecord {
        id: file_id_of(row, "id")?,
        tenant: tenant_of(row, "tenant")?,
        purpose: purpose_of(row, "purpose")?,
        name: row.get("name")?,
        bytes: row.get::<_, i64>("bytes")?.unsigned_abs(),
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
    })
}

/// A place in a file, as SQLite counts. No file is larger than it can count.
fn place(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

impl FileRecords for Sqlite {
    fn file(&self, id: FileId, of: Option<&str>) -> Result<Option<FileRecord>, StoreError> {
        let sql = "SELECT * FROM file WHERE id = ?1 AND tenant = ?2 AND state = 'sealed'";
        self.one(sql, params![id.number(), tenant(of)], record)
    }

    fn files(&self, filter: &FileFilter) -> Result<Vec<FileRecord>, StoreError> {
        let of = tenant(filter.tenant.as_deref());
        let purpose = filter.purpose.map(Purpose::name);
        if filter.oldest_first {
            let after = filter.after.map_or(-1, FileId::number);
            self.all(
                "SELECT * FROM file WHERE state = 'sealed' AND tenant = ?1 AND id > ?2 AND (?3 IS NULL OR purpose = ?3)
                 ORDER BY id LIMIT ?4",
                params![of, after, purpose, limit(filter.limit)],
                record,
            )
        } else {
            let before = filter.after.map_or(i64::MAX, FileId::number);
            self.all(
                "SELECT * FROM file WHERE state = 'sealed' AND tenant = ?1 AND id < ?2 AND (?3 IS NULL OR purpose = ?3)
                 ORDER BY id DESC LIMIT ?4",
                params![of, before, purpose, limit(filter.limit)],
                record,
            )
        }
    }

    fn piece(&self, id: FileId, at: u64) -> Result<Option<Bytes>, StoreError> {
        let found = self.one(
            "SELECT at, crc, body FROM piece WHERE file = ?1 AND at <= ?2 ORDER BY at DESC LIMIT 1",
            params![id.number(), place(at)],
            |row| Ok((row.get::<_, i64>("at")?.unsigned_abs(), row.get("crc")?, row.get::<_, Vec<u8>>("body")?)),
        )?;
        let Some((begins, crc, body)) = found else { return Ok(None) };
        Sealed { id: id.number(), parts: [&begins.to_le_bytes(), &body] }.check(crc, "piece of file")?;
        let skipped = usize::try_from(at - begins).ok().filter(|skipped| *skipped < body.len());
        Ok(skipped.map(|skipped| Bytes::from(body).slice(skipped..)))
    }
}

impl FileChanges for Sqlite {
    fn begin_file(&mut self, file: &NewFile) -> Result<FileId, StoreError> {
        if file.owner.is_some() {
            self.accepts()?;
        }
        self.change(
            "INSERT INTO file (owner, tenant, purpose) VALUES (?1, ?2, ?3)",
            params![file.owner.map(|owner| owner.0), tenant(file.tenant.as_deref()), file.purpose.name()],
        )?;
        Ok(FileId::of(self.db.last_insert_rowid()))
    }

    fn grow_file(&mut self, id: FileId, at: u64, piece: &Bytes) -> Result<bool, StoreError> {
        let owner = self.one(
            "UPDATE file SET bytes = bytes + ?3 WHERE id = ?1 AND state = 'grows' AND bytes = ?2 RETURNING owner",
            params![id.number(), place(at), place(piece.len() as u64)],
            |row| row.get::<_, Option<i64>>("owner"),
        )?;
        match owner {
            None => return Ok(false),
            // What callers bring; what has come of their calls is kept for as long as there is any room.
            Some(Some(_)) => self.accepts()?,
            Some(None) => {}
        }
        let mut begins = at;
        for row in piece.chunks(PIECE_MAX_BYTES) {
            let crc = self.seal(&Sealed { id: id.number(), parts: [&begins.to_le_bytes(), row] });
            self.change(
                "INSERT INTO piece (file, at, crc, body) VALUES (?1, ?2, ?3, ?4)",
                params![id.number(), place(begins), crc, row],
            )?;
            begins += row.len() as u64;
        }
        Ok(true)
    }

    fn seal_file(&mut self, seal: &Seal) -> Result<bool, StoreError> {
        self.tell(seal.created_at);
        let sealed = self.change(
            "UPDATE file SET state = 'sealed', owner = NULL, name = ?2, created_at = ?3, expires_at = ?4
             WHERE id = ?1 AND state = 'grows'",
            params![seal.file.number(), seal.name, seal.created_at, seal.expires_at],
        )?;
        Ok(sealed > 0)
    }

    fn remove_file(&mut self, id: FileId, of: Option<&str>) -> Result<bool, StoreError> {
        let hidden = self.change(
            "UPDATE file SET state = 'hidden' WHERE id = ?1 AND tenant = ?2 AND state <> 'hidden'",
            params![id.number(), tenant(of)],
        )?;
        Ok(hidden > 0)
    }

    fn prune_files(&mut self, owner: Owner, now: Ms, at_most: usize) -> Result<usize, StoreError> {
        self.tell(now);
        let mut touched = self.change(
            "UPDATE file SET state = 'hidden' WHERE id IN (
                 SELECT id FROM file WHERE state = 'sealed' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            params![now, limit(at_most)],
        )?;
        touched += self.change(
            "UPDATE file SET state = 'hidden' WHERE id IN (
                 SELECT id FROM file WHERE state = 'grows' AND owner < ?1 ORDER BY owner LIMIT ?2)",
            params![owner.0, limit(at_most - touched)],
        )?;
        let goes = self.all(
            "SELECT id FROM file WHERE state = 'hidden'
                 AND NOT EXISTS (SELECT 1 FROM batch WHERE batch.input = file.id AND ended_at IS NULL)
             ORDER BY id LIMIT ?1",
            [limit(at_most - touched)],
            |row| row.get::<_, i64>(0),
        )?;
        for id in goes {
            touched += self.change(
                "DELETE FROM piece WHERE rowid IN (SELECT rowid FROM piece WHERE file = ?1 ORDER BY at LIMIT ?2)",
                params![id, limit(at_most - touched)],
            )?;
            if touched >= at_most {
                break;
            }
            touched += self.change("DELETE FROM file WHERE id = ?1", [id])?;
        }
        Ok(touched)
    }
}

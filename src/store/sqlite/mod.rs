//! The kind that is one SQLite file: written by one thread, read beside it by another.
//!
//! `file` opens it or says why not, `lock` keeps others out, `migrations` bring its tables up to date, `room` watches the disk. One file a noun has the
//! statements; every statement that callers cause finds its rows by an index, which `plans` holds in every test.

mod batches;
mod codes;
mod file;
mod files;
mod job_records;
mod jobs;
mod lock;
mod memories;
mod migrations;
mod outbox;
#[cfg(test)]
mod plans;
mod room;

use std::cell::{Cell, RefCell};
use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Params, Row, ffi};

pub(super) use self::file::{Options, open};
use self::lock::Lock;
use self::room::Room;
use super::engine::Engine;
use super::planted::{self, Point};
use super::writer::View;
use super::{Ms, Owner, StoreError};
use crate::telemetry::store as events;

/// As many pages are given back to the system at once, when a quarter of the file is free and that is no fewer.
const FREED_PAGES: i64 = 256;

/// The wall time that was told is written down when it has moved as much.
const TOLD_GRAIN_MS: Ms = 1_000;

/// One connection to the file, for writing or for reading.
pub(super) struct Sqlite {
    db: Connection,
    /// The opening it belongs to.
    owner: Owner,
    /// Held for as long as it is open for writing.
    _lock: Option<Lock>,
    room: Option<Room>,
    log_max_pages: i64,
    /// Bytes of bodies since the transaction began.
    brought: Cell<usize>,
    /// The latest wall time that anybody told it, and what of that is written down.
    told: Cell<Ms>,
    told_on_disk: Ms,
    /// Why nothing more may be asked of the file.
    broken: RefCell<Option<String>>,
    /// Whether the disk was full since the transaction began.
    was_full: Cell<bool>,
    /// Whether anything was written since it was tidied last.
    is_untidy: bool,
    #[cfg(test)]
    plans: plans::Plans,
}

impl Sqlite {
    fn new(db: Connection, owner: Owner) -> Self {
        db.set_prepared_statement_cache_capacity(128);
        Self {
            db,
            owner,
            _lock: None,
            room: None,
            log_max_pages: i64::MAX,
            brought: Cell::new(0),
            told: Cell::new(0),
            told_on_disk: 0,
            broken: RefCell::new(None),
            was_full: Cell::new(false),
            is_untidy: false,
            #[cfg(test)]
            plans: plans::Plans::default(),
        }
    }

    /// What SQLite's error means for whoever asked, and for all that is asked later.
    fn failed(&self, error: rusqlite::Error) -> StoreError {
        let told = error_of(error);
        match &told {
            StoreError::Full(_) => self.was_full.set(true),
            StoreError::Io(why) | StoreError::Corrupt(why) => {
                self.broken.borrow_mut().get_or_insert_with(|| why.clone());
            }
            StoreError::Behind | StoreError::Closed => {}
        }
        told
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<rusqlite::CachedStatement<'_>> {
        #[cfg(test)]
        self.plans.look(&self.db, sql);
        self.db.prepare_cached(sql)
    }

    /// Runs a statement that gives no rows; gives how many it changed.
    fn change(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        self.statement(sql).and_then(|mut statement| statement.execute(params)).map_err(|error| self.failed(error))
    }

    /// The first row of a statement, if there is one.
    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let found = self.statement(sql).and_then(|mut statement| statement.query_row(params, read).optional());
        found.map_err(|error| self.failed(error))
    }

    /// All rows of a statement.
    fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.statement(sql).and_then(|mut statement| statement.query_map(params, read)?.collect());
        rows.map_err(|error| self.failed(error))
    }

    /// The checksum to be stored with something large; it counts as brought.
    fn seal<const PARTS: usize>(&self, sealed: &Sealed<'_, PARTS>) -> u32 {
        self.brought.set(self.brought.get() + sealed.parts.iter().map(|part| part.len()).sum::<usize>());
        sealed.crc()
    }

    /// Somebody said that it is `at`.
    fn tell(&self, at: Ms) {
        self.told.set(self.told.get().max(at));
    }

    /// Refuses what callers bring while the disk is short of room.
    fn accepts(&self) -> Result<(), StoreError> {
        self.room.as_ref().map_or(Ok(()), Room::accepts)
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.change(sql, ()).map(drop)
    }

    /// The error of a transaction that SQLite itself has given up.
    fn given_up(&self) -> StoreError {
        match self.broken.borrow().clone() {
            Some(why) => StoreError::Io(why),
            None if self.was_full.get() => StoreError::Full("database or disk is full".into()),
            None => StoreError::Io("the transaction was given up".into()),
        }
    }

    /// Whether what was begun still stands: SQLite gives a transaction up by itself when a statement met a full or failing disk.
    fn stands(&self) -> Result<(), StoreError> {
        if self.db.is_autocommit() || self.broken.borrow().is_some() { Err(self.given_up()) } else { Ok(()) }
    }
}

/// Something large on its way to the disk or back: its row's id, the small things beside it, and itself.
struct Sealed<'a, const PARTS: usize> {
    id: i64,
    parts: [&'a [u8]; PARTS],
}

impl<const PARTS: usize> Sealed<'_, PARTS> {
    /// Each part's length is summed with it, so that no byte can move from one to the next.
    fn crc(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.id.to_le_bytes());
        for part in self.parts {
            crc.update(&(part.len() as u64).to_le_bytes());
            crc.update(part);
        }
        crc.finalize()
    }

    fn check(&self, crc: u32, what: &str) -> Result<(), StoreError> {
        if self.crc() == crc {
            return Ok(());
        }
        events::row_damaged(what, self.id);
        Err(StoreError::Corrupt(format!("the checksum of {what} {} does not match", self.id)))
    }
}

/// What SQLite's error means.
fn error_of(error: rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error {
        rusqlite::Error::SqliteFailure(code, _) => match (code.code, code.extended_code) {
            // The file that readers share cannot grow either.
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full(text),
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => StoreError::Corrupt(text),
            // Somebody at a prompt has it locked for longer than it was waited.
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => StoreError::Behind,
            _ => StoreError::Io(format!("{text} (code {})", code.extended_code)),
        },
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => StoreError::Corrupt(text),
        _ => StoreError::Io(text),
    }
}

/// How many of these there are at most, as SQLite counts.
fn limit(limit: usize) -> Value {
    Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX))
}

impl Engine for Sqlite {
    fn begin(&mut self) -> Result<(), StoreError> {
        self.brought.set(0);
        self.was_full.set(false);
        if let Some(room) = &mut self.room {
            room.look();
        }
        self.execute("BEGIN IMMEDIATE")
    }

    fn mark(&mut self) -> Result<(), StoreError> {
        self.stands()?;
        self.execute("SAVEPOINT work")
    }

    fn keep(&mut self) -> Result<(), StoreError> {
        self.stands()?;
        self.execute("RELEASE work")
    }

    fn undo(&mut self) -> Result<(), StoreError> {
        self.stands()?;
        self.execute("ROLLBACK TO work")?;
        self.execute("RELEASE work")
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.stands()?;
        let told = self.told.get();
        let is_news = told >= self.told_on_disk.saturating_add(TOLD_GRAIN_MS);
        if is_news {
            self.change("INSERT INTO meta VALUES ('told', ?1) ON CONFLICT DO UPDATE SET value = ?1", [told])?;
        }
        planted::reach(Point::BeforeCommit);
        self.execute("COMMIT")?;
        planted::reach(Point::AfterCommit);
        self.is_untidy = true;
        if is_news {
            self.told_on_disk = told;
        }
        if self.was_full.get() {
            self.make_room();
        }
        if self.pages_in_log() > self.log_max_pages {
            self.checkpoint();
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if !self.db.is_autocommit() {
            // When even this fails, it is because there is nothing left to give up.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        if self.was_full.get() {
            self.make_room();
        }
    }

    fn brought(&self) -> usize {
        self.brought.get()
    }

    fn broken(&self) -> Option<String> {
        self.broken.borrow().clone()
    }

    fn tidy(&mut self) -> bool {
        let has_room = self.room.as_mut().is_none_or(Room::tidy);
        let is_smaller = self.shrink();
        if std::mem::take(&mut self.is_untidy) || is_smaller {
            self.checkpoint();
        }
        has_room && !is_smaller
    }

    fn close(&mut self) {
        // What is in the log is safe there too: this only spares the next opening the work.
        if self.one("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).is_ok() {
            let _ = file::remove_log_on_close(&self.db, true);
        }
    }
}

impl Sqlite {
    fn pages_in_log(&self) -> i64 {
        // Other than its name says, this only looks.
        self.one("PRAGMA wal_checkpoint(NOOP)", (), |row| row.get("log")).ok().flatten().unwrap_or_default()
    }

    /// Brings what is in the log into the file. It does not matter whether that succeeds now, as a reader may be in the way,
    /// unless the disk fails: then nothing more may be asked of it, and `failed` has noted that.
    fn checkpoint(&self) {
        let _ = self.one("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
    }

    /// Gives some of the file's free pages back to the system. `false`: there are too few for that.
    fn shrink(&self) -> bool {
        let count = |sql| self.one(sql, (), |row| row.get::<_, i64>(0)).ok().flatten().unwrap_or_default();
        let (free, all) = (count("PRAGMA freelist_count"), count("PRAGMA page_count"));
        free >= FREED_PAGES && free >= all / 4 && self.all("PRAGMA incremental_vacuum(256)", (), |_| Ok(())).is_ok()
    }

    fn make_room(&mut self) {
        if let Some(room) = &mut self.room {
            room.was_full();
        }
    }
}

impl View for Sqlite {
    fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN")
    }

    fn end(&mut self) {
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
    }
}

/// Where a file beside the store's own is: its name with something behind it.
fn beside(file: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

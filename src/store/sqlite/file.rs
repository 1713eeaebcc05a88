//! Opening the file: nobody else has it, it is ours, it is whole, it is up to date. A file that is not ours is never altered,
//! one that is damaged neither.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::lock::Lock;
use super::room::{AskSpace, Room, space};
use super::{Sqlite, beside, error_of, migrations};
use crate::clock::Dice;
use crate::store::planted::{self, Point};
use crate::store::{Ms, OpenError, Owner, StoreError};
use crate::telemetry::store as events;

/// What every SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Marks ours: `fbay`.
const APPLICATION_ID: i32 = 0x6662_6179;
/// Where a file has its mark.
const APPLICATION_ID_AT: usize = 68;
/// A file up to this size is checked page by page at each opening, which takes a quarter of a second at most.
const CHECKED_MAX_BYTES: u64 = 64 << 20;
/// A clock that went back by less moves nothing.
const TURNED_BACK_MIN_MS: Ms = 60_000;

/// What a test may have otherwise.
pub(in crate::store) struct Options {
    /// The wall time.
    pub(in crate::store) now: Ms,
    pub(in crate::store) dice: Dice,
    pub(in crate::store) ask_space: AskSpace,
    /// How a commit waits for the disk: nothing less than FULL keeps any promise.
    pub(in crate::store) synchronous: &'static str,
    /// The log is brought into the file when it has more pages, of 4 KiB.
    pub(in crate::store) log_max_pages: i64,
}

impl Options {
    pub(in crate::store) fn new(now: Ms) -> Self {
        Self { now, dice: Dice::new(), ask_space: Box::new(space), synchronous: "FULL", log_max_pages: 4_096 }
    }
}

/// Opens the file, or creates it: a connection to write and one to read.
pub(in crate::store) fn open(file: &Path, mut options: Options) -> Result<(Sqlite, Sqlite), OpenError> {
    let (folder, file) = place(file)?;
    let system = |error: io::Error| OpenError::System { file: file.clone(), detail: error.to_string() };
    if let Some(kind) = network(&folder) {
        return Err(OpenError::Network { file, kind });
    }
    let lock = Lock::take(&file)?;
    let is_new = match fs::metadata(&file) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(system(error)),
    };
    if is_new {
        create(&file, &mut options.dice)?;
        planted::reach(Point::AfterRename);
        sync_folder(&folder).map_err(system)?;
    } else if !is_ours(&file).map_err(system)? {
        return Err(OpenError::Foreign { file });
    }
    let opened = |error| refusal(&file, error);
    let db = Connection::open_with_flags(&file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).map_err(opened)?;
    let version = migrations::format(&db).map_err(opened)?;
    if version > migrations::FORMAT {
        return Err(OpenError::Newer { file, version, known: migrations::FORMAT });
    }
    set_up(&db, options.synchronous).map_err(opened)?;
    check(&db, &file)?;
    migrations::run(&db, &file).map_err(opened)?;
    let (owner, told) = begin(&db, options.now).map_err(opened)?;
    let read = Connection::open_with_flags(&file, flags(OpenFlags::SQLITE_OPEN_READ_ONLY)).map_err(opened)?;
    remove_log_on_close(&read, false).and_then(|()| read.pragma_update(None, "cache_size", -4_096)).map_err(opened)?;
    let mut write = Sqlite::new(db, owner);
    write.room = Some(Room::new(&folder, beside(&file, ".ballast"), options.ask_space));
    write.log_max_pages = options.log_max_pages;
    write.told.set(told);
    write.told_on_disk = told;
    write._lock = Some(lock);
    Ok((write, Sqlite::new(read, owner)))
}

/// The folder, and the file's one name: whoever comes by another way must find the same lock.
fn place(file: &Path) -> Result<(PathBuf, PathBuf), OpenError> {
    let system = |error: io::Error| OpenError::System { file: file.to_owned(), detail: error.to_string() };
    let file = match fs::canonicalize(file) {
        Ok(file) => file,
        Err(_) => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = file.file_name().ok_or_else(|| system(io::ErrorKind::InvalidFilename.into()))?;
            match fs::canonicalize(folder) {
                Ok(folder) => folder.join(name),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(OpenError::NoFolder { folder: folder.to_owned() });
                }
                Err(error) => return Err(system(error)),
            }
        }
    };
    if file.is_dir() {
        return Err(system(io::ErrorKind::IsADirectory.into()));
    }
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    Ok((folder, file))
}

/// Makes the file under another name first: under its own it is whole from the beginning, whenever the power goes.
fn create(file: &Path, dice: &mut Dice) -> Result<(), OpenError> {
    let draft = beside(file, ".new");
    let system = |error: io::Error| OpenError::System { file: file.to_owned(), detail: error.to_string() };
    for left in [draft.clone(), beside(&draft, "-journal"), beside(&draft, "-wal"), beside(&draft, "-shm")] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
            _ => {}
        }
    }
    // A log of a store that is gone would be taken for this one's.
    for left in [beside(file, "-journal"), beside(file, "-wal")] {
        if fs::metadata(&left).is_ok_and(|metadata| metadata.len() > 0) {
            let detail = format!("{} is there without it; move it away", left.display());
            return Err(OpenError::System { file: file.to_owned(), detail });
        }
    }
    drop(private().write(true).create_new(true).open(&draft).map_err(system)?);
    fill(&draft, dice).map_err(|error| refusal(file, error))?;
    let whole = File::open(&draft).and_then(|draft| draft.sync_all());
    whole.map_err(system)?;
    planted::reach(Point::BeforeRename);
    fs::rename(&draft, file).map_err(system)
}

fn fill(draft: &Path, dice: &mut Dice) -> rusqlite::Result<()> {
    let db = Connection::open_with_flags(draft, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    // It is synced as a whole when it is whole, and thrown away otherwise.
    db.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA auto_vacuum = INCREMENTAL")?;
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrations::run(&db, draft)?;
    let first = crate::store::first_id(dice);
    // Whatever counts its rows for ever begins to count there.
    db.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT name, ?1 FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%'",
        [first],
    )?;
    db.execute("INSERT INTO meta VALUES ('owner', 0), ('told', 0)", ())?;
    keep_log(&db)?;
    db.close().map_err(|(_, error)| error)
}

fn is_ours(file: &Path) -> io::Result<bool> {
    let mut head = [0; APPLICATION_ID_AT + 4];
    match File::open(file)?.read_exact(&mut head) {
        Ok(()) => Ok(head.starts_with(MAGIC) && head[APPLICATION_ID_AT..] == APPLICATION_ID.to_be_bytes()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn set_up(db: &Connection, synchronous: &str) -> rusqlite::Result<()> {
    remove_log_on_close(db, false)?;
    keep_log(db)?;
    db.execute_batch(
        "PRAGMA fullfsync = 1;
         PRAGMA checkpoint_fullfsync = 1;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -16384;
         PRAGMA temp_store = MEMORY;",
    )?;
    db.pragma_update(None, "synchronous", synchronous)
}

/// Puts the file into SQLite's write-ahead mode, which it would otherwise leave silently as it is when it cannot.
fn keep_log(db: &Connection) -> rusqlite::Result<()> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    let failed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    Err(rusqlite::Error::SqliteFailure(failed, Some(format!("it stays in mode {mode}"))))
}

/// Whether SQLite empties and removes the log when the connection goes: not after a failure, when nothing more may be written.
pub(super) fn remove_log_on_close(db: &Connection, is_wanted: bool) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !is_wanted).map(drop)
}

/// Looks for damage, as far as that is quickly done; what is large is checked where it is read.
fn check(db: &Connection, file: &Path) -> Result<(), OpenError> {
    let opened = |error| refusal(file, error);
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > CHECKED_MAX_BYTES) {
        return db.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(())).map_err(opened);
    }
    let found: String = db.query_row("PRAGMA quick_check(1)", (), |row| row.get(0)).map_err(opened)?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Damaged { file: file.to_owned(), detail: found }) }
}

/// Begins this opening: gives its number, and the latest time that the store was told.
fn begin(db: &Connection, now: Ms) -> rusqlite::Result<(Owner, Ms)> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    let begun = begin_within(db, now);
    db.execute_batch(if begun.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    begun
}

fn begin_within(db: &Connection, now: Ms) -> rusqlite::Result<(Owner, Ms)> {
    let owner = "UPDATE meta SET value = value + 1 WHERE name = 'owner' RETURNING value";
    let owner = Owner(db.query_row(owner, (), |row| row.get(0))?);
    let told: Ms = db.query_row("SELECT value FROM meta WHERE name = 'told'", (), |row| row.get(0))?;
    let back = told - now;
    if back < TURNED_BACK_MIN_MS {
        return Ok((owner, told));
    }
    // The clock went back between two openings. What was to be waited is waited, no more: every moment that lies ahead goes back
    // with it, and none changes places with another.
    events::clock_went_back(back);
    for shift in [
        "UPDATE job SET due = due - ?1, expires_at = expires_at - ?1 WHERE owner = 0",
        "UPDATE job SET due = due - ?1, expires_at = expires_at - ?1 WHERE owner > 0",
        "UPDATE outbox SET due = due - ?1",
        "UPDATE answer SET expires_at = expires_at - ?1",
    ] {
        db.execute(shift, [back])?;
    }
    db.execute("UPDATE meta SET value = ?1 WHERE name = 'told'", [now])?;
    Ok((owner, now))
}

fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn refusal(file: &Path, error: rusqlite::Error) -> OpenError {
    let file = file.to_owned();
    match error_of(error) {
        StoreError::Corrupt(detail) => OpenError::Damaged { file, detail },
        StoreError::Full(detail) | StoreError::Io(detail) => OpenError::System { file, detail },
        StoreError::Behind | StoreError::Closed => OpenError::System { file, detail: "it is busy".into() },
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The name of a file system whose locks or syncs go over a network.
#[cfg(target_os = "linux")]
fn network(folder: &Path) -> Option<&'static str> {
    let told = rustix::fs::statfs(folder).ok()?;
    match u64::try_from(told.f_type).unwrap_or_default() & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x5346_414f => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x7461_636f => Some("OCFS2"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn network(_: &Path) -> Option<&'static str> {
    None
}

//! Forward only: each brings the file from the format before to its own, in one transaction.

use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::Connection;

use super::beside;
use crate::store::planted::{self, Point};

/// What brings a file to format 1, 2 and so on: statements that run in this order. Those that were ever released never change.
const MIGRATIONS: [&[&str]; 1] = [&[
    include_str!("schema/meta.sql"),
    include_str!("schema/jobs.sql"),
    include_str!("schema/outbox.sql"),
    include_str!("schema/memories.sql"),
]];

/// The format that this program writes.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// The format that the file has.
pub(super) fn format(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", (), |row| row.get(0))
}

/// Brings the file up to date. One that has data is copied to `FILE.before-N` first.
pub(super) fn run(db: &Connection, file: &Path) -> rusqlite::Result<()> {
    run_these(db, file, &MIGRATIONS)
}

fn run_these(db: &Connection, file: &Path, migrations: &[&[&str]]) -> rusqlite::Result<()> {
    let from = format(db)?;
    let missing = migrations.iter().zip(1_i64..).filter(|(_, to)| *to > from);
    for (statements, to) in missing {
        if from > 0 {
            back_up(db, &beside(file, &format!(".before-{to}")))?;
        }
        db.execute_batch("BEGIN IMMEDIATE")?;
        let done = statements.iter().try_for_each(|statement| {
            planted::reach(Point::InMigration);
            db.execute_batch(statement)
        });
        let done = done.and_then(|()| db.execute_batch(&format!("PRAGMA user_version = {to}; COMMIT")));
        if let Err(error) = done {
            let _ = db.execute_batch("ROLLBACK");
            return Err(error);
        }
    }
    Ok(())
}

/// A copy that nobody but the store's owner can read; one that is there from a try before is replaced.
fn back_up(db: &Connection, copy: &Path) -> rusqlite::Result<()> {
    let failed = |error: std::io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let empty = options.open(copy).map_err(failed)?;
    let name = copy.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(copy.to_owned()))?;
    db.execute("VACUUM INTO ?1", [name])?;
    empty.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[&str] = &["CREATE TABLE t (x)"];

    fn made(folder: &Path) -> (Connection, std::path::PathBuf) {
        let file = folder.join("store.db");
        let db = Connection::open(&file).unwrap();
        run_these(&db, &file, &[FIRST]).unwrap();
        db.execute("INSERT INTO t VALUES (7)", ()).unwrap();
        (db, file)
    }

    fn value(db: &Connection) -> i64 {
        db.query_row("SELECT x FROM t", (), |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_with_data_is_copied_before_its_format_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (db, file) = made(folder.path());
        assert!(!beside(&file, ".before-1").exists(), "there was nothing to lose");
        run_these(&db, &file, &[FIRST, &["UPDATE t SET x = x + 1"], &["UPDATE t SET x = x * 10"]]).unwrap();
        assert_eq!((format(&db).unwrap(), value(&db)), (3, 80));
        let copies = [2, 3].map(|to| {
            let copy = beside(&file, &format!(".before-{to}"));
            #[cfg(unix)]
            let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
            #[cfg(unix)]
            assert_eq!(mode & 0o777, 0o600);
            let db = Connection::open(copy).unwrap();
            (format(&db).unwrap(), value(&db))
        });
        assert_eq!(copies, [(1, 7), (2, 8)]);
    }

    #[test]
    fn a_migration_that_fails_leaves_the_format_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let (db, file) = made(folder.path());
        let migrations = [FIRST, &["UPDATE t SET x = x + 1"], &["UPDATE t SET x = 0", "UPDATE nothing SET x = 0"]];
        assert!(run_these(&db, &file, &migrations).is_err());
        assert_eq!((format(&db).unwrap(), value(&db)), (2, 8));
    }
}

//! In tests, every statement is looked at when it is first used: one that would walk or sort a table panics, for then a call's
//! time grows with the store.

use std::cell::RefCell;
use std::collections::BTreeSet;

use rusqlite::Connection;

/// Those that may walk: few rows, a walk that was asked for, or one along an index that ends soon.
const WALKS: [&str; 5] = [
    "FROM memory ORDER BY name",
    "GROUP BY queue",
    "SELECT place FROM attempt ORDER BY place LIMIT",
    "WHERE owner = 0 ORDER BY expires_at LIMIT 1",
    "FROM outbox ORDER BY due LIMIT 1",
];

/// The statements that were looked at.
#[derive(Default)]
pub(super) struct Plans(RefCell<BTreeSet<String>>);

impl Plans {
    pub(super) fn look(&self, db: &Connection, sql: &str) {
        let is_plain = ["SELECT", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.trim_start().starts_with(verb));
        if is_plain && self.0.borrow_mut().insert(sql.to_owned()) && !WALKS.iter().any(|walk| sql.contains(walk)) {
            let plan = plan(db, sql);
            let is_slow = plan.iter().any(|step| step.starts_with("SCAN") || step.contains("TEMP B-TREE"));
            assert!(!is_slow, "{sql}\n{plan:#?}");
        }
    }
}

fn plan(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
    let steps = statement.raw_query().mapped(|row| row.get("detail")).collect::<rusqlite::Result<_>>();
    steps.expect("a plan")
}

#[test]
fn a_statement_that_walks_a_table_is_found() {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE job (id INTEGER PRIMARY KEY, due INTEGER)").unwrap();
    Plans::default().look(&db, "SELECT due FROM job WHERE id = ?1");
    for slow in ["SELECT id FROM job WHERE due = ?1", "SELECT id FROM job WHERE id > ?1 ORDER BY due"] {
        let look = || Plans::default().look(&db, slow);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).is_err(), "{slow}");
    }
}

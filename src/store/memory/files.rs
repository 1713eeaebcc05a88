//! Files, their bytes in pieces.

use std::sync::Arc;

use bytes::Bytes;

use super::Memory;
use super::table::{Table, Undo};
use crate::messages::FileId;
use crate::store::files::{FileChanges, FileFilter, FileRecord, FileRecords, NewFile, PIECE_MAX_BYTES, Purpose, Seal};
use crate::store::{Ms, Owner, StoreError};

type Name = Option<Arc<str>>;

#[derive(Clone)]
struct Row {
    tenant: Name,
    purpose: Purpose,
    bytes: u64,
    state: State,
}

#[derive(Clone)]
enum State {
    Grows { in_hands_of: Option<Owner> },
    Sealed { name: Arc<str>, created_at: Ms, expires_at: Option<Ms> },
    Hidden,
}

/// Where a row stands in the indexes.
impl Row {
    fn listed(&self, id: FileId) -> Option<(Name, FileId)> {
        matches!(self.state, State::Sealed { .. }).then(|| (self.tenant.clone(), id))
    }

    fn expiring(&self, id: FileId) -> Option<(Ms, FileId)> {
        match self.state {
            State::Sealed { expires_at, .. } => expires_at.map(|at| (at, id)),
            _ => None,
        }
    }

    fn held(&self, id: FileId) -> Option<(Owner, FileId)> {
        match self.state {
            State::Grows { in_hands_of } => in_hands_of.map(|owner| (owner, id)),
            _ => None,
        }
    }

    fn hidden(&self, id: FileId) -> Option<FileId> {
        matches!(self.state, State::Hidden).then_some(id)
    }

    fn is_of(&self, tenant: Option<&str>) -> bool {
        self.tenant.as_deref() == tenant
    }

    fn record(&self, id: FileId) -> Option<FileRecord> {
        let State::Sealed { name, created_at, expires_at } = &self.state else { return None };
        Some(FileRecord {
            id,
            tenant: self.tenant.clone(),
            purpose: self.purpose,
            name: Arc::clone(name),
            bytes: self.bytes,
            created_at: *created_at,
            expires_at: *expires_at,
        })
    }
}

pub(super) struct Files {
    rows: Table<FileId, Row>,
    /// By where they begin.
    pieces: Table<(FileId, u64), Bytes>,
    listed: Table<(Name, FileId), ()>,
    expiring: Table<(Ms, FileId), ()>,
    held: Table<(Owner, FileId), ()>,
    hidden: Table<FileId, ()>,
    /// The number of the next file.
    next: i64,
}

impl Files {
    pub(super) fn new(first: i64) -> Self {
        Self {
            rows: Table::default(),
            pieces: Table::default(),
            listed: Table::default(),
            expiring: Table::default(),
            held: Table::default(),
            hidden: Table::default(),
            next: first,
        }
    }

    pub(super) fn tables(&mut self) -> [&mut dyn Undo; 6] {
        [&mut self.rows, &mut self.pieces, &mut self.listed, &mut self.expiring, &mut self.held, &mut self.hidden]
    }

    /// Whether there is anything of this file that its tenant sees.
    pub(super) fn is_there(&self, id: FileId) -> bool {
        self.rows.get(&id).is_some_and(|row| !matches!(row.state, State::Hidden))
    }

    /// Puts `row` in the place of what is there, in every index; `None` removes it.
    fn put(&mut self, id: FileId, row: Option<Row>) {
        if let Some(old) = self.rows.get(&id) {
            old.listed(id).map(|key| self.listed.remove(&key));
            old.expiring(id).map(|key| self.expiring.remove(&key));
            old.held(id).map(|key| self.held.remove(&key));
            old.hidden(id).map(|key| self.hidden.remove(&key));
        }
        let Some(row) = row else {
            self.rows.remove(&id);
            return;
        };
        if let Some(key) = row.listed(id) {
            self.listed.put(key, ());
        }
        if let Some(key) = row.expiring(id) {
            self.expiring.put(key, ());
        }
        if let Some(key) = row.held(id) {
            self.held.put(key, ());
        }
        if let Some(key) = row.hidden(id) {
            self.hidden.put(key, ());
        }
        self.rows.put(id, row);
    }

    fn hide(&mut self, id: FileId) {
        if let Some(row) = self.rows.get(&id).cloned() {
            self.put(id, Some(Row { state: State::Hidden, ..row }));
        }
    }
}

impl FileRecords for Memory {
    fn file(&self, id: FileId, tenant: Option<&str>) -> Result<Option<FileRecord>, StoreError> {
        let row = self.files.rows.get(&id).filter(|row| row.is_of(tenant));
        Ok(row.and_then(|row| row.record(id)))
    }

    fn files(&self, filter: &FileFilter) -> Result<Vec<FileRecord>, StoreError> {
        let FileFilter { tenant, purpose, after, oldest_first, limit } = filter;
        let key = |id: FileId| (tenant.clone(), id);
        let of = |((_, id), ()): (&(Name, FileId), &())| self.files.rows.get(id)?.record(*id);
        let is_wanted = |file: &FileRecord| purpose.is_none_or(|purpose| file.purpose == purpose);
        let (least, most) = (FileId::of(0), FileId::of(i64::MAX));
        Ok(if *oldest_first {
            let range = match after {
                Some(after) => (std::ops::Bound::Excluded(key(*after)), std::ops::Bound::Included(key(most))),
                None => (std::ops::Bound::Included(key(least)), std::ops::Bound::Included(key(most))),
            };
            self.files.listed.range(range).filter_map(of).filter(is_wanted).take(*limit).collect()
        } else {
            let range = key(least)..key(after.unwrap_or(most));
            self.files.listed.range(range).rev().filter_map(of).filter(is_wanted).take(*limit).collect()
        })
    }

    fn piece(&self, id: FileId, at: u64) -> Result<Option<Bytes>, StoreError> {
        let last = self.files.pieces.range((id, 0)..=(id, at)).next_back();
        Ok(last.and_then(|((_, begins), piece)| {
            let skipped = usize::try_from(at - begins).ok().filter(|skipped| *skipped < piece.len())?;
            Some(piece.slice(skipped..))
        }))
    }
}

impl FileChanges for Memory {
    fn begin_file(&mut self, file: &NewFile) -> Result<FileId, StoreError> {
        let id = FileId::of(self.files.next);
        self.files.next += 1;
        let state = State::Grows { in_hands_of: file.owner };
        let row = Row { tenant: file.tenant.clone(), purpose: file.purpose, bytes: 0, state };
        self.files.put(id, Some(row));
        Ok(id)
    }

    fn grow_file(&mut self, id: FileId, at: u64, piece: &Bytes) -> Result<bool, StoreError> {
        let grows = self.files.rows.get(&id).filter(|row| row.bytes == at && matches!(row.state, State::Grows { .. }));
        let Some(mut row) = grows.cloned() else { return Ok(false) };
        let mut rest = piece.clone();
        while !rest.is_empty() {
            let row_of_it = rest.split_to(rest.len().min(PIECE_MAX_BYTES));
            let begins = row.bytes;
            row.bytes += row_of_it.len() as u64;
            self.files.pieces.put((id, begins), row_of_it);
        }
        self.files.put(id, Some(row));
        Ok(true)
    }

    fn seal_file(&mut self, seal: &Seal) -> Result<bool, StoreError> {
        let grows = self.files.rows.get(&seal.file).filter(|row| matches!(row.state, State::Grows { .. }));
        let Some(row) = grows.cloned() else { return Ok(false) };
        let Seal { file, name, created_at, expires_at } = seal.clone();
        self.files.put(file, Some(Row { state: State::Sealed { name, created_at, expires_at }, ..row }));
        Ok(true)
    }

    fn remove_file(&mut self, id: FileId, tenant: Option<&str>) -> Result<bool, StoreError> {
        let is_theirs = self.files.rows.get(&id).is_some_and(|row| row.is_of(tenant)) && self.files.is_there(id);
        if is_theirs {
            self.files.hide(id);
        }
        Ok(is_theirs)
    }

    fn prune_files(&mut self, owner: Owner, now: Ms, limit: usize) -> Result<usize, StoreError> {
        let expired = self.files.expiring.range(..=(now, FileId::of(i64::MAX))).map(|((_, id), ())| *id);
        let left = self.files.held.range(..(owner, FileId::of(0))).map(|((_, id), ())| *id);
        let hidden: Vec<FileId> = expired.chain(left).take(limit).collect();
        hidden.iter().for_each(|id| self.files.hide(*id));
        let mut room = limit - hidden.len();
        let goes = self.files.hidden.iter().map(|(id, ())| *id).filter(|id| !self.batches.is_read(*id));
        for id in goes.take(room).collect::<Vec<_>>() {
            let pieces = self.files.pieces.range((id, 0)..=(id, u64::MAX)).take(room).map(|(key, _)| *key);
            let pieces: Vec<_> = pieces.collect();
            for key in &pieces {
                self.files.pieces.remove(key);
            }
            room -= pieces.len();
            if room == 0 {
                break;
            }
            self.files.put(id, None);
            room -= 1;
        }
        Ok(limit - room)
    }
}

//! OUT and OUT.partial, all that a run leaves behind and all that a rerun needs.
//!
//! While it runs every line that has ended is one write at the end of OUT.partial, in the order of their ends; whatever kills
//! the process, at most the last line is torn, and the next run cuts it off. At the end the lines are put in the order of IN
//! in a file beside it, which is forced to the disk and takes OUT's place in one step. OUT.partial is locked meanwhile: of two
//! runs to one OUT the second is refused. Of a line that was tried again the answer counts, or else the last error.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::plan::Key;
use super::records::{Place, Record, each_line};

/// A first line that was torn begins so, as far as it goes.
const BEGINNING: &[u8] = br#"{"id":"batch_req_"#;

/// OUT and OUT.partial, open.
pub(super) struct Output {
    out: PathBuf,
    partial: PathBuf,
    /// Of OUT.partial; locked for as long as it is open.
    file: File,
    /// Where its next line begins.
    end: u64,
    /// Of OUT, where it was there.
    old: Option<File>,
    /// The lines of OUT, in its order.
    old_ids: Vec<u128>,
    kept: HashMap<u128, Kept>,
    /// Lines of OUT.partial that nobody can read.
    unreadable: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Within {
    Out,
    Partial,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    record: Record,
    within: Within,
    place: Place,
}

/// Why OUT cannot be written.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another process writes it.
    Locked(String),
    /// It is something that must not be overwritten.
    Foreign(String),
    /// The system does not let us.
    Failed(String),
}

impl Refused {
    fn failed(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("cannot {doing} {}: {error}", path.display()))
    }
}

/// What becomes of the lines that earlier runs have left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Match {
    /// Answered.
    pub(super) answered: u64,
    /// Failed, to be tried again.
    pub(super) failed: u64,
    /// IN has the `custom_id` and asks something else by now.
    pub(super) changed: u64,
    /// IN has no such line.
    pub(super) gone: u64,
}

impl Output {
    /// Opens OUT for one run, and cuts off what a run before has left torn.
    pub(super) fn open(out: &Path) -> Result<Self, Refused> {
        // The file itself is replaced, and not the link to it.
        let out = fs::canonicalize(out).unwrap_or_else(|_| out.to_owned());
        let partial = with_suffix(&out, ".partial");
        let old = match fs::metadata(&out) {
            Ok(metadata) if !metadata.is_file() => {
                let name = out.display();
                return Err(Refused::Foreign(format!("{name} is no file; `-o -` writes to stdout")));
            }
            Ok(_) => Some(File::open(&out).map_err(|error| Refused::failed("read", &out, &error))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Refused::failed("read", &out, &error)),
        };
        let file = lock(&partial, &out)?;
        let _ = fs::remove_file(with_suffix(&partial, ".new"));
        let (old_ids, kept) = (Vec::new(), HashMap::new());
        let mut output = Self { out, partial, file, end: 0, old, old_ids, kept, unreadable: 0 };
        match output.read_old().and_then(|()| output.read_partial()) {
            Ok(()) => Ok(output),
            Err(refused) => {
                // What there was before stays as it was; that there was nothing, too.
                if output.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                    let _ = fs::remove_file(&output.partial);
                }
                Err(refused)
            }
        }
    }

    fn read_old(&mut self) -> Result<(), Refused> {
        let Some(old) = self.old.take() else { return Ok(()) };
        let (mut number, mut foreign) = (0, None);
        each_line(BufReader::new(&old), |place, text, _| {
            number += 1;
            match Record::read(text) {
                Some(record) => {
                    self.old_ids.push(record.id);
                    self.keep(Kept { record, within: Within::Out, place });
                }
                None if text.trim_ascii().is_empty() => {}
                None => _ = foreign.get_or_insert(number),
            }
        })
        .map_err(|error| Refused::failed("read", &self.out, &error))?;
        self.old = Some(old);
        match foreign {
            None => Ok(()),
            Some(line) => Err(Refused::Foreign(format!(
                "{}:{line}: not written by forebay batch, which would replace it; move it away or choose another OUT",
                self.out.display()
            ))),
        }
    }

    fn read_partial(&mut self) -> Result<(), Refused> {
        let failed = |partial: &Path, error: io::Error| Refused::failed("read", partial, &error);
        let file = self.file.try_clone().map_err(|error| failed(&self.partial, error))?;
        let (mut lines, mut torn) = (0, None);
        each_line(BufReader::new(file), |place, text, has_end| {
            lines += 1;
            if !has_end {
                torn = Some((place.at, text[..text.len().min(BEGINNING.len())].to_vec()));
                return;
            }
            self.end = place.at + place.len + 1;
            match Record::read(text) {
                Some(record) => self.keep(Kept { record, within: Within::Partial, place }),
                // A power cut may leave such a line.
                None => self.unreadable += 1,
            }
        })
        .map_err(|error| failed(&self.partial, error))?;
        let whole = lines - u64::from(torn.is_some());
        let is_torn_only = whole == 0 && torn.as_ref().is_none_or(|(_, text)| is_ours(text));
        if !is_torn_only && self.unreadable == whole {
            return Err(Refused::Foreign(format!(
                "{} is not of forebay batch; move it away or choose another OUT",
                self.partial.display()
            )));
        }
        if torn.is_some() {
            self.file.set_len(self.end).map_err(|error| Refused::failed("write", &self.partial, &error))?;
        }
        let end = self.end;
        self.file.seek(SeekFrom::Start(end)).map_err(|error| failed(&self.partial, error))?;
        Ok(())
    }

    fn keep(&mut self, kept: Kept) {
        let before = self.kept.get(&kept.record.id);
        if before.is_none_or(|before| !before.record.is_answer || kept.record.is_answer) {
            self.kept.insert(kept.record.id, kept);
        }
    }

    /// Lines of OUT.partial that nobody can read: they are asked again.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// What the runs before have left for the lines of IN.
    pub(super) fn compare(&self, keys: &[Key]) -> Match {
        let ids: HashSet<u128> = keys.iter().map(|key| key.id).collect();
        let names: HashSet<u128> = keys.iter().map(|key| key.name).collect();
        let mut found = Match::default();
        for Kept { record, .. } in self.kept.values() {
            let count = match (ids.contains(&record.id), record.is_answer) {
                (true, true) => &mut found.answered,
                (true, false) => &mut found.failed,
                (false, _) if record.name.is_some_and(|name| names.contains(&name)) => &mut found.changed,
                (false, _) => &mut found.gone,
            };
            *count += 1;
        }
        found
    }

    /// Whether OUT, or all there is, holds lines and none of them answers a line of IN: those of another batch, most likely.
    pub(super) fn is_of_another(&self, keys: &[Key]) -> bool {
        let ids: HashSet<u128> = keys.iter().map(|key| key.id).collect();
        let is_in = |id: &u128| ids.contains(id);
        let is_old_foreign = !self.old_ids.is_empty() && !self.old_ids.iter().any(is_in);
        is_old_foreign || (!self.kept.is_empty() && !self.kept.keys().any(is_in))
    }

    /// Whether OUT is what it would become, and every line has its answer.
    pub(super) fn is_done(&self, keys: &[Key]) -> bool {
        self.old.is_some()
            && self.old_ids.iter().copied().eq(keys.iter().map(|key| key.id))
            && keys.iter().all(|key| self.is_answered(key.id))
    }

    /// Whether this line need not be asked.
    pub(super) fn is_answered(&self, id: u128) -> bool {
        self.kept.get(&id).is_some_and(|kept| kept.record.is_answer)
    }

    /// Adds the line of `key`, its end included. One that could not be written whole is not there at all.
    pub(super) fn add(&mut self, key: Key, is_answer: bool, line: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(line) {
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        let record = Record { id: key.id, name: Some(key.name), is_answer };
        let place = Place { at: self.end, len: line.len() as u64 - 1 };
        self.keep(Kept { record, within: Within::Partial, place });
        self.end += line.len() as u64;
        Ok(())
    }

    /// Lines of `keys` that have ended, with an answer and with an error.
    pub(super) fn ends(&self, keys: &[Key]) -> (u64, u64) {
        let ended = keys.iter().filter_map(|key| self.kept.get(&key.id));
        ended.fold((0, 0), |(good, bad), kept| match kept.record.is_answer {
            true => (good + 1, bad),
            false => (good, bad + 1),
        })
    }

    /// Makes OUT: a line for each of `keys`, all of which have ended, in their order.
    pub(super) fn finish(mut self, keys: &[Key]) -> Result<(), Refused> {
        let new = with_suffix(&self.partial, ".new");
        let written = self.write_in_order(&new, keys);
        written.map_err(|error| Refused::failed("write", &new, &error))?;
        fs::rename(&new, &self.out).map_err(|error| Refused::failed("write", &self.out, &error))?;
        sync_folder_of(&self.out);
        self.discard()
    }

    fn write_in_order(&mut self, new: &Path, keys: &[Key]) -> io::Result<()> {
        let mut to = BufWriter::with_capacity(1 << 20, File::create(new)?);
        if let Some(old) = &self.old {
            to.get_ref().set_permissions(old.metadata()?.permissions())?;
        }
        let mut line = Vec::new();
        for key in keys {
            let missing = || io::Error::other("a line of IN has no end");
            let Kept { within, place, .. } = self.kept.get(&key.id).ok_or_else(missing)?;
            let from = match (within, &mut self.old) {
                (Within::Out, Some(old)) => old,
                _ => &mut self.file,
            };
            line.resize(usize::try_from(place.len).map_err(io::Error::other)?, 0);
            from.seek(SeekFrom::Start(place.at))?;
            from.read_exact(&mut line)?;
            line.push(b'\n');
            to.write_all(&line)?;
        }
        to.flush()?;
        to.get_ref().sync_all()
    }

    /// Forces to the disk what is there, for the next run; an OUT.partial without a line goes.
    pub(super) fn leave(self) -> Result<(), Refused> {
        match self.end {
            0 => self.discard(),
            _ => self.file.sync_all().map_err(|error| Refused::failed("write", &self.partial, &error)),
        }
    }

    /// Takes OUT.partial away: it is of no use any more. The lock goes with it.
    pub(super) fn discard(self) -> Result<(), Refused> {
        fs::remove_file(&self.partial).map_err(|error| Refused::failed("remove", &self.partial, &error))?;
        sync_folder_of(&self.out);
        Ok(())
    }

    /// The file that holds what has ended so far.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }
}

/// Whether a torn first line may be one of ours: it begins as they do, or is what a power cut has left.
fn is_ours(text: &[u8]) -> bool {
    BEGINNING.starts_with(text) || text.iter().all(|byte| *byte == 0)
}

/// Opens and locks OUT.partial.
fn lock(partial: &Path, out: &Path) -> Result<File, Refused> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial);
        let file = file.map_err(|error| Refused::failed("write", partial, &error))?;
        match file.try_lock() {
            // One that ended meanwhile has taken its file away: ours is another by now.
            Ok(()) if is_at(&file, partial) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (partial, out) = (partial.display(), out.display());
                return Err(Refused::Locked(format!(
                    "another forebay batch is writing {out} (it holds {partial}); wait for it, or choose another OUT"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(Refused::failed("lock", partial, &error)),
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(place).ok() == fs::metadata(path).map(place).ok()
}

/// Elsewhere nobody takes away a file that is open.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Forces the names in a folder to the disk, where there is such a thing.
fn sync_folder_of(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix)
        && let Ok(folder) = File::open(folder)
    {
        // The file is there with all that is in it; some file systems know no more.
        let _ = folder.sync_all();
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;

//! The record of what a process sent to the disk, and what a cut through it leaves.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::load::Ack;
use crate::clock::Dice;

/// Disks write as many bytes at once or not at all.
const SECTOR: usize = 512;

enum Event {
    Opened(i32, String),
    Closed(i32),
    /// At an offset, bytes of the record.
    Wrote(i32, usize, Range<usize>),
    Cut(i32, usize),
    Synced(i32),
    Renamed(String, String),
    Removed(String),
}

pub(super) struct Record {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

/// A file, whatever its name: what was done to it, and how much of that is certainly on disk.
#[derive(Default)]
struct Object {
    changes: Vec<Change>,
    synced: usize,
}

enum Change {
    Wrote(usize, Range<usize>),
    Cut(usize),
}

/// What was done to the folder.
enum Named {
    Created(String, usize),
    Renamed(String, String),
    Removed(String),
}

impl Record {
    /// Reads what was recorded of a process that worked in `folder`.
    pub(super) fn read(log: &Path, folder: &Path) -> Self {
        let bytes = fs::read(log).unwrap();
        let mut events = Vec::new();
        let mut at = 0;
        let name = |range: Range<usize>| {
            let path = std::str::from_utf8(&bytes[range]).unwrap();
            path.strip_prefix(folder.to_str().unwrap()).unwrap().trim_start_matches('/').to_owned()
        };
        while at < bytes.len() {
            let number = |from: usize| u64::from_le_bytes(bytes[at + from..at + from + 8].try_into().unwrap()) as usize;
            let fd = i32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap());
            let (offset, length) = (number(5), number(13));
            let operation = bytes[at];
            let content = at + 21..at + 21 + length;
            at = content.end;
            events.push(match operation {
                1 => Event::Opened(fd, name(content)),
                2 => Event::Closed(fd),
                3 => Event::Wrote(fd, offset, content),
                4 => Event::Cut(fd, offset),
                5 => Event::Synced(fd),
                6 => {
                    let middle = content.start + bytes[content.clone()].iter().position(|byte| *byte == 0).unwrap();
                    Event::Renamed(name(content.start..middle), name(middle + 1..content.end))
                }
                7 => Event::Removed(name(content)),
                other => panic!("operation {other}"),
            });
        }
        Self { bytes, events }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// How much was acknowledged in the whole of it.
    pub(super) fn acks(&self) -> usize {
        let left = tempfile::tempdir().unwrap();
        self.cut(self.len(), 0, &mut Dice::seeded(0), left.path()).len()
    }

    /// Puts what a power cut after `at` events may leave into `left`; gives what had been acknowledged by then. Of what was not
    /// synced there is nothing (fate 0), all (1), some (2), or some, in pieces (3). The folder's changes keep their order, as a
    /// journal keeps it.
    pub(super) fn cut(&self, at: usize, fate: u64, dice: &mut Dice, left: &Path) -> Vec<Ack> {
        let mut objects: Vec<Object> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut folder: Vec<Named> = Vec::new();
        let mut folder_synced = 0;
        // A descriptor of no object is the folder's own.
        let mut open: HashMap<i32, Option<usize>> = HashMap::new();
        let mut acks = Vec::new();
        for event in &self.events[..at] {
            match event {
                Event::Opened(fd, name) if name.is_empty() => drop(open.insert(*fd, None)),
                Event::Opened(fd, name) => {
                    let object = *names.entry(name.clone()).or_insert_with(|| {
                        objects.push(Object::default());
                        folder.push(Named::Created(name.clone(), objects.len() - 1));
                        objects.len() - 1
                    });
                    open.insert(*fd, Some(object));
                }
                Event::Closed(fd) => drop(open.remove(fd)),
                Event::Wrote(fd, offset, content) => {
                    let Some(object) = open[fd] else { continue };
                    if names.get("acks") == Some(&object) {
                        let line = std::str::from_utf8(&self.bytes[content.clone()]).unwrap();
                        acks.push(Ack::parse(line.trim_end()));
                    } else {
                        objects[object].changes.push(Change::Wrote(*offset, content.clone()));
                    }
                }
                Event::Cut(fd, length) => {
                    if let Some(object) = open[fd] {
                        objects[object].changes.push(Change::Cut(*length));
                    }
                }
                Event::Synced(fd) => match open[fd] {
                    Some(object) => objects[object].synced = objects[object].changes.len(),
                    None => folder_synced = folder.len(),
                },
                Event::Renamed(from, to) => {
                    if let Some(object) = names.remove(from) {
                        names.insert(to.clone(), object);
                    }
                    folder.push(Named::Renamed(from.clone(), to.clone()));
                }
                Event::Removed(name) => {
                    names.remove(name);
                    folder.push(Named::Removed(name.clone()));
                }
            }
        }
        let kept = match fate {
            0 => folder_synced,
            1 => folder.len(),
            _ => folder_synced + dice.number() as usize % (folder.len() - folder_synced + 1),
        };
        let mut there: HashMap<&str, usize> = HashMap::new();
        for named in &folder[..kept] {
            match named {
                Named::Created(name, object) => drop(there.insert(name, *object)),
                Named::Renamed(from, to) => {
                    if let Some(object) = there.remove(&**from) {
                        there.insert(to, object);
                    }
                }
                Named::Removed(name) => drop(there.remove(&**name)),
            }
        }
        for (name, object) in there {
            if !name.ends_with("-shm") && name != "acks" {
                fs::write(left.join(name), self.content(&objects[object], fate, dice)).unwrap();
            }
        }
        acks
    }

    fn content(&self, object: &Object, fate: u64, dice: &mut Dice) -> Vec<u8> {
        let mut content = Vec::new();
        for (place, change) in object.changes.iter().enumerate() {
            let is_certain = place < object.synced || fate == 1;
            if !is_certain && (fate == 0 || dice.fraction() < 0.5) {
                continue;
            }
            match change {
                Change::Cut(length) => content.resize(*length, 0),
                Change::Wrote(at, written) => {
                    let mut written = &self.bytes[written.clone()];
                    if !is_certain && fate == 3 && dice.fraction() < 0.5 {
                        // The part of it before some sector's end, as the file has it.
                        let sectors = (at % SECTOR + written.len()).div_ceil(SECTOR);
                        let end = (dice.number() as usize % sectors) * SECTOR;
                        written = &written[..end.saturating_sub(at % SECTOR)];
                    }
                    content.resize(content.len().max(at + written.len()), 0);
                    content[*at..at + written.len()].copy_from_slice(written);
                }
            }
        }
        content
    }
}

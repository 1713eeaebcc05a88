//! Room on the disk. While it is short, what callers bring is refused, and what was paid for is still stored: for that there is
//! a ballast, a file that is let go when nothing else is left. Both come back by themselves.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::store::StoreError;
use crate::telemetry::store as events;

const MIB: u64 = 1 << 20;
/// The ballast, and below how much free space it is short; less on a small disk.
const BALLAST: u64 = 64 * MIB;
const LOW: u64 = 256 * MIB;
/// After the disk was full it is taken for short for at least as long, whatever it says: a quota is not in its figures.
const REST: Duration = Duration::from_secs(10);
/// The ballast is written in such bites, where the system cannot set room aside.
const BITE: usize = 1 << 20;

/// What a file system says of itself, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Space {
    pub(in crate::store) free: u64,
    pub(in crate::store) total: u64,
}

/// Asks for the space where the store is; nothing where that cannot be told.
pub(in crate::store) type AskSpace = Box<dyn FnMut(&Path) -> Option<Space> + Send>;

pub(super) struct Room {
    folder: PathBuf,
    file: PathBuf,
    ask: AskSpace,
    space: Option<Space>,
    is_short: bool,
    /// How much of the ballast is there.
    ballast: u64,
    full_at: Option<Instant>,
}

impl Room {
    pub(super) fn new(folder: &Path, file: PathBuf, ask: AskSpace) -> Self {
        let ballast = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        let mut room =
            Self { folder: folder.to_owned(), file, ask, space: None, is_short: false, ballast, full_at: None };
        // Where the system can set room aside at once, it is there from the first moment.
        room.tidy();
        room
    }

    pub(super) fn accepts(&self) -> Result<(), StoreError> {
        if self.is_short { Err(StoreError::Full("the disk is nearly full".into())) } else { Ok(()) }
    }

    /// Looks how much there is, before each group.
    pub(super) fn look(&mut self) {
        self.space = (self.ask)(&self.folder);
        let rests = self.full_at.is_some_and(|at| clock::now() < at + REST);
        let Some(Space { free, .. }) = self.space else {
            return self.set_short(rests);
        };
        if free < self.low() / 4 {
            self.let_go();
        }
        // On the way back there has to be room for the ballast as well, and some more, so that it does not go to and fro.
        let enough = if self.is_short { self.low() / 4 * 5 + self.missing() } else { self.low() };
        self.set_short(rests || free < enough);
    }

    /// SQLite found no room for what it had to write.
    pub(super) fn was_full(&mut self) {
        self.full_at = Some(clock::now());
        self.let_go();
        self.set_short(true);
    }

    /// Brings the ballast back, a bite at a time. `true`: there is nothing to do now.
    pub(super) fn tidy(&mut self) -> bool {
        self.look();
        if self.is_short || self.missing() == 0 {
            return !self.is_short;
        }
        match grow(&self.file, self.ballast, self.whole()) {
            Ok(length) => self.ballast = length,
            Err(error) => {
                events::ballast_failed(&error);
                self.let_go();
                // No use trying at once again.
                self.full_at = Some(clock::now());
            }
        }
        self.missing() == 0
    }

    /// Below as much free space it is short.
    fn low(&self) -> u64 {
        self.space.map_or(LOW, |space| LOW.min(space.total / 20))
    }

    fn whole(&self) -> u64 {
        self.space.map_or(BALLAST, |space| BALLAST.min(space.total / 40))
    }

    fn missing(&self) -> u64 {
        self.whole().saturating_sub(self.ballast)
    }

    fn let_go(&mut self) {
        if self.ballast > 0 {
            self.ballast = 0;
            let _ = fs::remove_file(&self.file);
            events::ballast_let_go();
        }
    }

    fn set_short(&mut self, is_short: bool) {
        if self.is_short != is_short {
            self.is_short = is_short;
            events::is_short_of_room(is_short, self.space.map(|space| space.free));
        }
    }
}

/// Makes the ballast longer, with room that is really taken. Gives its length.
fn grow(file: &Path, length: u64, whole: u64) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut ballast = options.open(file)?;
    if set_aside(&ballast, whole).is_ok() {
        return Ok(whole);
    }
    // No zeros: some file systems make nothing of them.
    let bite: Vec<u8> = (0..BITE.min(usize::try_from(whole - length).unwrap_or(BITE))).map(noise).collect();
    ballast.write_all(&bite)?;
    Ok(length + bite.len() as u64)
}

fn noise(at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

#[cfg(target_os = "linux")]
fn set_aside(file: &File, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length)?)
}

#[cfg(not(target_os = "linux"))]
fn set_aside(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
pub(super) fn space(folder: &Path) -> Option<Space> {
    let told = rustix::fs::statvfs(folder).ok()?;
    Some(Space {
        free: told.f_bavail.saturating_mul(told.f_frsize),
        total: told.f_blocks.saturating_mul(told.f_frsize),
    })
}

#[cfg(not(unix))]
pub(super) fn space(_: &Path) -> Option<Space> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn room(folder: &Path, free: &Arc<AtomicU64>) -> Room {
        let free = free.clone();
        let ask = move |_: &Path| Some(Space { free: free.load(Ordering::SeqCst) * MIB, total: 100_000 * MIB });
        Room::new(folder, folder.join("store.ballast"), Box::new(ask))
    }

    #[test]
    fn a_disk_that_fills_is_closed_to_callers_then_gives_up_its_ballast_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(1_000));
        let mut room = room(folder.path(), &free);
        while !room.tidy() {}
        let length = |room: &Room| fs::metadata(&room.file).map_or(0, |metadata| metadata.len());
        assert_eq!((length(&room), room.accepts()), (64 * MIB, Ok(())));
        let steps =
            [(256, true, 64), (255, false, 64), (63, false, 0), (300, false, 0), (385, true, 0), (300, true, 0)];
        for (mib, accepts, ballast) in steps {
            free.store(mib, Ordering::SeqCst);
            room.look();
            assert_eq!((room.accepts().is_ok(), length(&room) / MIB), (accepts, ballast), "{mib} MiB");
        }
        while !room.tidy() {}
        assert_eq!(length(&room), 64 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_rests_whatever_it_says_of_itself() {
        let folder = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(1_000));
        let mut room = room(folder.path(), &free);
        while !room.tidy() {}
        room.was_full();
        room.look();
        assert!(room.accepts().is_err() && !room.file.exists());
        tokio::time::advance(REST).await;
        room.look();
        assert!(room.accepts().is_ok());
    }

    #[test]
    fn the_ballast_takes_real_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ballast");
        let mut length = 0;
        while length < 2 * MIB {
            length = grow(&file, length, 2 * MIB).unwrap();
        }
        #[cfg(unix)]
        assert!(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file).unwrap()) * 512 >= 2 * MIB);
    }
}

//! Who has the store: one process at a time.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use super::beside;
use super::file::private;
use crate::store::OpenError;

/// The store is this process's, for as long as it lives.
pub(super) struct Lock(File);

impl Lock {
    /// Takes the store of `file`, and says so in `FILE.lock`, which stays: a lock file that is removed can be locked twice.
    ///
    /// # Errors
    /// [`OpenError::Locked`] where another opening has it, of this process or another.
    pub(super) fn take(file: &Path) -> Result<Self, OpenError> {
        let system = |error: io::Error| OpenError::System { file: file.to_owned(), detail: error.to_string() };
        let mut options = private();
        let mut lock = options.read(true).write(true).create(true).open(beside(file, ".lock")).map_err(system)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = (&mut lock).take(32).read_to_string(&mut text);
                return Err(OpenError::Locked { file: file.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(system(error)),
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        // On a full disk the lock holds as well; only its owner's number is not told.
        if written.is_err() {
            let _ = lock.set_len(0);
        }
        Ok(Self(lock))
    }
}

impl Drop for Lock {
    /// Closing is not enough: whatever this process is just starting has the file as well, until it is that program.
    fn drop(&mut self) {
        // It fails where there is nothing to unlock.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_can_be_opened_though_a_child_has_the_lock_file_still() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let lock = Lock::take(&file).unwrap();
        let of_a_child = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::take(&file), Err(OpenError::Locked { pid: Some(_), .. })));
        drop(lock);
        drop(Lock::take(&file).unwrap());
        drop(of_a_child);
    }
}

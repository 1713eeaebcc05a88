//! How many bytes of bodies the program holds: counted before they are read, chunk by chunk, given back when their call has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::messages::{Error, ErrorKind};

/// Room for bodies.
#[derive(Debug)]
pub(crate) struct Admission {
    held: AtomicUsize,
    max_bytes: AtomicUsize,
}

impl Admission {
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max_bytes: AtomicUsize::new(max_bytes) })
    }

    /// Changes the limit; what is held already stays.
    pub(crate) fn set_max_bytes(&self, max_bytes: usize) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Bytes held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes` more, or says `overloaded`.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Admitted, Error> {
        let mut admitted = Admitted { room: Arc::clone(self), bytes: 0 };
        admitted.grow(bytes)?;
        Ok(admitted)
    }
}

/// Room taken for one body; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    room: Arc<Admission>,
    bytes: usize,
}

impl Admitted {
    /// Takes room for `bytes` more.
    ///
    /// # Errors
    /// `overloaded`; what was taken before stays taken.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let max = self.room.max_bytes.load(Ordering::Relaxed);
        let taken = self.room.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| *sum <= max)
        });
        match taken {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(held) => Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the bodies of accepted calls hold {held} of {max} bytes ([queue] max_bytes); come again later"
                ),
            )
            .with_retry_after(std::time::Duration::from_secs(1))),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_step_by_step_and_comes_back_as_a_whole() {
        let room = Admission::new(100);
        let mut first = room.admit(60).expect("there is room");
        first.grow(30).expect("there is room");
        assert_eq!(room.admit(11).expect_err("ten are left").code(), "overloaded");
        assert!(first.grow(11).is_err());
        let second = room.admit(10).expect("a refusal takes nothing");
        drop(first);
        assert!(room.admit(90).is_ok());
        drop(second);
        assert!(room.admit(100).is_ok());
    }
}

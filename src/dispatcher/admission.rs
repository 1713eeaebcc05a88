//! What the program takes on before the dispatcher has seen it: how many bytes of bodies it holds, counted before they
//! are read, chunk by chunk, and given back when their call has ended; and how many calls are on their way to the
//! dispatcher, whose mailbox has no bound of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Config;
use crate::messages::{Error, ErrorKind};

/// Room for bodies, and for calls on their way.
#[derive(Debug)]
pub(crate) struct Admission {
    held: AtomicUsize,
    max_bytes: AtomicUsize,
    on_the_way: AtomicUsize,
    max_on_the_way: AtomicUsize,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Self::with(config.queue.max_bytes, most_on_the_way(config))
    }

    fn with(max_bytes: usize, max_on_the_way: usize) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            max_bytes: AtomicUsize::new(max_bytes),
            on_the_way: AtomicUsize::new(0),
            max_on_the_way: AtomicUsize::new(max_on_the_way),
        })
    }

    /// Puts the limits of another configuration in force; what is held already stays.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.max_bytes.store(config.queue.max_bytes, Ordering::Relaxed);
        self.max_on_the_way.store(most_on_the_way(config), Ordering::Relaxed);
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Calls on their way now.
    #[cfg(test)]
    pub(crate) fn on_the_way(&self) -> usize {
        self.on_the_way.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes` more, or says `overloaded`.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Admitted, Error> {
        let mut admitted = Admitted { room: Arc::clone(self), bytes: 0, on_the_way: false };
        admitted.grow(bytes)?;
        Ok(admitted)
    }
}

/// As many calls as all upstreams together can take in: more than these could not be let in anyway.
fn most_on_the_way(config: &Config) -> usize {
    let in_flight = |upstream: &crate::config::UpstreamSection| {
        let each = upstream.limits.max_concurrent.unwrap_or(config.pool.slots_per_account);
        each.saturating_mul(upstream.accounts.len())
    };
    let rooms = config.upstreams.values().map(|upstream| config.queue.capacity.saturating_add(in_flight(upstream)));
    rooms.fold(0, usize::saturating_add).max(config.queue.capacity)
}

/// Room taken for one call; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    room: Arc<Admission>,
    bytes: usize,
    on_the_way: bool,
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
            Err(held) => Err(overloaded(format!(
                "the bodies of accepted calls hold {held} of {max} bytes ([queue] max_bytes); come again later"
            ))),
        }
    }

    /// Sets out for the dispatcher.
    ///
    /// # Errors
    /// `overloaded` when as many are on their way as could be taken in.
    pub(crate) fn set_out(&mut self) -> Result<(), Error> {
        debug_assert!(!self.on_the_way, "a call sets out once");
        let max = self.room.max_on_the_way.load(Ordering::Relaxed);
        let before = self.room.on_the_way.fetch_add(1, Ordering::Relaxed);
        self.on_the_way = true;
        if before < max {
            return Ok(());
        }
        self.arrive();
        Err(overloaded(format!(
            "{before} calls are on their way already, as many as all upstreams can take in ([queue] capacity each, and \
             their calls in flight); come again later"
        )))
    }

    /// The dispatcher has it.
    pub(super) fn arrive(&mut self) {
        if std::mem::take(&mut self.on_the_way) {
            self.room.on_the_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Admitted {
    /// However it ends: in a mailbox whose actor has died, too.
    fn drop(&mut self) {
        self.arrive();
        self.room.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn overloaded(message: String) -> Error {
    Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1)).asking_for_time()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_step_by_step_and_comes_back_as_a_whole() {
        let room = Admission::with(100, 1);
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

    #[test]
    fn a_call_is_on_its_way_until_it_arrives_or_is_dropped() {
        let room = Admission::with(100, 2);
        let calls: Vec<_> = (0..3).map(|_| room.admit(1).expect("there is room")).collect();
        let [mut first, mut second, mut third] = calls.try_into().expect("three");
        first.set_out().expect("the first");
        second.set_out().expect("the second");
        let error = third.set_out().expect_err("two are on their way");
        assert_eq!((error.code(), error.retry_after()), ("overloaded", Some(Duration::from_secs(1))));
        assert_eq!(room.on_the_way(), 2, "a refusal takes nothing");
        first.arrive();
        first.arrive();
        third.set_out().expect("one has arrived");
        drop(second);
        drop(first);
        assert_eq!(room.on_the_way(), 1);
        drop(third);
        assert_eq!((room.on_the_way(), room.held()), (0, 0));
    }
}

//! Which thread serves a connection: the one with the fewest. Whoever accepts it hands it over; that costs one wake-up
//! in a connection's life, while a thread that got too many would cost every call on it. A thread that does not take up
//! what it is handed gets no more: it is blocked, and whoever waits for it waits in vain.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// So many connections may be on their way to a thread. Enough for those that come while a thread wakes up; and what is
/// lost with a thread that is blocked.
const ON_THE_WAY_MAX: usize = 8;

/// A connection on its way to the thread that will serve it.
pub(super) struct Handed {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: Place,
    _on_the_way: OnTheWay,
}

impl Handed {
    /// Takes the connection up on the thread this runs on.
    pub(super) fn take_up(self) -> io::Result<(TcpStream, SocketAddr, Place)> {
        Ok((TcpStream::from_std(self.stream)?, self.peer, self.place))
    }
}

/// The threads that serve connections, in the order of the system's seats: the dispatcher's own comes first, so that it
/// serves a lone connection.
pub(super) struct Places {
    threads: Vec<Thread>,
    /// How many connections there may be on all threads together.
    room: usize,
    /// Held by everything that serves; gone when nothing does any more.
    _alive: mpsc::Sender<Infallible>,
}

struct Thread {
    open: AtomicUsize,
    /// Of those: how many it has been handed and has not taken up.
    on_the_way: AtomicUsize,
    /// Bounded by [`ON_THE_WAY_MAX`] for each thread that hands over at the same moment.
    hand: mpsc::UnboundedSender<Handed>,
}

/// One connection's place on a thread; given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    thread: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.threads[self.thread].open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Thread {
    fn may_be_handed_more(&self) -> bool {
        !self.hand.is_closed() && self.on_the_way.load(Ordering::Relaxed) < ON_THE_WAY_MAX
    }
}

/// Counts one connection on its way to a thread, until dropped.
struct OnTheWay {
    places: Arc<Places>,
    thread: usize,
}

impl OnTheWay {
    fn to(places: &Arc<Places>, thread: usize) -> Self {
        places.threads[thread].on_the_way.fetch_add(1, Ordering::Relaxed);
        Self { places: Arc::clone(places), thread }
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.places.threads[self.thread].on_the_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where an accepted connection goes.
pub(super) enum Goes {
    /// The accepting thread serves it itself.
    Here(TcpStream, Place),
    /// It is on its way to another.
    Away,
}

impl Places {
    /// Places for `room` connections on `threads` threads, and for each thread what it is handed. `alive` is dropped with
    /// the last place.
    pub(super) fn new(
        threads: usize,
        room: usize,
        alive: mpsc::Sender<Infallible>,
    ) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Handed>>) {
        let open = || {
            let (hand, handed) = mpsc::unbounded_channel();
            (Thread { open: AtomicUsize::new(0), on_the_way: AtomicUsize::new(0), hand }, handed)
        };
        let (threads, handed) = std::iter::repeat_with(open).take(threads).unzip();
        (Arc::new(Self { threads, room, _alive: alive }), handed)
    }

    /// Whether no more should be accepted for now. Threads that ask at the same time may each take one more.
    pub(super) fn are_full(&self) -> bool {
        self.threads.iter().map(|thread| thread.open.load(Ordering::Relaxed)).sum::<usize>() >= self.room
    }

    /// Finds a place for a connection that the thread `here` has accepted.
    ///
    /// # Errors
    /// When the connection cannot change threads; it is lost.
    pub(super) fn find(self: &Arc<Self>, here: usize, stream: TcpStream, peer: SocketAddr) -> io::Result<Goes> {
        let open = |thread: &Thread| thread.open.load(Ordering::Relaxed);
        let threads = self.threads.iter().enumerate();
        let fewest = threads
            .filter(|(at, thread)| *at == here || thread.may_be_handed_more())
            .min_by_key(|(_, thread)| open(thread))
            .map_or(here, |(at, _)| at);
        if fewest == here {
            return Ok(Goes::Here(stream, self.take(here)));
        }
        let stream = stream.into_std()?;
        let handed = Handed { stream, peer, place: self.take(fewest), _on_the_way: OnTheWay::to(self, fewest) };
        match self.threads[fewest].hand.send(handed) {
            Ok(()) => Ok(Goes::Away),
            // That thread has ended just now: whoever accepts serves.
            Err(mpsc::error::SendError(back)) => Ok(Goes::Here(TcpStream::from_std(back.stream)?, self.take(here))),
        }
    }

    /// A place on the thread `here` itself.
    pub(super) fn here(self: &Arc<Self>, here: usize) -> Place {
        self.take(here)
    }

    fn take(self: &Arc<Self>, thread: usize) -> Place {
        self.threads[thread].open.fetch_add(1, Ordering::Relaxed);
        Place { places: Arc::clone(self), thread }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a listener of the test's own, and the peer it comes from.
    async fn connection() -> (TcpStream, SocketAddr) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        listener.accept().await.unwrap()
    }

    #[tokio::test]
    async fn connections_go_where_the_fewest_are_and_the_first_thread_gets_the_first() {
        let (alive, mut gone) = mpsc::channel(1);
        let (places, mut handed) = Places::new(2, 4, alive);
        let mut here = Vec::new();
        let mut away = Vec::new();
        for _ in 0..4 {
            let (stream, peer) = connection().await;
            match places.find(1, stream, peer).unwrap() {
                Goes::Here(_, place) => here.push(place),
                Goes::Away => away.push(handed[0].recv().await.unwrap().take_up().unwrap().2),
            }
        }
        assert_eq!((away.len(), here.len()), (2, 2));
        assert!(places.are_full());
        away.pop();
        assert!(!places.are_full());
        let (stream, peer) = connection().await;
        assert!(matches!(places.find(1, stream, peer).unwrap(), Goes::Away));
        assert!(gone.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
        drop((places, handed, here, away));
        assert!(gone.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_connection_for_a_thread_that_has_ended_stays_where_it_is() {
        let (alive, _gone) = mpsc::channel(1);
        let (places, mut handed) = Places::new(2, 4, alive);
        drop(handed.remove(0));
        for _ in 0..2 {
            let (stream, peer) = connection().await;
            assert!(matches!(places.find(1, stream, peer).unwrap(), Goes::Here(..)));
        }
    }

    #[tokio::test]
    async fn a_blocked_thread_is_handed_a_few_connections_and_more_when_it_has_taken_them_up() {
        let (alive, _gone) = mpsc::channel(1);
        let (places, mut handed) = Places::new(2, usize::MAX, alive);
        let mut here = Vec::new();
        for _ in 0..10 * ON_THE_WAY_MAX {
            let (stream, peer) = connection().await;
            if let Goes::Here(_, place) = places.find(1, stream, peer).unwrap() {
                here.push(place);
            }
        }
        assert_eq!(here.len(), 9 * ON_THE_WAY_MAX);
        let taken_up = handed[0].recv().await.unwrap().take_up().unwrap();
        for away in [true, false] {
            let (stream, peer) = connection().await;
            assert_eq!(matches!(places.find(1, stream, peer).unwrap(), Goes::Away), away);
        }
        drop(taken_up);
    }
}

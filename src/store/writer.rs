//! The thread that writes: it takes what has gathered, does it in one transaction, and tells everybody when that is durable.
//! There is no timer to gather by: while one group is being written, the next one gathers. Reading has a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::engine::{Engine, Work, run_one};
use super::{Changes, Records, StoreError};

/// A group ends with as many works.
const GROUP_MAX_WORKS: usize = 512;
/// A group ends when it has brought as much.
const GROUP_MAX_BYTES: usize = 4 << 20;
/// As many works may wait at all.
const WAITING_MAX: usize = 16_384;
/// While as many works wait, or as many bytes, callers' are refused.
const BROUGHT_MAX: usize = 4_096;
const BROUGHT_MAX_BYTES: usize = 64 << 20;
/// With nothing to write for as long, the engine tidies up.
const IDLE: Duration = Duration::from_millis(500);

/// The way to a thread that does works of one kind.
pub(super) struct Line<S: ?Sized> {
    sender: Sender<Message<S>>,
    waiting: Arc<Waiting>,
}

/// How much is on its way to a thread.
#[derive(Default)]
struct Waiting {
    works: AtomicUsize,
    /// Of what callers bring.
    bytes: AtomicUsize,
}

enum Message<S: ?Sized> {
    Work(Box<dyn Work<S>>, usize),
    Close(oneshot::Sender<()>),
}

/// A thread's end of its line.
pub(super) struct Queue<S: ?Sized> {
    receiver: Receiver<Message<S>>,
    waiting: Arc<Waiting>,
}

/// A line, and its other end.
pub(super) fn line<S: ?Sized>() -> (Line<S>, Queue<S>) {
    let (sender, receiver) = channel();
    let waiting = Arc::<Waiting>::default();
    (Line { sender, waiting: waiting.clone() }, Queue { receiver, waiting })
}

impl<S: ?Sized> Line<S> {
    /// Hands a work over, or tells its owner at once that it cannot be. `brought` is the size of what callers bring.
    pub(super) fn hand_over(&self, work: Box<dyn Work<S>>, brought: Option<usize>) {
        let (works, bytes) = (self.waiting.works.load(Relaxed), self.waiting.bytes.load(Relaxed));
        let is_behind = match brought {
            None => works >= WAITING_MAX,
            // One that is larger than all that may wait goes when nothing does.
            Some(new) => works >= BROUGHT_MAX || (bytes > 0 && bytes.saturating_add(new) > BROUGHT_MAX_BYTES),
        };
        if is_behind {
            return work.tell(Some(StoreError::Behind));
        }
        let bytes = brought.unwrap_or(0);
        self.waiting.works.fetch_add(1, Relaxed);
        self.waiting.bytes.fetch_add(bytes, Relaxed);
        // Dropped unsaid when the thread has gone: its owner takes that for closed.
        let _ = self.sender.send(Message::Work(work, bytes));
    }

    /// Ends the thread when it has done what was handed over before; resolves when it has.
    pub(super) async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.sender.send(Message::Close(done)).is_ok() {
            let _ = ended.await;
        }
    }
}

/// What a thread is to do next.
enum Next<S: ?Sized> {
    Work(Box<dyn Work<S>>),
    Nothing,
    /// To end, and whom to tell.
    End(Option<oneshot::Sender<()>>),
}

impl<S: ?Sized> Queue<S> {
    /// Waits for a work, not for ever where there is something to tidy up.
    fn wait(&self, is_tidy: bool) -> Next<S> {
        if is_tidy {
            return self.receiver.recv().map_or(Next::End(None), |message| self.take(message));
        }
        match self.receiver.recv_timeout(IDLE) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::End(None),
        }
    }

    /// What is there already.
    fn next(&self) -> Next<S> {
        match self.receiver.try_recv() {
            Ok(message) => self.take(message),
            Err(TryRecvError::Empty) => Next::Nothing,
            Err(TryRecvError::Disconnected) => Next::End(None),
        }
    }

    fn take(&self, message: Message<S>) -> Next<S> {
        match message {
            Message::Work(work, bytes) => {
                self.waiting.works.fetch_sub(1, Relaxed);
                self.waiting.bytes.fetch_sub(bytes, Relaxed);
                Next::Work(work)
            }
            Message::Close(done) => Next::End(Some(done)),
        }
    }
}

/// The writer's thread. Ends when the line is closed or has nobody at its other end; `failed` hears why it cannot go on.
pub(super) fn write<E: Engine>(mut engine: E, queue: &Queue<dyn Changes>, failed: &watch::Sender<Option<String>>) {
    let ended = catch_unwind(AssertUnwindSafe(|| write_on(&mut engine, queue)));
    let (done, reason) = match ended {
        Ok(Ended { done, reason }) => (done, reason),
        Err(_) => (None, Some("its writer panicked".to_owned())),
    };
    if let Some(reason) = reason {
        engine.abandon();
        drop(engine);
        failed.send_replace(Some(reason.clone()));
        refuse(queue, &reason);
    } else {
        engine.close();
        drop(engine);
    }
    if let Some(done) = done {
        let _ = done.send(());
    }
}

/// How the writer came to its end: asked by whom, or why.
struct Ended {
    done: Option<oneshot::Sender<()>>,
    reason: Option<String>,
}

fn write_on<E: Engine>(engine: &mut E, queue: &Queue<dyn Changes>) -> Ended {
    let mut is_tidy = false;
    loop {
        let mut next = queue.wait(is_tidy);
        match next {
            Next::Work(_) => {}
            Next::Nothing => {
                is_tidy = engine.tidy();
                match engine.broken() {
                    Some(reason) => return Ended { done: None, reason: Some(reason) },
                    None => continue,
                }
            }
            Next::End(done) => return Ended { done, reason: None },
        }
        let mut group = Vec::new();
        let mut lost = engine.begin().err();
        while let Next::Work(mut work) = next {
            if lost.is_none() {
                lost = run_one(engine, &mut *work).err();
            }
            group.push(work);
            let is_full = group.len() >= GROUP_MAX_WORKS || engine.brought() >= GROUP_MAX_BYTES;
            next = if is_full || lost.is_some() { Next::Nothing } else { queue.next() };
        }
        let lost = lost.map_or_else(|| engine.commit(), Err).err();
        if lost.is_some() {
            engine.abandon();
        }
        for work in group {
            work.tell(lost.clone());
        }
        is_tidy = false;
        if let Some(reason) = engine.broken() {
            let done = if let Next::End(done) = next { done } else { None };
            return Ended { done, reason: Some(reason) };
        }
        if let Next::End(done) = next {
            return Ended { done, reason: None };
        }
    }
}

/// Tells everybody who comes why nothing will happen any more.
fn refuse(queue: &Queue<dyn Changes>, reason: &str) {
    loop {
        match queue.wait(true) {
            Next::Work(work) => work.tell(Some(StoreError::Io(reason.to_owned()))),
            Next::Nothing => {}
            Next::End(done) => {
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return;
            }
        }
    }
}

/// What the reading thread needs of a kind.
pub(super) trait View: Records + 'static {
    /// From here on, everything is seen as it is now.
    fn begin(&mut self) -> Result<(), StoreError>;

    fn end(&mut self);
}

/// The reader's thread: one work after another.
pub(super) fn read<V: View>(mut view: V, queue: &Queue<dyn Records>) {
    loop {
        match queue.wait(true) {
            Next::Work(mut work) => {
                let lost = view.begin().err();
                if lost.is_none() {
                    work.run(&mut view);
                }
                view.end();
                work.tell(lost);
            }
            Next::Nothing => {}
            Next::End(done) => {
                drop(view);
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::engine::{Ended, work};

    /// Hands over a work that is never done; gives what its owner is told at once.
    fn hand_over(line: &Line<()>, brought: Option<usize>) -> Option<Result<(), StoreError>> {
        let (work, mut told): (_, oneshot::Receiver<Ended<()>>) = work::<(), _, ()>(|&mut ()| Ok(()));
        line.hand_over(work, brought);
        told.try_recv().ok().map(|ended| ended.unwrap())
    }

    #[test]
    fn what_callers_bring_is_refused_while_much_waits_and_what_has_begun_is_not() {
        let (line, queue) = line();
        for _ in 0..BROUGHT_MAX {
            assert_eq!(hand_over(&line, Some(1)), None);
        }
        assert_eq!(hand_over(&line, Some(1)), Some(Err(StoreError::Behind)));
        for _ in BROUGHT_MAX..WAITING_MAX {
            assert_eq!(hand_over(&line, None), None);
        }
        assert_eq!(hand_over(&line, None), Some(Err(StoreError::Behind)), "there is an end to everything");
        assert!(matches!(queue.next(), Next::Work(_)));
        assert_eq!(hand_over(&line, None), None);
    }

    #[test]
    fn large_bodies_wait_up_to_a_sum_and_one_that_is_larger_waits_alone() {
        let (line, queue) = line();
        assert_eq!(hand_over(&line, Some(BROUGHT_MAX_BYTES + 1)), None);
        assert_eq!(hand_over(&line, Some(1)), Some(Err(StoreError::Behind)));
        assert_eq!(hand_over(&line, None), None);
        while !matches!(queue.next(), Next::Nothing) {}
        assert_eq!(hand_over(&line, Some(BROUGHT_MAX_BYTES)), None);
        assert_eq!(hand_over(&line, Some(1)), Some(Err(StoreError::Behind)));
    }

    #[test]
    fn whoever_comes_when_the_thread_has_gone_is_told_that_it_is_closed() {
        let (line, queue) = line();
        drop(queue);
        let (work, mut told) = work::<(), _, ()>(|&mut ()| Ok(()));
        line.hand_over(work, None);
        assert!(matches!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }
}

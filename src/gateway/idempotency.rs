//! One call for each `Idempotency-Key`: whoever comes again with a tenant's key and body gets the answer of the call that
//! is there already, also while it runs.
//!
//! The call is made by a task of its own, which records what comes; its caller and all who come later follow the recording,
//! each at its own pace. An answer is kept for a day, and so is an error that would be the same next time; any other end
//! frees the key. When the last of those who follow has gone, the call is cancelled like that of any caller who hangs up.
//!
//! What is kept is in the store as well, and there before its caller has it: a restart does not make a call again whose answer
//! somebody got. In memory are the calls that run and the latest answers, [`MOST_BYTES`] of them.

mod kept;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName};
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::calls::bad_header;
use crate::clock::{self, Instant};
use crate::jobs::Registry;
use crate::messages::{Answer, AnswerBody, Error, ErrorKind, Headers, Meta, Outcome, Request, StreamSender, stream};
use crate::telemetry;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Says that an answer is that of an earlier call.
pub(super) const X_FOREBAY_REPLAYED: HeaderName = HeaderName::from_static("x-forebay-replayed");

/// As long as those who define such keys keep theirs.
const KEPT_FOR: Duration = Duration::from_secs(86_400);

/// Keys and answers that are kept, together; beyond it the oldest are forgotten.
const MOST_BYTES: usize = 64 << 20;

/// The longest answer that is recorded: whoever follows late needs all of it.
const LONGEST_ANSWER: usize = 64 << 20;

/// What a kept key costs besides its answer, about.
const OVERHEAD: usize = 512;

/// The longest key.
const LONGEST_KEY: usize = 255;

type Print = [u8; 32];
type Name = (Option<Arc<str>>, Box<str>);

/// The caller's key, if it sends one.
///
/// # Errors
/// `invalid_request` when it cannot be one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Box<str>>, Error> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.trim().is_empty() && key.len() <= LONGEST_KEY => Ok(Some(key.trim().into())),
        _ => Err(bad_header(&IDEMPOTENCY_KEY, "it must be 1 to 255 visible ASCII characters")),
    }
}

/// What two calls share that are the same: the endpoint and every byte of the body.
fn print(request: &Request) -> Print {
    let mut context = Context::new(&SHA256);
    context.update(request.endpoint().path().as_bytes());
    context.update(&[0]);
    context.update(request.body().bytes());
    let mut print = Print::default();
    print.copy_from_slice(context.finish().as_ref());
    print
}

/// All recordings, shared by the gateway's threads.
#[derive(Clone)]
pub(super) struct Shelf {
    latest: Arc<Mutex<Shelved>>,
    /// Where answers outlive the process.
    registry: Option<Registry>,
}

#[derive(Default)]
struct Shelved {
    recordings: HashMap<Name, Arc<Recording>>,
    /// Those whose call has ended, the oldest first, and what each weighs.
    kept: VecDeque<(Instant, Name, Arc<Recording>, usize)>,
    bytes: usize,
}

impl Shelved {
    /// Forgets what is too old, and the oldest while there is too much.
    fn forget(&mut self, now: Instant) {
        while let Some((since, ..)) = self.kept.front()
            && (*since + KEPT_FOR <= now || self.bytes > MOST_BYTES)
        {
            let Some((_, name, recording, weight)) = self.kept.pop_front() else { return };
            self.bytes -= weight;
            self.free(&name, &recording);
        }
    }

    /// The key stands for this recording no longer.
    fn free(&mut self, name: &Name, recording: &Arc<Recording>) {
        if self.recordings.get(name).is_some_and(|known| Arc::ptr_eq(known, recording)) {
            self.recordings.remove(name);
        }
    }
}

/// One call, as it came.
struct Recording {
    print: Print,
    said: Mutex<Said>,
    /// Told of every change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Said {
    head: Option<Result<Head, Error>>,
    pieces: Vec<Bytes>,
    end: Option<Result<(), Error>>,
    followers: usize,
    /// Who makes the call.
    maker: Option<AbortHandle>,
}

#[derive(Clone)]
struct Head {
    status: u16,
    headers: Headers,
    meta: Meta,
    is_stream: bool,
    /// It is an earlier process's answer, to whoever asked first in this one too.
    is_replay: bool,
}

/// The key stands for another call.
fn conflict() -> Error {
    let message = "this Idempotency-Key was used with another body; use a fresh key for each call";
    Error::new(ErrorKind::IdempotencyConflict, message)
}

/// A panic of whoever held it does not spoil what was recorded: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    fn say(&self, change: impl FnOnce(&mut Said)) {
        change(&mut lock(&self.said));
        self.changed.send_replace(());
    }
}

impl Shelf {
    /// A shelf whose answers outlive the process, where there is a store.
    pub(super) fn with(registry: Option<Registry>) -> Self {
        Self { latest: Arc::default(), registry }
    }

    /// The outcome of the one call for this key: of the one that is there, or of the one that `begin` begins.
    ///
    /// # Errors
    /// `idempotency_conflict` when the key stands for a call with another body.
    pub(super) fn follow<P>(
        &self,
        key: Box<str>,
        request: &Request,
        begin: impl FnOnce() -> P + 'static,
    ) -> Result<Pin<Box<dyn Future<Output = Outcome>>>, Error>
    where
        P: Future<Output = Outcome> + 'static,
    {
        let name = (request.tenant().cloned(), key);
        let print = print(request);
        let mut shelved = lock(&self.latest);
        shelved.forget(clock::now());
        if let Some(known) = shelved.recordings.get(&name) {
            if known.print != print {
                return Err(conflict());
            }
            let follower = Follower::new(self, name, known);
            drop(shelved);
            return Ok(Box::pin(follower.outcome(true)));
        }
        let recording = Arc::new(Recording { print, said: Mutex::default(), changed: watch::Sender::new(()) });
        shelved.recordings.insert(name.clone(), Arc::clone(&recording));
        let follower = Follower::new(self, name.clone(), &recording);
        drop(shelved);
        let maker = Maker { shelf: self.clone(), name, recording: Arc::clone(&recording) };
        let making = actix_web::rt::spawn(maker.make(begin));
        lock(&recording.said).maker = Some(making.abort_handle());
        Ok(Box::pin(follower.outcome(false)))
    }
}

/// Makes the call and records it.
struct Maker {
    shelf: Shelf,
    name: Name,
    recording: Arc<Recording>,
}

impl Maker {
    async fn make<P: Future<Output = Outcome>>(self, begin: impl FnOnce() -> P) {
        if let Some((head, body)) = self.earlier().await {
            return self.end_with(head, body);
        }
        let answer = match begin().await {
            Ok(answer) => answer,
            Err(error) => {
                let head = Err(error);
                self.write_down(&head, Bytes::new()).await;
                return self.end_with(head, Bytes::new());
            }
        };
        let Answer { status, headers, body, meta } = answer;
        let is_stream = matches!(body, AnswerBody::Stream(_));
        let head = Ok(Head { status, headers, meta, is_stream, is_replay: false });
        let mut length = 0;
        match body {
            AnswerBody::Whole(bytes) => {
                self.write_down(&head, bytes.clone()).await;
                return self.end_with(head, bytes);
            }
            AnswerBody::Stream(mut events) => {
                self.recording.say(|said| said.head = Some(head.clone()));
                while let Some(piece) = events.next().await {
                    let piece = match piece {
                        Ok(piece) => piece,
                        Err(error) => return self.recording.say(|said| said.end = Some(Err(error))),
                    };
                    length += piece.len();
                    if length > LONGEST_ANSWER {
                        let error = Error::new(
                            ErrorKind::UpstreamUnavailable,
                            format!("the stream is longer than the {LONGEST_ANSWER} bytes kept for an Idempotency-Key"),
                        );
                        return self.recording.say(|said| said.end = Some(Err(error)));
                    }
                    self.recording.say(|said| said.pieces.push(piece));
                }
                let whole = lock(&self.recording.said).pieces.concat();
                self.write_down(&head, whole.into()).await;
                self.recording.say(|said| said.end = Some(Ok(())));
            }
        }
        self.keep(length);
    }

    /// What the store has for this key, of an earlier process or of one that memory has forgotten; an error when it stands for
    /// another call, or when the store cannot say: a call that may have been made is not made again on a guess.
    async fn earlier(&self) -> Option<(Result<Head, Error>, Bytes)> {
        let registry = self.shelf.registry.as_ref()?;
        let ((tenant, key), now) = (self.name.clone(), registry.now());
        let found = registry.store().read(move |records| records.kept_answer(tenant.as_deref(), &key, now)).await;
        match found {
            Ok(None) => None,
            Ok(Some(answer)) if answer.digest != self.recording.print => Some((Err(conflict()), Bytes::new())),
            Ok(Some(answer)) => kept::found(answer).or_else(|| {
                telemetry::gateway::kept_answer_unreadable();
                None
            }),
            Err(error) => {
                telemetry::gateway::kept_answers_unreachable(&error);
                let message = "the store that keeps the answers for Idempotency-Keys cannot be asked; come again";
                let patience = Duration::from_secs(5);
                Some((Err(Error::new(ErrorKind::Overloaded, message).with_retry_after(patience)), Bytes::new()))
            }
        }
    }

    /// Puts what may be kept on disk, before anybody has it. An answer that cannot be written is given out all the same: it is
    /// paid for.
    async fn write_down(&self, head: &Result<Head, Error>, body: Bytes) {
        let Some(registry) = &self.shelf.registry else { return };
        let Some(answer) = kept::keep(&self.name, self.recording.print, head, body, registry.now()) else { return };
        if let Err(error) = registry.store().write(move |changes| changes.keep_answer(&answer)).await {
            telemetry::gateway::answer_not_kept(&error);
        }
    }

    /// Says what the call ends with, and keeps it where it would be the same next time.
    fn end_with(&self, head: Result<Head, Error>, body: Bytes) {
        let is_kept = match &head {
            Ok(_) => true,
            Err(error) => error.is_lasting(),
        };
        let length = body.len();
        self.recording.say(|said| {
            (said.head, said.pieces) = (Some(head), vec![body]);
            said.end = Some(Ok(()));
        });
        if is_kept {
            self.keep(length);
        }
    }

    /// Keeps an answer of `length` bytes for whoever comes again.
    fn keep(&self, length: usize) {
        let weight = length + self.name.1.len() + OVERHEAD;
        let mut shelved = lock(&self.shelf.latest);
        // Not when everybody left just now.
        if shelved.recordings.get(&self.name).is_some_and(|known| Arc::ptr_eq(known, &self.recording)) {
            shelved.bytes += weight;
            shelved.kept.push_back((clock::now(), self.name.clone(), Arc::clone(&self.recording), weight));
            shelved.forget(clock::now());
        }
    }
}

impl Drop for Maker {
    /// What is not kept frees its key, and nobody waits for a maker that is gone: its thread may have ended.
    fn drop(&mut self) {
        let mut shelved = lock(&self.shelf.latest);
        let is_kept = shelved.kept.iter().rev().any(|(_, _, kept, _)| Arc::ptr_eq(kept, &self.recording));
        if !is_kept {
            shelved.free(&self.name, &self.recording);
        }
        drop(shelved);
        self.recording.say(|said| {
            let gone = || Error::new(ErrorKind::Restarting, "the call was lost; come again");
            said.head.get_or_insert_with(|| Err(gone()));
            said.end.get_or_insert_with(|| Err(gone()));
        });
    }
}

/// One who waits for a recorded call. Dropped, it has left; the last to leave a call that runs cancels it.
struct Follower {
    shelf: Shelf,
    name: Name,
    recording: Arc<Recording>,
    changed: watch::Receiver<()>,
}

impl Follower {
    /// Called with the shelf locked, so that nobody leaves meanwhile.
    fn new(shelf: &Shelf, name: Name, recording: &Arc<Recording>) -> Self {
        lock(&recording.said).followers += 1;
        let changed = recording.changed.subscribe();
        Self { shelf: shelf.clone(), name, recording: Arc::clone(recording), changed }
    }

    async fn outcome(mut self, is_replay: bool) -> Outcome {
        let head = loop {
            let head = lock(&self.recording.said).head.clone();
            match head {
                Some(head) => break head?,
                // The sender is in the recording, which is ours.
                None => _ = self.changed.changed().await,
            }
        };
        let Head { status, mut headers, meta, is_stream, is_replay: was_kept } = head;
        if is_replay || was_kept {
            headers.push(X_FOREBAY_REPLAYED, actix_web::http::header::HeaderValue::from_static("true"));
        }
        let body = if is_stream {
            let (sender, events) = stream();
            actix_web::rt::spawn(self.pass_on(sender));
            AnswerBody::Stream(events)
        } else {
            AnswerBody::Whole(lock(&self.recording.said).pieces.concat().into())
        };
        Ok(Answer { status, headers, body, meta })
    }

    /// Passes on what is recorded, as fast as it is read.
    async fn pass_on(mut self, sender: StreamSender) {
        let mut passed = 0;
        loop {
            let (piece, end) = {
                let said = lock(&self.recording.said);
                (said.pieces.get(passed).cloned(), said.end.clone())
            };
            match (piece, end) {
                (Some(piece), _) => {
                    passed += 1;
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
                (None, Some(end)) => return sender.end(end),
                (None, None) => tokio::select! {
                    _ = self.changed.changed() => {}
                    () = sender.closed() => return,
                },
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // In this order everywhere: the shelf, then what is said.
        let mut shelved = lock(&self.shelf.latest);
        let mut said = lock(&self.recording.said);
        said.followers -= 1;
        if said.followers == 0 && said.end.is_none() {
            shelved.free(&self.name, &self.recording);
            if let Some(maker) = said.maker.take() {
                maker.abort();
            }
        }
    }
}

//! A stream on its way: held until its first content, then passed on as it comes, and never ended as if it were complete
//! when it is not.

use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::exchange::{Reading, reported, with_limits};
use super::transport::{BodyStream, HttpResponse};
use crate::clock::{self, WallClock};
use crate::messages::{
    AttemptEnd, Error, ErrorKind, Failure, FailureKind, Headers, Opened, Redactor, RunAttempt, Sent, StreamSender,
    stream,
};
use crate::providers::classify::classify_event;
use crate::providers::dialect::{Events, Step};
use crate::providers::headers;
use crate::providers::sse::SseParser;

/// The largest single event taken.
const MAX_EVENT: usize = 16 << 20;

/// How much may be held back before the first content.
const MAX_OPENING: usize = 1 << 20;

/// How much is put together into one piece while more is there already: a burst then costs one write, not hundreds.
const PIECE: usize = 16 << 10;

/// How long the end of a body is waited for behind the end of its events.
const LINGER: Duration = Duration::from_millis(100);

/// What reading on has brought.
enum Progress {
    /// Events to pass on.
    Events(Bytes),
    /// The stream is complete.
    Complete,
    /// It broke, or said itself that it failed; the second is what the upstream said of it.
    Broken(Box<Failure>, Option<Bytes>),
}

/// The upstream's side of a stream.
struct Source {
    body: BodyStream,
    parser: SseParser,
    reader: Box<dyn Events>,
    reading: Reading,
    /// No byte has come yet.
    first: bool,
    /// Content has been passed on: nothing is held back any more.
    begun: bool,
    /// How the stream ended behind the last piece.
    ended: Option<Progress>,
    status: u16,
    headers: Headers,
    redactor: Redactor,
    upstream: Arc<str>,
}

impl Source {
    /// Reads until there is something to pass on or the stream has ended. What came before an end is passed on first,
    /// unless it was only held: then the attempt has shown nothing and may be repeated.
    async fn next(&mut self) -> Progress {
        if let Some(end) = self.ended.take() {
            return end;
        }
        let mut piece = BytesMut::new();
        let end = self.read(&mut piece).await;
        let complete = matches!(end, Some(Progress::Complete));
        if !piece.is_empty() && (self.begun || complete) {
            self.ended = end;
            return Progress::Events(piece.freeze());
        }
        end.unwrap_or(Progress::Complete)
    }

    /// Reads into `piece`; `None` when the piece should go on its way.
    async fn read(&mut self, piece: &mut BytesMut) -> Option<Progress> {
        loop {
            while let Some(event) = self.parser.next() {
                let Ok(event) = event else {
                    return broken(FailureKind::Malformed, "an event of the stream is too large");
                };
                #[cfg(test)]
                super::planted::decoding(event.raw());
                let before = piece.len();
                match self.reader.read(&event, piece) {
                    Step::Hold if !self.begun && piece.len() > MAX_OPENING => {
                        return broken(FailureKind::Malformed, "the stream opens with too much that is not content");
                    }
                    Step::Hold | Step::Drop => {}
                    Step::Content => {
                        self.begun = true;
                        if self.reader.is_ended() {
                            // A response that ends as failed says why, in the upstream's words.
                            let last = piece.split_off(before).freeze();
                            piece.extend_from_slice(&self.redactor.redact(&last));
                        }
                    }
                    Step::Malformed { detail } => {
                        let message = "an event of the stream is not what it must be";
                        let failure = Failure::new(FailureKind::Malformed, Sent::Maybe, message, detail);
                        return Some(Progress::Broken(Box::new(failure), None));
                    }
                    Step::Error { body, status } => {
                        let failure = error_event(&self.redactor, &self.headers, &body, status);
                        let said = failure.answer.as_ref().map(|(_, _, body)| body.clone());
                        return Some(Progress::Broken(Box::new(failure), said));
                    }
                }
            }
            if self.reader.is_ended() {
                return Some(Progress::Complete);
            }
            if self.begun && piece.len() >= PIECE {
                return None;
            }
            let chunk = self.reading.chunk(&mut self.body, self.first);
            let chunk = if self.begun && !piece.is_empty() { chunk.now_or_never()? } else { chunk.await };
            match chunk {
                Ok(Some(chunk)) => {
                    self.first = false;
                    self.parser.push(chunk);
                }
                Ok(None) if self.reader.is_complete() && !self.parser.pending() => {
                    self.reader.finish(piece);
                    return Some(Progress::Complete);
                }
                Ok(None) => return broken(FailureKind::Cut, "the stream ended before it was complete"),
                Err(failure) => return Some(Progress::Broken(failure, None)),
            }
        }
    }
}

/// The failure that an error event is that an upstream opens a stream with, or breaks it with. Its text may go to the
/// caller, so no configured secret in it survives.
pub(super) fn error_event(redactor: &Redactor, all: &Headers, body: &Bytes, status: Option<u16>) -> Failure {
    let body = redactor.redact(body);
    let mut failure = classify_event(status, all, &body, WallClock::new().at(clock::now()));
    let mut json = Headers::new();
    json.push(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    failure.answer = Some((failure.status().unwrap_or(502), json, body));
    failure
}

fn broken(kind: FailureKind, message: &str) -> Option<Progress> {
    Some(Progress::Broken(Box::new(Failure::new(kind, Sent::Maybe, message, message)), None))
}

/// Runs a stream whose head has come, to its end or until it is called off.
pub(super) async fn run(
    attempt: RunAttempt,
    response: HttpResponse,
    reading: Reading,
    reader: Box<dyn Events>,
    opened: &Recipient<Opened>,
    mut aborted: oneshot::Receiver<Option<Error>>,
) -> AttemptEnd {
    let RunAttempt { slot, id, request, account, redactor, .. } = attempt;
    let HttpResponse { status, headers: all, body } = response;
    // Sent and answered: a long stream does not hold the body of its request. Until the first content the dispatcher does.
    drop(request);
    let mut source = Source {
        body,
        parser: SseParser::new(MAX_EVENT),
        reader,
        redactor,
        upstream: Arc::clone(&account.upstream.name),
        reading,
        first: true,
        begun: false,
        ended: None,
        status,
        headers: all,
    };
    let first = tokio::select! {
        biased;
        _ = &mut aborted => return AttemptEnd::Aborted,
        progress = source.next() => progress,
    };
    let first = match first {
        Progress::Events(events) => events,
        Progress::Complete => Bytes::new(),
        Progress::Broken(failure, _) => return AttemptEnd::Failed(with_limits(*failure, &source.headers)),
    };
    let (sender, events) = stream();
    opened.do_send(Opened {
        slot,
        id,
        status: source.status,
        headers: headers::pick_for_caller(source.headers.clone()),
        limits: reported(&source.headers),
        events,
    });
    let end = pass_on(&mut source, &sender, first, &mut aborted).await;
    let usage = source.reader.usage();
    let (told, broken) = match end {
        Passed::Complete => (Ok(()), None),
        Passed::Broken(failure, error) => (Err(error), Some(*failure)),
        Passed::CalledOff(told) => (Err(told), None),
    };
    let complete = told.is_ok();
    sender.end(told);
    // A stream that was complete without saying so was when its body ended: a body is not asked again behind its end.
    if complete && source.reader.is_ended() {
        // The caller has its end; the body is read to its own, so that the connection can be used again.
        let last = clock::until(clock::now() + LINGER);
        let rest = async { while let Ok(Some(_)) = source.reading.chunk(&mut source.body, false).await {} };
        tokio::select! {
            () = rest => {}
            () = last => {}
        }
    }
    AttemptEnd::Streamed { usage, broken }
}

enum Passed {
    Complete,
    Broken(Box<Failure>, Error),
    CalledOff(Error),
}

async fn pass_on(
    source: &mut Source,
    sender: &StreamSender,
    first: Bytes,
    aborted: &mut oneshot::Receiver<Option<Error>>,
) -> Passed {
    let gone = || Error::new(ErrorKind::UpstreamUnavailable, "the stream was called off");
    let mut events = first;
    loop {
        if !events.is_empty() {
            let late = clock::until(clock::now() + source.reading.idle());
            tokio::select! {
                biased;
                told = &mut *aborted => return Passed::CalledOff(told.ok().flatten().unwrap_or_else(gone)),
                sent = sender.send(events) => if sent.is_err() { return Passed::CalledOff(gone()) },
                // A caller that does not read holds a connection and a slot: it is treated as one that has gone.
                () = late => return Passed::CalledOff(Error::new(ErrorKind::UpstreamUnavailable, "the stream was not read")),
            }
        }
        let progress = tokio::select! {
            biased;
            told = &mut *aborted => return Passed::CalledOff(told.ok().flatten().unwrap_or_else(gone)),
            () = sender.closed() => return Passed::CalledOff(gone()),
            progress = source.next() => progress,
        };
        events = match progress {
            Progress::Events(events) => events,
            Progress::Complete => return Passed::Complete,
            Progress::Broken(failure, said) => {
                let error = match said {
                    Some(body) => Error::upstream(failure.status().unwrap_or(502), Headers::new(), body),
                    None => {
                        Error::new(ErrorKind::UpstreamUnavailable, format!("{}: {}", source.upstream, failure.message))
                    }
                };
                return Passed::Broken(failure, error);
            }
        };
    }
}

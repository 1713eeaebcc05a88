//! One attempt, from its order to its end: encode, send, and read the answer, each phase within its time.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use tokio::sync::oneshot;

use super::relay;
use super::request_actor::Lines;
use super::transport::{BodyStream, ChosenBy, HttpRequest, HttpResponse, LocalFuture, Transport, TransportError};
use crate::clock::{self, Instant, WallClock};
use crate::messages::{
    AttemptEnd, Envelope, Error, ErrorKind, Failure, FailureKind, Headers, LimitReport, Phase, RunAttempt, Sent,
};
use crate::providers::dialect::{self, Answers, Encoded, Untranslatable};
use crate::providers::{classify, headers, limits};

/// The most of an error's body that is kept: more tells nobody more.
const MAX_ERROR_BODY: usize = 1 << 20;

/// Runs an attempt to its end, or until it is called off.
pub(super) async fn run(
    attempt: RunAttempt,
    transport: Rc<dyn Transport>,
    lines: Rc<Lines>,
    mut aborted: oneshot::Receiver<Option<Error>>,
) -> AttemptEnd {
    let timeouts = attempt.account.upstream.timeouts;
    let now = WallClock::new().at(clock::now());
    let encoded = match dialect::encode(&attempt.request, &attempt.account, attempt.model.as_deref(), now) {
        Ok(encoded) => encoded,
        Err(untranslatable) => return AttemptEnd::Failed(unsaid(&attempt, untranslatable)),
    };
    let Encoded { url, headers, body, answers } = encoded;
    let patience = if attempt.request.is_stream() { timeouts.first_byte } else { timeouts.answer };
    if let Some(durable) = &attempt.durable {
        let recorded = tokio::select! {
            biased;
            _ = &mut aborted => return AttemptEnd::Aborted,
            recorded = durable.journal.starting(&attempt.account.id) => recorded,
        };
        if let Err(error) = recorded {
            return AttemptEnd::Withheld(error);
        }
    }
    let first_byte = clock::now() + patience;
    let request = HttpRequest {
        upstream: attempt.account.upstream.clone(),
        url,
        chosen_by: ChosenBy::Operator,
        headers,
        body,
        call: attempt.id.call,
    };

    let head = tokio::select! {
        biased;
        _ = &mut aborted => return AttemptEnd::Aborted,
        head = within(first_byte, Phase::FirstByte, patience, transport.send(request)) => head,
    };
    let response = match head {
        Ok(response) => response,
        Err(failure) => return AttemptEnd::Failed(*failure),
    };
    if response.status / 100 == 2 && is_packed(&response.headers) {
        return AttemptEnd::Failed(packed());
    }
    let mut reading = Reading { idle: timeouts.idle, first_byte, patience, silence: None };
    let (response, is_stream) = match attempt.request.is_stream() && response.status / 100 == 2 {
        true if is_event_stream(&response.headers) => (response, true),
        true => tokio::select! {
            biased;
            _ = &mut aborted => return AttemptEnd::Aborted,
            looked = look(response, &mut reading) => match looked {
                Ok(looked) => looked,
                Err(failure) => return AttemptEnd::Failed(*failure),
            },
        },
        false => (response, false),
    };
    if is_stream {
        return relay::run(attempt, response, reading, answers.events(), &lines.opened, aborted).await;
    }
    tokio::select! {
        biased;
        _ = &mut aborted => AttemptEnd::Aborted,
        end = whole(&attempt, &*answers, response, reading) => end,
    }
}

/// How patient a body is read.
pub(super) struct Reading {
    idle: Duration,
    first_byte: Instant,
    patience: Duration,
    /// Runs out when there may have been silence for long enough. Not set anew for every chunk: whoever finds it run out
    /// sets it to when there will have been.
    silence: Option<LocalFuture<()>>,
}

impl Reading {
    /// The next chunk of `body`; `first` when none has come yet.
    pub(super) async fn chunk(&mut self, body: &mut BodyStream, first: bool) -> Result<Option<Bytes>, Box<Failure>> {
        if first {
            let next = std::future::poll_fn(|cx| body.as_mut().poll_next(cx));
            let next = async { next.await.transpose() };
            return within(self.first_byte, Phase::FirstByte, self.patience, next).await;
        }
        let late = clock::now() + self.idle;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(chunk) = body.as_mut().poll_next(cx) {
                return Poll::Ready(chunk.transpose().map_err(|error| Box::new(unanswered(error))));
            }
            loop {
                let silence = self.silence.get_or_insert_with(|| Box::pin(clock::until(late)));
                ready!(silence.as_mut().poll(cx));
                self.silence = None;
                if clock::now() >= late {
                    return Poll::Ready(Err(Box::new(timeout(Phase::Idle, self.idle))));
                }
            }
        })
        .await
    }

    /// How long the other side may keep still.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }
}

/// What a transport's work comes to, or a timeout of `phase` at `deadline`.
async fn within<T>(
    deadline: Instant,
    phase: Phase,
    limit: Duration,
    work: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, Box<Failure>> {
    let mut work = pin!(work);
    let mut late = pin!(clock::until(deadline));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done.map_err(|error| Box::new(unanswered(error))));
        }
        late.as_mut().poll(cx).map(|()| Err(Box::new(timeout(phase, limit))))
    })
    .await
}

fn timeout(phase: Phase, limit: Duration) -> Failure {
    let seconds = limit.as_secs_f64();
    let message = match phase {
        Phase::Connect => format!("no connection within {seconds} s"),
        Phase::FirstByte => format!("no answer began within {seconds} s"),
        Phase::Idle => format!("the answer stood still for {seconds} s"),
    };
    Failure::new(FailureKind::Timeout(phase), Sent::Maybe, message.clone(), message)
}

fn unanswered(error: TransportError) -> Failure {
    let message = error.message.unwrap_or(match error.kind {
        FailureKind::Unreachable => "the upstream cannot be reached",
        FailureKind::Certificate => "the upstream's certificate does not verify",
        FailureKind::Timeout(_) => "no connection in time",
        FailureKind::Malformed => "the upstream's answer is not HTTP",
        _ => "the connection was cut before the answer was complete",
    });
    Failure::new(error.kind, error.sent, message, error.detail)
}

fn is_event_stream(headers: &Headers) -> bool {
    let kind = headers.get("content-type").unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Looks at how the body of `response` begins, which is not announced as events: whether it may be some all the same.
/// Servers announce them wrongly and clients do not mind, so only what begins as JSON does is taken for a whole answer.
/// The response comes back as it was.
async fn look(response: HttpResponse, reading: &mut Reading) -> Result<(HttpResponse, bool), Box<Failure>> {
    let HttpResponse { status, headers, mut body } = response;
    let (mut seen, mut length) = (Vec::new(), 0);
    let start = loop {
        let Some(chunk) = reading.chunk(&mut body, seen.is_empty()).await? else { break None };
        let start = chunk.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        length += chunk.len();
        seen.push(Ok(chunk));
        // White space keeps a connection busy while a whole answer is made; nobody needs this much.
        if start.is_some() || length > MAX_ERROR_BODY {
            break start;
        }
    };
    let body = Box::pin(futures_util::stream::iter(seen).chain(body));
    Ok((HttpResponse::new(status, headers, body), !matches!(start, Some(b'{' | b'['))))
}

/// Reads a whole answer and judges it.
async fn whole(attempt: &RunAttempt, answers: &dyn Answers, response: HttpResponse, reading: Reading) -> AttemptEnd {
    let HttpResponse { status, headers: all, body } = response;
    let good = status / 100 == 2;
    let most = if good { attempt.account.upstream.max_answer } else { MAX_ERROR_BODY };
    let failed = |failure| AttemptEnd::Failed(with_limits(failure, &all));
    let body = match collect(body, most, &all, reading).await {
        Ok(body) if good => body,
        Err(failure) if good => return failed(*failure),
        // An error whose body is cut, too long or compressed is still that error.
        body => {
            let body = body.ok().filter(|_| !is_packed(&all));
            return AttemptEnd::Failed(error_answer(attempt, answers, status, &all, body));
        }
    };
    #[cfg(test)]
    super::planted::decoding(&body);
    if attempt.request.is_stream() {
        return failed(no_events(attempt, answers, &all, &body));
    }
    match answers.whole(body) {
        Ok((body, usage)) => {
            let limits = reported(&all);
            AttemptEnd::Answered { status, headers: headers::pick_for_caller(all), body, usage, limits }
        }
        Err(detail) => failed(malformed(detail)),
    }
}

fn malformed(detail: String) -> Failure {
    Failure::new(FailureKind::Malformed, Sent::Maybe, "the upstream's answer is not the JSON it must be", detail)
}

/// What the head of a good answer says of the account's limits.
pub(super) fn reported(headers: &Headers) -> LimitReport {
    limits::from_headers(headers, WallClock::new().at(clock::now()))
}

/// A failure behind the head of a good answer, with what that said of the account's limits.
pub(super) fn with_limits(mut failure: Failure, headers: &Headers) -> Failure {
    if failure.limits.is_empty() {
        failure.limits = reported(headers);
    }
    failure
}

/// The failure that `body`, which begins as JSON does, is to a request for a stream: clients would read it as a stream without
/// events, and their answer would be lost without a word.
fn no_events(attempt: &RunAttempt, answers: &dyn Answers, all: &Headers, body: &Bytes) -> Failure {
    if let Some((error, status)) = answers.error_in(body) {
        return relay::error_event(&attempt.redactor, all, &error, status);
    }
    // What is no answer at all says nothing of the next one.
    if let Err(detail) = answers.whole(body.clone()) {
        return malformed(detail);
    }
    let message = "the upstream answered a request for a stream with one whole answer";
    let mut failure = Failure::new(FailureKind::Malformed, Sent::Maybe, message, message);
    // It would do so again, and each of its answers is paid for.
    failure.hint.should_retry = Some(false);
    failure
}

/// The failure an error answer stands for; no configured secret in it survives. Without a body, what it said could not be
/// read.
fn error_answer(
    attempt: &RunAttempt,
    answers: &dyn Answers,
    status: u16,
    all: &Headers,
    body: Option<Bytes>,
) -> Failure {
    let is_lost = body.is_none();
    let body = body.unwrap_or_default();
    // The wall clock is for answers that name a date without one of their own.
    let mut failure = classify::classify(status, all, &body, WallClock::new().at(clock::now()));
    let mut shown = attempt.redactor.redact_headers(&headers::pick_for_caller(all.clone()));
    let said = answers.error(body.clone());
    if said != body {
        // Put into another form: a proxy's page of HTML has become JSON.
        shown.retain(|name| *name != CONTENT_TYPE);
        shown.push(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let mut body = attempt.redactor.redact(&said);
    if is_lost {
        // An empty body would look as if nothing had been said.
        let message = format!("the upstream answered {status}, and what it said about it was lost on the way");
        body = in_callers_form(attempt, &Error::new(ErrorKind::Upstream, message));
        shown.retain(|name| *name != CONTENT_TYPE && *name != CONTENT_ENCODING);
        shown.push(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    failure.answer = Some((status, shown, body));
    failure
}

/// The failure of a request that the upstream's protocol has no words for: 400, and nothing was sent.
fn unsaid(attempt: &RunAttempt, Untranslatable { field, message }: Untranslatable) -> Failure {
    let detail = format!("{field} cannot be said to this upstream");
    let error = Error::new(ErrorKind::InvalidRequest, &*message).with_param(field);
    let mut json = Headers::new();
    json.push(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut failure = Failure::new(FailureKind::Untranslatable, Sent::No, message, detail);
    failure.answer = Some((error.status(), json, in_callers_form(attempt, &error)));
    failure
}

/// The body of an error of our own that ends this attempt.
fn in_callers_form(attempt: &RunAttempt, error: &Error) -> Bytes {
    Envelope::of(attempt.request.endpoint()).body(error, Some(attempt.id.call))
}

/// Whether a body is compressed, which nobody here unpacks: it was asked for as it is.
fn is_packed(headers: &Headers) -> bool {
    headers.get("content-encoding").is_some_and(|how| !how.is_empty() && !how.eq_ignore_ascii_case("identity"))
}

/// The failure that a compressed answer is. It would come so again, and each is paid for.
fn packed() -> Failure {
    let message = "the upstream's answer is compressed, though it was asked for a plain one";
    let mut failure = Failure::new(FailureKind::Malformed, Sent::Maybe, message, message);
    failure.hint.should_retry = Some(false);
    failure
}

async fn collect(
    mut body: BodyStream,
    most: usize,
    headers: &Headers,
    mut reading: Reading,
) -> Result<Bytes, Box<Failure>> {
    let too_large = || {
        let message = format!("the answer is larger than {most} bytes (max_answer)");
        Box::new(Failure::new(FailureKind::TooLarge, Sent::Maybe, message.clone(), message))
    };
    let promised = headers.get("content-length").and_then(|length| length.parse::<usize>().ok());
    if promised.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let Some(first) = reading.chunk(&mut body, true).await? else { return Ok(Bytes::new()) };
    let Some(second) = reading.chunk(&mut body, false).await? else {
        return if first.len() > most { Err(too_large()) } else { Ok(first) };
    };
    let mut whole = BytesMut::with_capacity(promised.unwrap_or(first.len() + second.len()));
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&second);
    while whole.len() <= most {
        match reading.chunk(&mut body, false).await? {
            Some(chunk) => whole.extend_from_slice(&chunk),
            None => return Ok(whole.freeze()),
        }
    }
    Err(too_large())
}

//! Streams out: events as they come, comments in silences, and an end that never looks complete when it is not.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::guard::Caller;
use crate::clock::{self, Instant};
use crate::messages::{AnswerBody, Envelope, Error, ErrorKind, Outcome, StreamBody};
use crate::telemetry::access::AccessLine;

/// The longest silence a caller sees: proxies and SDKs give up on longer ones.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The only keep-alive that every client takes for nothing is a comment.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Between the error event and the unclean end. actix drops what it has not written yet when a body fails, so the
/// event needs a moment to leave.
const FLUSH: Duration = Duration::from_millis(100);

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Waits for a stream to begin: its outcome when it comes within the first silence, or the future still under way when
/// it is time for a head and a comment.
pub(super) async fn opening<P>(mut pending: P) -> Result<Outcome, P>
where
    P: Future<Output = Outcome> + Unpin,
{
    tokio::select! {
        biased;
        outcome = &mut pending => Ok(outcome),
        () = clock::until(clock::now() + KEEP_ALIVE) => Err(pending),
    }
}

/// The response of a call whose outcome is not there yet: head and first comment at once, the rest when it comes.
pub(super) fn late<P>(pending: P, caller: Caller, mut line: AccessLine) -> HttpResponse
where
    P: Future<Output = Outcome> + Unpin + 'static,
{
    line.set_status(200);
    let mut response = HttpResponse::new(StatusCode::OK);
    event_headers(response.headers_mut());
    response.set_body(BoxBody::new(EventBody::new(Source::Pending(pending), caller, line)))
}

/// A body of the events in `events`.
pub(super) fn body(events: StreamBody, caller: Caller, line: AccessLine) -> BoxBody {
    BoxBody::new(EventBody::<std::future::Pending<Outcome>>::new(Source::Events(events), caller, line))
}

/// Marks a response as events that no proxy may hold back.
pub(super) fn event_headers(to: &mut HeaderMap) {
    let is_event_stream = |value: &HeaderValue| {
        value.as_bytes().get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    };
    if !to.get(header::CONTENT_TYPE).is_some_and(is_event_stream) {
        to.insert(header::CONTENT_TYPE, EVENT_STREAM);
    }
    to.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    to.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

type Timer = Pin<Box<dyn Future<Output = ()>>>;

/// Where the next piece comes from.
enum Source<P> {
    /// The call has no outcome yet; the head and a comment are out.
    Pending(P),
    /// The stream is open.
    Events(StreamBody),
    /// The error event is out; what is left is to end uncleanly.
    Broken(Timer),
    /// It has ended.
    Over,
}

/// The body of a streamed response. It holds one piece at a time; dropping it tells the call's other end that the
/// caller is gone.
struct EventBody<P> {
    source: Source<P>,
    /// Whether a comment is due without waiting: it opens a late stream.
    comment_due: bool,
    /// When something was last given out.
    sent_at: Instant,
    /// Runs out when there may have been silence for long enough. Not set anew for every event: it looks at `sent_at`.
    silence: Timer,
    /// Whom an error event is told.
    caller: Caller,
    line: AccessLine,
}

impl<P> EventBody<P> {
    fn new(source: Source<P>, caller: Caller, line: AccessLine) -> Self {
        let now = clock::now();
        Self {
            comment_due: matches!(source, Source::Pending(_)),
            source,
            sent_at: now,
            silence: Box::pin(clock::until(now + KEEP_ALIVE)),
            caller,
            line,
        }
    }

    /// Ready when nothing has been given out for [`KEEP_ALIVE`].
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        loop {
            ready!(self.silence.as_mut().poll(cx));
            let now = clock::now();
            let due = self.sent_at + KEEP_ALIVE;
            if now < due {
                self.silence = Box::pin(clock::until(due));
                continue;
            }
            self.silence = Box::pin(clock::until(now + KEEP_ALIVE));
            return Poll::Ready(self.give(Bytes::from_static(COMMENT)));
        }
    }

    fn give(&mut self, piece: Bytes) -> Bytes {
        self.sent_at = clock::now();
        piece
    }

    /// Ends the stream with `error`: its event now, the unclean end behind it.
    fn fail(&mut self, error: &Error) -> Bytes {
        self.line.fail(error);
        self.source = Source::Broken(Box::pin(clock::until(clock::now() + FLUSH)));
        error_event(error, &self.caller)
    }
}

impl<P> MessageBody for EventBody<P>
where
    P: Future<Output = Outcome> + Unpin,
{
    type Error = Cut;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.comment_due) {
            return Poll::Ready(Some(Ok(this.give(Bytes::from_static(COMMENT)))));
        }
        loop {
            match &mut this.source {
                Source::Pending(pending) => match Pin::new(pending).poll(cx) {
                    Poll::Pending => return this.poll_silence(cx).map(|comment| Some(Ok(comment))),
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Ok(this.fail(&error)))),
                    Poll::Ready(Ok(answer)) => {
                        this.line.set_meta(&answer.meta);
                        match answer.body {
                            AnswerBody::Stream(events) => this.source = Source::Events(events),
                            AnswerBody::Whole(_) => {
                                let error = Error::new(
                                    ErrorKind::UpstreamUnavailable,
                                    "the upstream gave a whole answer where events were asked for",
                                );
                                return Poll::Ready(Some(Ok(this.fail(&error.with_meta(answer.meta)))));
                            }
                        }
                    }
                },
                Source::Events(events) => match events.poll_next(cx) {
                    Poll::Pending => return this.poll_silence(cx).map(|comment| Some(Ok(comment))),
                    // An empty piece would end the chunked coding.
                    Poll::Ready(Some(Ok(piece))) if piece.is_empty() => {}
                    Poll::Ready(Some(Ok(piece))) => return Poll::Ready(Some(Ok(this.give(piece)))),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Ok(this.fail(&error)))),
                    Poll::Ready(None) => {
                        this.line.complete();
                        this.source = Source::Over;
                    }
                },
                Source::Broken(flush) => {
                    ready!(flush.as_mut().poll(cx));
                    this.source = Source::Over;
                    return Poll::Ready(Some(Err(Cut)));
                }
                Source::Over => return Poll::Ready(None),
            }
        }
    }
}

/// `error` as an event: the body of its status form in `data:` lines. An upstream's body that is no JSON error, an HTML
/// page say, is named instead of passed on: no client would take it for an error.
fn error_event(error: &Error, caller: &Caller) -> Bytes {
    let body = match error.answer() {
        Some((_, body)) if is_json_error(body) => body.clone(),
        _ => caller.envelope.body(error, Some(caller.id)),
    };
    // In Anthropic's protocol an event is known by its name, in OpenAI's by having none.
    let start: &[u8] = match caller.envelope {
        Envelope::OpenAi => b"data: ",
        Envelope::Anthropic => b"event: error\ndata: ",
    };
    let mut event = Vec::with_capacity(start.len() + body.len() + 2);
    event.extend_from_slice(start);
    // In valid JSON a line break can only be white space; in an event it would begin another field.
    event.extend(body.trim_ascii().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}

fn is_json_error(body: &[u8]) -> bool {
    let value: Result<serde_json::Value, _> = serde_json::from_slice(body);
    value.is_ok_and(|value| value.get("error").is_some_and(|error| !error.is_null()))
}

/// Why a streamed body ends uncleanly; the error event before it has told the caller.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream broke")
    }
}

impl std::error::Error for Cut {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::caller;
    use crate::messages::{self, Answer, CallId, Endpoint, Headers, Meta};
    use std::future::poll_fn;
    use tokio::sync::oneshot;

    type Out = Pin<Box<dyn Future<Output = Outcome>>>;

    fn line() -> AccessLine {
        AccessLine::new(CallId::new(), Endpoint::ChatCompletions, None)
    }

    fn answer(body: AnswerBody) -> Answer {
        Answer { status: 200, headers: Headers::new(), body, meta: Meta::default() }
    }

    fn pending() -> (oneshot::Sender<Outcome>, Out) {
        let (tell, told) = oneshot::channel();
        (tell, Box::pin(async move { told.await.unwrap() }))
    }

    async fn next<B: MessageBody + Unpin>(body: &mut B) -> Option<Result<String, ()>> {
        let piece = poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await;
        piece.map(|piece| piece.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|_| ()))
    }

    fn text(piece: &str) -> Option<Result<String, ()>> {
        Some(Ok(piece.to_owned()))
    }

    fn broken() -> Error {
        Error::new(ErrorKind::UpstreamUnavailable, "cut off").with_meta(Meta { attempts: 1, ..Meta::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn events_pass_as_they_come_and_the_end_is_clean() {
        let (send, events) = messages::stream();
        let mut body = body(events, caller(Envelope::OpenAi), line());
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        send.send(Bytes::new()).await.unwrap();
        send.send(Bytes::from_static(b"data: [DONE]\n\n")).await.unwrap();
        send.end(Ok(()));
        assert_eq!(next(&mut body).await, text("data: 1\n\n"));
        assert_eq!(next(&mut body).await, text("data: [DONE]\n\n"));
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn fifteen_seconds_of_silence_bring_a_comment_each() {
        let (send, events) = messages::stream();
        let mut body = body(events, caller(Envelope::OpenAi), line());
        let start = clock::now();
        let seconds = || (clock::now() - start).as_secs();
        tokio::spawn(async move {
            clock::until(start + Duration::from_secs(10)).await;
            send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
            clock::until(start + Duration::from_secs(45)).await;
            send.end(Ok(()));
        });
        assert_eq!((next(&mut body).await, seconds()), (text("data: 1\n\n"), 10));
        assert_eq!((next(&mut body).await, seconds()), (text(": keep-alive\n\n"), 25));
        assert_eq!((next(&mut body).await, seconds()), (text(": keep-alive\n\n"), 40));
        assert_eq!((next(&mut body).await, seconds()), (None, 45));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_ends_with_an_error_event_and_uncleanly() {
        let (send, events) = messages::stream();
        let mut body = body(events, caller(Envelope::OpenAi), line());
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        send.end(Err(broken()));
        assert_eq!(next(&mut body).await, text("data: 1\n\n"));
        let event = next(&mut body).await.unwrap().unwrap();
        let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert_eq!(json.as_bytes(), broken().to_body());
        assert_eq!(next(&mut body).await, Some(Err(())));
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_event_can_leave_before_the_unclean_end() {
        let (send, events) = messages::stream();
        let mut body = body(events, caller(Envelope::OpenAi), line());
        send.end(Err(broken()));
        next(&mut body).await.unwrap().unwrap();
        // actix writes what it has when the body has nothing more at the moment.
        let at_once = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_next(cx).is_pending())).await;
        assert!(at_once);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outcome_within_the_first_silence_is_an_ordinary_one() {
        let (tell, told) = pending();
        let start = clock::now();
        tokio::spawn(async move {
            clock::until(start + Duration::from_millis(14_999)).await;
            let _ = tell.send(Err(broken()));
        });
        let Ok(Err(error)) = opening(told).await else { panic!("it has an outcome") };
        assert_eq!(error.code(), "upstream_unavailable");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_outcome_finds_a_head_and_a_comment_every_15_seconds() {
        let (tell, told) = pending();
        let start = clock::now();
        let Err(told) = opening(told).await else { panic!("nothing has come") };
        assert_eq!((clock::now() - start).as_secs(), 15);
        let response = late(told, caller(Envelope::OpenAi), line());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/event-stream; charset=utf-8");
        assert_eq!(response.headers().get("cache-control").unwrap(), "no-cache");
        assert_eq!(response.headers().get("x-accel-buffering").unwrap(), "no");
        let mut body = response.into_body();
        assert_eq!(next(&mut body).await, text(": keep-alive\n\n"));
        assert_eq!((clock::now() - start).as_secs(), 15);
        assert_eq!(next(&mut body).await, text(": keep-alive\n\n"));
        assert_eq!((clock::now() - start).as_secs(), 30);
        let (send, events) = messages::stream();
        let _ = tell.send(Ok(answer(AnswerBody::Stream(events))));
        send.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        send.end(Ok(()));
        assert_eq!(next(&mut body).await, text("data: 1\n\n"));
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_error_and_a_late_whole_answer_are_error_events() {
        let whole = Ok(answer(AnswerBody::Whole(Bytes::from_static(b"{}"))));
        for outcome in [Err(broken()), whole] {
            let (tell, told) = pending();
            let mut body = late(told, caller(Envelope::OpenAi), line()).into_body();
            assert_eq!(next(&mut body).await, text(": keep-alive\n\n"));
            let _ = tell.send(outcome);
            let event = next(&mut body).await.unwrap().unwrap();
            assert!(event.starts_with("data: {\"error\":{"), "{event}");
            assert!(event.contains("upstream_unavailable"), "{event}");
            assert_eq!(next(&mut body).await, Some(Err(())));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_a_late_body_drops_the_call() {
        let (tell, told) = pending();
        drop(late(told, caller(Envelope::OpenAi), line()));
        assert!(tell.is_closed());
    }

    #[test]
    fn an_upstreams_error_of_many_lines_is_one_event() {
        let error =
            Error::upstream(500, Headers::new(), Bytes::from_static(b"{\n  \"error\": {\r\n \"code\": null }\n}\n"));
        let event = error_event(&error, &caller(Envelope::OpenAi));
        assert_eq!(event, "data: {   \"error\": {   \"code\": null } }\n\n");
    }

    #[test]
    fn an_error_event_of_anthropics_protocol_has_its_name_and_its_envelope() {
        let to = caller(Envelope::Anthropic);
        let data = |error: &Error| {
            let event = String::from_utf8(error_event(error, &to).to_vec()).unwrap();
            event.strip_prefix("event: error\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap().to_owned()
        };
        let theirs = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        assert_eq!(data(&Error::upstream(529, Headers::new(), Bytes::from_static(theirs.as_bytes()))), theirs);
        for ours in [broken(), Error::upstream(502, Headers::new(), Bytes::from_static(b"<html>"))] {
            let body: serde_json::Value = serde_json::from_str(&data(&ours)).unwrap();
            assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()));
            assert_eq!(body["request_id"], to.id.to_string());
        }
    }

    #[test]
    fn an_upstreams_error_that_is_no_json_is_named_in_the_envelope() {
        for body in [&b"<html>\n\n</html>"[..], b"{\"detail\":\"no\"}", b""] {
            let error = Error::upstream(502, Headers::new(), Bytes::from_static(body));
            let event = error_event(&error, &caller(Envelope::OpenAi));
            let event = String::from_utf8(event.to_vec()).unwrap();
            assert!(event.starts_with("data: {\"error\":{"), "{event}");
            assert!(event.contains("upstream_error"), "{event}");
            assert_eq!(event.matches('\n').count(), 2);
        }
    }
}

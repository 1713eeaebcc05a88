//! Errors as callers see them: status, the envelope of the caller's protocol, and headers that keep SDKs from retrying what forebay has
//! retried already.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Resource, web};
use bytes::Bytes;

use super::guard::Caller;
use super::headers::{self, RETRY_AFTER_MS, X_SHOULD_RETRY};
use crate::messages::{Error, ErrorKind};

/// The longest wait ever passed on: some SDKs sleep whatever they are told.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// `error` as a response to `caller`; the upstream's own answer where it has spoken last.
pub(super) fn reply(error: &Error, caller: &Caller) -> HttpResponse {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::with_body(status, BoxBody::new(caller.body_of(error)));
    fill(error, response.headers_mut());
    response
}

/// The same for a request whose body has not been read to its end. The rest is not waited for: it stays attached to
/// the response, which makes actix close the connection behind it instead of draining what may never end.
pub(super) fn reply_unread(error: &Error, caller: &Caller, rest: impl Into<Option<Payload>>) -> HttpResponse {
    let mut response = reply(error, caller);
    if let Some(rest @ (Payload::H1 { .. } | Payload::Stream { .. })) = rest.into() {
        response = response.set_body(BoxBody::new(Refusal { body: Some(caller.body_of(error)), _rest: rest }));
    }
    response
}

fn fill(error: &Error, to: &mut HeaderMap) {
    let mut after = error.retry_after();
    match error.answer() {
        Some((theirs, _)) => {
            headers::copy(theirs.clone(), to);
            after = after.or_else(|| theirs.get("retry-after")?.trim().parse().ok().map(Duration::from_secs));
            to.remove(header::RETRY_AFTER);
            to.remove(RETRY_AFTER_MS);
            to.remove(X_SHOULD_RETRY);
        }
        None => {
            to.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
    }
    if let Some(after) = after {
        let millis = after.min(RETRY_AFTER_MAX).as_nanos().div_ceil(1_000_000).max(1);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        to.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1_000)));
        to.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
    }
    let meta = error.meta();
    // An error that was raised before the call was accepted knows none of these.
    if meta.attempts > 0 || !meta.queued.is_zero() || meta.upstream.is_some() {
        headers::describe(meta, to);
    } else {
        headers::budgets(&meta.budget, to);
    }
    let status = error.status();
    if meta.attempts > 0 || ((400..500).contains(&status) && status != 429 && status != 408) {
        to.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if error.kind() == ErrorKind::InvalidApiKey {
        to.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// A body that keeps the unread rest of a request alive until it has been sent.
struct Refusal {
    body: Option<Bytes>,
    _rest: Payload,
}

impl MessageBody for Refusal {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(self.get_mut().body.take().map(Ok))
    }
}

/// No such path.
pub(super) async fn unknown_url(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let message = format!("no such endpoint: {} {}", request.method(), shown(request.path()));
    reply_unread(&Error::new(ErrorKind::UnknownUrl, message), &Caller::of(&request), payload.into_inner())
}

/// Makes `resource` answer every method but those of its routes with 405; `allow` lists them.
pub(super) fn only(resource: Resource, allow: &'static str) -> Resource {
    resource.default_service(web::to(move |request: HttpRequest, payload: web::Payload| async move {
        let message = format!("{} takes {allow}, not {}", shown(request.path()), request.method());
        let error = Error::new(ErrorKind::MethodNotAllowed, message);
        let mut response = reply_unread(&error, &Caller::of(&request), payload.into_inner());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        response
    }))
}

/// A path as an error message may repeat it.
fn shown(path: &str) -> &str {
    const SHOWN_MAX_BYTES: usize = 200;
    let mut end = path.len().min(SHOWN_MAX_BYTES);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::caller;
    use crate::messages::{Envelope, Headers, Meta};
    use actix_web::http::header::HeaderName;

    fn reply(error: &Error) -> HttpResponse {
        super::reply(error, &caller(Envelope::OpenAi))
    }

    fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    fn attempted(attempts: u32) -> Meta {
        Meta { attempts, ..Meta::default() }
    }

    #[test]
    fn a_client_error_tells_sdks_not_to_retry_but_429_and_408_do_not() {
        for kind in
            [ErrorKind::InvalidRequest, ErrorKind::InvalidApiKey, ErrorKind::UnknownUrl, ErrorKind::BodyTooLarge]
        {
            assert_eq!(header(&reply(&Error::new(kind, "")), "x-should-retry"), Some("false"), "{kind:?}");
        }
        for kind in [ErrorKind::TenantLimit, ErrorKind::BodyTimeout, ErrorKind::Overloaded, ErrorKind::DeadlineExceeded]
        {
            assert_eq!(header(&reply(&Error::new(kind, "")), "x-should-retry"), None, "{kind:?}");
        }
    }

    #[test]
    fn every_error_after_an_attempt_tells_sdks_not_to_retry() {
        for kind in [ErrorKind::UpstreamUnavailable, ErrorKind::DeadlineExceeded, ErrorKind::WorkerCrashed] {
            let response = reply(&Error::new(kind, "").with_meta(attempted(1)));
            assert_eq!(header(&response, "x-should-retry"), Some("false"), "{kind:?}");
            assert_eq!(header(&response, "x-forebay-attempts"), Some("1"));
        }
        let last_429 = Error::upstream(429, Headers::new(), Bytes::new()).with_meta(attempted(5));
        assert_eq!(header(&reply(&last_429), "x-should-retry"), Some("false"));
    }

    #[test]
    fn patience_is_asked_for_in_whole_seconds_rounded_up_and_in_milliseconds() {
        let asked = |after| {
            let response = reply(&Error::new(ErrorKind::Overloaded, "").with_retry_after(after));
            let text = |name| header(&response, name).unwrap().to_owned();
            (text("retry-after"), text("retry-after-ms"))
        };
        assert_eq!(asked(Duration::ZERO), ("1".into(), "1".into()));
        assert_eq!(asked(Duration::from_millis(1_001)), ("2".into(), "1001".into()));
        assert_eq!(asked(Duration::from_secs(600)), ("60".into(), "60000".into()));
    }

    #[test]
    fn an_upstreams_final_error_keeps_status_and_body_and_its_long_wait_is_capped() {
        let headers: Headers = [("content-type", "text/html"), ("retry-after", "600"), ("x-should-retry", "true")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let error = Error::upstream(503, headers, Bytes::from_static(b"<html>")).with_meta(attempted(5));
        let response = reply(&error);
        assert_eq!(response.status(), 503);
        assert_eq!(header(&response, "content-type"), Some("text/html"));
        assert_eq!(header(&response, "retry-after"), Some("60"));
        assert_eq!(header(&response, "x-should-retry"), Some("false"));
        assert_eq!(response.headers().get_all("retry-after").count(), 1);
        assert_eq!(response.into_body().try_into_bytes().unwrap(), "<html>");
    }

    #[test]
    fn an_error_before_acceptance_does_not_speak_of_attempts() {
        let response = reply(&Error::new(ErrorKind::Overloaded, "full"));
        assert_eq!(header(&response, "x-forebay-attempts"), None);
        assert_eq!(header(&response, "x-forebay-queued-ms"), None);
    }

    #[test]
    fn a_missing_key_names_the_scheme_to_use() {
        let response = reply(&Error::new(ErrorKind::InvalidApiKey, "no key"));
        assert_eq!(response.status(), 401);
        assert_eq!(header(&response, "www-authenticate"), Some("Bearer"));
        let body = response.into_body().try_into_bytes().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["error"]["code"], "invalid_api_key");
        assert_eq!(body["error"]["type"], "authentication_error");
        assert!(body["error"]["param"].is_null());
    }
}

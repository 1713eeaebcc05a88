//! The calls that are passed on: read, begun, answered.

use std::future::Future;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName};
use actix_web::{HttpRequest, HttpResponse, Resource, web};

use super::body::{self, Announced};
use super::guard::{self, Caller};
use super::{Shared, errors, headers, idempotency, stream};
use crate::config::parse_duration;
use crate::messages::{Answer, AnswerBody, Droppable, Endpoint, Error, ErrorKind, Headers, Outcome, Priority, Request};
use crate::providers::headers::pick_for_upstream;
use crate::system::{Admitted, Pending};
use crate::telemetry::access::AccessLine;

const X_FOREBAY_TIMEOUT: HeaderName = HeaderName::from_static("x-forebay-timeout");
const X_FOREBAY_PRIORITY: HeaderName = HeaderName::from_static("x-forebay-priority");
const X_FOREBAY_DROP: HeaderName = HeaderName::from_static("x-forebay-drop");

/// What OpenAI's and Anthropic's SDKs send of their own time limit, in seconds.
const SDK_TIMEOUTS: [HeaderName; 2] =
    [HeaderName::from_static("x-stainless-timeout"), HeaderName::from_static("x-stainless-read-timeout")];

const X_STAINLESS_RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// The longest time limit there is.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// When a caller refused for a drain may find our successor; the dispatcher says the same to calls that reach it.
const DRAINING_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The route of `endpoint`, below a prefix.
pub(super) fn resource(endpoint: Endpoint) -> Resource {
    let post = web::post().to(move |shared: web::Data<Shared>, request: HttpRequest, payload: web::Payload| {
        call(endpoint, shared, request, payload)
    });
    errors::only(web::resource(endpoint.path()).route(post), "POST")
}

/// One call from its head to its answer. Dropped when the caller hangs up, which cancels the call.
async fn call(
    endpoint: Endpoint,
    shared: web::Data<Shared>,
    request: HttpRequest,
    mut payload: web::Payload,
) -> HttpResponse {
    let caller = Caller::of(&request);
    let mut line = AccessLine::new(caller.id, endpoint, caller.tenant.clone());
    line.set_tried_before(tried_before(request.headers()));
    let (call, admitted, key) = match read(endpoint, &shared, &request, &caller, &mut payload).await {
        Ok(read) => read,
        Err(error) => {
            line.fail(&error);
            return errors::reply_unread(&error, &caller, payload.into_inner());
        }
    };
    if let Some(model) = call.model() {
        line.set_model(model);
    }
    let is_stream = call.is_stream();
    let Some(key) = key else {
        let pending: Pending = shared.forebay.begin(caller.id, call, admitted, shared.seat);
        return respond(pending, is_stream, caller, line).await;
    };
    let again = call.clone();
    match shared.shelf.follow(key, &again, || shared.forebay.begin(caller.id, call, admitted, shared.seat)) {
        Ok(pending) => respond(pending, is_stream, caller, line).await,
        Err(error) => {
            line.fail(&error);
            errors::reply(&error, &caller)
        }
    }
}

async fn respond<P>(pending: P, is_stream: bool, caller: Caller, line: AccessLine) -> HttpResponse
where
    P: Future<Output = Outcome> + Unpin + 'static,
{
    if !is_stream {
        return answer(pending.await, caller, line);
    }
    match stream::opening(pending).await {
        Ok(outcome) => answer(outcome, caller, line),
        Err(pending) => stream::late(pending, caller, line),
    }
}

/// Reads the call: what its head says first, so that a body is not waited for in vain.
async fn read(
    endpoint: Endpoint,
    shared: &Shared,
    request: &HttpRequest,
    caller: &Caller,
    payload: &mut web::Payload,
) -> Result<(Request, Admitted, Option<Box<str>>), Error> {
    if shared.is_draining() {
        let error = Error::new(ErrorKind::Draining, "forebay is shutting down; come again in a moment");
        return Err(error.with_retry_after(DRAINING_RETRY_AFTER));
    }
    let from = request.headers();
    let timeout = timeout(from)?;
    let priority = priority(from)?;
    let key = idempotency::key(from)?;
    let droppable = droppable(from)?;
    let max = shared.doors().config.server.max_body;
    let announced = Announced::read(from, max)?;
    let mut admitted = shared.forebay.admit(0)?;
    let bytes = body::read(payload, announced, max, |more| admitted.grow(more)).await?;
    guard::read_whole(request);
    let mut call = Request::new(endpoint, bytes)?
        .with_headers(passed_on(from))
        .with_priority(priority)
        .with_droppable(droppable)
        .with_tenant(caller.tenant.clone());
    if let Some(timeout) = timeout {
        call = call.with_timeout(timeout);
    }
    Ok((call, admitted, key))
}

fn passed_on(from: &HeaderMap) -> Headers {
    pick_for_upstream(from.iter())
}

/// How many times the caller's SDK says that it has tried this call before: retries on top of ours, which it was told not to
/// make.
fn tried_before(headers: &HeaderMap) -> u32 {
    let count = headers.get(X_STAINLESS_RETRY_COUNT).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    count.unwrap_or(0)
}

/// The caller's time limit: its own word to us, or else what its SDK lets on.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    if let Some(value) = headers.get(X_FOREBAY_TIMEOUT) {
        let parsed = value.to_str().map_err(|_| "it is not text".to_owned()).and_then(parse_duration);
        return match parsed {
            Ok(timeout) => Ok(Some(timeout)),
            Err(problem) => Err(bad_header(&X_FOREBAY_TIMEOUT, &problem)),
        };
    }
    let seconds = |name: HeaderName| {
        let seconds: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
        // Not above 0 covers what is not a number, too.
        (seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).map_or(TIMEOUT_MAX, |time| time.min(TIMEOUT_MAX)))
    };
    Ok(SDK_TIMEOUTS.into_iter().find_map(seconds))
}

fn priority(headers: &HeaderMap) -> Result<Priority, Error> {
    match headers.get(X_FOREBAY_PRIORITY).map(|value| value.as_bytes()) {
        None | Some(b"normal") => Ok(Priority::Normal),
        Some(b"high") => Ok(Priority::High),
        Some(b"low") => Ok(Priority::Low),
        Some(_) => Err(bad_header(&X_FOREBAY_PRIORITY, "it must be high, normal or low")),
    }
}

/// What the caller can do without, where an upstream has no words for it. Several headers of the name are one list.
fn droppable(headers: &HeaderMap) -> Result<Droppable, Error> {
    headers.get_all(X_FOREBAY_DROP).try_fold(Droppable::default(), |sum, value| {
        let parsed = value.to_str().map_err(|_| "it is not text".to_owned()).and_then(Droppable::parse);
        Ok(sum.or(parsed.map_err(|problem| bad_header(&X_FOREBAY_DROP, &problem))?))
    })
}

pub(super) fn bad_header(name: &HeaderName, problem: &str) -> Error {
    Error::new(ErrorKind::InvalidRequest, format!("header {name}: {problem}"))
}

/// An outcome that came before any head was sent.
fn answer(outcome: Outcome, caller: Caller, mut line: AccessLine) -> HttpResponse {
    let Answer { status, headers: theirs, body, meta } = match outcome {
        Ok(answer) => answer,
        Err(error) => {
            line.fail(&error);
            return errors::reply(&error, &caller);
        }
    };
    line.set_status(status);
    line.set_meta(&meta);
    let mut response = HttpResponse::new(StatusCode::from_u16(status).unwrap_or(StatusCode::OK));
    headers::copy(theirs, response.headers_mut());
    headers::describe(&meta, response.headers_mut());
    match body {
        AnswerBody::Whole(bytes) => {
            line.complete();
            response.set_body(BoxBody::new(bytes))
        }
        AnswerBody::Stream(events) => {
            stream::event_headers(response.headers_mut());
            response.set_body(stream::body(events, caller, line))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{answer as served_answer, caller, config, get, json, served};
    use crate::messages::{CallId, Envelope, Meta};
    use actix_web::body::MessageBody as _;
    use actix_web::http::header::HeaderValue;
    use actix_web::test::TestRequest;
    use bytes::Bytes;

    fn sent(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn an_sdks_own_timeout_is_used_and_an_unreadable_one_ignored() {
        let seconds = |name, value| timeout(&sent(&[(name, value)])).unwrap().map(|time| time.as_secs_f64());
        assert_eq!(seconds("x-stainless-timeout", "600"), Some(600.0));
        assert_eq!(seconds("x-stainless-read-timeout", "0.5"), Some(0.5));
        assert_eq!(seconds("x-stainless-timeout", "1e300"), Some(365.0 * 86_400.0));
        for unreadable in ["", "0", "-1", "NaN", "ten", "not_given"] {
            assert_eq!(seconds("x-stainless-timeout", unreadable), None, "{unreadable}");
        }
        let both = sent(&[("x-stainless-timeout", "soon"), ("x-stainless-read-timeout", "7")]);
        assert_eq!(timeout(&both).unwrap(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_timeout_said_to_us_comes_before_what_the_sdk_lets_on() {
        let both = sent(&[("x-stainless-timeout", "600"), ("x-forebay-timeout", "1.5s")]);
        assert_eq!(timeout(&both).unwrap(), Some(Duration::from_millis(1_500)));
    }

    #[test]
    fn a_bad_timeout_of_ours_is_an_error_that_names_the_header() {
        let error = timeout(&sent(&[("x-forebay-timeout", "soon"), ("x-stainless-timeout", "600")])).unwrap_err();
        assert_eq!(error.code(), "invalid_request");
        assert!(error.message().contains("x-forebay-timeout"));
    }

    #[test]
    fn an_sdks_own_count_of_its_tries_is_known_and_an_unreadable_one_is_none() {
        let tried = |value| tried_before(&sent(&[("x-stainless-retry-count", value)]));
        assert_eq!(["0", "2", "-1", "two", ""].map(tried), [0, 2, 0, 0, 0]);
        assert_eq!(tried_before(&sent(&[])), 0);
    }

    #[test]
    fn a_priority_is_one_of_three_words() {
        assert_eq!(priority(&sent(&[])).unwrap(), Priority::Normal);
        assert_eq!(priority(&sent(&[("x-forebay-priority", "high")])).unwrap(), Priority::High);
        assert_eq!(priority(&sent(&[("x-forebay-priority", "low")])).unwrap(), Priority::Low);
        let error = priority(&sent(&[("x-forebay-priority", "urgent")])).unwrap_err();
        assert!(error.message().contains("x-forebay-priority"));
    }

    #[test]
    fn what_may_be_dropped_is_listed_in_one_header_or_in_several() {
        assert_eq!(droppable(&sent(&[])).unwrap(), Droppable::default());
        let some = droppable(&sent(&[("x-forebay-drop", "seed, logprobs"), ("x-forebay-drop", "n")])).unwrap();
        assert!(some.covers("seed") && some.covers("n") && !some.covers("user"));
        assert_eq!(droppable(&sent(&[("x-forebay-drop", "*")])).unwrap(), Droppable::all());
        let error = droppable(&sent(&[("x-forebay-drop", "all of it")])).unwrap_err();
        assert!(error.message().contains("x-forebay-drop"));
    }

    #[test]
    fn neither_key_nor_cookie_goes_to_the_upstream() {
        let headers = passed_on(&sent(&[
            ("authorization", "Bearer sk"),
            ("x-api-key", "sk"),
            ("cookie", "a=b"),
            ("content-type", "application/json"),
            ("openai-organization", "org"),
        ]));
        assert_eq!(headers.get("openai-organization"), Some("org"));
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn an_answer_goes_out_as_it_came_with_what_forebay_knows() {
        let theirs = [("content-type", "application/json"), ("x-forebay-attempts", "9")];
        let outcome = Ok(Answer {
            status: 201,
            headers: theirs
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect(),
            body: AnswerBody::Whole(Bytes::from_static(b"{ }")),
            meta: Meta { upstream: Some("openai".into()), attempts: 2, ..Meta::default() },
        });
        let line = AccessLine::new(CallId::new(), Endpoint::Embeddings, None);
        let response = answer(outcome, caller(Envelope::OpenAi), line);
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers().get("x-forebay-attempts").unwrap(), "2");
        assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
        assert_eq!(response.into_body().try_into_bytes().unwrap(), "{ }");
    }

    #[actix_web::test]
    async fn a_call_takes_post_only_and_says_so() {
        let app = served(config()).await;
        for endpoint in Endpoint::ALL {
            for prefix in ["/v1", "/openai/v1", "/anthropic/v1"] {
                let response = served_answer(&app, get(&format!("{prefix}{}", endpoint.path()))).await;
                assert_eq!(response.status(), 405);
                assert_eq!(response.headers().get("allow").unwrap(), "POST");
                let error = json(response).await["error"].clone();
                let code = if endpoint.is_anthropics_own() { &error["details"]["error_code"] } else { &error["code"] };
                assert_eq!(*code, "method_not_allowed", "{prefix}{}", endpoint.path());
            }
        }
    }

    #[actix_web::test]
    async fn what_the_head_gets_wrong_is_refused_before_the_body() {
        let app = served(config()).await;
        let post = || TestRequest::post().uri("/v1/chat/completions").set_payload("{}");
        let too_large = post().insert_header(("content-length", "999999999999"));
        let response = served_answer(&app, too_large).await;
        assert_eq!(response.status(), 413);
        assert_eq!(response.headers().get("x-should-retry").unwrap(), "false");
        for (name, value) in [("x-forebay-timeout", "soon"), ("x-forebay-priority", "1"), ("content-encoding", "br")] {
            let response = served_answer(&app, post().insert_header((name, value))).await;
            assert_eq!(response.status(), 400, "{name}");
            assert!(json(response).await["error"]["message"].as_str().unwrap().contains(name));
        }
    }

    #[actix_web::test]
    async fn while_draining_a_call_is_refused_with_patience_and_the_connection_closed() {
        use std::sync::Arc;
        use std::sync::atomic::AtomicBool;
        let forebay = crate::system::Forebay::start(config()).await.unwrap();
        let shared = Shared::new(forebay, None, Arc::new(AtomicBool::new(true)));
        let app = actix_web::test::init_service(crate::gateway::app(shared)).await;
        let response = served_answer(&app, TestRequest::post().uri("/v1/embeddings").set_payload("{}")).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get("retry-after").unwrap(), "5");
        assert_eq!(json(response).await["error"]["code"], "draining");
    }

    #[actix_web::test]
    async fn odd_spellings_of_a_path_are_unknown() {
        let app = served(config()).await;
        for path in [
            "/",
            "//v1/models",
            "/v1//models",
            "/v1/models/",
            "/v1/models;x",
            "/v1/./models",
            "/v1/%2e/models",
            "/v1/%2e%2e/v1/models",
            "/v1%2fmodels",
            "/v1/chat%2Fcompletions",
            "/V1/models",
            "/healthz/",
            "/openai/models",
            "/anthropic",
        ] {
            let response = served_answer(&app, get(path)).await;
            assert_eq!(response.status(), 404, "{path}");
            assert_eq!(json(response).await["error"]["code"], "unknown_url", "{path}");
        }
    }
}

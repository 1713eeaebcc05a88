//! `GET /v1/status`: how everything stands, for the operator only.

use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, guard, web};

use super::guard::Caller;
use super::{Shared, errors, origin};
use crate::messages::{Error, ErrorKind};

const STATUS: &str = "/v1/status";

/// Whether `path` is the operator's: it asks for no tenant's key, but for the operator's where it asks for any.
pub(super) fn is_operators(path: &str) -> bool {
    path == STATUS
}

/// The route.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    config.service(errors::only(web::resource(STATUS).route(reading.to(status)), "GET, HEAD"));
}

async fn status(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let caller = Caller::of(&request);
    // Here and not in the guard, which sees the path as it was written: there are many ways to write one.
    if let Err(error) = admit(&shared, &request) {
        return errors::reply(&error, &caller);
    }
    let Some(status) = shared.forebay.status().await else {
        let message = "the dispatcher does not answer; come again in a moment";
        return errors::reply(&Error::new(ErrorKind::Restarting, message), &caller);
    };
    // For eyes as much as for programs.
    match serde_json::to_string_pretty(&status) {
        Ok(text) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")))
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .body(text + "\n"),
        Err(_) => errors::reply(&Error::new(ErrorKind::WorkerCrashed, "the status cannot be written"), &caller),
    }
}

/// Lets in whoever is at the machine itself, and elsewhere whoever has the operator's key.
///
/// # Errors
/// `forbidden` for everyone else.
fn admit(shared: &Shared, request: &HttpRequest) -> Result<(), Error> {
    let doors = shared.doors();
    if (shared.on_loopback && origin::is_local(request.headers())) || doors.operator.is_let_in(request.headers()) {
        return Ok(());
    }
    let message = match doors.operator.has_key() {
        true => "this is the operator's: send [server] admin_key as `Authorization: Bearer KEY` or as Basic's password",
        false => "this is the operator's: reach it on loopback by an IP or localhost, or set [server] admin_key",
    };
    Err(Error::new(ErrorKind::Forbidden, message))
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::http::StatusCode;
    use actix_web::test::{self, TestRequest};
    use serde_json::Value;

    use super::*;
    use crate::config::Config;
    use crate::gateway::testing::{get, json, shared, system, tenant};
    use crate::messages::Secret;

    const FAR: &str = "192.0.2.1:8787";
    const NEAR: &str = "127.0.0.1:8787";

    /// What a gateway that listens at `addr` says to each of `requests`.
    async fn statuses(config: Config, addr: &str, requests: Vec<TestRequest>) -> Vec<(StatusCode, Value)> {
        let shared = shared(config).await.listening_at(addr.parse().unwrap());
        let app = test::init_service(crate::gateway::app(shared)).await;
        let mut answers = Vec::new();
        for request in requests {
            let response = test::call_service(&app, request.to_request()).await;
            answers.push((response.status(), json(response).await));
        }
        answers
    }

    fn asks(host: &str) -> TestRequest {
        get(STATUS).insert_header(("host", host))
    }

    fn with_key() -> Config {
        let mut config = system("");
        config.server.admin_key = Some(Secret::new("operator-key"));
        config.tenants.insert("team".into(), tenant("team-key"));
        config
    }

    #[actix_web::test]
    async fn on_loopback_it_is_open_to_whoever_asks_by_address_whatever_keys_there_are() {
        for config in [system(""), with_key()] {
            let hosts = ["127.0.0.1:8787", "localhost:8787", "[::1]:8787"];
            for (status, body) in statuses(config, NEAR, hosts.map(asks).into()).await {
                assert_eq!(status, 200, "{body}");
                assert_eq!(body["upstreams"][0]["name"], "up");
            }
        }
    }

    #[actix_web::test]
    async fn a_name_that_was_made_to_resolve_to_loopback_and_a_foreign_page_are_refused() {
        let page = || asks("localhost:8787").insert_header(("origin", "https://evil.example"));
        for config in [system(""), with_key()] {
            for (status, body) in statuses(config, NEAR, vec![asks("evil.example:8787"), page(), get(STATUS)]).await {
                assert_eq!((status.as_u16(), &body["error"]["code"]), (403, &"forbidden".into()), "{body}");
            }
        }
    }

    #[actix_web::test]
    async fn elsewhere_it_asks_for_the_operators_key_and_takes_no_tenants() {
        let bearer = |key: &str| asks("127.0.0.1:8787").insert_header(("authorization", format!("Bearer {key}")));
        // `admin:operator-key`
        let basic = asks("gateway.example").insert_header(("authorization", "Basic YWRtaW46b3BlcmF0b3Ita2V5"));
        let requests = vec![bearer("operator-key"), basic];
        for (status, body) in statuses(with_key(), FAR, requests).await {
            assert_eq!(status, 200, "{body}");
        }
        let requests = || {
            let x_api_key = asks("127.0.0.1:8787").insert_header(("x-api-key", "operator-key"));
            vec![asks("127.0.0.1:8787"), bearer("team-key"), bearer("operator-ke"), x_api_key]
        };
        for config in [with_key(), system("")] {
            for (status, body) in statuses(config, FAR, requests()).await {
                assert_eq!((status.as_u16(), &body["error"]["code"]), (403, &"forbidden".into()), "{body}");
                assert!(body["error"]["message"].as_str().unwrap().contains("[server] admin_key"));
            }
        }
    }

    #[actix_web::test]
    async fn it_is_no_more_open_under_another_spelling_or_prefix() {
        let spelled = |path: &str| get(path).insert_header(("host", "127.0.0.1"));
        let requests = ["/v1/%73tatus", "/v1//status", "/v1/status/", "/openai/v1/status"].map(spelled).into();
        let answers = statuses(system(""), FAR, requests).await;
        assert_eq!(answers[0].0, 403, "the same resource: {}", answers[0].1);
        assert!(answers[1..].iter().all(|(status, _)| *status == 404), "{answers:?}");
    }

    #[actix_web::test]
    async fn it_answers_get_and_head_and_nothing_else_and_keys_are_not_in_it() {
        let post = TestRequest::post().uri(STATUS).insert_header(("host", "localhost"));
        let [(status, _), (_, body)] = &statuses(system(""), NEAR, vec![post, asks("localhost")]).await[..] else {
            panic!("two answers")
        };
        assert_eq!(*status, 405);
        assert!(!body.to_string().contains("sk-test"), "{body}");
        let account = &body["upstreams"][0]["accounts"][0];
        assert_eq!(account["account"], "up#1");
        for name in ["in_flight", "at_once", "held_for_s", "rests_for_s", "rests_why", "caps", "models"] {
            assert!(account.get(name).is_some(), "{name} in {account}");
        }
        for name in ["is_draining", "waiting", "in_flight", "body_bytes", "pool", "upstreams"] {
            assert!(body.get(name).is_some(), "{name} in {body}");
        }
    }

    #[actix_web::test]
    async fn a_handler_without_the_guard_lets_nobody_in_either() {
        let shared = shared(system("")).await.listening_at(FAR.parse().unwrap());
        let app = test::init_service(App::new().app_data(web::Data::new(shared)).configure(routes)).await;
        assert_eq!(test::call_service(&app, asks("localhost").to_request()).await.status(), 403);
    }
}

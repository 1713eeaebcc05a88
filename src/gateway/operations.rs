//! What an operator's machinery asks: alive? ready?

use actix_web::{HttpResponse, guard, web};
use serde_json::json;

use super::{Shared, errors};
use crate::messages::Health;

const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";

/// Whether `path` is open to everyone.
pub(super) fn is_open(path: &str) -> bool {
    path == HEALTHZ || path == READYZ
}

/// The probes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    config.service(errors::only(web::resource(HEALTHZ).route(reading().to(healthz)), "GET, HEAD"));
    config.service(errors::only(web::resource(READYZ).route(reading().to(readyz)), "GET, HEAD"));
}

/// The process answers.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// The dispatcher answers and could take a call.
async fn readyz(shared: web::Data<Shared>) -> HttpResponse {
    // A drain shows at once, without waiting for the dispatcher to hear of it.
    if shared.is_draining() {
        return HttpResponse::ServiceUnavailable().json(json!({"ready": false, "reasons": [DRAINING]}));
    }
    let health = shared.forebay.health().await;
    let reasons = reasons(health.as_ref());
    let load =
        health.map(|health| json!({"waiting": health.waiting, "in_flight": health.in_flight, "slots": health.slots, "repeats_maybe_billed": health.repeats_maybe_billed}));
    let mut response = match reasons.is_empty() {
        true => HttpResponse::Ok(),
        false => HttpResponse::ServiceUnavailable(),
    };
    response.json(json!({"ready": reasons.is_empty(), "reasons": reasons, "load": load}))
}

const DRAINING: &str = "draining";

/// Why no call should be sent here now.
fn reasons(health: Option<&Health>) -> Vec<&'static str> {
    let Some(health) = health else { return vec!["the dispatcher does not answer"] };
    let mut reasons = Vec::new();
    if health.is_draining {
        reasons.push(DRAINING);
    }
    if health.usable_upstreams == 0 {
        reasons.push("no usable upstream");
    }
    if health.is_pool_unready {
        reasons.push("request actors keep crashing");
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{answer, config, get, json as body, served};
    use actix_web::test::TestRequest;

    #[test]
    fn a_dispatcher_that_drains_or_has_no_upstream_is_not_ready_and_says_why() {
        let health = |is_draining, usable_upstreams, is_pool_unready| {
            Some(Health { is_draining, usable_upstreams, is_pool_unready, ..Health::default() })
        };
        assert!(reasons(health(false, 1, false).as_ref()).is_empty());
        assert_eq!(reasons(health(true, 1, false).as_ref()), ["draining"]);
        assert_eq!(reasons(health(true, 0, false).as_ref()), ["draining", "no usable upstream"]);
        assert_eq!(reasons(health(false, 1, true).as_ref()), ["request actors keep crashing"]);
        assert_eq!(reasons(None), ["the dispatcher does not answer"]);
    }

    #[actix_web::test]
    async fn the_probes_answer_head_and_get_and_nothing_else() {
        let app = served(config()).await;
        let response = answer(&app, get("/healthz")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(body(response).await["status"], "ok");
        let head = TestRequest::with_uri("/healthz").method(actix_web::http::Method::HEAD);
        assert_eq!(answer(&app, head).await.status(), 200);
        let post = answer(&app, TestRequest::post().uri("/healthz")).await;
        assert_eq!(post.status(), 405);
        assert_eq!(post.headers().get("allow").unwrap(), "GET, HEAD");
    }
}

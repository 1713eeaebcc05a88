//! `GET /v1/models` and `/v1/models/{id}`: every routable name, in OpenAI's shape.

use actix_web::{HttpRequest, HttpResponse, guard, web};
use serde::Serialize;

use super::guard::Caller;
use super::{Shared, errors};
use crate::messages::{Error, ErrorKind};
use crate::system::Model;

/// OpenAI's clients want a time of creation; a name in a configuration has none.
const CREATED: u64 = 0;

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Shown<'a>>,
}

impl<'a> From<&'a Model> for Shown<'a> {
    fn from(model: &'a Model) -> Self {
        Self { id: &model.id, object: "model", created: CREATED, owned_by: &model.owned_by }
    }
}

/// The routes below a prefix. An id may contain `/`.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let reading = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    config.service(errors::only(web::resource("/models").route(reading().to(list)), "GET, HEAD"));
    config.service(errors::only(web::resource("/models/{id:.+}").route(reading().to(one)), "GET, HEAD"));
}

async fn list(shared: web::Data<Shared>) -> HttpResponse {
    let models = shared.forebay.models();
    HttpResponse::Ok().json(List { object: "list", data: models.iter().map(Shown::from).collect() })
}

async fn one(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    // Loaded from the path so that an encoded slash in it is one.
    let id: String = request.match_info().load().unwrap_or_default();
    let config = shared.forebay.config();
    // By the rule that routes calls, so that a name which only a pattern serves is found, too.
    let Some((upstream, _)) = config.targets(&id).into_iter().next() else {
        let error = Error::new(ErrorKind::ModelNotFound, format!("no upstream serves the model {id:?}"));
        return errors::reply(&error, &Caller::of(&request));
    };
    let owned_by = if config.routes.contains_key(&id) { "forebay" } else { &*upstream };
    HttpResponse::Ok().json(Shown { id: &id, object: "model", created: CREATED, owned_by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{answer, config, get, json, served};

    #[actix_web::test]
    async fn the_list_has_openais_shape_under_both_prefixes() {
        let app = served(config()).await;
        for path in ["/v1/models", "/openai/v1/models"] {
            let response = answer(&app, get(path)).await;
            assert_eq!(response.status(), 200);
            let list = json(response).await;
            assert_eq!(list["object"], "list");
            assert!(list["data"].is_array());
        }
    }

    #[actix_web::test]
    async fn an_unknown_model_is_named_with_its_slashes() {
        let app = served(config()).await;
        for path in ["/v1/models/openai/nothing", "/v1/models/openai%2Fnothing"] {
            let response = answer(&app, get(path)).await;
            assert_eq!(response.status(), 404);
            let body = json(response).await;
            assert_eq!(body["error"]["code"], "model_not_found");
            assert!(body["error"]["message"].as_str().unwrap().contains("openai/nothing"), "{body}");
        }
    }

    #[test]
    fn a_model_is_shown_with_its_owner() {
        let model = Model { id: "a/b".into(), owned_by: "openai".into() };
        let shown = serde_json::to_value(Shown::from(&model)).unwrap();
        assert_eq!(shown, serde_json::json!({"id": "a/b", "object": "model", "created": 0, "owned_by": "openai"}));
    }
}

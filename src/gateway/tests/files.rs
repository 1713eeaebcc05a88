//! Files and batches over HTTP, in process, with a store in memory.

use actix_http::Request;
use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::header;
use actix_web::test::{self, TestRequest};
use serde_json::Value;

use crate::gateway::testing::{answer, get, json, served, system};

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=XX");

fn part(name: &str, text: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
}

fn file_part(text: &str) -> String {
    let head =
        "Content-Disposition: form-data; name=\"file\"; filename=\"in \u{e9}.jsonl\"\r\nContent-Type: application/x";
    format!("--XX\r\n{head}\r\n\r\n{text}\r\n")
}

fn form(parts: &[String]) -> TestRequest {
    let body = parts.concat() + "--XX--\r\n";
    TestRequest::post().uri("/v1/files").insert_header(FORM).set_payload(body)
}

fn upload(text: &str) -> TestRequest {
    form(&[part("purpose", "batch"), file_part(text)])
}

fn config(more: &str) -> crate::config::Config {
    system(&format!("[store]\nurl = \"sqlite::memory:\"\n[jobs]\nmax_file = \"3MiB\"\n{more}"))
}

async fn refused(
    app: &impl Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    request: TestRequest,
) -> (u16, Value) {
    let response = answer(app, request).await;
    let status = response.status().as_u16();
    (status, json(response).await["error"].take())
}

#[actix_web::test]
async fn a_file_comes_back_as_it_was_uploaded_whatever_the_order_of_its_form() {
    let app = served(config("")).await;
    let text = "{\"x\":1}\r\n--X almost\r\n--\r\n\r\r\n".repeat(40_000);
    for parts in [[part("purpose", "batch"), file_part(&text)], [file_part(&text), part("purpose", "batch")]] {
        let more = [part("unknown", "ignored"), part("expires_after[anchor]", "created_at")];
        let parts = [&parts[..], &more[..], &[part("expires_after[seconds]", "3600")]].concat();
        let response = answer(&app, form(&parts)).await;
        assert_eq!(response.status(), 200);
        let file = json(response).await;
        assert_eq!(
            (&file["object"], &file["purpose"], &file["status"]),
            (&"file".into(), &"batch".into(), &"processed".into())
        );
        assert_eq!((&file["filename"], &file["bytes"]), (&"in \u{e9}.jsonl".into(), &text.len().into()));
        assert_eq!(file["expires_at"].as_i64().unwrap() - file["created_at"].as_i64().unwrap(), 3_600);
        let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
        assert_eq!(json(answer(&app, get(&path)).await).await, file);
        let content = answer(&app, get(&format!("{path}/content"))).await;
        assert_eq!(content.headers().get(header::CONTENT_TYPE).unwrap(), "application/octet-stream");
        assert!(test::read_body(content).await == text);
    }
}

#[actix_web::test]
async fn a_form_that_is_no_upload_is_refused_with_the_field_at_fault_and_leaves_nothing() {
    let app = served(config("")).await;
    let good = || part("purpose", "batch");
    let expires =
        |seconds: &str| [part("expires_after[anchor]", "created_at"), part("expires_after[seconds]", seconds)].concat();
    for (parts, param) in [
        (vec![file_part("x")], "purpose"),
        (vec![part("purpose", "assistants"), file_part("x")], "purpose"),
        (vec![part("purpose", "batch_output"), file_part("x")], "purpose"),
        (vec![good()], "file"),
        (vec![good(), file_part("x"), file_part("y")], "file"),
        (vec![good(), file_part("x"), expires("3599")], "expires_after"),
        (vec![good(), file_part("x"), expires("soon")], "expires_after"),
        (vec![good(), file_part("x"), part("expires_after[seconds]", "3600")], "expires_after"),
        (vec![part("purpose", &"x".repeat(2_000)), file_part("x")], "purpose"),
    ] {
        let (status, error) = refused(&app, form(&parts)).await;
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (400, &"invalid_request".into(), &param.into()),
            "{parts:?}"
        );
    }
    let cut = TestRequest::post().uri("/v1/files").insert_header(FORM).set_payload(good() + &file_part("x"));
    assert_eq!(refused(&app, cut).await.0, 400, "no end");
    let plain = TestRequest::post().uri("/v1/files").insert_header(("content-type", "text/plain")).set_payload("x");
    assert_eq!(refused(&app, plain).await.0, 400);
    let (status, error) = refused(&app, upload(&"x".repeat(3 * 1_048_576 + 1))).await;
    assert_eq!((status, &error["code"]), (413, &"body_too_large".into()));
    assert!(error["message"].as_str().unwrap().contains("[jobs] max_file"), "{error}");
    let huge = upload("x").insert_header(("content-length", "99999999"));
    assert_eq!(refused(&app, huge).await.0, 413, "before any of it is read");
    assert_eq!(json(answer(&app, get("/v1/files")).await).await["data"], Value::Array(vec![]));
    assert_eq!(answer(&app, upload(&"x".repeat(3 * 1_048_576))).await.status(), 200);
}

#[actix_web::test]
async fn a_batch_is_accepted_shown_listed_and_called_off() {
    let app = served(config("")).await;
    let input = json(answer(&app, upload("{}")).await).await["id"].as_str().unwrap().to_owned();
    let asked = |more: Value| {
        let mut body = serde_json::json!({
            "input_file_id": input, "endpoint": "/v1/embeddings", "completion_window": "24h",
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        TestRequest::post().uri("/v1/batches").set_json(body)
    };
    let made = answer(&app, asked(serde_json::json!({"metadata": {"b": "1", "a": "2"}}))).await;
    assert_eq!(made.status(), 200);
    let batch = json(made).await;
    let created_at = batch["created_at"].as_i64().unwrap();
    let expected = serde_json::json!({
        "id": batch["id"], "object": "batch", "endpoint": "/v1/embeddings", "model": null, "errors": null,
        "input_file_id": input, "completion_window": "24h", "status": "validating", "output_file_id": null,
        "error_file_id": null, "created_at": created_at, "in_progress_at": null, "expires_at": created_at + 86_400,
        "finalizing_at": null, "completed_at": null, "failed_at": null, "expired_at": null, "cancelling_at": null,
        "cancelled_at": null, "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
        },
        "metadata": {"b": "1", "a": "2"},
    });
    assert_eq!(batch, expected);
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let cancelled = json(answer(&app, TestRequest::post().uri(&format!("{path}/cancel"))).await).await;
    assert!(matches!(cancelled["status"].as_str(), Some("cancelling" | "cancelled")), "{cancelled}");
    let list = json(answer(&app, get("/v1/batches?limit=1")).await).await;
    assert_eq!((&list["first_id"], &list["has_more"]), (&batch["id"], &false.into()));
    for (more, status, param) in [
        (serde_json::json!({"input_file_id": "file-abc"}), 404, "input_file_id"),
        (serde_json::json!({"input_file_id": null}), 400, "input_file_id"),
        (serde_json::json!({"endpoint": "/v1/files"}), 400, "endpoint"),
        (serde_json::json!({"completion_window": "48h"}), 400, "completion_window"),
        (serde_json::json!({"metadata": {"a": 1}}), 400, "metadata"),
        (
            serde_json::json!({"output_expires_after": {"anchor": "created_at", "seconds": 1}}),
            400,
            "output_expires_after",
        ),
    ] {
        let (told, error) = refused(&app, asked(more.clone())).await;
        assert_eq!((told, &error["param"]), (status, &param.into()), "{more}");
    }
    for path in ["/v1/batches/batch_x", "/v1/batches/batch_0000000000000000", "/v1/files/file-0", "/v1/files/x/content"]
    {
        assert_eq!(refused(&app, get(path)).await.0, 404, "{path}");
    }
    assert_eq!(refused(&app, get("/v1/files?limit=0")).await.1["param"], "limit");
}

#[actix_web::test]
async fn an_idempotency_key_makes_one_batch_of_two_requests() {
    let app = served(config("")).await;
    let input = json(answer(&app, upload("{}")).await).await["id"].as_str().unwrap().to_owned();
    let ask = |endpoint: &str| {
        let body = serde_json::json!({"input_file_id": input, "endpoint": endpoint, "completion_window": "24h"});
        TestRequest::post().uri("/v1/batches").insert_header(("idempotency-key", "k")).set_json(body)
    };
    let first = json(answer(&app, ask("/v1/embeddings")).await).await;
    assert_eq!(json(answer(&app, ask("/v1/embeddings")).await).await["id"], first["id"]);
    assert_eq!(refused(&app, ask("/v1/completions")).await.0, 409);
}

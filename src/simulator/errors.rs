//! What the provider says when a call fails, in OpenAI's words; `face` has those of the other protocols. Pure.

use serde_json::{Value, json};

/// OpenAI's envelope of an error.
pub(super) fn error(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The call makes no sense.
pub(super) fn invalid(message: &str, code: Option<&str>) -> Value {
    error(message, "invalid_request_error", code)
}

/// The key calls too often.
pub(super) fn rate_limited(message: &str) -> Value {
    error(message, "requests", Some("rate_limit_exceeded"))
}

/// The account has no money left.
pub(super) fn out_of_quota() -> Value {
    let message =
        "You exceeded your current quota, please check your plan and billing details (injected by the simulator)";
    error(message, "insufficient_quota", Some("insufficient_quota"))
}

/// An injected `status`.
pub(super) fn of_status(status: u16) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        404 => ("invalid_request_error", Some("model_not_found")),
        400..=499 => ("invalid_request_error", None),
        503 => ("server_error", Some("server_is_overloaded")),
        529 => ("overloaded_error", None),
        _ => ("server_error", None),
    };
    error(&format!("status {status} (injected by the simulator)"), kind, code)
}

/// The page of a proxy in front of the provider, which knows nothing of JSON.
pub(super) fn page(status: u16) -> Vec<u8> {
    format!("<html><body><h1>{status}</h1><p>injected by the simulator</p></body></html>\n").into_bytes()
}

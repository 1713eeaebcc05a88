//! The form that an error has on the wire: the caller's protocol decides it, and nothing else does.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{CallId, Endpoint, Error};

/// Whose form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Envelope {
    /// `{"error":{"message","type","param","code"}}`
    #[default]
    OpenAi,
    /// `{"type":"error","error":{"type","message"},"request_id"}`
    Anthropic,
}

impl Envelope {
    /// What callers of `endpoint` understand.
    pub(crate) fn of(endpoint: Endpoint) -> Self {
        if endpoint.is_anthropics_own() { Self::Anthropic } else { Self::OpenAi }
    }

    /// The body of `error`, one of forebay's own, which ended the call `id`.
    pub(crate) fn body(self, error: &Error, id: Option<CallId>) -> Bytes {
        let kind = error.kind();
        match self {
            Self::OpenAi => {
                let envelope = json!({"error": {
                    "message": error.message(), "type": kind.error_type(), "param": error.param(), "code": kind.code(),
                }});
                Bytes::from(envelope.to_string())
            }
            Self::Anthropic => anthropic(anthropic_type(kind.status()), error.message(), Some(kind.code()), id),
        }
    }
}

/// Anthropic's `error.type` for an error of this status.
pub(crate) fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

/// An error in Anthropic's envelope. Its `type` is as coarse as a status; what is finer stands where Anthropic puts its own
/// `error_code`.
pub(crate) fn anthropic(kind: &str, message: &str, code: Option<&str>, id: Option<CallId>) -> Bytes {
    let mut error = json!({"type": kind, "message": message});
    if let Some(code) = code {
        error["details"] = json!({"error_code": code});
    }
    let id = id.map_or(Value::Null, |id| Value::String(id.to_string()));
    Bytes::from(json!({"type": "error", "error": error, "request_id": id}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::ErrorKind;

    fn read(body: &Bytes) -> Value {
        serde_json::from_slice(body).expect("a JSON body")
    }

    #[test]
    fn each_row_of_the_table_has_a_type_of_anthropics() {
        for (kind, expected) in [
            (ErrorKind::InvalidRequest, "invalid_request_error"),
            (ErrorKind::InvalidApiKey, "authentication_error"),
            (ErrorKind::Forbidden, "permission_error"),
            (ErrorKind::UnknownUrl, "not_found_error"),
            (ErrorKind::ModelNotFound, "not_found_error"),
            (ErrorKind::MethodNotAllowed, "invalid_request_error"),
            (ErrorKind::BodyTimeout, "timeout_error"),
            (ErrorKind::IdempotencyConflict, "invalid_request_error"),
            (ErrorKind::BodyTooLarge, "request_too_large"),
            (ErrorKind::TenantLimit, "rate_limit_error"),
            (ErrorKind::Overloaded, "overloaded_error"),
            (ErrorKind::Draining, "overloaded_error"),
            (ErrorKind::Restarting, "overloaded_error"),
            (ErrorKind::DeadlineExceeded, "timeout_error"),
            (ErrorKind::UpstreamUnavailable, "api_error"),
            (ErrorKind::UpstreamRedirected, "api_error"),
            (ErrorKind::WorkerCrashed, "api_error"),
            (ErrorKind::Upstream, "api_error"),
        ] {
            let id = CallId::new();
            let body = read(&Envelope::Anthropic.body(&Error::new(kind, "what to do"), Some(id)));
            assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(expected)), "{kind:?}");
            assert_eq!(body["error"]["message"], "what to do");
            assert_eq!(body["error"]["details"]["error_code"], kind.code());
            assert_eq!(body["request_id"], id.to_string());
        }
    }

    #[test]
    fn openais_envelope_names_the_field_at_fault() {
        let error = Error::new(ErrorKind::InvalidRequest, "no").with_param("model");
        let error = &read(&Envelope::OpenAi.body(&error, Some(CallId::new())))["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!("invalid_request"), &json!("model")));
        assert_eq!(error["type"], "invalid_request_error");
    }
}

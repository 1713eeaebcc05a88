//! The protocols that the provider speaks, each on paths of its own: the words of each around what is asked and answered.
//! Pure.
//!
//! The provider thinks in OpenAI's words (`errors`); those of the others are theirs (`anthropic`, `gemini`).

use serde_json::Value;

use super::ask::{Ask, Kind};
use super::http::Head;
use super::limits::{HeaderStyle, Headers, Limits, Refusal};
use super::provider::Told;
use super::{anthropic, gemini};

/// A protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Face {
    #[default]
    OpenAi,
    Anthropic,
    Google,
}

impl Face {
    /// That of `kind`; of what is no call, OpenAI's.
    pub(super) fn of(kind: Option<Kind>) -> Self {
        kind.map(Kind::face).unwrap_or_default()
    }

    /// What a call's `head` lacks, as the text of a 400.
    pub(super) fn lack(self, head: &Head) -> Option<&'static str> {
        let lacks_version = self == Face::Anthropic && !head.has_version;
        lacks_version.then_some("anthropic-version: header is required")
    }

    /// Reads the call of this `kind` at `path`; an error is the text of a 400.
    pub(super) fn read(self, kind: Kind, path: &str, body: &[u8]) -> Result<Ask, String> {
        match self {
            Face::Google => gemini::read(path, body),
            _ => Ask::read(kind, body),
        }
    }

    /// The headers that every answer to a call has: its `number`, and where its limits stand, if it says that in headers.
    pub(super) fn headers(self, number: u64, told: impl FnOnce() -> Told) -> Headers {
        let id = format!("req_{number:08x}");
        let mut headers = match self {
            Face::OpenAi => vec![("x-request-id", id), ("openai-processing-ms", "1".to_owned())],
            Face::Anthropic => vec![("request-id", id), ("anthropic-organization-id", "simulator".to_owned())],
            Face::Google => return Headers::new(),
        };
        let Told { style, readings, at } = told();
        headers.extend(match (style, self) {
            (HeaderStyle::None, _) => Headers::new(),
            (_, Face::Anthropic) => anthropic::headers(&readings, at),
            (style, _) => style.lines(&readings),
        });
        headers
    }

    /// `limits` as a 429 tells of them: when to come back, and how exactly.
    pub(super) fn told(self, limits: &Limits) -> Limits {
        match self {
            Face::Anthropic => anthropic::told(limits),
            Face::OpenAi | Face::Google => *limits,
        }
    }

    /// The body of the 429 for a call beyond `limits`, to `model`.
    pub(super) fn refusal(self, refusal: &Refusal, limits: &Limits, model: &str) -> Value {
        match self {
            Face::OpenAi => refusal.body(limits, model),
            Face::Anthropic => anthropic::refusal(refusal),
            Face::Google => gemini::refused(refusal, limits),
        }
    }

    /// The body of an answer that is in OpenAI's words if it is an error, and the headers that come along, in its own.
    pub(super) fn translated(self, status: u16, headers: &mut Headers, body: Value) -> Value {
        match self {
            Face::OpenAi => body,
            Face::Anthropic => anthropic::translated(status, &body),
            Face::Google => gemini::translated(status, headers, &body),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::errors;
    use super::*;

    fn told() -> Told {
        Told { style: HeaderStyle::None, readings: Vec::new(), at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn each_path_has_its_face_and_what_is_no_call_has_openais() {
        for (path, face) in [
            ("/v1/chat/completions", Face::OpenAi),
            ("/v1/messages", Face::Anthropic),
            ("/v1/messages/count_tokens", Face::Anthropic),
            ("/v1beta/models/m:generateContent", Face::Google),
            ("/v1/models", Face::OpenAi),
        ] {
            assert_eq!(Face::of(Kind::at(path)), face, "{path}");
        }
    }

    #[test]
    fn an_error_has_the_envelope_of_its_face_and_an_answer_stays_as_it_is() {
        let translated = |face: Face, body| face.translated(429, &mut Headers::new(), body);
        let error = errors::rate_limited("slowly");
        assert_eq!(translated(Face::OpenAi, error.clone()), error);
        assert_eq!(translated(Face::Anthropic, error.clone())["error"]["type"], "rate_limit_error");
        assert_eq!(translated(Face::Google, error)["error"]["status"], "RESOURCE_EXHAUSTED");
        for face in [Face::OpenAi, Face::Anthropic, Face::Google] {
            assert_eq!(translated(face, serde_json::json!({"data": []})), serde_json::json!({"data": []}));
        }
    }

    #[test]
    fn every_answer_is_numbered_but_googles() {
        let names = |face: Face| face.headers(7, told).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Face::OpenAi), ["x-request-id", "openai-processing-ms"]);
        assert_eq!(names(Face::Anthropic), ["request-id", "anthropic-organization-id"]);
        assert!(names(Face::Google).is_empty());
    }
}

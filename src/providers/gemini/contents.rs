//! What is said in a request: Gemini's contents and the parts they are made of.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

/// One turn.
#[derive(Debug, Serialize)]
pub(super) struct Content<'a> {
    /// `user` or `model`; the system's instruction has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    pub(super) parts: Vec<Part<'a>>,
}

/// A piece of a turn: one of the first five, and what belongs to it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inline_data: Option<Blob<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file_data: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) function_call: Option<FunctionCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) function_response: Option<FunctionResponse<'a>>,
    /// The text is a summary of the model's own thoughts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) thought: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thought_signature: Option<Cow<'a, RawValue>>,
}

impl<'a> Part<'a> {
    /// The text that the JSON string `text` is.
    pub(super) fn text(text: &'a RawValue) -> Self {
        Self { text: Some(Cow::Borrowed(text)), ..Self::default() }
    }

    /// Bytes of a media type, in base64.
    pub(super) fn blob(mime_type: impl Into<Cow<'a, str>>, data: impl Into<Cow<'a, str>>) -> Self {
        Self { inline_data: Some(Blob { mime_type: mime_type.into(), data: data.into() }), ..Self::default() }
    }

    /// Whether it is a text without a character, and nothing hangs on it.
    pub(super) fn is_empty_text(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.get() == "\"\"") && self.thought_signature.is_none()
    }
}

/// Bytes in the request itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob<'a> {
    mime_type: Cow<'a, str>,
    data: Cow<'a, str>,
}

/// Bytes that Google fetches.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mime_type: Option<&'static str>,
    pub(super) file_uri: &'a RawValue,
}

/// A call of a function that the model has made.
#[derive(Debug, Serialize)]
pub(super) struct FunctionCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a RawValue>,
    pub(super) name: &'a RawValue,
    /// An object.
    pub(super) args: Box<RawValue>,
}

/// What the function gave back.
#[derive(Debug, Serialize)]
pub(super) struct FunctionResponse<'a> {
    pub(super) id: &'a RawValue,
    pub(super) name: &'a RawValue,
    pub(super) response: Response<'a>,
}

/// A result: an object as it is, anything else as an object's `result`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Response<'a> {
    Object(Box<RawValue>),
    Wrapped { result: Cow<'a, RawValue> },
}

/// All turns, neighbours of one role put together: Gemini wants them to alternate.
#[derive(Debug, Default)]
pub(super) struct Turns<'a>(pub(super) Vec<Content<'a>>);

impl<'a> Turns<'a> {
    /// Adds what `role` says. A turn without a part is none to Gemini, so that one of nothing keeps its empty text.
    pub(super) fn push(&mut self, role: &'static str, mut parts: Vec<Part<'a>>) {
        if parts.iter().any(|part| !part.is_empty_text()) {
            parts.retain(|part| !part.is_empty_text());
        } else {
            parts.truncate(1);
        }
        match self.0.last_mut().filter(|last| last.role == Some(role)) {
            Some(last) => last.parts.append(&mut parts),
            None => self.0.push(Content { role: Some(role), parts }),
        }
    }
}

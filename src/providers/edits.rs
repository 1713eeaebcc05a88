//! Edits to a body that goes on byte for byte otherwise.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::messages::Body;

/// A place in a body, and what is to stand there.
pub(super) type Edit = (Range<usize>, String);

/// The upstream's `model` in place of the name that was asked for; `None` where that is the same, or the body has none.
pub(super) fn model(body: &Body, model: Option<&str>) -> Option<Edit> {
    let (model, span) = (model?, body.model_span()?);
    (body.model() != Some(model)).then(|| (span, serde_json::Value::from(model).to_string()))
}

/// `body` with each range replaced; the same shared bytes when there is none. Ranges do not overlap.
pub(super) fn made(body: &Bytes, mut edits: Vec<Edit>) -> Bytes {
    if edits.is_empty() {
        return body.clone();
    }
    edits.sort_by_key(|(range, _)| range.start);
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + added);
    let mut from = 0;
    for (range, text) in edits {
        out.extend_from_slice(&body[from..range.start]);
        out.extend_from_slice(text.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(&body[from..]);
    out.freeze()
}

//! Both ways at once: golden files, which the vendors' own packages read as well, and what no input may do.

mod golden;
mod requests;
mod streams;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::messages::{Droppable, Endpoint, UpstreamKind};
use crate::providers::examples;

/// When all answers are made: the first second of 2025.
const CREATED: u64 = 1_735_689_600;

fn made() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(CREATED)
}

fn account(headers: &[(&'static str, &'static str)]) -> Account {
    examples::account(UpstreamKind::Anthropic, "https://api.example.test", "sk-ant-1", headers)
}

fn request(body: impl Into<Bytes>) -> Request {
    Request::new(Endpoint::ChatCompletions, body.into()).expect("a chat")
}

/// A chat that says `messages`, with `more` fields.
fn chat(messages: &str, more: &str) -> Request {
    request(format!(r#"{{"model":"claude-opus-5","messages":[{messages}]{more}}}"#))
}

/// What is sent for `request`, or the field that cannot be said.
fn sent(request: &Request) -> Result<Value, String> {
    let encoded = encode(request, &account(&[]), None, made()).map_err(|loss| loss.field)?;
    Ok(serde_json::from_slice(&encoded.body).expect("JSON goes out"))
}

/// The same, where `fields` may be dropped.
fn sent_without(request: Request, fields: &str) -> Result<Value, String> {
    sent(&request.with_droppable(Droppable::parse(fields).expect("a list of fields")))
}

/// How answers are read; streams tell their usage.
fn answers() -> Translated {
    Translated { created: CREATED, tells_usage: true }
}

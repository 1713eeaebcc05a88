//! Both ways at once: golden files, which the vendors' own packages read as well, and what no input may do.

mod golden;
mod requests;
mod streams;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::*;
use crate::messages::{AccountId, Authorities, Droppable, Endpoint, Secret, Timeouts, Upstream, UpstreamKind};

/// When all answers are made: the first second of 2025.
const CREATED: u64 = 1_735_689_600;

fn made() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(CREATED)
}

fn account(headers: &[(&'static str, &'static str)]) -> Account {
    let second = Duration::from_secs(1);
    let upstream = Upstream {
        name: "a".into(),
        kind: UpstreamKind::Anthropic,
        base_url: "https://api.example.test".into(),
        timeouts: Timeouts { connect: second, first_byte: second, answer: second, idle: second },
        max_answer: 1 << 20,
        ask_usage: true,
        authorities: Authorities::default(),
        headers: headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect(),
    };
    let id = AccountId { upstream: upstream.name.clone(), key: 0 };
    Account { id, upstream: Arc::new(upstream), key: Some(Secret::new("sk-ant-1")) }
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

//! The callers' HTTP client: the project's own transport, with the timeout that people set.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::tally::{Fate, Loss};
use crate::clock::{self, WallClock};
use crate::messages::{Account, CallId, FailureKind, Request};
use crate::pool::transport::{self, ChosenBy, HttpRequest, HttpResponse, Transport, TransportError};
use crate::providers::{classify, dialect};
use crate::simulator::expected_echo;

/// The model all callers ask for.
pub(super) const MODEL: &str = "demo";

/// A request for the echo of `prompt`.
pub(super) fn chat(prompt: &str) -> Request {
    Request::chat(MODEL, [serde_json::json!({"role": "user", "content": prompt})])
}

/// How a call ends that was answered with `body`.
pub(super) fn check(prompt: &str, body: &[u8]) -> Fate {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    let content = answer.as_ref().and_then(|answer| answer.pointer("/choices/0/message/content")?.as_str());
    match content {
        Some(content) if content == expected_echo(prompt) => Fate::Answered,
        Some(_) => Fate::MixedUp,
        None => Fate::Lost(Loss::Other),
    }
}

/// How one request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) fate: Fate,
    /// What the provider said about coming again.
    pub(super) after: Option<Duration>,
}

/// Makes requests, each once.
pub(super) struct Client {
    transport: Rc<dyn Transport>,
    account: Arc<Account>,
    timeout: Duration,
}

impl Client {
    /// A client with connections of its own, whose requests wait `timeout` for their answers.
    pub(super) fn new(account: Arc<Account>, timeout: Duration) -> Self {
        Self { transport: transport::http()(), account, timeout }
    }

    /// Asks `prompt` once.
    pub(super) async fn ask(&self, prompt: &str) -> Reply {
        let mut late = pin!(clock::until(clock::now() + self.timeout));
        let mut exchange = pin!(self.exchange(prompt));
        // The exchange first: an answer that is here is not late, however long this thread was kept from reading it.
        poll_fn(|cx| {
            if let Poll::Ready(reply) = exchange.as_mut().poll(cx) {
                return Poll::Ready(reply);
            }
            late.as_mut().poll(cx).map(|()| Reply { fate: Fate::Lost(Loss::Timeout), after: None })
        })
        .await
    }

    async fn exchange(&self, prompt: &str) -> Reply {
        match self.read(prompt).await {
            Ok(reply) => reply,
            Err(error) => {
                let loss = match error.kind {
                    FailureKind::Cut | FailureKind::Unreachable => Loss::Reset,
                    FailureKind::Timeout(_) => Loss::Timeout,
                    _ => Loss::Other,
                };
                Reply { fate: Fate::Lost(loss), after: None }
            }
        }
    }

    async fn read(&self, prompt: &str) -> Result<Reply, TransportError> {
        let encoded = dialect::encode(&chat(prompt), &self.account, None, SystemTime::UNIX_EPOCH)
            .expect("a chat is sent as it is");
        let request = HttpRequest {
            upstream: self.account.upstream.clone(),
            url: encoded.url,
            chosen_by: ChosenBy::Operator,
            headers: encoded.headers,
            body: encoded.body,
            call: CallId::new(),
        };
        let HttpResponse { status, headers, body: mut chunks } = self.transport.send(request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = poll_fn(|cx| chunks.as_mut().poll_next(cx)).await {
            body.extend_from_slice(&chunk?);
        }
        if status == 200 {
            return Ok(Reply { fate: check(prompt, &body), after: None });
        }
        let failure = classify::classify(status, &headers, &body.into(), WallClock::new().at(clock::now()));
        Ok(Reply { fate: Fate::Lost(Loss::of_status(status)), after: failure.hint.after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_echo_of_its_own_prompt_is_an_answer() {
        let body = |content: String| serde_json::json!({"choices": [{"message": {"content": content}}]}).to_string();
        assert_eq!(check("mine", body(expected_echo("mine")).as_bytes()), Fate::Answered);
        assert_eq!(check("mine", body(expected_echo("yours")).as_bytes()), Fate::MixedUp);
        assert_eq!(check("mine", b"{}"), Fate::Lost(Loss::Other));
        assert_eq!(check("mine", b"<html>"), Fate::Lost(Loss::Other));
    }
}

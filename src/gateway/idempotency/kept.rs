//! Recorded answers as the store keeps them.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{Head, KEPT_FOR, Name, Print};
use crate::messages::{Error, Headers, Meta, Usage};
use crate::store::Ms;
use crate::store::memories::KeptAnswer;

/// What is kept of an answer beside its status and body.
#[derive(Serialize, Deserialize)]
struct Label {
    headers: Vec<(String, String)>,
    /// The upstream's final error, and not its success.
    is_error: bool,
    is_stream: bool,
    upstream: Option<String>,
    attempts: u32,
    queued_ms: u64,
    cost_usd: Option<f64>,
    /// Tokens in and out.
    usage: Option<(u64, u64)>,
}

/// What is to be kept of a call that has ended so: an answer, or the upstream's own error that would come again. An error of ours
/// costs nothing to be found again.
pub(super) fn keep(name: &Name, print: Print, head: &Result<Head, Error>, body: Bytes, now: Ms) -> Option<KeptAnswer> {
    let (is_error, status, headers, meta, is_stream, body) = match head {
        Ok(Head { status, headers, meta, is_stream, .. }) => (false, *status, headers, meta, *is_stream, body),
        Err(error) => {
            let (headers, body) = error.answer().filter(|_| error.is_lasting())?;
            (true, error.status(), headers, error.meta(), false, body.clone())
        }
    };
    let label = Label {
        headers: headers.iter().map(|(name, value)| (name.to_string(), letters(value))).collect(),
        is_error,
        is_stream,
        upstream: meta.upstream.as_deref().map(str::to_owned),
        attempts: meta.attempts,
        queued_ms: u64::try_from(meta.queued.as_millis()).unwrap_or(u64::MAX),
        cost_usd: meta.cost_usd,
        usage: meta.usage.map(|usage| (usage.input_tokens, usage.output_tokens)),
    };
    let (tenant, key) = name;
    Some(KeptAnswer {
        tenant: tenant.as_deref().map(Box::from),
        key: key.clone(),
        digest: print,
        status,
        headers: serde_json::to_vec(&label).ok()?.into(),
        body,
        expires_at: now.saturating_add(KEPT_FOR.as_millis() as Ms),
    })
}

/// The answer that was kept, as it is given out again; `None` when it cannot be read.
pub(super) fn found(kept: KeptAnswer) -> Option<(Result<Head, Error>, Bytes)> {
    let label: Label = serde_json::from_slice(&kept.headers).ok()?;
    let headers: Option<Headers> = label.headers.iter().map(|(name, value)| header(name, value)).collect();
    let headers = headers?;
    let usage =
        label.usage.map(|(input_tokens, output_tokens)| Usage { input_tokens, output_tokens, ..Usage::default() });
    let meta = Meta {
        upstream: label.upstream.as_deref().map(Into::into),
        attempts: label.attempts,
        queued: Duration::from_millis(label.queued_ms),
        usage,
        cost_usd: label.cost_usd,
        ..Meta::default()
    };
    if label.is_error {
        let error = Error::upstream(kept.status, headers, kept.body).lasting().with_meta(meta);
        return Some((Err(error), Bytes::new()));
    }
    let head = Head { status: kept.status, headers, meta, is_stream: label.is_stream, is_replay: true };
    Some((Ok(head), kept.body))
}

/// A header's value as text: a letter a byte, since it may be no UTF-8.
fn letters(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

fn header(name: &str, letters: &str) -> Option<(HeaderName, HeaderValue)> {
    let bytes: Result<Vec<u8>, _> = letters.chars().map(u8::try_from).collect();
    Some((name.parse().ok()?, HeaderValue::from_bytes(&bytes.ok()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        (Some("team".into()), "key-1".into())
    }

    #[test]
    fn an_answer_comes_back_as_it_was_kept() {
        let headers = [("content-type", &b"application/json"[..]), ("x-odd", b"caf\xe9")];
        let headers: Headers = headers
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
            .collect();
        let meta = Meta { upstream: Some("up".into()), attempts: 3, cost_usd: Some(0.5), ..Meta::default() };
        let head = Head { status: 201, headers, meta, is_stream: true, is_replay: false };
        let kept = keep(&name(), [7; 32], &Ok(head), Bytes::from_static(b"data: x\n\n"), 1_000).expect("kept");
        assert_eq!(kept.expires_at, 86_401_000);
        assert_eq!((kept.tenant.as_deref(), &*kept.key, kept.digest), (Some("team"), "key-1", [7; 32]));
        let (head, body) = found(kept).expect("readable");
        let head = head.expect("an answer");
        assert_eq!((head.status, head.is_stream, head.is_replay), (201, true, true));
        assert_eq!((head.meta.upstream.as_deref(), head.meta.attempts, head.meta.cost_usd), (Some("up"), 3, Some(0.5)));
        let odd = head.headers.iter().find(|(name, _)| *name == "x-odd").expect("kept");
        assert_eq!(odd.1.as_bytes(), b"caf\xe9");
        assert_eq!(&body[..], b"data: x\n\n");
    }

    #[test]
    fn only_errors_of_the_upstream_that_would_come_again_are_kept() {
        let upstream = || Error::upstream(400, Headers::new(), Bytes::from_static(b"{}"));
        let keep = |error: Error| keep(&name(), [0; 32], &Err(error), Bytes::new(), 0);
        assert!(keep(upstream()).is_none(), "another try may go well");
        assert!(keep(Error::new(crate::messages::ErrorKind::InvalidRequest, "x").lasting()).is_none());
        let (head, _) = found(keep(upstream().lasting()).expect("kept")).expect("readable");
        let error = head.err().expect("an error");
        assert_eq!((error.status(), error.is_lasting()), (400, true));
        assert_eq!(&error.answer().expect("the upstream's").1[..], b"{}");
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        let head =
            Head { status: 200, headers: Headers::new(), meta: Meta::default(), is_stream: false, is_replay: false };
        let kept = keep(&name(), [0; 32], &Ok(head), Bytes::new(), 0).expect("kept");
        for headers in [
            &b"{}"[..],
            b"",
            br#"{"headers":[["a b","c"]],"is_error":false,"is_stream":false,"attempts":1,"queued_ms":0}"#,
        ] {
            assert!(found(KeptAnswer { headers: Bytes::copy_from_slice(headers), ..kept.clone() }).is_none());
        }
    }
}

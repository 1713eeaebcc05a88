//! A job as it is shown, by the gateway and to webhooks.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::verdict::error_object;
use crate::messages::{Error, ErrorKind, Headers, JobId, JobStatus, Priority, Usage};
use crate::store::Ms;
use crate::store::jobs::{JobEnd, JobRecord};

/// A job, in the contract's words. Times are in seconds since 1970.
#[derive(Debug, Serialize)]
pub(crate) struct Shown<'a> {
    id: JobId,
    object: &'static str,
    status: JobStatus,
    endpoint: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
    priority: Priority,
    at_most_once: bool,
    key: Option<&'a str>,
    webhook: Option<&'a str>,
    attempts: u32,
    created_at: Ms,
    started_at: Option<Ms>,
    finished_at: Option<Ms>,
    expires_at: Ms,
    /// The upstream's body, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, RawValue>>,
    usage: Option<ShownUsage>,
    cost_usd: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ShownUsage {
    input_tokens: u64,
    cached_input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
}

impl From<Usage> for ShownUsage {
    fn from(usage: Usage) -> Self {
        let Usage { input_tokens, cached_input_tokens, output_tokens, .. } = usage;
        Self { input_tokens, cached_input_tokens, output_tokens, total_tokens: usage.total() }
    }
}

impl<'a> From<&'a JobRecord> for Shown<'a> {
    fn from(job: &'a JobRecord) -> Self {
        let (result, error) = match &job.end {
            Some(JobEnd::Result { body, .. }) if job.status == JobStatus::Succeeded => (raw(body), None),
            Some(JobEnd::Result { status, body }) => {
                (None, owned(&error_object(&Error::upstream(*status, Headers::new(), body.clone()))))
            }
            Some(JobEnd::Error { error, .. }) => (None, raw(error)),
            None => (None, end_error(job).and_then(|error| owned(&error_object(&error)))),
        };
        Self {
            id: job.id,
            object: "job",
            status: job.status,
            endpoint: job.endpoint.v1_path(),
            model: &job.queue,
            priority: job.priority,
            at_most_once: job.at_most_once,
            key: job.key.as_deref(),
            webhook: job.webhook.as_deref(),
            attempts: job.attempts,
            created_at: seconds(job.created_at),
            started_at: job.started_at.map(seconds),
            finished_at: job.finished_at.map(seconds),
            expires_at: seconds(job.expires_at),
            result,
            error,
            usage: job.usage.map(ShownUsage::from),
            cost_usd: job.cost_usd,
        }
    }
}

/// The error of a job that ended without anything from an upstream.
pub(crate) fn end_error(job: &JobRecord) -> Option<Error> {
    let (kind, message) = match job.status {
        JobStatus::Cancelled => (ErrorKind::NotFound, format!("{} was cancelled", job.id)),
        JobStatus::Expired => {
            (ErrorKind::DeadlineExceeded, format!("the time of {} was up before it had its answer", job.id))
        }
        JobStatus::Unknown => {
            let message = format!("{} may be made at most once, was sent, and its answer was lost", job.id);
            (ErrorKind::UpstreamUnavailable, message)
        }
        _ => return None,
    };
    Some(Error::new(kind, message))
}

fn seconds(at: Ms) -> Ms {
    at.div_euclid(1_000)
}

/// JSON as it is in the store.
fn raw(bytes: &[u8]) -> Option<Cow<'_, RawValue>> {
    // Neither is ever put there unless it is JSON.
    let read: Result<&RawValue, _> = serde_json::from_slice(bytes);
    read.ok().map(Cow::Borrowed).or_else(|| to_raw_value(&String::from_utf8_lossy(bytes)).ok().map(Cow::Owned))
}

fn owned(bytes: &[u8]) -> Option<Cow<'static, RawValue>> {
    serde_json::from_slice::<Box<RawValue>>(bytes).ok().map(Cow::Owned)
}

//! What a job must be to be accepted, and the row it becomes. Pure.

use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::verdict::millis;
use crate::config::Config;
use crate::dispatcher::nobody_serves;
use crate::messages::{Endpoint, Error, ErrorKind, Job, Priority};
use crate::providers::dialect::speaks;
use crate::store::Ms;
use crate::store::jobs::{Line, NewJob};

/// How long a job may take where it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What a job's time may be.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);

/// The longest key, in bytes.
const LONGEST_KEY: usize = 255;

/// The row that `job` becomes, by this configuration.
///
/// # Errors
/// `invalid_request`, naming the field and the cure; `model_not_found` when nobody serves it.
pub(crate) fn row(job: &Job, line: Option<Line>, config: &Config, now: Ms) -> Result<NewJob, Error> {
    let request = job.request();
    if request.is_stream() {
        let message = "a job's answer is one whole: leave `stream` out, or set it to false";
        return Err(invalid(message, "body.stream"));
    }
    if !request.headers().is_empty() || *request.droppable() != crate::messages::Droppable::default() {
        let message =
            "a job keeps its body only: it can have no headers for the upstream, nor fields that may be dropped";
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    let timeout = job.told_timeout().unwrap_or(DEFAULT_TIMEOUT);
    if !TIMEOUTS.contains(&timeout) {
        return Err(invalid("`timeout` must be from 1 ms to 365 d, such as \"24h\".", "timeout"));
    }
    if let Some(key) = job.told_key() {
        check_key(key)?;
    }
    if let Some(url) = job.told_webhook() {
        check_webhook(url, config)?;
    }
    if !is_served(config, request.endpoint(), request.model()) {
        return Err(nobody_serves(config, request));
    }
    Ok(NewJob {
        tenant: request.tenant().cloned(),
        key: job.told_key().cloned(),
        digest: digest(job, timeout),
        endpoint: request.endpoint(),
        queue: Arc::from(request.model().unwrap_or_default()),
        priority: job.priority(),
        at_most_once: job.is_at_most_once(),
        webhook: job.told_webhook().cloned(),
        created_at: now,
        expires_at: now.saturating_add(millis(timeout)),
        body: request.body().bytes().clone(),
        line,
    })
}

fn invalid(message: impl Into<String>, param: &'static str) -> Error {
    Error::new(ErrorKind::InvalidRequest, message).with_param(param)
}

fn check_key(key: &str) -> Result<(), Error> {
    let is_good = !key.is_empty() && key.len() <= LONGEST_KEY && !key.chars().any(char::is_control);
    let message = "`key` must be 1 to 255 bytes of text without control characters.";
    is_good.then_some(()).ok_or_else(|| invalid(message, "key"))
}

/// Checks a webhook that somebody asks for.
///
/// # Errors
/// `invalid_request`, when there is nothing to sign it with or it cannot be told there.
pub(crate) fn check_webhook(url: &str, config: &Config) -> Result<(), Error> {
    if config.jobs.webhook_secret.is_none() {
        let message = "`webhook` cannot be told: the operator has set no [jobs] webhook_secret to sign it with.";
        return Err(invalid(message, "webhook"));
    }
    super::webhook::url::check(url, config.jobs.webhook_allow_private)
        .map_err(|problem| invalid(format!("`webhook` {problem}."), "webhook"))
}

/// Whether somebody takes calls of `model` to `endpoint`, by the rule that routes them.
pub(super) fn is_served(config: &Config, endpoint: Endpoint, model: Option<&str>) -> bool {
    let takes =
        |name: &Arc<str>| config.upstreams.get(name).is_some_and(|section| speaks(section.upstream.kind, endpoint));
    match model {
        Some(model) => config.targets(model).iter().any(|(name, _)| takes(name)),
        None => config.upstreams.keys().any(takes),
    }
}

/// What two jobs share that ask for the same in the same way.
fn digest(job: &Job, timeout: Duration) -> [u8; 32] {
    let request = job.request();
    let priority = match job.priority() {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    };
    let once = if job.is_at_most_once() { "once" } else { "" };
    let webhook = job.told_webhook().map_or("", |url| url);
    let timeout = timeout.as_millis().to_string();
    let mut context = Context::new(&SHA256);
    for part in [request.endpoint().path(), priority, once, webhook, &timeout] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    context.update(request.body().bytes());
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Request;

    fn config(more: &str) -> Config {
        let text = format!(
            "[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\n[upstreams.claude]\nkind = \"anthropic\"\n\
             base_url = \"http://c.test\"\napi_keys = [\"sk-ant-1234567890\"]\nmodels = [\"claude\"]\n{more}"
        );
        Config::from_toml(&text).expect("a good configuration")
    }

    fn chat(model: &str) -> Request {
        Request::chat(model, ["hello"])
    }

    fn refused(job: Job) -> (&'static str, Option<String>) {
        let error = row(&job, None, &config(""), 0).expect_err("it is no good");
        (error.code(), error.param().map(str::to_owned))
    }

    #[test]
    fn a_job_is_of_low_priority_and_has_a_day_unless_it_says_otherwise() {
        let made = row(&Job::new(chat("m")), None, &config(""), 1_000).expect("good");
        assert_eq!((made.priority, made.expires_at - made.created_at), (Priority::Low, 86_400_000));
        assert_eq!((&*made.queue, made.key), ("m", None));
        let request = chat("m").with_priority(Priority::Normal).with_timeout(Duration::from_secs(1));
        let made = row(&Job::new(request.clone()), None, &config(""), 1_000).expect("good");
        assert_eq!((made.priority, made.expires_at), (Priority::Normal, 2_000));
        let made = row(&Job::new(request).timeout(Duration::from_secs(9)), None, &config(""), 1_000).expect("good");
        assert_eq!(made.expires_at, 10_000);
    }

    #[test]
    fn what_cannot_be_kept_or_answered_is_refused_with_the_field_at_fault() {
        let bad = |param: &str| ("invalid_request", Some(param.to_owned()));
        assert_eq!(refused(Job::new(chat("m").into_stream().expect("a stream"))), bad("body.stream"));
        assert_eq!(refused(Job::new(chat("m")).timeout(Duration::ZERO)), bad("timeout"));
        assert_eq!(refused(Job::new(chat("m")).timeout(Duration::from_secs(366 * 86_400))), bad("timeout"));
        assert_eq!(refused(Job::new(chat("m")).key("")), bad("key"));
        assert_eq!(refused(Job::new(chat("m")).key("x".repeat(256))), bad("key"));
        assert_eq!(refused(Job::new(chat("m")).webhook("https://example.com/")), bad("webhook"));
        let with_header = chat("m").with_header("openai-organization", "o").expect("a header");
        assert_eq!(refused(Job::new(with_header)), ("invalid_request", None));
        assert_eq!(refused(Job::new(chat("nobody"))), ("model_not_found", Some("model".into())));
        let body = r#"{"model":"m","messages":[],"max_tokens":1}"#;
        let elsewhere = Request::new(Endpoint::Messages, body).expect("a request");
        assert_eq!(refused(Job::new(elsewhere)), ("model_not_found", Some("model".into())));
    }

    #[test]
    fn a_webhook_needs_a_secret_and_a_place_it_may_go_to() {
        let secret = "[jobs]\nwebhook_secret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\"";
        let job = |url: &str| row(&Job::new(chat("m")).webhook(url), None, &config(secret), 0);
        assert!(job("https://example.com/hook").is_ok());
        for url in ["", "example.com", "ftp://example.com/", "http://127.0.0.1/", "https://user@example.com/"] {
            assert_eq!(job(url).expect_err(url).param(), Some("webhook"), "{url}");
        }
    }

    #[test]
    fn whatever_was_asked_otherwise_is_another_request() {
        let digest = |job: Job| row(&job, None, &config(""), 0).expect("good").digest;
        let job = || Job::new(chat("m"));
        assert_eq!(digest(job()), digest(job().key("k")));
        let others = [
            job().at_most_once(),
            job().timeout(Duration::from_secs(5)),
            Job::new(chat("m").with_priority(Priority::High)),
            Job::new(Request::chat("m", ["other"])),
        ];
        for other in others {
            assert_ne!(digest(job()), digest(other.clone()), "{other:?}");
        }
    }
}

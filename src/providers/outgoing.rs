//! The headers of a request as it goes to one account.

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};

use super::headers::{is_callers_own, is_framing};
use crate::messages::{Account, Headers, Request};

/// The caller's headers, the configured ones in place of the caller's of the same name, and the account's key, in the header
/// that `authorise` makes of it.
pub(super) fn headers(request: &Request, account: &Account, authorise: fn(&str) -> (HeaderName, String)) -> Headers {
    let upstream = &*account.upstream;
    let configured = || upstream.headers.iter().filter(|(name, _)| !is_framing(name.as_str()));
    let is_configured = |name: &HeaderName| configured().any(|(have, _)| have == name);
    let mut out: Headers = request
        .headers()
        .iter()
        .filter(|(name, _)| !is_callers_own(name.as_str()) && !is_configured(name))
        .chain(configured())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let has = |headers: &Headers, wanted: HeaderName| headers.iter().any(|(name, _)| *name == wanted);
    if !has(&out, CONTENT_TYPE) {
        out.push(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if !has(&out, ACCEPT) {
        let kind = if request.is_stream() { "text/event-stream" } else { "application/json" };
        out.push(ACCEPT, HeaderValue::from_static(kind));
    }
    // An operator who configures the header means it instead of the key.
    if let Some(key) = &account.key {
        let (name, value) = authorise(key.expose());
        if !has(&out, name.clone())
            // A key that cannot stand in a header is left out: the upstream's 401 says so more clearly than a panic.
            && let Ok(mut value) = HeaderValue::try_from(value)
        {
            value.set_sensitive(true);
            out.push(name, value);
        }
    }
    out
}

/// Leaves out the caller's headers whose names begin with one of `prefixes`: they are about another protocol. Those that are
/// configured for the upstream stay.
pub(super) fn leave_out(headers: &mut Headers, account: &Account, prefixes: &[&str]) {
    let is_configured = |name: &HeaderName| account.upstream.headers.iter().any(|(have, _)| have == name);
    headers.retain(|name| is_configured(name) || !prefixes.iter().any(|prefix| name.as_str().starts_with(prefix)));
}

/// Anthropic's header for the version of its API.
pub(super) const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The version of Anthropic's API that is asked for where neither caller nor operator name one: the upstream would refuse the
/// call. It is the one that Anthropic keeps for those who do not follow it.
pub(super) const DEFAULT_VERSION: &str = "2023-06-01";

/// Names a version of Anthropic's API, unless one is named.
pub(super) fn name_version(headers: &mut Headers) {
    if headers.get(ANTHROPIC_VERSION.as_str()).is_none() {
        headers.push(ANTHROPIC_VERSION, HeaderValue::from_static(DEFAULT_VERSION));
    }
}

/// `Authorization: Bearer`.
pub(super) fn bearer(key: &str) -> (HeaderName, String) {
    (AUTHORIZATION, format!("Bearer {key}"))
}

/// `x-api-key`.
pub(super) fn x_api_key(key: &str) -> (HeaderName, String) {
    (HeaderName::from_static("x-api-key"), key.to_owned())
}

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

/// `Authorization: Bearer`.
pub(super) fn bearer(key: &str) -> (HeaderName, String) {
    (AUTHORIZATION, format!("Bearer {key}"))
}

/// `x-api-key`.
pub(super) fn x_api_key(key: &str) -> (HeaderName, String) {
    (HeaderName::from_static("x-api-key"), key.to_owned())
}

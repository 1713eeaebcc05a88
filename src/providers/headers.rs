//! Which headers pass, and in which direction.
//!
//! Towards the upstream a list of what may: the caller's key, cookies and whatever a browser adds stay here. Back to
//! the caller all but what belongs to the connection, to the account's own limits, or to someone else's session.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};

use crate::messages::Headers;

/// Belong to one connection, never to a message that is passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Who the caller is, how its own connection frames the body, or what this side must decide itself. `accept-encoding`
/// is among them because answers are read here.
const CALLERS_OWN: [&str; 12] = [
    "accept-encoding",
    "api-key",
    "authorization",
    "content-encoding",
    "content-length",
    "cookie",
    "cookie2",
    "expect",
    "host",
    "x-api-key",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
];

/// Whether a caller's header of this name goes to the upstream.
#[cfg(any(test, feature = "gateway"))]
pub(crate) fn for_upstream(name: &str) -> bool {
    let listed = is_any_of(name, &["content-type", "accept", "traceparent"])
        || ["openai-", "anthropic-", "x-goog-"].iter().any(|prefix| starts_with(name, prefix));
    listed && !is_callers_own(name)
}

/// Whether a header of this name must never go to an upstream on a caller's word, not even when a program that embeds
/// forebay set it: the account's key is sent, and framing is the transport's.
pub(crate) fn is_callers_own(name: &str) -> bool {
    is_hop_by_hop(name) || is_any_of(name, &CALLERS_OWN)
}

/// Whether a header of this name would frame the request, which is the transport's business alone.
pub(crate) fn is_framing(name: &str) -> bool {
    is_hop_by_hop(name) || is_any_of(name, &["content-length", "expect"])
}

/// Whether an upstream's header of this name goes back to the caller. Rate limits there are the account's, which many
/// callers share: forebay shows its own instead. Names under `x-forebay-` are forebay's to say.
pub(crate) fn for_caller(name: &str) -> bool {
    let account = ["x-ratelimit", "ratelimit", "anthropic-ratelimit-", "x-tokenlimit", "retry-after", "x-forebay-"];
    !(is_hop_by_hop(name)
        || is_any_of(name, &["set-cookie", "set-cookie2", "content-length", "x-should-retry", "x-ms-retry-after-ms"])
        || account.iter().any(|prefix| starts_with(name, prefix)))
}

/// Those of a caller's headers that go to the upstream.
#[cfg(any(test, feature = "gateway"))]
pub(crate) fn pick_for_upstream<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Headers {
    let listed = headers
        .filter(|(name, _)| for_upstream(name.as_str()) || **name == CONNECTION)
        .map(|(name, value)| (name.clone(), value.clone()));
    pick(listed.collect(), for_upstream)
}

/// Those of an upstream's headers that go back to the caller.
pub(crate) fn pick_for_caller(headers: Headers) -> Headers {
    pick(headers, for_caller)
}

/// Those that `passes`, without any that a `Connection` header names: they are of that connection only.
fn pick(mut headers: Headers, passes: fn(&str) -> bool) -> Headers {
    let connection: Vec<HeaderValue> =
        headers.iter().filter(|(name, _)| **name == CONNECTION).map(|(_, value)| value.clone()).collect();
    let is_named = |name: &HeaderName| {
        connection.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(|token| {
            // Content-Type named there would leave a body of unknown kind: no honest sender does it.
            token.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()) && *name != CONTENT_TYPE
        })
    };
    headers.retain(|name| passes(name.as_str()) && !is_named(name));
    headers
}

fn is_hop_by_hop(name: &str) -> bool {
    is_any_of(name, &HOP_BY_HOP)
}

fn is_any_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| name.eq_ignore_ascii_case(one))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> Headers {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn names(headers: &Headers) -> Vec<&str> {
        headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn the_upstream_gets_what_is_listed() {
        for name in [
            "content-type",
            "Accept",
            "OpenAI-Organization",
            "openai-beta",
            "anthropic-version",
            "x-goog-user-project",
            "TraceParent",
        ] {
            assert!(for_upstream(name), "{name}");
        }
    }

    #[test]
    fn no_key_cookie_or_framing_of_the_callers_goes_to_the_upstream() {
        for name in [
            "authorization",
            "Authorization",
            "x-api-key",
            "api-key",
            "X-Goog-Api-Key",
            "cookie",
            "host",
            "content-length",
            "content-encoding",
            "expect",
            "connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "proxy-authorization",
            "accept-encoding",
            "user-agent",
            "x-stainless-lang",
            "x-forebay-timeout",
            "idempotency-key",
            "origin",
            "x-forwarded-for",
            "forwarded",
            "openai",
            "",
            "é",
        ] {
            assert!(!for_upstream(name), "{name}");
        }
    }

    #[test]
    fn the_caller_gets_everything_else_back() {
        for name in [
            "content-type",
            "content-encoding",
            "openai-processing-ms",
            "x-request-id",
            "date",
            "cf-ray",
            "x-rate",
            "anthropic-organization-id",
        ] {
            assert!(for_caller(name), "{name}");
        }
        for name in [
            "Set-Cookie",
            "connection",
            "keep-alive",
            "transfer-encoding",
            "trailer",
            "upgrade",
            "content-length",
            "x-ratelimit-limit-requests",
            "X-RateLimit-Reset",
            "x-ratelimitbysize-limit-minute",
            "RateLimit",
            "ratelimit-policy",
            "anthropic-ratelimit-tokens-remaining",
            "retry-after",
            "Retry-After-Ms",
            "x-ms-retry-after-ms",
            "x-should-retry",
            "x-forebay-upstream",
        ] {
            assert!(!for_caller(name), "{name}");
        }
    }

    #[test]
    fn what_a_connection_header_names_stays_behind() {
        let upstreams = headers(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("connection", "x-second ,content-type"),
            ("x-second", "3"),
            ("content-type", "application/json"),
            ("x-other", "4"),
        ]);
        assert_eq!(names(&pick_for_caller(upstreams)), ["x-other", "content-type", "x-other"]);
        let callers =
            headers(&[("connection", "openai-beta"), ("openai-beta", "1"), ("accept", "*/*"), ("cookie", "a")]);
        assert_eq!(names(&pick_for_upstream(callers.iter())), ["accept"]);
    }
}

//! Which headers cross the gateway (minimal; replaced when providers land).

use http::header::HeaderName;

/// Whether a caller's request header goes to the upstream.
pub(crate) fn for_upstream(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "content-type" | "accept" | "traceparent")
        || ["openai-", "anthropic-", "x-goog-"].iter().any(|prefix| name.starts_with(prefix))
}

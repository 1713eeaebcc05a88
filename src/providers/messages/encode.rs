//! A request as it goes to one account.

use super::Unchanged;
use crate::messages::{Account, Request};
use crate::providers::dialect::Encoded;
use crate::providers::{edits, outgoing};

/// The request to `account`, for the upstream's `model`. The body is the caller's, byte for byte and shared, unless the
/// model's name differs there: then that is rewritten and nothing else.
pub(crate) fn encode(request: &Request, account: &Account, model: Option<&str>) -> Encoded {
    let body = request.body();
    let edit = edits::model(body, model);
    let mut headers = outgoing::headers(request, account, outgoing::x_api_key);
    outgoing::name_version(&mut headers);
    Encoded {
        url: format!("{}/v1{}", account.upstream.base_url, request.endpoint().path()),
        headers,
        body: edits::made(body.bytes(), edit.into_iter().collect()),
        answers: Box::new(Unchanged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Endpoint, UpstreamKind};
    use crate::providers::examples;

    const TEXT: &str = r#"{"max_tokens":1e3, "model" : "a" ,"messages":[{"content":"\"model\""}],"x":1.0,"x":1}"#;

    type Configured<'a> = &'a [(&'static str, &'static str)];

    fn encoded(endpoint: Endpoint, headers: &[(&str, &str)], configured: Configured<'_>, model: &str) -> Encoded {
        let mut request = Request::new(endpoint, TEXT).unwrap();
        for (name, value) in headers {
            request = request.with_header(name, value).unwrap();
        }
        let account = examples::account(UpstreamKind::Anthropic, "https://example.test", "sk-ant-1", configured);
        encode(&request, &account, Some(model))
    }

    #[test]
    fn a_call_goes_out_byte_for_byte_but_for_the_models_name() {
        let same = encoded(Endpoint::Messages, &[], &[], "a");
        assert_eq!((same.url.as_str(), &*same.body), ("https://example.test/v1/messages", TEXT.as_bytes()));
        let other = encoded(Endpoint::CountTokens, &[], &[], "b");
        assert_eq!(other.url, "https://example.test/v1/messages/count_tokens");
        assert_eq!(&*other.body, TEXT.replace(r#" "a" "#, r#" "b" "#).as_bytes());
    }

    #[test]
    fn the_accounts_key_stands_in_anthropics_header_and_the_callers_nowhere() {
        let callers = [("x-api-key", "callers"), ("authorization", "Bearer callers"), ("anthropic-beta", "one,two")];
        let got = encoded(Endpoint::Messages, &callers, &[], "a").headers;
        assert_eq!(got.get("x-api-key"), Some("sk-ant-1"));
        assert!(got.iter().any(|(name, value)| name.as_str() == "x-api-key" && value.is_sensitive()));
        assert_eq!((got.get("authorization"), got.get("anthropic-beta")), (None, Some("one,two")));
    }

    #[test]
    fn the_version_is_the_operators_then_the_callers_then_the_one_for_all() {
        let version = |callers: &[(&str, &str)], configured: Configured<'_>| {
            let headers = encoded(Endpoint::Messages, callers, configured, "a").headers;
            let versions = headers.iter().filter(|(name, _)| name.as_str() == "anthropic-version");
            let versions: Vec<_> = versions.map(|(_, value)| value.to_str().unwrap().to_owned()).collect();
            versions.join(" and ")
        };
        assert_eq!(version(&[], &[]), "2023-06-01");
        assert_eq!(version(&[("anthropic-version", "2026-10-21")], &[]), "2026-10-21");
        assert_eq!(version(&[("anthropic-version", "2026-10-21")], &[("anthropic-version", "operators")]), "operators");
    }
}

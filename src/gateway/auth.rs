//! Whose call it is: tenants by the digest of their key.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::header::{self, HeaderMap, HeaderName};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::config::Config;
use crate::messages::{Error, ErrorKind};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

type Digest = [u8; SHA256_OUTPUT_LEN];

/// The tenants of a configuration, found by the SHA-256 of what a caller sends: the time a look-up takes says nothing
/// about a key.
pub(super) struct Tenants(HashMap<Digest, Arc<str>>);

impl Tenants {
    pub(super) fn of(config: &Config) -> Self {
        let digested = |(name, tenant): (&Arc<str>, &crate::config::Tenant)| {
            (sha256(tenant.key.expose().as_bytes()), Arc::clone(name))
        };
        Self(config.tenants.iter().map(digested).collect())
    }

    /// Without tenants the gateway asks nobody for a key.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tenant who sends these headers; `None` where there are no tenants.
    ///
    /// # Errors
    /// `invalid_api_key` when no header holds the key of one.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Option<Arc<str>>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut sent = false;
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let plain = headers.get(X_API_KEY).map(|value| value.as_bytes());
        for key in [bearer, plain].into_iter().flatten() {
            sent = true;
            if let Some(tenant) = self.0.get(&sha256(key)) {
                return Ok(Some(Arc::clone(tenant)));
            }
        }
        let message = match sent {
            true => "this API key is not one of a tenant's",
            false => "an API key is needed: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
        };
        Err(Error::new(ErrorKind::InvalidApiKey, message))
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The token behind the word `Bearer`, which is written in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(6)?;
    let spaced = token.first().is_some_and(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(b"bearer") && spaced).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{config, tenant};
    use actix_web::http::header::HeaderValue;

    fn caller(headers: &[(&'static str, &str)]) -> Result<Option<Arc<str>>, Error> {
        let mut config = config();
        config.tenants.insert("team-a".into(), tenant("key-a"));
        config.tenants.insert("team-b".into(), tenant("key-b"));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Tenants::of(&config).caller(&map)
    }

    #[test]
    fn a_tenant_is_known_by_either_header_and_any_case_of_bearer() {
        for headers in [
            [("authorization", "Bearer key-a")],
            [("authorization", "bearer key-a")],
            [("authorization", "BEARER   key-a ")],
            [("x-api-key", "key-a")],
        ] {
            assert_eq!(caller(&headers).unwrap().as_deref(), Some("team-a"), "{headers:?}");
        }
        assert_eq!(caller(&[("x-api-key", "key-b")]).unwrap().as_deref(), Some("team-b"));
    }

    #[test]
    fn a_missing_wrong_or_half_key_is_refused() {
        for headers in [
            &[][..],
            &[("authorization", "Bearer key-c")],
            &[("authorization", "Bearer key-")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearerkey-a")],
            &[("authorization", "Basic a2V5LWE=")],
            &[("authorization", "key-a")],
            &[("x-api-key", "")],
            &[("x-api-key", "Bearer key-a")],
        ] {
            assert_eq!(caller(headers).unwrap_err().code(), "invalid_api_key", "{headers:?}");
        }
    }

    #[test]
    fn an_sdks_dummy_bearer_does_not_hide_the_key_beside_it() {
        let found = caller(&[("authorization", "Bearer dummy"), ("x-api-key", "key-b")]);
        assert_eq!(found.unwrap().as_deref(), Some("team-b"));
    }

    #[test]
    fn a_refusal_does_not_repeat_the_key() {
        let error = caller(&[("authorization", "Bearer sk-secret")]).unwrap_err();
        assert!(!error.message().contains("sk-secret"));
    }

    #[test]
    fn without_tenants_any_key_is_ignored() {
        let tenants = Tenants::of(&config());
        let mut headers = HeaderMap::new();
        assert_eq!(tenants.caller(&headers).unwrap(), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer sk-anything"));
        assert_eq!(tenants.caller(&headers).unwrap(), None);
    }
}

//! Whose call it is: tenants, and the operator, by the digest of their key.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
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

/// The operator, found by the digest of `[server] admin_key`.
pub(super) struct Operator(Option<Digest>);

impl Operator {
    pub(super) fn of(config: &Config) -> Self {
        Self(config.server.admin_key.as_ref().map(|key| sha256(key.expose().as_bytes())))
    }

    /// Whether there is a key at all.
    pub(super) fn has_key(&self) -> bool {
        self.0.is_some()
    }

    /// Whether these headers hold the key: as Bearer, or as the password of Basic with any name.
    pub(super) fn is_let_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
        let sent = bearer(value).map(sha256).or_else(|| basic_password(value).as_deref().map(sha256));
        self.0.is_some() && self.0 == sent
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The token behind the word `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    of_scheme(b"bearer", value)
}

/// The password behind the word `Basic`: the name before it is anybody's.
fn basic_password(value: &[u8]) -> Option<Vec<u8>> {
    let mut pair = from_base64(of_scheme(b"basic", value)?)?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.split_off(colon + 1))
}

/// What stands behind the name of a scheme, which is written in any case.
fn of_scheme<'a>(name: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (scheme, token) = value.split_at_checked(name.len())?;
    let spaced = token.first().is_some_and(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(name) && spaced).then(|| token.trim_ascii())
}

/// Read leniently: a password that is not the right one is refused in any case.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{config, tenant};

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
    fn the_operator_is_known_by_bearer_or_by_the_password_of_basic_and_by_nothing_else() {
        let mut config = config();
        let is_let_in = |config: &Config, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            Operator::of(config).is_let_in(&headers)
        };
        for value in ["Bearer ", "Bearer", "Basic ", "Basic Og==", "Bearer operator"] {
            assert!(!is_let_in(&config, value), "without a key nobody is: {value}");
        }
        config.server.admin_key = Some(crate::messages::Secret::new("operator: key"));
        // `admin:operator: key`, `:operator: key`
        for value in ["Bearer operator: key", "basic YWRtaW46b3BlcmF0b3I6IGtleQ==", "Basic Om9wZXJhdG9yOiBrZXk"] {
            assert!(is_let_in(&config, value), "{value}");
        }
        for value in ["Bearer operator", "Basic YWRtaW46", "Basic !", "Basic b3BlcmF0b3I6IGtleQ==", "operator: key", ""]
        {
            assert!(!is_let_in(&config, value), "{value}");
        }
        assert!(!Operator::of(&config).is_let_in(&HeaderMap::new()));
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

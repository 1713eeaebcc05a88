//! What the tests of every kind of upstream begin with.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::messages::{Account, AccountId, Authorities, Secret, Timeouts, Upstream, UpstreamKind};

/// An account of an upstream of this `kind`, for which `headers` are configured.
pub(super) fn account(
    kind: UpstreamKind,
    base_url: &str,
    key: &'static str,
    headers: &[(&'static str, &'static str)],
) -> Account {
    let second = Duration::from_secs(1);
    let header =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let upstream = Upstream {
        name: "u".into(),
        kind,
        base_url: base_url.into(),
        timeouts: Timeouts { connect: second, first_byte: second, answer: second, idle: second },
        max_answer: 1 << 20,
        ask_usage: true,
        authorities: Authorities::default(),
        headers: headers.iter().map(header).collect(),
    };
    let id = AccountId { upstream: upstream.name.clone(), key: 0 };
    Account { id, upstream: Arc::new(upstream), key: Some(Secret::new(key)) }
}

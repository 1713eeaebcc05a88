//! Where an attempt goes: a provider's endpoint and one of its keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::Headers;

/// A value that must never be seen: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The value itself; for the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The protocol an upstream speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UpstreamKind {
    /// OpenAI and all that speak its protocol.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
}

/// How long each phase of an attempt may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Timeouts {
    /// Resolving, connecting and the TLS handshake together.
    pub connect: Duration,
    /// From the send to the first byte of a stream's body.
    pub first_byte: Duration,
    /// From the send to the first byte of a whole answer.
    pub answer: Duration,
    /// Between two chunks of any body.
    pub idle: Duration,
}

/// Authorities by which an upstream's certificate may be verified: what its `ca_file` held when the configuration was
/// read. Equal when their certificates are.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

impl Authorities {
    /// Those of `certificates`, each fit to verify others by.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self(certificates.into())
    }

    /// Their certificates.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

/// A provider's endpoint: everything about it that a single attempt needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The protocol it speaks.
    pub kind: UpstreamKind,
    /// As the vendor's own SDK takes it, without a slash at its end.
    pub base_url: Arc<str>,
    /// Limits of time, by phase.
    pub timeouts: Timeouts,
    /// The largest whole answer taken, in bytes.
    pub max_answer: usize,
    /// Whether streamed chats are asked for their usage.
    pub ask_usage: bool,
    /// Trusted besides the system's authorities.
    pub authorities: Authorities,
    /// Sent with every call.
    pub headers: Headers,
}

/// Names an account within one configuration: the upstream's name and the key's place in its list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The key's place in `api_keys`, from 0.
    pub key: usize,
}

impl fmt::Display for AccountId {
    /// `openai#1` is the first key of `openai`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.upstream, self.key + 1)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One key of an upstream, with budgets of its own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Account {
    /// Its name in logs and errors.
    pub id: AccountId,
    /// The endpoint it belongs to.
    pub upstream: Arc<Upstream>,
    /// What it authenticates with; `None` for an upstream that asks for no key.
    pub key: Option<Secret>,
}

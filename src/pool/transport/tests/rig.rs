//! A transport, certificates for its peers, and the call every test makes.

use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{HeaderName, HeaderValue};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::super::{ChosenBy, HttpRequest, HttpResponse, Transport, TransportError, http};
use super::peer::Peer;
use crate::messages::{Authorities, CallId, Headers, Timeouts, Upstream, UpstreamKind};

/// Runs `test` as a thread of the pool would, and never longer than anything here may take.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    actix_rt::System::new().block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("nothing here takes a minute")
    })
}

/// An authority of our own, and the file that makes an upstream trusted by it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: rustls::pki_types::CertificateDer<'static>,
    file: tempfile::NamedTempFile,
}

/// The one that most tests trust.
pub(crate) static OURS: LazyLock<Authority> = LazyLock::new(|| Authority::new("ours"));

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), der: certificate.der().clone(), file }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// What reading that file comes to.
    pub(crate) fn trust(&self) -> Authorities {
        Authorities::new(vec![self.der.clone()])
    }

    /// A server's configuration with a certificate for `names`.
    pub(crate) fn server(&self, names: &[&str], expired: bool) -> Arc<ServerConfig> {
        let verifier = rustls::server::WebPkiClientVerifier::no_client_auth();
        self.server_that(names, expired, verifier)
    }

    /// The same, choosing whose client certificates it asks for.
    pub(crate) fn server_that(
        &self,
        names: &[&str],
        expired: bool,
        verifier: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// What peers present unless the test is about it.
pub(crate) fn trusted() -> Arc<ServerConfig> {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| OURS.server(&["127.0.0.1", "localhost"], false));
    CONFIG.clone()
}

/// An upstream named `name`.
pub(crate) fn upstream(name: &str, connect: Duration, authorities: Authorities) -> Arc<Upstream> {
    let day = Duration::from_secs(86_400);
    Arc::new(Upstream {
        name: name.into(),
        kind: UpstreamKind::OpenAi,
        base_url: "http://unused".into(),
        timeouts: Timeouts { connect, first_byte: day, answer: day, idle: day },
        max_answer: 1 << 30,
        ask_usage: false,
        authorities,
        headers: Headers::new(),
    })
}

/// A transport and where it sends to.
pub(crate) struct Rig {
    pub(crate) transport: Rc<dyn Transport>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) chosen_by: ChosenBy,
    pub(crate) base: String,
}

/// An answer, read whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Rig {
    /// A transport of its own for `peer`.
    pub(crate) fn new(peer: &Peer, tls: bool) -> Self {
        Self::at(format!("{}://{}", if tls { "https" } else { "http" }, peer.address))
    }

    /// A transport for what `base` leads to, trusting our authority.
    pub(crate) fn at(base: String) -> Self {
        let upstream = upstream("peer", Duration::from_secs(20), OURS.trust());
        Self { transport: http()(), upstream, chosen_by: ChosenBy::Operator, base }
    }

    pub(crate) fn request(&self, path: &str, body: impl Into<Bytes>) -> HttpRequest {
        let mut headers = Headers::new();
        for (name, value) in [("content-type", "application/json"), ("expect", "100-continue"), ("te", "trailers")] {
            headers.push(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let url = format!("{}{path}", self.base);
        HttpRequest {
            upstream: self.upstream.clone(),
            url,
            chosen_by: self.chosen_by,
            headers,
            body: body.into(),
            call: CallId::new(),
        }
    }

    pub(crate) async fn open(&self, path: &str, body: impl Into<Bytes>) -> Result<HttpResponse, TransportError> {
        self.transport.send(self.request(path, body)).await
    }

    /// POSTs and reads the answer to its end.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer, TransportError> {
        let mut response = self.open(path, body).await?;
        let mut read = Vec::new();
        while let Some(chunk) = response.body.next().await {
            read.extend_from_slice(&chunk?);
        }
        Ok(Answer { status: response.status, body: String::from_utf8(read).unwrap() })
    }

    /// The check after every fault: the next exchange gets its own answer.
    pub(crate) async fn next_is_right(&self, nonce: &str) {
        let answer = self.post("/echo", nonce.to_owned()).await.unwrap_or_else(|error| panic!("{nonce}: {error:?}"));
        assert_eq!(answer, Answer { status: 200, body: nonce.to_owned() });
    }
}

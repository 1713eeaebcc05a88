//! Whom a TLS connection trusts: one configuration for the same authorities, shared by all threads so that sessions
//! resume on any.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, RootCertStore};

use crate::messages::Authorities;

/// The TLS configurations of a process, each built when first asked for and kept while connections are made with it.
#[derive(Default)]
pub(super) struct Trust(Mutex<HashMap<Authorities, Arc<ClientConfig>>>);

impl Trust {
    /// What trusts the system's authorities, and these `besides`.
    pub(super) fn config(&self, besides: &Authorities) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(besides) {
            return Ok(config.clone());
        }
        let config = Arc::new(build(besides)?);
        // What reloads have left behind.
        known.retain(|_, config| Arc::strong_count(config) > 1);
        known.insert(besides.clone(), config.clone());
        Ok(config)
    }
}

fn build(besides: &Authorities) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (_, unread) = roots.add_parsable_certificates(native.certs); // stores hold odd ones, which verify nothing
    if roots.is_empty() {
        let why = native.errors.first().map(|error| error.to_string());
        tracing::warn!(unread, why, "the system has no certificate authorities: only ca_file is trusted");
    }
    roots.add_parsable_certificates(besides.certificates().iter().cloned()); // all of them: they have been checked
    // The provider is named here and never installed: an embedding program's own choice stays its own.
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::super::tests::rig::OURS;
    use super::*;

    #[test]
    fn a_configuration_is_built_once_for_all_and_forgotten_when_nobody_uses_it() {
        let (trust, system, ours) = (Trust::default(), Authorities::default(), OURS.trust());
        let (first, second) = (trust.config(&system).unwrap(), trust.config(&system).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        drop(trust.config(&ours).unwrap());
        assert_eq!(trust.0.lock().unwrap().len(), 2);
        trust.config(&Authorities::new(vec![OURS.der.clone(); 2])).unwrap();
        assert!(!trust.0.lock().unwrap().contains_key(&ours));
        assert!(Arc::ptr_eq(&first, &trust.config(&system).unwrap()));
    }
}

//! Whom a TLS connection trusts: one configuration per `ca_file`, shared by all threads so that sessions resume on any.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, RootCertStore};

use crate::config::authorities;

/// The TLS configurations of a process, each built when first asked for and kept: a `ca_file` whose content changes under
/// its name is not read again.
#[derive(Default)]
pub(super) struct Trust(Mutex<HashMap<Option<PathBuf>, Arc<ClientConfig>>>);

impl Trust {
    /// What trusts the system's authorities, and those of `ca_file` besides. A file that fails is read again next time.
    pub(super) fn config(&self, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(&ca_file.map(Path::to_owned)) {
            return Ok(config.clone());
        }
        let config = Arc::new(build(ca_file)?);
        known.insert(ca_file.map(Path::to_owned), config.clone());
        Ok(config)
    }
}

fn build(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (_, unread) = roots.add_parsable_certificates(native.certs); // stores hold odd ones, which verify nothing
    if roots.is_empty() {
        let why = native.errors.first().map(|error| error.to_string());
        tracing::warn!(unread, why, "the system has no certificate authorities: only ca_file is trusted");
    }
    if let Some(path) = ca_file {
        let named = authorities(path).map_err(|fault| format!("ca_file {} {fault}", path.display()))?;
        roots.add_parsable_certificates(named); // all of them: they have been checked
    }
    // The provider is named here and never installed: an embedding program's own choice stays its own.
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Trust::default().config(Some(file.path())).unwrap_err();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
        assert!(Trust::default().config(Some(Path::new("/nowhere/ca.pem"))).is_err());
    }

    #[test]
    fn a_configuration_is_built_once_for_all() {
        let trust = Trust::default();
        let (first, second) = (trust.config(None).unwrap(), trust.config(None).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }
}

//! Files of authorities that an upstream is trusted by.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::messages::Authorities;

/// The authorities in the PEM file at `path`. It is read here and never again before the next configuration.
///
/// # Errors
/// What is wrong with the file and what to do, as the end of a sentence that begins with its key.
pub(super) fn authorities(path: &Path) -> Result<Authorities, String> {
    let text = std::fs::read(path).map_err(|error| {
        format!("cannot be read ({error}); correct the path (a relative one starts at the working directory)")
    })?;
    let mut found = Vec::new();
    for (n, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
        let unusable = |error: &dyn std::fmt::Display| {
            format!("holds a certificate that cannot be used (number {}: {error}); name a whole PEM file", n + 1)
        };
        let certificate = certificate.map_err(|error| unusable(&error))?;
        RootCertStore::empty().add(certificate.clone()).map_err(|error| unusable(&error))?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err("holds no certificate; name a PEM file with BEGIN CERTIFICATE in it".into());
    }
    Ok(Authorities::new(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_like_certificates_is_refused() {
        for (text, fault) in [
            ("", "holds no certificate"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "number 1"),
            ("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n", "number 1"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "number 1"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let error = authorities(file.path()).unwrap_err();
            assert!(error.contains(fault), "{text:?}: {error}");
        }
        assert!(authorities(Path::new("/nowhere/ca.pem")).unwrap_err().contains("cannot be read"));
    }
}

//! What it means when TLS does not come about: how the failure is treated, and what its caller is told to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::messages::FailureKind;

/// The kind of a failed handshake, and a sentence for the caller where there is more to say than the kind does.
///
/// A certificate that is wrong or missing, theirs or ours, is wrong again next time; everything else may pass.
pub(super) fn meaning(error: &Error) -> (FailureKind, Option<&'static str>) {
    use FailureKind::{Certificate, Unreachable};
    match error {
        Error::InvalidCertificate(why) => (Certificate, refusal(why)),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            (Certificate, Some("the upstream wants a client certificate, which forebay cannot show"))
        }
        Error::InvalidMessage(_) => (
            Unreachable,
            Some("the upstream does not speak TLS there: check whether base_url should begin with http://"),
        ),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity,
        ) => (Unreachable, Some("the upstream and forebay have no version or cipher of TLS in common")),
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            (Unreachable, Some("the upstream does not speak HTTP/1.1 there"))
        }
        _ => (Unreachable, None),
    }
}

fn refusal(why: &CertificateError) -> Option<&'static str> {
    use CertificateError as E;
    Some(match why {
        E::Expired | E::ExpiredContext { .. } => {
            "the upstream's certificate has expired: it must be renewed there, or this machine's clock is wrong"
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the upstream's certificate is not valid yet: this machine's clock may be wrong"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "the upstream's certificate is for another name: check base_url"
        }
        E::UnknownIssuer => {
            "the upstream's certificate is signed by nobody trusted here: name its authority's PEM file as ca_file"
        }
        _ => return None,
    })
}

/// The error of TLS that `error` carries, if it does.
pub(super) fn of(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

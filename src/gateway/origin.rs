//! Calls that a browser makes for a web page: any page can reach loopback, so without tenants only the server's own
//! pages and the origins of the configuration may.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::{Method, StatusCode};

use crate::messages::{Error, ErrorKind};

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_MAX_AGE_S: u32 = 600;

/// Where a call comes from, as far as it matters.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Origin {
    /// No browser, the server's own page, or a page that is nobody's concern since callers need a key.
    Plain,
    /// A page of `[server] origins`: the browser wants to be told that it may read the answer.
    Listed(HeaderValue),
}

/// Judges the `Origin` header.
///
/// # Errors
/// `forbidden` when a foreign page calls a gateway that asks for no key.
pub(super) fn judge(headers: &HeaderMap, origins: &[String], has_tenants: bool) -> Result<Origin, Error> {
    let mut judged = Origin::Plain;
    for value in headers.get_all(header::ORIGIN) {
        let text = value.to_str().unwrap_or_default();
        if origins.iter().any(|listed| same(listed, text)) {
            judged = Origin::Listed(value.clone());
        } else if !has_tenants && !is_own(text, headers) {
            return Err(Error::new(
                ErrorKind::Forbidden,
                "a web page of this origin may not call: list it in [server] origins, or set up tenants with keys",
            ));
        }
    }
    Ok(judged)
}

/// Origins are equal without regard to case; a slash at the end is a common slip.
fn same(listed: &str, origin: &str) -> bool {
    listed.trim_end_matches('/').eq_ignore_ascii_case(origin)
}

/// Whether the page came from this server. The `Host` must be an address or localhost: a page of some name that was
/// made to resolve to loopback shows that name in both headers.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host) && is_address_or_localhost(host),
        _ => false,
    }
}

/// Whether a request was made to an IP address or localhost, not to a name that was made to resolve to loopback.
pub(super) fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(is_address_or_localhost)
}

/// Whether a `Host` header names an IP address or localhost, with a port or without.
fn is_address_or_localhost(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    is_port(port) && (name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

impl Origin {
    /// Whether the request is a browser's question before the call proper.
    pub(super) fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        *self != Origin::Plain
            && method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The answer to that question: a listed page may call with any header.
    pub(super) fn preflight(&self, headers: &HeaderMap) -> HttpResponse {
        let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
        let to = response.headers_mut();
        to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        to.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_MAX_AGE_S));
        response
    }

    /// Tells the browser of a listed page that the page may read this answer.
    pub(super) fn allow(&self, to: &mut HeaderMap) {
        if let Origin::Listed(origin) = self {
            to.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            to.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
            to.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(origin: &str, host: &str, origins: &[&str], has_tenants: bool) -> Option<Origin> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        judge(&headers, &origins, has_tenants).ok()
    }

    #[test]
    fn a_call_without_an_origin_is_not_a_browsers() {
        assert_eq!(judge(&HeaderMap::new(), &[], false).unwrap(), Origin::Plain);
    }

    #[test]
    fn the_servers_own_page_may_call() {
        for (origin, host) in [
            ("http://127.0.0.1:8787", "127.0.0.1:8787"),
            ("http://localhost:8787", "localhost:8787"),
            ("http://LocalHost:8787", "localhost:8787"),
            ("http://[::1]:8787", "[::1]:8787"),
            ("https://localhost", "localhost"),
        ] {
            assert_eq!(judged(origin, host, &[], false), Some(Origin::Plain), "{origin} {host}");
        }
    }

    #[test]
    fn a_foreign_page_may_not_call_a_gateway_without_keys() {
        for (origin, host) in [
            ("https://evil.example", "127.0.0.1:8787"),
            ("http://localhost:3000", "localhost:8787"),
            ("http://127.0.0.1:8787.evil.example", "127.0.0.1:8787"),
            ("null", "127.0.0.1:8787"),
            ("file://", "127.0.0.1:8787"),
            ("", "127.0.0.1:8787"),
        ] {
            assert_eq!(judged(origin, host, &[], false), None, "{origin} {host}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_resolve_to_loopback_is_not_the_server() {
        assert_eq!(judged("http://evil.example:8787", "evil.example:8787", &[], false), None);
        assert_eq!(judged("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", &[], false), None);
        assert_eq!(judged("http://localhost:80@evil.example", "localhost:80@evil.example", &[], false), None);
    }

    #[test]
    fn a_listed_page_may_call_and_is_told_so() {
        let origin = judged("https://app.example", "127.0.0.1:8787", &["https://app.example/"], false).unwrap();
        let mut headers = HeaderMap::new();
        origin.allow(&mut headers);
        assert_eq!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).unwrap(), "https://app.example");
    }

    #[test]
    fn with_tenants_the_key_decides_and_not_the_origin() {
        assert_eq!(judged("https://evil.example", "gateway.example", &[], true), Some(Origin::Plain));
    }
}

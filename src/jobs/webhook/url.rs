//! What may be named as a webhook's URL. The same parser reads it here and where it is connected to, and only what has one
//! reading passes: whatever leads to a private address by its name is stopped when it is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pool::transport::is_public;

/// The longest URL taken, in bytes.
const MAX_BYTES: usize = 2048;

/// Checks a URL that a caller wants to be called back at; `allow_private` is the operator's word.
///
/// # Errors
/// What is wrong with it and what to do, as the end of a sentence that begins with the field's name. The URL is not
/// repeated.
pub(crate) fn check(url: &str, allow_private: bool) -> Result<(), String> {
    const FORM: &str = "is not an http:// or https:// address; write such as https://example.com/hooks/forebay";
    if url.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes; name a shorter one"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err("holds a character that no URL has; write it in percent-encoding, or a host in Punycode".into());
    }
    if url.contains('#') {
        return Err("has a fragment, which is never sent; leave it out".into());
    }
    let parsed: http::Uri = url.parse().map_err(|_| FORM)?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(FORM.into());
    }
    let authority = parsed.authority().ok_or(FORM)?.as_str();
    if authority.contains('@') {
        return Err("has credentials in it; leave them out: the signature says who is calling".into());
    }
    let host = parsed.host().filter(|host| !host.is_empty()).ok_or(FORM)?;
    let port = authority.strip_prefix(host).ok_or(FORM)?;
    let is_port = match parsed.port_u16() {
        Some(number) => number != 0 && port == format!(":{number}"),
        None => port.is_empty(),
    };
    if !is_port {
        return Err("has no valid port; write 1 to 65535 behind the host, or leave it out".into());
    }
    match address(host)? {
        Some(address) if !allow_private && !is_public(address) => Err(format!("leads to {address}, {PRIVATE}")),
        None if !allow_private && is_localhost(host) => Err(format!("leads to localhost, {PRIVATE}")),
        _ => Ok(()),
    }
}

const PRIVATE: &str =
    "which is not public; name a public address, or ask the operator to set [jobs] webhook_allow_private";

/// The address that `host` is, if it is no name. What other programs would read as an address and we would ask DNS for is
/// neither.
fn address(host: &str) -> Result<Option<IpAddr>, String> {
    if let Some(v6) = host.strip_prefix('[') {
        let v6 = v6.strip_suffix(']').and_then(|v6| v6.parse::<Ipv6Addr>().ok());
        return v6.map(|v6| Some(v6.into())).ok_or_else(|| "has no valid IPv6 address in its brackets".into());
    }
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Ok(Some(v4.into()));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    // The rule of the URL standard: what ends in a number is an address, in one of its many odd spellings.
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"))
        && last[2..].bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_number || is_hex {
        return Err(
            "has an IPv4 address in an unusual spelling; write it as four plain numbers, such as 192.0.2.1".into()
        );
    }
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err("has a host that is neither a name nor an address; write letters, digits, - and . only".into());
    }
    Ok(None)
}

/// What may stand between the full stops of a name; with the _ that some name hosts with.
fn is_label(label: &str) -> bool {
    let is_within = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(is_within)
}

/// Whether a name is this machine's by definition (RFC 6761), whatever the resolver says.
fn is_localhost(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The part of `url` that may be logged: scheme, host and port. Path and query are passwords with some receivers.
pub(crate) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#', '\\']).map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) => &url[start + at + 1..end],
        None => &url[..end],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn public_addresses_pass_by_name_and_by_number() {
        for url in [
            "https://example.com",
            "https://example.com/hooks/forebay?team=a&x=%20",
            "http://example.com:8080/",
            "HTTPS://Example.COM/Hook",
            "https://example.com./",
            "https://xn--bcher-kva.example/",
            "https://my_host.example-1.com:65535/a/b;c=d",
            "https://8.8.8.8/",
            "https://[2606:4700:4700::1111]:8443/",
            "https://[::ffff:8.8.8.8]/",
            "https://intranet/", // a name: where it leads is seen when it is connected to
            "https://metadata.google.internal/",
            "https://1.2.3.4.example/",
            "https://0x7f.example/",
            "https://3com.com/",
        ] {
            assert_eq!(check(url, false), Ok(()), "{url}");
            assert_eq!(check(url, true), Ok(()), "{url}");
        }
        assert!(check(&format!("https://example.com/{}", "a".repeat(2028)), false).is_ok());
    }

    #[test]
    fn private_addresses_pass_only_where_the_operator_allows_them() {
        for host in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[0000:0000:0000:0000:0000:0000:0000:0001]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::FFFF:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b:1::10.0.0.1]",
            "[2002:7f00:1::]",
            "[2001:0:a00:1::]",
            "[2001:db8::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[ff02::1]",
            "localhost",
            "LocalHost",
            "localhost.",
            "a.localhost",
            "a.b.LOCALHOST.",
        ] {
            for url in [format!("http://{host}/"), format!("https://{host}:8443/x?y")] {
                let error = check(&url, false).expect_err(&url);
                assert!(error.starts_with("leads to ") && error.contains("webhook_allow_private"), "{url}: {error}");
                assert_eq!(check(&url, true), Ok(()), "{url}");
            }
        }
    }

    #[test]
    fn what_has_two_readings_passes_never() {
        let long = format!("https://example.com/{}", "a".repeat(2029));
        let label = format!("https://{}.com/", "a".repeat(64));
        let name = format!("https://{}com/", "a.".repeat(126));
        for (url, fault) in [
            // IPv4 as inet_aton reads it, and browsers.
            ("http://2130706433/", "unusual spelling"),
            ("http://0x7f000001/", "unusual spelling"),
            ("http://0X7F000001/", "unusual spelling"),
            ("http://017700000001/", "unusual spelling"),
            ("http://0177.0.0.1/", "unusual spelling"),
            ("http://0177.0.0.01/", "unusual spelling"),
            ("http://0x7f.0.0.1/", "unusual spelling"),
            ("http://0x7f.0x0.0x0.0x1/", "unusual spelling"),
            ("http://127.1/", "unusual spelling"),
            ("http://127.0.1/", "unusual spelling"),
            ("http://0/", "unusual spelling"),
            ("http://0x/", "unusual spelling"),
            ("http://00/", "unusual spelling"),
            ("http://127.0.0.1./", "unusual spelling"),
            ("http://127.0.0.1.:80/", "unusual spelling"),
            ("http://127.000.000.001/", "unusual spelling"),
            ("http://169.254.43518/", "unusual spelling"),
            ("http://0xa9fea9fe/", "unusual spelling"),
            ("http://2852039166/", "unusual spelling"),
            ("http://4294967296/", "unusual spelling"),
            ("http://256.256.256.256/", "unusual spelling"),
            ("http://1.2.3.4.5/", "unusual spelling"),
            ("http://127.0.0.0x1/", "unusual spelling"),
            ("http://example.1/", "unusual spelling"),
            // Hosts that are not.
            ("http://.../", "neither a name nor an address"),
            ("http://.example.com/", "neither a name nor an address"),
            ("http://example..com/", "neither a name nor an address"),
            ("http://a;b.com/", "neither a name nor an address"),
            ("http://a!b.com/", "neither a name nor an address"),
            (&*label, "neither a name nor an address"),
            (&*name, "neither a name nor an address"),
            // Characters.
            ("http://127。0。0。1/", "no URL has"),
            ("http://①②⑦.⓪.⓪.①/", "no URL has"),
            ("http://bücher.example/", "no URL has"),
            ("http://example.com/ü", "no URL has"),
            ("http://example.com\\@127.0.0.1/", "no URL has"),
            ("http:\\\\127.0.0.1/", "no URL has"),
            ("http://exa mple.com/", "no URL has"),
            (" http://example.com/", "no URL has"),
            ("http://example.com/\r\nx: y", "no URL has"),
            ("http://example.com/\t", "no URL has"),
            ("http://example.com\0.evil/", "no URL has"),
            // Parts.
            ("http://example.com#@127.0.0.1/", "fragment"),
            ("https://example.com/#", "fragment"),
            ("http://user@example.com/", "credentials"),
            ("http://user:secret@example.com/", "credentials"),
            ("http://example.com@127.0.0.1/", "credentials"),
            ("http://@example.com/", "credentials"),
            ("http://example.com:0/", "valid port"),
            ("http://example.com:/", "valid port"),
            ("http://example.com:080/", "valid port"),
            ("http://example.com:+80/", "valid port"),
            ("http://example.com:65536/", "valid port"),
            (&*long, "longer than 2048"),
        ] {
            for allow_private in [false, true] {
                let error = check(url, allow_private).expect_err(url);
                assert!(error.contains(fault), "{url}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_address_of_http_passes_never() {
        for url in [
            "",
            "/",
            "http",
            "http:",
            "http://",
            "https:///path",
            "http:/example.com",
            "http:example.com",
            "//example.com/",
            "example.com",
            "example.com/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_x",
            "unix:/run/x.sock",
            "javascript:alert(1)",
            "ws://example.com/",
            "httpss://example.com/",
            "http://?x",
            "http://:80/",
            "http://[/",
            "http://[]/",
            "http://[::1/",
            "http://::1/",
            "http://[::1]x/",
            "http://[::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[127.0.0.1]/",
            "http://[v1.x]/",
            "http://%31%32%37.0.0.1/",
            "http://exam%70le.com/",
            "http://example.com:80:80/",
            "http://127.0.0.1:80\u{40}example.com/",
        ] {
            for allow_private in [false, true] {
                check(url, allow_private).expect_err(url);
            }
        }
    }

    #[test]
    fn of_a_url_only_the_origin_is_shown() {
        for (url, shown) in [
            ("https://hooks.example.com/services/SECRET?token=SECRET", "https://hooks.example.com"),
            ("http://h:8080", "http://h:8080"),
            ("http://h?SECRET", "http://h"),
            ("http://u:SECRET@h:1/x", "h:1"),
            ("https://[::1]:8443/SECRET", "https://[::1]:8443"),
            ("", ""),
        ] {
            assert_eq!(origin(url), shown, "{url}");
        }
    }

    /// An address in any spelling that `inet_aton` takes: one to four numbers, decimal, octal or hexadecimal.
    fn aton(host: &str) -> Option<Ipv4Addr> {
        let numbers = host.split('.').map(|part| match part.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None if part.len() > 1 && part.starts_with('0') => u64::from_str_radix(part, 8).ok(),
            None => part.parse().ok(),
        });
        let numbers = numbers.collect::<Option<Vec<u64>>>()?;
        let (last, first) = numbers.split_last().filter(|(_, first)| first.len() < 4)?;
        let room = 32 - 8 * first.len() as u32;
        if first.iter().any(|number| *number > 255) || *last >= 1 << room {
            return None;
        }
        let high = first.iter().fold(0, |high, number| high << 8 | number);
        u32::try_from(high << room | last).ok().map(Ipv4Addr::from_bits)
    }

    #[test]
    fn the_model_of_a_resolver_reads_what_resolvers_read() {
        for host in ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0x7f000001", "017700000001"] {
            assert_eq!(aton(host), Some(Ipv4Addr::LOCALHOST), "{host}");
        }
        assert!(["", "a.com", "1.2.3.4.5", "256.1.1.1", "4294967296", "1..2"].iter().all(|host| aton(host).is_none()));
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_a_panic_and_never_repeated(text in ".{0,60}", host in "[0-9a-fxX:.%\\[\\]@-]{0,24}") {
            for url in [text.clone(), format!("http://{host}/"), format!("https://{text}")] {
                origin(&url);
                for allow_private in [false, true] {
                    let _ = check(&url, allow_private);
                }
            }
        }

        #[test]
        fn what_a_resolver_would_read_as_a_private_address_never_passes(
            host in "(0x)?[0-9a-f]{1,10}(\\.(0x)?[0-9a-f]{1,3}){0,3}\\.?|(0|1|10|127|169|0x7f|0177)(\\.(0|1|254|0x1)){0,3}"
        ) {
            if let Some(address) = aton(&host).filter(|address| !is_public((*address).into())) {
                prop_assert!(check(&format!("http://{host}/"), false).is_err(), "{} is {}", host, address);
            }
        }
    }
}

//! What a single value may be: each function takes what the file said and gives what the program uses, or says what is
//! wrong and how to put it right. None of them looks at another key.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};

use super::check::did_you_mean;
use super::raw::{Quiet, Scalar};
use super::units::{parse_duration, parse_size};
use super::{StoreUrl, trust};
use crate::messages::Authorities;

/// Takes the value as it is.
pub(super) fn any<T>(value: T) -> Result<T, String> {
    Ok(value)
}

pub(super) fn duration(value: Scalar) -> Result<Duration, String> {
    parse_duration(&value.text)
}

pub(super) fn size(value: Scalar) -> Result<usize, String> {
    parse_size(&value.text)
}

/// A number of things, at least one.
pub(super) fn count<T: TryFrom<i64>>(value: i64) -> Result<T, String> {
    if value < 1 {
        return Err("is less than 1; write 1 or more, or leave the key out (0 never means unlimited)".into());
    }
    T::try_from(value).map_err(|_| "is too large; write a smaller number, or leave the key out".into())
}

/// A number of threads; 0 keeps everything on the caller's, which an embedding program may want.
pub(super) fn threads(value: i64) -> Result<usize, String> {
    const MOST: usize = 1024;
    match usize::try_from(value) {
        Ok(threads) if threads <= MOST => Ok(threads),
        _ => Err(format!("is not from 0 to {MOST}; write 1, or the number of cores")),
    }
}

pub(super) fn multiplier(value: f64) -> Result<f64, String> {
    if value >= 1.0 && value.is_finite() {
        Ok(value)
    } else {
        Err("is less than 1 or no number; write 1 or more, such as 2.0".into())
    }
}

/// A share; 0 is a share too (nothing beyond what is always allowed), not the absence of a limit.
pub(super) fn share(value: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err("is not a share; write a number from 0 to 1, such as 0.2".into())
    }
}

pub(super) fn price(value: f64) -> Result<f64, String> {
    if value >= 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err("is not a price; write US$ per million tokens, 0 or more".into())
    }
}

pub(super) fn weight(value: f64) -> Result<f64, String> {
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err("is not a weight; write a number above 0, such as 1".into())
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(String) -> Result<T, String> {
    move |value| {
        let words = || choices.iter().map(|(word, _)| *word);
        choices.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let all = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
            match did_you_mean(&value, words()) {
                Some(word) => format!("is not {all}; did you mean \"{word}\"?"),
                None => format!("is not known; write {all}"),
            }
        })
    }
}

/// Whether `name` can name an upstream or a tenant.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What a broken upstream or tenant name could be instead.
pub(super) fn as_name(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(kept).collect();
    if name.is_empty() { "main".to_owned() } else { name }
}

/// Why `name` cannot name a model or route, if so: it must be writable in a request and readable in a log.
pub(super) fn model_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty; write a model's name, or remove it")
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Some("holds a space or control character; write the model's name alone")
    } else {
        None
    }
}

pub(super) fn models(entries: Vec<String>) -> Result<Vec<String>, String> {
    if entries.is_empty() {
        return Err("is empty; list at least one model (\"*\" serves any)".into());
    }
    for (n, entry) in entries.iter().enumerate() {
        let fault = model_fault(entry).or_else(|| {
            let stem = entry.strip_suffix('*').unwrap_or(entry);
            stem.contains('*').then_some("has a * that is not its end; a pattern ends in one *, such as \"gpt-*\"")
        });
        if let Some(fault) = fault {
            return Err(format!("entry {} {entry:?} {fault}", n + 1));
        }
        if let Some(first) = entries.iter().take(n).position(|other| other == entry) {
            return Err(format!("entry {} {entry:?} repeats entry {}; remove it", n + 1, first + 1));
        }
    }
    Ok(entries)
}

pub(super) fn listen(value: String) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| "is not an address; write IP:PORT, such as \"127.0.0.1:8787\" or \"[::1]:8787\"".into())
}

/// Origins as browsers send them: a different spelling would never match.
pub(super) fn origins(entries: Vec<String>) -> Result<Vec<String>, String> {
    for (n, entry) in entries.iter().enumerate() {
        if let Err(fault) = origin(entry) {
            return Err(format!("entry {} {entry:?} {fault}", n + 1));
        }
    }
    Ok(entries)
}

fn origin(entry: &str) -> Result<(), &'static str> {
    const FORM: &str =
        "is not an origin; write scheme://host or scheme://host:port, such as \"https://app.example.com\"";
    let (scheme, rest) = entry.split_once("://").ok_or(FORM)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_scheme || rest.contains(['/', '?', '#', '@', '*', '\\', '"']) || !rest.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(FORM);
    }
    let authority: http::uri::Authority = rest.parse().map_err(|_| FORM)?;
    let behind_host = rest.get(authority.host().len()..).unwrap_or_default();
    if authority.host().is_empty() || (!behind_host.is_empty() && authority.port_u16().is_none()) {
        return Err(FORM);
    }
    if entry.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has upper-case letters, which browsers never send; write it in lower case");
    }
    if matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443))) {
        return Err("names the scheme's own port, which browsers leave out; remove the port");
    }
    Ok(())
}

/// An upstream's address, without slashes at its end. It may hold credentials by mistake, so errors do not repeat it.
pub(super) fn base_url(Quiet(value): Quiet) -> Result<Arc<str>, String> {
    const FORM: &str = "is not an http:// or https:// address; write such as \"https://api.openai.com/v1\"";
    let (scheme, rest) = value.split_once("://").ok_or(FORM)?;
    if !["http", "https"].contains(&scheme) || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(FORM.into());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("has credentials in it; move them to api_keys and write the address alone".into());
    }
    if path.contains(['?', '#']) {
        return Err("has a query or fragment; end the address before the ? or #".into());
    }
    let parsed: http::uri::Authority =
        authority.parse().map_err(|_| "has no valid host; write such as \"https://api.openai.com/v1\"")?;
    let behind_host = authority.get(parsed.host().len()..).unwrap_or_default();
    if parsed.host().is_empty() {
        return Err("has no host; write such as \"https://api.openai.com/v1\"".into());
    }
    if !behind_host.is_empty() && parsed.port_u16().is_none_or(|port| port == 0) {
        return Err("has no valid port; write 1 to 65535 behind the host, or leave it out".into());
    }
    let url = value.trim_end_matches('/');
    url.parse::<http::Uri>().map_err(|_| FORM)?;
    Ok(url.into())
}

/// Where jobs are kept. Its password must not be repeated, in a problem or elsewhere.
/// Where the store is. What is wrong with it is said without repeating it: it may hold a password.
pub(super) fn store_url(Quiet(value): &Quiet) -> Result<StoreUrl, String> {
    let is_postgres =
        ["postgres://", "postgresql://"].iter().any(|scheme| value.len() > scheme.len() && value.starts_with(scheme));
    if is_postgres {
        return Err(
            "names PostgreSQL, which is not in force yet and would not keep what it is given; write \"sqlite:FILE\""
                .into(),
        );
    }
    match value.strip_prefix("sqlite:") {
        Some(":memory:") => return Ok(StoreUrl::Memory),
        Some(path) if !path.is_empty() => return Ok(StoreUrl::Sqlite(path.into())),
        _ => {}
    }
    Err("is not a store; write \"sqlite:FILE\", or \"sqlite::memory:\" to keep nothing".into())
}

/// The key that a webhook secret stands for: `whsec_` and 24 to 64 bytes in base64, as Standard Webhooks has it. An error
/// never repeats the value.
pub(crate) fn webhook_key(value: &str) -> Result<Vec<u8>, String> {
    const FIX: &str = "make one with: echo \"whsec_$(openssl rand -base64 32)\"";
    super::secret::check_key(value)?;
    let text = value
        .strip_prefix("whsec_")
        .ok_or_else(|| format!("is not a webhook secret, which begins with whsec_; {FIX}"))?;
    // Strictly, for the receivers' libraries read the same text, and some of them are strict.
    let key = STANDARD.decode(text).map_err(|_| {
        format!("is not a webhook secret: what stands behind whsec_ is not base64, or without its = at the end; {FIX}")
    })?;
    if !(24..=64).contains(&key.len()) {
        return Err(format!("is a webhook secret of {} bytes, which must be 24 to 64; {FIX}", key.len()));
    }
    Ok(key)
}

pub(super) fn webhook_secret(value: &str) -> Result<(), String> {
    webhook_key(value).map(drop)
}

/// A level, or a list as `tracing` takes it: `info,forebay=debug`.
pub(super) fn log_level(value: String) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in value.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            let known = LEVELS.join(", ");
            return Err(match did_you_mean(level, LEVELS) {
                Some(meant) => format!("is not a level; did you mean \"{meant}\"?"),
                None => format!("is not a level; write one of {known}, or a list such as \"info,forebay=debug\""),
            });
        }
    }
    Ok(value)
}

/// A PEM file of authorities.
pub(super) fn ca_file(value: String) -> Result<Authorities, String> {
    trust::authorities(Path::new(&value))
}

/// A header that may be sent with every call.
pub(super) fn header_name(name: &str) -> Result<HeaderName, &'static str> {
    /// What the transport, the protocol or the caller's own request decides.
    const TAKEN: [&str; 16] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let header =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not a header's name; write letters, digits and -")?;
    match header.as_str() {
        "authorization" => Err("is made from api_keys; put the key there and remove this"),
        taken if TAKEN.contains(&taken) => Err("is set by forebay for every call; remove it"),
        _ => Ok(header),
    }
}

pub(super) fn check_header_value(value: &str) -> Result<(), String> {
    HeaderValue::from_str(value)
        .map(drop)
        .map_err(|_| "holds a line break or other character that no header may have; remove it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T>(read: impl Fn(&str) -> Result<T, String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(read(text).is_ok(), "{text:?} is good");
        }
        for text in bad {
            assert!(read(text).is_err_and(|e| e.contains([';', ','])), "{text:?} is bad, and the fix is named");
        }
    }

    #[test]
    fn an_upstream_address_has_a_host_and_nothing_that_a_path_cannot_follow() {
        all(
            |text| base_url(Quiet(text.to_owned())),
            &[
                "http://h",
                "https://api.openai.com/v1",
                "http://127.0.0.1:8000/v1/",
                "http://[::1]:80",
                "https://h/a/b//",
            ],
            &[
                "",
                "h",
                "h/v1",
                "ftp://h",
                "HTTP://h",
                "http://",
                "http:///v1",
                "http://:80",
                "https://u:p@h/v1",
                "https://h/v1?k=v",
                "https://h#f",
                "https://h:/v1",
                "https://h:99999",
                "https://h:0",
                "https://h:x",
                "https://a b/",
                "https://h/\u{e9}",
                "https://h/\n",
            ],
        );
        let trimmed = base_url(Quiet("https://h/v1//".into()));
        assert_eq!(trimmed.as_deref(), Ok("https://h/v1"));
        let secret = base_url(Quiet("https://user:hunter2@h/v1".into()));
        assert!(secret.is_err_and(|e| !e.contains("hunter2")));
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        all(
            |text| origins(vec![text.to_owned()]),
            &["http://localhost:3000", "https://app.example.com", "http://[::1]:8000", "chrome-extension://abcdef"],
            &[
                "",
                "*",
                "null",
                "localhost",
                "https://",
                "https://a.com/",
                "https://a.com/x",
                "https://*.a.com",
                "https://A.com",
                "https://a.com:443",
                "http://a.com:80",
                "http://a.com:",
                "http://a.com:x",
                "http://u@a.com",
                "://a",
                "https://a b",
            ],
        );
    }

    #[test]
    fn model_entries_are_names_or_patterns_and_never_twice() {
        all(
            |text| models(text.split('|').map(str::to_owned).collect()),
            &["gpt-4o", "gpt-*|gpt-4o|*", "vendor/model:tag@1.0"],
            &["", "a b", "*-mini", "a**", "a*b", "a|a", "a\t"],
        );
        assert!(models(Vec::new()).is_err());
    }

    #[test]
    fn log_levels_are_known_words() {
        all(
            |text| log_level(text.to_owned()),
            &["info", "WARN", "info,forebay=debug", "off"],
            &["", "infoo", "loud", "info,forebay=x"],
        );
    }

    #[test]
    fn headers_that_forebay_sets_cannot_be_configured() {
        assert!(
            header_name("x-team").is_ok() && header_name("OpenAI-Project").is_ok() && header_name("api-key").is_ok()
        );
        for name in ["", "a b", "a:b", "Authorization", "host", "Content-Length", "transfer-encoding", "Cookie", "é"] {
            assert!(header_name(name).is_err(), "{name}");
        }
        assert!(check_header_value("two words").is_ok() && check_header_value("a\r\nb: c").is_err());
    }

    #[test]
    fn numbers_have_their_ranges() {
        assert_eq!(count::<u32>(1), Ok(1));
        assert!(count::<u32>(0).is_err_and(|e| e.contains("leave the key out")));
        assert!(count::<u32>(-1).is_err() && count::<u32>(i64::MAX).is_err());
        assert!(multiplier(1.0).is_ok() && multiplier(0.99).is_err());
        assert!(share(0.0).is_ok() && share(1.0).is_ok() && share(1.1).is_err() && share(-0.1).is_err());
        assert!(threads(0).is_ok() && threads(-1).is_err() && threads(5000).is_err());
        for read in [multiplier, share, price, weight] {
            assert!(read(f64::NAN).is_err() && read(f64::INFINITY).is_err());
        }
    }

    #[test]
    fn names_are_lower_case_and_a_better_one_is_suggested() {
        assert!(is_name("my-vllm-2") && !is_name("") && !is_name("My_vLLM") && !is_name("é"));
        assert!(["My_vLLM", "", "a.b", "é"].iter().all(|name| is_name(&as_name(name))));
    }

    #[test]
    fn a_webhook_secret_is_not_repeated_when_it_is_wrong() {
        for wrong in [
            "hunter2",
            "whsec_",
            "whsec_hunter2",
            "whsec_hunter2=",
            "whsec_aHVudGVyMg==",                             // 7 bytes
            "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHU=",         // 23
            "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVy*",    // not of the alphabet
            "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg",   // its padding is missing
            "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMh==", // bits that stand for nothing
            "WHSEC_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==",
            &format!("whsec_{}=", "aHVu".repeat(22)),
            &format!("whsec_{}", "aHVu".repeat(22)), // 66
        ] {
            let error = webhook_key(wrong).expect_err(wrong);
            assert!(!error.contains("hunter2") && !error.contains("aHVu"), "{error}");
            assert!(error.contains("openssl rand"), "{error}");
        }
    }

    #[test]
    fn a_webhook_secret_is_24_to_64_bytes_in_base64() {
        for (text, bytes) in [
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 24),
            ("aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==", 28),
            (&*format!("{}Zw==", "aHVu".repeat(21)), 64),
        ] {
            assert_eq!(webhook_key(&format!("whsec_{text}")).unwrap().len(), bytes, "{text}");
        }
    }
}

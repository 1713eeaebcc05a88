//! Takes the configured secrets out of what an upstream says.
//!
//! Providers repeat the key in their errors, and what they say goes to callers who must not know it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;

use crate::messages::{Headers, Secret};

/// A secret shorter than this is no secret but a word such as `none` or `test`, given to a server that asks for any
/// key: taking it out would garble innocent text and show where it stood.
const MIN_BYTES: usize = 8;

/// What stands in a secret's place.
const MASK: &[u8] = b"***";

/// Knows every configured secret. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Redactor {
    /// The longest first: where one begins with another, the whole of it goes.
    secrets: Arc<[Secret]>,
    /// By byte, whether a secret may begin with it.
    starts: Arc<[bool; 256]>,
}

impl Redactor {
    /// Knows those of `secrets` that have at least 8 bytes.
    pub(crate) fn new(secrets: impl Iterator<Item = Secret>) -> Self {
        let mut secrets: Vec<Secret> = secrets.filter(|secret| secret.expose().len() >= MIN_BYTES).collect();
        secrets.sort_by(|a, b| b.expose().len().cmp(&a.expose().len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        let mut starts = [false; 256];
        for secret in &secrets {
            starts[usize::from(secret.expose().as_bytes()[0])] = true;
        }
        // Any character may be written as an escape.
        starts[usize::from(b'\\')] = !secrets.is_empty();
        Self { secrets: secrets.into(), starts: Arc::new(starts) }
    }

    /// `body` with `***` for every secret, as it is or with any of its characters escaped as JSON allows; the same
    /// shared bytes when there is none.
    pub(crate) fn redact(&self, body: &Bytes) -> Bytes {
        let mut out: Option<BytesMut> = None;
        let (mut kept, mut at) = (0, 0);
        while let Some(ahead) = body[at..].iter().position(|byte| self.starts[usize::from(*byte)]) {
            at += ahead;
            match self.length_at(&body[at..]) {
                Some(length) => {
                    let out = out.get_or_insert_with(|| BytesMut::with_capacity(body.len()));
                    out.extend_from_slice(&body[kept..at]);
                    out.extend_from_slice(MASK);
                    at += length;
                    kept = at;
                }
                None => at += 1,
            }
        }
        match out {
            Some(mut out) => {
                out.extend_from_slice(&body[kept..]);
                out.freeze()
            }
            None => body.clone(),
        }
    }

    /// `headers` with `***` for every secret in their values.
    pub(crate) fn redact_headers(&self, headers: &Headers) -> Headers {
        let redact = |value: &HeaderValue| {
            let bytes = Bytes::copy_from_slice(value.as_bytes());
            let redacted = self.redact(&bytes);
            // The mask can stand in any header, so the other arm is never taken; it errs to the safe side.
            let changed = || HeaderValue::from_bytes(&redacted).unwrap_or(HeaderValue::from_static("***"));
            if redacted == bytes { value.clone() } else { changed() }
        };
        headers.iter().map(|(name, value)| (name.clone(), redact(value))).collect()
    }

    /// How many bytes at the start of `text` are a secret.
    fn length_at(&self, text: &[u8]) -> Option<usize> {
        self.secrets.iter().find_map(|secret| prefix(text, secret.expose()))
    }
}

/// How many bytes of `text` spell `secret`, each of its characters plain or escaped.
fn prefix(text: &[u8], secret: &str) -> Option<usize> {
    let mut rest = text;
    for char in secret.chars() {
        rest = behind_char(rest, char)?;
    }
    Some(text.len() - rest.len())
}

/// What is behind `char` in `text`, if it stands there.
fn behind_char(text: &[u8], char: char) -> Option<&[u8]> {
    let mut utf8 = [0; 4];
    let plain = char.encode_utf8(&mut utf8).as_bytes();
    // A backslash of the secret's own is looked for in its escaped form first, or half of that would stay.
    if let Some([b'\\', escape, rest @ ..]) = Some(text) {
        let stands_for = match escape {
            b'"' | b'\\' | b'/' => Some(char::from(*escape)),
            b'b' => Some('\u{8}'),
            b'f' => Some('\u{c}'),
            b'n' => Some('\n'),
            b'r' => Some('\r'),
            b't' => Some('\t'),
            _ => None,
        };
        if stands_for == Some(char) {
            return Some(rest);
        }
        let mut units = [0; 2];
        let mut behind = Some(text);
        for unit in char.encode_utf16(&mut units) {
            behind = behind.and_then(|text| behind_unit(text, *unit));
        }
        if behind.is_some() {
            return behind;
        }
    }
    text.strip_prefix(plain)
}

/// What is behind the escape `\uXXXX` of `unit` in `text`, if it stands there.
fn behind_unit(text: &[u8], unit: u16) -> Option<&[u8]> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\u")?.get(..4)?).ok()?;
    // The parser would take a sign.
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && u16::from_str_radix(digits, 16) == Ok(unit) { text.get(6..) } else { None }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::new(secrets.iter().map(|secret| Secret::new(*secret)))
    }

    fn redact(secrets: &[&str], text: &str) -> String {
        String::from_utf8(redactor(secrets).redact(&Bytes::copy_from_slice(text.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn secrets_read_as_stars_wherever_they_stand() {
        let secrets = ["sk-12345678", "whsec_abcdef"];
        assert_eq!(redact(&secrets, "sk-12345678"), "***");
        assert_eq!(redact(&secrets, "a sk-12345678sk-12345678 whsec_abcdef."), "a ****** ***.");
        assert_eq!(redact(&secrets, "ssk-12345678"), "s***");
        assert_eq!(redact(&secrets, "sk-1234567"), "sk-1234567");
    }

    #[test]
    fn escaped_forms_are_the_secret_too() {
        let secret = "s/\"\\é\u{1f600}\n0x";
        let json = serde_json::to_string(secret).unwrap();
        assert_eq!(redact(&[secret], &json), "\"***\"");
        assert_eq!(redact(&[secret], &json.replace('/', "\\/")), "\"***\"");
        let all_escaped: String = secret.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        assert_eq!(redact(&[secret], &format!("<{all_escaped}>")), "<***>");
        assert_eq!(redact(&[secret], secret), "***");
        assert_eq!(redact(&["0123456789"], "\\u00300123456789"), "\\u0030***");
        assert_eq!(redact(&["0123456789"], "\\u+0300123456789"), "\\u+030***");
    }

    #[test]
    fn the_longer_of_two_secrets_goes_whole() {
        assert_eq!(redact(&["sk-12345678", "sk-12345678-prod"], "sk-12345678-prod sk-12345678-p"), "*** ***-p");
    }

    #[test]
    fn a_body_without_secrets_is_shared() {
        let body = Bytes::from_static(b"{\"error\":\"\\u0073k no key here\"}");
        assert_eq!(redactor(&["sk-12345678"]).redact(&body).as_ptr(), body.as_ptr());
        assert_eq!(redactor(&[]).redact(&body).as_ptr(), body.as_ptr());
    }

    #[test]
    fn words_too_short_to_be_secret_stay() {
        assert_eq!(redact(&["test", "", "1234567"], "a test 1234567"), "a test 1234567");
    }

    #[test]
    fn header_values_are_redacted_and_otherwise_kept() {
        let headers: Headers = [("x-a", "key sk-12345678"), ("x-b", "plain")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let redacted = redactor(&["sk-12345678"]).redact_headers(&headers);
        assert_eq!((redacted.get("x-a"), redacted.get("x-b")), (Some("key ***"), Some("plain")));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", redactor(&["sk-12345678"])).contains("sk-1"));
    }

    proptest! {
        #[test]
        fn no_secret_survives_in_any_bytes(secret in "[ -~é]{8,12}", before: Vec<u8>, behind: Vec<u8>, escaped: Vec<bool>) {
            let mut written = String::new();
            for (at, char) in secret.chars().enumerate() {
                if escaped.get(at) == Some(&true) || char == '\\' || char == '"' {
                    written += &format!("\\u{:04x}", u32::from(char));
                } else {
                    written.push(char);
                }
            }
            let redactor = redactor(&[&secret]);
            let body = Bytes::from([&before[..], written.as_bytes(), &behind].concat());
            let redacted = redactor.redact(&body);
            prop_assert!(redacted.len() < body.len());
            let holds = |bytes: &[u8]| bytes.windows(written.len()).any(|window| window == written.as_bytes());
            prop_assert!(!holds(&redacted) || written.contains('*'));
        }

        #[test]
        fn any_bytes_are_redacted_without_a_panic(body: Vec<u8>, text in r#"(\\|u|0|1|")*"#) {
            let redactor = redactor(&["00000000", "\\\\\\\\\\\\\\\\"]);
            redactor.redact(&Bytes::from(body));
            redactor.redact(&Bytes::from(text));
        }
    }
}

//! How many tokens a request may cost, guessed before it is sent and corrected by the usage that comes back.
//!
//! The guess errs high: too low and the account runs into the provider's limit with everyone behind it, too high and
//! some of a minute's budget stands idle until the answer gives it back. Real tokenisers cost tens of megabytes and
//! milliseconds for an answer that is off as well, because providers count chat templates, tools and images their own way.

use crate::messages::{Endpoint, Request, Tokens};

/// Bytes of a body to a token. English is near 4.5, code and JSON 3 to 4, Chinese 3 bytes a character and less than a
/// token each: 3 is at or below all of them, and the JSON around the text is counted along.
const BYTES_PER_TOKEN: u64 = 3;

/// What an image or another file inlined in base64 counts. Providers charge by size in pixels, not bytes: 85 to about
/// 1,500 tokens at OpenAI, up to 1,600 at Anthropic.
const TOKENS_PER_FILE: u64 = 1_500;

/// A string must be longer than this to be a file: it would count less as text.
const MIN_FILE_BYTES: usize = 2_000;

/// What an answer without a limit is taken for. Most are shorter; providers that reserve assume similar.
const DEFAULT_ANSWER_TOKENS: u64 = 1_024;

/// The tokens to set aside for `request`: its prompt and all answers it asks for.
pub(crate) fn estimate(request: &Request) -> Tokens {
    let body = request.body();
    let answer = match request.endpoint() {
        // Tokens are counted for nothing: only its number of requests is limited.
        Endpoint::CountTokens => return Tokens::default(),
        Endpoint::Embeddings | Endpoint::Moderations => 0,
        Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses | Endpoint::Messages => {
            body.token_limit().unwrap_or(DEFAULT_ANSWER_TOKENS)
        }
    };
    Tokens { input: prompt(body.bytes()), output: answer.saturating_mul(body.choices()) }
}

/// The tokens of a body, which is valid JSON.
fn prompt(body: &[u8]) -> u64 {
    let (mut text_bytes, mut files) = (body.len(), 0);
    if body.len() > MIN_FILE_BYTES {
        for string in strings(body).filter(|string| is_file(string)) {
            text_bytes -= string.len();
            files += 1;
        }
    }
    let text = u64::try_from(text_bytes).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN);
    text.saturating_add(TOKENS_PER_FILE.saturating_mul(files))
}

/// The insides of a JSON text's strings, escapes as they stand.
fn strings(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| *byte == b'"')? + 1;
        let mut end = start;
        loop {
            match rest[end..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
                Some(ahead) if rest[end + ahead] == b'"' => {
                    end += ahead;
                    break;
                }
                // An escape: what is behind the backslash ends nothing.
                Some(ahead) if end + ahead + 2 <= rest.len() => end += ahead + 2,
                _ => {
                    end = rest.len();
                    break;
                }
            }
        }
        let string = &rest[start..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(string)
    })
}

/// Whether a string is a file in base64 or a data URL: long, and of nothing but that alphabet. Text without spaces,
/// such as Chinese, is not of it.
fn is_file(string: &[u8]) -> bool {
    if string.len() <= MIN_FILE_BYTES {
        return false;
    }
    let data = if string.starts_with(b"data:") {
        // The type in front of the comma has characters of its own.
        string.iter().take(200).position(|byte| *byte == b',').map_or(string, |comma| &string[comma + 1..])
    } else {
        string
    };
    let is_of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    // `\/` is how some encoders write a slash; any other escape (a line end, mostly) is text's.
    let mut bytes = data.iter();
    while let Some(byte) = bytes.next() {
        let fits = if *byte == b'\\' { bytes.next() == Some(&b'/') } else { is_of_alphabet(*byte) };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(endpoint: Endpoint, text: String) -> u64 {
        estimate(&Request::new(endpoint, text).unwrap()).total()
    }

    fn chat(content: &str, more: &str) -> u64 {
        of(
            Endpoint::ChatCompletions,
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{content}"}}]{more}}}"#),
        )
    }

    #[test]
    fn the_answer_counts_by_its_limit_and_the_choices() {
        let bare = chat("", "") - 1_024;
        let near = |estimate: u64, expected: u64| {
            assert!((expected..expected + 20).contains(&estimate), "{estimate} for {expected}")
        };
        near(chat("", r#","max_tokens":10"#), bare + 10);
        near(chat("", r#","max_tokens":10,"n":3"#), bare + 30);
        near(chat("", r#","n":2"#), bare + 2_048);
        assert_eq!(chat("", r#","max_tokens":18446744073709551615,"n":9"#), u64::MAX);
    }

    #[test]
    fn embeddings_and_moderations_answer_in_no_tokens() {
        for endpoint in [Endpoint::Embeddings, Endpoint::Moderations] {
            assert_eq!(of(endpoint, r#"{"model":"m","input":"abcdef","max_tokens":9000}"#.to_owned()), 16);
        }
    }

    #[test]
    fn anthropics_messages_count_by_their_limit_and_counting_their_tokens_is_free() {
        let text = || r#"{"model":"m","messages":[],"max_tokens":9000}"#.to_owned();
        assert_eq!(of(Endpoint::Messages, text()), 9_015);
        assert_eq!(of(Endpoint::CountTokens, text()), 0);
    }

    #[test]
    fn text_counts_by_its_bytes_whether_it_has_spaces_or_not() {
        let text = "word ".repeat(10_000);
        assert!(chat(&text, "") > 50_000 / 3);
        assert!(chat(&"\u{6c34}".repeat(10_000), "") > 10_000);
        assert!(chat(&"a\\n".repeat(10_000), "") > 10_000);
    }

    #[test]
    fn a_file_in_base64_counts_flat() {
        let data = "iVBORw0KGgo/+A==".repeat(10_000);
        let small = chat("", "");
        for file in [data.clone(), format!("data:image/png;base64,{data}"), data.replace('/', "\\/")] {
            let estimate = chat(&file, "");
            assert!((small + 1_500..small + 1_600).contains(&estimate), "{estimate}");
        }
        let two = format!(r#"{{"model":"m","messages":["{data}","x\"y","{data}"]}}"#);
        assert!((3_000..3_000 + 1_100).contains(&of(Endpoint::ChatCompletions, two)));
        assert!(chat(&data[..1_999], "") - small > 600, "what is short counts as text");
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_without_a_panic(bytes: Vec<u8>, text in r#"("|\\|a){2001,2100}"#) {
            prompt(&bytes);
            prompt(text.as_bytes());
        }

        #[test]
        fn strings_are_those_of_the_json(strings in prop::collection::vec(".{0,20}", 0..8)) {
            let text = serde_json::to_string(&strings).unwrap();
            let found: Vec<String> = super::strings(text.as_bytes())
                .map(|string| serde_json::from_slice(&[b"\"", string, b"\""].concat()).unwrap())
                .collect();
            prop_assert_eq!(found, strings);
        }
    }
}

//! Why a candidate ended, in OpenAI's words.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::messages::json;

/// A `finishReason`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finish<'a>(pub(super) Cow<'a, str>);

impl<'a> Finish<'a> {
    /// The reason that `raw` is; `None` when it says that there is none yet.
    pub(super) fn read(raw: &'a RawValue) -> Option<Self> {
        let word = json::string(raw).unwrap_or(Cow::Borrowed("OTHER"));
        (!matches!(&*word, "" | "FINISH_REASON_UNSPECIFIED")).then_some(Self(word))
    }

    /// OpenAI's `finish_reason`, for a candidate that has called functions or not.
    ///
    /// What is neither a natural end nor a limit of length was stopped by the provider, whatever it calls that: clients
    /// must not take it for whole.
    pub(super) fn reason(&self, has_calls: bool) -> &'static str {
        match &*self.0 {
            "STOP" if has_calls => "tool_calls",
            "STOP" => "stop",
            "MAX_TOKENS" => "length",
            _ => "content_filter",
        }
    }

    /// Whether OpenAI's word says less than Gemini's.
    pub(super) fn says_more(&self) -> bool {
        !matches!(&*self.0, "STOP" | "MAX_TOKENS")
    }

    /// What a caller is told who got nothing else.
    pub(super) fn refusal(&self) -> Option<String> {
        self.says_more().then(|| format!("The answer was withheld: {}.", self.0))
    }
}

/// What a caller is told whose prompt was turned down.
pub(super) fn blocked(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("The prompt was blocked: {reason}. {message}"),
        None => format!("The prompt was blocked: {reason}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_of_openais_words() {
        for (word, reason) in [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("SAFETY", "content_filter"),
            ("RECITATION", "content_filter"),
            ("LANGUAGE", "content_filter"),
            ("BLOCKLIST", "content_filter"),
            ("PROHIBITED_CONTENT", "content_filter"),
            ("SPII", "content_filter"),
            ("MALFORMED_FUNCTION_CALL", "content_filter"),
            ("OTHER", "content_filter"),
            ("A_WORD_OF_NEXT_YEAR", "content_filter"),
        ] {
            assert_eq!(Finish(word.into()).reason(false), reason, "{word}");
        }
        assert_eq!(Finish("STOP".into()).reason(true), "tool_calls");
        assert_eq!(Finish("MAX_TOKENS".into()).reason(true), "length");
    }

    #[test]
    fn no_reason_is_no_end() {
        let read = |text: &'static str| Finish::read(serde_json::from_str(text).unwrap());
        assert_eq!(read("\"\""), None);
        assert_eq!(read("\"FINISH_REASON_UNSPECIFIED\""), None);
        assert_eq!(read("7"), Some(Finish("OTHER".into())));
    }
}

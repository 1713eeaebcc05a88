//! Why an answer ended.

use std::borrow::Cow;

/// What a refusal says where the provider gives no words.
pub(super) const REFUSED: &str = "The provider's safeguards ended this answer.";

/// OpenAI's word for Anthropic's `stop_reason`; the second is the reason itself, where OpenAI has no word that says as much.
///
/// A turn that pauses, or a context that is full, leaves an answer that could go on: `length` is what tells clients so. Of a
/// reason that nobody here knows only this much is known: that the model has stopped.
pub(super) fn reason(stop_reason: &str) -> (&'static str, Option<Cow<'_, str>>) {
    match stop_reason {
        "end_turn" | "stop_sequence" => ("stop", None),
        "max_tokens" => ("length", None),
        "tool_use" => ("tool_calls", None),
        "refusal" => ("content_filter", None),
        "pause_turn" | "model_context_window_exceeded" => ("length", Some(stop_reason.into())),
        _ => ("stop", Some(stop_reason.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_that_clients_know_and_none_is_lost() {
        for (theirs, ours, is_kept) in [
            ("end_turn", "stop", false),
            ("stop_sequence", "stop", false),
            ("max_tokens", "length", false),
            ("tool_use", "tool_calls", false),
            ("refusal", "content_filter", false),
            ("pause_turn", "length", true),
            ("model_context_window_exceeded", "length", true),
            ("something_of_2031", "stop", true),
            ("", "stop", true),
        ] {
            assert_eq!(reason(theirs), (ours, is_kept.then(|| theirs.into())), "{theirs}");
        }
    }
}

//! The provider's other face: Anthropic's protocol, at `/v1/messages` and `/v1/messages/count_tokens`. Pure.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::answers::{self, Events, Stamp};
use super::ask::Ask;
use super::events::{named, pieces};
use super::limits::{Headers, Limits, Reading, Refusal, RetryAfter, Scarce};
use super::reply::ToolCall;

/// Anthropic's envelope of an error; its type is that of the status.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"details": null, "type": kind, "message": message}})
}

/// An error in OpenAI's envelope, said in Anthropic's; anything else as it is.
pub(super) fn translated(status: u16, openais: &Value) -> Value {
    let Some(message) = openais["error"]["message"].as_str() else { return openais.clone() };
    let mut error = error(status, message);
    if openais["error"]["code"] == "insufficient_quota" {
        error["error"]["details"] = json!({"error_code": "enforced_spend_limit_reached"});
    }
    error
}

/// An error as an event of a stream.
pub(super) fn error_event(message: &str) -> String {
    named("error", &error(529, message))
}

/// The whole answer to `ask`.
pub(super) fn message(ask: &Ask, stamp: Stamp) -> Value {
    let spent = answers::spent(ask);
    let content = match answers::text(ask) {
        Some(text) => json!([{"type": "text", "text": text}]),
        None => answers::calls(ask).iter().enumerate().map(|(n, call)| tool_use(stamp, n, call, true)).collect(),
    };
    opened(ask, stamp, content, json!(stop_reason(ask)), spent.completion)
}

/// The answer to a count.
pub(super) fn count(ask: &Ask) -> Value {
    json!({"input_tokens": ask.prompt_tokens()})
}

/// The same answer as a stream.
pub(super) fn stream(ask: &Ask, stamp: Stamp) -> Events {
    let event = |mut fields: Value, kind: &str| {
        fields["type"] = json!(kind);
        named(kind, &fields)
    };
    let start = json!({"message": opened(ask, stamp, json!([]), Value::Null, 1)});
    let begin = |n: usize, block: Value| event(json!({"index": n, "content_block": block}), "content_block_start");
    let end = |n: usize| event(json!({"index": n}), "content_block_stop");
    let tell = |n: usize, kind: &str, field: &str, piece: String| {
        event(json!({"index": n, "delta": {"type": kind, field: piece}}), "content_block_delta")
    };
    let mut opening = vec![event(start, "message_start")];
    let (mut content, mut ending) = (Vec::new(), Vec::new());
    if let Some(text) = answers::text(ask) {
        opening.push(begin(0, json!({"type": "text", "text": ""})));
        content.extend(pieces(&text, stamp.chunks).into_iter().map(|piece| tell(0, "text_delta", "text", piece)));
        ending.push(end(0));
    }
    opening.push(event(json!({}), "ping"));
    for (n, call) in answers::calls(ask).iter().enumerate() {
        content.push(begin(n, tool_use(stamp, n, call, false)));
        let pieces = pieces(&call.arguments, stamp.chunks).into_iter();
        content.extend(pieces.map(|piece| tell(n, "input_json_delta", "partial_json", piece)));
        content.push(end(n));
    }
    let usage = json!({"output_tokens": answers::spent(ask).completion});
    let stopped = json!({"delta": {"stop_reason": stop_reason(ask), "stop_sequence": null}, "usage": usage});
    ending.push(event(stopped, "message_delta"));
    ending.push(event(json!({}), "message_stop"));
    Events { opening, content, ending }
}

fn stop_reason(ask: &Ask) -> &'static str {
    if answers::calls(ask).is_empty() { "end_turn" } else { "tool_use" }
}

/// A block that calls a tool; of a stream it begins without its input.
fn tool_use(stamp: Stamp, n: usize, call: &ToolCall, whole: bool) -> Value {
    // The arguments were made from a value.
    let input: Value = if whole { serde_json::from_str(&call.arguments).unwrap_or_default() } else { json!({}) };
    json!({"type": "tool_use", "id": answers::tool_use_id(stamp, n), "name": call.name, "input": input})
}

fn opened(ask: &Ask, stamp: Stamp, content: Value, stop_reason: Value, output: u64) -> Value {
    json!({
        "id": answers::item_id(stamp), "type": "message", "role": "assistant", "model": ask.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {
            "input_tokens": ask.prompt_tokens(), "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output, "service_tier": "standard",
        },
    })
}

/// The header lines for these readings at the moment `at`: `anthropic-ratelimit-*`, whose resets are moments to the second.
pub(super) fn headers(readings: &[Reading], at: SystemTime) -> Headers {
    let lines = |reading: &Reading| {
        let [limit, remaining, reset] = match reading.scarce {
            Scarce::Tokens => [
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ],
            _ => [
                "anthropic-ratelimit-requests-limit",
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ],
        };
        [
            (limit, reading.limit.to_string()),
            (remaining, reading.remaining.to_string()),
            (reset, rfc3339(at + reading.reset)),
        ]
    };
    readings.iter().flat_map(lines).collect()
}

/// The same limits as this face tells them: it knows no milliseconds in a 429.
pub(super) fn told(limits: &Limits) -> Limits {
    let retry_after = match limits.retry_after {
        RetryAfter::Exact => RetryAfter::Seconds,
        other => other,
    };
    Limits { retry_after, ..*limits }
}

const SECOND: Duration = Duration::from_secs(1);

/// The body of a limit's 429.
pub(super) fn refusal(refusal: &Refusal) -> Value {
    let limit = refusal.reading.map_or(0, |reading| reading.limit);
    let per = match refusal.reading.map(|reading| reading.period) {
        Some(SECOND) => "second",
        _ => "minute",
    };
    let message = match refusal.scarce {
        Scarce::Acceleration => {
            "This request would exceed your organization's maximum usage increase rate for requests \
                                 per minute. Please increase your usage gradually."
                .to_owned()
        }
        Scarce::Concurrency => {
            "Number of concurrent connections has exceeded your rate limit. Please try again later.".to_owned()
        }
        // "60 a minute may be enforced as one a second": nobody says so.
        Scarce::HiddenRequests => "This request would exceed your organization's rate limit.".to_owned(),
        Scarce::Tokens => {
            format!("This request would exceed your organization's rate limit of {limit} tokens per {per}.")
        }
        Scarce::Requests => {
            format!("This request would exceed your organization's rate limit of {limit} requests per {per}.")
        }
    };
    error(429, &message)
}

/// A moment to the second, rounded up: who comes then has not come too early.
fn rfc3339(moment: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // `Tue, 30 Jan 2024 18:30:00 GMT`, cut to whole seconds.
    let date = httpdate::fmt_http_date(moment + Duration::from_nanos(999_999_999));
    let month = MONTHS.iter().position(|month| *month == &date[8..11]).unwrap_or_default() + 1;
    format!("{}-{month:02}-{}T{}Z", &date[12..16], &date[5..7], &date[17..25])
}

#[cfg(test)]
mod tests {
    use super::super::answers::expected_echo;
    use super::super::ask::Kind;
    use super::super::errors;
    use super::*;

    const STAMP: Stamp = Stamp { number: 7, created: 1_700_000_000, chunks: 4 };

    fn ask(stream: bool) -> Ask {
        let body = json!({"model": "m", "max_tokens": 9, "stream": stream, "system": "be brief", "messages": [{"role": "user", "content": "hi"}]});
        Ask::read(Kind::Message, body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_message_proves_its_prompt_and_says_its_usage() {
        let message = message(&ask(false), STAMP);
        assert_eq!(message["content"][0]["text"], expected_echo("hi"));
        assert_eq!((&message["stop_reason"], &message["usage"]["input_tokens"]), (&json!("end_turn"), &json!(3)));
        assert_eq!(count(&ask(false)), json!({"input_tokens": 3}));
    }

    #[test]
    fn a_stream_opens_without_content_spells_the_echo_and_stops() {
        let events = stream(&ask(true), STAMP);
        let kinds = |events: &[String]| -> Vec<String> {
            events.iter().map(|event| event.lines().next().unwrap()["event: ".len()..].to_owned()).collect()
        };
        assert_eq!(kinds(&events.opening), ["message_start", "content_block_start", "ping"]);
        assert_eq!(kinds(&events.ending), ["content_block_stop", "message_delta", "message_stop"]);
        let values = events.content.iter().map(|event| event.trim_end().rsplit_once("data: ").unwrap().1);
        let deltas: Vec<Value> = values.map(|data| serde_json::from_str(data).unwrap()).collect();
        let spelt: String = deltas.iter().map(|delta| delta["delta"]["text"].as_str().unwrap()).collect();
        assert_eq!((spelt, deltas.len()), (expected_echo("hi"), 4));
    }

    #[test]
    fn what_anthropic_refuses_is_refused() {
        for body in
            [r#"{"model":"m","messages":[]}"#, r#"{"max_tokens":1,"messages":[]}"#, r#"{"model":"m","max_tokens":1}"#]
        {
            assert!(Ask::read(Kind::Message, body.as_bytes()).is_err(), "{body}");
        }
        assert!(Ask::read(Kind::CountTokens, br#"{"model":"m","messages":[]}"#).is_ok());
    }

    #[test]
    fn errors_have_anthropics_envelope_and_the_type_of_their_status() {
        let quota = translated(429, &errors::out_of_quota());
        assert_eq!((&quota["type"], &quota["error"]["type"]), (&json!("error"), &json!("rate_limit_error")));
        assert_eq!(quota["error"]["details"]["error_code"], "enforced_spend_limit_reached");
        let overloaded = translated(529, &errors::error("busy", "overloaded_error", None));
        assert_eq!(overloaded["error"], json!({"details": null, "type": "overloaded_error", "message": "busy"}));
        assert_eq!(translated(307, &json!({})), json!({}), "no error");
    }

    #[test]
    fn moments_are_written_to_the_second_and_rounded_up() {
        let at = |millis| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_706_639_399_001), "2024-01-30T18:30:00Z");
        assert_eq!(at(1_709_164_800_000), "2024-02-29T00:00:00Z");
    }
}

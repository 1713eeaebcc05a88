//! The provider's second face, Google's: `POST /v1beta/models/{model}:generateContent`, and `:streamGenerateContent` for
//! events. Its answers, its errors, and no header about any limit. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{Events, Good, Stamp, expected_echo, replies, spent};
use super::ask::{Ask, Kind};
use super::events::{data, pieces};
use super::limits::{Headers, Limits, Refusal, Scarce};
use super::reply::{Reply, ToolCall, fitting};

/// The model and whether events are asked for, of the call at `path`.
pub(super) fn at(path: &str) -> Option<(&str, bool)> {
    let (model, method) = path.strip_prefix("/v1beta/models/")?.rsplit_once(':')?;
    match method {
        _ if model.is_empty() => None,
        "generateContent" => Some((model, false)),
        "streamGenerateContent" => Some((model, true)),
        _ => None,
    }
}

/// Reads the call at `path`; an error is the text of a 400.
pub(super) fn read(path: &str, body: &[u8]) -> Result<Ask, String> {
    let (model, stream) = at(path).ok_or("no such method")?;
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let contents = body["contents"].as_array().filter(|contents| !contents.is_empty());
    let contents = contents.ok_or("contents is not specified")?;
    if contents.iter().any(|content| content["parts"].as_array().is_none_or(Vec::is_empty)) {
        return Err("contents.parts must not be empty".to_owned());
    }
    let all = contents.iter().chain([&body["systemInstruction"]]);
    let last = contents.iter().rev().find(|content| content["role"] != "model").unwrap_or(&contents[0]);
    let config = &body["generationConfig"];
    let copies = config["candidateCount"].as_u64().unwrap_or(1);
    if !(1..=8).contains(&copies) {
        return Err("candidateCount must be 1 to 8".to_owned());
    }
    let prompt = text(last);
    let reply = reply(&body, last, &expected_echo(&prompt))?;
    Ok(Ask {
        kind: Kind::Generate,
        model: model.to_owned(),
        replies: vec![reply],
        prompts: vec![prompt],
        text_bytes: all.map(|content| text(content).len()).sum(),
        copies: usize::try_from(copies).unwrap_or(1),
        most_tokens: config["maxOutputTokens"].as_u64().map(|most| most.saturating_mul(copies)),
        stream,
        include_usage: true,
        base64: false,
        dimensions: 1,
    })
}

/// What is said to the `last` content: the calls of a tool that is offered, unless its result has just come, JSON where a
/// schema asks for it, or else the echo. The error is the text of a 400.
fn reply(body: &Value, last: &Value, echo: &str) -> Result<Reply, String> {
    let offered = body["tools"].as_array().into_iter().flatten();
    let offered = offered.filter_map(|tool| tool["functionDeclarations"].as_array()).flatten();
    let calling = &body["toolConfig"]["functionCallingConfig"];
    let allowed = calling["allowedFunctionNames"].as_array();
    let is_told =
        last["parts"].as_array().is_some_and(|parts| parts.iter().any(|part| part["functionResponse"].is_object()));
    let mut functions = offered.filter(|function| allowed.is_none_or(|names| names.contains(&function["name"])));
    if calling["mode"] != "NONE"
        && !is_told
        && let Some(function) = functions.next()
    {
        let name = function["name"].as_str().ok_or("a function without a name")?;
        let schema = [&function["parametersJsonSchema"], &function["parameters"]].into_iter().find(|it| !it.is_null());
        return Ok(Reply::Calls(vec![ToolCall::fitting(name, schema, echo)?]));
    }
    let config = &body["generationConfig"];
    let schema = [&config["responseJsonSchema"], &config["responseSchema"]].into_iter().find(|it| !it.is_null());
    Ok(Reply::Text(match schema {
        Some(schema) => fitting(schema, echo)?,
        None if config["responseMimeType"] == "application/json" => json!({"echo": echo}).to_string(),
        None => echo.to_owned(),
    }))
}

/// The texts of a content, and what functions gave back, put together.
fn text(content: &Value) -> String {
    let part = |part: &Value| match (&part["text"], &part["functionResponse"]["response"]) {
        (Value::String(text), _) => text.clone(),
        (_, Value::Null) => String::new(),
        // What a function gave back as a text stands in an object all the same.
        (_, response) => response["result"].as_str().map_or_else(|| response.to_string(), str::to_owned),
    };
    content["parts"].as_array().into_iter().flatten().map(part).collect()
}

/// The good answer to `ask`.
pub(super) fn good(ask: &Ask, stamp: Stamp) -> Good {
    if ask.stream {
        return Good::Stream(stream(ask, stamp));
    }
    let candidates: Vec<Value> =
        replies(ask).map(|(index, reply)| candidate(index, &parts(reply), Some("STOP"))).collect();
    Good::Whole(answer(ask, stamp, &candidates, true).to_string().into_bytes())
}

/// No opening and no terminal marker: the last event of each candidate has its finish reason, and the last of all the usage.
fn stream(ask: &Ask, stamp: Stamp) -> Events {
    let mut events = Events::default();
    let mut last = Vec::new();
    for (index, reply) in replies(ask) {
        // A call comes whole: Google streams no pieces of arguments.
        let all = match reply {
            Reply::Text(text) => {
                pieces(text, stamp.chunks).into_iter().map(|piece| vec![json!({"text": piece})]).collect()
            }
            Reply::Calls(_) => vec![parts(reply)],
        };
        for parts in all {
            events.content.push(data(&answer(ask, stamp, &[candidate(index, &parts, None)], false)));
        }
        last.push(candidate(index, &[json!({"text": ""})], Some("STOP")));
    }
    events.ending.push(data(&answer(ask, stamp, &last, true)));
    events
}

fn parts(reply: &Reply) -> Vec<Value> {
    let call = |call: &ToolCall| {
        // The arguments were made from a value.
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        json!({"functionCall": {"name": call.name, "args": arguments}})
    };
    match reply {
        Reply::Text(text) => vec![json!({"text": text})],
        Reply::Calls(calls) => calls.iter().map(call).collect(),
    }
}

fn candidate(index: usize, parts: &[Value], finish: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}});
    // As protobuf's JSON does it: zeros are not written.
    if index > 0 {
        candidate["index"] = json!(index);
    }
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(finish);
    }
    candidate
}

fn answer(ask: &Ask, stamp: Stamp, candidates: &[Value], has_usage: bool) -> Value {
    let mut answer = json!({
        "candidates": candidates, "modelVersion": ask.model, "responseId": format!("sim-{:08x}", stamp.number),
    });
    if has_usage {
        let spent = spent(ask);
        answer["usageMetadata"] = json!({
            "promptTokenCount": spent.prompt, "candidatesTokenCount": spent.completion, "totalTokenCount": spent.total(),
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": spent.prompt}],
        });
    }
    answer
}

/// An error in Google's form.
pub(super) fn error(status: u16, message: &str, details: Vec<Value>) -> Value {
    let word = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    };
    let mut error = json!({"error": {"code": status, "message": message, "status": word}});
    if !details.is_empty() {
        error["error"]["details"] = json!(details);
    }
    error
}

/// What a call beyond a limit is told.
pub(super) fn refused(refusal: &Refusal, limits: &Limits) -> Value {
    let what = match refusal.scarce {
        Scarce::Requests => Some("GenerateRequests"),
        Scarce::Tokens => Some("GenerateContentTokens"),
        _ => None,
    };
    let period = refusal.reading.and_then(|reading| {
        [(1, "Second"), (60, "Minute"), (86_400, "Day")].into_iter().find(|(secs, _)| *secs == reading.period.as_secs())
    });
    let mut details = Vec::new();
    if let (Some(what), Some((_, period)), Some(reading)) = (what, period, refusal.reading) {
        details.push(quota(&format!("{what}Per{period}PerProjectPerModel"), Some(reading.limit)));
    }
    details.extend(refusal.told(limits).map(retry_info));
    error(429, "You exceeded your current quota, please check your plan and billing details.", details)
}

/// An error that was made in OpenAI's words, and the headers that came along, in Google's.
pub(super) fn translated(status: u16, headers: &mut Headers, body: &Value) -> Value {
    let told = headers.iter().find_map(|(name, value)| {
        let value: f64 = value.parse().ok()?;
        let seconds = match *name {
            "retry-after" => value,
            "retry-after-ms" => value / 1_000.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    });
    headers.retain(|(name, _)| !name.starts_with("retry-after"));
    let Some(message) = body["error"]["message"].as_str().filter(|_| body["error"]["status"].is_null()) else {
        return body.clone();
    };
    let is_of_day = body["error"]["code"] == "insufficient_quota";
    let quota = is_of_day.then(|| quota("GenerateRequestsPerDayPerProjectPerModel", None));
    error(status, message, quota.into_iter().chain(told.map(retry_info)).collect())
}

fn quota(id: &str, limit: Option<u64>) -> Value {
    let mut violation =
        json!({"quotaMetric": "generativelanguage.googleapis.com/generate_content_requests", "quotaId": id});
    if let Some(limit) = limit {
        // An int64, which protobuf's JSON writes as a string.
        violation["quotaValue"] = json!(limit.to_string());
    }
    json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
}

fn retry_info(wait: Duration) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}s", wait.as_secs_f64())})
}

#[cfg(test)]
mod tests {
    use super::super::answers::expected_echo;
    use super::*;

    const STAMP: Stamp = Stamp { number: 7, created: 1_700_000_000, chunks: 4 };

    fn ask(method: &str, body: Value) -> Result<Ask, String> {
        read(&format!("/v1beta/models/gemini-2.5-flash:{method}"), body.to_string().as_bytes())
    }

    fn hello() -> Value {
        json!({"contents": [{"role": "user", "parts": [{"text": "hel"}, {"text": "lo"}]}], "generationConfig": {"candidateCount": 2}})
    }

    #[test]
    fn its_methods_are_told_by_their_paths() {
        assert_eq!(at("/v1beta/models/m:generateContent"), Some(("m", false)));
        assert_eq!(at("/v1beta/models/m:streamGenerateContent"), Some(("m", true)));
        for path in [
            "/v1beta/models/:generateContent",
            "/v1beta/models/m",
            "/v1/models/m:generateContent",
            "/v1beta/models/m:x",
        ] {
            assert_eq!(at(path), None, "{path}");
        }
    }

    #[test]
    fn a_whole_answer_proves_its_prompt_and_says_its_usage() {
        let Good::Whole(body) = good(&ask("generateContent", hello()).unwrap(), STAMP) else { panic!("a stream") };
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["candidates"][1]["content"]["parts"][0]["text"], expected_echo("hello"));
        assert_eq!((&answer["candidates"][0]["index"], &answer["candidates"][1]["index"]), (&Value::Null, &json!(1)));
        assert_eq!(answer["usageMetadata"]["promptTokenCount"], 2);
        assert_eq!(answer["modelVersion"], "gemini-2.5-flash");
    }

    #[test]
    fn a_stream_spells_the_echo_and_ends_with_finish_reasons_and_usage() {
        let Good::Stream(events) = good(&ask("streamGenerateContent", hello()).unwrap(), STAMP) else {
            panic!("whole")
        };
        let value =
            |event: &String| serde_json::from_str::<Value>(event.trim_end().trim_start_matches("data: ")).unwrap();
        let of_first = events.content.iter().map(value).filter(|event| event["candidates"][0]["index"].is_null());
        let spelt: String = of_first
            .map(|event| event["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(spelt, expected_echo("hello"));
        let last = value(&events.ending[0]);
        assert_eq!((events.opening.len(), events.ending.len()), (0, 1));
        assert_eq!(
            (&last["candidates"][1]["finishReason"], &last["usageMetadata"]["promptTokenCount"]),
            (&json!("STOP"), &json!(2))
        );
    }

    #[test]
    fn errors_are_in_googles_form_and_their_times_in_the_body() {
        let openai =
            json!({"error": {"message": "slowly", "type": "requests", "param": null, "code": "rate_limit_exceeded"}});
        let mut headers = vec![("retry-after-ms", "1500".to_owned()), ("location", "x".to_owned())];
        let error = translated(429, &mut headers, &openai);
        assert_eq!(error["error"]["status"], "RESOURCE_EXHAUSTED");
        assert_eq!(error["error"]["details"][0]["retryDelay"], "1.5s");
        assert_eq!(headers.len(), 1);
        assert_eq!(translated(429, &mut Vec::new(), &error), error, "once is enough");
    }

    #[test]
    fn a_call_without_a_part_is_refused() {
        for body in [json!({}), json!({"contents": []}), json!({"contents": [{"parts": []}]})] {
            assert!(ask("generateContent", body).is_err());
        }
    }
}

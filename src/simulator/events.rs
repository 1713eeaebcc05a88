//! A good answer as a stream of server-sent events: chat, completions, responses and Anthropic's messages. Pure.

use serde_json::{Value, json};

use super::answers::{
    Events, Stamp, call_id, call_item, call_item_id, calls, finish, item_id, message_item, replies, response, text,
    text_part, usage,
};
use super::ask::{Ask, Kind};
use super::reply::Reply;
use super::{anthropic, errors, gemini};

/// The events of the answer to `ask`.
pub(super) fn stream(ask: &Ask, stamp: Stamp) -> Events {
    match ask.kind {
        Kind::Response => typed(ask, stamp),
        Kind::Message => anthropic::stream(ask, stamp),
        _ => chunked(ask, stamp),
    }
}

/// An error as an event of a stream, as OpenAI sends it: unnamed on chats, named on responses; or as Anthropic or Google
/// does.
pub(super) fn error(kind: Kind, message: &str) -> String {
    match kind {
        Kind::Message => return anthropic::error_event(message),
        Kind::Generate => return data(&gemini::error(500, message, Vec::new())),
        _ => {}
    }
    if kind == Kind::Response {
        let event =
            json!({"type": "error", "code": "server_error", "message": message, "param": null, "sequence_number": 0});
        return named("error", &event);
    }
    data(&errors::error(message, "server_error", Some("server_error")))
}

/// An event that is well formed but whose JSON is not.
pub(super) fn broken(event: &str) -> String {
    let mut end = event.len() * 2 / 3;
    while !event.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}\n\n", event[..end].trim_end())
}

pub(super) fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

pub(super) fn named(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

/// `text` in at most `count` pieces of about the same length; never none.
pub(super) fn pieces(text: &str, count: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len().div_ceil(count.max(1)).max(1);
    characters.chunks(length).map(|piece| piece.iter().collect()).collect()
}

/// Chat and completions: `data:` chunks and `[DONE]`.
fn chunked(ask: &Ask, stamp: Stamp) -> Events {
    let chat = ask.kind == Kind::Chat;
    let (id, object) = if chat { ("chatcmpl", "chat.completion.chunk") } else { ("cmpl", "text_completion") };
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": format!("{id}-{:08x}", stamp.number), "object": object, "created": stamp.created, "model": ask.model, "choices": choices,
        });
        // With include_usage every chunk has the field, as OpenAI does it.
        if ask.include_usage {
            chunk["usage"] = usage;
        }
        data(&chunk)
    };
    let choice = |index: usize, content: Value, finish: Value| {
        let field = if chat { "delta" } else { "text" };
        chunk(json!([{"index": index, field: content, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let mut events = Events::default();
    for (index, reply) in replies(ask) {
        if chat {
            events.opening.push(choice(
                index,
                json!({"role": "assistant", "content": "", "refusal": null}),
                Value::Null,
            ));
        }
        match reply {
            Reply::Text(text) => {
                for piece in pieces(text, stamp.chunks) {
                    let content = if chat { json!({"content": piece}) } else { json!(piece) };
                    events.content.push(choice(index, content, Value::Null));
                }
            }
            Reply::Calls(calls) => {
                for (n, call) in calls.iter().enumerate() {
                    let function = json!({"name": call.name, "arguments": ""});
                    let head =
                        json!({"index": n, "id": call_id(stamp, index, n), "type": "function", "function": function});
                    let tail = pieces(&call.arguments, stamp.chunks);
                    let tail = tail.iter().map(|piece| json!({"index": n, "function": {"arguments": piece}}));
                    let told = std::iter::once(head).chain(tail);
                    let told = told.map(|part| choice(index, json!({"tool_calls": [part]}), Value::Null));
                    events.content.extend(told);
                }
            }
        }
        events.ending.push(choice(index, if chat { json!({}) } else { json!("") }, json!(finish(reply))));
    }
    if ask.include_usage {
        events.ending.push(chunk(json!([]), usage(ask)));
    }
    events.ending.push("data: [DONE]\n\n".to_owned());
    events
}

/// Responses: named events with a sequence number, `response.completed` being the last.
fn typed(ask: &Ask, stamp: Stamp) -> Events {
    let mut sequence = 0u64;
    let mut event = |name: &str, mut fields: Value| {
        fields["type"] = json!(name);
        fields["sequence_number"] = json!(sequence);
        sequence += 1;
        named(name, &fields)
    };
    let begun = response(ask, stamp, "in_progress");
    let mut opening = vec![
        event("response.created", json!({"response": begun})),
        event("response.in_progress", json!({"response": begun})),
    ];
    let completed = json!({"response": response(ask, stamp, "completed")});
    let Some(text) = text(ask) else {
        let mut content = Vec::new();
        for (n, call) in calls(ask).iter().enumerate() {
            let item = |status: &str| json!({"output_index": n, "item": call_item(stamp, n, call, status)});
            let placed =
                |name: &str, value: &str| json!({"item_id": call_item_id(stamp, n), "output_index": n, name: value});
            content.push(event("response.output_item.added", item("in_progress")));
            for piece in pieces(&call.arguments, stamp.chunks) {
                content.push(event("response.function_call_arguments.delta", placed("delta", &piece)));
            }
            let mut all = placed("arguments", &call.arguments);
            all["name"] = json!(call.name);
            content.push(event("response.function_call_arguments.done", all));
            content.push(event("response.output_item.done", item("completed")));
        }
        return Events { opening, content, ending: vec![event("response.completed", completed)] };
    };
    let place = json!({"item_id": item_id(stamp), "output_index": 0, "content_index": 0});
    let placed = |name: &str, value: Value| {
        let mut fields = place.clone();
        fields[name] = value;
        fields
    };
    let item = |status: &str| json!({"output_index": 0, "item": message_item(stamp, &text, status)});
    opening.push(event("response.output_item.added", item("in_progress")));
    opening.push(event("response.content_part.added", placed("part", text_part(""))));
    let content = pieces(&text, stamp.chunks)
        .into_iter()
        .map(|piece| event("response.output_text.delta", placed("delta", json!(piece))))
        .collect();
    let ending = vec![
        event("response.output_text.done", placed("text", json!(text))),
        event("response.content_part.done", placed("part", text_part(&text))),
        event("response.output_item.done", item("completed")),
        event("response.completed", completed),
    ];
    Events { opening, content, ending }
}

#[cfg(test)]
mod tests {
    use super::super::answers::expected_echo;
    use super::*;

    const STAMP: Stamp = Stamp { number: 7, created: 1_700_000_000, chunks: 4 };

    fn values(events: &[String]) -> Vec<Value> {
        let datas = events.iter().map(|event| event.trim_end().rsplit_once("data: ").unwrap().1);
        datas.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    fn read(kind: Kind, body: Value) -> Events {
        stream(&Ask::read(kind, body.to_string().as_bytes()).unwrap(), STAMP)
    }

    #[test]
    fn a_chat_stream_opens_with_its_role_spells_the_echo_and_ends_with_done() {
        let asked = json!({"model": "m", "messages": [{"role": "user", "content": "hé\"llo"}], "stream": true});
        let events = read(Kind::Chat, asked);
        assert_eq!(values(&events.opening)[0]["choices"][0]["delta"]["role"], "assistant");
        let content = values(&events.content);
        let spelt: String =
            content.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
        assert_eq!((spelt, content.len()), (expected_echo("hé\"llo"), 4));
        assert_eq!(values(&events.ending)[0]["choices"][0]["finish_reason"], "stop");
        assert_eq!(events.ending.len(), 2, "no usage unless asked for");
        assert_eq!(events.ending[1], "data: [DONE]\n\n");
    }

    #[test]
    fn usage_comes_in_a_chunk_of_its_own_when_asked_for() {
        let events = read(
            Kind::Completion,
            json!({"model": "m", "prompt": "hi", "stream": true, "stream_options": {"include_usage": true}}),
        );
        let ending = values(&events.ending);
        assert_eq!(ending[1]["choices"], json!([]));
        assert!(ending[1]["usage"]["total_tokens"].as_u64().unwrap() > 0);
        assert_eq!(ending[0]["usage"], Value::Null);
    }

    #[test]
    fn arguments_of_a_tool_come_in_pieces_and_spell_what_the_whole_answer_says() {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let function = json!({"name": "weather", "parameters": schema});
        let tools = json!([{"type": "function", "function": function}]);
        let asked =
            json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true, "tools": tools});
        let events = read(Kind::Chat, asked);
        let parts = values(&events.content);
        let parts: Vec<&Value> = parts.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]).collect();
        let spelt: String = parts.iter().map(|part| part["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(spelt, json!({"city": expected_echo("hi")}).to_string());
        assert_eq!((parts[0]["function"]["name"].as_str(), parts.len()), (Some("weather"), 5));
        assert_eq!(values(&events.ending)[0]["choices"][0]["finish_reason"], "tool_calls");
        let tools = json!([{"type": "function", "name": "weather", "parameters": schema}]);
        let events = read(Kind::Response, json!({"model": "m", "input": "hi", "stream": true, "tools": tools}));
        let all = values(&[events.opening, events.content, events.ending].concat());
        assert!(all.iter().enumerate().all(|(n, event)| event["sequence_number"] == n));
        let deltas: String = all.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(deltas, spelt);
        assert_eq!(all[all.len() - 1]["response"]["output"][0]["arguments"], spelt);
    }

    #[test]
    fn a_responses_stream_is_numbered_without_gaps_and_completes() {
        let events = read(Kind::Response, json!({"model": "m", "input": "hi", "stream": true}));
        let all = values(&[events.opening, events.content, events.ending].concat());
        assert!(all.iter().enumerate().all(|(n, event)| event["sequence_number"] == n));
        assert_eq!(
            (&all[0]["type"], &all[all.len() - 1]["type"]),
            (&json!("response.created"), &json!("response.completed"))
        );
        assert_eq!(all[all.len() - 1]["response"]["output"][0]["content"][0]["text"], expected_echo("hi"));
        let spelt: String = all.iter().filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(spelt, expected_echo("hi"));
    }

    #[test]
    fn a_broken_event_is_no_json_but_still_an_event() {
        let asked = json!({"model": "m", "messages": [{"role": "user", "content": "ümlaut"}], "stream": true});
        for event in read(Kind::Chat, asked).content {
            let broken = broken(&event);
            assert!(broken.ends_with("\n\n") && broken.starts_with("data: "));
            assert!(serde_json::from_str::<Value>(&broken["data: ".len()..]).is_err());
        }
    }
}

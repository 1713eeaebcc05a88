//! The lines of a batch in OpenAI's format: what one of the input asks, and what one of the output says of its end.
//!
//! Asked is `{"custom_id","method":"POST","url":"/v1/chat/completions","body":{…}}`, said is
//! `{"id","custom_id","response":{"status_code","request_id","body"},"error"}`. Bodies are never rebuilt: a request's is the
//! line's own bytes, an answer's is the upstream's, in which at most a line break between two values becomes a space.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error_body::ErrorBody;
use super::object;
use crate::messages::{Answer, AnswerBody, Endpoint, Error, ErrorKind, Headers, Outcome, Request, json};

/// What a batch may ask.
const ENDPOINTS: [Endpoint; 6] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Responses,
    Endpoint::Moderations,
    Endpoint::Messages,
];

/// Every URL of a line begins so.
const PREFIX: &str = "/v1";

/// A longer text of the line's own is cut where an error repeats it.
const SHOWN_MAX_BYTES: usize = 64;

/// One request of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchLine {
    /// The caller's name for it, unique within the batch.
    pub(crate) custom_id: String,
    /// What is asked, checked as every request is.
    pub(crate) request: Request,
}

/// Why a line asks nothing that can be answered. `code`, `message` and `param` are as in OpenAI's list of a batch's errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LineFault {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) param: Option<String>,
    /// The line's name, where it has one all the same.
    pub(crate) custom_id: Option<String>,
}

impl BatchLine {
    /// Reads a line, its end taken off. The request's body is a slice of it: nothing is copied.
    ///
    /// # Errors
    /// The first thing that is wrong with it. That its `custom_id` is not another line's too is for whoever has them all.
    pub(crate) fn read(line: &Bytes) -> Result<Self, LineFault> {
        let mut fields = Fields::default();
        object::walk(line, |key, value| fields.take(key, value))
            .map_err(|fault| LineFault::new("invalid_json_line", format!("This line is {fault}."), None))?;
        let custom_id = match fields.custom_id.map(|value| (value, json::string(value))) {
            Some((_, Some(id))) if !id.is_empty() => id.into_owned(),
            Some((value, _)) if !json::is_null(value) => {
                return Err(LineFault::invalid("custom_id", "`custom_id` must be a non-empty string."));
            }
            _ => return Err(LineFault::missing("custom_id")),
        };
        let named = |fault: LineFault| LineFault { custom_id: Some(custom_id.clone()), ..fault };
        if let Some(name) = fields.repeated {
            return Err(named(LineFault::invalid(name, format!("`{name}` stands in the line more than once."))));
        }
        let endpoint = fields.endpoint().map_err(named)?;
        let body = match fields.body {
            Some(body) if json::is_object(body) => body,
            Some(body) if !json::is_null(body) => {
                return Err(named(LineFault::invalid("body", "`body` must be an object.")));
            }
            _ => return Err(named(LineFault::missing("body"))),
        };
        let request = Request::new(endpoint, line.slice_ref(body.get().as_bytes())).map_err(|error| {
            let param = error.param().map_or_else(|| "body".to_owned(), |param| format!("body.{param}"));
            named(LineFault::invalid(&param, error.message()))
        })?;
        if request.is_stream() {
            let message = "`stream` must not be true in a batch: its answers are whole. Leave it out.";
            return Err(named(LineFault::invalid("body.stream", message)));
        }
        Ok(Self { custom_id, request })
    }
}

#[derive(Default)]
struct Fields<'a> {
    custom_id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    url: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    /// The first that stands there twice.
    repeated: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, key: &str, value: &'a RawValue) {
        let (field, name) = match key {
            "custom_id" => (&mut self.custom_id, "custom_id"),
            "method" => (&mut self.method, "method"),
            "url" => (&mut self.url, "url"),
            "body" => (&mut self.body, "body"),
            _ => return,
        };
        if field.replace(value).is_some() {
            self.repeated.get_or_insert(name);
        }
    }

    /// What `method` and `url` ask.
    fn endpoint(&self) -> Result<Endpoint, LineFault> {
        if let Some(method) = self.method
            && !json::is_null(method)
            && json::string(method).as_deref() != Some("POST")
        {
            return Err(LineFault::new("invalid_method", "`method` must be \"POST\".", Some("method")));
        }
        let Some(url) = self.url.filter(|url| !json::is_null(url)) else { return Err(LineFault::missing("url")) };
        let Some(url) = json::string(url) else { return Err(LineFault::invalid("url", "`url` must be a string.")) };
        endpoint(&url).ok_or_else(|| {
            let message = format!("`url` is {:?}; a batch may ask {}.", shown(&url), endpoints());
            LineFault::new("invalid_url", message, Some("url"))
        })
    }
}

/// The endpoint that a batch's `url` names; `None` when it is none of those that a batch may ask.
pub(crate) fn endpoint(url: &str) -> Option<Endpoint> {
    let path = url.strip_prefix(PREFIX)?;
    ENDPOINTS.into_iter().find(|endpoint| endpoint.path() == path)
}

/// All that a batch may ask, to be told.
pub(crate) fn endpoints() -> String {
    ENDPOINTS.map(|endpoint| format!("{PREFIX}{}", endpoint.path())).join(", ")
}

impl LineFault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, param: Option<&str>) -> Self {
        Self { code, message: message.into(), param: param.map(str::to_owned), custom_id: None }
    }

    /// The line's name is that of line `first`, too.
    pub(crate) fn duplicate(custom_id: &str, first: u64) -> Self {
        let message =
            format!("The custom_id {:?} is that of line {first}, too: each must be unique.", shown(custom_id));
        let fault = Self::new("duplicate_custom_id", message, Some("custom_id"));
        Self { custom_id: Some(custom_id.to_owned()), ..fault }
    }

    fn missing(param: &str) -> Self {
        Self::new("missing_required_parameter", format!("Missing required parameter: '{param}'."), Some(param))
    }

    fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new("invalid_request", message, Some(param))
    }
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> &str {
    let end = (0..=text.len().min(SHOWN_MAX_BYTES)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// One line of the output. Written as OpenAI writes it, the line's end included.
#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<Said<'a>>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: Box<RawValue>,
}

#[derive(Serialize)]
struct Said<'a> {
    code: &'a str,
    message: &'a str,
}

/// The line that says how the call of the line `custom_id` ended. `id` is the line's own, `request_id` our name for the
/// call, where the upstream has none of its own.
///
/// An upstream's final error is there with its status and body, and is an `error` besides, so that those that failed are
/// found by that alone. An error of forebay's own has no `response`.
pub(crate) fn ended(id: &str, custom_id: &str, request_id: &str, outcome: &Outcome) -> Vec<u8> {
    match outcome {
        Ok(Answer { status, headers, body: AnswerBody::Whole(body), .. }) => {
            let response = response(*status, request_id, headers, body);
            line(&Written { id, custom_id: Some(custom_id), response: Some(response), error: None })
        }
        // Nobody has asked for one.
        Ok(Answer { body: AnswerBody::Stream(_), .. }) => {
            let message = "the upstream answered with a stream what asked for none";
            error_line(id, custom_id, request_id, &Error::new(ErrorKind::UpstreamUnavailable, message))
        }
        Err(error) => error_line(id, custom_id, request_id, error),
    }
}

/// The line that says that a line could not be asked at all.
pub(crate) fn unasked(id: &str, fault: &LineFault) -> Vec<u8> {
    let error = Said { code: fault.code, message: &fault.message };
    line(&Written { id, custom_id: fault.custom_id.as_deref(), response: None, error: Some(error) })
}

/// The line that says what is kept of a call's end: its upstream's status and body. As in OpenAI's own files an `error` is only
/// what came from no upstream.
pub(crate) fn answered(id: &str, custom_id: &str, request_id: &str, status_code: u16, body: &[u8]) -> Vec<u8> {
    let response = Response { status_code, request_id, body: embedded(body) };
    line(&Written { id, custom_id: Some(custom_id), response: Some(response), error: None })
}

/// The line that says what is kept of a call that no upstream has answered: the JSON object below `error`.
pub(crate) fn failed(id: &str, custom_id: Option<&str>, error: &[u8]) -> Vec<u8> {
    #[derive(Deserialize, Default)]
    struct Kept<'a> {
        #[serde(borrow)]
        code: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        message: Cow<'a, str>,
    }
    let kept: Kept<'_> = serde_json::from_slice(error).unwrap_or_default();
    let error = Said { code: kept.code.as_deref().unwrap_or("server_error"), message: &kept.message };
    line(&Written { id, custom_id, response: None, error: Some(error) })
}

fn error_line(id: &str, custom_id: &str, request_id: &str, error: &Error) -> Vec<u8> {
    let custom_id = Some(custom_id);
    let Some((headers, body)) = error.answer() else {
        let said = Said { code: error.code(), message: error.message() };
        return line(&Written { id, custom_id, response: None, error: Some(said) });
    };
    let theirs = ErrorBody::read(body);
    let message = Some(theirs.message()).filter(|message| !message.is_empty()).unwrap_or(error.message());
    let said = Said { code: theirs.code().unwrap_or(error.code()), message };
    let response = response(error.status(), request_id, headers, body);
    line(&Written { id, custom_id, response: Some(response), error: Some(said) })
}

fn response<'a>(status_code: u16, request_id: &'a str, headers: &'a Headers, body: &[u8]) -> Response<'a> {
    let theirs = ["x-request-id", "request-id"].into_iter().find_map(|name| headers.get(name));
    Response { status_code, request_id: theirs.unwrap_or(request_id), body: embedded(body) }
}

/// A body as a value within a line: as it came where it is JSON, and else as a text.
fn embedded(body: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(body);
    // Within strings JSON has no line breaks as such: those that stand there are between values, where a space says as much.
    let whole =
        if memchr::memchr2(b'\n', b'\r', body).is_some() { text.replace(['\n', '\r'], " ") } else { text.to_string() };
    let as_text = || RawValue::from_string(serde_json::Value::from(&*text).to_string());
    RawValue::from_string(whole).or_else(|_| as_text()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn line(written: &Written<'_>) -> Vec<u8> {
    // Texts and JSON: nothing that could not be written.
    let mut line = serde_json::to_vec(written).unwrap_or_default();
    line.push(b'\n');
    line
}

const ID_PREFIX: &str = "batch_req_";

/// The `id` of an output line of this number.
pub(crate) fn line_id(number: u128) -> String {
    format!("{ID_PREFIX}{number:032x}")
}

/// The number in an `id` that [`line_id`] has made.
pub(crate) fn number_of_id(id: &str) -> Option<u128> {
    let digits = id.strip_prefix(ID_PREFIX).filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().filter(|number| line_id(*number) == id)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};
    use serde_json::Value;

    use super::*;
    use crate::messages::Meta;

    fn read(text: &str) -> Result<BatchLine, LineFault> {
        BatchLine::read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn with(url: &str, body: &str) -> String {
        format!(r#"{{"custom_id":"a","method":"POST","url":"{url}","body":{body}}}"#)
    }

    const CHAT: &str = r#"{"model":"m","messages":[]}"#;

    #[test]
    fn a_line_is_a_name_an_endpoint_and_its_own_bytes() {
        let body = r#"{ "model":"m", "big":12345678901234567890.0, "messages" : [] , "\u0061":1 }"#;
        let bytes = Bytes::from(with("/v1/chat/completions", body));
        let line = BatchLine::read(&bytes).unwrap();
        assert_eq!((&*line.custom_id, line.request.endpoint()), ("a", Endpoint::ChatCompletions));
        assert_eq!(line.request.body().bytes(), body);
        assert!(bytes.as_ptr_range().contains(&line.request.body().bytes().as_ptr()), "a slice of the line");
    }

    #[test]
    fn a_batch_asks_openai_s_endpoints_and_anthropic_s_messages() {
        for (url, body) in [
            ("/v1/chat/completions", CHAT),
            ("/v1/messages", CHAT),
            ("/v1/completions", r#"{"model":"m","prompt":"x"}"#),
            ("/v1/embeddings", r#"{"model":"m","input":"x"}"#),
            ("/v1/responses", r#"{"input":"x"}"#),
            ("/v1/moderations", r#"{"input":"x"}"#),
        ] {
            let line = read(&with(url, body)).unwrap();
            assert_eq!(format!("/v1{}", line.request.endpoint().path()), url);
        }
    }

    #[test]
    fn method_may_be_left_out_and_unknown_fields_stand_where_they_like() {
        let line =
            format!(r#" {{"body":{CHAT},"metadata":{{"x":1}},"url":"/v1/chat/completions","custom_id":"\u0041"}} "#);
        assert_eq!(read(&line).unwrap().custom_id, "A");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named_with_the_field() {
        let chat = |rest: &str| format!(r#"{{"custom_id":"a","url":"/v1/chat/completions",{rest}}}"#);
        for (line, code, param, says) in [
            ("".to_owned(), "invalid_json_line", None, "not JSON"),
            ("[]".into(), "invalid_json_line", None, "not a JSON object"),
            (r#"{"custom_id":"#.into(), "invalid_json_line", None, "not JSON"),
            ("{}".into(), "missing_required_parameter", Some("custom_id"), "'custom_id'"),
            (r#"{"custom_id":""}"#.into(), "invalid_request", Some("custom_id"), "non-empty"),
            (r#"{"custom_id":7}"#.into(), "invalid_request", Some("custom_id"), "string"),
            (r#"{"custom_id":"a"}"#.into(), "missing_required_parameter", Some("url"), "'url'"),
            (chat(r#""method":"GET""#), "invalid_method", Some("method"), "POST"),
            (with("/v1/files", CHAT), "invalid_url", Some("url"), "/v1/embeddings"),
            (with("/v1/messages/count_tokens", CHAT), "invalid_url", Some("url"), "/v1/messages"),
            (with("chat/completions", CHAT), "invalid_url", Some("url"), "chat/completions"),
            (chat(r#""x":1"#), "missing_required_parameter", Some("body"), "'body'"),
            (chat(r#""body":[]"#), "invalid_request", Some("body"), "object"),
            (chat(r#""body":{"messages":[]}"#), "invalid_request", Some("body.model"), "model"),
            (chat(r#""body":{"model":"m"}"#), "invalid_request", Some("body.messages"), "messages"),
            (chat(&format!(r#""body":{CHAT},"body":{CHAT}"#)), "invalid_request", Some("body"), "more than once"),
            (
                with("/v1/chat/completions", r#"{"model":"m","messages":[],"stream":true}"#),
                "invalid_request",
                Some("body.stream"),
                "Leave it out",
            ),
        ] {
            let fault = read(&line).unwrap_err();
            assert_eq!((fault.code, fault.param.as_deref()), (code, param), "{line}");
            assert!(fault.message.contains(says), "{line}: {}", fault.message);
        }
    }

    #[test]
    fn a_fault_knows_the_line_s_name_and_repeats_no_more_than_a_little_of_it() {
        let fault = read(&with(&"é".repeat(1_000), CHAT)).unwrap_err();
        assert_eq!(fault.custom_id.as_deref(), Some("a"));
        assert!(fault.message.len() < 400, "{}", fault.message);
        assert!(LineFault::duplicate("a", 3).message.contains("line 3"));
    }

    fn answered(status: u16, body: &'static [u8]) -> Answer {
        let (headers, body) = (Headers::new(), AnswerBody::Whole(Bytes::from_static(body)));
        Answer { status, headers, body, meta: Meta::default() }
    }

    fn written(outcome: Outcome) -> (String, Value) {
        let line = String::from_utf8(ended("batch_req_1", "a\"b", "req_1", &outcome)).unwrap();
        let line = line.strip_suffix('\n').unwrap().to_owned();
        assert!(!line.contains('\n') && !line.contains('\r'), "{line}");
        let value = serde_json::from_str(&line).unwrap();
        (line, value)
    }

    #[test]
    fn an_answer_stands_in_its_line_byte_for_byte() {
        let (line, _) = written(Ok(answered(200, b"{ \"n\": 1.0, \"big\":12345678901234567890123 }")));
        let response = r#"{"status_code":200,"request_id":"req_1","body":{ "n": 1.0, "big":12345678901234567890123 }}"#;
        assert_eq!(line, format!(r#"{{"id":"batch_req_1","custom_id":"a\"b","response":{response},"error":null}}"#));
    }

    #[test]
    fn an_answer_over_several_lines_becomes_one() {
        let (line, _) = written(Ok(answered(200, b"\n{\r\n  \"a\": \"x\\ny\"\n}\n")));
        assert!(line.contains(r#""body":{    "a": "x\ny" }"#), "{line}");
    }

    #[test]
    fn the_upstream_s_own_name_for_the_call_comes_before_ours() {
        let mut answer = answered(200, b"{}");
        answer.headers.push(HeaderName::from_static("x-request-id"), HeaderValue::from_static("req_theirs"));
        assert_eq!(written(Ok(answer)).1["response"]["request_id"], "req_theirs");
    }

    #[test]
    fn an_upstream_s_error_is_its_answer_and_an_error_besides() {
        let body =
            br#"{"error":{"message":"Too long.","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        let (_, line) = written(Err(Error::upstream(400, Headers::new(), Bytes::from_static(body))));
        assert_eq!(line["response"]["status_code"], 400);
        assert_eq!(line["response"]["body"]["error"]["message"], "Too long.");
        assert_eq!(line["error"], serde_json::json!({"code": "context_length_exceeded", "message": "Too long."}));
    }

    #[test]
    fn an_error_page_stands_there_as_text() {
        let page = Bytes::from_static(b"<html>\n\"502\"</html>\xff");
        let (_, line) = written(Err(Error::upstream(502, Headers::new(), page)));
        assert_eq!(line["response"]["body"], "<html>\n\"502\"</html>\u{fffd}");
        assert_eq!(line["error"]["code"], "upstream_error");
    }

    #[test]
    fn an_error_of_forebay_s_own_and_a_line_that_could_not_be_asked_have_no_response() {
        let (_, line) = written(Err(Error::new(ErrorKind::DeadlineExceeded, "too late")));
        assert_eq!((&line["response"], &line["error"]["code"]), (&Value::Null, &"deadline_exceeded".into()));
        let fault = read("{}").unwrap_err();
        let line: Value = serde_json::from_slice(&unasked(&line_id(255), &fault)).unwrap();
        assert_eq!((&line["custom_id"], &line["response"]), (&Value::Null, &Value::Null));
        assert_eq!(line["error"]["code"], "missing_required_parameter");
        assert_eq!(line["id"], "batch_req_000000000000000000000000000000ff");
        assert_eq!(number_of_id("batch_req_000000000000000000000000000000ff"), Some(255));
        for id in ["batch_req_ff", "000000000000000000000000000000ff", "batch_req_+00000000000000000000000000000ff"] {
            assert_eq!(number_of_id(id), None, "{id}");
        }
    }
}

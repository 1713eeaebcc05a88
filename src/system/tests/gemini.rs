//! Chats in OpenAI's format to an upstream of Google's kind, through the whole system.

use serde_json::{Value, json};

use super::*;

/// A system whose upstream speaks Gemini and is limited once for each prompt that says so.
async fn googles() -> (Forebay, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let open = move || {
        let log = Arc::clone(&log);
        MemoryTransport::new(move |request: HttpRequest| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let prompt = body["contents"][0]["parts"][0]["text"].as_str().unwrap().to_owned();
            log.lock().unwrap().push(request.url.clone());
            let attempts = log.lock().unwrap().len();
            async move { Ok(answer(&request.url, &prompt, attempts)) }
        })
    };
    let upstream = "[upstreams.g]\nkind = \"gemini\"\nbase_url = \"http://g.test/v1beta\"\napi_keys = [\"AIza-0123456789\"]\nmodels = [\"m\"]";
    let config = Config::from_toml(&format!("[pool]\nthreads = 0\n{upstream}")).unwrap();
    (Forebay::builder(config).transport(open).seed(1).start().await.unwrap(), asked)
}

fn answer(url: &str, prompt: &str, attempts: usize) -> HttpResponse {
    let limited = json!({"error": {"code": 429, "message": "slowly", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]}});
    let candidate = |text: &str, finish: &str| {
        let content = json!({"parts": [{"text": text}], "role": "model"});
        json!({"candidates": [{"content": content, "finishReason": finish}], "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": 3, "totalTokenCount": 5}})
    };
    let event = |value: Value| Ok(Bytes::from(format!("data: {value}\r\n\r\n")));
    let (first, last) = (candidate("first ", ""), candidate(prompt, "STOP"));
    match (url.contains(":streamGenerateContent"), prompt) {
        (false, "limited") if attempts == 1 => Scripted::json(429, limited.to_string()),
        (true, "limited") if attempts == 1 => Scripted::events(vec![event(limited)]),
        (false, _) => Scripted::json(200, last.to_string()),
        (true, "cut") => Scripted::events(vec![event(first)]),
        (true, _) => Scripted::events(vec![event(first), event(last)]),
    }
}

#[test]
fn a_chat_with_a_gemini_model_is_a_chat_like_any_other() {
    in_virtual_time(async {
        let (forebay, asked) = googles().await;
        let answer = forebay.call(chat("hello")).await.unwrap();
        let usage = answer.meta.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (2, 3));
        let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer") };
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], "hello");
        assert!(body["created"].as_u64().unwrap() > 1_600_000_000);
        let heard = hear(&forebay, streamed("hello")).await.unwrap();
        assert!(heard.contains("first ") && heard.ends_with("[DONE]"), "{heard}");
        assert_eq!(asked.lock().unwrap()[1], "http://g.test/v1beta/models/m:streamGenerateContent?alt=sse");
    });
}

#[test]
fn a_limit_is_waited_out_as_long_as_google_says_whichever_way_it_is_told() {
    in_virtual_time(async {
        for request in [chat("limited"), streamed("limited")] {
            let (forebay, asked) = googles().await;
            let start = clock::now();
            let heard = hear(&forebay, request).await.unwrap();
            assert!(heard.contains("limited"), "{heard}");
            assert!(clock::now() - start >= Duration::from_secs(7), "{:?}", clock::now() - start);
            assert_eq!(asked.lock().unwrap().len(), 2);
        }
    });
}

#[test]
fn a_stream_without_its_finish_reason_is_told_to_be_cut() {
    in_virtual_time(async {
        let (forebay, _) = googles().await;
        assert_eq!(hear(&forebay, streamed("cut")).await, Err("upstream_unavailable"));
    });
}

#[test]
fn what_cannot_be_said_is_a_400_that_names_the_field_and_nothing_is_sent() {
    in_virtual_time(async {
        let (forebay, asked) = googles().await;
        let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":{"1":2}}"#;
        let request = Request::new(crate::messages::Endpoint::ChatCompletions, body).unwrap();
        let error = forebay.call(request).await.unwrap_err();
        let (_, body) = error.answer().expect("an answer of its own");
        let body: Value = serde_json::from_slice(body).unwrap();
        assert_eq!((error.status(), &body["error"]["param"]), (400, &json!("logit_bias")));
        assert!(asked.lock().unwrap().is_empty());
    });
}

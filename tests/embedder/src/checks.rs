//! What a program relies on, one function a promise.

use std::time::Duration;

use forebay::{AnswerBody, Call, Config, Events, Forebay, Outcome, Request};
use serde_json::Value;

use crate::process;
use crate::upstream::{Provider, chat, server};

/// Long enough for anything to end by itself.
const LONG: Duration = Duration::from_secs(30);

/// What a whole answer says.
fn said(outcome: Outcome) -> String {
    let answer = outcome.expect("an answer");
    let AnswerBody::Whole(body) = answer.body else { panic!("a whole answer was asked for") };
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    body["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

/// What a stream says until its end, and the code of the error it ended with.
async fn heard(mut events: Events) -> (String, Option<&'static str>) {
    let mut said = String::new();
    let mut is_complete = false;
    while let Some(event) = events.next().await {
        match event {
            Err(error) => return (said, Some(error.code())),
            Ok(event) if event.data == "[DONE]" => is_complete = true,
            Ok(event) => {
                let data: Value = serde_json::from_str(&event.data).expect("JSON");
                said.push_str(data["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
            }
        }
    }
    assert!(is_complete, "a stream that ends well has its last event");
    (said, None)
}

fn code(outcome: Outcome) -> &'static str {
    outcome.expect_err("an error").code()
}

pub async fn the_tree_is_small() {
    // The lock of this program has what it is built with and nothing else.
    let packages = include_str!("../Cargo.lock");
    assert!(packages.contains("name = \"forebay\""));
    for name in ["actix-web", "clap", "tracing-subscriber", "openssl-sys"] {
        assert!(!packages.contains(&format!("name = \"{name}\"")), "{name} is in the tree");
    }
}

pub async fn all_may_be_sent() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    fn is_sendable<T: Send>(_: T) {}
    is_shareable::<Forebay>();
    is_sendable(Forebay::start(
        Config::from_toml("[upstreams.u]\nbase_url = \"http://u/v1\"\nmodels = [\"m\"]").expect("good"),
    ));
    // Never called: that it compiles is the check.
    let _ = |forebay: Forebay, events: Events| {
        is_sendable(forebay.call(chat("")));
        is_sendable(forebay.stream(chat("")));
        is_sendable(forebay.shutdown(LONG));
        is_sendable(forebay.health());
        is_sendable(forebay.failed());
        is_sendable(events);
    };
}

pub async fn calls() {
    let forebay = Provider::named("one").start(2).await;
    let calls: Vec<_> = (0..300)
        .map(|n| {
            let forebay = forebay.clone();
            tokio::spawn(async move { (n, forebay.call(chat(&format!("call {n}"))).await) })
        })
        .collect();
    for call in calls {
        let (n, outcome) = call.await.expect("no panic here");
        assert_eq!(said(outcome), format!("one call {n}"));
    }
    let unknown = forebay.call(Request::chat("nobody-s", serde_json::json!([]))).await;
    assert_eq!(code(unknown), "model_not_found");
}

pub async fn messages() {
    let forebay = Provider::named("one").start(1).await;
    let outcome = forebay.dispatcher().send(Call::new(chat("a message"))).await.expect("it lives");
    assert_eq!(said(outcome), "one a message");
}

pub async fn streams() {
    let forebay = Provider::named("one").start(2).await;
    let events = forebay.stream(chat("word by word")).await.expect("it opens");
    assert_eq!(heard(events).await, ("one word by word ".to_owned(), None));
}

pub async fn http() {
    let text = format!("[pool]\nthreads = 2\n[upstreams.u]\nbase_url = \"http://{}/v1\"\nmodels = [\"m\"]", server());
    let forebay = Forebay::start(Config::from_toml(&text).expect("good")).await.expect("it starts");
    assert_eq!(said(forebay.call(chat("over the wire")).await), "http over the wire");
    let events = forebay.stream(chat("over the wire")).await.expect("it opens");
    assert_eq!(heard(events).await, ("http over the wire ".to_owned(), None));
    forebay.shutdown(LONG).await;
}

pub async fn panics() {
    let forebay = Provider::named("one").start(2).await;
    let before = process::panics();
    let calls: Vec<_> = (0..60)
        .map(|n| {
            let forebay = forebay.clone();
            tokio::spawn(async move { (n, forebay.call(chat(&format!("panic {n}"))).await) })
        })
        .collect();
    let streams: Vec<_> = (0..60)
        .map(|n| {
            let forebay = forebay.clone();
            tokio::spawn(async move {
                match forebay.stream(chat(&format!("panic {n}"))).await {
                    Ok(events) => (n, heard(events).await),
                    Err(error) => (n, (String::new(), Some(error.code()))),
                }
            })
        })
        .collect();
    for call in calls {
        // What panicked before it had answered is tried again until it answers.
        let (n, outcome) = call.await.expect("no panic here");
        assert_eq!(said(outcome), format!("one panic {n}"));
    }
    let mut broken = 0;
    for stream in streams {
        let (n, (said, error)) = stream.await.expect("no panic here");
        match error {
            None => assert_eq!(said, format!("one panic {n} ")),
            // What has been heard cannot be taken back: such a stream ends with the truth.
            Some(code) => {
                assert_eq!((said.as_str(), code), ("one ", "worker_crashed"));
                broken += 1;
            }
        }
    }
    let planted = process::panics() - before;
    assert!(planted > 60 && broken > 0, "the storm has happened: {planted} panics, {broken} streams broken");
    assert_eq!(said(forebay.call(chat("after the storm")).await), "one after the storm");
}

pub async fn drops() {
    let provider = Provider::named("one");
    let forebay = provider.start(1).await;
    let call = tokio::spawn({
        let forebay = forebay.clone();
        async move { forebay.call(chat("for ever")).await }
    });
    provider.begun().await;
    call.abort();
    provider.dropped().await;

    let mut events = forebay.stream(chat("for ever")).await.expect("it opens");
    provider.begun().await;
    assert!(events.next().await.expect("a word").is_ok());
    drop(events);
    provider.dropped().await;
}

pub async fn shutdown() {
    let provider = Provider::named("one");
    let forebay = provider.start(2).await;
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let forebay = forebay.clone();
            tokio::spawn(async move { forebay.call(chat(&format!("wait {n}"))).await })
        })
        .collect();
    // Sixteen run, as many as may; the others wait for their turn.
    while forebay.health().await.expect("it answers").waiting < 24 {}
    let shutdown = tokio::spawn({
        let forebay = forebay.clone();
        async move { forebay.shutdown(LONG).await }
    });
    while !forebay.health().await.expect("it answers").is_draining {}
    assert_eq!(code(forebay.call(chat("late")).await), "draining");
    assert!(!shutdown.is_finished(), "accepted calls are waited for");
    provider.let_go(40);
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(said(call.await.expect("no panic here")), format!("one wait {n}"));
    }
    shutdown.await.expect("no panic here");
    assert_eq!(code(forebay.call(chat("later still")).await), "draining");
}

pub async fn impatient_shutdown() {
    let provider = Provider::named("one");
    let forebay = provider.start(1).await;
    let mut events = forebay.stream(chat("for ever")).await.expect("it opens");
    let call = tokio::spawn({
        let forebay = forebay.clone();
        async move { forebay.call(chat("for ever")).await }
    });
    while forebay.health().await.expect("it answers").in_flight < 2 {}
    forebay.shutdown(Duration::from_millis(1)).await;
    assert_eq!(code(call.await.expect("no panic here")), "draining");
    assert!(events.next().await.expect("a word").is_ok());
    assert_eq!(events.next().await.expect("no clean end").expect_err("an error").code(), "draining");
}

pub async fn two_systems() {
    let (one, two) = (Provider::named("one").start(1).await, Provider::named("two").start(2).await);
    assert_eq!(said(one.call(chat("who")).await), "one who");
    assert_eq!(said(two.call(chat("who")).await), "two who");
    one.shutdown(LONG).await;
    assert_eq!(code(one.call(chat("who")).await), "draining");
    assert_eq!(said(two.call(chat("who")).await), "two who");
}

//! forebay inside a program on tokio: calls and streams that wait their turn.
//!
//! Runs without an account and without a network: a simulated provider stands in for the real one. Run it with
//! `cargo run --example embedded`.

use forebay::simulator::{Settings, Simulator};
use forebay::{AnswerBody, Config, Forebay, Request};
use serde_json::json;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = Simulator::bind("127.0.0.1:0".parse()?, Settings::default())?.start()?;
    let config = Config::from_toml(&format!(
        r#"
        [upstreams.provider]
        base_url = "{}"
        api_keys = ["sk-of-the-simulated-provider"]
        models = ["gpt-4o-mini"]
        limits = {{ requests_per_minute = 600 }}
        "#,
        provider.base_url()
    ))?;
    let forebay = Forebay::start(config).await?;

    // Twenty at once against ten a second: nobody is refused, the later ones wait.
    let calls = (0..20).map(|n| {
        let forebay = forebay.clone();
        tokio::spawn(async move {
            let request = Request::chat("gpt-4o-mini", json!([{"role": "user", "content": format!("question {n}")}]));
            forebay.call(request.with_timeout(Duration::from_secs(30))).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await??;
        let AnswerBody::Whole(body) = answer.body else { continue };
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        let content = &body["choices"][0]["message"]["content"];
        println!("{content} after {:?} in line and {} attempt(s)", answer.meta.queued, answer.meta.attempts);
    }

    let mut events =
        forebay.stream(Request::chat("gpt-4o-mini", json!([{"role": "user", "content": "in pieces"}]))).await?;
    while let Some(event) = events.next().await {
        println!("{}", event?.data);
    }

    forebay.shutdown(Duration::from_secs(5)).await;
    provider.stop().await;
    Ok(())
}

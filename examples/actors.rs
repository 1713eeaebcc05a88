//! forebay as a part of an actix System: no threads of its own, and calls as messages to its dispatcher.
//!
//! The upstream is a function here, by way of a `Transport` of the program's own. Run it with
//! `cargo run --example actors`.

use actix::prelude::*;
use forebay::transport::{MemoryTransport, Scripted};
use forebay::{Call, Config, Dispatcher, Forebay, Outcome, Request};
use serde_json::json;
use std::time::Duration;

/// An actor of the program that asks the dispatcher.
struct Asker {
    dispatcher: Addr<Dispatcher>,
}

#[derive(Message)]
#[rtype(result = "Outcome")]
struct Ask(&'static str);

impl Actor for Asker {
    type Context = Context<Self>;
}

impl Handler<Ask> for Asker {
    type Result = ResponseFuture<Outcome>;

    fn handle(&mut self, Ask(question): Ask, _: &mut Context<Self>) -> Self::Result {
        let call = Call::new(Request::chat("m", json!([{"role": "user", "content": question}])));
        let answer = self.dispatcher.send(call);
        // The dispatcher lives as long as the system does.
        Box::pin(async move { answer.await.expect("the dispatcher lives") })
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_toml(
        r#"
        [pool]
        threads = 0 # everything stays on this thread
        [upstreams.mine]
        base_url = "http://not.asked/v1"
        models = ["m"]
        "#,
    )?;
    let forebay = Forebay::builder(config)
        .transport(|| MemoryTransport::new(|_| async { Ok(Scripted::json(200, r#"{"answer":"forty-two"}"#)) }))
        .start()
        .await?;

    let asker = Asker { dispatcher: forebay.dispatcher() }.start();
    let answer = asker.send(Ask("the question")).await??;
    println!("{} {:?} in {} attempt(s)", answer.status, answer.body, answer.meta.attempts);

    forebay.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

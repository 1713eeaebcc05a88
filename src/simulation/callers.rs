//! The callers: by HTTP, by the handle or by message, patient or not, and each sure of what it may hear.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::test::TestRequest;

use super::record::Draw;
use super::world::World;
use crate::clock::{self, Instant};
use crate::messages::{AnswerBody, Call, Cancel, Endpoint, Error, Outcome, Priority, Request};
use crate::system::Forebay;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Face {
    Gateway,
    Handle,
    Message,
}

/// One caller, with all that it will do.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) nonce: u32,
    pub(super) at: Duration,
    face: Face,
    model: &'static str,
    stream: bool,
    timeout: Duration,
    priority: Priority,
    hangs_up: Option<Duration>,
    /// The pause before each further read of a stream.
    slow: Option<Duration>,
    padding: usize,
}

/// What came back.
#[derive(Debug)]
struct Heard {
    /// Body or events.
    text: String,
    /// Whether it ended cleanly.
    clean: bool,
    error: Option<Told>,
    attempts: Option<u32>,
    /// How long the outcome took.
    took: Duration,
}

#[derive(Debug)]
struct Told {
    status: Option<u16>,
    code: String,
    body: String,
    /// When.
    at: Instant,
}

impl Told {
    fn of(status: Option<u16>, body: &str, at: Instant) -> Self {
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let code = json["error"]["code"].as_str().unwrap_or("none").to_owned();
        Self { status, code, body: body.to_owned(), at }
    }

    fn error(error: &Error) -> Self {
        Self::of(Some(error.status()), &String::from_utf8_lossy(&error.to_body()), clock::now())
    }
}

impl Caller {
    pub(super) fn draw(nonce: u32, at: Duration, draw: &mut Draw) -> Self {
        Self {
            nonce,
            at,
            face: draw.pick(&[Face::Gateway, Face::Gateway, Face::Gateway, Face::Handle, Face::Message]),
            model: draw.pick(&["alpha-m", "alpha-m", "beta-m", "gamma-m", "shared", "smart", "smart"]),
            stream: draw.one_in(2),
            timeout: if draw.one_in(5) { draw.millis(1, 3_000) } else { draw.millis(3_000, 90_000) },
            priority: draw.pick(&[Priority::High, Priority::Normal, Priority::Normal, Priority::Low]),
            hangs_up: if draw.one_in(6) { Some(draw.millis(0, 20_000)) } else { None },
            slow: if draw.one_in(8) { Some(draw.millis(100, 9_000)) } else { None },
            padding: if draw.one_in(10) { draw.between(1_000, 9_000) as usize } else { 0 },
        }
    }

    fn body(&self) -> String {
        let (nonce, padding) = (super::word(self.nonce), ".".repeat(self.padding));
        format!(
            "{{\"model\":\"{}\",\"stream\":{},\"max_tokens\":30,\"messages\":[{{\"role\":\"user\",\"content\":\"{nonce}{padding}\"}}]}}",
            self.model, self.stream
        )
    }

    fn request(&self) -> Request {
        let request = Request::new(Endpoint::ChatCompletions, self.body()).expect("a good body");
        request.with_timeout(self.timeout).with_priority(self.priority)
    }

    /// Calls, judges what it hears, and sees to it that nothing of it stays.
    pub(super) async fn run<S>(self, app: Rc<S>, forebay: Forebay, world: Arc<World>)
    where
        S: Service<actix_http::Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    {
        clock::until(clock::now() + self.at).await;
        let Self { nonce, face, model, stream, timeout, .. } = &self;
        let kind = if *stream { "stream" } else { "whole" };
        world.record.note(format_args!("{nonce} calls {model} by {face:?}, {kind}, {timeout:?}, {:?}", self.priority));
        let heard = {
            let patience = self.hangs_up.unwrap_or(Duration::from_secs(86_400));
            let ask = async {
                match self.face {
                    Face::Gateway => self.by_http(&*app, &world).await,
                    Face::Handle => Some(self.by_handle(&forebay).await),
                    Face::Message => Some(self.by_message(&forebay, &world).await),
                }
            };
            tokio::select! {
                biased;
                heard = ask => heard,
                () = clock::until(clock::now() + patience) => None,
            }
        };
        match heard {
            Some(heard) => self.judge(&heard, &world),
            None => world.record.note(format_args!("{nonce} hangs up")),
        }
        // The end of a complete body may be waited for a tenth of a second.
        let rest = if self.stream { 150 } else { 2 };
        clock::until(clock::now() + Duration::from_millis(rest)).await;
        let open = world.look(*nonce, |seen| seen.open);
        world.record.ensure(open == 0, || format!("{nonce} has its end and {open} exchanges go on"));
    }

    async fn by_http<S>(&self, app: &S, world: &World) -> Option<Heard>
    where
        S: Service<actix_http::Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    {
        let start = clock::now();
        let priority = ["high", "normal", "low"][self.priority as usize];
        let request = TestRequest::post()
            .uri("/v1/chat/completions")
            .insert_header(("content-type", "application/json"))
            .insert_header(("x-forebay-timeout", format!("{}ms", self.timeout.as_millis())))
            .insert_header(("x-forebay-priority", priority))
            .set_payload(self.body());
        let response = match app.call(request.to_request()).await {
            Ok(response) => response,
            Err(error) => {
                world.record.violate(format_args!("{}: the handler gave {error}", self.nonce));
                return None;
            }
        };
        let status = response.status().as_u16();
        let attempts = response.headers().get("x-forebay-attempts").and_then(|value| value.to_str().ok()?.parse().ok());
        let is_events =
            response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event"));
        let mut body = response.into_body();
        let (mut text, mut took, mut last) = (String::new(), None, start);
        let clean = loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
                Some(Ok(piece)) if &piece[..] == b": keep-alive\n\n" => {}
                Some(Ok(piece)) => {
                    text.push_str(&String::from_utf8_lossy(&piece));
                    took.get_or_insert(clock::now() - start);
                    last = clock::now();
                    self.linger().await;
                }
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        let error = match text.rfind("data: {\"error\":") {
            Some(at) if is_events => Some(Told::of(None, text[at + 6..].trim_end(), last)),
            _ if status != 200 => Some(Told::of(Some(status), &text, last)),
            _ => None,
        };
        Some(Heard { text, clean, error, attempts, took: took.unwrap_or_else(|| clock::now() - start) })
    }

    async fn linger(&self) {
        if let Some(pause) = self.slow {
            clock::until(clock::now() + pause).await;
        }
    }

    async fn by_handle(&self, forebay: &Forebay) -> Heard {
        let start = clock::now();
        if !self.stream {
            return self.heard(forebay.call(self.request()).await, start).await;
        }
        let mut heard = Heard { text: String::new(), clean: true, error: None, attempts: None, took: Duration::ZERO };
        let events = forebay.stream(self.request()).await;
        heard.took = clock::now() - start;
        match events {
            Ok(mut events) => {
                heard.attempts = Some(events.meta().attempts);
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => heard.text.push_str(&event.data),
                        Err(error) => heard.fail(&error),
                    }
                    self.linger().await;
                }
            }
            Err(error) => heard.fail(&error),
        }
        heard
    }

    async fn by_message(&self, forebay: &Forebay, world: &World) -> Heard {
        /// Cancels when the caller is gone, as a program that speaks in messages must.
        struct Hold(Forebay, crate::messages::CallId);
        impl Drop for Hold {
            fn drop(&mut self) {
                self.0.dispatcher().do_send(Cancel(self.1));
            }
        }
        let start = clock::now();
        let call = Call::new(self.request());
        let _hold = Hold(forebay.clone(), call.id);
        let outcome = forebay.dispatcher().send(call).await;
        // Who speaks in messages finds a dead address while a fresh one is put together, and for good behind a shutdown.
        let nobody = if world.is_draining() { crate::dispatcher::draining } else { crate::dispatcher::restarting };
        self.heard(outcome.unwrap_or_else(|_| Err(nobody())), start).await
    }

    async fn heard(&self, outcome: Outcome, start: Instant) -> Heard {
        let took = clock::now() - start;
        let mut heard = Heard { text: String::new(), clean: true, error: None, attempts: None, took };
        match outcome {
            Ok(answer) => {
                heard.attempts = Some(answer.meta.attempts);
                match answer.body {
                    AnswerBody::Whole(body) => heard.text = String::from_utf8_lossy(&body).into_owned(),
                    AnswerBody::Stream(mut events) => {
                        while let Some(piece) = events.next().await {
                            match piece {
                                Ok(piece) => heard.text.push_str(&String::from_utf8_lossy(&piece)),
                                Err(error) => heard.fail(&error),
                            }
                            self.linger().await;
                        }
                    }
                }
            }
            Err(error) => heard.fail(&error),
        }
        heard
    }

    /// What was heard is what this caller may hear.
    fn judge(&self, heard: &Heard, world: &World) {
        let (nonce, record) = (self.nonce, &world.record);
        let end =
            heard.error.as_ref().map_or("its answer".to_owned(), |told| format!("{:?} {}", told.status, told.code));
        record.note(format_args!("{nonce} has {end} after {:?}, attempts {:?}", heard.took, heard.attempts));
        let said = [Some(&heard.text), heard.error.as_ref().map(|told| &told.body)];
        let nonces: BTreeSet<u32> =
            said.into_iter().flatten().flat_map(|text| super::nonces(text)).map(|(n, _)| n).collect();
        record.ensure(nonces.iter().all(|n| *n == nonce), || format!("{nonce} hears what is {nonces:?}'s"));
        let late = self.timeout + Duration::from_millis(3);
        record.ensure(heard.took <= late, || format!("{nonce} had {:?} and waits {:?}", self.timeout, heard.took));
        let pieces: Vec<u64> = super::nonces(&heard.text).filter_map(|(_, piece)| piece).collect();
        let in_order = pieces.iter().copied().eq(0..pieces.len() as u64);
        record.ensure(in_order, || format!("{nonce} hears pieces {pieces:?}"));
        let (answered, exchanges) = world.look(nonce, |seen| (seen.answered, seen.exchanges));
        if let Some(attempts) = heard.attempts {
            let right = attempts == exchanges || (record.has_killed() && attempts > exchanges);
            record.ensure(right, || format!("{nonce} is told {attempts} attempts, there were {exchanges}"));
        }
        let Some(told) = &heard.error else {
            record.ensure(heard.clean, || format!("{nonce} ends uncleanly without a word"));
            let whole = if self.stream { pieces.len() as u64 } else { 1 };
            let complete = answered == Some(whole) && !nonces.is_empty();
            record.ensure(complete, || format!("{nonce} takes {whole} pieces for an answer, given {answered:?}"));
            return;
        };
        let may_be = match (told.code.as_str(), told.status) {
            // The upstream's own word: to this caller, save for a refused key, which every caller of the key hears of.
            ("drawn" | "none", Some(status)) => world.look(nonce, |seen| seen.statuses.contains(&status)),
            ("drawn" | "none", None) => world.look(nonce, |seen| !seen.statuses.is_empty()),
            ("invalid_api_key", status) => status.is_none_or(|status| status == 401) && world.has_refused(),
            ("draining", _) => world.is_draining(),
            ("restarting", _) => record.died_before(told.at) || world.has_failed(),
            ("worker_crashed", _) => record.has_killed(),
            ("upstream_redirected", _) => exchanges > 0,
            ("deadline_exceeded" | "overloaded" | "upstream_unavailable" | "model_not_found", _) => true,
            _ => false,
        };
        record.ensure(may_be, || format!("{nonce} is told {told:?}"));
    }
}

impl Heard {
    fn fail(&mut self, error: &Error) {
        self.clean = false;
        self.error = Some(Told::error(error));
        self.attempts = self.attempts.or(Some(error.meta().attempts)).filter(|attempts| *attempts > 0);
    }
}

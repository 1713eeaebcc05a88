//! What one exchange with an upstream comes to.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{HeaderName, HeaderValue};

use super::record::Draw;
use super::world::Exchange;
use crate::clock;
use crate::messages::{FailureKind, Headers, Phase, Sent};
use crate::pool::transport::{HttpResponse, TransportError};

/// How an upstream is for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Weather {
    Fine,
    /// One in four exchanges goes wrong, each in its own way.
    Flaky,
    /// Most are told to come later.
    Crowded,
    /// Nothing comes.
    Silent,
    /// Nobody is there.
    Down,
    /// Every exchange panics somewhere.
    Deadly,
}

/// How one exchange goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scene {
    /// All pieces, with waits between them; for a whole answer one or two.
    Good {
        pieces: u64,
        pause: u64,
        done: bool,
    },
    Refused,
    Reset,
    ConnectTimeout,
    Silence,
    /// A body that breaks behind so many pieces.
    Broken {
        pieces: u64,
        how: Break,
    },
    /// An error answer, and the milliseconds it asks to wait.
    Status(u16, Option<u64>),
    /// A stream that opens with an error event.
    ErrorEvent(u16),
    Redirect,
    PanicInSend,
    PanicInFuture,
    PanicWhenDropped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Break {
    /// The connection is reset.
    Cut,
    /// It ends as if it were all.
    Short,
    /// Nothing more comes.
    Stall,
    Panic,
    /// It says itself that it failed.
    Error,
}

impl Scene {
    pub(super) fn draw(weather: Weather, is_stream: bool, draw: &mut Draw) -> Self {
        let good = |draw: &mut Draw| Scene::Good {
            pieces: if draw.one_in(8) { 40 } else { draw.between(1, 5) },
            pause: if draw.one_in(6) { 5_000 } else { 300 },
            done: !draw.one_in(4),
        };
        let broken = |draw: &mut Draw| Scene::Broken {
            pieces: draw.below(4),
            how: draw.pick(&[Break::Cut, Break::Short, Break::Stall, Break::Panic, Break::Error]),
        };
        match weather {
            Weather::Fine if draw.one_in(25) => Self::draw(Weather::Flaky, is_stream, draw),
            Weather::Fine => good(draw),
            Weather::Flaky if !draw.one_in(3) => good(draw),
            Weather::Flaky => match draw.below(16) {
                0 => Scene::Refused,
                1 => Scene::Reset,
                2 => Scene::ConnectTimeout,
                3 => Scene::Silence,
                4..=7 => broken(draw),
                8 => Scene::Status(draw.pick(&[400, 403, 404, 413, 422]), None),
                9 | 10 => {
                    let wait = if draw.one_in(4) { Some(draw.between(1, 9_000)) } else { None };
                    Scene::Status(draw.pick(&[408, 409, 500, 502, 503, 529]), wait)
                }
                11 if is_stream => Scene::ErrorEvent(draw.pick(&[400, 429, 500, 503])),
                11 | 12 => Scene::Status(429, None),
                13 => Scene::Redirect,
                14 => draw.pick(&[Scene::PanicInSend, Scene::PanicInFuture]),
                _ => Scene::PanicWhenDropped,
            },
            Weather::Crowded if draw.one_in(3) => good(draw),
            Weather::Crowded => {
                let wait = if draw.one_in(4) { None } else { Some(draw.pick(&[0, 20, 700, 4_000, 30_000])) };
                Scene::Status(429, wait)
            }
            Weather::Silent => draw.pick(&[Scene::Silence, Scene::Broken { pieces: 1, how: Break::Stall }]),
            Weather::Down => draw.pick(&[Scene::Refused, Scene::Reset, Scene::Status(503, None)]),
            Weather::Deadly => draw.pick(&[
                Scene::PanicInSend,
                Scene::PanicInFuture,
                Scene::PanicWhenDropped,
                Scene::Broken { pieces: 0, how: Break::Panic },
                Scene::Broken { pieces: 2, how: Break::Panic },
            ]),
        }
    }

    /// Plays the scene; the exchange is over when what this gives, head or body, is dropped.
    pub(super) fn play(
        self,
        mut exchange: Exchange,
        latency: Duration,
    ) -> impl Future<Output = Result<HttpResponse, TransportError>> + 'static {
        if self == Scene::PanicInSend {
            exchange.panics();
            panic!("a planted panic in send");
        }
        exchange.panics_when_dropped = self == Scene::PanicWhenDropped;
        async move {
            let latency = if self == Scene::ConnectTimeout { Duration::from_secs(10) } else { latency };
            clock::until(clock::now() + latency).await;
            let failed = |kind, sent| Err(TransportError::new(kind, sent, "as drawn"));
            let nonce = exchange.nonce;
            let is_stream = exchange.is_stream;
            match self {
                Scene::Refused => failed(FailureKind::Unreachable, Sent::No),
                Scene::Reset => failed(FailureKind::Cut, Sent::Maybe),
                Scene::ConnectTimeout => failed(FailureKind::Timeout(Phase::Connect), Sent::No),
                Scene::PanicInSend | Scene::PanicInFuture => {
                    exchange.panics();
                    panic!("a planted panic in the future of an exchange");
                }
                Scene::Silence | Scene::PanicWhenDropped => std::future::pending().await,
                Scene::Status(status, wait) => {
                    exchange.gives_status(status);
                    let body = match status {
                        // The last refusal of a key may go to anyone: it names nobody.
                        401 => r#"{"error":{"message":"key refused","code":"invalid_api_key"}}"#.to_owned(),
                        _ => format!(r#"{{"error":{{"message":"no, {}","code":"drawn"}}}}"#, super::word(nonce)),
                    };
                    let wait = wait.map(|wait| ("retry-after-ms", wait.to_string()));
                    Ok(response(status, "application/json", wait, vec![Step::Piece(body)], exchange))
                }
                Scene::Redirect => {
                    let location = Some(("location", "http://elsewhere.test/".to_owned()));
                    Ok(response(307, "text/plain", location, vec![], exchange))
                }
                Scene::ErrorEvent(status) => {
                    exchange.gives_status(status);
                    let steps = vec![Step::Piece(error_event(nonce, status))];
                    Ok(response(200, "text/event-stream", None, steps, exchange))
                }
                Scene::Good { pieces, pause, done } if is_stream => {
                    let mut steps = events(nonce, pieces, pause);
                    let finish = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}"#;
                    steps.push(Step::Piece(format!("data: {finish}\n\n")));
                    // Behind what the upstream says last, the caller has all there is.
                    steps.push(Step::Answered(pieces));
                    if done {
                        steps.push(Step::Piece("data: [DONE]\n\n".into()));
                    }
                    Ok(response(200, "text/event-stream", None, steps, exchange))
                }
                Scene::Broken { pieces, how } if is_stream => {
                    let mut steps = events(nonce, pieces, 300);
                    steps.push(match how {
                        Break::Error => {
                            exchange.gives_status(500);
                            Step::Piece(error_event(nonce, 500))
                        }
                        how => Step::Break(how),
                    });
                    Ok(response(200, "text/event-stream", None, steps, exchange))
                }
                Scene::Good { pause, .. } => {
                    let (start, end) = whole(nonce);
                    let wait = Step::Wait(Duration::from_millis(pause));
                    let steps = vec![Step::Piece(start), wait, Step::Answered(1), Step::Piece(end)];
                    Ok(response(200, "application/json", None, steps, exchange))
                }
                Scene::Broken { pieces, how } => {
                    let (start, _) = whole(nonce);
                    let mut steps = vec![Step::Break(if how == Break::Error { Break::Short } else { how })];
                    if pieces > 0 {
                        steps.insert(0, Step::Piece(start));
                    }
                    Ok(response(200, "application/json", None, steps, exchange))
                }
            }
        }
    }
}

/// What a body does next.
enum Step {
    Piece(String),
    Wait(Duration),
    Break(Break),
    Answered(u64),
}

fn whole(nonce: u32) -> (String, String) {
    let start = format!(r#"{{"choices":[{{"message":{{"content":"{}"#, super::word(nonce));
    let end = r#""},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":11,"total_tokens":20}}"#;
    (start, end.to_owned())
}

fn error_event(nonce: u32, status: u16) -> String {
    format!(
        "data: {{\"error\":{{\"message\":\"no, {}\",\"code\":{status},\"status\":{status}}}}}\n\n",
        super::word(nonce)
    )
}

/// An opening without content, then `pieces` that count themselves; one in two is torn in the middle.
fn events(nonce: u32, pieces: u64, pause: u64) -> Vec<Step> {
    let mut steps =
        vec![Step::Piece("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n".into())];
    for piece in 0..pieces {
        // Bursts of eight behind each other, as they come off a wire.
        if piece % 8 < 3 {
            steps.push(Step::Wait(Duration::from_millis(pause)));
        }
        let content = format!("{}/{piece};", super::word(nonce));
        let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n");
        if piece % 2 == 0 {
            let (start, end) = event.split_at(30);
            steps.push(Step::Piece(start.into()));
            steps.push(Step::Piece(end.into()));
        } else {
            steps.push(Step::Piece(event));
        }
    }
    steps
}

fn response(
    status: u16,
    content_type: &'static str,
    more: Option<(&'static str, String)>,
    steps: Vec<Step>,
    exchange: Exchange,
) -> HttpResponse {
    let mut headers = Headers::new();
    headers.push(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some((name, value)) = more {
        headers.push(HeaderName::from_static(name), HeaderValue::from_str(&value).expect("a header value"));
    }
    let tokens = if content_type == "application/json" { 20 } else { 10 };
    let steps = VecDeque::from(steps);
    let body = stream::unfold((steps, exchange), move |(mut steps, exchange)| async move {
        loop {
            match steps.pop_front()? {
                Step::Piece(text) => return Some((Ok(Bytes::from(text)), (steps, exchange))),
                Step::Wait(pause) => clock::until(clock::now() + pause).await,
                Step::Answered(pieces) => exchange.answered(pieces, tokens),
                Step::Break(Break::Cut) => {
                    exchange.note("cut");
                    let cut = TransportError::new(FailureKind::Cut, Sent::Maybe, "as drawn");
                    return Some((Err(cut), (steps, exchange)));
                }
                Step::Break(Break::Short | Break::Error) => {
                    exchange.note("ends short");
                    return None;
                }
                Step::Break(Break::Stall) => std::future::pending().await,
                Step::Break(Break::Panic) => {
                    exchange.panics();
                    panic!("a planted panic in a body");
                }
            }
        }
    });
    HttpResponse::new(status, headers, Box::pin(body))
}
